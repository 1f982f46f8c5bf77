"""The house itself: imports point one way, and public things say what they are."""

import ast
import re
from pathlib import Path

import pytest
from conftest import PROJECT

# each floor may import from itself and from the floors above it
FLOORS = [
    {
        "errors",
        "files",
        "signals",
        "flags",
        "config",
        "sample",
        "quiet",
        "notes",
        "progress",
        "code_digest",
        "hosts",
        "pipeline",
    },
    {"fixations", "metrics", "pictures", "cache", "ridge", "significance", "utilities", "archives"}
    | {"collection", "letterbox", "hdf5", "headers", "frames", "marks", "outputs", "adaptation"},
    {"datasets", "references", "store", "feature_store"},
    {"eltwise_product", "backbone", "losses", "schedules", "step", "weight_files", "foreign"},
    {"model", "architectures"},
    {"checkpoint", "run_folder", "nonfinite", "objective", "validation", "epochs"}
    | {"cluster", "figures", "report", "sources", "scoring", "arms"}
    | {"feature_cache", "engines", "panels", "networks"},
    {"train", "predict", "video", "evaluate", "compare", "probe", "adapt"}
    | {"data", "prepare", "subset", "convert", "export", "export_maps", "page", "demo"},
    {"strategies"},
    {"main"},
]
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
SOURCES = sorted([*PROJECT.glob("*.py"), *PROJECT.glob("[ad]*s/*.py")])


def module_of(path: Path) -> str:
    return path.parent.name if path.parent != PROJECT else path.stem


def imported(path: Path) -> set[str]:
    """Return the project's modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names & LEVEL.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_point_one_way(path):
    level = LEVEL[module_of(path)]
    assert {name for name in imported(path) if LEVEL[name] > level} == set()


def test_networks_are_written_for_every_backend():
    """What Keras leaves to its backends and what knows several devices stand in two modules.

    `export` besides reads what TensorFlow wrote.
    """
    for path in SOURCES:
        if path.name in ("step.py", "cluster.py", "export.py"):
            continue
        for name in ("tensorflow", "torch", "jax"):
            assert f"import {name}" not in path.read_text(), path


def test_nothing_unpickles():
    for path in SOURCES:
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "safe_mode=False" not in text, path


def test_what_is_said_is_made_fit_to_print():
    """Names of strangers go through `progress.tell` or an error's text, never through print."""
    printing = {path.name for path in SOURCES if re.search(r"\bprint\b[(,]", path.read_text())}
    assert printing <= {"progress.py", "main.py", "hosts.py"}
