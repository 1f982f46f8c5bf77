"""Scores on disk, a line each as they come, so that half-done work is taken up again."""

import json
import math
from contextlib import suppress
from pathlib import Path

from salience.measures.references import Scores
from salience.system.files import read_text, telling, without_nan, write_text
from salience.system.notes import Notes

LOG = "scores.jsonl"


class ScoreLog:
    """Scores on disk, a line each as they come, so that half-done work is taken up again.

    Args:
        path: of the file; None keeps them in memory alone.
        overwrite: start anew.
    """

    def __init__(self, path: Path | None, overwrite: bool = False) -> None:
        self.path = path
        self.scores: dict[tuple[str, str], Scores] = {}
        # by key and picture: what was noted when it was scored
        self.findings: dict[str, dict[str, list[str]]] = {}
        if path and path.exists() and not overwrite:
            with telling(f"Cannot read {path}", "choose another --output"):
                text = read_text(path, errors="replace")
            for line in text.split("\n"):
                # what is no line of ours, as where an interruption tore it, is scored again
                with suppress(ValueError, TypeError, AttributeError, RecursionError):
                    self._take(*json.loads(line))
        if path:  # whole lines alone
            write_text(path, "".join(self._line(*about) for about in self.scores))

    def _take(self, key: str, picture: str, values: dict, findings: list[str]) -> None:
        """Take up the scores of a line."""
        if not isinstance(key, str) or not isinstance(picture, str):
            raise TypeError
        scores = {name: math.nan if value is None else value for name, value in values.items()}
        if not all(isinstance(value, int | float) for value in scores.values()):
            raise TypeError
        self.findings.setdefault(key, {})[picture] = [str(finding) for finding in findings]
        self.scores[key, picture] = scores

    def _line(self, key: str, picture: str) -> str:
        """Return the line of a score; in ASCII, as a name may hold anything."""
        findings = self.findings.get(key, {}).get(picture, [])
        return json.dumps([key, picture, without_nan(self.scores[key, picture]), findings]) + "\n"

    def has(self, key: str, picture: str) -> bool:
        """Return whether a picture's scores of a row are known."""
        return (key, picture) in self.scores

    def add(self, found: dict[tuple[str, str], Scores], notes: Notes) -> None:
        """Keep scores by (key, picture), with what was noted about the pictures."""
        self.scores |= found
        for key, picture in found:
            self.findings.setdefault(key, {})[picture] = notes.about(picture)
        if self.path and found:
            lines = "".join(self._line(*about) for about in found)
            with telling(f"Cannot write {self.path}"), self.path.open("a") as file:
                file.write(lines)

    def recall(self, key: str, pictures: list[str], notes: Notes) -> None:
        """Note again what was noted when the pictures of a row were scored."""
        for picture in pictures:
            for finding in self.findings.get(key, {}).get(picture, []):
                notes.add(finding, picture)
