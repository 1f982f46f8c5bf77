"""Weights files: Keras' `.weights.h5` with a card that says what the weights are.

The card is stored in the file itself (attribute `card`) and, for people, as JSON beside it. Nothing
here unpickles, and no code is read from a file. Cards are read without Keras.
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

from salience.networks import foreign_weights, hdf5, provenance
from salience.system.errors import UserError, did_you_mean
from salience.system.files import (
    HERE,
    atomic,
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
CARD = "card"  # an attribute of the file; a large one is an array of bytes
LARGEST_ATTRIBUTE = 60_000  # bytes: HDF5 takes 64 KB
PIN = ".pinned.json"  # beside the weights: which of them serve where none are named
NEWEST = "newest"  # what `weights --use` calls the choice without a pin
# trained by us (docs/RESULTS.md), for who has trained nothing yet
SHIPPED = HERE / "weights" / f"mlnet-osie{SUFFIX}"


def card_path(path: Path) -> Path:
    """Return where the JSON card of a weights file lies.

    >>> card_path(Path("weights/mlnet-frozen-osie.weights.h5")).name
    'mlnet-frozen-osie.json'
    """
    return path.with_name(path.name.removesuffix(SUFFIX) + ".json")


def save(model: keras.Model, path: Path, card: dict[str, Any], half: bool = False) -> None:
    """Write a model's weights, without the optimiser's state, and their card, whole or not at all.

    Args:
        model: any Keras model.
        path: ends in `.weights.h5`.
        card: what `read_card` returns again; `config` in it says how to build the model.
        half: round the weights to float16; they are loaded as float32 again.
    """
    made = InMemory()
    uncompiled(model).save_weights(made)
    _write(in_half(made) if half else made, path, card)


def amend(path: Path, more: dict[str, Any]) -> None:
    """Add fields to the card of a weights file, whole or not at all.

    Raises:
        UserError: the file carries no card, or it cannot be written.
    """
    card = read_card(path) | more
    _write(InMemory(read_bytes(path)), path, card)


def _write(made: InMemory, path: Path, card: dict[str, Any]) -> None:
    """Write weights that are made, with their card, whole or not at all."""
    text = json.dumps(without_nan(card))
    with h5py.File(made, "r+") as file:
        for place in (file.attrs, file):
            if CARD in place:
                del place[CARD]
        if len(text) < LARGEST_ATTRIBUTE:
            file.attrs[CARD] = text
        else:
            file[CARD] = np.frombuffer(text.encode(), np.uint8)
    with atomic(card_path(path)) as beside:  # so that none of the two is refused without the other
        write_json(beside, card)
        write_bytes(path, made.getbuffer())


class InMemory(io.BytesIO):
    """An HDF5 file that is still to be written: on a full disk, HDF5 itself ends in a crash.

    `str` gives a name that Keras takes for that of weights.
    """

    def __str__(self) -> str:
        return SUFFIX


def in_half(made: io.BytesIO) -> InMemory:
    """Return an HDF5 file with its float32 data in float16."""
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


def uncompiled(model: keras.Model) -> keras.Model:
    """Return a twin of the same layers without an optimiser, whose state would be saved, too."""
    import keras

    return keras.Model(model.inputs, model.outputs)


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of a weights file.

    Raises:
        UserError: the file is missing, is not HDF5, or carries no card and is no ML-Net of other
            hands (see `foreign_weights`).
    """
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise UserError(
            f"No weights file at {path}. `train` writes one, or name another."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot read the weights file {path}: {error.strerror}.") from error
    try:
        with hdf5.opened(path) as file:
            text = hdf5.attribute(file, CARD)
            if (large := hdf5.inside(file, CARD)) is not None:
                text = hdf5.numbers(large, f"{path}: its card").tobytes().decode()
            card = json.loads(text) if isinstance(text, str) else None
            ours = hdf5.inside(file, "layers") is not None
    except hdf5.DAMAGED as error:
        raise UserError(f"{path} is not an HDF5 file: truncated or of another type.") from error
    if isinstance(card, dict):
        return card
    if ours:
        raise UserError(f"{path} carries no card, so it was not written by this program's train.")
    return foreign_weights.card(path)


def load(model: keras.Model, path: Path) -> None:
    """Set all weights of a model from a file.

    Raises:
        UserError: the file is damaged, its weights are not the model's, or not all of them are
            finite numbers. The shapes are compared before anything is set.
    """
    import keras

    with np.errstate(over="ignore"):  # what single precision cannot hold is seen below
        _set(model, path)
    for weight in model.weights:
        # as the network computes with it: 1e39 is infinite in single precision
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise UserError(
                f"{path} holds weights that are infinite or no numbers ({weight.path}): its "
                "training went wrong, or the file is broken. Get it again, or name another."
            )


def _set(model: keras.Model, path: Path) -> None:
    """Set all weights of a model from a file; see `load`."""
    expected = Counter(tuple(weight.shape) for weight in model.weights)
    try:
        with hdf5.opened(path) as file:
            ours = hdf5.inside(file, "layers") is not None
        if not ours:
            layers = [layer for layer in model.layers if layer.weights]
            foreign_weights.fill(layers, foreign_weights.read(path), path, model.name)
            return
        found = Counter(_shapes(path))
        if found != expected:
            raise UserError(
                f"{path} does not fit {model.name}: the model's weights of shape "
                f"{_listed(expected - found)} are not in the file, the file's of shape "
                f"{_listed(found - expected)} are not in the model."
            )
        uncompiled(model).load_weights(path)
    except hdf5.DAMAGED as error:
        raise UserError(f"{path} cannot be read as weights of {model.name}: {error}") from error


def _shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of the layers' weights in a file, without the dropout's random state."""
    shapes = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name:
            shapes.append(item.shape)

    with hdf5.opened(path) as file:
        layers = hdf5.inside(file, "layers")
        if isinstance(layers, h5py.Group):
            layers.visititems(note)
    return shapes


def _listed(shapes: Counter) -> str:
    """Return the first few shapes as text."""
    return ", ".join(str(shape) for shape in list(shapes)[:3]) or "(none)"


def choose(weights: Path | None, folder: Path, say: Callable[[str], None]) -> Path:
    """Return the weights file to use and say what it was trained on.

    Args:
        weights: the file asked for, or None for the default of `folder`, see `default_of`.
        folder: where `train` copies its best weights to.
        say: gets each line: which weights, and where those of the box do better.

    Raises:
        UserError: nothing there, or the file asked for is not usable.
    """
    if weights:
        say(card_line(weights, read_card(weights)))
        return weights
    cards = cards_in(folder, say)
    return told_default(cards, folder, say)


def told_default(
    cards: dict[Path, dict[str, Any]], folder: Path, say: Callable[[str], None]
) -> Path:
    """Return the weights that serve where none are named, as `default_of`, and say which."""
    best, why = default_of(cards, folder)
    if is_shipped(best) and why != PINNED:
        say(f"no weights in {folder}/ that you trained on fixations: those that come along serve")
    say(card_line(best, cards[best]) + (f" ({folder / PIN} pins them)" if why == PINNED else ""))
    if why != PINNED and (line := rival_line(cards[best])):
        say(line)
    return best


def cards_in(folder: Path, say: Callable[[str], None]) -> dict[Path, dict[str, Any]]:
    """Return the cards of a folder's weights files, and of those that come along, by their paths.

    What cannot be read is passed over, and `say` gets a line of it.
    """
    cards: dict[Path, dict[str, Any]] = {}
    # not what an interrupted write left: those names begin with a dot
    found = {real_path(path): path for path in sorted(folder.glob("[!.]*" + SUFFIX))}
    if SHIPPED.exists():
        found.setdefault(real_path(SHIPPED), SHIPPED)
    for path in found.values():
        try:
            cards[path] = read_card(path)
        except UserError as error:
            say(f"passed over: {error}")
    return cards


# why weights are the default, as `weights` tells it
PINNED, OWN, TRIAL, BOX = (
    "pinned",
    "the newest of your own",
    "the newest of your trials on synthetic scenes",
    "it comes with the program",
)


def default_of(cards: dict[Path, dict[str, Any]], folder: Path) -> tuple[Path, str]:
    """Return the weights that serve where none are named, and why.

    Those that are pinned. Else the newest of one's own, trained on people's fixations before those
    on synthetic scenes: a validation CC says nothing of another data set's. Where there are none,
    those that come with the program. In the program's own folder, where a trial leaves its weights,
    the latter go before any that were trained on synthetic scenes.

    Args:
        cards: from `cards_in`.
        folder: theirs.

    Raises:
        UserError: there are none, or those that are pinned are not there.
    """
    if name := pinned(folder):
        return named(name, cards, folder, f"{folder / PIN} pins {name}"), PINNED
    if not cards:
        raise UserError(
            f"No trained weights in {folder}/. Run {PROGRAM} train first, or name a file with "
            "--weights."
        )

    # whoever names a folder wants what lies in it
    is_named = real_path(folder) != real_path(SHIPPED).parent

    def rank(path: Path) -> tuple:
        card, own = cards[path], not is_shipped(path)
        return own and is_named, not is_toy(card), own, trained_at(path, card)

    best = max(cards, key=rank)
    return best, BOX if is_shipped(best) else TRIAL if is_toy(cards[best]) else OWN


def pinned(folder: Path) -> str:
    """Return the name of the weights that `weights --use` has pinned in a folder, or "".

    Raises:
        UserError: the file that says so cannot be read.
    """
    if not (folder / PIN).exists():
        return ""
    value = read_json(folder / PIN)
    name = value.get("use") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f'{folder / PIN} is damaged: {{"use": "NAME"}} is expected. Remove it.')
    return name


def named(name: str, cards: dict[Path, dict[str, Any]], folder: Path, who: str) -> Path:
    """Return the weights of a name, with or without their suffix.

    Args:
        name: such as mlnet-osie.
        cards: from `cards_in`.
        folder: theirs.
        who: names them, for the error.

    Raises:
        UserError: there are none of that name.
    """
    names = {name_of(path): path for path in reversed(cards)}  # a folder's own before the box's
    wanted = Path(name).name.removesuffix(SUFFIX)
    if wanted not in names:
        raise UserError(
            f"{who}, and {folder}/ has no such weights. {did_you_mean(wanted, names)} "
            f"{PROGRAM} weights --use NAME pins others, --use {NEWEST} none."
        )
    return names[wanted]


def name_of(path: Path) -> str:
    """Return what weights are called.

    >>> name_of(Path("weights/mlnet-frozen-osie.weights.h5"))
    'mlnet-frozen-osie'
    """
    return path.name.removesuffix(SUFFIX)


def trained_at(path: Path, card: dict[str, Any]) -> float:
    """Return when weights were trained, seconds; by their file where the card does not tell."""
    with suppress(ValueError, TypeError, OverflowError):
        found = datetime.fromisoformat(card["date"]) if "date" in card else None
        if found:
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def rival_line(card: dict[str, Any]) -> str:
    """Return a line where the network in the box does better than a card's weights, else "".

    Both were scored on the same validation pictures, at the end of the training.
    """
    rival = card.get("box")
    theirs = validation_cc({"metrics": rival})
    if not isinstance(rival, dict) or not SHIPPED.exists() or theirs <= validation_cc(card):
        return ""
    return (
        f"the network in the box does better: on the same {rival.get('pictures')} validation "
        f"pictures its CC is {theirs:.3f}, that of these weights {validation_cc(card):.3f}; "
        f"--weights {shown(SHIPPED)} takes it"
    )


def shown(path: Path) -> Path:
    """Return a path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def is_shipped(path: Path) -> bool:
    """Return whether a weights file is the one that comes with the program."""
    return real_path(path) == real_path(SHIPPED)


def card_line(path: Path, card: dict[str, Any]) -> str:
    """Return a line that says what the weights of a file are."""
    system, cc = card.get("system", card.get("model")), validation_cc(card)
    return (
        f"weights {path}: {system} ({card.get('strategy')}), trained on "
        f"{card.get('dataset')}, validation CC {'unknown' if cc == -1 else f'{cc:.3f}'}"
    )


def why_better(there: dict[str, Any], new: dict[str, Any]) -> str:
    """Return why the weights of one card are not to be replaced by another's; "" if they are."""
    if not there:
        return ""
    if is_toy(new) and not is_toy(there):
        return f"it was trained on {there.get('dataset')}, not on synthetic scenes"
    if there.get("dataset") != new.get("dataset"):
        return f"it was trained on {there.get('dataset')}"
    if other := _other_folder(there, new):
        return f"it was trained on {other}"
    pictures = [_of_card(card, "pictures").get("val") for card in (there, new)]
    same = None in pictures or pictures[0] == pictures[1]
    if same and validation_cc(there) > validation_cc(new):
        return f"its validation CC is {validation_cc(there):.3f}, not {validation_cc(new):.3f}"
    return ""


def _other_folder(there: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the folder of a card whose pictures are others than a new card's; "" if they are not.

    Data sets of one's own are named alike, whatever they hold. One that was moved has its pictures.
    """
    folders = [_of_card(card, "config").get("data") or [] for card in (there, new)]
    trained = [provenance.remembered(card) for card in (there, new)]
    if folders[0] == folders[1] or not all(trained) or trained[0] & trained[1]:
        return ""
    return ", ".join(map(str, folders[0])) or "other pictures"


def _of_card(card: dict[str, Any], field: str) -> dict[str, Any]:
    """Return a field of a card that holds fields of its own; none where it does not."""
    value = card.get(field)
    return value if isinstance(value, dict) else {}


def is_toy(card: dict[str, Any]) -> bool:
    """Return whether weights were trained on the built-in scenes, which nothing is concluded of."""
    return card.get("dataset") == "synthetic"


def validation_cc(card: dict[str, Any]) -> float:
    """Return the validation CC of a card's weights; -1 where it names none."""
    metrics = card.get("metrics")
    value = metrics.get("val_cc") if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else -1.0


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
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
    """Return the version of this program, which pyproject.toml alone states."""
    if is_installed():
        return importlib.metadata.version("salience")
    stated = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(stated)["project"]["version"]
