"""VAE, GAN, FVBN and NADE: values against NumPy transcriptions, quadrature and enumeration; gradients end to end.

(Each backward pass, argument by argument, is compared with autodiff and finite differences by test_rules.)
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, assert_close, fill, relative_error

from fundamentals import losses
from fundamentals.catalogue import RULES
from fundamentals.models import autoregressive, gan, mlp, vae

RANDOM = np.random.RandomState(0)
SIGMOID, TANH = RULES["sigmoid"].rule, RULES["tanh"].rule
IMAGES = np.array(list(itertools.product([0.0, 1.0], repeat=6)))  # all of six pixels

KEY = jax.random.key(0)
VAE = fill(functools.partial(vae.init, inputs=6, latent=2, hidden=(5,)))
PLAYERS = fill(functools.partial(gan.init, inputs=3, latent=2, hidden=()))
NADE = fill(functools.partial(autoregressive.init_nade, inputs=6, hidden=4))
X, Z = np.ones((5, 6), np.float32), np.ones((5, 2), np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def network(layers, x):
    """A multilayer perceptron with tanh, in NumPy."""
    for i, (w, b) in enumerate(layers):
        x = x @ np.asarray(w) + np.asarray(b)
        x = np.tanh(x) if i < len(layers) - 1 else x
    return x


def log_bernoulli(logits, x):
    return np.sum(x * np.log(sigmoid(logits)) + (1 - x) * np.log(1 - sigmoid(logits)), axis=-1)


@functools.cache
def small_vae(latent=1):
    return fill(functools.partial(vae.init, inputs=6, latent=latent, hidden=(5,), dtype=jnp.float64))


@functools.cache
def quadrature(points=120):
    """Nodes and weights for the mean of a function of ε ~ N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    return nodes, weights / weights.sum()


@pytest.mark.usefixtures("x64")
def test_gaussian_kl_is_the_integral():
    nodes, weights = quadrature()
    means, s = np.array([0.7, -1.2, 0.0]), np.array([0.3, -0.9, 1e-9])
    z = means[:, None] + np.exp(s)[:, None] * nodes
    log_ratio = (-0.5 * nodes**2 - s[:, None]) + 0.5 * z**2  # log q − log p
    expected = np.sum(log_ratio @ weights)
    found = losses.gaussian_kl(means, s)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Near the prior, where 1 − 1 would lose all digits: ½ μ² + s² + O(s³).
    np.testing.assert_allclose(losses.gaussian_kl(np.array([0.0]), np.array([1e-7])), 1e-14, rtol=1e-2)


@pytest.mark.usefixtures("x64")
def test_the_bounds_are_below_the_likelihood_and_in_order():
    # One latent number: log p(x), the bound and its gap are integrals over a line.
    params = small_vae()
    nodes, weights = quadrature()
    log_joint = log_bernoulli(network(params.decoder, nodes[:, None])[:, None], IMAGES[None])  # [ε as z, x]
    likelihood = weights @ np.exp(log_joint)
    assert likelihood.sum() == pytest.approx(1, abs=1e-12)
    means, log_scales = np.split(network(params.encoder, IMAGES), 2, axis=-1)
    found_means, found_log_scales = vae.encode(params, IMAGES, activation=TANH)
    np.testing.assert_allclose(found_means, means, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found_log_scales, log_scales, rtol=1e-12, atol=1e-14)
    # The bound, its expectation taken by nodes as noise: a mean of what the library gives for each.
    over_noise = jax.jit(jax.vmap(functools.partial(vae.negative_elbo, activation=TANH), (None, None, 0)))
    noise = np.broadcast_to(nodes[:, None, None], (len(nodes), 64, 1))
    bound = -weights @ np.asarray(over_noise(params, IMAGES, noise))
    z = means + np.exp(log_scales) * nodes  # [x, ε]
    log_posterior = (
        log_bernoulli(network(params.decoder, z.reshape(-1, 1)).reshape(64, -1, 6), IMAGES[:, None])
        - 0.5 * z**2 - np.log(likelihood)[:, None]
    )  # fmt: skip
    gap = (-0.5 * nodes**2 - log_scales - log_posterior) @ weights
    assert np.all(gap > 0)
    np.testing.assert_allclose(np.log(likelihood) - bound, gap, atol=1e-9)
    # Two draws, weighted, are between: the expectation over both by the product of quadratures.
    nodes, weights = quadrature(40)
    pairs = np.array(list(itertools.product(nodes, repeat=2))).T
    over_pairs = jax.jit(jax.vmap(functools.partial(vae.importance_weighted_bound, activation=TANH), (None, None, 1)))
    noise = np.broadcast_to(pairs[:, :, None, None], (2, 1600, 64, 1))
    weighted = np.outer(weights, weights).ravel() @ np.asarray(over_pairs(params, IMAGES, noise))
    assert np.all(bound < weighted)
    assert np.all(weighted < np.log(likelihood))


