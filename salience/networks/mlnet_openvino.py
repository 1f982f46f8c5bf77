"""ML-Net as an OpenVINO network, built from its weights file without Keras or a backend.

`test` needs no more than OpenVINO for such weights, and starts in a second or two. The graph is
that of `model.build` on a VGG; the tests hold its maps against Keras'. Other networks are exported
by Keras (`export`).
"""

import json
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from salience.data import hdf5
from salience.networks.backbone_table import CAFFE_MEAN_BGR, VGG_BLOCKS, VGG_CHANNELS
from salience.pictures.letterbox import linear_sampling, prior_places
from salience.system import quiet
from salience.system.errors import UserError
from salience.system.files import file_digest, write_json

STRIDE = 8  # pixels of the input in a cell of the map


class Settings(Protocol):
    """The settings of ML-Net that its graph depends on; `config.Config` has them."""

    rows: int
    cols: int
    width: float
    backbone: str
    theano_pooling: bool


def write(weights: Path, settings: Settings, path: Path) -> None:
    """Write the network of a weights file as .xml and .bin, with a card beside it.

    Args:
        weights: weights file of ML-Net.
        settings: its settings; the backbone is a VGG.
        path: the .xml file.

    Raises:
        UserError: the weights cannot be read or do not fit the network.
    """
    openvino = quiet.import_openvino()
    network = network_of(read(weights), settings, str(weights))
    rows, cols = settings.rows, settings.cols
    card: dict[str, Any] = {
        "format": "openvino",
        "input": {"rows": rows, "cols": cols},
        "output": {"stride": STRIDE, "crop": 0, "blur": 0.0},
    }
    network.set_rt_info(json.dumps(card), "saliency")
    openvino.save_model(network, path, compress_to_fp16=False)
    files = {one.name: file_digest(one) for one in (path, path.with_suffix(".bin"))}
    write_json(path.with_name(f"{path.name}.json"), {**card, "files": files})


def read(weights: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Return the weights of each layer by its name, as Keras 3 has written them.

    Raises:
        UserError: the file is damaged, or has weights that are not finite.
    """
    found: dict[str, list[NDArray[np.float32]]] = {}
    try:
        with hdf5.open_checked(weights) as file:
            layers = hdf5.get_child(file, "layers")
            for group in layers.keys() if isinstance(layers, h5py.Group) else ():
                values = hdf5.get_child(layers, f"{group}/vars")
                if not isinstance(values, h5py.Group):
                    continue
                name = str(hdf5.read_attribute(values, "name") or group)
                found[name] = [
                    hdf5.read_numbers(hdf5.get_child(values, key), f"{weights}: {name}").astype(
                        np.float32
                    )
                    for key in sorted(values.keys(), key=int)
                ]
    except hdf5.DAMAGED as error:
        raise UserError(f"{weights} cannot be read as weights of ML-Net: {error}") from error
    for name, values in found.items():
        if not all(np.isfinite(value).all() for value in values):
            raise UserError(f"{weights} holds weights that are infinite or NaN ({name}).")
    return found


def shapes_of(settings: Settings) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of the weights of each layer, as `model.build` has them."""
    shapes, before, taps = {}, 3, 0
    for block, count in enumerate(VGG_BLOCKS[settings.backbone], 1):
        channels = max(1, round(VGG_CHANNELS[block - 1] * settings.width))
        for number in range(1, count + 1):
            shapes[f"block{block}_conv{number}"] = [(3, 3, before, channels), (channels,)]
            before = channels
        taps += channels if block >= 3 else 0
    head = max(1, round(64 * settings.width))
    shapes["head_conv1"] = [(3, 3, taps, head), (head,)]
    shapes["head_conv2"] = [(1, 1, head, 1), (1,)]
    cells = (max(1, length // STRIDE // 10) for length in (settings.rows, settings.cols))
    return {**shapes, "prior": [tuple(cells)]}


def check_shapes(weights: dict[str, list[NDArray]], settings: Settings, where: str) -> None:
    """Check that the weights of a file are those of the settings' network, and no others.

    Raises:
        UserError: a layer is missing, unknown, or of another shape.
    """
    expected = shapes_of(settings)
    found = {
        name: [value.shape for value in values]
        for name, values in weights.items()
        if values and name != "dropout"  # the state of its random numbers
    }
    for name in expected | found:
        if found.get(name) != expected.get(name):
            there, wanted = (
                " and ".join(map(str, shapes.get(name, []))) or "nothing"
                for shapes in (found, expected)
            )
            raise UserError(
                f"{where} does not fit mlnet: its layer {name} has {there}, not {wanted}."
            )


def network_of(weights: dict[str, list[NDArray]], settings: Settings, where: str) -> Any:
    """Return the network as an OpenVINO model; input [b, rows, cols, 3], BGR, 0 to 255.

    Args:
        weights: from `read`.
        settings: settings of the network.
        where: name of the weights file, for errors.

    Raises:
        UserError: the weights do not fit the settings.
    """
    check_shapes(weights, settings, where)
    openvino = quiet.import_openvino()
    ops = openvino.opset13
    rows, cols = settings.rows, settings.cols

    def conv(x: Any, name: str) -> Any:
        """Return a convolution with zero padding and ReLU, as Keras' "same"."""
        kernel, bias = weights[name]  # (rows, columns, in, out), (out,)
        edge = kernel.shape[0] // 2
        y = ops.convolution(
            x, ops.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))),
            [1, 1], [edge, edge], [edge, edge], [1, 1],
        )  # fmt: skip
        return ops.relu(ops.add(y, ops.constant(bias[None, :, None, None])))

    def pool(x: Any, stride: int) -> Any:
        if settings.theano_pooling:  # windows begin a row and a column earlier; see `backbone.vgg`
            return ops.max_pool(x, [stride] * 2, [1, 1], [1, 1], [0, 0], [2, 2], "floor").output(0)
        # Keras' "same": padding at the end only
        how = {"auto_pad": "same_upper"}
        return ops.max_pool(x, [stride] * 2, [1, 1], [0, 0], [0, 0], [2, 2], **how).output(0)

    image = ops.parameter([-1, rows, cols, 3], np.float32, name="image")
    mean = ops.constant(np.array(CAFFE_MEAN_BGR, np.float32))
    x = ops.transpose(ops.subtract(image, mean), ops.constant(np.array([0, 3, 1, 2])))
    taps = []
    for block, count in enumerate(VGG_BLOCKS[settings.backbone], 1):
        for number in range(1, count + 1):
            x = conv(x, f"block{block}_conv{number}")
        if block == 5:
            taps.append(x)
            break
        x = pool(x, 1 if block == 4 else 2)
        if block >= 3:
            taps.append(x)
    x = conv(conv(ops.concat(taps, 1), "head_conv1"), "head_conv2")  # (b, 1, rows/8, cols/8)
    (prior,) = weights["prior"]
    shape = rows // STRIDE, cols // STRIDE
    sampling = [
        linear_sampling(prior_places(length, cells, settings.theano_pooling), cells)
        for length, cells in zip(shape, prior.shape, strict=True)
    ]
    gain = (sampling[0] @ (1 + prior) @ sampling[1].T).astype(np.float32)
    x = ops.relu(ops.multiply(x, ops.constant(gain[None, None])))
    x = ops.reshape(x, ops.constant(np.array([0, *shape, 1])), True)  # one channel: (b, r, c, 1)
    return openvino.Model([x], [image], "mlnet")
