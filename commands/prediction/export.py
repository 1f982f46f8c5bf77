"""Converts a trained network to ONNX, OpenVINO, LiteRT or SavedModel.

Keras converts the network through TensorFlow, whichever backend trained it. The exported network is
compared with Keras before it gets its final name. A JSON card beside it describes the input and the
output; the card is also stored in the file if the format allows it.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import keras
import numpy as np

from commands.prediction import engines
from commands.prediction.engines import Maps, card_path
from commands.settings import ExportConfig
from model import grid_of, load_model
from salience.data.sets.synthetic import draw
from salience.measures.adaptation import IDENTITY, SetNumbers
from salience.measures.finish import NONE, Finish, finish_of
from salience.networks import weight_files
from salience.networks.weight_files import versions
from salience.pictures.letterbox import preprocess
from salience.system import quiet
from salience.system.errors import UserError
from salience.system.files import (
    error_number,
    file_digest,
    make_folder,
    move,
    refusal_in,
    refused,
    scratch,
    telling,
    without_nan,
    write_json,
)
from salience.system.terminal import tell

TOLERANCE = 1e-3  # of a map's maximum
LETTERBOX = (
    "The picture is scaled to fit into rows x cols with its aspect ratio kept (scale = the lesser "
    "of rows / its rows and cols / its columns; rounded sizes, at least 1; by area averaging where "
    "it shrinks, else bilinear), and placed in the centre (rounded up and left) of black."
)
INPUT = (
    "BGR, 0 to 255, not normalised: what the backbone wants subtracted or divided is the network's "
    "first layer."
)
OUTPUT = (
    "A cell covers stride x stride pixels of the input, of which crop pixels at each side are left "
    "out. Blur the map by a Gaussian of `blur` cells, read it bilinearly where each of the "
    "picture's pixels was placed, set negative values to 0, and divide by the maximum."
)
FINISH = (
    "`test` then adapts the map (salience/measures/adaptation.py says how; contrast 1 and shares "
    "and powers of 0 change nothing), blurs it by a Gaussian of map_blur diagonals of the picture, "
    "and divides by the maximum."
)


@dataclass(frozen=True)
class ExportFormat:
    """A format of exported networks.

    Attributes:
        suffix: suffix of the file; "" for a folder.
        write: writes a network and its card to a path in an empty folder.
        open: loads the exported network; returns its prediction function.
        main: for a folder, a file by which an earlier export is recognised.
        tolerance: largest difference from Keras, of a map's maximum.
        fetch: gets files that the export needs, after all checks; None if there are none.
    """

    suffix: str
    write: Callable[[keras.Model, dict[str, Any], Path], None]
    open: Callable[[Path], Maps]
    main: str = ""
    tolerance: float = TOLERANCE
    fetch: Callable[[], object] | None = None


def export(
    settings: ExportConfig, say: Callable[[str], None] = tell, form: ExportFormat | None = None
) -> Path:
    """Export a trained network; return the path of the export.

    Args:
        settings: the weights, the format and the output path.
        say: called with each message.
        form: the format, if it is not in EXPORT_FORMATS.

    Raises:
        UserError: no weights; a package is missing; the adaptation is not in the network; the
            network cannot be converted; the export differs from Keras; or it cannot be written. No
            file is left in these cases.
    """
    form = form or EXPORT_FORMATS[settings.format]
    require_converter(settings.format)
    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    output = output_path(settings, form, weights)
    finish = finish_for(settings, weights)
    if form.fetch:
        form.fetch()
    make_folder(output.parent)
    say(
        f"writing {output}, and comparing it with Keras: about {engines.EXPORT_SECONDS} s on two "
        "cores"
    )
    model = load_model(weights, finish.numbers, NONE)
    card = export_card(model, weights, settings.format, finish)
    with telling(f"Cannot write {output}"), scratch(output.parent) as scratch_folder:
        made = scratch_folder / "made" / output.name
        made.parent.mkdir()
        card["difference"] = convert(model, form, card, made)
        parts = sorted(path for path in made.parent.rglob("*") if path.is_file())
        card["files"] = {str(p.relative_to(made.parent)): file_digest(p) for p in parts}
        size = sum(path.stat().st_size for path in parts)
        write_json(card_path(made), card)
        install(made, output, scratch_folder)
    say(
        f"{output}: {size / 2**20:.1f} MB, differs from Keras by at most {card['difference']:.1e} "
        "of a map's maximum"
    )
    return output


def finish_for(settings: ExportConfig, weights: Path) -> Finish:
    """Return the numbers that an exported network uses, and what remains to be done to its maps.

    Raises:
        UserError: the requested adaptation cannot be used, or changes finished maps.
    """
    card = weight_files.read_card(weights)
    finish = finish_of(card, weights, settings.adaptation, settings.of_set)
    by_card = finish_of(card, weights, None, settings.of_set)
    if finish.adaptation not in (IDENTITY, by_card.adaptation):
        raise UserError(
            f"--adaptation {settings.adaptation} changes finished maps, which an exported network "
            "does not contain. Leave it out, and apply it to the maps (docs/ADAPTING.md)."
        )
    return finish


def require_converter(name: str) -> None:
    """Check the requirements of a conversion before anything is loaded.

    Raises:
        UserError: Keras runs on another backend than TensorFlow, or a package is missing.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"export needs the TensorFlow backend, not {keras.backend.backend()}. Run it with "
            "KERAS_BACKEND=tensorflow: the weights files are the same on every backend."
        )
    engines.require_packages(name)


