"""Videos through `test`: the maps follow the frames, in bounded memory, whole or not at all."""

import os
import shutil
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import write_film
from hypothesis import given
from hypothesis import strategies as st

from commands.prediction import engines, video
from commands.prediction.engines import Engine
from commands.prediction.map_record import RECORD
from commands.prediction.predict import predict
from commands.prediction.video import KeyFrame, interpolated, smooth_over_time, split_videos
from config import PredictConfig
from salience.measures import adaptation
from salience.measures.adaptation import Adaptation
from salience.pictures.letterbox import OutputGrid
from salience.pictures.video_files import open_clip
from salience.system.arrays import read_arrays
from salience.system.errors import NotBegun, StorageError, UserError


def brightness(batch):
    """Return maps as a network would that finds what is bright, 8 pixels a cell."""
    small = [cv2.resize(x[..., 0], (8, 6), interpolation=cv2.INTER_AREA) for x in batch]
    return np.stack(small).astype(np.float32) - 60


@pytest.fixture
def run(tmp_path, trained):
    """Return a function that predicts into tmp_path/out and returns (failed, lines)."""

    def go(*names, **changes):
        lines = []
        settings = PredictConfig(
            **{"weights": trained, "output": tmp_path / "out", "engine": "keras", **changes}
        )
        return predict(replace(settings, images=tuple(map(str, names))), lines.append), lines

    return go


@pytest.fixture
def blob(monkeypatch):
    """Put the network that finds what is bright in the place of any other; return what it saw."""
    seen = []

    def maps(batch):
        seen.extend(batch)
        return brightness(batch)

    engine = Engine("keras", (48, 64), OutputGrid(stride=8), maps)
    monkeypatch.setattr(engines, "choose", lambda name: name)
    monkeypatch.setattr(engines, "load", lambda name, weights, *more: engine)
    return seen


