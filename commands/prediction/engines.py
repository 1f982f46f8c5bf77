"""Inference engines of `test`: Keras, ncnn, OpenVINO and ONNX Runtime.

The last three run a copy of the network, which is kept in the user's cache. For ncnn, ML-Net on a
VGG is built from its weights file. For the others, `export` makes the copy once, in a process of
its own, and checks it against Keras. Later runs import no backend and start within a second or two.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import BoundedSemaphore, Lock, local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.settings import FORMATS
from salience.measures.adaptation import IDENTITY, SUFFIX, Adaptation, SetNumbers, save
from salience.measures.density import calibration_or_identity
from salience.measures.finish import NONE, UNFINISHED, Finish, finish_of
from salience.pictures.letterbox import Letterbox, OutputGrid, of_both_ways
from salience.pictures.screens import is_like_a_screen
from salience.system import cache, quiet
from salience.system.arrays import Array
from salience.system.code_digest import code_digest
from salience.system.errors import UserError
from salience.system.files import file_digest, how_to_install, read_json, real_path
from salience.system.terminal import waiting

Maps = Callable[[NDArray[np.uint8]], Array]
# Batches predicted concurrently, each on its share of the cores. Two halves synchronise less often
# than all threads on one batch; more batches would only need more memory.
AT_ONCE = 2
# the modules that make an exported network; importing the first would import Keras
EXPORTER, DESCRIBER = "commands.prediction.export", "salience.networks.mlnet_ncnn"
AUTO, KERAS, NCNN = "auto", "keras", "ncnn"
REDUCED = "openvino-bf16"  # the engine whose maps are not Keras' to a grey level
EXPORT_SECONDS = 40  # of an export and its check, on two cores


@dataclass(frozen=True)
class Engine:
    """A loaded network.

    Attributes:
        name: keras, or a key of `RUNTIMES`.
        input_shape: rows and columns of the input, pixels.
        grid: position of the output cells on the input.
        maps: function from pictures (as `preprocess` returns them, uint8 [b, rows, cols, 3]) to
            maps (float32 [b, map rows, map cols, 1]); thread-safe.
        at_once: number of calls that run concurrently; further calls wait.
        finish: adaptation and blur, applied to finished maps.
        calibration: turns a map before its finish into a density.
        limits: what the card says that the weights are not for; may be empty.
    """

    name: str
    input_shape: tuple[int, int]
    grid: OutputGrid
    maps: Maps
    at_once: int = 1
    finish: Finish = UNFINISHED
    calibration: Adaptation = IDENTITY
    limits: str = ""

    def is_outside_limits(self, placed: NDArray[np.uint8], box: Letterbox) -> bool:
        """Return whether a picture looks like a screenshot, if the card states limits.

        Args:
            placed: the network's input, uint8 [rows, cols, 3].
            box: the letterbox that placed the picture in it.
        """
        return bool(self.limits) and is_like_a_screen(box.without_padding(placed))


@dataclass(frozen=True)
class Runtime:
    """A runtime for copies of networks.

    Attributes:
        package: name of its Python package.
        extra: the extra of the installed program that brings the package, and the requirements.
        format: format of `export` that it runs; ncnn's is not among them.
        suffix: suffix of the file.
        makers: the packages that a copy is made by, besides the runtime. A package that is
            installed later and is not among them does not remake what is there.
        open: loads a file for a number of concurrent calls; returns `Engine.maps`.
    """

    package: str
    extra: tuple[str, str]
    format: str
    suffix: str
    makers: tuple[str, ...]
    open: Callable[[Path, int], Maps]


def open_ncnn(path: Path, at_once: int = 1) -> Maps:
    """Return the prediction function of a network of ncnn (.param)."""
    import ncnn

    from salience.networks.mlnet_ncnn import INPUT, OUTPUT

    network = ncnn.Net()  # pyright: ignore[reportAttributeAccessIssue]
    how = network.opt
    how.num_threads = max(1, cores() // at_once)
    # ncnn's default is half precision on processors that support it, which changes the maps
    how.use_fp16_packed = how.use_fp16_storage = how.use_fp16_arithmetic = False
    how.use_bf16_storage = how.use_bf16_packed = False
    files = path, path.with_suffix(".bin")
    # bytes: a path need not be text
    if network.load_param(os.fsencode(files[0])) or network.load_model(os.fsencode(files[1])):
        raise OSError(f"ncnn cannot load {path}")
    slots = BoundedSemaphore(at_once)  # each call takes memory for all layers

    def map_of(picture: NDArray[np.uint8]) -> Array:
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
        with slots, network.create_extractor() as run:
            # clone: ncnn neither keeps the array alive nor leaves its values as they are
            given = ncnn.Mat(planes).clone()  # pyright: ignore[reportAttributeAccessIssue]
            run.input(INPUT, given)
            failed, found = run.extract(OUTPUT)
            if failed:
                raise OSError("ncnn failed to compute a map")
            return np.array(found).transpose(1, 2, 0)

    return lambda batch: np.stack([map_of(picture) for picture in batch])


def open_openvino(path: Path, at_once: int = 1, precision: str = "f32") -> Maps:
    """Return the prediction function of an OpenVINO network (.xml or .onnx)."""
    how = {
        # OpenVINO's default is bfloat16 on processors that support it, which changes the maps
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": at_once,
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_CPU_PINNING": False,  # the cores also read and write pictures
    }
    network = quiet.import_openvino().Core().compile_model(path, "CPU", how)
    own, lock = local(), Lock()

    def maps(batch: NDArray[np.uint8]) -> Array:
        pictures = batch.astype(np.float32)
        # OpenVINO's Python module deadlocked when two threads entered it for the first time: one
        # held the GIL, the other OpenVINO's own lock. So only `wait` runs concurrently.
        with lock:
            if not hasattr(own, "request"):
                own.request = network.create_infer_request()
            own.request.start_async([pictures], share_inputs=True)
        own.request.wait()
        with lock:
            # copy: the next call overwrites the request's memory
            return own.request.get_output_tensor(0).data.copy()

    return maps


def open_onnx(path: Path, at_once: int = 1) -> Maps:
    """Return the prediction function of an ONNX network."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, cores() // at_once)
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch.astype(np.float32)})[0])


