"""Generalization: a small run against NumPy, theory by other ways, rows that make verdicts fail, resuming, flags."""

import itertools
import json
import math

import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, generalization
from experiments import generalization_capacity as capacity
from experiments import generalization_networks as networks
from experiments import generalization_overfitting as overfitting
from experiments import generalization_selection as selection
from experiments import generalization_transfer as transfer
from experiments import generalization_verdicts as verdicts

SMALL = {
    "few": 4, "hidden": 8, "steps": 40, "repeats": 3, "decays": "1", "rates": "0.5", "bottlenecks": "2",
    "labels": "1,6", "candidates": 5, "validated": 20, "draws": 100, "degrees": 3, "widths": "1,3", "starts": 2,
    "points": 9, "sets": 5, "curve_steps": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        found = generalization.run(**parse(generalization, **SMALL, output_dir=folder))
    return folder, found, json.loads((folder / "results.json").read_text())


def test_a_run(finished):
    folder, found, results = finished
    rows = results["rows"]
    assert results["complete"]
    assert results["verdicts"] == [verdict._asdict() for verdict in found]
    assert len(rows) == 4 + 4 + 4 + 3 + 4 + 2
    assert [v.notes for v in found] == [
        *["G1, claim 19"] * 3, *["G2, claim 20"] * 4, "G2", "G2, claim 20", "G2", "G2", "G2",
        *["G1, claim 19"] * 3, "G1", "G1, claim 19", *["G1, claim 20"] * 4, "G1", *["G1, claim 20"] * 2, "G1", "G1",
    ]  # fmt: skip
    theory = [v for v in found if "best of 4 that guess" in v.claim or "the furthest off" in v.claim]
    assert [v.holds for v in theory] == [True] * 3  # the others want more repeats
    assert all((folder / name).exists() for name in generalization.FILES)


def trained(layers, x, labels, batches, *, decay=0.0, trains=True):
    """AdamW on a relu network, by NumPy."""
    flat = [np.array(a, float) for layer in layers for a in layer]
    m, v = ([np.zeros_like(a) for a in flat] for _ in range(2))
    for t, batch in enumerate(batches, 1):
        hidden = [x[batch].astype(float)]
        for w, b in pairs(flat):
            hidden.append(np.maximum(hidden[-1] @ w + b, 0))
        z = hidden[-2] @ flat[-2] + flat[-1]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        d = (p / p.sum(axis=1, keepdims=True) - np.eye(z.shape[1])[labels[batch]]) / len(batch)
        for i in range(len(flat) - 2, -1, -2):
            below = hidden[i // 2]
            gradients = below.T @ d, d.sum(axis=0)
            d = (d @ flat[i].T) * (below > 0)
            for j, g in zip((i, i + 1), gradients, strict=True):
                m[j], v[j] = 0.9 * m[j] + 0.1 * g, 0.999 * v[j] + 0.001 * g**2
                step = m[j] / (1 - 0.9**t) / (np.sqrt(v[j] / (1 - 0.999**t)) + 1e-8)
                if trains or i == len(flat) - 2:
                    flat[j] = flat[j] - networks.LEARNING_RATE * (step + (decay * flat[j] if g.ndim > 1 else 0))
    return flat


def pairs(flat):
    return zip(flat[::2], flat[1::2], strict=True)


def scored(flat, x, labels):
    for w, b in pairs(flat[:-2]):
        x = np.maximum(x @ w + b, 0)
    z = x @ flat[-2] + flat[-1]
    top = z.max(axis=1)
    chosen = z[np.arange(len(z)), labels]
    return [np.mean(np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - chosen), np.mean(z.argmax(axis=1) != labels)]


@pytest.mark.parametrize(("name", "width", "decay"), [("bottleneck 2", 2, 0.0), ("weight decay 1", 8, 1.0)])
def test_training_and_a_padded_network_by_numpy(finished, name, width, decay):
    digits = networks.digits()
    few = overfitting.draw(digits, few=4, wrong=0.2, steps=40, repeats=3, seed=0)
    sizes = 64, 8, width, 10
    layers = networks.network(np.random.default_rng(few.seeds[1]), sizes, sizes)
    flat = trained(layers, digits.images, few.labels[1], few.batches[1], decay=decay)
    row = finished[2]["rows"][name]
    for part, indices in enumerate((few.train[1], few.validation[1], digits.test)):
        expected = scored(flat, digits.images[indices], few.labels[1][indices])
        np.testing.assert_allclose(row["end"][1][part], expected, rtol=1e-3, atol=6e-3)
    curve = np.asarray(row["curves"])
    np.testing.assert_allclose(np.mean(row["end"], axis=0), curve[-1], rtol=1e-6)
    assert set(row["best_step"]) <= {20, 40}


def test_early_stopping_watches_validation_and_dropout_is_of_training_only(finished):
    """The more it learns, the worse on validation, of which all labels are wrong; the better on the other parts."""
    digits = networks.digits()
    few = overfitting.draw(digits, few=4, wrong=0.0, steps=40, repeats=3, seed=0)
    labels = few.labels.copy()
    for lane, validation in zip(labels, few.validation, strict=True):
        lane[validation] = (lane[validation] + 1) % 10
    sizes = 64, 8, 8, 10
    params = networks.stacked([networks.network(np.random.default_rng(seed), sizes, sizes) for seed in few.seeds])
    parts = few.train, few.validation, np.broadcast_to(digits.test, (3, len(digits.test)))

    def train(rate, dropout):  # the shapes of the small run: compiled
        lanes = networks.lanes(params, labels, few.batches, parts, rate=rate)
        return networks.train(digits.images, lanes, every=networks.EVERY, dropout=dropout, stops=True)

    found = train(0.0, False)
    loss = np.asarray(found.scores)[:, :, :, networks.LOSS]
    np.testing.assert_array_equal(loss[:, 0] < loss[:, 1], [[False, True, False]] * 3)
    assert np.asarray(found.best_step).tolist() == [20] * 3
    np.testing.assert_allclose(found.best_scores, found.scores[:, 0], rtol=1e-5)
    without, dropped = train(0.0, True), train(0.5, True)
    np.testing.assert_allclose(without.scores, found.scores, rtol=1e-4)
    assert np.abs(np.asarray(dropped.scores - found.scores)[:, -1, 0, networks.LOSS]).min() > 0.01
    flat = [np.asarray(a, float)[1] for layer in dropped.params for a in layer]
    expected = [scored(flat, digits.images[part[1]], labels[1][part[1]]) for part in parts]
    np.testing.assert_allclose(dropped.scores[1, -1], expected, rtol=1e-4)
    rows = finished[2]["rows"]
    apart = np.subtract(rows["dropout 0.5"]["end"], rows["none"]["end"])
    assert np.abs(apart[:, 0, networks.LOSS]).min() > 0.01


def test_few_images_with_wrong_labels():
    digits = networks.digits()
    few = overfitting.draw(digits, few=4, wrong=0.2, steps=1, repeats=2, seed=3)
    for train, validation, labels in zip(few.train, few.validation, few.labels, strict=True):
        assert not set(train) & set(validation)
        assert not (set(train) | set(validation)) & set(digits.test)
        assert np.bincount(digits.labels[train]).tolist() == [4] * 10
        wrong = labels != digits.labels
        assert all(
            abs(wrong[part].mean() - 0.2) < 4 * math.sqrt(0.16 / len(part)) for part in (digits.pool, digits.test)
        )
        assert set(labels) == set(range(10))
    assert not np.array_equal(few.train[0], few.train[1])


def test_frozen_layers_by_numpy(finished):
    digits = networks.digits()
    random = networks.generator(0, "transfer")
    images = transfer.lit(digits.images, 1.5, random)
    light = (images - digits.images).astype(float)
    singular = np.linalg.svd(light, compute_uv=False)
    assert np.sum(singular > 1e-3 * singular[0]) == 8
    assert np.sqrt(np.mean(light**2) * 64 / 8) == pytest.approx(1.5, rel=0.02)
    again = networks.generator(0, "transfer", 1 + 2)
    layers = networks.network(again, transfer.sizes(8), transfer.sizes(8))
    few = [again.permutation(digits.pool[digits.labels[digits.pool] == label])[:6] for label in range(5, 10)]
    batches = again.choice(np.concatenate(few), (40, networks.BATCH))
    labels, test = digits.labels % 5, transfer.tests(digits)[1]
    assert set(digits.labels[test]) == set(range(5, 10))
    errors = finished[2]["rows"]["uneven light, 6 labels"]["errors"]
    for way, trains in ((transfer.RANDOM, False), (transfer.SCRATCH, True)):
        flat = trained(layers, images, labels, batches, trains=trains)
        assert errors[way][2] == pytest.approx(scored(flat, images[test], labels[test])[1], abs=0.012)
    assert errors[transfer.FROZEN] != errors[transfer.RANDOM]


class Untrained:
    """In place of `networks.train`: keeps what each call was to learn from."""

    def __init__(self):
        self.calls = []

    def __call__(self, images, lanes, *, every, **options):
        self.calls.append(lanes)
        looks = np.zeros((len(lanes.batches), 1, len(lanes.parts), 2), np.float32)
        return networks.Trained(lanes.params, looks, looks[:, 0], looks[:, 0, 0, 0], looks[:, 0, 0, 0])


def test_transfer_learns_from_other_digits_and_never_from_test_images(monkeypatch):
    monkeypatch.setattr(networks, "train", untrained := Untrained())
    digits = networks.digits()
    source = transfer.learn_source(digits, 0.0, steps=20, repeats=2, hidden=4, seed=0)
    transfer.measure(digits, source, 2, steps=5, repeats=2, seed=0)
    first, *ways = untrained.calls
    assert set(digits.labels[first.batches].ravel()) == set(range(5))
    assert len(ways) == len(transfer.WAYS)
    for way, lanes in zip(transfer.WAYS, ways, strict=True):
        assert min(digits.labels[lanes.batches].ravel()) == 5
        assert all(len(set(batches.ravel())) <= 10 for batches in lanes.batches)  # two of each
        assert lanes.trains.tolist() == [float(way in (transfer.TUNED, transfer.SCRATCH))] * 2
        known = way in (transfer.FROZEN, transfer.TUNED)
        np.testing.assert_array_equal(lanes.params[0].w, (first if known else ways[-1]).params[0].w)
        np.testing.assert_array_equal(lanes.params[-1].w, ways[-1].params[-1].w)
    for lanes in untrained.calls:
        assert set(lanes.batches.ravel()) <= set(digits.pool)
        assert set(np.concatenate(lanes.parts, axis=1).ravel()) <= set(digits.test)


@pytest.mark.parametrize("kind", [selection.SEEDS, selection.SETTINGS])
def test_candidates_answer_for_images_that_none_learned_from(monkeypatch, kind):
    """Images are their own numbers."""
    labels = np.repeat(np.arange(10, dtype=np.int32), selection.FEW + 3)
    images = np.tile(np.arange(len(labels), dtype=np.float32)[:, None], 64)
    asked = []
    monkeypatch.setattr(networks, "train", untrained := Untrained())
    monkeypatch.setattr(selection, "_answers", lambda params, x: asked.append(x[:, 0]) or np.zeros((3, len(x))))
    digits = networks.Digits(images, labels, np.arange(100), np.arange(100, 130))
    right = selection.train_candidates(digits, kind, candidates=3, steps=20, hidden=4, seed=0)
    (lanes,), (others,) = untrained.calls, asked
    learned = set(lanes.batches.ravel()) | set(lanes.parts[0].ravel())
    assert np.bincount(labels[sorted(learned)]).tolist() == [selection.FEW] * 10
    assert sorted([*learned, *others]) == list(range(130))
    np.testing.assert_array_equal(right, [labels[others.astype(int)] == 0] * 3)


def test_validation_and_test_sets_are_drawn_apart():
    right = np.random.default_rng(0).random((3, 1697)) < 0.8
    validation, test = selection.draw_scores(right, m=selection.TEST, draws=100, seed=0)
    assert abs(validation.mean() - test.mean()) < 0.02
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.5 for a, b in zip(validation.T, test.T, strict=True))


def test_the_best_of_many_by_other_ways():
    assert selection.expected_maximum(1) == pytest.approx((0, 1), abs=1e-6)
    assert selection.expected_maximum(2) == pytest.approx((1 / math.sqrt(math.pi), 1), abs=1e-6)
    assert selection.expected_maximum(3).largest == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)
    chances = {0: 0.81, 1: 0.18, 2: 0.01}
    best = sum(chances[a] * chances[b] * chances[c] * max(a, b, c) for a in chances for b in chances for c in chances)
    assert selection.best_guess(3, 2) == pytest.approx(best / 2)
    right = np.random.default_rng(0).random((3, 40)) < [[0.5], [0.7], [0.9]]
    luck = selection.luck(right, 10)
    own = [np.var(a.astype(float) - b) / 2 for a, b in itertools.combinations(right, 2)]
    assert luck["s"] == pytest.approx(math.sqrt(np.mean(own) / 10))
    assert luck["tau"] == pytest.approx(np.std(right.mean(axis=1), ddof=1))


