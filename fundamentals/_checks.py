"""Validation of everything that users pass in. Every check runs at trace time and costs nothing under jit.

A message names the function, the argument, what was expected (in the shape letters of `base`) and
what came: `linear: w has shape [5, 3]; expected [D, H] with D = 4 from x [2, 4]`. Shapes, ranges and
structures raise `ValueError`, dtypes and types raise `TypeError`. What only a value can tell (label
ranges, hyperparameters) is checked when the value is known; inside `jit` it is not, and the docstring
of the function says what happens then.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Array, ArrayLike, DTypeLike, Rule

_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "floating": ("a floating dtype", lambda dtype: jnp.issubdtype(dtype, jnp.floating)),
    "boolean": ("bool", lambda dtype: jnp.issubdtype(dtype, jnp.bool_)),
    "integer": ("an integer dtype", lambda dtype: jnp.issubdtype(dtype, jnp.integer)),
    "real": (
        "an integer or floating dtype",
        lambda dtype: jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating),
    ),
}


def array(function: str, name: str, value: ArrayLike, kind: str = "floating") -> Array:
    """`value` as a JAX array of any shape, its dtype of the `kind` ("floating", "integer", "real", "boolean")."""
    try:
        x = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        if isinstance(value, np.ndarray):  # NumPy's files have no bfloat16: it comes back as bytes
            hint = "; bfloat16 saved by NumPy? Cast it to float32 before" if value.dtype.kind == "V" else ""
            raise TypeError(f"{function}: {name} has dtype {value.dtype}; expected numbers{hint}") from error
        raise TypeError(f"{function}: {name} is {_describe(value)}; expected an array") from error
    expected, accepts = _KINDS[kind]
    if not accepts(x.dtype):
        raise TypeError(f"{function}: {name} has dtype {x.dtype}; expected {expected}")
    return x


def arrays(function: str, **specs: tuple[ArrayLike, str] | tuple[ArrayLike, str, str]) -> tuple[Array, ...]:
    """The named values as arrays whose shapes fit their patterns and whose floating dtypes agree.

    Each value comes with a pattern of shape letters, `"... D"` or `"D H"`, and optionally a kind. A letter
    stands for one size throughout the call, `...` for one run of leading axes.

    Example: `x, w, b = arrays("linear", x=(x, "... D"), w=(w, "D H"), b=(b, "H"))`.
    """
    result: dict[str, Array] = {}
    sizes: dict[str, tuple[Any, str]] = {}  # letter -> (size, the argument it came from)
    floating: tuple[Any, str] | None = None
    for name, (value, pattern, *kind) in specs.items():
        x = array(function, name, value, *kind)
        letters = pattern.split()
        given = _match(letters, x.shape)
        if given is None or any(sizes.get(letter, (size,))[0] != size for letter, size in given.items()):
            known = [letter for letter in letters if letter in sizes]
            sources = ", ".join(f"{letter} = {_show(sizes[letter][0])}" for letter in dict.fromkeys(known))
            origin = " and ".join(
                dict.fromkeys(f"{(s := sizes[letter][1])} {_show(result[s].shape)}" for letter in known)
            )
            raise ValueError(
                f"{function}: {name} has shape {_show(x.shape)}; expected [{', '.join(letters)}]"
                + (f" with {sources} from {origin}" if known else "")
            )
        for letter, size in given.items():
            sizes.setdefault(letter, (size, name))
        if jnp.issubdtype(x.dtype, jnp.floating):
            if floating is not None and x.dtype != floating[0]:
                raise TypeError(f"{function}: {name} has dtype {x.dtype}; expected {floating[0]} as in {floating[1]}")
            floating = (x.dtype, name)
        result[name] = x
    return tuple(result.values())


def broadcastable(function: str, name: str, x: Array, pattern: str, shape: tuple[int, ...]) -> None:
    """An array has all axes of the pattern, each whole or 1."""
    if len(x.shape) != len(shape) or any(size not in (1, whole) for size, whole in zip(x.shape, shape, strict=True)):
        letters = ", ".join(pattern.split())
        raise ValueError(f"{function}: {name} has shape {_show(x.shape)}; expected [{letters}] = {_show(shape)}, or 1s")


def floating_dtype(function: str, dtype: DTypeLike) -> None:
    """The dtype to create an array in is floating."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{function}: dtype is {jnp.dtype(dtype)}; expected a floating dtype")


def rule(function: str, name: str, value: Any) -> None:
    """A function with its passes, not a function alone."""
    if not isinstance(value, Rule):
        raise TypeError(f"{function}: {name} is {_describe(value)}; expected a Rule(primal, fwd, bwd)")


