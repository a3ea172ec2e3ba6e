"""Variational autoencoder: an encoder, a code with noise, a decoder, and the whole backward pass by hand.

    h = encoder(x),  h = [μ, s]      the code's distribution  q(z|x) = N(μ, σ²), σ = e^s
    z = μ + σ ε,     ε ~ N(0, 1)     a draw from it, as a function of μ and s: reparameterization              (1)
    l = decoder(z)                   logits of independent binary pixels  p(x|z) = Π_d Bernoulli(x_d; σ(l_d))

With the prior p(z) = N(0, 1), the evidence lower bound for one draw of ε is

    log p(x) ≥ ELBO = E_q log p(x|z) − KL(q(z|x) ‖ p(z))  ≈  −Σ_d BCE(l_d, x_d) − KL                            (2)

where the KL divergence is in closed form (`losses.gaussian_kl`) and the expectation is a single draw, which has the
right mean, and so has its gradient: ε does not depend on any parameter. The gap of the bound is KL(q(z|x) ‖ p(z|x));
many draws, weighted by importance, make it smaller (`importance_weighted_bound`).

Backward, with dy the cotangent of −ELBO, in the order in which the code takes them:

    dl = dy (σ(l) − x)               prediction − target, through the decoder to dz                             (3)
    dμ = dz + dy β μ                 both what the decoder wants, and what the prior wants                      (4)
    ds = dz σ ε + dy β (σ² − 1)                                                                                 (5)
    dx = encoder's, of [dμ, ds]  −  dy l    since x is what is encoded and what is to be decoded                (6)

D. P. Kingma and M. Welling, Auto-encoding variational Bayes, 2014. β ≠ 1 is I. Higgins et al., beta-VAE, 2017; with
β < 1 it is no bound on log p(x).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, activations, initializers
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, Numeric, PRNGKey, Rule, accumulation_dtype
from fundamentals.losses.classification import (
    BinaryCrossEntropyResiduals,
    binary_cross_entropy,
    binary_cross_entropy_bwd,
    binary_cross_entropy_fwd,
)
from fundamentals.losses.divergences import GaussianKlResiduals, gaussian_kl_bwd, gaussian_kl_fwd
from fundamentals.models import mlp
from fundamentals.models.mlp import RELU, MlpResiduals, mlp_bwd, mlp_fwd


class Params(NamedTuple):
    """The parameters of both networks."""

    encoder: mlp.Params  # D → … → 2 Z: means, then log-scales
    decoder: mlp.Params  # Z → … → D: logits


def init(
    key: PRNGKey,
    *,
    inputs: int,
    latent: int,
    hidden: Sequence[int] = (200,),
    initializer: Initializer = initializers.he_normal(),
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters of an encoder, and of a decoder with the same hidden layers in reverse.

    Args:
      key: a PRNG key.
      inputs: D, pixels.
      latent: Z, numbers in a code.
      hidden: units of the encoder's hidden layers, possibly none.
      initializer: of the weights; biases are 0.
      dtype: of all parameters.

    Raises:
      ValueError: a size is not positive.
    """
    _checks.key("vae.init", "key", key)
    _checks.positive_integers("vae.init", inputs=inputs, latent=latent)
    _checks.layer_sizes("vae.init", "hidden", hidden, 0, "units of hidden layers")
    encoder_key, decoder_key = jax.random.split(key)
    down, up = (inputs, *hidden, 2 * latent), (latent, *reversed(hidden), inputs)
    return Params(
        mlp.init(encoder_key, down, initializer=initializer, dtype=dtype),
        mlp.init(decoder_key, up, initializer=initializer, dtype=dtype),
    )


class ReparameterizeResiduals(NamedTuple):
    """What `reparameterize_bwd` needs."""

    scales: Array  # [..., Z]
    noise: Array  # [..., Z]


def reparameterize(means: ArrayLike, log_scales: ArrayLike, noise: ArrayLike) -> Array:
    """μ + e^s ε: a draw from N(μ, e^2s) as a differentiable function of μ and s.

    Args:
      means: [..., Z].
      log_scales: [..., Z].
      noise: ε [..., Z], drawn from N(0, 1).

    Returns:
      [..., Z].
    """
    return reparameterize_fwd(means, log_scales, noise)[0]


