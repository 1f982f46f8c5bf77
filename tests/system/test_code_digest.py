import ast
import contextlib
import inspect
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT

from commands.evaluation import rows
from commands.prediction.engines import EXPORTER
from salience.data.sets import npy
from salience.data.sets.osie import parse
from salience.pictures import network_inputs
from salience.pictures.reading import stamp
from salience.pictures.sample import Stored
from salience.system import code_digest
from salience.system.code_digest import reached

MAKERS = {
    "scores": rows.score_rows,
    "exported networks": EXPORTER,
    "parsed fixations": parse,
    "truth": network_inputs.make_truth,
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project's code, which a test may change."""
    root = tmp_path_factory.mktemp("project")
    for path in PROJECT.rglob("*.py"):
        place = path.relative_to(PROJECT)
        if not any(part.startswith(".") or part in ("tests", "runs") for part in place.parts):
            (root / place.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / place)
    return root


def start_of(maker) -> Path:
    name = maker if isinstance(maker, str) else maker.__module__
    return Path(*name.split(".")).with_suffix(".py")


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_a_byte_in_any_module_that_is_reached_changes_the_key(copy, maker):
    name = ".".join(start_of(maker).with_suffix("").parts)

    def key():
        code_digest._digest.cache_clear()
        return code_digest.code_digest(name, copy)

    before, found = key(), reached(copy / start_of(maker), copy)
    assert before == code_digest.code_digest(maker)  # wherever the project lies
    geometry = copy / "salience/pictures/letterbox.py"
    assert (geometry in found) == (maker is not parse)  # fixations are parsed as they are
    for path in found:
        code = path.read_bytes()
        path.write_bytes(code + b"#")
        assert key() != before, path
        path.write_bytes(code)
    assert key() == before


@pytest.mark.parametrize("maker", ["scores", "exported networks"])
def test_what_data_sets_hold_is_in_keys_by_itself_not_by_the_code_of_their_loaders(maker):
    """Else a change of one loader would have every network exported, and every map scored anew."""
    sets = PROJECT / "salience/data/sets"
    found = {
        path.stem for path in reached(PROJECT / start_of(MAKERS[maker])) if path.parent == sets
    }
    assert found <= {"__init__", "synthetic"}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_a_module_that_is_not_reached_leaves_the_key(copy, maker):
    name = ".".join(start_of(maker).with_suffix("").parts)
    before, found = code_digest.code_digest(name, copy), reached(copy / start_of(maker), copy)
    others = {path for path in copy.rglob("*.py") if path not in found}
    assert {copy / "main.py", copy / "commands/demo/server.py"} <= others
    for path in others:
        path.write_bytes(path.read_bytes() + b"#")
    code_digest._digest.cache_clear()
    assert code_digest.code_digest(name, copy) == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import room.b", {"room/__init__.py", "room/b.py"}),
        ("from room import b", {"room/__init__.py", "room/b.py"}),
        ("from room.b import thing", {"room/__init__.py", "room/b.py"}),
        ("def f():\n    import c", {"c.py"}),
        ("import_module('room.b')", {"room/__init__.py", "room/b.py"}),
        ("import_module(f'room.{name}')", {"room/__init__.py", "room/b.py", "room/a.py"}),
        ("import numpy.linalg, os", set()),
        ("print('c.pyx', 'a. b', '..', '.')", set()),
    ],
)
def test_imports_of_every_kind_are_followed(tmp_path, monkeypatch, text, found):
    monkeypatch.setattr(code_digest, "OURS", ("room", "c"))
    (tmp_path / "room").mkdir()
    for name in ("room/__init__.py", "room/a.py", "room/b.py", "c.py", "not_named.py"):
        (tmp_path / name).touch()
    start = tmp_path / "start.py"
    start.write_text(text)
    assert reached(start, tmp_path) == {start, *(tmp_path / name for name in found)}


def test_many_threads_may_ask_while_others_make_syntax_trees(monkeypatch):
    """As pictures are read while TensorFlow traces a step: Python 3.11 ends `ast.parse` so."""
    code = Path(inspect.__file__).read_text(encoding="utf-8")
    parts = [Path(module.__file__).read_bytes() for module in (rows, code_digest, npy)] * 20
    stop = threading.Event()

    def parse():
        while not stop.is_set():
            with contextlib.suppress(SystemError):  # its own, where both are of this thread's kind
                ast.parse(code)

    other = threading.Thread(target=parse)
    other.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(code_digest._names.__wrapped__, parts))
    finally:
        stop.set()
        other.join()


def test_packages_of_others_are_not_followed_where_they_lie_beside_ours(tmp_path):
    """As in the folder that packages are installed into."""
    (tmp_path / "numpy.py").touch()
    (tmp_path / "config.py").write_text("import numpy")
    assert reached(tmp_path / "config.py", tmp_path) == {tmp_path / "config.py"}
    assert code_digest.is_ours(code_digest.reached) and not code_digest.is_ours(Path)


def test_the_code_that_reads_from_an_array_file_is_part_of_its_stamp(tmp_path):
    """No import of what keeps it leads there: the data set hands its reader over."""
    file = tmp_path / "images.npy"
    np.save(file, np.zeros((2, 3, 4, 3), np.uint8))
    one, other = (Stored(file, 0, partial(npy.read_picture, form)) for form in ("BGR", "RGB"))
    assert stamp(one) != stamp(other)
    assert code_digest.code_digest(npy.read_picture) in stamp(one)


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(ModuleNotFoundError):
        code_digest.code_digest("no.such_module")
