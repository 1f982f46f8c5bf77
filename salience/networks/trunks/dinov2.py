"""DINOv2: a vision transformer over patches of 14 pixels, for pictures of any size and shape.

Oquab et al., "DINOv2: learning robust visual features without supervision", arXiv 2304.07193. Built
here from Keras' layers, since the backbone of keras-hub takes square pictures only. keras-hub, an
optional requirement, is imported only to fetch and to read the published weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from salience.networks.backbone_table import Backbone, whole
from salience.networks.foreign_weights import ForeignWeights
from salience.networks.trunks.applications import seeds_of
from salience.networks.trunks.resampling import resampled, sampling
from salience.system.errors import UserError

BLOCKS = 12
HEAD = 64  # channels of an attention head
WIDENING = 4  # of a block's hidden layer
POSITIONS = 37  # rows and columns of the learned positions: patches of 518 x 518 pixels
EPSILON = 1e-6  # of the layer norms
SCALE = 1e-5  # first value of the residuals' scales
CUBIC = -0.75  # PyTorch's parameter of bicubic interpolation (Keys 1981 has -0.5)


def build(prepared, about: Backbone, width: float, seed: int) -> dict[str, Any]:
    """Return the normalised patch tokens after each stage's block, as maps.

    All stages share the last layer norm, as the authors' `get_intermediate_layers` does.

    Args:
        prepared: Keras tensor [b, rows, cols, 3], standardised RGB; from `keras.Input`.
        about: row of BACKBONES; reads patch, heads and stages.
        width: share of each layer's channels; 1 is the published network.
        seed: seed of the random weights; each layer gets a seed derived from it.

    Returns:
        Keras tensors [b, rows/14, cols/14, channels] by stage, rounded to whole patches.
    """
    head = max(1, round(HEAD * width))
    channels = head * about.heads
    seeds = iter(seeds_of(seed, 2 + 3 * BLOCKS))

    def drawn() -> keras.initializers.Initializer:
        return keras.initializers.TruncatedNormal(stddev=0.02, seed=next(seeds))

    sized = WholePatches(about.patch, dtype="float32", name="whole_patches")(prepared)
    patches = layers.Conv2D(
        channels, about.patch, strides=about.patch, kernel_initializer=drawn(), name="patches"
    )(sized)  # (b, rows/14, cols/14, channels)
    x = Tokens(next(seeds), name="tokens")(patches)  # (b, 1 + cells, channels)
    norm = layers.LayerNormalization(epsilon=EPSILON, name="last_layernorm")
    ends = {}
    for number in range(1, BLOCKS + 1):
        name = f"block{number}"
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm1")(x)
        y = layers.MultiHeadAttention(
            about.heads, head, kernel_initializer=drawn(), name=f"{name}_attention"
        )(y, y)
        y = ChannelScale(name=f"{name}_scale1")(y)
        x = layers.Add(name=f"{name}_sum1")([x, y])
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm2")(x)
        y = layers.Dense(
            WIDENING * channels, "gelu", kernel_initializer=drawn(), name=f"{name}_hidden"
        )(y)
        y = layers.Dense(channels, kernel_initializer=drawn(), name=f"{name}_output")(y)
        y = ChannelScale(name=f"{name}_scale2")(y)
        x = layers.Add(name=f"{name}_sum2")([x, y])
        if name in about.stages:
            ends[name] = PatchMap(name=name)([norm(x), patches])
    return ends


@keras.saving.register_keras_serializable(package="saliency")
class WholePatches(layers.Layer):
    """Resample pictures to the nearest size of whole patches.

    Args:
        patch: rows and columns of a patch, pixels.

    Input: [b, rows, cols, 3]. Output: the same, with rows and columns that are multiples.

    >>> WholePatches(14)(np.ones((1, 20, 48, 3), "float32")).shape
    TensorShape([1, 14, 42, 3])
    """

    def __init__(self, patch: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.patch = patch

    def call(self, inputs):
        # not by `Resampled`: a network at several scales calls this layer at several sizes
        rows, cols = map(self.matrix, inputs.shape[1:3])
        return resampled(inputs, rows, cols, self.compute_dtype)

    def matrix(self, length: int) -> NDArray[np.float32]:
        """Return the [wanted, length] matrix that resamples rows or columns."""
        wanted = whole(length, self.patch)
        return sampling(length, 1, 0.5, wanted, length / wanted)

    def compute_output_shape(self, input_shape):
        return (
            input_shape[0],
            *(whole(length, self.patch) for length in input_shape[1:3]),
            input_shape[3],
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "patch": self.patch}


@keras.saving.register_keras_serializable(package="saliency")
class Tokens(layers.Layer):
    """Make tokens of patches: a class token in front, and learned positions on all.

    The positions were learned on 37 x 37 patches; for other grids they are interpolated.

    Args:
        seed: seed of the random class token and positions.

    Input: [b, rows, cols, channels]. Output: [b, 1 + rows * cols, channels].
    """

    def __init__(self, seed: int = 0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, input_shape):
        channels = input_shape[-1]
        first, second = seeds_of(self.seed, 2)
        self.class_token = self.add_weight(
            name="class_token",
            shape=(1, channels),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02, seed=first),
        )
        self.positions = self.add_weight(
            name="positions",
            shape=(1 + POSITIONS**2, channels),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02, seed=second),
        )

    def call(self, inputs):
        rows, cols, channels = inputs.shape[1:]
        positions = ops.convert_to_tensor(self.positions)
        down, across = (
            ops.cast(ops.convert_to_tensor(cubic(POSITIONS, count)), positions.dtype)
            for count in (rows, cols)
        )
        table = ops.reshape(positions[1:], (POSITIONS, POSITIONS, channels))
        table = ops.einsum("pr,rcd,qc->pqd", down, table, across)
        cells = ops.reshape(inputs + table, (-1, rows * cols, channels))
        first = ops.convert_to_tensor(self.class_token) + positions[:1]
        # a product with zeros: its batch is the cells', whose size no backend needs to know
        first = first + ops.zeros_like(cells[:, :1])
        return ops.concatenate([first, cells], axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1 + input_shape[1] * input_shape[2], input_shape[3])

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="saliency")
class ChannelScale(layers.Layer):
    """Multiply each channel by a learned factor, which starts at 1e-5 (Touvron et al. 2021).

    Input and output: [b, tokens, channels].
    """

    def build(self, input_shape):
        self.factor = self.add_weight(
            name="factor", shape=(input_shape[-1],), initializer=keras.initializers.Constant(SCALE)
        )

    def call(self, inputs):
        return inputs * self.factor

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="saliency")
class PatchMap(layers.Layer):
    """Put tokens without the class token back onto the grid of their patches.

    Input: tokens [b, 1 + rows * cols, channels], and the patches [b, rows, cols, channels], of
    which only the shape is used. Output: [b, rows, cols, channels].
    """

    def call(self, inputs):
        tokens, patches = inputs
        return ops.reshape(tokens[:, 1:], (-1, *patches.shape[1:]))

    def compute_output_shape(self, input_shape):
        return input_shape[1]


def cubic(count: int, wanted: int) -> NDArray[np.float32]:
    """Return the [wanted, count] matrix of bicubic interpolation along an axis, as PyTorch has it.

    Values beyond the ends are those of the ends; there is no antialiasing.

    Args:
        count: number of values along the axis.
        wanted: number of values after the interpolation.

    >>> cubic(3, 3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    where = (np.arange(wanted) + 0.5) * count / wanted - 0.5
    matrix = np.zeros((wanted, count))
    for step in range(-1, 3):
        value = np.floor(where) + step
        far = np.abs(where - value)
        near_weight = ((CUBIC + 2) * far - (CUBIC + 3)) * far**2 + 1
        far_weight = CUBIC * (((far - 5) * far + 8) * far - 4)
        weight = np.where(far <= 1, near_weight, far_weight)
        np.add.at(matrix, (np.arange(wanted), value.clip(0, count - 1).astype(int)), weight)
    return matrix.astype("float32")


def download(about: Backbone) -> Path:
    """Return the weights file from Kaggle's cache or its download; keras-hub brings the client."""
    import kagglehub  # pyright: ignore[reportMissingImports]

    return Path(kagglehub.model_download(f"{about.folder}/1", Path(about.file_name).name))


def read(path: Path, about: Backbone, names: Sequence[str]) -> ForeignWeights:
    """Return the weights of a file of keras-hub, `model.weights.h5` of a preset.

    Args:
        path: the file.
        about: row of BACKBONES.
        names: our layers with weights, in the order of the network.

    Raises:
        UserError: keras-hub is not installed, or the file does not hold the network.
    """
    about.need_hub()
    hub = hub_backbone(about)
    try:
        hub.load_weights(path)
    except (OSError, KeyError, ValueError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} does not hold {about.title} as keras-hub writes it (model.weights.h5): "
            f"{line[:200]}"
        ) from error
    found = hub_weights(hub)
    return ForeignWeights({name: found[name] for name in names}, theano=False, only_vgg=False)


