"""Interruptions, and checkpoints that are not what they should be."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from digits import PLAIN, history, train
from scripts import parse

from experiments import common, digit_progress, train_digits

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("undrawn")


def arrays(folder):
    with np.load(folder / "checkpoint.npz") as archive:
        return {name: archive[name] for name in archive.files if name != "meta.json"}


def test_checkpoints_are_written_in_between(tmp_path, monkeypatch):
    saved, save = [], digit_progress.save
    monkeypatch.setattr(digit_progress, "save", lambda path, done, i: saved.append(done.epoch) or save(path, done, i))
    train(tmp_path, epochs=3, gradients="hand", checkpoint_every=2)
    assert saved == [0, 2, 3]


def test_other_data_are_another_run(tmp_path, monkeypatch):
    train(tmp_path, epochs=1, gradients="hand")
    digits = train_digits.data.digits()
    altered = digits._replace(train=digits.train._replace(inputs=digits.train.inputs[:, ::-1]))
    monkeypatch.setattr(train_digits.data, "load", lambda *_: altered)
    with pytest.raises(common.UserError, match="is a checkpoint of another run: data is"):
        train(tmp_path, epochs=2, gradients="hand", resume="true")


def test_resumed_run_equals_an_uninterrupted_one(tmp_path, whole):
    parts = tmp_path / "parts"
    train(parts, epochs=1, activation="tanh")
    train(parts, epochs=3, activation="tanh", resume="true")
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(parts)[name], array, err_msg=name)
    assert history(parts) == history(whole)
    with pytest.raises(common.UserError, match="is 3 epochs old; expected --epochs to be more"):
        train(parts, epochs=2, activation="tanh", resume="true")


def test_resumed_run_in_microbatches_equals_an_uninterrupted_one(tmp_path):
    given = {"gradients": "hand", "num_microbatches": "3"}
    train(tmp_path / "parts", epochs=1, **given)
    train(tmp_path / "parts", epochs=2, **given, resume="true")
    train(tmp_path / "whole", epochs=2, **given)
    for name, array in arrays(tmp_path / "whole").items():
        np.testing.assert_array_equal(arrays(tmp_path / "parts")[name], array, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(folder, epochs=3, activation="tanh")
    return folder


@pytest.fixture
def heeded():
    """SIGINT, which the background jobs of a shell ignore, and so the tests in one of them."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_what_is_finished(tmp_path, monkeypatch, whole, number):
    parts = tmp_path / "parts"
    printed = common.console.print

    def interrupt(text="", *args, **kwargs):
        printed(text, *args, **kwargs)
        if str(text).startswith("    2 "):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(common.console, "print", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(parts, epochs=3, activation="tanh")
    monkeypatch.undo()
    results = json.loads((parts / "results.json").read_text())
    assert results["interrupted"]
    assert results["epochs"] == 2
    assert (parts / "train_digits.png").exists()
    train(parts, epochs=3, activation="tanh", resume="true")
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(parts)[name], array, err_msg=name)


def test_killed_run_resumes_bit_for_bit(tmp_path):
    settings = {
        "gradients": "hand",
        "epochs": "60",
        "hidden_sizes": "8",
        "batch_size": "200",
        "checkpoint_every": "1",
        "activation": "tanh",
    } | PLAIN
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    flags_ = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "experiments.train_digits", *flags_, f"--output_dir={killed}"]
    checkpoint, epochs_seen = killed / "checkpoint.npz", set()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as victim:
        while len(epochs_seen) < 3:  # one is written before the training
            assert victim.poll() is None
            if checkpoint.exists():
                epochs_seen.add(checkpoint.stat().st_mtime_ns)
            time.sleep(0.002)
        time.sleep(np.random.RandomState(os.getpid()).uniform(0, 0.02))  # anywhere in one of the next epochs
        victim.kill()
    assert victim.returncode == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    train_digits.run(**parse(train_digits, **settings, output_dir=killed, resume="true"))  # in another process
    train_digits.run(**parse(train_digits, **settings, output_dir=whole))
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(killed)[name], array, err_msg=name)
    assert history(killed) == history(whole)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(folder, epochs=1, gradients="hand")
    return (folder / "checkpoint.npz").read_bytes()


