"""Models whose whole backward pass is composed by hand from the rules, one module each."""

from fundamentals.models import autoregressive, cnn, gan, language_model, mlp, rnn, transformer, vae

__all__ = ["autoregressive", "cnn", "gan", "language_model", "mlp", "rnn", "transformer", "vae"]
