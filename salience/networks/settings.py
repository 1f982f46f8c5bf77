"""The settings that networks are built from, as a protocol; `config.Config` fulfils it."""

from pathlib import Path
from typing import Protocol


class NetworkSettings(Protocol):
    """The settings that `build` and `load_pretrained` of a system read.

    Attributes:
        model: the system's name.
        rows, cols: size of the network's input, pixels.
        backbone: key of BACKBONES.
        width: share of the channels of every hidden layer; 1 is the published network.
        light: whether the decoder has a quarter of its channels (resnet50-decoder).
        scales: scales at which the backbone sees the input, shares of its size (multiscale).
        readout: channels of the 1x1 convolutions of the read-out (multiscale).
        dropout: share of the features that are dropped before the head (multiscale).
        dataset: names of the data sets of the training (multiscale).
        fixed_blocks: blocks of a VGG, from the first, that stay frozen.
        freeze_backbone: whether the backbone's weights are frozen.
        weight_decay: factor of the L2 regularisation (salnets).
        optimizer: name of the optimiser; adamw has its own weight decay.
        seed: seed of the random weights.
        backbone_weights: a file; "none" for a random start; None to search and download.
        weights_dir: folder that is searched for ImageNet weights.
        starts_at_random: whether no pretrained weights are loaded.
    """

    @property
    def model(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def backbone(self) -> str: ...
    @property
    def width(self) -> float: ...
    @property
    def light(self) -> bool: ...
    @property
    def scales(self) -> tuple[float, ...]: ...
    @property
    def readout(self) -> tuple[int, ...]: ...
    @property
    def dropout(self) -> float: ...
    @property
    def dataset(self) -> tuple[str, ...]: ...
    @property
    def fixed_blocks(self) -> int: ...
    @property
    def freeze_backbone(self) -> bool: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def backbone_weights(self) -> str | None: ...
    @property
    def weights_dir(self) -> Path: ...
    @property
    def starts_at_random(self) -> bool: ...
