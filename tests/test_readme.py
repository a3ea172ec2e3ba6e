"""What the README shows works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what they draw
    exec(compile(code, "README.md", "exec"), {})


def test_files_and_folders_exist():
    paths = re.findall(r"`((?:fundamentals|experiments|configs|tests)/[^`]*)`|\]\((experiments/[^)]*)\)", README)
    assert len(paths) > 8
    for path in (first or second for first, second in paths):
        assert (ROOT / path).exists(), path
