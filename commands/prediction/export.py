"""What `export` does: a trained network in a format that runs without this program.

Keras converts it, through TensorFlow, whichever backend trained it. What comes out is run beside
Keras and compared before it gets its name; how pictures go in and maps come out is written beside
it as JSON, and into the file where its format has a place for it.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
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
from salience.networks import weight_files
from salience.networks.weight_files import versions
from salience.pictures.letterbox import preprocess
from salience.system import quiet
from salience.system.errors import UserError
from salience.system.files import (
    error_number,
    file_digest,
    how_to_install,
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
    "picture's pixels was placed, take what is negative for 0, and divide by the maximum."
)


@dataclass(frozen=True)
class ExportFormat:
    """A format that a network is written in.

    Attributes:
        packages: that it takes besides the program's own.
        suffix: of the file; "" for a folder.
        write: writes a network and its card to a path, alone in its folder but for files that
            belong to it.
        open: returns the function from pictures to maps of what was written.
    """

    packages: tuple[str, ...]
    suffix: str
    write: Callable[[keras.Model, dict[str, Any], Path], None]
    open: Callable[[Path], Maps]


def run(settings: ExportConfig) -> bool:
    """Carry out `export`."""
    export(settings)
    return True


def export(settings: ExportConfig, say: Callable[[str], None] = tell) -> Path:
    """Write a trained network in another format; return where.

    Args:
        settings: the weights, the format and the place.
        say: gets each line of news.

    Raises:
        UserError: no weights; a package is missing; the network cannot be converted; what came out
            is not what Keras predicts; or it cannot be written. Nothing is left then.
    """
    form = EXPORT_FORMATS[settings.format]
    require_makers(settings.format, form)
    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    output = place(settings.format, settings.output, settings.overwrite, weights)
    make_folder(output.parent)
    model = load_model(weights)
    card = made_card(model, weights, settings.format)
    with telling(f"Cannot write {output}"), scratch(output.parent) as aside:
        made = aside / "made" / output.name
        made.parent.mkdir()
        card["difference"] = convert(model, form, card, made)
        parts = sorted(path for path in made.parent.rglob("*") if path.is_file())
        card["files"] = {str(p.relative_to(made.parent)): file_digest(p) for p in parts}
        size = sum(path.stat().st_size for path in parts)
        write_json(card_path(made), card)
        put(made, output, aside)
    say(
        f"{output}: {size / 2**20:.1f} MB, at most {card['difference']:.1e} of a map's maximum "
        "from Keras"
    )
    return output


def require_makers(name: str, form: ExportFormat) -> None:
    """Refuse what cannot be converted here, before anything is loaded.

    Raises:
        UserError: Keras runs on another backend than TensorFlow, or a package is missing.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"export converts through TensorFlow, not {keras.backend.backend()}. Run it with "
            "KERAS_BACKEND=tensorflow: the weights files are the same on every backend."
        )
    missing = [package for package in form.packages if not engines.installed(package)]
    if missing:
        raise UserError(
            f"--format {name} takes {' and '.join(missing)}: "
            f"{how_to_install('onnx', 'pip install -r requirements/engines.txt')}."
        )


def place(format: str, output: Path | None, overwrite: bool, weights: Path) -> Path:
    """Return where an export goes.

    Raises:
        UserError: the name is not as the format wants it, or what is there is not to be replaced.
    """
    suffix = EXPORT_FORMATS[format].suffix
    name = weight_files.card_path(weights).stem
    output = output or Path("exports") / f"{name}{suffix or '-saved_model'}"
    # a folder may have a dot in its name, but not that of a file of another format
    of_files = {form.suffix for form in EXPORT_FORMATS.values()} - {""}
    if not output.name or (output.suffix != suffix if suffix else output.suffix in of_files):
        raise UserError(
            f"--output {output}: a network as {format} is "
            + (f"a file that ends in {suffix}." if suffix else "a folder of its own.")
        )
    if output.exists() and not overwrite:
        raise UserError(f"{output} is there already. Replace it with --overwrite.")
    if output.exists() and not (output if suffix else output / "saved_model.pb").is_file():
        raise UserError(
            f"{output} is there and is no {format}, so it is not replaced. Choose another --output."
        )
    return output


def made_card(model: keras.Model, weights: Path, name: str) -> dict[str, Any]:
    """Return what an export is and how it is used, for people and for `engines`."""
    trained = weight_files.read_card(weights)
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
        "versions": versions(),
    }


def convert(model: keras.Model, form: ExportFormat, card: dict[str, Any], path: Path) -> float:
    """Write a network in a format and run it; return how far its maps are from Keras'.

    Raises:
        UserError: its converter or its runtime fails, in whatever way, or the maps are others.
    """
    # Keras exports what was called, and names the outputs by it
    model.predict_on_batch(np.zeros((1, *model.input_shape[1:]), np.uint8))
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), quiet.hushed():
            warnings.simplefilter("ignore")
            form.write(model, without_nan(card), path)
            return compare(model, form.open(path), card["format"])
    except UserError:
        raise
    except Exception as error:  # of many types
        # OpenVINO does not say that a disk is full: the disk does, of the weights written twice
        size = 2 * sum(weight.nbytes for weight in model.get_weights()) + 2**16
        why = error if error_number(error) else refusal_in(path.parent, size)
        if why:
            raise refused(f"Cannot write {model.name} as {card['format']}", why) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{model.name} cannot be written as {card['format']}: {reason}") from error


