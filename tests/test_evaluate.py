"""Scoring maps: a folder's or a model's, with what is missing named, and taken up again."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import PROJECT

import datasets
import evaluate
import scoring
from config import PROFILES as PROFILE_CHOICES
from config import EvaluateConfig, PredictConfig
from errors import UserError
from metrics import PROFILES
from pictures import sample_density, sample_image
from references import CENTRE_BIAS, HALVES, ONE, UNIFORM
from sources import FolderMaps, PostProcessing

FEW = "cc,nss,auc_judd,ig"


def samples(split="test"):
    return datasets.load("synthetic", None, split)


def density(sample):
    return sample_density(sample, sample_image(sample).shape[:2], None)


@pytest.fixture
def maps(tmp_path, rng):
    """Return a folder of fair maps of the test pictures: the truth, with noise."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for sample in samples():
        truth = density(sample)
        np.save(folder / sample.name.replace(".png", ".npy"), truth + 0.3 * rng.random(truth.shape))
    return folder


@pytest.fixture
def run():
    """Return a function that evaluates on the synthetic set and gives the rows and the lines."""

    def evaluated(**settings):
        lines = []
        done = evaluate.evaluate(
            EvaluateConfig(**{"dataset": "synthetic", "metrics": FEW, "human": False, **settings}),
            say=lines.append,
        )
        return done, lines

    return evaluated


def test_the_flags_profiles_are_the_metrics_profiles():
    assert set(PROFILE_CHOICES) == set(PROFILES)


def test_the_table_shows_the_maps_beside_the_references(run, maps, tmp_path):
    done, lines = run(maps=maps, human=True, metrics="all", output=tmp_path / "out")
    assert [row.name for row in done.rows] == ["maps", CENTRE_BIAS, UNIFORM, HALVES, ONE]
    model = done.row("maps")
    assert 0.5 < model.means["cc"].mean < 1
    assert model.means["cc"].low < model.means["cc"].mean < model.means["cc"].high
    assert done.row(UNIFORM).means["nss"].mean == 0
    assert done.row(CENTRE_BIAS).means["ig"].mean == pytest.approx(0, abs=1e-12)
    # the share runs from the uniform map to the ceiling that suits the metric
    for metric, ceiling in (("nss", ONE), ("cc", HALVES), ("kld", HALVES)):
        top = done.row(ceiling).means[metric].mean
        bottom = done.row(UNIFORM).means[metric].mean
        expected = (model.means[metric].mean - bottom) / (top - bottom)
        assert model.share[metric] == pytest.approx(expected)
        assert done.row(ceiling).share[metric] == pytest.approx(1)
    table = next(line for line in lines if "bootstrap 95 %" in line)
    assert f"{model.means['cc'].mean:.3f} [{model.means['cc'].low:.3f}" in table
    assert "KLD (low is good)" in table
    assert "nats, eps 2.2204e-16" in table
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["rows"]["maps"]["means"]["cc"]["mean"] == model.means["cc"].mean
    assert written["metrics"]["kld"]["variant"]
    assert written["rows"][ONE]["means"]["emd"]["mean"] is None
    rows = (tmp_path / "out/per_image.csv").read_text().splitlines()
    assert len(rows) == 1 + 5 * 4


def test_perfect_maps_reach_the_best_scores(run, tmp_path):
    for sample in samples():
        np.save(tmp_path / sample.name.replace(".png", ".npy"), density(sample))
    done, _ = run(maps=tmp_path, metrics="cc,sim,kld,emd,ssim,mse")
    means = {name: found.mean for name, found in done.row(tmp_path.name).means.items()}
    assert means == pytest.approx(
        {"cc": 1, "sim": 1, "kld": 0, "emd": 0, "ssim": 1, "mse": 0}, abs=1e-6
    )


