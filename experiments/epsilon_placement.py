"""Does it matter whether ε is added inside the root or outside, √(v + ε) or √v + ε?

First, one gradient g, the same at every step: how long is the step of RMSProp, AdaGrad and Adam, for |g| from 1e-12 to
1e4? After k steps the second moment is a g² and the first b g, with a = 1 − ρᵏ for RMSProp, k for AdaGrad, 1 for Adam
(1 − β₂ᵏ without its corrections, and b = 1 − β₁ᵏ), so that

    outside    η b |g| / (√a |g| + ε)        half of what a large gradient gets at |g| = ε / √a
    inside     η b |g| / √(a g² + ε)         half of it at |g| = √(ε / 3a)

and Keras's ε̂ is an ε outside of ε̂ / √(1 − β₂ᵏ). The same ε = 1e-8 therefore acts below 1e-8 outside, and below
1e-4 / √3 inside. With ε inside the square of that outside they act at the same |g|, and differ by at most
max 1/√(1 + r²) − 1/(1 + r) = 0.233 of η, over r = ε / |g|.

Then the digits, a network trained with Adam, the loss in units of 1, 2¹⁰ and 2²⁰ (that is, multiplied by 2⁻¹⁰ …).

Expected: in units of 1 both placements train alike. Without ε, Adam would not see the units. ε has those of a gradient
outside, and of its square inside: scaled along, all is the same to the last bit. Where it is not scaled along, inside
already slows at 2⁻¹⁰, where outside does not matter. Outside is not free of it either: at 2⁻²⁰ (about 1e-6) gradients
are smaller than 1e-8, and it slows too, if by less; inside, next to nothing is learned.

    python -m experiments.epsilon_placement --flagfile=configs/epsilon_placement.flags
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, epsilon_placement_figures
from fundamentals import data, optimizers
from fundamentals.base import Array
from fundamentals.models import mlp

RESULTS, FIGURE = FILES = ("results.json", "epsilon_placement.png")
RHO, B1, B2 = 0.9, 0.9, 0.999
LOWEST, HIGHEST = 1e-12, 1e4  # of |g|
INSIDE, OUTSIDE, HAT = "inside", "outside", "ε̂"
OTHER_UNITS = -10, -20  # powers of 2, by which the loss is multiplied: exact in floating point


class Variant(NamedTuple):
    """A method with a placement of ε, and what is known of its moments after k equal gradients."""

    name: str
    placement: str
    notes: str
    make: Callable[[float, Any], optimizers.Optimizer]  # of η and ε
    first: Callable[[int], float]  # b, by the number of steps
    second: Callable[[int], float]  # a
    eps: Callable[[float, int], float]  # what ε amounts to in step k


def _one(k: int) -> float:
    return 1.0


def _same(eps: float, k: int) -> float:
    return eps


def _hat(eps: float, k: int) -> float:
    return eps / math.sqrt(1 - B2**k)


VARIANTS = (
    Variant("RMSProp", INSIDE, "O10", lambda eta, eps: optimizers.rmsprop(eta, RHO, 0.0, eps),
            _one, lambda k: 1 - RHO**k, _same),
    Variant("RMSProp", OUTSIDE, "O11", lambda eta, eps: optimizers.rmsprop(eta, RHO, eps, 0.0),
            _one, lambda k: 1 - RHO**k, _same),
    Variant("AdaGrad", INSIDE, "O12", lambda eta, eps: optimizers.adagrad(eta, 0.0, eps), _one, float, _same),
    Variant("AdaGrad", OUTSIDE, "O12", lambda eta, eps: optimizers.adagrad(eta, eps, 0.0), _one, float, _same),
    Variant("Adam", INSIDE, "O14", lambda eta, eps: optimizers.adam(eta, B1, B2, 0.0, eps), _one, _one, _same),
    Variant("Adam", OUTSIDE, "O14", lambda eta, eps: optimizers.adam(eta, B1, B2, eps), _one, _one, _same),
    Variant("Adam", HAT, "O14", lambda eta, eps: optimizers.adam(eta, B1, B2, eps, eps_hat=True), _one, _one, _hat),
    Variant("Adam, uncorrected", OUTSIDE, "O15",
            lambda eta, eps: optimizers.adam(eta, B1, B2, eps, bias_correction=False),
            lambda k: 1 - B1**k, lambda k: 1 - B2**k, _same),
)  # fmt: skip


class Curve(NamedTuple):
    """The length of step k against |g|, in units of η, and where it is half of what large gradients get."""

    name: str
    placement: str
    notes: str
    step: int
    lengths: np.ndarray  # [G]
    predicted: np.ndarray  # [G]
    half_at: float
    predicted_half_at: float


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_float("eps", 1e-8, "ε.", lower_bound=1e-10, upper_bound=1e-4, **options)
    flags.DEFINE_float("learning_rate", 1e-3, "η.", lower_bound=0.0, **options)
    flags.DEFINE_integer("points", 161, "|g| to measure at.", lower_bound=17, **options)
    flags.DEFINE_integer("later_step", 100, "Step to measure beside the first.", lower_bound=2, **options)
    flags.DEFINE_integer("hidden", 32, "Units of the network that learns the digits.", lower_bound=1, **options)
    flags.DEFINE_integer("epochs", 20, "Of its training.", lower_bound=1, **options)
    flags.DEFINE_integer("batch_size", 64, "Of its training.", lower_bound=1, upper_bound=1258, **options)
    flags.DEFINE_float("alike", 0.05, "By how much, relative, alike losses may differ.", lower_bound=0.0, **options)
    flags.DEFINE_integer("seed", 0, "Of parameters and order.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/epsilon_placement", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)


def run(
    *,
    eps: float,
    learning_rate: float,
    points: int,
    later_step: int,
    hidden: int,
    epochs: int,
    batch_size: int,
    alike: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, train, print, draw and judge."""
    settings = dict(locals())
    if not 0 < learning_rate < math.inf:  # lengths are divided by it
        raise common.UserError(f"--learning_rate={learning_rate}; expected a finite number > 0")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    dtype = jnp.dtype(jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)
    bound = 1e-12 if dtype == jnp.float64 else 1e-5
    sizes = np.geomspace(LOWEST, HIGHEST, points).astype(dtype)
    curves: list[Curve] = []
    matched: list[tuple[np.ndarray, np.ndarray]] = []
    verdicts: list[common.Verdict] = []
    losses: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {"complete": False, "settings": settings, "sizes": sizes.tolist()}
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("step lengths", total=2 * len(VARIANTS) + 2, note="")
            for variant in VARIANTS:
                for k in (1, later_step):
                    bar.update(task, note=f"{variant.name}, {variant.placement}, step {k}")
                    curves.append(measure(variant, learning_rate, eps, k, sizes))
                    bar.advance(task)
            matched = [match(name, learning_rate, eps, points) for name in ("RMSProp", "AdaGrad", "Adam")]
            bar.update(task, advance=1, description="training", note="")
            verdicts += judge_curves(curves, bound) + judge_matched(matched, bound)
            losses, identical = train(learning_rate, eps, hidden, epochs, batch_size, seed, dtype)
            verdicts += judge_training(losses, identical, alike)
            bar.advance(task)
            results["complete"] = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted after {len(curves)} of {2 * len(VARIANTS)} curves")
        raise
    finally:
        results |= {"training": {name: values.tolist() for name, values in losses.items()}}
        report(folder, sizes, curves, matched, losses, verdicts, results)
    return verdicts


