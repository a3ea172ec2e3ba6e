"""What is checked, made ready for it: traced, in float64, with every breach of the contract told.

A gradient is compared where rounding cannot hide a mistake: all floating arguments become float64 under
`jax.enable_x64(True)`, a context that leaves the caller's configuration alone. Functions that insist on a narrower type
are read as programs and evaluated without it (`precision`); functions that JAX cannot trace are called as they are.
"""

import inspect as signatures
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.contract import ContractError, called, describe, inspect, shape_of
from fundamentals.gradcheck.evaluation import (
    NUMERIC,
    as_function,
    call_manual,
    compile_as_called,
    compile_manual,
    compile_numeric,
    compile_truth,
    compile_value,
    only_gradient,
    precisely,
    restrict,
    runner,
    without_value,
)
from fundamentals.gradcheck.precision import Narrow, is_inexact, is_key, narrowest, wide, widen, widened
from fundamentals.gradcheck.probes import polish
from fundamentals.gradcheck.report import Cause
from fundamentals.program import Program, flatten

UNROLL = 16  # steps up to which diagnosis looks into a scan


class Subject(NamedTuple):
    """A function and what is said to be its gradient."""

    name: str
    primal: Callable[..., Any]
    backward: Callable[[tuple[Any, ...], Any], Sequence[Any]]  # (args, dy) → a cotangent for each of argnums
    args: tuple[Any, ...]
    argnums: tuple[int, ...]
    is_loss: bool = False  # the result is a scalar and dy is 1
    forward: Callable[..., Any] | None = None  # what ought to return the same as the primal
    plain: bool = False  # the derivative is that of the operations, not of custom rules


class Problem(NamedTuple):
    """A subject that can be evaluated. Leaves are NumPy arrays, in float64 where they are floating."""

    paths: tuple[str, ...]  # of the leaves that have a gradient
    which: tuple[int, ...]  # their numbers among the leaves of all arguments
    leaves: list[Any]  # the arguments
    given: tuple[Any, ...]  # dtypes of the leaves in `which` as they came
    outputs: list[Any]  # shape and dtype of each floating leaf of the result
    value: Callable[[list[Any]], list[Any]]  # leaves → floating leaves of the result
    truth: Callable[[list[Any], list[Any]], list[Any]] | None  # (leaves, dy) → gradient by autodiff
    value_and_truth: Callable[[list[Any], list[Any]], tuple[list[Any], list[Any]]] | None
    manual: Callable[[list[Any], list[Any]], list[Any]]  # (leaves, dy) → gradient as given
    program: Program | None  # of the primal, flat
    numeric: bool  # the truth is by finite differences
    precise: bool  # both are evaluated in float64 throughout
    rough: Callable[[list[Any], list[Any]], list[Any]] | None  # the gradient with the casts that it is written with
    narrow: Narrow | None  # the narrowest type of the given gradient
    narrow_primal: Narrow | None  # … of the primal
    is_loss: bool
    notes: tuple[str, ...]
    manual_function: Callable[..., Any]  # (leaves, dy) → gradient, to be differentiated
    value_function: Callable[..., Any]
    # (dy, step) → the gradient in the types given, at the arguments times 1 + step; and that by autodiff
    as_called: Callable[[list[Any], float], list[Any]] | None = None
    autodiff_as_called: Callable[[list[Any], float], list[Any]] | None = None


