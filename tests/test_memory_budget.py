"""`train_digits --memory_budget`: the same training, in the memory that was asked for. And models as chains."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from digits import DRAWN, history, train
from oracles import TOLERANCE, assert_close, widen
from scripts import parse

from experiments import common, digit_models, train_digits
from fundamentals import Rule
from fundamentals.catalogue import RULES
from fundamentals.memory import chain
from fundamentals.memory.checkpointing.costs import temp_bytes
from fundamentals.models import cnn, mlp, objective, rnn, transformer

pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = {
    "epochs": "2",
    "batch_size": "180",
    "num_microbatches": "2",
    "activation": "gelu",
    "gradients": "autodiff",
    "hidden_sizes": "64",
} | DRAWN


@pytest.mark.usefixtures("x64")
def test_training_in_a_budget_is_the_same(tmp_path, monkeypatch, capsys):
    # Two microbatches of 90: the budget is that of one.
    calls, plans = [], digit_models.plans
    monkeypatch.setattr(digit_models, "plans", lambda *args: calls.append((args, plans(*args))) or calls[-1][1])
    train(tmp_path / "free", **SMALL)
    assert (calls, json.loads((tmp_path / "free" / "results.json").read_text())["memory_plans"]) == ([], {})
    train(tmp_path / "kept", **SMALL, memory_budget="150kB")
    kept, free = ([[*record.values()] for record in history(tmp_path / run)] for run in ("kept", "free"))
    np.testing.assert_allclose(kept, free, rtol=1e-12)
    [((model, names, params, x, y, _), found)] = calls
    assert (names, x.shape) == (["autodiff"], (90, 64))
    gradient, plan = jax.jit(digit_models.gradients(model, 1, found)["autodiff"]), found["autodiff"]
    assert temp_bytes(gradient.lower(params, x, y).compile()) <= plan.peak_bytes <= 150_000
    assert plan.time > 1  # nor would storing all have kept it
    results = json.loads((tmp_path / "kept" / "results.json").read_text())
    recorded = {"budget": 150_000, "peak_bytes": plan.peak_bytes, "time": plan.time}
    assert results["memory_plans"] == {"autodiff": recorded}
    assert f"autodiff: {plan.peak_bytes:,} bytes, {plan.time:.3f} × the FLOPs" in capsys.readouterr().out


def test_each_gradient_has_a_plan_or_nothing_is_written(tmp_path, monkeypatch):
    asked = []

    def plan(stages, params, x, *, budget, loss):
        asked.append(stages)
        if len(asked) == 2:
            raise ValueError("plan: a budget of 5 bytes can't be kept; expected at least 7")

    monkeypatch.setattr(digit_models, "plan", plan)
    with pytest.raises(common.UserError, match=r"--memory_budget=5B, --gradients=autodiff: plan: .* at least 7$"):
        train(tmp_path / "new", **SMALL | {"gradients": "lockstep"}, memory_budget="5B")
    by_hand, by_autodiff = asked
    assert all(isinstance(stage, Rule) for stage in by_hand)
    assert len(by_autodiff) == len(by_hand) == 3
    assert not any(isinstance(stage, Rule) for stage in by_autodiff)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "module", "options"),
    [
        ("mlp", mlp, {}),
        ("cnn(activation=gelu)", cnn, {"norm": RULES["batch_norm"].rule}),
        ("rnn_classifier", rnn, {}),
        ("transformer_classifier", transformer, {"heads": 2}),
    ],
)
def test_chains_are_the_models(name, module, options):
    params, x = widen(RULES[name].arguments(jax.random.key(3), jnp.float32))
    targets = jnp.arange(len(x), dtype=jnp.int32)

    def loss(params):
        rules, parts = module.stages(params, **options)
        stages = [*rules, objective.mean(mlp.SOFTMAX_CROSS_ENTROPY)]
        if name == "cnn(activation=gelu)":
            stages = [stage.primal for stage in stages]
        recomputed = (*range(len(stages) - 3), (len(stages) - 3, len(stages) - 2), len(stages) - 1)
        return chain(stages, recomputed)((*parts, targets), x)

    def both(params):
        return jax.value_and_grad(loss)(params), module.loss_and_gradient(params, x, targets, **options)

    found, expected = jax.jit(both)(params)
    assert_close(found, expected, TOLERANCE["float64"], name)


def test_bad_budgets():
    for text in ("much", "-1", "64 MiBs"):
        with pytest.raises(flags.IllegalFlagValueError, match=f"budget is '{text}'; expected bytes"):
            parse(train_digits, memory_budget=text)
    assert parse(train_digits, memory_budget="")["memory_budget"] == ""
