"""Every rule of the library with example arguments: what tests and experiments iterate over.

    for name, entry in RULES.items():
        args = entry.arguments(jax.random.key(0), jnp.float32)
        y, residuals = entry.rule.fwd(*args)
        cotangents = entry.rule.bwd(residuals, jnp.ones_like(y))

Example arguments are never degenerate: sizes are distinct primes, so that a transposed or wrongly summed array cannot
fit by accident; labels repeat; means are not zero, but where the rule has no kink there one entry is exactly 0. A
rule's name is its primal's, with the options where they are not the default.
"""

from fundamentals.catalogue import activations, layers, losses, models, svm
from fundamentals.catalogue.examples import Entry, Sizes

RULES: dict[str, Entry] = activations.RULES | layers.RULES | losses.RULES | svm.RULES | models.RULES

__all__ = ["RULES", "Entry", "Sizes"]
