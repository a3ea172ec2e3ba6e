"""Points at which a wrong gradient is explained: all values, all cotangents, and how each of them reaches the gradient.

A hypothesis is a change δ of the cotangents of some edges. Along a random direction u of an argument, it changes the
gradient by ⟨u, T_e δ⟩ = ⟨ẋ_e, δ⟩, where ẋ_e is the tangent that u gives the value of the edge. With a dozen directions
for each argument, tangents once computed, a hypothesis costs one small product, so thousands can be tried. One that
fits is then evaluated in full, there and at fresh points.
"""

import linecache
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import compiled, precisely, restrict
from fundamentals.gradcheck.fits import Known
from fundamentals.gradcheck.naming import short, source
from fundamentals.gradcheck.operators import DERIVATIVES, wrong_cotangents
from fundamentals.gradcheck.rounding import Probe, ends_by_condition
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.sweep import Edge, Sweep, compile_sweep, is_complex, is_inexact
from fundamentals.gradcheck.view import View, Wrong
from fundamentals.program import Program, evaluate, execute

DIRECTIONS = 12
_SAME_THING = {"broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "copy", "stop_gradient"}
_TITLES = {
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_min": "min",
    "dot_general": "matmul",
    "logistic": "sigmoid",
    "select_n": "where",
    "integer_pow": "power",
    "conv_general_dilated": "convolution",
    "broadcast_in_dim": "broadcast",
    "mul": "*",
    "add": "+",
    "sub": "-",
    "div": "/",
    "neg": "-",
}


def title(equation: Any) -> str:
    """What a primitive is called in a user's file."""
    name = str(equation.primitive.name)
    return _TITLES.get(name, name)


class OutOfTimeError(Exception):
    """The search for causes took longer than it may."""


class Scene(NamedTuple):
    """A probe with the reverse sweep at it."""

    probe: Probe
    swept: Sweep | None
    run: Callable[..., Sweep]  # (additions, gates, others)

    @property
    def sweep(self) -> Sweep:
        """`swept`, where there has to be one."""
        assert self.swept is not None
        return self.swept


class Stage:
    """A program and what is found about it once: names, edges, compiled sweeps."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.program = problem.program
        self.names: dict[Any, str] = {}
        self.edges: list[Edge] = []
        self.depending: frozenset[str] = frozenset()
        self.edges_of: dict[Any, list[Edge]] = {}  # every use of a floating value
        self.memory: dict[Any, Any] = {}  # what several searches ask for, each under keys of its own
        self.deadline = math.inf
        self.stopped = False
        self.failed: list[str] = []  # searches that ended with an exception
        self.sweeper: Callable[..., Sweep] | None = None
        if self.program is None:
            return
        jaxpr = self.flat.jaxpr.jaxpr
        if any(np.issubdtype(problem.leaves[i].dtype, np.complexfloating) for i in problem.which):
            return
        if any(map(ends_by_condition, jaxpr.eqns)):
            self.program = None
            return
        with precisely():
            self.sweeper = compile_sweep(self.program)
        self._name()
        reaching = self._reaching()
        self.reach = reaching
        self.depending = frozenset(self.name(v) for v in reaching if not v.aval.shape and reaching[v])
        self.edges = [
            Edge(i, j)
            for i, equation in enumerate(jaxpr.eqns)
            for j, v in enumerate(equation.invars)
            if equation.outvars
            and v.aval.size
            and not isinstance(v, core.Literal)
            and is_inexact(v)
            and reaching.get(v)
        ]
        for i, equation in enumerate(jaxpr.eqns):
            for j, v in enumerate(equation.invars):
                if not isinstance(v, core.Literal) and is_inexact(v):
                    self.edges_of.setdefault(v, []).append(Edge(i, j))
        self.maker = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.outvars}
        self.uses = Counter(
            [v for e in jaxpr.eqns for v in e.invars if not isinstance(v, core.Literal)]
            + [v for v in jaxpr.outvars if not isinstance(v, core.Literal)]
        )

    def scene(self, probe: Probe) -> Scene:
        """Sweep at a probe."""

        def run(
            additions: Mapping[Edge, Any], gates: Mapping[Edge, float] = {}, others: Mapping[Edge, Any] = {}
        ) -> Sweep:
            assert self.sweeper is not None
            self.heed_time()
            with precisely():
                return self.sweeper(probe.leaves, probe.dy, additions, gates, others)

        if self.sweeper is None:
            return Scene(probe, None, run)
        swept = run({})
        return Scene(probe, swept, run)

    def view(self, scene: Scene, edge: Edge, swept: Sweep | None = None) -> View:
        """An edge in a scene."""
        assert scene.swept is not None
        return View(self.flat, swept or scene.swept, edge, self.name, list(self.names))

    def heed_time(self) -> None:
        """Called wherever a search takes long."""
        if time.monotonic() > self.deadline:
            self.stopped = True
            raise OutOfTimeError

    def wrongs(self, scene: Scene, edge: Edge) -> list[Wrong]:
        """What else the cotangent of an edge is made to be, found once."""
        self.heed_time()
        key = "wrongs", id(scene.probe), edge
        if key not in self.memory:
            equation = self.equation(edge)
            real = not any(map(is_complex, [*equation.invars, *equation.outvars])) or equation.primitive.name == "fft"
            empty = any(v.aval.size == 0 for v in [*equation.invars, *equation.outvars])
            self.memory[key] = wrong_cotangents(self.view(scene, edge)) if real and not empty else []
        found: list[Wrong] = self.memory[key]
        return found

    @property
    def flat(self) -> Program:
        """The program, where there has to be one."""
        assert self.program is not None
        return self.program

    def equation(self, edge: Edge) -> Any:
        """The one that uses a value."""
        return self.flat.equations[edge.equation]

    def variable(self, edge: Edge) -> Any:
        """The value that is used."""
        return self.equation(edge).invars[edge.operand]

    def name(self, variable: Any) -> str:
        """The path of an argument, the number of a literal, the operation and line of a result."""
        if isinstance(variable, core.Literal):
            return f"{np.asarray(variable.val).ravel()[0].item():.4g}" if np.size(variable.val) else "[]"
        return self.names.get(variable, "a constant")

    def place(self, edge: Edge) -> str:
        """Where an edge is: operation, line, and what is written there."""
        equation = self.equation(edge)
        path, number = source(equation)
        text = linecache.getline(path, number).strip() if path else ""
        at = f" at {short(equation)}" if path else ""
        return f"`{title(equation)}`{at}" + (f", “{text}”" if text else "")

    def known(self, scene: Scene, leaf: int, tensors: Mapping[str, Any]) -> Known:
        """What leaf fits may use."""
        problem = self.problem
        return Known(
            problem.paths[leaf], leaf, scene.probe.truth, problem.paths, tensors, *self.numbers(scene), self.depending
        )

    def tensors(self, scene: Scene) -> dict[str, Any]:
        """Arrays that a gradient may have been multiplied by: arguments, values, functions and derivatives."""
        found: dict[str, Any] = {}
        arguments = [
            (path, scene.probe.leaves[i]) for path, i in zip(self.problem.paths, self.problem.which, strict=True)
        ]
        with np.errstate(all="ignore"):
            for path, x in arguments:
                if not np.iscomplexobj(x):
                    s = 1 / (1 + np.exp(-x))
                    found |= {
                        path: x,
                        f"{path}²": x * x,
                        f"√{path}": np.sqrt(x),
                        f"sign({path})": np.sign(x),
                        f"sigmoid({path})": s,
                        f"sigmoid′({path})": s * (1 - s),
                        f"tanh′({path})": 1 - np.tanh(x) ** 2,
                        f"1[{path} > 0]": 1.0 * (x > 0),
                    }
            if scene.swept is not None and self.program is not None:
                for variable, name in self.names.items():
                    if is_inexact(variable):
                        found.setdefault(name, scene.swept.values[variable])
                for equation in self.flat.equations:
                    if equation.primitive.name in DERIVATIVES and not isinstance(equation.invars[0], core.Literal):
                        x, y = scene.swept.values[equation.invars[0]], scene.swept.values[equation.outvars[0]]
                        found[f"the derivative of {self.name(equation.outvars[0])}"] = DERIVATIVES[
                            equation.primitive.name
                        ](x, y)
        return found

    def numbers(self, scene: Scene) -> tuple[dict[int, list[str]], dict[str, float]]:
        """Sizes of axes, and other numbers of the program: what coefficients are named by."""
        sizes: dict[int, list[str]] = {}
        for path, i in zip(self.problem.paths, self.problem.which, strict=True):
            for axis, n in enumerate(self.problem.leaves[i].shape):
                sizes.setdefault(n, []).append(f"axis {axis} of {path}")
        for i, y in enumerate(self.problem.outputs):
            for axis, n in enumerate(y.shape):
                sizes.setdefault(n, []).append(f"axis {axis} of the result{f' {i}' if i else ''}")
        for path, i in zip(self.problem.paths, self.problem.which, strict=True):
            if self.problem.leaves[i].ndim > 1:
                sizes.setdefault(self.problem.leaves[i].size, []).append(f"{path} as a whole")
        scalars: dict[str, float] = {}
        if scene.swept is not None and self.program is not None:
            for equation in self.flat.equations:
                for axis_sizes in (v.aval.shape for v in equation.outvars):
                    for axis, n in enumerate(axis_sizes):
                        sizes.setdefault(n, [f"axis {axis} of {self.name(equation.outvars[0])}"])
                for v in equation.invars:
                    if isinstance(v, core.Literal) and np.ndim(v.val) == 0 and is_inexact(v) and not is_complex(v):
                        scalars.setdefault(f"{float(v.val):.6g}", float(v.val))
                for v in equation.outvars:
                    if (
                        not v.aval.shape
                        and (is_inexact(v) or np.issubdtype(v.aval.dtype, np.number))
                        and v in scene.swept.values
                    ):
                        scalars.setdefault(self.name(v), float(np.real(scene.swept.values[v])))
        return sizes, scalars

    def remembered(self, key: Any, gradient: Callable[[Scene], Any]) -> Callable[[Scene], Any]:
        """The same function, which is evaluated once at a scene however many leaves are asked about."""

        def known(scene: Scene) -> Any:
            at = "gradient", key, id(scene.probe)
            if at not in self.memory:
                self.memory[at] = gradient(scene)
            return self.memory[at]

        return known

    def substituted(self, scene: Scene, others: Mapping[Edge, Any]) -> list[Any]:
        """The gradient if some uses are of other values, as numbers, before the rest is computed from them."""
        values = {edge: np.reshape(x, self.variable(edge).aval.shape) for edge, x in others.items()}
        gradient = scene.run({}, {}, values).gradient
        return [gradient[i] for i in self.problem.which]

    def tangents(self, scene: Scene, leaves: list[int]) -> "Tangents":
        """Random directions for some leaves and the tangents of every variable along them."""
        jaxpr = self.flat.jaxpr.jaxpr
        random = np.random.RandomState(1)
        which = self.problem.which
        directions: dict[int, Any] = {
            leaf: random.standard_normal((DIRECTIONS, *scene.probe.leaves[which[leaf]].shape)) for leaf in leaves
        }
        total = DIRECTIONS * len(leaves)
        stacked = []
        for leaf, number in enumerate(which):
            block = np.zeros((total, *scene.probe.leaves[number].shape))
            if leaf in directions:
                k = leaves.index(leaf) * DIRECTIONS
                block[k : k + DIRECTIONS] = directions[leaf]
            stacked.append(block)
        floating = [v for e in jaxpr.eqns for v in e.outvars if is_inexact(v)]

        def values(*full: Any) -> list[Any]:
            known = evaluate(jaxpr, self.flat.jaxpr.consts, full, lambda _, e, operands: execute(e, operands))
            return [known[v] for v in floating]

        with precisely():
            at = [scene.probe.leaves[i] for i in which]
            function = restrict(values, scene.probe.leaves, which)
            found = compiled(jax.vmap(lambda u: jax.jvp(function, at, u)[1]), at)(stacked)
        by_variable = dict(zip(floating, (np.asarray(x).reshape(total, -1) for x in found), strict=True))
        by_variable |= {jaxpr.invars[i]: block.reshape(total, -1) for i, block in zip(which, stacked, strict=True)}
        return Tangents(leaves, directions, by_variable)

    def _name(self) -> None:
        jaxpr = self.flat.jaxpr.jaxpr
        for i, variable in enumerate(jaxpr.invars):
            known = dict(zip(self.problem.which, self.problem.paths, strict=True))
            self.names[variable] = known.get(i, f"argument {self.flat.inputs[i]}")
        seen: Counter[str] = Counter()
        for equation in jaxpr.eqns:
            place = short(equation)
            text = f"`{title(equation)}`" + (f" ({place})" if place else "")
            for variable in equation.outvars:
                source = equation.invars[0] if equation.invars else None
                if (
                    equation.primitive.name in _SAME_THING
                    and not isinstance(source, core.Literal)
                    and source in self.names
                ):
                    self.names[variable] = self.names[source]
                    continue
                seen[text] += 1
                self.names[variable] = text + (f" no. {seen[text]}" if seen[text] > 1 else "")

    def _reaching(self) -> dict[Any, frozenset[int]]:
        """The leaves that each variable depends on."""
        jaxpr = self.flat.jaxpr.jaxpr
        reach = {jaxpr.invars[i]: frozenset([k]) for k, i in enumerate(self.problem.which)}
        for equation in jaxpr.eqns:
            union = frozenset[int]().union(
                *(reach.get(v, frozenset()) for v in equation.invars if not isinstance(v, core.Literal))
            )
            if equation.primitive.name == "stop_gradient":
                union = frozenset()
            for v in equation.outvars:
                if is_inexact(v):
                    reach[v] = union
        return reach


class Tangents(NamedTuple):
    """Directions for leaves and what they do to every value."""

    leaves: list[int]
    directions: dict[int, Any]  # leaf → [K, *shape]
    values: dict[Any, Any]  # variable → [K · leaves, size]

    def of(self, variable: Any, rows: Any, cotangent: Any) -> Any:
        """What a cotangent of a value is worth along the directions; of a complex one its real part, as leaves are."""
        return np.real(self.values[variable][rows] @ np.ravel(cotangent))

    def seen(self, change: list[Any]) -> Any:
        """A change of the gradient, along the directions: [K · leaves]."""
        return np.concatenate(
            [self.directions[leaf].reshape(DIRECTIONS, -1) @ np.ravel(change[k]) for k, leaf in enumerate(self.leaves)]
        )

    def rows(self, leaves: list[int]) -> Any:
        """The rows of some leaves."""
        return np.concatenate([np.arange(DIRECTIONS) + DIRECTIONS * self.leaves.index(leaf) for leaf in leaves])