def reparameterize_fwd(
    means: ArrayLike, log_scales: ArrayLike, noise: ArrayLike
) -> tuple[Array, ReparameterizeResiduals]:
    """Keeps the scales and the noise. Not the means, which are only added."""
    means, log_scales, noise = _checks.arrays(
        "reparameterize", means=(means, "... Z"), log_scales=(log_scales, "... Z"), noise=(noise, "... Z")
    )
    scales = jnp.exp(log_scales)
    return means + scales * noise, ReparameterizeResiduals(scales, noise)


def reparameterize_bwd(residuals: ReparameterizeResiduals, dz: Array) -> tuple[Array, Array, Array]:
    """dmeans = dz, dlog_scales = dz σ ε, dnoise = dz σ.

    Derivation: z = μ + e^s ε, elementwise: ∂z/∂μ = 1, ∂z/∂s = e^s ε = σ ε, ∂z/∂ε = σ.
    """
    scales, noise = residuals
    dnoise = dz * scales
    return dz, dnoise * noise, dnoise


class NegativeElboResiduals(NamedTuple):
    """What `negative_elbo_bwd` needs: what each part keeps."""

    encoder: MlpResiduals
    kl: GaussianKlResiduals
    code: ReparameterizeResiduals
    decoder: MlpResiduals
    reconstruction: BinaryCrossEntropyResiduals


def negative_elbo(
    params: Params, x: ArrayLike, noise: ArrayLike, *, activation: Rule = RELU, kl_weight: Numeric = 1.0
) -> Array:
    """−ELBO of each example, in nats: Σ_d BCE(l_d, x_d) + β KL, equation (2) at the top of this module.

    Args:
      params: from `init`.
      x: pixels [..., D] in [0, 1]. Where they are 0 and 1, it is a bound on −log p(x); grey ones are probabilities.
      noise: ε [..., Z], drawn from N(0, 1).
      activation: of the hidden layers of both networks.
      kl_weight: β. Raising it from 0 to 1 in the first epochs keeps codes from being given up: S. Bowman et al.,
        Generating sentences from a continuous space, 2016.

    Returns:
      [...], one loss per example; not finite where the encoder says a scale that overflows: in float32 σ² of the
      divergence above s = 44, without it (kl_weight = 0) σ above 88.

    Raises:
      ValueError: the shapes do not fit, kl_weight is negative, or a pixel is outside [0, 1] (these two where they are
        known, not under `jit`).
    """
    return negative_elbo_fwd(params, x, noise, activation=activation, kl_weight=kl_weight)[0]


def negative_elbo_fwd(
    params: Params, x: ArrayLike, noise: ArrayLike, *, activation: Rule = RELU, kl_weight: Numeric = 1.0
) -> tuple[Array, NegativeElboResiduals]:
    """Keeps what each part keeps. Not the code itself: the decoder keeps it, as its input."""
    _checks.interval("negative_elbo", "[0, inf)", kl_weight=kl_weight)
    x, noise = _arrays("negative_elbo", params, x, noise)
    (means, log_scales), encoder = _encode("negative_elbo", params, x, activation)
    # Without weight, the divergence of the prior from itself: 0 times that of the code would be NaN where it is inf.
    counts = jnp.asarray(kl_weight) != 0
    kl, kl_residuals = gaussian_kl_fwd(jnp.where(counts, means, 0), jnp.where(counts, log_scales, 0))
    z, code = reparameterize_fwd(means, log_scales, noise)
    logits, decoder = mlp_fwd(params.decoder, z, activation=activation)
    _check_outputs("negative_elbo", "decoder", logits, x.shape[-1], "D", "x")
    costs, reconstruction = binary_cross_entropy_fwd(logits, x)
    accumulate = accumulation_dtype(x.dtype)
    y = jnp.sum(costs, axis=-1, dtype=accumulate) + jnp.asarray(kl_weight, accumulate) * kl.astype(accumulate)
    return y.astype(x.dtype), NegativeElboResiduals(encoder, kl_residuals, code, decoder, reconstruction)