# extras of the installed program, with the requirements that hold the same packages
BASE = "", "pip install -r requirements.txt"
TRAIN = "train", "pip install -r requirements.txt"
ONNX = "onnx", "pip install -r requirements/engines.txt"
OPENVINO = Runtime("openvino", TRAIN, "openvino", ".xml", ("keras", "tensorflow"), open_openvino)
# by engine, in order of preference
RUNTIMES = {
    NCNN: Runtime("ncnn", BASE, "ncnn", ".param", (), open_ncnn),
    "openvino": OPENVINO,
    REDUCED: replace(OPENVINO, open=partial(open_openvino, precision="bf16")),
    "onnx": Runtime(
        "onnxruntime", ONNX, "onnx", ".onnx", ("keras", "tensorflow", "tf2onnx", "onnx"), open_onnx
    ),
}


def has_bfloat16() -> bool:
    """Return whether this processor multiplies numbers of bfloat16, by OpenVINO's word."""
    core = quiet.import_openvino().Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose(name: str, say: Callable[[str], None] | None = None) -> str:
    """Return an engine after its checks, or "auto"; Keras is imported if it is the engine.

    Args:
        name: an engine of `config.ENGINES`. "auto" stays "auto" where a copy of the network will
            run, since the weights decide which engine is the fastest; see `fastest`.
        say: called with a message if Keras is imported; None for no message.

    Raises:
        UserError: the engine is not installed, or the processor cannot run it.
    """
    if name == AUTO and fastest(say=say) != KERAS:
        return AUTO
    if name in (AUTO, KERAS):
        quiet.start_keras(say)
        return KERAS
    if not installed(RUNTIMES[name].package):
        raise UserError(
            f"--engine {name}: the package {RUNTIMES[name].package} is not installed. "
            f"{how_to_install(*RUNTIMES[name].extra)}, or leave --engine out."
        )
    if name == REDUCED and not has_bfloat16():
        raise UserError(
            f"--engine {name}: this processor has no bfloat16. Choose --engine openvino."
        )
    return name


