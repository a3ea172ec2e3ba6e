"""Every script has a config, and every config sets flags that its script has, to values that it takes."""

import importlib
import inspect
from pathlib import Path

import pytest
from absl import flags

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    path.stem: importlib.import_module(f"experiments.{path.stem}")
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if "common.main(define_flags, run" in path.read_text()
}
CONFIGS = sorted((ROOT / "configs").glob("*.flags"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_parses(path):
    script = max((name for name in SCRIPTS if path.stem == name or path.stem.startswith(f"{name}_")), key=len)
    values = flags.FlagValues()
    SCRIPTS[script].define_flags(values)
    values([script, *values.read_flags_from_files([f"--flagfile={path}"])])
    assert any(values[name].present for name in values)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_has_a_config_and_no_dead_flag(name):
    assert ROOT / "configs" / f"{name}.flags" in CONFIGS
    values = flags.FlagValues()
    SCRIPTS[name].define_flags(values)
    parameters = inspect.signature(SCRIPTS[name].run).parameters
    assert set(values) == set(parameters)
    assert all(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters.values())
    assert f"--flagfile=configs/{name}.flags" in SCRIPTS[name].__doc__
