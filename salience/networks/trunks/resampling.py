"""Resampling of maps and pictures to other grids, by matrix products.

The cells of a network's output are centred where its padding puts them; a grid's are centred in
their stride.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from salience.pictures.letterbox import linear_sampling, pixel_centres


def sampling(
    cells: int, stride: float, centre: float, wanted: int, wanted_stride: float
) -> NDArray[np.float32]:
    """Return the [wanted, cells] matrix that resamples a row of a network's cells to a grid.

    Values are interpolated linearly; in a grid cell larger than a network cell they are averaged.

    Args:
        cells: number of cells in the row.
        stride: width of a cell, pixels.
        centre: position of a cell's centre in its stride (see `Backbone`).
        wanted: number of cells of the grid, each centred in its stride.
        wanted_stride: width of a grid cell, pixels.

    >>> sampling(4, 2, 0.5, 2, 4).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    points = max(1, int(wanted_stride // stride))  # sampled points in each grid cell
    pixels = pixel_centres(wanted * points, wanted * wanted_stride)
    # cell i is centred (i + centre) * stride + 0.5 - centre pixels from the input's edge
    where = (pixels - 0.5 + centre) / stride - centre + 0.5
    return linear_sampling(where, cells).reshape(wanted, points, cells).mean(axis=1)


def resampled(inputs, rows: NDArray, cols: NDArray, dtype: str):
    """Return maps [b, rows, columns, channels] by two matrix products: rows @ map @ cols^T.

    Args:
        inputs: the maps.
        rows: resampling matrix, [wanted rows, rows].
        cols: resampling matrix, [wanted columns, columns].
        dtype: type of the products.
    """
    down, across = (ops.cast(ops.convert_to_tensor(matrix), dtype) for matrix in (rows, cols))
    return ops.einsum("pr,brcd,qc->bpqd", down, inputs, across)


@keras.saving.register_keras_serializable(package="saliency")
class Resampled(layers.Layer):
    """Resample maps to another grid by two matrix products: rows @ map @ transpose(cols).

    Matrix products give equal results on all Keras backends, unlike their image resizing.

    Args:
        rows: resampling matrix, [wanted rows, rows].
        cols: resampling matrix, [wanted columns, columns].

    Input: [b, rows, columns, channels]. Output: [b, wanted rows, wanted columns, channels].

    >>> Resampled(np.full((1, 2), 0.5), np.eye(3))(np.ones((1, 2, 3, 4))).shape
    TensorShape([1, 1, 3, 4])
    """

    def __init__(self, rows: Any, cols: Any, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rows, self.cols = (np.asarray(matrix, np.float32) for matrix in (rows, cols))

    def call(self, inputs):
        return resampled(inputs, self.rows, self.cols, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.rows), len(self.cols), input_shape[3])

    def get_config(self) -> dict:
        return {**super().get_config(), "rows": self.rows.tolist(), "cols": self.cols.tolist()}
