import numpy as np
import pytest
from keras import ops
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

import model
from config import LOSSES, parse_loss
from salience.measures.metrics import cc, kld, nss
from salience.networks import losses
from salience.system.errors import UserError

TABLE = {**losses.SHARED_LOSSES, "mlnet": model.loss}


@pytest.fixture
def maps(rng):
    density = rng.random((3, 6, 8)).astype("float32")
    density /= density.max(axis=(1, 2), keepdims=True)
    counts = rng.integers(0, 3, (3, 6, 8)).astype("float32")
    prediction = (rng.random((3, 6, 8, 1)) * 50).astype("float32")
    return np.stack([density, counts], axis=-1), prediction


def points(counts):
    rows, cols = np.nonzero(counts)
    return np.repeat(np.stack([cols, rows], 1), counts[rows, cols].astype(int), axis=0)


def test_the_flag_offers_exactly_the_losses_there_are():
    assert set(LOSSES) == set(TABLE)


def test_kld_cc_and_nss_equal_the_metrics(maps):
    y, p = maps
    values = {name: np.asarray(TABLE[name](y, p)) for name in ("kld", "cc", "nss")}
    for i in range(3):
        saliency, density = p[i, ..., 0], y[i, ..., 0]
        assert values["kld"][i] == pytest.approx(kld(saliency, density), abs=1e-4)
        assert values["cc"][i] == pytest.approx(1 - cc(saliency, density), abs=1e-5)
        assert values["nss"][i] == pytest.approx(-nss(saliency, points(y[i, ..., 1])), abs=1e-5)


def test_mse_and_bce_by_hand():
    y = np.array([[[[1.0, 0.0], [0.5, 0.0]]]], "float32")
    p = np.array([[[[0.5], [0.5]]]], "float32")
    assert float(losses.mse(y, p)[0]) == pytest.approx(0.125)
    assert float(losses.bce(y, p)[0]) == pytest.approx(np.log(2))


def test_ml_nets_loss_by_hand():
    y = np.array([[[[1.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.1, 0.0]]]], "float32")
    p = np.array([[[[2.0], [4.0]], [[1.0], [0.0]]]], "float32")
    # over its maximum 4 the prediction is 0.5, 1, 0.25, 0
    by_hand = (0.25 / 0.1 + 0.25 / 0.6 + 0.0625 / 1.1 + 0.01 / 1.0) / 4
    assert float(model.loss(y, p)[0]) == pytest.approx(by_hand, rel=1e-5)


def test_ml_nets_maximum_is_each_pictures_own(maps):
    y, p = maps
    p[1] *= 1000
    together = np.asarray(model.loss(y, p))
    alone = [float(model.loss(y[i : i + 1], p[i : i + 1])[0]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(TABLE))
@pytest.mark.parametrize("zero", ["prediction", "map", "both"])
def test_no_loss_or_gradient_is_nan_for_zero_maps(name, zero, maps):
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow here")
    import tensorflow as tf

    y, p = maps
    y = np.zeros_like(y) if zero in ("map", "both") else y
    p = tf.Variable(np.zeros_like(p) if zero in ("prediction", "both") else p)
    loss = losses.combine([(1.0, name)], {"mlnet": model.loss}, model.to_unit_range)
    with tf.GradientTape() as tape:
        value = loss(y, p)
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, p)).all()


def test_weighted_sum_adds_its_terms(maps):
    y, p = maps
    total = losses.combine(parse_loss("kld+0.5*nss"), {})(y, p)
    expected = ops.add(losses.kld(y, p), 0.5 * losses.nss(y, p))
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_only_losses_of_unit_range_see_the_scaled_map(maps):
    y, p = maps
    loss = losses.combine(parse_loss("mse+kld"), {}, model.to_unit_range)
    expected = losses.mse(y, model.to_unit_range(p)) + losses.kld(y, p)
    np.testing.assert_allclose(loss(y, p), expected, rtol=1e-6)


def test_zero_maps_counts_the_all_zero_ones():
    p = np.zeros((4, 2, 2, 1), "float32")
    p[1, 0, 1] = 3
    np.testing.assert_array_equal(losses.zero_maps(None, p), [1, 0, 1, 1])


@pytest.mark.parametrize("shape", [(11, 11), (40, 57)])
def test_ssim_is_scikit_images(shape, rng):
    """Of maps of every kind: noise, smooth, bright and flat, nearly equal, equal."""
    noise, blurred = rng.random(shape), gaussian_filter(rng.random(shape), 3)
    flat, near = np.full(shape, 0.97), np.clip(noise + rng.normal(0, 0.01, shape), 0, 1)
    pairs = [(noise, blurred), (flat, blurred), (noise, near), (noise, noise), (flat, 0 * flat)]
    y = np.stack([np.stack([b, 0 * b], -1) for _, b in pairs]).astype("float32")
    p = np.stack([a[..., None] for a, _ in pairs]).astype("float32")
    expected = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
        for a, b in pairs
    ]
    np.testing.assert_allclose(np.asarray(losses.ssim(y, p)), expected, atol=1e-5)
    assert expected[3] == 1 > expected[2] > expected[0]


@pytest.mark.parametrize("text", ["", "kld+", "0*kld", "2*", "kld*0.5", "kld-nss", "-1*kld"])
def test_ill_formed_sum_is_refused(text):
    with pytest.raises(UserError, match="NAME or WEIGHT"):
        parse_loss(text)


def test_unknown_loss_offers_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'kld'"):
        parse_loss("nss+kdl")
