"""Plans: a budget that the compiled program keeps, what stages cost, plans as data."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import relative_error

from fundamentals.memory.checkpointing import Plan, chain, costs, pareto, plan, planning, schedules

ROWS, WIDTH, LENGTH = 256, 16, 3
STATE = 4 * ROWS * WIDTH


def layer(p, x):
    return jax.nn.gelu(x @ p)


def narrow(p, x):
    return jnp.tanh(x @ p)[:, ::2]


STAGES = [layer, narrow, layer]
PARAMS = [jax.ShapeDtypeStruct((w, w), jnp.float32) for w in (16, 16, 8)]
EVERYTHING = schedules.store_all(2 * LENGTH)  # each stage falls into its product and what follows it
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
    assert (frontier[0].schedule, frontier[0].pieces) == (EVERYTHING, (2,) * LENGTH)
    least, most = frontier[-1].peak_bytes, frontier[0].peak_bytes
    assert least < 0.65 * most
    earlier = None
    for budget in (least, (least + most) // 2, most):
        found = plan(STAGES, PARAMS, X, budget=budget)
        assert found.peak_bytes <= budget
        measured = [temp(found, argnums, OUTER[name]) for name, argnums in (("squares", (0, 1)), ("cross-entropy", 0))]
        assert 0.8 * found.peak_bytes <= max(measured) <= budget  # these losses need less than those assumed
        if earlier:
            assert (found.time, -found.peak_bytes) <= (earlier.time, -earlier.peak_bytes)
        earlier = found
    assert earlier.schedule == EVERYTHING
    with pytest.raises(ValueError, match=re.escape(f"expected at least {least:,} ")):
        plan(STAGES, PARAMS, X, budget=least - 1)


def test_frontier():
    frontier = pareto(STAGES, PARAMS, X)
    assert [p.time for p in frontier] == sorted({p.time for p in frontier})
    assert [p.peak_bytes for p in frontier] == sorted({p.peak_bytes for p in frontier}, reverse=True)
    stored = sum(cost.forward + cost.backward for cost in frontier[0].costs)
    for found in frontier:
        taken = {"forward": 0.0, "tape": 0.0, "keep": 0.0, "backward": stored}
        listed = list(schedules.actions(found.schedule))
        for (kind, i), following in zip(listed, [*listed[1:], None], strict=True):
            cost, unread = found.costs[i], following == ("backward", i) and i != EVERYTHING[-1]
            taken[kind] += {"forward": cost.forward, "tape": cost.again if unread else cost.forward}.get(kind, 0.0)
        assert found.time == pytest.approx((sum(taken.values()) - sum(c.forward for c in found.costs)) / stored)
        assert found.forward_evaluations == sum(kind in ("forward", "tape") for kind, _ in listed)
        assert found.lower_bound <= found.modelled_bytes


def test_less_is_kept_of_pieces_than_of_stages():
    # Each stage computed again but for its product: the results of products are all that is kept.
    whole, cut = (pareto(STAGES, PARAMS, X, cut=cut) for cut in (False, True))
    assert {p.pieces for p in whole} == {(1,) * LENGTH}
    lean = [min(p.peak_bytes for p in frontier if p.time <= 1.06) for frontier in (whole, cut)]
    assert lean[1] <= 0.85 * lean[0]
    assert cut[-1].peak_bytes <= whole[-1].peak_bytes


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
    found = [cost for (cost,) in found]
    assert first == STATE
    assert [c.output for c in found] == [STATE, STATE // 2, STATE // 2]
    products = [2 * ROWS * w * w for w in (16, 16, 8)]
    for cost, product in zip(found, products, strict=True):
        assert cost.forward == pytest.approx(product, rel=2.5 if product < 50000 else 1.5)
        assert cost.backward >= 2 * product
    # tanh is its own residual; gelu needs its argument, and the next layer its value.
    ((tanh,),), _ = costs.stage_costs([lambda p, x: jnp.tanh(x @ p)], PARAMS[:1], X)
    assert tanh.tape == pytest.approx(STATE, rel=0.1)
    assert 1.9 * STATE <= found[0].tape <= 3.1 * STATE


def test_costs_of_pieces():
    ((product, gelu), *_), _ = costs.stage_costs(STAGES[:1], PARAMS[:1], X, cut=True)
    flops = 2 * ROWS * WIDTH * WIDTH
    assert (product.forward, product.output) == (flops, STATE)
    assert product.backward == pytest.approx(2 * flops, rel=0.1)
    assert product.again <= 0.1 * flops  # nobody reads its result
    assert gelu.forward < flops
    # What is passed on is the next piece's output, but on nobody's tape.
    ((first, second),), _ = costs.stage_costs([lambda p, x: x + jnp.tanh(x @ p)], PARAMS[:1], X, cut=True)
    assert (first.output, second.output) == (2 * STATE, STATE)
    assert first.tape == pytest.approx(STATE, rel=0.1)


def test_plans_are_data():
    found = plan(STAGES, PARAMS, X, max_time=1.3)
    assert Plan.from_json(found.to_json()) == found
    assert hash(Plan.from_json(found.to_json())) == hash(found)
    assert list(found.actions) == list(schedules.actions(found.schedule))
    text = str(found)
    assert f"{found.forward_evaluations} forward evaluations" in text
    assert text.count("\n") == 2 * LENGTH + 1
    text = found.to_json()
    for wrong in (
        "{}", "nothing", "[]", "7", "[" * 2000, text.replace('"schedule": [', '"schedule": [7, '),
        re.sub('"time": ([0-9.]+)', r'"time": "\1"', text), text.replace('"pieces": [2', '"pieces": [1'),
        text.replace('"peak_bytes": ', '"peak_bytes": -'), text.replace('"input_bytes"', '"bytes"'),
    ):  # fmt: skip
        assert wrong != text
        with pytest.raises(ValueError, match=r"^Plan.from_json: "):
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
        assert found.schedule == tuple(range(2 * length))
        assert (found.forward_evaluations, found.time) == (2 * length, 1.0)
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
    with pytest.raises(ValueError, match="params has 2 entries; expected one for each of 3 stages"):
        plan(STAGES, PARAMS[:2], X, slots=1)


def test_a_stage_that_has_changed_is_planned_anew():
    class Block:
        repetitions = 1

        def stage(self, p, x):
            for _ in range(self.repetitions):
                x = jnp.sin(x) * jnp.tanh(x @ p)
            return x

    block = Block()
    before = plan([block.stage], PARAMS[:1], X, max_time=1)
    block.repetitions = 2
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

    assert plan([Layer()], PARAMS[:1], X, budget="1GiB").pieces == (2,)


def test_a_plan_is_for_its_stages():
    found = plan(STAGES, PARAMS, X, budget="1GiB")
    with pytest.raises(ValueError, match="the plan is for 3 stages; expected one for 2"):
        chain(STAGES[:2], found)
    other = [*STAGES[:2], lambda p, x: jnp.tanh(jnp.tanh(x @ p) @ p)]
    with pytest.raises(ValueError, match=re.escape("stages[2] falls into 3 pieces; expected 2, as in the plan")):
        jax.eval_shape(chain(other, found), PARAMS, X)


def test_stages_stay_whole_where_there_are_too_many_pieces(monkeypatch):
    monkeypatch.setattr(planning, "MOST_PIECES", 3)
    monkeypatch.setattr(planning, "_known", lambda key: {})  # nothing is remembered, before or after
    assert plan(STAGES[:2], PARAMS[:2], X, max_time=1).pieces == (1, 1)


def memory_of(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def residual(p, x):
    return x + jnp.tanh(x @ p) @ p.T


def drawn(*shape):
    return jnp.asarray(np.random.RandomState(len(shape)).normal(size=shape) / shape[0] ** 0.5, jnp.float32)


def test_tied_parameters_have_one_gradient():
    # As large as six of the states, and summed where it is computed: else there were one for each stage.
    length, w, x = 4, drawn(64, 48), drawn(8, 64)
    found = plan([residual] * length, [w] * length, x, slots=1)

    def loss(w, x):
        return jnp.mean(chain([residual] * length, found)([w] * length, x) ** 2)

    assert memory_of(jax.grad(loss), w, x) <= found.peak_bytes <= 3.5 * w.nbytes
    expected = jax.jit(jax.grad(lambda w, x: jnp.mean(functools.reduce(lambda x, _: residual(w, x), range(4), x) ** 2)))
    assert relative_error(jax.jit(jax.grad(loss))(w, x), expected(w, x)) <= 1e-5


def test_no_gradient_of_frozen_parameters_is_computed():
    length, x = 4, drawn(8, 64)
    ps = [drawn(64, 48) for _ in range(length)]

    def loss(ps, x):
        return jnp.mean(chain([residual] * length, tuple((i,) for i in range(length)))(ps, x) ** 2)

    assert memory_of(jax.grad(loss, 1), ps, x) <= ps[0].nbytes


@pytest.mark.parametrize(
    ("stages", "params", "loss", "match"),
    [
        (layer, PARAMS, None, "plan: stages is of type function; expected a list or tuple of functions"),
        (STAGES, dict(enumerate(PARAMS)), None, "plan: params is of type dict; expected a sequence of entries"),
        (STAGES, PARAMS, 3, "plan: loss is of type int; expected a function of the chain's output"),
        (STAGES, PARAMS, lambda y: jnp.sum(y, 0), r"plan: loss returns shape \[8\]; expected a scalar, \[\]"),
    ],
)
def test_bad_problems(stages, params, loss, match):
    with pytest.raises((TypeError, ValueError), match=match):
        plan(stages, params, X, budget="1GiB", loss=loss)


def test_bad_chains():
    with pytest.raises(TypeError, match="chain: stages is of type function; expected a list or tuple of functions"):
        chain(layer, (0,))
    with pytest.raises(TypeError, match="chain: params is of type dict; expected a sequence of entries"):
        chain([layer], (0,))({"w": PARAMS[0]}, X)
