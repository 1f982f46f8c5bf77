"""Archives are unpacked whole or not at all, and nothing that they say is trusted."""

import gzip
import io
import os
import random
import re
import stat
import tarfile
import zipfile

import pytest

from salience.system import archives, files
from salience.system.archives import extract, members, write_zip
from salience.system.errors import UserError

FILES = {"Set/images/a.jpg": b"a" * 3000, "Set/images/b.jpg": b"b" * 512, "Set/readme.txt": b""}
KINDS = (".zip", ".tar", ".tar.gz", ".tgz")


def tar_entry(name, data=b"", kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    return info, io.BytesIO(data)


@pytest.fixture
def make(tmp_path):
    """Return a function that writes an archive of {name: bytes}; a name ending in / is a folder."""

    def build(kind, files, name="archive"):
        path = tmp_path / f"{name}{kind}"
        if kind == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for entry, data in files.items():
                    info = zipfile.ZipInfo("x")
                    info.filename = entry  # as it is: the constructor would cut and turn slashes
                    info.compress_type = zipfile.ZIP_DEFLATED
                    file.writestr(info, data)
        else:
            with tarfile.open(path, "w" if kind == ".tar" else "w:gz") as file:
                for entry, data in files.items():
                    type_ = tarfile.DIRTYPE if entry.endswith("/") else tarfile.REGTYPE
                    file.addfile(*tar_entry(entry, data, type_))
        return path

    return build


def found(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def all_around(tmp_path):
    """Return all paths in a test's folder, and those beside the folder."""
    return sorted([*tmp_path.rglob("*"), *tmp_path.parent.iterdir()])


def refused(archive, tmp_path, match, **limits):
    """Check that an archive is refused in one line, and that nothing of it is left."""
    before = all_around(tmp_path)
    with pytest.raises(UserError, match=match) as caught:
        extract([archive], tmp_path / "out", **limits)
    assert "\n" not in str(caught.value)
    assert str(archive) in str(caught.value)
    assert all_around(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_comes_out_as_it_went_in(make, tmp_path, kind):
    content = extract([make(kind, FILES)], tmp_path / "deep" / "out")
    assert content == tmp_path / "deep" / "out"
    assert found(tmp_path / "deep" / "out") == FILES
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_several_archives_are_unpacked_side_by_side(make, tmp_path):
    clutter = {"__MACOSX/._x": b"x", ".DS_Store": b"x"}  # in each, and written from none
    first = make(".zip", {"Set/a.jpg": b"a", "Set/in/b.jpg": b"b", **clutter})
    second = make(".tar.gz", {"Set/": b"", "Set/in/c.jpg": b"c", "Maps/a.jpg": b"d", **clutter})
    out = tmp_path / "out"
    assert extract([first, second], out) == out
    expected = {"Set/a.jpg": b"a", "Set/in/b.jpg": b"b", "Set/in/c.jpg": b"c", "Maps/a.jpg": b"d"}
    assert found(out) == expected


@pytest.mark.parametrize("name", ["Set/a.jpg", "Set/A.jpg", "Set", "Set/a.jpg/b"])
def test_a_name_of_another_archive_is_refused_and_nothing_is_left(make, tmp_path, name):
    first, second = make(".zip", {"Set/a.jpg": b"a"}), make(".tar", {"x": b"x", name: b"b"})
    with pytest.raises(UserError, match=f"archive.tar is not unpacked: '{name}' has the name of"):
        extract([first, second], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [second, first]


def test_the_limits_are_those_of_all_archives_together(make, tmp_path):
    together = [make(".zip", {"a": b"12"}), make(".tar", {"b": b"12"})]
    with pytest.raises(UserError, match="exceeds the limit of 9 files and 3 bytes"):
        extract(together, tmp_path / "out", limit_bytes=3, limit_files=9)
    with pytest.raises(UserError, match="exceeds the limit of 1 files"):
        extract(together, tmp_path / "out", limit_files=1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_macos_adds_is_left_out(make, tmp_path, kind):
    extra = {"__MACOSX/Set/._a.jpg": b"x", "Set/.DS_Store": b"x", "Set/images/._a.jpg": b"x"}
    assert extract([make(kind, {**extra, **FILES})], tmp_path / "out") == tmp_path / "out"
    assert found(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_begin_with_a_dot_and_a_slash_are_those_without(make, tmp_path, kind):
    archive = make(kind, {f"./{name}": data for name, data in FILES.items()})
    with members(archive) as entries:
        assert {entry.name for entry in entries if not entry.is_folder} == set(FILES)
    extract([archive], tmp_path / "out")
    assert found(tmp_path / "out") == FILES


def test_what_systems_and_notebooks_leave_is_left_out_wherever_it_lies(make, tmp_path):
    names = ("Thumbs.db", "a/.ipynb_checkpoints/x.png", ".DS_Store", "a/__MACOSX/b", "desktop.ini")
    extract([make(".zip", {**dict.fromkeys(names, b"x"), **FILES})], tmp_path / "out")
    assert found(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/tmp/evil", "//host/evil", "C:/evil", "C:evil", "..\\evil",
     "a\\..\\evil", "\\evil", ".."],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(make, tmp_path, kind, name):
    archive = make(kind, {"good.txt": b"", name: b"evil"})
    match = r"is not unpacked: .*evil.*(leads out|backslash)" if "evil" in name else "leads out"
    refused(archive, tmp_path, match)


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_a_file_thousands_of_folders_deep_is_refused(make, tmp_path, kind):
    refused(make(kind, {"a/" * 400 + "x": b""}), tmp_path, "lies 401 folders deep")


@pytest.mark.parametrize("name", ["picture.jpgX.exe", "Xpicture"])
def test_a_name_is_not_cut_at_a_null_byte(make, tmp_path, name):
    archive = make(".zip", {name: b"x"})
    cut = name.replace("X", "\0")
    archive.write_bytes(archive.read_bytes().replace(name.encode(), cut.encode()))
    refused(archive, tmp_path, re.escape(repr(cut)) + ".* null")


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_an_entry_without_a_name_is_refused(make, tmp_path, kind):
    refused(make(kind, {"": b"x"}), tmp_path, "Cannot unpack .*Is a directory")


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_a_name_of_endless_folders_is_refused(make, tmp_path, kind):
    archive = make(kind, {"a/" * 5000 + "b": b""})
    refused(archive, tmp_path, r"has a name of 10001 characters\.$")


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "good.txt"), (tarfile.LNKTYPE, "good.txt"),
     (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, "")],
)  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, target):
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as file:
        file.addfile(*tar_entry("good.txt", b"good"))
        file.addfile(*tar_entry("odd", b"", kind, target))
    refused(archive, tmp_path, r"'odd' is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        info = zipfile.ZipInfo("odd")
        info.external_attr = (kind | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    refused(archive, tmp_path, r"'odd' is a link or a device")


def test_an_encrypted_zip_is_refused(make, tmp_path):
    archive = make(".zip", {"secret.jpg": b"x"})
    data = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    archive.write_bytes(data)
    refused(archive, tmp_path, r"'secret\.jpg' is encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.parametrize(
    "names",
    [("a.jpg", "A.JPG"), ("caf\u00e9", "cafe\u0301"), ("a", "a/b"), ("a/b", "a"), ("x/a/b", "X/A"),
     ("x/./a", "x/a"), ("a/", "A")],
)  # fmt: skip
def test_no_entry_takes_the_place_of_another(make, tmp_path, kind, names):
    refused(make(kind, dict.fromkeys(names, b"")), tmp_path, "has the name of another")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar, zipfile.ZipFile(
        tmp_path / "a.zip", "w"
    ) as file:  # fmt: skip
        for data in (b"first", b"second"):
            tar.addfile(*tar_entry("a.jpg", data))
            file.writestr("a.jpg", data)
    for name in ("a.tar", "a.zip"):
        refused(tmp_path / name, tmp_path, r"'a\.jpg' has the name of another")


def test_folders_may_be_named_twice(make, tmp_path):
    archive = make(".tar", {"./": b"", "a/": b"", "a/x": b"1", "./a/": b"", "a/y": b"2"})
    assert found(extract([archive], tmp_path / "out")) == {"a/x": b"1", "a/y": b"2"}


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_more_files_or_bytes_than_the_limits_are_refused(make, tmp_path, kind):
    archive = make(kind, FILES)
    refused(archive, tmp_path, r"readme.* exceeds the limit of 2 files", limit_files=2)
    refused(archive, tmp_path, r"b\.jpg.* exceeds .*3511 bytes", limit_bytes=3511)
    extract([archive], tmp_path / "out", limit_bytes=3512, limit_files=3)


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_a_bomb_is_refused_before_it_is_written(make, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "_unpack", lambda *arguments: pytest.fail("written"))
    refused(make(kind, {"bomb": bytes(10**7)}), tmp_path, "exceeds", limit_bytes=10**6)


@pytest.mark.parametrize(("told", "held"), [(10, 10**6), (2000, 1000)])
def test_a_zip_that_lies_about_a_size_is_refused(make, tmp_path, told, held):
    archive = make(".zip", {"bomb": bytes(held)})
    data = bytearray(archive.read_bytes())
    for signature, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + size
        data[at : at + 4] = told.to_bytes(4, "little")
    archive.write_bytes(data)
    refused(archive, tmp_path, r"bomb.*", limit_bytes=10**5)


@pytest.mark.parametrize("length", [3, 5])
def test_an_entry_is_held_to_the_length_it_says(tmp_path, length):
    """Whatever the library beneath lets through."""
    member = archives.Member("a", 4, False, "", lambda: io.BytesIO(bytes(length)), 0)
    with pytest.raises(tarfile.ReadError, match="not as long"):
        archives._unpack(member, tmp_path)


def test_a_tar_header_does_not_fill_the_memory(tmp_path):
    archive = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**32
    with gzip.open(archive, "wb") as file:
        file.write(info.tobuf() + bytes(1024))
    refused(archive, tmp_path, "damaged or truncated .*header of")


@pytest.mark.parametrize("kind", KINDS)
def test_no_truncated_archive_is_taken_for_a_whole_one(make, tmp_path, kind):
    archive = make(kind, FILES)
    whole = archive.read_bytes()
    # a tar is padded after its end mark: less than all of the padding may be missing
    needed = len(whole) if kind != ".tar" else 512 + 3072 + 512 + 512 + 512 + 512
    step = 512 if kind == ".tar" else 7  # between two entries of a tar, too
    for length in {*range(0, needed, step), *range(0, needed, 97), needed - 1}:
        archive.write_bytes(whole[:length])
        refused(archive, tmp_path, "damaged or truncated")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_one_line_or_nothing_wrong_at_all(make, tmp_path, kind):
    archive = make(kind, FILES)
    whole = archive.read_bytes()
    chance = random.Random(0)
    refusals = 0
    for trial in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        archive.write_bytes(data)
        try:
            extract([archive], tmp_path / f"out{trial}")
        except UserError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert not (tmp_path / f"out{trial}").exists()
    assert refusals > 30
    assert not list(tmp_path.glob(".*"))


def test_other_types_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"a\.rar is not an archive of a known type: \.zip, "):
        extract([tmp_path / "a.rar"], tmp_path / "out")
    with pytest.raises(UserError, match=r"Cannot read .*gone\.zip: No such file"):
        extract([tmp_path / "gone.zip"], tmp_path / "out")
    (tmp_path / "text.zip").write_text("no archive")
    refused(tmp_path / "text.zip", tmp_path, "damaged or truncated")


def test_a_folder_that_is_there_is_left_alone(make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="out exists already: remove it"):
        extract([make(".zip", FILES)], tmp_path / "out")
    assert found(tmp_path / "out") == {"mine": b""}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_extraction_leaves_nothing(make, tmp_path, monkeypatch, error):
    archive = make(".tar", FILES)
    unpack = archives._unpack

    def stop(member, folder):
        if member.name.endswith("b.jpg"):
            assert not (tmp_path / "out").exists()  # while it is going on
            raise error
        unpack(member, folder)

    monkeypatch.setattr(archives, "_unpack", stop)
    with pytest.raises((KeyboardInterrupt, UserError), match=r"No space left|^$"):
        extract([archive], tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_killed_extraction_leaves_no_folder_of_that_name(make, tmp_path, monkeypatch):
    """Where not even the tidying up runs, and the next try is not hindered."""
    archive = make(".tar", FILES)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *arguments, **options: None)
        patch.setattr(files.os, "getpid", lambda: 1)
        patch.setattr(files.os, "replace", lambda *arguments: os.close(-1))
        with pytest.raises(UserError, match="Cannot unpack"):
            extract([archive], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert found(extract([archive], tmp_path / "out")) == FILES


def test_equal_files_give_equal_archives(tmp_path):
    for folder, time in (("x", 10**9), ("y", 1.5 * 10**9)):
        (tmp_path / folder).mkdir()
        for name in ("b.png", "a.png"):
            path = tmp_path / folder / name
            path.write_bytes(name.encode() * 1000)
            os.utime(path, (time, time))
            path.chmod(0o600 if folder == "x" else 0o644)
    names = ("a.png", "b.png")
    write_zip(tmp_path / "1.zip", {f"m/{n}": tmp_path / "x" / n for n in names})
    write_zip(tmp_path / "2.zip", {f"m/{n}": tmp_path / "y" / n for n in reversed(names)})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as file:
        assert file.namelist() == ["m/a.png", "m/b.png"]
    assert found(extract([tmp_path / "1.zip"], tmp_path / "out") / "m") == found(tmp_path / "x")


def test_an_archive_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(UserError, match=r"Cannot write .*out\.zip"):
        write_zip(tmp_path / "out.zip", {"a": tmp_path / "a", "b": tmp_path / "gone"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
