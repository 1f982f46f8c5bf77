import keras
import numpy as np
import pytest
from keras import ops

from eltwise_product import EltWiseProduct


def test_new_prior_is_the_identity(rng):
    x = rng.normal(size=(2, 60, 80, 1)).astype("float32")
    np.testing.assert_array_equal(EltWiseProduct()(x), x)


@pytest.mark.parametrize(
    ("shape", "cells"),
    [
        ((60, 80), (6, 8)),
        ((30, 40), (3, 4)),
        ((67, 89), (6, 8)),
        ((5, 23), (1, 2)),
        ((1, 1), (1, 1)),
    ],
)
def test_prior_has_a_tenth_of_the_map_and_at_least_one_cell(shape, cells):
    layer = EltWiseProduct()
    layer.build((None, *shape, 1))
    assert tuple(layer.prior.shape) == cells
    assert layer(np.ones((1, *shape, 3), "float32")).shape == (1, *shape, 3)


def test_prior_is_up_sampled_bilinearly_between_cell_centres():
    layer = EltWiseProduct(cell=2)
    layer.build((None, 2, 4, 1))
    layer.prior.assign([[0.0, 1.0]])
    # centres of the two cells lie at 1 and 3 of 4 pixels, so pixels sample at 0, 1/4, 3/4 and 1
    expected = [[1.0, 1.25, 1.75, 2.0]] * 2
    np.testing.assert_allclose(layer(np.ones((1, 2, 4, 1)))[0, ..., 0], expected, atol=1e-6)


def test_up_sampling_equals_opencv(rng):
    import cv2

    layer = EltWiseProduct()
    layer.build((None, 67, 89, 1))
    weights = rng.normal(size=(6, 8)).astype("float32")
    layer.prior.assign(weights)
    expected = cv2.resize(1 + weights, (89, 67), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(layer(np.ones((1, 67, 89, 1)))[0, ..., 0], expected, atol=1e-5)


def test_regulariser_is_the_mean_square_of_the_prior(rng):
    layer = EltWiseProduct()
    layer.build((None, 60, 80, 1))
    weights = rng.normal(size=(6, 8)).astype("float32")
    layer.prior.assign(weights)
    assert float(layer.losses[0]) == pytest.approx(float(np.mean(weights**2)), rel=1e-5)


def test_layer_survives_saving_with_its_cell_and_weights(tmp_path, rng):
    inputs = keras.Input((9, 14, 1))
    model = keras.Model(inputs, EltWiseProduct(cell=4)(inputs))
    model.layers[-1].prior.assign(rng.normal(size=(2, 3)))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    x = rng.normal(size=(1, 9, 14, 1)).astype("float32")
    assert again.layers[-1].cell == 4
    np.testing.assert_array_equal(model(x), again(x))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_prior_stays_float32_under_mixed_precision(policy, rng):
    layer = EltWiseProduct(dtype=policy)
    layer.build((None, 20, 30, 1))
    # 1 + 1/1024 is lost in bfloat16: it must be kept in the product with a large input
    layer.prior.assign(np.full((2, 3), 1 / 512, "float32"))
    out = layer(np.full((1, 20, 30, 1), 512, "float32"))
    assert layer.prior.dtype == "float32"
    assert out.dtype == layer.compute_dtype
    exact = np.full((1, 20, 30, 1), 513, "float32")
    expected = ops.convert_to_numpy(ops.cast(ops.cast(exact, layer.compute_dtype), "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(out, "float32")), expected)


def test_unknown_size_is_refused_with_what_was_received():
    with pytest.raises(ValueError, match=r"known rows and columns, received \(None, None, 8, 1\)"):
        EltWiseProduct().build((None, None, 8, 1))
