"""Generative models: a small run, closed forms and direct sums, results that make verdicts fail, resuming, flags."""

import copy
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import (
    common,
    generative,
    generative_autoregressive,
    generative_gan,
    generative_training,
    generative_vae,
    generative_verdicts,
)
from experiments.generative_training import Images
from fundamentals.models import mlp, vae

SMALL = {
    "epochs": 2, "batch_size": 256, "vae_latent": 2, "vae_hidden": 8, "importance": "1,4", "nade_hidden": 4,
    "components": 2, "small_pixels": 4, "small_samples": 1000, "small_repeats": 20, "games": 2, "gan_batch": 16,
    "ring_latent": 2, "ring_hidden": 8, "ring_steps": 8, "digit_latent": 2, "digit_hidden": 8, "digit_steps": 8,
    "shown": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        patch.setattr(generative_gan, "EXAMPLES", 100)
        distances, asked = generative_gan.distances, []
        patch.setattr(generative_gan, "distances", lambda x, real: asked.append(real) or distances(x, real))
        verdicts = generative.run(**parse(generative, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text()), asked


def clear(rows):
    """As if all had been trained for long: what is judged by tests is so by far."""
    rows = copy.deepcopy(rows)
    wave = np.sin(np.arange(359))
    for name, what, mean in (("baselines", "independent", -25), ("fvbn", "test", -18), ("nade", "test", -17)):
        rows[name][what] = (mean + 0.1 * wave * mean).tolist()
    rows["vae"] |= {"bound": (-19 + wave).tolist(), "importance_weighted": {
        "1": (-19 + wave + 0.1 * wave[::-1]).tolist(), "4": (-18 + wave - 0.1 * wave[::-1]).tolist()}}  # fmt: skip
    small = rows["small vae"]
    low, high = (float(np.mean(small[name])) for name in ("bound", "log_p"))
    steps = np.linspace(low, high, 4)[:3]
    error = (high - low) / 50
    small["importance_weighted"] = dict(zip(("1", "5", "50"), [[v, error] for v in steps.tolist()], strict=True))
    found = rows["discriminator"]
    best = found["best"]
    found |= {
        "value": [[-3.0, best - 0.01]] * 2, "fresh_error": [0.005] * 2,
        "fresh_value": [best - 0.012, best - 0.003], "logits": [(np.array(found["log_ratio"]) + 0.1).tolist()] * 2,
    }  # fmt: skip
    far, near = (2 + 0.01 * wave[:10]).tolist(), (0.01 * wave[:10]).tolist()
    rows["ring"] |= {
        "distances": [[far, far], [near, near]], "losses": [[1.0, 1.38], [0.9, 1.39]], "ahead": [0.7, 1.0],
        "distance": [[2.0, 0.0], [2.0, 0.1]],
    }  # fmt: skip
    rows["digits gan"]["distances"] = [far, near]
    return rows


def test_what_is_exact_holds_in_a_small_run(finished):
    folder, verdicts, results, _ = finished
    assert results["complete"]
    assert list(results["rows"]) == list(generative.ROWS)
    exact = [
        v for v in verdicts if any(word in v.claim for word in ("gradient", "Σ p", "χ²", "from KL", "log p(x) − bound"))
    ]
    assert len(exact) == 14
    assert [v.claim for v in exact if not v.holds] == []
    assert {v.notes for v in verdicts} == {"H5"}
    assert all((folder / name).exists() for name in generative.FILES)
    row = results["rows"]["ring"]
    np.testing.assert_allclose(row["ratios"], np.exp(row["scores"]), rtol=1e-4)  # scores are rounded
    row = results["rows"]["nade"]
    assert row["best"] == int(np.argmin(row["validation"])) + 1
    assert set(np.unique(row["samples"])) <= {0, 1}
    assert results["rows"]["fvbn"]["parameters"] == 64 + 64 * 63 // 2
    assert np.shape(results["rows"]["vae"]["interpolations"]) == (3, 64)


def set_in(rows, name, **change):
    rows[name] |= change


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda r: None, []),
        (lambda r: set_in(r, "vae", gradient_difference=1e-8), ["VAE: gradient"]),
        (lambda r: set_in(r, "nade", gradient_difference=math.nan), ["NADE: gradient"]),
        (lambda r: r["digits gan"]["gradient_differences"].update(discriminator=1e-9), ["GAN's discriminator"]),
        (lambda r: set_in(r, "small fvbn", excess=1e-9), ["FVBN: Σ p"]),
        (lambda r: set_in(r, "small nade", chi_square=200.0), ["… χ²"]),
        (lambda r: set_in(r, "nade", test=r["fvbn"]["test"]), ["log p of test digits: NADE"]),
        (lambda r: set_in(r, "baselines", independent=r["nade"]["test"]), ["log p of test digits: FVBN"]),
        (lambda r: set_in(r, "small vae", log_p=[v + 1e-6 for v in r["small vae"]["log_p"]]), ["Σ p", "… from KL"]),
        (lambda r: r["small vae"]["importance_weighted"].update({"50": [-1.0, 0.01]}), ["… bound < with"]),
        (lambda r: r["small vae"]["importance_weighted"].update({"1": [-9.0, 0.01]}), ["bound with S = 1"]),
        (lambda r: set_in(r, "vae", bound=r["vae"]["importance_weighted"]["4"]),
         ["VAE, test digits: bound with S = 1", "… bound with S = 4, − bound"]),
        (lambda r: r["vae"]["importance_weighted"].update({"4": [-20.0] * 359}),
         ["… bound → S = 4", "… bound with S = 4"]),
        (lambda r: set_in(r, "discriminator", value=[[-3.0, -0.5]] * 2), ["discriminator, fixed", "… V by"]),
        (lambda r: set_in(r, "discriminator", value=[[-3.0, -1.38]] * 2), ["discriminator, fixed", "… V by"]),
        (lambda r: set_in(r, "discriminator", best_drawn=[0.0, 0.01]), ["2 JSD − log 4 of ring"]),
        (lambda r: set_in(r, "discriminator", logits=[r["discriminator"]["log_ratio"][::-1]] * 2), ["… correlation"]),
        (lambda r: set_in(r, "ring", ratios_apart=1e-3), ["minimax over"]),
        (lambda r: r["ring"]["distances"].reverse(), ["ring, 2 games"]),
        (lambda r: set_in(r, "ring", ahead=[0.7, math.log(4)]), ["… discriminator's loss"]),  # one that never learns
        (lambda r: set_in(r, "small nade", chi_square=0.0, freedom=0), ["… χ²"]),
        (lambda r: set_in(r, "ring", losses=[[1.0, 1.38], [0.9, 0.4]]), ["… discriminator's loss"]),
        (lambda r: r["digits gan"]["distances"].reverse(), ["GAN on digits"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_noticed(finished, change, fails):
    rows = clear(finished[2]["rows"])
    change(rows)
    found = [v.claim for v in generative_verdicts.judge(rows) if not v.holds]
    assert len(found) == len(fails), found
    assert all(part in claim for part, claim in zip(fails, found, strict=True)), found


def values(mean, error, plus=0.0, n=359):
    """With that standard error of the mean, above others."""
    wave = np.sin(np.arange(n))
    wave = (wave - wave.mean()) / (wave.std(ddof=1) / math.sqrt(n))
    return (np.asarray(plus) + mean + error * wave).tolist()


def set_share(rows, share):
    found = rows["discriminator"]
    last = found["best"] - share * 2 * found["jsd"]
    found |= {"value": [[-3.0, last]] * 2, "fresh_value": [last] * 2}


def set_weighted(rows, off):
    low = float(np.mean(rows["small vae"]["bound"]))
    rows["small vae"]["importance_weighted"]["1"] = [low + off * 1e-3, 1e-3]


def set_fresh(rows, off):
    found = rows["discriminator"]
    found["fresh_value"] = [value[-1] + off * 0.005 for value in found["value"]]


@pytest.mark.parametrize(
    ("change", "limit", "fails"),
    [
        (lambda r, v: set_in(r, "nade", test=values(0.2 / v, 0.2, r["fvbn"]["test"])), 1 / 3, "NADE − FVBN"),
        (lambda r, v: set_in(r, "baselines", independent=values(-0.2 / v, 0.2, r["fvbn"]["test"])), 1 / 3,
         "FVBN − independent"),
        (lambda r, v: r["vae"]["importance_weighted"].update({"4": values(0.2 / v, 0.2, r["vae"]["bound"])}), 1 / 3,
         "S = 4, − bound"),
        (lambda r, v: r["vae"]["importance_weighted"].update({"4": values(-0.2 * v, 0.2, r["vae"]["bound"])}), 3,
         "bound → S = 4"),
        (lambda r, v: r["vae"]["importance_weighted"].update({"1": values(0.2 * v, 0.2, r["vae"]["bound"])}), 4,
         "VAE, test digits: bound with S = 1"),
        (set_weighted, 4, "importance-weighted bound with S = 1"),
        (set_fresh, 4, "loss of fresh examples"),
        (set_share, 0.1, "fixed generator"),
        (lambda r, v: set_in(r, "discriminator", best_drawn=[r["discriminator"]["best"] + v * 0.01, 0.01]), 4,
         "2 JSD − log 4 of ring"),
        (lambda r, v: set_in(r, "ring", distance=[[2.0, 0.0], [1.5, 1.5 * v]]), 0.1, "ring, 2 games"),
        (lambda r, v: set_in(r, "ring", losses=[[1.0, 1.38], [1.2, math.log(4) + v]]), 0.05, "discriminator's loss"),
        (lambda r, v: set_in(r, "ring", ahead=[0.7, math.log(4) - 0.05 / (v / 0.05)]), 0.05, "discriminator's loss"),
        (lambda r, v: r["digits gan"].update(distances=[values(0.2 / v, 0.2, n=10), [0.0] * 10]), 1 / 3, "on digits"),
        (lambda r, v: r["digits gan"]["gradient_differences"].update(discriminator=v), 1e-12, "GAN's discriminator"),
    ],
)  # fmt: skip
def test_what_is_nearly_wrong(finished, change, limit, fails):
    for share in (0.9, 1.1):
        rows = clear(finished[2]["rows"])
        change(rows, share * limit)
        (verdict,) = [v for v in generative_verdicts.judge(rows) if fails in v.claim]
        assert verdict.holds == (share < 1), verdict


def test_what_images_are_compared_with(finished):
    rows, asked = finished[2]["rows"], finished[3]
    grey = generative_training.digits(binary=False)
    of_digits = [real for real in asked if real.shape[1] == 64]
    assert len(of_digits) == generative.PARTS + 1
    assert all(np.array_equal(real, grey.test) for real in of_digits)
    # The bound is that of the epoch that was kept: images of one distribution, so much the same as in validation.
    assert -np.mean(rows["vae"]["bound"]) == pytest.approx(min(rows["vae"]["validation"]), abs=2)
    assert rows["vae"]["train"][0] > min(rows["vae"]["validation"]) + 5  # untrained, it is worse by more than that


def test_errors_of_fresh_examples(finished):
    found = finished[2]["rows"]["discriminator"]
    assert abs(found["best_drawn"][0] - found["best"]) < 4 * found["best_drawn"][1]
    # Of 20,000 losses whose spread is of the order of 1.
    assert all(0.1 < error * math.sqrt(20_000) < 5 for error in (*found["fresh_error"], found["best_drawn"][1]))


def test_a_bound_above_is_noticed(finished):
    rows = clear(finished[2]["rows"])
    rows["small vae"]["bound"][3] = rows["small vae"]["log_p"][3] + 1e-3
    assert "… log p(x) − bound, of each image" in [v.claim for v in generative_verdicts.judge(rows) if not v.holds]


def test_an_interrupted_run_goes_on_with_the_next_model(finished, tmp_path, undrawn, monkeypatch):
    for file in finished[0].iterdir():
        shutil.copy(file, tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:-1]))  # the last model's row is missing
    settings = parse(generative, **SMALL, output_dir=tmp_path, resume=True)
    asked = []

    def measured(**given):
        asked.append(given["steps"])
        if len(asked) == 1:
            raise KeyboardInterrupt
        return finished[2]["rows"]["digits gan"]

    monkeypatch.setattr(generative_gan, "measure_digits", measured)
    with pytest.raises(KeyboardInterrupt):
        generative.run(**settings)
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert list(results["rows"]) == list(generative.ROWS[:-1])
    generative.run(**settings)
    assert asked == [8, 8]  # nothing else was measured again
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == finished[2]["rows"]


def test_the_seed_decides_all_that_is_drawn(finished):
    key = jax.random.split(jax.random.key(0), len(generative.ROWS))[generative.ROWS.index("small fvbn")]
    row = generative_autoregressive.measure_small("fvbn", pixels=4, samples=1000, key=key, note=lambda text: None)
    assert row == finished[2]["rows"]["small fvbn"]


def test_earlier_results_are_not_overwritten_unless_told(finished):
    with pytest.raises(common.UserError, match="holds an earlier run"):
        generative.run(**parse(generative, **SMALL, output_dir=finished[0]))


def toy_gradient(params, images, noise):
    return params, jnp.ones_like(params)


def toy_costs(params, images, noise):
    return jnp.broadcast_to((params - 0.55) ** 2, images.shape[:1])


def test_the_epoch_that_is_best_on_validation_images_is_kept():
    images = Images(*(np.zeros((n, 2), np.float32) for n in (5, 3, 1)))
    fitted = generative_training.fit(
        jnp.float32(1.0), images, toy_gradient, toy_costs, learning_rate=0.1, batch_size=2, epochs=4, latent=0,
        random=np.random.default_rng(0), note=lambda text: None,
    )  # fmt: skip
    # Adam goes 0.1 a step where the gradient is constant: 2 steps an epoch, to 0.8, 0.6, 0.4, 0.2.
    np.testing.assert_allclose(fitted.validation, [0.0625, 0.0025, 0.0225, 0.1225], rtol=1e-3)
    assert fitted.best == 2
    assert float(fitted.params) == pytest.approx(0.6, abs=1e-5)
    np.testing.assert_allclose(fitted.train, [0.95, 0.75, 0.55, 0.35], rtol=1e-5)


def test_a_wrong_gradient_is_noticed():
    def loss(params, x):
        return jnp.sum(params**2 * x)

    x = np.array([1.0, 2.0])
    for factor, expected in ((2.0, 0.0), (2.002, 1e-3)):
        by_hand = lambda params, x, factor=factor: (loss(params, x), factor * params * x)  # noqa: E731
        assert generative_training.gradient_difference(by_hand, loss, [(x, x)] * 2) == pytest.approx(
            expected, abs=1e-12
        )


def test_small_images_and_their_places():
    images = generative_training.every_image(3)
    assert images.tolist()[:3] == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(generative_training.indices(images), np.arange(8))
    assert set(np.unique(generative_training.digits(binary=True).test)) == {0, 1}


def test_a_mixture_of_one_counts_and_any_sums_to_one():
    x = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0]], np.float32)
    images = Images(x, x, x)
    weights, white = generative_autoregressive.fit_mixture(images, 1, np.random.default_rng(0))
    assert weights == pytest.approx([1])
    np.testing.assert_allclose(white, [[4 / 5, 2 / 5, 2 / 5]])
    everything = generative_training.every_image(3)
    for k in (1, 3):
        model = generative_autoregressive.fit_mixture(images, k, np.random.default_rng(1))
        assert np.exp(generative_autoregressive.mixture_log_likelihood(*model, everything)).sum() == pytest.approx(1)


