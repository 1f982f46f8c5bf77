"""Settings of `train` and `test`: defaults, meanings and units; and the recipe of each system.

The flags of the command line are made from these dataclasses, so that each fact stands once. The
settings of the other commands are in `commands/settings.py`. The settings of a run come from the
recipe of the system, then from `--config FILE`, then from the flags; the last one wins.
"""

import dataclasses
import math
import re
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from salience.data.columns import ROLES, parse_columns
from salience.data.plan import Plan
from salience.networks.backbone_table import BACKBONES
from salience.networks.settings import row_of
from salience.pictures.visual_angle import degree_of
from salience.system.errors import UserError, did_you_mean
from salience.system.files import HERE, read_json, real_path, split_pair, write_json
from salience.system.flags import (
    Checked,
    option,
    parse_bytes,
    takes_many,
    to_json,
    typed,
    value_type,
)


@dataclass(frozen=True)
class System:
    """A network that can be trained, and its published recipe.

    Attributes:
        module: name of its module, see `model.system_module`.
        size_step: the input's rows and columns must be multiples of this number of pixels.
        recipe: the published settings, as fields of Config; other fields keep their defaults.
        own_loss: whether the published loss belongs to this system alone.
        takes_any_backbone: whether backbones other than the recipe's are supported.
        pools_as_theano: whether Theano's pooling is supported on a VGG.
        fixes_blocks: whether fixed blocks of the backbone are supported.
        has_numbers: whether the network has numbers of each data set that it is trained on.
        has_light_decoder: whether the decoder exists with a quarter of its channels.
        has_backbone: whether the network has a backbone that can be frozen.
        random_unless_named: whether the network starts at random unless a weights file is named:
            its pretrained weights cannot be downloaded.
    """

    module: str
    size_step: int
    recipe: dict[str, Any]
    own_loss: bool = False
    takes_any_backbone: bool = False
    pools_as_theano: bool = False
    fixes_blocks: bool = False
    has_numbers: bool = False
    has_light_decoder: bool = False
    has_backbone: bool = True
    random_unless_named: bool = False


SALNET = {  # Pan et al., CVPR 2016, section 4
    "rows": 240,
    "cols": 320,
    "freeze_backbone": False,
    "test_share": 0.15,
    "batch_size": 2,
    "loss": "mse",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "nesterov": False,
    "decay": 0.0,
    "weight_decay": 4e-6,
    "epochs": 25,
    "patience": 25,  # no early stopping
}
SYSTEMS = {
    "mlnet": System(
        "model",
        8,
        {  # Cornia et al., ICPR 2016, sections III and IV, and its published code
            "rows": 480,
            "cols": 640,
            "batch_size": 10,
            "loss": "mlnet",
            "optimizer": "sgd",
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "nesterov": True,
            "decay": 5e-4,  # as in Keras 1: learning_rate / (1 + decay * step)
            "epochs": 20,
            "patience": 5,
        },
        own_loss=True,
        takes_any_backbone=True,
        pools_as_theano=True,
        fixes_blocks=True,
    ),
    "salnet-deep": System("salience.networks.salnet", 4, SALNET, random_unless_named=True),
    "salnet-half": System("salience.networks.salnet", 4, SALNET, random_unless_named=True),
    "salnet-shallow": System(
        "salience.networks.salnet",
        4,
        {  # Pan et al., CVPR 2016, section 3.1, and its published code
            "rows": 96,
            "cols": 96,
            "freeze_backbone": False,
            "flip": True,
            "batch_size": 128,
            # The published output z and target 2 y - 1 lie in -1 to 1; here the map is
            # m = (z + 1) / 2, so that the published mean of (z - (2 y - 1))^2 is 4 (m - y)^2
            "loss": "4*mse",
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "learning_rate_end": 1e-4,
            "momentum": 0.9,
            "momentum_end": 0.999,
            "nesterov": True,
            "decay": 0.0,
            "weight_decay": 0.0,
            "epochs": 1200,
            "patience": 1200,  # no early stopping
        },
        has_backbone=False,
        random_unless_named=True,
    ),
    "resnet50-decoder": System(
        "salience.networks.resnet50_decoder",
        32,
        {
            "backbone": "resnet50",
            "rows": 512,
            "cols": 512,
            "val_share": 0.2,
            "batch_size": 4,
            "loss": "bce",
            "optimizer": "sgd",
            "learning_rate": 1e-4,
            "momentum": 0.0,
            "nesterov": False,
            "decay": 0.0,
            "epochs": 200,
            "patience": 200,  # no early stopping
        },
        has_light_decoder=True,
    ),
    "linear-probe": System(
        "salience.networks.linear_probe",
        16,
        {  # frozen, at SALICON's size. The loss is that of ridge regression. The optimiser's
            # settings are ours: training converges to the exact solution of `probe`
            "backbone": "resnet50",
            "rows": 480,
            "cols": 640,
            "dropout": 0.0,
            "loss": "mse",
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "decay": 0.0,
            "batch_size": 10,
            "epochs": 20,
            "patience": 5,
        },
        takes_any_backbone=True,
    ),
    "multiscale": System(
        "salience.networks.multiscale",
        8,
        {  # after DeepGaze II (arXiv 1610.01563) and arXiv 2505.10169; sizes and schedule are ours
            "rows": 240,
            "cols": 320,
            "dropout": 0.3,
            "loss": "nll",
            "optimizer": "adamw",
            "weight_decay": 0.3,
            "learning_rate": 1e-3,
            "learning_rate_end": 1e-5,
            "decay": 0.0,
            "batch_size": 10,
            "epochs": 8,
            "patience": 8,  # the schedule decides
        },
        takes_any_backbone=True,
        fixes_blocks=True,
        has_numbers=True,
    ),
}
DATASETS = tuple(sorted(p.stem for p in (HERE / "salience/data/sets").glob("[!_]*.py")))
BUILT_IN = ("synthetic",)  # data sets without files
# the user's own data: the name says nothing of the content
OWN_SETS = ("folder", "npy", "pysaliency")
TABLE_SETS = ("folder", "npy")  # data sets that may have tables of fixations
OPTIMIZERS = ("sgd", "adam", "adamw")
OWN_LOSSES = tuple(name for name, system in SYSTEMS.items() if system.own_loss)
LOSSES = (*OWN_LOSSES, "kld", "cc", "nss", "nll", "mse", "bce")
COLORMAPS = ("jet", "turbo", "viridis", "inferno", "hot", "parula", "magma", "plasma")
# the arms of the transfer comparison: the settings that each of them changes
STRATEGIES: dict[str, dict[str, Any]] = {
    "frozen": {"freeze_backbone": True},
    "finetuned": {"freeze_backbone": False},
    "scratch": {"freeze_backbone": False, "fixed_blocks": 0, "backbone_weights": "none"},
}
OUT_OF_BOUNDS = ("drop", "clip")
FEATURE_CACHES = ("auto", "on", "off")
FEATURE_PRECISIONS = ("float16", "float32")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
LARGEST_SEED = 2**32 - 1  # limit of NumPy's and Keras' generators
LARGEST_BLUR = 1000  # pixels: a degree of visual angle spans about 200 on an 8K screen
LARGEST_LOSS_WEIGHT = 1e6
XLA = ("auto", "on", "off")
CRITERIA = ("worst", "mean")  # over the data sets of a joint training
ON_NAN = ("stop", "skip", "rewind")
# fields that --config does not take from the file of an earlier run
NOT_REPEATED = ("overwrite", "resume", "devices", "cluster")
# inference engines of `test`
ENGINES = ("auto", "ncnn", "openvino", "openvino-bf16", "onnx", "keras")
VIDEO_MAPS = ("png", "npz", "video", "none")


