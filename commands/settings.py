"""Settings of every command except `train` and `test`, whose settings are in `config`."""

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from config import (
    GAUSSIAN_FIELDS,
    LARGEST_SEED,
    OUT_OF_BOUNDS,
    SYSTEMS,
    TABLE_SETS,
    TRUTH_FIELDS,
    Config,
    PlanConfig,
    TruthConfig,
    check_columns,
    check_folders,
    check_sizes,
    folders_of,
    is_same_data,
    parse_bytes,
    recipe_of,
    resolve,
    shared,
    trained_config,
)
from salience.data.columns import ROLES, parse_columns
from salience.data.plan import ALL_SPLITS, SPLITS
from salience.networks.backbone_table import BACKBONES
from salience.pictures.visual_angle import degree_of, parse_screen
from salience.system.errors import UserError, did_you_mean
from salience.system.files import is_name
from salience.system.flags import Checked, option

PROFILES = ("tuebingen", "mit")
CARD_WORDS = ("general", "none")  # values of --adaptation that are no file (measures/finish.py)
BENCHMARKS, TUEBINGEN = ("mit300", "cat2000", "salicon"), "tuebingen"
OBJECTIVES = ("ig", "cc", "nss", "kld")
AUTO, NETWORK, MAPS = NUMBERS = ("auto", "network", "maps")  # where adapt fits numbers
EXPORTERS = ("eyelink", "tobii", "pupil", "gazepoint", "smi", "csv")
EYES = ("auto", "left", "right", "both")
WEB = "web"  # a format of `export`: a folder with a page
ONNX_PACKAGES = ("onnx", "tf2onnx", "onnxruntime")
# formats of `export`, each with the packages that it needs besides those of the extra `train`
FORMATS: dict[str, tuple[str, ...]] = {
    "onnx": ONNX_PACKAGES,
    "openvino": ("openvino",),
    "litert": (),
    "saved_model": (),
    WEB: ONNX_PACKAGES,
}
DATA_FORMATS, STIMULI = ("pysaliency",), ("files", "pixels")