def output_path(settings: ExportConfig, form: ExportFormat, weights: Path) -> Path:
    """Return the path of an export.

    Raises:
        UserError: the suffix does not fit the format, or an existing file must not be replaced.
    """
    suffix = form.suffix
    name = weight_files.card_path(weights).stem
    output = settings.output or Path("exports") / f"{name}{suffix or f'-{settings.format}'}"
    # a folder's name may contain a dot, but not end with the suffix of another format
    of_files = {form.suffix for form in EXPORT_FORMATS.values()} - {""}
    if not output.name or (output.suffix != suffix if suffix else output.suffix in of_files):
        raise UserError(
            f"--output {output}: an export to {settings.format} is "
            + (f"a file that ends in {suffix}." if suffix else "a folder.")
        )
    if output.exists() and not settings.overwrite:
        raise UserError(f"{output} exists. Replace it with --overwrite.")
    if output.exists() and not (output / form.main).is_file():
        raise UserError(
            f"{output} exists but is not a {settings.format} export, so it is not replaced. Choose "
            "another --output."
        )
    return output


def export_card(model: keras.Model, weights: Path, name: str, finish: Finish) -> dict[str, Any]:
    """Return the card of an export: its origin, input and output. `engines` reads it, too.

    Args:
        model: the network.
        weights: its weights file.
        name: the format.
        finish: the network's numbers of data sets, and what remains to be done to its maps.
    """
    trained = weight_files.read_card(weights)
    numbers = finish.numbers
    grid = grid_of(model)
    rows, cols = model.input_shape[1:3]
    map_rows, map_cols = model.output_shape[1:3]
    return {
        "format": name,
        "system": trained.get("system"),
        "strategy": trained.get("strategy"),
        "dataset": trained.get("dataset"),
        "metrics": trained.get("metrics"),
        "weights": {"file": weights.name, "sha256": file_digest(weights)},
        "numbers": numbers.values if isinstance(numbers, SetNumbers) else numbers,
        "input": {
            "layout": "float32 [batch, rows, cols, 3]",
            "batch": 1 if name == "litert" else "any",
            "rows": rows,
            "cols": cols,
            "values": INPUT,
            "letterbox": LETTERBOX,
        },
        "output": {
            "layout": "float32 [batch, rows, cols, 1]",
            "rows": map_rows,
            "cols": map_cols,
            "stride": grid.stride,
            "crop": grid.crop,
            "blur": grid.blur,
            "use": OUTPUT,
        },
        "finish": {
            "adaptation": asdict(finish.adaptation),
            "map_blur": finish.map_blur,
            "use": FINISH,
        },
        "limits": trained.get("limits"),
        "versions": versions(),
    }


def convert(model: keras.Model, form: ExportFormat, card: dict[str, Any], path: Path) -> float:
    """Write a network in a format and run it; return the difference of its maps from Keras'.

    Raises:
        UserError: the converter or the runtime fails, or the maps differ.
    """
    # Keras exports only a model that has been called
    model.predict_on_batch(np.zeros((1, *model.input_shape[1:]), np.uint8))
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), quiet.hushed():
            warnings.simplefilter("ignore")
            form.write(model, without_nan(card), path)
            return compare(model, form.open(path), card["format"], form.tolerance)
    except UserError:
        raise
    except Exception as error:  # converters raise errors of many types
        # OpenVINO does not report a full disk, so check the free space for two copies of the
        # weights
        size = 2 * sum(weight.nbytes for weight in model.get_weights()) + 2**16
        why = error if error_number(error) else refusal_in(path.parent, size)
        if why:
            raise refused(f"Cannot write {model.name} as {card['format']}", why) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{model.name} cannot be written as {card['format']}: {reason}") from error


