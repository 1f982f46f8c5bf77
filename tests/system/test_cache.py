"""The cache: what is damaged in it, evicted or not to be written only costs the time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT

from commands.prediction import engines
from salience.system import cache as caches
from salience.system import files
from salience.system.cache import IN_USE_SECONDS, USED, Cache, default_cache, make_key
from salience.system.errors import UserError
from salience.system.files import LEFT_SECONDS, read_json

NAMES = {letter: letter * 64 for letter in "abcdef"}  # of shelves


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    """Have the note told anew."""
    monkeypatch.setattr(caches, "_told", [])


@pytest.fixture
def kept(tmp_path):
    """Return a shelf that holds arrays under the name "ab12", and their file."""
    shelf = Cache(tmp_path).shelf(NAMES["a"])
    shelf.keep("ab12", {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yy"])})
    (file,) = tmp_path.rglob("*.npz")
    return shelf, file


def fill(path, size, used_seconds_ago):
    """Write what another process keeps, a shelf or a file."""
    file = path if path.suffix else path / "ab" / "x.features"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    used = file
    if not path.suffix:
        used = path / USED
        used.touch()
    os.utime(used, (time.time() - used_seconds_ago,) * 2)
    return path


def size_of(cache):
    return sum(one.size for one in cache.occupants())


def run(code, *words):
    """Start Python on some code, in the project."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_arrays_kept_together_are_recalled(kept):
    shelf, _ = kept
    found = shelf.recall("ab12")
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == ["x", "yy"]
    assert shelf.recall("cd34") is None


@pytest.mark.parametrize("flip", [1, 8, 255])  # 8: of stored bytes, deflated ones
def test_no_damaged_byte_of_kept_arrays_is_a_crash(kept, flip):
    shelf, file = kept
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        file.write_bytes(damaged)
        shelf.recall("ab12")


@pytest.mark.parametrize("method", [1, 8, 12, 14])  # unknown, and what zlib, bz2 and lzma read
def test_arrays_said_to_be_compressed_are_made_again(kept, method):
    shelf, file = kept
    data = bytearray(file.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 10] = method
    file.write_bytes(data)
    assert shelf.recall("ab12") is None


def test_truncated_arrays_are_made_again(kept):
    shelf, file = kept
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert shelf.recall("ab12") is None


def test_a_key_follows_each_part_and_the_code_of_functions():
    odd = os.fsdecode(b"\xff.mat")
    arrays = [np.zeros(2), np.zeros(3), np.zeros(2, np.float32), np.ones(2)]
    parts = [(), ("",), ("a",), ("a", "b"), ("ab",), (odd,), (None,), *((a,) for a in arrays),
             (read_json,), (make_key,), (Cache,)]  # fmt: skip
    found = [make_key(*some) for some in parts]
    assert len(set(found)) == len(found)
    assert all(len(name) == 64 for name in found)
    assert make_key("a", read_json, np.ones(2)) == make_key("a", read_json, np.ones(2))


def test_limit_is_kept_and_told_once(tmp_path, capsys):
    cache = Cache(tmp_path, limit=350)
    shelf, other = cache.shelf(NAMES["a"]), cache.shelf(NAMES["b"])
    for number in range(5):
        shelf.write(f"{number}-name", bytes(100))
        other.write("x-name", bytes(100))
    assert [shelf.read(f"{n}-name") is not None for n in range(5)] == [True, True, *[False] * 3]
    assert shelf.full
    assert other.full
    assert size_of(cache) == 300
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: nothing more is cached. No more room in {tmp_path}: its limit")


def test_longest_unused_shelf_makes_room_and_those_in_use_never(tmp_path):
    cache = Cache(tmp_path, limit=700)
    oldest = fill(tmp_path / NAMES["a"], 200, 9 * IN_USE_SECONDS)
    older = fill(tmp_path / NAMES["b"], 200, 5 * IN_USE_SECONDS)
    another_runs = fill(tmp_path / NAMES["c"], 200, 60)
    shelf = cache.shelf(NAMES["d"])
    assert cache.room(shelf) == 500
    shelf.write("1-name", bytes(100))
    assert oldest.exists()
    shelf.write("2-name", bytes(100))
    assert not oldest.exists()
    assert older.exists()
    os.utime(shelf.folder / USED, (1, 1))  # its own is in use, whatever its mark
    for number in range(3, 7):
        shelf.write(f"{number}-name", bytes(100))
    assert not older.exists()
    assert another_runs.exists()
    assert [shelf.path(f"{n}-name").exists() for n in range(1, 7)] == [True] * 5 + [False]
    assert cache.room(shelf) == 0


