"""Strictness for every test: nothing is promoted silently, and warnings are errors (pyproject.toml)."""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 2)  # for shard_map; all else runs on the first


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, for one test."""
    with jax.enable_x64(True):
        yield
