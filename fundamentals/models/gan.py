"""Generative adversarial networks: two players, their losses, and the gradients of both by hand.

The generator G turns noise z into examples; the discriminator D gives a logit s, for how real its input looks. With
real examples x and the value

    V(D, G) = E_x log σ(D(x)) + E_z log(1 − σ(D(G(z))))                                                        (1)

the discriminator maximizes V: its loss −V is the binary cross-entropy of telling x, labelled 1, from G(z), labelled 0.
The generator has a choice, with s = D(G(z)):

    minimax          E_z log(1 − σ(s)) = −E_z BCE(s, 0)       its part of V        ∂/∂s = −σ(s)                 (2)
    non-saturating   −E_z log σ(s)     =  E_z BCE(s, 1)       the same fixed point  ∂/∂s = −σ(−s)                (3)

Where the discriminator is sure, s ≪ 0, the gradient (2) vanishes like e^s, just where the generator has most to learn;
(3) is then −1. At densities p of x and q of G(z) the best discriminator is s = log p/q, with which V = 2 JSD(p, q) −
log 4: −log 4 where the generator has won, 0 where no example of it could be real.

Backward, for a batch of M fakes (B real ones likewise), the generator's gradient passes through the discriminator:

    ds = dL (σ(s) − t) / M   (3), or −dL σ(s) / M   (2);     ds → D's backward pass → dG(z) → G's backward pass     (4)

The cotangents of D's parameters that come about on the way are right, but not for the generator to use.

I. Goodfellow et al., Generative adversarial nets, 2014: equation (1) is theirs, the best discriminator proposition 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, initializers
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, Numeric, PRNGKey, Rule
from fundamentals.losses.classification import (
    BinaryCrossEntropyResiduals,
    binary_cross_entropy_bwd,
    binary_cross_entropy_fwd,
)
from fundamentals.models import mlp
from fundamentals.models.mlp import RELU, MlpResiduals, mlp_bwd, mlp_fwd

GENERATOR_LOSSES = ("non_saturating", "minimax")


class Params(NamedTuple):
    """The parameters of both players."""

    generator: mlp.Params  # Z → … → D
    discriminator: mlp.Params  # D → … → 1


def init(
    key: PRNGKey,
    *,
    inputs: int,
    latent: int,
    hidden: Sequence[int] = (128, 128),
    initializer: Initializer = initializers.he_normal(),
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters of two multilayer perceptrons with the same hidden layers.

    Args:
      key: a PRNG key.
      inputs: D, numbers in an example.
      latent: Z, numbers of noise for each.
      hidden: units of the hidden layers, possibly none. Players of different sizes: `Params(mlp.init(…), mlp.init(…))`.
      initializer: of the weights; biases are 0.
      dtype: of all parameters.

    Raises:
      ValueError: a size is not positive.
    """
    _checks.key("gan.init", "key", key)
    _checks.positive_integers("gan.init", inputs=inputs, latent=latent)
    _checks.layer_sizes("gan.init", "hidden", hidden, 0, "units of hidden layers")
    generator_key, discriminator_key = jax.random.split(key)
    return Params(
        mlp.init(generator_key, (latent, *hidden, inputs), initializer=initializer, dtype=dtype),
        mlp.init(discriminator_key, (inputs, *hidden, 1), initializer=initializer, dtype=dtype),
    )


class PlayedResiduals(NamedTuple):
    """What a batch keeps on its way through the discriminator to its loss."""

    network: MlpResiduals
    loss: BinaryCrossEntropyResiduals


class DiscriminatorLossResiduals(NamedTuple):
    """What `discriminator_loss_bwd` needs."""

    real: PlayedResiduals
    fake: PlayedResiduals


def discriminator_loss(
    discriminator: mlp.Params,
    real: ArrayLike,
    fake: ArrayLike,
    *,
    activation: Rule = RELU,
    real_target: Numeric = 1.0,
) -> Array:
    """−V: mean BCE of the real examples, labelled 1, plus that of the fakes, labelled 0.

    Args:
      discriminator: its parameters, D → … → 1.
      real: examples [B, D].
      fake: what the generator made of noise [M, D].
      activation: of the hidden layers.
      real_target: what the real ones are labelled, in [0, 1]; where it is traced, unchecked. 0.9 is one-sided label
        smoothing: T. Salimans et al., Improved techniques for training GANs, 2016, section 3.4.

    Returns:
      []. It is log 4 where each example has even chances.

    Raises:
      ValueError: the shapes do not fit, a batch is empty, or a target is outside [0, 1].
    """
    return discriminator_loss_fwd(discriminator, real, fake, activation=activation, real_target=real_target)[0]


