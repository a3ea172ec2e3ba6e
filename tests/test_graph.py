"""Computational graphs: what a node holds, folding and opening, sentences, where NaN appears, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import activations, losses
from fundamentals.graph import trace
from fundamentals.graph.nodes import FALLBACK, TABLE
from fundamentals.models import mlp


def product(x, y, z):
    q = x + y
    return q * z


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def neuron(w, x):
    a = w * x - 3.0
    return sigmoid(a) + sigmoid(2.0 * a)


def node(graph, operation, number=0):
    return [n for n in graph.nodes if n.operation == operation][number]


@pytest.fixture(scope="module")
def board():
    return trace(product, -2.0, 5.0, -4.0).backward()


def test_the_board(board):
    *_, q, f = board.nodes
    assert [n.name for n in board.nodes] == ["x", "y", "z", "q", ""]
    assert [float(n.value) for n in board.nodes] == [-2, 5, -4, 3, -12]
    assert [float(n.upstream) for n in board.nodes] == [-4, -4, 3, -4, 1]
    assert (q.operation, q.operands, q.local, q.derivative) == ("add", (0, 1), (1.0, 1.0), TABLE)
    assert (f.operation, f.operands, f.downstream) == ("mul", (3, 2), (-4, 3))
    assert f.local == (-4, 3)
    assert "test_graph.py:17 (product)" in q.source
    assert board.value == -12
    assert board.gradients == (-4, -4, 3)
    assert {type(g) for g in board.gradients} == {type(jnp.ones(()))}
    assert repr(board) == "<Graph of product: 5 nodes, with gradients>"


def test_a_graph_is_data_and_is_not_changed(board):
    before = trace(product, -2.0, 5.0, -4.0)
    before.backward()
    assert all(n.upstream is None for n in before.nodes)
    with pytest.raises(ValueError, match=r"expected graph.backward\(\) before"):
        _ = before.gradients
    again = board.backward(jnp.float32(2.0))  # from the start, not on top of the first one
    assert again.gradients == (-8, -8, 6)


def test_the_table_shows_every_number(board):
    lines = str(board).splitlines()
    assert lines[0] == "product"
    assert lines[-1] == "result: #4"
    assert " ".join(lines[-2].split()) == "#4 mul q, z −12 1 −4, 3 −4, 3 switches test_graph.py:18 (product)"
    forward = str(trace(product, -2.0, 5.0, -4.0))
    assert "upstream" not in forward
    assert "−12" in forward


def test_gradients_have_the_structure_of_the_arguments():
    def loss(params, labels, nothing, *rest):
        return jnp.sum(params["w"][labels] * params["n"].astype(float)) + rest[0] * 0

    params = {"w": jnp.arange(4.0), "n": jnp.array([2, 3])}
    graph = trace(lambda p, *r: loss(p, *r), params, jnp.array([0, 3]), (), 1.5, jnp.array(True)).backward()
    first, *others = graph.gradients
    np.testing.assert_array_equal(first["w"], [2, 0, 0, 3])
    assert first["n"] is None  # of integers there is no gradient
    assert others[:2] == [None, ()]
    assert others[2] == 0  # as jax.grad's: zeros where nothing flows
    assert others[3] is None
    assert [n.name for n in graph.nodes[:3]] == ["p['n']", "p['w']", "argument 1"]


def test_several_results_take_a_cotangent_each():
    graph = trace(lambda x: {"y": x * x, "n": jnp.argmax(x), "z": jnp.sum(x)}, jnp.array([1.0, 2.0]))
    found = graph.backward({"y": jnp.array([1.0, 10.0]), "n": None, "z": jnp.array(100.0)})
    np.testing.assert_allclose(found.gradients[0], [102, 140])
    assert set(graph.value) == {"y", "n", "z"}


def test_fan_out_adds():
    graph = trace(lambda x: x * x + jnp.sin(x) * x, 0.7).backward()
    shares = [dx for n in graph.nodes for i, dx in zip(n.operands, n.downstream, strict=False) if i == 0]
    assert len(shares) == 4
    np.testing.assert_allclose(sum(shares), graph.nodes[0].upstream, rtol=1e-6)
    np.testing.assert_allclose(graph.gradients[0], jax.grad(lambda x: x * x + jnp.sin(x) * x)(0.7), rtol=1e-6)
    assert "used 4 times" in graph.explain(0)


@pytest.mark.parametrize(
    ("function", "args", "operation", "sentence"),
    [
        (product, (-2.0, 5.0, -4.0), "add", "add distributes: −4 goes to x and y."),
        (product, (-2.0, 5.0, -4.0), "mul", "mul switches: q gets 1 × z = −4 and z gets 1 × q = 3."),
        (lambda x, y: jnp.maximum(x, y) * 2.0, (3.0, 1.0), "max", "max routes: all of 2 goes to x, as 3 > 1."),
        (lambda x, y: jnp.minimum(x, y) * 2.0, (3.0, 1.0), "min", "min routes: all of 2 goes to y, as 3 > 1."),
        (lambda x, y: jnp.maximum(x, y), (1.0, 1.0), "max", "max routes: a tie, so x and y get half of 1 each."),
        (lambda x: x - jnp.exp(x), (0.0,), "sub", "sub distributes: 1 goes to x and exp (#1) with the other sign."),
        (
            lambda x: jnp.tanh(x) * 1.5, (0.0,), "tanh",
            "tanh scales by its slope: x gets 1.5 × 1 = 1.5, the slope 1 − y² (y: its result).",
        ),
        (lambda x: jnp.floor(x) + x, (0.5,), "floor", "floor blocks: of 1 nothing goes back."),
        (
            lambda x: jnp.sum(jnp.maximum(x, 0.0)), (jnp.array([1.0, -2.0, 0.0, 3.0]),), "max",
            "max routes: of 4 entries 2 go to x, 1 to 0; 1 ties are shared.",
        ),
    ],
)  # fmt: skip
def test_sentences(function, args, operation, sentence):
    graph = trace(function, *args).backward()
    assert graph.explain(node(graph, operation).index) == sentence


def test_every_node_has_a_sentence_before_and_after_backward():
    def everything(params, x, i):
        def step(h, x):
            return jnp.tanh(h + x), h

        h, hs = jax.lax.scan(step, x[0], x)
        y = jax.lax.cond(i > 0, jnp.sin, jnp.cos, h)
        return jnp.sum(jax.nn.relu(params[i] * y)) + jnp.max(hs) + jnp.linalg.cholesky(jnp.eye(2) * h[0])[0, 0]

    graph = trace(everything, jnp.arange(1.0, 4.0), 0.1 * jnp.ones((3, 2)), 1)
    for each in (graph, graph.backward(), graph.backward().fold()):
        for i in range(len(each.nodes)):
            assert each.explain(i).endswith(".")
    text = str(graph.backward())
    assert "* not in the table" in text
    assert "† a derivative rule" in text
    assert node(graph.backward(), "cholesky").derivative == FALLBACK


def test_a_function_folds_into_one_node_with_its_own_local_derivative():
    graph = trace(neuron, 2.0, 1.25).backward()
    assert graph.functions == {"sigmoid": 2}
    folded = graph.fold("sigmoid")
    first, second = (n for n in folded.nodes if n.operation == "sigmoid")
    s = 1 / (1 + np.exp(0.5))  # σ(a) at a = −½
    np.testing.assert_allclose([first.value, first.local[0]], [s, s * (1 - s)], rtol=1e-6)
    np.testing.assert_allclose(second.local[0], np.exp(1) / (1 + np.exp(1)) ** 2, rtol=1e-6)
    np.testing.assert_allclose(first.downstream[0], first.upstream * first.local[0], rtol=1e-6)
    assert folded.gradients == graph.gradients
    assert "sigmoid is logistic" in folded.explain(first.index)
    assert "y(1 − y)" in folded.explain(first.index)
    assert folded.unfold() == graph
    assert [n.operation for n in folded.unfold(second.index).nodes].count("sigmoid") == 1
    assert folded.unfold("sigmoid").nodes == graph.nodes
    assert folded.backward(jnp.float32(3.0)).gradients == graph.backward(jnp.float32(3.0)).gradients
    inside = folded.open(first.index)
    assert [n.operation for n in inside.nodes if not n.is_leaf] == ["neg", "exp", "add", "div"]
    assert inside.gradients == first.downstream


def test_a_value_that_is_used_twice_inside_of_a_call():
    def helper(x):
        return x * jnp.sin(x)

    graph = trace(lambda x: helper(x) * 3.0, 0.7).backward().fold("helper")
    whole = node(graph, "helper")
    slope = np.sin(0.7) + 0.7 * np.cos(0.7)
    np.testing.assert_allclose(
        [whole.local[0], whole.downstream[0], graph.gradients[0]], [slope, 3 * slope, 3 * slope], 1e-6
    )


def test_folding_before_and_after_the_sweep_is_the_same():
    args = (0.3, 2.0)
    before, after = trace(neuron, *args).fold("sigmoid").backward(), trace(neuron, *args).backward().fold("sigmoid")
    assert str(before) == str(after)


def test_a_function_that_mixes_entries_has_no_local_derivative():
    graph = trace(lambda x, y: jnp.sum(activations.softmax(x) * y), jnp.arange(3.0), jnp.arange(1.0, 4.0)).backward()
    folded = graph.fold("softmax")
    whole = node(folded, "softmax")
    assert whole.local == (None,)
    assert whole.operands == (0,)
    np.testing.assert_allclose(whole.downstream[0], graph.gradients[0])


def test_calls_in_a_loop_are_told_apart():
    params = mlp.init(jax.random.key(0), (3, 5, 4, 2))
    labels = jnp.array([1, 0])

    def loss(params, x):
        return jnp.mean(losses.softmax_cross_entropy(mlp.mlp(params, x), labels))

    graph = trace(loss, params, jnp.ones((2, 3)))
    assert graph.functions["linear_fwd"] == 3
    assert list(graph.functions)[:1] == ["mlp"]
    outer = graph.fold()
    assert [n.operation for n in outer.nodes if n.inside] == ["mlp", "softmax_cross_entropy"]
    assert sum(n.operation == "linear_fwd" for n in graph.fold("linear_fwd").nodes) == 3
    readable = graph.readable(25)
    assert sum(n.operation != "literal" for n in readable.nodes) <= 25 < len(graph.nodes)
    constant = [n.name for n in graph.nodes if n.operation == "constant"]
    assert constant == ["labels"]


def test_names_of_variables_in_every_call():
    def layer(x):
        h = jnp.where(x > 0, x, 2.0 * x)
        return h * h

    graph = trace(lambda x: layer(layer(x)), 1.5)
    assert [n.operation for n in graph.nodes if n.name == "h"] == ["select_n", "select_n"]


def test_a_call_with_several_results_folds():
    def both(x):
        return jnp.sin(x), jnp.cos(x) * 2.0

    graph = trace(lambda x: product(*both(x), x), 0.3).backward().fold("both")
    whole = node(graph, "both")
    assert isinstance(whole.value, tuple)
    results = [n for n in graph.nodes if n.operation == "result"]
    np.testing.assert_allclose([r.value for r in results], [np.sin(0.3), 2 * np.cos(0.3)], rtol=1e-6)
    np.testing.assert_allclose(graph.gradients[0], jax.grad(lambda x: product(*both(x), x))(0.3), rtol=1e-6)


def rnn(w, xs):
    def step(h, x):
        h = jnp.tanh(w * h + x)
        return h, h * h

    h, ys = jax.lax.scan(step, jnp.float32(0.5), xs)
    return ys.sum() + h


def test_a_scan_opens_at_every_step():
    xs = jnp.array([0.3, -0.2, 0.7])
    graph = trace(rnn, jnp.float32(0.8), xs).backward()
    scan = node(graph, "scan")
    h, before = np.float32(0.5), []
    for x in xs:
        before.append(h)
        h = np.tanh(0.8 * h + x)
    total, shares = 0.0, []
    for step in (0, 1, -1):
        inside = graph.open(scan.index, step)
        names = {n.name: n for n in inside.nodes}
        np.testing.assert_allclose(names["state 0"].value, before[step], rtol=1e-6)
        np.testing.assert_allclose(names["h"].value, np.tanh(0.8 * before[step] + xs[step]), rtol=1e-6)
        np.testing.assert_allclose(names[f"xs[{step % 3}]"].upstream, graph.gradients[1][step], rtol=1e-5)
        total += float(names["w"].upstream)
        shares.append(names["state 0"].upstream)
    np.testing.assert_allclose(total, graph.gradients[0], rtol=1e-5)  # what all steps share gets the sum
    expected = jax.grad(lambda h: jax.lax.scan(lambda h, x: (jnp.tanh(0.8 * h + x),) * 2, h, xs)[0])(0.5)
    assert shares[0].shape == expected.shape
    before_backward = trace(rnn, jnp.float32(0.8), xs).open(scan.index, 2)
    assert not before_backward.is_swept
    assert before_backward.name == "scan, step 2 of 0 to 2"


def test_branches_loops_and_functions_with_rules_open():
    def function(x, i):
        y = jax.lax.switch(i, [lambda x: x * x, lambda x: jnp.sin(x)], x)
        z = jax.lax.while_loop(lambda c: c < 10.0, lambda c: c * 3.0, y)
        return jax.nn.relu(z) + x

    graph = trace(function, 2.0, 1).backward()
    case = graph.open(node(graph, "cond").index)
    assert [n.operation for n in case.nodes] == ["input", "sin"]
    loop = graph.open(node(graph, "while").index, 1)
    np.testing.assert_allclose(loop.nodes[0].value, 3 * np.sin(2), rtol=1e-6)
    assert loop.name == "while, step 1 of 0 to 2"
    rule = graph.open(node(graph, "custom_jvp_call").index)
    assert [n.operation for n in rule.nodes if not n.is_leaf] == ["max"]
    np.testing.assert_allclose(graph.gradients[0], 27 * np.cos(2) + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "args", "forward", "backward"),
    [
        (lambda x: jnp.sum(jnp.sqrt(x)), (jnp.array([0.0, 1.0]),), None, "sqrt"),
        (lambda x: jnp.sum(jnp.log(x) * 2), (jnp.array([0.0, 1.0]),), "log", "log"),
        (lambda x: jnp.log(x - 2.0), (1.0,), "log", None),
        (lambda x: x * 2.0, (jnp.nan,), "input", None),
        (lambda x, y: jnp.where(x > 0, jnp.sqrt(x), y), (-1.0, 0.5), "sqrt", "sqrt"),
        (lambda x: jnp.sum(jax.nn.softmax(jnp.where(x > 0, x, -1e30))), (jnp.array([0.0, 1.0]),), None, None),
        (lambda x: x + jnp.log(jnp.array(-1.0)), (1.0,), "log", None),
        (
            lambda x: jnp.log(jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf))[0]),
            (jnp.array([0.0, 1.0]),), "log", "log",
        ),
    ],
)  # fmt: skip
def test_where_nan_and_infinity_first_appear(function, args, forward, backward):
    found = trace(function, *args).backward().first_nonfinite()
    assert [n and n.operation for n in found[:2]] == [forward, backward]
    text = str(found)
    assert ("forward" in text, "backward" in text) == (forward is not None, backward is not None)
    if forward == "log" and backward is None:
        assert "1 NaN among 1 number" in text
        assert "test_graph.py" in text


def test_nonfinite_values_are_found_inside_of_folded_calls():
    def bad(x):
        return jnp.log(x) * 0.0

    found = trace(lambda x: bad(x) + x, 0.0).backward().fold("bad").first_nonfinite()
    assert found.forward.operation == "log"


def branching(x):
    return x if x > 0 else -x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: trace(3, 1.0), TypeError, "trace: fn is 3; expected a function"),
        (lambda: trace(branching, 1.0), TypeError, r"branching can't be traced.*jnp.where or jax.lax.cond"),
        (lambda: trace(lambda x: np.sin(x), 1.0), TypeError, "can't be traced"),
        (lambda: trace(lambda x: x[x > 0].sum(), jnp.ones(3)), TypeError, "can't be traced"),
        (lambda: trace(lambda n: sum(range(n)), 3), TypeError, "can't be traced"),
        (lambda: trace(product, 1.0, "a", 2.0), TypeError, "argument 1 of product is a str"),
        (lambda: trace(product, 1.0, [None, object()], 2.0), TypeError, r"argument 1\[1\] of product is a object"),
        (lambda: jax.jit(lambda x: trace(product, x, x, x).value)(1.0), TypeError, "is traced; expected a value"),
        (lambda: trace(lambda x: x * 2, jnp.ones(3)).backward(), ValueError, r"float32\[3\]; expected a single number"),
        (lambda: trace(lambda x: (x, x), 1.0).backward(), ValueError, "expected a single number, or a cotangent"),
        (lambda: trace(lambda x: x > 0, 1.0).backward(), TypeError, r"bool\[\]; expected a floating result"),
        (lambda: trace(lambda x: x, 1.0).backward(jnp.ones(3)), ValueError, r"shape \[3\]; expected \[\]"),
        (lambda: trace(lambda x: x, 1.0).backward((1.0,)), ValueError, "expected the result's"),
        (lambda: trace(neuron, 1.0, 1.0).fold("nothing"), ValueError, "no call of 'nothing'.*expected one of sigmoid"),
        (lambda: trace(product, 1.0, 1.0, 1.0).unfold(3), ValueError, r"node 3 \(add\) is not folded"),
        (lambda: trace(product, 1.0, 1.0, 1.0).open(3), ValueError, r"node 3 \(add\) is a single operation"),
        (lambda: trace(product, 1.0, 1.0, 1.0).explain(5), ValueError, "there is no node 5; expected 0 to 4"),
        (lambda: trace(rnn, 1.0, jnp.ones(3)).open(3, 3), ValueError, "has 3 steps, .* got step 3"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_jitted_functions_are_looked_into():
    graph = trace(jax.jit(neuron), 2.0, 1.25).backward()
    assert [n.operation for n in graph.nodes] == [n.operation for n in trace(neuron, 2.0, 1.25).nodes]
    assert graph.functions == {"sigmoid": 2}
    assert graph.gradients == trace(neuron, 2.0, 1.25).backward().gradients


def test_calls_of_a_jitted_function_are_told_apart_each_time():
    @jax.jit
    def squared(x):
        return x * x

    def twice(x):
        return squared(x) + squared(x + 1.0) + sigmoid(x)

    for _ in range(2):  # JAX keeps the program of the first time
        graph = trace(twice, 2.0)
        assert graph.functions == {"squared": 2, "sigmoid": 1}
        folded = graph.fold()
        assert [float(n.value) for n in folded.nodes if n.operation == "squared"] == [4, 9]


def test_a_gradient_inside_folds():
    def model(w, x):
        return jnp.tanh(x @ w)

    def step(w, x):
        return w - 0.1 * jax.grad(lambda w: jnp.sum(model(w, x) ** 2))(w)

    w, x = jnp.arange(12.0).reshape(3, 4) / 9 - 0.5, jnp.arange(6.0).reshape(2, 3) / 5 - 0.3
    dy = jnp.arange(12.0).reshape(3, 4) ** 2 / 50 - 1
    graph = trace(step, w, x).backward(dy)
    for found, right in zip(graph.gradients, jax.vjp(step, w, x)[1](dy), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    assert set(graph.functions) == {"model", "transpose(model)"}
    for folded in (graph.fold(), graph.fold("model"), graph.fold("transpose(model)"), graph.readable(3)):
        for one, other in zip(folded.gradients, graph.gradients, strict=True):
            np.testing.assert_array_equal(one, other)


def test_functions_typed_at_a_prompt_fold():
    names = {}
    exec("import jax.numpy as jnp\ndef squash(x): return jnp.tanh(x)\ndef f(x): return squash(x) * x", names)
    assert trace(names["f"], 1.0).functions == {"squash": 1}


def test_jax_s_own_networks_fold():
    graph = trace(lambda x: jnp.sum(jax.nn.softmax(x) * x), jnp.arange(3.0))
    assert "softmax" in graph.functions
    assert sum(n.operation == "softmax" for n in graph.fold("softmax").nodes) == 1


def test_another_sweep_leaves_nothing_of_the_first():
    graph = trace(lambda x, y: (x * x, y * y), 2.0, 3.0).backward((jnp.nan, None)).backward((None, 1.0))
    assert graph.gradients == (0, 6)
    assert [n.downstream for n in graph.nodes if n.operation == "mul"] == [(), (3, 3)]
    assert str(graph.first_nonfinite()) == "all values and gradients are finite"
    assert str(trace(jnp.sqrt, 0.0).first_nonfinite()) == "all values are finite; no gradients yet"


def test_a_bad_cotangent_is_told():
    assert "gets 1 NaN among 1 number" in str(trace(lambda x: x, 1.0).backward(jnp.nan).first_nonfinite())


def test_partial_functions_and_numpy_arguments():
    graph = trace(functools.partial(product, -2.0), np.float32(5.0), np.array(-4.0, np.float32)).backward()
    assert graph.gradients == (-4, 3)
    assert graph.name == "product"


def test_what_the_result_does_not_need_is_left_out():
    graph = trace(lambda x, y: (jnp.sin(x), x * 2.0)[1], 1.0, 2.0)
    assert [n.operation for n in graph.nodes] == ["input", "input", "literal", "mul"]
    constant = trace(lambda x: 3.0, 1.0).backward()
    assert constant.gradients == (0,)
