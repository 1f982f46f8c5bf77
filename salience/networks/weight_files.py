"""Weights files: Keras' `.weights.h5` with a card, which describes the weights.

The card is stored inside the file (attribute `card`) and, for people, as JSON beside it. Nothing
here unpickles or runs code from a file. Cards are read without Keras.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import platform
import tomllib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from salience.data import hdf5
from salience.networks import foreign_weights, provenance
from salience.system.errors import UserError, did_you_mean
from salience.system.files import (
    HERE,
    atomic,
    file_digest,
    is_installed,
    open_regular,
    read_bytes,
    read_json,
    real_path,
    without_nan,
    write_bytes,
    write_json,
)
from salience.system.terminal import PROGRAM

if TYPE_CHECKING:
    import keras

SUFFIX = ".weights.h5"
CARD = "card"  # name of the attribute; a large card is a dataset of bytes instead
LARGEST_ATTRIBUTE = 60_000  # bytes: HDF5's limit is 64 KB
PIN = ".pinned.json"  # file beside the weights that names the default weights
SCORES_ON = "scores_on"  # field of a card: scores by data set, with `split` and `pictures`
# metrics of validation by which weights and the included ones are compared
COMPARED = {"val_cc": "CC", "val_nss": "NSS", "val_auc_judd": "AUC-Judd"}
NEWEST = "newest"  # value of `weights --use` that removes the pin
# the included weights, trained by us (docs/RESULTS.md)
SHIPPED = HERE / "weights" / f"mlnet-osie{SUFFIX}"  # included, and the default
ACCURATE = f"multiscale-osie{SUFFIX}"  # included beside the default: better maps, slower


def card_path(path: Path) -> Path:
    """Return the path of a weights file's JSON card.

    >>> card_path(Path("weights/mlnet-frozen-osie.weights.h5")).name
    'mlnet-frozen-osie.json'
    """
    return path.with_name(path.name.removesuffix(SUFFIX) + ".json")


def save(model: keras.Model, path: Path, card: dict[str, Any], half: bool = False) -> None:
    """Write a model's weights and their card atomically, without the optimiser's state.

    Args:
        model: any Keras model.
        path: file name ending in `.weights.h5`.
        card: description of the weights; its `config` tells how to build the model.
        half: round the weights to float16; `load` converts them to float32.
    """
    made = in_memory(model)
    write(to_float16(made) if half else made, path, card)


def in_memory(model: keras.Model) -> InMemory:
    """Return a copy of a model's weights as a weights file in memory, without a card."""
    made = InMemory()
    without_optimizer(model).save_weights(made)
    return made


def amend(path: Path, more: dict[str, Any]) -> None:
    """Add fields to the card of a weights file, atomically.

    Raises:
        UserError: the file has no card, or cannot be written.
    """
    card = read_card(path) | more
    write(InMemory(read_bytes(path)), path, card)


def write(made: InMemory, path: Path, card: dict[str, Any]) -> None:
    """Write the bytes of a weights file with a card, atomically.

    Args:
        made: the file in memory, see `in_memory`; it gets the card, too.
        path: file name ending in `.weights.h5`.
        card: description of the weights.
    """
    text = json.dumps(without_nan(card))
    with h5py.File(made, "r+") as file:
        for place in (file.attrs, file):
            if CARD in place:
                del place[CARD]
        if len(text) < LARGEST_ATTRIBUTE:
            file.attrs[CARD] = text
        else:
            file[CARD] = np.frombuffer(text.encode(), np.uint8)
    with atomic(card_path(path)) as beside:  # so that either both files are replaced or none
        write_json(beside, card)
        write_bytes(path, made.getbuffer())


class InMemory(io.BytesIO):
    """An HDF5 file in memory, since the HDF5 library crashes if the disk is full.

    `str` returns a name that Keras accepts for a weights file.
    """

    def __str__(self) -> str:
        return SUFFIX


def to_float16(made: io.BytesIO) -> InMemory:
    """Return a copy of an HDF5 file with its float32 data rounded to float16."""
    rounded = InMemory()
    with h5py.File(made, "r") as old, h5py.File(rounded, "w") as new:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[()]
                twin = new.create_dataset(
                    name, data=values.astype("float16") if values.dtype == "float32" else values
                )
            else:
                twin = new.require_group(name)
            twin.attrs.update(item.attrs)

        old.visititems(copy)
    return rounded


