"""Pictures: nothing overlaps, the board's numbers are there, and files are well-formed or not written at all."""

import builtins
import collections
import itertools
import re
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from fundamentals.graph.dot import to_dot
from fundamentals.graph.drawing import draw
from fundamentals.graph.graph import trace
from fundamentals.graph.layout import Size, arrange
from fundamentals.graph.nodes import INPUT, LITERAL, Node
from fundamentals.graph.scene import scene
from fundamentals.graph.shapes import GREEN, INK, PALE, RED, Scene, Wire
from fundamentals.graph.text import is_finite, text

SVG = "{http://www.w3.org/2000/svg}"


def board(x, y, z):
    q = x + y
    return q * z


def neuron(w0, x0, w1, x1, w2):
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


def regularized(w, b, x, y):
    r = y - jax.nn.sigmoid(w * x + b)
    return 0.5 * (r * r) + 0.1 * (w * w)


def fan_out(x):
    return x * x + jnp.sin(x) * x


def classifier(params, x, labels):
    logits = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    log_p = shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1))


def recurrent(w, xs):
    def step(h, x):
        h = jnp.tanh(w @ h + x)
        return h, h

    last, states = jax.lax.scan(step, jnp.zeros(3), xs)
    return jnp.sum(states * states) + jnp.sum(last)


def residual(ws, x):
    for w in ws:
        x = x + jnp.tanh(x @ w["w"]) * jnp.sin(x @ w["v"] + 1.0) / 2.0
    return jnp.sum((x - 1.0) * x)


def overflowing(x, y, unused):
    return jnp.log(x) * y + jnp.sqrt(x)


def _example(name):
    r = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(r.normal(size=shape), jnp.float32)

    params = {"w1": normal(5, 7), "b1": normal(1, 7), "w2": normal(7, 3)}
    ws = [{"w": normal(4, 4), "v": normal(4, 4)} for _ in range(6)]
    examples = {
        "board": (board, (-2.0, 5.0, -4.0)),
        "neuron": (neuron, (2.0, -1.0, -3.0, -2.0, -3.0)),
        "regularized": (regularized, (0.6, -0.2, 1.5, 1.0)),
        "fan_out": (fan_out, (1.5,)),
        "classifier": (classifier, (params, normal(4, 5), jnp.array([0, 2, 1, 1]))),
        "recurrent": (recurrent, (normal(3, 3), normal(4, 3))),
        "residual": (residual, (ws, normal(2, 4))),
        "overflowing": (overflowing, (0.0, 2.0, 3.0)),
    }
    fn, args = examples[name]
    return trace(fn, *args)


EXAMPLES = ("board", "neuron", "regularized", "fan_out", "classifier", "recurrent", "residual", "overflowing")


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request):
    return _example(request.param).backward()


@pytest.fixture(scope="module")
def board_graph():
    return _example("board").backward()


# Layout


def _overlap(a, b):
    return a[0] < b[2] - 0.05 and b[0] < a[2] - 0.05 and a[1] < b[3] - 0.05 and b[1] < a[3] - 0.05


def _along(wire):
    """Points of a wire, two pixels apart or less."""
    points = [(x, wire.y0) for x in np.arange(wire.x0, wire.x1, 2.0)]
    middle = (wire.x1 + wire.x2) / 2
    for t in np.linspace(0, 1, 100):
        b = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x = b[0] * wire.x1 + (b[1] + b[2]) * middle + b[3] * wire.x2
        points.append((x, (b[0] + b[1]) * wire.y0 + (b[2] + b[3]) * wire.y3))
    return points + [(x, wire.y3) for x in np.arange(wire.x2, wire.x3, 2.0)]