def flip_a_byte(content):
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


DAMAGE = {
    "truncated": (lambda c: c[:-40], {}, "is damaged or not a checkpoint"),
    "one byte flipped": (flip_a_byte, {}, "is damaged or not a checkpoint"),
    "empty": (lambda c: b"", {}, "is damaged or not a checkpoint"),
    "text": (lambda c: b"not a checkpoint", {}, "is damaged or not a checkpoint"),
    "other optimizer": (bytes, {"optimizer": "sgd"}, "of another run: optimizer is 'adam' there; expected 'sgd'"),
    "other seed": (bytes, {"seed": 1}, "of another run: seed is 0 there; expected 1"),
    "other sizes": (bytes, {"hidden_sizes": "5,4"}, "of another run: hidden_sizes is ['5', '3'] there"),
    "other microbatches": (bytes, {"num_microbatches": 2}, "of another run: num_microbatches is 1 there; expected 2"),
    "other gradients": (bytes, {"gradients": "autodiff"}, "of another run: gradients is 'hand' there"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_or_foreign_checkpoints_are_refused_untouched(tmp_path, finished, case):
    damage, given, message = DAMAGE[case]
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(damage(finished))
    before = path.read_bytes()
    with pytest.raises(common.UserError, match=re.escape(str(path))) as raised:
        train(tmp_path, **({"gradients": "hand", "resume": "true"} | given))
    assert message in str(raised.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


def test_archives_that_are_no_checkpoints(tmp_path, finished):
    path = tmp_path / "checkpoint.npz"
    np.savez(path, w=np.array([{}], dtype=object))
    with pytest.raises(common.UserError, match="is damaged or not a checkpoint: Object arrays cannot be loaded"):
        train(tmp_path, resume="true")
    np.savez(path, w=np.ones(3))
    with pytest.raises(common.UserError, match="is not a checkpoint: it has no header"):
        train(tmp_path, resume="true")
    # One array left out, one of another shape: the header alone does not make a checkpoint.
    path.write_bytes(finished)
    with np.load(path) as archive:
        content = {name: archive[name] for name in archive.files}
    key = next(name for name in content if name.endswith(".params[0].w"))
    np.savez(path, **(content | {key: content[key][:-1]}))
    with pytest.raises(common.UserError, match=r"params\[0\]\.w is float32 \[63, 5\]; expected float32 \[64, 5\]"):
        train(tmp_path, gradients="hand", resume="true")
    header = json.loads(content["meta.json"].tobytes())
    for broken in ({}, {k: v for k, v in header.items() if k != "epoch"}, header | {"history": None}):
        np.savez(path, **(content | {"meta.json": np.frombuffer(json.dumps(broken).encode(), np.uint8)}))
        with pytest.raises(common.UserError, match="is not a checkpoint: it has no header"):
            train(tmp_path, gradients="hand", resume="true")
    np.savez(path, **{name: array for name, array in content.items() if name != key})
    with pytest.raises(common.UserError, match=r"holds .* expected"):
        train(tmp_path, gradients="hand", resume="true")
    path.unlink()
    with pytest.raises(common.UserError, match="does not exist; expected the checkpoint of the run to resume"):
        train(tmp_path, resume="true")
    assert os.listdir(tmp_path) == []


def test_checkpoints_hold_no_pickle(tmp_path):
    train(tmp_path, epochs=1)
    with zipfile.ZipFile(tmp_path / "checkpoint.npz") as archive:
        for name in archive.namelist():
            assert b"'|O'" not in archive.read(name)[:128]