def test_maps_that_test_wrote_score_as_their_weights_do(run, trained, tmp_path):
    from pictures import write_image
    from predict import predict

    (tmp_path / "in").mkdir()
    for sample in samples():
        write_image(tmp_path / "in" / sample.name, sample_image(sample))
    settings = PredictConfig(weights=trained, output=tmp_path / "out", float_maps=True)
    predict([str(tmp_path / "in")], settings, say=lambda line: None)
    from_weights, _ = run(weights=trained)
    from_maps, lines = run(maps=tmp_path / "out")
    model = from_weights.rows[0].means
    for name, found in from_maps.rows[0].means.items():
        assert found.mean == pytest.approx(model[name].mean, abs=1e-4)
    assert any("not used, .npy is" in line for line in lines)  # the .png beside it


def test_scoring_maps_imports_no_network(maps, tmp_path):
    words = ["evaluate", "--maps", str(maps), "--dataset", "synthetic", "--metrics", FEW]
    code = (
        "import sys, main\n"
        "from datasets import synthetic\n"
        "synthetic.COUNTS['test'] = 4\n"
        f"code = main.main({words!r})\n"
        "loaded = {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'{code} {loaded}' if code or loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "centre bias" in done.stdout
    assert done.stderr == ""


def test_missing_extra_odd_and_broken_maps_are_named_counted_and_decided(run, maps):
    first, second, third, fourth = (sample.name.replace(".png", "") for sample in samples())
    (maps / f"{first}.npy").unlink()
    (maps / f"{second}.npy").write_bytes(b"no array")
    half = np.load(maps / f"{third}.npy")[::2, ::2]
    (maps / f"{third}.npy").unlink()
    cv2.imwrite(str(maps / f"{third}.png"), np.round(255 * half / half.max()).astype(np.uint8))
    np.save(maps / "nobody.npy", np.ones((3, 3)))
    done, lines = run(maps=maps)
    assert done.pictures == [f"{third}.png", f"{fourth}.png"]
    assert done.left_out == [f"{first}.png", f"{second}.png"]
    # every row is over the same pictures
    assert {len(row.scores) for row in done.rows} == {2}
    notes = "\n".join(lines)
    for expected in (
        f"1 maps missing: the picture is left out of every row ({first}.png)",
        f"1 maps that cannot be read: the picture is left out of every row ({second}.png)",
        f"1 maps of another size than the picture: scaled to it ({third}.png)",
        f"1 8-bit maps: scored half a step higher, as 0 is not nothing ({third}.png)",
        "1 maps without a picture in the split: not used (nobody.npy)",
    ):
        assert expected in notes


@pytest.mark.parametrize("array", [np.ones((4, 4, 2)), np.array([["a"]]), np.full((4, 4), np.nan)])
def test_an_array_that_is_no_map_counts_as_unreadable(run, maps, array):
    np.save(maps / samples()[0].name.replace(".png", ".npy"), array)
    done, lines = run(maps=maps)
    assert done.left_out == [samples()[0].name]
    assert "a map is [rows, columns] of finite numbers" in "\n".join(lines)


def test_left_out_pictures_make_the_exit_code_1(cli, maps):
    (maps / samples()[0].name.replace(".png", ".npy")).unlink()
    words = ("evaluate", "--dataset", "synthetic", "--maps", maps, "--metrics", FEW)
    done = cli(*words, code=1)  # the whole built-in set has more pictures than the folder
    assert "maps missing" in done.stdout


def test_no_map_at_all_is_an_error(run, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run(maps=tmp_path / "nowhere")
    np.save(tmp_path / "other.npy", np.ones((3, 3)))
    with pytest.raises(UserError, match="is named like a picture of the split, such as test_000"):
        run(maps=tmp_path)


def test_8_bit_maps_are_scored_half_a_step_higher(run, tmp_path):
    for sample in samples():
        cv2.imwrite(str(tmp_path / sample.name), np.round(255 * density(sample)).astype(np.uint8))
    done, _ = run(maps=tmp_path, metrics="kld,cc")
    # zeros where people looked would cost up to 36 nats each
    assert done.rows[0].means["kld"].mean < 0.1


def test_a_half_done_evaluation_is_taken_up_again(run, maps, tmp_path, monkeypatch):
    whole, _ = run(maps=maps, output=tmp_path / "out")
    log = tmp_path / "out" / scoring.LOG
    lines = log.read_text().splitlines()
    assert len(lines) == 4 * 3
    kept = [line for line in lines if samples()[3].name not in line]
    log.write_text("\n".join(kept) + '\n["torn", "te')
    read = []
    real = FolderMaps._read
    monkeypatch.setattr(FolderMaps, "_read", lambda *a: read.append(a[1]) or real(*a))
    again, _ = run(maps=maps, output=tmp_path / "out")
    assert read == [samples()[3].name]
    assert [row.scores for row in again.rows] == [row.scores for row in whole.rows]
    assert len(log.read_text().splitlines()) == 4 * 3

    read.clear()
    run(maps=maps, output=tmp_path / "out", overwrite=True)
    assert len(read) == 4
    read.clear()
    run(maps=maps, output=tmp_path / "out", profile="mit")  # other definitions: other scores
    assert len(read) == 4


def test_what_was_scored_stays_when_scoring_breaks(run, maps, tmp_path, monkeypatch):
    calls = []

    def failing(self, truth, index):
        calls.append(index)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, truth, index)

    real = FolderMaps._read
    monkeypatch.setattr(FolderMaps, "_read", failing)
    with pytest.raises(KeyboardInterrupt):
        run(maps=maps, output=tmp_path / "out", workers=1)
    assert (tmp_path / "out" / scoring.LOG).read_text().count("\n") >= 1


def test_fixations_outside_and_missing_are_noted(run, tmp_path, picture, rng):
    for kind in ("images", "maps", "fixations"):
        (tmp_path / "set/test" / kind).mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"set/test/images/{i}.png"), picture())
        cv2.imwrite(str(tmp_path / f"set/test/maps/{i}.png"), picture()[..., 0])
        np.save(tmp_path / f"set/test/fixations/{i}.npy", rng.uniform(1, 25, (9, 2)))
    np.save(tmp_path / "set/test/fixations/1.npy", np.array([[5.0, 5.0], [99.0, 5.0]]))
    np.save(tmp_path / "set/test/fixations/2.npy", np.zeros((0, 2)))
    done, lines = run(maps=tmp_path / "set/test/maps", dataset="folder", data=tmp_path / "set")
    text = "\n".join(lines)
    assert "1 pictures with fixations outside: those are left out (1.png)" in text
    assert "1 pictures without fixations: only the map metrics count them (2.png)" in text
    assert done.row("maps").means["cc"].pictures == 3
    assert done.row("maps").means["nss"].pictures == 2


