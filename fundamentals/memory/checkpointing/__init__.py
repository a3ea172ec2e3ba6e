"""Gradients in less memory: keep some of the forward pass, compute the rest again.

- schedules: what is kept and what is computed again, as nested tuples; the textbook ones, and Revolve's;
- dynamic_program: the cheapest schedule of unlike stages in a given memory;
- costs, planning: what stages cost once compiled; plans whose budget the compiled program keeps;
- chains, scans: functions whose reverse pass follows suit: chains of unlike stages, loops of equal steps.
"""

from fundamentals.memory.checkpointing import chains, costs, dynamic_program, planning, scans, schedules
from fundamentals.memory.checkpointing.chains import chain, segment_checkpoint
from fundamentals.memory.checkpointing.dynamic_program import StageCost
from fundamentals.memory.checkpointing.planning import Plan, pareto, plan
from fundamentals.memory.checkpointing.scans import checkpointed_scan

__all__ = [
    "Plan",
    "StageCost",
    "chain",
    "chains",
    "checkpointed_scan",
    "costs",
    "dynamic_program",
    "pareto",
    "plan",
    "planning",
    "scans",
    "schedules",
    "segment_checkpoint",
]
