"""Training in less memory: exact accumulation of gradients, checkpointing that keeps a budget, audits of programs."""

from fundamentals.memory import accumulation, checkpointing
from fundamentals.memory.accumulation import accumulate
from fundamentals.memory.audit import Audit, audit, saved_residuals
from fundamentals.memory.checkpointing import Plan, chain, checkpointed_scan, pareto, plan, segment_checkpoint

__all__ = [
    "Audit",
    "Plan",
    "accumulate",
    "accumulation",
    "audit",
    "chain",
    "checkpointed_scan",
    "checkpointing",
    "pareto",
    "plan",
    "saved_residuals",
    "segment_checkpoint",
]
