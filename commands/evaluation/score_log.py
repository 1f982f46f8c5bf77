"""A log of scores on disk, from which an interrupted evaluation is resumed."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from salience.measures.references import Scores
from salience.system.files import read_text, telling, without_nan, write_text
from salience.system.notes import Notes

LOG = "scores.jsonl"


class Result(NamedTuple):
    """The scores of a picture in a row, and the findings about the picture that belong to the row.

    A row of references is recalled for any maps, so it has no findings about maps.
    """

    key: str
    picture: str
    scores: Scores
    findings: list[str]


class ScoreLog:
    """A log of scores, one line per picture and row, from which scoring is resumed.

    Args:
        path: the file; None to keep scores only in memory.
        overwrite: whether to discard existing scores.
    """

    def __init__(self, path: Path | None, overwrite: bool = False) -> None:
        self.path = path
        self.scores: dict[tuple[str, str], Scores] = {}
        # notes on each picture, by key and picture
        self.findings: dict[str, dict[str, list[str]]] = {}
        if path and path.exists() and not overwrite:
            with telling(f"Cannot read {path}", "choose another --output"):
                text = read_text(path, errors="replace")
            for line in text.split("\n"):
                # ignore invalid lines, such as one cut off by an interruption
                with suppress(ValueError, TypeError, AttributeError, RecursionError):
                    self._take(*json.loads(line))
        if path:  # rewrite valid lines only
            write_text(path, "".join(self._line(*about) for about in self.scores))

    def _take(self, key: str, picture: str, values: dict, findings: list[str]) -> None:
        """Add the scores of a line."""
        if not isinstance(key, str) or not isinstance(picture, str):
            raise TypeError
        scores = {name: math.nan if value is None else value for name, value in values.items()}
        if not all(isinstance(value, int | float) for value in scores.values()):
            raise TypeError
        self.findings.setdefault(key, {})[picture] = [str(finding) for finding in findings]
        self.scores[key, picture] = scores

    def _line(self, key: str, picture: str) -> str:
        """Return the line of a score, in ASCII, as a name may contain any character."""
        findings = self.findings.get(key, {}).get(picture, [])
        return json.dumps([key, picture, without_nan(self.scores[key, picture]), findings]) + "\n"

    def has(self, key: str, picture: str) -> bool:
        """Return True if the log has the scores of a picture in a row."""
        return (key, picture) in self.scores

    def add(self, found: list[Result]) -> None:
        """Add scores."""
        for key, picture, scores, findings in found:
            self.scores[key, picture] = scores
            self.findings.setdefault(key, {})[picture] = findings
        if self.path and found:
            lines = "".join(self._line(one.key, one.picture) for one in found)
            with telling(f"Cannot write {self.path}"), self.path.open("a") as file:
                file.write(lines)

    def recall(self, key: str, pictures: list[str], notes: Notes) -> None:
        """Restore the notes that were made when the pictures of a row were scored."""
        for picture in pictures:
            for finding in self.findings.get(key, {}).get(picture, []):
                notes.add(finding, picture)
