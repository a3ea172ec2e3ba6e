"""The experiments on graphs: pictures of the course's examples, functions of the user's own, the cost of walking."""

import json
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest
from scripts import parse

from experiments import benchmark_graph, common, draw_graph, graph_examples, targets

OWN = """
import jax.numpy as jnp


def helper(x):
    return jnp.exp(x) * x


def loss(x, w):
    return jnp.sum(helper(x) @ w)


def loss_arguments():
    return jnp.ones(3), jnp.arange(6.0).reshape(3, 2)


def vector(x):
    return x * 2


numbers = (2.0, 3.0)
not_a_tuple = 3
"""


def run(folder, **given):
    return draw_graph.run(**parse(draw_graph, output_dir=str(folder), **given))


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_functions.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "out"


def test_every_example_holds_and_is_drawn(tmp_path, capsys):
    verdicts = draw_graph.run(**(parse(draw_graph, output_dir=str(tmp_path)) | {"example": list(draw_graph.NAMES)}))
    assert all(verdict.holds for verdict in verdicts), verdicts
    assert len(verdicts) == 2 * len(draw_graph.NAMES) + 3
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["graphs"]["product"]["gradients"] == [-4, -4, 3]
    for name in draw_graph.NAMES:
        ET.parse(tmp_path / f"{name}.svg")
    printed = capsys.readouterr().out
    assert "mul switches: q gets 1 × z = −4 and z gets 1 × q = 3." in printed
    assert "sigmoid is logistic" in printed


def test_a_wrong_derivation_fails(tmp_path, monkeypatch):
    def wrong(key):
        known = examples(key)
        return known | {"norm": known["norm"]._replace(by_hand=lambda w, x: (2 * np.outer(x, w @ x), 2 * w @ w @ x))}

    examples = graph_examples.examples
    monkeypatch.setattr(draw_graph, "examples", wrong)
    assert [v.holds for v in run(tmp_path, example="norm")] == [True, False]


def test_a_function_of_one_s_own(own, capsys):
    (verdict,) = run(own, function="own_functions:loss", fold="helper", format="svg")
    assert verdict.holds
    assert (own / "loss.svg").exists()
    assert "helper" in capsys.readouterr().out
    assert run(own, function="own_functions:loss", inputs="[1, -1], normal(2, 3)", overwrite=True)[0].holds
    assert run(own, function="own_functions.py:helper", inputs="2.5", example="norm", overwrite=True)[0].holds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"function": "own_functions"}, "expected module:name"),
        ({"function": "own_functions:lost"}, "has no 'lost'; it has"),
        ({"function": "no_such_module:f"}, "raised ModuleNotFoundError"),
        ({"function": "own_functions:vector"}, "define vector_arguments in own_functions"),
        ({"function": "own_functions:vector", "inputs": "[1, 2]"}, "expected a single number"),
        ({"function": "own_functions:vector", "inputs": "print(1)"}, r"'print\(1\)'; expected numbers, arrays"),
        ({"function": "own_functions:vector", "inputs": "[1, 2"}, "expected numbers, arrays"),
        ({"function": "own_functions:loss", "inputs": "1", "arguments": "numbers"}, "exclude each other"),
        ({"function": "own_functions:loss", "arguments": "not_a_tuple"}, "expected a tuple of arguments"),
        ({"function": "own_functions:numbers", "inputs": "1"}, r"expected a function"),
        ({"function": "own_functions:loss", "fold": "lost"}, "no call of 'lost' in the graph; expected one of helper"),
        ({"inputs": "1"}, "there is none"),
    ],
)
def test_bad_flags_get_a_clear_error_and_nothing_is_written(own, given, message):
    with pytest.raises(common.UserError, match=message):
        run(own, **given)
    assert not own.exists()


def test_earlier_pictures_stay_without_overwrite(own):
    run(own, function="own_functions:loss")
    before = (own / "loss.svg").read_bytes()
    with pytest.raises(common.UserError, match="holds an earlier run"):
        run(own, function="own_functions:loss")
    assert (own / "loss.svg").read_bytes() == before


def test_values_that_are_written_out():
    x, y, z = targets.values("-2, [[1, 2.5], [3, 4]], normal(2, 3)", seed=0)
    assert (x, y.shape, z.shape) == (-2, (2, 2), (2, 3))
    np.testing.assert_allclose(z, np.random.RandomState(0).standard_normal((2, 3)), rtol=1e-6)
    assert targets.values("", 0) == ()


def test_the_benchmark_of_walking(tmp_path):
    given = parse(benchmark_graph, output_dir=str(tmp_path), batch_size=3, inputs=5, hidden=4, classes=2, repeats=2)
    ratio, same = benchmark_graph.run(**given)
    assert same.holds
    assert float(ratio.measured) > 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {len(times) for times in results["seconds"].values()} == {2}
    assert jax.config.jax_enable_x64 is False
