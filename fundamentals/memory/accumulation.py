"""The gradient of a large batch from small ones, exactly.

A loss is a mean over what is counted, examples or tokens: L = Σᵢ sᵢ / Σᵢ wᵢ, where microbatch i has the sum of losses
sᵢ and the count wᵢ. Sums can be added a microbatch at a time, and so can their gradients; there is one division, at
the end:

    L = S / W,   ∇L = (Σᵢ ∇sᵢ) / W,   S = Σᵢ sᵢ,   W = Σᵢ wᵢ.                                                    (1)

The mean of the microbatches' means, (1/K) Σᵢ sᵢ/wᵢ, is that only if all wᵢ are equal. With padded sequences, masked
tokens or a short last microbatch they are not: tokens in a microbatch with few of them count for more, and the gradient
is that of another loss. Several large trainers shipped that mistake until 2024 (huggingface/transformers#34191).

What depends on the batch as a whole is no sum over examples: with batch normalization, microbatches are not the batch.
Clip gradients after they are accumulated, never before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, PRNGKey, accumulation_dtype, vary_together

LossFn = Callable[..., Any]
"""(params, batch) → (sum, weight), or ((sum, weight), aux); with a key for a third argument if there is one."""

GradientFn = Callable[..., Any]
"""(params, batch) → (what the loss function returns, the gradient of the sum).

An integer parameter has None for its gradient, or zeros of dtype float0, as `jax.grad` gives with allow_int.
"""


def accumulate(
    loss_fn: LossFn | None = None,
    *,
    num_microbatches: int,
    gradient_fn: GradientFn | None = None,
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """`jax.value_and_grad` of the weighted mean loss (1), a microbatch at a time.

    Microbatches are ⌈B / K⌉ examples that follow each other; if K does not divide B, the last one is shorter, or there
    are fewer than K. One `lax.scan` goes through those of full size. Its memory is that of one microbatch and its
    gradient, whatever K.

    Args:
      loss_fn: (params, batch) → (s, w), [] each: the sum of losses, and what it is divided by in the end: the number
        of examples, or of tokens that are not masked. w does not depend on params, and may be 0.
      num_microbatches: K ≥ 1.
      gradient_fn: instead of loss_fn, (params, batch) → ((s, w), ∇s), for a gradient derived by hand.
      has_aux: loss_fn returns ((s, w), aux), any pytree of arrays.
      axis_name: of `shard_map`, over whose devices sums and gradients are added, once. Params are the same on them all.

    Returns:
      A function of (params, batch) or (params, batch, key): leaves of the batch have the examples for their first
      axis; the key is split among microbatches and passed on. It returns (L, ∇L), or ((L, aux), ∇L) with aux stacked
      along a new first axis of microbatches. Of these, as of keys, there are ⌈B / ⌈B / K⌉⌉: K if K divides B, else
      perhaps fewer, such as 3 of two examples for B = 6 and K = 4. Sums and weights are added in float32 for half
      precision; L has that dtype, ∇L the dtypes of params. Where W = 0, both are 0, or NaN where a sum is. To be called
      under `jax.jit`.

    Each addition rounds. Sums of 16,384 float32 microbatches were 6e-6 off, relatively, for random summands and 1.5e-4
    for equal ones. (Compensated sums, 6e-8 off, would need another array for each parameter.)

    Microbatches follow each other, so each one of a batch that is sharded under `jit` alone lies on one device: to
    share the work, use `shard_map` and axis_name. There, a key that is the same on all devices draws the same numbers
    on them: fold `jax.lax.axis_index` in.

    Raises:
      ValueError: K is no count, both functions or neither are given, leaves of the batch differ in length, what the
        function returns are no scalars, aux is wanted and the last microbatch is shorter, or there is no such axis, or
        params differ along it.
      TypeError: what is given or returned has a wrong dtype, such as a complex gradient of a real parameter.

    Reference: Ott et al. 2018, who accumulate gradients of sums to train with larger batches.

    Example:
      def loss_fn(params, batch):
          x, labels, mask = batch
          losses = softmax_cross_entropy(mlp.apply(params, x), labels)
          return jnp.sum(mask * losses), jnp.sum(mask)

      loss, gradients = accumulate(loss_fn, num_microbatches=8)(params, batch)
    """
    _checks.positive_integers("accumulate", num_microbatches=num_microbatches)
    _checks.boolean("accumulate", has_aux=has_aux)
    if (loss_fn is None) == (gradient_fn is None):
        given = "neither" if loss_fn is None else "both"
        raise ValueError(f"accumulate: {given} of loss_fn and gradient_fn are given; expected one of them")
    for name, function in (("loss_fn", loss_fn), ("gradient_fn", gradient_fn)):
        if function is not None and not callable(function):
            raise TypeError(f"accumulate: {name} is of type {type(function).__name__}; expected a function")
    sum_and_gradient = gradient_fn or _by_autodiff(loss_fn, has_aux)

    def mean_and_gradient(params: ArrayTree, batch: ArrayTree, key: PRNGKey | None = None) -> Any:
        count = _examples(batch)
        size = -(-count // num_microbatches)
        full, rest = divmod(count, size) if size else (0, 0)
        if has_aux and rest:
            raise ValueError(
                f"accumulate: {count} examples in {num_microbatches} microbatches leave a shorter last one; "
                "expected a multiple, as aux is stacked"
            )
        keys = None if key is None else jax.random.split(key, full + bool(rest))
        # The gradient of a device's own examples; otherwise autodiff would add each microbatch's over all devices.
        local, _, _ = vary_together((_varying(params, axis_name), batch, keys))

        def part(i: Any, length: int) -> tuple[Any, Any, Any]:
            examples = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, length), batch)
            found = sum_and_gradient(local, examples, *(() if keys is None else (keys[i],)))
            return _checked(found, params, has_aux)

        def add(total: Any, summand: Any) -> Any:
            return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, summand)

        def step(total: Any, i: Array) -> tuple[Any, Any]:
            summand, aux, _ = part(i, size)
            return add(total, summand), aux

        shapes, _, absent = jax.eval_shape(lambda: part(0, size))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, _wide(x.dtype)), shapes)
        total, aux = jax.lax.scan(step, vary_together((zeros, local))[0], jnp.arange(full))
        if rest:
            total = add(total, part(full, rest)[0])
        s, w, gradient = total if axis_name is None else jax.lax.psum(total, axis_name)
        empty = w == 0

        def mean(total: Array) -> Array:
            # 0 · total and not 0 where nothing counts: what is not a number is not hidden.
            return jnp.where(empty, 0 * total, total) / jnp.where(empty, 1, w).astype(total.dtype)

        loss = mean(s)

        def divide(p: Array, g: Array | None, none: Any) -> Any:
            if g is None:
                return none and np.zeros(none.shape, none.dtype)
            return mean(g).astype(jnp.result_type(p))

        gradients = jax.tree.map(divide, params, gradient, absent)
        return ((loss, aux) if has_aux else loss), gradients

    return mean_and_gradient


def _by_autodiff(loss_fn: Any, has_aux: bool) -> GradientFn:
    def sum_and_gradient(params: ArrayTree, *rest: Any) -> Any:
        def summed(params: ArrayTree) -> tuple[Array, Any]:
            found = loss_fn(params, *rest)
            return _parts("loss_fn", found, has_aux)[0], found

        gradient, found = jax.grad(summed, has_aux=True)(params)
        return found, gradient

    return sum_and_gradient


def _checked(found: Any, params: ArrayTree, has_aux: bool) -> tuple[Any, Any, Any]:
    """(sum, weight, gradient), aux, what stands for gradients that are none: of what a gradient function returned."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ValueError("accumulate: what gradient_fn gives is no pair; expected ((sum, weight), gradient)")
    value, gradient = found
    s, w, aux = _parts("gradient_fn", value, has_aux)

    def is_float0(g: Any) -> bool:
        return getattr(g, "dtype", None) == jax.dtypes.float0

    def is_none(p: Any, g: Any) -> bool:
        return (g is None or is_float0(g)) and not jnp.issubdtype(jnp.result_type(p), jnp.inexact)

    try:
        filled = jax.tree.map(lambda p, g: p if is_none(p, g) else g, params, gradient)
    except ValueError:  # another structure, which is named below
        filled = gradient
    _checks.same_shapes("accumulate", "params", params, gradient=filled)
    for (path, p), g in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(filled), strict=True):
        name = jax.tree_util.keystr(path)
        none = is_float0(g)
        if none or (jnp.iscomplexobj(g) and not jnp.iscomplexobj(p)):
            raise TypeError(
                f"accumulate: gradient{name} has dtype {'float0' if none else jnp.result_type(g)}; "
                f"expected numbers like params{name}, of dtype {jnp.result_type(p)}"
            )
    numbers = jax.tree.map(lambda p, g: None if is_none(p, g) else jnp.asarray(g), params, gradient)
    absent = jax.tree.map(lambda p, g: g if is_none(p, g) else None, params, gradient)
    # Counts are added as the sums are: integers of few bits would wrap around.
    return (s, w.astype(accumulation_dtype(s.dtype)), numbers), aux, absent


