"""Why a gradient has the wrong shape: its numbers tell."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.gradcheck.contract import ShapeError
from fundamentals.gradcheck.evaluation import precisely
from fundamentals.gradcheck.fits import alike
from fundamentals.gradcheck.precision import is_key, widen
from fundamentals.gradcheck.probes import normal, perturb
from fundamentals.gradcheck.report import Cause, Diagnosis
from fundamentals.gradcheck.subject import Subject
from fundamentals.gradcheck.sweep import compile_sweep
from fundamentals.program import flatten


class _Evidence(NamedTuple):
    given: Any  # the leaf in question, whatever its shape
    right: Any
    others: dict[str, Any]  # the right gradients for other leaves, by name
    cotangents: list[Any]  # of all values of the function


def explain_shape(subject: Subject, refused: ShapeError) -> Diagnosis:
    """Why a leaf has the wrong shape; if the numbers do not tell, that it has."""
    try:
        evidence = _evaluated(subject, refused.leaf)
    except Exception:  # of the user's functions, at this point: the shape is told all the same
        return refused.diagnosis
    path, shapes = refused.path, f"its shape is {list(evidence.given.shape)}, not {list(evidence.right.shape)}"
    found = next(_explanations(path, evidence), None)
    if found is None:
        return refused.diagnosis
    cause, detail, fix = found
    return Diagnosis(cause, path, f"{detail}: {shapes}", fix, True)


def _explanations(path: str, evidence: _Evidence) -> Iterator[tuple[Cause, str, str]]:
    m, t = evidence.given, evidence.right
    if m.size == t.size and alike(m.reshape(t.shape), t):
        yield Cause.STRUCTURE, f"d{path} has the right numbers in another shape", f"d{path}.reshape({path}.shape)"
    for axes in _subsets(m.ndim):
        for keep in (False, True):
            if alike(m.sum(axes, keepdims=keep), t):
                detail = f"d{path} is not summed over axis {_list(axes)}, along which {path} is broadcast"
                yield Cause.UNREDUCED, detail, f"d{path}.sum(axis={axes[0] if len(axes) == 1 else axes})"
    for axis in range(m.ndim):
        n = t.shape[axis] if m.ndim == t.ndim else 0
        if n and m.shape[axis] % n == 0 and m.shape[axis] != n:
            groups = m.shape[axis] // n
            for where, parts in ((axis + 1, (n, groups)), (axis, (groups, n))):
                total = m.reshape(*m.shape[:axis], *parts, *m.shape[axis + 1 :]).sum(where)
                if alike(total, t):
                    detail = f"d{path} is not summed over the {groups} copies that axis {axis} of {path} is repeated in"
                    yield Cause.UNREDUCED, detail, f"reshape axis {axis} of d{path} to {parts} and sum over the copies"
    if m.size == t.size and m.ndim <= 5:
        for axes in itertools.permutations(range(m.ndim)):
            if alike(np.transpose(m, axes), t):
                fix = f"d{path}.T" if m.ndim == 2 else f"d{path}.transpose({axes})"
                yield Cause.TRANSPOSE, f"d{path} is transposed", fix
    for other, value in evidence.others.items():
        if alike(m, value):
            fix = "return the gradients in the order of the arguments"
            yield Cause.SWAPPED, f"d{path} holds the gradient for {other}", fix
    for cotangent in [*evidence.cotangents, t]:
        for axes in _subsets(cotangent.ndim):
            for keep in (False, True):
                if alike(m, cotangent.sum(axes, keepdims=keep)):
                    detail = f"d{path} is summed over axis {_list(axes)}, which {path} is not broadcast along"
                    yield Cause.WRONG_AXIS, detail, "sum over the axes that the forward pass broadcasts along"


def _evaluated(subject: Subject, leaf: int) -> _Evidence:
    """At a random point near the arguments, in float64."""
    random = np.random.RandomState(0)
    with precisely():
        leaves, structure = jax.tree.flatten(subject.args)
        leaves = [widen(jnp.asarray(x)) for x in leaves]
        floating = [i for i, x in enumerate(leaves) if not is_key(x) and np.issubdtype(x.dtype, np.inexact)]
        leaves = [perturb(x, random) if i in floating else x for i, x in enumerate(leaves)]
        args: Any = jax.tree.unflatten(structure, leaves)
        program = flatten(subject.primal, *args)
        y = [v.aval for v in program.jaxpr.jaxpr.outvars]
        dy = [np.ones(v.shape) if subject.is_loss else normal(v.shape, np.float64, random) for v in y]
        swept = compile_sweep(program)(leaves, dy)
        owner = [i for i, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
        position = leaf - owner.index(owner[leaf])

        @jax.jit
        def given(dy: Any) -> Any:
            found = subject.backward(args, dy)[subject.argnums.index(owner[leaf])]
            return jax.tree.leaves(found)[position]

        m = np.asarray(given(jax.tree.unflatten(program.outputs, dy)))
    others = {f"argument {owner[i]}": g for i, g in enumerate(swept.gradient) if i != leaf and g is not None}
    return _Evidence(m, swept.gradient[leaf], others, [*swept.cotangents.values(), *swept.outputs.values()])


def _subsets(ndim: int) -> Iterator[tuple[int, ...]]:
    for count in range(1, min(ndim, 4) + 1):
        yield from itertools.combinations(range(ndim), count)


def _list(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))
