"""Leaf helpers of the experiments: flags, output folders, tables, verdicts, figures. No loop, no registry."""

import contextlib
import json
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=120)  # in a file or a pipe, tables need not fit a window
FLAGFILE = "effective.flags"


class UserError(Exception):
    """Something that the person at the command line can mend: shown as one line, without a traceback."""


class Verdict(NamedTuple):
    """A claim, what was measured, what was predicted, and whether it holds."""

    claim: str
    measured: str
    predicted: str
    holds: bool
    notes: str = ""  # the row of the course notes that makes the claim


def main(
    define_flags: Callable[[flags.FlagValues], None],
    run: Callable[..., Sequence[Verdict] | int],
    *,
    usage_status: int | None = None,
) -> None:
    """Parse the command line, call `run` with every flag by name, exit with 1 if a verdict fails, 2 if a flag is wrong.

    A flag that `run` does not take, or the reverse, is a TypeError at the first start. A `run` whose exit status says
    more returns it; `usage_status` is then that of a command line which can't be used.
    """
    own = flags.FlagValues()
    define_flags(own)
    define_flags(flags.FLAGS)
    jax.config.config_with_absl()
    logging.getLogger("jax").setLevel(logging.WARNING)  # absl would show which accelerators JAX did not find

    def start(argv: Sequence[str]) -> int:
        if len(argv) > 1:
            console.print(f"error: unexpected argument {argv[1]!r}; expected --flags only", markup=False)
            return usage_status or 2
        try:
            verdicts = run(**{name: flags.FLAGS[name].value for name in own})
        except UserError as error:
            Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
            return usage_status or 2
        except KeyboardInterrupt:
            return 130
        return verdicts if isinstance(verdicts, int) else int(not all(verdict.holds for verdict in verdicts))

    def parse(argv: list[str]) -> Any:
        try:
            return app.parse_flags_with_usage(argv)
        except SystemExit:  # absl's status is 1 for both, which here is that of a claim that fails
            asked = any(argument.lstrip("-").startswith("help") for argument in argv[1:])
            raise SystemExit(0 if asked else usage_status or 2) from None

    app.run(lambda argv: sys.exit(start(argv)), flags_parser=parse)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Around the checks before anything is computed: what they reject is the user's to mend."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise UserError(str(error)) from error


def output_folder(
    path: str, files: Sequence[str], settings: dict[str, Any], *, overwrite: bool, resumable: bool = False
) -> Path:
    """A folder to write `files` to, without those of an earlier run, with the effective flags in it.

    Raises:
      UserError: it holds an earlier run and `overwrite` is not set, or it can't be written.
    """
    if not path:
        raise UserError("--output_dir is empty; expected a folder")
    folder = Path(path)
    earlier = [name for name in (*files, FLAGFILE) if (folder / name).exists()]
    if earlier and not overwrite:
        raise UserError(
            f"{folder} holds an earlier run ({', '.join(earlier)}); expected an empty --output_dir, "
            + ("--resume to continue it, " if resumable else "")
            + "or --overwrite to replace it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in earlier:
            (folder / name).unlink()
        write_flags(folder, settings)
    except OSError as error:
        raise UserError(f"--output_dir={folder} can't be written: {error}") from error
    return folder


def write_flags(folder: Path, settings: dict[str, Any]) -> None:
    """The effective flags as a flagfile, so that `--flagfile` repeats the run."""
    write_atomically(folder / FLAGFILE, _flagfile(settings).encode())


def _flagfile(settings: dict[str, Any]) -> str:
    """The flags that repeat a run; neither --overwrite nor --resume, which say what to do with an earlier one."""
    lines = ["--jax_enable_x64=true\n"] if jax.config.read("jax_enable_x64") else []
    for name, value in sorted(settings.items()):
        if value is not None and name not in ("overwrite", "resume"):
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            lines.append(f"--{name}={text}\n")
    return "".join(lines)


def write_atomically(path: Path, content: bytes) -> None:
    """The file is either the old one or the whole new one, also if the machine stops in between."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable JSON, with what it was measured on."""
    device = jax.devices()[0]
    setting = {
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "x64": jax.config.read("jax_enable_x64"),
    }
    text = json.dumps(_finite({"environment": setting} | content), indent=1, default=str, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], folds: str | None = None) -> None:
    """Print a table; text left, numbers right. Where the window is narrow, the column `folds` gives way, or all do."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        left = all(isinstance(row[index], str) and not row[index][:1].isdigit() for row in rows)
        result.add_column(
            column,
            justify="left" if left else "right",
            no_wrap=column != folds if folds else index == 0,
            overflow="fold",
        )
    for row in rows:
        result.add_row(*map(str, row))
    console.print(result)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """The verdicts as a table."""
    columns = ["claim", "notes", "measured", "predicted", ""]
    rows = [[v.claim, v.notes, v.measured, v.predicted, "HOLDS" if v.holds else "FAILS"] for v in verdicts]
    if not any(v.notes for v in verdicts):
        columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
    table("Verdicts", columns, rows, folds="claim")


def progress() -> Progress:
    """A progress bar for the terminal; nothing where the output is not one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make a polite request to terminate (SIGTERM) the same as Ctrl-C, so that both leave what is finished."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG for reading on a screen."""
    figure.savefig(path, dpi=150, facecolor="white")