@pytest.mark.usefixtures("x64")
def test_importance_weights_by_their_densities():
    params, noise = small_vae(2), RANDOM.normal(size=(3, 64, 2))
    means, log_scales = np.split(network(params.encoder, IMAGES), 2, axis=-1)
    z = means + np.exp(log_scales) * noise
    prior = np.prod(np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), axis=-1)
    code = np.prod(np.exp(-0.5 * ((z - means) / np.exp(log_scales)) ** 2 - log_scales) / np.sqrt(2 * np.pi), axis=-1)
    weights = np.exp(log_bernoulli(network(params.decoder, z), IMAGES[None])) * prior / code
    found = jax.jit(functools.partial(vae.importance_weighted_bound, activation=TANH))(params, IMAGES, noise)
    np.testing.assert_allclose(found, np.log(weights.mean(axis=0)), rtol=1e-10)


def test_importance_weights_do_not_underflow():
    params = VAE._replace(decoder=jax.tree.map(lambda x: np.asarray(100 * x), VAE.decoder))
    noise = RANDOM.normal(size=(2, 64, 2)).astype(np.float32)
    found = jax.jit(vae.importance_weighted_bound)(params, IMAGES.astype(np.float32), noise)
    assert np.all(np.isfinite(found))
    assert np.min(found) < -1e3


def test_a_divergence_without_weight_is_none_even_if_it_is_infinite():
    encoder = (*VAE.encoder[:-1], VAE.encoder[-1]._replace(b=np.array([0, 0, 45, 45], np.float32)))
    loose = jax.jit(vae.loss_and_gradient)
    noise = np.zeros_like(Z)
    assert loose(VAE._replace(encoder=encoder), X, noise)[0] == np.inf
    for function in (vae.loss_and_gradient, lambda *a, **k: jax.value_and_grad(vae.loss)(*a, **k)):
        loss, gradient = jax.jit(function)(VAE._replace(encoder=encoder), X, noise, kl_weight=0.0)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((loss, gradient)))


@pytest.mark.usefixtures("x64")
def test_the_divergence_pulls_exactly_near_the_prior():
    s = np.array([[1e-7, -1e-7]], np.float32)
    _, residuals = losses.gaussian_kl_fwd(np.zeros_like(s), s)
    _, pulls = losses.gaussian_kl_bwd(residuals, np.ones(1, np.float32))
    np.testing.assert_allclose(pulls, 2 * s, rtol=1e-6)


def test_samples_of_an_autoencoder_have_the_probabilities_of_its_codes():
    # A decoder of one layer, l = z w: E σ(l) by quadrature for each pixel, and E of the product of two.
    w = np.array([[3.0, -1.0, 0.5, 0.0]], np.float32)
    params = VAE._replace(decoder=(mlp.Layer(w, np.array([0.0, 1.0, -2.0, 0.5], np.float32)),))
    drawn = np.asarray(jax.jit(functools.partial(vae.sample, examples=20_000))(params, key=KEY))
    assert set(np.unique(drawn)) == {0, 1}
    nodes, weights = quadrature()
    p = sigmoid(nodes[:, None] * w + params.decoder[0].b)
    pairs = np.einsum("n,nd,ne->de", weights, p, p)
    np.fill_diagonal(pairs, weights @ p)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), pairs, atol=5 * 0.5 / len(drawn) ** 0.5)