def discriminator_loss_fwd(
    discriminator: mlp.Params,
    real: ArrayLike,
    fake: ArrayLike,
    *,
    activation: Rule = RELU,
    real_target: Numeric = 1.0,
) -> tuple[Array, DiscriminatorLossResiduals]:
    """Keeps what the discriminator keeps of either batch, and the scores."""
    function = "discriminator_loss"
    _checks.interval(function, "[0, 1]", real_target=real_target)
    real, fake = _checks.arrays(function, real=(real, "B D"), fake=(fake, "M D"))
    _checks.examples(function, "real", real)
    _checks.examples(function, "fake", fake)
    cost_of_real, real_residuals = _play_fwd(function, discriminator, real, real_target, activation)
    cost_of_fake, fake_residuals = _play_fwd(function, discriminator, fake, 0.0, activation)
    return cost_of_real + cost_of_fake, DiscriminatorLossResiduals(real_residuals, fake_residuals)


def discriminator_loss_bwd(
    residuals: DiscriminatorLossResiduals, dloss: Array, *, activation: Rule = RELU
) -> tuple[mlp.Params, Array, Array]:
    """(ddiscriminator, dreal, dfake).

    Derivation: the loss is a mean of BCEs over either batch, so ds = dloss (σ(s) − t) / B for the real examples and
    / M for the fakes; each goes through the discriminator's backward pass, and its parameters get the sum of both.
    """
    of_real, dreal = _play_bwd(residuals.real, dloss, activation)
    of_fake, dfake = _play_bwd(residuals.fake, dloss, activation)
    return jax.tree.map(jnp.add, of_real, of_fake), dreal, dfake


class GeneratorLossResiduals(NamedTuple):
    """What `generator_loss_bwd` needs."""

    generator: MlpResiduals
    output: Any  # what the output's activation keeps
    played: PlayedResiduals


def generator_loss(
    generator: mlp.Params,
    discriminator: mlp.Params,
    z: ArrayLike,
    *,
    kind: str = "non_saturating",
    activation: Rule = RELU,
    output: Rule | None = None,
) -> Array:
    """What the generator minimizes, equation (2) or (3) at the top of this module.

    Args:
      generator: its parameters, Z → … → D.
      discriminator: those of the other player, D → … → 1.
      z: noise [M, Z].
      kind: "non_saturating", E −log σ(s), or "minimax", E log(1 − σ(s)).
      activation: of the hidden layers of both.
      output: of the generator's last layer; sigmoid for pixels in [0, 1]. None leaves it linear.

    Returns:
      [].

    Raises:
      ValueError: the shapes do not fit, z is empty, or there is no such kind.
    """
    return generator_loss_fwd(generator, discriminator, z, kind=kind, activation=activation, output=output)[0]


def generator_loss_fwd(
    generator: mlp.Params,
    discriminator: mlp.Params,
    z: ArrayLike,
    *,
    kind: str = "non_saturating",
    activation: Rule = RELU,
    output: Rule | None = None,
) -> tuple[Array, GeneratorLossResiduals]:
    """Keeps what both networks keep, and the scores. Not the fakes themselves: the discriminator keeps them."""
    _checks.choice("generator_loss", "kind", kind, GENERATOR_LOSSES)
    (z,) = _checks.arrays("generator_loss", z=(z, "M Z"))
    _checks.examples("generator_loss", "z", z)
    fake, generator_residuals, output_residuals = _generate_fwd("generator_loss", generator, z, activation, output)
    target = 1.0 if kind == "non_saturating" else 0.0
    cost, played = _play_fwd("generator_loss", discriminator, fake, target, activation)
    y = cost if kind == "non_saturating" else -cost
    return y, GeneratorLossResiduals(generator_residuals, output_residuals, played)