def negative_elbo_bwd(
    residuals: NegativeElboResiduals, dy: Array, *, activation: Rule = RELU, kl_weight: Numeric = 1.0
) -> tuple[Params, Array, Array]:
    """(dparams, dx, dnoise).

    Derivation: equations (3) to (6) at the top of this module, each line the backward pass of one rule.
    """
    over_pixels = jnp.broadcast_to(dy[..., None], residuals.reconstruction.logits.shape)
    dlogits, dtargets = binary_cross_entropy_bwd(residuals.reconstruction, over_pixels)
    ddecoder, dz = mlp_bwd(residuals.decoder, dlogits, activation=activation)
    dmeans, dlog_scales, dnoise = reparameterize_bwd(residuals.code, dz)
    accumulate = accumulation_dtype(dy.dtype)
    dkl = (jnp.asarray(kl_weight, accumulate) * dy.astype(accumulate)).astype(dy.dtype)
    dmeans_of_kl, dlog_scales_of_kl = gaussian_kl_bwd(residuals.kl, dkl)
    dh = jnp.concatenate([dmeans + dmeans_of_kl, dlog_scales + dlog_scales_of_kl], axis=-1)
    dencoder, dx = mlp_bwd(residuals.encoder, dh, activation=activation)
    return Params(dencoder, ddecoder), dx + dtargets, dnoise


def loss(params: Params, x: ArrayLike, noise: ArrayLike, *, activation: Rule = RELU, kl_weight: Numeric = 1.0) -> Array:
    """The mean of `negative_elbo` over the examples, []: what `jax.grad` differentiates. Arguments as there."""
    y = negative_elbo(params, x, noise, activation=activation, kl_weight=kl_weight)
    _check_examples(y, x)
    return jnp.mean(y)


