"""Models whose whole backward pass is composed by hand from the rules, one module each."""

from fundamentals.models import cnn, language_model, mlp, rnn, transformer

__all__ = ["cnn", "language_model", "mlp", "rnn", "transformer"]
