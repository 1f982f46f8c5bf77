"""Weights files: Keras' `.weights.h5` with a card that says what the weights are.

The card is stored in the file itself (attribute `card`) and, for people, as JSON beside it. Nothing
here unpickles, and no code is read from a file. Cards are read without Keras.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from salience.networks import foreign_weights, hdf5
from salience.system.errors import UserError
from salience.system.files import HERE, atomic, is_installed, without_nan, write_bytes, write_json
from salience.system.terminal import PROGRAM

if TYPE_CHECKING:
    import keras

SUFFIX = ".weights.h5"
# trained by us (docs/RESULTS.md), for who has trained nothing yet
SHIPPED = HERE / "weights" / f"mlnet-osie{SUFFIX}"


def card_path(path: Path) -> Path:
    """Return where the JSON card of a weights file lies.

    >>> card_path(Path("weights/mlnet-frozen.weights.h5")).name
    'mlnet-frozen.json'
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
    if half:
        made = in_half(made)
    with h5py.File(made, "r+") as file:
        file.attrs["card"] = json.dumps(without_nan(card))
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
    if not path.is_file():
        raise UserError(f"No weights file at {path}. `train` writes one, or name another.")
    try:
        with hdf5.opened(path) as file:
            text = hdf5.attribute(file, "card")
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
        UserError: the file is damaged, or its weights are not the model's. The shapes are compared
            before anything is set.
    """
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
        weights: the file asked for, or None for the best of `folder`: the highest validation CC of
            one's own, trained on people's fixations before those on synthetic scenes; where there
            are none, those that come with the program. In the program's own folder, where a trial
            leaves its weights, the latter go before any that were trained on synthetic scenes.
        folder: where `train` copies its best weights to.
        say: gets the line.

    Raises:
        UserError: nothing there, or the file asked for is not usable.
    """
    cards = {weights: read_card(weights)} if weights else cards_in(folder, say)
    best = best_of(cards, folder)
    if not weights and is_shipped(best):
        say(f"no weights in {folder}/ that you trained on fixations: those that come along serve")
    say(card_line(best, cards[best]))
    return best


def cards_in(folder: Path, say: Callable[[str], None]) -> dict[Path, dict[str, Any]]:
    """Return the cards of a folder's weights files, and of those that come along, by their paths.

    What cannot be read is passed over, and `say` gets a line of it.
    """
    cards: dict[Path, dict[str, Any]] = {}
    # not what an interrupted write left: those names begin with a dot
    found = {path.resolve(): path for path in sorted(folder.glob("[!.]*" + SUFFIX))}
    if SHIPPED.exists():
        found.setdefault(SHIPPED.resolve(), SHIPPED)
    for path in found.values():
        try:
            cards[path] = read_card(path)
        except UserError as error:
            say(f"passed over: {error}")
    return cards


def best_of(cards: dict[Path, dict[str, Any]], folder: Path) -> Path:
    """Return the best weights of a folder, as `choose` does.

    Raises:
        UserError: there are none.
    """
    if not cards:
        raise UserError(
            f"No trained weights in {folder}/. Run {PROGRAM} train first, or name a file with "
            "--weights."
        )

    # whoever names a folder wants what lies in it
    named = folder.resolve() != SHIPPED.resolve().parent

    def rank(path: Path) -> tuple:
        card, own = cards[path], not is_shipped(path)
        return own and named, not is_toy(card), own, validation_cc(card)

    return max(cards, key=rank)


def is_shipped(path: Path) -> bool:
    """Return whether a weights file is the one that comes with the program."""
    return path.resolve() == SHIPPED.resolve()


def card_line(path: Path, card: dict[str, Any]) -> str:
    """Return a line that says what the weights of a file are."""
    system, cc = card.get("system", card.get("model")), validation_cc(card)
    return (
        f"weights {path}: {system} ({card.get('strategy')}), trained on "
        f"{card.get('dataset')}, validation CC {'unknown' if cc == -1 else f'{cc:.3f}'}"
    )


def why_better(there: dict[str, Any], new: dict[str, Any]) -> str:
    """Return why the weights of one card are not to be replaced by another's; "" if they are."""
    if is_toy(new) and there and not is_toy(there):
        return f"it was trained on {there.get('dataset')}, not on synthetic scenes"
    same = there.get("dataset") == new.get("dataset")
    if same and validation_cc(there) > validation_cc(new):
        return f"its validation CC is {validation_cc(there):.3f}, not {validation_cc(new):.3f}"
    return ""


def is_toy(card: dict[str, Any]) -> bool:
    """Return whether weights were trained on the built-in scenes, which nothing is concluded of."""
    return card.get("dataset") == "synthetic"


def validation_cc(card: dict[str, Any]) -> float:
    """Return the validation CC of a card's weights; -1 where it names none."""
    metrics = card.get("metrics")
    value = metrics.get("val_cc") if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) and value == value else -1.0


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
