import io
import os
import sys
import threading
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.prediction import inputs as inputs_module
from commands.prediction import predict as predict_module
from commands.prediction.inputs import ENDINGS, Collection
from commands.prediction.predict import predict
from config import PredictConfig
from salience.pictures.picture_files import read_image, read_map, whole_picture
from salience.system.errors import UserError


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Return a function that lists pictures, in an empty folder, as {source: name of the map}."""
    monkeypatch.chdir(tmp_path)

    def of(*images, **changes):
        with Collection(
            list(map(str, images)), PredictConfig(**changes), lambda line: None
        ) as made:
            listed = list(made)
            assert len(made) == len(listed)
        return {
            str(job.source): str(
                job.outputs["map"].relative_to(changes.get("output", "predictions"))
            )
            for job in listed
        }

    return of


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def write_list(*lines):
    Path("list.txt").write_bytes(b"\n".join(map(os.fsencode, lines)))
    return Path("list.txt")


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_parts_cover_every_picture_once_and_write_no_file_twice(jobs, parts):
    names = [f"in/{folder}/{i}.jpg" for folder in "ab" for i in range(20)]
    touch(*names, "in/a/3.png", "in/b/7_overlay.jpg", "in/b/8.jpg.jpg", "in/b/8.png")
    whole = jobs("in", recursive=True)
    by_part = [jobs("in", recursive=True, shard=f"{i}/{parts}") for i in range(1, parts + 1)]
    assert len(whole) == 44
    assert sum(map(len, by_part)) == len(whole)
    # each worker has decided alone, and come to the names that one alone comes to
    assert dict(chain.from_iterable(part.items() for part in by_part)) == whole
    assert len(set(whole.values())) == len(whole)
    assert sum(bool(part) for part in by_part) == parts  # 44 pictures reach 8 parts


def test_pictures_that_come_and_go_do_not_move_the_others_to_other_parts(jobs):
    touch(*(f"in/{i}.jpg" for i in range(30)))
    before = jobs("in", shard="1/3")
    touch(*(f"in/more{i}.jpg" for i in range(30)))
    Path("in/0.jpg").unlink()
    after = jobs("in", shard="1/3")
    assert {k: v for k, v in after.items() if "more" not in k} == {
        k: v for k, v in before.items() if k != "in/0.jpg"
    }


def test_a_listed_picture_is_in_the_part_in_which_a_found_one_is(jobs):
    touch(*(f"in/{i}.jpg" for i in range(20)))
    listed = write_list(*(f"in/{i}.jpg" for i in reversed(range(20))))
    assert jobs("in", shard="2/3").keys() == jobs(listed=listed, shard="2/3").keys()


@pytest.mark.parametrize(
    "shard", ["0/4", "5/4", "1/0", "1", "a/b", "-1/4", "1/4/2", "", "1.0/2", "²/3", "1/" + "9" * 20]
)
def test_a_part_that_is_none_is_refused(shard):
    with pytest.raises(UserError, match=r"--shard .*parts counted from 1.* 1/4 to 4/4"):
        PredictConfig(shard=shard)


NAMES = st.lists(
    st.builds(
        lambda stem, mark, suffix: f"{stem}{mark}{suffix}",
        st.sampled_from(["a", "a.jpg", "a.jpg-1", "b"]),
        st.sampled_from(["", "_overlay", "_overlay_overlay", ".crop", ".mask_overlay", ".peaks"]),
        st.sampled_from([".jpg", ".png", ".jpg.jpg"]),
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(first=NAMES, second=NAMES, order=st.randoms(), overlay=st.booleans())
def test_no_two_pictures_write_one_file_whatever_their_names(
    first, second, order, overlay, tmp_path_factory
):
    """Nor does the order of a list matter."""
    lines = [*(f"x/{name}" for name in first), *(f"y/../x/{name}" for name in second)]
    shuffled = order.sample(lines, len(lines))
    named = []
    for listed in (lines, shuffled):
        file = tmp_path_factory.mktemp("list") / "list.txt"
        file.write_text("\n".join(listed))
        with Collection([], PredictConfig(listed=file, overlay=overlay)) as jobs:
            named.append({job.source: job.outputs["map"] for job in jobs})
            every = [
                path
                for source in jobs
                for path in jobs._outputs(str(source.outputs["map"].with_suffix(""))).values()
            ]
    assert named[0] == named[1]
    assert len(every) == len(set(every)) == len(ENDINGS) * len(lines)


def test_the_map_of_a_listed_picture_lies_under_its_path(jobs, tmp_path):
    listed = write_list("a/b.jpg", "./c.jpg", f"{tmp_path}/d.jpg", "../e.jpg", "a//b.jpg")
    assert jobs(listed=listed) == {
        "a/b.jpg": "a/b.png",
        "c.jpg": "c.png",
        f"{tmp_path}/d.jpg": f"{str(tmp_path)[1:]}/d.png",
        "../e.jpg": f"{str(tmp_path.parent)[1:]}/e.png",
    }


def test_a_list_may_come_with_blank_lines_windows_ends_and_odd_names(jobs):
    odd = os.fsdecode(b"caf\xe9 \t.jpg")  # no UTF-8
    Path("list.txt").write_bytes(b"a.jpg\r\n\r\n   \n\n" + os.fsencode(odd) + b"\n b.jpg")
    assert list(jobs(listed=Path("list.txt"))) == ["a.jpg", odd, " b.jpg"]


def test_the_mark_of_its_encoding_is_no_part_of_a_lists_first_path(jobs):
    Path("list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\xef\xbb\xbfb.jpg\r\n")
    assert list(jobs(listed=Path("list.txt"))) == ["a.jpg", "\ufeffb.jpg"]


def test_a_list_is_read_from_standard_input(jobs, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\nb.jpg\n")))
    assert list(jobs(listed=Path("-"))) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"Cannot read --list list\.txt: No such file"),
        (b"", r"--list list\.txt names no picture"),
        (b"\n  \n", r"--list list\.txt names no picture"),
        (b"a.jpg\0b.jpg\0", r"--list list\.txt holds a NUL"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(jobs, content, message):
    if content is not None:
        Path("list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        jobs(listed=Path("list.txt"))


def test_a_picture_named_twice_is_one(jobs):
    touch("in/a.jpg")
    assert jobs("in", "in/a.jpg", "in/*.jpg") == {"in/a.jpg": "in/a.png"}
    assert jobs("in/a.jpg", "in", listed=write_list("in/a.jpg")) == {"in/a.jpg": "a.png"}


def test_a_picture_behind_a_link_is_not_written_over(jobs, tmp_path):
    touch("out/a.png")
    Path("in").mkdir()
    Path("in/a.jpg").symlink_to(tmp_path / "out" / "a.png")
    Path("other").symlink_to(tmp_path / "out")
    assert jobs("in", output=Path("out")) == {"in/a.jpg": "a.jpg.png"}
    assert jobs("other/a.png", output=Path("out")) == {"other/a.png": "a.png.png"}


def test_a_folder_is_walked_by_name_and_what_is_no_picture_left(jobs, tmp_path):
    touch("in/b.jpg", "in/a/z.jpg", "in/a.jpg", "in/c/x.jpg", "in/notes.txt", "more/a.jpg")
    Path("in/d.jpg").mkdir()
    Path("in/e.jpg").symlink_to(tmp_path / "more")  # a folder's, which is not followed
    os.mkfifo("in/f.jpg")
    Path("in/g.jpg").symlink_to(tmp_path / "nowhere.jpg")
    listed = ["in/a/z.jpg", "in/a.jpg", "in/b.jpg", "in/c/x.jpg", "in/g.jpg"]
    assert list(jobs("in", recursive=True)) == listed
    os.chdir("in")
    assert jobs(".", "../more") == {
        "a.jpg": "in/a.png", "b.jpg": "in/b.png", "g.jpg": "in/g.png", "../more/a.jpg": "more/a.png"
    }  # fmt: skip


def test_names_of_pictures_in_many_folders_differ_and_stay(jobs):
    """Files of one name, without a folder of their own, get a number that their path makes."""
    touch("x/p.png", "y/p.png", "z/p.png")
    two, three = jobs("x/p.png", "y/p.png"), jobs("?/p.png")
    assert len(set(three.values())) == 3
    assert two.items() <= three.items()
    assert all(name.startswith("p.png-") for name in three.values())


def test_an_unreadable_folder_is_passed_over_and_named(tmp_path, monkeypatch):
    touch(tmp_path / "in" / "a.jpg", tmp_path / "in" / "closed" / "b.jpg")
    scan = os.scandir

    def refusing(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    said = []
    with Collection([str(tmp_path / "in")], PredictConfig(recursive=True), said.append) as jobs:
        assert [job.source.name for job in jobs] == ["a.jpg"]
    assert said == [f"skipped: cannot read the folder {tmp_path}/in/closed: Permission denied"]


def listed_and_said(*images, **changes):
    said = []
    with Collection(list(images), PredictConfig(**changes), said.append) as made:
        return [str(job.source) for job in made], said


@pytest.mark.parametrize(
    "suffix", ["jfif", "jpe", "JP2", "j2k", "pnm", "pbm", "Tiff", "mpo", "avif"]
)
def test_a_folder_is_searched_for_every_suffix_that_is_read(jobs, suffix):
    touch(f"in/a.{suffix}")
    assert jobs("in") == {f"in/a.{suffix}": "a.png"}


@pytest.mark.parametrize("what", ["in", "in/**/*"])
def test_what_systems_leave_beside_pictures_is_none(jobs, what):
    touch(
        "in/a.png", "in/._a.png", "in/.DS_Store", "in/.hidden.png", "in/__MACOSX/a.png",
        "in/.ipynb_checkpoints/a-checkpoint.png", "in/Thumbs.db", "in/b/c.jpg", "in/b/._c.jpg",
    )  # fmt: skip
    assert list(jobs(what, recursive=True)) == ["in/a.png", "in/b/c.jpg"]
    assert listed_and_said("in", recursive=True)[1] == []
    assert list(jobs("in/__MACOSX", "in/.hidden.png")) == ["in/__MACOSX/a.png", "in/.hidden.png"]


def test_what_a_folder_holds_and_is_not_read_is_named_by_kind(jobs):
    touch("in/a.png", "in/x.npy", "in/b/y.npy", "in/b/notes.TXT", "in/README", "in/b/c.pfm")
    os.mkfifo("in/f.jpg")
    listed, said = listed_and_said("in", recursive=True)
    assert listed == ["in/a.png"]
    kinds = (
        "2 .npy (in/b/y.npy), 1 .pfm (in/b/c.pfm), 1 .txt (in/b/notes.TXT), "
        "1 pipes or devices (in/f.jpg), 1 without a suffix (in/README)"
    )
    assert said == [f"skipped in in, with the first of each: {kinds}"]
    Path("in/out").mkdir()  # of an earlier run
    said = listed_and_said("in", output=Path("in/out"))[1]
    assert "1 folders, which --recursive searches (in/b)" in said[0]
    touch(*(f"many/{i}.{i}" for i in range(100)), "many/a.png")
    said = listed_and_said("many")[1]
    assert "88 others (many/" in said[0]
    assert said[0].count("(") == 13


def test_pictures_of_a_folder_without_any_are_named_by_what_is_there(jobs):
    touch("in/a.pfm")
    said = []
    with pytest.raises(UserError, match="No pictures in the folder in"):
        Collection(["in"], PredictConfig(), said.append)
    assert said == ["skipped in in, with the first of each: 1 .pfm (in/a.pfm)"]


@pytest.mark.parametrize("name", ["loop.png", f"{'x' * 300}.png", f"{'y/' * 3000}p.png", "a\0.png"])
def test_a_path_that_no_system_opens_gets_one_line(jobs, name):
    Path("loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match="No picture or folder at"):
        jobs(name)
    for read in (read_image, read_map, whole_picture):
        with pytest.raises(UserError, match="Cannot read "):
            read(Path(name))
    Path("in").mkdir()
    Path("in/loop.png").symlink_to("loop.png")
    assert list(jobs("in")) == ["in/loop.png"]  # named when it is read


def test_paths_that_do_not_fit_into_memory_go_to_the_disk(jobs, monkeypatch):
    listed = write_list(*(f"{i}.jpg" for i in range(5_000)))
    in_memory = jobs(listed=listed)
    monkeypatch.setattr(inputs_module, "SPOOL_BYTES", 1000)
    assert jobs(listed=listed) == in_memory
    assert len(in_memory) == 5_000


def test_a_full_disk_is_said(jobs, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(inputs_module.tempfile, "SpooledTemporaryFile", lambda size: Full())
    touch("a.jpg")
    with pytest.raises(UserError, match=r"No space left on device\. .*, or set TMPDIR"):
        jobs("a.jpg")


def test_the_command_wants_pictures_or_a_list(cli, tmp_path):
    done = cli("test", code=2)
    assert done.stderr == (
        "error: No pictures: name a folder, a picture or a glob, or a file with --list.\n"
    )
    done = cli("test", "a.jpg", "--shard", "0/3", code=2)
    expected = "error: --shard 0/3: expected PART/PARTS, with parts counted from 1"
    assert done.stderr.startswith(expected)


@pytest.fixture
def eight(trained, tmp_path, picture, monkeypatch):
    """Return settings for a list of eight pictures and one that is not there."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i in range(8):
        cv2.imwrite(f"in/{i}.jpg", picture())
    return {"weights": trained, "listed": write_list(*(f"in/{i}.jpg" for i in (*range(8), 9)))}


