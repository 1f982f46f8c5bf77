"""A record of the inputs of each output of `test`, which tells whether an output is up to date.

The record is a file in the output folder. Each line holds an output's path and a digest of the
picture, the weights and the settings. Lines are only appended, and the last line of a path counts,
so several workers can share a folder. A line is written before its output. A line cut off by an
interruption only causes that output to be predicted again.
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

from commands.prediction.engines import REDUCED, finish_for
from commands.prediction.inputs import hash64
from config import PredictConfig
from salience.system.files import file_digest, open_regular, stamp_or_nothing, telling

RECORD = ".maps.jsonl"
# settings that only some kinds of output depend on
SETTINGS_OF = {
    "overlay": ("colormap", "peaks"),
    "contours": ("peaks",),
    "peaks": ("peaks",),
    "crop": ("crop",),
    "mask": ("mask",),
    "side_by_side": ("colormap", "peaks"),
}
SETTINGS_OF_VIDEOS = ("every", "temporal_smoothing", "float_maps", "colormap")
UNFINISHED = ""  # digest of an output that is being replaced


class State(Enum):
    """State of the outputs of a picture."""

    MISSING = "some outputs do not exist"
    UP_TO_DATE = "all outputs exist and were made of the same inputs"
    OUTDATED = "some outputs were made of other inputs"
    UNRECORDED = "some outputs have no record"


def unrecorded_message(path: Path) -> str:
    """Return the message for outputs that are left unchanged because they have no record."""
    return (
        f"{path} exists but has no record of its weights and settings (an older version or another "
        "program wrote it): such files are left unchanged. Predict them again with --overwrite, "
        "or choose another --output."
    )


def outdated_message(path: Path) -> str:
    """Return the message for outputs that are made again because their inputs have changed."""
    return (
        f"{path} was made with other weights or settings, or from another picture of that name: "
        "such files are made again"
    )


class MapRecord:
    """The record of an output folder.

    Args:
        settings: settings of `test`; `output` is the folder.
        weights: the weights file.

    Raises:
        UserError: the weights, the adaptation, the map of --match or the record cannot be read.
    """

    def __init__(self, settings: PredictConfig, weights: Path) -> None:
        self.settings, self.path = settings, settings.output / RECORD
        self.common_inputs = (
            file_digest(weights),
            finish_for(
                weights, settings.adaptation, settings.of_set, settings.smooth, lambda line: None
            ),
            settings.mirror,
            settings.smooth,
            settings.threshold,
            settings.match and stamp_or_nothing(settings.match),
            *([REDUCED] if settings.engine == REDUCED else []),  # the others' maps are equal
        )
        self._lock = Lock()
        self._keys, self._digests, self._is_torn = self._read()

    def _read(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], bool]:
        """Return the sorted hashes of paths, their digests, and if the last line is cut off."""
        if not os.path.lexists(self.path):
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64), False
        paths, digests = array("Q"), array("Q")
        line = b"\n"
        refusal = telling(f"Cannot read {self.path}", "choose another --output")
        with refusal, open_regular(self.path) as file:
            for line in file:
                # ignore invalid lines, such as one cut off by an interruption
                with suppress(ValueError, TypeError, RecursionError):
                    path, digest = json.loads(line)
                    pair = hash64(path), int(digest or "0", 16) % 2**64
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
        """Return the state of the outputs of a picture or a video.

        Args:
            source: the picture or the video.
            outputs: output paths by kind.
            is_there: returns whether a path exists.
        """
        there = {kind: path for kind, path in outputs.items() if is_there(path)}
        if not there:
            return State.MISSING  # no need to read the picture's file
        known = {kind: self._known(path) for kind, path in there.items()}
        if None in known.values():
            return State.UNRECORDED
        wanted = self.digests(source, outputs)
        if any(known[kind] != int(wanted[kind], 16) for kind in there):
            return State.OUTDATED
        return State.UP_TO_DATE if len(there) == len(outputs) else State.MISSING

    def _known(self, path: Path) -> int | None:
        """Return the recorded digest of an output, or None."""
        key = np.uint64(hash64(self._name(path)))
        place = int(np.searchsorted(self._keys, key))
        is_known = place < len(self._keys) and self._keys[place] == key
        return int(self._digests[place]) if is_known else None

    def _name(self, path: Path) -> str:
        """Return the name of an output in the record: its path relative to the folder."""
        return path.relative_to(self.settings.output).as_posix()

    def digests(self, source: Path, outputs: dict[str, Path]) -> dict[str, str]:
        """Return the digest of the current inputs for each kind of output."""
        picture = stamp_or_nothing(source)
        is_video = any(path.suffix == ".mp4" for path in outputs.values())
        found = {}
        for kind in outputs:
            names = SETTINGS_OF_VIDEOS if is_video else SETTINGS_OF.get(kind, ())
            own = [getattr(self.settings, name) for name in names]
            about = repr((picture, self.common_inputs, kind, own))
            found[kind] = hashlib.sha256(about.encode()).hexdigest()[:16]
        return found

    def begin(self, source: Path, outputs: dict[str, Path]) -> bool:
        """Record outputs that are about to be written; return whether any of them exist already.

        Existing outputs count as unfinished until `end` is called.
        """
        there = {kind for kind, path in outputs.items() if os.path.lexists(path)}
        self._add(
            (outputs[kind], UNFINISHED if kind in there else digest)
            for kind, digest in self.digests(source, outputs).items()
        )
        return bool(there)

    def end(self, source: Path, outputs: dict[str, Path]) -> None:
        """Record outputs that have been written."""
        self._add((outputs[kind], digest) for kind, digest in self.digests(source, outputs).items())

    def _add(self, lines: Iterable[tuple[Path, str]]) -> None:
        """Append a line for each (path, digest)."""
        text = "".join(json.dumps([self._name(path), digest]) + "\n" for path, digest in lines)
        with self._lock, telling(f"Cannot write {self.path}"), self.path.open("a") as file:
            file.write("\n" * self._is_torn + text)
            self._is_torn = False