def test_choosing():
    validation = np.tile([0.1, 0.4, 0.3], (50, 1))
    test = np.tile([0.3, 0.2, 0.1], (50, 1))
    found = selection.choose(validation, test, np.array([0.3, 0.3, 0.1]), [1, 3], np.random.default_rng(0))
    assert found["validation"]["mean"][1] == pytest.approx(0.4)
    assert found["optimism"]["mean"][1] == pytest.approx(0.2)
    assert found["unbiased"]["mean"][1] == pytest.approx(-0.1)
    assert found["optimism"]["error"][1] == pytest.approx(0, abs=1e-12)
    assert -0.2 < found["optimism"]["mean"][0] < 0.2  # any of them


def test_polynomials_and_jackknife_by_numpy():
    row = capacity.measure_polynomial(2, count=9, noise=0.3, sets=5, seed=0)
    x, truth, y = capacity.points(9), capacity.curve(capacity.points(9)), capacity.targets(9, 0.3, 5, 0)
    fits = np.array([np.polyval(np.polyfit(x, one, 2), x) for one in y])

    def parts(f):
        variance = f.var(axis=0, ddof=1)
        return np.mean((f.mean(axis=0) - truth) ** 2 - variance / len(f)), np.mean(variance), np.mean((f - truth) ** 2)

    assert [row[name] for name in ("bias_squared", "variance", "error")] == pytest.approx(parts(fits))
    without = [parts(np.delete(fits, index, axis=0))[1] for index in range(5)]
    assert row["without"]["variance"] == pytest.approx(without)
    expected = np.mean((truth - np.polyval(np.polyfit(x, truth, 2), x)) ** 2)
    assert row["predicted"] == pytest.approx({"bias_squared": expected, "variance": 0.09 * 3 / 9})
    rare = math.log(1e4)
    variance, bias = (0.01 * (2 * math.sqrt(degrees * rare) + 2 * rare) for degrees in (3 * 4, 3))
    assert row["allowed"] == pytest.approx({"bias_squared": bias / 5 + variance / 4 / 5, "variance": variance / 4})
    values = np.random.default_rng(0).normal(size=7)
    means = [np.delete(values, index).mean() for index in range(7)]
    assert verdicts.jackknife(means) == pytest.approx(values.std(ddof=1) / math.sqrt(7))