def files(folder):
    """Return the outputs in a folder, without the record of what they were made of."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != RECORD)
    return sorted(str(p.relative_to(folder)) for p in found)


def pictures_of(path):
    return [picture for _, picture in open_clip(path).frames()]


def column_of_peak(saliency_map):
    """Return the mean column of what is more than half as salient as the maximum."""
    return np.argwhere(saliency_map > saliency_map.max() / 2)[:, 1].mean()


# ---- in time ----


def keys(*frames_and_values, scene=0):
    return [KeyFrame(i, scene, np.full((1, 1), v, np.float32)) for i, v in frames_and_values]


def first(maps, count):
    return [
        (float(cells[0, 0]), known) for (cells, known), _ in zip(maps, range(count), strict=False)
    ]


def test_maps_between_two_keys_go_over_in_equal_steps_and_the_last_stays():
    assert first(interpolated(keys((0, 0.0), (4, 1.0), (6, 0.0))), 9) == [
        (0.0, True), (0.25, False), (0.5, False), (0.75, False),
        (1.0, True), (0.5, False), (0.0, True), (0.0, False), (0.0, False),
    ]  # fmt: skip
    assert first(interpolated([]), 3) == []


def test_before_a_cut_a_map_stays():
    scenes = [*keys((0, 0.0), (2, 1.0)), *keys((5, 7.0), (6, 9.0), scene=1)]
    values = [value for value, _ in first(interpolated(scenes), 8)]
    assert values == [0.0, 0.5, 1.0, 1.0, 1.0, 7.0, 9.0, 9.0]


def test_smoothing_weighs_by_a_gaussian_of_the_time_between():
    given_keys = keys((0, 0.0), (2, 1.0), (3, 0.0), (9, 5.0))
    values = [float(key.cells[0, 0]) for key in smooth_over_time(given_keys, 2.0)]
    near = {d: np.exp(-0.5 * (d / 2) ** 2) for d in range(7)}  # 3 sigma reach 6 frames
    assert values == pytest.approx(
        [
            near[2] / (near[0] + near[2] + near[3]),
            near[0] / (near[2] + near[0] + near[1]),
            (near[1] + 5 * near[6]) / (near[3] + near[1] + near[0] + near[6]),
            5 * near[0] / (near[6] + near[0]),
        ],
        rel=1e-6,
    )


def test_smoothing_stops_at_a_cut_and_0_changes_nothing():
    scenes = [*keys((0, 1.0), (1, 1.0)), *keys((2, 5.0), (3, 5.0), scene=1)]
    assert [float(key.cells[0, 0]) for key in smooth_over_time(scenes, 3.0)] == [1, 1, 5, 5]
    assert list(smooth_over_time(iter(scenes), 0.0)) == scenes


@given(st.lists(st.integers(1, 9), max_size=40), st.floats(0.1, 20))
def test_smoothing_keeps_order_frames_and_a_still_map_and_holds_few(gaps, sigma):
    numbers = np.cumsum([0, *gaps]).tolist()
    read = []

    def source():
        for number in numbers:
            read.append(number)
            yield KeyFrame(number, 0, np.full((1, 1), 0.7, np.float32))

    for key, number in zip(smooth_over_time(source(), sigma), numbers, strict=True):
        assert key.frame == number
        assert key.cells[0, 0] == pytest.approx(0.7, rel=1e-5)
        # nothing is waited for beyond the first key out of reach
        assert all(n - number <= 3 * sigma for n in read[:-1] if n > number)


# ---- what is written ----


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_video_gives_an_overlay_of_its_count_size_and_rate_and_a_map_a_frame(run, tmp_path, name):
    path = write_film(tmp_path / name, count=7, shape=(60, 80), rate=12.5)
    failed, lines = run(path, batch_size=2)
    assert failed == 0
    pngs = [f"clip.maps/{i:06d}.png" for i in range(7)]
    assert files(tmp_path / "out") == [*pngs, "clip.overlay.mp4"]
    overlay = open_clip(tmp_path / "out" / "clip.overlay.mp4")
    assert (overlay.shape, overlay.rate, overlay.count) == ((60, 80), 12.5, 7)
    for picture, drawn in zip(pictures_of(path), pictures_of(overlay.path), strict=True):
        assert picture.shape == drawn.shape
        assert np.abs(picture.astype(int) - drawn).mean() > 2  # something is drawn over it
    assert any("7 frames written" in line for line in lines)


def test_contours_of_a_video_are_a_video_and_what_is_not_made_is_said(run, tmp_path):
    path = write_film(tmp_path / "clip.mp4", count=3, shape=(60, 80))
    failed, lines = run(path, contours=True, peaks=3, video_maps="none")
    assert failed == 0
    assert files(tmp_path / "out") == ["clip.contours.mp4", "clip.overlay.mp4"]
    assert sum(line.startswith("note: --peaks: of pictures only") for line in lines) == 1
    outlined = list(pictures_of(tmp_path / "out" / "clip.contours.mp4"))
    for picture, drawn in zip(pictures_of(path), outlined, strict=True):
        changed = np.abs(picture.astype(int) - drawn).max(axis=-1) > 60
        assert 0 < changed.mean() < 0.5  # lines, not a veil


def test_a_frames_map_is_that_of_the_same_picture(run, trained, tmp_path):
    path = write_film(tmp_path / "clip.mp4", count=4, shape=(50, 90))
    adapted = tmp_path / "left.adapt.json"
    adaptation.save(adapted, Adaptation(contrast=1.5, centre_x=0.2, centre_share=0.3), trained, {})
    changes = {"smooth": 2.0, "threshold": 0.3, "mirror": True, "adaptation": adapted}
    run(path, **changes)
    for i, picture in enumerate(pictures_of(path)):
        cv2.imwrite(str(tmp_path / "frame.png"), picture)
        run(tmp_path / "frame.png", **changes, overwrite=True)
        wanted = cv2.imread(str(tmp_path / "out" / "frame.png"), cv2.IMREAD_UNCHANGED).astype(int)
        found = cv2.imread(
            str(tmp_path / "out" / "clip.maps" / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED
        )
        assert found.dtype == np.uint8
        assert wanted.max() == 255
        assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("every", [1, 3])
def test_the_overlay_follows_what_moves(run, tmp_path, blob, every):
    path = write_film(tmp_path / "clip.mp4", count=13, shape=(96, 128))
    run(path, every=every, video_maps="video", workers=3)
    assert len(blob) == len(range(0, 13, every))
    maps = pictures_of(tmp_path / "out" / "clip.maps.mp4")
    assert len(maps) == 13
    for i in range(0, 13, every):
        assert column_of_peak(maps[i][..., 0]) == pytest.approx((i + 0.5) / 13 * 128, abs=9)
    drawn, plain = pictures_of(tmp_path / "out" / "clip.overlay.mp4"), pictures_of(path)
    for i in range(0, 13, every):  # red is the top of the colour map, and the blob was white
        x = min(127, round((i + 0.5) / 13 * 128))
        blue, _, red = drawn[i][48, x].astype(int)
        assert red - blue > 50
        assert abs(int(plain[i][48, x, 2]) - int(plain[i][48, x, 0])) < 30


def test_a_frame_after_a_cut_is_predicted_whatever_every_says(run, tmp_path, blob):
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48)
    )
    for i in range(12):
        frame = np.full((48, 64, 3), (20, 40, 200) if i < 5 else (60, 200, 20), np.uint8)
        cv2.circle(frame, (10 if i < 5 else 54, 24), 6, (255, 255, 255), -1)
        writer.write(frame)
    writer.release()
    run(path, every=8, temporal_smoothing=1.0, video_maps="png")
    assert files(tmp_path / "out" / "cut.maps") == ["000000.png", "000005.png", "000008.png"]
    for name, column in (("000000", 10), ("000005", 54), ("000008", 54)):
        saliency_map = cv2.imread(str(tmp_path / "out" / "cut.maps" / f"{name}.png"), 0)
        assert column_of_peak(saliency_map) == pytest.approx(column, abs=8)


def test_a_npz_holds_what_the_pngs_hold_and_finer_with_float(run, tmp_path, blob):
    path = write_film(tmp_path / "clip.mp4", count=5)
    run(path, every=2)
    run(path, every=2, video_maps="npz", output=tmp_path / "8-bit")
    run(path, every=2, video_maps="npz", float_maps=True, output=tmp_path / "float")
    found = read_arrays(tmp_path / "8-bit" / "clip.maps.npz")
    fine = read_arrays(tmp_path / "float" / "clip.maps.npz")
    assert list(found) == list(fine) == ["000000", "000002", "000004"]
    for name, values in found.items():
        png = cv2.imread(str(tmp_path / "out" / "clip.maps" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(values, png)
        assert fine[name].dtype == np.float16
        np.testing.assert_allclose(fine[name], values / 255, atol=0.6 / 255)
    assert files(tmp_path / "float") == ["clip.maps.npz", "clip.overlay.mp4"]


def test_no_maps_no_files_of_them_and_odd_sizes_are_made_even(run, tmp_path, blob, monkeypatch):
    path = write_film(tmp_path / "clip.mp4", count=3)
    odd = [picture[:47, :63] for picture in pictures_of(path)]
    clip = video.Clip(path, (47, 63), 10.0, 3)
    monkeypatch.setattr(video.Clip, "frames", lambda self: ((i / 10, p) for i, p in enumerate(odd)))
    monkeypatch.setattr(video, "open_clip", lambda path: clip)
    run(path, video_maps="none")
    monkeypatch.undo()
    assert files(tmp_path / "out") == ["clip.overlay.mp4"]
    assert open_clip(tmp_path / "out" / "clip.overlay.mp4").shape == (48, 64)


def test_existing_outputs_are_kept_unless_overwritten(run, tmp_path, blob):
    path = write_film(tmp_path / "clip.mp4", count=6)
    run(path)
    before = (tmp_path / "out" / "clip.overlay.mp4").stat()
    _, lines = run(path)
    assert lines[1:] == [f"{path}: kept (--overwrite predicts it again)"]  # after the weights
    assert (tmp_path / "out" / "clip.overlay.mp4").stat() == before
    run(path, overwrite=True, every=3)
    assert files(tmp_path / "out" / "clip.maps") == ["000000.png", "000003.png"]
    assert files(tmp_path / "out")[2:] == ["clip.overlay.mp4"]  # nothing is left aside
    run(path, every=3, video_maps="npz")  # a kind that is asked for later is added
    assert (tmp_path / "out" / "clip.maps.npz").exists()


def test_memory_does_not_grow_with_the_number_of_frames(run, tmp_path, blob, monkeypatch):
    """However long a video, only a few frames are read and not yet written."""
    path = write_film(tmp_path / "long.mp4", count=150)
    held = peak = 0
    steady, write = video.steady, video.Movie.write

    def counting(timed, *about):
        nonlocal held, peak
        for item in steady(timed, *about):
            held += 1
            peak = max(peak, held)
            yield item

    def counting_write(self, frame, times=1):
        nonlocal held
        held -= 1
        write(self, frame, times)

    monkeypatch.setattr(video, "steady", counting)
    monkeypatch.setattr(video.Movie, "write", counting_write)
    run(path, every=10, temporal_smoothing=0.5, video_maps="none")
    assert held == 0
    assert peak <= 5
    assert len(blob) == 15


# ---- which files ----


def test_videos_are_told_from_pictures_and_folders(tmp_path, pictures, monkeypatch):
    for name in ("b.mp4", "a.avi", "odd"):
        write_film(tmp_path / f"{name}{'' if '.' in name else '.mp4'}", count=2)
    (tmp_path / "odd.mp4").rename(tmp_path / "odd")
    monkeypatch.chdir(tmp_path)
    clips, rest = split_videos(
        ["odd", "b.mp4", "pictures/a.jpg", "pictures", "*.jpg", "b.mp4"], False
    )
    assert [str(clip) for clip in clips] == ["odd", "b.mp4"]
    assert rest == ["pictures/a.jpg", "pictures", "*.jpg"]
    clips, rest = split_videos(["*.[am][vp]*"], False)
    assert [str(clip) for clip in clips] == ["a.avi", "b.mp4"]
    assert rest == []
    (tmp_path / "c.jpg").touch()
    assert split_videos(["*.*"], False)[1] == ["*.*"]  # and pictures beside them


def test_pictures_and_videos_in_one_command(run, tmp_path, pictures, monkeypatch, capsys):
    write_film(pictures / "clip.mp4", count=2)
    (pictures / "bad.mp4").write_text("hello")
    monkeypatch.chdir(pictures)
    failed, lines = run("*.*", video_maps="none")
    assert failed == 1
    assert files(tmp_path / "out") == ["a.png", "b.png", "clip.overlay.mp4"]
    assert "skipped: bad.mp4 is not a video that can be read" in capsys.readouterr().err
    assert len([line for line in lines if line.startswith("weights ")]) == 1


def test_videos_in_a_folder_are_left_alone_and_named(run, tmp_path, pictures):
    write_film(pictures / "clip.mp4", count=2)
    failed, lines = run(pictures)
    assert failed == 0
    assert files(tmp_path / "out") == ["a.png", "b.png"]
    assert (
        f"skipped: 1 video in {pictures}; to predict one, name it: {pictures / 'clip.mp4'}" in lines
    )


def test_a_video_in_a_list_of_pictures_is_named(run, tmp_path, pictures, capsys):
    clip = write_film(tmp_path / "clip.mp4", count=2)
    (tmp_path / "list.txt").write_text(f"{pictures / 'a.jpg'}\n{clip}\n")
    assert run(listed=tmp_path / "list.txt")[0] == 1
    told = capsys.readouterr().err
    assert "clip.mp4 is a video, which is not read here. If it ends in .mp4" in told


def test_names_that_are_not_unique_are_made_so(tmp_path):
    settings = PredictConfig(output=tmp_path, video_maps="none")
    clips = [tmp_path / name for name in ("a.mp4", "a.avi", "b.mp4", "x/b.mp4", "c.mp4")]
    named = [
        o["overlay"].name
        for o in video.outputs_of(clips, settings.output, settings.video_maps).values()
    ]
    assert named[:2] == ["a.mp4.overlay.mp4", "a.avi.overlay.mp4"]
    assert named[4] == "c.overlay.mp4"
    assert len(set(named)) == 5


def test_an_output_never_takes_the_place_of_a_video(run, tmp_path, blob):
    path = write_film(tmp_path / "clip.mp4", count=2)
    run(path, output=tmp_path, video_maps="none")
    again = tmp_path / "clip.overlay.mp4"
    with pytest.raises(UserError, match=r"is itself one of the videos\. Choose another folder"):
        run(path, again, output=tmp_path, overwrite=True)


def test_shards_share_videos_out(run, tmp_path, blob):
    paths = [write_film(tmp_path / f"{name}.mp4", count=1) for name in "abcdef"]
    for part in ("1/2", "2/2"):
        run(*paths, shard=part, output=tmp_path / part[0], video_maps="none")
    done = [files(tmp_path / part) if (tmp_path / part).exists() else [] for part in "12"]
    assert sorted(done[0] + done[1]) == [f"{name}.overlay.mp4" for name in "abcdef"]


def test_strange_names_are_harmless(run, tmp_path, blob, monkeypatch):
    strange = ["-x.mp4", "%03d.mp4", "concat:a|b.mp4", "new\nline\x1b[2J.mp4", "Straße 🐕 $(x).mp4"]
    source = write_film(tmp_path / "clip.mp4", count=2)
    (tmp_path / "strange").mkdir()
    monkeypatch.chdir(tmp_path / "strange")
    for name in strange:
        shutil.copy(source, tmp_path / "strange" / name)
    failed, _ = run(*strange, video_maps="png")
    assert failed == 0
    written = {name.split("/")[0] for name in files(tmp_path / "out")}
    wanted = [name.removesuffix(".mp4") for name in strange]
    assert written == {f"{n}{end}" for n in wanted for end in (".overlay.mp4", ".maps")}
    assert len(files(tmp_path / "strange")) == len(strange)


def test_a_name_too_long_for_an_output_is_told(run, tmp_path, blob):
    path = write_film(tmp_path / "clip.mp4", count=2)
    path = path.rename(tmp_path / f"{'n' * 251}.mp4")
    with pytest.raises(UserError, match="File name too long"):
        run(path, video_maps="none")
    assert files(tmp_path / "out") == []
    with pytest.raises(UserError, match="No picture or folder at"):
        run("n" * 300)


# ---- what fails ----


def test_a_bad_video_alone_is_one_line_and_exit_code_2(cli, tmp_path):
    whole = write_film(tmp_path / "whole.mp4").read_bytes()
    cases = {"text.mp4": b"hello\n", "empty.mp4": b"", "cut.mp4": whole[: len(whole) // 2]}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        done = cli("test", name, "--output", "out", code=2)
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: {name} is ")
        assert done.stderr.count("\n") == 1  # libav says nothing of its own
    assert not (tmp_path / "out").exists()


def test_what_can_be_read_of_a_cut_off_video_is_done_and_said(run, tmp_path, blob):
    path = write_film(tmp_path / "clip.avi", count=60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])  # an .avi begins with how many frames it has
    failed, lines = run(path, video_maps="none")
    assert failed == 1
    count = open_clip(tmp_path / "out" / "clip.overlay.mp4").count
    assert 20 < count < 40
    assert any(f"the file claims 60 frames, but {count} can be read" in line for line in lines)


@pytest.mark.signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(run, tmp_path, blob, monkeypatch, number):
    path = write_film(tmp_path / "clip.mp4", count=60)
    write = video.Movie.write

    def writing(self, frame, times=1):
        write(self, frame, times)
        if self.count == 10:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(video.Movie, "write", writing)
    with pytest.raises(NotBegun, match=f"{number.name}: nothing of .*clip.mp4 is kept") as told:
        run(path)
    assert told.value.exit_code == 130
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("maps", ["png", "npz", "video", "none"])
def test_a_failure_on_the_way_keeps_what_was_there(run, tmp_path, blob, monkeypatch, maps):
    path = write_film(tmp_path / "clip.mp4", count=8)
    run(path, video_maps=maps)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    draw = video.render_frames

    def failing(*arguments):
        for i, drawn in enumerate(draw(*arguments)):
            if i == 4:
                raise OSError(28, "No space left on device")
            yield drawn

    monkeypatch.setattr(video, "render_frames", failing)
    with pytest.raises(StorageError, match=r"Cannot write into .*: No space left on device"):
        run(path, video_maps=maps, overwrite=True)
    after = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    assert after == before


def test_a_video_whose_frames_are_shown_longer_is_not_cut_off(run, tmp_path, blob, monkeypatch):
    """Of a container that knows the length alone, libav counts frames at the nominal rate."""
    path = write_film(tmp_path / "clip.mp4", count=8)  # 10 frames a second
    clip = replace(open_clip(path), count=72)
    pictures = pictures_of(path)  # one a second
    monkeypatch.setattr(video, "open_clip", lambda path: clip)
    monkeypatch.setattr(
        type(clip), "frames", lambda self: iter(zip(range(8), pictures, strict=True))
    )
    failed, lines = run(path)
    assert not failed and not any("cut off" in line for line in lines)
    assert any("8 frames written" in line for line in lines)


def test_files_that_systems_leave_do_not_stop_new_maps_and_others_do_before_a_frame_is_predicted(
    run, tmp_path, blob
):
    path = write_film(tmp_path / "clip.mp4", count=4)
    run(path)
    maps = tmp_path / "out/clip.maps"
    (maps / ".DS_Store").touch()
    assert not run(path, overwrite=True)[0]
    (maps / "notes.txt").touch()
    blob.clear()
    with pytest.raises(UserError, match=r"clip\.maps holds notes\.txt"):
        run(path, overwrite=True)
    assert not blob


def test_a_missing_output_is_not_called_outdated(run, tmp_path, blob):
    path = write_film(tmp_path / "clip.mp4", count=4)
    run(path)
    (tmp_path / "out/clip.overlay.mp4").unlink()
    assert not any("other weights or settings" in line for line in run(path)[1])


def test_sound_that_is_lost_is_said(run, tmp_path, blob, monkeypatch):
    path = write_film(tmp_path / "clip.mp4", count=2)
    monkeypatch.setattr(video, "add_sound", lambda *a: "ffmpeg is not installed")
    _, lines = run(path)
    assert f"{path}: the overlay has no sound: ffmpeg is not installed" in lines


def test_news_come_by_the_minute_where_no_bar_is_shown(run, tmp_path, blob, monkeypatch):
    monkeypatch.setattr(video, "REPORT_SECONDS", 0.0)
    path = write_film(tmp_path / "clip.mp4", count=3)
    _, lines = run(path)
    news = [line for line in lines if "frames/s, " in line]
    assert [line.split(": ")[1].split(" frames")[0] for line in news] == ["1 of 3", "2 of 3"]
    assert all(line.endswith("00:00 left") for line in news)
