import shutil

import cv2
import keras
import numpy as np
import pytest
from conftest import VGG16, needs
from PIL import Image

import model
from commands.training import objective, train
from config import Config, trained_config
from model import grid_of
from salience.networks import backbone, weight_files
from salience.system.errors import UserError

THIN = {"width": 0.05, "rows": 48, "cols": 64, "backbone_weights": "none"}


@pytest.fixture(scope="module")
def full():
    return model.build(Config())


def test_full_size_has_the_papers_shapes(full):
    assert full.input_shape == (None, 480, 640, 3)
    assert full.output_shape == (None, 60, 80, 1)
    shapes = {
        name: tuple(full.get_layer(name).output.shape[1:])
        for name in ("block3_pool", "block4_pool", "block5_conv3", "features", "head_conv1")
    }
    assert shapes == {
        "block3_pool": (60, 80, 256),
        "block4_pool": (60, 80, 512),
        "block5_conv3": (60, 80, 512),
        "features": (60, 80, 1280),
        "head_conv1": (60, 80, 64),
    }


def test_full_size_has_the_papers_number_of_weights(full):
    count = {layer.name: layer.count_params() for layer in full.layers}
    trunk = backbone.weighted_layers(full, "vgg16")
    assert sum(layer.count_params() for layer in trunk) == 14_714_688
    assert count["head_conv1"] == 737_344
    assert count["head_conv2"] == 65
    assert count["prior"] == 48
    assert full.count_params() == 15_452_145


def test_trunk_carries_vgg16s_own_names(full):
    theirs = keras.applications.VGG16(include_top=False, weights=None)
    names = [la.name for la in theirs.layers if la.name.startswith("block")][:-1]
    assert [la.name for la in full.layers if la.name.startswith("block")] == names


@pytest.mark.parametrize("size", [(8, 8), (240, 320), (480, 640), (72, 200)])
def test_output_is_an_eighth_at_any_size_that_divides_by_eight(size):
    built = model.build(Config(**{**THIN, "rows": size[0], "cols": size[1]}))
    assert built.output_shape == (None, size[0] // 8, size[1] // 8, 1)


def test_frozen_trains_the_head_and_the_prior_only():
    frozen, tuned = (model.build(Config(**THIN, freeze_backbone=f)) for f in (True, False))
    assert {w.path.split("/")[0] for w in frozen.trainable_weights} == {
        "head_conv1",
        "head_conv2",
        "prior",
    }
    assert len(tuned.trainable_weights) == len(tuned.weights) == 2 * 13 + 5


def test_fixed_blocks_leave_the_first_ones_as_they_are():
    tuned = model.build(Config(**THIN, freeze_backbone=False, fixed_blocks=3))
    learning = {w.path.split("_")[0] for w in tuned.trainable_weights}
    assert learning == {"block4", "block5", "head", "prior/prior"}
    assert len(tuned.trainable_weights) == 2 * 6 + 5


def gradients(network, x, y, loss):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(y, network(x, training=False)))
    return tape.gradient(value, [w.value for w in network.trainable_weights])


@pytest.mark.parametrize("loss", ["mlnet", "kld", "cc", "nss", "mse", "bce"])
def test_a_gradient_reaches_every_trainable_weight(loss, tiny, rng):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow here")
    config = tiny(loss=loss, freeze_backbone=False, rows=160, cols=160)
    network = model.build(config)
    x, y = train.batches(config, "train", grid_of(network))[0]
    for weight, gradient in zip(
        network.trainable_weights,
        gradients(network, x, y, objective.loss_function(config.model, config.loss)),
        strict=True,
    ):
        assert gradient is not None, weight.path
        assert np.abs(gradient).max() > 0, weight.path


