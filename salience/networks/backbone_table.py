"""The table of backbones, one row each; importable without Keras, so that `--help` is quick."""

import importlib.util
from dataclasses import dataclass

from salience.system.errors import UserError
from salience.system.files import how_to_install

# convolutions in each block (Simonyan and Zisserman 2015, table 1, columns D and E), and their
# channels
VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
VGG_CHANNELS = (64, 128, 256, 512, 512)
# ImageNet means of VGG and ResNet-50 (Caffe), in BGR order; no division by a deviation
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
# ImageNet means and deviations of networks from PyTorch, RGB, 0 to 255
TORCH_MEAN_RGB = (123.675, 116.28, 103.53)
TORCH_DEVIATION_RGB = (58.395, 57.12, 57.375)
STORE = "https://storage.googleapis.com/tensorflow/keras-applications"
KAGGLE = "https://www.kaggle.com/models"


@dataclass(frozen=True)
class Backbone:
    """A backbone: its weights file, stages and input.

    Attributes:
        title: its published name.
        folder, file_name: its pretrained weights on the server of `keras.applications`, or on
            Kaggle for a network of patches.
        digest: MD5 or SHA-256 of the weights file; None if the server's is taken as it is.
        stages: stride of each stage's output by layer name, pixels of the input.
        centre: position of a cell's receptive field in its stride: 0 at the first pixel, 0.5 in the
            middle, 1 at the last; one for all stages, or by layer name. It follows from the padding
            before strided layers; the value 1 needs rows and columns that are multiples of 32.
        size_step: the input's rows and columns must be multiples of this number of pixels. It is 32
            for networks that pad one side only or drop incomplete cells: other sizes would shift
            their cells.
        prepare: key of `backbone.PREPARE`, the normalisation that the weights expect.
        application: its name in `keras.applications`; "" if this program builds it.
        patch: rows and columns of the patches of a transformer, pixels; 0 for a convolutional
            network. Its picture is resampled to the nearest multiples, so that cells tile it.
        heads: attention heads of a transformer.
    """

    title: str
    folder: str
    file_name: str
    digest: str | None
    stages: dict[str, int]
    centre: float | dict[str, float]
    size_step: int = 8
    prepare: str = "caffe"
    application: str = ""
    patch: int = 0
    heads: int = 0

    @property
    def read(self) -> dict[str, int]:
        """Stride of each layer that the multi-scale read-out reads, by name, first to last."""
        if not self.is_vgg:
            return {layer: stride for layer, stride in self.stages.items() if stride >= 8}
        fourth, fifth = VGG_BLOCKS[self.folder][3:]
        last = {f"block5_conv{i + 1}": 16 for i in range(fifth)}
        return {"block3_pool": 8, f"block4_conv{fourth}": 8, **last}

    @property
    def is_vgg(self) -> bool:
        """Whether the backbone is a VGG, whose blocks and strides can be changed."""
        return self.folder in VGG_BLOCKS

    @property
    def blocks(self) -> int:
        """Number of blocks that `--fixed_blocks` counts: VGG's five, or the stages."""
        return 5 if self.is_vgg else len(self.stages)

    @property
    def address(self) -> str:
        """URL of the weights file, or of the page that has it."""
        if self.patch:
            return f"{KAGGLE}/{self.folder}"
        return f"{STORE}/{self.folder}/{self.file_name}"

    def centre_of(self, layer: str) -> float:
        """Return the position of a stage's cells in their stride, see `centre`."""
        return self.centre[layer] if isinstance(self.centre, dict) else self.centre

    def stride_of(self, layer: str, cells: int, length: int) -> float:
        """Return the stride of a stage's cells along an axis, pixels.

        Args:
            layer: a stage, or a layer of `read`.
            cells: number of its cells.
            length: rows or columns of the picture that the network sees, pixels.

        >>> BACKBONES["dinov2_small"].stride_of("block12", 17, 240)
        14.117647058823529
        """
        return length / cells if self.patch else (self.stages | self.read)[layer]

    def size_read(self, length: int) -> int:
        """Return the rows or columns at which a picture is read, pixels.

        >>> BACKBONES["dinov2_small"].size_read(240), BACKBONES["vgg16"].size_read(240)
        (238, 240)
        """
        return whole(length, self.patch) if self.patch else length

    def size_note(self, rows: int, cols: int) -> str:
        """Return how a picture is resampled for patches, as text; "" if it is not.

        >>> BACKBONES["dinov2_small"].size_note(240, 320)
        'patches of 14 pixels: DINOv2-S reads 240x320 as 238x322'
        """
        read = [self.size_read(length) for length in (rows, cols)]
        if read == [rows, cols]:
            return ""
        return (
            f"patches of {self.patch} pixels: {self.title} reads {rows}x{cols} as "
            f"{read[0]}x{read[1]}"
        )

    def need_hub(self) -> None:
        """Check that keras-hub is installed, if it reads the weights.

        Raises:
            UserError: it is not.
        """
        if self.patch and importlib.util.find_spec("keras_hub") is None:
            words = how_to_install("dinov2", "pip install -r requirements/dinov2.txt")
            raise UserError(
                f"The weights of {self.title} need keras-hub, which is not installed. Install it "
                f"with {words}, or ask for a random start with --backbone_weights none."
            )