def test_networks_on_the_curve_by_numpy(finished):
    x, y = capacity.points(9)[:, None], capacity.targets(9, 0.3, 5, 0)
    start = capacity.start(1, 10, 0)  # two for each training set
    looks = 1, 2, 4, 8, 16, 32, 64, 128
    repeated = np.repeat(y, 2, axis=0)
    found = np.asarray(capacity.fit(start, x.astype(np.float32), repeated.astype(np.float32), looks=looks))
    last = found[:, -1].astype(float)
    best = [min((2 * r, 2 * r + 1), key=lambda i: np.sum((last[i] - repeated[i]) ** 2)) for r in range(5)]
    assert finished[2]["rows"]["width 1"]["variance"] == pytest.approx(np.var(last[best], axis=0, ddof=1).mean())
    flat = [np.asarray(a, float)[5] for layer in start for a in layer]
    m, s = ([np.zeros_like(a) for a in flat] for _ in range(2))
    for t in range(1, 9):
        h = np.tanh(x @ flat[0] + flat[1])
        d = (h @ flat[2] + flat[3] - y[2][:, None]) / 9
        dh = (d @ flat[2].T) * (1 - h**2)
        for j, g in enumerate((x.T @ dh, dh.sum(axis=0), h.T @ d, d.sum(axis=0))):
            m[j], s[j] = 0.9 * m[j] + 0.1 * g, 0.999 * s[j] + 0.001 * g**2
            flat[j] = flat[j] - 0.01 * m[j] / (1 - 0.9**t) / (np.sqrt(s[j] / (1 - 0.999**t)) + 1e-8)
    expected = np.tanh(x @ flat[0] + flat[1]) @ flat[2] + flat[3]
    np.testing.assert_allclose(found[5, 3], expected[:, 0], atol=1e-4)


