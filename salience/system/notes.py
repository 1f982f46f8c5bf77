"""Notes: findings about pictures during a command, counted and reported at its end."""

from threading import Lock

NAMED = 3  # pictures named in a line; the output files name all


class Notes:
    """Findings by kind, each with the pictures concerned.

    A kind states the finding and its treatment, so that nothing is dropped silently.

    >>> notes = Notes()
    >>> notes.add("maps missing: left out", "a.jpg")
    >>> notes.lines()
    ['maps missing: left out (a.jpg)']
    >>> notes.add("maps missing: left out", "b.jpg")
    >>> notes.lines()
    ['maps missing: left out (2: a.jpg, b.jpg)']
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
        """Note a sentence about the whole run, once."""
        with self._lock:
            if remark not in self.remarks:
                self.remarks.append(remark)

    def by_name(self) -> dict[str, set[str]]:
        """Return the kinds of the findings about each picture."""
        found: dict[str, set[str]] = {}
        with self._lock:
            for kind, names in self.found.items():
                for name in names:
                    found.setdefault(name, set()).add(kind)
        return found

    def about(self, name: str) -> list[str]:
        """Return the kinds of the findings about a picture."""
        with self._lock:
            return [kind for kind, names in self.found.items() if name in names]

    def merge(self, other: "Notes", label: str) -> None:
        """Add all findings of other notes, each kind with a label in front."""
        for kind, names in other.found.items():
            for name in names:
                self.add(f"{label}: {kind}", name)
        for remark in other.remarks:
            self.explain(f"{label}: {remark}")

    def lines(self) -> list[str]:
        """Return a line for each kind with its count and first names, and then the remarks."""
        lines = []
        for kind, names in self.found.items():
            count = f"{len(names):,}: " if len(names) > 1 else ""
            more = ", ..." if len(names) > NAMED else ""
            lines.append(f"{kind} ({count}{', '.join(names[:NAMED])}{more})")
        return lines + self.remarks
