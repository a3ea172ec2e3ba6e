"""Agreement with other libraries, where they are installed: pip install -e '.[peers]'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import data, losses, optimizers
from fundamentals.optimizers import schedules

optax = pytest.importorskip("optax")

PAIRS = {
    "sgd": (optimizers.sgd(0.1), lambda: optax.sgd(0.1)),
    "momentum": (optimizers.momentum(0.1, 0.8), lambda: optax.sgd(0.1, momentum=0.8)),
    "nesterov": (optimizers.momentum(0.1, 0.8, nesterov=True), lambda: optax.sgd(0.1, momentum=0.8, nesterov=True)),
    "average": (
        optimizers.momentum(0.1, 0.8, normalization="average"),
        lambda: optax.chain(optax.ema(0.8, debias=False), optax.scale(-0.1)),
    ),
    "adagrad": (
        optimizers.adagrad(0.1, eps_root=1e-7, initial_accumulator=0.1),
        lambda: optax.adagrad(0.1),
    ),
    "adadelta": (optimizers.adadelta(0.7), lambda: optax.adadelta(0.7)),
    "rmsprop": (optimizers.rmsprop(0.1), lambda: optax.rmsprop(0.1)),
    "rmsprop outside": (
        optimizers.rmsprop(0.1, eps=1e-8, eps_root=0.0),
        lambda: optax.rmsprop(0.1, eps_in_sqrt=False),
    ),
    "adam": (optimizers.adam(0.1), lambda: optax.adam(0.1)),
    "adam inside": (optimizers.adam(0.1, eps=0.0, eps_root=1e-3), lambda: optax.adam(0.1, eps=0.0, eps_root=1e-3)),
    "adamw": (
        optimizers.adamw(0.1, weight_decay=0.3, mask={"w": True, "b": False}),
        lambda: optax.adamw(0.1, weight_decay=0.3, mask={"w": True, "b": False}),
    ),
    "penalty": (
        optimizers.chain(optimizers.l2_regularization(0.3), optimizers.adam(0.1)),
        lambda: optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1)),
    ),
    "clipped by the norm": (
        optimizers.chain(optimizers.clip_by_global_norm(2.0), optimizers.sgd(0.1)),
        lambda: optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(0.1)),
    ),
    "clipped by the value": (
        optimizers.chain(optimizers.clip_by_value(0.5), optimizers.sgd(0.1)),
        lambda: optax.chain(optax.clip(0.5), optax.sgd(0.1)),
    ),
    "scheduled": (
        optimizers.momentum(schedules.cosine(0.1, steps=4, final=0.01)),
        lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 4, alpha=0.1), momentum=0.9),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_same_updates_as_optax(name):
    ours, theirs = PAIRS[name][0], PAIRS[name][1]()
    params = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}
    mine, other = ours.init(params), theirs.init(params)
    for t in range(6):
        gradients = jax.tree.map(lambda p, t=t: p * (t + 1) - 0.3, params)
        found, mine = ours.update(gradients, mine, params)
        with jax.numpy_dtype_promotion("standard"):
            expected, other = theirs.update(gradients, other, params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "name", ["SGD", "Nesterov", "decayed", "Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "clipped"]
)
def test_same_steps_as_torch(name):
    torch = pytest.importorskip("torch")
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    theirs, ours = {
        "SGD": lambda: (torch.optim.SGD([w], 0.1, momentum=0.8), optimizers.momentum(0.1, 0.8)),
        "Nesterov": lambda: (
            torch.optim.SGD([w], 0.1, momentum=0.8, nesterov=True),
            optimizers.momentum(0.1, 0.8, nesterov=True),
        ),
        "decayed": lambda: (
            torch.optim.Adam([w], 0.1, weight_decay=0.3),
            optimizers.chain(optimizers.l2_regularization(0.3), optimizers.adam(0.1)),
        ),
        "Adagrad": lambda: (torch.optim.Adagrad([w], 0.1), optimizers.adagrad(0.1, eps=1e-10, eps_root=0.0)),
        "Adadelta": lambda: (torch.optim.Adadelta([w]), optimizers.adadelta()),
        "RMSprop": lambda: (
            torch.optim.RMSprop([w], 0.1, alpha=0.99, eps=1e-8),
            optimizers.rmsprop(0.1, 0.99, eps=1e-8, eps_root=0.0),
        ),
        "Adam": lambda: (torch.optim.Adam([w], 0.1), optimizers.adam(0.1)),
        "AdamW": lambda: (torch.optim.AdamW([w], 0.1, weight_decay=0.3), optimizers.adamw(0.1, weight_decay=0.3)),
        "clipped": lambda: (
            torch.optim.SGD([w], 0.1),
            optimizers.chain(optimizers.clip_by_global_norm(0.5), optimizers.sgd(0.1)),
        ),
    }[name]()
    with jax.enable_x64(True):
        params = jnp.array(w.detach().numpy())
        state = ours.init(params)
        for t in range(6):
            w.grad = (w * (t + 1) - 0.3).detach()
            updates, state = ours.update(jnp.array(w.grad.numpy()), state, params)
            if name == "clipped":
                torch.nn.utils.clip_grad_norm_([w], 0.5)
            theirs.step()
            params = optimizers.apply_updates(params, updates)
            # torch adds 1e-6 to the norm that it divides by
            np.testing.assert_allclose(params, w.detach(), rtol=1e-6 if name == "clipped" else 1e-12)


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
