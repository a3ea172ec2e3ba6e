"""Strictness for every test: nothing is promoted silently, and warnings are errors (pyproject.toml)."""

import gc
import os
import tempfile
from collections.abc import Iterator

import jax
import pytest

# Much of the time goes to compiling programs that run once: to LLVM's optimizations and, in jaxlib 0.10, which can do
# without, to an MLIR pipeline for each fusion. Set XLA_FLAGS, be it to nothing, to test the programs that users have;
# CI does so on one of its two interpreters.
FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # an unknown flag aborts
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", FAST_TO_COMPILE)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 2)  # for shard_map; all else runs on the first

# Compiling takes most of the time. All processes of one run, experiments that tests start included, share what they
# compiled: the process that starts the workers makes the folder, and the environment hands it down.
if "PYTEST_XDIST_WORKER" not in os.environ:
    folder = tempfile.TemporaryDirectory(prefix="compiled", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Programs are many objects, which JAX keeps: looking through all of them for garbage, again and again, takes a
# twentieth of the time.
gc.set_threshold(50_000)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not drawn, which would take ten times as long."""
    from experiments import common

    monkeypatch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, for one test."""
    with jax.enable_x64(True):
        yield