def half_at(of: Callable[[Array], Array], dtype: Any) -> Array:
    """The |g| whose step is half as long as that of the largest, by bisection between the orders of magnitude."""
    ends = jnp.array([[LOWEST], [HIGHEST]], dtype)
    half = of(ends[1]) / 2

    def narrow(_: Array, ends: Array) -> Array:
        middle = jnp.sqrt(ends[0]) * jnp.sqrt(ends[1])
        return jnp.where(of(middle) < half, jnp.stack([middle, ends[1]]), jnp.stack([ends[0], middle]))

    return jnp.prod(jnp.sqrt(jax.lax.fori_loop(0, 60, narrow, ends)), axis=0)[0]


@functools.cache
def _program(variant: Variant, learning_rate: float) -> Callable[..., tuple[Array, Array]]:
    """(g, ε, k) → lengths of step k in units of η, an entry of g each; and the |g| where it is half of the largest."""

    def program(g: Array, eps: Array, k: Array) -> tuple[Array, Array]:
        optimizer = variant.make(learning_rate, eps)

        def of(g: Array) -> Array:
            state = jax.lax.fori_loop(1, k, lambda _, state: optimizer.update(g, state)[1], optimizer.init(g))
            return jnp.abs(optimizer.update(g, state)[0]) / jnp.asarray(learning_rate, g.dtype)

        return of(g), half_at(of, g.dtype)

    return jax.jit(program)


