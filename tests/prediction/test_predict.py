import errno
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

from commands.prediction import predict as predict_module
from commands.prediction.inputs import Collection
from commands.prediction.map_record import RECORD
from commands.prediction.predict import predict
from config import PredictConfig
from model import load_model
from model import predict as predict_one
from salience.networks import weight_files
from salience.pictures import picture_files as picture_files_module
from salience.system.errors import StorageError, UserError


@pytest.fixture
def run(trained, tmp_path):
    """Return a function that predicts into tmp_path/out and returns (failed, lines)."""

    def go(*images, **changes):
        lines = []
        settings = PredictConfig(**{"weights": trained, "output": tmp_path / "out", **changes})
        return predict(replace(settings, images=tuple(map(str, images))), lines.append), lines

    return go


def files(folder):
    """Return the outputs in a folder, without the record of what they were made of."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != RECORD)
    return sorted(str(p.relative_to(folder)) for p in found)


def test_each_picture_gets_an_8_bit_map_of_its_size(run, pictures, tmp_path, trained):
    failed, lines = run(pictures, recursive=True)
    assert failed == 0
    assert files(tmp_path / "out") == ["a.png", "b.png", "sub/c.png"]
    for name, source in (("a.png", "a.jpg"), ("b.png", "b.png"), ("sub/c.png", "sub/c.jpg")):
        written = cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED)
        assert written.shape == cv2.imread(str(pictures / source)).shape[:2]
        assert written.dtype == np.uint8
        expected = predict_one(load_model(trained), pictures / source)
        np.testing.assert_allclose(written / 255, expected, atol=0.51 / 255)
    assert f"weights {trained}: mlnet (scratch-frozen), trained on synthetic" in lines[0]


def test_a_large_jpeg_gives_the_same_map_wherever_and_whatever_is_asked(
    run, picture, tmp_path, trained
):
    """It is decoded smaller for the network; an overlay is drawn over it in full."""
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), picture(960, 1280))
    run(path, float_maps=True)
    alone = np.load(tmp_path / "out" / "large.npy")
    np.testing.assert_allclose(alone, predict_one(load_model(trained), path), atol=1e-5)
    run(path, float_maps=True, overlay=True, overwrite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "large.npy"), alone)
    drawn = cv2.imread(str(tmp_path / "out" / "large.overlay.png"))
    assert drawn.shape == cv2.imread(str(path)).shape


def test_sub_folders_are_searched_only_when_asked(run, pictures, tmp_path):
    run(pictures)
    assert files(tmp_path / "out") == ["a.png", "b.png"]


def test_a_file_and_a_glob_are_understood(run, pictures, tmp_path):
    run(pictures / "a.jpg", str(pictures / "*" / "*.jpg"))
    assert files(tmp_path / "out") == ["a.png", "c.png"]


def test_a_map_never_takes_the_place_of_a_picture(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures)
    before = (pictures / "b.png").read_bytes()
    _, lines = run("b.png", output=pictures, overwrite=True)
    assert (pictures / "b.png").read_bytes() == before
    assert (pictures / "b.png.png").exists()
    assert "1 map written" in lines[-1]
    with pytest.raises(UserError, match="is the folder of the pictures"):
        run(pictures, output=pictures)
    # an output that holds the pictures' folder is fine
    run(pictures, output=tmp_path)
    assert (tmp_path / "a.png").exists()


def test_one_map_that_cannot_be_written_costs_that_map_alone(run, pictures, tmp_path, capsys):
    (tmp_path / "out/a.overlay.png").mkdir(parents=True)  # in its way
    failed, lines = run(pictures, overlay=True)
    assert failed == 1
    assert (tmp_path / "out" / "b.png").exists()
    assert "skipped: Cannot write" in capsys.readouterr().err
    assert "1 picture skipped" in lines[-1]
    assert not [name for name in files(tmp_path / "out") if ".partial" in name]


def test_a_full_disk_ends_the_run(run, pictures, monkeypatch):
    def full(*arguments):
        raise StorageError("Cannot write: no space left.")

    monkeypatch.setattr(picture_files_module, "write_bytes", full)
    with pytest.raises(StorageError, match="no space left"):
        run(pictures)


def test_a_broken_link_is_named(run, pictures, capsys):
    (pictures / "gone.jpg").symlink_to(pictures / "nowhere.jpg")
    assert run(pictures)[0] == 1
    assert "gone.jpg" in capsys.readouterr().err


def test_existing_outputs_are_kept_unless_overwritten(run, pictures, tmp_path):
    run(pictures)
    marked = tmp_path / "out" / "a.png"
    marked.write_bytes(b"mine")
    _, lines = run(pictures)
    assert marked.read_bytes() == b"mine"
    assert "0 maps written" in lines[-1]
    assert "2 kept" in lines[-1]
    run(pictures, overwrite=True)
    assert cv2.imread(str(marked)) is not None


def test_a_kind_of_output_asked_for_later_is_added(run, pictures, tmp_path):
    run(pictures / "a.jpg")
    run(pictures / "a.jpg", overlay=True, float_maps=True)
    assert files(tmp_path / "out") == ["a.npy", "a.overlay.png", "a.png"]


def test_float_map_is_32_bit_and_at_most_one(run, pictures, tmp_path):
    run(pictures / "a.jpg", float_maps=True)
    values = np.load(tmp_path / "out" / "a.npy", allow_pickle=False)
    assert values.dtype == np.float32
    assert values.shape == (30, 40)
    assert values.max() == pytest.approx(1)


def test_threshold_and_smoothing_reach_the_map(run, pictures, tmp_path):
    run(pictures / "a.jpg", float_maps=True)
    plain = np.load(tmp_path / "out" / "a.npy")
    run(pictures / "a.jpg", float_maps=True, threshold=0.5, overwrite=True)
    cut = np.load(tmp_path / "out" / "a.npy")
    np.testing.assert_array_equal(cut, np.where(plain < 0.5, 0, plain))
    run(pictures / "a.jpg", float_maps=True, smooth=4.0, overwrite=True)
    smooth = np.load(tmp_path / "out" / "a.npy")
    assert np.abs(np.diff(smooth)).max() < np.abs(np.diff(plain)).max()


def test_with_mirror_a_mirrored_picture_has_the_mirrored_map(run, pictures, tmp_path):
    image = cv2.imread(str(pictures / "b.png"))
    cv2.imwrite(str(pictures / "turned.png"), image[:, ::-1])
    maps = {}
    for way in (False, True):
        run(pictures / "b.png", pictures / "turned.png", float_maps=True, mirror=way,
            overwrite=True)  # fmt: skip
        maps[way] = [np.load(tmp_path / "out" / f"{name}.npy") for name in ("b", "turned")]
    assert np.abs(maps[False][0] - maps[False][1][:, ::-1]).max() > 0.01
    np.testing.assert_allclose(maps[True][0], maps[True][1][:, ::-1], atol=1e-3)


def test_colormap_reaches_the_overlay(run, pictures, tmp_path):
    drawn = []
    for colormap in ("jet", "viridis"):
        run(pictures / "a.jpg", overlay=True, colormap=colormap, overwrite=True)
        drawn.append(cv2.imread(str(tmp_path / "out" / "a.overlay.png")))
    assert drawn[0].shape == (30, 40, 3)
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_threads_do_not_change_the_maps(run, pictures, tmp_path, batch_size, workers):
    run(pictures, recursive=True, float_maps=True, output=tmp_path / "plain")
    run(pictures, recursive=True, float_maps=True, batch_size=batch_size, workers=workers)
    for name in ("a.npy", "b.npy", "sub/c.npy"):
        np.testing.assert_allclose(
            np.load(tmp_path / "out" / name), np.load(tmp_path / "plain" / name), atol=1e-5
        )


def test_threads_of_opencv_are_divided_between_those_of_test(run, pictures, monkeypatch):
    """OpenCV's own threads would fight for the cores with those that read and write."""
    before, seen, read = cv2.getNumThreads(), [], predict_module._read
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(
        predict_module, "_read", lambda *about: seen.append(cv2.getNumThreads()) or read(*about)
    )
    cv2.setNumThreads(3)
    try:
        run(pictures, recursive=True, workers=1)
        run(pictures / "a.jpg", overwrite=True, workers=1)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
    assert max(seen[:3]) < seen[3] == 8  # a single picture has all of them


