"""Data: the digits in the box, files from a folder, and files that are not what they should be."""

import gzip
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fundamentals import data

RNG = np.random.RandomState(0)
TRAIN = RNG.randint(0, 256, size=(40, 5, 7)).astype(np.uint8), np.arange(40, dtype=np.uint8) % 4
TEST = RNG.randint(0, 256, size=(12, 5, 7)).astype(np.uint8), np.arange(12, dtype=np.uint8) % 4


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, suffix="", train=TRAIN, test=TEST):
    for part, (images, labels) in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(array)
            content = gzip.compress(content) if suffix else content
            (folder / f"{part}-{kind}-ubyte{suffix}").write_bytes(content)


def test_digits_in_the_box():
    dataset = data.digits()
    assert [len(part.labels) for part in dataset] == [1258, 180, 359]
    for part in dataset:
        assert part.inputs.shape[1:] == (8, 8)
        assert part.inputs.dtype == np.float32
        assert part.inputs.min() == 0
        assert part.inputs.max() == 1
        counts = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert counts.min() > 0.09
        assert counts.max() < 0.11
    images = np.concatenate([part.inputs for part in dataset]).reshape(1797, -1)
    assert len(np.unique(images, axis=0)) == 1797  # disjoint: no image is in two parts


def test_the_split_never_changes():
    # As it was when results were first published with it. Pixels are sixteenths: their sum is exact.
    dataset = data.digits()
    assert dataset.test.labels[:8].tolist() == [3, 7, 3, 9, 0, 8, 7, 0]
    assert dataset.validation.labels[-4:].tolist() == [7, 1, 4, 7]
    assert float(dataset.train.inputs.sum()) == 24648.5


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    write_idx(tmp_path, suffix)
    dataset = data.load("mnist", tmp_path)
    assert [part.inputs.shape for part in dataset] == [(36, 5, 7), (4, 5, 7), (12, 5, 7)]
    np.testing.assert_array_equal(dataset.test.inputs, TEST[0] / np.float32(255))
    np.testing.assert_array_equal(dataset.test.labels, TEST[1])
    assert sorted(dataset.validation.labels) == [0, 1, 2, 3]
    together = np.concatenate([dataset.train.inputs, dataset.validation.inputs])
    assert sorted(map(bytes, together)) == sorted(map(bytes, TRAIN[0] / np.float32(255)))


def test_a_folder_of_the_data_sets_name_comes_first(tmp_path):
    (tmp_path / "mnist").mkdir()
    write_idx(tmp_path / "mnist")
    assert len(data.load("mnist", tmp_path).test.labels) == 12


