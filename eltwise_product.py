"""EltWiseProduct, the learned prior of ML-Net: where people look in any picture."""

import keras
import numpy as np
from keras import ops

from salience.pictures.letterbox import linear_sampling, prior_places


@keras.saving.register_keras_serializable(package="saliency")
class EltWiseProduct(keras.layers.Layer):
    """Multiply a map by a coarse learned prior, up-sampled bilinearly: x * upsample(1 + W).

    W starts at zero, so a new layer is the identity. Without the 1, output and gradient would stay
    exactly zero. The up-sampling consists of two matrix products, which give equal results on all
    Keras backends. It is done in float32, under mixed precision too.

    Args:
        cell: rows and columns that one weight covers, pixels of the map. If the map is not a
            multiple of it, the number of cells is rounded down, but is at least one.
        theano: up-sample as Theano did, with which the weights of 2016 were trained: cell i is
            centred at pixel 10 i + 4 of the map, not in the middle of its ten pixels.

    Input: [b, rows, cols, channels], rows and cols known. Output: the same shape.

    Raises:
        ValueError: the input's rows or columns are not known.

    Source: Cornia et al., ICPR 2016, section III-C; its code divides by 10.

    >>> EltWiseProduct()(np.ones((1, 60, 80, 1))).shape
    TensorShape([1, 60, 80, 1])
    """

    def __init__(self, cell: int = 10, theano: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.cell, self.theano = cell, theano

    def build(self, input_shape) -> None:
        if len(input_shape) != 4 or None in input_shape[1:3]:
            raise ValueError(
                "EltWiseProduct expected an input [batch, rows, cols, channels] of known rows and "
                f"columns, received {tuple(input_shape)}."
            )
        shape = tuple(max(1, length // self.cell) for length in input_shape[1:3])
        self.prior = self.add_weight(
            name="prior",
            shape=shape,
            initializer="zeros",
            # the factor is the paper's: one over the number of weights
            regularizer=keras.regularizers.L2(1 / (shape[0] * shape[1])),
            autocast=False,
        )
        self.row_sampling, self.col_sampling = (
            linear_sampling(prior_places(length, cells, self.theano, self.cell), cells)
            for length, cells in zip(input_shape[1:3], shape, strict=True)
        )
        super().build(input_shape)

    def call(self, inputs):
        gain = ops.matmul(
            ops.matmul(ops.convert_to_tensor(self.row_sampling), 1 + self.prior),
            ops.convert_to_tensor(np.ascontiguousarray(self.col_sampling.T)),
        )  # (rows, cols), float32
        return ops.cast(ops.cast(inputs, "float32") * gain[None, :, :, None], self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "cell": self.cell, "theano": self.theano}
