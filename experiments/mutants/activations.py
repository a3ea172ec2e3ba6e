"""Wrong backward passes of activations, softmax among them: rows 18, 19 and 25–35."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, gaussians, mutant

SLOPE = 0.1
LOW, HIGH = -0.7, 0.9


def softmax(x: Array) -> Array:
    """p = e^x / Σ e^x, along the last axis."""
    e = jnp.exp(x)
    return e / jnp.sum(e, axis=-1, keepdims=True)


def softmax_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = p (dy − Σ dy p)."""
    p = softmax(args[0])
    return (p * (dy - jnp.sum(dy * p, axis=-1, keepdims=True)),)


def softmax_diagonal(args: Args, dy: Array) -> Cotangents:
    """dy p (1 − p): the diagonal of the Jacobian alone."""
    p = softmax(args[0])
    return (dy * p * (1 - p),)


def log_softmax(x: Array) -> Array:
    """y = x − log Σ e^x, along the last axis."""
    return x - jnp.log(jnp.sum(jnp.exp(x), axis=-1, keepdims=True))


def log_softmax_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy − p Σ dy."""
    return (dy - softmax(args[0]) * jnp.sum(dy, axis=-1, keepdims=True),)


def log_softmax_constant(args: Args, dy: Array) -> Cotangents:
    """dy − p for dy − p Σ dy."""
    return (dy - softmax(args[0]),)


def relu(x: Array) -> Array:
    """x where x > 0, else 0."""
    return jnp.where(x > 0, x, 0)


def relu_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy where x > 0."""
    return (jnp.where(args[0] > 0, dy, 0),)


def relu_of_cotangent(args: Args, dy: Array) -> Cotangents:
    """dy where dy > 0, for where x > 0."""
    return (jnp.where(dy > 0, dy, 0),)


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + e^−x)."""
    return 1 / (1 + jnp.exp(-x))


def sigmoid_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy y (1 − y)."""
    y = sigmoid(args[0])
    return (dy * y * (1 - y),)


def sigmoid_of_input(args: Args, dy: Array) -> Cotangents:
    """x (1 − x) for y (1 − y)."""
    (x,) = args
    return (dy * x * (1 - x),)


def tanh_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (1 − y²), y = tanh x."""
    return (dy * (1 - jnp.tanh(args[0]) ** 2),)


def tanh_of_output(args: Args, dy: Array) -> Cotangents:
    """1 − tanh(y)² for 1 − y²."""
    return (dy * (1 - jnp.tanh(jnp.tanh(args[0])) ** 2),)


def tanh_itself(args: Args, dy: Array) -> Cotangents:
    """y, the value, for the derivative 1 − y²."""
    return (dy * jnp.tanh(args[0]),)


def gelu(x: Array) -> Array:
    """x Φ(x), Φ the normal distribution function."""
    return x * 0.5 * (1 + jax.lax.erf(x / math.sqrt(2)))


def gelu_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (Φ(x) + x φ(x)), φ the normal density."""
    (x,) = args
    density = jnp.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return (gelu_of_constant(args, dy)[0] + dy * x * density,)


def gelu_of_constant(args: Args, dy: Array) -> Cotangents:
    """Φ(x), without x φ(x)."""
    (x,) = args
    return (dy * 0.5 * (1 + jax.lax.erf(x / math.sqrt(2))),)


def gelu_approximate(args: Args, dy: Array) -> Cotangents:
    """The derivative of the approximation by tanh."""
    (x,) = args
    c = math.sqrt(2 / math.pi)
    t = jnp.tanh(c * (x + 0.044715 * x**3))
    return (dy * 0.5 * (1 + t + x * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2)),)


def silu(x: Array) -> Array:
    """x σ(x)."""
    return x * sigmoid(x)


def silu_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (σ + x σ (1 − σ))."""
    (x,) = args
    s = sigmoid(x)
    return (dy * (s + x * s * (1 - s)),)


def silu_of_constant(args: Args, dy: Array) -> Cotangents:
    """σ(x), without x σ′(x)."""
    return (dy * sigmoid(args[0]),)


def leaky_relu(x: Array) -> Array:
    """x where x > 0, else a tenth of it."""
    return jnp.where(x > 0, x, SLOPE * x)


def leaky_relu_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy where x > 0, else dy / 10."""
    return (jnp.where(args[0] > 0, dy, SLOPE * dy),)


def leaky_relu_inverted(args: Args, dy: Array) -> Cotangents:
    """The slope of the negative side on the positive one, and the reverse."""
    return (jnp.where(args[0] > 0, SLOPE * dy, dy),)


