"""Videos in and out: every frame, its time, its size; what is no video; the sound."""

import json
import os
import resource
import shutil
import stat
import struct
import subprocess

import cv2
import numpy as np
import pytest
from conftest import write_film
from hypothesis import given
from hypothesis import strategies as st

from salience.pictures import video_files
from salience.pictures.video_files import Movie, add_sound, is_video, open_clip, steady
from salience.system.errors import StorageError, UserError


@pytest.fixture
def ffmpeg():
    """Return the path of ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None and "REQUIRE_FFMPEG" not in os.environ:
        pytest.skip("there is no ffmpeg: apt-get install ffmpeg")
    assert program, "REQUIRE_FFMPEG is set, but there is no ffmpeg: apt-get install ffmpeg"
    return program


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """Return a function that puts a script in ffmpeg's place, and the file of its arguments."""

    def make(script):
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        seen = tmp_path / "arguments"
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{seen}"\necho END >> "{seen}"\n{script}\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return seen

    return make


def run(ffmpeg, *words):
    subprocess.run([ffmpeg, "-nostdin", "-loglevel", "error", *map(str, words)], check=True)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_clip_tells_its_shape_rate_and_count_and_gives_every_frame(tmp_path, name):
    path = write_film(tmp_path / name, count=7, shape=(48, 64), rate=12.5)
    clip = open_clip(path)
    assert (clip.shape, clip.rate, clip.count) == ((48, 64), 12.5, 7)
    times, pictures = zip(*clip.frames(), strict=True)
    assert times == pytest.approx([i / 12.5 for i in range(7)])
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    assert {picture.dtype for picture in pictures} == {np.dtype("uint8")}


@given(st.lists(st.floats(0.001, 5), max_size=30), st.floats(1, 60))
def test_a_varying_rate_keeps_time_to_half_a_frame(gaps, rate):
    times = np.cumsum([0.0, *gaps])
    shown = [count for _, count in steady(((t, None) for t in times), rate)]
    assert len(shown) == len(times)
    assert min(shown) >= 0
    begins = np.cumsum([0, *shown[:-1]]) / rate
    assert np.abs(begins - times).max() <= 0.5 / rate + 1e-6


@pytest.mark.parametrize(
    "times",
    [
        [0.0] * 5,  # a stream without times
        [0.0, 0.04, 0.08, 1e9, 1e9 + 0.04],
        [5.0, 5.04, 0.0, 0.04, 0.08],
        [0.001, 0.04, 0.081, 0.12, 0.159],  # milliseconds, as in .mkv
    ],
)
def test_times_that_cannot_be_true_repeat_nothing(times):
    for length in (0.0, 0.2):
        found = list(steady(zip(times, "abcde", strict=True), 25.0, length))
        assert found == [(c, 1) for c in "abcde"]


def test_a_long_still_is_kept_where_the_length_of_the_video_allows_it():
    timed = [(0.0, "a"), (15.0, "b"), (15.1, "c")]
    assert list(steady(timed, 10.0, 15.2)) == [("a", 150), ("b", 1), ("c", 1)]


@pytest.mark.parametrize("shape", [(48, 64), (47, 63), (1, 1), (33, 18)])
@pytest.mark.parametrize("rate", [0.143, 24000 / 1001, 30000 / 1001, 90.1234, 999.987])
def test_what_is_written_can_be_read_again_whatever_its_size_and_rate(tmp_path, shape, rate):
    movie = Movie(tmp_path / "made.mp4", shape, rate)
    movie.write(np.full((*shape, 3), 200, np.uint8), 3)
    movie.finish()
    clip = open_clip(tmp_path / "made.mp4")
    even = tuple(side + side % 2 for side in shape)
    assert (clip.shape, clip.count) == (even, 3)
    assert clip.rate == pytest.approx(rate, rel=4e-4 if rate > 1 else 4e-3)
    for _, picture in clip.frames():  # the odd side ends with its last row and column twice
        assert picture.min() > 190


