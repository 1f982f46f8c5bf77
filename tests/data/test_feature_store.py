import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT

from salience.data import feature_store
from salience.data.feature_store import (
    FeatureStore,
    KnownPicture,
    pack,
    unpack,
)
from salience.system.cache import Cache

KEY = "a" * 64


def features(rng, zeros=0.8, shape=(3, 5, 7), dtype=np.float16):
    values = rng.normal(0, 100, shape).astype(dtype)
    values[rng.random(shape) < zeros] = 0
    return values


def made_like(arrays):
    return [np.full_like(array, 7) for array in arrays]


@pytest.fixture
def store(tmp_path):
    return FeatureStore(Cache(tmp_path).shelf(KEY))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("zeros", [0.0, 0.8, 1.0])
def test_features_come_back_bit_for_bit(rng, dtype, zeros):
    # 105 values are no whole number of bytes of bits; of several arrays each has its own kind
    arrays = [features(rng, zeros, dtype=dtype), features(rng, 0.0, (2, 2), dtype)]
    arrays[0].flat[:4] = [-0.0, np.inf, np.nan, np.finfo(dtype).smallest_subnormal]
    found = made_like(arrays)
    unpack(pack(arrays), found)
    for before, after in zip(arrays, found, strict=True):
        assert before.tobytes() == after.tobytes()


def test_zeros_take_a_bit_each_and_dense_features_no_more_than_they_have(rng):
    sparse, dense = (features(rng, zeros, (100, 1000)) for zeros in (0.8, 0.0))
    assert len(pack([sparse])) == pytest.approx(sparse.nbytes * (0.2 + 1 / 16), rel=0.02)
    assert len(pack([dense])) < dense.nbytes + 100


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: b"something else" + data,
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    ],
)
def test_a_damaged_entry_is_taken_for_absent(rng, store, damage):
    arrays = [features(rng)]
    store.keep("abcd", arrays)
    path = store.shelf.path("abcd.features")
    assert store.read("abcd", made_like(arrays))
    path.write_bytes(damage(path.read_bytes()))
    assert not store.read("abcd", made_like(arrays))
    store.keep("abcd", arrays)  # made again
    assert store.read("abcd", made_like(arrays))


def test_entry_of_another_shape_is_taken_for_absent(rng, store):
    store.keep("abcd", [features(rng, shape=(3, 5, 7))])
    store.keep("dcba", [features(rng, 0.0, shape=(3, 5, 7))])
    for name in ("abcd", "dcba", "none"):
        assert not store.read(name, [np.empty((3, 5, 9), np.float16)])


def test_folder_that_cannot_be_written_only_costs_the_time(rng, tmp_path):
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file")
    store = FeatureStore(cache.shelf(KEY))
    store.remember("i" * 64, KnownPicture("c" * 64, (3, 4)))
    assert not store.read("abcd", [features(rng)])
    assert cache.room(store.shelf) > 0
    store.keep("abcd", [features(rng)])
    assert store.shelf.full


def test_what_is_known_of_pictures_outlives_the_run_but_not_half_a_line(store):
    store.remember("i" * 64, KnownPicture("c" * 64, (600, 800)))
    with store.shelf.path(feature_store.PICTURES).open("ab") as file:
        file.write(b"j" * 64 + b" " + b"d" * 30 + b"\n" + b"\xff\xfe\n")
    store.remember("k" * 64, KnownPicture("e" * 64, (1, 2)))
    again = FeatureStore(store.shelf)
    assert again.seen == {
        "i" * 64: KnownPicture("c" * 64, (600, 800)),
        "k" * 64: KnownPicture("e" * 64, (1, 2)),
    }


HAMMER = """
import sys
from pathlib import Path
import numpy as np
from salience.data.feature_store import FeatureStore, KnownPicture
from salience.system.cache import Cache

store, whole = FeatureStore(Cache(Path(sys.argv[1])).shelf("a" * 64)), 0
for turn in range(40):
    for number in range(10):
        wanted = [np.full((50, 60), number, np.float16)]
        found = [np.empty((50, 60), np.float16)]
        if store.read(f"{number}-name", found):
            assert (found[0] == wanted[0]).all()
            whole += 1
        store.keep(f"{number}-name", wanted)
        store.remember(f"{turn:032}{number:032}", KnownPicture("c" * 64, (turn, number)))
print(whole)
"""


def test_two_processes_at_once_never_read_half_an_entry(tmp_path):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path)],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [run.communicate(timeout=100)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    # an entry that is there is read, whatever the other writes meanwhile
    assert all(int(text) >= 390 for text in said)
    store = FeatureStore(Cache(tmp_path).shelf(KEY))
    assert len(store.seen) == 400
    assert not list(tmp_path.rglob(".*"))
