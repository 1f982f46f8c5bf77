"""What runs a trained network for `test`: Keras, or an exported copy of it, without Keras.

The copy is made once by `export`, which checks it against Keras, in a process of its own; it is
kept in the user's cache. Then no backend is imported, and a start takes a second or two.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salience.measures.adaptation import IDENTITY, Adaptation, load_named
from salience.pictures.letterbox import OutputGrid, of_both_ways
from salience.system import quiet
from salience.system.arrays import Array
from salience.system.cache import default_cache
from salience.system.code_digest import code_digest
from salience.system.errors import UserError
from salience.system.files import file_digest, how_to_install, read_json, real_path

Maps = Callable[[NDArray[np.uint8]], Array]
# Batches that are predicted at the same time, each on its share of the cores. Two halves wait less
# on each other than the threads of one batch do, and more would only take memory.
AT_ONCE = 2
KEPT = 8  # networks in the cache; the one that was used longest ago makes room
LEFT_SECONDS = 86400.0  # by then nobody works on what is still unnamed
# what an exported network is made by, besides code of ours
MAKERS = ("keras", "tensorflow", "tf2onnx", "onnx")
EXPORTER = "commands.prediction.export"  # the module that makes it; importing it would import Keras


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Attributes:
        name: keras, openvino or onnx.
        input_shape: rows and columns of its input, pixels.
        grid: where the cells of its maps lie on the input.
        maps: from pictures as `preprocess` gives them, uint8 [b, rows, cols, 3], to maps
            float32 [b, map rows, map cols, 1]; several threads may call it.
        at_once: how many calls run at the same time; more wait.
        adaptation: what is done to a finished map, for the sake of a data set.
    """

    name: str
    input_shape: tuple[int, int]
    grid: OutputGrid
    maps: Maps
    at_once: int = 1
    adaptation: Adaptation = IDENTITY


@dataclass(frozen=True)
class Runtime:
    """What runs an exported network.

    Attributes:
        package: that it comes in.
        suffix: of the exported file.
        open: returns the function from pictures to maps of a file, given how many calls run at the
            same time.
    """

    package: str
    suffix: str
    open: Callable[[Path, int], Maps]


def open_openvino(path: Path, at_once: int = 1) -> Maps:
    """Return the function from pictures to maps of an OpenVINO network (.xml, or .onnx)."""
    how = {
        # by itself it would take bfloat16 where the processor has it, and move the maps
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": at_once,
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_CPU_PINNING": False,  # the cores are shared with who reads and writes
    }
    network = quiet.import_openvino().Core().compile_model(path, "CPU", how)
    own, turn = local(), Lock()

    def maps(batch: NDArray[np.uint8]) -> Array:
        pictures = batch.astype(np.float32)
        # Its Python side, entered by two threads for the first time, was seen to wait for ever:
        # one holds Python's lock, the other a lock of its own. Only `wait`, the work, is shared.
        with turn:
            if not hasattr(own, "request"):
                own.request = network.create_infer_request()
            own.request.start_async([pictures], share_inputs=True)
        own.request.wait()
        with turn:
            # the request's own memory is used again by its next call
            return own.request.get_output_tensor(0).data.copy()

    return maps