# Rows that are as the claims have them.

SIGNS = np.array([1, -1, 1, -1])
COUNTS = [1, 2, 4]


def run_scores(train, test):
    """[R, parts, 2], ± 1 % of chance."""
    each = np.array([[train, train], [test, test], [test, test]])
    return (each * (1 + 0.01 * SIGNS[:, None, None])).tolist()


def overfit(kind, strength, train, test, best=0.3):
    return {"kind": kind, "strength": strength, "end": run_scores(train, test), "best": run_scores(0.2, best)}


def transferred(count, frozen, scratch, random=0.8):
    errors = dict(zip(transfer.WAYS, (frozen, scratch, random, scratch), strict=True))
    return {"labels": count, "errors": {way: (value + 0.01 * SIGNS * value).tolist() for way, value in errors.items()}}


def selected(kind, optimism, predicted, unbiased=0.0):
    found = {"optimism": optimism, "unbiased": [unbiased] * 3}
    row = {name: {"mean": [*values], "error": [0.001] * 3} for name, values in found.items()}
    grows = {"mean": optimism[2] - optimism[1], "error": 0.001}
    lucky = {"s": 0.03, "tau": 0.0, "skewness": -0.1}
    return row | {"kind": kind, "m": 100, "counts": COUNTS, "predicted": predicted, "grows": grows, "luck": lucky}