def test_chi_square_and_its_deviate():
    counts, p = np.array([18, 23, 55, 3, 1]), np.array([0.2, 0.21, 0.53, 0.04, 0.02])
    statistic, freedom = generative_autoregressive.chi_square(counts, p)  # 4 and 2 expected are one cell
    assert freedom == 3
    assert statistic == pytest.approx(4 / 20 + 4 / 21 + 4 / 53 + 4 / 6)
    # A rest that expects 1 takes the smallest of the others.
    counts, p = np.array([41, 2, 7, 50]), np.array([0.43, 0.01, 0.06, 0.5])
    statistic, freedom = generative_autoregressive.chi_square(counts, p)
    assert freedom == 2
    assert statistic == pytest.approx(4 / 43 + 4 / 7)
    assert generative_autoregressive.chi_square(np.array([99, 1]), np.array([0.99, 0.01])) == (0.0, 0)
    assert generative_verdicts.deviate(18.307, 10) == pytest.approx(1.645, abs=0.01)  # 95 % in any table
    assert generative_verdicts.deviate(generative_verdicts.highest_chi_square(50), 50) == pytest.approx(4)


def test_quadrature_where_the_code_says_nothing(x64):
    # A decoder that ignores z: log p(x) in closed form, the posterior is the prior, KL(q ‖ N(0, 1)) what is lost.
    mean, s = 0.7, -0.4
    bias = jnp.array([0.3, -1.0])
    encoder = (mlp.Layer(jnp.zeros((2, 2)), jnp.array([mean, s])),)
    found = generative_vae.quadrature(vae.Params(encoder, (mlp.Layer(jnp.zeros((1, 2)), bias),)), np.eye(2)[:1])
    log_p = -np.logaddexp(0, -0.3) - np.logaddexp(0, -1.0)
    lost = 0.5 * (mean**2 + math.exp(2 * s) - 1) - s
    np.testing.assert_allclose(
        [found[name][0] for name in ("log_p", "bound", "divergence")], [log_p, log_p - lost, lost], rtol=1e-12
    )


