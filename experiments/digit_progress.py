"""What a run of `train_digits` has finished, and its checkpoint."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import checkpoints
from fundamentals import data

# The settings that may differ between a run and the one that continues it.
MAY_CHANGE = ("epochs", "data_dir", "output_dir", "overwrite", "resume", "checkpoint_every", "target_accuracy")


class Network(NamedTuple):
    """What one step changes."""

    params: Any
    optimizer_state: Any


class Progress(NamedTuple):
    """What is finished, after whole epochs: all that a checkpoint holds."""

    epoch: int
    networks: dict[str, Network]  # by who computes the gradients: "hand", "autodiff", or both
    history: list[dict[str, float]]  # one record an epoch
    differences: np.ndarray  # [steps, parameters], relative; empty unless in lockstep


def diverged(done: Progress) -> bool:
    """The loss after the last epoch is no number."""
    return bool(done.history) and not np.isfinite(done.history[-1]["train_loss"])


def identity(settings: dict[str, Any], dataset: data.Dataset, dtype: Any) -> dict[str, Any]:
    """What two runs must share for one to continue the other."""
    digest = hashlib.sha256()
    for split in dataset:
        digest.update(split.inputs.tobytes() + split.labels.tobytes())
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return {"experiment": "train_digits"} | kept | {"dtype": jnp.dtype(dtype).name, "data": digest.hexdigest()}


def save(path: Path, done: Progress, identity: dict[str, Any]) -> None:
    """Write a checkpoint."""
    meta = {"identity": identity, "epoch": done.epoch, "history": done.history}
    checkpoints.save(path, {"networks": done.networks, "differences": done.differences}, meta)


def load(path: Path, fresh: Progress, identity: dict[str, Any]) -> Progress:
    """The progress that a checkpoint holds, of the structure of a fresh one.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, not a checkpoint, or one of another run.
    """
    tree, meta = checkpoints.load(path, {"networks": fresh.networks, "differences": fresh.differences}, identity)
    networks = jax.tree.map(jnp.asarray, tree["networks"])
    return Progress(meta["epoch"], networks, meta["history"], tree["differences"])
