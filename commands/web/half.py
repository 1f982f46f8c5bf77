"""Rounds the weights of an ONNX network to float16, for half the size.

The network still computes in float32: a `Cast` follows each weight, which ONNX Runtime applies once
when it loads the network. Its WebAssembly has few kernels for float16.
"""

from typing import Any

import numpy as np

LEAST_VALUES = 256  # smaller weights stay float32, since they take no space


def round_weights(network: Any) -> None:
    """Round the float32 weights of a network to float16, in place.

    Weights beyond float16's range stay as they are.

    Args:
        network: an `onnx.ModelProto`.
    """
    import onnx  # pyright: ignore[reportMissingImports]

    casts = []
    for weight in network.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(weight)
        if values.size < LEAST_VALUES or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name, half = weight.name, f"{weight.name}/float16"
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(network.graph.node)
    del network.graph.node[:]
    network.graph.node.extend([*casts, *nodes])  # in the order in which they run
