"""Files are written whole or not at all."""

import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from salience.system import files
from salience.system.errors import StorageError, UserError


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
    with pytest.raises(StorageError, match=r"Cannot write .*gone.*No such file"):
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
    with pytest.raises(StorageError, match="is not writable"):
        files.make_folder(tmp_path)


def test_a_name_that_cannot_be_is_the_users_mistake_and_a_full_disk_is_not(tmp_path):
    (tmp_path / "file").write_text("")
    names = [tmp_path / "file" / "a.txt", tmp_path / ("n" * 256)]
    for path in names:
        with pytest.raises(UserError) as told:
            files.write_text(path, "text")
        assert told.value.exit_code == 2
        assert str(told.value).endswith(". Write elsewhere.")
    with pytest.raises(StorageError) as told, files.atomic(tmp_path / "b.txt"):
        raise OSError(errno.ENOSPC, "whatever a library says of it")
    assert told.value.exit_code == 1
    why = "No space left on device. Free space or files there (df -h, df -i), or write elsewhere."
    assert str(told.value) == f"Cannot write {tmp_path / 'b.txt'}: {why}"


def test_a_short_write_that_a_library_tells_in_words_alone_is_never_renamed(tmp_path):
    path = tmp_path / "a.npy"
    path.write_text("old")
    in_words = [
        (OSError("1000 requested and 512 written"), "1000 requested and 512 written"),  # NumPy
        (RuntimeError(f"Can't decrement id: {os.strerror(errno.EDQUOT)}"), "Disk quota exceeded"),
    ]
    for error, why in in_words:
        with (
            pytest.raises(StorageError, match=rf"a\.npy: {why}\."),
            files.atomic(path) as temporary,
        ):
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_fault_of_the_storage_passes_unchanged(tmp_path):
    with pytest.raises(ValueError, match=r"^a defect$"), files.atomic(tmp_path / "a"):
        raise ValueError("a defect")
    with pytest.raises(UserError, match=r"^a mistake$"), files.atomic(tmp_path / "a"):
        raise UserError("a mistake")
    # of what reads our words, as `| head` does
    with pytest.raises(BrokenPipeError), files.telling("Cannot write"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_folder_that_has_gone_is_not_made_again(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(StorageError, match="See what removed the folder"):
        files.make_folder(output / "sub" / "deeper", inside=output)
    with pytest.raises(StorageError, match="See what removed the folder"):
        files.make_folder(output, inside=output)
    output.mkdir()
    assert files.make_folder(output / "sub" / "deeper", inside=output).is_dir()


def test_a_folder_is_asked_whether_there_is_room(tmp_path):
    assert files.refusal_in(tmp_path, 1000) is None
    why = files.refusal_in(tmp_path / "gone", 1000)
    assert why is not None and why.errno == errno.ENOENT
    assert not list(tmp_path.iterdir())


def test_file_and_folder_are_flushed_around_the_renaming(tmp_path, monkeypatch):
    done = []

    def noted(name):
        real = getattr(os, name)

        def call(first, *more):
            done.append(name if name == "replace" else stat.S_IFMT(os.fstat(first).st_mode))
            return real(first, *more)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, noted(name))
    files.write_text(tmp_path / "a", "text")
    assert done == [stat.S_IFREG, "replace", stat.S_IFDIR]


@pytest.mark.parametrize("number", files.NO_FOLDER_FLUSH)
def test_a_system_that_cannot_flush_a_folder_is_none_to_stop_at(tmp_path, monkeypatch, number):
    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, "no")

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_what_is_missing_is_installed_as_the_program_was(monkeypatch, tmp_path):
    words = "pip install -r requirements/engines.txt"
    assert files.how_to_install("onnx", words) == words
    monkeypatch.setattr(files, "HERE", tmp_path / "site-packages")
    told = files.how_to_install("onnx", words)
    assert told == 'pip install ".[onnx]" in the folder of Salience'
    assert files.how_to_install("", words) == 'pip install "." in the folder of Salience'


def test_a_file_is_opened_where_it_is_a_regular_one_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises((UserError, IsADirectoryError)):
            files.open_regular(path)
    with pytest.raises(UserError, match="is not a file"):
        files.read_json(tmp_path / "pipe")


@pytest.mark.parametrize("size", [10, files.SMALL_FILE + 1, 3 * files.SMALL_FILE])
def test_a_stamp_changes_with_the_content_though_size_and_time_are_the_same(
    tmp_path: Path, size: int
) -> None:
    path, stamps = tmp_path / "a", set()
    for end in (b"x", b"y"):
        path.write_bytes(bytes(size - 1) + end)
        os.utime(path, ns=(1, 1))
        stamps.add(files.content_stamp(path))
    assert len(stamps) == 2
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(1, 1))
    assert files.content_stamp(copy) in stamps


def test_json_is_read_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert files.read_json(tmp_path / "a.json") == {}