def test_unreadable_pictures_are_named_and_the_rest_is_done(run, pictures, tmp_path, capsys):
    whole = (pictures / "a.jpg").read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "empty.png").touch()
    (pictures / "text.jpg").write_text("hello")
    failed, lines = run(pictures, batch_size=2)
    assert failed == 3
    assert files(tmp_path / "out") == ["a.png", "b.png"]
    assert "3 pictures skipped" in lines[-1]
    err = capsys.readouterr().err
    for name in ("cut.jpg", "empty.png", "text.jpg"):
        assert f"skipped: {pictures / name}" in err


def test_pictures_of_one_name_are_both_kept(run, pictures, tmp_path, picture):
    for name in ("a.png", "a.jpg.jpg", "a_overlay.jpg"):
        cv2.imwrite(str(pictures / name), picture())
    run(pictures, overlay=True)
    written = files(tmp_path / "out")
    assert len(written) == len(set(written)) == 2 * 5
    assert {"a.jpg.png", "a.png.png", "b.png"} <= set(written)


def test_folders_of_one_file_name_are_kept_apart(run, tmp_path, picture):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "p.png"), picture())
    run(tmp_path / "x", tmp_path / "y")
    assert files(tmp_path / "out") == ["x/p.png", "y/p.png"]


def test_names_depend_on_the_pictures_alone(pictures, tmp_path):
    """Asking for one more kind of output does not rename what is there."""
    named = []
    for more in (False, True):
        asked = PredictConfig(output=tmp_path / "out", overlay=more, float_maps=more)
        with Collection([str(pictures)], asked) as jobs:
            named.append([job.outputs["map"] for job in jobs])
    assert named[0] == named[1]