def bits(key, shape, dtype):  # whose numbers are the key itself
    return jnp.resize(jax.random.key_data(key), shape)


def test_initial_values():
    found = jax.jit(functools.partial(vae.init, inputs=11, latent=2, hidden=(7, 5), initializer=bits))(KEY)
    shapes = [[layer.w.shape for layer in network] for network in found]
    assert shapes == [[(11, 7), (7, 5), (5, 4)], [(2, 5), (5, 7), (7, 11)]]
    players = jax.jit(functools.partial(gan.init, inputs=11, latent=3, hidden=(7,), initializer=bits))(KEY)
    assert [[layer.w.shape for layer in network] for network in players] == [[(3, 7), (7, 11)], [(11, 7), (7, 1)]]
    nade = jax.jit(functools.partial(autoregressive.init_nade, inputs=5, hidden=3, initializer=bits))(KEY)
    for params in (found, players, nade):
        keys = [tuple(np.ravel(leaf)[:2]) for leaf in jax.tree.leaves(params) if leaf.dtype == np.uint32]
        assert len(set(keys)) == len(keys) >= 2
    w = autoregressive.init_fvbn(KEY, inputs=4, initializer=lambda key, shape, dtype: jnp.ones(shape, dtype)).w
    np.testing.assert_array_equal(w, np.triu(np.ones((4, 4)), 1))


def test_half_precision_sums_in_float32():
    # 3,000 pixels of cost log 2 each; and a hidden sum from −1000 up by 1, which in bfloat16 would not move.
    x = np.ones((1, 3000), jnp.bfloat16)
    flat = vae.Params((mlp.Layer(np.zeros((3000, 2), jnp.bfloat16), np.zeros(2, jnp.bfloat16)),),
                      (mlp.Layer(np.zeros((1, 3000), jnp.bfloat16), np.zeros(3000, jnp.bfloat16)),))  # fmt: skip
    found = jax.jit(vae.negative_elbo)(flat, x, np.zeros((1, 1), jnp.bfloat16))
    assert float(found[0]) == pytest.approx(3000 * np.log(2), rel=2**-8)
    params = autoregressive.NadeParams(*(np.full(shape, value, jnp.bfloat16) for shape, value in (
        ((3000, 1), 1.0), ((3000, 1), 1.0), ((3000,), 0.0), ((1,), -1000.0))))  # fmt: skip
    logits = np.asarray(jax.jit(autoregressive.nade)(params, x), float)[0]
    np.testing.assert_allclose(logits[[990, 1010]], sigmoid(np.array([-10, 10])), rtol=2**-7)
    drawn = jax.jit(functools.partial(autoregressive.sample, examples=100))(params._replace(b=params.b + 20), key=KEY)
    assert float(jnp.mean(drawn.astype(jnp.float32))) == 1


