"""Splits, early stopping, bias and variance: against counting, a Python loop, and sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fundamentals import training

LABELS = np.repeat([0, 1, 5], [3, 50, 7])


@pytest.mark.parametrize("stratified", [True, False])
def test_a_split_is_a_partition(stratified):
    parts = training.split(LABELS, (0.5, 0.2, 0.3), stratified=stratified, every_class=False, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(60))
    assert all(np.all(np.diff(part) > 0) for part in parts)
    assert [len(part) for part in parts] == [30, 12, 18]
    if stratified:
        found = np.array([[np.sum(LABELS[part] == c) for c in (0, 1, 5)] for part in parts])
        assert np.all(np.abs(found - np.outer([0.5, 0.2, 0.3], [3, 50, 7])) < 1)
    again, other = (
        training.split(LABELS, (0.5, 0.2, 0.3), stratified=stratified, every_class=False, seed=seed) for seed in (1, 2)
    )
    assert all(map(np.array_equal, parts, again))
    assert not np.array_equal(parts[0], other[0])


@pytest.mark.parametrize(
    ("classes", "members", "first"), [(10, 5, 0.5), (50, 14, 0.6), (100, 3, 0.5), (100, 13, 0.9), (26, 4, 0.9)]
)
def test_many_small_classes_do_not_add_up_to_other_proportions(classes, members, first):
    labels = np.repeat(np.arange(classes), members)
    parts = training.split(labels, (first, 1 - first), every_class=False)
    for part, share in zip(parts, (first, 1 - first), strict=True):
        assert abs(len(part) - share * len(labels)) < 1
        assert np.all(np.abs(np.bincount(labels[part], minlength=classes) - share * members) < 1)


def test_classes_are_shuffled_by_themselves():
    first, _ = training.split(np.repeat([0, 1], 50), (0.5, 0.5))
    assert not np.array_equal(first[first < 50], first[first >= 50] - 50)


def test_a_number_of_examples_is_split_without_classes():
    first, second = training.split(np.int64(7), [3 / 7, 4 / 7])
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(7))
    assert len(first) == 3


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(2, 4), st.booleans())
def test_parts_are_right_or_an_error(labels, count, stratified):
    labels = np.array(labels)
    try:
        parts = training.split(labels, [1 / count] * count, stratified=stratified)
    except ValueError as error:
        assert "part" in str(error) and "expected a larger fraction" in str(error)  # noqa: PT017, PT018
        return
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert all(set(labels[part]) == set(labels) for part in parts)


SCORES = [0.9, 0.7, 0.8, 0.65, np.nan, 0.65, 0.64, 0.1]  # one of them again


def by_loop(scores, patience, min_delta=0.0):
    """Best score, its step, updates counted, whether it stopped: as one would write it with a break."""
    best, best_step, waited = np.inf, -1, 0
    for step, score in enumerate(scores):
        if best - score > min_delta:
            best, best_step, waited = score, step, 0
        else:
            waited += 1
            if waited == patience:
                return best, best_step, step + 1, True
    return best, best_step, len(scores), False


@pytest.mark.parametrize(("patience", "min_delta"), [(1, 0.0), (2, 0.0), (2, 0.06), (3, 0.0), (9, 0.0)])
def test_early_stopping_stops_where_a_loop_would_break(patience, min_delta):
    stopping = training.early_stopping(patience, min_delta=min_delta)

    @jax.jit
    def scan(scores):
        def step(state, score_and_step):
            score, step = score_and_step
            return stopping.update(score, {"w": jnp.full(3, step)}, state), state.stopped

        return jax.lax.scan(step, stopping.init({"w": jnp.full(3, -1)}), (scores, jnp.arange(len(SCORES))))

    state, _ = scan(jnp.asarray(SCORES, jnp.float32))
    best, best_step, steps, stopped = by_loop(SCORES, patience, min_delta)
    assert (state.best_step, state.step, state.stopped) == (best_step, steps, stopped)
    assert state.best_score == np.float32(best)
    np.testing.assert_array_equal(state.best_params["w"], best_step)


def test_early_stopping_of_accuracies_and_of_nothing_but_nan():
    stopping = training.early_stopping(2, mode="max")
    state = stopping.init(jnp.zeros(2, jnp.bfloat16))
    for step, accuracy in enumerate([0.5, 0.8, 0.7]):
        state = stopping.update(accuracy, jnp.full(2, step, jnp.bfloat16), state)
    assert (state.best_step, state.waited, state.stopped) == (1, 1, False)
    assert state.best_params.dtype == jnp.bfloat16
    np.testing.assert_array_equal(state.best_params.astype(np.float32), 1)
    state = stopping.init(jnp.zeros(2))
    for _ in range(2):
        state = stopping.update(np.nan, jnp.ones(2), state)
    assert (state.best_step, state.best_score, state.stopped) == (-1, -np.inf, True)
    np.testing.assert_array_equal(state.best_params, 0)


def test_scores_are_compared_in_double_precision_where_there_is_one(x64):
    stopping = training.early_stopping(1)
    state = stopping.update(np.float64(0.5), jnp.zeros(2), stopping.init(jnp.zeros(2)))
    state = stopping.update(np.float64(0.5 - 1e-12), jnp.ones(2), state)
    assert (state.best_step, state.stopped) == (1, False)


def test_the_state_outlives_parameters_that_are_donated():
    stopping = training.early_stopping(2)
    params = jax.device_put(np.zeros(3, np.float32))
    state = stopping.init(params)
    params = jax.jit(lambda x: x + 1, donate_argnums=0)(params)
    state = stopping.update(np.nan, params, state)
    np.testing.assert_array_equal(state.best_params, 0)


def test_bias_and_variance_in_half_precision():
    f = (1000 + np.arange(600).reshape(300, 2) % 7).astype(np.float16)  # whose sum overflows, whose squares do
    y = np.full(2, 1003, np.float16)
    found = training.bias_variance(f, y)
    assert {part.dtype for part in found} == {jnp.dtype(jnp.float16)}
    np.testing.assert_allclose(found.error, np.mean((f.astype(float) - 1003) ** 2, axis=0), rtol=2e-3)


@pytest.mark.usefixtures("x64")
def test_bias_and_variance_by_their_sums():
    random = np.random.RandomState(0)
    f, y = random.normal(size=(5, 3, 2)), random.normal(size=(3, 2))
    found = jax.jit(training.bias_variance)(f, y)
    np.testing.assert_allclose(found.variance, np.var(f, axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(found.bias_squared, (f.mean(0) - y) ** 2 - np.var(f, axis=0, ddof=1) / 5, rtol=1e-9)
    np.testing.assert_allclose(found.error, np.mean((f - y) ** 2, axis=0), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_bias_and_variance_are_unbiased():
    # Predictors y + 0.3 + 2 ε: bias² 0.09 and variance 4, whatever the number of training sets, two even.
    points = 200_000
    f = 0.3 + 2 * np.random.RandomState(1).normal(size=(2, points))
    found = training.bias_variance(f, np.zeros(points))
    for values, expected in ((found.bias_squared, 0.09), (found.variance, 4.0)):
        error = float(np.std(values)) / points**0.5
        assert abs(float(np.mean(values)) - expected) < 4 * error < 0.1


def test_zero_one_bias_and_variance_by_counting():
    random = np.random.RandomState(0)
    labels, targets = random.randint(3, size=(7, 40)).astype(np.uint8), random.randint(3, size=40)
    targets[0] = 300  # which uint8 does not hold
    found = jax.jit(training.bias_variance_zero_one)(labels, targets)
    counts = np.array([np.sum(labels == c, axis=0) for c in range(3)])
    main = np.argmax(counts, axis=0)  # the least of equally many
    np.testing.assert_array_equal(found.main, main)
    np.testing.assert_array_equal(found.bias, main != targets)
    np.testing.assert_allclose(found.variance, np.mean(labels != main, axis=0), rtol=3e-7)
    np.testing.assert_allclose(found.error, np.mean(labels.astype(int) != targets, axis=0), rtol=3e-7)
    narrow = training.bias_variance_zero_one(labels.astype(np.int32) + 300, (targets % 3).astype(np.uint8))
    assert np.all(narrow.bias)  # no label is 300 − 256 = 44, or less
    two = training.bias_variance_zero_one(labels % 2, targets % 2)  # Domingos's theorem for two classes
    bias = np.asarray(two.bias, np.float32)
    np.testing.assert_allclose(two.error, bias + (1 - 2 * bias) * two.variance, atol=1e-6)
    np.testing.assert_allclose(two.net_variance, (1 - 2 * bias) * two.variance, atol=1e-6)


def test_resampled_sets():
    key = jax.random.key(0)
    drawn = np.asarray(training.resample(50, 400, key=key))
    assert drawn.shape == (400, 50)
    distinct = np.mean([len(set(row)) for row in drawn]) / 50
    assert abs(distinct - (1 - (1 - 1 / 50) ** 50)) < 0.01  # the bootstrap's 63 %
    assert (drawn.min(), drawn.max()) == (0, 49)
    assert training.resample(5, 3, key=key, size=2).shape == (3, 2)
    subsets = np.asarray(training.resample(50, 400, key=key, size=7, replace=False))
    assert all(len(set(row)) == 7 for row in subsets)
    assert abs(np.bincount(subsets.ravel(), minlength=50) / 400 - 7 / 50).max() < 0.08
    assert drawn.dtype == subsets.dtype == np.int32


KEY = jax.random.key(0)
STOPPING = training.early_stopping(2)
BAD = {
    "training.split: fractions is [0.5, 0.6]; expected positive numbers of sum 1": lambda: training.split(
        LABELS, [0.5, 0.6]
    ),
    "training.split: fractions is [1.5, -0.5]; expected": lambda: training.split(LABELS, [1.5, -0.5]),
    "training.split: fractions is [0.6, 0.37]; expected": lambda: training.split(LABELS, [0.6, 0.37]),
    "training.split: fractions is None; expected": lambda: training.split(LABELS, None),
    "training.split: fractions is ['a', 'b']; expected": lambda: training.split(LABELS, ["a", "b"]),
    "training.split: seed is 4294967296; expected a number in": lambda: training.split(LABELS, (0.5, 0.5), seed=2**32),
    "training.split: fractions is []; expected positive": lambda: training.split(LABELS, []),
    "training.split: fractions is 0.5; expected positive": lambda: training.split(LABELS, 0.5),
    "training.split: fractions is [0.5, nan]; expected positive": lambda: training.split(LABELS, [0.5, np.nan]),
    "training.split: part 0, 0.5 of 60 examples, has none of class 7, of which there are 1; expected a larger": (
        lambda: training.split(np.array([7] + 59 * [1]), (0.5, 0.5))
    ),
    "training.split: part 0, 0.1 of 3 examples, is empty; expected": lambda: training.split(3, (0.1, 0.9)),
    "training.split: examples has shape [2, 30]; expected labels [N], or N": lambda: training.split(
        LABELS.reshape(2, 30), (0.5, 0.5)
    ),
    "training.split: examples is 0; expected an integer ≥ 1": lambda: training.split(0, (0.5, 0.5)),
    "training.split: part 0, 0.5 of 0 examples, is empty": lambda: training.split(LABELS[:0], (0.5, 0.5)),
    "training.split: seed is -1; expected an integer ≥ 0": lambda: training.split(LABELS, (0.5, 0.5), seed=-1),
    "early_stopping: patience is 0; expected an integer ≥ 1": lambda: training.early_stopping(0),
    "early_stopping: min_delta is -1; expected a number in [0, inf)": lambda: training.early_stopping(1, min_delta=-1),
    "early_stopping: mode is 'maximum'; expected 'min', 'max'": lambda: training.early_stopping(1, mode="maximum"),
    "early_stopping: score has shape [2]; expected a number": lambda: STOPPING.update(
        jnp.ones(2), jnp.ones(3), STOPPING.init(jnp.ones(3))
    ),
    "early_stopping: params has shape [2]; expected [3] as in state.best_params": lambda: STOPPING.update(
        1.0, jnp.ones(2), STOPPING.init(jnp.ones(3))
    ),
    "bias_variance: predictions has shape [1, 4]; expected [R, ...] of R ≥ 2 training sets": lambda: (
        training.bias_variance(jnp.ones((1, 4)), jnp.ones(4))
    ),
    "bias_variance: targets has shape [4, 1]; expected [4] from predictions [2, 4]": lambda: training.bias_variance(
        jnp.ones((2, 4)), jnp.ones((4, 1))
    ),
    "bias_variance_zero_one: labels has shape []; expected [R, ...]": lambda: training.bias_variance_zero_one(
        1, jnp.ones(4, int)
    ),
    "resample: size is 4; expected at most examples = 3": lambda: training.resample(
        3, 2, key=KEY, size=4, replace=False
    ),
    "resample: sets is 0; expected an integer ≥ 1": lambda: training.resample(3, 0, key=KEY),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        BAD[message]()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training.split(LABELS / 2, (0.5, 0.5)), "examples has dtype float64; expected integer labels"),
        (lambda: training.split(LABELS, (0.5, 0.5), stratified=1), "stratified is 1 (int); expected True or False"),
        (lambda: training.early_stopping(2.5), "patience is 2.5 (float); expected an integer ≥ 1"),
        (
            lambda: STOPPING.update(1.0, jnp.ones(3), STOPPING.init(jnp.ones(3, jnp.bfloat16))),
            "early_stopping: params has dtype float32; expected bfloat16 as in state.best_params",
        ),
        (
            lambda: STOPPING.update({"w": 1.0}, 1.0, STOPPING.init({"w": 1.0})),
            "early_stopping: score is {'w': 1.0} (dict)",
        ),
        (lambda: STOPPING.update("1", jnp.ones(3), STOPPING.init(jnp.ones(3))), "early_stopping: score is '1' (str)"),
        (
            lambda: training.bias_variance(jnp.ones((2, 3)), jnp.ones(3, jnp.bfloat16)),
            "targets has dtype bfloat16; expected float32 as in predictions",
        ),
        (
            lambda: training.bias_variance_zero_one(np.ones((2, 3), np.uint32), np.ones(3, np.int32)),
            "targets has dtype int32; expected one that goes with uint32 of labels",
        ),
        (lambda: STOPPING.update(1.0, jnp.ones(3), {}), "state is of type dict; expected EarlyStoppingState"),
        (lambda: training.bias_variance_zero_one(jnp.ones((2, 3)), jnp.ones(3, int)), "labels has dtype float32"),
        (lambda: training.resample(3, 2, key=0), "key is 0 (int); expected a typed PRNG key"),
    ],
)
def test_bad_types(call, message):
    with pytest.raises(TypeError) as raised:
        call()
    assert message in str(raised.value)