def collisions(picture: Scene) -> list[str]:
    """What lies on something else: texts and boxes on each other, wires on texts, wires through boxes."""
    boxes = {box.node: (box.x, box.y, box.x + box.width, box.y + box.height) for box in picture.boxes}
    found = [f"boxes {a} {b}" for a, b in itertools.combinations(boxes, 2) if _overlap(boxes[a], boxes[b])]
    for a, b in itertools.combinations(picture.texts, 2):
        if _overlap(a.rectangle, b.rectangle):
            found.append(f"texts {a.words!r} {b.words!r}")
    for written in picture.texts:
        left, top, right, bottom = written.rectangle
        if left < 0 or top < 0 or right > picture.width or bottom > picture.height:
            found.append(f"text {written.words!r} is cut")
        found += [
            f"{written.words!r} on box {i}"
            for i in boxes
            if i != written.node and _overlap(written.rectangle, boxes[i])
        ]
        if written.node is not None and picture.boxes:
            box = boxes[written.node]
            if left < box[0] or right > box[2] or top < box[1] or bottom > box[3]:
                found.append(f"{written.words!r} larger than its box")
    labels = [(repr(t.words), t.rectangle) for t in picture.texts if t.node is None]
    framed = {box.node for box in picture.boxes if box.frame != "none"}
    inner = [(f"box {i}", (a + 7, b + 1, c - 7, d - 1)) for i, (a, b, c, d) in boxes.items() if i in framed]
    for wire in picture.wires:
        points = np.array(_along(wire))
        for name, (left, top, right, bottom) in labels + inner:
            x, y = points[:, 0], points[:, 1]
            if np.any((x > left - 0.5) & (x < right + 0.5) & (y > top - 0.5) & (y < bottom + 0.5)):
                found.append(f"wire through {name}")
    return found


def _shapes(graph, **options):
    return scene(graph.nodes, graph.outputs, **options)


def test_nothing_overlaps(example):
    labels = {node.index: "distributes" for node in example.nodes if not node.is_leaf}
    picture = _shapes(example, title="a title", labels=labels)
    assert not collisions(picture)
    assert min(written.size for written in picture.texts) >= 11


def test_nothing_overlaps_before_the_sweep():
    picture = _shapes(_example("regularized"))
    assert not collisions(picture)
    assert RED not in {written.fill for written in picture.texts}


def test_collisions_are_found():
    picture = _shapes(_example("board").backward())
    moved = picture.texts[0]._replace(x=picture.texts[1].x, y=picture.texts[1].y, node=None)
    assert collisions(picture._replace(texts=[moved, *picture.texts[1:]]))
    label = next(written for written in picture.texts if written.words == "−12")
    left, top, right, bottom = label.rectangle
    middle = (top + bottom) / 2
    crossing = Wire(left - 5, left - 5, right, right + 5, middle, middle, INK, False)
    assert collisions(picture._replace(wires=[*picture.wires, crossing]))


def test_example_is_large():
    assert len(_example("residual").nodes) >= 60


def test_operands_are_left_of_those_that_use_them(example):
    picture = _shapes(example)
    left = {box.node: box.x for box in picture.boxes}
    for node in example.nodes:
        assert all(left[i] < left[node.index] for i in node.operands if i in left)


def test_wide_pictures_are_drawn_in_rows():
    graph = _example("residual")
    one, rows = _shapes(graph), _shapes(graph, row_width=1200.0)
    assert one.width > 4 * rows.width
    assert rows.width < 1500
    assert not collisions(rows)
    assert sorted(box.node for box in rows.boxes) == [box.node for box in one.boxes]
    letters = collections.Counter(t.words for t in rows.texts) - collections.Counter(t.words for t in one.texts)
    assert letters
    assert set(letters.values()) == {2}  # where a wire leaves a row and where it goes on
    length = sum(wire.x3 - wire.x0 for wire in one.wires)
    cut = sum(wire.x3 - wire.x0 for wire in rows.wires)
    assert length < cut <= length + 30 * sum(letters.values())  # nothing of a wire is lost
    assert sum(wire.arrow for wire in rows.wires) == sum(wire.arrow for wire in one.wires)