def written(folder="predictions"):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder, "in").iterdir()}


def test_a_later_run_does_what_is_missing_and_names_what_is_not_there(eight, capsys):
    said = []
    failed = [predict(PredictConfig(**eight, shard="1/2"), said.append)]
    first = written()
    assert 0 < len(first) < 8
    assert said[-1].startswith(f"{len(first)} maps written to predictions/ at ")
    assert "images/s" in said[-1]
    failed.append(predict(PredictConfig(**eight, shard="2/2"), said.append))
    assert len(written()) == 8
    assert sorted(failed) == [0, 1]
    assert capsys.readouterr().err.count("skipped: Cannot read in/9.jpg: No such file") == 1
    Path("predictions/in/3.png").unlink()
    before = written()
    assert predict(PredictConfig(**eight), said.append) == 1
    assert before.items() <= written().items()
    assert len(written()) == 8
    assert "1 map written" in said[-1]
    assert "7 kept" in said[-1]
    assert predict(PredictConfig(**eight), said.append) == 1
    assert said[-1].startswith("0 maps written to predictions/, 8 kept")


def test_only_what_is_missing_is_read(eight, monkeypatch):
    predict(PredictConfig(**eight), lambda line: None)
    read, seen = predict_module._read, []
    monkeypatch.setattr(
        predict_module, "_read", lambda job, *more: seen.append(job.source) or read(job, *more)
    )
    Path("predictions/in/3.png").unlink()
    predict(PredictConfig(**eight), lambda line: None)
    assert seen == [Path("in/3.jpg"), Path("in/9.jpg")]


