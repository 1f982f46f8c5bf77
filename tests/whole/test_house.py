"""The house itself: imports point one way, and public things say what they are."""

import ast
import re
import subprocess

import pytest
from conftest import PROJECT

from salience.system.code_digest import OURS

SOURCES = sorted(
    [*PROJECT.glob("*.py"), *PROJECT.glob("salience/**/*.py"), *PROJECT.glob("commands/**/*.py")]
)


# the floors, the lowest first; a room of the library imports itself and the rooms before it
ROOMS = [f"salience.{room}" for room in ("system", "pictures", "data", "measures", "networks")]
CARD = ["eltwise_product", "utilities", "config", "model"]
FLOORS = [*ROOMS, *CARD, "commands", "main"]


def floor_of(module: str) -> int:
    return max(i for i, floor in enumerate(FLOORS) if f"{module}.".startswith(f"{floor}."))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_point_down(path):
    """The library knows nothing above it, the commands all below, and nobody imports main."""
    own = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        assert not getattr(node, "level", 0), "relative imports are not followed by keys of code"
        named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in (name for name in named if name.split(".")[0] in OURS):
            assert floor_of(name) <= floor_of(own.removesuffix(".__init__")), name
            assert name != "main"


def test_every_room_and_every_module_of_the_root_is_known():
    """Else the floors' test would say nothing of it, and no key would have its code."""
    rooms = {path.name for path in (PROJECT / "salience").iterdir() if path.is_dir()}
    assert {f"salience.{room}" for room in rooms - {"__pycache__"}} == set(ROOMS)
    root = {path.stem for path in PROJECT.glob("*.py")} | {"commands", "salience"}
    assert root == set(OURS) == {floor.split(".")[0] for floor in FLOORS}


def test_the_house_is_small_enough_to_be_seen():
    """`ls` shows at most 24 entries at the root, and no folder has more than 12 files of code."""
    done = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True)
    entries = {line.split("/")[0] for line in done.stdout.splitlines()}
    assert len([name for name in entries if name[0] != "."]) <= 24, sorted(entries)
    rooms = {path.parent for path in (*SOURCES, *PROJECT.glob("benchmarks/**/*.py"))} - {PROJECT}
    for folder in rooms:
        assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= 12, folder


def test_networks_are_written_for_every_backend():
    """What Keras leaves to its backends and what knows several devices stand in two modules.

    `export` besides reads what TensorFlow wrote.
    """
    for path in SOURCES:
        if path.relative_to(PROJECT).as_posix() in (
            "commands/training/backends.py",
            "commands/training/devices.py",
            "commands/training/hosts.py",
            "commands/prediction/export.py",
        ):
            continue
        for name in ("tensorflow", "torch", "jax"):
            assert f"import {name}" not in path.read_text(), path


def test_no_syntax_trees_are_made():
    """Two threads that make some at a time can end Python 3.11 in a SystemError."""
    for path in SOURCES:
        assert "import ast" not in path.read_text(), path


def test_nothing_unpickles():
    for path in SOURCES:
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "safe_mode=False" not in text, path


def test_what_is_said_is_made_fit_to_print():
    """Names of strangers go through `terminal.tell` or an error's text, never through print."""
    printing = {path.name for path in SOURCES if re.search(r"\bprint\b[(,]", path.read_text())}
    assert printing <= {"terminal.py", "main.py", "hosts.py"}
