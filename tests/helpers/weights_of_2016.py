"""Weights of ML-Net as the code of 2016 wrote them, for tests."""

import h5py
import numpy as np

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def theano_weights(rng, width, prior):
    """Return ML-Net's kernels [out, in, rows, columns] and biases, then the prior."""
    layers, depth, ends = [], 3, []
    for block, (channels, count) in enumerate(BLOCKS):
        channels = max(1, round(channels * width))
        for _ in range(count):
            layers.append(drawn(rng, channels, depth, 3))
            depth = channels
        ends.append(channels if block >= 2 else 0)
    head = max(1, round(64 * width))
    layers += [drawn(rng, head, sum(ends), 3), drawn(rng, 1, head, 1, positive=True)]
    return layers, rng.normal(0, 0.3, prior).astype(np.float32)


def drawn(rng, out, depth, side, positive=False):
    kernel = rng.normal(0, np.sqrt(2 / (depth * side**2)), (out, depth, side, side))
    if positive:
        kernel = np.abs(kernel)
    return kernel.astype(np.float32), rng.normal(0, 0.1, out).astype(np.float32)


def write_2016(path, layers, prior, under=None, prior_name="param_0"):
    """Write a file in the layout of Keras 1.1, whose names are automatic."""
    with h5py.File(path, "w") as file:
        root = file.create_group(under) if under else file
        names = ["input_1"]
        root.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for number, (kernel, bias) in enumerate(layers, 1):
            name = f"convolution2d_{number}"
            names += [name, f"maxpooling2d_{number}"]
            group = root.create_group(name)
            group[f"{name}_W"], group[f"{name}_b"] = kernel, bias
            group.attrs["weight_names"] = [f"{name}_W".encode(), f"{name}_b".encode()]
            root.create_group(names[-1]).attrs["weight_names"] = np.array([], "S1")
        group = root.create_group("eltwiseproduct_1")
        group[prior_name] = prior
        group.attrs["weight_names"] = [prior_name.encode()]
        root.attrs["layer_names"] = [n.encode() for n in [*names, "eltwiseproduct_1"]]
