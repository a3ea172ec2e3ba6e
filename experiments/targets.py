"""Functions of the user's own that a flag names, `module:name`, and their arguments."""

import ast
import importlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import common


def find(flag: str, target: str) -> tuple[Any, str, Any]:
    """The module, the name and what has it there, of `--flag=module:name`, from the current folder on.

    Raises:
      UserError: there is no such module, or nothing of this name in it.
    """
    path, _, name = target.partition(":")
    if not path or not name:
        raise common.UserError(f"--{flag}={target}; expected module:name, as my_file:layer")
    try:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    except Exception as error:
        raise common.UserError(f"--{flag}={target}: importing {path} raised {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise common.UserError(f"--{flag}={target}: {path} has no {name!r}; it has {', '.join(_public(module))}")
    return module, name, getattr(module, name)


def arguments(module: Any, wanted: str, instead: str) -> tuple[Any, ...]:
    """The tuple of this name in a module, or what the function of this name returns. `instead`: the flag to give.

    Raises:
      UserError: there is none, or it is no tuple.
    """
    if not hasattr(module, wanted):
        raise common.UserError(
            f"there are no arguments: give their --{instead}, or define {wanted} in {module.__name__}, a tuple or a "
            "function that returns one"
        )
    found = getattr(module, wanted)
    try:
        found = found() if callable(found) else found
    except Exception as error:
        raise common.UserError(f"{wanted}() raised {type(error).__name__}: {error}") from error
    if not isinstance(found, tuple | list):
        raise common.UserError(f"{wanted} is a {type(found).__name__}; expected a tuple of arguments, (x,) for one")
    return tuple(found)


def values(text: str, seed: int) -> tuple[Any, ...]:
    """Arguments that are written out: numbers, arrays as `[[1, 2], [3, 4]]`, random ones as `normal(5, 3)`.

    Raises:
      UserError: something else is written.
    """
    random = np.random.RandomState(seed)
    found = []
    for part in _parts(text):
        drawn = re.fullmatch(r"normal\(([\d\s,]*)\)", part)
        try:
            value = random.standard_normal([int(n) for n in drawn[1].split(",") if n.strip()]) if drawn else None
            found.append(jnp.asarray(np.asarray(ast.literal_eval(part) if value is None else value, float)))
        except (ValueError, SyntaxError, TypeError) as error:
            raise common.UserError(
                f"--inputs: {part!r}; expected numbers, arrays as [1, 2.5], or normal(5, 3) for random ones"
            ) from error
    return tuple(found)


def _parts(text: str) -> list[str]:
    """What stands between commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts] if text.strip() else []


def _public(module: Any) -> list[str]:
    own = [name for name in vars(module) if not name.startswith("_")]
    return [n for n in own if callable(getattr(module, n)) or isinstance(getattr(module, n), tuple)][:12] or ["nothing"]