def test_npz_files(tmp_path):
    np.savez(tmp_path / "kind.npz", x_train=TRAIN[0], y_train=TRAIN[1], x_test=TEST[0], y_test=TEST[1])
    np.testing.assert_array_equal(data.load("kind", tmp_path).test.labels, TEST[1])
    np.savez(tmp_path / "whole.npz", images=TRAIN[0] / 255, labels=TRAIN[1].astype(np.int64))
    dataset = data.load("whole", tmp_path)
    assert [len(part.labels) for part in dataset] == [28, 4, 8]
    assert dataset.train.inputs.max() <= 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def replace(content):
    return lambda path: path.write_bytes(content)


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
DAMAGE = {
    "truncated": (IMAGES, "", truncate, "is truncated: 1395 bytes of data; expected 1400 for shape [40, 5, 7]"),
    "empty": (IMAGES, "", replace(b""), "starts with nothing; expected 00000803"),
    "header only": (IMAGES, "", replace(bytes([0, 0, 8, 3, 0, 0])), "is truncated: 6 bytes; expected a header of 16"),
    "foreign": (IMAGES, "", replace(b"\x89PNG\r\n\x1a\n" * 9), "starts with 89504e47; expected 00000803"),
    "lying": (IMAGES, "", replace(idx(TRAIN[0])[:4] + b"\xff" * 12 + b"1" * 50), "is truncated: 50 bytes of data"),
    "longer": (IMAGES, "", replace(idx(TRAIN[0]) + b"x"), "goes on after its data; expected 1400 bytes"),
    "labels for images": (IMAGES, "", replace(idx(TRAIN[1])), "starts with 00000801; expected 00000803"),
    "truncated gzip": (IMAGES, ".gz", truncate, "is damaged or not gzip"),
    "not gzip": (IMAGES, ".gz", replace(idx(TRAIN[0])), "is damaged or not gzip"),
    "other count": (LABELS, "", replace(idx(TEST[1][:-1])), "has 11 labels; expected 12, one an image of"),
    "no examples": (IMAGES, "", replace(idx(TRAIN[0][:0])), "has shape [0, 5, 7]; expected [N, height, width]"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_idx_files_are_named(tmp_path, case):
    name, suffix, damage, message = DAMAGE[case]
    write_idx(tmp_path, suffix)
    path = tmp_path / (name + suffix)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"train|t10k") as raised:
        data.load("mnist", tmp_path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert path.read_bytes() == before


class Exploding:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def pickled(path):
    np.savez(path, images=np.array([Exploding()], dtype=object), labels=TRAIN[1])


def broken_member(path):
    npz(images=TRAIN[0], labels=TRAIN[1])(path)
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(bytes(content))


def encrypted(path):
    npz(images=TRAIN[0], labels=TRAIN[1])(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(content))


def zipped_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "not an array")
        archive.writestr("labels", "not an array")


BAD_NPZ = {
    "pickled objects": (pickled, "images can't be read"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps([1])), "is not a NumPy archive"),
    "truncated": (lambda path: (npz(images=TRAIN[0], labels=TRAIN[1])(path), truncate(path)), "is not a NumPy archive"),
    "damaged": (broken_member, "images can't be read"),
    "text": (zipped_text, "images is not an array"),
    "other names": (npz(a=TRAIN[0]), "holds ['a']; expected ['x_train', 'y_train', 'x_test', 'y_test']"),
    "other count": (npz(images=TRAIN[0], labels=TEST[1]), "has 12 labels; expected 40"),
    "flat images": (npz(images=TRAIN[0].reshape(40, -1), labels=TRAIN[1]), "has shape [40, 35]; expected [N, height"),
    "float labels": (npz(images=TRAIN[0], labels=TRAIN[1] / 2), "labels is float64 [40]; expected integers [N]"),
    "negative labels": (npz(images=TRAIN[0], labels=TRAIN[1].astype(int) - 1), "has labels from -1 to 2"),
    "wide pixels": (npz(images=TRAIN[0].astype(np.int64), labels=TRAIN[1]), "has dtype int64; expected unsigned bytes"),
    "too few": (
        npz(images=TRAIN[0][:4], labels=TRAIN[1][:4]),
        "has too few examples, 4, for parts of 20 %, 10 %, 70 %; expected about ten a class",
    ),
    "huge labels": (npz(images=TRAIN[0], labels=TRAIN[1] * np.int64(2**20)), "expected class indices in [0, 65536)"),
    "encrypted": (encrypted, "images can't be read"),
    "nan": (npz(images=np.full((40, 5, 7), np.nan), labels=TRAIN[1]), "has pixels that are not finite"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_files_are_named(tmp_path, case):
    write, message = BAD_NPZ[case]
    path = tmp_path / "set.npz"
    write(path)
    with pytest.raises(ValueError, match="set") as raised:
        data.load("set", tmp_path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        data.load("mnist", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no train-images-idx3-ubyte; expected it, or .*gz, or mnist\.npz"):
        data.load("mnist", tmp_path)
    write_idx(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match="has no t10k-labels-idx1-ubyte"):
        data.load("mnist", tmp_path)


ONCE = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@ONCE
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_flipped_byte_escapes(tmp_path, position, flip):
    # Either the file reads as if nothing had happened (the byte did not matter), or the error names it.
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=TRAIN[0], labels=TRAIN[1])
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= flip
    path.write_bytes(bytes(content))
    try:
        dataset = data.load("set", tmp_path)
    except ValueError as error:
        message = str(error)
    else:
        found = sum(float(part.inputs.sum()) for part in dataset)
        assert found == pytest.approx(float((TRAIN[0] / np.float32(255)).sum()), rel=1e-5)
        return
    assert str(path) in message
