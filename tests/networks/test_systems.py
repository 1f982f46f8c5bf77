"""What every system must do, whichever it is: one contract over all of `config.SYSTEMS`."""

import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from backend_probe import TINY
from conftest import PROJECT

import model
from commands.training import objective, train
from config import SYSTEMS, resolve
from model import grid_of, system_module
from salience.networks import weight_files
from utilities import preprocess

SEEDS = 5


# all of ResNet-50 takes a minute where the others take seconds; three scales are three trunks
HEAVY = {"resnet50-decoder", "multiscale"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else [])
        for name in sorted(SYSTEMS)
    ],
    scope="module",
)
def name(request):
    return request.param


@pytest.fixture
def settings(name, tmp_path):
    """Return the system's recipe, at a size and a width for tests, from random weights."""

    own = resolve({"model": name})

    def make(**changes):
        return resolve(
            {
                "model": name, **TINY[name], "dataset": "synthetic", "epochs": 1, "batch_size": 4,
                # compiling the step of all of ResNet-50 takes most of a minute
                "backbone_weights": "none", "freeze_backbone": own.backbone == "resnet50",
                "dropout": 0.0, "output": tmp_path / "run", "weights_dir": tmp_path / "weights",
                **changes,
            }
        )  # fmt: skip

    return make


def built(config):
    keras.utils.set_random_seed(config.seed)
    return system_module(config.model).build(config)


def first_batch(config, network):
    return train.batches(config, "train", grid_of(network))[0]


def test_recipe_is_a_valid_one(name):
    config = resolve({"model": name})
    assert config.rows % SYSTEMS[name].size_step == config.cols % SYSTEMS[name].size_step == 0
    assert {"loss", "optimizer", "learning_rate", "batch_size", "epochs"} <= SYSTEMS[
        name
    ].recipe.keys()
    assert config.name.startswith(name)


def test_output_is_the_grid_that_it_says(settings):
    config = settings()
    network = built(config)
    assert network.name == config.model
    assert network.input_shape == (None, config.rows, config.cols, 3)
    shape = grid_of(network).shape(config.input_shape)
    assert network.output_shape == (None, *shape, 1)
    x, y = first_batch(config, network)
    assert y.shape == (4, *shape, 2)
    assert np.asarray(network(x)).dtype == np.float32


def gradients(network, x, y, loss):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(y, network(x, training=True)))
    return tape.gradient(value, [w.value for w in network.trainable_weights])


def test_no_seed_starts_dead_and_a_gradient_reaches_every_weight(name, settings):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow here")
    # a prior of one cell only scales the map, which ML-Net's loss does not see
    size = {"rows": 160, "cols": 160} if name == "mlnet" else {}
    for seed in range(SEEDS):
        config = settings(seed=seed, freeze_backbone=False, **size)
        network = built(config)
        x, y = first_batch(config, network)
        assert np.asarray(network(x)).std(axis=(1, 2, 3)).min() > 0, seed
        found = gradients(network, x, y, objective.loss_function(config.model, config.loss))
        for weight, gradient in zip(network.trainable_weights, found, strict=True):
            assert gradient is not None, weight.path
            # ResNet-50's convolutions have biases that the normalisation after them takes off
            if not weight.path.endswith("_conv/bias"):
                assert np.abs(gradient).max() > 0, (seed, weight.path)


def test_few_steps_lower_the_loss(settings):
    config = settings(optimizer="adam", learning_rate=1e-3, learning_rate_end=None, decay=0.0)
    network = built(config)
    objective.set_up(network, config, steps_per_epoch=8)
    x, y = first_batch(config, network)
    losses = [network.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(8)]
    assert losses[-1] < losses[0], losses


def test_trains_by_its_recipe_and_its_weights_predict_as_they_were_saved(settings, picture):
    config = settings()
    run = train.train(config, say=lambda line: None)
    path = run.path("best.weights.h5")
    assert np.isfinite(list(run.history[0].values())).all()
    image = picture()
    loaded = model.load_model(path)
    saliency_map = model.predict(loaded, image)
    assert saliency_map.shape == image.shape[:2]
    assert (saliency_map.min() >= 0, saliency_map.max()) == (True, 1)
    again = built(config)
    weight_files.load(again, path)
    x = preprocess(image, config.input_shape)[0][None]
    np.testing.assert_array_equal(loaded.predict_on_batch(x), again.predict_on_batch(x))


@pytest.fixture(scope="module")
def outputs_on(tmp_path_factory):
    """Return a function that gives the outputs of `backend_probe.py` on a backend, run once."""
    found = {}

    def run(backend):
        if backend not in found:
            path = tmp_path_factory.mktemp("backends") / f"{backend}.npz"
            subprocess.run(
                [sys.executable, PROJECT / "tests/helpers/backend_probe.py", path],
                env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(PROJECT)},
                check=True,
                timeout=900,
            )
            found[backend] = dict(np.load(path))
        return found[backend]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backends_agree(backend, outputs_on):
    """Equal weights give equal maps, losses and steps on Keras' three backends (1e-4)."""
    if find_spec(backend) is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip(f"optional: {backend} is not installed (requirements/backends.txt)")
    expected, found = outputs_on("tensorflow"), outputs_on(backend)
    assert {f"{name} prediction" for name in SYSTEMS} < found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