def open_onnx(path: Path, at_once: int = 1) -> Maps:
    """Return the function from pictures to maps of an ONNX network."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, cores() // at_once)
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch.astype(np.float32)})[0])


# by engine, the best first
RUNTIMES = {
    "openvino": Runtime("openvino", ".xml", open_openvino),
    "onnx": Runtime("onnxruntime", ".onnx", open_onnx),
}


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chosen(name: str) -> str:
    """Return the name of the engine that one asked for means here, which is there.

    Args:
        name: of `config.ENGINES`; auto is the fastest that is installed, and Keras where the user
            named another backend than TensorFlow or there is a GPU, which the others would not use.

    Raises:
        UserError: it is not installed.
    """
    if name == "auto":
        name = fastest()
    if name == "keras":
        quiet.start_keras()
    elif not installed(RUNTIMES[name].package):
        raise UserError(
            f"--engine {name}: the package {RUNTIMES[name].package} is not installed. "
            f"{how_to_install('onnx', 'pip install -r requirements/engines.txt')}, or choose "
            "--engine keras."
        )
    return name


def get(name: str, weights: Path, say: Callable[[str], None]) -> Engine:
    """Return an engine that runs the network of a weights file.

    Where an exported network cannot be made or run, that is said, and it is Keras.

    Args:
        name: see `chosen`.
        weights: a file that `train` wrote.
        say: gets each line of news.

    Raises:
        UserError: the engine is not installed, or the weights are not usable.
    """
    name = chosen(name)
    if name == "keras":
        return keras_engine(weights)
    try:
        return exported_engine(name, weights, say)
    except Exception as error:  # a runtime's own errors are of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"{name} cannot run {weights}, so Keras does: {reason}")
        return keras_engine(weights)


def as_asked(
    name: str, weights: Path, adaptation: Path | None, mirror: bool, say: Callable[[str], None]
) -> Engine:
    """Return an engine as `test` is asked for it: with mirror images, for a data set's bias.

    Args:
        name: see `chosen`.
        weights: a file that `train` wrote.
        adaptation: a file that `adapt` wrote, or its name; None for none.
        mirror: whether to average each map with that of the mirrored picture.
        say: gets each line of news.

    Raises:
        UserError: the weights or the adaptation are not usable.
    """
    bias = load_named(adaptation, weights, say)
    engine = replace(get(name, weights, say), adaptation=bias)
    return replace(engine, maps=of_both_ways(engine.maps)) if mirror else engine


def fastest() -> str:
    """Return the engine that auto means here."""
    if os.environ.get("KERAS_BACKEND", "") not in ("", "tensorflow") or has_gpu():
        return "keras"
    return next((name for name in RUNTIMES if installed(RUNTIMES[name].package)), "keras")


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def has_gpu() -> bool:
    """Return whether Keras sees a GPU; it is asked only where a driver is."""
    if not Path("/dev/nvidiactl").exists():
        return False
    quiet.start_keras()
    import keras

    return bool(keras.distribution.list_devices("gpu"))


def keras_engine(weights: Path) -> Engine:
    """Return Keras as an engine.

    Raises:
        UserError: the weights are not usable.
    """
    quiet.start_keras()
    from model import grid_of, load_model

    model, turn = load_model(weights), Lock()

    def maps(batch: NDArray[np.uint8]) -> Array:
        with turn:
            return np.asarray(model.predict_on_batch(batch))

    return Engine("keras", model.input_shape[1:3], grid_of(model), maps)


def exported_engine(name: str, weights: Path, say: Callable[[str], None]) -> Engine:
    """Return the exported network of a weights file, from the cache where it is there.

    Raises:
        UserError: it cannot be made.
        Exception: of its runtime, which cannot run it.
    """
    cache = default_cache().folder
    if cache is None:
        raise UserError(f"No folder keeps the {name} network: name one as $SALIENCY_CACHE.")
    home = cache / "networks"
    folder = home / key(name, weights)
    path = folder / f"network{RUNTIMES[name].suffix}"
    if not whole(path):
        say(f"making the {name} network of {weights}, once")
        make(name, weights, folder)
        make_room(home)
    with suppress(OSError):
        os.utime(folder)
    at_once = min(AT_ONCE, cores())
    return from_card(name, read_json(card_path(path)), RUNTIMES[name].open(path, at_once), at_once)


def from_card(name: str, card: dict[str, Any], maps: Maps, at_once: int = 1) -> Engine:
    """Return an engine whose geometry the card of an export tells."""
    shape, grid = card["input"], card["output"]
    return Engine(
        name,
        (shape["rows"], shape["cols"]),
        OutputGrid(grid["stride"], grid["crop"], grid["blur"]),
        maps,
        at_once,
    )


def make(name: str, weights: Path, folder: Path) -> None:
    """Export a network into a folder of the cache, which is there whole or not at all.

    Raises:
        UserError: it cannot be converted, or the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
            output = Path(scratch, "made", f"network{RUNTIMES[name].suffix}")
            done = subprocess.run(
                quiet.program("export", "--format", name, "--weights", str(real_path(weights)),
                               "--output", str(output)),
                env={**os.environ, "KERAS_BACKEND": "tensorflow"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise UserError(lines[-1].removeprefix("error: "))
            if not whole(folder / output.name):  # else another process has made the same meanwhile
                shutil.rmtree(folder, ignore_errors=True)  # damaged
                with suppress(OSError):
                    output.parent.rename(folder)
    except OSError as error:
        raise UserError(f"Cannot write the cache {folder.parent}: {error.strerror}.") from error


def make_room(home: Path) -> None:
    """Remove the networks that were used longest ago, and what processes that were killed left."""
    used = {folder: last_used(folder) for folder in home.iterdir()}
    made = sorted((f for f in used if not f.name.startswith(".")), key=lambda f: used[f])
    left = [f for f in used if f.name.startswith(".") and used[f] < time.time() - LEFT_SECONDS]
    for folder in (*made[:-KEPT], *left):
        shutil.rmtree(folder, ignore_errors=True)


def last_used(folder: Path) -> float:
    """Return when a network was used last; 0 where another process has just removed it."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def key(name: str, weights: Path) -> str:
    """Return a name for an exported network, made from all that it depends on."""
    parts = [name, file_digest(weights)]
    for package in (*MAKERS, RUNTIMES[name].package):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"no {package}")
    parts.append(code_digest(EXPORTER))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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