def test_two_workers_at_one_part_do_no_harm(eight):
    predict(PredictConfig(**eight, output=Path("alone")), lambda line: None)
    both = [
        threading.Thread(
            target=predict, args=(PredictConfig(**eight, overwrite=True), lambda line: None)
        )
        for _ in range(2)
    ]
    for worker in both:
        worker.start()
    for worker in both:
        worker.join()
    assert written().keys() == written("alone").keys()
    for name in written():
        pair = [Path(folder, "in", name).read_bytes() for folder in ("alone", "predictions")]
        assert pair[0] == pair[1]


def test_a_log_is_told_now_and_then_how_far_it_is(eight, monkeypatch):
    monkeypatch.setattr(predict_module, "REPORT_SECONDS", 0.0)
    said = []
    predict(PredictConfig(**eight, batch_size=3), said.append)
    news = [line for line in said if " of 9 pictures, " in line]
    assert [line.split()[0] for line in news] == ["3", "6", "9"]
    assert all(line.endswith("images/s") for line in news)


def test_an_overlay_under_its_earlier_name_stays_there_unless_it_is_a_picture(jobs):
    """Scripts of that time read `NAME_overlay.png`; what is new gets `NAME.overlay.png`."""

    def overlays(**settings):
        with Collection(["in"], PredictConfig(overlay=True, **settings), lambda line: None) as all_:
            return [job.outputs["overlay"].as_posix() for job in all_]

    touch("in/a.jpg", "in/b.jpg", "in/c.jpg", "out/b.overlay.png")
    colour = np.zeros((2, 2, 3), np.uint8)
    for path in ("out/a_overlay.png", "out/b_overlay.png"):
        cv2.imwrite(path, colour)
    cv2.imwrite("out/c_overlay.png", colour[..., 0])  # grey: the map of a picture c_overlay.jpg
    assert overlays(output=Path("out")) == [
        "out/a_overlay.png", "out/b.overlay.png", "out/c.overlay.png"
    ]  # fmt: skip
    touch("in/d.jpg")
    (Path("in/out")).mkdir()
    cv2.imwrite("in/out/d_overlay.png", colour)  # a picture of this call in its output folder
    settings = PredictConfig(overlay=True, output=Path("in/out"))
    with Collection(["in", "in/out/d_overlay.png"], settings, print) as found:
        (own,) = [job for job in found if job.source == Path("in/d.jpg")]
    assert own.outputs["overlay"].name != "d_overlay.png"


