"""Optimizers as pairs of pure functions with their state as data; `core` states the contract.

    step        optimizer = chain(clip_by_global_norm(1.0), adamw(schedules.cosine(1e-3, steps=10_000)))

What others write, and how to have it here; η, β, ρ, λ and ε are theirs (mind their defaults: ε is 1e-8 in PyTorch and
1e-7 in Keras, ρ of RMSProp 0.99 in PyTorch and 0.9 elsewhere). The notes are those of the course that this library
follows:

    gradient descent
      all                       θ − η g                          sgd(η)
      a sum over n examples     θ − η Σ gᵢ                       sgd(n η) of the mean
      PyTorch's weight_decay    g + λ θ                          chain(l2_regularization(λ), …)
      Keras's weight_decay      − η λ θ, as AdamW's              adamw(η, weight_decay=λ); none of the others has it
    momentum
      notes, PyTorch, optax     v ← β v + g, θ − η v             momentum(η, β)
      CS231n, Keras             v ← β v − η g, θ + v             momentum(η, β, normalization="steps")
      exponential average       v ← β v + (1 − β) g, θ − η v     momentum(η, β, normalization="average")
      notes, with roots         v ← √β v + √(1−β) g, θ − η v     momentum(η, β, normalization="variance_preserving")
      PyTorch's dampening τ     v ← β v + (1 − τ) g, v₁ = g₁     momentum((1 − τ) η, β), except for v₁
      Nesterov's, all           v advanced once more by g        momentum(…, nesterov=True)
    AdaGrad
      notes                     g / √G, no ε                     adagrad(η)
      PyTorch, CS231n           g / (√G + ε)                     adagrad(η, eps=ε, eps_root=0.0)
      Keras, optax              g / √(G + ε), G₀ = a             adagrad(η, eps_root=ε, initial_accumulator=a)
    Adadelta
      Zeiler, PyTorch, optax    √(d + ε) / √(s + ε) g            adadelta(η, ρ, ε)
      notes                     g / √s, s an average of g²       rmsprop(η, ρ)
    RMSProp
      notes, Keras, optax       g / √(s + ε)                     rmsprop(η, ρ, eps_root=ε)
      PyTorch, CS231n           g / (√s + ε)                     rmsprop(η, ρ, eps=ε, eps_root=0.0)
    Adam
      paper, PyTorch, optax     m̂ / (√v̂ + ε)                     adam(η, eps=ε)
      notes                     m̂ / √(v̂ + ε)                     adam(η, eps=0.0, eps_root=ε)
      Keras, TensorFlow         √(1−β₂ᵗ)/(1−β₁ᵗ) m / (√v + ε̂)    adam(η, eps=ε̂, eps_hat=True)
      notes, uncorrected        m / (√v + ε)                     adam(η, eps=ε, bias_correction=False)
    AdamW
      PyTorch, optax            m̂ / (√v̂ + ε) + λ θ               adamw(η, weight_decay=λ)
      Keras                     with its Adam's ε̂                adamw(η, eps=ε̂, eps_hat=True, weight_decay=λ)
      paper                     ηₜ (α m̂ / (√v̂ + ε) + λ θ)        adamw(α ηₜ, weight_decay=λ / α)
    clipping
      norm of all parameters    g min(1, c / ‖g‖)                chain(clip_by_global_norm(c), …); PyTorch: ‖g‖ + 1e-6
      value                     max(−c, min(c, g))               chain(clip_by_value(c), …)
      norm of each (clipnorm)   Keras                            not here
    learning rates, a function of the number of updates
      StepLR, n batches         η γ^⌊epoch / k⌋                  schedules.step(η, factor=γ, every=k * n)
      ExponentialLR             η γ^epoch                        schedules.step(η, factor=γ, every=n)
      CosineAnnealingLR, optax  to 0 in T steps                  schedules.cosine(η, steps=T)
      warm-up and cosine        w of T steps                     schedules.warmup_cosine(η, warmup=w, steps=T)
    not here
      RMSProp with momentum or centred, AMSGrad, NAdam
"""

from fundamentals.optimizers import schedules
from fundamentals.optimizers.adam import AdamState, adam, adamw
from fundamentals.optimizers.adaptive import (
    AdadeltaState,
    AdagradState,
    RmspropState,
    adadelta,
    adagrad,
    rmsprop,
)
from fundamentals.optimizers.clipping import clip_by_global_norm, clip_by_value, global_norm
from fundamentals.optimizers.core import LearningRate, NoState, Optimizer, apply_updates, chain
from fundamentals.optimizers.gradient_descent import MomentumState, SgdState, momentum, sgd
from fundamentals.optimizers.regularization import l2_regularization

__all__ = [
    "AdadeltaState",
    "AdagradState",
    "AdamState",
    "LearningRate",
    "MomentumState",
    "NoState",
    "Optimizer",
    "RmspropState",
    "SgdState",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
    "l2_regularization",
    "momentum",
    "rmsprop",
    "schedules",
    "sgd",
]
