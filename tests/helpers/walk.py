"""Run commands of main.py one after the other in one process, in which some packages are absent.

    python tests/helpers/walk.py '["tensorflow"]' '[["train", "--epochs", "1"], ["test", "pics"]]'

The exit code is that of the first command that fails.
"""

import json
import sys
from pathlib import Path


class Without:
    """A finder of modules that knows nothing of some packages."""

    def __init__(self, finder, absent):
        self.finder, self.absent = finder, absent

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in self.absent
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def walk(absent: list[str], commands: list[list[str]]) -> int:
    """Return the exit code of the first command that fails, or 0."""
    sys.meta_path[:] = [Without(finder, absent) for finder in sys.meta_path]
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import main

    for words in commands:
        if code := main.main(words):
            return code
    assert not [name for name in absent if sys.modules.get(name)]
    return 0


if __name__ == "__main__":
    sys.exit(walk(*map(json.loads, sys.argv[1:])))