SEEDS = [range(4), pytest.param(range(4, 20), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", SEEDS)
def test_no_seed_starts_dead(rng, seeds):
    """Every map of 20 seeds is alive, and so is the gradient of the head through each."""
    # four cells of prior: a single one only scales the map, which the loss does not see
    x = rng.uniform(0, 255, (2, 160, 160, 3)).astype("float32")
    y = rng.random((2, 20, 20, 2)).astype("float32")
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        network = model.build(Config(**{**THIN, "seed": seed, "rows": 160, "cols": 160}))
        maps = np.asarray(network(x))
        assert (maps.max(axis=(1, 2, 3)) > 0).all(), seed
        if keras.backend.backend() == "tensorflow":
            for gradient in gradients(network, x, y, model.loss):
                assert np.abs(gradient).max() > 0, seed


@pytest.mark.slow
@needs(VGG16)
@pytest.mark.parametrize("seeds", SEEDS)
def test_no_seed_starts_dead_on_imagenet_features(picture, seeds):
    """Raw VGG16 activations reach the thousands; the maps of 20 seeds live all the same."""
    from utilities import preprocess

    x = np.stack([preprocess(picture(96, 128), (96, 128))[0] for _ in range(2)])
    network = model.build(Config(rows=96, cols=128))
    backbone.load_weights(network, "vgg16", VGG16)
    features = keras.Model(network.input, network.get_layer("features").output)(x)
    for seed in seeds:
        head = model.build(Config(rows=96, cols=128, seed=seed))
        z = features
        for name in ("head_conv1", "head_conv2", "prior", "saliency"):
            z = head.get_layer(name)(z)
        alive = np.asarray(z)[..., 0] > 0
        assert alive.mean(axis=(1, 2)).min() > 0.5, seed


@pytest.mark.slow
def test_few_steps_lower_the_loss(tiny):
    for loss, optimizer in (("mlnet", "sgd"), ("kld", "adam")):
        config = tiny(loss=loss, optimizer=optimizer, dropout=0.0)
        keras.utils.set_random_seed(0)
        network = model.build(config)
        objective.set_up(network, config, steps_per_epoch=12)
        x, y = train.batches(config, "train", grid_of(network))[0]
        losses = [network.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(12)]
        assert losses[-1] < losses[0], (loss, losses)


def test_saved_weights_predict_the_same(trained, picture):
    image = picture()
    first, second = (model.predict(model.load_model(trained), image) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == image.shape[:2]
    assert first.dtype == np.float32
    assert first.max() == 1


def test_weights_kept_in_half_take_half_and_predict_nearly_the_same(trained, picture, tmp_path):
    whole, path = model.load_model(trained), tmp_path / "half.weights.h5"
    weight_files.save(whole, path, weight_files.read_card(trained), half=True)
    assert path.stat().st_size < 0.7 * trained.stat().st_size
    half = model.load_model(path)
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    image = picture(60, 80)
    np.testing.assert_allclose(model.predict(half, image), model.predict(whole, image), atol=0.01)


def test_a_picture_in_memory_is_predicted_as_its_file(trained, picture, tmp_path):
    network, image = model.load_model(trained), picture()
    cv2.imwrite(str(tmp_path / "a.png"), image)
    expected = model.predict(network, tmp_path / "a.png")
    rgb = image[..., ::-1]
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    for same in (
        model.predict(network, str(tmp_path / "a.png")),
        model.predict(network, image),
        model.predict(network, rgb, rgb=True),
        model.predict(network, Image.fromarray(rgb)),
        model.predict(network, np.dstack([rgb, opaque]), rgb=True),
        model.predict(network, rgb / 255, rgb=True),
    ):
        np.testing.assert_array_equal(same, expected)
    assert np.abs(model.predict(network, rgb) - expected).max() > 0  # the order matters


def test_without_a_name_the_best_weights_of_the_folder_are_loaded(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "HERE", tmp_path / "program")
    with pytest.raises(UserError, match=r"No trained weights in .*program"):
        model.load_model()
    for folder in (tmp_path / "program" / "weights", tmp_path / "weights"):  # its own win
        folder.mkdir(parents=True)
        shutil.copy(trained, folder)
        assert model.best_weights().resolve() == folder / trained.name
    np.testing.assert_array_equal(
        model.load_model().get_weights()[0], model.load_model(str(trained)).get_weights()[0]
    )


def test_weights_of_another_model_are_refused_with_the_shapes(trained, tmp_path):
    other = model.build(Config(**{**THIN, "width": 0.1}))
    before = [w.numpy().copy() for w in other.weights]
    with pytest.raises(UserError, match="does not fit mlnet"):
        weight_files.load(other, trained)
    for weight, old in zip(other.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_weights_open_with_keras_own_loader(trained):
    """The file is Keras' own format: a notebook needs nothing of ours to read it."""
    network = model.build(trained_config(trained))
    network.load_weights(trained)
    np.testing.assert_array_equal(
        network.get_weights()[0], model.load_model(trained).get_weights()[0]
    )
