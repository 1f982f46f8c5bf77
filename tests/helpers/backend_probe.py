"""Compute a few outputs from fixed weights on the backend of KERAS_BACKEND; save them as .npz."""

import sys

import keras
import numpy as np

import model
from commands.training.objective import LinearByEpoch, ScheduledSGD
from config import SYSTEMS, resolve
from eltwise_product import EltWiseProduct
from model import system_module
from salience.networks import backbone, losses, multiscale
from salience.networks.salnet import LocalResponseNormalization

# by system: a size and a width at which it is a matter of seconds
TINY = {
    "mlnet": {"rows": 48, "cols": 64, "width": 0.1},
    "salnet-deep": {"rows": 48, "cols": 64, "width": 0.1},
    "salnet-half": {"rows": 48, "cols": 64, "width": 0.2},
    "salnet-shallow": {"rows": 48, "cols": 64, "width": 0.1},
    "resnet50-decoder": {"rows": 64, "cols": 32, "width": 0.1},
    # ResNet-50 is the decoder's
    "linear-probe": {"rows": 48, "cols": 64, "width": 0.1, "backbone": "vgg16"},
    "multiscale": {"rows": 64, "cols": 96, "width": 0.1, "readout": (8, 4)},
}
MOMENTUM = LinearByEpoch(0.9, 0.5, epochs=2, steps_per_epoch=3)
RATE = LinearByEpoch(0.1, 0.02, epochs=2, steps_per_epoch=3)


def outputs() -> dict[str, np.ndarray]:
    """Return each network's prediction, and what our own layers, losses and optimiser give."""
    results = {f"{name} prediction": prediction(name) for name in SYSTEMS}
    results["rows"] = by_rows()
    rng = np.random.default_rng(0)

    layer = EltWiseProduct()
    layer.build((None, 67, 89, 1))
    layer.prior.assign(rng.normal(size=(6, 8)))
    results["prior"] = as_array(layer(rng.normal(size=(2, 67, 89, 1))))
    results["norm"] = as_array(LocalResponseNormalization()(rng.normal(0, 100, (2, 3, 4, 9))))

    for name in ("mobilenet_v2", "efficientnet_v2_b0", "convnext_tiny", "dinov2_small"):
        results[name] = features(name, rng)

    truth = rng.random((2, 6, 8, 2)).astype("float32")
    for name, loss in {**losses.SHARED_LOSSES, "mlnet": model.loss}.items():
        results[name] = as_array(loss(truth, results["mlnet prediction"]))
    pair = rng.random((2, 20, 30, 2)).astype("float32"), rng.random((2, 20, 30, 1))
    results["ssim"] = as_array(losses.ssim(*pair))
    for nesterov in (False, True):
        results[f"velocity, weights {nesterov}"] = trained_by_schedule(nesterov)
    return results


def as_array(tensor) -> np.ndarray:
    """Return a tensor of any backend."""
    return keras.ops.convert_to_numpy(tensor)


def prediction(name: str) -> np.ndarray:
    """Return what a network with drawn weights predicts, with a maximum of 1."""
    rng = np.random.default_rng(0)
    config = resolve({"model": name, **TINY[name]})
    network = system_module(name).build(config)
    network.set_weights([drawn(w.path, tuple(w.shape), rng) for w in network.weights])
    if name == "mlnet":  # a draw with signs may give an all-zero map
        network.get_layer("head_conv2").set_weights([np.ones((1, 1, 6, 1)) / 6, np.zeros(1)])
    x = rng.uniform(0, 255, (2, config.rows, config.cols, 3)).astype("float32")
    if name == "resnet50-decoder":  # drawn so, its logits reach 1e4: a sigmoid would hide them
        last = network.get_layer("saliency")
        kernel, bias = last.get_weights()
        last.set_weights([kernel / 1e4, bias])
    maps = network.predict(x, verbose=0)
    assert maps.std() > 0.01 * np.abs(maps).max()
    return maps / np.abs(maps).max()


def by_rows() -> np.ndarray:
    """Return the densities of one picture by several rows of numbers, as `adapt` fits them."""
    rng = np.random.default_rng(0)
    network = multiscale.build(resolve({"model": "multiscale", **TINY["multiscale"]}))
    network.set_weights([drawn(w.path, tuple(w.shape), rng) for w in network.weights])
    rows = multiscale.ReadoutRows(network)
    features = list(rows.features(rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)))
    places = rows.mean + np.vstack([np.zeros((1, 12)), np.eye(12)])
    return np.stack(list(rows.densities(features, places)))


def drawn(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return weights that neither fade nor explode: kernels as He et al. draw them."""
    if path.endswith(("gamma", "variance")):
        return rng.uniform(0.5, 1.5, shape)
    scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1
    return rng.normal(0, scale, shape)


def slope_data() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs [6, 2] and targets [6, 1] of a linear fit, for three steps of two."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(6, 2)).astype("float32"), rng.normal(size=(6, 1)).astype("float32")


def trained_by_schedule(nesterov: bool) -> np.ndarray:
    """Return velocity and weights of a linear fit after two epochs of scheduled SGD, [2, 2, 1]."""
    x, y = slope_data()
    fit = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    fit.set_weights([np.ones((2, 1))])
    fit.compile(ScheduledSGD(RATE, MOMENTUM, nesterov=nesterov), "mse")
    fit.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    return np.stack([as_array(fit.optimizer.momentums[0]), fit.get_weights()[0]])


def features(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return a thin network's features at one eighth, over their maximum."""
    inputs = keras.Input((64, 96, 3))
    ends = backbone.features_at_eighth(name, inputs, width=0.1)
    network = keras.Model(inputs, keras.layers.Concatenate()(ends))
    # variances of batch normalisation are positive
    network.set_weights([np.abs(rng.normal(0, 0.1, w.shape)) for w in network.weights])
    values = network.predict(rng.uniform(0, 255, (1, 64, 96, 3)), verbose=0)
    return values / np.abs(values).max(axis=(1, 2), keepdims=True).clip(1e-6)


def zeros(self, shape, dtype=None, **kwargs) -> np.ndarray:
    """Return the initial value of a weight, in place of one that is drawn."""
    return np.zeros(shape, dtype or "float32")


if __name__ == "__main__":
    # All weights are set later. JAX would compile a program for each shape that it draws.
    keras.initializers.VarianceScaling.__call__ = zeros
    np.savez(sys.argv[1], **outputs())
