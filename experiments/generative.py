"""Do the models of arbitrary distributions do what is said of them: VAE, fully visible belief network, NADE, GAN?

All are trained on the digits in the box by gradients derived by hand, with Adam. The first three learn black and white
pixels (white where at least half white), so that their nats an image are of the same thing; what is reported is of test
images, at the epoch that was best on validation images. Where the truth is known, they are held against it:

  VAE         six pixels and a code of one number: log p(x) by quadrature, for each of the 64 images;
  FVBN, NADE  all images of a few pixels, enumerated; samples against their probabilities;
  GAN         a ring of Gaussians, and, against a generator of known density, the best discriminator's logit, log p/q.

Expected: gradients equal to `jax.grad`. For each image bound ≤ log p(x), by KL(q(z|x) ‖ p(z|x)), and bounds weighted by
importance in between, that grow with S (Y. Burda, R. Grosse and R. Salakhutdinov 2016, theorem 1). Autoregressive
models sum to 1; NADE is better than FVBN, FVBN than independent pixels. A discriminator gets near 2 JSD − log 4 if the
generator stays as it is; if not, its loss gets near log 4 while samples get nearer to the ring. For one fake with logit
s, the generator's gradient of the minimax loss is e^s times that of the non-saturating loss.

How good a GAN gets is luck as well: share of samples near a mode and modes found are reported, not judged. Nats of a
VAE are bounds, those of the autoregressive models are exact: the table says which, and claims nothing.

    python -m experiments.generative --flagfile=configs/generative.flags

Ctrl-C leaves what is finished; --resume goes on with the next model.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import (
    common,
    generative_autoregressive,
    generative_figures,
    generative_gan,
    generative_training,
    generative_vae,
    generative_verdicts,
    measure,
    sweeps,
)

RESULTS, DIGITS, CURVES = FILES = ("results.json", "generative_digits.png", "generative_curves.png")
ROWS = (
    "baselines", "fvbn", "nade", "vae", "small fvbn", "small nade", "small vae", "discriminator", "ring", "digits gan",
)  # fmt: skip
PARTS = 8  # of a GAN's training, at whose ends it is looked at
SMALL_IMPORTANCE = 1, 5, 50  # S of the small VAE
RATES = "vae_rate", "autoregressive_rate", "ring_rate", "digit_rate"


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1, **options}
    flags.DEFINE_integer("epochs", 100, "Of VAE, FVBN and NADE, of which the best is kept.", **positive)
    flags.DEFINE_integer("batch_size", 128, "Digits in a minibatch of these three; at most 1258.", **positive)
    flags.DEFINE_integer("vae_latent", 8, "Numbers in a code.", **positive)
    flags.DEFINE_list(
        "vae_hidden", ["200"], "Units of the encoder's hidden layers; the decoder's in reverse.", **options
    )
    flags.DEFINE_float("vae_rate", 0.003, "Learning rate of the VAE.", **options)
    flags.DEFINE_list("importance", ["1", "5", "50", "500"], "S, draws for a bound, ascending from 1.", **options)
    flags.DEFINE_integer("nade_hidden", 64, "H, of NADE.", **positive)
    flags.DEFINE_float("autoregressive_rate", 0.01, "Learning rate of FVBN and NADE.", **options)
    flags.DEFINE_integer("components", 20, "Of the mixture of independent pixels, a baseline.", **positive)
    flags.DEFINE_integer(
        "small_pixels", 10, "D, of images that are enumerated.", lower_bound=2, upper_bound=16, **options
    )
    flags.DEFINE_integer(
        "small_samples",
        20_000,
        "To compare with their probabilities; at least 5 for each image.",
        lower_bound=100,
        **options,
    )
    flags.DEFINE_integer(
        "small_repeats", 1000, "Bounds of each small image, with fresh draws.", lower_bound=10, **options
    )
    flags.DEFINE_integer("games", 3, "GANs on the ring, with seeds of their own.", lower_bound=2, **options)
    flags.DEFINE_integer("gan_batch", 128, "Real ones in a minibatch of a GAN, and as many fakes.", **positive)
    flags.DEFINE_integer("ring_latent", 4, "Numbers of noise for a point.", **positive)
    flags.DEFINE_list("ring_hidden", ["64", "64"], "Units of either player's hidden layers, on the ring.", **options)
    flags.DEFINE_integer("ring_steps", 2400, f"Of either player, a multiple of {PARTS}.", lower_bound=PARTS, **options)
    flags.DEFINE_float("ring_rate", 0.001, "Learning rate on the ring.", **options)
    flags.DEFINE_integer("digit_latent", 16, "Numbers of noise for a digit.", **positive)
    flags.DEFINE_list("digit_hidden", ["128", "128"], "Units of either player's hidden layers, on digits.", **options)
    flags.DEFINE_integer("digit_steps", 2400, f"Likewise, a multiple of {PARTS}.", lower_bound=PARTS, **options)
    flags.DEFINE_float("digit_rate", 0.001, "Learning rate of the GAN on digits.", **options)
    flags.DEFINE_integer("shown", 12, "Digits in a row of the figure.", lower_bound=2, upper_bound=40, **options)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    sweeps.define_flags(flag_values, "generative")

    def are_sizes(values: Sequence[str]) -> bool:
        return bool(values) and all(value.isascii() and value.isdecimal() and int(value) > 0 for value in values)

    def are_samples(values: Sequence[str]) -> bool:
        return measure.are_ascending(values) and len(values) > 1 and int(values[0]) == 1

    def are_parts(value: int) -> bool:
        return value % PARTS == 0

    for name in ("vae_hidden", "ring_hidden", "digit_hidden"):
        flags.register_validator(name, are_sizes, "expected positive integers", flag_values)
    for name in ("ring_steps", "digit_steps"):
        flags.register_validator(name, are_parts, f"expected a multiple of {PARTS}", flag_values)
    flags.register_validator("importance", are_samples, "expected 1 and more, ascending", flag_values)
    for name in RATES:
        flags.register_validator(name, lambda value: 0 < value < 1, "expected a number between 0 and 1", flag_values)


def run(
    *,
    epochs: int,
    batch_size: int,
    vae_latent: int,
    vae_hidden: Sequence[str],
    vae_rate: float,
    importance: Sequence[str],
    nade_hidden: int,
    autoregressive_rate: float,
    components: int,
    small_pixels: int,
    small_samples: int,
    small_repeats: int,
    games: int,
    gan_batch: int,
    ring_latent: int,
    ring_hidden: Sequence[str],
    ring_steps: int,
    ring_rate: float,
    digit_latent: int,
    digit_hidden: Sequence[str],
    digit_steps: int,
    digit_rate: float,
    shown: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
    resume: bool,
) -> list[common.Verdict]:
    """Train, print, draw and judge."""
    settings = dict(locals())
    cells = math.ceil(generative_autoregressive.LEAST_EXPECTED * 2**small_pixels)
    if small_samples < cells:
        raise common.UserError(
            f"--small_samples={small_samples}; expected at least {cells}, five for each image of "
            f"--small_pixels={small_pixels}"
        )
    images = len(generative_training.digits(binary=True).train)
    if batch_size > images:
        raise common.UserError(f"--batch_size={batch_size}; expected at most the {images} training digits")
    folder, rows = sweeps.start(output_dir, FILES, settings, overwrite=overwrite, resume=resume)
    keys = dict(zip(ROWS, jax.random.split(jax.random.key(seed), len(ROWS)), strict=True))
    likelihood: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs}
    learned = likelihood | {"hidden": nade_hidden, "learning_rate": autoregressive_rate, "shown": shown}
    small: dict[str, Any] = {"pixels": small_pixels, "samples": small_samples}
    plane: dict[str, Any] = {
        "hidden": [*map(int, ring_hidden)], "learning_rate": ring_rate, "batch_size": gan_batch, "steps": ring_steps,
        "games": games, "parts": PARTS,
    }  # fmt: skip
    autoregressive, vae, gan = generative_autoregressive, generative_vae, generative_gan
    measures: dict[str, Callable[..., dict[str, Any]]] = {
        "baselines": functools.partial(autoregressive.measure_baselines, components=components),
        "fvbn": functools.partial(autoregressive.measure_model, "fvbn", **learned),
        "nade": functools.partial(autoregressive.measure_model, "nade", **learned),
        "vae": functools.partial(
            vae.measure_digits, latent=vae_latent, hidden=[*map(int, vae_hidden)], learning_rate=vae_rate,
            importance=[*map(int, importance)], shown=shown, **likelihood,
        ),
        "small fvbn": functools.partial(autoregressive.measure_small, "fvbn", **small),
        "small nade": functools.partial(autoregressive.measure_small, "nade", **small),
        "small vae": functools.partial(vae.measure_small, importance=SMALL_IMPORTANCE, repeats=small_repeats),
        "discriminator": functools.partial(gan.measure_discriminator, **plane),
        "ring": functools.partial(gan.measure_ring, latent=ring_latent, **plane),
        "digits gan": functools.partial(
            gan.measure_digits, latent=digit_latent, hidden=[*map(int, digit_hidden)], learning_rate=digit_rate,
            batch_size=gan_batch, steps=digit_steps, parts=PARTS, shown=shown,
        ),
    }  # fmt: skip
    complete = False
    try:
        with jax.default_matmul_precision("highest"), common.interruptible(), common.progress() as bar:
            task = bar.add_task("", total=len(ROWS), note="")
            for name in ROWS:
                bar.update(task, description=name, note="")
                if name not in rows:
                    note = functools.partial(_note, bar, task)
                    rows[name] = sweeps.keep(folder, name, measures[name](key=keys[name], note=note))
                bar.advance(task)
            complete = True
    finally:
        verdicts = generative_verdicts.judge(rows)
        _report(folder, rows, verdicts, settings, complete=complete)
        sweeps.report_unfinished(len(rows), len(ROWS))
    return verdicts


def _note(bar: Any, task: Any, text: str) -> None:
    bar.update(task, note=text)


def _report(
    folder: Path, rows: dict[str, Any], verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, figures and results of what is finished."""
    generative_verdicts.print_tables(rows)
    if rows:
        common.save_figure(generative_figures.digits(rows), folder / DIGITS)
        common.save_figure(generative_figures.curves(rows), folder / CURVES)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings, "verdicts": [verdict._asdict() for verdict in verdicts]}
    common.write_json(folder / RESULTS, content | {"rows": rows})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
