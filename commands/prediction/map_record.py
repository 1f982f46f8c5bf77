"""What the outputs of `test` were made of, in a file beside them, so that none is kept for another.

A line an output: its path in the folder, and a digest of the picture, the weights and the settings.
Lines are only added, and the last of a path counts. So several workers write into one folder, and
what an interruption tore costs that output's prediction alone. A line is there before its output.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from commands.prediction.inputs import number
from config import PredictConfig
from salience.measures.adaptation import load_named
from salience.system.files import file_digest, open_regular, stamp_or_nothing, telling

RECORD = ".maps.jsonl"
# what kinds of output depend on, besides what all do
SETTINGS_OF = {
    "overlay": ("colormap", "peaks"),
    "contours": ("peaks",),
    "peaks": ("peaks",),
    "crop": ("crop",),
    "mask": ("mask",),
    "side_by_side": ("colormap", "peaks"),
}
SETTINGS_OF_VIDEOS = ("every", "temporal_smoothing", "float_maps", "colormap")
UNFINISHED = ""  # the digest of an output that is being replaced


class State(Enum):
    """How what is there of a picture's outputs stands to what is asked for."""

    MISSING = "some are not there"
    KEPT = "all are there"
    OTHER = "some were made of something else"
    UNKNOWN = "some have no record"


def no_record(path: Path) -> str:
    """Return the line that says why an output is left as it is."""
    return (
        f"{path} is there, but nothing tells what it was made of (an older version or another "
        "program wrote it): such files are left as they are. Predict them again with --overwrite, "
        "or choose another --output."
    )


def made_of_else(path: Path) -> str:
    """Return the line that says why an output is made anew."""
    return (
        f"{path} was made with other weights or settings, or of another picture of that name: such "
        "files are made anew"
    )


class MapRecord:
    """The record of an output folder.

    Args:
        settings: what is asked for; `output` is the folder.
        weights: the weights file.

    Raises:
        UserError: the weights, the adaptation or the map of --match cannot be read, or the record
            cannot.
    """

    def __init__(self, settings: PredictConfig, weights: Path) -> None:
        self.settings, self.path = settings, settings.output / RECORD
        self.made_of = (
            file_digest(weights),
            load_named(settings.adaptation, weights, lambda line: None),
            settings.mirror,
            settings.smooth,
            settings.threshold,
            settings.match and stamp_or_nothing(settings.match),
        )
        self._lock = Lock()
        self._keys, self._digests, self._is_torn = self._read()

    def _read(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], bool]:
        """Return numbers for the paths in their order, those of their digests; 16 bytes a path."""
        if not os.path.lexists(self.path):
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64), False
        paths, digests = array("Q"), array("Q")
        line = b"\n"
        refusal = telling(f"Cannot read {self.path}", "choose another --output")
        with refusal, open_regular(self.path) as file:
            for line in file:
                # what is no line of ours, as where an interruption tore it, tells nothing
                with suppress(ValueError, TypeError, RecursionError):
                    path, digest = json.loads(line)
                    pair = number(path), int(digest or "0", 16) % 2**64
                    paths.append(pair[0])
                    digests.append(pair[1])
        keys = np.array(paths, np.uint64)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
        return keys[last], np.array(digests, np.uint64)[order][last], not line.endswith(b"\n")

    def state(
        self, source: Path, outputs: dict[str, Path], is_there: Callable[[Path], bool]
    ) -> State:
        """Return how a picture's or a video's outputs stand.

        Args:
            source: the picture or the video.
            outputs: by kind.
            is_there: whether an output is.
        """
        there = {kind: path for kind, path in outputs.items() if is_there(path)}
        if not there:
            return State.MISSING  # nothing to compare a picture with, which is not read for it
        known = {kind: self._known(path) for kind, path in there.items()}
        if None in known.values():
            return State.UNKNOWN
        wanted = self.digests(source, there)
        if any(known[kind] != int(wanted[kind], 16) for kind in there):
            return State.OTHER
        return State.KEPT if len(there) == len(outputs) else State.MISSING

    def _known(self, path: Path) -> int | None:
        """Return the digest that is on record for an output, or None."""
        key = np.uint64(number(self._name(path)))
        place = int(np.searchsorted(self._keys, key))
        is_known = place < len(self._keys) and self._keys[place] == key
        return int(self._digests[place]) if is_known else None

    def _name(self, path: Path) -> str:
        """Return what the record calls an output."""
        return path.relative_to(self.settings.output).as_posix()

    def digests(self, source: Path, outputs: dict[str, Path]) -> dict[str, str]:
        """Return by kind what an output made now has on record."""
        picture = stamp_or_nothing(source)
        is_video = any(path.suffix == ".mp4" for path in outputs.values())
        found = {}
        for kind in outputs:
            names = SETTINGS_OF_VIDEOS if is_video else SETTINGS_OF.get(kind, ())
            own = [getattr(self.settings, name) for name in names]
            about = repr((picture, self.made_of, kind, own))
            found[kind] = hashlib.sha256(about.encode()).hexdigest()[:16]
        return found

    def begin(self, source: Path, outputs: dict[str, Path]) -> bool:
        """Note outputs that are about to be written; return whether they replace any.

        Those that are there count for nothing from now on, until `end`.
        """
        there = {kind for kind, path in outputs.items() if os.path.lexists(path)}
        self._add(
            (outputs[kind], UNFINISHED if kind in there else digest)
            for kind, digest in self.digests(source, outputs).items()
        )
        return bool(there)

    def end(self, source: Path, outputs: dict[str, Path]) -> None:
        """Note outputs that have been written."""
        self._add((outputs[kind], digest) for kind, digest in self.digests(source, outputs).items())

    def _add(self, lines: Iterable[tuple[Path, str]]) -> None:
        """Add lines by (path, digest)."""
        text = "".join(json.dumps([self._name(path), digest]) + "\n" for path, digest in lines)
        with self._lock, telling(f"Cannot write {self.path}"), self.path.open("a") as file:
            file.write("\n" * self._is_torn + text)
            self._is_torn = False