@dataclass(frozen=True)
class DemoConfig(Checked):
    """Show saliency maps of your own pictures on a local web page.

    Serve a web page to this machine only: drop, paste or photograph a picture to see its saliency
    map. Ctrl-C stops the server.
    """

    weights: Path | None = shared(
        "weights",
        help="weights file (.weights.h5) selected at the start; default: the newest of your own "
        "in weights/",
        group="networks",
    )
    weights_dir: Path = shared(
        "weights_dir", help="folder of the weights that can be selected on the page"
    )
    engine: str = shared("engine")
    port: int = option(
        7860, "port of the page on this machine (127.0.0.1); 0: any free port", least=0,
        most=65535, group="page",
    )  # fmt: skip
    browser: bool = option(False, "open the page in a browser")
    colormap: str = shared("colormap")
    upload_limit: str = option("100MB", "largest file that can be uploaded")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_bytes(self.upload_limit, "--upload_limit")

    @property
    def upload_bytes(self) -> int:
        """The upload limit in bytes."""
        return parse_bytes(self.upload_limit, "--upload_limit")


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Write a trained network as ONNX, OpenVINO, LiteRT, SavedModel or web page.

    Convert a trained network to a format that runs without this program, and check the result
    against Keras. A JSON file beside it describes the input and the output. The format web is a
    folder with a page that shows the maps of pictures in any browser, offline.
    """

    format: str = option(
        "openvino",
        "format of the exported network; onnx and web need the extra: pip install '.[onnx]'",
        choices=tuple(FORMATS),
    )
    weights: Path | None = shared("weights")
    weights_dir: Path = shared("weights_dir")
    of_set: str | None = shared("of_set")
    adaptation: Path | None = shared(
        "adaptation",
        help="a file that `adapt` wrote for these weights, or its name: numbers in the network "
        "(multiscale) become part of the export; those on maps do not",
    )
    output: Path | None = option(
        None,
        "file to write (.onnx, .xml, .tflite), or folder (saved_model, web); default: exports/, "
        "with the name of the weights",
    )
    overwrite: bool = option(False, "replace an earlier export")
    runtime: Path | None = option(
        None,
        "npm package of ONNX Runtime's WebAssembly (.tgz), for web; default: it is downloaded once",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runtime and self.format != WEB:
            raise UserError(f"--runtime is for --format {WEB}; {self.format} needs none.")


@dataclass(frozen=True)
class ExportMapsConfig(Checked):
    """Write saliency maps in the format of a benchmark's submission.

    Predict the test pictures of a benchmark, whose fixations are not public, and write the archive
    to submit. The archive is read again and checked. The format tuebingen is one HDF5 file of
    log-densities, for the MIT/Tuebingen benchmark and for pysaliency.
    """

    format: str = option(
        "mit300", "the benchmark", choices=(*BENCHMARKS, TUEBINGEN), group="benchmark"
    )
    data: Path | None = shared("data", help="folder of the benchmark's pictures")
    dataset: str = shared(
        "dataset", default=BENCHMARKS[0], help="data set of the pictures, for tuebingen"
    )
    split: str = option(
        "test",
        "part of the data set, for tuebingen; test is a benchmark's own test pictures",
        choices=SPLITS,
    )
    half: bool = option(
        False, "write half floats, for tuebingen: a quarter of the size, compressed"
    )
    check: Path | None = option(
        None, "check an existing archive, folder or HDF5 file, and write nothing"
    )
    weights: Path | None = shared("weights", group="maps")
    weights_dir: Path = shared("weights_dir")
    smooth: float = shared("smooth")
    output: Path = option(
        Path("submission"), "folder for the maps and their archive, which is named like the model",
        group="output",
    )  # fmt: skip
    overwrite: bool = option(False, "predict all maps again instead of resuming")
    batch_size: int = option(
        1, "pictures per batch", unit="pictures", least=1, group="speed", most=2**16
    )
    workers: int = option(2, "threads that read and write pictures", least=1, most=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.dataset != BENCHMARKS[0] or self.split != "test" or self.half
        if named and self.format != TUEBINGEN:
            raise UserError(
                f"--dataset, --split and --half are for --format {TUEBINGEN}; {self.format} has "
                "its own pictures."
            )


@dataclass(frozen=True)
class RegionsConfig(Checked):
    """Measure how much predicted attention regions of pictures get.

    Sum the predicted density of fixations over named boxes or polygons, beside what their area
    alone would get. With a data set, observed fixations are measured, too; with --against, another
    version of the pictures. Writes regions.csv, regions.json and index.html.
    """

    images: tuple[str, ...] = option(
        (),
        "a folder, a picture, or a glob such as 'a/*.jpg'; default: the pictures of --data",
        words="*",
    )
    regions: Path | None = option(
        None,
        "the regions (required): a table with the columns image, name, x, y, width, height in "
        "pixels of the picture, or polygons as COCO JSON (.json)",
        metavar="FILE",
        group="regions",
    )
    fail_below: tuple[str, ...] = option(
        (),
        "exit with code 1 if the predicted share of a region is below this, 0 to 1; several are "
        "possible",
        metavar="NAME=SHARE",
    )
    against: str | None = option(
        None,
        "another version of the pictures, a folder, a picture or a glob: the differences to it are "
        "reported",
        metavar="PICTURES",
    )
    against_regions: Path | None = option(
        None, "the regions of --against; default: those of --regions", metavar="FILE"
    )
    recursive: bool = option(False, "also search the sub-folders of a folder")
    dataset: str = shared(
        "dataset",
        default="folder",
        help="data set with fixations on the pictures",
        group="fixations",
    )
    data: Path | None = shared("data", help="folder of the data set; default: no fixations")
    split: str = option(
        ALL_SPLITS, "part of the data set, or all of it", choices=(*SPLITS, ALL_SPLITS)
    )
    columns: str = shared("columns")
    weights: Path | None = shared("weights", group="density")
    weights_dir: Path = shared("weights_dir")
    smooth: float = shared("smooth")
    mirror: bool = shared("mirror")
    adaptation: Path | None = shared("adaptation")
    engine: str = shared("engine")
    output: Path = option(
        Path("regions"), "folder for regions.csv, regions.json and index.html", group="output"
    )
    gallery: int = option(24, "pictures shown on the page", unit="pictures", least=0, most=10**4)
    seed: int = option(0, "seed of the bootstrap", least=0, most=LARGEST_SEED)
    workers: int = option(2, "threads that read pictures", least=1, most=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.columns, self.dataset)
        if self.against_regions and not self.against:
            raise UserError(
                f"--against_regions {self.against_regions} needs --against, with the pictures."
            )
        for text in self.fail_below:
            parse_limit(text)

    @property
    def limits(self) -> dict[str, float]:
        """Least predicted share by name of region."""
        return dict(map(parse_limit, self.fail_below))


def parse_limit(text: str) -> tuple[str, float]:
    """Return the region and the least share in text such as `price=0.12`.

    >>> parse_limit("call to action=0.12")
    ('call to action', 0.12)

    Raises:
        UserError: it is not NAME=SHARE with a share of 0 to 1.
    """
    name, _, share = (part.strip() for part in text.rpartition("="))
    try:
        value = float(share)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value <= 1:  # NaN is not either
        raise UserError(
            f"--fail_below {text}: NAME=SHARE with a share from 0 to 1 is expected, such as "
            "price=0.12."
        )
    return name, value


@dataclass(frozen=True)
class CheckConfig(Checked):
    """Check the files of a data set.

    Read all files of a data set and report what is present, missing or inconsistent. The exit code
    is 0 without findings, 1 if something is missing or wrong, and 2 for bad input.
    """

    dataset: str = shared("dataset")
    data: Path | None = shared("data")
    output: Path = option(Path("check"), "folder for check.json and check.png")
    workers: int = option(
        os.cpu_count() or 2, "threads that read files; default: all cores", least=1, most=1024
    )
    columns: str = shared("columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.columns, self.dataset)


SCORING_ENGINE = (
    "inference engine; auto: that of test, but keras for fewer than 40 pictures if ncnn does not "
    "run all networks, since the copy for another engine takes half a minute to make"
)


@dataclass(frozen=True)
class ScoringConfig(TruthConfig):
    """Settings of the data and the metrics, shared by all commands that score maps."""

    dataset: str = shared("dataset", group="data")
    data: Path | None = shared("data")
    split: str = option("test", "part of the data set", choices=SPLITS)
    profile: str = option(
        "tuebingen",
        "definitions of the metrics: MIT/Tuebingen benchmark, or the older MIT MATLAB code "
        "(docs/METRICS.md)",
        choices=PROFILES,
        group="scoring",
    )
    metrics: str = option("all", "metrics, as a list such as cc,nss,auc_judd")
    human: bool = option(True, "score the human observers against each other, too")
    gold_bandwidth: str = option(
        "set",
        "what the parameters of the row 'humans, gold standard' are fitted to: all pictures, or "
        "each picture by itself",
        choices=("set", "picture"),
        group="scoring",
    )
    seed: int = option(
        0,
        "seed of the bootstrap and of the metrics that draw at random",
        least=0,
        most=LARGEST_SEED,
    )
    batch_size: int = option(10, "pictures per batch", unit="pictures", least=1, most=2**16)
    workers: int = option(
        os.cpu_count() or 2,
        "threads that read pictures and score maps; default: all cores",
        least=1,
        most=1024,
    )
    overwrite: bool = option(
        False,
        "compute all scores again instead of reusing those in the output folder",
        group="output",
    )

    # default of the data set, its split and its ground truth, as the help names it
    inherited: ClassVar[str] = ""

    @classmethod
    def default_text(cls, field: str) -> str:
        """Return the text that the help shows for a default that depends on other settings."""
        return cls.inherited if field in ("dataset", "data", *TRUTH_FIELDS) else ""

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings; the defaults of the data are those of the training."""
        from salience.measures.metrics import metric_names  # here: it imports SciPy

        given = cls(**flags)
        metric_names(given.metrics)  # report a mistyped name before any file is read
        trained = given.training()
        if trained is None:
            return given
        inherited = data_of(trained, flags)
        if not flags.keys().isdisjoint(GAUSSIAN_FIELDS):
            inherited = {k: v for k, v in inherited.items() if k not in GAUSSIAN_FIELDS}
        return cls(**{**inherited, **flags})

    def training(self) -> Config | None:
        """Return the settings of the training that sets the defaults of the data, or None."""
        return None


