"""What `test` writes beside the map, through the command line."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from scipy.special import logsumexp

import main
from commands.prediction.inputs import ENDINGS
from commands.prediction.map_record import RECORD
from model import load_model, predict
from salience.measures.adaptation import Adaptation, path_of, save
from salience.measures.density import CALIBRATION, log_density
from salience.networks import weight_files
from salience.pictures.marks import (
    best_crop,
    contours,
    draw_contours,
    draw_peaks,
    matched,
    peaks,
    thresholded,
)
from salience.pictures.picture_files import in_colours, overlay, read_image, to_8_bit, write_image
from salience.system.arrays import write_array

ALL = ["--overlay", "--float", "--contours", "--side_by_side", "--peaks", "4"]
ALL += ["--crop", "1:1", "--mask", "0.1", "--density"]


@pytest.fixture
def run(trained, tmp_path, capsys):
    """Return a function that runs `test` into tmp_path/out and returns (code, what it said)."""

    def go(*words, weights=trained):
        # to export other weights than the session's takes seconds
        engine = "auto" if weights == trained else "keras"
        words = [*words, "--weights", weights, "--output", tmp_path / "out", "--engine", engine]
        code = main.main(["test", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return go


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def files(folder):
    """Return the outputs in a folder, without the record of what they were made of."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != RECORD)
    return sorted(str(p.relative_to(folder)) for p in found)


def of_picture(stem):
    return sorted(stem + ending for ending in ENDINGS.values())


