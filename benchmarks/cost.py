"""Cost of a forward pass of each system at its published size: weights and GFLOP.

    python benchmarks/cost.py

The count includes multiplications and additions of convolutions, transposed convolutions, dense
layers and read-outs. The rest (pooling, activations, normalisation) is a few percent.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from salience.system.quiet import import_keras

import_keras()

import keras
from keras import layers

from config import SYSTEMS, resolve
from model import system_module


def flop(layer: keras.layers.Layer) -> int:
    """Return the floating-point operations of a layer for one picture."""
    if isinstance(layer, keras.Model):
        return sum(map(flop, layer.layers))
    if isinstance(layer, layers.Conv2DTranspose):  # each input is multiplied by the whole kernel
        return 2 * math.prod(layer.input.shape[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.DepthwiseConv2D):
        return 2 * math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Conv2D | layers.Dense):
        # a layer that several scales share is called once for each
        made = [node.output_tensors[0] for node in layer._inbound_nodes]
        places = sum(math.prod(tensor.shape[1:-1]) for tensor in made)
        return 2 * places * math.prod(layer.kernel.shape)
    return 0


def training_flop(model: keras.Model) -> int:
    """Return the floating-point operations of a training step for one picture.

    The backward pass costs a layer as much as its forward pass for the gradient of its kernel, if
    it is trainable, and once more for that of its input, if an earlier layer is trainable.
    """
    total, learns_before = 0, False
    for layer in model.layers:
        learns = bool(layer.trainable_weights)
        total += flop(layer) * (1 + learns + learns_before)
        learns_before |= learns
    return total


def main() -> None:
    """Print a row for each system."""
    print("| system | input | output | weights | GFLOP |\n| --- | --- | --- | ---: | ---: |")
    for name in SYSTEMS:
        config = resolve({"model": name})
        model = system_module(name).build(config)
        sides = ["x".join(map(str, s[1:3])) for s in (model.input_shape, model.output_shape)]
        total = sum(map(flop, model.layers)) / 1e9
        print(f"| `{name}` | {' | '.join(sides)} | {model.count_params():,} | {total:.1f} |")


if __name__ == "__main__":
    main()
