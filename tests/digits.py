"""Small runs of `train_digits`, for the tests of what it trains and of its checkpoints."""

import json

from scripts import parse

from experiments import train_digits

SMALL = {"epochs": "2", "hidden_sizes": "5,3", "batch_size": "300"}
PLAIN = {"initializer": "constant(0.1)"}  # where all the same it starts: drawing takes longer to compile than all else


def train(folder, **given):
    return train_digits.run(**parse(train_digits, **(SMALL | PLAIN | given), output_dir=folder))


def history(folder):
    return json.loads((folder / "results.json").read_text())["history"]