def compare(model: keras.Model, maps: Maps, name: str, tolerance: float = TOLERANCE) -> float:
    """Return the largest difference of an export's maps from Keras', relative to a map's maximum.

    The inputs are a landscape scene, a portrait scene and noise, in batches of one and of three.

    Raises:
        UserError: the maps differ by more than `tolerance`, are not finite, or are constant.
    """
    rows, cols = model.input_shape[1:3]
    rng = np.random.default_rng(0)
    pictures = [draw((0,)), np.ascontiguousarray(np.rot90(draw((1,))))]
    placed = [preprocess(picture, (rows, cols))[0] for picture in pictures]
    batch = np.stack([*placed, rng.integers(0, 256, (rows, cols, 3), dtype=np.uint8)])
    largest = 0.0
    for x in (batch[:1], batch):
        expected, found = np.asarray(model.predict_on_batch(x)), maps(x)
        if found.shape != expected.shape:
            raise UserError(
                f"The {name} network returns maps of shape {found.shape}, not {expected.shape}."
            )
        if not (np.isfinite(expected).all() and np.ptp(expected, axis=(1, 2, 3)).any()):
            raise UserError(
                "The network returns a constant or non-finite map, so the export cannot be "
                "checked. Its training has failed."
            )
        peaks = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
        peaks = np.where(peaks > 0, peaks, peaks.max())  # an all-zero map has the maximum 0
        difference = float(np.max(np.abs(found - expected) / peaks))
        if not difference <= tolerance:  # also true for NaN
            raise UserError(
                f"The {name} network differs from Keras by {difference:.1e} of a map's maximum; "
                f"{tolerance:g} is allowed. It is not kept."
            )
        largest = max(largest, difference)
    return largest


def install(made: Path, output: Path, scratch_folder: Path) -> None:
    """Move an export and its card to their final names, the main file last.

    An earlier export of that name is kept until the move has succeeded, and restored otherwise.
    """
    parts = sorted(made.parent.iterdir(), key=lambda path: path == made)
    earlier = [path for part in parts if (path := output.parent / part.name).exists()]
    before = scratch_folder / "before"
    before.mkdir()
    try:
        for path in earlier:
            path.replace(before / path.name)
        for part in parts:
            move(part, output.parent / part.name)
    except OSError:
        for path in earlier:
            if (before / path.name).exists():
                # a folder can only replace an empty one
                shutil.rmtree(path, ignore_errors=True)
                (before / path.name).replace(path)
        raise


def write_onnx(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as ONNX, with the card in its metadata under `saliency`."""
    model.export(path, format="onnx", verbose=False)
    import onnx  # pyright: ignore[reportMissingImports]

    network = onnx.load(path)
    onnx.helper.set_model_props(network, {"saliency": json.dumps(card)})
    onnx.checker.check_model(network)
    onnx.save(network, path)


def write_openvino(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as OpenVINO's .xml and .bin, with the card in its run-time information."""
    openvino = quiet.import_openvino()
    raw = path.with_name("raw.xml")
    model.export(str(raw), format="openvino", verbose=False)
    network = openvino.Core().read_model(raw)
    network.set_rt_info(json.dumps(card), "saliency")
    openvino.save_model(network, path, compress_to_fp16=False)
    del network  # closes raw.bin
    raw.unlink()
    raw.with_suffix(".bin").unlink()


def write_litert(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as LiteRT with built-in operations only, which every runtime supports.

    The batch size is fixed to 1. With a free batch size, the converter writes unreadable files
    (linear-probe) or fails (resnet50-decoder).
    """
    import tensorflow as tf

    model.export(
        str(path),
        format="litert",
        verbose=False,
        input_signature=[keras.InputSpec(shape=(1, *model.input_shape[1:]), dtype="float32")],
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
    )


def write_saved_model(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as TensorFlow's SavedModel, with the card in its `assets.extra`."""
    model.export(str(path), format="tf_saved_model", verbose=False)
    write_json(make_folder(path / "assets.extra") / "saliency.json", card)


def open_litert(path: Path) -> Maps:
    """Return the prediction function of a LiteRT network."""
    import tensorflow as tf

    network = tf.lite.Interpreter(str(path))
    network.allocate_tensors()
    input_index = network.get_input_details()[0]["index"]
    output_index = network.get_output_details()[0]["index"]

    def predict_one(picture):
        network.set_tensor(input_index, picture[None].astype(np.float32))
        network.invoke()
        return network.get_tensor(output_index)[0]

    return lambda batch: np.stack([predict_one(picture) for picture in batch])


def open_saved_model(path: Path) -> Maps:
    """Return the prediction function of a SavedModel."""
    import tensorflow as tf

    network = tf.saved_model.load(str(path))
    return lambda batch: np.asarray(network.serve(batch.astype(np.float32)))


EXPORT_FORMATS = {
    "onnx": ExportFormat(".onnx", write_onnx, engines.open_onnx),
    "openvino": ExportFormat(".xml", write_openvino, engines.open_openvino),
    "litert": ExportFormat(".tflite", write_litert, open_litert),
    "saved_model": ExportFormat("", write_saved_model, open_saved_model, "saved_model.pb"),
}
