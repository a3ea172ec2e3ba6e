"""Is a gradient that was derived by hand right, and if not, what is wrong with it?

Without a target, every rule of the catalogue is checked: expected is PASS for all. With one, a gradient of your own:

    python -m experiments.check_gradients --flagfile=configs/check_gradients.flags
    python -m experiments.check_gradients --target=my_file:layer --shapes=5x3,3x7,7

A target is `module:name`, the module being found from the current folder, and the name that of

- a function with a backward pass beside it: `layer`, `layer_fwd(…) -> (y, residuals)`, `layer_bwd(residuals, dy)`;
- a loss with its gradient beside it: `loss` and `loss_gradient` or `loss_grad`, in place of `jax.grad(loss)`;
- a tuple of such functions: (function, fwd, bwd), (loss, gradient);
- or a `jax.custom_vjp`.

Its arguments are random arrays of the `--shapes`, or those that `--arguments` names in the module: a tuple, or a
function that returns one (by default `layer_arguments`).

The exit status is 0 if the gradient passes, 1 if it is wrong, 2 if nothing could be shown, and 3 if it is no gradient
of this function at all (wrong shape, an exception) or the command line is unusable.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, targets
from fundamentals import gradcheck
from fundamentals.catalogue import RULES
from fundamentals.gradcheck import Report, Verdict

FILES = ("results.json",)
STATUS = {Verdict.PASS: 0, Verdict.KINK: 0, Verdict.WRONG: 1, Verdict.INCONCLUSIVE: 2, Verdict.CONTRACT: 3}
USAGE = 3


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_string("target", None, "module:name of a gradient of your own; without, the catalogue.", **options)
    flags.DEFINE_list("shapes", [], "Of a target's arguments, as 5x3,3x7,7; 0d is a number.", **options)
    flags.DEFINE_string("arguments", None, "Name, in the target's module, of its arguments.", **options)
    flags.DEFINE_list("argnums", ["0"], "Which arguments of a loss its gradient is for.", **options)
    flags.DEFINE_list("rules", ["all"], "Names of rules of the catalogue, or all.", **options)
    flags.DEFINE_enum("dtype", "float32", ["float16", "bfloat16", "float32", "float64"], "Of arguments.", **options)
    flags.DEFINE_integer("order", 1, "2 checks the derivative of the gradient too.", 1, 2, **options)
    flags.DEFINE_integer("points", 2, "Other points to look at, near the arguments.", lower_bound=0, **options)
    flags.DEFINE_enum("budget", "fast", ["fast", "full"], "How many directions of finite differences.", **options)
    flags.DEFINE_bool("strict", False, "Kinks fail.", **options)
    flags.DEFINE_integer("threads", 2, "Rules to check at a time.", lower_bound=1, **options)
    flags.DEFINE_integer("seed", 0, "Of arguments and probes.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", None, "Where reports go; by default only those of the catalogue.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    flags.register_validator("rules", _known, flag_values=flag_values)


def _known(names: list[str]) -> bool:
    unknown = [name for name in names if name not in RULES and names != ["all"]]
    if unknown or not names:
        what = f"no rule is called {', '.join(unknown)}" if unknown else "there is no name"
        raise flags.ValidationError(f"{what}; expected all, or some of {', '.join(RULES)}")
    return True


def run(
    *,
    target: str | None,
    shapes: list[str],
    arguments: str | None,
    argnums: list[str],
    rules: list[str],
    dtype: str,
    order: int,
    points: int,
    budget: str,
    strict: bool,
    threads: int,
    seed: int,
    output_dir: str | None,
    overwrite: bool,
) -> int:
    """Check, print and write the reports. Returns the exit status."""
    settings = dict(locals())
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise common.UserError("--dtype=float64 needs --jax_enable_x64")
    options = {
        "order": order,
        "points": points,
        "budget": budget,
        "seed": seed,
        "kinks": "strict" if strict else "classify",
    }
    if target is None and (shapes or arguments):
        raise common.UserError("--shapes and --arguments are those of a --target; there is none")
    if target is not None and rules != ["all"]:
        raise common.UserError("--rules and --target exclude each other")
    check = None if target is None else _of_target(target, shapes, arguments, argnums, dtype, seed, options)
    where = output_dir or (None if target else "results/check_gradients")
    folder = common.output_folder(where, FILES, settings, overwrite=overwrite) if where else None
    if check is not None:
        with common.user_errors():
            report = check()
        reports = {str(target): report}
        common.console.print(str(report), markup=False, soft_wrap=True)
    else:
        reports = _of_catalogue(list(RULES) if rules == ["all"] else rules, dtype, threads, seed, options)
    if folder is not None:
        common.write_json(folder / FILES[0], {"reports": {name: report.to_dict() for name, report in reports.items()}})
    failed = [report.verdict for report in reports.values() if not report.passed]
    return max((STATUS[verdict] or 1 for verdict in failed), key=_severity, default=0)


def _severity(status: int) -> int:
    return [0, 2, 1, 3].index(status)


def _of_catalogue(names: list[str], dtype: str, threads: int, seed: int, options: dict[str, Any]) -> dict[str, Report]:
    """Check rules and print a table, and the whole report of each that does not pass."""

    def one(name: str) -> tuple[Report, float]:
        entry = RULES[name]
        begun = time.perf_counter()
        report = gradcheck.check_rule(entry.rule, entry.arguments(jax.random.key(seed), dtype), **options)
        return report, time.perf_counter() - begun

    found: dict[str, tuple[Report, float]] = {}
    with common.progress() as progress, ThreadPoolExecutor(threads) as pool:
        task = progress.add_task("checking", total=len(names), note="")
        try:
            for name, result in zip(names, pool.map(one, names), strict=True):
                found[name] = result
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = []
    for name, (report, seconds) in found.items():
        errors = [leaf.relative_error for leaf in report.leaves if leaf.relative_error is not None]
        detects = [leaf.detects for leaf in report.leaves if leaf.detects is not None]
        rows.append(
            [
                name,
                str(report.verdict),
                len(report.leaves),
                f"{max(errors, default=0):.0e}",
                f"{max(detects, default=0):.0e}",
                f"{seconds:.1f} s",
            ]
        )
    common.table(
        "Gradients against autodiff and finite differences",
        ["rule", "verdict", "leaves", "largest error", "detects ≥", "time"],
        rows,
        folds="rule",
    )
    for report, _ in found.values():
        if report.verdict is not Verdict.PASS:
            common.console.print(str(report), markup=False, soft_wrap=True)
    passed = sum(report.passed for report, _ in found.values())
    common.print_verdicts(
        [
            common.Verdict(
                "every hand-derived backward pass is right", f"{passed} of {len(found)}", "all", passed == len(found)
            )
        ]
    )
    return {name: report for name, (report, _) in found.items()}


def _of_target(
    target: str,
    shapes: list[str],
    arguments: str | None,
    argnums: list[str],
    dtype: str,
    seed: int,
    options: dict[str, Any],
) -> Callable[[], Report]:
    """The check that a target asks for."""
    module, name, found = targets.find("target", target)
    args = _arguments(module, name, shapes, arguments, dtype, seed)
    numbers: Any = [int(number) for number in argnums if number.lstrip("-").isdecimal()]
    if len(numbers) != len(argnums):
        raise common.UserError(f"--argnums={','.join(argnums)}; expected integers")
    numbers = numbers[0] if len(numbers) == 1 else tuple(numbers)
    if isinstance(found, tuple | list):
        if len(found) == 3:
            return lambda: gradcheck.check_vjp(found[0], found[1], found[2], args, **options)
        if len(found) == 2:
            return lambda: gradcheck.check_gradient(found[0], found[1], args, argnums=numbers, **options)
        raise common.UserError(
            f"--target={target} is a tuple of {len(found)}; expected (function, fwd, bwd) or (loss, gradient)"
        )
    if not callable(found):
        raise common.UserError(
            f"--target={target} is a {type(found).__name__}; expected a function or a tuple of functions"
        )
    fwd, bwd = getattr(module, f"{name}_fwd", None), getattr(module, f"{name}_bwd", None)
    gradient = getattr(module, f"{name}_gradient", None) or getattr(module, f"{name}_grad", None)
    if fwd is not None and bwd is not None:
        return lambda: gradcheck.check_vjp(found, fwd, bwd, args, **options)
    if gradient is not None:
        return lambda: gradcheck.check_gradient(found, gradient, args, argnums=numbers, **options)
    if isinstance(found, jax.custom_vjp | jax.custom_jvp):
        return lambda: gradcheck.check_custom_vjp(found, args, **options)
    raise common.UserError(
        f"--target={target}: {module.__name__} has neither {name}_fwd and {name}_bwd nor {name}_gradient, and {name} "
        "is no custom_vjp"
    )


def _arguments(
    module: Any, name: str, shapes: list[str], arguments: str | None, dtype: str, seed: int
) -> tuple[Any, ...]:
    """A target's arguments, from its module or of the shapes asked for."""
    if shapes and arguments:
        raise common.UserError("--shapes and --arguments exclude each other")
    if shapes:
        random = np.random.RandomState(seed)
        sizes = []
        for shape in shapes:
            parts = [] if shape == "0d" else shape.split("x")
            if not all(part.isascii() and part.isdecimal() for part in parts):
                raise common.UserError(f"--shapes={','.join(shapes)}: {shape!r}; expected sizes, as 5x3, or 0d")
            sizes.append(tuple(map(int, parts)))
        return tuple(jnp.asarray(random.standard_normal(size), dtype) for size in sizes)
    return targets.arguments(module, arguments or f"{name}_arguments", "shapes")


if __name__ == "__main__":
    common.main(define_flags, run, usage_status=USAGE)