def without_optimizer(model: keras.Model) -> keras.Model:
    """Return a model of the same layers without the optimiser, whose state would also be saved."""
    import keras

    return keras.Model(model.inputs, model.outputs)


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of a weights file.

    Raises:
        UserError: the file is missing, or is not HDF5; or it has no card and is not an ML-Net file
            of another program (see `foreign_weights`).
    """
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise UserError(
            f"No weights file at {path}. Run `train` to write one, or name another file."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot read the weights file {path}: {error.strerror}.") from error
    try:
        with hdf5.open_checked(path) as file:
            text = hdf5.read_attribute(file, CARD)
            if (large := hdf5.get_child(file, CARD)) is not None:
                text = hdf5.read_numbers(large, f"{path}: its card").tobytes().decode()
            card = json.loads(text) if isinstance(text, str) else None
            is_keras3 = hdf5.get_child(file, "layers") is not None
    except hdf5.DAMAGED as error:
        raise UserError(f"{path} is not an HDF5 file: truncated or of another type.") from error
    if isinstance(card, dict):
        return card
    if is_keras3:
        raise UserError(f"{path} has no card: `train` of this program did not write the file.")
    return foreign_weights.card(path)


def load(model: keras.Model, path: Path) -> None:
    """Set all weights of a model from a file.

    Raises:
        UserError: the file is damaged, its weights do not fit the model, or some of them are not
            finite numbers. Shapes are compared before any weight is set.
    """
    import keras

    with np.errstate(over="ignore"):  # values too large for float32 are detected below
        _set(model, path)
    for weight in model.weights:
        # checked in the model's own type: 1e39 is infinite in float32
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise UserError(
                f"{path} holds weights that are infinite or NaN ({weight.path}): the training "
                "diverged, or the file is damaged. Get the file again, or name another."
            )


def _set(model: keras.Model, path: Path) -> None:
    """Set all weights of a model from a file; see `load`."""
    expected = Counter(tuple(weight.shape) for weight in model.weights)
    try:
        with hdf5.open_checked(path) as file:
            is_keras3 = hdf5.get_child(file, "layers") is not None
        if not is_keras3:
            layers = [layer for layer in model.layers if layer.weights]
            foreign_weights.set_weights(layers, foreign_weights.read(path), path, model.name)
            return
        found = Counter(_shapes(path))
        if found != expected:
            raise UserError(
                f"{path} does not fit {model.name}: the model's weights of shape "
                f"{_listed(expected - found)} are not in the file, the file's weights of shape "
                f"{_listed(found - expected)} are not in the model."
            )
        without_optimizer(model).load_weights(path)
    except hdf5.DAMAGED as error:
        raise UserError(f"{path} cannot be read as weights of {model.name}: {error}") from error


def _shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of the layers' weights in a file, without the random state of dropout."""
    shapes = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name:
            shapes.append(item.shape)

    with hdf5.open_checked(path) as file:
        layers = hdf5.get_child(file, "layers")
        if isinstance(layers, h5py.Group):
            layers.visititems(note)
    return shapes


def _listed(shapes: Counter) -> str:
    """Return the first few shapes as text."""
    return ", ".join(str(shape) for shape in list(shapes)[:3]) or "(none)"


def choose(weights: Path | None, folder: Path, say: Callable[[str], None]) -> Path:
    """Return the weights file to use, and report what it was trained on.

    Args:
        weights: the file, or the name, that the user gave, or None for the default (see
            `default_weights`).
        folder: folder to which `train` copies its best weights.
        say: function that reports a line: the choice, and whether the included weights do better.

    Raises:
        UserError: the folder has no weights, or the named file cannot be read.
    """
    if weights:
        weights = named(weights, folder)
        say(card_line(weights, read_card(weights)))
        return weights
    cards = cards_in(folder, say)
    return choose_default(cards, folder, say)


