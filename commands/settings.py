"""What the commands other than `train` and `test` can be told; those two stand in `config`."""

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from config import (
    LARGEST_SEED,
    SYSTEMS,
    TRUTH_FIELDS,
    Config,
    PlanConfig,
    TruthConfig,
    check_sizes,
    parse_bytes,
    recipe_of,
    resolve,
    shared,
)
from salience.data.plan import ALL_SPLITS, SPLITS
from salience.networks.backbone_table import BACKBONES
from salience.system.errors import UserError, did_you_mean
from salience.system.files import is_name
from salience.system.flags import Checked, option

PROFILES = ("tuebingen", "mit")
BENCHMARKS = ("mit300", "cat2000", "salicon")
OBJECTIVES = ("ig", "cc", "nss", "kld")
FORMATS = ("onnx", "openvino", "litert", "saved_model")


@dataclass(frozen=True)
class DemoConfig(Checked):
    """Look at maps of your own pictures on a local web page.

    Serve a web page to this machine alone: drop, paste or snap a picture and see where people
    would look. Ctrl-C ends it.
    """

    weights: Path | None = shared(
        "weights",
        help="weights file (.weights.h5) that the page begins with; default: the newest of your "
        "own in weights/",
        group="networks",
    )
    weights_dir: Path = shared("weights_dir", help="folder of the weights that the page offers")
    engine: str = shared("engine")
    port: int = option(
        7860, "port of the page on this machine (127.0.0.1); 0: any that is free", least=0,
        most=65535, group="page",
    )  # fmt: skip
    browser: bool = option(False, "open the page in a browser")
    colormap: str = shared("colormap")
    upload_limit: str = option("100MB", "the largest file that the page takes")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_bytes(self.upload_limit, "--upload_limit")

    @property
    def upload_bytes(self) -> int:
        """The largest file that the page takes, bytes."""
        return parse_bytes(self.upload_limit, "--upload_limit")


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Write a trained network as ONNX, OpenVINO, LiteRT or SavedModel.

    Convert a trained network to a format that runs without this program, check it against
    Keras, and say beside it, as JSON, how pictures go in and maps come out.
    """

    format: str = option("onnx", "what is written", choices=FORMATS)
    weights: Path | None = shared("weights")
    weights_dir: Path = shared("weights_dir")
    output: Path | None = option(
        None,
        "file to write (.onnx, .xml, .tflite), or folder (saved_model); default: in exports/, "
        "named like the weights",
    )
    overwrite: bool = option(False, "replace an earlier export")


@dataclass(frozen=True)
class ExportMapsConfig(Checked):
    """Write the maps of a benchmark's test pictures as it asks for them.

    Predict the pictures of a benchmark that keeps their truth, and write the one archive that
    it asks for. The archive is read again and checked.
    """

    format: str = option("mit300", "the benchmark", choices=BENCHMARKS, group="benchmark")
    data: Path | None = shared("data", help="folder of its pictures")
    check: Path | None = option(
        None, "check this archive or folder, made before or by others, and write nothing"
    )
    weights: Path | None = shared("weights", group="maps")
    weights_dir: Path = shared("weights_dir")
    smooth: float = shared("smooth")
    output: Path = option(
        Path("submission"), "folder for the maps and their archive, named like the model",
        group="output",
    )  # fmt: skip
    overwrite: bool = option(False, "predict again what is there, rather than go on from it")
    batch_size: int = option(
        1, "pictures a step", unit="pictures", least=1, group="speed", most=2**16
    )
    workers: int = option(2, "threads that read and write pictures", least=1, most=1024)


@dataclass(frozen=True)
class CheckConfig(Checked):
    """Say what is there, what is missing and what is wrong.

    Read all files of a data set and say what is there, what is missing and what does not fit
    together. The exit code is 0 where all is well, 1 where something is missing or wrong, and 2
    for bad input.
    """

    dataset: str = shared("dataset")
    data: Path | None = shared("data")
    output: Path = option(Path("check"), "folder for check.json and check.png")
    workers: int = option(
        os.cpu_count() or 2, "threads that read files: all cores", least=1, most=1024
    )


@dataclass(frozen=True)
class ScoringConfig(TruthConfig):
    """What maps are scored against, shared by `evaluate` and `compare`."""

    dataset: str = shared("dataset", group="data")
    data: Path | None = shared("data")
    split: str = option("test", "part of the data set", choices=SPLITS)
    profile: str = option(
        "tuebingen",
        "definitions of the metrics: of the MIT/Tuebingen benchmark, or of the older MIT MATLAB "
        "code (docs/METRICS.md)",
        choices=PROFILES,
        group="scoring",
    )
    metrics: str = option("all", "metrics, as a list such as cc,nss,auc_judd")
    human: bool = option(True, "score the human observers against each other, too")
    seed: int = option(
        0, "seed of the resampling and of metrics that draw", least=0, most=LARGEST_SEED
    )
    batch_size: int = option(
        10, "pictures a step of the network", unit="pictures", least=1, most=2**16
    )
    workers: int = option(
        os.cpu_count() or 2,
        "threads that read pictures and score maps: all cores",
        least=1,
        most=1024,
    )
    overwrite: bool = option(
        False, "score again what the output folder already holds scores of", group="output"
    )

    # what the help calls the default of the data set, its split and its truth
    inherited: ClassVar[str] = ""

    @classmethod
    def default_text(cls, field: str) -> str:
        """Return what the help calls the default of a field where that is not its value."""
        return cls.inherited if field in ("dataset", "data", *TRUTH_FIELDS) else ""

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings: the data set and the split of the training, unless flags say."""
        from salience.measures.metrics import metric_names  # here: it imports SciPy

        given = cls(**flags)
        metric_names(given.metrics)  # a mistyped name is told before files are looked for
        trained = given.training()
        return cls(**{**data_of(trained, flags), **flags}) if trained else given

    def training(self) -> Config | None:
        """Return the settings of the training whose data are meant; None where there is none."""
        return None


