"""The table of backbones, one row each; importable without Keras, so that `--help` is quick."""

from dataclasses import dataclass

# convolutions in each block (Simonyan and Zisserman 2015, table 1, columns D and E), and their
# channels
VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
VGG_CHANNELS = (64, 128, 256, 512, 512)
# ImageNet means of VGG and ResNet-50 (Caffe), in BGR order; no division by a deviation
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
STORE = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class Backbone:
    """A backbone: its weights file, stages and input.

    Attributes:
        title: its published name.
        folder, file_name, md5: its ImageNet weights on the server of `keras.applications`.
        stages: stride of each stage's output by layer name, pixels of the input.
        centre: position of a cell's receptive field in its stride: 0 at the first pixel, 0.5 in the
            middle, 1 at the last. It follows from the padding before strided layers; the value 1
            needs rows and columns that are multiples of 32.
        size_step: the input's rows and columns must be multiples of this number of pixels. It is 32
            for networks that pad one side only: other sizes would shift their cells.
        prepare: key of `backbone.PREPARE`, the normalisation that the weights expect.
        application: its name in `keras.applications`; "" if `backbone` builds it.
    """

    title: str
    folder: str
    file_name: str
    md5: str | None
    stages: dict[str, int]
    centre: float
    size_step: int = 8
    prepare: str = "caffe"
    application: str = ""

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
        return not self.application

    @property
    def address(self) -> str:
        """URL of the weights file."""
        return f"{STORE}/{self.folder}/{self.file_name}"


def _vgg(title: str, md5: str) -> Backbone:
    """Return the row of a VGG; its stages are the poolings and the last convolution."""
    name = title.lower()
    stages = {f"block{block}_pool": 2**block for block in range(1, 5)}
    stages |= {f"block5_conv{VGG_BLOCKS[name][-1]}": 16, "block5_pool": 32}
    file_name = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return Backbone(title, name, file_name, md5, stages, 0.5)


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
    # stages of the next two are the widest layers before each stride, not the narrow sums
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
    "efficientnet_v2_b0": Backbone(
        "EfficientNetV2-B0",
        "efficientnet_v2",
        "efficientnetv2-b0_notop.h5",
        "893217f2bb855e2983157299931e43ff",
        {"block1a_project_activation": 2, "block2b_add": 4, "block4a_expand_activation": 8,
         "block6a_expand_activation": 16, "top_activation": 32},
        1.0,
        32,
        "rgb",
        "EfficientNetV2B0",
    ),
}  # fmt: skip
