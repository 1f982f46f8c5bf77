"""What `test` keeps: outputs of the same picture, weights and settings, and no others."""

import os
import shutil
from dataclasses import replace

import cv2
import pytest
from conftest import write_film

from commands.prediction import map_record
from commands.prediction.map_record import RECORD
from commands.prediction.predict import predict
from config import PredictConfig
from model import load_model
from salience.networks import weight_files
from salience.system.errors import UserError


@pytest.fixture
def run(trained, tmp_path):
    """Return a function that predicts into tmp_path/out with Keras: (failed, lines)."""

    def go(*images, **changes):
        lines = []
        defaults = {"weights": trained, "output": tmp_path / "out", "engine": "keras"}
        settings = PredictConfig(**{**defaults, **changes})
        return predict(replace(settings, images=tuple(map(str, images))), lines.append), lines

    return go


@pytest.fixture
def others(trained, tmp_path):
    """Return weights that give other maps."""
    model = load_model(trained)
    model.set_weights([value[::-1] if value.ndim > 1 else value for value in model.get_weights()])
    path = tmp_path / "others.weights.h5"
    weight_files.save(model, path, weight_files.read_card(trained))
    return path


def test_maps_of_other_weights_or_settings_are_made_anew(run, pictures, tmp_path, others):
    run(pictures)
    made = (tmp_path / "out/a.png").read_bytes()
    assert "2 kept" in run(pictures)[1][-1]
    failed, lines = run(pictures, weights=others)
    assert failed == 0
    assert any("made with other weights or settings, or from another picture" in x for x in lines)
    assert "2 maps written" in lines[-1] and "2 of them in place of outdated ones" in lines[-1]
    assert (tmp_path / "out/a.png").read_bytes() != made
    assert "2 kept" in run(pictures, weights=others)[1][-1]
    for changes in ({"smooth": 2.0}, {"mirror": True}, {"threshold": 0.5}):
        assert "2 of them in place" in run(pictures, **changes)[1][-1]
    run(pictures)
    assert (tmp_path / "out/a.png").read_bytes() == made


def test_what_a_kind_of_output_does_not_depend_on_keeps_it(run, pictures):
    run(pictures, overlay=True)
    assert "2 kept" in run(pictures, colormap="turbo")[1][-1]  # no overlay is asked for
    assert "in place of outdated ones" in run(pictures, overlay=True, colormap="turbo")[1][-1]


def test_an_overlay_of_other_weights_is_not_kept_beside_newer_maps(run, pictures, others):
    run(pictures, overlay=True)
    run(pictures, weights=others)
    assert "2 of them in place" in run(pictures, weights=others, overlay=True)[1][-1]


def test_another_picture_of_that_name_is_predicted(run, pictures, tmp_path, picture):
    """Of the same size and time, too, as archives set times."""
    source = pictures / "b.png"
    cv2.imwrite(str(source), picture(50, 35), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    os.utime(source, (10**9, 10**9))
    run(source)
    before = source.stat()
    cv2.imwrite(str(source), picture(50, 35), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    os.utime(source, (10**9, 10**9))
    assert (source.stat().st_size, source.stat().st_mtime) == (before.st_size, before.st_mtime)
    assert "1 of them in place" in run(source)[1][-1]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(source, moved / "b.png")  # the same picture, wherever it lies
    assert "1 kept" in run(moved / "b.png")[1][-1]


def test_maps_without_a_record_are_left_and_told(run, pictures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"of another program")
    failed, lines = run(pictures)
    assert failed == 1
    assert any("has no record of its weights" in x and "--overwrite" in x for x in lines)
    assert "1 map written" in lines[-1] and "1 left unchanged" in lines[-1]
    assert (tmp_path / "out/a.png").read_bytes() == b"of another program"
    assert run(pictures, overwrite=True)[0] == 0
    assert "2 kept" in run(pictures)[1][-1]


def test_missing_or_wrong_weights_are_told_before_anything_is_kept(run, pictures, tmp_path):
    run(pictures)
    (tmp_path / "text.weights.h5").write_text("no HDF5")
    for weights, told in (("none", "No weights file"), ("text", "not an HDF5 file")):
        with pytest.raises(UserError, match=told):
            run(pictures, weights=tmp_path / f"{weights}.weights.h5")
    with pytest.raises(UserError, match="No adaptation at"):
        run(pictures, adaptation="mine")
    clip = write_film(tmp_path / "clip.avi", count=2)
    with pytest.raises(UserError, match="No weights file"):
        run(clip, weights=tmp_path / "none.weights.h5")


def test_a_video_of_other_weights_is_made_anew_and_one_without_a_record_left(run, tmp_path, others):
    clip = write_film(tmp_path / "clip.avi", count=2)
    run(clip)
    assert "kept" in run(clip)[1][-1]
    assert any("are made again" in line for line in run(clip, weights=others)[1])
    (tmp_path / "out" / RECORD).unlink()
    failed, lines = run(clip)
    assert failed == 1
    assert "left unchanged" in lines[-1]


def test_a_kill_while_a_map_is_replaced_leaves_none_that_counts(
    run, pictures, tmp_path, others, monkeypatch
):
    run(pictures / "a.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(map_record.MapRecord, "end", lambda *a: None)
        run(pictures / "a.jpg", weights=others)
    assert "1 map written" in run(pictures / "a.jpg", weights=others)[1][-1]
    # and of a first map, the record is there before the map is
    (tmp_path / "out/a.png").unlink()
    assert run(pictures / "a.jpg", weights=others)[0] == 0


def test_torn_and_strange_lines_of_the_record_cost_their_outputs_alone(run, pictures, tmp_path):
    run(pictures)
    record = tmp_path / "out" / RECORD
    lines = record.read_text().splitlines()
    strange = ["[", "7", '["a.png"]', '["a.png", "not hexadecimal"]', '{"a": 1}', "\0"]
    record.write_text("\n".join([*strange, *lines]) + '\n["a.pn')
    assert "2 kept" in run(pictures)[1][-1]
    run(pictures, overwrite=True)
    assert "2 kept" in run(pictures)[1][-1]