def clamp(x: Array) -> Array:
    """x, kept within its bounds."""
    return jnp.clip(x, LOW, HIGH)


def clamp_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy where x is within the bounds."""
    (x,) = args
    return (jnp.where((x > LOW) & (x < HIGH), dy, 0),)


def clamp_inverted(args: Args, dy: Array) -> Cotangents:
    """Where x is above the upper bound and below the lower one: nowhere."""
    (x,) = args
    return (jnp.where((x > HIGH) & (x < LOW), dy, 0),)


def prelu(x: Array, a: Array) -> Array:
    """x where x > 0, else a x, with a slope per channel: x [B, C], a [C]."""
    return jnp.where(x > 0, x, a[None, :] * x)


def prelu_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy where x > 0, else a dy; da = Σ_b dy x over the negative x."""
    x, a = args
    return jnp.where(x > 0, dy, a[None, :] * dy), jnp.sum(jnp.where(x > 0, 0, dy * x), axis=0)


def prelu_other_axis(args: Args, dy: Array) -> Cotangents:
    """da summed over the channels for the batch."""
    x, _ = args
    return prelu_bwd(args, dy)[0], jnp.sum(jnp.where(x > 0, 0, dy * x), axis=1)


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) · up."""
    return silu(gate) * up


def swiglu_bwd(args: Args, dy: Array) -> Cotangents:
    """dgate = dy up silu′(gate), dup = dy silu(gate)."""
    gate, up = args
    return *silu_bwd((gate,), dy * up), dy * silu(gate)


def swiglu_swapped(args: Args, dy: Array) -> Cotangents:
    """dgate and dup are returned in each other's place."""
    dgate, dup = swiglu_bwd(args, dy)
    return dup, dgate


ROWS = gaussians((5, 3))
SOFTMAX = Subject(softmax, softmax_bwd, ROWS)
LOG_SOFTMAX = Subject(log_softmax, log_softmax_bwd, ROWS)
RELU = Subject(relu, relu_bwd, ROWS)
SIGMOID = Subject(sigmoid, sigmoid_bwd, ROWS)
TANH = Subject(jnp.tanh, tanh_bwd, ROWS)
GELU = Subject(gelu, gelu_bwd, ROWS)
SILU = Subject(silu, silu_bwd, ROWS)
LEAKY_RELU = Subject(leaky_relu, leaky_relu_bwd, ROWS)
CLAMP = Subject(clamp, clamp_bwd, ROWS)
PRELU = Subject(prelu, prelu_bwd, gaussians((5, 3), (3,)))
PRELU_SQUARE = PRELU._replace(arguments=gaussians((5, 5), (5,)))
SWIGLU = Subject(swiglu, swiglu_bwd, gaussians((5, 3), (5, 3)))

MUTANTS = (
    # What goes through the normaliser from the other entries; or: in p (dy − Σ dy p), the sum is not taken.
    mutant(18, "softmax", SOFTMAX, softmax_diagonal, "MISSING_PATH UNREDUCED"),
    # dy is ignored in the second term; so what is left is affine in dy.
    mutant(19, "log-softmax", LOG_SOFTMAX, log_softmax_constant, "COTANGENT_IGNORED COTANGENT_NONLINEAR"),
    mutant(25, "ReLU", RELU, relu_of_cotangent, "COTANGENT_NONLINEAR WRONG_OPERAND"),
    mutant(26, "sigmoid", SIGMOID, sigmoid_of_input, "WRONG_OPERAND"),
    mutant(27, "tanh", TANH, tanh_of_output, "WRONG_OPERAND"),
    # A quantity in the place of another; and the derivative of log cosh.
    mutant(28, "tanh", TANH, tanh_itself, "WRONG_OPERAND OTHER_FORWARD"),
    mutant(29, "GELU", GELU, gelu_approximate, "OTHER_FORWARD"),
    mutant(30, "GELU", GELU, gelu_of_constant, "MISSING_PATH"),
    mutant(31, "SiLU", SILU, silu_of_constant, "MISSING_PATH"),
    mutant(32, "leaky ReLU", LEAKY_RELU, leaky_relu_inverted, "WRONG_OPERAND SUPPORT"),
    mutant(33, "clamp", CLAMP, clamp_inverted, "ZERO"),
    mutant(34, "PReLU, square", PRELU_SQUARE, prelu_other_axis, "WRONG_AXIS", (1,)),
    mutant(34, "PReLU", PRELU, prelu_other_axis, "WRONG_AXIS", (1,)),
    mutant(35, "SwiGLU", SWIGLU, swiglu_swapped, "SWAPPED", (0, 1)),
)
