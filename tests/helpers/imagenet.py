"""Files of ImageNet weights, as `keras.applications` has them, for tests."""

import h5py
import numpy as np

from salience.networks import backbone


def write_weights(path, shapes, name="{layer}/{number}:0", step=0.0):
    """Write a file in the layout of keras.applications, filled with each layer's number.

    With a step, each weight of a layer differs from the one before by it.
    """
    with h5py.File(path, "w") as file:
        # layers without weights are listed, too
        file.attrs["layer_names"] = [layer.encode() for layer in ["input_1", *shapes]]
        file.create_group("input_1").attrs["weight_names"] = []
        for count, (layer, kinds) in enumerate(shapes.items(), 1):
            group = file.create_group(layer)
            names = [name.format(layer=layer, number=n) for n in range(len(kinds))]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for i, (n, shape) in enumerate(zip(names, kinds, strict=True)):
                group[n] = np.full(shape, count + i * step, "float32")


def shapes_of(model, name="vgg16"):
    trunk = backbone.weighted_layers(model, name)
    return {layer.name: [tuple(w.shape) for w in layer.weights] for layer in trunk}