def load(
    name: str,
    weights: Path,
    say: Callable[[str], None],
    of_set: str | SetNumbers | None = None,
) -> Engine:
    """Return an engine that runs the network of a weights file.

    If the network cannot be exported or the export cannot be run, the engine is Keras.

    Args:
        name: see `choose`.
        weights: a weights file of `train`.
        say: called with each message.
        of_set: data set whose numbers are used, or fitted numbers; see `model.load_model`.

    Raises:
        UserError: the engine is not installed, or the weights cannot be used.
    """
    name = choose(name, say)
    if name == AUTO:
        name = fastest(weights)
    if of_set is not None:
        check_set(weights, of_set)
    if name == KERAS:
        require_keras(weights)
        return keras_engine(weights, of_set)
    try:
        return exported_engine(name, weights, say, of_set)
    except Exception as error:  # runtimes raise errors of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        if not installed(KERAS):  # nothing else can run it
            if isinstance(error, UserError):
                raise
            raise UserError(f"{name} cannot run {weights}: {reason}") from error
        say(f"{name} cannot run {weights}, Keras is used instead: {reason}")
        quiet.start_keras(say)
        return keras_engine(weights, of_set)


def check_set(weights: Path, of_set: str | SetNumbers) -> None:
    """Check that the network of a weights file can use numbers of a data set, without Keras.

    Raises:
        UserError: it cannot, or the file cannot be read.
    """
    from config import trained_config

    trained_config(weights).check_set(of_set)


def load_adapted(
    name: str,
    weights: Path,
    adaptation: Path | None,
    mirror: bool,
    say: Callable[[str], None],
    of_set: str | None = None,
    density: bool = False,
    smooth: float = 0.0,
    only_densities: bool = False,
    has_flag: bool = True,
) -> Engine:
    """Return an engine with the finish of its maps and with averaging over mirrored pictures.

    An adaptation with numbers in the network is that of the network which the engine runs.

    Args:
        name: see `choose`.
        weights: a weights file of `train`.
        adaptation: a file of `adapt`, its name, general or none; see `finish_of`.
        mirror: whether to average each map with that of the mirrored picture.
        say: called with each message.
        of_set: data set whose numbers are used; see `model.load_model`.
        density: whether densities are asked for, which need the weights' calibration.
        smooth: the user's own blur of maps, which replaces that of the card.
        only_densities: see `finish_of`.
        has_flag: see `finish_of`.

    Raises:
        UserError: the weights, their calibration or the adaptation cannot be used.
    """
    from salience.networks import weight_files  # here: it imports h5py

    card = weight_files.read_card(weights)
    own = finish_of(
        card, weights, adaptation, of_set, smooth, say, only_densities=only_densities,
        has_flag=has_flag,
    )  # fmt: skip
    to_density = own.calibration or IDENTITY
    if density and own.calibration is None:
        to_density = calibration_or_identity(card, weights, say)
    engine = replace(
        load(name, weights, say, own.numbers),
        finish=own,
        calibration=to_density,
        limits=weight_files.limits_of(card),
    )
    return replace(engine, maps=of_both_ways(engine.maps)) if mirror else engine


