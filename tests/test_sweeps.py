"""Sweeps: rows outlive the run that made them, and only a run of the same settings goes on with them."""

import pytest

from experiments import common, sweeps

SETTINGS = {"seed": 3, "sizes": ["4", "8"], "rate": 0.1, "output_dir": "", "overwrite": False, "resume": False}


def start(folder, *, overwrite=False, resume=False, **changed):
    return sweeps.start(str(folder), ("results.json",), SETTINGS | changed, overwrite=overwrite, resume=resume)


def test_resumes_after_the_last_whole_row(tmp_path):
    folder, rows = start(tmp_path)
    assert rows == {}
    first = sweeps.keep(folder, "a", {"loss": 0.1 + 0.2, "curve": (1, 2)})
    sweeps.keep(folder, "b", [float("inf")])
    with (folder / sweeps.ROWS).open("a") as file:
        file.write('{"key": "c", "row": {"lo')  # the machine stopped here
    _, rows = start(tmp_path, resume=True, output_dir="elsewhere")
    assert rows == {"a": first, "b": [float("inf")]}
    assert rows["a"] == {"loss": 0.1 + 0.2, "curve": [1, 2]}
    sweeps.keep(folder, "c", 3)
    assert list(start(tmp_path, resume=True)[1]) == ["a", "b", "c"]


def test_an_earlier_run_is_left_alone_or_dropped(tmp_path):
    folder, _ = start(tmp_path)
    sweeps.keep(folder, "a", 1)
    with pytest.raises(common.UserError, match=r"holds an earlier run .*--resume to continue it"):
        start(tmp_path)
    with pytest.raises(common.UserError, match="expected one of them"):
        start(tmp_path, resume=True, overwrite=True)
    assert start(tmp_path, resume=True)[1] == {"a": 1}
    assert start(tmp_path, overwrite=True)[1] == start(tmp_path, resume=True)[1] == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4}, "--seed is 3 there; expected 4"),
        ({"sizes": ["4"]}, "--sizes is"),
        ({"new": None}, "--new is not a flag there; expected null"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, changed, message):
    start(tmp_path)
    with pytest.raises(common.UserError, match=message):
        start(tmp_path, resume=True, **changed)
    start(tmp_path / "other", **changed)
    with pytest.raises(common.UserError, match="of another run"):  # nor the other way round
        start(tmp_path / "other", resume=True)


def test_a_flag_that_is_nan_is_the_same_flag(tmp_path):
    start(tmp_path, rate=float("nan"))
    assert start(tmp_path, resume=True, rate=float("nan"))[1] == {}


@pytest.mark.parametrize("content", [None, b"", b"[]\n", b"{}\n{}\n", b"\xff\n", b"{\n"])
def test_damaged_rows(tmp_path, content):
    if content is not None:
        (tmp_path / sweeps.ROWS).write_bytes(content)
    with pytest.raises(common.UserError, match="expected the rows of an earlier run"):
        start(tmp_path, resume=True)
