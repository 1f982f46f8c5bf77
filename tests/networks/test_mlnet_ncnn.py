"""ML-Net as ncnn's, built from a weights file, gives Keras' maps."""

import numpy as np
import pytest

from commands.prediction.engines import open_ncnn
from config import Config
from model import build
from salience.networks import mlnet_ncnn, weight_files
from salience.system.errors import UserError


@pytest.mark.parametrize(
    ("backbone", "theano"), [("vgg16", False), pytest.param("vgg19", True, marks=pytest.mark.slow)]
)
def test_maps_are_those_of_keras(tmp_path, picture, backbone, theano):
    settings = Config(rows=80, cols=160, width=0.05, backbone=backbone, theano_pooling=theano)
    model, rng = build(settings), np.random.default_rng(0)
    prior = model.get_layer("prior").prior
    prior.assign(rng.normal(size=prior.shape))
    for layer in model.layers:
        if "conv" in layer.name:
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    weights = tmp_path / "w.weights.h5"
    weight_files.save(model, weights, {"model": "mlnet"})
    mlnet_ncnn.write(weights, settings, tmp_path / "n.param")
    batch = np.stack([picture(80, 160), rng.integers(0, 256, (80, 160, 3), dtype=np.uint8)])
    wanted = np.asarray(model.predict_on_batch(batch))
    assert wanted.std() > 0
    found = open_ncnn(tmp_path / "n.param")(batch)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * wanted.max())


def test_weights_of_another_network_are_refused_in_a_line(tmp_path):
    settings = Config(rows=48, cols=64, width=0.05)
    weights = {"block1_conv1": [np.zeros((3, 3, 3, 7), np.float32)]}
    with pytest.raises(UserError, match=r"w does not fit mlnet: .* has \(3, 3, 3, 7"):
        mlnet_ncnn.network_of(weights, settings, "w")