def prepare(subject: Subject) -> Problem:
    """Trace a subject.

    Raises:
      ContractError: it breaks the contract.
      TypeError: an argument is no array.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(subject.args)
    names = _argument_names(subject.primal, len(subject.args))
    paths, given = [], []
    for path, leaf in flat:
        name = names[path[0].idx] + jax.tree_util.keystr(path[1:])
        paths.append(name)
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"{subject.name}: {name} is traced; check gradients outside of jit, grad and vmap")
        try:
            # jnp.asarray would compile a program for the shape of a NumPy array.
            x = jax.device_put(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)
            given.append(x if is_key(x) else jax.lax.convert_element_type(x, x.dtype))  # no weak type
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{subject.name}: {name} is {leaf!r}; expected an array or a number") from None
    owner = [path[0].idx for path, _ in flat]
    which = tuple(i for i, x in enumerate(given) if is_inexact(x) and owner[i] in subject.argnums)
    leaves = [x if is_key(x) else polish(widen(x)) for x in given]
    notes: list[str] = []

    def arguments(leaves: Sequence[Any]) -> tuple[Any, ...]:
        args: tuple[Any, ...] = jax.tree.unflatten(structure, leaves)
        return args

    # The primal: its result as given, then in float64.
    shapes = _described(given)
    if not which:
        raise ContractError(Cause.STRUCTURE, "no argument is floating, so that there is no gradient to check")
    result, eager = shape_of(subject.primal, arguments(given), "the function", arguments(shapes))
    results, result_structure = jax.tree.flatten(result)
    floating = [i for i, y in enumerate(results) if jnp.issubdtype(y.dtype, jnp.inexact)]
    if subject.is_loss and (len(results) != 1 or results[0].shape or not floating):
        raise ContractError(
            Cause.STRUCTURE,
            f"the loss returned {describe(result)}; a gradient is that of one floating scalar",
            "return a scalar, or check with check_vjp, which takes a cotangent",
        )
    if not floating:
        raise ContractError(Cause.STRUCTURE, f"the function returned {describe(result)}, none of it floating")

    def cotangent(dy: Sequence[Any], like: Sequence[Any]) -> Any:
        leaves = [np.zeros(y.shape, jax.dtypes.float0) for y in like]
        for i, d in zip(floating, dy, strict=True):
            leaves[i] = d
        return jax.tree.unflatten(result_structure, leaves)

    def value(*leaves: Any) -> list[Any]:
        y = jax.tree.leaves(subject.primal(*arguments(leaves)))
        return [jnp.asarray(y[i]) for i in floating]

    def manual(leaves: Sequence[Any], dy: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        args = arguments(leaves)
        found = subject.backward(args, cotangent(dy, results))
        gradient = _leaves_of(found, subject, args, names)
        same = jax.tree.leaves(subject.forward(*args)) if subject.forward else []
        return [gradient[i] for i in which], [jnp.asarray(same[i]) for i in floating] if same else []

    def autodiff(leaves: Sequence[Any], dy: Sequence[Any]) -> list[Any]:
        # Without the rules that are checked, if it is those of the function itself.
        own = runner(flatten(value, *leaves)) if subject.plain else value
        return list(jax.vjp(restrict(own, leaves, which), *(leaves[i] for i in which))[1](list(dy)))

    dy_shapes = [jax.ShapeDtypeStruct(results[i].shape, results[i].dtype) for i in floating]
    in_given_types = inspect(manual, given, shapes, dy_shapes, [paths[i] for i in which], which)
    with precisely():
        program, narrow, lifted = (None, None, False) if eager else _program(value, leaves, shapes, notes, "function")
        outputs = [jax.ShapeDtypeStruct(s.shape, wide(s.dtype)) for s in dy_shapes]
        wrong = (
            None
            if in_given_types is None
            else _program(
                lambda *operands: manual(operands[: len(leaves)], operands[len(leaves) :]),
                [*leaves, *outputs],
                [*shapes, *dy_shapes],
                notes,
                "gradient",
            )
        )

    notes += [
        f"the {what} cannot be traced by JAX, so that it is called as it is" + more
        for what, is_eager, more in [
            ("function", eager, ", and finite differences alone judge its gradient"),
            ("gradient", in_given_types is None, ""),
        ]
        if is_eager
    ]
    precise = True
    rough = None
    if program is None:
        evaluate_value: Callable[..., Any] = value
    elif lifted and (clean := _widened(program)) is not None:
        evaluate_value = runner(clean)
        program = clean
    else:
        precise = not lifted
        evaluate_value = runner(program) if subject.plain or lifted else value
    if wrong is None:
        run_manual: Callable[..., Any] = call_manual(manual)
        narrow_manual, manual_function = None, manual
        found = run_manual(leaves, [np.ones(o.shape, o.dtype) for o in outputs])[0]
        if any(x.dtype != wide(x.dtype) for x in found):  # float32 by its own choice
            precise, narrow_manual = False, Narrow(min((x.dtype for x in found), key=lambda d: d.itemsize), "")
    else:
        program_manual, narrow_manual, lifted_manual = wrong
        assert program_manual is not None
        as_written = program_manual
        if lifted_manual and (clean := _widened(program_manual)) is not None:
            rough = without_value(compile_manual(runner(as_written), leaves))
            program_manual = clean
        elif lifted_manual:
            precise = False
        manual_function = as_function(runner(program_manual))
        run_manual = compile_manual(runner(program_manual), leaves)
    derivative = None if eager else compile_truth(evaluate_value, which, leaves, outputs)
    problem = Problem(
        tuple(paths[i] for i in which),
        which,
        leaves,
        tuple(given[i].dtype for i in which),
        outputs,
        compile_value(evaluate_value, leaves, eager),
        derivative and only_gradient(derivative),
        derivative,
        without_value(run_manual),
        program,
        False,
        precise,
        rough,
        narrow_manual,
        narrow,
        subject.is_loss,
        tuple(notes),
        manual_function,
        evaluate_value,
    )
    if wrong is not None and not eager and program is not None:
        problem = problem._replace(
            as_called=compile_as_called(
                lambda leaves, dy: core.jaxpr_as_fun(in_given_types)(*leaves, *dy)[: len(which)], given, dy_shapes
            ),
            autodiff_as_called=compile_as_called(autodiff, given, dy_shapes),
        )
    if subject.forward is not None:
        _same_values(problem, run_manual)
    if problem.truth is None and sum(leaves[i].size for i in which) <= NUMERIC:
        problem = problem._replace(truth=compile_numeric(problem.value, which), numeric=True)
    return problem


def _described(leaves: Sequence[Any]) -> list[Any]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The names of positional parameters, as far as there are any."""
    try:
        parameters = list(signatures.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [positional[i] if i < len(positional) else f"[{i}]" for i in range(count)]


_ARGNUMS = "return an array, or say argnums: with a tuple of them, the gradient is a tuple"


def _containers(tree: Any) -> str:
    """What holds what, without jargon."""
    if isinstance(tree, dict):
        return "a dict of " + (", ".join(map(repr, tree)) or "nothing")
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)}"
    return "None" if tree is None else "an array" if hasattr(tree, "shape") else f"a {type(tree).__name__}"