def decomposed(place, bias, variance, **more):
    values = {"bias_squared": bias, "variance": variance, "error": bias + variance}
    noise = {"bias_squared": 1.0, "variance": 2.0, "error": 3.0}  # not the same in all, or differences have none
    without = {name: (value + 1e-4 * noise[name] * (1 + place) * SIGNS).tolist() for name, value in values.items()}
    return values | {"capacity": place, "without": without} | more


def degree(place, bias, variance):
    allowed = {"bias_squared": 0.01, "variance": 0.01}
    return decomposed(place, bias, variance, predicted={"bias_squared": bias, "variance": variance}, allowed=allowed)


def good():
    way = [decomposed(0, 0.1, 0.01), decomposed(1, 0.0, 0.06)]
    return {
        "none": overfit("none", 0.0, 0.01, 0.9),
        "weight decay 1": overfit("weight decay", 1.0, 0.1, 0.5),
        "weight decay 3": overfit("weight decay", 3.0, 0.1, 1.2),  # not chosen
        "dropout 0.5": overfit("dropout", 0.5, 0.1, 0.5),
        "bottleneck 2": overfit("bottleneck", 2.0, 0.1, 0.5),
        "none, right labels": overfit("none", 0.0, 0.01, 0.1),
        "bottleneck 2, right labels": overfit("bottleneck", 2.0, 0.01, 0.1),
        "uneven light, 1 labels": transferred(1, 0.5, 0.7),
        "uneven light, 50 labels": transferred(50, 0.2, 0.1),
        "even light, 1 labels": transferred(1, 0.5, 0.3),
        "even light, 50 labels": transferred(50, 0.2, 0.1),
        "selection, guesses": selected("guesses", [0.0, 0.02, 0.04], [0.0, 0.02, 0.04]),
        "selection, other seeds": selected("other seeds", [0.0, 0.02, 0.04], [0.0, 0.02, 0.04]),
        "selection, other settings": selected("other settings", [0.0, 0.02, 0.04], [0.0, 0.01, 0.02]),
        "degree 0": degree(0, 0.5, 0.003),
        "degree 1": degree(1, 0.0, 0.006),
        "degree 2": degree(2, 0.0, 0.009),
        "width 1": decomposed(0, 0.1, 0.03),
        "width 2": decomposed(1, 0.0, 0.06) | {"steps": [1, 2], "on_the_way": way},
    }


