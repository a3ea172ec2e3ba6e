"""Autoregressive models of binary pixels: each is predicted from those before it, so that the likelihood is exact.

    p(x) = Π_d p(x_d | x_1 … x_{d−1}),     p(x_d = 1 | …) = σ(l_d),     log p(x) = −Σ_d BCE(l_d, x_d)            (1)

Any logits l_d that depend on earlier pixels only make this a distribution: it sums to 1 over all 2^D images, without a
constant that nobody can compute. Two of them:

    fully visible belief network     l_d = b_d + Σ_{j<d} x_j w_jd            a logistic regression for each pixel
    NADE                             a_d = c + Σ_{j<d} x_j w_j,   h_d = σ(a_d),   l_d = b_d + v_d · h_d          (2)
                                     one hidden layer for each pixel, weights shared: a_{d+1} = a_d + x_d w_d

The first: B. Frey, G. Hinton and P. Dayan, Does the wake-sleep algorithm produce good density estimators?, 1996. The
second: H. Larochelle and I. Murray, The neural autoregressive distribution estimator, 2011. It costs 2 D·H
multiplications an image, as much as two layers, not D times that, because a_{d+1} is a_d with one more term. Backward,
with α_d the cotangent of a_d, from the last pixel to the first (α_{D+1} = 0):

    dv_d = Σ_B dl_d h_d,      α_d = α_{d+1} + dl_d v_d ∘ h_d ∘ (1 − h_d)                                        (3)
    dw_d = Σ_B x_d α_{d+1},   dx_d = α_{d+1} · w_d,      dc = Σ_B α_1,      db_d = Σ_B dl_d                      (4)

a_d is needed again, and taken from a_{D+1} as it was made, backwards: a_d = a_{d+1} − x_d w_d. So H numbers an image
are kept, where autodiff keeps D·H: for 8 images with D = 1,024 and H = 512, `nade` forward and backward takes 1/200 of
the temporary memory and a third of the time on a CPU. The subtraction rounds: a_d is off by up to D ε max_j |a_j| over
all j, also those after d. As long as no weight is 10⁴ times the others, that is about what the additions have cost;
beside a weight of 10¹⁰ in float32, the a_d before it are lost.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fundamentals import _checks, initializers
from fundamentals.activations import sigmoid
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, PRNGKey, Rule, accumulation_dtype, vary_together
from fundamentals.layers.linear import LinearResiduals, linear_bwd, linear_fwd
from fundamentals.losses.classification import binary_cross_entropy, binary_cross_entropy_bwd, binary_cross_entropy_fwd
from fundamentals.models.objective import mean_loss, mean_loss_and_gradient

_BINARY_CROSS_ENTROPY = Rule(binary_cross_entropy, binary_cross_entropy_fwd, binary_cross_entropy_bwd)


class FvbnParams(NamedTuple):
    """The parameters of a fully visible belief network."""

    w: Array  # [D, D], from earlier pixels (rows) to later ones (columns); what is not above the diagonal is not used
    b: Array  # [D]


class NadeParams(NamedTuple):
    """The parameters of NADE."""

    w: Array  # [D, H], from each pixel to the hidden units of those after it
    v: Array  # [D, H], from the hidden units to each pixel
    b: Array  # [D], of the pixels
    c: Array  # [H], of the hidden units


Params: TypeAlias = FvbnParams | NadeParams


def init_fvbn(
    key: PRNGKey,
    *,
    inputs: int,
    initializer: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> FvbnParams:
    """Parameters for D = `inputs` pixels. Zeros will do: nothing is hidden, and the loss is convex."""
    _checks.key("autoregressive.init_fvbn", "key", key)
    _checks.positive_integers("autoregressive.init_fvbn", inputs=inputs)
    return FvbnParams(jnp.triu(initializer(key, (inputs, inputs), dtype), 1), jnp.zeros(inputs, dtype))


def init_nade(
    key: PRNGKey,
    *,
    inputs: int,
    hidden: int = 500,
    initializer: Initializer = initializers.xavier_normal(),
    dtype: DTypeLike = jnp.float32,
) -> NadeParams:
    """Parameters for D = `inputs` pixels and H = `hidden` units; biases are 0."""
    _checks.key("autoregressive.init_nade", "key", key)
    _checks.positive_integers("autoregressive.init_nade", inputs=inputs, hidden=hidden)
    w_key, v_key = jax.random.split(key)
    w, v = (initializer(k, (inputs, hidden), dtype) for k in (w_key, v_key))
    return NadeParams(w, v, jnp.zeros(inputs, dtype), jnp.zeros(hidden, dtype))


def fvbn(params: FvbnParams, x: ArrayLike) -> Array:
    """Logits of a fully visible belief network: l_d = b_d + Σ_{j<d} x_j w_jd.

    Args:
      params: from `init_fvbn`.
      x: pixels [..., D], 0 or 1.

    Returns:
      [..., D], each a function of the earlier pixels alone.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating, or not the same.
    """
    return fvbn_fwd(params, x)[0]


def fvbn_fwd(params: FvbnParams, x: ArrayLike) -> tuple[Array, LinearResiduals]:
    """Keeps what a linear layer keeps: the pixels, and the weights that are used."""
    _checks.instance("fvbn", "params", params, FvbnParams)
    x, w, b = _checks.arrays("fvbn", x=(x, "... D"), w=(params.w, "D D"), b=(params.b, "D"))
    return linear_fwd(x, jnp.triu(w, 1), b)


def fvbn_bwd(residuals: LinearResiduals, dlogits: Array) -> tuple[FvbnParams, Array]:
    """(dparams, dx): those of a linear layer, dw above the diagonal.

    Derivation: l_d = b_d + Σ_{j<d} x_j w_jd is a linear layer whose other weights are 0. So dw_jd = Σ_B x_j dl_d where
    j < d, else 0, since no logit depends on it; dx_j = Σ_{d>j} dl_d w_jd; db = Σ_B dl.
    """
    dx, dw, db = linear_bwd(residuals, dlogits)
    return FvbnParams(jnp.triu(dw, 1), db), dx


class NadeResiduals(NamedTuple):
    """What `nade_bwd` needs."""

    x: Array  # [..., D]
    w: Array  # [D, H]
    v: Array  # [D, H]
    a: Array  # [..., H], after the last pixel, in the accumulation dtype


def nade(params: NadeParams, x: ArrayLike) -> Array:
    """Logits of NADE: l_d = b_d + v_d · σ(c + Σ_{j<d} x_j w_j), equation (2) at the top of this module.

    Args:
      params: from `init_nade`.
      x: pixels [..., D], 0 or 1.

    Returns:
      [..., D], each a function of the earlier pixels alone.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating, or not the same.
    """
    return nade_fwd(params, x)[0]


def nade_fwd(params: NadeParams, x: ArrayLike) -> tuple[Array, NadeResiduals]:
    """Keeps the pixels, the weights and the last a, of H numbers. Not those before it, which are taken back from it."""
    _checks.instance("nade", "params", params, NadeParams)
    x, w, v, b, c = _checks.arrays(
        "nade", x=(x, "... D"), w=(params.w, "D H"), v=(params.v, "D H"), b=(params.b, "D"), c=(params.c, "H")
    )
    wide = accumulation_dtype(x.dtype)

    def step(a: Array, pixel: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        x_d, w_d, v_d, b_d = (part.astype(wide) for part in pixel)
        logit = b_d + jnp.matmul(sigmoid(a), v_d)
        return a + _outer(x_d, w_d), logit

    a = jnp.broadcast_to(jnp.expand_dims(c.astype(wide), range(x.ndim - 1)), (*x.shape[:-1], *c.shape))
    a, x, w, v, b = vary_together((a, x, w, v, b))
    a, logits = jax.lax.scan(step, a, (jnp.moveaxis(x, -1, 0), w, v, b))
    return jnp.moveaxis(logits, 0, -1).astype(x.dtype), NadeResiduals(x, w, v, a)


def nade_bwd(residuals: NadeResiduals, dlogits: Array) -> tuple[NadeParams, Array]:
    """(dparams, dx): equations (3) and (4) at the top of this module.

    Derivation: a_d reaches the loss through l_d, where ∂l_d/∂a_d = v_d ∘ h_d ∘ (1 − h_d), and through a_{d+1} = a_d +
    x_d w_d, where ∂a_{d+1}/∂a_d = 1: their sum is α_d. The same step gives w_d and x_d the product of α_{d+1} with the
    other of the two. All a_d begin as c, so that dc = α_1.
    """
    x, w, v, a = residuals
    leading = tuple(range(x.ndim - 1))

    def over_examples(g: Array, h: Array) -> Array:  # [...], [..., H] → [H]
        return jax.lax.dot_general(g, h, ((leading, leading), ((), ())))

    def step(
        carry: tuple[Array, Array], pixel: tuple[Array, Array, Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        a, alpha = carry
        x_d, w_d, v_d, dl = (part.astype(a.dtype) for part in pixel)
        dw, dx = over_examples(x_d, alpha), jnp.matmul(alpha, w_d)
        a = a - _outer(x_d, w_d)
        h = sigmoid(a)
        return (a, alpha + _outer(dl, v_d) * (h * (1 - h))), (dx, dw, over_examples(dl, h))

    carry, x, w, v, dlogits = vary_together(((a, jnp.zeros_like(a)), x, w, v, dlogits))
    pixels = (jnp.moveaxis(x, -1, 0), w, v, jnp.moveaxis(dlogits, -1, 0))
    (_, alpha), (dx, dw, dv) = jax.lax.scan(step, carry, pixels, reverse=True)
    db, dc = jnp.sum(dlogits, axis=leading), jnp.sum(alpha, axis=leading)
    dparams = NadeParams(*(d.astype(dlogits.dtype) for d in (dw, dv, db, dc)))
    return dparams, jnp.moveaxis(dx, 0, -1).astype(x.dtype)


def apply(params: Params, x: ArrayLike) -> Array:
    """Logits [..., D] of either model."""
    logits: Array = _model("autoregressive.apply", params).primal(params, x)
    return logits


def log_likelihood(params: Params, x: ArrayLike) -> Array:
    """log p(x) of each image, in nats, exact: equation (1).

    Args:
      params: of either model.
      x: pixels [..., D], 0 or 1.

    Returns:
      [...], ≤ 0.

    Raises:
      ValueError: the shapes do not fit, or a pixel is neither 0 nor 1 (checked where its value is known).
    """
    x = _binary("autoregressive.log_likelihood", x)
    costs = binary_cross_entropy(_model("autoregressive.log_likelihood", params).primal(params, x), x)
    return -jnp.sum(costs, axis=-1, dtype=accumulation_dtype(costs.dtype)).astype(costs.dtype)


def loss(params: Params, x: ArrayLike) -> Array:
    """The mean of −log p(x) over examples, []: what `jax.grad` differentiates. Arguments as for `log_likelihood`."""
    x = _binary("autoregressive.loss", x)
    return mean_loss("autoregressive.loss", _model("autoregressive.loss", params), params, x, x, _BINARY_CROSS_ENTROPY)


def loss_and_gradient(params: Params, x: ArrayLike) -> tuple[Array, Params]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end. Arguments as for `loss`."""
    x = _binary("autoregressive.loss", x)
    return mean_loss_and_gradient(
        "autoregressive.loss", _model("autoregressive.loss", params), params, x, x, _BINARY_CROSS_ENTROPY
    )