def training_of(weights: Path | None, folder: Path) -> Config:
    """Return the settings of the training of weights, or of the default of a folder.

    Raises:
        UserError: the weights are not usable.
    """
    from salience.networks import weight_files

    chosen = weight_files.choose(weights, folder, lambda line: None)
    from model import trained_config  # here: it takes seconds, and nothing may be there

    return trained_config(chosen)


@dataclass(frozen=True)
class EvaluateConfig(ScoringConfig):
    """Score a model, or maps made elsewhere, on a split of a data set.

    Score a model, or a folder of saliency maps, beside the centre bias, a uniform map and the
    human observers.
    """

    inherited: ClassVar[str] = "that of the model's training"
    trains: ClassVar[bool] = False

    split: str = option("test", "part of the data set, or all of it", choices=(*SPLITS, ALL_SPLITS))
    output: Path | None = option(
        None, "folder for metrics.json and per_image.csv, and for going on with half-done work"
    )
    weights: Path | None = shared("weights", group="maps")
    weights_dir: Path = shared("weights_dir")
    maps: Path | None = option(
        None,
        "score the saliency maps of this folder (PNG, JPEG, .npy, .npz, .mat; named like the "
        "pictures) instead of a model's",
    )
    stretch: bool = option(
        False,
        "scale maps to their pictures even where the aspects differ by more than 2 %, as where "
        "rows and columns are exchanged",
    )
    smooth: float = shared("smooth")
    mirror: bool = shared("mirror")
    adaptation: Path | None = shared("adaptation")
    tune: bool = option(
        False,
        "fit contrast, blur and centre bias to the maps of the validation pictures, and score the "
        "maps so adapted in a row of their own",
    )
    val_maps: Path | None = option(
        None, "for --tune with --maps: the folder with the maps of the validation pictures"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mirror and self.maps:
            raise UserError(
                f"--mirror is for a network's maps; --maps {self.maps} holds maps that are made."
            )
        if self.stretch and not self.maps:
            raise UserError("--stretch is for maps that are made: name their folder with --maps.")
        if self.adaptation and self.maps:
            raise UserError("--adaptation belongs to weights: it does not go with --maps.")

    def training(self) -> Config | None:
        """Return the settings of the model's training; None for maps made elsewhere."""
        return None if self.maps else training_of(self.weights, self.weights_dir)


@dataclass(frozen=True)
class AdaptConfig(ScoringConfig):
    """Fit a data set's bias to a network's maps on a few pictures.

    Fit contrast, blur and centre bias of a data set to a network's maps on a few of its
    pictures; the network stays as it is. The file lies beside the weights, and --adaptation of
    test and evaluate uses it.
    """

    inherited: ClassVar[str] = "that of the model's training"

    metrics: str = option("cc,nss,auc_judd,kld,ig", "metrics, as a list such as cc,nss,auc_judd")
    human: bool = option(False, "score the human observers against each other, too")
    n: tuple[int, ...] = option(
        (50,),
        "pictures of the train split to fit on; several numbers compare them, and with all",
        unit="pictures",
        least=2,
        group="fit",
        most=10**7,
    )
    objective: str = option(
        "ig",
        "metric that is fitted for: the likelihood of fixations (ig), or another, which may cost "
        "the others",
        choices=OBJECTIVES,
    )
    draws: int = option(
        1, "how often so many pictures are drawn and fitted on", least=1, most=10**4
    )
    weights: Path | None = shared("weights", group="maps")
    weights_dir: Path = shared("weights_dir")
    reference: Path | None = option(
        None, "weights trained on this data set: how much of the gap to them is closed"
    )
    name: str | None = option(
        None, "what --adaptation calls it afterwards; default: the data set", group="output"
    )
    output: Path = option(
        Path("adapt"), "folder for adapt.csv, adapt.json, adapt.png and for going on"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split != "test":
            raise UserError(
                f"--split {self.split}: adapt fits on train and is scored on test alone."
            )
        if self.name is not None and not is_name(self.name):
            raise UserError(
                f"--name {self.name}: letters, digits, '-', '_', '+' and '.' are expected, and no "
                ".json at the end, since it becomes part of a file's name."
            )

    def training(self) -> Config | None:
        """Return the settings of the model's training."""
        return training_of(self.weights, self.weights_dir)


@dataclass(frozen=True)
class CompareConfig(ScoringConfig):
    """Compare trained runs on the same pictures.

    Score runs on the same pictures, test what differs, and write a page to look at. The data
    set is the first run's unless named.
    """

    inherited: ClassVar[str] = "that of the first run"
    trains: ClassVar[bool] = False

    runs: tuple[Path, ...] = option((), "run folders that train wrote", words="+")
    output: Path = option(
        Path("comparison"), "folder for comparison.json, index.html and the scores"
    )
    gallery: int = option(24, "pictures shown on the page", unit="pictures", least=0, most=10**4)

    def training(self) -> Config | None:
        """Return the settings of the first run."""
        from commands.training.runs import Run

        if not self.runs:
            raise UserError("Name the run folders to compare, such as runs/frozen runs/finetuned.")
        return Run(self.runs[0]).config


@dataclass(frozen=True)
class PrepareConfig(TruthConfig):
    """Resize the pictures and make their density maps once.

    Pack resized pictures and density maps into a store, which --data takes in place of the data
    set's folder. What was interrupted goes on where it stopped; over a finished store, all
    checksums are verified, and what is damaged is made again.
    """

    dataset: str = shared("dataset", group="data")
    data: tuple[Path, ...] = shared("sources")
    model: str = option(
        "mlnet", "system that will train on it", choices=tuple(SYSTEMS), group="network"
    )
    rows: int | None = option(
        None,
        "height of the network's input; default: the system's recipe",
        unit="pixels",
        least=8,
        most=16384,
    )
    cols: int | None = option(
        None,
        "width of the network's input; default: the system's recipe",
        unit="pixels",
        least=8,
        most=16384,
    )
    output: Path | None = option(None, "folder for the store (needed)", group="output")
    overwrite: bool = option(False, "replace a store that was prepared with other settings")
    workers: int = option(
        os.cpu_count() or 2, "threads that read pictures: all cores", least=1, most=1024
    )

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings: the split of the system's recipe, then the flags."""
        recipe = recipe_of(flags.get("model", cls.model))
        return cls(**{k: v for k, v in recipe.items() if k in TRUTH_FIELDS} | flags)

    @property
    def network(self) -> Config:
        """The settings of the system at this size, the recipe's where none is given."""
        sizes = {"rows": self.rows, "cols": self.cols}
        return resolve({"model": self.model} | {k: v for k, v in sizes.items() if v is not None})


@dataclass(frozen=True)
class ConvertConfig(Checked):
    """Make weights of Keras 1 or 2 this program's, the ML-Net of 2016 among them.

    Read an ML-Net that Keras 1 or 2 wrote (mlnet_salicon_weights.pkl of 2016, say) and write it
    as a .weights.h5; or the VGG16 in groups layer_N (vgg16_weights.h5) as an .h5 for
    --backbone_weights.
    """

    old: Path = option(dataclasses.MISSING, "the file to convert", words="1", metavar="OLD")
    new: Path = option(dataclasses.MISSING, "the file to write", words="1", metavar="NEW")
    overwrite: bool = option(False, "replace the converted file")
    weights_dir: Path = shared(
        "weights_dir",
        help="folder where ImageNet's VGG16 is looked for, to compare kernels with",
    )


@dataclass(frozen=True)
class WeightsConfig(Checked):
    """List the trained weights, and choose which serve where none are named.

    List what lies in weights/ and what comes with the program: what each was trained on, when,
    how it scored, and which of them serve where no --weights is given, and why.
    """

    weights_dir: Path = shared("weights_dir", help="folder of the weights")
    use: str | None = option(
        None,
        "pin these weights: they serve wherever none are named; 'newest' takes the pin away",
        metavar="NAME",
    )


@dataclass(frozen=True)
class SubsetConfig(PlanConfig):
    """Draw a small working copy.

    Copy some pictures of each split, with all that is known of them, to a folder that --dataset
    folder reads.
    """

    trains: ClassVar[bool] = False

    dataset: str = shared("dataset", group="data")
    data: tuple[Path, ...] = shared("sources")
    n: int = option(1000, "pictures of the working copy", unit="pictures", least=1, most=10**7)
    seed: int = option(0, "seed of the draw", least=0, most=LARGEST_SEED)
    output: Path | None = option(None, "folder for the working copy (needed)", group="output")


def data_of(trained: Config, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the data set, the split and the truth that a network was trained with.

    Nothing where the flags name a data set that it was not trained on: where one data set lies, and
    how it was divided, says nothing of another.

    Args:
        trained: the settings of the training.
        flags: of the scoring; the first of the training's data sets is meant where they name none.
    """
    name = flags.get("dataset", trained.dataset[0])
    if name not in trained.dataset:
        return {}
    truth = {field: getattr(trained, field) for field in TRUTH_FIELDS}
    return {**truth, "dataset": name, "data": dict(trained.sets)[name]}


@dataclass(frozen=True)
class ProbeConfig(ScoringConfig):
    """Ask how well each stage of a frozen network aligns with human attention.

    Solve linear read-outs of every stage of a frozen network exactly, in one pass over the
    training pictures, and score them beside the references.
    """

    metrics: str = option("cc,auc_judd", "metrics, as a list such as cc,nss,auc_judd")
    output: Path = option(Path("probe"), "folder for probe.json, index.html and the scores")
    gallery: int = option(6, "pictures shown on the page", unit="pictures", least=0, most=10**4)
    backbone: str = option(
        "vgg16",
        "networks to probe, as a list such as vgg16,resnet50: of " + ", ".join(BACKBONES),
        group="network",
    )
    backbone_weights: str | None = option(
        None,
        "ImageNet weights of the network: a file, or 'none' for random weights alone; otherwise "
        "weights/, Keras' cache or its download are used",
    )
    weights_dir: Path = shared("weights_dir", help="folder searched for ImageNet weights")
    control: bool = option(True, "probe each network with random weights, too")
    rows: int = option(240, "height of the network's input", unit="pixels", least=32, most=16384)
    cols: int = option(320, "width of the network's input", unit="pixels", least=32, most=16384)
    width: float = option(
        1.0, "share of the network's channels; below 1 is a toy for tests", least=0.001, most=4
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.backbones:
            if name not in BACKBONES:
                raise UserError(
                    f"--backbone {self.backbone}: unknown '{name}'. {did_you_mean(name, BACKBONES)}"
                )
            step = math.lcm(SYSTEMS["linear-probe"].size_step, BACKBONES[name].size_step)
            check_sizes(self.rows, self.cols, step, f"the probe of {name}")
        if len(set(self.backbones)) < len(self.backbones):
            raise UserError(f"--backbone {self.backbone} names a network twice.")
        if len(self.backbones) > 1 and self.backbone_weights not in (None, "none"):
            raise UserError(
                f"--backbone_weights {self.backbone_weights} is one network's file: probe one "
                "network at a time with it, or put the files into weights/."
            )

    @property
    def backbones(self) -> tuple[str, ...]:
        """The networks to probe."""
        return tuple(self.backbone.replace(" ", "").split(","))