def test_no_output_of_a_picture_is_named_like_one_of_another(jobs):
    marks = {ending.rpartition(".")[0] for ending in ENDINGS.values()}
    names = [f"in/a{mark}.jpg" for mark in marks]
    touch(*names)
    with Collection(["in"], PredictConfig(), lambda line: None) as found:
        paths = [
            f"{job.outputs['map'].with_suffix('')}{ending}"
            for job in found for ending in ENDINGS.values()
        ]  # fmt: skip
    assert len(paths) == len(marks) * len(ENDINGS) == len(set(paths))


@pytest.mark.parametrize("letter", ["n", "ü", "眼"])
def test_every_output_of_a_long_name_has_one_that_the_file_system_takes(tmp_path, letter):
    """Two names that are alike where they are cut stay two; what fits stays as it is."""
    stem = letter * ((251 - 1) // len(letter.encode()))
    names = [f"{stem}1", f"{stem}2", "short"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(b"")
    settings = PredictConfig(output=tmp_path / "out", overlay=True, side_by_side=True)
    with Collection([str(tmp_path)], settings, lambda line: None) as collection:
        outputs = [{kind: path.name for kind, path in job.outputs.items()} for job in collection]
    assert sorted(own["map"] for own in outputs) == [f"{name}.png" for name in sorted(names)]
    every = [name for own in outputs for name in own.values()]
    assert len(set(every)) == len(every) == 9 and "short.overlay.png" in every
    assert all(len(name.encode()) <= 255 for name in every)
    assert all(name.startswith((letter * 20, "short")) for name in every)