@pytest.mark.usefixtures("x64")
def test_players_losses_are_the_value_of_the_game():
    params = fill(functools.partial(gan.init, inputs=3, latent=2, hidden=(5,), dtype=jnp.float64))
    real, z = RANDOM.normal(size=(4, 3)), RANDOM.normal(size=(7, 2))
    fake = sigmoid(network(params.generator, z))
    np.testing.assert_allclose(gan.generate(params.generator, z, activation=TANH, output=SIGMOID), fake, rtol=1e-12)
    d_real, d_fake = (sigmoid(network(params.discriminator, x)) for x in (real, fake))
    value = np.mean(np.log(d_real)) + np.mean(np.log(1 - d_fake))
    discriminator_loss = jax.jit(functools.partial(gan.discriminator_loss, activation=TANH))
    found = discriminator_loss(params.discriminator, real, fake)
    np.testing.assert_allclose(found, -value, rtol=1e-12)
    smoothed = -np.mean(0.9 * np.log(d_real) + 0.1 * np.log(1 - d_real)) - np.mean(np.log(1 - d_fake))
    found = discriminator_loss(params.discriminator, real, fake, real_target=0.9)
    np.testing.assert_allclose(found, smoothed, rtol=1e-12)
    for kind, expected in (("minimax", np.mean(np.log(1 - d_fake))), ("non_saturating", -np.mean(np.log(d_fake)))):
        loss = jax.jit(functools.partial(gan.generator_loss, kind=kind, activation=TANH, output=SIGMOID))(*params, z)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_a_sure_discriminator_stops_the_minimax_generator_alone():
    # Linear players of one number: s = x − 60, so dL/db of the generator is ∂L/∂s, −σ(−60) or −1 + σ(−60).
    one = mlp.Layer(np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    params = gan.Params((one,), (one._replace(b=np.full(1, -60, np.float32)),))
    gradients = {}
    for kind in gan.GENERATOR_LOSSES:
        loss_and_gradient = jax.jit(functools.partial(gan.generator_loss_and_gradient, kind=kind))
        gradients[kind] = loss_and_gradient(params, np.zeros((1, 1), np.float32))[1][0].b[0]
    assert gradients["non_saturating"] == -1
    assert gradients["minimax"] == pytest.approx(-np.exp(-60), rel=1e-5)


def nade_logits(params, x):
    w, v, b, c = map(np.asarray, params)
    logits = np.zeros(x.shape)
    for n, image in enumerate(x):
        for d in range(len(image)):
            a = c + sum((image[j] * w[j] for j in range(d)), np.zeros_like(c))
            logits[n, d] = b[d] + v[d] @ sigmoid(a)
    return logits


def fvbn_logits(params, x):
    return np.asarray(params.b) + x @ np.triu(np.asarray(params.w), 1)


MODELS = {
    "fvbn": (functools.partial(autoregressive.init_fvbn, inputs=6, dtype=jnp.float64), fvbn_logits),
    "nade": (functools.partial(autoregressive.init_nade, inputs=6, hidden=4, dtype=jnp.float64), nade_logits),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("x64")
def test_likelihoods_are_exact_and_sum_to_one(name):
    init, logits = MODELS[name]
    params = jax.tree.map(lambda x: 3 * np.asarray(x), fill(init))
    apply, log_likelihood = jax.jit(autoregressive.apply), jax.jit(autoregressive.log_likelihood)
    np.testing.assert_allclose(apply(params, IMAGES), logits(params, IMAGES), rtol=1e-12, atol=1e-13)
    found = np.asarray(log_likelihood(params, IMAGES))
    np.testing.assert_allclose(found, log_bernoulli(logits(params, IMAGES), IMAGES), rtol=1e-12)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("x64")
def test_samples_have_the_probabilities_that_the_likelihood_says(name):
    init, logits = MODELS[name]
    params = jax.tree.map(lambda x: 2 * np.asarray(x), fill(init))
    draw = jax.jit(functools.partial(autoregressive.sample, examples=40_000))
    drawn = np.asarray(draw(params, key=jax.random.key(0)))
    assert set(np.unique(drawn)) == {0, 1}
    counts = np.bincount((drawn @ 2 ** np.arange(5, -1, -1)).astype(int), minlength=64)
    expected = 40_000 * np.exp(log_bernoulli(logits(params, IMAGES), IMAGES))
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert chi_squared < 63 + 5 * np.sqrt(2 * 63)


def test_nade_keeps_a_state_of_h_numbers_an_image():
    params = fill(functools.partial(autoregressive.init_nade, inputs=64, hidden=32))
    x = np.zeros((10, 64), np.float32)
    kept = jax.eval_shape(autoregressive.nade_fwd, params, x)[1]
    own = sum(leaf.size for leaf in jax.tree.leaves(kept)) - params.w.size - params.v.size - x.size
    assert own == 10 * 32
    assert jax.eval_shape(autoregressive.nade, params, x[0]).shape == (64,)


def pair(module, *args, **options):
    """By hand and by autodiff, of the module's loss."""
    by_hand = jax.jit(lambda params: module.loss_and_gradient(params, *args, **options))
    return by_hand, jax.jit(jax.value_and_grad(lambda params: module.loss(params, *args, **options)))


@pytest.mark.usefixtures("x64")
def test_loss_and_gradient_equal_value_and_grad():
    x, noise = RANDOM.randint(2, size=(5, 6)).astype(float), RANDOM.normal(size=(5, 2))
    cases = {
        "vae": (small_vae(2), *pair(vae, x, noise)),
        "vae(kl_weight=0.3)": (small_vae(2), *pair(vae, x, noise, kl_weight=0.3, activation=TANH)),
        **{name: (fill(init), *pair(autoregressive, x)) for name, (init, _) in MODELS.items()},
    }
    players = fill(functools.partial(gan.init, inputs=6, latent=2, hidden=(5,), dtype=jnp.float64))
    kinds = {"activation": TANH, "output": SIGMOID}

    def as_discriminator(discriminator):
        fake = gan.generate(players.generator, noise, **kinds)
        return gan.discriminator_loss(discriminator, x, fake, activation=TANH, real_target=0.9)

    cases["discriminator"] = (
        players.discriminator,
        jax.jit(lambda d: gan.discriminator_loss_and_gradient(
            players._replace(discriminator=d), x, noise, real_target=0.9, **kinds)),
        jax.jit(jax.value_and_grad(as_discriminator)),
    )  # fmt: skip
    for kind in gan.GENERATOR_LOSSES:
        cases[f"generator, {kind}"] = (
            players.generator,
            jax.jit(lambda g, kind=kind: gan.generator_loss_and_gradient(
                players._replace(generator=g), noise, kind=kind, **kinds)),
            jax.jit(jax.value_and_grad(lambda g, kind=kind: gan.generator_loss(
                g, players.discriminator, noise, kind=kind, **kinds))),
        )  # fmt: skip
    for name, (params, by_hand, by_autodiff) in cases.items():
        assert_close(by_hand(params), by_autodiff(params), TOLERANCE["float64"], f"{name}: ")
    assert relative_error(cases["vae"][1](small_vae(2)), cases["vae(kl_weight=0.3)"][1](small_vae(2))) > 1e-3


BAD = {
    "vae.init: latent is 0; expected an integer ≥ 1": lambda: vae.init(KEY, inputs=6, latent=0),
    "vae.init: hidden[0] is 0; expected an integer ≥ 1": lambda: vae.init(KEY, inputs=6, latent=2, hidden=(0,)),
    "negative_elbo: x has values from 2.0 to 2.0; expected [0, 1]": lambda: vae.negative_elbo(VAE, 2 * X, Z),
    "negative_elbo: x has shape [5, 2, 3]; expected [..., D] with D = 6 from params.encoder": lambda: vae.negative_elbo(
        VAE, X.reshape(5, 2, 3), Z
    ),
    "vae.decode: z has shape [5, 6]; expected [..., Z] with Z = 2 from params.decoder": lambda: vae.decode(VAE, X),
    "negative_elbo: kl_weight is -1; expected a number in [0, inf)": lambda: vae.negative_elbo(VAE, X, Z, kl_weight=-1),
    "negative_elbo: params.encoder has 5 outputs; expected 2 Z = 4 from params.decoder": lambda: vae.negative_elbo(
        VAE._replace(encoder=VAE.encoder[:1]), X, Z
    ),
    "negative_elbo: params.decoder has 5 outputs; expected D = 6 from x": lambda: vae.negative_elbo(
        VAE._replace(decoder=VAE.decoder[:1]), X, Z
    ),
    "vae.encode: x has values from -1.0 to -1.0; expected [0, 1]": lambda: vae.encode(VAE, -X),
    "importance_weighted_bound: x has values from 2.0": lambda: vae.importance_weighted_bound(VAE, 2 * X, Z[None]),
    "negative_elbo: noise has shape [5, 3]; expected [..., Z] with Z = 2 from params": lambda: vae.negative_elbo(
        VAE, X, jnp.ones((5, 3))
    ),
    "negative_elbo: noise has shape [4, 2]; expected [..., Z] with ... = [5] from x [5, 6]": lambda: vae.negative_elbo(
        VAE, X, Z[:4]
    ),
    "importance_weighted_bound: noise has shape [5, 2]; expected [S, ..., Z] with S ≥ 1, ... = [5] from x [5, 6]": (
        lambda: vae.importance_weighted_bound(VAE, X, Z)
    ),
    "vae.loss: x has shape [0, 6]; expected at least one example": lambda: jax.eval_shape(
        vae.loss, VAE, np.ones((0, 6), np.float32), np.ones((0, 2), np.float32)
    ),
    "vae.sample: examples is 0; expected an integer ≥ 1": lambda: vae.sample(VAE, key=KEY, examples=0),
    "gan.init: latent is 0; expected an integer ≥ 1": lambda: gan.init(KEY, inputs=6, latent=0),
    "discriminator_loss: real has shape [0, 3]; expected at least one example": lambda: gan.discriminator_loss(
        PLAYERS.discriminator, jnp.ones((0, 3)), jnp.ones((2, 3))
    ),
    "discriminator_loss: real_target is 1.5; expected a number in [0, 1]": lambda: gan.discriminator_loss(
        PLAYERS.discriminator, jnp.ones((2, 3)), jnp.ones((2, 3)), real_target=1.5
    ),
    "generator_loss: z has shape [0, 2]; expected at least one example": lambda: gan.generator_loss(
        *PLAYERS, np.ones((0, 2), np.float32)
    ),
    "generator_loss: kind is 'saturating'; expected 'non_saturating', 'minimax'": lambda: gan.generator_loss(
        *PLAYERS, Z, kind="saturating"
    ),
    "generator_loss: discriminator has outputs [5, 3]; expected [B, 1], a logit each": lambda: gan.generator_loss(
        PLAYERS.generator, fill(lambda key: mlp.init(key, (3, 3))), Z
    ),
    "autoregressive.init_nade: hidden is 0; expected an integer ≥ 1": lambda: autoregressive.init_nade(
        KEY, inputs=6, hidden=0
    ),
    "autoregressive.loss: x has the value 0.25; expected 0 or 1": lambda: autoregressive.loss_and_gradient(NADE, X / 4),
    "negative_elbo: params.decoder is empty; expected at least one layer": lambda: vae.negative_elbo(
        VAE._replace(decoder=()), X, Z
    ),
    "nade: v has shape [6, 5]; expected [D, H] with D = 6, H = 4 from": lambda: autoregressive.sample(
        NADE._replace(v=np.ones((6, 5), np.float32)), key=KEY, examples=2
    ),
    "autoregressive.log_likelihood: x has the value 0.5; expected 0 or 1": lambda: autoregressive.log_likelihood(
        NADE, 0.5 * X
    ),
    "autoregressive.loss: x has the value 2.0; expected 0 or 1": lambda: autoregressive.loss(NADE, 2 * X),
    "nade: w has shape [6, 4]; expected [D, H] with D = 5 from x [5, 5]": lambda: autoregressive.nade(NADE, X[:, :5]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        BAD[message]()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vae.negative_elbo(PLAYERS, X, Z), "params is of type gan.Params; expected vae.Params"),
        (lambda: autoregressive.apply(VAE, X), "params is of type Params; expected FvbnParams or NadeParams"),
        (
            lambda: vae.importance_weighted_bound(VAE, X, np.ones((1, 5, 2), np.float16)),
            "importance_weighted_bound: noise has dtype float16; expected float32 as in x",
        ),
        (lambda: gan.generate(PLAYERS.generator, Z, output=jnp.tanh), "expected a Rule(primal, fwd, bwd)"),
        (lambda: autoregressive.log_likelihood(NADE, jnp.ones((5, 6), int)), "x has dtype int32; expected a floating"),
    ],
)
def test_bad_types(call, message):
    with pytest.raises(TypeError) as raised:
        call()
    assert message in str(raised.value)