def test_a_film_that_lost_frames_is_not_taken_for_whole(tmp_path):
    movie = Movie(tmp_path / "made.mp4", (48, 64), 10)
    movie.write(np.zeros((48, 64, 3), np.uint8))
    movie.count += 1
    with pytest.raises(UserError, match=r"Cannot write made\.mp4: OpenCV's encoder \(mp4v\)"):
        movie.finish()


def test_a_full_disk_is_named_where_opencv_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        video_files, "refusal_in", lambda *a: OSError(28, "No space left on device")
    )
    movie = Movie(tmp_path / "made.mp4", (48, 64), 10)
    movie.write(np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "made.mp4").unlink()
    with pytest.raises(StorageError, match=r"No space left on device\. Free space"):
        movie.finish()


def test_a_folder_that_has_gone_is_told(tmp_path):
    with pytest.raises(StorageError, match=r"Cannot write made\.mp4: No such file or directory"):
        Movie(tmp_path / "nowhere" / "made.mp4", (48, 64), 10)


def test_pictures_texts_and_playlists_are_no_videos(tmp_path, picture):
    clip = write_film(tmp_path / "clip.mp4")
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    lines = {
        "a.mp4": False,  # a picture, whatever it is called
        "odd": True,
        "clip.jpg": False,  # a picture's suffix: it is told there that it is none
        "notes.nfo": False,  # libav would draw this text
        "list.m3u8": False,
        "list.mp4": True,  # told by its suffix, and then refused
    }
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    for name in ("odd", "clip.jpg"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "notes.nfo").write_text("hello\nworld\n" * 50)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    for name in ("list.m3u8", "list.mp4"):
        (tmp_path / name).write_text(playlist)
    assert {name: is_video(tmp_path / name) for name in lines} == lines
    with pytest.raises(UserError, match="not a video that can be read"):
        open_clip(tmp_path / "list.mp4")


def test_what_is_no_video_is_told_in_one_line(tmp_path):
    clip = write_film(tmp_path / "clip.mp4")
    whole = clip.read_bytes()
    for name, data, why in (
        ("empty.mp4", b"", r"is empty \(0 bytes\)"),
        ("text.mp4", b"hello", "is not a video that can be read: truncated or of another type"),
        (
            "cut.mp4",
            whole[: len(whole) // 2],
            "is not a video that can be read",
        ),  # its index is last
        ("noise.avi", bytes(range(256)) * 20, "is not a video that can be read"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=why):
            open_clip(tmp_path / name)
    with pytest.raises(UserError, match=r"Cannot read .*gone\.mp4: No such file"):
        open_clip(tmp_path / "gone.mp4")
    with pytest.raises(UserError, match=r"name is not UTF-8\. Rename it"):
        open_clip(tmp_path / os.fsdecode(b"\xff.mp4"))


def test_huge_frames_are_refused_before_they_are_drawn(tmp_path):
    path = write_film(tmp_path / "wide.avi", count=2, shape=(16, 9000))
    with pytest.raises(UserError, match="frames of 9000 x 16 pixels; at most 8,190 a side"):
        open_clip(path)


def test_a_frame_that_claims_to_be_huge_is_never_made(tmp_path):
    data = bytearray(write_film(tmp_path / "claims.avi", count=2).read_bytes())
    place = -1
    while (place := data.find(b"\xff\xc0", place + 1)) > 0:  # a JPEG's rows and columns
        data[place + 5 : place + 9] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "claims.avi").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"no frame that can be read|not a video|at most"):
        open_clip(tmp_path / "claims.avi")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), 90000.0])
def test_a_rate_that_cannot_be_true_is_refused(tmp_path, monkeypatch, rate):
    path = write_film(tmp_path / "clip.mp4")

    class Strange:
        def __init__(self, *arguments):
            self.real = real(*arguments)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def get(self, what):
            return rate if what == cv2.CAP_PROP_FPS else self.real.get(what)

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Strange)
    with pytest.raises(UserError, match=r"frames a second; 0\.1 to 1000 are read"):
        open_clip(path)