def test_earlier_predictions_below_the_pictures_are_not_predicted(run, pictures):
    inside = pictures / "predictions"
    run(pictures, recursive=True, output=inside)
    first = files(inside)
    run(pictures, recursive=True, output=inside)
    assert files(inside) == first


def test_nothing_to_do_is_said(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"No pictures in the folder .*--recursive"):
        run(tmp_path / "empty")
    with pytest.raises(UserError, match="No picture or folder at"):
        run(tmp_path / "missing" / "*.jpg")


def test_newest_weights_of_the_folder_are_chosen(tmp_path, trained):
    import shutil

    card = weight_files.read_card(trained)
    folder = tmp_path / "weights"
    folder.mkdir()
    model = load_model(trained)
    for name, cc, day in (("good", 0.7, 3), ("bad", 0.8, 2), ("unscored", None, 1)):
        scores = {} if cc is None else {"val_cc": cc}
        changed = {**card, "metrics": scores, "date": f"2026-01-0{day}T00:00:00+00:00"}
        weight_files.save(model, folder / f"{name}.weights.h5", changed)
    (folder / "broken.weights.h5").write_text("no HDF5")
    shutil.copy(folder / "good.json", folder / "other.json")
    lines = []
    assert weight_files.choose(None, folder, lines.append).name == "good.weights.h5"
    assert "passed over" in lines[0]
    assert "validation CC 0.700" in lines[1]
    with pytest.raises(UserError, match="not an HDF5 file"):
        weight_files.choose(folder / "broken.weights.h5", folder, lines.append)
    with pytest.raises(UserError, match=r"No trained weights in .*main\.py train"):
        weight_files.choose(None, tmp_path / "nowhere", lines.append)


