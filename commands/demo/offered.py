"""The networks of `demo`, and their predictions; independent of the page."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.demo import view as panels
from commands.prediction import engines
from commands.prediction.engines import Engine
from salience.measures.density import log_density
from salience.networks import weight_files
from salience.pictures.headers import room
from salience.pictures.letterbox import postprocess, read_input
from salience.pictures.picture_files import to_8_bit, write_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.arrays import write_array
from salience.system.errors import UserError
from salience.system.files import real_path, telling

MAX_LOADED = 3  # networks in memory; the least recently used one is dropped
OVERLAYS, KEPT_OVERLAYS = "overlay-", 3  # a browser may still be loading the last ones
MAX_NAME = 80  # characters of a picture's name that are kept in the name of its map


class Networks:
    """The networks that can be selected on the page, the initial one first.

    Each network is loaded at its first use.

    Args:
        cards: cards by the path of the weights file.
        engine: inference engine, see `engines.choose`.

    Attributes:
        paths: weights files by their name on the page.
        cards: cards by the name on the page.
    """

    def __init__(self, cards: dict[Path, dict[str, Any]], engine: str) -> None:
        self.paths = panels.labels(list(cards))
        self.cards = {name: cards[path] for name, path in self.paths.items()}
        self._kind, self._lock = engine, Lock()
        self._loaded: dict[str, Engine] = {}  # in order of use, the latest last

    @classmethod
    def found(
        cls, weights: Path | None, weights_dir: Path, engine: str, say: Callable[[str], None]
    ) -> "Networks":
        """Return the networks of a folder, the initial one first.

        Args:
            weights: weights file of the initial network; None for the default of the folder.
            weights_dir: the folder.
            engine: see `engines.choose`.
            say: called with each message: the initial weights and unreadable files.

        Raises:
            UserError: there are no weights, or the engine is not installed.
        """
        cards = weight_files.cards_in(weights_dir, say)
        if weights:
            first = weight_files.named(weights, weights_dir)
        else:
            first = weight_files.choose_default(cards, weights_dir, say)
        begin = {first: cards.get(first) or weight_files.read_card(first)}
        others = {path: card for path, card in cards.items() if real_path(path) != real_path(first)}
        return cls({**begin, **others}, engines.choose(engine))

    @property
    def names(self) -> list[str]:
        """The names of the networks on the page."""
        return list(self.paths)

    def engine(self, name: str, say: Callable[[str], None]) -> Engine:
        """Return the engine of a network.

        Raises:
            UserError: its weights cannot be used.
        """
        with self._lock:  # two pages load the same network once
            # with its calibration: shares of regions are sums of the density
            found = self._loaded.pop(name, None) or engines.load_adapted(
                self._kind, self.paths[name], None, False, say, density=True, has_flag=False
            )
            self._loaded[name] = found
            if len(self._loaded) > MAX_LOADED:
                self._loaded.pop(next(iter(self._loaded)))
        return found


@dataclass(frozen=True)
class Result:
    """The prediction of a network for a picture.

    Attributes:
        view: the picture and its map at display size.
        shape: rows and columns of the original picture.
        png, npy: files of the map at the picture's original size, for download.
        density: file of its log-density, `.npy`, at the original size.
        note: what the card says if the picture looks like a screenshot; else "".
    """

    view: panels.View
    shape: tuple[int, int]
    png: Path
    npy: Path
    density: Path
    note: str = ""


def predict_picture(path: Path, engine: Engine, folder: Path, name: str) -> Result:
    """Predict the saliency map of a picture and write its files.

    Args:
        path: the picture's file.
        engine: the loaded network.
        folder: folder for the files of the map.
        name: name of the network, which becomes part of the file names.

    Raises:
        UserError: the picture cannot be read, or the files cannot be written.
    """
    sample = Sample(path.name, path)
    try:
        placed, box = read_input(sample, engine.input_shape)
        prediction = engine.maps(placed[None])[0]
        with room(box.image_shape):
            unfinished = postprocess(prediction, box, engine.grid)
            logs = log_density(unfinished, engine.calibration)
            saliency_map = engine.finish.apply(unfinished)
            with telling(f"Cannot write in {folder}"):
                own = Path(tempfile.mkdtemp(dir=folder))
            png, npy, density = (
                own / f"{path.stem[:MAX_NAME]}-{Path(name).name[:MAX_NAME]}{suffix}"
                for suffix in (".png", ".npy", ".density.npy")
            )
            write_image(png, to_8_bit(saliency_map))
            write_array(npy, saliency_map)
            write_array(density, logs)
            shown = panels.view(sample_image(sample), saliency_map)
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than is available. Scale it down.") from error
    note = engine.limits if engine.is_outside_limits(placed, box) else ""
    return Result(shown, box.image_shape, png, npy, density, note)


def overlay_file(result: Result, picture: NDArray[np.uint8]) -> Path:
    """Write an overlay for display and download, BGR; return its file.

    Each has a folder of its own, so that a browser does not show an earlier one. Those before the
    last two are removed.

    Raises:
        UserError: it cannot be written.
    """
    own = result.png.parent
    with telling(f"Cannot write in {own}"):
        file = Path(tempfile.mkdtemp(prefix=OVERLAYS, dir=own)) / f"{result.png.stem}.overlay.png"
        write_image(file, picture)
        earlier = sorted(own.glob(f"{OVERLAYS}*"), key=lambda folder: folder.stat().st_mtime_ns)
    for folder in earlier[:-KEPT_OVERLAYS]:
        shutil.rmtree(folder, ignore_errors=True)
    return file


def forget(results: list[Result | None]) -> None:
    """Remove the files of maps that are no longer shown."""
    for result in results:
        if result:
            shutil.rmtree(result.png.parent, ignore_errors=True)