def test_no_crossing_where_none_is_needed():
    size = Size(10.0, 10.0, 10.0, 10.0, (0.0,))
    # Two chains whose first nodes are given in the other order than their second ones.
    layout = arrange([size] * 6, [(0, 3, 0), (1, 2, 0), (2, 4, 0), (3, 5, 0)])
    assert (layout.y[0] < layout.y[1]) == (layout.y[3] < layout.y[2])
    assert all(segment.y[0] == segment.y[1] for segment in layout.segments)


def test_long_wires_pass_other_nodes():
    size = Size(10.0, 10.0, 10.0, 10.0, (0.0,))
    last = size._replace(ports=(-5.0, 5.0))
    layout = arrange([size, size, size, last], [(0, 1, 0), (1, 2, 0), (2, 3, 0), (0, 3, 1)])
    for segment in layout.segments:
        if segment.target is None:
            others = [y for x, y in zip(layout.x, layout.y, strict=True) if x == segment.end]
            assert all(abs(segment.y[1] - y) > 10 for y in others)


def test_order_of_operands():
    """What is subtracted enters below; what is added, in any order."""

    def difference(y, x):
        return x - y

    picture = _shapes(trace(difference, 3.0, 4.0))
    y = {written.words: written.y for written in picture.texts}
    assert y["x"] < y["y"]


# Contents


def _words(picture, color):
    return sorted(written.words for written in picture.texts if written.fill == color and written.size == 12)


def test_numbers_of_the_board(board_graph):
    picture = _shapes(board_graph)
    assert _words(picture, GREEN) == sorted(["−2", "5", "−4", "3", "−12"])
    assert _words(picture, RED) == sorted(["−4", "−4", "3", "−4", "1"])  # of x, y, z, q and the result
    values = {written.words: written.y for written in picture.texts}
    assert values["−12"] < values["1"]  # the gradient is below
    assert {"x", "y", "z", "+", "×", "q = "} <= set(values)


def test_sum_and_shares():
    picture = _shapes(_example("fan_out").backward())
    x = 1.5
    shares = [x, x, np.sin(x), np.cos(x) * x]
    told = _words(picture, RED)
    assert text(sum(shares)) in told
    for share in {text(share) for share in shares}:
        assert share in told
    assert _words(picture, GREEN).count("1.5") == 1


def test_literals_are_in_the_boxes_of_their_operations():
    words = {written.words for written in _shapes(_example("neuron")).texts if written.node is not None}
    assert {"1 ÷", "exp"} <= words
    assert "1" not in words
    graph = trace(lambda x: jnp.maximum(x * 2.0, 0.0) - 3.0, 1.0)
    words = {written.words for written in _shapes(graph).texts}
    assert {"× 2", "max 0", "− 3"} <= words or {"2 ×", "max 0", "− 3"} <= words


def test_no_gradient_is_pale():
    picture = _shapes(_example("classifier").backward())
    strokes = {box.stroke for box in picture.boxes}
    assert strokes == {PALE, INK}
    assert {wire.stroke for wire in picture.wires} >= {PALE, INK}
    assert PALE not in {box.stroke for box in _shapes(_example("classifier")).boxes}


def test_loops_and_folded_nodes_have_double_frames():
    picture = _shapes(_example("recurrent"))
    assert [box.frame for box in picture.boxes].count("double") == 1
    assert "(4 steps)" in {written.words for written in picture.texts}
    x = Node(0, INPUT, (), jnp.float32(2.0), name="x")
    members = tuple(Node(i, "sin", (0,), x.value) for i in (1, 2, 3))
    folded = Node(1, "input", (0,), jnp.float32(3.0), name="y", inside=(x, *members))  # a function of this name
    picture = scene([x, folded], [1])
    assert {"input", "(3 operations)", "y = ", "3"} <= {written.words for written in picture.texts}
    assert [box.frame for box in picture.boxes] == ["none", "double"]


def test_functions_with_derivatives_of_their_own_are_named():
    picture = _shapes(trace(lambda x: jax.nn.relu(x), 1.0))
    assert {"relu", "(own derivative)"} <= {written.words for written in picture.texts}


