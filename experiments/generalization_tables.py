"""The tables of `generalization`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import common
from experiments import generalization_selection as selection
from experiments import generalization_transfer as transfer
from experiments.generalization_networks import ERROR, LOSS
from experiments.generalization_verdicts import TEST, TRAIN, VALIDATION, gap, mean_error, of_capacity, scores


def print_tables(rows: Mapping[str, Any]) -> None:
    """Of what is finished: means over repeats."""
    _overfitting(rows)
    _transfer(rows)
    _selection(rows)
    _capacity(rows)


def _overfitting(rows: Mapping[str, Any]) -> None:
    lines = []
    for name, row in rows.items():
        if "best_step" not in row:
            continue
        for when, text in (("end", name), ("best", f"{name}, stopped early")):
            if when == "best" and row["strength"]:
                continue  # of those without a regularizer only
            found = scores(row, when)
            mean = found.mean(axis=0)
            apart, error = mean_error(gap(found))
            lines.append(
                [text, *(f"{mean[part, LOSS]:.3f}" for part in (TRAIN, VALIDATION, TEST)),
                 f"{apart:.3f}", f"{error:.3f}", *(f"{mean[part, ERROR]:.3f}" for part in (TRAIN, VALIDATION, TEST))]
            )  # fmt: skip
    if lines:
        head = [
            "regularizer",
            "loss: training",
            "valid.",
            "test",
            "gap",
            "±",
            "error: training",
            "valid.",
            "test",
        ]
        common.table("Overfitting: means over repeats, the gap is test − training loss", head, lines)


def _transfer(rows: Mapping[str, Any]) -> None:
    lines = [
        [name, *("{:.3f} ± {:.3f}".format(*mean_error(row["errors"][way])) for way in transfer.WAYS)]
        for name, row in rows.items()
        if "source_error" in row
    ]
    if lines:
        head = ["labels of each class", *transfer.WAYS]
        common.table("Transfer: test errors on 5–9 after 0–4, ± standard errors", head, lines)


def _selection(rows: Mapping[str, Any]) -> None:
    for row in rows.values():
        if row.get("kind") not in selection.FAMILIES:
            continue
        lines = []
        for index, k in enumerate(row["counts"]):
            scored = [f"{row[name]['mean'][index]:.4f}" for name in ("validation", "test", "skill")]
            optimism = f"{row['optimism']['mean'][index]:.4f} ± {row['optimism']['error'][index]:.4f}"
            bound = math.sqrt(math.log(k) / 2 / row["m"])
            lines.append([k, *scored, optimism, f"{row['predicted'][index]:.4f}", f"{bound:.4f}"])
        head = ["k", "validation", "fresh test", "skill", "optimism", "predicted", "bound"]
        common.table(f"The best of k, {row['kind']}: accuracies, {row['m']} images to choose by", head, lines)


def _capacity(rows: Mapping[str, Any]) -> None:
    for kind in ("degree", "width"):
        lines = []
        for row in of_capacity(rows, kind):
            values = [row["capacity"], *(f"{row[part]:.5f}" for part in ("bias_squared", "variance", "error"))]
            if kind == "degree":
                values += [f"{row['predicted'][part]:.5f}" for part in ("bias_squared", "variance")]
            else:
                values += [f"{row['first_order']:.5f}", f"{row['training_error']:.5f}"]
            lines.append(values)
        if lines:
            more = ["bias², theory", "variance, theory"]
            if kind == "width":
                more = ["σ² p / N, ≤ σ²", "training error"]
            count = len(np.asarray(next(iter(of_capacity(rows, kind)))["without"]["error"]))
            common.table(
                f"{kind.capitalize()}, {count} training sets", [kind, "bias²", "variance", "error", *more], lines
            )
