"""The mutants: right where they should be, and wrong exactly where they say so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.mutants import CAUSES, FIFTH, FOURTH, FRESH, HELD_OUT, MASKED, MUTANTS, TRAPS, UNSEEN

EVERY = MUTANTS + FRESH + UNSEEN + HELD_OUT + FOURTH + FIFTH
TRIED = MUTANTS  # the others take long to compile; the benchmark checks their twins, too
LEFT_OUT: dict[int, str] = {}  # row of the table of mistakes: why it has no mutant
THREE_CAUSES = {71, 415, 532}  # rows that may have as many, as a comment there justifies
FORWARD_MODE = "iterative solution"  # for which there is no reverse mode
TOLERANCE = {FORWARD_MODE: 1e-4, "float32 inside": 1e-6}  # of traps; the others', as the mutants', is 1e-9
KINKS = [trap for trap in TRAPS if "KINK" in trap.verdicts]
SMOOTH = [trap for trap in TRAPS if "KINK" not in trap.verdicts]

# Compiling takes most of the time: many cases make one program, and it is not worth optimizing.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(random, like):
    values = random.normal(size=like.shape)
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        values = values + 1j * random.normal(size=like.shape)
    return jnp.asarray(values.astype(like.dtype))


def probe(subject, cotangent=None):
    """Arguments and dy."""
    args = subject.arguments(0, np.float64)
    y = jax.eval_shape(subject.primal, *args)
    return args, normal(np.random.RandomState(7), y) if cotangent is None else cotangent(y)


def autodiff(primal, args, dy):
    """Cotangents by `jax.vjp`; None for arguments that are not floating."""
    floating = [i for i, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.inexact)]

    def function(*values):
        replaced = dict(zip(floating, values, strict=True))
        return primal(*(replaced.get(i, arg) for i, arg in enumerate(args)))

    cotangents = dict(zip(floating, jax.vjp(function, *(args[i] for i in floating))[1](dy), strict=True))
    return tuple(cotangents.get(i) for i in range(len(args)))


def forward_mode(primal, args, dy):
    """The same by `jax.jvp`, in the direction of one entry after the other."""

    def slope(i, direction):
        return jnp.vdot(dy, jax.jvp(lambda x: primal(*args[:i], x, *args[i + 1 :]), (args[i],), (direction,))[1])

    bases = [jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape) for x in args]
    return tuple(jax.vmap(functools.partial(slope, i))(basis).reshape(args[i].shape) for i, basis in enumerate(bases))


def agree(found, expected, tolerance=1e-9, scale=None):
    """Within the tolerance of the scale, by default the leaf's own; None only with None, NaN with nothing."""
    if found is None or expected is None:
        return found is expected
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    scale = np.max(np.abs(expected), initial=0) if scale is None else scale
    return bool(np.all(np.abs(np.asarray(found) - np.asarray(expected)) <= tolerance * scale))


def largest(cotangents):
    return max(np.max(np.abs(leaf), initial=0) for leaf in cotangents if leaf is not None)


@functools.cache
def results(module):
    """Of each mutant whose right backward pass stands there: the cotangents by autodiff, by its twin, and its own."""
    mutants = [m for m in TRIED if m.twin.__module__ == module]
    probes = [probe(m.subject) for m in mutants]

    def run(probes):
        return [
            (autodiff(m.subject.primal, *p), m.twin(*p), m.subject.backward(*p))
            for m, p in zip(mutants, probes, strict=True)
        ]

    return dict(zip(mutants, compiled(run)(probes), strict=True))


@pytest.mark.parametrize("mutant", TRIED, ids=lambda m: f"{m.number} {m.operation}")
def test_mutant_is_wrong_exactly_where_it_says(mutant, x64):
    expected, right, wrong = results(mutant.twin.__module__)[mutant]
    assert all(map(agree, right, expected))
    assert tuple(i for i, pair in enumerate(zip(wrong, expected, strict=True)) if not agree(*pair)) == mutant.leaves