# fields that several commands share, declared once
SHARED: dict[str, dict[str, Any]] = {
    "dataset": {"default": "osie", "help": "data set", "choices": DATASETS},
    "data": {"default": None, "help": "folder of the data set"},
    "sources": {
        "default": (),
        "help": "folder of the data set, or its archives as published (.zip, .tar, .tar.gz)",
    },
    "weights": {
        "default": None,
        "help": "weights file (.weights.h5), or its name; default: the newest of your own in "
        "weights/ (main.py weights lists all names and pins a choice)",
    },
    "weights_dir": {
        "default": Path("weights"),
        "help": "folder that is searched if --weights is not given",
    },
    "engine": {
        "default": "auto",
        "help": "inference engine; auto: keras if there is a GPU or KERAS_BACKEND names jax or "
        "torch, else the fastest exact engine installed, which is ncnn for ML-Net on a VGG and "
        "openvino for other networks; openvino-bf16 takes half of openvino's time on a processor "
        "with bfloat16, and moves maps by about a percent of their maximum",
        "choices": ENGINES,
    },
    "of_set": {
        "default": None,
        "help": "use the numbers of this data set, one that the network was trained on "
        "(multiscale); default: their mean",
        "flag": "set",
    },
    "smooth": {
        "default": 0.0,
        "help": "Gaussian blur of the maps",
        "unit": "pixels of the original picture",
        "least": 0,
        "most": LARGEST_BLUR,
    },
    "mirror": {
        "default": False,
        "help": "also predict the mirror image of each picture and average both maps; takes twice "
        "the time",
    },
    "adaptation": {
        "default": None,
        "help": "adapt the maps to the bias of a data set: a file that `adapt` wrote for these "
        "weights, or its name, such as eyecrowd; none: the network's own maps; default: what the "
        "weights' card says, a general adaptation and a blur of maps",
    },
    "columns": {
        "default": "",
        "help": "names of the columns of your own table of fixations, such as "
        "image=Stimulus,x=FPOGX,y=FPOGY; roles: " + ", ".join(ROLES),
        "metavar": "ROLE=NAME,...",
    },
    "pixels_per_degree": {
        "default": None,
        "help": "pixels of the original picture per degree of visual angle: the Gaussian is then "
        "one degree, unless --sigma_pixels says otherwise",
        "unit": "pixels",
        "least": 1,
        "most": 1000,
    },
    "distance_cm": {
        "default": None,
        "help": "distance of the observers' eyes from the screen; with --screen_cm and --screen it "
        "gives the pixels per degree",
        "unit": "cm",
        "least": 5,
        "most": 1000,
    },
    "screen_cm": {
        "default": None,
        "help": "width of the screen, or width and height such as 53.1x29.9",
        "unit": "cm",
        "metavar": "CM",
    },
    "screen": {
        "default": None,
        "help": "width and height of the screen such as 1920x1080",
        "unit": "pixels",
        "metavar": "WxH",
    },
    "colormap": {"default": "jet", "help": "colours of the overlay", "choices": COLORMAPS},
}


