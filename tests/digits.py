"""Small runs of `train_digits`, for the tests of what it trains and of its checkpoints."""

import contextlib
import json
from unittest import mock

import numpy as np
from scripts import parse

from experiments import train_digits
from fundamentals import data

SMALL = {"epochs": "2", "hidden_sizes": "5,3", "batch_size": "45"}
# Where training starts: all the same, or drawn by NumPy. An initializer takes longer to compile than all else.
PLAIN, DRAWN = {"initializer": "constant(0.1)"}, {"initializer": "drawn"}


def train(folder, **given):
    with few_digits():
        return train_digits.run(**parse(train_digits, **(SMALL | PLAIN | given), output_dir=folder))


@contextlib.contextmanager
def few_digits():
    """What `train_digits` is given in these tests."""
    load = train_digits.data.load  # or what a test has put there
    with (
        mock.patch.object(train_digits.data, "load", lambda *source: in_equal_parts(load(*source))),
        mock.patch.dict(train_digits.INITIALIZERS, drawn=lambda: drawn(np.random.RandomState(0))),
    ):
        yield


def in_equal_parts(dataset):
    """As many of each part as of the smallest, 180: what evaluates one evaluates all, and is compiled once."""
    count = min(len(split.labels) for split in dataset)
    return data.Dataset(*(data.Split(*(array[:count] for array in split)) for split in dataset))


def drawn(random):
    return lambda key, shape, dtype: (random.normal(size=shape) / np.prod(shape[:-1]) ** 0.5).astype(dtype)


def history(folder):
    return json.loads((folder / "results.json").read_text())["history"]
