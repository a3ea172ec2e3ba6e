"""Wrong gradients to try a gradient checker on: 75 mistakes, right gradients that look wrong, probes that hide.

Each function is written as in a textbook, with its right backward pass and wrong ones beside it. Nothing here imports
the library or its checker, so that neither can be fitted to the other. FRESH are those that the checker's author had
not seen.
"""

from experiments.mutants import (
    activations,
    attention,
    convolution,
    dense,
    fresh,
    fresh_more,
    losses,
    normalization,
    programs,
    sequences,
)
from experiments.mutants.case import CAUSES, Masked, Mutant, Subject, Trap
from experiments.mutants.traps import MASKED, TRAPS

_TOPICS = (dense, losses, activations, normalization, attention, sequences, convolution, programs)
MUTANTS = tuple(sorted((mutant for topic in _TOPICS for mutant in topic.MUTANTS), key=lambda mutant: mutant.number))
FRESH: tuple[Mutant, ...] = fresh.MUTANTS + fresh_more.MUTANTS

__all__ = ["CAUSES", "FRESH", "MASKED", "MUTANTS", "TRAPS", "Masked", "Mutant", "Subject", "Trap"]
