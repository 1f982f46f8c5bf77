"""What `train` and `test` can be told: defaults, meanings, units; and each system's recipe.

The command line's flags are made from the dataclasses here, so each fact stands once; those of the
other commands are in `commands/settings.py`. A run's settings are resolved in this order, later
ones winning: the recipe of the system, `--config FILE`, the flags.
"""

import dataclasses
import math
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from salience.data.plan import Plan
from salience.networks.backbone_table import BACKBONES
from salience.system.errors import UserError, did_you_mean
from salience.system.files import HERE, read_json, real_path, write_json
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
        module: see `model.system_module`.
        size_step: pixels that the rows and columns of its input must divide by.
        recipe: what its authors published, as fields of Config; all others keep their defaults.
        own_loss: whether its published loss is not a sum of those that all share.
        takes_any_backbone: whether it can be built on another backbone than the recipe's.
        adapts_vgg: whether, on a VGG, it can pool as on Theano and fix single blocks.
        has_light_decoder: whether its decoder can be made with a quarter of the channels.
        has_backbone: whether there is one to freeze.
        random_unless_named: it starts at random unless a file is named, since nobody offers its
            weights for download.
    """

    module: str
    size_step: int
    recipe: dict[str, Any]
    own_loss: bool = False
    takes_any_backbone: bool = False
    adapts_vgg: bool = False
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
    "patience": 25,  # that is, to the end
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
            "decay": 5e-4,  # Keras 1's argument of this name: a division at every step
            "epochs": 20,
            "patience": 5,
        },
        own_loss=True,
        takes_any_backbone=True,
        adapts_vgg=True,
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
            # a map m from 0 to 1 is its output z from -1 to 1 as (z + 1) / 2, and its truth y is
            # fitted as 2 y - 1: the published mean of (z - (2 y - 1))^2 is four times that of
            # (m - y)^2
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
            "patience": 1200,  # that is, to the end
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
            "patience": 200,  # that is, to the end
        },
        has_light_decoder=True,
    ),
    "linear-probe": System(
        "salience.networks.linear_probe",
        16,
        {  # frozen, on SALICON's size; the loss is what ridge regression minimises, and
            # the steps are ours: they end where the exact solution of `probe` is
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
}
DATASETS = tuple(sorted(p.stem for p in (HERE / "salience/data/sets").glob("[!_]*.py")))
BUILT_IN = ("synthetic",)  # data sets without files
OWN_SETS = ("folder", "npy")  # named alike, whatever they hold
OPTIMIZERS = ("sgd", "adam", "adamw")
OWN_LOSSES = tuple(name for name, system in SYSTEMS.items() if system.own_loss)
LOSSES = (*OWN_LOSSES, "kld", "cc", "nss", "mse", "bce")
COLORMAPS = ("jet", "turbo", "viridis", "inferno", "hot", "parula", "magma", "plasma")
# the arms of the transfer question, as what they change in a run's settings
STRATEGIES: dict[str, dict[str, Any]] = {
    "frozen": {"freeze_backbone": True},
    "finetuned": {"freeze_backbone": False},
    "scratch": {"freeze_backbone": False, "fixed_blocks": 0, "backbone_weights": "none"},
}
OUT_OF_BOUNDS = ("drop", "clip")
FEATURE_CACHES = ("auto", "on", "off")
FEATURE_PRECISIONS = ("float16", "float32")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
LARGEST_SEED = 2**32 - 1  # of NumPy's and Keras' generators
LARGEST_BLUR = 1000  # pixels: a degree of sight spans some 200 on an 8K screen
LARGEST_LOSS_WEIGHT = 1e6
XLA = ("auto", "on", "off")
ON_NAN = ("stop", "skip", "rewind")
# of a run's settings, when --config reads them
NOT_REPEATED = ("overwrite", "resume", "devices", "cluster")
# what runs a network in `test`
ENGINES = ("auto", "openvino", "onnx", "keras")
VIDEO_MAPS = ("png", "npz", "video", "none")


# fields that several commands have, each declared here alone
SHARED: dict[str, dict[str, Any]] = {
    "dataset": {"default": "osie", "help": "data set", "choices": DATASETS},
    "data": {"default": None, "help": "folder of the data set"},
    "sources": {
        "default": (),
        "help": "folder of the data set, or the archives it came in (.zip, .tar, .tar.gz)",
    },
    "weights": {
        "default": None,
        "help": "weights file (.weights.h5); default: the newest of your own in "
        "weights/ (main.py weights lists them and pins a choice)",
    },
    "weights_dir": {
        "default": Path("weights"),
        "help": "folder searched where no --weights is given",
    },
    "engine": {
        "default": "auto",
        "help": "what runs the network; auto is the fastest that is installed, and keras where "
        "there is a GPU or KERAS_BACKEND names jax or torch",
        "choices": ENGINES,
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
        "help": "predict each picture's mirror image, too, and average the two maps: twice the "
        "time",
    },
    "adaptation": {
        "default": None,
        "help": "give the maps the bias of a data set: a file that `adapt` wrote for these "
        "weights, or its name, such as eyecrowd",
    },
    "colormap": {"default": "jet", "help": "colours of the overlay", "choices": COLORMAPS},
}


def shared(name: str, **changes: Any) -> Any:
    """Return the declaration of a field that several commands have.

    Args:
        name: of SHARED.
        changes: what this command says otherwise, such as the group in its help.
    """
    return option(**{**SHARED[name], **changes})


@dataclass(frozen=True)
class PlanConfig(Checked):
    """How the pictures of a data set that brings no split are divided."""

    # whether some pictures must be left to train on
    trains: ClassVar[bool] = True

    split_seed: int = option(
        0,
        "seed of the split where the data set brings none",
        least=0,
        group="split",
        most=LARGEST_SEED,
    )
    val_share: float = option(
        0.1,
        "share of the pictures that validates, where the data set brings no split",
        least=0,
        most=1,
    )
    test_share: float = option(
        0.2, "share of the pictures that tests, where the data set brings no split", least=0, most=1
    )
    folds: int = option(
        0,
        "divide the pictures into so many parts, one of which tests; 0: by the shares",
        least=0,
        most=10_000,
    )
    fold: int = option(0, "which of the --folds tests, counted from 0", least=0, most=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = f"--val_share {self.val_share} and --test_share {self.test_share}"
        if self.trains and self.val_share + self.test_share >= 1:
            raise UserError(f"{shares} leave no picture to train on.")
        if self.test_share < 1 < self.val_share + self.test_share:
            raise UserError(f"{shares} are more than all pictures.")
        if self.folds == 1 or (self.folds and self.fold >= self.folds):
            raise UserError(
                f"--folds {self.folds} --fold {self.fold}: at least 2 folds are needed, and the "
                "fold counts from 0."
            )

    @property
    def plan(self) -> Plan:
        """How a data set without a split of its own is divided."""
        return Plan(self.split_seed, self.val_share, self.test_share, self.folds, self.fold)


def check_sizes(rows: int, cols: int, step: int, network: str) -> None:
    """Refuse an input whose sides do not divide by what a network needs.

    Raises:
        UserError: they do not; it names the nearest size that does.
    """
    for flag, size in (("rows", rows), ("cols", cols)):
        if size % step:
            raise UserError(
                f"--{flag} {size} does not divide by {step}, as the input of {network} must. Try "
                f"{max(step, round(size / step) * step)}."
            )


@dataclass(frozen=True)
class TruthConfig(PlanConfig):
    """How the pictures of a data set are divided, and what their truth is made of."""

    out_of_bounds: str = option(
        "drop",
        "what is done with fixations outside the picture: drop them, or clip them to its border",
        choices=OUT_OF_BOUNDS,
        group="truth",
    )
    sigma_pixels: float | None = option(
        None,
        "Gaussian that turns fixations into a density map; default: the data set's own",
        unit="pixels of the original picture",
        least=0.1,
        most=LARGEST_BLUR,
    )


# the settings that a training shares with what prepares for it and what scores it
TRUTH_FIELDS = tuple(field.name for field in dataclasses.fields(TruthConfig))


@dataclass(frozen=True)
class Config(TruthConfig):
    """One training run. The defaults below are ML-Net's recipe (see SYSTEMS)."""

    model: str = option("mlnet", "system to train", choices=tuple(SYSTEMS), group="network")
    backbone: str = option(
        "vgg16", "network whose features the system is built on", choices=tuple(BACKBONES)
    )
    freeze_backbone: bool = option(
        True, "True trains only the head on frozen ImageNet features, False fine-tunes all weights"
    )
    fixed_blocks: int = option(
        0,
        "with --freeze_backbone False, fine-tune all but the first so many of VGG's five blocks, "
        "whose features can then be kept (mlnet)",
        least=0,
        most=4,
    )
    backbone_weights: str | None = option(
        None,
        "ImageNet weights of the backbone: a file, or 'none' for a random start (the no-transfer "
        "control); otherwise weights/, Keras' cache or its download are used. The salnets start at "
        "random unless a file with VGG-M's first three convolutions is named (.h5 or .npz)",
    )
    init_weights: Path | None = option(
        None,
        "begin with all weights of a network trained before (.weights.h5), on another data set say",
    )
    rows: int = option(480, "height of the network's input", unit="pixels", least=8, most=16384)
    cols: int = option(640, "width of the network's input", unit="pixels", least=8, most=16384)
    width: float = option(
        1.0,
        "share of the channels of every hidden layer; below 1 is a toy for tests and demos, "
        "which no ImageNet weights fit",
        least=0.001,
        most=4,
    )
    light: bool = option(
        False, "a quarter of the decoder's channels, for small machines (resnet50-decoder)"
    )
    theano_pooling: bool = option(
        False,
        "pool, and up-sample the prior, as the code of 2016 did on Theano; for weights trained so, "
        "which bring it along (mlnet on VGG)",
    )
    dropout: float = option(0.5, "share of the features dropped before the head", least=0, most=1)
    dataset: tuple[str, ...] = shared(
        "dataset",
        default=("osie",),
        help="data set, or several to train on together",
        group="data",
    )
    data: tuple[Path, ...] = shared(
        "data", default=(), help="folder of each data set that needs one, in the order of --dataset"
    )
    mix: tuple[float, ...] = option(
        (),
        "shares of an epoch that the data sets make up, such as 3 1; default: every picture once",
        least=0,
        most=1e6,
    )
    flip: bool = option(False, "mirror half of the training pictures, their maps and fixations")
    workers: int = option(2, "threads that read pictures", least=1, most=1024)
    feature_cache: str = option(
        "auto",
        "keep on disk what the frozen layers make of each picture, and train on that; auto: where "
        "there is room and more than one epoch",
        choices=FEATURE_CACHES,
        group="features",
    )
    feature_precision: str = option(
        "float16",
        "how features are kept: float32 trains exactly as without a cache, in twice the space",
        choices=FEATURE_PRECISIONS,
    )
    cache_limit: str = option(
        "50GB", "room that the user's cache may take; what is longest unused goes first"
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
        "step size of the last epoch, reached in equal steps from epoch to epoch; default: off",
        least=0,
        most=1e30,
    )
    momentum: float = option(0.9, "momentum of sgd, at the start", least=0, most=1)
    momentum_end: float | None = option(
        None,
        "momentum of sgd in the last epoch, reached in equal steps from epoch to epoch; default: "
        "off",
        least=0,
        most=1,
    )
    nesterov: bool = option(True, "Nesterov's form of momentum, for sgd")
    decay: float = option(
        5e-4, "the step size after t steps is learning_rate / (1 + decay * t)", least=0, most=1e3
    )
    weight_decay: float = option(
        0.004,
        "share of every weight that adamw takes off, times the step size; the salnets' kernels "
        "under the other optimisers: the same share, through the gradient (L2). ML-Net has none "
        "but adamw's",
        least=0,
        most=1e3,
    )
    batch_size: int = option(10, "pictures a step", unit="pictures", least=1, most=2**16)
    epochs: int = option(20, "passes over the training pictures at the most", least=1, most=10**6)
    patience: int = option(
        5,
        "stop after so many epochs without a lower validation loss",
        unit="epochs",
        least=1,
        most=10**6,
    )
    seed: int = option(0, "seed of weights, order, dropout and flips", least=0, most=LARGEST_SEED)
    on_nan: str = option(
        "stop",
        "where a step's loss is no number: stop; skip that step; or rewind, go back to the weights "
        "of the epoch's start and go on with the next step",
        choices=ON_NAN,
    )
    precision: str = option(
        "float32",
        "what the network computes in. The mixed ones take less memory and time on a GPU, bfloat16 "
        "on many processors, too; weights, prior and loss stay float32, and mixed_float16 scales "
        "the loss",
        choices=PRECISIONS,
        group="speed",
    )
    micro_batch: int | None = option(
        None,
        "hold so many pictures of a batch at once, and add up their gradients: an update of the "
        "whole batch in less memory; default: all of them",
        unit="pictures",
        least=1,
        most=2**16,
    )
    steps_per_execution: int = option(
        1, "updates that are run before Python looks again (tensorflow, jax)", least=1, most=10**4
    )
    xla: str = option(
        "auto",
        "compile the step as a whole: on tries it and falls back, auto leaves it to Keras. Under "
        "tensorflow, on gives up its reproducible operations, with which Keras does not compile",
        choices=XLA,
    )
    devices: int = option(
        1,
        "devices that share each batch, in each process; more than one needs JAX",
        least=1,
        group="devices",
        most=2**16,
    )
    cluster: bool = option(
        False,
        "train together with the other processes of a SLURM step (srun), or with those that the "
        "environment variable TF_CONFIG lists; needs JAX",
    )
    cluster_timeout: float = option(
        120.0,
        "how long the processes wait for one another at the start",
        unit="s",
        least=1,
        most=86400,
    )
    output: Path | None = option(
        None,
        "run folder; default: runs/MODEL-frozen-DATASET or runs/MODEL-finetuned-DATASET, or with "
        "a random start runs/MODEL-scratch-frozen-DATASET or runs/MODEL-scratch-DATASET; "
        "MODEL-BACKBONE where that is another than the recipe's",
        group="output",
    )
    overwrite: bool = option(False, "replace an earlier run in the run folder")
    resume: bool = option(
        False,
        "go on with the run in the run folder, or begin it. An unfinished one of these settings is "
        "taken up without this, too; with it, one that is done is no mistake",
    )
    checkpoint_minutes: float = option(
        10.0,
        "save where training stands so often, besides after each epoch and on a signal",
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
                f"--init_weights {self.init_weights} holds the backbone, too: leave "
                f"--backbone_weights {self.backbone_weights} away."
            )
        if not self.own.takes_any_backbone and self.backbone != self.own_backbone:
            raise UserError(
                f"--backbone {self.backbone} does not fit {self.model}. It is for "
                f"{', '.join(name for name in SYSTEMS if SYSTEMS[name].takes_any_backbone)}."
            )
        on_vgg = self.own.adapts_vgg and BACKBONES[self.backbone].is_vgg
        if self.theano_pooling and not on_vgg:
            raise UserError("--theano_pooling is for mlnet on vgg16 or vgg19.")
        if self.fixed_blocks and not on_vgg:
            raise UserError("--fixed_blocks is for mlnet on vgg16 or vgg19.")
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
        """Refuse a loss or a start that a system has not, before anything is built or trained.

        Raises:
            UserError: another system's own loss; weights for a system without a backbone; or
                nothing but random ones to freeze.
        """
        for _, name in parse_loss(self.loss):
            if name in OWN_LOSSES and name != self.model:
                shared = ", ".join(loss for loss in LOSSES if loss not in OWN_LOSSES)
                raise UserError(
                    f"--loss {self.loss}: '{name}' is that system's own loss. For {self.model} "
                    f"choose of {shared}."
                )
        named = self.backbone_weights not in (None, "none")
        if not self.own.has_backbone and (self.freeze_backbone or named):
            raise UserError(
                f"{self.model} is trained from scratch and has no backbone: leave "
                "--backbone_weights and --freeze_backbone True away."
            )
        nothing = self.backbone_weights is None and self.init_weights is None
        if self.own.random_unless_named and self.freeze_backbone and nothing:
            raise UserError(
                "--freeze_backbone True would freeze random convolutions: name VGG-M's weights "
                "with --backbone_weights PATH, or ask for just that with --backbone_weights none."
            )

    def check_sets(self) -> None:
        """Refuse data sets named twice, and folders or shares that are not theirs."""
        if len(set(self.dataset)) < len(self.dataset):
            raise UserError(f"--dataset names a data set twice: {' '.join(self.dataset)}.")
        if self.mix and (len(self.mix) != len(self.dataset) or not all(self.mix)):
            raise UserError(
                f"--mix {' '.join(f'{share:g}' for share in self.mix)}: one positive share for "
                f"each data set is needed ({' '.join(self.dataset)})."
            )
        if len(self.data) > len([name for name in self.dataset if name not in BUILT_IN]):
            raise UserError(
                f"--data names {len(self.data)} folders, but --dataset {' '.join(self.dataset)} "
                "has fewer sets that need one."
            )

    @property
    def sets(self) -> list[tuple[str, Path | None]]:
        """The data sets, each with its folder; None for one built in, or where none is named."""
        folders = iter(self.data)
        return [(name, None if name in BUILT_IN else next(folders, None)) for name in self.dataset]

    @property
    def part_size(self) -> int | None:
        """The pictures of a batch that are held at once; None where they are all of them."""
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
        """What is particular to the system."""
        return SYSTEMS[self.model]

    @property
    def own_backbone(self) -> str:
        """The backbone of the system's recipe."""
        return self.own.recipe.get("backbone", Config.backbone)

    @property
    def system(self) -> str:
        """The system's name, with its backbone where that is not the recipe's."""
        return self.model + ("" if self.backbone == self.own_backbone else f"-{self.backbone}")

    @property
    def name(self) -> str:
        """The run's name, such as mlnet-frozen-osie: its files in weights/ and runs/ carry it."""
        # what goes on from other weights does not take their place in weights/
        on = "-on" if self.init_weights else ""
        return f"{self.system}-{self.strategy}{on}-{self.sets_name}"

    @property
    def sets_name(self) -> str:
        """The data sets in a file's name; of one's own, such as folder-mine, with the folder's."""
        words = [
            f"{name}-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', real_path(root).name)[:40]}"
            if name in OWN_SETS and root
            else name
            for name, root in self.sets
        ]
        return "+".join(words)[:120]

    @property
    def run_folder(self) -> Path:
        """The folder that the run writes into."""
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
        "settings that an earlier run wrote (config.json); flags win over them",
        metavar="FILE",
        group="several runs, or one again",
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
            raise UserError("--seeds goes with --strategies; for one run there is --seed.")
        if own.get("strategies") and "freeze_backbone" in run:
            raise UserError(
                "--strategies sets --freeze_backbone of each arm: leave one of them away."
            )
        return cls(**vars(resolve(run, own.get("config"))), **own)

    @classmethod
    def of_command(cls) -> set[str]:
        """Return the names of the fields that a run does not have."""
        return {f.name for f in dataclasses.fields(cls)} - {
            f.name for f in dataclasses.fields(Config)
        }

    @property
    def run(self) -> Config:
        """The settings of the run, or those that all arms share."""
        return Config(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Config)}
        )


