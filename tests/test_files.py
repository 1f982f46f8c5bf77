"""Files are written whole or not at all."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import files
from errors import UserError


def test_a_write_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"  # until all is there
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot write .*gone.*No such file"):
        files.write_text(tmp_path / "gone" / "a.txt", "text")
    assert not list(tmp_path.iterdir())


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ("n" * 251 + ".png")
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    texts = [str(i) * 10_000 for i in range(10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: files.write_text(tmp_path / "a", text), texts * 5))
    assert (tmp_path / "a").read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"nss": float("nan"), "rows": [float("inf"), 1.0]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"nss": None, "rows": [None, 1.0]}


@pytest.mark.parametrize("flag", ["--output", "--weights_dir"])
def test_a_folder_that_cannot_be_made_names_the_flag_that_chooses_it(tmp_path, flag):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"Choose another with {flag}"):
        files.make_folder(tmp_path / "file" / "folder", flag)


def test_a_folder_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="is not writable"):
        files.make_folder(tmp_path)