def _parts(function: str, value: Any, has_aux: bool) -> tuple[Array, Array, Any]:
    """Sum, weight and auxiliary output of what a user's function returned."""
    expected = "((sum, weight), aux)" if has_aux else "(sum, weight)"
    pair, aux = value if has_aux and isinstance(value, tuple | list) and len(value) == 2 else (value, None)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"accumulate: what {function} gives is no pair; expected {expected}")
    s = _checks.array("accumulate", f"the sum of {function}", pair[0])
    w = _checks.array("accumulate", f"the weight of {function}", pair[1], "real")
    _checks.scalar("accumulate", f"the sum of {function}", s)
    _checks.scalar("accumulate", f"the weight of {function}", w)
    return s, w, aux


def _examples(batch: ArrayTree) -> int:
    """The length that the first axes of a batch have in common."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    lengths: dict[int, str] = {}
    for path, leaf in leaves:
        name = f"batch{jax.tree_util.keystr(path)}"
        if not jnp.shape(leaf):
            raise ValueError(f"accumulate: {name} has shape []; expected [B, ...], an axis of examples")
        lengths.setdefault(jnp.shape(leaf)[0], name)
    if len(lengths) != 1:
        found = ", ".join(f"{name} has {length}" for length, name in lengths.items()) or "batch has no arrays"
        raise ValueError(f"accumulate: {found}; expected one number of examples")
    return next(iter(lengths))


def _wide(dtype: Any) -> Any:
    return accumulation_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _varying(params: ArrayTree, axis_name: str | tuple[str, ...] | None) -> ArrayTree:
    """The same numbers on every device of an axis, each for itself."""
    if axis_name is None:
        return params
    axes = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    known = jax.sharding.get_abstract_mesh().manual_axes
    for name in axes:
        if name not in known:
            raise ValueError(
                f"accumulate: axis_name is {axis_name!r}; expected axes of the jax.shard_map around it: {list(known)}"
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        own = jax.typeof(leaf).manual_axis_type.varying
        if own & set(axes):
            raise ValueError(
                f"accumulate: params{jax.tree_util.keystr(path)} varies over {sorted(own)}; expected the same on all "
                f"devices of axis_name {axis_name!r}: in_specs without it, and no jax.lax.pcast"
            )
    return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), params)
