"""ML-Net as a network of ncnn, built from its weights file without Keras or a backend.

ncnn computes 3x3 convolutions in float32 by Winograd's algorithm, which needs a quarter of the
multiplications. `test` needs no more than ncnn for such weights, and starts in a second or two. The
graph is that of `model.build` on a VGG; the tests hold its maps against Keras'. Other networks are
exported by Keras (`export`).

The formats are ncnn's: a line of text for each layer, and the weights of all layers in their order.
"""

from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from salience.data import hdf5
from salience.networks.backbone_table import CAFFE_MEAN_BGR, VGG_BLOCKS, VGG_CHANNELS
from salience.pictures.letterbox import linear_sampling, prior_places
from salience.system.errors import UserError
from salience.system.files import file_digest, write_json

STRIDE = 8  # pixels of the input in a cell of the map
INPUT, OUTPUT = "image", "map"  # names of the network's ends
MAGIC = "7767517"  # the first line of ncnn's description of a network
FLOAT32 = bytes(4)  # before weights of a convolution: they are not compressed
MAXIMUM, MULTIPLY, RELU = 0, 2, 1  # as ncnn numbers poolings, operations and activations
AS_SAME, AS_GIVEN = 2, 1  # paddings of a pooling: as Keras' "same", and as given


class Settings(Protocol):
    """The settings of ML-Net that its graph depends on; `config.Config` has them."""

    rows: int
    cols: int
    width: float
    backbone: str
    theano_pooling: bool


def write(weights: Path, settings: Settings, path: Path) -> None:
    """Write the network of a weights file as .param and .bin, with a card beside it.

    Args:
        weights: weights file of ML-Net.
        settings: its settings; the backbone is a VGG.
        path: the .param file.

    Raises:
        UserError: the weights cannot be read or do not fit the network.
    """
    network = network_of(read(weights), settings, str(weights))
    path.write_text(network.text(), encoding="utf-8", newline="\n")
    path.with_suffix(".bin").write_bytes(b"".join(network.values))
    card: dict[str, Any] = {
        "format": "ncnn",
        "input": {"rows": settings.rows, "cols": settings.cols},
        "output": {"stride": STRIDE, "crop": 0, "blur": 0.0},
    }
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


class Network:
    """A network of ncnn that is being described, layer by layer.

    Attributes:
        lines: a line for each layer.
        values: the weights of the layers, in their order.
        blobs: number of outputs of all layers.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.values: list[bytes] = []
        self.blobs = 0

    def layer(
        self,
        kind: str,
        inputs: list[str],
        outputs: list[str],
        numbers: dict[int, int] | None = None,
    ) -> str:
        """Add a layer, named as its first output; return that name.

        Args:
            kind: ncnn's name of the layer's type.
            inputs: names of its inputs.
            outputs: names of its outputs.
            numbers: its parameters, by ncnn's numbers of them.
        """
        words = [kind, outputs[0], len(inputs), len(outputs), *inputs, *outputs]
        words += [f"{key}={value}" for key, value in (numbers or {}).items()]
        self.lines.append(" ".join(map(str, words)))
        self.blobs += len(outputs)
        return outputs[0]

    def add(self, values: ArrayLike) -> None:
        """Add weights of the layer that was added last."""
        self.values.append(np.ascontiguousarray(values, np.float32).tobytes())

    def text(self) -> str:
        """Return the description of the layers."""
        return "\n".join([MAGIC, f"{len(self.lines)} {self.blobs}", *self.lines, ""])


def network_of(weights: dict[str, list[NDArray]], settings: Settings, where: str) -> Network:
    """Return the network; input [3, rows, cols], BGR, 0 to 255; output [1, rows/8, cols/8].

    Args:
        weights: from `read`.
        settings: settings of the network.
        where: name of the weights file, for errors.

    Raises:
        UserError: the weights do not fit the settings.
    """
    check_shapes(weights, settings, where)
    network = Network()
    layer, add = network.layer, network.add

    def conv(x: str, name: str) -> str:
        """Add a convolution with zero padding and ReLU, as Keras' "same"."""
        kernel, bias = weights[name]  # (rows, columns, in, out), (out,)
        size, channels = kernel.shape[0], kernel.shape[3]
        layer("Convolution", [x], [name],
              {0: channels, 1: size, 4: size // 2, 5: 1, 6: kernel.size, 9: RELU})  # fmt: skip
        network.values.append(FLOAT32)
        add(kernel.transpose(3, 2, 0, 1))
        add(bias)
        return name

    def pool(x: str, name: str, stride: int) -> str:
        """Add a pooling over 2x2 cells."""
        # Theano's windows begin a row and a column earlier; see `backbone.vgg`
        padding = (
            {5: AS_GIVEN, 3: 1, 13: 1, 14: 0, 15: 0} if settings.theano_pooling else {5: AS_SAME}
        )
        return layer("Pooling", [x], [name], {0: MAXIMUM, 1: 2, 2: stride, **padding})

    x = layer("Bias", [layer("Input", [], [INPUT])], ["centred"], {0: len(CAFFE_MEAN_BGR)})
    add(-np.array(CAFFE_MEAN_BGR))
    taps = []
    for block, count in enumerate(VGG_BLOCKS[settings.backbone], 1):
        for number in range(1, count + 1):
            x = conv(x, f"block{block}_conv{number}")
        if block == 5:
            taps.append(x)
            break
        x = pool(x, f"block{block}_pool", 1 if block == 4 else 2)
        if block >= 3:  # ncnn wants a name for each of two uses
            taps.append(layer("Split", [x], [f"block{block}_tap", f"block{block}_out"]))
            x = f"block{block}_out"
    x = conv(conv(layer("Concat", taps, ["taps"]), "head_conv1"), "head_conv2")
    (prior,) = weights["prior"]
    rows, cols = settings.rows // STRIDE, settings.cols // STRIDE
    down, across = (
        linear_sampling(prior_places(length, cells, settings.theano_pooling), cells)
        for length, cells in zip((rows, cols), prior.shape, strict=True)
    )
    gain = layer("MemoryData", [], ["gain"], {0: cols, 1: rows, 2: 1})
    add(down @ (1 + prior) @ across.T)
    layer("ReLU", [layer("BinaryOp", [x, gain], ["scaled"], {0: MULTIPLY})], [OUTPUT])
    return network