def training_of(weights: Path | None, folder: Path) -> Config:
    """Return the settings that weights were trained with.

    Args:
        weights: weights file; None for the default of `folder`.
        folder: folder of the weights.

    Raises:
        UserError: the weights cannot be read.
    """
    from salience.networks import weight_files

    return trained_config(weight_files.choose(weights, folder, lambda line: None))


@dataclass(frozen=True)
class EvaluateConfig(ScoringConfig):
    """Score a model, or saliency maps of another program, on a split of a data set.

    Compute all metrics for a model or a folder of saliency maps, and for the references: centre
    bias, uniform map and human observers.
    """

    inherited: ClassVar[str] = "that of the model's training"
    trains: ClassVar[bool] = False

    split: str = option("test", "part of the data set, or all of it", choices=(*SPLITS, ALL_SPLITS))
    output: Path | None = option(
        None, "folder for metrics.json, per_image.csv, index.html and the scores to resume from"
    )
    gallery: int = option(24, "pictures shown on the page", unit="pictures", least=0, most=10**4)
    weights: Path | None = shared("weights", group="maps")
    weights_dir: Path = shared("weights_dir")
    maps: Path | None = option(
        None,
        "score the saliency maps of this folder (PNG, JPEG, .npy, .npz, .mat; named like the "
        "pictures) instead of a model's",
    )
    stretch: bool = option(
        False,
        "scale maps to their pictures even if their aspect ratios differ by more than 2 % (rows "
        "and columns may be exchanged)",
    )
    of_set: str | None = shared("of_set")
    smooth: float = shared("smooth")
    mirror: bool = shared("mirror")
    adaptation: Path | None = shared("adaptation")
    engine: str = shared("engine", help=SCORING_ENGINE)
    tune: bool = option(
        False,
        "fit contrast, blur and centre bias on the maps of the validation pictures, and score the "
        "adapted maps in a row of their own",
    )
    optimal: bool = option(
        False,
        "score each metric on the map that is best for it under the density, in a row of its own; "
        "--maps must name densities (docs/DENSITIES.md)",
    )
    val_maps: Path | None = option(
        None, "folder with the maps of the validation pictures, for --tune with --maps"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mirror and self.maps:
            raise UserError(
                f"--mirror needs a network, but --maps {self.maps} names finished maps."
            )
        if self.stretch and not self.maps:
            raise UserError("--stretch needs finished maps: name their folder with --maps.")
        if self.of_set and self.maps:
            raise UserError("--set belongs to weights and cannot be used with --maps.")
        if self.adaptation and self.maps:
            raise UserError("--adaptation belongs to weights and cannot be used with --maps.")

    def training(self) -> Config | None:
        """Return the settings of the model's training; None for --maps."""
        return None if self.maps else training_of(self.weights, self.weights_dir)


@dataclass(frozen=True)
class AdaptConfig(ScoringConfig):
    """Adapt a network's maps to a data set's bias, fitted on a few pictures.

    Fit contrast, blur and centre bias on a few pictures of a data set; the weights stay unchanged.
    The result is a file beside the weights, which --adaptation of test and evaluate reads.
    """

    inherited: ClassVar[str] = "that of the model's training"

    metrics: str = option("cc,nss,auc_judd,kld,ig", "metrics, as a list such as cc,nss,auc_judd")
    human: bool = option(False, "score the human observers against each other, too")
    n: tuple[int, ...] = option(
        (50,),
        "pictures of the train split to fit on; several numbers are compared with each other and "
        "with all pictures",
        unit="pictures",
        least=2,
        group="fit",
        most=10**7,
    )
    objective: str = option(
        "ig",
        "metric to maximise: the likelihood of fixations (ig), or another, which may lower the "
        "other metrics",
        choices=OBJECTIVES,
    )
    numbers: str = option(
        AUTO,
        "where the numbers are: in the network, as those of the sets of its training (multiscale), "
        "or on finished maps; auto: in the network if it has such numbers",
        choices=NUMBERS,
    )
    draws: int = option(1, "random draws of pictures for each --n", least=1, most=10**4)
    weights: Path | None = shared("weights", group="maps")
    weights_dir: Path = shared("weights_dir")
    engine: str = shared("engine", help=SCORING_ENGINE)
    reference: Path | None = option(
        None, "weights trained on this data set: report the share of the gap to them that is closed"
    )
    name: str | None = option(None, "name for --adaptation; default: the data set", group="output")
    output: Path = option(
        Path("adapt"), "folder for adapt.csv, adapt.json, adapt.png and the scores to resume from"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split != "test":
            raise UserError(
                f"--split {self.split}: adapt fits on train and is scored on test only."
            )
        if self.name in CARD_WORDS:
            raise UserError(
                f"--name {self.name}: --adaptation {self.name} has a meaning of its own. Choose "
                "another name."
            )
        if self.name is not None and not is_name(self.name):
            raise UserError(
                f"--name {self.name}: letters, digits, '-', '_', '+' and '.' are expected, and no "
                ".json at the end, since the name becomes part of a file name."
            )

    def training(self) -> Config | None:
        """Return the settings of the model's training."""
        return training_of(self.weights, self.weights_dir)


@dataclass(frozen=True)
class CalibrateConfig(PlanConfig):
    """Fit what becomes of a network's maps: densities, and maps of unknown sets.

    Fit numbers to the fixations of validation pictures, and write them into the card of the
    weights, as train does at its end. One data set: what turns maps into densities. Several: a
    general adaptation, kept if it helps each set when it is fitted on the others. Both: a blur of
    maps, for the metrics of maps. test, regions and evaluate use them (docs/ADAPTING.md).
    """

    trains: ClassVar[bool] = False

    dataset: tuple[str, ...] = shared(
        "dataset",
        default=("osie",),
        help="data set, or several for a general adaptation",
        group="data",
    )
    data: tuple[Path, ...] = shared(
        "data", default=(), help="folder of each data set that needs one, in the order of --dataset"
    )
    split: str = option(
        "val", "part of the data sets; pictures of the training mislead", choices=SPLITS
    )
    seed: int = option(
        0, "seed of the interval of the gain", least=0, most=LARGEST_SEED, group="fit"
    )
    weights: Path | None = shared("weights", group="network")
    weights_dir: Path = shared("weights_dir")
    batch_size: int = option(10, "pictures per batch", unit="pictures", least=1, most=2**16)
    workers: int = option(
        os.cpu_count() or 2, "threads that read pictures; default: all cores", least=1, most=1024
    )

    @classmethod
    def default_text(cls, field: str) -> str:
        """Return the text that the help shows for a default that depends on other settings."""
        is_of_data = field in ("dataset", "data", *TRUTH_FIELDS)
        return "that of the model's training" if is_of_data else ""

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings; the defaults of the data are those of the model's training."""
        given = cls(**flags)
        training = training_of(given.weights, given.weights_dir)
        names = flags.get("dataset", training.dataset[:1])
        trained: dict[str, Any] = {"dataset": names}
        if set(names) <= set(training.dataset):  # else its paths and split do not apply
            folder = next(iter(flags.get("data") or ()), None)
            trained |= data_of(training, {"dataset": names[0], "data": folder})
            folders = [dict(training.sets)[name] for name in names]
            trained |= {"dataset": names, "data": tuple(f for f in folders if f is not None)}
        own = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in trained.items() if k in own} | flags)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folders(self.dataset, self.data)

    @property
    def sets(self) -> list[tuple[str, Path | None]]:
        """The data sets and their folders; None for a built-in set or a folder not named."""
        return folders_of(self.dataset, self.data)


