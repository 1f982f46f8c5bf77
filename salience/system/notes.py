"""What was noticed on the way that a reader of the scores should know: named, counted, decided."""

from threading import Lock

NAMED = 3  # pictures named in a line; the files name all


class Notes:
    """Findings by their kind, each with the pictures that it concerns.

    A kind says what was found and how it was decided, so that nothing is dropped silently.

    >>> notes = Notes()
    >>> notes.add("maps missing: left out", "a.jpg")
    >>> notes.lines()
    ['1 maps missing: left out (a.jpg)']
    """

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.remarks: list[str] = []
        self._lock = Lock()

    def add(self, kind: str, name: str) -> None:
        """Note a finding about a picture, once."""
        with self._lock:
            names = self.found.setdefault(kind, [])
            if name not in names:
                names.append(name)

    def explain(self, remark: str) -> None:
        """Note a sentence that concerns no single picture, once."""
        with self._lock:
            if remark not in self.remarks:
                self.remarks.append(remark)

    def about(self, name: str) -> list[str]:
        """Return the kinds of the findings about a picture."""
        return [kind for kind, names in self.found.items() if name in names]

    def merge(self, other: "Notes", label: str) -> None:
        """Take over another's findings, each kind under a label."""
        for kind, names in other.found.items():
            for name in names:
                self.add(f"{label}: {kind}", name)
        for remark in other.remarks:
            self.explain(f"{label}: {remark}")

    def lines(self) -> list[str]:
        """Return a line for each kind with its count and the first names, then the remarks."""
        lines = []
        for kind, names in self.found.items():
            more = ", ..." if len(names) > NAMED else ""
            lines.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
        return lines + self.remarks