def test_every_mistake_has_a_mutant():
    assert {m.number for m in MUTANTS} | LEFT_OUT.keys() == set(range(1, 76))
    assert not {m.number for m in MUTANTS} & LEFT_OUT.keys()


def test_mutants_are_told_apart_and_named():
    labels = [(m.number, m.operation, m.mistake) for m in EVERY]
    assert len(set(labels)) == len(labels)
    for m in EVERY:
        assert m.mistake
        assert "\n" not in m.mistake
        assert m.causes <= CAUSES.keys() - {"UNEXPLAINED"}
        assert 1 <= len(m.causes) <= (3 if m.number in THREE_CAUSES else 2)


@functools.cache
def results_of_smooth_traps():
    def run(probes):
        return [
            (
                (forward_mode if trap.name == FORWARD_MODE else autodiff)(trap.subject.primal, *p),
                trap.subject.backward(*p),
            )
            for trap, p in zip(SMOOTH, probes, strict=True)
        ]

    return dict(zip(SMOOTH, compiled(run)([probe(trap.subject) for trap in SMOOTH]), strict=True))


@pytest.mark.parametrize("trap", SMOOTH, ids=lambda t: t.name)
def test_trap_is_right(trap, x64):
    expected, found = results_of_smooth_traps()[trap]
    for a, b in zip(found, expected, strict=True):
        # Autodiff's rounding errors where the gradient is 0 are small next to other leaves, not next to themselves.
        assert agree(a, b, TOLERANCE.get(trap.name, 1e-9)) or agree(a, b, 1e-14, largest(expected))


@functools.cache
def results_at_kinks():
    """Of each output alone: the cotangent of x, and those by autodiff at points around x."""
    random = np.random.RandomState(0)

    def run(cases):
        found = []
        for trap, (x, near, cotangents) in zip(KINKS, cases, strict=True):
            by_hand = jax.vmap(lambda dy, trap=trap, x=x: trap.subject.backward((x,), dy)[0])(cotangents)
            found.append((by_hand, jax.vmap(jax.jacrev(trap.subject.primal))(near)))
        return found

    cases = []
    for trap in KINKS:
        (x,), dy = probe(trap.subject)
        assert dy.ndim == 1
        near = x[None] + 1e-9 * jnp.asarray(random.normal(size=(100, *x.shape)))
        cases.append((x, near, jnp.eye(dy.size, dtype=dy.dtype)))
    return dict(zip(KINKS, compiled(run)(cases), strict=True))


@pytest.mark.parametrize("trap", KINKS, ids=lambda t: t.name)
def test_trap_at_a_kink_takes_one_of_its_slopes(trap, x64):
    """Or a mean of them (Clarke's subdifferential): in no direction is it beyond all the gradients around.

    The difference quotients to either side of x need not enclose it: where several outputs have kinks, their sum,
    weighted by dy of both signs, may even be smooth in a direction along which each of them is not.
    """
    found, around = map(np.asarray, results_at_kinks()[trap])
    found, around = found.reshape(len(found), -1), around.reshape(*around.shape[:2], -1)
    directions = np.random.RandomState(1).normal(size=(found.shape[-1], 50))
    assert np.all(found @ directions <= np.max(around @ directions, axis=0) + 1e-6)


@pytest.mark.parametrize("masked", MASKED, ids=lambda m: m.name)
def test_masked_mutant_is_hidden_by_its_probe(masked, x64):
    def run(args, dy):
        return masked.subject.backward(args, dy), autodiff(masked.subject.primal, args, dy)

    found, expected = compiled(run)(*probe(masked.subject, masked.cotangent))
    hidden = all(agree(a, b, 1e-14, max(1, largest(expected))) for a, b in zip(found, expected, strict=True))
    assert hidden == ("diagonal" not in masked.name)  # which shows through: see the comment there