def _leaves_of(found: Any, subject: Subject, args: tuple[Any, ...], names: list[str]) -> list[Any]:
    """The gradient by leaf of all arguments; None where there is none."""
    if not isinstance(found, tuple | list) or len(found) != len(subject.argnums):
        count = _containers(found)
        if subject.is_loss:
            raise ContractError(
                Cause.STRUCTURE,
                f"the gradient is {count}; expected a tuple of {len(subject.argnums)}, one for each of argnums",
                "return a tuple of gradients",
            )
        raise ContractError(
            Cause.STRUCTURE,
            f"the backward pass returned {count}; expected a tuple of {len(subject.argnums)}, one cotangent for each "
            "argument",
            "return (dx,) even if there is one argument only, and None for integers and keys",
        )
    if subject.is_loss and any(part is None for part in found):
        raise ContractError(Cause.STRUCTURE, "the gradient is None", "return it: is there a `return`?")
    by_argument = dict(zip(subject.argnums, found, strict=True))
    leaves: list[Any] = []
    for i, arg in enumerate(args):
        own, structure = jax.tree_util.tree_flatten_with_path(arg)
        if by_argument.get(i) is None:  # as in custom_vjp, None stands for zeros
            leaves += [jnp.zeros(jnp.shape(x), x.dtype) if is_inexact(jnp.asarray(x)) else None for _, x in own]
            continue
        try:
            given = structure.flatten_up_to(by_argument[i])  # type: ignore[attr-defined]
        except (ValueError, TypeError):
            raise ContractError(
                Cause.STRUCTURE,
                f"the gradient for {names[i]} is {_containers(by_argument[i])}; {names[i]} is {_containers(arg)}",
                "return the same containers, with the same keys, as the argument has"
                + (", or say argnums" if subject.is_loss and isinstance(by_argument[i], tuple) else ""),
                names[i],
            ) from None
        for (path, x), d in zip(own, given, strict=True):
            if isinstance(d, tuple | list | dict):
                name = names[i] + jax.tree_util.keystr(path)
                detail = f"the gradient for {name} is {_containers(d)}; {name} is an array"
                raise ContractError(Cause.STRUCTURE, detail, _ARGNUMS if subject.is_loss else "return an array", name)
            inexact = is_inexact(jnp.asarray(x))
            if d is None:
                leaves.append(jnp.zeros(jnp.shape(x), x.dtype) if inexact else None)
                continue
            try:
                leaves.append(jnp.asarray(d) if inexact else None)
            except (TypeError, ValueError):
                name = names[i] + jax.tree_util.keystr(path)
                raise ContractError(Cause.STRUCTURE, f"the gradient for {name} is {d!r}; expected an array") from None
    return leaves


def _program(function: Any, wide: list[Any], shapes: list[Any], notes: list[str], what: str) -> tuple[Any, Any, bool]:
    """The flat program in float64 or, where the function refuses that, in its own types; the narrowest type; and
    whether there is one narrower than float64.
    """
    try:
        program = flatten(function, *wide, unroll=UNROLL)
    except Exception:
        with jax.enable_x64(False) if all(s.dtype != np.float64 for s in shapes) else jax.enable_x64(True):
            program = called(lambda: flatten(function, *shapes, unroll=UNROLL), f"the {what}")
        notes.append(f"the {what} does not accept float64; it was checked in the types given")
    narrow = narrowest(program)
    refuses = any(v.aval.dtype != w.dtype for v, w in zip(program.jaxpr.jaxpr.invars, wide, strict=True))
    return program, narrow, narrow is not None or refuses


def _widened(program: Program) -> Program | None:
    try:
        with precisely():
            return widened(program)
    except Exception:
        return None


def _same_values(problem: Problem, run_manual: Callable[..., Any]) -> None:
    """Refuse a forward pass that returns something else than the function itself."""
    dy = [np.ones(o.shape, o.dtype) for o in problem.outputs]
    _, values = run_manual(problem.leaves, dy)
    digits = 1e-9 if problem.precise else 1e-3
    for y, z in zip(problem.value(problem.leaves), values, strict=True):
        scale = np.max(np.abs(y), initial=0.0, where=np.isfinite(y))
        same = np.isclose(y, z, rtol=0, atol=digits * scale + 1e-300, equal_nan=True) if y.shape == z.shape else False
        if not np.all(same):
            error = (
                f"by up to {np.nanmax(np.abs(y - z)):.3g}" if y.shape == z.shape else f"in shape: {y.shape}, {z.shape}"
            )
            raise ContractError(
                Cause.OTHER_FORWARD,
                f"the forward pass returns something else than the function itself; they differ {error}",
                "differentiate the function that is computed",
            )