def finish_for(
    weights: Path,
    adaptation: Path | None,
    of_set: str | None,
    smooth: float,
    say: Callable[[str], None],
) -> Finish:
    """Return what is done to the maps of weights, and the network's numbers; see `finish_of`."""
    from salience.networks import weight_files  # here: it imports h5py

    card = weight_files.read_card(weights)
    return finish_of(card, weights, adaptation, of_set, smooth, say)


def calibration(weights: Path, say: Callable[[str], None]) -> Adaptation:
    """Return the calibration in a weights file's card; the identity, and a message, without one.

    Raises:
        UserError: the card or its calibration cannot be read.
    """
    from salience.networks import weight_files  # here: it imports h5py

    return calibration_or_identity(weight_files.read_card(weights), weights, say)


def fastest(weights: Path | None = None, say: Callable[[str], None] | None = None) -> str:
    """Return the engine that "auto" chooses on this machine.

    This is the first installed one of `RUNTIMES` that runs the network. It is Keras if there is
    none, if there is a GPU, or if the user chose another backend than TensorFlow.

    Args:
        weights: a weights file of `train`; None for a network that every engine runs.
        say: called with a message if Keras is imported to look for a GPU; None for no message.

    Raises:
        UserError: the weights file cannot be read.
    """
    if os.environ.get("KERAS_BACKEND", "") not in ("", "tensorflow") or has_gpu(say):
        return KERAS
    is_direct = weights is None or bool(direct_settings(weights))
    return next(
        (
            name
            for name, runtime in RUNTIMES.items()
            if installed(runtime.package) and (is_direct or name != NCNN)
        ),
        KERAS,
    )


def require_keras(weights: Path) -> None:
    """Check that Keras is installed, which runs or converts a network.

    Raises:
        UserError: it is not, or the weights file cannot be read.
    """
    if installed(KERAS):
        return
    if direct_settings(weights):
        raise UserError(
            f"Without Keras, which is not installed, only {NCNN} runs {weights}: leave --engine out"
            + ("." if installed(NCNN) else f", and install {NCNN}: {how_to_install(*BASE)}.")
        )
    raise UserError(
        f"The network of {weights} is run or converted by Keras, which is not installed: "
        f"{how_to_install(*TRAIN)}. The included mlnet-osie needs no Keras."
    )


def installed(package: str) -> bool:
    """Return True if a package can be imported; does not import it."""
    return find_spec(package) is not None


def require_packages(format: str) -> None:
    """Check that the packages which a format of `export` needs are installed.

    Args:
        format: key of `FORMATS`.

    Raises:
        UserError: a package is missing.
    """
    missing = [package for package in FORMATS[format] if not installed(package)]
    if missing:
        bring = TRAIN if missing == [OPENVINO.package] else ONNX
        raise UserError(
            f"--format {format} needs {' and '.join(missing)}: {how_to_install(*bring)}."
        )


def has_gpu(say: Callable[[str], None] | None = None) -> bool:
    """Return True if Keras finds a GPU; Keras is imported only if there is a driver.

    Args:
        say: called with a message if Keras is imported; None for no message.
    """
    if not Path("/dev/nvidiactl").exists() or not installed(KERAS):
        return False
    quiet.start_keras(say)
    import keras

    return bool(keras.distribution.list_devices("gpu"))


def keras_engine(weights: Path, of_set: str | SetNumbers | None = None) -> Engine:
    """Return Keras as an engine.

    Args:
        weights: a weights file of `train`.
        of_set: see `load`.

    Raises:
        UserError: the weights cannot be used.
    """
    quiet.start_keras()
    from model import grid_of, load_model

    model, lock = load_model(weights, of_set, NONE), Lock()

    def maps(batch: NDArray[np.uint8]) -> Array:
        with lock:
            return np.asarray(model.predict_on_batch(batch))

    return Engine(KERAS, model.input_shape[1:3], grid_of(model), maps)