def test_without_ffmpeg_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in add_sound(tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_ffmpeg_gets_names_that_are_neither_flags_nor_protocols(tmp_path, monkeypatch, fake_ffmpeg):
    monkeypatch.chdir(tmp_path)
    seen = fake_ffmpeg('for last; do :; done; touch "${last#file:}"')
    assert add_sound(tmp_path / "made.mp4", tmp_path / "-i $(x).mp4", tmp_path / "loud.mp4") == ""
    words = seen.read_text().split("\n")
    assert words.count("END") == 1
    inputs = [words[i + 1] for i, word in enumerate(words) if word == "-i"]
    assert inputs == [f"file:{tmp_path}/made.mp4", f"file:{tmp_path}/-i $(x).mp4"]
    assert words[words.index("END") - 1] == f"file:{tmp_path}/loud.mp4"
    assert [words[words.index(flag) + 1] for flag in ("-c:v", "-c:a")] == ["copy", "copy"]
    assert words.count("-protocol_whitelist") == words.count("-format_whitelist") == 2


def test_sound_that_cannot_be_copied_is_encoded_and_then_done_without(tmp_path, fake_ffmpeg):
    seen = fake_ffmpeg('echo "first" >&2; echo "codec not in container" >&2; exit 1')
    why = add_sound(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert why == "ffmpeg cannot copy it: codec not in container"
    words = seen.read_text().split("\n")
    assert [words[i + 1] for i, word in enumerate(words) if word == "-c:a"] == ["copy", "aac"]


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", None])
def test_real_sound_is_kept(tmp_path, ffmpeg, codec):
    silent = write_film(tmp_path / "silent.mp4", count=20)
    source = tmp_path / "-source.avi"
    sound = ("-f", "lavfi", "-i", "sine=duration=2", "-c:a", codec) if codec else ()
    run(ffmpeg, "-i", silent, *sound, "-c:v", "copy", f"file:{source}")
    assert add_sound(silent, source, tmp_path / "loud.mp4") == ""
    probe = [str(shutil.which("ffprobe")), "-loglevel", "error", "-show_streams", "-of", "json"]
    told = subprocess.run(
        [*probe, tmp_path / "loud.mp4"], check=True, capture_output=True, text=True
    )
    kinds = [stream["codec_type"] for stream in json.loads(told.stdout)["streams"]]
    assert kinds == (["video", "audio"] if codec else ["video"])
    assert open_clip(tmp_path / "loud.mp4") == video_files.Clip(
        tmp_path / "loud.mp4", (48, 64), 10.0, 20
    )


def test_a_turned_video_is_read_as_players_show_it(tmp_path, ffmpeg):
    upright = write_film(tmp_path / "upright.mp4", shape=(48, 64))
    # ffmpeg has the flag from version 6 on, and the metadata up to it
    told = subprocess.run([ffmpeg, "-h", "full"], capture_output=True, text=True).stdout
    before, after = ((), ("-metadata:s:v", "rotate=270"))
    if "-display_rotation" in told:
        before, after = ("-display_rotation", 90), ()
    turned = tmp_path / "turned.mp4"
    run(ffmpeg, *before, "-i", upright, "-c", "copy", *after, turned)
    clip = open_clip(turned)
    assert clip.shape == (64, 48)
    run(ffmpeg, "-i", turned, "-frames:v", 1, tmp_path / "shown.png")
    shown = cv2.imread(str(tmp_path / "shown.png"))
    assert np.ptp(shown) > 150
    # the two make colours of the stored frame in slightly different ways
    assert np.abs(next(clip.frames())[1].astype(int) - shown).mean() < 3


def test_a_real_varying_rate_keeps_time(tmp_path, ffmpeg):
    steady_film = write_film(tmp_path / "steady.mp4", count=30, rate=10)
    cut = "select=not(between(n\\,5\\,19))"  # a second and a half is left out, and stands still
    run(ffmpeg, "-i", steady_film, "-vf", cut, "-fps_mode", "vfr", tmp_path / "varying.mp4")
    clip = open_clip(tmp_path / "varying.mp4")
    shown = [times for _, times in steady(clip.frames(), clip.rate)]
    assert len(shown) == clip.count == 15
    assert max(shown) >= 1.5 * clip.rate
    assert sum(shown) == pytest.approx(3 * clip.rate, abs=1)
