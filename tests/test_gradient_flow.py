"""Gradient flow: a small run, Jacobians written out, closed forms, results that make verdicts fail, flags."""

import json
import math

import jax
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, gradient_flow, gradient_flow_networks, gradient_flow_recurrent, gradient_flow_verdicts
from experiments import gradient_flow_theory as theory
from experiments.gradient_flow_networks import INITIALIZATIONS, initialization
from experiments.gradient_flow_recurrent import DRIVEN, QUIET, SHEARED
from experiments.gradient_flow_theory import AFTER, BEFORE, BLOCKS, MAXOUT, PLAIN, RESIDUAL
from experiments.gradient_flow_verdicts import Cell, Measured
from fundamentals import initializers

SMALL = {"depths": "2,5", "width": 8, "networks": 3, "with_norms": 2, "radii": "0.9,1.2", "units": 8, "lags": 10}
NAMES = "small", "Xavier", "orthogonal"
PLAN = [(PLAIN, "sigmoid"), (PLAIN, MAXOUT), *((block, "sigmoid") for block in BLOCKS[1:])]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_flow, "PLAN", PLAN)
        patch.setattr(gradient_flow, "INITIALIZATIONS", NAMES)
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        verdicts = gradient_flow.run(**parse(gradient_flow, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_what_cannot_fail_does_not(finished):
    folder, verdicts, results = finished
    assert len(verdicts) == 19 - 2  # ReLU is left out
    bounds = [
        v for v in verdicts if any(word in v.claim for word in ("over 4^−L", "Π", "any scale", "‖w_h‖₂ᵏ", "step"))
    ]
    assert len(bounds) == 6
    assert [v.claim for v in bounds if not v.holds] == []
    assert results["complete"]
    assert len(results["rows"]) == 3 * (len(PLAN) + 1) + 4
    assert all((folder / name).exists() for name in gradient_flow.FILES)


def test_earlier_results_are_not_overwritten_unless_told(finished):
    with pytest.raises(common.UserError, match="holds an earlier run"):
        gradient_flow.run(**parse(gradient_flow, **SMALL, output_dir=finished[0]))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def normalized(z):
    """Layer normalization, and its Jacobian."""
    n, centred = len(z), z - z.mean()
    r = 1 / np.sqrt(np.mean(centred**2) + theory.EPS)
    y = r * centred
    return y, r * (np.eye(n) - 1 / n - np.outer(y, y) / n)


def ratios(block, activation, w, x, dy):
    """log₁₀ of both, from the Jacobian of every layer written out."""
    jacobians, inputs = [], []
    for pieces in w:
        inputs.append(np.linalg.norm(x))
        if activation == MAXOUT:
            z = x @ pieces
            won = np.argmax(z, axis=0)
            y, slope = z[won, np.arange(len(x))], np.eye(len(x))
            matrix = np.stack([pieces[p][:, h] for h, p in enumerate(won)], axis=1)
        else:
            matrix = pieces[0]
            z, before = normalized(x @ matrix) if block == BEFORE else (x @ matrix, np.eye(len(x)))
            y = sigmoid(z) if activation == "sigmoid" else np.maximum(z, 0)
            slope = np.diag(y * (1 - y) if activation == "sigmoid" else (z > 0).astype(float)) @ before
            if block == AFTER:
                y, after = normalized(y)
                slope = after @ slope
        jacobians.append((slope, slope @ matrix.T + (np.eye(len(x)) if block == RESIDUAL else 0)))
        x = x + y if block == RESIDUAL else y
    weights = []
    for size, (slope, jacobian) in zip(inputs[::-1], jacobians[::-1], strict=True):
        weights.append(np.linalg.norm(dy @ slope) * size)
        dy = dy @ jacobian
    return math.log10(np.linalg.norm(dy)), math.log10(weights[-1] / weights[0])


@pytest.mark.parametrize("kind", PLAN, ids=str)
def test_ratios_by_jacobians(finished, kind):
    name = "Xavier"
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x, dy = (np.asarray(v) for v in gradient_flow_networks.draw_ends(keys[1], 3, 8))
        initializer, _ = initialization(name, 0.01, 0.3, 8)
        w = np.asarray(gradient_flow_networks.draw_weights(initializer, keys[0], networks=3, depth=5, width=8))
    np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 8**0.5)
    row = finished[2]["rows"][gradient_flow._key(name, *kind)]
    for network, depth in ((0, 2), (1, 5), (2, 5)):
        expected = ratios(*kind, w[:depth, network], x[network, 0], dy[network, 0])
        found = [row[ratio][network][int(depth == 5)] for ratio in ("signal", "weights")]
        np.testing.assert_allclose(found, expected, atol=1e-9)
    norms = np.linalg.norm(w[:, :2, 0], 2, axis=(2, 3))
    expected = np.log10([np.prod(norms[:2], axis=0), np.prod(norms, axis=0)]).T
    np.testing.assert_allclose(finished[2]["rows"][f"{name}/norms"], expected, atol=1e-9)


def test_moments_by_closed_forms_and_by_gauss_hermite():
    q = 1.7
    np.testing.assert_allclose(theory.moments("relu", q), [(q / 2 / np.pi) ** 0.5, q / 2, 6, 0.5, 0.5], 1e-4)
    maxout = theory.moments(MAXOUT, q)
    np.testing.assert_allclose(maxout, [(q / np.pi) ** 0.5, q, 3, 1, 1], 1e-4)
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    y = sigmoid(q**0.5 * z)
    expected = [weights @ v for v in (y, y**2, y**4, (y * (1 - y)) ** 2, (y * (1 - y)) ** 4)]
    expected[2] /= expected[1] ** 2
    np.testing.assert_allclose(theory.moments("sigmoid", q), expected, 1e-9)
    for name, (f, slope) in theory.ACTIVATIONS.items():
        points = np.array([-3.0, -0.2, 0.3, 2.0])
        np.testing.assert_allclose((f(points + 1e-6) - f(points - 1e-6)) / 2e-6, slope(points), 1e-6, err_msg=name)


def test_predictions_by_closed_forms():
    k = np.arange(1, 7)
    for activation, gain in (("relu", 0.5), (MAXOUT, 1)):
        flow = theory.flow(activation, PLAIN, 2.0, 6, 64)
        np.testing.assert_allclose(flow.signal, k * math.log10(2 * gain) / 2, atol=1e-4)
        np.testing.assert_allclose(flow.weights, 0, atol=1e-4)
    relu = theory.flow("relu", PLAIN, 2.0, 6, 64)  # V = 5 and U = 5, Hanin & Nica 2018
    np.testing.assert_allclose(relu.allowance, k * 10 / (2 * 64) / math.log(100), 1e-3)
    np.testing.assert_allclose(relu.spread, np.sqrt(k * 5 / 64) / math.log(100), 1e-3)
    np.testing.assert_allclose(relu.shift, -k * 5 / 128 / math.log(100), 1e-3)
    m = theory.moments("sigmoid", 1.0)
    before = theory.flow("sigmoid", BEFORE, 0.5, 6, 64)
    np.testing.assert_allclose(np.diff(before.signal), math.log10(m.slope_second / m.second) / 2, 1e-3)
    for variance in (0.01, 1.0, 9.0):  # the Gaussian Poincaré inequality, but for ε
        assert np.diff(theory.flow("sigmoid", AFTER, variance, 6, 64).signal).min() > -0.005
    after = theory.moments("tanh", 2.0)
    expected = math.log10(2 * after.slope_second / (after.second - after.mean**2)) / 2
    np.testing.assert_allclose(np.diff(theory.flow("tanh", AFTER, 2.0, 6, 64).signal), expected, 1e-3)
    np.testing.assert_allclose(theory.flow("tanh", RESIDUAL, 1e-6, 6, 64).signal, 0, atol=1e-5)
    # σ(0) = ½ is added by each layer of tiny weights: its mean and that of x together.
    expected = -np.log10(1 + (k - 1) ** 2 / 4) / 2
    np.testing.assert_allclose(theory.flow("sigmoid", RESIDUAL, 1e-12, 6, 64).weights, expected, atol=1e-5)
    powers = [np.linalg.matrix_power(gradient_flow_recurrent.shear(4, 0.9, 0.7), n) for n in k]
    expected = [np.linalg.norm(power) / 2 for power in powers]  # ‖·‖_F / √n
    np.testing.assert_allclose(gradient_flow_recurrent.sheared_growth(0.9, 0.7, k), expected)


def test_gradients_through_time_by_hand(finished):
    # Near zero a gradient is multiplied by w_hᵀ: with ρ · orthogonal, ρᵏ; all of the step's gradient is clipped.
    rows = finished[2]["rows"]
    lags = np.array(rows[QUIET]["lags"])
    assert lags.shape == (2, 3, 10)
    np.testing.assert_allclose(
        lags, np.log10([0.9, 1.2])[:, None, None] * np.ones((3, 1)) * np.arange(1, 11), atol=1e-7
    )
    # Driven, by the states that were kept: no more than the largest slope, no less than the smallest.
    driven, states = np.array(rows[DRIVEN]["lags"]), np.array(rows[DRIVEN]["states"])
    steps = np.diff(driven, axis=-1) - np.log10([0.9, 1.2])[:, None, None]
    assert (steps < 0).all()
    assert (steps >= np.log10(1 - states[..., 1:] ** 2)).all()
    clipping = {name: np.array(values) for name, values in rows["clipping"].items()}
    np.testing.assert_allclose(clipping["free"], 0.1 * clipping["gradients"], 1e-12)
    np.testing.assert_allclose(clipping["clipped"], 0.1 * np.minimum(clipping["gradients"], 5), 1e-12)


def test_driven_states_and_gradients_by_transcription(finished):
    with jax.enable_x64(True):
        matrix_key, input_key, _, end_key = jax.random.split(jax.random.split(jax.random.key(0), 3)[2], 4)
        base = np.asarray(initializers.orthogonal()(jax.random.split(matrix_key, 3)[1], (8, 8), np.float64))
        x = 0.3 * np.asarray(jax.random.normal(input_key, (3, 1, 60, 8), np.float64))[1, 0]
        dh = np.asarray(jax.random.normal(end_key, (3, 8), np.float64))[1]
    h, states = np.zeros(8), []
    for step in x:
        h = np.tanh(step + h @ (1.2 * base))
        states.append(h)
    dh, found = dh / np.linalg.norm(dh), []
    for h in states[:-11:-1]:
        dh = (dh * (1 - h**2)) @ (1.2 * base).T
        found.append(np.log10(np.linalg.norm(dh)))
    row = finished[2]["rows"][DRIVEN]
    np.testing.assert_allclose(row["states"][1][1], np.abs(states[:-11:-1]).max(axis=1), 1e-9)
    np.testing.assert_allclose(row["lags"][1][1], found, atol=1e-9)


def noise(shape):
    """Of mean 0 over networks, the first axis; small."""
    values = np.random.RandomState(0).normal(size=shape)
    return 1e-3 * (values - values.mean(axis=0))


@pytest.fixture(scope="module")
def ideal():
    """As predicted, but for noise."""
    depths, cells, networks, width = np.array([8, 24]), [], 8, 64
    for block, activation in [*PLAN, (PLAIN, "relu"), (PLAIN, "tanh")]:
        for name in INITIALIZATIONS:
            flow = theory.flow(activation, block, initialization(name, 0.01, 0.3, width)[1], 24, width)
            flow = theory.Flow(*(values[depths - 1] for values in flow))
            weights = np.round(flow.weights, 9)
            signal, weights = (v + noise((networks, 2)) for v in (flow.signal, weights))
            cells.append(Cell(activation, block, name, depths, signal, weights, flow))
    radii, k = np.array([0.5, 1.1]), np.arange(1, 61)
    quiet = np.log10(radii)[:, None, None] * np.ones((networks, 1)) * k
    driven = [theory.recurrent(radius, 0.3, 60, width).signal + noise((networks, 60)) for radius in radii]
    sheared = np.log10(gradient_flow_recurrent.sheared_growth(0.9, 1.0, k)) + noise((networks, 60))
    states = np.full(quiet.shape, 1e-6)
    norm = np.linalg.norm(gradient_flow_recurrent.shear(4, 0.9, 1.0), 2)
    through_time = {
        QUIET: {"lags": quiet, "states": states, "norms": radii},
        DRIVEN: {"lags": np.array(driven), "states": states, "norms": radii},
        SHEARED: {"lags": sheared[None], "states": states[:1], "norms": np.array([norm])},
    }
    sizes = np.array([[1.0, 2.0], [30.0, 1e9]])
    clipping = {"gradients": sizes, "free": 0.1 * sizes, "clipped": 0.1 * np.minimum(sizes, 5), "turned": 0 * sizes}
    settings = {"noise": 0.3, "units": width, "shear": 1.0, "clip": 5.0, "learning_rate": 0.1}
    norms = {name: np.full((2, 2), np.log10([6.0**8, 6.0**24])) for name in INITIALIZATIONS}
    return Measured(cells, norms, through_time, clipping, settings)


def changed(measured, where, ratio, change):
    """Another result of one kind of network."""
    cells = [
        cell._replace(**{ratio: change(getattr(cell, ratio))})
        if (cell.activation, cell.block, cell.initialization) == where
        else cell
        for cell in measured.cells
    ]
    return measured._replace(cells=cells)


def with_time(measured, kind, **arrays):
    return measured._replace(through_time={**measured.through_time, kind: measured.through_time[kind] | arrays})


def first(values, amount):
    """One network off at its deepest."""
    result = values.copy()
    result[0, ..., -1] += amount
    return result


def shifted(amount):
    return lambda values: values + amount


def lags(measured, kind):
    return measured.through_time[kind]["lags"]


def saturated(measured):
    """States whose slopes would explain any loss."""
    return np.ones(lags(measured, QUIET).shape)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda m: m, set()),
        (lambda m: changed(m, ("tanh", PLAIN, "Xavier"), "signal", shifted(0.3)), {0}),
        (lambda m: changed(m, ("tanh", PLAIN, "Xavier"), "signal", shifted(np.nan)), {0}),
        (lambda m: changed(m, ("tanh", PLAIN, "Xavier"), "weights", shifted(-0.3)), {1}),
        (lambda m: changed(m, ("sigmoid", PLAIN, "orthogonal"), "signal", lambda v: first(v, 3)), {2}),
        (lambda m: changed(m, ("sigmoid", PLAIN, "small"), "signal", lambda v: first(v, 48)), {3}),
        (lambda m: m._replace(norms={name: 0 * norm for name, norm in m.norms.items()}), {3}),
        (lambda m: changed(m, ("relu", PLAIN, "He"), "signal", lambda v: first(v, 3)), {4}),
        (lambda m: changed(m, ("sigmoid", PLAIN, "Xavier"), "signal", lambda v: first(v, 3)), {5}),
        (lambda m: changed(m, ("relu", PLAIN, "small"), "weights", lambda v: first(v, 1e-6)), {6}),
        (lambda m: changed(m, ("sigmoid", RESIDUAL, "Xavier"), "signal", shifted(0.3)), {7, 9}),
        (lambda m: changed(m, ("sigmoid", PLAIN, "large"), "signal", lambda v: 0 * v), {0, 9, 10}),
        (lambda m: changed(m, ("sigmoid", AFTER, "Xavier"), "weights", shifted(-1)), {8}),
        (lambda m: changed(m, ("sigmoid", RESIDUAL, "small"), "signal", shifted(-3)), {7, 9}),
        (lambda m: changed(m, ("sigmoid", RESIDUAL, "small"), "signal", shifted(200)), {7, 9}),
        (lambda m: changed(m, ("sigmoid", AFTER, "small"), "signal", shifted(-3)), {7, 10}),
        (lambda m: changed(m, ("sigmoid", BEFORE, "small"), "signal", lambda v: 0 * v), {7, 11}),
        (lambda m: with_time(m, SHEARED, norms=np.array([0.9])), {12}),
        (lambda m: with_time(m, QUIET, lags=lags(m, QUIET) - 1e-6), {13}),
        (lambda m: with_time(m, QUIET, lags=0 * lags(m, QUIET) - 20, states=saturated(m)), {13}),
        (lambda m: with_time(m, QUIET, lags=lags(m, QUIET) - 2e-5, states=saturated(m)), {13}),
        (lambda m: with_time(m, QUIET, lags=np.nan * lags(m, QUIET)), {12, 13}),
        (lambda m: with_time(m, DRIVEN, lags=lags(m, DRIVEN) - 3), {14}),
        (lambda m: with_time(m, DRIVEN, lags=lags(m, DRIVEN) + 4), {12, 14, 15}),
        (lambda m: with_time(m, SHEARED, lags=lags(m, SHEARED) - 0.01), {16}),
        (lambda m: with_time(m, SHEARED, lags=np.abs(lags(m, SHEARED))), {16}),
        (lambda m: m._replace(clipping=m.clipping | {"clipped": m.clipping["free"]}), {17, 18}),
        (lambda m: m._replace(clipping=m.clipping | {"turned": first(m.clipping["turned"], 1e-3)}), {18}),
        (lambda m: m._replace(settings=m.settings | {"clip": 1e10}), {17, 18}),
    ],
)
def test_what_is_wrong_is_noticed(ideal, change, fails):
    verdicts = gradient_flow_verdicts.judge(change(ideal))
    assert {i for i, verdict in enumerate(verdicts) if not verdict.holds} == fails