def instance(function: str, name: str, value: Any, expected: type) -> None:
    """Parameters and states are of the type that belongs to the function."""
    if not isinstance(value, expected):
        found, wanted = type(value), expected.__name__
        same = found.__name__ == wanted  # as in cnn.Params and rnn.Params
        raise TypeError(
            f"{function}: {name} is of type {_with_module(found) if same else found.__name__}; "
            f"expected {_with_module(expected) if same else wanted}"
        )


def scalar(function: str, name: str, value: Any) -> None:
    """A number, which may be traced, has no axes."""
    if jnp.shape(value) != ():
        raise ValueError(f"{function}: {name} has shape {_show(jnp.shape(value))}; expected a number")


def key(function: str, name: str, value: Any) -> None:
    """One typed PRNG key, not an array of keys, and not the integers of `jax.random.PRNGKey`."""
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        found = f"has dtype {value.dtype}" if isinstance(value, jax.Array | np.ndarray) else f"is {_describe(value)}"
        raise TypeError(f"{function}: {name} {found}; expected a typed PRNG key, from jax.random.key")
    if value.ndim != 0:
        raise ValueError(f"{function}: {name} has shape {_show(value.shape)}; expected one key")


def boolean(function: str, **values: Any) -> None:
    """Switches are True or False, not something that counts as such."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{function}: {name} is {_describe(value)}; expected True or False")


def choice(function: str, name: str, value: Any, among: Sequence[str]) -> None:
    """A name is one of those that there are."""
    if not isinstance(value, str) or value not in among:
        raise ValueError(f"{function}: {name} is {value!r}; expected {', '.join(map(repr, among))}")


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is known to be 0."""
    known = None if callable(value) else _concrete(value)
    return known is not None and not np.any(known)


def not_empty(function: str, name: str, size: int, letter: str) -> None:
    """Reject a reduction over nothing, which has no value."""
    if size == 0:
        raise ValueError(f"{function}: {name} has {letter} = 0; expected {letter} ≥ 1")


def examples(function: str, name: str, x: Array) -> None:
    """The leading axes hold an example."""
    if 0 in x.shape[:-1]:
        raise ValueError(f"{function}: {name} has shape {_show(x.shape)}; expected at least one example")


def label_range(
    function: str,
    name: str,
    labels: ArrayLike,
    classes: int,
    what: str = "class",
    *,
    ignored: int | None = None,
    hint: str = "",
) -> None:
    """Class indices lie in [0, classes) or are the ignored one; checked when the labels are concrete."""
    values = _concrete(labels)
    if values is not None and ignored is not None:
        values = values[values != ignored]
    if values is not None and values.size and (values.min() < 0 or values.max() >= classes):
        raise ValueError(
            f"{function}: {name} has values from {values.min()} to {values.max()}; "
            f"expected {what} indices in [0, {classes})" + ("" if ignored is None else f" or {ignored}") + hint
        )


def probabilities(function: str, name: str, targets: Array) -> None:
    """Targets lie in [0, 1]; checked when they are concrete."""
    values = _concrete(targets)
    if values is not None and values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"{function}: {name} has values from {values.min()} to {values.max()}; expected [0, 1]")


def binary(function: str, name: str, pixels: Array) -> None:
    """Pixels are 0 or 1; checked when they are concrete."""
    values = _concrete(pixels)
    if values is not None:
        wrong = values[(values != 0) & (values != 1)]
        if wrong.size:
            raise ValueError(
                f"{function}: {name} has the value {wrong.flat[0]}; expected 0 or 1 (of grey levels: is x > 0.5?)"
            )


def signs(function: str, name: str, labels: Array) -> None:
    """Labels are −1 or +1; checked when they are concrete."""
    values = _concrete(labels)
    if values is not None:
        wrong = values[np.abs(values) != 1]
        if wrong.size:
            raise ValueError(
                f"{function}: {name} has the value {wrong.flat[0]}; expected -1 or +1 (of 0 and 1: 2 y - 1)"
            )


def both_signs(function: str, name: str, labels: Array) -> None:
    """Labels of −1 and +1 are of both kinds; checked when they are concrete."""
    values = _concrete(labels)
    if values is not None and values.size and np.all(values == values.flat[0]):
        raise ValueError(f"{function}: {name} is {values.flat[0]} everywhere; expected both classes, -1 and +1")