def test_energy_distance_pair_by_pair():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(4, 3)), random.normal(1, 1, (5, 3))

    def mean(a, b):
        return np.mean(
            [np.linalg.norm(u - v) for i, u in enumerate(a) for j, v in enumerate(b) if a is not b or i != j]
        )

    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert generative_gan.energy_distance(x, y) == pytest.approx(expected)


def test_densities_and_the_value_of_the_best_discriminator():
    axis = np.linspace(-9, 9, 181)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_p, log_q = generative_gan.ring_log_density(grid), generative_gan.gaussian_log_density(grid)
    p, q, area = np.exp(log_p), np.exp(log_q), 0.01
    assert p.sum() * area == pytest.approx(1, abs=1e-9)
    assert q.sum() * area == pytest.approx(1, abs=1e-6)
    half = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        jsd = 0.5 * sum(np.nansum(np.where(f > 0, f * np.log(f / half), 0)) for f in (p, q)) * area
    scores = np.stack([log_p - log_q, np.zeros(len(p)), np.sin(grid[:, 0])])
    value = generative_gan.value_at(scores, log_p, log_q, area)
    np.testing.assert_allclose(value[:2], [2 * jsd - math.log(4), -math.log(4)], rtol=1e-6)
    assert value[2] < value[0]
    drawn = generative_gan.from_ring(np.random.default_rng(0), (2, 5000))
    assert drawn.dtype == np.float32
    share, modes = generative_gan.near_modes(drawn[0])
    assert share == pytest.approx(1 - math.exp(-4.5), abs=0.006)
    assert modes == 8
    assert generative_gan.near_modes(generative_gan.CENTRES[[2] * 9 + [5]]) == (1, 2)
    assert generative_gan.near_modes(np.zeros((4, 2))) == (0, 0)


