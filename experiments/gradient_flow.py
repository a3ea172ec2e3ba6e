"""How much of a gradient arrives at the first layer of a deep network, or at the first step of a recurrent one?

In float64, random networks of equal width without biases, of several depths, activations and initializations: a random
cotangent enters at the last layer. Two ratios of first to last layer: ‖dx_0‖ / ‖dx_L‖, of the signal that is sent back,
and ‖dw_1‖ / ‖dw_L‖, of the weights' gradients. Then the same with residual connections and layer normalization, and
through the time steps of a tanh network. Each is predicted by mean-field theory (`gradient_flow_theory`).

Expected:
  sigmoid: as σ′ ≤ ¼, at most 4^−L with orthogonal weights, at most Π ‖w_l‖₂/4 with any; ReLU with He's initialization
    keeps both. Maxout of two pieces does so with Xavier's, and explodes with He's, by √2 a layer.
  ‖dw_1‖ / ‖dw_L‖ does not tell for ReLU, leaky ReLU and maxout: it is 1 at any scale of the weights, as signals forward
    and backward shrink alike. What vanishes then are all gradients. Nor for tanh with small weights, nearly linear.
  What vanishes in plain networks vanishes no more with residual connections, nor with layer normalization after the
    activation. Normalization before it cannot do so for a sigmoid, whose values are not centred: χ = 0.15.
  Recurrent: with w_h = ρ · orthogonal, ρᵏ after k steps while states are small. ρ < 1 always vanishes. ρ > 1 explodes
    only if tanh is not saturated: driven by noise, ρ = 1.1 vanishes. A matrix that is not normal can make gradients
    grow for some steps although ρ < 1: what bounds them is ‖w_h‖₂. Clipping keeps a step to ηc, and its direction.

    python -m experiments.gradient_flow --flagfile=configs/gradient_flow.flags

Ctrl-C leaves what is finished; --resume goes on with it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import common, gradient_flow_figures, gradient_flow_recurrent, gradient_flow_verdicts, measure, sweeps
from experiments import gradient_flow_networks as networks_of
from experiments import gradient_flow_theory as theory
from experiments.gradient_flow_networks import INITIALIZATIONS
from experiments.gradient_flow_recurrent import DRIVEN, KINDS, QUIET, SHEAR_RADIUS, SHEARED
from experiments.gradient_flow_theory import BLOCKS, MAXOUT, PLAIN
from experiments.gradient_flow_verdicts import SIGNAL, WEIGHTS, Cell, Measured

RESULTS, MAPS, LINES = FILES = ("results.json", "gradient_flow_maps.png", "gradient_flow_lines.png")
RESCUED = "sigmoid", "tanh"  # activations of the other networks
PLAN = [(PLAIN, name) for name in (*theory.ACTIVATIONS, MAXOUT)] + [(b, a) for b in BLOCKS[1:] for a in RESCUED]
RANGE = 300  # decades of float64
CLIPPING = "clipping"


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    depths = ["2", "4", "8", "16", "32", "64"]
    flags.DEFINE_list("depths", depths, "L, ascending.", **options)
    flags.DEFINE_integer("width", 64, "n, of all layers.", lower_bound=4, upper_bound=4096, **options)
    flags.DEFINE_integer("networks", 16, "R, of each kind.", lower_bound=3, upper_bound=1000, **options)
    flags.DEFINE_integer("with_norms", 16, "Networks whose ‖w‖₂ are computed.", lower_bound=1, **options)
    flags.DEFINE_float("small", 0.01, "Standard deviation of small weights, of whatever width.", **options)
    flags.DEFINE_float("large", 0.3, "Standard deviation of large weights.", **options)
    flags.DEFINE_list("radii", ["0.5", "0.9", "1", "1.1", "1.5"], "ρ of recurrent networks, ascending.", **options)
    flags.DEFINE_integer("units", 64, "Of recurrent networks, even.", lower_bound=4, upper_bound=4096, **options)
    flags.DEFINE_integer("lags", 100, "Steps back through time.", lower_bound=10, upper_bound=1000, **options)
    flags.DEFINE_float("noise", 0.3, "Standard deviation of the inputs that drive them.", **options)
    flags.DEFINE_float("shear", 1.0, "Above the diagonal of matrices that are not normal.", **options)
    flags.DEFINE_float("clip", 5.0, "c.", **options)
    flags.DEFINE_float("learning_rate", 0.1, "η.", **options)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    sweeps.define_flags(flag_values, "gradient_flow")

    def are_radii(values: Sequence[str]) -> bool:
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            return False
        return bool(numbers) and numbers == sorted(set(numbers)) and numbers[0] > 0 and numbers[-1] <= 10

    flags.register_validator(
        "depths", measure.are_ascending, message="expected ascending positive integers", flag_values=flag_values
    )
    flags.register_validator(
        "radii", are_radii, message="expected ascending numbers in (0, 10]", flag_values=flag_values
    )


def run(
    *,
    depths: Sequence[str],
    width: int,
    networks: int,
    with_norms: int,
    small: float,
    large: float,
    radii: Sequence[str],
    units: int,
    lags: int,
    noise: float,
    shear: float,
    clip: float,
    learning_rate: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
    resume: bool,
) -> list[common.Verdict]:
    """Measure, print, draw, judge."""
    settings = dict(locals())
    layers, rho = tuple(map(int, depths)), [float(radius) for radius in radii]
    _check(settings, layers, rho)
    folder, rows = sweeps.start(output_dir, FILES, settings, overwrite=overwrite, resume=resume)
    total = len(INITIALIZATIONS) * (len(PLAN) + 1) + len(KINDS) + 1
    complete = False
    try:
        with (
            jax.enable_x64(True),
            jax.default_matmul_precision("highest"),
            common.interruptible(),
            common.progress() as bar,
        ):
            task = bar.add_task("", total=total, completed=len(rows), note="")
            keys = jax.random.split(jax.random.key(seed), 3)
            x, dy = networks_of.draw_ends(keys[1], networks, width)

            def keep(key: str, row: Any) -> None:
                rows[key] = sweeps.keep(folder, key, row)
                bar.advance(task)

            for name in INITIALIZATIONS:
                if all(_key(name, *kind) in rows for kind in PLAN) and _key(name, "norms") in rows:
                    continue
                bar.update(task, description=f"drawing weights, {name}")
                initializer, _ = networks_of.initialization(name, small, large, width)
                w = networks_of.draw_weights(initializer, keys[0], networks=networks, depth=layers[-1], width=width)
                if _key(name, "norms") not in rows:
                    norms = networks_of.spectral_norms(np.asarray(w[:, :with_norms, 0]))
                    keep(_key(name, "norms"), np.cumsum(np.log10(norms), axis=0)[np.array(layers) - 1].T.tolist())
                for block, activation in PLAN:
                    bar.update(task, description=f"{activation}, {name}, {block}")
                    if _key(name, block, activation) not in rows:
                        found = networks_of.flow(w, x, dy, activation=activation, block=block, depths=layers)
                        ratios = zip((SIGNAL, WEIGHTS), found, strict=True)
                        keep(_key(name, block, activation), {ratio: values.tolist() for ratio, values in ratios})
                del w
            sizes = {"networks": networks, "units": units, "lags": lags}
            for kind in KINDS:
                bar.update(task, description=f"recurrent, {kind}")
                if kind not in rows:
                    own = [SHEAR_RADIUS] if kind == SHEARED else rho
                    found = gradient_flow_recurrent.measure(keys[2], kind, own, **sizes, noise=noise, size=shear)
                    keep(kind, found)
            bar.update(task, description=CLIPPING)
            if CLIPPING not in rows:
                steps = gradient_flow_recurrent.clip(keys[2], rho, **sizes, max_norm=clip, learning_rate=learning_rate)
                keep(CLIPPING, steps)
        complete = True
    finally:
        measured = gather(rows, settings)
        verdicts = gradient_flow_verdicts.judge(measured)
        _report(folder, measured, verdicts, rows, settings, complete=complete)
        sweeps.report_unfinished(len(rows), total)
    return verdicts


def _check(settings: dict[str, Any], layers: Sequence[int], radii: Sequence[float]) -> None:
    for name in ("small", "large", "noise", "shear", "clip", "learning_rate"):
        if not 0 < settings[name] < math.inf:
            raise common.UserError(f"--{name}={settings[name]}; expected a finite number > 0")
    if len(layers) < 2:
        raise common.UserError(f"--depths={layers[0]}; expected at least two, to draw lines through")
    if settings["units"] % 2:
        raise common.UserError(f"--units={settings['units']}; expected an even number, for pairs that are sheared")
    for name in ("small", "large"):
        scale = math.log10(settings[name] * math.sqrt(settings["width"]))
        decades = layers[-1] * max(scale, math.log10(2) / 2 - scale)  # ReLU lets through half of E[z²]
        if decades > RANGE / 2:  # theory is of squares
            raise common.UserError(
                f"--{name}={settings[name]}: {layers[-1]} layers take x through 10^±{decades:.0f}; expected at most "
                f"10^±{RANGE // 2}, or its square leaves float64"
            )
    decades = (settings["lags"] + gradient_flow_recurrent.SETTLE) * max(abs(math.log10(radius)) for radius in radii)
    if decades > RANGE / 2:  # the states near zero start as small as the gradients become large
        raise common.UserError(
            f"--radii={','.join(settings['radii'])}: {settings['lags']} lags take gradients through 10^±{decades:.0f}; "
            f"expected at most 10^±{RANGE // 2}"
        )


def _key(*parts: str) -> str:
    return "/".join(parts)


def gather(rows: dict[str, Any], settings: dict[str, Any]) -> Measured:
    """The rows that are finished, beside what is predicted of them."""
    depths = np.array([int(depth) for depth in settings["depths"]])
    cells, norms = [], {}
    for block, activation in PLAN:
        for name in INITIALIZATIONS:
            row = rows.get(_key(name, block, activation))
            if row:
                _, variance = networks_of.initialization(name, settings["small"], settings["large"], settings["width"])
                flow = theory.flow(activation, block, variance, int(depths[-1]), settings["width"])
                predicted = theory.Flow(*(values[depths - 1] for values in flow))
                signal, weights = (np.array(row[ratio], float) for ratio in (SIGNAL, WEIGHTS))
                cells.append(Cell(activation, block, name, depths, signal, weights, predicted))
    for name in INITIALIZATIONS:
        if _key(name, "norms") in rows:
            norms[name] = np.array(rows[_key(name, "norms")])
    through_time = {kind: _arrays(rows[kind]) for kind in KINDS if kind in rows}
    return Measured(cells, norms, through_time, _arrays(rows.get(CLIPPING, {})), settings)


def _arrays(row: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(values, float) for name, values in row.items()}


def _report(
    folder: Path,
    measured: Measured,
    verdicts: list[common.Verdict],
    rows: dict[str, Any],
    settings: dict[str, Any],
    *,
    complete: bool,
) -> None:
    """Tables, figures and results of what is finished."""
    if measured.cells:
        table = []
        for cell in measured.cells:
            line = [cell.activation, cell.initialization, cell.block]
            for ratio in (SIGNAL, WEIGHTS):
                mean, error = getattr(cell, ratio).mean(axis=0)[-1], cell.error(ratio)[-1]
                predicted = getattr(cell.predicted, ratio)[-1]
                line += [f"{mean:.2f} ± {error:.2f}", f"{predicted:.2f} ± {cell.allowance(ratio)[-1]:.2f}"]
            table.append(line)
        head = [
            "activation",
            "weights",
            "layers",
            "log₁₀ ‖dx_0‖/‖dx_L‖",
            "predicted",
            "log₁₀ ‖dw_1‖/‖dw_L‖",
            "predicted",
        ]
        title = f"L = {settings['depths'][-1]}, n = {settings['width']}: means and standard errors of "
        title += f"{settings['networks']} networks; mean field, and what the width may shift"
        common.table(title, head, table)
        common.save_figure(gradient_flow_figures.draw_maps(measured), folder / MAPS)
    if measured.through_time:
        lines = []
        for kind, found in measured.through_time.items():
            radii = [SHEAR_RADIUS] if kind == SHEARED else found["norms"]
            for radius, norm, values in zip(radii, found["norms"], found["lags"], strict=True):
                at = [values[:, k - 1].mean() for k in (1, 10, values.shape[1])]
                lines.append([kind, f"{radius:g}", f"{norm:.2f}", *(f"{value:.2f}" for value in at)])
        head = ["states", "ρ", "‖w_h‖₂", "k = 1", "k = 10", f"k = {settings['lags']}"]
        common.table("Through time: log₁₀ ‖dh_{T−k}‖/‖dh_T‖, means", head, lines)
    if measured.clipping:
        steps = [
            [
                f"{float(radius):g}",
                *(f"{measured.clipping[name][i].mean():.3g}" for name in ("gradients", "free", "clipped")),
            ]
            for i, radius in enumerate(settings["radii"])
        ]
        title = f"A step, near zero: c = {settings['clip']:g}, η = {settings['learning_rate']:g}, means"
        common.table(title, ["ρ", "‖g‖", "step without clipping", "with"], steps)
    if measured.cells and {QUIET, DRIVEN, SHEARED} <= measured.through_time.keys() and measured.clipping:
        common.save_figure(gradient_flow_figures.draw_lines(measured), folder / LINES)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings, "verdicts": [verdict._asdict() for verdict in verdicts]}
    predicted = {
        _key(c.initialization, c.block, c.activation): {k: v.tolist() for k, v in c.predicted._asdict().items()}
        for c in measured.cells
    }
    common.write_json(folder / RESULTS, content | {"predicted": predicted, "rows": rows})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