def test_what_a_shelf_is_read_for_keeps_it(tmp_path):
    shelves = {}
    for letter in "ab":
        fill(tmp_path / NAMES[letter], 100, 9 * IN_USE_SECONDS)
        shelves[letter] = Cache(tmp_path).shelf(NAMES[letter])
    assert shelves["a"].recall("x") is None
    assert shelves["a"].path("ab").parent.exists()
    Cache(tmp_path, limit=210).shelf(NAMES["c"]).write("name", bytes(100))
    assert {path.name for path in tmp_path.iterdir()} == {NAMES["a"], NAMES["c"]}


def test_features_leave_room_to_what_is_small(tmp_path):
    cache = Cache(tmp_path, limit=1000)
    features, truth = cache.shelf(NAMES["a"], bulky=True), cache.shelf(NAMES["b"])
    assert cache.room(features) == 900
    for number in range(10):
        features.write(str(number), bytes(100))
    assert size_of(cache) == 900
    truth.write("name", bytes(100))
    assert truth.read("name") == bytes(100)


def test_features_never_fill_the_disk_to_the_brim(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(caches, "RESERVE", 10**18)
    cache = Cache(tmp_path)
    features, truth = cache.shelf(NAMES["a"], bulky=True), cache.shelf(NAMES["b"])
    for shelf in (features, truth):
        shelf.write("abcd", b"x")
    assert (features.full, truth.full) == (True, False)
    assert features.read("abcd") is None
    assert cache.room(features) == 0
    assert "No space left on device" in capsys.readouterr().err


def test_what_earlier_versions_kept_makes_room_and_what_others_keep_there_stays(tmp_path):
    old = 9 * IN_USE_SECONDS
    earlier = [
        fill(tmp_path / f"ab/{'ab' * 32}.npy", 100, old),
        fill(tmp_path / f"ab/{'ab' * 32}.npz", 100, old),
        fill(tmp_path / "features" / ("c" * 32), 100, old),
        fill(tmp_path / "networks" / ("d" * 64), 100, old),
    ]
    others = [
        fill(tmp_path / name, 100, old)
        for name in ("ab/notes.txt", "features/mine.txt", "photos", "networks/mine", "a.npy")
    ]
    cache = Cache(tmp_path, limit=100)
    assert size_of(cache) == 400
    cache.shelf(NAMES["a"]).write("name", bytes(100))
    assert not any(path.exists() for path in earlier)
    assert all(path.exists() for path in others)


def test_a_folder_that_cannot_be_written_is_one_note(tmp_path, capsys):
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file")
    for name in NAMES.values():
        shelf = cache.shelf(name)
        assert shelf.get("x", lambda: np.ones(2)).tolist() == [1, 1]
        assert shelf.get("x", lambda: np.ones(3)).tolist() == [1, 1, 1]
        assert shelf.full
    with pytest.raises(UserError, match=r"Cannot create the folder.*\$SALIENCY_CACHE"):
        shelf.files(lambda folder: None, lambda folder: False)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: nothing more is cached. Cannot create the folder")


KILLED = """
import os, signal, sys
from pathlib import Path
from salience.system import files
from salience.system.cache import Cache

def killed(made, path, durable=True):
    os.kill(os.getpid(), signal.SIGKILL)

shelf = Cache(Path(sys.argv[1])).shelf("a" * 64)
shelf.write("first", b"whole")
if sys.argv[2] == "write":
    files.move = killed
    shelf.write("second", b"half")
else:
    shelf.files(lambda folder: killed((folder / "x").touch(), folder), lambda folder: False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("at", ["write", "files"])
def test_what_a_killed_process_was_writing_is_absent_and_goes_after_a_day(tmp_path, at):
    job = run(KILLED, tmp_path, at)
    said = job.communicate(timeout=100)[0]
    assert job.returncode == -signal.SIGKILL, said
    shelf = Cache(tmp_path).shelf(NAMES["a"])
    assert shelf.read("first") == b"whole"
    assert shelf.read("second") is None
    assert not (shelf.folder / "made").exists()
    [left] = tmp_path.rglob(".partial*")
    shelf.write("second", b"whole")
    assert left.exists()  # another process may be at it
    past = (time.time() - 2 * LEFT_SECONDS,) * 2
    for path in (*left.rglob("*"), left):
        os.utime(path, past)
    files._swept.clear()  # as in another process
    Cache(tmp_path).shelf(NAMES["a"]).write("second", b"whole")
    assert not left.exists()


HAMMER = """
import sys
from pathlib import Path
import numpy as np
from salience.system import cache

cache.IN_USE_SECONDS = 0  # each evicts what the other is at
cache.RECOUNT = 1
shelves = [cache.Cache(Path(sys.argv[1]), 20_000).shelf(letter * 64) for letter in "abcd"]
for turn in range(40):
    for number, shelf in enumerate(shelves):
        wanted = np.full((20, 20), number)
        assert (shelf.get("name", lambda: wanted) == wanted).all()
        shelf.keep(f"{turn}", {"array": wanted})
        found = shelf.recall(f"{turn}")
        assert found is None or (found["array"] == wanted).all()
    sum(one.size for one in shelf.cache.occupants())
print("done")
"""


def test_two_processes_that_evict_at_once_never_read_half_of_anything(tmp_path):
    jobs = [run(HAMMER, tmp_path) for _ in range(2)]
    said = [job.communicate(timeout=100)[0] for job in jobs]
    # a write into a shelf that the other just removed may fail: then that much is not kept
    assert [text.split()[-1] for text in said] == ["done"] * 2, said
    assert not list(tmp_path.glob(".*"))


def test_files_are_made_once_and_again_where_they_are_damaged(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("whole")

    def whole(folder):
        return (folder / "x").exists() and (folder / "x").read_text() == "whole"

    shelf = Cache(tmp_path).shelf(NAMES["a"])
    place = shelf.files(make, whole)
    assert (place / "x").read_text() == "whole"
    assert shelf.files(make, whole) == place
    assert len(made) == 1
    assert [one.in_use for one in shelf.cache.occupants()] == [True]
    (place / "x").write_text("torn")
    assert shelf.files(make, whole) == place
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == [NAMES["a"]]


def test_files_that_another_process_made_in_the_meantime_stay(tmp_path):
    shelf = Cache(tmp_path).shelf(NAMES["a"])

    def make(folder):
        (shelf.folder / "made").mkdir(parents=True)
        (shelf.folder / "made" / "x").write_text("other's")
        (folder / "x").write_text("own")

    place = shelf.files(make, lambda folder: (folder / "x").exists())
    assert (place / "x").read_text() == "other's"


def test_files_are_kept_where_all_others_are_in_use(tmp_path):
    cache = Cache(tmp_path, limit=100)
    unused = fill(tmp_path / NAMES["b"], 50, 9 * IN_USE_SECONDS)
    used = fill(tmp_path / NAMES["c"], 90, 60)
    place = cache.shelf(NAMES["a"]).files(
        lambda folder: (folder / "x").write_bytes(bytes(50)) and None, lambda folder: False
    )
    assert (place / "x").exists()
    assert used.exists()
    assert not unused.exists()


def test_whoever_has_no_home_has_no_cache_and_no_folder_of_that_name(monkeypatch, tmp_path):
    for name in ("SALIENCY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME and account
    monkeypatch.chdir(tmp_path)
    cache = default_cache()
    assert cache.folder is None
    assert cache.shelf(NAMES["a"]).get("ab12", lambda: np.zeros(2)).tolist() == [0, 0]
    (tmp_path / "a.weights.h5").touch()
    with pytest.raises(UserError, match="SALIENCY_CACHE"):
        engines.exported_engine("onnx", tmp_path / "a.weights.h5", print)
    assert [path.name for path in tmp_path.iterdir()] == ["a.weights.h5"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have folders of their own")
def test_the_caches_place_on_linux(monkeypatch):
    for name in ("SALIENCY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    assert default_cache().folder == Path("/home/a/.cache/saliency-maps")
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert default_cache().folder == Path("/other/saliency-maps")
    monkeypatch.setenv("SALIENCY_CACHE", "/mine")
    assert default_cache().folder == Path("/mine")


def test_the_lower_of_two_limits_holds(monkeypatch):
    monkeypatch.delenv("SALIENCY_CACHE_LIMIT", raising=False)
    assert default_cache().limit == 50 * 10**9
    assert default_cache(10**9).limit == 10**9
    monkeypatch.setenv("SALIENCY_CACHE_LIMIT", "2 GB")
    assert default_cache().limit == default_cache(10**10).limit == 2 * 10**9
    assert default_cache(10**9).limit == 10**9
    assert default_cache(10**9) is default_cache(10**9)  # it counts once what is there
    monkeypatch.setenv("SALIENCY_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match=r"\$SALIENCY_CACHE_LIMIT much: a size such as 50GB"):
        default_cache()
