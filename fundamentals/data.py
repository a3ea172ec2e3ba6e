"""Real data sets: handwritten digits in the box, MNIST-format files from a folder. NumPy only, never pickle.

The digits in the box are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
1998, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0), 1,797 images of 8 × 8 pixels in
17 grey levels, unchanged but for the file format, as scikit-learn distributes them.
"""

import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from fundamentals import training

__all__ = ["Dataset", "Split", "digits", "load"]

UNREADABLE = (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and NumPy raise on a damaged archive. (RuntimeError: it seems encrypted, or of an unknown method.)"""


class Split(NamedTuple):
    """Examples with their labels."""

    inputs: np.ndarray  # [N, height, width] float32, 0 black to 1 white where the source is integer
    labels: np.ndarray  # [N] int32, in [0, K)


class Dataset(NamedTuple):
    """Three disjoint parts: to fit, to choose, to report."""

    train: Split
    validation: Split
    test: Split


def digits() -> Dataset:
    """The 1,797 handwritten digits in the box: 1,258 to train, 180 to validate, 359 to test.

    Pixels are [8, 8] in [0, 1]. The split is stratified and the same on every machine.
    """
    with resources.as_file(resources.files("fundamentals") / "digits.npz") as path:
        arrays = _read_npz(path, ["images", "labels"])
    inputs, labels = arrays["images"] / np.float32(16), arrays["labels"].astype(np.int32)
    test, validation, train = training.split(labels, (0.2, 0.1, 0.7))
    return Dataset(*(Split(inputs[part], labels[part]) for part in (train, validation, test)))


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """A data set by name: "digits" from the box, any other from files in `data_dir`.

    Looked for in `data_dir/NAME` if that is a folder, else in `data_dir`, first match:

      NAME.npz with x_train, y_train, x_test, y_test (Keras's form), or with images and labels, which are then split
        into 70 % train, 10 % validation and 20 % test;
      train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (MNIST's form),
        each plain or with .gz.

    Where the files have a test part, a tenth of the training part becomes the validation part. Splits are stratified.
    Unsigned bytes are scaled to [0, 1], floating pixels are taken as they are.

    Args:
      name: "digits", or the name of the files.
      data_dir: the folder; none for "digits".

    Returns:
      A `Dataset`.

    Raises:
      FileNotFoundError: a folder or file is missing.
      ValueError: a file is truncated or of another kind, or labels do not match images. It names the file.
    """
    if name == "digits":
        if data_dir is not None:
            raise ValueError(f"data.load: 'digits' is in the box; expected no data_dir, not {str(data_dir)!r}")
        return digits()
    if data_dir is None:
        raise ValueError(f"data.load: {name!r} is not in the box; expected 'digits', or data_dir with the files")
    folder = Path(data_dir) / name
    folder = folder if folder.is_dir() else Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"data.load: {folder} is not a folder; expected the one that holds {name!r}")
    archive = folder / f"{name}.npz"
    if archive.exists():
        return _from_npz(archive)
    return _from_idx(folder, archive)


def _from_npz(path: Path) -> Dataset:
    keys = ["x_train", "y_train", "x_test", "y_test"]
    with path.open("rb") as file, _open_npz(path, file) as archive:
        whole = "images" in archive.files and not set(keys) <= set(archive.files)
    if whole:
        arrays = _read_npz(path, ["images", "labels"])
        split = _split(arrays["images"], arrays["labels"], f"{path}: images", f"{path}: labels")
        test, validation, train = _parts(path, split.labels, (0.2, 0.1, 0.7))
        return Dataset(*(Split(split.inputs[part], split.labels[part]) for part in (train, validation, test)))
    arrays = _read_npz(path, keys)
    return _with_validation(
        path,
        *(
            _split(arrays[f"x_{part}"], arrays[f"y_{part}"], f"{path}: x_{part}", f"{path}: y_{part}")
            for part in ("train", "test")
        ),
    )


def _from_idx(folder: Path, archive: Path) -> Dataset:
    parts = []
    for part in ("train", "t10k"):
        images = _find(folder, f"{part}-images-idx3-ubyte", archive)
        labels = _find(folder, f"{part}-labels-idx1-ubyte", archive)
        parts.append(_split(_read_idx(images, 3), _read_idx(labels, 1), str(images), str(labels)))
    return _with_validation(folder, *parts)


def _find(folder: Path, name: str, archive: Path) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"data.load: {folder} has no {name}; expected it, or {name}.gz, or {archive.name}")


def _parts(source: Path, labels: np.ndarray, fractions: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """A stratified split. Of a class with few examples a small part may get none, but no part is empty."""
    try:
        return training.split(labels, fractions, every_class=False)
    except ValueError as error:
        parts = ", ".join(f"{100 * fraction:g} %" for fraction in fractions)
        raise ValueError(
            f"{source} has too few examples, {len(labels)}, for parts of {parts}; expected about ten a class"
        ) from error


def _with_validation(source: Path, train: Split, test: Split) -> Dataset:
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise ValueError(
            f"{source}: training images have shape {list(train.inputs.shape[1:])}, "
            f"test images {list(test.inputs.shape[1:])}; expected the same"
        )
    validation, rest = _parts(source, train.labels, (0.1, 0.9))
    fit, choose = (Split(train.inputs[part], train.labels[part]) for part in (rest, validation))
    return Dataset(fit, choose, test)


def _split(images: np.ndarray, labels: np.ndarray, image_source: str, label_source: str) -> Split:
    """Images and labels that were checked against each other."""
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"{image_source} has shape {list(images.shape)}; expected [N, height, width], not empty")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{label_source} is {labels.dtype} {list(labels.shape)}; expected integers [N]")
    if len(labels) != len(images):
        raise ValueError(
            f"{label_source} has {len(labels)} labels; expected {len(images)}, one an image of {image_source}"
        )
    if labels.min() < 0 or labels.max() >= 2**16:
        raise ValueError(
            f"{label_source} has labels from {labels.min()} to {labels.max()}; expected class indices in [0, {2**16})"
        )
    if images.dtype == np.uint8:
        inputs = images / np.float32(255)
    elif np.issubdtype(images.dtype, np.floating):
        inputs = images.astype(np.float32)
        if not np.isfinite(inputs).all():
            raise ValueError(f"{image_source} has pixels that are not finite numbers")
    else:
        raise ValueError(f"{image_source} has dtype {images.dtype}; expected unsigned bytes or floating pixels")
    return Split(inputs, labels.astype(np.int32))


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the rank, big-endian sizes, the bytes."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return _parse_idx(path, cast(BinaryIO, file), rank)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not gzip ({error}); expected a gzipped IDX file") from error


def _parse_idx(path: Path, file: BinaryIO, rank: int) -> np.ndarray:
    header = file.read(4 + 4 * rank)
    magic = bytes([0, 0, 8, rank])
    if header[:4] != magic:
        raise ValueError(
            f"{path} starts with {header[:4].hex() or 'nothing'}; "
            f"expected {magic.hex()}, an IDX file of unsigned bytes with {rank} axes"
        )
    if len(header) < 4 + 4 * rank:
        raise ValueError(f"{path} is truncated: {len(header)} bytes; expected a header of {4 + 4 * rank}")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
    size = math.prod(shape)
    body = _read_up_to(file, size)
    if len(body) < size:
        raise ValueError(f"{path} is truncated: {len(body)} bytes of data; expected {size} for shape {list(shape)}")
    if file.read(1):
        raise ValueError(f"{path} goes on after its data; expected {size} bytes for shape {list(shape)}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    """At most `size` bytes, in chunks: a header that lies about the size must not reserve memory for the lie."""
    chunks, left = [], size
    while left and (chunk := file.read(min(left, 1 << 24))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _open_npz(path: Path, file: BinaryIO) -> np.lib.npyio.NpzFile:
    if file.read(4) != b"PK\3\4" or not zipfile.is_zipfile(file):
        raise ValueError(f"{path} is not a NumPy archive (truncated, or another kind of file); expected .npz")
    file.seek(0)
    try:
        return cast(np.lib.npyio.NpzFile, np.load(file, allow_pickle=False))
    except UNREADABLE as error:
        raise ValueError(f"{path} can't be read ({error}); expected .npz") from error


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    arrays = {}
    with path.open("rb") as file, _open_npz(path, file) as archive:
        for name in names:
            if name not in archive.files:
                raise ValueError(f"{path} holds {archive.files}; expected {list(names)}")
            try:
                array = archive[name]
            except UNREADABLE as error:
                raise ValueError(f"{path}: {name} can't be read ({error}); expected a plain array") from error
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{path}: {name} is not an array; expected NumPy's format")
            arrays[name] = array
    return arrays