def shared(name: str, **changes: Any) -> Any:
    """Return the declaration of a field that several commands share.

    Args:
        name: key of SHARED.
        changes: arguments of `option` that differ for this command, such as the group of its help.
    """
    return option(**{**SHARED[name], **changes})


@dataclass(frozen=True)
class PlanConfig(Checked):
    """Settings of the split, for data sets without a published split."""

    # whether the split must leave training pictures
    trains: ClassVar[bool] = True

    split_seed: int = option(
        0,
        "seed of the split, for data sets without a published split",
        least=0,
        group="split",
        most=LARGEST_SEED,
    )
    val_share: float = option(
        0.1,
        "share of the pictures for validation, for data sets without a published split",
        least=0,
        most=1,
    )
    test_share: float = option(
        0.2,
        "share of the pictures for testing, for data sets without a published split",
        least=0,
        most=1,
    )
    folds: int = option(
        0,
        "number of parts for cross-validation, one of which is the test part; 0: split by "
        "the shares",
        least=0,
        most=10_000,
    )
    fold: int = option(0, "which of the --folds is the test part, from 0", least=0, most=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = f"--val_share {self.val_share} and --test_share {self.test_share}"
        if self.trains and self.val_share + self.test_share >= 1:
            raise UserError(f"{shares} leave no picture to train on.")
        if self.test_share < 1 < self.val_share + self.test_share:
            raise UserError(f"{shares} add up to more than all pictures.")
        if self.folds == 1 or (self.folds and self.fold >= self.folds):
            raise UserError(
                f"--folds {self.folds} --fold {self.fold}: at least 2 folds are needed, and the "
                "fold counts from 0."
            )

    @property
    def plan(self) -> Plan:
        """The split of a data set without a published split."""
        return Plan(self.split_seed, self.val_share, self.test_share, self.folds, self.fold)


def check_folders(dataset: Sequence[str], data: Sequence[Path]) -> None:
    """Check that data sets are unique, and that there are not more folders than sets.

    Raises:
        UserError: they are not.
    """
    names = " ".join(dataset)
    if len(set(dataset)) < len(dataset):
        raise UserError(f"--dataset names a data set twice: {names}.")
    if len(data) > len([name for name in dataset if name not in BUILT_IN]):
        raise UserError(
            f"--data names {len(data)} folders, but --dataset {names} has fewer sets that need one."
        )


def folders_of(dataset: Sequence[str], data: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """Return data sets with their folders; None for a built-in set or a folder not named."""
    folders = iter(data)
    return [(name, None if name in BUILT_IN else next(folders, None)) for name in dataset]


def check_sizes(rows: int, cols: int, step: int, network: str) -> None:
    """Check that the rows and columns of an input are multiples of a step.

    Raises:
        UserError: one of them is not; the message names the nearest size.
    """
    for flag, size in (("rows", rows), ("cols", cols)):
        if size % step:
            raise UserError(
                f"--{flag} {size} is not a multiple of {step}, which {network} needs. Try "
                f"{max(step, round(size / step) * step)}."
            )


@dataclass(frozen=True)
class TruthConfig(PlanConfig):
    """Settings of the split and of the ground truth."""

    out_of_bounds: str = option(
        "drop",
        "treatment of fixations outside the picture: drop them, or clip them to its border",
        choices=OUT_OF_BOUNDS,
        group="truth",
    )
    sigma_pixels: float | None = option(
        None,
        "standard deviation of the Gaussian that turns fixations into a density map; default: "
        "one degree, if flags tell it, else the data set's own",
        unit="pixels of the original picture",
        least=0.1,
        most=LARGEST_BLUR,
    )
    pixels_per_degree: float | None = shared("pixels_per_degree")
    distance_cm: float | None = shared("distance_cm")
    screen_cm: str | None = shared("screen_cm")
    screen: str | None = shared("screen")
    columns: str = shared("columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degree is None and self.screen is not None:
            raise UserError("--screen needs --distance_cm and --screen_cm, for pixels per degree.")
        check_columns(self.columns, getattr(self, "dataset", ()))

    @property
    def degree(self) -> tuple[float, str] | None:
        """Pixels of the pictures per degree, and the flags that say so; None if unknown."""
        return degree_of(self.pixels_per_degree, self.distance_cm, self.screen_cm, self.screen)

    @property
    def gaussian_pixels(self) -> float | None:
        """Standard deviation of the density maps' Gaussian, pixels: as named, else one degree.

        None for the data set's own.
        """
        if self.sigma_pixels is not None or self.degree is None:
            return self.sigma_pixels
        return round(self.degree[0], 3)

    @property
    def gaussian_origin(self) -> str:
        """The flags that set the Gaussian of the density maps; "" for the data set's own."""
        if self.sigma_pixels is not None:
            return f"--sigma_pixels {self.sigma_pixels:g}"
        return f"one degree, by {self.degree[1]}" if self.degree else ""


def check_columns(columns: str, dataset: str | tuple[str, ...]) -> None:
    """Check names of columns, and that a data set of the user's own has tables.

    Args:
        columns: value of --columns.
        dataset: name of the data set, or names.

    Raises:
        UserError: the text is not ROLE=NAME,..., or all data sets are published ones.
    """
    names = (dataset,) if isinstance(dataset, str) else dataset
    if parse_columns(columns) and not set(names) & set(TABLE_SETS):
        raise UserError(
            f"--columns {columns} names columns of your own table, which --dataset "
            f"{' '.join(names)} does not have: use --dataset folder."
        )


# settings that `train` shares with the commands that prepare for it or score its weights
TRUTH_FIELDS = tuple(field.name for field in dataclasses.fields(TruthConfig))
# of these, those that set the Gaussian: a flag of one replaces all of a training's
GAUSSIAN_FIELDS = ("sigma_pixels", "pixels_per_degree", "distance_cm", "screen_cm", "screen")


@dataclass(frozen=True)
class Config(TruthConfig):
    """One training run. The defaults below are ML-Net's recipe (see SYSTEMS)."""

    model: str = option("mlnet", "system to train", choices=tuple(SYSTEMS), group="network")
    backbone: str = option(
        "vgg16",
        "pretrained network that computes the features; dinov2_small and dinov2_base read the "
        "input at the nearest multiples of 14 pixels, and their weights need keras-hub "
        "(requirements/dinov2.txt)",
        choices=tuple(BACKBONES),
    )
    freeze_backbone: bool = option(
        True, "True trains only the head on frozen ImageNet features; False fine-tunes all weights"
    )
    fixed_blocks: int = option(
        0,
        "with --freeze_backbone False: how many blocks of the backbone, from the first, stay "
        "frozen; their features can be cached (mlnet, multiscale). VGG has five blocks, the "
        "others one for each stage: four or five",
        least=0,
        most=4,
    )
    backbone_weights: str | None = option(
        None,
        "ImageNet weights of the backbone: a file, or 'none' for a random start (the no-transfer "
        "control). Default: the file in weights/, in Keras' cache or downloaded. The salnets start "
        "at random unless a file with VGG-M's first three convolutions is named (.h5 or .npz)",
    )
    init_weights: Path | None = option(
        None,
        "start from all weights of a trained network (.weights.h5), for example of another data "
        "set",
    )
    rows: int = option(480, "height of the network's input", unit="pixels", least=8, most=16384)
    cols: int = option(640, "width of the network's input", unit="pixels", least=8, most=16384)
    width: float = option(
        1.0,
        "share of the channels of every hidden layer; below 1 is for tests and demos, and no "
        "ImageNet weights fit",
        least=0.001,
        most=4,
    )
    light: bool = option(
        False, "a quarter of the decoder's channels, for small machines (resnet50-decoder)"
    )
    theano_pooling: bool = option(
        False,
        "pool, and up-sample the prior, as the code of 2016 did on Theano; for weights trained "
        "with it, whose files set it (mlnet on VGG)",
    )
    scales: tuple[float, ...] = option(
        (1.0, 0.5),
        "scales at which the backbone sees the picture, shares of the input's size (multiscale)",
        least=0,
        most=1,
    )
    readout: tuple[int, ...] = option(
        (64, 32),
        "channels of the 1x1 convolutions of the read-out, before the last, which has one "
        "(multiscale)",
        least=1,
        most=4096,
    )
    dropout: float = option(0.5, "share of the features dropped before the head", least=0, most=1)
    dataset: tuple[str, ...] = shared(
        "dataset",
        default=("osie",),
        help="data set, or several that are trained on together",
        group="data",
    )
    data: tuple[Path, ...] = shared(
        "data", default=(), help="folder of each data set that needs one, in the order of --dataset"
    )
    mix: tuple[float, ...] = option(
        (),
        "shares of the data sets in an epoch, such as 3 1; default: every picture once",
        least=0,
        most=1e6,
    )
    flip: bool = option(False, "mirror half of the training pictures with their maps and fixations")
    workers: int = option(2, "threads that read pictures", least=1, most=1024)
    feature_cache: str = option(
        "auto",
        "cache the output of the frozen layers and train on it; auto: if there is room and reading "
        "takes less time than computing",
        choices=FEATURE_CACHES,
        group="features",
    )
    feature_precision: str = option(
        "float16",
        "number format of cached features; float32 trains exactly as without a cache, but takes "
        "twice the space",
        choices=FEATURE_PRECISIONS,
    )
    cache_limit: str = option(
        "50GB",
        "largest size of the user's cache; the least recently used results are removed first",
    )
    loss: str = option(
        "mlnet",
        "one of " + ", ".join(LOSSES) + ", or a weighted sum such as kld+0.5*nss",
        group="training",
    )
    optimizer: str = option("sgd", "optimiser", choices=OPTIMIZERS)
    learning_rate: float = option(1e-3, "step size at the start", least=0, most=1e30)
    learning_rate_end: float | None = option(
        None,
        "step size of the last epoch, with a linear change from epoch to epoch; default: off",
        least=0,
        most=1e30,
    )
    momentum: float = option(0.9, "momentum of sgd, at the start", least=0, most=1)
    momentum_end: float | None = option(
        None,
        "momentum of sgd in the last epoch, with a linear change from epoch to epoch; default: off",
        least=0,
        most=1,
    )
    nesterov: bool = option(True, "Nesterov momentum, for sgd")
    decay: float = option(
        5e-4, "the step size after t steps is learning_rate / (1 + decay * t)", least=0, most=1e3
    )
    weight_decay: float = option(
        0.004,
        "weight decay of adamw, which is multiplied by the step size. With other optimisers: "
        "L2 regularisation of the salnets' kernels; ML-Net has none",
        least=0,
        most=1e3,
    )
    batch_size: int = option(10, "pictures a step", unit="pictures", least=1, most=2**16)
    epochs: int = option(20, "most passes over the training pictures", least=1, most=10**6)
    patience: int = option(
        5,
        "stop after this many epochs without a lower validation loss",
        unit="epochs",
        least=1,
        most=10**6,
    )
    criterion: str = option(
        "worst",
        "with several data sets: the best epoch has the highest information gain on the "
        "validation pictures of the worst set, or in the mean of the sets (multiscale)",
        choices=CRITERIA,
    )
    seed: int = option(
        0, "seed of initial weights, order, dropout and flips", least=0, most=LARGEST_SEED
    )
    on_nan: str = option(
        "stop",
        "if the loss of a step is NaN or infinite: stop; skip the step; or rewind to the weights "
        "at the start of the epoch and continue with the next step",
        choices=ON_NAN,
    )
    precision: str = option(
        "float32",
        "number format of the computation. Mixed formats take less memory and time on a GPU, "
        "bfloat16 also on many CPUs. Weights, prior and loss stay float32; mixed_float16 scales "
        "the loss",
        choices=PRECISIONS,
        group="speed",
    )
    micro_batch: int | None = option(
        None,
        "pictures of a batch that are in memory at once; their gradients are accumulated to an "
        "update of the whole batch; default: the whole batch",
        unit="pictures",
        least=1,
        most=2**16,
    )
    steps_per_execution: int = option(
        1, "updates per call of the compiled step (tensorflow, jax)", least=1, most=10**4
    )
    xla: str = option(
        "auto",
        "compile the training step with XLA: auto leaves it to Keras; on tries it and falls back. "
        "With tensorflow, on gives up deterministic operations, which Keras cannot compile",
        choices=XLA,
    )
    devices: int = option(
        1,
        "devices of each process that share each batch; more than one needs JAX",
        least=1,
        group="devices",
        most=2**16,
    )
    cluster: bool = option(
        False,
        "train together with the other processes of a SLURM step (srun), or with the processes in "
        "the environment variable TF_CONFIG; needs JAX",
    )
    cluster_timeout: float = option(
        120.0,
        "time that the processes wait for one another at the start",
        unit="s",
        least=1,
        most=86400,
    )
    output: Path | None = option(
        None,
        "run folder; default: runs/MODEL-frozen-DATASET or runs/MODEL-finetuned-DATASET, or with "
        "a random start runs/MODEL-scratch-frozen-DATASET or runs/MODEL-scratch-DATASET; "
        "MODEL-BACKBONE if the backbone is not the recipe's",
        group="output",
    )
    overwrite: bool = option(False, "replace an earlier run in the run folder")
    resume: bool = option(
        False,
        "resume the run in the run folder, or start it. An unfinished run of the same settings is "
        "resumed without this flag, too; with it, a finished run is no error",
    )
    checkpoint_minutes: float = option(
        10.0,
        "time between checkpoints within an epoch; each epoch and each signal also saves one",
        unit="minutes",
        least=0,
        most=10**4,
    )
    weights_dir: Path = shared("weights_dir", help="folder that the best weights are copied to")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_loss(self.loss)
        parse_bytes(self.cache_limit, "--cache_limit")
        self.check_sets()
        if self.light and not self.own.has_light_decoder:
            able = [name for name, system in SYSTEMS.items() if system.has_light_decoder]
            raise UserError(f"--light is for {able[0]}; {self.model} has no such decoder.")
        if self.init_weights and self.backbone_weights:
            raise UserError(
                f"--init_weights {self.init_weights} includes the backbone: leave out "
                f"--backbone_weights {self.backbone_weights}."
            )
        if not self.own.takes_any_backbone and self.backbone != self.own_backbone:
            raise UserError(
                f"--backbone {self.backbone} does not fit {self.model}. It is for "
                f"{', '.join(name for name in SYSTEMS if SYSTEMS[name].takes_any_backbone)}."
            )
        on_vgg = BACKBONES[self.backbone].is_vgg
        if self.theano_pooling and not (self.own.pools_as_theano and on_vgg):
            raise UserError("--theano_pooling is for mlnet on vgg16 or vgg19.")
        if self.fixed_blocks and not self.own.fixes_blocks:
            able = " and ".join(name for name in SYSTEMS if SYSTEMS[name].fixes_blocks)
            raise UserError(f"--fixed_blocks is for {able}.")
        blocks = BACKBONES[self.backbone].blocks
        if self.fixed_blocks >= blocks:
            raise UserError(
                f"--fixed_blocks {self.fixed_blocks}: {self.backbone} has {blocks} blocks. Choose "
                f"at most {blocks - 1}, or --freeze_backbone True."
            )
        if not self.scales or not self.readout:
            raise UserError("--scales and --readout each need at least one value.")
        step = 80 if self.theano_pooling else self.own.size_step
        if self.own.takes_any_backbone:
            step = math.lcm(step, BACKBONES[self.backbone].size_step)
        check_sizes(self.rows, self.cols, step, self.system)
        if self.learning_rate_end is not None and self.decay:
            raise UserError(
                f"--learning_rate_end {self.learning_rate_end} and --decay {self.decay} are two "
                "schedules of the step size. Switch one off: --decay 0."
            )
        if self.dropout >= 1:
            raise UserError(f"--dropout {self.dropout} drops everything. Choose less than 1.")

    def check_start(self) -> None:
        """Check that the system supports the loss and the initial weights, before it is built.

        Raises:
            UserError: the loss belongs to another system; there are weights for a system without a
                backbone; or only random weights would be frozen.
        """
        for _, name in parse_loss(self.loss):
            if name in OWN_LOSSES and name != self.model:
                shared = ", ".join(loss for loss in LOSSES if loss not in OWN_LOSSES)
                raise UserError(
                    f"--loss {self.loss}: '{name}' is the loss of another system. For {self.model} "
                    f"choose from {shared}."
                )
        named = self.backbone_weights not in (None, "none")
        if not self.own.has_backbone and (self.freeze_backbone or named):
            raise UserError(
                f"{self.model} is trained from scratch and has no backbone: leave out "
                "--backbone_weights and --freeze_backbone True."
            )
        nothing = self.backbone_weights is None and self.init_weights is None
        if self.own.random_unless_named and self.freeze_backbone and nothing:
            raise UserError(
                "--freeze_backbone True would freeze random convolutions: name VGG-M's weights "
                "with --backbone_weights PATH, or confirm random ones with --backbone_weights none."
            )

    def check_sets(self) -> None:
        """Check that data sets are unique, and that folders and shares match them."""
        check_folders(self.dataset, self.data)
        if self.mix and (len(self.mix) != len(self.dataset) or not all(self.mix)):
            raise UserError(
                f"--mix {' '.join(f'{share:g}' for share in self.mix)}: one positive share for "
                f"each data set is needed ({' '.join(self.dataset)})."
            )

    @property
    def sets(self) -> list[tuple[str, Path | None]]:
        """The data sets and their folders; None for a built-in set or a folder not named."""
        return folders_of(self.dataset, self.data)

    @property
    def part_size(self) -> int | None:
        """Pictures of a batch that are in memory at once; None for the whole batch."""
        smaller = self.micro_batch is not None and self.micro_batch < self.batch_size
        return self.micro_batch if smaller else None

    @property
    def dataset_name(self) -> str:
        """The data sets in one word, such as salicon+osie."""
        return "+".join(self.dataset)

    @property
    def starts_at_random(self) -> bool:
        """Whether no weights are transferred."""
        if self.init_weights is None and self.backbone_weights is None:
            return self.own.random_unless_named
        return self.backbone_weights == "none"

    @property
    def strategy(self) -> str:
        """The name of the transfer strategy: frozen, finetuned or scratch."""
        if self.starts_at_random:
            return "scratch-frozen" if self.freeze_backbone else "scratch"
        return "frozen" if self.freeze_backbone else "finetuned"

    @property
    def own(self) -> System:
        """The system's row of SYSTEMS."""
        return SYSTEMS[self.model]

    @property
    def own_backbone(self) -> str:
        """The backbone of the system's recipe."""
        return self.own.recipe.get("backbone", Config.backbone)

    @property
    def system(self) -> str:
        """The system's name, with the backbone if it is not the recipe's."""
        return self.model + ("" if self.backbone == self.own_backbone else f"-{self.backbone}")

    @property
    def name(self) -> str:
        """The run's name, such as mlnet-frozen-osie, for its files in weights/ and runs/."""
        # a run that starts from other weights does not replace them in weights/
        on = "-on" if self.init_weights else ""
        return f"{self.system}-{self.strategy}{on}-{self.sets_name}"

    @property
    def sets_name(self) -> str:
        """The data sets in a file name; the user's own with the folder, such as folder-mine."""
        words = [
            f"{name}-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', real_path(root).name)[:40]}"
            if name in OWN_SETS and root
            else name
            for name, root in self.sets
        ]
        return "+".join(words)[:120]

    def check_set(self, of_set: object) -> None:
        """Check that a network of these settings can use the numbers of a data set.

        Args:
            of_set: name of the set; `SetNumbers` that were fitted; or None.

        Raises:
            UserError: it was not trained on the set, or has no numbers of sets.
        """
        is_name = isinstance(of_set, str)
        if of_set is not None and not self.own.has_numbers:
            flag = f"--set {of_set}" if is_name else "--adaptation with numbers in the network"
            raise UserError(
                f"{flag}: {self.model} has no numbers of data sets. Leave it out, or name "
                "weights of multiscale."
            )
        if is_name:
            row_of(self.dataset, of_set)

    @property
    def run_folder(self) -> Path:
        """The folder that the run writes to."""
        return self.output or Path("runs") / self.name

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and columns of the network's input, pixels."""
        return self.rows, self.cols

    @property
    def cache_bytes(self) -> int:
        """Limit of the user's cache, bytes."""
        return parse_bytes(self.cache_limit, "--cache_limit")


@dataclass(frozen=True)
class TrainConfig(Config):
    """Train a network, frozen or fine-tuned.

    Train a network on a data set; the best weights also go to weights/.
    """

    config: Path | None = option(
        None,
        "settings file of an earlier run (config.json); flags override it",
        metavar="FILE",
        group="several runs, or a repeated run",
    )
    strategies: tuple[str, ...] = option(
        (),
        "train these arms one after the other and compare them on the test split",
        choices=tuple(STRATEGIES),
        metavar="STRATEGY",
    )
    seeds: tuple[int, ...] = option(
        (),
        "with --strategies: train every arm with each of these seeds (default: --seed)",
        least=0,
        most=LARGEST_SEED,
    )

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings: the recipe of the system, then `--config`, then the flags."""
        run = {name: value for name, value in flags.items() if name not in cls.of_command()}
        own = {name: value for name, value in flags.items() if name not in run}
        if own.get("seeds") and not own.get("strategies"):
            raise UserError("--seeds needs --strategies; for one run use --seed.")
        if own.get("strategies") and "freeze_backbone" in run:
            raise UserError(
                "--strategies sets --freeze_backbone of each arm: leave out one of them."
            )
        return cls(**vars(resolve(run, own.get("config"))), **own)

    @classmethod
    def of_command(cls) -> set[str]:
        """Return the names of the fields that belong to the command and not to a run."""
        return {f.name for f in dataclasses.fields(cls)} - {
            f.name for f in dataclasses.fields(Config)
        }

    @property
    def run(self) -> Config:
        """The settings of the run, or the settings that all arms share."""
        return Config(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Config)}
        )


@dataclass(frozen=True)
class PredictConfig(Checked):
    """Write saliency maps of pictures and videos.

    Write an 8-bit PNG saliency map of each picture, at the picture's own size. For a video, write
    an overlay and the maps of its frames.
    """

    images: tuple[str, ...] = option(
        (), "a folder, a picture, a video, or a glob such as 'a/*.jpg'", words="*"
    )
    weights: Path | None = shared("weights", group="input")
    weights_dir: Path = shared("weights_dir")
    recursive: bool = option(False, "also search the sub-folders of a folder")
    listed: Path | None = option(
        None,
        "also predict the pictures that this file lists, one path a line, relative to the current "
        "folder; '-' reads standard input",
        flag="list",
    )
    shard: str = option(
        "1/1",
        "process only the I-th of N parts of the pictures, such as 2/8; I counts from 1. N workers "
        "with the same pictures and output process each picture once",
    )
    output: Path = option(Path("predictions"), "folder for the saliency maps", group="output")
    overwrite: bool = option(False, "predict again if the output exists")
    overlay: bool = option(False, "also write the map as a heat map over the picture")
    float_maps: bool = option(False, "also write the map as 32-bit .npy", flag="float")
    density: bool = option(
        False,
        "also write the probability of a fixation at each pixel, as natural logarithms, 32-bit "
        ".npy",
    )
    colormap: str = shared("colormap")
    of_set: str | None = shared("of_set")
    smooth: float = shared("smooth")
    mirror: bool = shared("mirror")
    adaptation: Path | None = shared("adaptation")
    match: Path | None = option(
        None,
        "match the histogram of each map to this map, a grey picture or a .npy, after the blur",
    )
    threshold: float = option(
        0.0, "set values below to 0, as the last step; the maximum of a map is 1", least=0, most=1
    )
    contours: bool = option(
        False,
        "also write the picture with contours of its most salient 5, 10 and 20 % of the area",
        group="marks",
    )
    peaks: int = option(
        0,
        "also write this many of the most salient points as JSON, and number them in drawings over "
        "the picture",
        least=0,
        most=10**4,
    )
    crop: str | None = option(
        None,
        "also write the crop of this aspect ratio that keeps most saliency: width:height such as "
        "16:9, or a number such as 1.91",
    )
    mask: float = option(
        0.0,
        "also write the most salient part as a black-and-white mask; its share of the area",
        least=0,
        most=1,
    )
    side_by_side: bool = option(
        False, "also write picture, map in colours and overlay side by side in one picture"
    )
    page: bool = option(
        False,
        "also write index.html, one file that shows the pictures with their maps, contours and "
        "strongest points, and sorts them; of a video, some key frames",
        group="page",
    )
    gallery: int = option(
        100, "pictures shown on the page, the first ones", unit="pictures", least=1, most=1000
    )
    regions: Path | None = option(
        None,
        "the shares of these regions on the page, as in the command regions; also writes densities",
        metavar="FILE",
    )
    against: str | None = option(
        None,
        "a folder of other versions of the pictures or videos, or other weights (file or name): "
        "the page shows both side by side with their difference",
        metavar="WHAT",
    )
    every: int = option(
        1,
        "predict each N-th frame of a video, and the first after a cut; maps between them are "
        "interpolated",
        unit="frames",
        least=1,
        group="video",
        most=10**6,
    )
    temporal_smoothing: float = option(
        0.0,
        "standard deviation of a Gaussian over time, in both directions, on the maps of a video",
        unit="seconds",
        least=0,
        most=2,  # the maps of six times this duration are held in memory
    )
    video_maps: str = option(
        "png",
        "format of a video's maps beside the overlay: a folder of PNGs, one .npz (8 bits, or "
        "float16 with --float), a grey video, or none",
        choices=VIDEO_MAPS,
        flag="maps",
    )
    engine: str = shared("engine", group="speed")
    batch_size: int = option(1, "pictures a step", unit="pictures", least=1, most=2**16)
    workers: int = option(2, "threads that read and write pictures", least=1, most=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        part, parts = self.part
        if not 0 <= part < parts:
            raise UserError(
                f"--shard {self.shard}: expected PART/PARTS, with parts counted from 1, such as "
                "1/4 to 4/4."
            )
        if self.page and parts > 1:
            raise UserError(
                "--page needs all pictures: repeat the command without --shard when all parts are "
                "done. Nothing is predicted twice."
            )
        for name in ("regions", "against"):
            if getattr(self, name) is not None and not self.page:
                raise UserError(f"--{name} {getattr(self, name)} is for the page: add --page.")

    @property
    def part(self) -> tuple[int, int]:
        """The part of the pictures to process, from 0, and the number of parts."""
        found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", self.shard)
        return (int(found[1]) - 1, int(found[2])) if found else (-1, 0)


def parse_loss(text: str) -> list[tuple[float, str]]:
    """Return the (weight, name) terms of a loss such as `kld+0.5*nss`.

    >>> parse_loss("kld+0.5*nss")
    [(1.0, 'kld'), (0.5, 'nss')]

    Raises:
        UserError: a name is unknown, or a weight is not a positive number.
    """
    terms = []
    for part in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d*\.?\d+(?:e-?\d+)?)\*)?([a-z]\w*)", part)
        if not match or not 0 < float(match[1] or 1) <= LARGEST_LOSS_WEIGHT:
            raise UserError(
                f"--loss {text}: '{part}' is not NAME or WEIGHT*NAME, such as 0.5*nss, with a "
                f"weight above 0 and at most {LARGEST_LOSS_WEIGHT:g}."
            )
        if match[2] not in LOSSES:
            raise UserError(
                f"--loss {text}: unknown '{match[2]}'. {did_you_mean(match[2], LOSSES)}"
            )
        terms.append((float(match[1] or 1), match[2]))
    return terms


def recipe_of(model: str) -> dict[str, Any]:
    """Return the published recipe of a system; {} for an unknown one, which Config rejects."""
    return SYSTEMS[model].recipe if model in SYSTEMS else {}


def resolve(flags: dict[str, Any], file: Path | None = None) -> Config:
    """Return a run's settings: the recipe of its system, overridden by the file, then by the flags.

    Raises:
        UserError: the file has an unknown field or a wrong type, or a value is out of range.
    """
    from_file = read_settings(file) if file else {}
    # these belong to one call and one machine: a repeated run must name them again
    for name in NOT_REPEATED:
        from_file.pop(name, None)
    model = flags.get("model", from_file.get("model", Config.model))
    if from_file.get("model", model) != model:
        raise UserError(
            f"--model {model}: {file} holds the settings of {from_file['model']}, which do not "
            "apply to another system. Leave out one of them."
        )
    return Config(**{**recipe_of(model), **from_file, **flags})


def read_settings(file: Path) -> dict[str, Any]:
    """Return the fields of a settings file that `save` wrote."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no settings: a JSON object of fields is expected.")
    return from_json(values, where=str(file))


def from_json(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return JSON values as field values of Config, each checked for its type."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    result = {}
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"{where}: unknown field '{name}'. {did_you_mean(name, fields)}")
        annotation = fields[name].type
        about = f"{where}: field '{name}'"
        if takes_many(annotation):
            # files of earlier versions hold a single value, or null
            values_of = value if isinstance(value, list) else [] if value is None else [value]
            result[name] = tuple(typed(one, value_type(annotation), about) for one in values_of)
        elif value is None and isinstance(annotation, types.UnionType):
            result[name] = None
        else:
            result[name] = typed(value, value_type(annotation), about)
    return result


def save(settings: Config, file: Path) -> None:
    """Write a run's resolved settings as JSON; `--config FILE` reads them."""
    write_json(file, to_json(settings))


def config_of(card: dict[str, Any], path: Path) -> Config:
    """Return the training settings that the card of a weights file records.

    Raises:
        UserError: it lacks them, or they are not valid.
    """
    if not isinstance(card.get("config"), dict):
        raise UserError(f"{path}: its card lacks the settings of the model.")
    return Config(**from_json(card["config"], where=f"the card of {path}"))


def trained_config(path: Path) -> Config:
    """Return the settings that the weights of a file were trained with.

    Raises:
        UserError: the file cannot be read, or its card lacks the settings.
    """
    from salience.networks import weight_files  # here: it imports h5py, and `--help` must be quick

    return config_of(weight_files.read_card(path), path)


def is_same_data(trained: Config, name: str, root: Path | None) -> bool:
    """Return whether a training had the data set of a name that is in a folder now.

    Of one's own sets, several share a name. A folder that is there no more has moved.
    """
    if name not in trained.dataset:
        return False
    before = dict(trained.sets)[name]
    if name not in OWN_SETS or before is None or root is None:
        return True
    files = split_pair(before) or (before,)
    is_there = all(file.exists() for file in files)
    return not is_there or real_path(source_of(before)) == real_path(source_of(root))


def source_of(root: Path) -> Path:
    """Return the folder that a store was prepared from; any other folder is its own source."""
    from salience.data import store  # here: it imports NumPy

    with suppress(UserError):
        return store.Store.open(root).source if store.is_store(root) else root
    return root


def lineage(trained: Config) -> tuple[list[Config], Path | None]:
    """Return the settings of a training and of all trainings that its initial weights came from.

    Args:
        trained: the settings of the last training.

    Returns:
        The settings, the last training's first; and the file of initial weights that cannot be read
        any more, or that one of these trainings has replaced since, or None.
    """
    found = [trained]
    while (path := found[-1].init_weights) is not None:
        try:
            earlier = trained_config(path)
        except UserError:
            return found, path
        if earlier in found:
            return found, path
        found.append(earlier)
    return found, None