@pytest.mark.parametrize("text", ["cc,nsss", ""])
def test_unknown_metric_is_named(text):
    with pytest.raises(UserError, match="unknown '"):
        scoring.metric_names(text)


def test_tuning_finds_the_blur_and_the_centre_bias_that_maps_lack(run, tmp_path, rng):
    """Maps of scattered points, one per fixation's place, need a blur; the fit sees val alone."""
    folders = {split: tmp_path / split for split in ("val", "test")}
    for split, folder in folders.items():
        folder.mkdir()
        for sample in samples(split):
            values = np.full((120, 160), 1e-3)
            half = sample.fixations[sample.subjects < 6].astype(int)
            values[half[:, 1], half[:, 0]] = 1
            np.save(folder / sample.name.replace(".png", ".npy"), values)
    done, lines = run(maps=folders["test"], val_maps=folders["val"], tune=True)
    raw, tuned = done.row("test").means, done.row("test, tuned").means
    assert tuned["ig"].mean > raw["ig"].mean + 0.5
    assert tuned["cc"].mean > raw["cc"].mean
    line = next(line for line in lines if line.startswith("post-processing fitted on 4 validation"))
    assert "blur 0 px" not in line


def test_tuning_maps_needs_the_maps_of_the_validation_pictures(run, maps):
    with pytest.raises(UserError, match="--val_maps"):
        run(maps=maps, tune=True)


def test_post_processing_gives_a_density(rng):
    centre = np.full((20, 30), 1 / 600)
    made = PostProcessing(2.0, (0.7, 0.2, 0.1)).apply(rng.random((20, 30)), centre)
    assert made.sum() == pytest.approx(1)
    assert made.min() >= 0.3 / 600
