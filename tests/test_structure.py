"""The house: who imports whom, and what stands beside what."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fundamentals
from fundamentals.base import Rule
from fundamentals.catalogue import RULES, Entry

ROOT = Path(fundamentals.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# A module may import what stands in tiers before its own, and its own package.
TIERS = [
    {"base", "_checks", "_blocks", "_flops", "program"},
    {"activations", "layers", "losses", "initializers", "data"},
    {"models", "svm"},
    {"catalogue"},
]
GROUND = {"optimizers", "gradcheck", "memory", "graph", "training"}  # stand on the first tier alone
THIRD_PARTIES = {"jax", "numpy", "chex"}
OPTIONAL = {"graph/png.py": {"matplotlib"}}  # imported where it is used, which says what to install


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "fundamentals":
                yield from (f"fundamentals.{name.name}" for name in node.names)
            else:
                yield node.module


def topic(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", [f for f in FILES if f.parent != ROOT or f.stem != "__init__"], ids=str)
def test_imports_run_one_way(path):
    own = topic(path)
    if own in GROUND:
        allowed = TIERS[0]
    elif own == "svm":
        allowed = TIERS[0] | {"losses"}
    elif own == "data":
        allowed = TIERS[0] | {"training"}  # splits
    else:
        level = next(i for i, tier in enumerate(TIERS) if own in tier)
        allowed = set().union(*TIERS[:level]) | (TIERS[0] if level == 0 else set())
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "fundamentals":
            assert rest[0] in allowed | {own}, f"{own} imports {name}"
        else:
            allowed_here = THIRD_PARTIES | OPTIONAL.get(path.relative_to(ROOT).as_posix(), set())
            assert first in allowed_here or first in sys.stdlib_module_names, f"{own} imports {name}"


def public_functions():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield pytest.param(path, node, id=f"{topic(path)}.{node.name}")


@pytest.mark.parametrize(("path", "node"), list(public_functions()))
def test_public_names_are_documented(path, node):
    assert ast.get_docstring(node), f"{path}:{node.lineno}"


def rules():
    for path in FILES:
        body = ast.parse(path.read_text()).body
        functions = [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        for i, node in enumerate(functions):
            if node.name.endswith("_bwd"):
                yield pytest.param(functions, i, id=node.name)


@pytest.mark.parametrize(("functions", "i"), list(rules()))
def test_forward_and_backward_stand_side_by_side(functions, i):
    name = functions[i].name.removesuffix("_bwd")
    assert [f.name for f in functions[i - 2 : i + 1]] == [name, f"{name}_fwd", f"{name}_bwd"]
    assert "Keeps" in ast.get_docstring(functions[i - 1]), f"{name}_fwd's docstring does not say what it 'Keeps'"
    assert "Derivation:" in ast.get_docstring(functions[i]), f"{name}_bwd's docstring holds no 'Derivation:'"


def unwrap(function):
    return getattr(function, "func", function)


def test_every_rule_is_in_the_catalogue():
    written = {functions[i].name for functions, i in (p.values for p in rules())}
    catalogued = {unwrap(entry.rule.bwd).__name__ for entry in RULES.values()}
    assert not written - catalogued, f"without a row in fundamentals/catalogue/: {sorted(written - catalogued)}"
    assert not catalogued - written, f"in the catalogue, but not in a module of rules: {sorted(catalogued - written)}"


@pytest.mark.parametrize("name", RULES)
def test_catalogue_names_fit_their_rules(name):
    entry = RULES[name]
    assert isinstance(entry, Entry)
    assert isinstance(entry.rule, Rule)
    primal, fwd, bwd = (unwrap(function) for function in entry.rule)
    assert name.split("(")[0] == primal.__name__
    assert (fwd.__name__, bwd.__name__) == (f"{primal.__name__}_fwd", f"{primal.__name__}_bwd")
    options = [
        {p.name: p.default for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for f in (primal, fwd, bwd)
    ]
    assert options[0] == options[1]  # one default, in all three
    assert options[2].items() <= options[0].items()  # the backward pass takes those that it needs


def test_import_defines_no_flag_and_touches_no_configuration():
    code = (
        "import jax, sys; before = dict(jax.config.values); import fundamentals;"
        "assert dict(jax.config.values) == before;"
        "import experiments.train_digits, experiments.benchmark_rules; from absl import flags;"
        "assert 'learning_rate' not in flags.FLAGS and 'seed' not in flags.FLAGS"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent, timeout=120)
