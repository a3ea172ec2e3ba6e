"""What lecturers draw on the board, with the derivation that they write beside it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Example(NamedTuple):
    """A function, its arguments, and its gradient derived by hand."""

    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    by_hand: Callable[..., tuple[Any, ...]] | None  # of the inputs: a gradient for each
    derivation: str
    notes: str  # rows of the course notes
    folds: tuple[str, ...] = ()  # functions that are one node on the board


def product(x: Any, y: Any, z: Any) -> Any:
    """f = (x + y) z."""
    q = x + y
    return q * z


def _product_by_hand(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return z, z, x + y


def sigmoid(x: Any) -> Any:
    """σ(x) = 1 / (1 + e⁻ˣ)."""
    return 1 / (1 + jnp.exp(-x))


def neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    """f = σ(w₀x₀ + w₁x₁ + w₂)."""
    a = w0 * x0 + w1 * x1 + w2
    return sigmoid(a)


def _neuron_by_hand(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> tuple[Any, ...]:
    f = sigmoid(w0 * x0 + w1 * x1 + w2)
    da = f * (1 - f)
    return da * x0, da * w0, da * x1, da * w1, da


def norm(w: Any, x: Any) -> Any:
    """f = ‖W x‖²."""
    q = w @ x
    return jnp.sum(q * q)


def _norm_by_hand(w: Any, x: Any) -> tuple[Any, ...]:
    q = w @ x
    return 2 * jnp.outer(q, x), 2 * w.T @ q


def regression(w: Any, b: Any, x: Any, y: Any, lam: Any) -> Any:
    """L = ½ (y − σ(w x + b))² + λ w²."""
    z = w * x + b
    u = sigmoid(z)
    loss = 0.5 * (y - u) ** 2
    penalty = lam * w**2
    return loss + penalty


def _regression_by_hand(w: Any, b: Any, x: Any, y: Any, lam: Any) -> tuple[Any, ...]:
    u = sigmoid(w * x + b)
    dz = (u - y) * u * (1 - u)
    return dz * x + 2 * lam * w, dz, dz * w, y - u, w**2


def network(params: dict[str, Any], x: Any, labels: Any) -> Any:
    """The cross-entropy of two layers, W₂ tanh(W₁x + b₁) + b₂, averaged over a batch."""
    h = jnp.tanh(x @ params["w1"] + params["b1"][None, :])
    logits = h @ params["w2"] + params["b2"][None, :]
    return cross_entropy(logits, labels)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """log Σ eˡ − l of the label, averaged."""
    shifted = logits - jax.lax.stop_gradient(logits.max(1, keepdims=True))
    right = jnp.take_along_axis(shifted, labels[:, None], 1)[:, 0]
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(shifted), 1)) - right)


def _network_by_hand(params: dict[str, Any], x: Any, labels: Any) -> tuple[Any, ...]:
    h = jnp.tanh(x @ params["w1"] + params["b1"][None, :])
    logits = h @ params["w2"] + params["b2"][None, :]
    p = jnp.exp(logits - logits.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    dlogits = (p - jax.nn.one_hot(labels, p.shape[1], dtype=p.dtype)) / len(labels)
    da = (dlogits @ params["w2"].T) * (1 - h**2)
    dparams = {"w1": x.T @ da, "b1": da.sum(0), "w2": h.T @ dlogits, "b2": dlogits.sum(0)}
    return dparams, da @ params["w1"].T, None


def examples(key: Any) -> dict[str, Example]:
    """By name. The numbers of the first three are those of Stanford's CS231n, where the course has its examples from;
    `key` draws those of the network.
    """
    keys = jax.random.split(key, 4)
    params = {
        "w1": jax.random.normal(keys[0], (3, 5)),
        "b1": 0.1 * jnp.arange(5.0) - 0.2,
        "w2": jax.random.normal(keys[1], (5, 2)),
        "b2": jnp.array([0.3, -0.1]),
    }
    batch = (jax.random.normal(keys[2], (4, 3)), jax.random.randint(keys[3], (4,), 0, 2))
    return {
        "product": Example(
            product,
            _numbers(-2, 5, -4),
            _product_by_hand,
            "q = x + y, f = q z\n∂f/∂z = q,  ∂f/∂q = z,  ∂q/∂x = ∂q/∂y = 1\n∂f/∂x = ∂f/∂q · ∂q/∂x = z,  ∂f/∂y = z",
            "W1, B6, B8",
        ),
        "neuron": Example(
            neuron,
            _numbers(2, -1, -3, -2, -3),
            _neuron_by_hand,
            "a = w₀x₀ + w₁x₁ + w₂, f = σ(a)\n∂f/∂a = e⁻ᵃ/(1 + e⁻ᵃ)² = f (1 − f)\n"
            "∂f/∂wᵢ = f (1 − f) xᵢ,  ∂f/∂xᵢ = f (1 − f) wᵢ,  ∂f/∂w₂ = f (1 − f)",
            "W2, W3",
            ("sigmoid",),
        ),
        "norm": Example(
            norm,
            (jnp.array([[0.1, 0.5], [-0.3, 0.8]]), jnp.array([0.2, 0.4])),
            _norm_by_hand,
            "q = W x, f = ‖q‖² = Σ q_i²\n∂f/∂q = 2q,  ∂q_i/∂W_jk = δ_ij x_k,  ∂q/∂x = W\n"
            "∂f/∂W = 2 q xᵀ,  ∂f/∂x = 2 Wᵀ q",
            "W4, B3",
        ),
        "regression": Example(
            regression,
            _numbers(1.5, -0.5, 0.8, 0.2, 0.1),
            _regression_by_hand,
            "z = w x + b, u = σ(z), L = ½ (y − u)² + λ w²\n∂L/∂u = u − y,  ∂L/∂z = (u − y) u (1 − u),  ∂z/∂w = x\n"
            "∂L/∂w = (u − y) u (1 − u) x + 2 λ w,  ∂L/∂b = (u − y) u (1 − u)",
            "B4, B5",
            ("sigmoid",),
        ),
        "network": Example(
            network,
            (params, *batch),
            _network_by_hand,
            "h = tanh(x W₁ + b₁), l = h W₂ + b₂, p = softmax(l), L = mean(−log p of the label)\n"
            "∂L/∂l = (p − onehot)/B = δ₂,  ∂L/∂W₂ = hᵀ δ₂,  ∂L/∂b₂ = Σ δ₂\n"
            "δ₁ = δ₂ W₂ᵀ ⊙ (1 − h²),  ∂L/∂W₁ = xᵀ δ₁,  ∂L/∂b₁ = Σ δ₁",
            "B1, B6, B10",
            ("cross_entropy",),
        ),
    }


def _numbers(*values: float) -> tuple[Any, ...]:
    return tuple(jnp.asarray(float(value)) for value in values)