def test_nearest_images():
    distance, which = generative_gan.nearest_images(np.array([[1.0, 0.0]]), np.array([[5.0, 0.0], [1.0, 2.0]]))
    assert (distance.tolist(), which.tolist()) == ([2.0], [1])


def test_a_player_with_rate_0_stays_as_it_is():
    random = np.random.default_rng(0)
    params = generative_training.initial(
        random, lambda key: generative_gan.gan.init(key, inputs=2, latent=2, hidden=(8,)), 2
    )
    drawn = generative_gan.batches(random, generative_gan.from_ring(random, (2, 1, 16)), 2)
    rates = jnp.array([1e-2, 0], np.float32)
    after, _, losses = generative_gan.play(params, generative_gan.start(params), drawn, rates, output=None)
    assert losses.shape == (2, 1, 2)
    # The generator is on noise of its own, after the discriminator's step.
    fakes = generative_gan.gan.generate(jax.tree.map(lambda p: p[0], params.generator), drawn.second[0, 0])
    scores = mlp.mlp(jax.tree.map(lambda p: p[0], after.discriminator), fakes)
    assert float(losses[0, 0, 1]) == pytest.approx(np.logaddexp(0, -np.asarray(scores, float)).mean(), rel=1e-5)
    same = [jax.tree.map(np.array_equal, before, now) for before, now in zip(params, after, strict=True)]
    assert all(jax.tree.leaves(same[0]))
    assert not any(jax.tree.leaves(same[1]))


def test_flags_that_do_not_fit(tmp_path):
    with pytest.raises(common.UserError, match="--batch_size=1259; expected at most the 1258 training digits"):
        generative.run(**parse(generative, **SMALL | {"batch_size": 1259}, output_dir=tmp_path / "none"))
    with pytest.raises(common.UserError, match="--small_samples=100; expected at least 327680, five for each image"):
        generative.run(**parse(generative, small_pixels=16, small_samples=100, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vae_latent", 0), ("ring_latent", 0), ("digit_latent", -1), ("nade_hidden", 0), ("vae_hidden", "8,0"),
        ("ring_hidden", ""), ("digit_hidden", "a"), ("epochs", 0), ("importance", "5,50"), ("importance", "1"),
        ("importance", "1,1"), ("small_pixels", 17), ("games", 1), ("ring_steps", 9), ("digit_steps", 0),
        ("vae_rate", 0), ("digit_rate", "nan"), ("shown", 1), ("seed", -1), ("batch_size", 0),
    ],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(generative, **{name: value})