def test_the_test_part_has_no_say_in_what_is_chosen():
    ends = {"weight decay 1": (0.5, 0.9), "weight decay 3": (0.6, 0.4), "weight decay 1, right labels": (0.1, 0.1)}
    rows = {
        name: {"kind": "weight decay", "end": [[[0.1, 0.1], [validation] * 2, [test] * 2]] * 2}
        for name, (validation, test) in ends.items()
    }
    assert verdicts.chosen(rows, "weight decay") == "weight decay 1"
    assert verdicts.chosen(rows, "dropout") is None


# What `judge_luck` allows, the largest of 4 normal numbers having mean 1.0294 and variance 0.4917 (Teichroew 1956).
LUCKY = 2 * 0.04 / 1.0294 * 0.1 * (0.4917 + 1.0294**2 - 1) / 6 + 3 * 0.001
SLIGHT = 0.1 / (1 + 0.01 * 3 / math.sqrt(3))  # a fall of 0.09 times this, ± 1 % in each repeat, is with errors a tenth
NOISY = {"kind": "bottleneck", "end": [run_scores(0.01, 0.1 + 0.02 * sign)[0] for sign in SIGNS]}
CLEAN = "bottleneck 2, right labels"
UNEVEN, MANY, EVEN = "uneven light, 1 labels", "uneven light, 50 labels", "even light, 1 labels"
GUESSES, SEEDS, SETTINGS = (f"selection, {kind}" for kind in selection.FAMILIES)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, set()),
        ({"none": overfit("none", 0.0, 0.9, 0.9, best=0.9)}, {0, 1, 2, 3, 4, 5, 6}),  # nothing is overfitted
        ({"none": overfit("none", 0.0, 0.01, 0.9, best=0.95)}, {1, 2}),  # going back does not help
        ({"none": overfit("none", 0.0, 0.01, 0.9, best=1.2)}, {1, 2, 3}),
        ({"weight decay 1": overfit("weight decay", 1.0, 0.01, 0.9)}, {4}),
        ({"dropout 0.5": overfit("dropout", 0.5, 0.01, 1.0)}, {5}),
        ({"bottleneck 2": overfit("bottleneck", 2.0, 0.01, 1.0)}, {6}),
        ({"dropout 0.5": overfit("dropout", 0.5, 0.9, 0.9)}, {5}),  # no gap, but no better
        ({"dropout 0.5": overfit("dropout", 0.5, 0.0, 0.895)}, {5}),  # better, but for a wider gap
        ({CLEAN: overfit("bottleneck", 2.0, 0.01, 0.05)}, {7}),
        ({CLEAN: overfit("bottleneck", 2.0, 0.01, 0.1 - 0.09 * 0.9 * SLIGHT)}, set()),
        ({CLEAN: overfit("bottleneck", 2.0, 0.01, 0.1 - 0.09 * 1.1 * SLIGHT)}, {7}),
        ({CLEAN: NOISY}, {7}),  # no fall, but who knows
        ({UNEVEN: transferred(1, 0.7, 0.7)}, {8}),
        ({UNEVEN: transferred(1, 0.5, 0.7, random=0.5)}, {9}),
        ({MANY: transferred(50, 0.1, 0.2)}, {10}),
        ({EVEN: transferred(1, 0.3, 0.5)}, {11}),
        ({GUESSES: selected("guesses", [0.0, 0.02, 0.045], [0.0, 0.02, 0.04])}, {12}),
        ({SEEDS: selected("other seeds", [0.0, 0.04, 0.04], [0.0, 0.04, 0.04])}, {13}),  # no more of more
        ({SEEDS: selected("other seeds", [0.0, 0.02, 0.06], [0.0, 0.02, 0.04])}, {15}),
        ({SEEDS: selected("other seeds", [0.0, 0.02, 0.04 + 0.9 * LUCKY], [0.0, 0.02, 0.04])}, set()),
        ({SEEDS: selected("other seeds", [0.0, 0.02, 0.04 + 1.1 * LUCKY], [0.0, 0.02, 0.04])}, {15}),
        ({SEEDS: selected("other seeds", [0.0, 0.02, 0.04 - 1.1 * LUCKY], [0.0, 0.02, 0.04])}, {15}),
        ({SETTINGS: selected("other settings", [0.0, 0.1, 0.2], [0.0, 0.02, 0.04])}, {14}),  # more than luck can be
        ({SETTINGS: selected("other settings", [0.01, 0.1, 0.11], [0.0] * 3)}, {14}),  # at 1 and 2, too
        ({SETTINGS: selected("other settings", [0.0, 0.02, 0.04], [0.0] * 3, unbiased=0.005)}, {16}),
        ({"degree 1": degree(1, 0.0, 0.006) | {"bias_squared": 0.009, "variance": 0.015}}, set()),
        ({"degree 1": degree(1, 0.0, 0.006) | {"bias_squared": 0.011}}, {17}),
        ({"degree 1": degree(1, 0.0, 0.006) | {"variance": 0.017}}, {18}),
        ({"degree 0": degree(0, 0.0, 0.02)}, {19, 20}),
        ({"degree 2": degree(2, 0.0, 0.002)}, {20, 21}),
        ({"width 1": decomposed(0, 0.0, 0.03)}, {22}),
        ({"width 1": decomposed(0, 0.1, 0.06)}, {23}),
        ({"width 2": good()["width 2"] | {"on_the_way": good()["width 2"]["on_the_way"][::-1]}}, {24, 25}),
    ],
)
def test_what_is_wrong_is_noticed(changes, fails):
    found = verdicts.judge(good() | changes)
    assert {index for index, verdict in enumerate(found) if not verdict.holds} == fails
    assert len(found) == 26