def named(weights: Path, folder: Path) -> Path:
    """Return the weights file that a user named by its path, or by its name alone.

    Raises:
        UserError: there is neither a file nor a weights file of this name.
    """
    if weights.exists() or weights.name != str(weights) or weights.suffix:
        return weights
    names = {name_of(path): path for path in reversed(cards_in(folder, lambda line: None))}
    if weights.name not in names:
        there = f"Choose from {', '.join(sorted(names))}." if names else "Run `train` first."
        raise UserError(
            f"--weights {weights}: no such file, and no weights of this name in {folder}/. {there}"
        )
    return names[weights.name]


def choose_default(
    cards: dict[Path, dict[str, Any]], folder: Path, say: Callable[[str], None]
) -> Path:
    """Return the default weights (see `default_weights`), and report the choice."""
    best, why = default_weights(cards, folder)
    if is_shipped(best) and why != PINNED:
        say(f"no weights in {folder}/ that you trained on fixations: using the included weights")
    say(card_line(best, cards[best]) + (f" ({folder / PIN} pins them)" if why == PINNED else ""))
    if why != PINNED and (line := included_is_better(cards[best])):
        say(line)
    return best


def cards_in(folder: Path, say: Callable[[str], None]) -> dict[Path, dict[str, Any]]:
    """Return the cards of a folder's weights files and of the included weights, by path.

    Files that cannot be read are left out and reported through `say`. A copy of an included file,
    such as that of the project's folder beside an installed program, is left out, too.
    """
    cards: dict[Path, dict[str, Any]] = {}
    # names with a dot first are temporary files of interrupted writes
    found = {real_path(path): path for path in sorted(folder.glob("[!.]*" + SUFFIX))}
    for path in included():
        found.setdefault(real_path(path), path)
    for path in found.values():
        try:
            cards[path] = read_card(path)
        except UserError as error:
            say(f"passed over: {error}")
    for path in included():
        copy = folder / path.name
        if {path, copy} <= cards.keys() and path != copy and file_digest(copy) == file_digest(path):
            del cards[copy]
    return cards


# reasons why weights are the default, as `weights` prints them
PINNED, OWN, TRIAL, INCLUDED = (
    "pinned",
    "your newest weights",
    "your newest weights, trained on synthetic scenes",
    "the included weights",
)


def default_weights(cards: dict[Path, dict[str, Any]], folder: Path) -> tuple[Path, str]:
    """Return the weights that are used if none are named, and the reason.

    The order is: pinned weights; the user's newest weights trained on fixations; the user's newest
    weights trained on synthetic scenes; the included weights. In the program's own folder, the
    included weights precede those trained on synthetic scenes. The validation CC does not count,
    since it cannot be compared between data sets.

    Args:
        cards: from `cards_in`.
        folder: the folder of the cards.

    Raises:
        UserError: there are no weights, or the pinned ones are missing.
    """
    if name := pinned(folder):
        return find_by_name(name, cards, folder, f"{folder / PIN} pins {name}"), PINNED
    if not cards:
        raise UserError(
            f"No trained weights in {folder}/. Run {PROGRAM} train first, or name a file with "
            "--weights."
        )

    # in a folder of the user's choice, its own weights precede the included ones
    is_chosen = real_path(folder) != real_path(SHIPPED).parent

    def rank(path: Path) -> tuple:
        card, own = cards[path], not is_shipped(path)
        is_default = real_path(path) == real_path(SHIPPED)
        return own and is_chosen, not is_synthetic(card), own, is_default, trained_at(path, card)

    best = max(cards, key=rank)
    return best, INCLUDED if is_shipped(best) else TRIAL if is_synthetic(cards[best]) else OWN


def pinned(folder: Path) -> str:
    """Return the name of the weights that `weights --use` pinned in a folder, or "".

    Raises:
        UserError: the pin file cannot be read.
    """
    if not (folder / PIN).exists():
        return ""
    value = read_json(folder / PIN)
    name = value.get("use") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f'{folder / PIN} is damaged: {{"use": "NAME"}} is expected. Remove it.')
    return name


def find_by_name(name: str, cards: dict[Path, dict[str, Any]], folder: Path, who: str) -> Path:
    """Return the weights file of a name.

    Args:
        name: such as mlnet-osie, with or without the suffix.
        cards: from `cards_in`.
        folder: the folder of the cards.
        who: the flag or file that names the weights, for the error.

    Raises:
        UserError: there are no weights of this name.
    """
    names = {name_of(path): path for path in reversed(cards)}  # the folder's precede the included
    wanted = Path(name).name.removesuffix(SUFFIX)
    if wanted not in names:
        raise UserError(
            f"{who}, and {folder}/ has no such weights. {did_you_mean(wanted, names)} "
            f"{PROGRAM} weights --use NAME pins other weights, --use {NEWEST} removes the pin."
        )
    return names[wanted]