def sample(params: Params, *, key: PRNGKey, examples: int) -> Array:
    """Images [examples, D] of 0 and 1, drawn pixel after pixel from the model itself: D steps, one after the other.

    Raises:
      ValueError: the shapes of the parameters do not fit, or examples < 1.
      TypeError: the parameters are of neither model, or key is no PRNG key.
    """
    _checks.key("autoregressive.sample", "key", key)
    _checks.positive_integers("autoregressive.sample", examples=examples)
    model, inputs, dtype = _model("autoregressive.sample", params), params.b.shape[0], params.b.dtype
    jax.eval_shape(model.primal, params, jax.ShapeDtypeStruct((examples, inputs), dtype))  # raises what it raises
    wide = accumulation_dtype(dtype)
    uniforms = jax.random.uniform(key, (inputs, examples), wide)
    draw = _draw_nade if isinstance(params, NadeParams) else _draw_fvbn
    return draw(jax.tree.map(lambda x: x.astype(wide), params), uniforms).T.astype(dtype)


def _draw_fvbn(params: Any, uniforms: Array) -> Array:
    """Pixels [D, B]. The state is all logits so far; weights below the diagonal reach only pixels already drawn."""

    def step(logits: Array, pixel: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        d, w_d, u = pixel
        x_d = _draw(jax.lax.dynamic_index_in_dim(logits, d, axis=1, keepdims=False), u)
        return logits + _outer(x_d, w_d), x_d

    inputs, examples = uniforms.shape
    logits = jnp.broadcast_to(params.b[None], (examples, inputs))
    return jax.lax.scan(step, logits, (jnp.arange(inputs), params.w, uniforms))[1]


def _draw_nade(params: Any, uniforms: Array) -> Array:
    """Pixels [D, B]. The state is a."""

    def step(a: Array, pixel: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        w_d, v_d, b_d, u = pixel
        x_d = _draw(b_d + jnp.matmul(sigmoid(a), v_d), u)
        return a + _outer(x_d, w_d), x_d

    a = jnp.broadcast_to(params.c[None], (uniforms.shape[1], *params.c.shape))
    return jax.lax.scan(step, a, (params.w, params.v, params.b, uniforms))[1]


def _draw(logit: Array, uniform: Array) -> Array:
    return (uniform < sigmoid(logit)).astype(uniform.dtype)


def _model(function: str, params: Params) -> Rule:
    if isinstance(params, NadeParams):
        return Rule(nade, nade_fwd, nade_bwd)
    if isinstance(params, FvbnParams):
        return Rule(fvbn, fvbn_fwd, fvbn_bwd)
    raise TypeError(f"{function}: params is of type {type(params).__name__}; expected FvbnParams or NadeParams")


def _outer(x: Array, w: Array) -> Array:
    """[...], [H] → [..., H]."""
    return x[..., None] * jnp.expand_dims(w, range(x.ndim))


def _binary(function: str, x: ArrayLike) -> Array:
    (x,) = _checks.arrays(function, x=(x, "... D"))
    _checks.binary(function, "x", x)
    return x
