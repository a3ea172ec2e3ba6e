"""Models."""

from typing import Any

import jax

from fundamentals import activations
from fundamentals.base import DTypeLike, PRNGKey, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, biases, normal, with_zero
from fundamentals.models import mlp


def _mlp(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes(), *, pieces: int | None = None) -> tuple[Any, ...]:
    params_key, x_key = jax.random.split(key)
    widths = (sizes.D, sizes.H, sizes.H + 10, sizes.K)
    params = mlp.init(params_key, widths, bias_initializer=biases, pieces=pieces, dtype=dtype)
    return params, with_zero(normal(x_key, (sizes.B, sizes.D), dtype))


def _maxout_mlp(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return _mlp(key, dtype, sizes, pieces=sizes.P)


_TANH = Rule(activations.tanh, activations.tanh_fwd, activations.tanh_bwd)
_MLP = Rule(mlp.mlp, mlp.mlp_fwd, mlp.mlp_bwd)

RULES: dict[str, Entry] = {
    "mlp": Entry(_MLP, _mlp),
    "mlp(activation=tanh)": Entry(bind(_MLP, activation=_TANH), _mlp),
    "mlp(maxout)": Entry(_MLP, _maxout_mlp),
}