def name_of(path: Path) -> str:
    """Return the name of a weights file, without the suffix.

    >>> name_of(Path("weights/mlnet-frozen-osie.weights.h5"))
    'mlnet-frozen-osie'
    """
    return path.name.removesuffix(SUFFIX)


def trained_at(path: Path, card: dict[str, Any]) -> float:
    """Return the time of training, seconds; the file's time if the card has none."""
    with suppress(ValueError, TypeError, OverflowError):
        found = datetime.fromisoformat(card["date"]) if "date" in card else None
        if found:
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def included_is_better(card: dict[str, Any]) -> str:
    """Return a line that recommends the included weights if all their scores are higher, else "".

    These are the scores of `COMPARED` that both have; one that is no number is lower. `train`
    scored both weights on the same validation pictures, at the end of the training.
    """
    box = card.get("box")  # the included weights' scores, under the name of earlier versions
    included = validation_scores({"metrics": box})
    names = _dict_field(card, "metrics").keys() & included.keys()
    if not isinstance(box, dict) or not names or not SHIPPED.exists():
        return ""
    own = dict.fromkeys(names, -math.inf) | validation_scores(card)
    if any(included[name] <= own[name] for name in names):
        return ""
    texts = [
        ", ".join(
            f"{title} {scores[name]:.3f}" for name, title in COMPARED.items() if name in names
        )
        for scores in (included, own)
    ]
    return (
        f"the included network does better: on the same {box.get('pictures')} validation pictures "
        f"it has {texts[0]}, these weights {texts[1]}; choose it with --weights "
        f"{relative_to_cwd(SHIPPED)}"
    )


def relative_to_cwd(path: Path) -> Path:
    """Return a path relative to the current folder if it lies inside, else the path itself."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def limits_of(card: dict[str, Any]) -> str:
    """Return what a card says that its weights are not for, or "" where it says nothing."""
    stated = card.get("limits")
    return " ".join(stated.split()) if isinstance(stated, str) else ""


def licence_of(card: dict[str, Any]) -> str:
    """Return the licence of weights; those of the user's trainings are the user's own."""
    stated = _dict_field(card, "licences").get("these weights") or card.get("licence")
    # docs/LICENCES.md has what it asks to name
    return str(stated or "yours, under the terms of the data").partition(";")[0]


def licences_of(card: dict[str, Any]) -> list[str]:
    """Return a line for each licence that a card names, those of its data first.

    >>> licences_of({"licences": {"OSIE": "MIT"}}), licences_of({})
    (['OSIE: MIT'], ['These weights: yours, under the terms of the data'])
    """
    stated = _dict_field(card, "licences")
    if not stated:
        return [f"These weights: {licence_of(card)}"]
    return [f"{name[:1].upper()}{name[1:]}: {text}" for name, text in stated.items()]


def scores_by_set(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores of a card by data set, each with its `split` and number of `pictures`.

    The test scores of an earlier card are those on its first data set.
    """
    found = card.get(SCORES_ON)
    if isinstance(found, dict):
        return {name: scores for name, scores in found.items() if isinstance(scores, dict)}
    test, names = (_dict_field(card, field).get(key)
                   for field, key in (("scores", "test"), ("config", "dataset")))  # fmt: skip
    held_out = card.get("held_out")
    if not (isinstance(test, dict) and isinstance(names, list) and names):
        return {}
    if not isinstance(held_out, dict):
        return {}
    about = {"split": "test", "pictures": len(held_out.get("test") or [])}
    return {str(names[0]): {**test, **about}}


def included() -> list[Path]:
    """Return the included weights files that are there, the default first."""
    return [path for path in (SHIPPED, SHIPPED.with_name(ACCURATE)) if path.exists()]


def is_shipped(path: Path) -> bool:
    """Return whether a weights file is an included one."""
    return real_path(path) in {real_path(SHIPPED), real_path(SHIPPED.with_name(ACCURATE))}


