"""Reading what XLA made of a program: its text, in which every computation lists its instructions.

    %body.3 (p.1: (s32[], f32[64,32])) -> (s32[], f32[64,32]) {
      %dot.2 = f32[64,32]{1,0} dot(%x.1, %w.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    }
    ENTRY %main.5 (...) -> f32[64,32] {
      %while.4 = (s32[], f32[64,32]) while(%tuple), body=%body.3, ..., backend_config={"known_trip_count":{"n":"7"}}
    }

Matrix products stand anywhere in the graph of calls that starts at ENTRY: in fusions, in bodies of loops, and as calls
of a library by name.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fundamentals._flops import is_matmul, window_pairs


class Cost(NamedTuple):
    """The matrix products that one run of a computation executes; what counts as one: `program.Counts`."""

    matmuls: int = 0
    flops: int = 0
    unknown: tuple[str, ...] = ()  # loops with matmuls whose number of trips is not known: counted once
    branches: int = 0  # conditionals with matmuls, of which the most expensive case is counted
    others: tuple[str, ...] = ()  # calls of libraries that are no product known here: not counted


class _Instruction(NamedTuple):
    name: str
    shape: tuple[int, ...]  # of the first result
    operation: str
    operands: tuple[str, ...]
    attributes: str  # what follows the operands


# "ENTRY %main.5 (a.1: f32[3]) -> f32[3] {", at the start of a line; other lines of a module end otherwise.
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
# "  ROOT %dot.2 = " and what follows.
_NAMED = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
# "f32[64,32]", in which a size may be dynamic: "f32[<=64]".
_SHAPE = re.compile(r"\w+\[([\d,<=]*)\]")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
# An operand is "%x.1", in older versions "f32[64,32]{1,0} %x.1".
_OPERAND = re.compile(r"%([\w.\-]+)")
# "calls=%fused_computation", "body=%region_0", "to_apply=%add": computations that an instruction runs.
_CALLED = re.compile(r"\b(?:calls|body|condition|to_apply)=%?([\w.\-]+)")
# "branch_computations={%region_0, %region_1}", or of two cases by name.
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# "window={size=3x3 stride=2x2 pad=1_1x0_2 lhs_dilate=2x2 rhs_dilate=1x1}"; what is left out is 1, or 0 of padding.
_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
# "dim_labels=b01f_01io->b01f": the axes of image, kernel and result; digits are spatial.
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")


def cost(text: str) -> Cost:
    """The matrix products of a compiled program, from its text."""
    entry, computations = _parse(text)
    known: dict[str, Cost] = {}

    def of(name: str) -> Cost:
        if name not in known:
            shapes = {x.name: x.shape for x in computations.get(name, ())}
            known[name] = _sum([_instruction(x, shapes, of) for x in computations.get(name, ())])
        return known[name]

    return of(entry)


def _sum(costs: Sequence[Cost], times: int = 1) -> Cost:
    unknown, others = (
        tuple(dict.fromkeys(x for c in costs for x in getattr(c, name))) for name in ("unknown", "others")
    )
    return Cost(
        times * sum(c.matmuls for c in costs),
        times * sum(c.flops for c in costs),
        unknown,
        sum(c.branches for c in costs),
        others,
    )


def _instruction(x: _Instruction, shapes: dict[str, tuple[int, ...]], of: Callable[[str], Cost]) -> Cost:
    """Of one instruction and what it calls, where `of` gives the cost of a computation by name."""
    if x.operation.endswith(("-done", "-update")):  # of what has been counted where it starts
        return Cost()
    if x.operation == "dot":
        return _dot(x, shapes)
    if x.operation == "convolution":
        return _convolution(x.attributes, shapes[x.operands[0]], shapes[x.operands[1]], x.shape)
    if x.operation == "custom-call":
        return _library(x, shapes)
    branches = _BRANCHES.search(x.attributes)
    cases = _OPERAND.findall(branches[1]) if branches else _TWO_BRANCHES.findall(x.attributes)
    if cases:
        most = max((of(case) for case in cases), key=lambda c: (c.flops, c.matmuls))
        return most._replace(branches=most.branches + (most.flops > 0))
    called = _sum([of(name) for name in _CALLED.findall(x.attributes)])
    if x.operation != "while" or not called.flops:
        return called
    trips = _TRIPS.search(x.attributes)
    if trips:
        return _sum([called], int(trips[1]))
    name = _NAME.search(x.attributes)
    return called._replace(unknown=(*called.unknown, f"{name[1]} ({x.name})" if name else x.name))


def _dot(x: _Instruction, shapes: dict[str, tuple[int, ...]]) -> Cost:
    left = shapes[x.operands[0]]
    contracted, batch = (
        math.prod(left[i] for i in _numbers(rf"\blhs_{kind}_dims=\{{([\d,]*)\}}", x.attributes))
        for kind in ("contracting", "batch")
    )
    return _product(contracted, math.prod(x.shape), batch)


def _product(contracted: int, result: int, batch: int) -> Cost:
    return Cost(int(is_matmul(contracted, result, batch)), 2 * contracted * result)


def _convolution(attributes: str, image: Sequence[int], kernel: Sequence[int], result: Sequence[int]) -> Cost:
    window = _WINDOW.search(attributes)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    labels = _LABELS.search(attributes)
    if labels is None:
        return Cost()
    axes = [{label: i for i, label in enumerate(part)} for part in labels.groups()]
    pairs = 1
    for k in range(len(kernel) - 2):

        def field(name: str, default: str, k: int = k) -> str:
            return fields[name].split("x")[k] if name in fields else default

        before = int(field("pad", "0_0").split("_")[0])
        stride, spread, dilation = (int(field(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
        i, j, o = (shape[axis[str(k)]] for shape, axis in zip((image, kernel, result), axes, strict=True))
        pairs *= window_pairs(i, j, o, stride, before, spread, dilation)
    return Cost(1, 2 * result[axes[2]["b"]] * kernel[axes[1]["i"]] * kernel[axes[1]["o"]] * pairs)


def _library(x: _Instruction, shapes: dict[str, tuple[int, ...]]) -> Cost:
    """A call of cuBLAS, cuDNN, oneDNN or another library by name."""
    found = _TARGET.search(x.attributes)
    target = found[1] if found else x.name
    operands = [shapes[name] for name in x.operands]
    if "conv" in target and "__cudnn$" in target and len(operands) > 1:
        # Axes are labelled as those of the forward pass, of which a gradient is an operand.
        first, second = operands[:2]
        if "BackwardInput" in target:
            return _convolution(x.attributes, x.shape, second, first)
        if "BackwardFilter" in target:
            return _convolution(x.attributes, first, x.shape, second)
        return _convolution(x.attributes, first, second, x.shape)
    if re.search("gemm|matmul", target, re.IGNORECASE) and len(operands) > 1:
        left, right = operands[:2]
        contracted = _numbers(r'"lhs_contracting_dimensions":\[([\d",]*)\]', x.attributes)
        batch = math.prod(left[i] for i in _numbers(r'"lhs_batch_dimensions":\[([\d",]*)\]', x.attributes))
        if contracted:
            return _product(math.prod(left[i] for i in contracted), math.prod(x.shape), batch)
        # [B, M, K] · [B, K, N] → [B, M, N], however they are transposed: BMK · BKN / BMN = BK²
        batch = math.prod(x.shape[:-2])
        squared = math.prod(left) * math.prod(right) // max(math.prod(x.shape) * batch, 1)
        return _product(math.isqrt(squared), math.prod(x.shape), batch)
    return Cost(others=(target,))


def _numbers(pattern: str, text: str) -> list[int]:
    """The list of numbers in the one group of a pattern."""
    found = re.search(pattern, text)
    return [int(number) for number in re.findall(r"\d+", found[1])] if found else []


def _parse(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    """The name of the entry computation, and the instructions of all."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif current and (named := _NAMED.match(line)):
            instruction = _parse_instruction(named[1], named[2])
            if instruction:
                computations[current].append(instruction)
    return entry, computations


def _parse_instruction(name: str, text: str) -> _Instruction | None:
    end = _closing(text, 0) if text.startswith("(") else text.find(" ")  # a tuple of shapes, or one
    operation = _OPERATION.match(text, end)
    if operation is None:
        return None
    shape = _SHAPE.search(text, 0, end)
    close = _closing(text, operation.end() - 1)
    operands = tuple(_OPERAND.findall(text[operation.end() : close]))
    sizes = tuple(int(size.strip("<=")) for size in shape[1].split(",") if size) if shape else ()
    return _Instruction(name, sizes, operation[1], operands, text[close:])


def _closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at a place."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i + 1
    return len(text)