def hub_backbone(about: Backbone, size: int = POSITIONS) -> Any:
    """Return the network of keras-hub, with random weights.

    Args:
        about: row of BACKBONES.
        size: rows and columns of its picture, patches.
    """
    import keras_hub  # pyright: ignore[reportMissingImports]

    channels, side = HEAD * about.heads, about.patch * POSITIONS
    return keras_hub.models.DINOV2Backbone(
        patch_size=about.patch,
        num_layers=BLOCKS,
        hidden_dim=channels,
        num_heads=about.heads,
        intermediate_dim=WIDENING * channels,
        image_shape=(about.patch * size, about.patch * size, 3),
        position_embedding_shape=(side, side, 3),
    )


def hub_weights(hub: Any) -> dict[str, list[NDArray]]:
    """Return the weights of a network of keras-hub, by the names of our layers."""
    embeddings = hub.embeddings
    found = {
        "patches": embeddings.patch_embeddings.projection.get_weights(),
        "tokens": [
            ops.convert_to_numpy(weight)[0]
            for weight in (embeddings.cls_token, embeddings.position_embeddings)
        ],
        "last_layernorm": hub.layernorm.get_weights(),
    }
    for number, block in enumerate(hub.encoder.layers, 1):
        parts = {
            "norm1": block.norm1, "attention": block.attention, "scale1": block.layer_scale1,
            "norm2": block.norm2, "hidden": block.mlp.fc1, "output": block.mlp.fc2,
            "scale2": block.layer_scale2,
        }  # fmt: skip
        found |= {f"block{number}_{name}": part.get_weights() for name, part in parts.items()}
    return found
