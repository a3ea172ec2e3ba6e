"""Models."""

from collections.abc import Callable
from typing import Any

import jax

from fundamentals import activations
from fundamentals.base import DTypeLike, PRNGKey, Rule, Tree, bind
from fundamentals.catalogue.examples import Entry, Sizes, biases, normal, with_zero
from fundamentals.models import cnn, language_model, mlp, rnn, transformer


def _mlp(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes(), *, pieces: int | None = None) -> tuple[Any, ...]:
    params_key, x_key = jax.random.split(key)
    widths = (sizes.D, sizes.H, sizes.H + 10, sizes.K)
    params = mlp.init(params_key, widths, bias_initializer=biases, pieces=pieces, dtype=dtype)
    return params, with_zero(normal(x_key, (sizes.B, sizes.D), dtype))


def _maxout_mlp(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return _mlp(key, dtype, sizes, pieces=sizes.P)


def _cnn(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    params_key, x_key = jax.random.split(key)
    params = cnn.init(params_key, (sizes.C, sizes.C + 1, sizes.C + 2), sizes.K, bias_initializer=biases, dtype=dtype)
    return _moved(params_key, params), with_zero(normal(x_key, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype))


def _sequences(params: Callable[[PRNGKey, DTypeLike, Sizes], Any]) -> Callable[..., tuple[Any, ...]]:
    def arguments(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
        params_key, x_key = jax.random.split(key)
        return params(params_key, dtype, sizes), with_zero(normal(x_key, (sizes.E, sizes.T, sizes.D), dtype))

    return arguments


def _rnn(key: PRNGKey, dtype: DTypeLike, sizes: Sizes) -> rnn.Params:
    widths = (sizes.D, sizes.H, sizes.H + 1, sizes.K)
    return rnn.init(key, widths, bias_initializer=biases, dtype=dtype)


def _classifier(key: PRNGKey, dtype: DTypeLike, sizes: Sizes) -> transformer.Classifier:
    params = transformer.init(
        key,
        inputs=sizes.D,
        length=sizes.T + 1,
        width=_HEADS * sizes.C,
        layers=1,
        outputs=sizes.K,
        hidden=4 * sizes.C + 1,
        dtype=dtype,
    )
    return _moved(key, params)


def _encoder(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    params_key, x_key = jax.random.split(key)
    width = _HEADS * sizes.C
    params = transformer.init_encoder(params_key, width=width, layers=2, hidden=4 * sizes.C + 1, dtype=dtype)
    return _moved(params_key, params), with_zero(normal(x_key, (sizes.E, sizes.T, width), dtype))


def _language_model(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    params_key, tokens_key = jax.random.split(key)
    params = language_model.init(
        params_key,
        vocabulary=sizes.V,
        length=sizes.T + 1,
        width=_HEADS * sizes.C,
        layers=1,
        hidden=4 * sizes.C + 1,
        dtype=dtype,
    )
    return _moved(params_key, params), jax.random.randint(tokens_key, (sizes.E, sizes.T), 0, sizes.V)


def _moved(key: PRNGKey, params: Tree) -> Tree:
    """Biases that are not 0 and scales that are not 1."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [x + biases(k, x.shape, x.dtype) if x.ndim == 1 else x for k, x in zip(keys, leaves, strict=True)]
    result: Tree = jax.tree.unflatten(structure, moved)
    return result


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

RULES: dict[str, Entry] = {
    "mlp": Entry(_MLP, _mlp),
    "mlp(activation=tanh)": Entry(bind(_MLP, activation=_TANH), _mlp),
    "mlp(maxout)": Entry(_MLP, _maxout_mlp),
    "cnn(activation=gelu)": Entry(bind(_CNN, activation=_GELU), _cnn, depth=16),
    "rnn_classifier": Entry(Rule(rnn.rnn_classifier, rnn.rnn_classifier_fwd, rnn.rnn_classifier_bwd), _sequences(_rnn)),
    "transformer_encoder": Entry(bind(_ENCODER, heads=_HEADS), _encoder, depth=16),
    "transformer_classifier": Entry(bind(_CLASSIFIER, heads=_HEADS), _sequences(_classifier), depth=16),
    "transformer_language_model": Entry(bind(_LANGUAGE_MODEL, heads=_HEADS), _language_model, depth=16),
}
