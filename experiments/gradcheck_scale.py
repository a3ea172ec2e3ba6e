"""What does it cost to check ten million parameters, and is one wrong entry among them found?

A network of two layers, its loss and its gradient by hand. The check compares the gradient with autodiff in float64;
it has to compile both, as anybody would. Expected: besides compiling, at most 5 times as long as one
`jax.value_and_grad` in float64; and the index of the wrong entry in the verdict.

    python -m experiments.gradcheck_scale --flagfile=configs/gradcheck_scale.flags

Checks and evaluations are timed in turn; read the ratio, a median.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common
from fundamentals import gradcheck

FILES = ("results.json",)
BOUND = 5.0


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer(
        "width", 2236, "Of both layers; the parameters are twice its square.", lower_bound=8, **options
    )
    flags.DEFINE_integer("batch", 64, "Number of examples.", lower_bound=1, **options)
    flags.DEFINE_integer("repeats", 5, "Number of measurements.", lower_bound=1, **options)
    flags.DEFINE_integer("seed", 0, "Of the arguments and of the wrong entry.", 0, 2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/gradcheck_scale", "Where the numbers go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)


def loss(params: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Half of the mean squared output of tanh(x w₁) w₂."""
    return jnp.mean((jnp.tanh(x @ params[0]) @ params[1]) ** 2) / 2


def gradient(params: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By hand: dy = y / N, dh = dy w₂ᵀ (1 − h²)."""
    h = jnp.tanh(x @ params[0])
    y = h @ params[1]
    dy = y / y.size
    dh = dy @ params[1].T * (1 - h * h)
    return x.T @ dh, h.T @ dy


def run(
    *, width: int, batch: int, repeats: int, seed: int, output_dir: str, overwrite: bool
) -> Sequence[common.Verdict]:
    """Measure, print and write the numbers."""
    settings = dict(locals())
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    random = np.random.RandomState(seed)
    params = tuple(random.normal(size=(width, width)).astype(np.float32) / width**0.5 for _ in range(2))
    x = random.normal(size=(batch, width)).astype(np.float32)
    place = tuple(int(k) for k in random.randint(width, size=2))

    def wrong(params: Any, x: Any) -> Any:
        first, second = gradient(params, x)
        return first, second.at[place].multiply(1 + 1e-3)

    compiling, evaluating, checking = [], [], []
    for _ in range(repeats):
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
            begun = time.perf_counter()
            by_autodiff = jax.jit(lambda *args: jax.value_and_grad(loss)(*args)).lower(*wide).compile()
            jax.jit(lambda *args: gradient(*args)).lower(*wide).compile()
            compiling.append(time.perf_counter() - begun)
            by_autodiff(*wide)
            evaluating.append(_timed(partial(_awaited, by_autodiff, wide)))
        checking.append(_timed(lambda: gradcheck.assert_gradient(loss, gradient, (params, x))))
    ratios = [(check - c) / once for check, c, once in zip(checking, compiling, evaluating, strict=True)]
    ratio = statistics.median(ratios)
    report = gradcheck.check_gradient(loss, wrong, (params, x))
    told = next((leaf.detail for leaf in report.leaves if leaf.verdict == "WRONG"), "nothing")
    at = f"at {list(place)}"
    count = f"{2 * width**2:,} parameters"
    measured = {"value_and_grad": evaluating, "compiling both gradients": compiling, "check": checking}
    rows = [
        [name, f"{statistics.median(times):.3f} s", " ".join(f"{t:.3f}" for t in times)]
        for name, times in measured.items()
    ]
    common.table(count, ["", "median", "all"], rows)
    claim = f"a check costs at most {BOUND:g} value_and_grad, besides compiling"
    verdicts = [
        common.Verdict(claim, f"{ratio:.2f} ×", f"≤ {BOUND:g} ×", ratio <= BOUND),
        common.Verdict(f"one entry of {count} that is 0.1 % off is found", told, at, told == at),
    ]
    common.print_verdicts(verdicts)
    common.write_json(
        folder / FILES[0],
        {"ratios": ratios, "compiling_s": compiling, "evaluating_s": evaluating, "checking_s": checking,
         "verdicts": [v._asdict() for v in verdicts]},
    )  # fmt: skip
    return verdicts


def _awaited(function: Callable[..., Any], args: Any) -> None:
    jax.block_until_ready(function(*args))


def _timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    common.main(define_flags, run)
