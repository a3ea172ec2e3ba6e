"""Models."""

import functools
from typing import Any

from numpy.random import Generator

from fundamentals import activations
from fundamentals.base import DTypeLike, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, integers, normal, parameters, with_zero
from fundamentals.models import autoregressive, cnn, gan, language_model, mlp, rnn, transformer, vae


def _mlp(random: Generator, dtype: DTypeLike, sizes: Sizes, *, pieces: int | None = None) -> tuple[Any, ...]:
    widths = (sizes.D, sizes.H, sizes.H + 10, sizes.K)
    params = parameters(random, lambda key: mlp.init(key, widths, pieces=pieces, dtype=dtype))
    return params, with_zero(normal(random, (sizes.B, sizes.D), dtype))


def _maxout_mlp(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return _mlp(random, dtype, sizes, pieces=sizes.P)


def _cnn(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    # Two stages with a block in the second: everything once, as convolutions take long to compile.
    first = parameters(random, lambda key: cnn.init(key, (sizes.C, sizes.C + 1), sizes.K, blocks=0, dtype=dtype))
    second = parameters(random, lambda key: cnn.init(key, (sizes.C + 1, sizes.C + 2), sizes.K, dtype=dtype))
    params = second._replace(stages=first.stages + second.stages)
    return params, with_zero(normal(random, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype))


def _rnn(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    widths = (sizes.D, sizes.H, sizes.H + 1, sizes.K)
    params = parameters(random, lambda key: rnn.init(key, widths, dtype=dtype))
    return params, with_zero(normal(random, (sizes.E, sizes.T, sizes.D), dtype))


def _encoder(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    width = _HEADS * sizes.C
    init = functools.partial(transformer.init_encoder, width=width, layers=2, hidden=4 * sizes.C + 1, dtype=dtype)
    return parameters(random, init), with_zero(normal(random, (sizes.E, sizes.T, width), dtype))


def _classifier(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    width, hidden, length = _HEADS * sizes.C, 4 * sizes.C + 1, sizes.T + 1
    init = functools.partial(transformer.init, inputs=sizes.D, outputs=sizes.K, length=length, layers=1, dtype=dtype)
    params = parameters(random, functools.partial(init, width=width, hidden=hidden))
    return params, with_zero(normal(random, (sizes.E, sizes.T, sizes.D), dtype))


def _language_model(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    width, hidden, length = _HEADS * sizes.C, 4 * sizes.C + 1, sizes.T + 1
    init = functools.partial(language_model.init, vocabulary=sizes.V, length=length, layers=1, dtype=dtype)
    params = parameters(random, functools.partial(init, width=width, hidden=hidden))
    return params, integers(random, (sizes.E, sizes.T), sizes.V)


def _code(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    means, log_scales, noise = (normal(random, (sizes.B, sizes.D), dtype, scale) for scale in (1.5, 0.5, 1.5))
    return with_zero(means), log_scales, noise


def _images_and_noise(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    init = functools.partial(vae.init, inputs=sizes.D, latent=sizes.P, hidden=(sizes.H,), dtype=dtype)
    x = with_zero(random.uniform(size=(sizes.B, sizes.D)).astype(dtype))
    return parameters(random, init), x, normal(random, (sizes.B, sizes.P), dtype, 1.0)


def _players(random: Generator, dtype: DTypeLike, sizes: Sizes) -> gan.Params:
    init = functools.partial(gan.init, inputs=sizes.D, latent=sizes.P, hidden=(sizes.H,), dtype=dtype)
    players: gan.Params = parameters(random, init)
    return players


def _real_and_fake(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    real, fake = (normal(random, (count, sizes.D), dtype) for count in (sizes.B, sizes.N))
    return _players(random, dtype, sizes).discriminator, with_zero(real), fake


def _players_and_noise(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return *_players(random, dtype, sizes), normal(random, (sizes.B, sizes.P), dtype)


def _fvbn(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    # Below the diagonal, too, where weights are not used.
    init = functools.partial(autoregressive.init_fvbn, inputs=sizes.D, dtype=dtype)
    return parameters(random, init), with_zero(normal(random, (sizes.B, sizes.D), dtype))


def _nade(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    init = functools.partial(autoregressive.init_nade, inputs=sizes.D, hidden=sizes.H, dtype=dtype)
    return parameters(random, init), with_zero(normal(random, (sizes.E, sizes.D), dtype))


_HEADS = 2
_TANH = Rule(activations.tanh, activations.tanh_fwd, activations.tanh_bwd)
_MLP = Rule(mlp.mlp, mlp.mlp_fwd, mlp.mlp_bwd)
_GELU = Rule(activations.gelu, activations.gelu_fwd, activations.gelu_bwd)
_CNN = Rule(cnn.cnn, cnn.cnn_fwd, cnn.cnn_bwd)
_ENCODER = Rule(
    transformer.transformer_encoder, transformer.transformer_encoder_fwd, transformer.transformer_encoder_bwd
)
_CLASSIFIER = Rule(
    transformer.transformer_classifier, transformer.transformer_classifier_fwd, transformer.transformer_classifier_bwd
)
_LANGUAGE_MODEL = Rule(
    language_model.transformer_language_model,
    language_model.transformer_language_model_fwd,
    language_model.transformer_language_model_bwd,
)

_SIGMOID = Rule(activations.sigmoid, activations.sigmoid_fwd, activations.sigmoid_bwd)
_NEGATIVE_ELBO = Rule(vae.negative_elbo, vae.negative_elbo_fwd, vae.negative_elbo_bwd)
_DISCRIMINATOR_LOSS = Rule(gan.discriminator_loss, gan.discriminator_loss_fwd, gan.discriminator_loss_bwd)
_GENERATOR_LOSS = Rule(gan.generator_loss, gan.generator_loss_fwd, gan.generator_loss_bwd)

RULES: dict[str, Entry] = {
    "mlp": Entry(_MLP, _mlp),
    "mlp(activation=tanh)": Entry(bind(_MLP, activation=_TANH), _mlp),
    "mlp(maxout)": Entry(_MLP, _maxout_mlp),
    "cnn(activation=gelu)": Entry(bind(_CNN, activation=_GELU), _cnn, depth=16),
    "rnn_classifier": Entry(Rule(rnn.rnn_classifier, rnn.rnn_classifier_fwd, rnn.rnn_classifier_bwd), _rnn),
    "transformer_encoder": Entry(bind(_ENCODER, heads=_HEADS), _encoder, depth=16),
    "transformer_classifier": Entry(bind(_CLASSIFIER, heads=_HEADS), _classifier, depth=16),
    "transformer_language_model": Entry(bind(_LANGUAGE_MODEL, heads=_HEADS), _language_model, depth=16),
    "reparameterize": Entry(Rule(vae.reparameterize, vae.reparameterize_fwd, vae.reparameterize_bwd), _code),
    "negative_elbo(activation=tanh, kl_weight=0.7)": Entry(
        bind(_NEGATIVE_ELBO, activation=_TANH, kl_weight=0.7), _images_and_noise, depth=8
    ),
    "discriminator_loss(activation=tanh, real_target=0.9)": Entry(
        bind(_DISCRIMINATOR_LOSS, activation=_TANH, real_target=0.9), _real_and_fake, depth=8
    ),
    "generator_loss(activation=tanh)": Entry(bind(_GENERATOR_LOSS, activation=_TANH), _players_and_noise, depth=8),
    "generator_loss(kind=minimax, activation=tanh, output=sigmoid)": Entry(
        bind(_GENERATOR_LOSS, kind="minimax", activation=_TANH, output=_SIGMOID), _players_and_noise, depth=8
    ),
    "fvbn": Entry(Rule(autoregressive.fvbn, autoregressive.fvbn_fwd, autoregressive.fvbn_bwd), _fvbn),
    "nade": Entry(Rule(autoregressive.nade, autoregressive.nade_fwd, autoregressive.nade_bwd), _nade, depth=8),
}
