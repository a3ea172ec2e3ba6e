"""Checkpoints of experiments: a pytree of arrays and a JSON header in one NPZ file, without pickle."""

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from fundamentals.data import UNREADABLE

_META = "meta.json"


def save(path: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write the arrays of a pytree, each under its path in the tree, and the header, by atomic rename."""
    arrays = {
        jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    buffer = io.BytesIO()
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, **arrays)
    common.write_atomically(path, buffer.getvalue())


def load(path: Path, like: Any, identity: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Read what `save` wrote, checked before any of it is used. The file is only ever read.

    Args:
      path: the checkpoint.
      like: a pytree of the same structure, shapes and dtypes; an array whose first axis is empty may have any length.
      identity: what `meta["identity"]` must be. Beside it the header holds "epoch", a number, and "history", a list.

    Returns:
      The pytree, its leaves NumPy arrays, and the header.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, not a checkpoint, or one of another run.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected the checkpoint of the run to resume")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged or not a checkpoint: {error}") from error
    meta = _header(path, arrays.pop(_META, None))
    for name, value in identity.items():
        if name not in meta["identity"] or meta["identity"][name] != value:
            found = meta["identity"].get(name, "nothing")
            raise ValueError(f"{path} is a checkpoint of another run: {name} is {found!r} there; expected {value!r}")
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in leaves}
    if expected.keys() != arrays.keys():
        raise ValueError(f"{path} holds {sorted(arrays)}; expected {sorted(expected)}")
    for name, leaf in expected.items():
        open_ended = leaf.ndim > 0 and leaf.shape[0] == 0
        same_shape = arrays[name].shape[open_ended:] == leaf.shape[open_ended:] and arrays[name].ndim == leaf.ndim
        if not same_shape or arrays[name].dtype != leaf.dtype:
            raise ValueError(
                f"{path}: {name} is {arrays[name].dtype} {list(arrays[name].shape)}; "
                f"expected {leaf.dtype} {list(leaf.shape)}"
            )
    return jax.tree_util.tree_unflatten(structure, [arrays[name] for name in expected]), meta


def _header(path: Path, raw: np.ndarray | None) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads(np.asarray(raw, np.uint8).tobytes())
        complete = (type(meta["identity"]), type(meta["epoch"]), type(meta["history"])) == (dict, int, list)
    except (TypeError, ValueError, KeyError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is not a checkpoint: it has no header")
    return meta