def compare(model: keras.Model, maps: Maps, name: str) -> float:
    """Return how far an export's maps are from Keras', as a share of each map's maximum.

    Scenes as drawn, one of them upright, and noise, alone and in a batch of three.

    Raises:
        UserError: they differ by more than `TOLERANCE`, are not finite, or are constant.
    """
    rows, cols = model.input_shape[1:3]
    rng = np.random.default_rng(0)
    pictures = [draw((0,)), np.ascontiguousarray(np.rot90(draw((1,))))]
    placed = [preprocess(picture, (rows, cols))[0] for picture in pictures]
    batch = np.stack([*placed, rng.integers(0, 256, (rows, cols, 3), dtype=np.uint8)])
    worst = 0.0
    for x in (batch[:1], batch):
        wanted, found = np.asarray(model.predict_on_batch(x)), maps(x)
        if found.shape != wanted.shape:
            raise UserError(f"The network as {name} gives maps {found.shape}, not {wanted.shape}.")
        if not (np.isfinite(wanted).all() and np.ptp(wanted, axis=(1, 2, 3)).any()):
            raise UserError(
                "The network itself gives a constant map, or one that is not finite: its training "
                "went wrong, and nothing could be compared."
            )
        peaks = np.abs(wanted).max(axis=(1, 2, 3), keepdims=True)
        peaks = np.where(peaks > 0, peaks, peaks.max())  # one of several may be zero
        difference = float(np.max(np.abs(found - wanted) / peaks))
        if not difference <= TOLERANCE:  # NaN, too
            raise UserError(
                f"The network as {name} differs from Keras' by {difference:.1e} of a map's "
                f"maximum; {TOLERANCE:g} is allowed. It is not kept."
            )
        worst = max(worst, difference)
    return worst


def put(made: Path, output: Path, aside: Path) -> None:
    """Move an export and its card to their place; the file that the others belong to comes last.

    An earlier export of that name is moved aside, and back where something is refused.
    """
    parts = sorted(made.parent.iterdir(), key=lambda path: path == made)
    earlier = [path for part in parts if (path := output.parent / part.name).exists()]
    before = aside / "before"
    before.mkdir()
    try:
        for path in earlier:
            path.replace(before / path.name)
        for part in parts:
            move(part, output.parent / part.name)
    except OSError:
        for path in earlier:
            if (before / path.name).exists():
                # a folder takes the place of none but an empty one
                shutil.rmtree(path, ignore_errors=True)
                (before / path.name).replace(path)
        raise


def write_onnx(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as ONNX; the card is in its metadata under `saliency`."""
    model.export(path, format="onnx", verbose=False)
    import onnx  # pyright: ignore[reportMissingImports]

    network = onnx.load(path)
    onnx.helper.set_model_props(network, {"saliency": json.dumps(card)})
    onnx.checker.check_model(network)
    onnx.save(network, path)


def write_openvino(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as OpenVINO's .xml and .bin; the card is its run-time information."""
    openvino = quiet.import_openvino()
    raw = path.with_name("raw.xml")
    model.export(str(raw), format="openvino", verbose=False)
    network = openvino.Core().read_model(raw)
    network.set_rt_info(json.dumps(card), "saliency")
    openvino.save_model(network, path, compress_to_fp16=False)
    del network  # it reads raw.bin
    raw.unlink()
    raw.with_suffix(".bin").unlink()


def write_litert(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Write a network as LiteRT, of its own operations alone, so that any runtime runs it.

    It takes one picture at a time: of a free batch, the converter makes files that cannot be read
    (linear-probe) or none (resnet50-decoder).
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
    """Write a network as TensorFlow's SavedModel; the card is in its `assets.extra`."""
    model.export(str(path), format="tf_saved_model", verbose=False)
    write_json(make_folder(path / "assets.extra") / "saliency.json", card)


def open_litert(path: Path) -> Maps:
    """Return the function from pictures to maps of a LiteRT network."""
    import tensorflow as tf

    network = tf.lite.Interpreter(str(path))
    network.allocate_tensors()
    place = network.get_input_details()[0]["index"]
    found = network.get_output_details()[0]["index"]

    def one(picture):
        network.set_tensor(place, picture[None].astype(np.float32))
        network.invoke()
        return network.get_tensor(found)[0]

    return lambda batch: np.stack([one(picture) for picture in batch])


def open_saved_model(path: Path) -> Maps:
    """Return the function from pictures to maps of a SavedModel."""
    import tensorflow as tf

    network = tf.saved_model.load(str(path))
    return lambda batch: np.asarray(network.serve(batch.astype(np.float32)))


EXPORT_FORMATS = {
    "onnx": ExportFormat(
        ("onnx", "tf2onnx", "onnxruntime"), ".onnx", write_onnx, engines.open_onnx
    ),
    "openvino": ExportFormat(("openvino",), ".xml", write_openvino, engines.open_openvino),
    "litert": ExportFormat((), ".tflite", write_litert, open_litert),
    "saved_model": ExportFormat((), "", write_saved_model, open_saved_model),
}