def positive(function: str, name: str, x: Array) -> None:
    """All entries are positive and finite; checked when they are concrete."""
    values = _concrete(x)
    if values is not None and not (np.all(values > 0) and np.all(np.isfinite(values))):
        wrong = values[~((values > 0) & np.isfinite(values))]
        raise ValueError(f"{function}: {name} has the value {wrong.flat[0]}; expected positive numbers")


def finite(function: str, name: str, x: Array) -> None:
    """No entry is NaN or infinite; checked when they are concrete."""
    values = _concrete(x)
    if values is not None and not np.all(np.isfinite(values)):
        place = ", ".join(map(str, np.argwhere(~np.isfinite(values))[0]))
        raise ValueError(f"{function}: {name}[{place}] is {values[~np.isfinite(values)][0]}; expected finite numbers")


def finite_objective(function: str, objective: Array) -> None:
    """What was computed from finite points is finite, too; checked when it is concrete."""
    values = _concrete(objective)
    if values is not None and not np.all(np.isfinite(values)):
        raise ValueError(
            f"{function}: the objective is {values[~np.isfinite(values)].flat[0]}; "
            "expected points and a kernel whose values do not overflow"
        )


def interval(function: str, bounds: str, **values: Any) -> None:
    """Hyperparameters lie in an interval written as in mathematics: "[0, 1)", "(0, inf)".

    Traced values pass unchecked: their range is the caller's to keep.
    """
    low, high = (float(bound) for bound in bounds[1:-1].split(","))
    for name, value in values.items():
        number = _number(function, name, value, f"a number in {bounds}")
        if number is None:
            continue
        above = number > low or (number == low and bounds[0] == "[")
        below = number < high or (number == high and bounds[-1] == "]")
        if not (above and below):  # NaN is in no interval
            raise ValueError(f"{function}: {name} is {value}; expected a number in {bounds}")


def integer(function: str, name: str, value: Any) -> None:
    """An optional number, where it is given, is a Python or NumPy integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{function}: {name} is {_describe(value)}; expected an integer or None")


def positive_integers(function: str, **values: Any) -> None:
    """Counts and sizes are Python or NumPy integers ≥ 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{function}: {name} is {_describe(value)}; expected an integer ≥ 1")
        if value < 1:
            raise ValueError(f"{function}: {name} is {value}; expected an integer ≥ 1")


def layer_sizes(function: str, name: str, sizes: Any, least: int, expected: str) -> None:
    """A sequence of at least so many sizes."""
    unsized = isinstance(sizes, np.ndarray) and sizes.ndim == 0
    if unsized or not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str | bytes):
        raise TypeError(f"{function}: {name} is {_describe(sizes)}; expected a sequence: {expected}")
    if len(sizes) < least:
        raise ValueError(f"{function}: {name} is {tuple(sizes)}; expected at least {expected}")
    positive_integers(function, **{f"{name}[{i}]": size for i, size in enumerate(sizes)})


