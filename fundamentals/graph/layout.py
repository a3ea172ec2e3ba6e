"""Where the nodes of a graph are drawn: in layers from left to right, wires short, straight and seldom crossing.

The method of Sugiyama, Tagawa and Toda (1981), in its four steps:

1. layers: a node is one to the right of the last of its operands, and leaves move right to where they are used;
2. wires that skip layers get a bend point in each: one for all wires of a node, which leave it as one bus;
3. order within layers: barycenters, then exchanges of neighbours, as long as crossings become fewer;
4. coordinates: least squares of the wires' slopes under minimal distances. With the neighbouring layers given, that is
   an isotonic regression for each layer, solved exactly; then what is nearly straight is made so.

Sizes are distances from a node's center, in which whatever belongs to the node, labels too, must fit.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_BEND = 7.0  # half the height that a wire takes which passes through a layer
_DISTANCE = 8.0  # between what two nodes of a layer take
_STAY = 2  # a leaf in the first layer stays there, as on the board, if it is used at most so many layers too late
_SWEEPS, _SETTLING, _STRAIGHTENING = 12, 60, 9


class Size(NamedTuple):
    """What a node takes to each side of its center."""

    left: float
    right: float
    up: float
    down: float
    ports: tuple[float, ...] = ()  # heights at which its operands enter, relative to its center, top first
    free: bool = False  # operands may enter in any order


class Segment(NamedTuple):
    """A piece of wire between two neighbouring layers: level, then a bend, then level again."""

    source: int | None  # node that it begins at; None at a bend point of a longer wire
    target: int | None  # node that it ends at
    uses: tuple[int, ...]  # indices of the wires that run through it
    begin: float  # x; the center of a layer
    bend: tuple[float, float]  # x from where to where it leaves its level
    end: float  # x; the center of the next layer
    y: tuple[float, float]  # at its begin and end


class Layout(NamedTuple):
    """Centers of nodes, and the wires between them."""

    x: list[float]
    y: list[float]
    segments: list[Segment]
    ports: list[float]  # y at which each wire enters its target
    width: float
    height: float


class _Layers(NamedTuple):
    rows: list[list[int]]  # items of each layer: nodes, then bend points numbered after them
    layer: list[int]  # of each item
    edges: dict[tuple[int, int], list[int]]  # between items of neighbouring layers: the wires that run through
    ends: list[int]  # of each wire: the item before its target


def arrange(sizes: Sequence[Size], wires: Sequence[tuple[int, int, int]]) -> Layout:
    """Coordinates for a graph.

    Args:
      sizes: of each node.
      wires: from node to node, and which of the target's ports it enters; sources are before targets.
    """
    if not sizes:
        return Layout([], [], [], [], 0.0, 0.0)
    layers = _with_bends(_layers(len(sizes), wires), wires)
    rows = _ordered(layers, sizes, wires)
    ports = _ports(rows, layers, sizes, wires)
    heights = _heights(rows, layers, sizes, wires, ports)
    return _placed(rows, layers, sizes, wires, ports, heights)


# 1. Layers


def _layers(count: int, wires: Sequence[tuple[int, int, int]]) -> list[int]:
    layer = [0] * count
    for source, target, _ in sorted(wires, key=lambda wire: wire[1]):
        layer[target] = max(layer[target], layer[source] + 1)
    targets: list[list[int]] = [[] for _ in range(count)]
    operands: list[set[int]] = [set() for _ in range(count)]
    for source, target, _ in wires:
        targets[source].append(target)
        operands[target].add(source)
    # A node moves right if no wire becomes longer by it: it is a leaf, or all that it uses moves with it.
    light = [False] * count
    for node in range(count):
        light[node] = all(light[i] and len(set(targets[i])) == 1 for i in operands[node])
    for node in reversed(range(count)):
        if light[node] and targets[node]:
            last = min(layer[target] for target in targets[node]) - 1
            if operands[node] or last - layer[node] > _STAY:
                layer[node] = last
    used = {number: place for place, number in enumerate(sorted(set(layer)))}
    return [used[number] for number in layer]


# 2. Bend points


def _with_bends(layer: list[int], wires: Sequence[tuple[int, int, int]]) -> _Layers:
    layer, count = list(layer), len(layer)
    bends: dict[tuple[int, int], int] = {}
    edges: dict[tuple[int, int], list[int]] = {}
    ends = []
    for wire, (source, target, _) in enumerate(wires):
        at = source
        for number in range(layer[source] + 1, layer[target]):
            if (source, number) not in bends:
                bends[source, number] = len(layer)
                layer.append(number)
            edges.setdefault((at, bends[source, number]), []).append(wire)
            at = bends[source, number]
        edges.setdefault((at, target), []).append(wire)
        ends.append(at)
    rows: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    origin = list(range(count)) + [0] * len(bends)
    for (source, _), item in bends.items():
        origin[item] = source
    for item in sorted(range(len(layer)), key=lambda item: (origin[item], item)):
        rows[layer[item]].append(item)
    return _Layers(rows, layer, edges, ends)


# 3. Order


def _ordered(layers: _Layers, sizes: Sequence[Size], wires: Sequence[tuple[int, int, int]]) -> list[list[int]]:
    """Items of each layer, top first: the best order that was met, from two to begin with."""
    before, after = _neighbours(layers, sizes, wires)
    best = layers.rows
    fewest = _crossings(best, after)
    for rows in (layers.rows, _depth_first(layers, before)):
        rows = [list(row) for row in rows]
        for sweep in range(_SWEEPS):
            if fewest == 0:
                return best
            forward = sweep % 2 == 0
            for number in range(1, len(rows)) if forward else range(len(rows) - 2, -1, -1):
                fixed = rows[number - 1] if forward else rows[number + 1]
                if sweep % 4 > 1:
                    rows[number].reverse()  # equal barycenters keep their order, which may be the wrong one
                _by_barycenter(rows[number], fixed, before if forward else after)
            _exchange(rows, before, after)
            crossings = _crossings(rows, after)
            if crossings < fewest:
                best, fewest = [list(row) for row in rows], crossings
    return best


_Neighbours = list[list[tuple[int, float]]]  # of each item: another, and where between it and the next its port is


def _neighbours(
    layers: _Layers, sizes: Sequence[Size], wires: Sequence[tuple[int, int, int]]
) -> tuple[_Neighbours, _Neighbours]:
    """Of each item: those in the layer before and after it, with ports as fractions of a place."""
    before: _Neighbours = [[] for _ in layers.layer]
    after: _Neighbours = [[] for _ in layers.layer]
    for (a, b), uses in layers.edges.items():
        for wire in uses if b < len(sizes) else uses[:1]:  # a bus is one line
            size = sizes[b] if b < len(sizes) else None
            middle = size is None or size.free or len(size.ports) < 2
            port = 0.5 if middle or size is None else (wires[wire][2] + 1) / (len(size.ports) + 1)
            before[b].append((a, 0.5))
            after[a].append((b, port))
    return before, after


def _depth_first(layers: _Layers, before: _Neighbours) -> list[list[int]]:
    """From the results back: what belongs to one term stays together."""
    rows: list[list[int]] = [[] for _ in layers.rows]
    seen: set[int] = set()
    stack = [item for row in layers.rows for item in reversed(row)]
    while stack:
        item = stack.pop()
        if item not in seen:
            seen.add(item)
            rows[layers.layer[item]].append(item)
            stack += [a for a, _ in reversed(before[item])]
    return rows


def _by_barycenter(row: list[int], fixed: list[int], neighbours: _Neighbours) -> None:
    place = {item: i for i, item in enumerate(fixed)}
    scale = len(fixed) / max(len(row), 1)
    mean = {}
    for i, item in enumerate(row):
        met = [place[other] + port for other, port in neighbours[item]]
        mean[item] = sum(met) / len(met) if met else (i + 0.5) * scale
    row.sort(key=mean.__getitem__)


def _exchange(rows: list[list[int]], before: _Neighbours, after: _Neighbours) -> None:
    """Neighbours in a layer change places where that saves crossings."""
    for number, row in enumerate(rows):
        left = {item: i for i, item in enumerate(rows[number - 1])} if number else {}
        right = {item: i for i, item in enumerate(rows[number + 1])} if number + 1 < len(rows) else {}
        for _ in range(3):
            changed = False
            for i in range(len(row) - 1):
                saved = 0
                for place, neighbours in ((left, before), (right, after)):
                    upper = sorted(place[a] + port for a, port in neighbours[row[i]])
                    lower = sorted(place[a] + port for a, port in neighbours[row[i + 1]])
                    saved += _inversions(upper, lower) - _inversions(lower, upper)
                if saved > 0:
                    row[i], row[i + 1], changed = row[i + 1], row[i], True
            if not changed:
                break


def _inversions(upper: list[float], lower: list[float]) -> int:
    """Pairs in which the wire of the upper item ends below that of the lower one."""
    return sum(len(upper) - bisect_right(upper, end) for end in lower)


def _crossings(rows: list[list[int]], after: _Neighbours) -> int:
    total = 0
    for row, following in pairwise(rows):
        place = {item: i for i, item in enumerate(following)}
        met: list[float] = []
        for item in row:
            ends = sorted(place[b] + port for b, port in after[item])
            total += sum(len(met) - bisect_right(met, end) for end in ends)
            for end in ends:
                insort(met, end)
    return total


def _ports(
    rows: list[list[int]], layers: _Layers, sizes: Sequence[Size], wires: Sequence[tuple[int, int, int]]
) -> list[float]:
    """Of each wire: where it enters, relative to the center of its target."""
    place = {item: i for row in rows for i, item in enumerate(row)}
    found = [sizes[target].ports[port] for _, target, port in wires]
    into: dict[int, list[int]] = {}
    for wire, (_, target, _) in enumerate(wires):
        into.setdefault(target, []).append(wire)
    for target, those in into.items():
        if sizes[target].free:
            those.sort(key=lambda wire: (place[layers.ends[wire]], wires[wire][2]))
            for wire, port in zip(those, sizes[target].ports, strict=True):
                found[wire] = port
    return found


# 4. Coordinates


def _heights(
    rows: list[list[int]],
    layers: _Layers,
    sizes: Sequence[Size],
    wires: Sequence[tuple[int, int, int]],
    ports: Sequence[float],
) -> list[float]:
    """The y of each item."""
    count = len(sizes)
    near: list[list[tuple[int, float, float, bool]]] = [[] for _ in layers.layer]  # other, offset, weight, earlier
    for (a, b), uses in layers.edges.items():
        weight = 1.0 + 2.0 * (a >= count) + 5.0 * (a >= count and b >= count)  # long wires are straight first
        for wire in uses if b < count else uses[:1]:
            port = ports[wire] if b < count else 0.0
            near[b].append((a, -port, weight, True))
            near[a].append((b, port, weight, False))
    gaps = []
    for row in rows:
        extents = [(sizes[i].up, sizes[i].down) if i < count else (_BEND, _BEND) for i in row]
        gaps.append([down + up + _DISTANCE for (_, down), (up, _) in pairwise(extents)])
    y = [0.0] * len(layers.layer)
    for row, between in zip(rows, gaps, strict=True):
        at = -sum(between) / 2
        for item, step in zip(row, [*between, 0.0], strict=True):
            y[item] = at
            at += step
    for sweep in range(_SETTLING):
        forward = sweep % 2 == 0
        for number in range(len(rows)) if forward else range(len(rows) - 1, -1, -1):
            wanted, weights = [], []
            for item in rows[number]:
                # First from one side only, which carries news through the whole graph; then from both.
                those = [n for n in near[item] if n[3] == forward] if sweep < _SETTLING // 3 else near[item]
                goals = [(y[other] + offset, weight) for other, offset, weight, _ in those or near[item]]
                mass = sum(weight for _, weight in goals)
                wanted.append(sum(goal * weight for goal, weight in goals) / mass if goals else y[item])
                weights.append(mass or 0.01)
            for item, found in zip(rows[number], _apart(wanted, weights, gaps[number]), strict=True):
                y[item] = found
    _straighten(rows, near, gaps, y)
    return y


def _straighten(
    rows: list[list[int]], near: list[list[tuple[int, float, float, bool]]], gaps: list[list[float]], y: list[float]
) -> None:
    """Of the wires that enter an item, that which is nearly straight becomes so; of a leaf, the one that leaves it."""
    for sweep in range(_STRAIGHTENING):
        forward = sweep % 2 == 0
        for number in range(len(rows)) if forward else range(len(rows) - 1, -1, -1):
            wanted, weights = [], []
            for item in rows[number]:
                entering = [n for n in near[item] if n[3]]
                goals = [(y[other] + offset, weight) for other, offset, weight, _ in entering or near[item]]
                heaviest = max((weight for _, weight in goals), default=0.0)
                goals = [goal for goal in goals if goal[1] == heaviest]
                wanted.append(min(goals, key=lambda goal: abs(goal[0] - y[item]))[0] if goals else y[item])
                weights.append((heaviest if entering else 1e-3 * heaviest) or 1e-3)
            for item, found in zip(rows[number], _apart(wanted, weights, gaps[number]), strict=True):
                y[item] = found


def _apart(wanted: list[float], weights: list[float], gaps: list[float]) -> list[float]:
    """The positions nearest to those wanted, in weighted squares, with at least these gaps between them.

    Isotonic regression, by pooling of neighbours that would violate a gap.
    """
    blocks: list[tuple[float, float, int]] = []  # position without gaps, weight, number of items
    offset, offsets = 0.0, []
    for i, (goal, weight) in enumerate(zip(wanted, weights, strict=True)):
        offset += gaps[i - 1] if i else 0.0
        offsets.append(offset)
        at, mass, size = goal - offset, weight, 1
        while blocks and blocks[-1][0] > at:
            other, other_mass, other_size = blocks.pop()
            at = (at * mass + other * other_mass) / (mass + other_mass)
            mass, size = mass + other_mass, size + other_size
        blocks.append((at, mass, size))
    flat = [at for at, _, size in blocks for _ in range(size)]
    return [at + offset for at, offset in zip(flat, offsets, strict=True)]


def _placed(
    rows: list[list[int]],
    layers: _Layers,
    sizes: Sequence[Size],
    wires: Sequence[tuple[int, int, int]],
    ports: Sequence[float],
    heights: list[float],
) -> Layout:
    """Columns as wide as what is in them, and between them as much as the bends of the wires need."""
    count = len(sizes)
    top = min(y - (sizes[i].up if i < count else _BEND) for i, y in enumerate(heights))
    y = [round(height - top, 1) for height in heights]
    bottom = max(at + (sizes[i].down if i < count else _BEND) for i, at in enumerate(y))
    left = [max((sizes[i].left for i in row if i < count), default=0.0) for row in rows]
    right = [max((sizes[i].right for i in row if i < count), default=0.0) for row in rows]
    steepest = [0.0] * len(rows)  # bend in the gap after each layer
    pieces = []
    for (a, b), uses in layers.edges.items():
        for part in [(wire,) for wire in uses] if b < count else [tuple(uses)]:
            end = y[b] + ports[part[0]] if b < count else y[b]
            steepest[layers.layer[a]] = max(steepest[layers.layer[a]], abs(end - y[a]))
            pieces.append((a, b, part, y[a], end))
    center, gap = [left[0]], []
    for number in range(len(rows) - 1):
        bend = 16.0 + min(0.35 * steepest[number], 90.0)
        gap.append((center[-1] + right[number], center[-1] + right[number] + bend))
        center.append(gap[-1][1] + left[number + 1])
    segments = [
        Segment(
            a if a < count else None,
            b if b < count else None,
            part,
            center[layers.layer[a]],
            gap[layers.layer[a]],
            center[layers.layer[b]],
            (begin, end),
        )
        for a, b, part, begin, end in pieces
    ]
    entry = [y[target] + ports[wire] for wire, (_, target, _) in enumerate(wires)]
    x = [center[layers.layer[i]] for i in range(count)]
    return Layout(x, y[:count], segments, entry, center[-1] + right[-1], bottom)