def test_what_is_not_finite_is_marked():
    picture = _shapes(_example("overflowing").backward())
    assert {written.words for written in picture.texts if written.alarm} == {"inf", "−inf"}
    assert not any(written.alarm for written in _shapes(_example("board").backward()).texts)


# Files


def test_svg(example, tmp_path):
    draw(example.nodes, example.outputs, tmp_path / "graph.svg", title="f < g & h")
    root = ET.parse(tmp_path / "graph.svg").getroot()
    written = [element.text for element in root.iter(f"{SVG}text")]
    picture = _shapes(example, title="f < g & h", row_width=1600.0)
    assert written == [t.words for t in picture.texts]
    assert float(root.get("width")) == picture.width
    tooltips = [element.text for element in root.iter(f"{SVG}title")][1:]
    assert len(tooltips) == len(picture.boxes)
    assert all("value" in tooltip for tooltip in tooltips)


def test_names_are_escaped(tmp_path):
    nasty = """params['w']["<lambda>"] & \\ $x_1$"""
    x = Node(0, INPUT, (), jnp.float32(2.0), name=nasty[:24], source="file.py:1 (<lambda>)")
    y = Node(1, "sin\x00", (0,), jnp.float32(3.0), name="<b>", source='"\\')
    draw([x, y], [1], tmp_path / "graph.svg", title=nasty, labels={1: "<&>"})
    written = [element.text for element in ET.parse(tmp_path / "graph.svg").getroot().iter(f"{SVG}text")]
    assert {nasty, nasty[:24], "<b> = ", "<&>"} <= set(written)
    draw([x, y], [1], tmp_path / "graph.png", title=nasty)
    source = to_dot([x, y], [1], title=nasty)
    assert _unquoted(source).count('"') == 0
    assert "&lt;b&gt; = 3" in source


def test_png(board_graph, tmp_path):
    draw(board_graph.nodes, board_graph.outputs, tmp_path / "graph.png")
    picture = _shapes(board_graph)
    pixels = image.imread(tmp_path / "graph.png")
    assert pixels.shape[:2] == (2 * picture.height, 2 * picture.width)
    for color in (GREEN, RED, INK):
        rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert np.any(np.all(np.abs(pixels[..., :3] - rgb) < 0.02, axis=-1))


def test_same_bytes_twice(example, tmp_path):
    for name in ("a.svg", "b.svg"):
        draw(example.nodes, example.outputs, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_existing_file_is_replaced(board_graph, tmp_path):
    (tmp_path / "graph.SVG").write_text("earlier")
    draw(board_graph.nodes, board_graph.outputs, str(tmp_path / "graph.SVG"))
    assert (tmp_path / "graph.SVG").read_text().startswith("<?xml")
    assert [file.name for file in tmp_path.iterdir()] == ["graph.SVG"]


def test_errors(board_graph, tmp_path, monkeypatch):
    nodes, outputs = board_graph.nodes, board_graph.outputs
    with pytest.raises(ValueError, match=r"'\.pdf'.*expected \.svg or \.png"):
        draw(nodes, outputs, tmp_path / "graph.pdf")
    with pytest.raises(ValueError, match="suffix ''"):
        draw(nodes, outputs, tmp_path / "graph")
    with pytest.raises(FileNotFoundError, match="no folder"):
        draw(nodes, outputs, tmp_path / "missing" / "graph.svg")
    with pytest.raises(ValueError, match="expected index 0"):
        draw(nodes[1:], [0], tmp_path / "graph.svg")
    with pytest.raises(ValueError, match="output 9"):
        draw(nodes, [9], tmp_path / "graph.svg")
    plain = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r"pip install matplotlib.*\.svg"):
        draw(nodes, outputs, tmp_path / "graph.png")
    assert not list(tmp_path.iterdir())