def measure(variant: Variant, learning_rate: float, eps: float, k: int, sizes: np.ndarray) -> Curve:
    """One curve, measured and by the formula, which is NumPy's in float64."""
    found, half = _program(variant, learning_rate)(jnp.asarray(sizes), jnp.asarray(eps, sizes.dtype), k)
    predicted, predicted_half = formula(variant, eps, k, np.asarray(sizes, np.float64))
    return Curve(
        variant.name, variant.placement, variant.notes, k, np.asarray(found, np.float64), predicted,
        float(half), predicted_half,
    )  # fmt: skip


def formula(variant: Variant, eps: float, k: int, g: np.ndarray) -> tuple[np.ndarray, float]:
    """Length of step k in units of η, and the |g| where it is half of the largest; see the top of this module."""
    b, a, e = variant.first(k), variant.second(k), variant.eps(eps, k)
    # The largest |g| is 1e4, whose step is not quite that of an infinite one: the second terms of the sums.
    if variant.placement == INSIDE:
        return b * g / np.sqrt(a * g * g + e), math.sqrt(e / a / (3 + 4 * e / (a * HIGHEST**2)))
    return b * g / (math.sqrt(a) * g + e), e / math.sqrt(a) / (1 + 2 * e / (math.sqrt(a) * HIGHEST))