def counts(function: str, **values: Any) -> None:
    """Numbers of things are Python or NumPy integers ≥ 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{function}: {name} is {_describe(value)}; expected an integer ≥ 0")
        if value < 0:
            raise ValueError(f"{function}: {name} is {value}; expected an integer ≥ 0")


def pair(function: str, name: str, value: Any) -> tuple[int, int]:
    """Two integers ≥ 1, down and across an image, or one for both."""
    sizes = value if isinstance(value, tuple | list) else (value, value)
    expected = "an integer ≥ 1, or two of them"
    if not all(_is_integer(size) for size in sizes):
        raise TypeError(f"{function}: {name} is {_describe(value)}; expected {expected}")
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"{function}: {name} is {value}; expected {expected}")
    return int(sizes[0]), int(sizes[1])


def padding(function: str, name: str, value: Any) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """The padding of an image: "SAME", "VALID", or rows and columns of zeros."""
    expected = "'SAME', 'VALID' or ((top, bottom), (left, right)), integers ≥ 0"
    if isinstance(value, str):
        if value not in ("SAME", "VALID"):
            raise ValueError(f"{function}: {name} is {value!r}; expected {expected}")
        return value
    sides = value if isinstance(value, tuple | list) else [value]
    if not all(isinstance(side, tuple | list) and all(map(_is_integer, side)) for side in sides):
        raise TypeError(f"{function}: {name} is {_describe(value)}; expected {expected}")
    if len(sides) != 2 or any(len(side) != 2 or min(side) < 0 for side in sides):
        raise ValueError(f"{function}: {name} is {value}; expected {expected}")
    (top, bottom), (left, right) = sides
    return (int(top), int(bottom)), (int(left), int(right))


def fits(function: str, what: str, window: tuple[int, ...], image_name: str, image: tuple[int, ...]) -> None:
    """A window lies inside an image."""
    if any(w > n for w, n in zip(window, image, strict=True)):
        raise ValueError(f"{function}: {what} {_show(window)}; expected at most {image_name} {_show(image)}")


def same_shapes(function: str, reference_name: str, reference: Any, **trees: Any) -> None:
    """Pytrees have the structure and the leaf shapes of the reference: nothing broadcasts by accident."""
    expected = jax.tree_util.tree_leaves_with_path(reference)
    structure: Any = jax.tree.structure(reference)
    for name, tree in trees.items():
        leaves, found = jax.tree.leaves(tree), jax.tree.structure(tree)
        if found != structure:
            difference = _difference(tree, reference)
            raise ValueError(f"{function}: {name} has another structure than {reference_name}: {difference}")
        for (path, want), leaf in zip(expected, leaves, strict=True):
            if jnp.shape(leaf) != jnp.shape(want):
                raise ValueError(
                    f"{function}: {name}{jax.tree_util.keystr(path)} has shape {_show(jnp.shape(leaf))}; "
                    f"expected {_show(jnp.shape(want))} as in {reference_name}"
                )


def same_dtypes(function: str, reference_name: str, reference: Any, **trees: Any) -> None:
    """Pytrees of one structure have the dtypes of the reference, leaf by leaf."""
    expected = jax.tree_util.tree_leaves_with_path(reference)
    for name, tree in trees.items():
        for (path, want), leaf in zip(expected, jax.tree.leaves(tree), strict=True):
            found, wanted = jnp.result_type(leaf), jnp.result_type(want)
            if found != wanted:
                raise TypeError(
                    f"{function}: {name}{jax.tree_util.keystr(path)} has dtype {found}; "
                    f"expected {wanted} as in {reference_name}"
                )


def floating_leaves(function: str, **trees: Any) -> None:
    """Every leaf of these pytrees has a floating dtype."""
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            array(function, f"{name}{jax.tree_util.keystr(path)}", leaf)


def _match(letters: list[str], shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Sizes of the letters in a shape, or None where the rank does not fit or a letter has two sizes."""
    if letters[:1] == ["..."]:
        tail = len(letters) - 1
        if len(shape) < tail:
            return None
        split = len(shape) - tail
        sizes: dict[str, Any] = {"...": shape[:split]}
        letters, shape = letters[1:], shape[split:]
    else:
        sizes = {}
    if len(letters) != len(shape):
        return None
    for letter, size in zip(letters, shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            return None
    return sizes


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _number(function: str, name: str, value: Any, expected: str) -> float | None:
    """The value as a float; None where it is traced."""
    if isinstance(value, jax.Array | np.ndarray):
        if value.ndim != 0:
            raise TypeError(f"{function}: {name} has shape {_show(value.shape)}; expected {expected}")
        known = _concrete(value)
        return None if known is None else float(known)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{function}: {name} is {_describe(value)}; expected {expected}")
    return float(value)


def _concrete(x: Any) -> np.ndarray | None:
    """The values, or None where they are not known here: traced, or spread over other processes."""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(x)


def _show(size: Any) -> str:
    return f"[{', '.join(map(str, size))}]" if isinstance(size, tuple) else str(size)


def _difference(tree: Any, reference: Any) -> str:
    """Where one pytree's structure first departs from another's."""
    found, wanted = (
        [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)] for t in (tree, reference)
    )
    missing = next((path for path in wanted if path not in found), None)
    if missing is not None:
        return f"{missing or 'an array'} is missing"
    extra = next((path for path in found if path not in wanted), None)
    if extra is not None:
        return f"{extra or 'an array'} is too much"
    if type(tree) is not type(reference):
        return f"the same leaves in other containers, {_with_module(type(tree))} for {_with_module(type(reference))}"
    structures: tuple[Any, Any] = jax.tree.structure(tree), jax.tree.structure(reference)
    return f"{structures[0]}, not {structures[1]}"  # containers inside differ, or None stands for a leaf


def _with_module(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[-1]}.{kind.__name__}"


def _describe(value: Any) -> str:
    if isinstance(value, jax.core.Tracer):
        return "traced (an argument of jit that is not static, or of vmap)"
    text = repr(value)
    text = text if len(text) <= 40 and "\n" not in text else "a value"
    return f"{text} ({type(value).__name__})"
