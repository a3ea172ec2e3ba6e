"""How each model reads an image, for `train_digits`: its parameters, its loss, both gradients."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fundamentals import layers
from fundamentals.base import Initializer, PRNGKey, Rule
from fundamentals.memory import Plan, accumulate, chain, plan
from fundamentals.models import cnn, mlp, objective, rnn, transformer
from fundamentals.models.stages import Stages

ATTENTIONS = {
    "dense": transformer.ATTENTION,
    "blockwise": Rule(layers.blockwise_attention, layers.blockwise_attention_fwd, layers.blockwise_attention_bwd),
}
NORMS = {
    "layer_norm": cnn.LAYER_NORM,
    "batch_norm": Rule(layers.batch_norm, layers.batch_norm_fwd, layers.batch_norm_bwd),
}


class Model(NamedTuple):
    """Functions of a model whose sizes and options are fixed."""

    read: Callable[[np.ndarray], np.ndarray]  # images [B, H, W] → what the model takes
    init: Callable[[PRNGKey], Any]
    apply: Callable[..., jax.Array]  # (params, x) → logits [B, K]
    loss: Callable[..., jax.Array]  # (params, x, targets) → []
    loss_and_gradient: Callable[..., tuple[jax.Array, Any]]  # the same, and dparams by hand
    stages: Callable[[Any, jax.Array], Stages]  # (params, targets) → the loss as a chain, of x


def build(
    name: str,
    *,
    image: tuple[int, ...],
    classes: int,
    hidden_sizes: Sequence[int],
    activation: Rule | None,
    initializer: Initializer,
    loss_rule: Rule,
    norm: str,
    heads: int,
    attention: str,
    tokens: str,
    dtype: Any,
) -> Model:
    """A model for images of a shape.

    Args:
      name: mlp, cnn, rnn or transformer.
      image: shape of one input; all but the mlp take [H, W].
      classes: outputs.
      hidden_sizes: units of each hidden layer (mlp, rnn), channels of each stage (cnn), or the one width of all blocks
        (transformer).
      activation: between layers; None for maxout layers (mlp). The rnn has its own.
      initializer: of the weights; of a recurrence, those of the input.
      loss_rule: a rule of (logits, targets).
      norm: of the cnn: one of NORMS.
      heads, attention: of the transformer: how many, one of ATTENTIONS.
      tokens: of the transformer: "rows" or "pixels" of the image are the sequence.
      dtype: of the parameters.

    Raises:
      ValueError: the sizes do not fit the model.
    """
    if name != "mlp" and len(image) != 2:
        raise ValueError(f"--model={name} reads images [H, W]; expected --model=mlp for inputs of shape {list(image)}")
    if name != "mlp" and activation is None:
        raise ValueError(f"--activation=maxout is for --model=mlp; expected another for --model={name}")
    options: dict[str, Any] = {}
    if activation is not None and name != "rnn":
        options["activation"] = activation
    sizes = list(hidden_sizes)

    if name == "mlp":
        inputs, pieces = int(np.prod(image)), 2 if activation is None else None

        def read(images: np.ndarray) -> np.ndarray:
            return images.reshape(len(images), -1)

        init: Callable[..., Any] = functools.partial(mlp.init, sizes=[inputs, *sizes, classes], pieces=pieces)
        module: Any = mlp
    elif name == "cnn":
        if not sizes:
            raise ValueError("--hidden_sizes is empty; expected the channels of at least one stage of the cnn")
        if min(image) >> (len(sizes) - 1) == 0:
            raise ValueError(f"--hidden_sizes has {len(sizes)} stages, which halve {list(image)} pixels to none")

        def read(images: np.ndarray) -> np.ndarray:
            return images[..., None]

        init = functools.partial(cnn.init, channels=[1, *sizes], outputs=classes)
        options["norm"] = NORMS[norm]
        module = cnn
    elif name == "rnn":
        if not sizes:
            raise ValueError("--hidden_sizes is empty; expected the units of at least one layer of the rnn")

        def read(images: np.ndarray) -> np.ndarray:
            return images

        init = functools.partial(rnn.init, sizes=[image[1], *sizes, classes])
        module = rnn
    else:
        if not sizes or len(set(sizes)) > 1 or sizes[0] % heads:
            raise ValueError(
                f"--hidden_sizes={','.join(map(str, sizes))} with --heads={heads}; expected one width for all blocks "
                "of the transformer, a multiple of the heads"
            )
        length, inputs = image if tokens == "rows" else (image[0] * image[1], 1)

        def read(images: np.ndarray) -> np.ndarray:
            return images.reshape(len(images), length, inputs)

        init = functools.partial(
            transformer.init, inputs=inputs, length=length, width=sizes[0], layers=len(sizes), outputs=classes
        )
        options |= {"heads": heads, "attention": ATTENTIONS[attention]}
        module = transformer

    def stages(params: Any, targets: jax.Array) -> Stages:
        network = module.stages(params, **options)
        return Stages((*network.rules, objective.mean(loss_rule)), (*network.params, targets))

    return Model(
        read,
        functools.partial(init, initializer=initializer, dtype=dtype),
        functools.partial(module.apply, **options),
        functools.partial(module.loss, **options, loss_rule=loss_rule),
        functools.partial(module.loss_and_gradient, **options, loss_rule=loss_rule),
        stages,
    )


def plans(
    model: Model, names: Iterable[str], params: Any, x: jax.Array, targets: jax.Array, budget: str
) -> dict[str, Plan]:
    """Plans for gradients of a (micro)batch, by who computes them, whose temp memory is within a budget.

    Raises:
      ValueError: there is none. It names the least budget that can be kept.
    """
    found = {}
    for name in names:
        try:
            found[name] = plan(*_chain(model, name, params, targets), x, budget=budget, loss=lambda loss: loss)
        except ValueError as error:
            raise ValueError(f"--memory_budget={budget}, --gradients={name}: {error}") from error
    return found


def gradients(
    model: Model, num_microbatches: int, plans: Mapping[str, Plan] | None = None
) -> dict[str, Callable[..., tuple[jax.Array, Any]]]:
    """(params, x, targets) → (loss, gradient), by who computes them, "hand" and "autodiff"; in K microbatches if K > 1.

    The model's losses are means over examples, so a microbatch's weight is how many it has. Those for which there is a
    plan follow it.
    """
    planned = {name: functools.partial(_planned_loss, model, name, plan) for name, plan in (plans or {}).items()}
    if num_microbatches == 1:
        direct = {"hand": model.loss_and_gradient, "autodiff": jax.value_and_grad(model.loss)}
        return direct | {name: jax.value_and_grad(loss) for name, loss in planned.items()}

    def summed(loss: Callable[..., jax.Array], params: Any, batch: Any) -> tuple[jax.Array, int]:
        count = len(batch[0])
        return loss(params, *batch) * count, count

    def summed_and_gradient(params: Any, batch: Any) -> tuple[tuple[jax.Array, int], Any]:
        count = len(batch[0])
        loss, gradient = model.loss_and_gradient(params, *batch)
        return (loss * count, count), jax.tree.map(lambda g: g * count, gradient)

    accumulated = {"hand": accumulate(gradient_fn=summed_and_gradient, num_microbatches=num_microbatches)}
    for name, loss in ({"autodiff": model.loss} | planned).items():
        accumulated[name] = accumulate(functools.partial(summed, loss), num_microbatches=num_microbatches)
    return {name: lambda params, x, targets, f=f: f(params, (x, targets)) for name, f in accumulated.items()}


def _planned_loss(model: Model, name: str, plan: Plan, params: Any, x: jax.Array, targets: jax.Array) -> Any:
    """The model's loss, whose gradient follows a plan."""
    stages, parts = _chain(model, name, params, targets)
    return chain(stages, plan)(parts, x)


def _chain(model: Model, name: str, params: Any, targets: jax.Array) -> tuple[Sequence[Any], Sequence[Any]]:
    """Stages and their parameters: rules, which are differentiated by hand, or functions."""
    rules, parts = model.stages(params, targets)
    return (rules if name == "hand" else [rule.primal for rule in rules]), parts
