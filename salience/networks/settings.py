"""The settings that networks are built from, as a protocol; `config.Config` fulfils it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from salience.system.errors import UserError, did_you_mean

MEAN = "mean"  # the name of the mean of the data sets' numbers


def row_of(sets: Sequence[str], name: str | None) -> int | str:
    """Return the row of a data set in a network's table of numbers, or "mean".

    Args:
        sets: data sets of the network's training, in the order of the table.
        name: one of them; None or "mean" for their mean.

    Raises:
        UserError: the network was not trained on the data set.

    >>> row_of(("osie", "eyecrowd"), "eyecrowd"), row_of(("osie", "eyecrowd"), None)
    (1, 'mean')
    """
    if name is None or name == MEAN:
        return MEAN
    if name not in sets:
        raise UserError(
            f"--set {name}: this network knows the numbers of {', '.join(sets)}; '{MEAN}' is "
            f"their mean. {did_you_mean(name, [*sets, MEAN])}"
        )
    return list(sets).index(name)


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
        fixed_blocks: blocks of the backbone, from the first, that stay frozen.
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
