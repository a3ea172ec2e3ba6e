"""Agreement with other libraries, where they are installed: pip install -e '.[peers]'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import data, losses, optimizers

optax = pytest.importorskip("optax")

PAIRS = {
    "sgd": (optimizers.sgd(0.1), lambda: optax.sgd(0.1)),
    "momentum": (optimizers.momentum(0.1, 0.8), lambda: optax.sgd(0.1, momentum=0.8)),
    "nesterov": (optimizers.momentum(0.1, 0.8, nesterov=True), lambda: optax.sgd(0.1, momentum=0.8, nesterov=True)),
    "rmsprop": (optimizers.rmsprop(0.1), lambda: optax.rmsprop(0.1)),
    "rmsprop outside": (
        optimizers.rmsprop(0.1, eps=1e-8, eps_root=0.0),
        lambda: optax.rmsprop(0.1, eps_in_sqrt=False),
    ),
    "adam": (optimizers.adam(0.1), lambda: optax.adam(0.1)),
    "adam inside": (optimizers.adam(0.1, eps=0.0, eps_root=1e-3), lambda: optax.adam(0.1, eps=0.0, eps_root=1e-3)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_same_updates_as_optax(name):
    ours, theirs = PAIRS[name][0], PAIRS[name][1]()
    params = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}
    mine, other = ours.init(params), theirs.init(params)
    for t in range(5):
        gradients = jax.tree.map(lambda p, t=t: p * (t + 1) - 0.3, params)
        found, mine = ours.update(gradients, mine, params)
        with jax.numpy_dtype_promotion("standard"):
            expected, other = theirs.update(gradients, other, params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)


def test_chains_with_optax():
    chained = optax.chain(optax.clip_by_global_norm(1.0), optimizers.momentum(0.1))
    params = {"w": jnp.full((4,), 10.0)}
    updates, _ = chained.update(params, chained.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["w"], 10 - 0.1 * 0.5, rtol=1e-6)


def test_same_losses_as_optax():
    rng = np.random.RandomState(0)
    z, labels = rng.normal(size=(5, 7)).astype(np.float32), rng.randint(0, 7, size=5)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(z, labels),
        optax.softmax_cross_entropy_with_integer_labels(z, jnp.asarray(labels)),
        rtol=1e-5,
    )
    t = (rng.uniform(size=z.shape) > 0.5).astype(np.float32)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(z, t), optax.sigmoid_binary_cross_entropy(z, t), rtol=1e-5, atol=1e-7
    )

    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, 7), 0.1)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(z, labels, label_smoothing=0.1),
        optax.softmax_cross_entropy(z, smoothed),
        rtol=1e-5,
    )


def test_same_losses_as_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.RandomState(0)
    z, labels = rng.normal(size=(5, 7)), np.array([0, -100, 6, 6, 3])
    with jax.enable_x64(True):
        found = losses.softmax_cross_entropy(z, labels, label_smoothing=0.1, ignored_label=-100)
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(z), torch.tensor(labels), label_smoothing=0.1, ignore_index=-100, reduction="none"
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        expected = torch.nn.functional.multi_margin_loss(
            torch.tensor(z), torch.tensor(abs(labels) % 7), reduction="none"
        )
        np.testing.assert_allclose(losses.multiclass_hinge(z, abs(labels) % 7), 7 * expected, rtol=1e-12)


def test_the_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    ours = data.digits()
    assert sum(len(part.labels) for part in ours) == len(theirs.target)
    known = {image.tobytes(): label for image, label in zip(theirs.images.astype(np.uint8), theirs.target, strict=True)}
    for part in ours:
        for image, label in zip(part.inputs, part.labels, strict=True):
            assert known[np.round(image * 16).astype(np.uint8).tobytes()] == label