def loss_and_gradient(
    params: Params, x: ArrayLike, noise: ArrayLike, *, activation: Rule = RELU, kl_weight: Numeric = 1.0
) -> tuple[Array, Params]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end. Arguments as for `loss`."""
    y, residuals = negative_elbo_fwd(params, x, noise, activation=activation, kl_weight=kl_weight)
    _check_examples(y, x)
    dy = jnp.full_like(y, 1 / y.size)
    return jnp.mean(y), negative_elbo_bwd(residuals, dy, activation=activation, kl_weight=kl_weight)[0]


def encode(params: Params, x: ArrayLike, *, activation: Rule = RELU) -> tuple[Array, Array]:
    """(means, log-scales), both [..., Z], of the codes of x [..., D]. Raises as `negative_elbo`."""
    _check_params("vae.encode", params)
    return _encode("vae.encode", params, _pixels("vae.encode", params, x), activation)[0]


def decode(params: Params, z: ArrayLike, *, activation: Rule = RELU) -> Array:
    """Logits [..., D] of the pixels of codes z [..., Z]. Raises ValueError if Z is not that of the parameters."""
    _check_params("vae.decode", params)
    (z,) = _checks.arrays("vae.decode", z=(z, "... Z"))
    _check_inputs("vae.decode", "z", z, "Z", "decoder", params.decoder)
    return mlp.mlp(params.decoder, z, activation=activation)


def sample(params: Params, *, key: PRNGKey, examples: int, activation: Rule = RELU) -> Array:
    """Images [examples, D] of 0 and 1: a code from the prior N(0, 1), and pixels of the probabilities it decodes to.

    These probabilities, which are smoother to look at, are `sigmoid(decode(params, z))` of codes z of your own. The
    activation is that of training.
    """
    _checks.key("vae.sample", "key", key)
    _checks.positive_integers("vae.sample", examples=examples)
    _check_params("vae.sample", params)
    code_key, pixel_key = jax.random.split(key)
    dtype = params.decoder[-1].w.dtype
    z = jax.random.normal(code_key, (examples, _latent(params)), dtype)
    probabilities = activations.sigmoid(decode(params, z, activation=activation))
    return (jax.random.uniform(pixel_key, probabilities.shape) < probabilities).astype(dtype)


def importance_weighted_bound(params: Params, x: ArrayLike, noise: ArrayLike, *, activation: Rule = RELU) -> Array:
    """log (1/S) Σ_s p(x|z_s) p(z_s) / q(z_s|x): in expectation a bound on log p(x), which grows with S.

    S = 1 is the evidence lower bound; as S → ∞, it ends at log p(x) if the weights are bounded: Y. Burda, R. Grosse and
    R. Salakhutdinov, Importance weighted autoencoders, 2016, theorem 1. As it is in logarithms throughout, no weight
    underflows. `jax.grad` of it is the gradient that trains an importance weighted autoencoder.

    Args:
      params: from `init`.
      x: pixels [..., D], 0 or 1; in [0, 1] as for `negative_elbo`.
      noise: ε [S, ..., Z], S draws for each example.
      activation: of the hidden layers.

    Returns:
      [...], nats.
    """
    _check_params("importance_weighted_bound", params)
    x = _pixels("importance_weighted_bound", params, x)
    noise = _checks.array("importance_weighted_bound", "noise", noise)
    latent = _latent(params)
    if noise.shape[:1] == (0,) or noise.shape[1:] != (*x.shape[:-1], latent):
        raise ValueError(
            f"importance_weighted_bound: noise has shape {list(noise.shape)}; expected [S, ..., Z] with S ≥ 1, "
            f"... = {list(x.shape[:-1])} from x {list(x.shape)}, Z = {latent} from params"
        )
    if noise.dtype != x.dtype:
        raise TypeError(f"importance_weighted_bound: noise has dtype {noise.dtype}; expected {x.dtype} as in x")
    (means, log_scales), _ = _encode("importance_weighted_bound", params, x, activation)
    z = means[None] + jnp.exp(log_scales)[None] * noise
    logits = decode(params, z, activation=activation)
    _check_outputs("importance_weighted_bound", "decoder", logits, x.shape[-1], "D", "x")
    costs = binary_cross_entropy(logits, jnp.broadcast_to(x[None], logits.shape))
    # log p(z) − log q(z|x), in which ½ log 2π cancels: ε is z's distance from its mean in units of its scale.
    log_ratio = jnp.sum(0.5 * (noise * noise - z * z) + log_scales[None], axis=-1)
    log_weights = log_ratio - jnp.sum(costs, axis=-1)
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(noise.shape[0])


def _encode(function: str, params: Params, x: Array, activation: Rule) -> tuple[tuple[Array, Array], MlpResiduals]:
    h, residuals = mlp_fwd(params.encoder, x, activation=activation)
    _check_outputs(function, "encoder", h, 2 * _latent(params), "2 Z", "params.decoder")
    means, log_scales = jnp.split(h, 2, axis=-1)
    return (means, log_scales), residuals


def _arrays(function: str, params: Params, x: ArrayLike, noise: ArrayLike) -> tuple[Array, Array]:
    _check_params(function, params)
    x, noise = _checks.arrays(function, x=(_pixels(function, params, x), "... D"), noise=(noise, "... Z"))
    latent = _latent(params)
    if noise.shape[-1] != latent:
        raise ValueError(
            f"{function}: noise has shape {list(noise.shape)}; expected [..., Z] with Z = {latent} from params"
        )
    return x, noise


def _pixels(function: str, params: Params, x: ArrayLike) -> Array:
    (x,) = _checks.arrays(function, x=(x, "... D"))
    _check_inputs(function, "x", x, "D", "encoder", params.encoder)
    _checks.probabilities(function, "x", x)
    return x


def _check_params(function: str, params: Params) -> None:
    _checks.instance(function, "params", params, Params)
    for name, network in params._asdict().items():
        if not network:
            raise ValueError(f"{function}: params.{name} is empty; expected at least one layer")


def _check_inputs(function: str, name: str, x: Array, letter: str, network: str, params: mlp.Params) -> None:
    expected = params[0].w.shape[-2]
    if x.shape[-1] != expected:
        raise ValueError(
            f"{function}: {name} has shape {list(x.shape)}; expected [..., {letter}] with {letter} = {expected} "
            f"from params.{network}"
        )


def _check_outputs(function: str, network: str, y: Array, expected: int, letters: str, source: str) -> None:
    if y.shape[-1] != expected:
        raise ValueError(
            f"{function}: params.{network} has {y.shape[-1]} outputs; expected {letters} = {expected} from {source}"
        )


def _latent(params: Params) -> int:
    """Z: inputs of the decoder. (A maxout layer has its pieces before them.)"""
    return int(params.decoder[0].w.shape[-2])


def _check_examples(y: Array, x: ArrayLike) -> None:
    if y.size == 0:
        raise ValueError(f"vae.loss: x has shape {list(jnp.shape(x))}; expected at least one example")