@dataclass(frozen=True)
class CompareConfig(ScoringConfig):
    """Compare trained runs and weights on the same pictures.

    Score them on the same pictures, test the significance of their differences, and write an HTML
    page. The default data set is that of the first run.
    """

    inherited: ClassVar[str] = "that of the first run"
    trains: ClassVar[bool] = False

    runs: tuple[Path, ...] = option(
        (), "run folders written by train, weights files, or names of weights", words="+"
    )
    output: Path = option(
        Path("comparison"), "folder for comparison.json, index.html and the scores"
    )
    gallery: int = option(24, "pictures shown on the page", unit="pictures", least=0, most=10**4)
    adaptation: Path | None = shared("adaptation", group="maps")
    engine: str = shared("engine", help=SCORING_ENGINE)

    def training(self) -> Config | None:
        """Return the settings of the first run."""
        from commands.training.runs import run_of

        if not self.runs:
            raise UserError("Name the run folders to compare, such as runs/frozen runs/finetuned.")
        return run_of(self.runs[0]).config


@dataclass(frozen=True)
class PrepareConfig(TruthConfig):
    """Resize pictures and compute density maps once, before training.

    Pack resized pictures and density maps into a store, which --data of train accepts instead of
    the data set's folder. An interrupted run is resumed. For a finished store, all checksums are
    verified and damaged parts are made again.
    """

    dataset: str = shared("dataset", group="data")
    data: tuple[Path, ...] = shared("sources")
    model: str = option(
        "mlnet", "system that will be trained on the store", choices=tuple(SYSTEMS), group="network"
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
    output: Path | None = option(None, "folder for the store (required)", group="output")
    overwrite: bool = option(False, "replace a store that was prepared with other settings")
    workers: int = option(
        os.cpu_count() or 2, "threads that read pictures; default: all cores", least=1, most=1024
    )

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings; the default split is that of the system's recipe."""
        recipe = recipe_of(flags.get("model", cls.model))
        return cls(**{k: v for k, v in recipe.items() if k in TRUTH_FIELDS} | flags)

    @property
    def network(self) -> Config:
        """The settings of the system at this size; the size of its recipe if no flag names one."""
        sizes = {"rows": self.rows, "cols": self.cols}
        return resolve({"model": self.model} | {k: v for k, v in sizes.items() if v is not None})


@dataclass(frozen=True)
class ImportConfig(Checked):
    """Turn what an eye tracker's program exports into a data set.

    Read the fixations of exported tables, place them on the pictures that were shown, and write a
    folder for --dataset folder. What is left out is counted by reason.
    """

    exports: tuple[Path, ...] = option((), "exported tables", words="+", metavar="EXPORT")
    format: str = option(
        "csv", "program that wrote the exports (docs/RECORDINGS.md)", choices=EXPORTERS,
        group="recordings",
    )  # fmt: skip
    columns: str = shared("columns", help="names of columns that differ from the format's, such as "
                          "image=Stimulus,x=FPOGX; roles: " + ", ".join(ROLES))  # fmt: skip
    eye: str = option(
        "auto",
        "eye to read, where an export has both; auto: the one with more fixations, for each "
        "observer",
        choices=EYES,
    )
    images: Path | None = option(
        None, "folder with the pictures that were shown (required)", group="pictures"
    )
    screen: str | None = shared("screen")
    placed: str | None = option(
        None,
        "place of the pictures on the screen: centre (at their own size), or X,Y,W,H in pixels; "
        "default: what the export tells, else centre; for csv, coordinates are the pictures'",
        metavar="centre|X,Y,W,H",
    )
    pixels_per_degree: float | None = shared(
        "pixels_per_degree",
        help="pixels of the screen per degree of visual angle: the data set's Gaussian is then one "
        "degree",
        group="visual angle",
    )
    distance_cm: float | None = shared("distance_cm")
    screen_cm: str | None = shared("screen_cm")
    output: Path | None = option(None, "folder for the data set (required)", group="output")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_columns(self.columns)
        if self.screen is not None:
            parse_screen(self.screen)

    @property
    def degree(self) -> tuple[float, str] | None:
        """Pixels of the screen per degree, and the flags that say so; None if unknown."""
        return degree_of(self.pixels_per_degree, self.distance_cm, self.screen_cm, self.screen)


@dataclass(frozen=True)
class ConvertConfig(Checked):
    """Convert weights files of Keras 1 or 2, such as those of the ML-Net of 2016.

    Read an ML-Net of Keras 1 or 2 (such as mlnet_salicon_weights.pkl of 2016) and write a
    .weights.h5. Or read a VGG16 in groups layer_N (vgg16_weights.h5) and write an .h5 for
    --backbone_weights.
    """

    old: Path = option(dataclasses.MISSING, "file to convert", words="1", metavar="OLD")
    new: Path = option(dataclasses.MISSING, "file to write", words="1", metavar="NEW")
    overwrite: bool = option(False, "replace the converted file")
    weights_dir: Path = shared(
        "weights_dir",
        help="folder that may hold ImageNet's VGG16, for a check of the kernels' orientation",
    )


@dataclass(frozen=True)
class WeightsConfig(Checked):
    """List the trained weights, and choose the default.

    List the weights in weights/ and the included weights, each with its training data, date and
    score. Report which of them are the default without --weights, and why.
    """

    weights_dir: Path = shared("weights_dir", help="folder of the weights")
    use: str | None = option(
        None,
        "make these weights the default; 'newest' restores the automatic choice",
        metavar="NAME",
    )


@dataclass(frozen=True)
class SubsetConfig(PlanConfig):
    """Copy a random subset of a data set.

    Copy random pictures of each split, with their maps and fixations, to a folder that --dataset
    folder reads.
    """

    trains: ClassVar[bool] = False

    dataset: str = shared("dataset", group="data")
    data: tuple[Path, ...] = shared("sources")
    columns: str = shared("columns")
    n: int = option(1000, "pictures to copy", unit="pictures", least=1, most=10**7)
    seed: int = option(0, "seed of the random choice", least=0, most=LARGEST_SEED)
    output: Path | None = option(None, "folder for the copy (required)", group="output")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.columns, self.dataset)


