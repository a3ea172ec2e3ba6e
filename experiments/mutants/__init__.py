"""Wrong gradients to try a gradient checker on: 75 mistakes, right gradients that look wrong, probes that hide.

Each function is written as in a textbook, with its right backward pass and wrong ones beside it. Nothing here imports
the library or its checker, so that neither can be fitted to the other. FRESH, UNSEEN and HELD_OUT are of
functions that were written without a look at the checker. It was improved after a look at its scores on the first two;
the score on HELD_OUT is what its word is worth on functions that it has not seen.
"""

from experiments.mutants import (
    activations,
    attention,
    convolution,
    dense,
    fresh,
    fresh_more,
    held_out,
    held_out_more,
    losses,
    normalization,
    programs,
    sequences,
    unseen,
    unseen_more,
)
from experiments.mutants.case import CAUSES, Masked, Mutant, Subject, Trap
from experiments.mutants.traps import MASKED, TRAPS

_TOPICS = (dense, losses, activations, normalization, attention, sequences, convolution, programs)
MUTANTS = tuple(sorted((mutant for topic in _TOPICS for mutant in topic.MUTANTS), key=lambda mutant: mutant.number))
FRESH: tuple[Mutant, ...] = fresh.MUTANTS + fresh_more.MUTANTS
UNSEEN: tuple[Mutant, ...] = unseen.MUTANTS + unseen_more.MUTANTS
HELD_OUT: tuple[Mutant, ...] = held_out.MUTANTS + held_out_more.MUTANTS

__all__ = ["CAUSES", "FRESH", "HELD_OUT", "MASKED", "MUTANTS", "TRAPS", "UNSEEN", "Masked", "Mutant", "Subject", "Trap"]
