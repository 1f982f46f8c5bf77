"""Compute a few outputs from fixed weights on the backend of KERAS_BACKEND; save them as .npz."""

import sys

import keras
import numpy as np

import losses
import model
from config import Config
from eltwise_product import EltWiseProduct


def outputs() -> dict[str, np.ndarray]:
    """Return the network's prediction, the prior's output and each loss."""
    rng = np.random.default_rng(0)
    network = model.build(Config(rows=48, cols=64, width=0.1))
    network.set_weights([rng.normal(0, 0.1, w.shape) for w in network.weights])
    network.get_layer("head_conv2").set_weights([np.ones((1, 1, 6, 1)) / 6, np.zeros(1)])
    prediction = network.predict(rng.uniform(0, 255, (2, 48, 64, 3)), verbose=0)
    assert prediction.max() > 0
    results = {"prediction": prediction / prediction.max()}

    layer = EltWiseProduct()
    layer.build((None, 67, 89, 1))
    layer.prior.assign(rng.normal(size=(6, 8)))
    results["prior"] = keras.ops.convert_to_numpy(layer(rng.normal(size=(2, 67, 89, 1))))

    truth = rng.random((2, 6, 8, 2)).astype("float32")
    for name, loss in {**losses.SHARED, "mlnet": model.loss}.items():
        value = loss(truth, results["prediction"])
        results[name] = keras.ops.convert_to_numpy(value)
    return results


if __name__ == "__main__":
    np.savez(sys.argv[1], **outputs())
