"""What happens to every number of a function, forward and backward?

Draws the computational graph of a function: values above the wires, gradients below. Expected: at each node the
upstream gradient times the local one, the sum where a value is used twice, and in the end the gradient of the
derivation by hand and of `jax.grad`.

    python -m experiments.draw_graph --flagfile=configs/draw_graph.flags
    python -m experiments.draw_graph --function=my_file:loss --inputs="-2, [1, 2.5], normal(5, 3)"

The examples are those of the course, with the derivation beside the graph. A function of your own is `module:name`, the
module being found from the current folder; its arguments are written out as `--inputs`, or are those that `--arguments`
names in the module: a tuple, or a function that returns one (by default `loss_arguments` of a function `loss`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, measure, targets
from experiments.common import Verdict
from experiments.graph_examples import Example, examples, sigmoid
from fundamentals import graph
from fundamentals.graph import Graph

NAMES = ("product", "neuron", "norm", "regression", "network")


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_multi_enum("example", list(NAMES), NAMES, "Of the course; repeat it for several.", **options)
    flags.DEFINE_string("function", None, "module:name of a function of your own, in place of the examples.", **options)
    flags.DEFINE_string("inputs", None, "Its arguments: -2, [1, 2.5], normal(5, 3).", **options)
    flags.DEFINE_string("arguments", None, "Name, in the function's module, of its arguments.", **options)
    flags.DEFINE_list("fold", None, "Functions whose calls are drawn as one node; by default the example's.", **options)
    flags.DEFINE_enum("format", "svg", ["svg", "png"], "Of the pictures.", **options)
    flags.DEFINE_integer("seed", 0, "Of what is random.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/draw_graph", "Where pictures and results go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)


def run(
    *,
    example: list[str],
    function: str | None,
    inputs: str | None,
    arguments: str | None,
    fold: list[str] | None,
    format: str,  # noqa: A002
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> Sequence[Verdict]:
    """Trace, draw, explain, compare. Returns the verdicts."""
    settings = dict(locals())
    if function is None and (inputs is not None or arguments is not None):
        raise common.UserError("--inputs and --arguments are those of a --function; there is none")
    if inputs is not None and arguments is not None:
        raise common.UserError("--inputs and --arguments exclude each other")
    # The examples in float64, so that the gradients can be told apart from rounding.
    with jax.enable_x64(function is None or bool(jax.config.read("jax_enable_x64"))):
        if function is None:
            known = examples(jax.random.key(seed))
            chosen = {name: known[name] for name in dict.fromkeys(example)}
        else:
            chosen = _own(function, inputs, arguments, seed)
        traced = {name: _traced(one, one.folds if fold is None else fold) for name, one in chosen.items()}
        files = [f"{name}.{format}" for name in traced]
        folder = common.output_folder(output_dir, ["results.json", *files], settings, overwrite=overwrite)
        verdicts: list[Verdict] = []
        for (name, drawn), file in zip(traced.items(), files, strict=True):
            _print(name, drawn, chosen[name])
            with common.user_errors():
                drawn.draw(folder / file)
            verdicts += _verdicts(name, drawn, chosen[name])
        records = {name: {"nodes": len(g.nodes), "gradients": _plain(g.gradients)} for name, g in traced.items()}
    common.print_verdicts(verdicts)
    common.write_json(folder / "results.json", {"graphs": records, "verdicts": [v._asdict() for v in verdicts]})
    common.console.print(f"drawn: {', '.join(str(folder / file) for file in files)}", soft_wrap=True, markup=False)
    return verdicts


def _own(function: str, inputs: str | None, arguments: str | None, seed: int) -> dict[str, Example]:
    """A function that a flag names, with its arguments."""
    module, name, own = targets.find("function", function)
    if inputs is None:
        args = targets.arguments(module, arguments or f"{name}_arguments", "inputs")
    else:
        args = targets.values(inputs, seed)
    return {name: Example(own, args, None, "", "")}


def _traced(example: Example, folds: Sequence[str]) -> Graph:
    with common.user_errors():
        traced = graph.trace(example.function, *example.inputs).backward()
        return traced.fold(*folds) if folds else traced


def _print(name: str, drawn: Graph, example: Example) -> None:
    common.console.print(f"\n{example.function.__doc__ if example.by_hand else name}", style="bold", markup=False)
    common.console.print(str(drawn), markup=False, soft_wrap=True)
    if len(drawn.nodes) <= 20:
        sentences = [drawn.explain(node.index) for node in drawn.nodes if not node.is_leaf]
        common.console.print("\n" + "\n".join(sentences), markup=False)
    if example.by_hand:
        common.console.print(f"\nBy hand:\n{example.derivation}\n", markup=False)
    found = drawn.first_nonfinite()
    if found.forward is not None or found.backward is not None:
        common.console.print(f"not finite: {found}", markup=False)


def _verdicts(name: str, drawn: Graph, example: Example) -> list[Verdict]:
    """The graph's gradient is jax.grad's and the derivation's; what the notes have wrong is not."""
    bound = 1e3 * float(jnp.finfo(drawn.value.dtype).eps)
    floating = [i for i, g in enumerate(drawn.gradients) if g is not None]
    found, expected = [drawn.gradients[i] for i in floating], jax.grad(example.function, floating)(*example.inputs)
    error = measure.relative_difference(tuple(found), tuple(expected))
    claim = f"{name}: the graph's gradient is jax.grad's"
    verdicts = [Verdict(claim, f"{error:.0e}", f"≤ {bound:.0e}", error <= bound)]
    if example.by_hand is None:
        return verdicts
    by_hand = example.by_hand(*example.inputs)
    error = measure.relative_difference(drawn.gradients, by_hand)
    claim = f"{name}: the graph's gradient is the one by hand"
    verdicts.append(Verdict(claim, f"{error:.0e}", f"≤ {bound:.0e}", error <= bound, example.notes))
    if name == "product":
        board = [float(x) for x in (*drawn.gradients, drawn.value)]
        verdicts.append(Verdict("the board's numbers", str(board), "[-4, -4, 3, -12]", board == [-4, -4, 3, -12], "W1"))
    if name == "neuron":
        a = next(node.value for node in drawn.nodes if node.name == "a")
        slope, wrong = jax.grad(sigmoid)(a), jnp.exp(-a) / (1 + jnp.exp(-a))
        verdicts.append(_off("e⁻ˣ/(1 + e⁻ˣ), as in the notes, is not σ′", wrong, slope, "W3"))
    if name == "regression":
        w, b, x, y, lam = example.inputs
        u = sigmoid(w * x + b)
        wrong = (y - u) * u * (1 - u) * x + 2 * lam * w
        verdicts.append(_off("(y − σ)σ′x + 2λw, as in the notes, is not ∂L/∂w", wrong, by_hand[0], "B4"))
    return verdicts


def _off(claim: str, wrong: Any, right: Any, notes: str) -> Verdict:
    off = float(abs(wrong - right) / abs(right))
    return Verdict(claim, f"{off:.0%} off", "> 10 %", off > 0.1, notes)


def _plain(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, float).tolist(), tree)


if __name__ == "__main__":
    common.main(define_flags, run)