@dataclass(frozen=True)
class PredictConfig(Checked):
    """Write saliency maps of pictures and videos.

    Write one 8-bit PNG saliency map a picture, at the picture's own size; of a video that is
    named, an overlay and the maps of its frames.
    """

    images: tuple[str, ...] = option(
        (), "a folder, a picture, a video, or a glob such as 'a/*.jpg'", words="*"
    )
    weights: Path | None = shared("weights", group="input")
    weights_dir: Path = shared("weights_dir")
    recursive: bool = option(False, "search the folder's sub-folders too")
    listed: Path | None = option(
        None,
        "predict the pictures that this file names, too, one path a line, relative to the current "
        "folder; '-' reads standard input",
        flag="list",
    )
    shard: str = option(
        "1/1",
        "do only the I-th of N parts of the pictures, such as 2/8: I counts from 1. N workers with "
        "the same pictures and output do each picture once",
    )
    output: Path = option(Path("predictions"), "folder for the saliency maps", group="output")
    overwrite: bool = option(False, "predict again where the output exists")
    overlay: bool = option(False, "write the map as a heat-map over the picture, too")
    float_maps: bool = option(False, "write the map as 32-bit .npy, too", flag="float")
    colormap: str = shared("colormap")
    smooth: float = shared("smooth")
    mirror: bool = shared("mirror")
    adaptation: Path | None = shared("adaptation")
    match: Path | None = option(
        None,
        "give each map the histogram of this one, a grey picture or a .npy, after the blur",
    )
    threshold: float = option(
        0.0, "values below become 0, after all else; the maximum of a map is 1", least=0, most=1
    )
    contours: bool = option(
        False,
        "write the picture with lines around the most salient 5, 10 and 20 % of its area, too",
        group="marks",
    )
    peaks: int = option(
        0,
        "write so many of the most salient points, too, as JSON, and number them in what is drawn "
        "over the picture",
        least=0,
        most=10**4,
    )
    crop: str | None = option(
        None,
        "write the crop of this aspect ratio that keeps most saliency, too: width:height such as "
        "16:9, or a number such as 1.91",
    )
    mask: float = option(
        0.0,
        "write this share of the area, the most salient, as a mask of black and white, too",
        least=0,
        most=1,
    )
    side_by_side: bool = option(
        False, "write the picture, the map in colours and the overlay in one picture, too"
    )
    every: int = option(
        1,
        "of a video, predict each N-th frame, and the first after a cut; between them one map "
        "goes over into the next",
        unit="frames",
        least=1,
        group="video",
        most=10**6,
    )
    temporal_smoothing: float = option(
        0.0,
        "Gaussian over time, both ways, of a video's maps: its standard deviation",
        unit="seconds",
        least=0,
        most=2,  # the maps of six times as long are held in memory
    )
    video_maps: str = option(
        "png",
        "what a video's maps are written as beside the overlay: a folder of PNGs, one .npz (8 "
        "bits, or float16 with --float), a grey video, or nothing",
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
                f"--shard {self.shard}: the first number counts the parts from 1, the second says "
                "how many there are, such as 1/4 to 4/4."
            )

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the pictures to do, counted from 0, and how many there are."""
        found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", self.shard)
        return (int(found[1]) - 1, int(found[2])) if found else (-1, 0)


def parse_loss(text: str) -> list[tuple[float, str]]:
    """Return the (weight, name) terms of a loss such as `kld+0.5*nss`.

    >>> parse_loss("kld+0.5*nss")
    [(1.0, 'kld'), (0.5, 'nss')]

    Raises:
        UserError: a name is unknown or a weight is not a positive number.
    """
    terms = []
    for part in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d*\.?\d+(?:e-?\d+)?)\*)?([a-z]\w*)", part)
        if not match or not 0 < float(match[1] or 1) <= LARGEST_LOSS_WEIGHT:
            raise UserError(
                f"--loss {text}: '{part}' is not NAME or WEIGHT*NAME, as in 0.5*nss, of a weight "
                f"above 0 and at most {LARGEST_LOSS_WEIGHT:g}."
            )
        if match[2] not in LOSSES:
            raise UserError(
                f"--loss {text}: unknown '{match[2]}'. {did_you_mean(match[2], LOSSES)}"
            )
        terms.append((float(match[1] or 1), match[2]))
    return terms


def recipe_of(model: str) -> dict[str, Any]:
    """Return the published recipe of a system; nothing for an unknown one, which is told later."""
    return SYSTEMS[model].recipe if model in SYSTEMS else {}


def resolve(flags: dict[str, Any], file: Path | None = None) -> Config:
    """Return a run's settings: the recipe of its system, then the file, then the flags.

    Raises:
        UserError: the file holds an unknown or ill-typed field, or a value is out of range.
    """
    from_file = read_settings(file) if file else {}
    # a run is replaced by who asks for it now, not by who asked for it then, and on their machines
    for name in NOT_REPEATED:
        from_file.pop(name, None)
    model = flags.get("model", from_file.get("model", Config.model))
    if from_file.get("model", model) != model:
        raise UserError(
            f"--model {model}: {file} holds the settings of {from_file['model']}, which are no "
            "recipe for another system. Leave one of them away."
        )
    return Config(**{**recipe_of(model), **from_file, **flags})


def read_settings(file: Path) -> dict[str, Any]:
    """Return the fields of a config file that `save` wrote."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no settings: a JSON object of fields is expected.")
    return from_json(values, where=str(file))


def from_json(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return JSON values as a config's field values, each checked for its type."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    result = {}
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"{where}: unknown field '{name}'. {did_you_mean(name, fields)}")
        annotation = fields[name].type
        about = f"{where}: field '{name}'"
        if takes_many(annotation):
            # files of one data set's time hold it alone, or null
            values_of = value if isinstance(value, list) else [] if value is None else [value]
            result[name] = tuple(typed(one, value_type(annotation), about) for one in values_of)
        elif value is None and isinstance(annotation, types.UnionType):
            result[name] = None
        else:
            result[name] = typed(value, value_type(annotation), about)
    return result


def save(settings: Config, file: Path) -> None:
    """Write a run's resolved settings; `--config FILE` reads them back."""
    write_json(file, to_json(settings))