def card_line(path: Path, card: dict[str, Any]) -> str:
    """Return a line that describes the weights of a file."""
    system, cc = card.get("system", card.get("model")), validation_cc(card)
    return (
        f"weights {path}: {system} ({card.get('strategy')}), trained on "
        f"{card.get('dataset')}, validation CC {'unknown' if cc == -1 else f'{cc:.3f}'}"
    )


def reason_to_keep(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return why published weights must not be replaced by new ones; "" if they may be.

    Args:
        old: card of the published weights; {} if there are none.
        new: card of the new weights.
    """
    if not old:
        return ""
    if is_synthetic(new) and not is_synthetic(old):
        return f"it was trained on {old.get('dataset')}, not on synthetic scenes"
    if old.get("dataset") != new.get("dataset"):
        return f"it was trained on {old.get('dataset')}"
    if other := _other_folder(old, new):
        return f"it was trained on {other}"
    pictures = [_dict_field(card, "pictures").get("val") for card in (old, new)]
    same = None in pictures or pictures[0] == pictures[1]
    if same and validation_cc(old) > validation_cc(new):
        return f"its validation CC is {validation_cc(old):.3f}, not {validation_cc(new):.3f}"
    return ""


def _other_folder(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the data folder of an old card if the two cards share no training picture, else "".

    Data sets of the user have the same name (folder) for any content, so pictures are compared. A
    folder that was moved still shares its pictures.
    """
    folders = [_dict_field(card, "config").get("data") or [] for card in (old, new)]
    trained = [provenance.hashes_in_card(card) for card in (old, new)]
    if folders[0] == folders[1] or not all(trained) or trained[0] & trained[1]:
        return ""
    return ", ".join(map(str, folders[0])) or "other pictures"


def _dict_field(card: dict[str, Any], field: str) -> dict[str, Any]:
    """Return a field of a card that is a dictionary; {} if it is missing or of another type."""
    value = card.get(field)
    return value if isinstance(value, dict) else {}


def is_synthetic(card: dict[str, Any]) -> bool:
    """Return whether weights were trained on the built-in synthetic scenes, as in a trial run."""
    return card.get("dataset") == "synthetic"


def validation_scores(card: dict[str, Any]) -> dict[str, float]:
    """Return the validation scores of a card's weights that are numbers, of `COMPARED`.

    >>> validation_scores({"metrics": {"val_cc": 0.5, "val_nss": "high", "val_loss": 2}})
    {'val_cc': 0.5}
    """
    found = {name: _dict_field(card, "metrics").get(name) for name in COMPARED}
    return {
        name: float(value)
        for name, value in found.items()
        # false for NaN and for an integer that no float can hold
        if isinstance(value, int | float) and abs(value) < 1e9
    }


def validation_cc(card: dict[str, Any]) -> float:
    """Return the validation CC of a card's weights, -1 to 1; -1 if the card has none."""
    return validation_scores(card).get("val_cc", -1.0)


def counts(model: keras.Model) -> dict[str, int]:
    """Return the number of a network's weights, and of those that are trained."""
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return {"weights": model.count_params(), "trainable_weights": trained}


def counts_in_card(card: dict[str, Any]) -> dict[str, int]:
    """Return what `counts` said of the network of a card; {} for earlier or odd cards.

    >>> counts_in_card({"counts": {"weights": 9, "trainable_weights": 4}})
    {'weights': 9, 'trainable_weights': 4}
    >>> counts_in_card({"counts": [9]}), counts_in_card({"counts": {"weights": "9"}})
    ({}, {})
    """
    found = card.get("counts")
    names = ("weights", "trainable_weights")
    if not isinstance(found, dict) or not all(type(found.get(name)) is int for name in names):
        return {}
    return {name: found[name] for name in names}


def versions() -> dict[str, str]:
    """Return the versions of the software that a result depends on."""
    import keras

    backend = keras.backend.backend()
    return {
        "program": program_version(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": f"{backend} {importlib.metadata.version(backend)}",
        "numpy": np.__version__,
    }


def program_version() -> str:
    """Return the version of this program, from the package or from pyproject.toml."""
    if is_installed():
        return importlib.metadata.version("salience")
    stated = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(stated)["project"]["version"]