def exported_engine(
    name: str,
    weights: Path,
    say: Callable[[str], None],
    of_set: str | SetNumbers | None = None,
) -> Engine:
    """Return the exported network of a weights file, from the cache where it is there.

    Raises:
        UserError: it cannot be made.
        Exception: of its runtime, which cannot run it.
    """
    file = f"network{RUNTIMES[name].suffix}"
    settings = direct_settings(weights) if name == NCNN else None
    if name == NCNN and not settings:
        raise UserError(
            f"{name} runs ML-Net on a VGG, and {weights} holds another network. Leave --engine out."
        )

    def made(folder: Path) -> None:
        if settings:
            from salience.networks import mlnet_ncnn

            say(f"making the {name} network of {weights}, once")
            return mlnet_ncnn.write(weights, settings, folder / file)
        require_keras(weights)
        say(
            f"making the {name} network of {weights}, once, and checking it against Keras: about "
            f"{EXPORT_SECONDS} s"
        )
        with waiting("making the network", EXPORT_SECONDS):
            make(RUNTIMES[name].format, weights, folder / file, of_set)

    shelf = cache.default_cache().shelf(key(name, weights, of_set))
    path = shelf.files(made, lambda folder: whole(folder / file)) / file
    at_once = min(AT_ONCE, cores())
    return from_card(name, read_json(card_path(path)), RUNTIMES[name].open(path, at_once), at_once)


def direct_settings(weights: Path) -> Any:
    """Return the settings of a network that is built from its weights file; None for others.

    Raises:
        UserError: the weights file cannot be read.
    """
    from config import trained_config
    from salience.networks.backbone_table import VGG_BLOCKS

    config = trained_config(weights)
    return config if config.model == "mlnet" and config.backbone in VGG_BLOCKS else None


def from_card(name: str, card: dict[str, Any], maps: Maps, at_once: int = 1) -> Engine:
    """Return an engine whose input and output geometry is read from the card of an export."""
    shape, grid = card["input"], card["output"]
    return Engine(
        name,
        (shape["rows"], shape["cols"]),
        OutputGrid(grid["stride"], grid["crop"], grid["blur"]),
        maps,
        at_once,
    )


def make(format: str, weights: Path, output: Path, of_set: str | SetNumbers | None = None) -> None:
    """Export a network to a file, in a process of its own.

    Raises:
        UserError: it cannot be converted.
    """
    more = ["--set", of_set] if isinstance(of_set, str) else []
    fitted = output.with_name(f"numbers{SUFFIX}")
    if isinstance(of_set, SetNumbers):
        save(fitted, of_set, weights, {})
        more = ["--adaptation", str(fitted)]
    done = subprocess.run(
        quiet.program("export", "--format", format, "--weights", str(real_path(weights)),
                       "--output", str(output), *more),
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    fitted.unlink(missing_ok=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(lines[-1].removeprefix("error: "))


def key(name: str, weights: Path, of_set: str | SetNumbers | None = None) -> str:
    """Return a name for a copy of a network, made from all that it depends on.

    Args:
        name: key of `RUNTIMES`; those of one format share their copies.
        weights: the weights file.
        of_set: see `load`.
    """
    parts = [RUNTIMES[name].format, file_digest(weights), *([f"set {of_set}"] if of_set else [])]
    for package in (*RUNTIMES[name].makers, RUNTIMES[name].package):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"no {package}")
    return cache.make_key(code_digest(DESCRIBER if name == NCNN else EXPORTER), *parts)


def whole(path: Path) -> bool:
    """Return whether an exported network is there as its card says that it was written."""
    try:
        files = read_json(card_path(path))["files"]
        return all(file_digest(path.with_name(name)) == digest for name, digest in files.items())
    except (UserError, OSError, TypeError, KeyError, AttributeError):
        return False


def card_path(path: Path) -> Path:
    """Return where the JSON card of an export lies.

    >>> card_path(Path("exports/mlnet-frozen.onnx")).name
    'mlnet-frozen.onnx.json'
    """
    return path.with_name(f"{path.name}.json")
