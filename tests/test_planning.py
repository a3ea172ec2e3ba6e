"""Plans: a budget that the compiled program keeps, what stages cost, plans as data."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import relative_error

from fundamentals.memory.checkpointing import Plan, chain, costs, pareto, plan, planning, schedules

ROWS, WIDTH, LENGTH = 256, 16, 6
STATE = 4 * ROWS * WIDTH


def layer(p, x):
    return jax.nn.gelu(x @ p)


def narrow(p, x):
    return jnp.tanh(x @ p)[:, ::2]


STAGES = [layer, layer, narrow, layer, layer, layer]
PARAMS = [jax.ShapeDtypeStruct((w, w), jnp.float32) for w in (16, 16, 16, 8, 8, 8)]
X = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)


def temp(schedule, argnums, outer):
    """Of the compiled value and gradient of a scalar function that the planner does not know."""
    apply = chain(STAGES, schedule)
    function = jax.value_and_grad(lambda params, x, labels: outer(apply(params, x), labels), argnums)
    labels = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    return jax.jit(function).lower(PARAMS, X, labels).compile().memory_analysis().temp_size_in_bytes


OUTER = {
    "squares": lambda y, labels: jnp.mean(y**2),
    "cross-entropy": lambda y, labels: -jnp.mean(jnp.sum(jax.nn.log_softmax(y) * jax.nn.one_hot(labels, 8), -1)),
}


def test_a_budget_is_kept_and_more_is_never_slower():
    frontier = pareto(STAGES, PARAMS, X)
    assert len(frontier) >= 4
    assert frontier[0].schedule == schedules.store_all(LENGTH)
    least, most = frontier[-1].peak_bytes, frontier[0].peak_bytes
    assert least < most / 2
    earlier = None
    for budget in np.linspace(least, most, 4).astype(int):
        found = plan(STAGES, PARAMS, X, budget=int(budget))
        assert found.peak_bytes <= budget
        measured = [temp(found, argnums, outer) for outer in OUTER.values() for argnums in (0, (0, 1))]
        assert max(measured) <= budget
        assert found.peak_bytes == pytest.approx(max(measured), rel=0.1)
        if earlier:
            assert (found.time, -found.peak_bytes) <= (earlier.time, -earlier.peak_bytes)
        earlier = found
    assert earlier.schedule == schedules.store_all(LENGTH)
    with pytest.raises(ValueError, match=re.escape(f"expected at least {least:,} ")):
        plan(STAGES, PARAMS, X, budget=least - 1)


def test_frontier():
    frontier = pareto(STAGES, PARAMS, X)
    assert [p.time for p in frontier] == sorted({p.time for p in frontier})
    assert [p.peak_bytes for p in frontier] == sorted({p.peak_bytes for p in frontier}, reverse=True)
    for found in frontier:
        again = planning._evaluations(found.schedule)
        forward, backward = (sum(getattr(c, which) for c in found.costs) for which in ("forward", "backward"))
        assert found.forward_evaluations == sum(again.values())
        repeated = sum((again[i] - 1) * c.forward for i, c in enumerate(found.costs))
        assert found.time == pytest.approx(1 + repeated / (forward + backward))
        assert found.lower_bound <= found.modelled_bytes


def test_time_and_slots():
    for limit in (1.0, 1.2, 2.0):
        found = plan(STAGES, PARAMS, X, max_time=limit)
        assert found.time <= limit
        assert found.peak_bytes == min(p.peak_bytes for p in pareto(STAGES, PARAMS, X) if p.time <= limit)
    found = plan(STAGES, PARAMS, X, slots=2)
    assert found.schedule == schedules.binomial(LENGTH, 2)
    assert found.forward_evaluations == schedules.fewest_forwards(LENGTH, 2)


def test_costs_of_stages():
    found, first = costs.stage_costs(STAGES, PARAMS, X)
    assert first == STATE
    assert [c.output for c in found] == [STATE, STATE, STATE // 2, STATE // 2, STATE // 2, STATE // 2]
    products = [2 * ROWS * w * w for w in (16, 16, 16, 8, 8, 8)]
    for cost, product in zip(found, products, strict=True):
        assert cost.forward == pytest.approx(product, rel=2.5 if product < 50000 else 1.5)
        assert cost.backward >= 2 * product
    # tanh is its own residual; gelu needs its argument, and the next layer its value.
    tanh, _ = costs.stage_costs([lambda p, x: jnp.tanh(x @ p)], PARAMS[:1], X)
    assert tanh[0].tape == pytest.approx(STATE, rel=0.1)
    assert 1.9 * STATE <= found[0].tape <= 3.1 * STATE


def test_plans_are_data():
    found = plan(STAGES, PARAMS, X, max_time=1.3)
    assert Plan.from_json(found.to_json()) == found
    assert hash(Plan.from_json(found.to_json())) == hash(found)
    assert list(found.actions) == list(schedules.actions(found.schedule))
    text = str(found)
    assert f"{found.forward_evaluations} forward evaluations" in text
    assert text.count("\n") == LENGTH + 1
    for wrong in ("{}", "nothing", "[]", found.to_json().replace('"schedule": [', '"schedule": [7, ')):
        with pytest.raises(ValueError, match=r"Plan.from_json|in order"):
            Plan.from_json(wrong)


def test_gradients_of_a_plan():
    rng = np.random.RandomState(0)
    params = [jnp.asarray(rng.normal(size=p.shape) / 3, jnp.float32) for p in PARAMS]
    x = jnp.asarray(rng.normal(size=X.shape), jnp.float32)

    def gradient(schedule):
        return jax.jit(jax.grad(lambda params, x: jnp.sum(chain(STAGES, schedule)(params, x) ** 2), (0, 1)))(params, x)

    everything = gradient(schedules.store_all(LENGTH))
    assert relative_error(gradient(pareto(STAGES, PARAMS, X)[-1]), everything) <= 2e-6


def test_one_stage_and_none():
    for length in (0, 1):
        found = plan(STAGES[:length], PARAMS[:length], X, budget="1GiB")
        assert found.schedule == tuple(range(length))
        assert (found.forward_evaluations, found.time) == (length, 1.0)
        assert pareto(STAGES[:length], PARAMS[:length], X) == (found,)


@pytest.mark.parametrize(
    ("size", "count"), [(5, 5), ("5", 5), ("64MiB", 2**26), ("1.5 GB", 1_500_000_000), ("2kB", 2000), ("1 KiB", 1024)]
)
def test_sizes(size, count):
    assert planning.to_bytes(size) == count


@pytest.mark.parametrize("size", ["", "MiB", "-1", "1 XB", "1e3", -1, 1.5, True, np.nan, "64 mib"])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="expected bytes ≥ 0, or a size such as"):
        planning.to_bytes(size)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "nothing given; expected one of budget, slots and max_time"),
        ({"budget": 1, "slots": 1}, "budget and slots given; expected one"),
        ({"max_time": 0.9}, r"max_time is 0.9; expected"),
        ({"max_time": float("nan")}, "max_time is nan"),
        ({"slots": 0}, "slots is 0"),
        ({"budget": "much"}, "budget is 'much'"),
    ],
)
def test_bad_plans(given, match):
    with pytest.raises(ValueError, match=match):
        plan(STAGES, PARAMS, X, **given)


def test_params_for_other_stages():
    with pytest.raises(ValueError, match="params has 5 entries; expected one for each of 6 stages"):
        plan(STAGES, PARAMS[:5], X, slots=1)


def test_a_stage_that_has_changed_is_planned_anew():
    class Block:
        repetitions = 1

        def stage(self, p, x):
            for _ in range(self.repetitions):
                x = jnp.sin(x) * jnp.tanh(x @ p)
            return x

    block = Block()
    before = plan([block.stage], PARAMS[:1], X, max_time=1)
    block.repetitions = 3
    assert plan([block.stage], PARAMS[:1], X, max_time=1).peak_bytes > 1.5 * before.peak_bytes


def test_a_loss_that_needs_more_is_given():
    assumed = plan(STAGES[:1], PARAMS[:1], X, budget="1GiB")
    given = plan(STAGES[:1], PARAMS[:1], X, budget="1GiB", loss=lambda y: jnp.sum(jax.nn.softmax(y @ y.T)))
    assert given.peak_bytes >= 4 * ROWS * ROWS > assumed.peak_bytes


def test_stages_that_cannot_be_hashed():
    class Layer:
        __hash__ = None

        def __call__(self, p, x):
            return jnp.tanh(x @ p)

    assert plan([Layer()], PARAMS[:1], X, budget="1GiB").schedule == (0,)
