"""Strictness for every test: nothing is promoted silently, and warnings are errors (pyproject.toml)."""

import gc
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

# Much of the time goes to compiling programs that run once: to LLVM's optimizations and, in jaxlib 0.10, which can do
# without, to an MLIR pipeline for each fusion. Set XLA_FLAGS, be it to nothing, to test the programs that users have;
# CI does so on one of its two interpreters.
FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # an unknown flag aborts
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

if os.environ.setdefault("XLA_FLAGS", FAST_TO_COMPILE) == FAST_TO_COMPILE and jax.__version_info__ < (0, 11):
    # Lowering a program, jax 0.10 loads all of MLIR's dialects into a context of its own, and keeps it as long as the
    # program. One for all programs, which MLIR is made for, saves up to a fifth of the time and most of the memory.
    from jax._src.interpreters import mlir

    class Context(threading.local):
        """Of this thread: loading dialects is not safe among several."""

        def __init__(self, make: Callable[[], Any] = mlir.make_ir_context) -> None:
            self.made = make()

    context = Context()
    mlir.make_ir_context = lambda: context.made

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

# The files whose tests take longest, first of all: no worker is left with one of them in the end. By itself, xdist
# goes by the number of tests.
LONGEST = (
    "svm", "rules", "graph_derivatives", "experiments", "checkpoints", "checkpointing", "checkpointed_scan", "readme",
    "planning", "causes", "draw_graph", "gradient_accumulation", "gradcheck", "diagnosis", "gradient_checkpointing",
    "attention", "output_distributions",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


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