@dataclass(frozen=True)
class DataExportConfig(PlanConfig):
    """Write a data set in the files of another program.

    Write the pictures and fixations of a data set as the two HDF5 files of pysaliency, with
    observers, times and durations. --dataset pysaliency reads them back.
    """

    trains: ClassVar[bool] = False

    format: str = option("pysaliency", "program that will read the files", choices=DATA_FORMATS,
                         group="output")  # fmt: skip
    stimuli: str = option(
        "files",
        "pictures by their file names, relative to the HDF5 file (FileStimuli), or their pixels "
        "inside it (Stimuli)",
        choices=STIMULI,
    )
    output: Path | None = option(None, "folder for the files (required)")
    dataset: str = shared("dataset", group="data")
    data: Path | None = shared("data")
    columns: str = shared("columns")
    split: str = option(
        ALL_SPLITS, "part of the data set, or all of it", choices=(*SPLITS, ALL_SPLITS)
    )
    out_of_bounds: str = option(
        "drop",
        "treatment of fixations outside the picture: drop them, or clip them to its border",
        choices=OUT_OF_BOUNDS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.columns, self.dataset)


def data_of(trained: Config, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the data set, the split and the ground truth of a training.

    The training's paths, split and Gaussian do not apply to another data set, nor to another one of
    one's own of the same name.

    Args:
        trained: the settings of the training.
        flags: those of the scoring; without `dataset`, the first data set of the training is taken.
    """
    name = flags.get("dataset", trained.dataset[0])
    if not is_same_data(trained, name, flags.get("data")):
        return {"dataset": name}
    truth = {field: getattr(trained, field) for field in TRUTH_FIELDS}
    if name not in TABLE_SETS:  # the training had another data set with tables
        truth["columns"] = ""
    return {**truth, "dataset": name, "data": dict(trained.sets)[name]}


@dataclass(frozen=True)
class ProbeConfig(ScoringConfig):
    """Measure how well each stage of a frozen network predicts human fixations.

    Solve linear read-outs of every stage exactly, in one pass over the training pictures, and score
    them beside the references.
    """

    metrics: str = option("cc,auc_judd", "metrics, as a list such as cc,nss,auc_judd")
    output: Path = option(Path("probe"), "folder for probe.json, index.html and the scores")
    gallery: int = option(6, "pictures shown on the page", unit="pictures", least=0, most=10**4)
    backbone: str = option(
        "vgg16",
        "networks to probe, as a list such as vgg16,resnet50; choices: " + ", ".join(BACKBONES),
        group="network",
    )
    backbone_weights: str | None = option(
        None,
        "ImageNet weights of the network: a file, or 'none' for random weights only; default: "
        "weights/, Keras' cache or a download",
    )
    weights_dir: Path = shared("weights_dir", help="folder to search for ImageNet weights")
    control: bool = option(True, "probe each network with random weights, too")
    rows: int = option(240, "height of the network's input", unit="pixels", least=32, most=16384)
    cols: int = option(320, "width of the network's input", unit="pixels", least=32, most=16384)
    width: float = option(
        1.0, "factor on the number of channels; below 1 is for tests only", least=0.001, most=4
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
                f"--backbone_weights {self.backbone_weights} is the file of one network: probe one "
                "network at a time, or put the files into weights/."
            )

    @property
    def backbones(self) -> tuple[str, ...]:
        """The names of the networks to probe."""
        return tuple(self.backbone.replace(" ", "").split(","))
