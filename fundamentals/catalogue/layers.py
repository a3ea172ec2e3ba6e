"""Layers."""

from typing import Any

import jax

from fundamentals import layers
from fundamentals.base import DTypeLike, PRNGKey, Rule
from fundamentals.catalogue.examples import Entry, Sizes, normal, with_zero


def _linear(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, w_key, b_key = jax.random.split(key, 3)
    w = with_zero(normal(w_key, (sizes.D, sizes.H), dtype, sizes.D**-0.5))
    return with_zero(normal(x_key, (sizes.B, sizes.D), dtype)), w, normal(b_key, (sizes.H,), dtype)


RULES: dict[str, Entry] = {
    "linear": Entry(Rule(layers.linear, layers.linear_fwd, layers.linear_bwd), _linear),
}
