"""The cache: what is damaged in it only costs the time to make it again."""

import sys
from pathlib import Path

import numpy as np
import pytest

from commands.prediction import engines
from salience.system.cache import ArrayCache, default_cache
from salience.system.errors import UserError


@pytest.fixture
def kept(tmp_path):
    """Return a cache that holds arrays under the key "ab12", and their file."""
    cache = ArrayCache(tmp_path)
    cache.keep("ab12", {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yy"])})
    (file,) = tmp_path.rglob("*.npz")
    return cache, file


def test_arrays_kept_together_are_recalled(kept):
    cache, _ = kept
    found = cache.recall("ab12")
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == ["x", "yy"]
    assert cache.recall("cd34") is None


@pytest.mark.parametrize("flip", [1, 8, 255])  # 8: of stored bytes, deflated ones
def test_no_damaged_byte_of_kept_arrays_is_a_crash(kept, flip):
    cache, file = kept
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        file.write_bytes(damaged)
        cache.recall("ab12")


@pytest.mark.parametrize("method", [1, 8, 12, 14])  # unknown, and what zlib, bz2 and lzma read
def test_arrays_said_to_be_compressed_are_made_again(kept, method):
    cache, file = kept
    data = bytearray(file.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 10] = method
    file.write_bytes(data)
    assert cache.recall("ab12") is None


def test_truncated_arrays_are_made_again(kept):
    cache, file = kept
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert cache.recall("ab12") is None


def test_whoever_has_no_home_has_no_cache_and_no_folder_of_that_name(monkeypatch, tmp_path):
    for name in ("SALIENCY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME and account
    monkeypatch.chdir(tmp_path)
    cache = default_cache()
    assert cache.folder is None and cache.get("ab12", lambda: np.zeros(2)).tolist() == [0, 0]
    with pytest.raises(UserError, match="SALIENCY_CACHE"):
        engines.exported_engine("onnx", tmp_path / "a.weights.h5", print)
    assert not list(tmp_path.iterdir())


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