def written(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_every_output_lies_beside_the_map_of_its_picture(run, pictures, out):
    code, said = run(pictures, "--recursive", *ALL)
    assert code == 0, said
    assert files(out) == sorted(of_picture("a") + of_picture("b") + of_picture("sub/c"))


def test_only_what_is_asked_for_is_written(run, pictures, out):
    run(pictures / "a.jpg", "--peaks", "2", "--crop", "1.91")
    assert files(out) == ["a.crop.png", "a.peaks.json", "a.png"]


def test_outputs_are_drawn_from_the_map_that_is_written(run, pictures, out):
    run(pictures / "a.jpg", *ALL, "--colormap", "viridis", "--smooth", "2")
    image, heat = read_image(pictures / "a.jpg"), np.load(out / "a.npy", allow_pickle=False)
    found = peaks(heat, 4)
    assert found
    np.testing.assert_array_equal(written(out / "a.png"), to_8_bit(heat))
    shown = draw_peaks(overlay(image, heat, "viridis"), found)
    np.testing.assert_array_equal(written(out / "a.overlay.png"), shown)
    np.testing.assert_array_equal(
        written(out / "a.contours.png"), draw_peaks(draw_contours(image, heat), found)
    )
    x, y, width, height = best_crop(heat, 1)
    np.testing.assert_array_equal(written(out / "a.crop.png"), image[y : y + height, x : x + width])
    assert (width, height) == (30, 30)
    row = written(out / "a.side_by_side.png")
    assert row.shape == (30, 3 * 40 + 2 * 2, 3)
    np.testing.assert_array_equal(row[:, :40], image)
    np.testing.assert_array_equal(row[:, 42:82], in_colours(heat, "viridis"))
    np.testing.assert_array_equal(row[:, 84:], shown)


@pytest.fixture
def calibrated(trained, tmp_path):
    """Return a copy of the tiny weights with a calibration, and the calibration."""
    own = Adaptation(contrast=1.4, blur=0.02, centre_share=0.1, uniform_share=0.05)
    path = tmp_path / "calibrated" / "mlnet.weights.h5"
    path.parent.mkdir()
    shutil.copy(trained, path)
    weight_files.amend(path, {CALIBRATION: {"parameters": dataclasses.asdict(own)}})
    return path, own


def test_a_density_is_the_calibrated_map_in_logarithms(run, pictures, out, calibrated):
    weights, calibration = calibrated
    code, said = run(pictures / "a.jpg", "--density", "--float", weights=weights)
    assert code == 0 and "calibration" not in said
    made = np.load(out / "a.density.npy", allow_pickle=False)
    heat = np.load(out / "a.npy", allow_pickle=False)
    assert made.dtype == np.float32 and made.shape == heat.shape == (30, 40)
    assert abs(logsumexp(made.astype(np.float64))) < 1e-5
    np.testing.assert_array_equal(made, log_density(heat, calibration))
    # what changes the map for the eye does not change a probability
    run(pictures / "a.jpg", "--density", "--threshold", "0.5", "--overwrite", weights=weights)
    np.testing.assert_array_equal(made, np.load(out / "a.density.npy", allow_pickle=False))


def test_a_new_calibration_makes_densities_again(run, pictures, calibrated):
    weights, _ = calibrated
    run(pictures / "a.jpg", "--density", weights=weights)
    assert "1 kept" in run(pictures / "a.jpg", "--density", weights=weights)[1]
    weight_files.amend(weights, {CALIBRATION: None})
    code, said = run(pictures / "a.jpg", "--density", weights=weights)
    assert code == 0 and "1 of them in place of outdated ones" in said
    assert said.count("has no calibration, so densities are its maps") == 1


def test_an_adaptation_is_the_calibration_of_its_data_set(run, pictures, out, calibrated):
    weights, _ = calibrated
    own = Adaptation(contrast=0.7, uniform_share=0.2)
    save(path_of("here", weights), own, weights, {})
    run(pictures / "a.jpg", "--float", weights=weights)
    heat = np.load(out / "a.npy", allow_pickle=False)
    flags = ["--density", "--adaptation", "here", "--overwrite"]
    assert run(pictures / "a.jpg", *flags, weights=weights)[0] == 0
    made = np.load(out / "a.density.npy", allow_pickle=False)
    np.testing.assert_array_equal(made, log_density(heat, own))


def test_a_damaged_calibration_is_one_line_and_only_for_densities(run, pictures, calibrated):
    weights, _ = calibrated
    weight_files.amend(weights, {CALIBRATION: {"parameters": {"contrast": 2}}})
    assert run(pictures / "a.jpg", weights=weights)[0] == 0
    code, said = run(pictures / "a.jpg", "--density", "--overwrite", weights=weights)
    assert code == 2
    assert "the calibration of its card has not the parameters" in said.splitlines()[-1]


def test_predict_returns_the_density_that_test_writes(run, pictures, out, calibrated, capsys):
    weights, calibration = calibrated
    model = load_model(weights)
    made = predict(model, pictures / "a.jpg", density=True)
    heat = predict(model, pictures / "a.jpg")
    np.testing.assert_array_equal(made, log_density(heat, calibration))
    run(pictures / "a.jpg", "--density", "--engine", "keras", weights=weights)
    np.testing.assert_allclose(
        made, np.load(out / "a.density.npy", allow_pickle=False), atol=1e-5, rtol=0
    )
    weight_files.amend(weights, {CALIBRATION: None})
    capsys.readouterr()
    plain = predict(load_model(weights), pictures / "a.jpg", density=True)
    assert "has no calibration" in capsys.readouterr().out
    np.testing.assert_array_equal(plain, log_density(heat))


def test_peaks_are_json_in_order_of_strength(run, pictures, out):
    run(pictures / "a.jpg", "--peaks", "3", "--float")
    heat = np.load(out / "a.npy", allow_pickle=False)
    points = json.loads((out / "a.peaks.json").read_text())
    assert 1 <= len(points) <= 3
    assert [point["rank"] for point in points] == list(range(1, len(points) + 1))
    for point in points:
        assert set(point) == {"rank", "x", "y", "strength"}
        assert point["strength"] == pytest.approx(heat[point["y"], point["x"]], abs=1e-4)
    assert points[0]["strength"] == 1


def test_a_mask_is_black_and_white_and_as_large_as_asked_for(run, pictures, out):
    run(pictures / "a.jpg", "--mask", "0.25", "--float")
    mask = written(out / "a.mask.png")
    assert set(np.unique(mask)) == {0, 255}
    assert mask.mean() / 255 <= 0.25
    heat = np.load(out / "a.npy", allow_pickle=False)
    np.testing.assert_array_equal(mask > 0, thresholded(heat, 0.25))


def test_a_turned_picture_is_drawn_on_as_it_is_seen(run, tmp_path, out, picture):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(picture(30, 60)).save(tmp_path / "p.jpg", exif=exif, quality=95)
    run(tmp_path / "p.jpg", *ALL)
    assert written(out / "p.contours.png").shape == (60, 30, 3)
    assert written(out / "p.crop.png").shape == (30, 30, 3)


# ---------- histogram matching ----------


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_maps_get_the_references_histogram(run, pictures, tmp_path, out, suffix):
    reference = np.tile(np.arange(1, 201), (100, 1)).astype(np.uint8)
    path = tmp_path / f"reference{suffix}"
    write = write_array if suffix == ".npy" else write_image
    write(path, reference)
    run(pictures / "a.jpg", "--float")
    plain = np.load(out / "a.npy", allow_pickle=False)
    code, said = run(pictures / "a.jpg", "--float", "--match", path, "--overwrite")
    assert code == 0, said
    changed = np.load(out / "a.npy", allow_pickle=False)
    np.testing.assert_allclose(changed, matched(plain, reference / 200), atol=1e-6)
    # a ramp: the share of pixels below a value is the value
    assert np.mean(changed < 0.3) == pytest.approx(0.3, abs=0.02)


def test_the_blur_comes_first_then_the_histogram_then_the_threshold(run, pictures, tmp_path, out):
    reference = np.linspace(0, 1, 1000).reshape(20, 50)
    np.save(tmp_path / "ramp.npy", reference)
    run(pictures / "a.jpg", "--float", "--smooth", "3")
    smooth = np.load(out / "a.npy", allow_pickle=False)
    run(pictures / "a.jpg", "--float", "--smooth", "3", "--match", tmp_path / "ramp.npy",
        "--threshold", "0.6", "--overwrite")  # fmt: skip
    changed = np.load(out / "a.npy", allow_pickle=False)
    expected = matched(smooth, reference)
    expected[expected < np.float32(0.6)] = 0
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    assert np.mean(changed > 0) == pytest.approx(0.4, abs=0.01)


def test_a_large_reference_is_taken_by_its_quantiles(tmp_path, monkeypatch):
    from commands.prediction import outputs

    values = np.random.default_rng(0).random((300, 400)) ** 3
    np.save(tmp_path / "r.npy", values * 7)
    whole = outputs.read_reference(tmp_path / "r.npy")
    monkeypatch.setattr(outputs, "MAX_REFERENCE_VALUES", 1000)
    fewer = outputs.read_reference(tmp_path / "r.npy")
    assert fewer.shape == (1000,)
    assert whole.max() == fewer.max() == 1
    heat = np.random.default_rng(1).random((30, 40))
    np.testing.assert_allclose(matched(heat, fewer), matched(heat, whole), atol=0.01)


# ---------- a second run ----------


def test_what_is_there_is_kept_and_what_is_missing_made(run, pictures, out):
    run(pictures, *ALL)
    first = files(out)
    (out / "a.crop.png").write_bytes(b"mine")
    (out / "b.peaks.json").unlink()
    _, said = run(pictures, *ALL)
    assert "1 map written" in said
    assert "1 kept" in said
    assert (out / "a.crop.png").read_bytes() == b"mine"
    assert files(out) == first
    run(pictures, *ALL, "--overwrite")
    assert written(out / "a.crop.png").shape == (30, 30, 3)


def test_no_output_takes_the_place_of_anothers(run, pictures, out, picture):
    """Named like outputs of a.jpg; each keeps all of its own."""
    for name in ("a.crop.png", "a_overlay.jpg", "a.contours.webp", "a.side_by_side.bmp"):
        cv2.imwrite(str(pictures / name), picture())
    code, said = run(pictures, *ALL)
    assert code == 0, said
    assert len(files(out)) == 6 * len(ENDINGS)


def test_a_picture_that_could_be_another_runs_output_is_not_written_over(
    run, pictures, tmp_path, trained, picture
):
    """The output folder holds the picture itself, which is called like a crop."""
    mine = pictures / "a.crop.png"
    cv2.imwrite(str(mine), picture())
    before = mine.read_bytes()
    words = ["test", str(pictures / "a.jpg"), str(mine), "--weights", str(trained), *ALL]
    assert main.main([*words, "--output", str(pictures), "--overwrite"]) == 0
    assert mine.read_bytes() == before


def test_nothing_unfinished_is_left_where_one_output_cannot_be_written(run, pictures, out):
    """A folder is in the way of one of them."""
    (out / "a.mask.png").mkdir(parents=True)
    code, said = run(pictures, *ALL)
    assert code == 1
    assert "1 picture skipped" in said
    assert set(of_picture("b")) <= set(files(out))
    assert not [name for name in files(out) if ".partial" in name]


# ---------- bad input ----------


def constant(folder):
    write_image(folder / "flat.png", np.full((20, 30), 90, np.uint8))
    return folder / "flat.png"


def in_colour(folder):
    write_image(folder / "colour.png", in_colours(np.eye(20)))
    return folder / "colour.png"


def negative(folder):
    np.save(folder / "negative.npy", np.linspace(-1, 1, 20).reshape(4, 5))
    return folder / "negative.npy"


def empty(folder):
    np.save(folder / "empty.npy", np.zeros((0, 5)))
    return folder / "empty.npy"


def text(folder):
    (folder / "text.npy").write_text("hello")
    return folder / "text.npy"


@pytest.mark.parametrize("kind", ["u1", "i8", "u8", "f2", "f4", "f8", "longdouble"])
def test_a_reference_of_any_type_is_read(tmp_path, kind):
    from commands.prediction.outputs import read_reference

    values = np.arange(6, dtype=kind).reshape(2, 3)
    if values.dtype.kind == "f":
        values *= np.finfo(kind).max / 8
    np.save(tmp_path / "r.npy", values)
    found = read_reference(tmp_path / "r.npy")
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.ravel(), np.arange(6) / 5, rtol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peaks", "-1"], "--peaks -1 is too small: at least 0 is needed"),
        (["--peaks", "many"], "invalid int value: 'many'"),
        (["--crop", "0:3"], "'0:3' is no aspect ratio"),
        (["--crop", "wide"], "'wide' is no aspect ratio"),
        (["--crop", ""], "'' is no aspect ratio"),
        (["--mask", "1.5"], "--mask 1.5 is too large: at most 1 is possible"),
        (["--mask", "nan"], "--mask nan is not a finite number"),
        (["--match", "missing.png"], "Cannot read missing.png: No such file"),
        (["--match", "missing.npy"], "missing.npy cannot be read as an array"),
        (["--match", constant], "flat.png is constant, and so would be every map"),
        (["--match", in_colour], "colour.png is in colour"),
        (["--match", negative], "negative.npy has values below 0"),
        (["--match", empty], "empty.npy is constant"),
        (["--match", text], "text.npy cannot be read as an array"),
        (["--contours=maybe"], "'maybe' is neither True nor False"),
        (["--side-by-side", "--crops", "1:1"], "Did you mean '--crop'?"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    run, pictures, tmp_path, out, words, message, capsys
):
    words = [word(tmp_path) if callable(word) else word for word in words]
    try:
        code, said = run(pictures, *words)
    except SystemExit as refused:  # by the parser
        code, said = refused.code, capsys.readouterr().err
    assert code == 2
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_constant_map_has_outputs_all_the_same(tmp_path):
    """A network that has died says nothing; its outputs say so, too."""
    from commands.prediction.inputs import Job
    from commands.prediction.outputs import OutputWriter
    from config import PredictConfig

    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    write_image(tmp_path / "p.png", image)
    settings = PredictConfig(output=tmp_path / "out", peaks=5, crop="1:1", mask=0.1)
    (tmp_path / "out").mkdir()
    jobs = {kind: tmp_path / "out" / f"p{ending}" for kind, ending in ENDINGS.items()}
    nothing = np.zeros((30, 40), np.float32)
    OutputWriter(settings).write(Job(tmp_path / "p.png", jobs), nothing, log_density(nothing))
    assert json.loads((tmp_path / "out/p.peaks.json").read_text()) == []
    assert not written(tmp_path / "out/p.mask.png").any()
    for name in ("p.overlay.png", "p.contours.png"):
        np.testing.assert_array_equal(written(tmp_path / "out" / name), image)
    np.testing.assert_array_equal(written(tmp_path / "out/p.crop.png"), image[:, 5:35])
    assert contours(nothing) == [[], [], []]
