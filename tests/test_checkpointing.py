"""Checkpointing: schedules, the dynamic program against brute force, chains whose reverse pass follows a schedule."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, relative_error

from fundamentals import activations
from fundamentals.base import Rule
from fundamentals.memory import audit
from fundamentals.memory.checkpointing import Plan, chain, dynamic_program, plan, schedules, segment_checkpoint
from fundamentals.memory.checkpointing.dynamic_program import StageCost


@functools.cache
def fewest_steps(length, slots):
    """t(l, c) by its recursion, over all first splits."""
    if length <= 1:
        return 0
    if slots == 1:
        return length * (length - 1) // 2
    return min(j + fewest_steps(j, slots) + fewest_steps(length - j, slots - 1) for j in range(1, length))


def carried_out(schedule, length):
    """Forward evaluations of the actions, each possible where it stands, and the most inputs that are kept."""
    here, states, tapes, evaluations, most, left = 0, {0}, set(), 0, 0, length
    for kind, stage in schedules.actions(schedule):
        if kind == "keep":
            assert stage == here or stage in states
            states.add(stage)
            here = stage
        elif kind in ("forward", "tape"):
            assert stage == here or stage in states  # from the stage before, or from a checkpoint
            here, evaluations = stage + 1, evaluations + 1
            if kind == "tape":
                tapes.add(stage)
        else:
            assert stage == left - 1
            tapes.remove(stage)
            states.discard(stage)
            left = stage
        most = max(most, len(states | {0}))
    assert (left, tapes) == (0, set())
    return evaluations, most


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 32])
def test_binomial_makes_the_fewest_forward_evaluations(slots):
    for length in [*range(25), 55, 56, 57, 90]:
        evaluations, _ = carried_out(schedules.binomial(length, slots), length)
        assert evaluations == fewest_steps(length, slots) + length == schedules.fewest_forwards(length, slots)
        assert evaluations == schedules.forward_evaluations(schedules.binomial(length, slots))
        assert schedules.kept(schedules.binomial(length, slots))[0] <= slots


def test_binomial_of_a_thousand_steps():
    assert schedules.fewest_forwards(1000, 20) == carried_out(schedules.binomial(1000, 20), 1000)[0] == 3747


@pytest.mark.parametrize("length", [0, 1, 2, 9, 10])
def test_textbook_schedules(length):
    assert carried_out(schedules.store_all(length), length)[0] == length
    assert carried_out(schedules.recompute_all(length), length)[0] == length * (length + 1) // 2
    for segments in range(1, 12):
        every = schedules.uniform(length, segments, tape_last=False)
        assert carried_out(every, length)[0] == 2 * length
        sizes = [len(group) for group in every]
        assert len(every) == min(segments, length)
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
        last = sizes[-1] if sizes else 0
        assert carried_out(schedules.uniform(length, segments), length)[0] == 2 * length - last
    assert schedules.uniform(9) == schedules.uniform(9, 3)


def nested(depth, first=(0,)):
    for i in range(1, depth):
        first = (first, i)
    return first


def test_schedules_as_deep_as_python_can_tell():
    deepest = schedules.recompute_all(schedules.DEEPEST)
    costs = (COST,) * schedules.DEEPEST
    plan = Plan(deepest, (1,) * schedules.DEEPEST, 0, 0, 0, 1.0, 0, costs, 1)
    assert Plan.from_json(plan.to_json()).schedule == deepest
    assert chain([jnp.add] * 256, deepest)
    slots = [schedules.binomial(length, c) for length, c in ((256, 1), (32_896, 2))]
    assert slots[0] == deepest == nested(256)
    assert max(schedules.evaluations(slots[1]).values()) == 256


DEEP = nested(100_000)
COST = StageCost(1, 2, 10, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.recompute_all(257), "recompute_all: length is 257; expected at most 256, as groups are at"),
        (
            lambda: schedules.binomial(257, 1),
            "binomial: length is 257; expected at most 256, as groups are at",
        ),
        (lambda: schedules.binomial(32_897, 2), "binomial: length is 32897; expected at most 32896, as groups are"),
        (lambda: chain([jnp.add] * 257, nested(257)), "chain: stage 0 is in 257 nested tuples; expected at most 256"),
        (
            lambda: dynamic_program.peak(DEEP, [COST] * 100_000, 10),
            "peak: stage 0 is in 100000 nested tuples; ex",
        ),
        (
            lambda: dynamic_program.peak((0, 1), [COST], 10),
            "peak: the schedule has stages (0, 1); expected 0 … 0",
        ),
    ],
)
def test_schedules_that_are_too_deep(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_evaluations_are_counted_without_going_through_them():
    assert schedules.forward_evaluations(DEEP) == 100_000 * 100_001 // 2


def test_the_dynamic_program_leaves_out_what_is_too_deep(monkeypatch):
    monkeypatch.setattr(dynamic_program, "DEEPEST", 4)
    table = dynamic_program.solve([COST] * 6, 10, 10 * 10, buckets=10)
    assert dynamic_program.read(table, 40) is None  # all are computed again, but for one: 5 deep
    depths = [max(schedules.evaluations(s.schedule).values()) for s in dynamic_program.frontier(table)]
    assert 2 <= max(depths) <= 4


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        ((0, 2), "0 … 2, each once, in order"),
        ((0, 1, 1), "each once"),
        ((1, 0, 2), "in order"),
        ((0, (), 1, 2), r"\(\) is in the schedule"),
        ((0, "1", 2), "'1' is in the schedule"),
        ((0, True, 2), "True is in the schedule"),
        ([0, 1, 2], "the schedule is a list; expected a plan, or a tuple"),
        ((0, [1], 2), r"\[1\] is in the schedule"),
        # 2⁶⁰ stages; a list as deep as Python can't print.
        (
            functools.reduce(lambda half, _: (half, half), range(60), (0,)),
            r"\(0, 0, 0, 0, 0, 0, \.\.\.\); expected",
        ),
        ((0, functools.reduce(lambda inner, _: [inner], range(5000), [])), r"\[\[\[.*is in the schedule"),
    ],
)
def test_schedules_that_are_none(schedule, match):
    with pytest.raises(ValueError, match=match):
        chain([jnp.add] * 3, schedule)


@functools.cache
def every_schedule(first, last, whole=True):
    """All schedules of stages first … last − 1, but for groups of nothing but a group."""
    if first == last:
        return ((),)
    taped = [(first, *rest) for rest in every_schedule(first + 1, last, False)]
    grouped = [
        (group, *rest)
        for j in range(first + 1, last + (not whole))
        for group in every_schedule(first, j)
        for rest in every_schedule(j, last, False)
    ]
    return (*taped, *grouped)


def needed(schedule, costs, first):
    """(time, bytes) of a schedule, from a list of what is alive."""
    inputs, alive, time, most = [first, *(c.output for c in costs)], {}, 0, 0

    def run(nodes):
        nonlocal time, most
        stages = list(schedules.stages_of(nodes))
        alive["cotangent"] = inputs[stages[-1] + 1]
        for node in nodes:
            group = list(schedules.stages_of((node,)))
            for i in group:
                unread = nodes is not schedule and node == stages[-1]  # a group, computed again, ends here
                time += costs[i].again if unread else costs[i].forward
                if isinstance(node, tuple):
                    passing = (inputs[i] if i > group[0] else 0) + inputs[i + 1]
                else:
                    alive["tape", i], passing = costs[i].tape, 0
                most = max(most, sum(alive.values()) + passing + costs[i].forward_workspace)
            if isinstance(node, tuple) and group[-1] != stages[-1]:
                alive["input", group[-1] + 1] = inputs[group[-1] + 1]
        for node in reversed(nodes):
            if isinstance(node, tuple):
                alive.pop(("input", list(schedules.stages_of(node))[-1] + 1), None)
                run(node)
            else:
                time += costs[node].backward
                alive["cotangent"] = inputs[node + 1]
                most = max(most, sum(alive.values()) + inputs[node] + costs[node].backward_workspace)
                alive["cotangent"] = inputs[node]
                del alive["tape", node]

    run(schedule)
    return time, most


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_dynamic_program_equals_brute_force(length):
    rng = np.random.RandomState(length)
    for _ in range(12):
        output, forward, backward = (rng.randint(1, 20, length) for _ in range(3))
        extra, f_space, b_space, again = (rng.randint(0, 12, length) for _ in range(4))
        columns = (forward, backward, output, output + extra, f_space, b_space, np.minimum(again, forward))
        costs = [StageCost(*map(int, row)) for row in zip(*columns, strict=True)]
        first = int(rng.randint(1, 9))
        every = [needed(schedule, costs, first) for schedule in every_schedule(0, length)]
        sizes = sorted({size for _, size in every})
        table = dynamic_program.solve(costs, first, sizes[-1], buckets=sizes[-1])
        for memory in (sizes[0] - 1, *sizes[:: max(len(sizes) // 6, 1)], sizes[-1]):
            best = min((time for time, size in every if size <= memory), default=None)
            found = dynamic_program.read(table, memory)
            assert (found and found.time) == best
            if found:
                assert needed(found.schedule, costs, first) == (found.time, found.bytes)
                assert found.bytes <= memory
        found = dynamic_program.frontier(table)
        assert [s.time for s in found] == sorted({s.time for s in found})
        assert found[-1].bytes == sizes[0]


def test_buckets_round_up():
    costs = [StageCost(1, 2, 10, 30), StageCost(1, 2, 10, 31)]
    everything = dynamic_program.peak((0, 1), costs, 10)
    assert dynamic_program.read(dynamic_program.solve(costs, 10, everything, buckets=7)).bytes <= everything
    assert dynamic_program.read(dynamic_program.solve(costs, 10, 40, buckets=10), 39) is None


# A carry with a count and a key; stages close over what is differentiated, or draw at random; parameters are tied.
def problem(dtype):
    rng = np.random.RandomState(0)
    params = [jnp.asarray(rng.normal(size=(3, 3)), dtype) for _ in range(5)]
    carry = {"h": jnp.asarray(rng.normal(size=(2, 3)), dtype), "n": jnp.int32(2), "key": jax.random.key(3)}
    return params, carry, jnp.asarray(rng.normal(size=3), dtype)


def stages_closing_over(bias):
    def count(p, c):
        h = jnp.tanh(c["h"] @ p["w"] + (bias * c["n"].astype(bias.dtype))[None])
        return {"h": h, "n": c["n"] + p["step"], "key": c["key"]}

    def drop(p, c):
        key, own = jax.random.split(c["key"])
        kept = jax.random.bernoulli(own, 0.5, c["h"].shape)
        return {"h": jnp.where(kept, jnp.sin(c["h"] @ p["w"]), 0), "n": c["n"], "key": key}

    return [count, drop, count, drop, count, drop]


def loss(compose, params, h, bias, carry):
    stages = stages_closing_over(bias)
    entries = [{"w": w, "step": jnp.int32(1)} for w in [*params, params[0]]]  # the first and the last are tied
    return jnp.sum(compose(stages)(entries, carry | {"h": h})["h"] ** 3)


def one_after_the_other(stages):
    return lambda params, x: functools.reduce(lambda x, both: both[0](both[1], x), zip(stages, params, strict=True), x)


def differentiated(compose, dtype):
    params, carry, bias = problem(dtype)
    function = jax.value_and_grad(lambda *args: loss(compose, *args, carry), argnums=(0, 1, 2))
    return jax.jit(function)(params, carry["h"], bias)


SCHEDULES = {
    "all": schedules.store_all(6),
    "nothing": schedules.recompute_all(6),
    "segments": schedules.uniform(6, 3, tape_last=False),
    "binomial": schedules.binomial(6, 2),
    "mixed": ((0, 1), 2, (3, (4,), 5)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_chain_has_the_gradient_of_the_composition(name):
    compose = functools.partial(chain, schedule=SCHEDULES[name])
    with jax.enable_x64(True):
        expected = differentiated(one_after_the_other, "float64")
        assert relative_error(differentiated(compose, "float64"), expected) <= 1e-12
    if name == "mixed":
        expected = differentiated(one_after_the_other, "float32")
        for composed in (compose, segment_checkpoint):
            assert relative_error(differentiated(composed, "float32"), expected) <= TOLERANCE["float32"]


@pytest.mark.usefixtures("x64")
def test_chain_of_second_order_and_mapped():
    params, carry, bias = problem("float64")

    def gradient(compose, h):
        return jax.grad(lambda h: loss(compose, params, h, bias, carry))(h)

    compose = functools.partial(chain, schedule=SCHEDULES["mixed"])
    two = jnp.stack([carry["h"], -carry["h"]])
    for transform in (
        lambda g: jax.grad(lambda h: jnp.sum(g(h) ** 2))(two[0]),
        lambda g: jax.jvp(g, (two[0],), (two[1],))[1],
        lambda g: jax.vmap(g)(two),
    ):
        found, expected = (
            jax.jit(lambda c=c, transform=transform: transform(functools.partial(gradient, c)))()
            for c in (compose, one_after_the_other)
        )
        assert relative_error(found, expected) <= 1e-12


def test_chain_of_rules_unused_outputs_and_no_stages():
    rule = Rule(*(lambda f: (f, f, f))(None))._replace(
        primal=lambda p, x: activations.tanh(p * x),
        fwd=lambda p, x: (activations.tanh(p * x), (p, x, activations.tanh(p * x))),
        # Twice the right cotangent of p, so that autodiff's would be noticed.
        bwd=lambda kept, dy: (2 * jnp.sum(dy * (1 - kept[2] ** 2) * kept[1]), dy * (1 - kept[2] ** 2) * kept[0]),
    )
    apply = chain([rule, rule], ((0,), 1))
    p, x = [jnp.float32(0.5), jnp.float32(2)], jnp.arange(3.0)
    found = jax.grad(lambda p: jnp.sum(apply(p, x)))(p)
    expected = jax.grad(lambda p: jnp.sum(jnp.tanh(p[1] * jnp.tanh(p[0] * x))))(p)
    np.testing.assert_allclose(found, 2 * np.asarray(expected), rtol=1e-6)

    split = chain([lambda p, x: (x * p, jnp.sin(x)), lambda p, x: (x[0] * p, x[1])], ((0,), 1))
    assert jax.grad(lambda p: split([p, p], x)[0][1])(2.0) == 4
    assert chain([], ())([], x) is not None
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(chain([], ())([], x)))(x), np.ones(3))
    empty = jax.grad(lambda x: jnp.sum(chain([jnp.multiply] * 2, ((0,), 1))([jnp.float32(2)] * 2, x)))(
        jnp.zeros((0, 3))
    )
    assert empty.shape == (0, 3)


def test_chain_under_shard_map():
    # A carry of which one part is the same on both devices, and the other is not.
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    same, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("d")

    def stage(p, c):
        return jnp.tanh(c[0] * p[None]), jnp.sin(c[1] * p[0])

    def loss(compose, p, x, y):
        def on_one(p, x, y):
            last = compose([stage] * 3)([p, p + 1, 2 * p], (x, y))
            return jax.lax.psum(jnp.sum(last[0]) + jnp.sum(last[1]), "d")

        return jax.shard_map(on_one, mesh=mesh, in_specs=(same, split, same), out_specs=same)(p, x, y)

    p, x, y = jnp.arange(3.0) / 3, jnp.ones((4, 3)), jnp.full(2, 0.5)
    found, expected = (
        jax.jit(jax.grad(functools.partial(loss, c), (0, 1, 2)))(p, x, y)
        for c in (functools.partial(chain, schedule=((0, 1), 2)), one_after_the_other)
    )
    assert relative_error(found, expected) <= 2e-6


def test_bad_chains():
    with pytest.raises(TypeError, match=r"stages\[1\] is of type int"):
        chain([jnp.add, 3], (0, 1))
    with pytest.raises(ValueError, match="chain: params has 1 entries; expected one for each of 2"):
        chain([jnp.add] * 2, (0, 1))([1.0], 2.0)
    with pytest.raises(ValueError, match="params has 3 entries; expected 2"):
        segment_checkpoint([jnp.add] * 2)([1.0] * 3, 2.0)
    with pytest.raises(ValueError, match="segments is 0"):
        segment_checkpoint([jnp.add] * 2, segments=0)


def residual_block(p, x):
    return x + jnp.tanh(x @ p[0]) @ p[1]


@pytest.mark.parametrize("stage", [lambda p, x: jnp.tanh(x @ p[0]), residual_block], ids=["layer", "residual"])
def test_what_is_computed_again_survives_the_compiler(stage):
    # 12 stages in groups of 3: 4 checkpoints, and what one group keeps. Cotangents of a residual network are sums over
    # all blocks, which must not be kept as their summands.
    rows, width, length = 512, 16, 12
    params = [(jax.ShapeDtypeStruct((width, width), jnp.float32),) * 2] * length
    x = jax.ShapeDtypeStruct((rows, width), jnp.float32)

    def audited(schedule):
        apply = chain([stage] * length, schedule)
        return audit(jax.grad(lambda p, x: jnp.sum(apply(p, x) ** 2)), params, x)

    everything, groups = audited(schedules.store_all(length)), audited(schedules.uniform(length, 4))
    nothing = audited(schedules.recompute_all(length))
    assert (everything.recomputation, groups.recomputation) == ("none of the matmuls", "survived")
    state = 4 * rows * width
    tape = everything.temp_bytes / length
    assert groups.temp_bytes <= 4 * state + 3 * tape + 3 * state
    assert nothing.temp_bytes <= tape + 5 * state  # whatever the length


def normalized_block(p, x):
    centered = x - jnp.mean(x, -1, keepdims=True)
    return x + jnp.tanh(centered * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5) @ p[0]) @ p[1]


def isolated_block(p, x):
    # Its input's cotangent is there at once, before those of its parameters.
    return x + jnp.tanh(jnp.tanh(jax.lax.stop_gradient(x) @ p[0]) @ p[1])


# In states: 7.2 and 6.0; 16.7 with cotangents that are left as sums, 20 where the next group waits for no parameters'.
@pytest.mark.parametrize(("block", "states"), [(normalized_block, 9), (isolated_block, 8)], ids=["sums", "order"])
def test_cotangents_are_added_up_and_waited_for(block, states):
    rows, width, length = 512, 16, 6
    params = [(jax.ShapeDtypeStruct((width, width), jnp.float32),) * 2] * length
    apply = chain([block] * length, schedules.recompute_all(length))
    gradient = jax.jit(jax.grad(lambda params, x: jnp.sum(apply(params, x) ** 2)))
    compiled = gradient.lower(params, jax.ShapeDtypeStruct((rows, width), jnp.float32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= states * 4 * rows * width


def test_the_lower_bound_of_a_plan_is_that_of_every_schedule():
    params = [jax.ShapeDtypeStruct((16, 16), jnp.float32)] * 3
    found = plan([lambda p, x: jnp.sin(x @ p)] * 3, params, jax.ShapeDtypeStruct((64, 16), jnp.float32), slots=1)
    peaks = [dynamic_program.peak(schedule, found.costs, found.input_bytes) for schedule in every_schedule(0, 3)]
    assert found.lower_bound == min(peaks)