def test_degenerate_graphs(tmp_path):
    draw([], [], tmp_path / "empty.svg")
    x = Node(0, INPUT, (), jnp.float32(2.0), name="x")
    one = Node(1, LITERAL, (), jnp.float32(1.0))
    for outputs in ([0], [0, 0], [0, 1], []):
        picture = scene([x, one], outputs)
        assert not collisions(picture)
        assert ("1" in {written.words for written in picture.texts}) == (1 in outputs)
        assert sum(wire.arrow for wire in picture.wires) == len(set(outputs))


def _unquoted(source):
    return re.sub(r'"(?:[^"\\]|\\.)*"', "", source, flags=re.DOTALL)


def test_dot(example):
    source = to_dot(example.nodes, example.outputs, title='a "title"\\')
    assert '"' not in _unquoted(source)
    assert source.count("{") == source.count("}")
    declared = set(re.findall(r"^  n(\d+) \[", source, flags=re.MULTILINE))
    assert declared == {str(box.node) for box in _shapes(example).boxes}
    used = set(re.findall(r"\bn(\d+) -> ", source)) | set(re.findall(r" -> n(\d+)", source))
    assert used <= declared


def test_dot_has_the_numbers_of_the_board(board_graph):
    source = to_dot(board_graph.nodes, board_graph.outputs)
    assert f'<font color="{GREEN}">q = 3</font><br/><font color="{RED}">−4</font>' in source
    assert f'<font color="{GREEN}">−12</font><br/><font color="{RED}">1</font>' in source


# Values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-12.0, "−12"),
        (0.19661194, "0.1966"),
        (jnp.float32(0.1), "0.1"),
        (jnp.bfloat16(-0.5), "−0.5"),
        (np.float16(2.5), "2.5"),
        (1.2e-5, "1.2·10⁻⁵"),
        (-1e-5, "−10⁻⁵"),
        (1e7, "10⁷"),
        (9.99996e-6, "10⁻⁵"),
        (1e-4, "0.0001"),
        (0.99999, "1"),
        (123456.7, "123457"),
        (-0.0, "0"),
        (10.0, "10"),
        (100, "100"),
        (-1234567, "−1234567"),
        (True, "True"),
        (np.bool_(False), "False"),
        (np.float32("nan"), "nan"),
        (-np.inf, "−inf"),
        (1 - 2j, "1 − 2i"),
        (None, "–"),
        (np.zeros((2,), jax.dtypes.float0), "–"),
        (np.array([1.5]), "[1.5]"),
        (np.array([1, -2, 0.5]), "[1, −2, 0.5]"),
        (np.array([[1.0, 2.0]]), "[[1, 2]]"),
        (np.zeros((2, 0)), "[2, 0] empty"),
        (np.arange(4, dtype=np.int32), "[4] int32"),
        (np.ones((4, 4), bool), "[4, 4] bool"),
        (np.full((4, 4), 3.0), "[4, 4] ‖·‖ 12"),
        (np.full((4,), 1e300), "[4] ‖·‖ 2·10³⁰⁰"),
        (np.full((4,), np.nan), "[4] ‖·‖ nan"),
        (np.full((4,), 3 + 4j), "[4] ‖·‖ 10"),
        ((1.0, np.array([2.0])), "(1, [2])"),
    ],
)
def test_text(value, expected):
    assert text(value) == expected
    assert text(jnp.asarray(value) if isinstance(value, int | np.bool_) else value) == expected


def test_text_of_jax_arrays():
    assert text(jnp.full((4, 4), 3.0, jnp.bfloat16)) == "[4, 4] ‖·‖ 12"
    assert text(jax.random.key(0)) == "key"
    assert text(jax.random.split(jax.random.key(0), 5)) == "[5] key"
    assert text(0.123456, digits=2) == "0.123"


def test_is_finite():
    assert is_finite((jnp.ones(3), jax.random.key(0), None, 3, jnp.bfloat16(2)))
    assert not is_finite((jnp.ones(3), jnp.array([1.0, jnp.nan])))
    assert not is_finite(jnp.bfloat16(jnp.inf))