def test_weights_that_come_along_serve_who_has_none(tmp_path, trained, monkeypatch):
    """And, in their own folder, who has trained on synthetic scenes alone."""
    card, model = weight_files.read_card(trained), load_model(trained)
    shipped, own = tmp_path / "home" / "mlnet-osie.weights.h5", tmp_path / "weights"
    for folder in (shipped.parent, own):
        folder.mkdir()
    weight_files.save(
        model, shipped, {**card, "dataset": "osie+eyecrowd", "metrics": {"val_cc": 0.8}}
    )
    monkeypatch.setattr(weight_files, "SHIPPED", shipped)
    lines = []
    assert weight_files.choose(None, own, lines.append) == shipped
    assert (
        lines[0]
        == f"no weights in {own}/ that you trained on fixations: using the included weights"
    )
    assert "trained on osie+eyecrowd, validation CC 0.800" in lines[1]
    # where the two folders are one, as in a fresh clone, the file is not listed twice
    lines.clear()
    assert weight_files.choose(None, shipped.parent, lines.append).name == shipped.name
    assert len(lines) == 2

    def chosen(folder):
        return weight_files.choose(None, folder, lines.append).name

    mine = {**card, "dataset": "osie", "metrics": {"val_cc": 0.7}}
    for folder, toy_goes_before in ((own, True), (shipped.parent, False)):
        weight_files.save(model, folder / "toy.weights.h5", card)
        assert chosen(folder) == ("toy.weights.h5" if toy_goes_before else shipped.name)
        weight_files.save(model, folder / "mine.weights.h5", mine)
        assert chosen(folder) == "mine.weights.h5"


def test_memory_does_not_grow_with_the_number_of_pictures(trained, tmp_path, picture, monkeypatch):
    """However many pictures wait, only a few are decoded and not yet written."""
    (tmp_path / "many").mkdir()
    for i in range(40):
        cv2.imwrite(str(tmp_path / "many" / f"{i:02d}.png"), picture())
    held, peak = 0, 0
    read, write = predict_module._read, predict_module._write

    def counting_read(*arguments):
        nonlocal held, peak
        held += 1
        peak = max(peak, held)
        return read(*arguments)

    def counting_write(*arguments):
        nonlocal held
        write(*arguments)
        held -= 1

    monkeypatch.setattr(predict_module, "_read", counting_read)
    monkeypatch.setattr(predict_module, "_write", counting_write)
    settings = PredictConfig(weights=trained, output=tmp_path / "out", batch_size=2)
    predict(replace(settings, images=(str(tmp_path / "many"),)), lambda line: None)
    assert len(files(tmp_path / "out")) == 40
    assert held == 0
    assert peak <= 20


def test_a_picture_that_may_not_be_read_is_one_pictures_fault(run, pictures, monkeypatch, capsys):
    """Not to be confused with an output that may not be written, which ends the run."""
    read = predict_module.read_input

    def refused(sample, input_shape, notes=None):
        if sample.name == "a.jpg":
            raise UserError("Cannot read a.jpg: denied.") from OSError(errno.EACCES, "denied")
        return read(sample, input_shape, notes)

    monkeypatch.setattr(predict_module, "read_input", refused)
    failed, lines = run(pictures)
    assert failed == 1
    assert "1 map written" in lines[-1]
    assert "skipped: Cannot read a.jpg" in capsys.readouterr().err


def test_screenshots_are_named_once_with_the_limits_of_the_card(run, pictures, trained, tmp_path):
    page = np.full((240, 320, 3), 255, np.uint8)
    for y in range(20, 240, 20):
        cv2.putText(page, "a page of text and more text", (10, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5,
                    (0, 0, 0), 1)  # fmt: skip
    for name in ("page.png", "site.png"):
        cv2.imwrite(str(pictures / name), page)
    _, said = run(pictures)
    # the card states no limits
    assert not [line for line in said if predict_module.LOOK in line]
    limited = tmp_path / "limited.weights.h5"
    limited.write_bytes(trained.read_bytes())
    weight_files.amend(limited, {"limits": "Photographs.\nNot for web pages."})
    _, said = run(pictures, weights=limited, output=tmp_path / "other")
    (line,) = [line for line in said if predict_module.LOOK in line]
    assert line == (
        "note: 2 pictures like screenshots, first: page.png. The weights' card: "
        "Photographs. Not for web pages."
    )
