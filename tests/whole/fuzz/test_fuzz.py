"""No file of a stranger brings a reader down: hundreds here, 100,000 a reader by `make fuzz`.

`FUZZ_INPUTS` says how many the slow test has of each reader; `FUZZ_READERS` names some alone.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hammer import complaint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import READERS, a_room

from salience.system.errors import UserError

HERE = Path(__file__).resolve().parent
INPUTS = int(os.environ.get("FUZZ_INPUTS", "100000"))
HUNG_SECONDS = 7200


def read(name, data):
    """Return what is wrong with how a reader took an input, or nothing."""
    with a_room() as room:
        try:
            READERS[name].read(data, room)
        except Exception as error:
            return complaint(error)
    return ""


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in READERS[name].seeds():
        with a_room() as room:
            READERS[name].read(seed, room)


@pytest.mark.filterwarnings("ignore")  # what libraries say of odd files besides
@pytest.mark.parametrize("name", READERS)
def test_a_hostile_file_is_one_line_or_a_value(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = READERS[name]
    seeds = reader.seeds()

    # a file of HDF5 is read in a process of its own, which takes ten times as long
    number = 40 if name == "hdf5" else 200

    @settings(max_examples=number, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    def hammer(seed, pick):
        assert read(name, reader.make(seed, pick, seeds)) == ""

    hammer()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", os.environ.get("FUZZ_READERS", "").split() or READERS)
def test_many_hostile_files_are_one_line_or_a_value(name, tmp_path):
    words = [HERE / "hammer.py", name, "--inputs", INPUTS, "--kept", tmp_path]
    # by a shell: a child inherits its parent's peak of memory, at which libFuzzer would end it
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=HUNG_SECONDS, cwd=tmp_path,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith((f"{name}:", "  "))]
    print("\n".join(told))
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_hammer_notices_what_readers_must_not_do():
    def raised(error, cause=None):
        try:
            raise error from cause
        except Exception as caught:
            return complaint(caught)

    assert complaint(None) == ""
    assert raised(UserError("one line")) == ""
    assert raised(UserError("a\nb")) == ""  # is printed as one
    assert "KeyError" in raised(KeyError("a"))
    assert "memory" in raised(UserError("a"), MemoryError())