def whole(length: int, patch: int) -> int:
    """Return the multiple of a patch that is nearest to a length; at least one patch.

    >>> whole(240, 14), whole(5, 14)
    (238, 14)
    """
    return patch * max(1, int(length / patch + 0.5))


def _vgg(title: str, digest: str) -> Backbone:
    """Return the row of a VGG; its stages are the poolings and the last convolution."""
    name = title.lower()
    stages = {f"block{block}_pool": 2**block for block in range(1, 5)}
    stages |= {f"block5_conv{VGG_BLOCKS[name][-1]}": 16, "block5_pool": 32}
    file_name = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return Backbone(title, name, file_name, digest, stages, 0.5)


def _convnext(size: str, digest: str) -> Backbone:
    """Return the row of a ConvNeXt; its stages are the sums before each stride, and the last norm.

    A cell is a patch: strided convolutions are as wide as their stride.
    """
    name = f"convnext_{size}"
    stages = {f"{name}_stage_{i}": 4 * 2**i for i in range(3)} | {f"{name}_last_layernorm": 32}
    return Backbone(
        f"ConvNeXt-{size.title()}",
        "convnext",
        f"{name}_notop.h5",
        digest,
        stages,
        0.5,
        32,
        "torch_rgb",
        f"ConvNeXt{size.title()}",
    )


def _efficientnet_v2(size: str, application: str, digest: str, first: str) -> Backbone:
    """Return the row of an EfficientNetV2.

    Stages are the widest layers before each stride, not the narrow sums, which the first two have.

    Args:
        size: ending of its file's name.
        application: see `Backbone`.
        digest: see `Backbone`.
        first: names of the first two stages' layers.
    """
    names = [*first.split(), "block4a_expand_activation", "block6a_expand_activation"]
    return Backbone(
        f"EfficientNetV2-{size.upper()}",
        "efficientnet_v2",
        f"efficientnetv2-{size}_notop.h5",
        digest,
        {name: 2**i for i, name in enumerate([*names, "top_activation"], 1)},
        1.0,
        32,
        "rgb",
        application,
    )


def _dinov2(size: str, title: str, heads: int) -> Backbone:
    """Return the row of a DINOv2 with patches of 14; stages are a quarter of the blocks each."""
    return Backbone(
        title,
        f"keras/dinov2/keras/dinov2_{size}",
        # a folder of its own, as a preset of keras-hub has, and as Kaggle hands out
        f"dinov2_{size}/model.weights.h5",
        None,
        {f"block{number}": 14 for number in (3, 6, 9, 12)},
        0.5,
        prepare="torch_rgb",
        patch=14,
        heads=heads,
    )


BACKBONES = {
    "vgg16": _vgg("VGG16", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19": _vgg("VGG19", "253f8cb515780f3b799900260a226db6"),
    "resnet50": Backbone(
        "ResNet-50",
        "resnet",
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
        {"conv2_block3_out": 4, "conv3_block4_out": 8,
         "conv4_block6_out": 16, "conv5_block3_out": 32},
        0.0,  # 1x1 convolutions of stride 2 read the first of two cells
        application="ResNet50",
    ),
    # stages of the next are the widest layers before each stride, not the narrow sums
    "mobilenet_v2": Backbone(
        "MobileNetV2",
        "mobilenet_v2",
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        None,
        {"block_1_expand_relu": 2, "block_3_expand_relu": 4, "block_6_expand_relu": 8,
         "block_13_expand_relu": 16, "out_relu": 32},
        1.0,  # 3x3 convolutions of stride 2 are padded at the end only
        32,
        "symmetric_rgb",
        "MobileNetV2",
    ),
    "efficientnet_v2_b0": _efficientnet_v2(
        "b0", "EfficientNetV2B0", "893217f2bb855e2983157299931e43ff",
        "block1a_project_activation block2b_add",
    ),
    "efficientnet_v2_s": _efficientnet_v2(
        "s", "EfficientNetV2S", "af0682fb74e8c54910f2d4393339c070", "block1b_add block2d_add"
    ),
    "efficientnet_v2_m": _efficientnet_v2(
        "m", "EfficientNetV2M", "1b8dc055df72dde80d614482840fe342", "block1c_add block2e_add"
    ),
    "efficientnet_v2_l": _efficientnet_v2(
        "l", "EfficientNetV2L", "b0b66b5c863aef5b46e8608fe1711615", "block1d_add block2g_add"
    ),
    "convnext_tiny": _convnext(
        "tiny", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"
    ),
    "convnext_small": _convnext(
        "small", "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"
    ),
    "convnext_base": _convnext(
        "base", "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"
    ),
    "convnext_large": _convnext(
        "large", "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"
    ),
    # stages are the dense blocks, normalised, before their channels are halved
    "densenet201": Backbone(
        "DenseNet-201",
        "densenet",
        "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "c13680b51ded0fb44dff2d8f86ac8bb1",
        {"pool2_relu": 4, "pool3_relu": 8, "pool4_relu": 16, "relu": 32},
        # symmetric padding centres cells at the first pixel; each average of two by two cells then
        # moves them by half of their stride
        {"pool2_relu": 0.0, "pool3_relu": 2 / 7, "pool4_relu": 6 / 15, "relu": 14 / 31},
        32,
        "torch_rgb",
        "DenseNet201",
    ),
    "dinov2_small": _dinov2("small", "DINOv2-S", 6),
    "dinov2_base": _dinov2("base", "DINOv2-B", 12),
}  # fmt: skip