@pytest.mark.parametrize(("share", "fails"), [(0.9, set()), (-0.9, set()), (1.1, {4}), (-1.1, {4})])
def test_a_network_near_the_limit(ideal, share, fails):
    mean, stddev = -5 * 24 / 128 / math.log(100), math.sqrt(5 * 24 / 64) / math.log(100)

    def near(values):
        result = np.full(values.shape, mean)
        result[0] += share * 4 * stddev
        return result

    verdicts = gradient_flow_verdicts.judge(changed(ideal, ("relu", PLAIN, "He"), "signal", near))
    assert {i for i in (4, 5) if not verdicts[i].holds} == fails


@pytest.mark.parametrize("share", [0.9, -0.9, 1.1, -1.1])
@pytest.mark.parametrize(
    ("where", "fails"),
    [
        (("tanh", PLAIN, "Xavier"), {0}),
        (("sigmoid", RESIDUAL, "small"), {7, 9}),
        (("sigmoid", AFTER, "small"), {7, 10}),
    ],
)
def test_means_near_the_limit(ideal, where, fails, share):
    (cell,) = [cell for cell in ideal.cells if (cell.activation, cell.block, cell.initialization) == where]
    error = cell.signal[:, -1].std(ddof=1) / math.sqrt(8)
    amount = share * (5 * error + cell.predicted.allowance[-1])
    verdicts = gradient_flow_verdicts.judge(changed(ideal, where, "signal", shifted(amount)))
    found = {i for i in (0, 7, 9, 10) if not verdicts[i].holds}
    assert found == (fails if abs(share) > 1 else set())


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, undrawn, finished):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient_flow, "PLAN", PLAN)
    monkeypatch.setattr(gradient_flow, "INITIALIZATIONS", NAMES)
    given = SMALL | {"output_dir": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(gradient_flow_recurrent, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            gradient_flow.run(**parse(gradient_flow, **given))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert len(results["rows"]) == 3 * (len(PLAN) + 1)
    monkeypatch.setattr(gradient_flow_networks, "draw_weights", interrupt)  # nothing is measured twice
    gradient_flow.run(**parse(gradient_flow, **given, resume=True))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    assert results["rows"] == finished[2]["rows"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"noise": "inf"}, "--noise=inf; expected a finite number > 0"), ({"clip": 0}, "expected a finite number > 0"),
        ({"depths": "5"}, "--depths=5; expected at least two"), ({"units": 7}, "expected an even number"),
        ({"small": 1e-100}, "leaves float64"), ({"radii": "1e-3"}, "expected at most 10"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path, flag, message):
    with pytest.raises(common.UserError, match=message):
        gradient_flow.run(**parse(gradient_flow, **SMALL | flag, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depths", "4,2"),
        ("depths", ""),
        ("radii", "1,0.5"),
        ("radii", "x"),
        ("radii", ""),
        ("networks", 2),
        ("width", 2),
        ("seed", -1),
    ],
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(gradient_flow, **{name: value})
