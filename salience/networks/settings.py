"""What a network asks of the settings that it is built from; nothing of how they are given."""

from pathlib import Path
from typing import Protocol


class NetworkSettings(Protocol):
    """The settings that `build` and `load_pretrained` of a system read.

    Attributes:
        model: the system's name.
        rows, cols: of the network's input, pixels.
        backbone: of BACKBONES.
        width: share of the channels of every hidden layer; 1 is the published network.
        light: a quarter of the decoder's channels (resnet50-decoder).
        freeze_backbone: whether the backbone's weights stay as they are.
        weight_decay: see `config.Config`.
        optimizer: the name of the optimiser, which may bring a weight decay of its own.
        seed: of the random start.
        backbone_weights: a file, "none" for a random start, None for the usual places.
        weights_dir: folder that is searched for ImageNet weights.
        starts_at_random: whether no weights are transferred.
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