def match(name: str, learning_rate: float, eps: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """(|g| / ε, steps inside − outside): ε outside and ε² inside, where each acts, of a settled second moment."""
    pair = {v.placement: v for v in VARIANTS if v.name == name}
    # RMSProp settles: 0.9²⁰⁰ is 7e-10. AdaGrad never does, and its first step is what settled steps of the others are.
    k = {"RMSProp": 200, "AdaGrad": 1, "Adam": 1}[name]
    ratio = np.geomspace(1e-3, 1e3, 4 * points)
    dtype = jnp.dtype(jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)
    g = jnp.asarray(eps * ratio, dtype)
    inside, outside = (
        np.asarray(_program(pair[where], learning_rate)(g, jnp.asarray(own, dtype), k)[0], np.float64)
        for where, own in ((INSIDE, eps**2), (OUTSIDE, eps))
    )
    return ratio, inside - outside


def largest_difference() -> tuple[float, float]:
    """(max of 1/√(1 + r²) − 1/(1 + r), its r); the derivative is 0 at the root of 4r⁵ + 3r⁴ + 4r³ − 2r² − 1."""
    (r,) = (z.real for z in np.roots([4, 3, 4, -2, 0, -1]) if abs(z.imag) < 1e-9 and z.real > 0)
    return float(1 / math.sqrt(1 + r * r) - 1 / (1 + r)), float(r)


def train(
    learning_rate: float, eps: float, hidden: int, epochs: int, batch_size: int, seed: int, dtype: Any
) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Losses of the training set after each epoch, in units of 1; and whether a scaled ε led to the same parameters.

    All trainings have the same first parameters and batches, and are one program.
    """
    examples = data.digits().train
    x, labels = jnp.asarray(examples.inputs.reshape(len(examples.labels), -1), dtype), jnp.asarray(examples.labels)
    params_key, order_key = jax.random.split(jax.random.key(seed))
    params = mlp.init(params_key, (x.shape[1], hidden, 10), dtype=dtype)
    batches = len(labels) // batch_size
    order = jax.vmap(lambda key: jax.random.permutation(key, len(labels)))(jax.random.split(order_key, epochs))
    order = order[:, : batches * batch_size].reshape(epochs, batches, batch_size)

    def one(scale: Array, eps: Array, eps_root: Array) -> tuple[Array, mlp.Params]:
        optimizer = optimizers.adam(learning_rate, B1, B2, eps, eps_root)

        def step(carry: Any, batch: Array) -> tuple[Any, None]:
            params, state = carry
            _, gradients = mlp.loss_and_gradient(params, x[batch], labels[batch])
            updates, state = optimizer.update(jax.tree.map(lambda g: scale * g, gradients), state)
            return (optimizers.apply_updates(params, updates), state), None

        def epoch(carry: Any, batches: Array) -> tuple[Any, Array]:
            carry, _ = jax.lax.scan(step, carry, batches)
            return carry, mlp.loss(carry[0], x, labels)

        (end, _), losses = jax.lax.scan(epoch, (params, optimizer.init(params)), order)
        return losses, end

    runs: dict[str, tuple[float, float, float]] = {}
    for power in (0, *OTHER_UNITS):
        scale = 2.0**power
        runs |= {f"{OUTSIDE}, 2^{power}": (scale, eps, 0.0), f"{INSIDE}, 2^{power}": (scale, 0.0, eps)}
        if power:
            along = {OUTSIDE: (scale, eps * scale, 0.0), INSIDE: (scale, 0.0, eps * scale**2)}
            runs |= {f"{where}, 2^{power}, ε too": along[where] for where in along}
    with jax.default_matmul_precision("highest"):
        arguments = jnp.asarray(list(runs.values()), dtype).T
        found, ends = jax.jit(jax.vmap(one))(*arguments)
    losses = dict(zip(runs, np.asarray(found, np.float64), strict=True))
    final = {name: [np.asarray(leaf[i]) for leaf in jax.tree.leaves(ends)] for i, name in enumerate(runs)}
    identical = {
        name: all(map(np.array_equal, final[name], final[f"{name.split(',')[0]}, 2^0"]))
        for name in runs
        if name.endswith("ε too")
    }
    return losses, identical


def judge_curves(curves: Sequence[Curve], bound: float) -> list[common.Verdict]:
    """For each method: lengths and half-way points against the formulas; and where the placements act."""

    def apart(found: Any, expected: Any) -> float:
        return float(np.max(np.abs(np.asarray(found) / np.asarray(expected) - 1)))

    verdicts = []
    for notes in dict.fromkeys(curve.notes for curve in curves):
        own = [curve for curve in curves if curve.notes == notes]
        what = " and ".join(dict.fromkeys(curve.placement for curve in own))
        of_lengths = max(apart(curve.lengths, curve.predicted) for curve in own)
        of_halves = max(apart(curve.half_at, curve.predicted_half_at) for curve in own)
        verdicts += [
            common.Verdict(
                f"{own[0].name}, ε {what}: lengths of steps are the formula's at all |g|; half-way points too",
                f"{of_lengths:.1e}, {of_halves:.1e}", f"≤ {bound:.0e}", max(of_lengths, of_halves) <= bound, notes,
            )
        ]  # fmt: skip
    at = {(c.name, c.placement): (c.half_at, c.predicted_half_at) for c in curves if c.step == 1}
    pairs = [
        ("RMSProp", INSIDE, OUTSIDE, "O10, O11"), ("Adam", INSIDE, OUTSIDE, "O14"), ("Adam", HAT, OUTSIDE, "O14")
    ]  # fmt: skip
    for name, one, other, notes in pairs:
        found, expected = (at[name, one][i] / at[name, other][i] for i in (0, 1))
        verdicts.append(
            common.Verdict(
                f"{name}, first step: the same ε acts on larger gradients as {one} than outside, by the factor",
                f"{found:,.4g}", f"{expected:,.4g}", found > 1 and abs(found / expected - 1) <= 3 * bound, notes,
            )
        )  # fmt: skip
    return verdicts


def judge_matched(matched: Sequence[tuple[np.ndarray, np.ndarray]], bound: float) -> list[common.Verdict]:
    """ε² inside against ε outside."""
    expected, r = largest_difference()
    found = [float(difference.max()) for _, difference in matched]
    where = [float(ratio[np.argmax(difference)]) for ratio, difference in matched]
    # The maximum lies between two points of a grid: at most half a spacing h of log|g| from one, which misses less than
    # ½ (h/2)² |d²/d(log|g|)²| < h² / 8 of it.
    grid = float(np.log(matched[0][0][1] / matched[0][0][0]))
    near = all(abs(f - expected) <= grid**2 / 8 + bound for f in found)
    return [
        common.Verdict(
            "ε² inside and ε outside: their steps differ most, RMSProp, AdaGrad, Adam, by this part of η",
            ", ".join(f"{f:.4f}" for f in found), f"{expected:.4f}", near, "O10, O12, O14",
        ),
        common.Verdict(
            "… where |g| / ε is", ", ".join(f"{w:.2f}" for w in where), f"{1 / r:.2f}",
            all(abs(math.log(w * r)) <= 2 * grid for w in where), "O10, O12, O14",
        ),
    ]  # fmt: skip


def judge_training(losses: dict[str, np.ndarray], identical: dict[str, bool], alike: float) -> list[common.Verdict]:
    """Where the placement matters to a network, and where it does not."""
    some, more = (f"2^{power}" for power in OTHER_UNITS)
    ratio = {name: float(values[-1] / losses[f"{OUTSIDE}, 2^0"][-1]) for name, values in losses.items()}
    same, outside, inside = ratio[f"{INSIDE}, 2^0"], ratio[f"{OUTSIDE}, {some}"], ratio[f"{INSIDE}, {some}"]
    least, most = ratio[f"{OUTSIDE}, {more}"], ratio[f"{INSIDE}, {more}"]
    return [
        common.Verdict(
            "digits, loss in units of 1: the final loss with ε inside is that outside, times",
            f"{same:.3f}", f"1 ± {alike:g}", abs(same - 1) <= alike, "O14",
        ),
        common.Verdict(
            f"loss times {some}: outside, the final loss is as before; inside it is higher, times",
            f"{outside:.3f}, {inside:.3f}", f"1 ± {alike:g}, more", abs(outside - 1) <= alike and inside > 1 + alike,
            "O14",
        ),
        common.Verdict(
            f"loss times {more}: both are higher, and inside more than outside, times",
            f"{least:.3f}, {most:.3f}", f"> {1 + alike:g}, more", most > least > 1 + alike, "O14",
        ),
        common.Verdict(
            "with ε scaled along, as gradients outside, as their squares inside, parameters are the same, each bit",
            f"{sum(identical.values())} of {len(identical)}", f"{len(identical)}", all(identical.values()), "O14",
        ),
    ]  # fmt: skip


def report(
    folder: Path,
    sizes: np.ndarray,
    curves: Sequence[Curve],
    matched: Sequence[tuple[np.ndarray, np.ndarray]],
    losses: dict[str, np.ndarray],
    verdicts: Sequence[common.Verdict],
    results: dict[str, Any],
) -> None:
    """Tables, figure and results of what is finished."""
    if curves:
        rows = [
            (c.name, c.placement, str(c.step), f"{c.half_at:.5g}", f"{c.predicted_half_at:.5g}", f"{c.lengths[-1]:.4g}")
            for c in curves
        ]
        columns = ["method", "ε", "step", "half at |g|", "predicted", "largest / η"]
        common.table("Where a step is half as long as that of a large gradient", columns, rows)
    if losses:
        rows_of_losses = [(name, f"{v[0]:.4f}", f"{v[-1]:.4f}") for name, v in losses.items()]
        columns = ["ε, loss multiplied by", "after 1 epoch", f"after {len(next(iter(losses.values())))}"]
        common.table("Adam on the digits: training loss, in units of 1", columns, rows_of_losses)
    if curves:
        common.save_figure(epsilon_placement_figures.draw(sizes, curves, matched, losses), folder / FIGURE)
    if verdicts:
        common.print_verdicts(verdicts)
    written = [c._asdict() | {"lengths": c.lengths.tolist(), "predicted": c.predicted.tolist()} for c in curves]
    judged = [verdict._asdict() for verdict in verdicts]
    common.write_json(folder / RESULTS, results | {"curves": written, "verdicts": judged})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