def test_chance_is_not_a_finding():
    assert verdicts.beyond_chance(*verdicts.mean_error([1.0, 1.1, 0.9]))
    assert not verdicts.beyond_chance(*verdicts.mean_error([1.0, -1.0, 0.9]))
    assert not verdicts.beyond_chance(math.nan, math.nan)


def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch, undrawn, finished):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generalization.run(**parse(generalization, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["rows"]), len(results["verdicts"])) == (8, 8)
    with pytest.raises(common.UserError, match="--resume to continue"):
        generalization.run(**parse(generalization, **SMALL, output_dir=tmp_path))
    generalization.run(**parse(generalization, **SMALL, output_dir=tmp_path, resume=True))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    assert results["rows"] == finished[2]["rows"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"steps": 50}, "--steps=50; expected a multiple of 20"),
        ({"bottlenecks": "2,8"}, "expected less than --hidden=8"),
        ({"degrees": 9}, "--degrees=9; expected less than --points=9"), ({"light": "inf"}, "expected a finite number"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path, flag, message):
    with pytest.raises(common.UserError, match=message):
        generalization.run(**parse(generalization, **SMALL | flag, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("few", 0), ("few", 71), ("wrong", 1), ("decays", "1,0.1"), ("decays", "inf"), ("rates", "1"), ("labels", "0,1"),
     ("labels", "1.5"), ("widths", ""), ("candidates", 3), ("noise", 0), ("repeats", 2), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(generalization, **{name: value})
