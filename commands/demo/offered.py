"""The networks that `demo` offers, and what one makes of a picture; nothing here knows the page."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from commands.demo import view as panels
from commands.prediction import engines
from commands.prediction.engines import Engine
from salience.networks import weight_files
from salience.pictures.headers import room
from salience.pictures.letterbox import postprocess, read_input
from salience.pictures.picture_files import to_8_bit, write_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.arrays import write_array
from salience.system.errors import UserError
from salience.system.files import real_path, telling

READY = 3  # networks that are held; of more, the one that was used longest ago makes room
LONGEST_NAME = 80  # characters of a picture's name in that of its map


class Networks:
    """The networks that the page offers, the one that it begins with first.

    Each is loaded when it is first asked for.

    Args:
        cards: of the weights files, by their paths.
        engine: what runs them, see `engines.chosen`.

    Attributes:
        paths: the weights files by what the page calls them.
        cards: their cards, likewise.
    """

    def __init__(self, cards: dict[Path, dict[str, Any]], engine: str) -> None:
        self.paths = panels.labels(list(cards))
        self.cards = {name: cards[path] for name, path in self.paths.items()}
        self._kind, self._turn = engine, Lock()
        self._ready: dict[str, Engine] = {}  # the one that was used last is the last

    @classmethod
    def found(
        cls, weights: Path | None, weights_dir: Path, engine: str, say: Callable[[str], None]
    ) -> "Networks":
        """Return the weights named, or the default of a folder, then the folder's others.

        Args:
            weights: a file, or None.
            weights_dir: the folder.
            engine: see `engines.chosen`.
            say: gets each line: which begin, and which files cannot be read.

        Raises:
            UserError: there are none, or the engine is not installed.
        """
        cards = weight_files.cards_in(weights_dir, say)
        first = weights or weight_files.choose_default(cards, weights_dir, say)
        begin = {first: cards.get(first) or weight_files.read_card(first)}
        others = {path: card for path, card in cards.items() if real_path(path) != real_path(first)}
        return cls({**begin, **others}, engines.chosen(engine))

    @property
    def names(self) -> list[str]:
        """What the page calls them."""
        return list(self.paths)

    def engine(self, name: str, say: Callable[[str], None]) -> Engine:
        """Return what runs a network.

        Raises:
            UserError: its weights are not usable.
        """
        with self._turn:  # two pages that ask for the same load it once
            found = self._ready.pop(name, None) or engines.get(self._kind, self.paths[name], say)
            self._ready[name] = found
            if len(self._ready) > READY:
                self._ready.pop(next(iter(self._ready)))
        return found


@dataclass(frozen=True)
class Result:
    """What a network made of a picture.

    Attributes:
        view: the picture and its map as they are shown.
        png, npy: files of the map at the picture's own size, to be taken home.
    """

    view: panels.View
    png: Path
    npy: Path


def looked_at(path: Path, engine: Engine, folder: Path, name: str) -> Result:
    """Return what a network makes of a picture.

    Args:
        path: the picture's file.
        engine: runs the network.
        folder: for the files of the map.
        name: of the network, which its files are called by, besides the picture's.

    Raises:
        UserError: the picture cannot be read, or nothing can be written.
    """
    sample = Sample(path.name, path)
    try:
        placed, box = read_input(sample, engine.input_shape)
        prediction = engine.maps(placed[None])[0]
        with room(box.image_shape):
            saliency_map = postprocess(prediction, box, engine.grid)
            with telling(f"Cannot write in {folder}"):
                own = Path(tempfile.mkdtemp(dir=folder))
            png, npy = (
                own / f"{path.stem[:LONGEST_NAME]}-{Path(name).name[:LONGEST_NAME]}{suffix}"
                for suffix in (".png", ".npy")
            )
            write_image(png, to_8_bit(saliency_map))
            write_array(npy, saliency_map)
            shown = panels.view(sample_image(sample), saliency_map)
    except MemoryError as error:
        raise UserError(f"{path} takes more memory than there is. Scale it down.") from error
    return Result(shown, png, npy)


def forget(results: list[Result | None]) -> None:
    """Remove the files of maps that are shown no more."""
    for result in results:
        if result:
            shutil.rmtree(result.png.parent, ignore_errors=True)
