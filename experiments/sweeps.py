"""Sweeps that keep every row they have finished: a line of `rows.jsonl` each, and `--resume` goes on with the next.

folder, rows = sweeps.start(output_dir, FILES, settings, overwrite=overwrite, resume=resume)
for key in keys:
    if key not in rows:
        rows[key] = sweeps.keep(folder, key, measure(key))

A row whose writing was cut short is measured again.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import common

ROWS = "rows.jsonl"
MAY_CHANGE = ("output_dir", "overwrite", "resume")


def define_flags(flag_values: flags.FlagValues, name: str) -> None:
    """--output_dir, --overwrite and --resume of the script `name`."""
    flags.DEFINE_string("output_dir", f"results/{name}", "Where results and figures go.", flag_values=flag_values)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", flag_values=flag_values)
    flags.DEFINE_bool("resume", False, "Go on with the run in --output_dir.", flag_values=flag_values)


def start(
    output_dir: str, files: Sequence[str], settings: dict[str, Any], *, overwrite: bool, resume: bool
) -> tuple[Path, dict[str, Any]]:
    """The folder of a sweep, and the rows that an earlier run of the same settings has finished there.

    Args:
      output_dir: the folder.
      files: what the script writes there beside its rows.
      settings: all flags by name; those that are not in `MAY_CHANGE` identify the run.
      overwrite: drop an earlier run.
      resume: go on with it.

    Returns:
      The folder and {key: row}, empty unless resumed.

    Raises:
      UserError: there is an earlier run and neither is set, or none to resume, or one of other settings.
    """
    # Numbers of either precision are not to be mixed, either.
    identity = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    identity["jax_enable_x64"] = bool(jax.config.read("jax_enable_x64"))
    identity = {name: json.dumps(value, default=str) for name, value in identity.items()}  # NaN equals itself, as text
    if resume and overwrite:
        raise common.UserError("--resume goes on with the earlier run and --overwrite drops it; expected one of them")
    if not resume:
        folder = common.output_folder(output_dir, (*files, ROWS), settings, overwrite=overwrite, resumable=True)
        _append(folder, identity)
        return folder, {}
    if not output_dir:
        raise common.UserError("--output_dir is empty; expected a folder")
    folder = Path(output_dir)
    earlier, *rows = _read(folder / ROWS)
    for name in identity | earlier:
        found, expected = (flags.get(name, "not a flag") for flags in (earlier, identity))
        if found != expected:
            raise common.UserError(
                f"--resume: {folder} is of another run: --{name} is {found} there; expected {expected}"
            )
    return folder, {row["key"]: row["row"] for row in rows}


def keep(folder: Path, key: str, row: Any) -> Any:
    """Add a finished row, of what JSON can hold, to the file; the row as a resumed run would read it."""
    return _append(folder, {"key": key, "row": row})["row"]


def report_unfinished(finished: int, rows: int) -> None:
    """Below all tables, where nobody can miss it: that they are not whole, and what makes them so."""
    if finished < rows:
        common.console.print(f"interrupted: {finished} of {rows} rows are finished; --resume goes on")


def _append(folder: Path, content: dict[str, Any]) -> Any:
    line = json.dumps(content)
    with (folder / ROWS).open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    return json.loads(line)


def _read(path: Path) -> list[dict[str, Any]]:
    """All whole lines. The last may have been cut by what ended the run: it is dropped from the file, too."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise common.UserError(
            f"--resume: {path} is unreadable ({error}); expected the rows of an earlier run"
        ) from error
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines or not all(isinstance(line, dict) for line in lines):
            raise ValueError("it has no header")
        if any(line.keys() != {"key", "row"} for line in lines[1:]):
            raise ValueError("a line is no row")
    except ValueError as error:
        raise common.UserError(f"--resume: {path} is damaged ({error}); expected the rows of an earlier run") from error
    if whole != text:
        common.write_atomically(path, whole.encode())
    return lines
