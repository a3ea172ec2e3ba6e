"""The command: targets, exit statuses, and what the README shows."""

import json
import re
import sys
from pathlib import Path

import pytest
from scripts import parse

from experiments import check_gradients, common

README = (Path(__file__).parents[1] / "README.md").read_text()
(SHOWN,) = re.findall(r"```python\n(# my_layer\.py\n.*?)```\n.*?```console\n\$ (.*?)\n(.*?)```", README, re.DOTALL)
TARGETS = """
import jax, jax.numpy as jnp

def square(x): return x**2
def square_fwd(x): return x**2, x
def square_bwd(x, dy): return (2 * x * dy,)
def wrong(x, dy): return (x * dy,)
rule, mistaken, short = (square, square_fwd, square_bwd), (square, square_fwd, wrong), (square,)

def loss(w): return jnp.sum(w**2)
def loss_gradient(w): return 2 * w
def loss_arguments(): return (jnp.arange(3.0),)
def alone(x): return x
def shapeless(x): return x**2
def shapeless_fwd(x): return x**2, x
def shapeless_bwd(x, dy): return (2 * x * dy)[0],
def edge(x): return jnp.log(x)
def edge_fwd(x): return jnp.log(x), x
def edge_bwd(x, dy): return (dy / x,)
def edge_arguments(): return (jnp.array([-1.0, 2.0]),)
def raising_arguments(): return 1 / 0
list_arguments = {"x": 1}

@jax.custom_vjp
def custom(x): return jnp.sin(x)
custom.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x),))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "targets_of_a_user.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "targets_of_a_user"
    sys.modules.pop("targets_of_a_user", None)


def run(**flags):
    return check_gradients.run(**parse(check_gradients, **flags))


def test_readme_shows_what_is_printed(tmp_path, monkeypatch, capsys):
    code, command, shown = SHOWN
    (tmp_path / "my_layer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    flags = dict(flag.removeprefix("--").split("=") for flag in command.split()[3:])
    assert run(**flags) == 1
    printed = capsys.readouterr().out
    # Errors of random arguments are the same everywhere to two digits, but for rounding.
    assert re.sub(r"\S+e[-+]\d\d", "#", printed).split() == re.sub(r"\S+e[-+]\d\d", "#", shown).split()
    assert sum(bool(row.strip()) for row in code.splitlines()) <= 12


@pytest.mark.parametrize(
    ("name", "flags", "status"),
    [
        ("square", {"shapes": "5x3"}, 0),
        ("square", {"shapes": "0d", "order": 2}, 0),
        ("rule", {"shapes": "5x3"}, 0),
        ("mistaken", {"shapes": "5x3"}, 1),
        ("loss", {}, 0),
        ("custom", {"shapes": "3"}, 0),
        ("edge", {}, 2),
        ("shapeless", {"shapes": "5x3"}, 3),
    ],
)
def test_targets_and_exit_statuses(module, name, flags, status):
    assert run(target=f"{module}:{name}", **flags) == status


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"target": "MODULE"}, "expected module:name"),
        ({"target": "nowhere:f"}, "importing nowhere raised ModuleNotFoundError"),
        ({"target": "MODULE:nothing"}, "has no 'nothing'; it has"),
        ({"target": "MODULE:alone", "shapes": "3"}, "has neither alone_fwd and alone_bwd nor alone_gradient"),
        ({"target": "MODULE:short", "shapes": "3"}, "is a tuple of 1"),
        ({"target": "MODULE:square"}, "there are no arguments"),
        ({"target": "MODULE:square", "shapes": "3,x"}, "'x'; expected sizes"),
        ({"target": "MODULE:square", "shapes": "3", "arguments": "loss_arguments"}, "exclude each other"),
        ({"target": "MODULE:square", "arguments": "raising_arguments"}, "raised ZeroDivisionError"),
        ({"target": "MODULE:square", "arguments": "list_arguments"}, "is a dict; expected a tuple"),
        ({"target": "MODULE:loss", "argnums": "a"}, "expected integers"),
        ({"target": "MODULE:loss", "rules": "relu"}, "exclude each other"),
        ({"target": "MODULE:loss", "argnums": "3"}, "argnums is 3"),
        ({"shapes": "3"}, "there is none"),
        ({"dtype": "float64"}, "needs --jax_enable_x64"),
    ],
)
def test_unusable_flags_are_told(module, flags, message):
    flags = {name: value.replace("MODULE", module) for name, value in flags.items()}
    with pytest.raises(common.UserError, match=re.escape(message)):
        run(**flags)


def test_reports_of_the_catalogue_are_written(tmp_path, capsys):
    flags = {"rules": "relu,softmax", "output_dir": tmp_path / "audit"}
    assert run(**flags) == 0
    told = json.loads((tmp_path / "audit" / "results.json").read_text())
    assert {name: report["verdict"] for name, report in told["reports"].items()} == {"relu": "PASS", "softmax": "PASS"}
    assert "2 of 2" in capsys.readouterr().out
    with pytest.raises(common.UserError, match="holds an earlier run"):
        run(**flags)