def generator_loss_bwd(
    residuals: GeneratorLossResiduals,
    dloss: Array,
    *,
    kind: str = "non_saturating",
    activation: Rule = RELU,
    output: Rule | None = None,
) -> tuple[mlp.Params, mlp.Params, Array]:
    """(dgenerator, ddiscriminator, dz).

    Derivation: equation (4). The minimax loss is minus the BCE with label 0, so its cotangent changes sign; then the
    backward passes of loss, discriminator, output and generator, each handing on the cotangent of its input.
    """
    dcost = dloss if kind == "non_saturating" else -dloss
    ddiscriminator, dfake = _play_bwd(residuals.played, dcost, activation)
    dlast = dfake if output is None else output.bwd(residuals.output, dfake)[0]
    dgenerator, dz = mlp_bwd(residuals.generator, dlast, activation=activation)
    return dgenerator, ddiscriminator, dz


def generate(generator: mlp.Params, z: ArrayLike, *, activation: Rule = RELU, output: Rule | None = None) -> Array:
    """Examples [..., D] from noise [..., Z]. Arguments as for `generator_loss`."""
    return _generate_fwd("generate", generator, z, activation, output)[0]


def discriminator_loss_and_gradient(
    params: Params,
    real: ArrayLike,
    z: ArrayLike,
    *,
    activation: Rule = RELU,
    output: Rule | None = None,
    real_target: Numeric = 1.0,
) -> tuple[Array, mlp.Params]:
    """(loss, ddiscriminator) against the fakes that the generator makes of z, by hand from end to end.

    Args:
      params: both players'.
      real: examples [B, D].
      z: noise [M, Z].
      activation: of the hidden layers of both.
      output: of the generator's last layer.
      real_target: as for `discriminator_loss`, which raises what this does.
    """
    _checks.instance("discriminator_loss_and_gradient", "params", params, Params)
    fake = generate(params.generator, z, activation=activation, output=output)
    loss, residuals = discriminator_loss_fwd(
        params.discriminator, real, fake, activation=activation, real_target=real_target
    )
    return loss, discriminator_loss_bwd(residuals, jnp.ones_like(loss), activation=activation)[0]


def generator_loss_and_gradient(
    params: Params,
    z: ArrayLike,
    *,
    kind: str = "non_saturating",
    activation: Rule = RELU,
    output: Rule | None = None,
) -> tuple[Array, mlp.Params]:
    """(loss, dgenerator) against the discriminator as it is, by hand. Arguments as for `generator_loss`."""
    _checks.instance("generator_loss_and_gradient", "params", params, Params)
    options: dict[str, Any] = {"kind": kind, "activation": activation, "output": output}
    loss, residuals = generator_loss_fwd(params.generator, params.discriminator, z, **options)
    return loss, generator_loss_bwd(residuals, jnp.ones_like(loss), **options)[0]


def _play_fwd(
    function: str, discriminator: mlp.Params, x: Array, target: Numeric, activation: Rule
) -> tuple[Array, PlayedResiduals]:
    """The mean BCE of a batch [B, D], all of it with the same label."""
    scores, network = mlp_fwd(discriminator, x, activation=activation)
    if scores.shape[-1] != 1:
        raise ValueError(f"{function}: discriminator has outputs {list(scores.shape)}; expected [B, 1], a logit each")
    costs, loss = binary_cross_entropy_fwd(scores, jnp.full_like(scores, target))
    return jnp.mean(costs), PlayedResiduals(network, loss)


def _play_bwd(residuals: PlayedResiduals, dcost: Array, activation: Rule) -> tuple[mlp.Params, Array]:
    scores = residuals.loss.logits
    dcosts = jnp.broadcast_to(dcost * (1 / scores.size), scores.shape)
    dscores, _ = binary_cross_entropy_bwd(residuals.loss, dcosts)
    return mlp_bwd(residuals.network, dscores, activation=activation)


def _generate_fwd(
    function: str, generator: mlp.Params, z: ArrayLike, activation: Rule, output: Rule | None
) -> tuple[Array, MlpResiduals, Any]:
    (z,) = _checks.arrays(function, z=(z, "... Z"))
    x, residuals = mlp_fwd(generator, z, activation=activation)
    if output is None:
        return x, residuals, None
    _checks.rule(function, "output", output)
    x, output_residuals = output.fwd(x)
    return x, residuals, output_residuals
