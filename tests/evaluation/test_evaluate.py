"""Scoring maps: a folder's or a model's, with what is missing named, and taken up again."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import PROJECT

from commands.curation.prepare import prepare
from commands.evaluation import evaluate, map_sources, rows
from commands.evaluation.map_sources import FolderMaps, ModelMaps, of_one_precision
from commands.evaluation.score_log import LOG
from commands.evaluation.scored_split import (
    load_split,
    note_training_pictures,
    pictures_of_training,
)
from commands.prediction import engines
from commands.settings import PROFILES as PROFILE_CHOICES
from commands.settings import EvaluateConfig, PrepareConfig, data_of
from commands.training.train import train
from config import PredictConfig, is_same_data, trained_config
from salience.data import loading
from salience.measures.adaptation import Adaptation, AdaptationFit
from salience.measures.density import CALIBRATION, log_density
from salience.measures.metrics import PROFILES, metric_names
from salience.measures.references import CENTRE_BIAS, GOLD, HALVES, UNIFORM, Truth, TruthSplit
from salience.measures.significance import Interval, mean_interval
from salience.networks import weight_files
from salience.pictures.fixations import pixels
from salience.pictures.reading import sample_density, sample_image
from salience.system.errors import UserError
from salience.system.notes import Notes

FEW = "cc,nss,auc_judd,ig"


def samples(split="test"):
    return loading.load("synthetic", None, split)


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


@pytest.fixture
def densities(tmp_path, rng):
    """Return a folder of fair log-densities of the test pictures, as `test --density` has them."""
    folder = tmp_path / "densities"
    folder.mkdir()
    for sample in samples():
        # sharper than the truth, which is blurred
        made = log_density(density(sample) ** 2 + 0.02 * rng.random(density(sample).shape))
        np.save(folder / sample.name.replace(".png", ".density.npy"), made)
    return folder


def test_log_densities_are_recognised_and_scored_as_they_are(run, densities):
    done, lines = run(maps=densities, metrics="ig,ll,nss")
    (line,) = (line for line in lines if "log-densities" in line)
    count = len(samples())
    assert line.startswith(f"note: maps that are log-densities: scored as they are ({count}: ")
    split = TruthSplit(samples(), human=False)
    for i, sample in enumerate(samples()):
        truth = split.truth(i)
        logs = np.load(densities / sample.name.replace(".png", ".density.npy")).astype(float)
        at = pixels(truth.fixations, truth.shape)
        own = logs[at[:, 0], at[:, 1]].mean() / np.log(2)
        scores = done.row("densities").scores[i]
        assert scores["ll"] == pytest.approx(own + np.log2(logs.size), abs=1e-6)
        base = np.log2(truth.baseline[at[:, 0], at[:, 1]]).mean()
        assert scores["ig"] == pytest.approx(own - base, abs=1e-6)


def test_the_optimal_row_has_the_best_map_of_each_metric(run, densities, tmp_path):
    flags = {"maps": densities, "metrics": "all", "optimal": True, "output": tmp_path / "out"}
    done, _ = run(**flags)
    names = [row.name for row in done.rows]
    assert names[:2] == ["densities", "densities, optimal"]
    plain, best = (done.row(name).means for name in names[:2])
    for name in ("nss", "auc_judd", "ig", "ll"):
        assert best[name].mean == pytest.approx(plain[name].mean, abs=1e-9)
    assert best["cc"].mean > plain["cc"].mean + 0.01
    assert best["sim"].mean > plain["sim"].mean + 0.01
    assert best["kld"].mean < plain["kld"].mean - 0.01
    assert np.isnan(best["emd"].mean) and np.isfinite(plain["emd"].mean)
    before = (tmp_path / "out" / LOG).read_bytes()
    again, _ = run(**flags)  # nothing is scored twice
    assert (tmp_path / "out" / LOG).read_bytes() == before
    assert again.row("densities, optimal").means.keys() == best.keys()


def test_maps_that_are_no_densities_have_no_optimal_row(run, maps):
    with pytest.raises(UserError, match=r"\.npy is not a density, which --optimal needs") as error:
        run(maps=maps, optimal=True)
    assert "test --density" in str(error.value)


def test_a_networks_densities_have_a_row_and_the_best_maps_another(run, trained, tmp_path):
    done, lines = run(weights=trained, optimal=True)
    assert [row.name for row in done.rows if row.kind == "model"] == [
        trained.name.removesuffix(".weights.h5"),
        f"{trained.name.removesuffix('.weights.h5')}, optimal",
    ]
    assert sum("has no calibration, so densities are its maps" in line for line in lines) == 1
    weights = tmp_path / "own.weights.h5"
    weights.write_bytes(trained.read_bytes())
    own = Adaptation(contrast=0.5, uniform_share=0.1)
    weight_files.amend(weights, {CALIBRATION: {"parameters": vars(own)}})
    done, _ = run(weights=weights, optimal=True)
    means = {row.name: row.means for row in done.rows}
    assert list(means)[:3] == ["own", "own, density", "own, optimal"]
    assert means["own, density"]["ig"].mean != means["own"]["ig"].mean
    assert means["own, optimal"]["ig"].mean == pytest.approx(means["own, density"]["ig"].mean)
    source = ModelMaps(weights, "x", 4, 1)
    split = TruthSplit(samples(), ("ig",), human=False)
    (made,) = source.maps(samples()[:1], [split.pictures[0][1]])
    expected = split.truth(0).score(np.exp(log_density(made, own).astype(float)))["ig"]
    found = done.row("own, density").scores[0]["ig"]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_flags_profiles_are_the_metrics_profiles():
    assert set(PROFILE_CHOICES) == set(PROFILES)


def test_the_rows_of_references_are_scored_once_for_a_data_set(run, maps, tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    first, _ = run(maps=maps, human=True)
    for name in ("SplitHalf", "LeaveOneOut"):
        monkeypatch.setattr(f"salience.measures.references.{name}.score", None)
    monkeypatch.setattr("salience.measures.references.fit_gold_standard", None)
    asked, real = [], Truth.score
    monkeypatch.setattr(Truth, "score", lambda self, m: asked.append(m) or real(self, m))
    second, lines = run(maps=maps, human=True)
    assert len(asked) == len(samples())  # the maps alone
    for name in (CENTRE_BIAS, UNIFORM, HALVES, GOLD):
        np.testing.assert_equal(second.row(name).scores, first.row(name).scores)
    assert sum("maximise the likelihood" in line for line in lines) == 1
    with pytest.raises(TypeError):  # other parameters are fitted
        run(maps=maps, human=True, gold_bandwidth="picture")


def test_fixations_of_unknown_observers_have_no_rows_of_humans(run, maps, monkeypatch):
    nobody = [replace(sample, subjects=None) for sample in samples()]
    monkeypatch.setattr(loading, "load_to_score", lambda *about: (nobody, {}))
    done, lines = run(maps=maps, human=True)
    assert [row.name for row in done.rows] == ["maps", CENTRE_BIAS, UNIFORM]
    assert np.isnan(list(done.row("maps").share.values())).all()
    assert sum("no rows of humans: no picture has fixations of two known" in x for x in lines) == 1
    nobody[0] = replace(nobody[0], subjects=samples()[0].subjects)
    done, lines = run(maps=maps, human=True)
    assert done.row(GOLD).means["nss"].pictures == 1
    assert any(
        "fixations of fewer than two observers: the rows of humans leave" in x for x in lines
    )


def test_the_table_shows_the_maps_beside_the_references(run, maps, tmp_path):
    done, lines = run(maps=maps, human=True, metrics="all", output=tmp_path / "out")
    assert [row.name for row in done.rows] == ["maps", CENTRE_BIAS, UNIFORM, HALVES, GOLD]
    model = done.row("maps")
    assert 0.5 < model.means["cc"].mean < 1
    assert model.means["cc"].low < model.means["cc"].mean < model.means["cc"].high
    assert done.row(UNIFORM).means["nss"].mean == 0
    assert done.row(CENTRE_BIAS).means["ig"].mean == pytest.approx(0, abs=1e-12)
    # the share runs from the centre bias to the mark of the observers that suits the metric
    for metric, mark, key in (
        ("nss", GOLD, "nss"),
        ("ig", GOLD, "ig"),
        ("cc", HALVES, "cc"),
        ("kld", HALVES, "kld_vs_half"),
    ):
        top, bottom = (done.row(name).means[key].mean for name in (mark, CENTRE_BIAS))
        expected = (model.means[key].mean - bottom) / (top - bottom)
        assert model.share[metric] == pytest.approx(expected)
        assert done.row(mark).share[metric] == pytest.approx(1)
        assert done.row(CENTRE_BIAS).share[metric] == 0
    # no observers' maps to hold these against
    assert np.isnan(model.share["emd"])
    table = next(line for line in lines if "bootstrap 95 %" in line)
    assert f"{model.means['cc'].mean:.3f} [{model.means['cc'].low:.3f}" in table
    assert "KLD (lower is better)" in table
    assert "nats, eps 2.2204e-16" in table
    assert max(map(len, table.splitlines())) <= 100
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["rows"]["maps"]["means"]["cc"]["mean"] == model.means["cc"].mean
    assert written["metrics"]["kld"]["variant"]
    assert written["rows"][GOLD]["means"]["emd"]["mean"] is None
    assert written["rows"][HALVES]["means"]["nss"]["mean"] is None
    assert written["metrics"]["ig"]["share"] == "from centre bias to humans, gold standard"
    assert written["metrics"]["emd"]["share"] is None
    remarks = " ".join(written["notes"]["remarks"])
    assert "humans, gold standard, the mark to reach (docs/METRICS.md#" in remarks
    assert "each observer predicted by the others; a Gaussian of " in remarks
    assert "CC is corrected to all observers (Spearman-Brown); SIM and KLD are against" in remarks
    rows = (tmp_path / "out/per_image.csv").read_text().splitlines()
    assert len(rows) == 1 + 5 * 4
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [entry["name"] for entry in data["scored"]] == [row.name for row in done.rows]
    assert all(picture["maps"][0] for picture in data["pictures"])
    people = {m["name"]: data["scored"][m["people"]]["name"] for m in data["metrics"]}
    assert (people["NSS"], people["CC"], people["EMD"]) == (GOLD, HALVES, HALVES)
    assert any("index.html: the scores as a page" in line for line in lines)


def test_perfect_maps_reach_the_best_scores(run, tmp_path):
    for sample in samples():
        np.save(tmp_path / sample.name.replace(".png", ".npy"), density(sample))
    done, _ = run(maps=tmp_path, metrics="cc,sim,kld,emd,ssim,mse")
    means = {name: done.row(tmp_path.name).means[name].mean for name in done.metrics}
    assert means == pytest.approx(
        {"cc": 1, "sim": 1, "kld": 0, "emd": 0, "ssim": 1, "mse": 0}, abs=1e-6
    )


@pytest.mark.parametrize("mirror", [False, True])
def test_maps_that_test_wrote_score_as_their_weights_do(run, trained, tmp_path, mirror):
    from commands.prediction.predict import predict
    from salience.pictures.picture_files import write_image

    (tmp_path / "in").mkdir()
    for sample in samples():
        write_image(tmp_path / "in" / sample.name, sample_image(sample))
    settings = PredictConfig(
        weights=trained, output=tmp_path / "out", float_maps=True, mirror=mirror
    )
    predict(replace(settings, images=(str(tmp_path / "in"),)), say=lambda line: None)
    from_weights, _ = run(weights=trained, mirror=mirror)
    from_maps, lines = run(maps=tmp_path / "out")
    model = from_weights.rows[0].means
    for name, found in from_maps.rows[0].means.items():
        assert found.mean == pytest.approx(model[name].mean, abs=1e-4)
    assert any("not used, .npy is" in line for line in lines)  # the .png beside it


def test_scoring_maps_and_copies_of_networks_imports_no_backend(maps, trained, tmp_path):
    """Keras takes seconds and half a gigabyte; a copy of the network runs without."""
    engines.load("ncnn", trained, lambda line: None)  # made by now
    again = shutil.copy(trained, tmp_path / "again.weights.h5")
    about = ["--dataset", "synthetic", "--metrics", FEW]
    commands = [
        ["evaluate", "--maps", str(maps), *about],
        ["evaluate", "--weights", str(trained), *about, "--engine", "ncnn",
         "--output", str(tmp_path / "scores")],
        ["compare", str(trained), str(again), *about, "--engine", "ncnn", "--output",
         str(tmp_path / "comparison")],
        ["adapt", "--weights", str(again), *about, "--engine", "ncnn", "--n", "4", "--output",
         str(tmp_path / "adapted")],
    ]  # fmt: skip
    code = (
        "import sys, main\n"
        "from salience.data.sets import synthetic\n"
        "synthetic.COUNTS.update(train=8, test=4)\n"
        f"codes = [main.main(words) for words in {commands!r}]\n"
        "loaded = {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {loaded}' if any(codes) or loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("centre bias") >= 2
    assert "starting Keras" not in done.stdout
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
        f"maps missing: the picture is left out of every row ({first}.png)",
        f"maps that cannot be read: the picture is left out of every row ({second}.png)",
        f"maps of another size than the picture: scaled to it ({third}.png)",
        f"8-bit maps: half a level is added, as 0 does not mean zero probability ({third}.png)",
        "maps without a picture in the split: not used (nobody.npy)",
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


def test_mirror_is_for_networks(maps):
    with pytest.raises(UserError, match="--mirror needs a network"):
        EvaluateConfig(maps=maps, mirror=True)


def test_a_half_done_evaluation_is_taken_up_again(run, maps, tmp_path, monkeypatch):
    whole, _ = run(maps=maps, output=tmp_path / "out", gallery=0)
    log = tmp_path / "out" / LOG
    lines = log.read_text().splitlines()
    assert len(lines) == 4 * 3
    kept = [line for line in lines if samples()[3].name not in line]
    log.write_text("\n".join(kept) + '\n["torn", "te')
    read = []
    real = FolderMaps._read
    monkeypatch.setattr(FolderMaps, "_read", lambda *a: read.append(a[1]) or real(*a))
    again, _ = run(maps=maps, output=tmp_path / "out", gallery=0)
    assert read == [samples()[3].name]
    assert [row.scores for row in again.rows] == [row.scores for row in whole.rows]
    assert len(log.read_text().splitlines()) == 4 * 3

    read.clear()
    run(maps=maps, output=tmp_path / "out", gallery=0, overwrite=True)
    assert len(read) == 4
    read.clear()
    run(
        maps=maps, output=tmp_path / "out", gallery=0, profile="mit"
    )  # other definitions: other scores
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
    assert (tmp_path / "out" / LOG).read_text().count("\n") >= 1


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
    assert "pictures with fixations outside: those are left out (1.png)" in text
    assert "pictures without fixations: only metrics from maps count them (2.png)" in text
    assert "maps: NSS, AUC-Judd, IG are means over the 2 of 3 pictures with a value" in text
    assert done.row("maps").means["cc"].pictures == 3
    assert done.row("maps").means["nss"].pictures == 2


def test_one_picture_has_no_sauc_and_a_note_says_why(run, tmp_path, picture):
    for kind in ("images", "maps", "fixations"):
        (tmp_path / "set/test" / kind).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "set/test/images/0.png"), picture())
    cv2.imwrite(str(tmp_path / "set/test/maps/0.png"), picture()[..., 0])
    np.save(tmp_path / "set/test/fixations/0.npy", np.array([[5.0, 5.0], [9.0, 5.0]]))
    maps = tmp_path / "set/test/maps"
    done, lines = run(maps=maps, dataset="folder", data=tmp_path / "set", metrics="cc,sauc")
    assert done.row("maps").means["sauc"].pictures == 0
    assert any("sAUC needs fixations of other pictures" in line for line in lines)


OWN = "folder: the default for own data, whose degree is not known"
MADE = "density maps: made from fixations with a Gaussian of"
ANGLE = {"distance_cm": 57.0, "screen_cm": "10x7.5", "screen": "40x30"}
BY_ANGLE = "one degree, by --distance_cm 57 --screen_cm 10x7.5 --screen 40x30"


@pytest.mark.parametrize(
    ("kinds", "settings", "line", "recorded"),
    [
        (("fixations",), {}, f"{MADE} 24 pixels ({OWN})", (0, 3, 24.0, OWN)),
        (("fixations", "maps"), {"sigma_pixels": 7.0}, f"{MADE} 7 pixels (--sigma_pixels 7)",
         (0, 3, 7.0, "--sigma_pixels 7")),
        (("fixations", "maps"), {}, "density maps: the data set's own; only references are made",
         (3, 0, 24.0, OWN)),
        (("fixations", "maps"), {"pixels_per_degree": 5.0},
         f"{MADE} 5 pixels (one degree, by --pixels_per_degree 5)",
         (0, 3, 5.0, "one degree, by --pixels_per_degree 5")),
        (("fixations",), ANGLE, f"{MADE} 3.979 pixels ({BY_ANGLE})", (0, 3, 3.979, BY_ANGLE)),
        (("fixations",), {"sigma_pixels": 7.0, "pixels_per_degree": 5.0}, f"{MADE} 7 pixels (--",
         (0, 3, 7.0, "--sigma_pixels 7")),
    ],
)  # fmt: skip
def test_the_gaussian_of_the_truth_is_said_and_recorded(
    run, tmp_path, picture, rng, kinds, settings, line, recorded
):
    for kind in ("images", *kinds):
        (tmp_path / "set/test" / kind).mkdir(parents=True)
        for i in range(3):
            path = tmp_path / f"set/test/{kind}/{i}"
            if kind == "fixations":
                np.save(path, rng.uniform(1, 25, (9, 2)))
            else:
                cv2.imwrite(f"{path}.png", picture() if kind == "images" else picture()[..., 0])
    where = {"dataset": "folder", "data": tmp_path / "set", "output": tmp_path / "out"}
    (tmp_path / "pred").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"pred/{i}.png"), picture()[..., 0])
    _, lines = run(maps=tmp_path / "pred", metrics="cc", **settings, **where)
    assert f"note: {line}" in "\n".join(lines)
    told = json.loads((tmp_path / "out/metrics.json").read_text())["truth"]
    names = ("own_maps", "made_maps", "sigma_pixels", "sigma_from")
    assert told == dict(zip(names, recorded, strict=True))


@pytest.mark.parametrize("text", ["cc,nsss", ""])
def test_unknown_metric_is_named(text):
    with pytest.raises(UserError, match="unknown '"):
        metric_names(text)


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
    line = next(line for line in lines if line.startswith("tuned on 4 of 4"))
    assert "blur 0.0%" not in line


@pytest.fixture
def perfect(tmp_path):
    """Return a function that writes the truth of a split as its maps, shifted or not."""

    def write(split, shift=0):
        folder = tmp_path / f"{split}-{shift}"
        folder.mkdir()
        for sample in samples(split):
            path = folder / sample.name.replace(".png", ".npy")
            np.save(path, np.roll(density(sample), shift, axis=1))
        return folder

    return write


def test_tuning_sees_the_validation_pictures_alone(run, perfect):
    """What is fitted is the same, whether the maps of the test pictures are perfect or useless."""
    told = []
    validation = perfect("val", 40)
    for shift in (0, 70):
        _, lines = run(maps=perfect("test", shift), val_maps=validation, tune=True)
        told += [line for line in lines if line.startswith("tuned on")]
    assert len(told) == 2
    assert told[0] == told[1]


def test_a_tuned_row_scores_the_adapted_maps(run, perfect, monkeypatch):
    made = Adaptation(contrast=2.0, centre_share=0.5)
    fit = AdaptationFit(made, Interval(1.0, 1.0, 1.0, 4), True)
    monkeypatch.setattr(evaluate, "fit_adaptation", lambda *a: fit)
    done, _ = run(maps=perfect("test"), val_maps=perfect("val"), tune=True, metrics="cc,nss")
    split = TruthSplit(samples(), ("cc", "nss"), human=False)
    for i, scores in enumerate(done.row("test-0, tuned").scores):
        expected = split.truth(i).score(made.apply(density(samples()[i]).astype(np.float64)))
        assert scores == pytest.approx(expected)


def test_tuning_says_what_it_could_not_use(run, perfect, tmp_path):
    folder = perfect("val")
    (folder / "val_001.npy").unlink()
    _, lines = run(maps=perfect("test"), val_maps=folder, tune=True)
    assert any(line.startswith("tuned on 3 of 4") for line in lines)
    assert any("validation: maps missing" in line and "val_001" in line for line in lines)
    for path in folder.iterdir():
        path.write_text("no array")
    with pytest.raises(
        UserError, match=r"needs 2 validation pictures with a usable map .* there are 0"
    ):
        run(maps=tmp_path / "test-0", val_maps=folder, tune=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_tuning_is_not_scored_on_what_it_was_fitted_on(run, perfect, split):
    with pytest.raises(UserError, match="on test only"):
        run(maps=perfect(split), val_maps=perfect("test"), tune=True, split=split)


def test_a_folder_named_like_a_reference_keeps_its_own_scores(run, perfect):
    folder = perfect("test")
    folder = folder.rename(folder.with_name(UNIFORM))
    done, _ = run(maps=folder)
    assert done.row("uniform (maps)").means["cc"].mean == pytest.approx(1)
    assert done.row(UNIFORM).means["cc"].mean == 0


def test_what_was_found_in_maps_is_said_again_when_nothing_is_read(run, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    for sample in samples():
        cv2.imwrite(str(folder / sample.name), np.round(255 * density(sample)).astype(np.uint8))
    notes = [run(maps=folder, output=tmp_path / "out")[1][1:-1] for _ in range(2)]
    assert notes[0] == notes[1]
    assert any("8-bit maps" in line for line in notes[0])


def test_a_heat_map_and_numbers_that_are_none_are_refused(run, perfect):
    folder = perfect("test")
    first, second, third = (sample.name for sample in samples()[:3])
    for name in (first, second, third):
        (folder / name.replace(".png", ".npy")).unlink()
    values = np.round(255 * density(samples()[0])).astype(np.uint8)
    cv2.imwrite(str(folder / first), cv2.applyColorMap(values, cv2.COLORMAP_JET))
    broken = density(samples()[1])
    broken[3, 3] = np.nan
    cv2.imwrite(str(folder / second.replace(".png", ".tiff")), broken)
    np.save(folder / third.replace(".png", ".npy"), density(samples()[2]) - 0.5)
    done, lines = run(maps=folder)
    text = "\n".join(lines)
    assert done.left_out == [first, second]
    assert "is in colour" in text
    assert "maps with negative values that are not log-densities: unchanged for NSS" in text


def test_a_network_that_gives_no_numbers_is_an_error(run, trained, monkeypatch):
    monkeypatch.setattr(
        "keras.Model.predict_on_batch", lambda self, x: np.full((len(x), 6, 8, 1), np.nan)
    )
    with pytest.raises(UserError, match="non-finite values for test_000"):
        run(weights=trained, engine="keras")


def test_scoring_what_was_trained_on_is_said(run, trained):
    assert "WARNING" not in "\n".join(run(weights=trained)[1])
    text = "\n".join(run(weights=trained, split="train")[1])
    assert "WARNING: scored pictures that a model was trained on (12: train_000.png" in text


def test_a_model_is_scored_on_the_split_it_was_trained_for(tiny, tmp_path):
    """Another plan would score pictures that it was trained on."""
    config = tiny(val_share=0.2, test_share=0.15, split_seed=3, out_of_bounds="clip")
    weights = train(config, say=lambda line: None).published
    found = EvaluateConfig.from_flags({"weights": weights})
    assert (found.dataset, found.plan, found.out_of_bounds) == ("synthetic", config.plan, "clip")
    assert EvaluateConfig.from_flags({"weights": weights, "split_seed": 5}).plan.seed == 5
    other = EvaluateConfig.from_flags({"weights": weights, "dataset": "folder", "data": tmp_path})
    assert (other.plan, other.data) == (EvaluateConfig().plan, tmp_path)


def test_pictures_that_the_first_weights_were_trained_on_are_counted(tiny, tmp_path, run):
    """Going on from other weights does not make them forget what they have seen."""
    first = train(tiny(output=tmp_path / "first"), say=lambda line: None).path("best.weights.h5")
    changes = {"init_weights": first, "backbone_weights": None, "split_seed": 1}
    second = train(tiny(**changes), say=lambda line: None).published
    lines = "\n".join(run(weights=second, split="train", split_seed=0)[1])
    assert "WARNING: scored pictures that a model was trained on (12: " in lines
    chosen = "\n".join(run(weights=second, split="train", split_seed=0)[1])
    assert "chosen on" not in chosen  # the built-in scenes' validation pictures are others
    first.write_bytes(second.read_bytes())  # as where both are published under one name
    assert "removed or replaced since: it is unknown" in "\n".join(run(weights=second)[1])
    first.unlink()
    assert "removed or replaced since: it is unknown" in "\n".join(run(weights=second)[1])


def test_a_data_set_without_training_pictures_is_scored(run, trained, tmp_path, picture):
    own = replace(trained_config(trained), dataset="folder")
    for kind in ("images", "maps"):
        (tmp_path / "set/test" / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"set/test/{kind}/a.png"), picture())
    notes = Notes()
    settings = EvaluateConfig(dataset="folder", data=tmp_path / "set", metrics="cc")
    split = load_split(settings, "test", notes)
    note_training_pictures(own, settings, split.samples, notes)
    assert not [line for line in notes.lines() if "WARNING" in line]


def test_another_folder_of_one_s_own_is_not_that_of_the_training(trained, tmp_path, picture):
    for name in ("a", "b"):
        for i in range(10):
            for kind in ("images", "maps"):
                (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
                value = picture() if kind == "images" else picture()[..., 0]
                cv2.imwrite(str(tmp_path / f"{name}/{kind}/{i}.png"), value)
    own = replace(
        trained_config(trained), dataset=("folder",), data=(tmp_path / "a",), sigma_pixels=40.0
    )
    for name, is_same in (("a", True), ("b", False)):
        settings = EvaluateConfig(dataset="folder", data=tmp_path / name, metrics="cc")
        samples = load_split(settings, "train", Notes()).samples
        assert bool(pictures_of_training(own, settings, samples)["train"]) == is_same
        inherited = data_of(own, {"data": tmp_path / name})
        assert inherited["dataset"] == "folder"
        assert (inherited.get("sigma_pixels") == 40) == is_same
    store = tmp_path / "store"
    prepare(
        PrepareConfig(dataset="folder", data=tmp_path / "a", output=store, rows=48, cols=64),
        lambda line: None,
    )
    assert data_of(own, {"data": store})["sigma_pixels"] == 40  # prepared from it
    of_store = replace(own, data=(store,))
    assert is_same_data(of_store, "folder", tmp_path / "a")
    assert not is_same_data(of_store, "folder", tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert data_of(own, {"data": tmp_path / "moved"})["sigma_pixels"] == 40


def test_percentages_are_over_the_pictures_with_observers():
    scores = {
        "m": [{"nss": 1.5}, {"nss": 1.5}, {"nss": 9.0}],
        CENTRE_BIAS: [{"nss": 1.0}, {"nss": 1.0}, {"nss": 4.0}],
        GOLD: [{"nss": 2.0}, {"nss": 2.1}, {"nss": float("nan")}],
    }
    means = {
        name: {"nss": mean_interval([one["nss"] for one in values], 0)}
        for name, values in scores.items()
    }
    share = rows.attainable_share(means, scores, "m", "nss")
    assert share == pytest.approx(0.5 / 1.05)


def test_the_key_of_a_model_holds_its_blur(trained):
    plain, blurred = (ModelMaps(trained, "m", 2, 1, smooth) for smooth in (0.0, 2.0))
    assert plain.fingerprint() != blurred.fingerprint()


@pytest.fixture
def copies(monkeypatch):
    """Let a copy run at once, by Keras; return the weights that have been loaded, with engines."""
    loaded, real = [], engines.load

    def load(name, weights, say, of_set=None):
        loaded.append((name, weights))
        fails = name != "keras" and weights.name.startswith("no-copy")
        found = real("keras", weights, say, of_set)
        return found if fails else replace(found, name=name, at_once=2)

    monkeypatch.setattr(engines, "load", load)
    monkeypatch.setattr(
        engines, "choose", lambda name, say=None: "openvino" if name == "auto" else name
    )
    return loaded


def test_a_copy_predicts_ahead_what_keras_predicts(trained, copies):
    found = samples()
    shapes = [sample_image(sample).shape[:2] for sample in found]
    one, other = (ModelMaps(trained, "m", 2, 1, engine=name) for name in ("keras", "openvino"))
    assert one.fingerprint() != other.fingerprint()
    for a, b in zip(one.maps(found, shapes), other.maps(found, shapes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    first = next(other.maps(found, shapes))  # the others are given up
    np.testing.assert_allclose(first, next(one.maps(found, shapes)), atol=1e-5)


def test_a_copy_is_used_from_some_tens_of_pictures_on(run, trained, copies, monkeypatch):
    monkeypatch.setattr(engines, "fastest", lambda weights=None, say=None: "openvino")
    run(weights=trained)
    run(weights=trained, engine="openvino")
    monkeypatch.setattr(map_sources, "LEAST_FOR_COPY", len(samples()))
    run(weights=trained)
    assert [name for name, _ in copies] == ["keras", "openvino", "openvino"]


def test_the_page_shows_scored_maps_without_predicting_them_again(
    run, trained, tmp_path, monkeypatch
):
    load, predicted = engines.load, []

    def counted(*about):
        engine = load(*about)
        return replace(engine, maps=lambda x: predicted.append(len(x)) or engine.maps(x))

    monkeypatch.setattr(engines, "load", counted)
    run(weights=trained, metrics="cc", output=tmp_path / "out")
    assert (tmp_path / "out/index.html").is_file()
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["settings"]["engine"] == "ncnn"  # what ran, not "auto"
    assert sum(predicted) == len(samples())
    found = samples()
    shapes = [sample_image(sample).shape[:2] for sample in found]
    source = ModelMaps(trained, "m", 2, 1)
    once, again = (list(source.maps(found, shapes)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    # other samples of the same names are other pictures
    others = [replace(sample, image=found[0].image) for sample in found]
    for shown in source.maps(others, shapes):
        np.testing.assert_allclose(shown, once[0], atol=1e-5)


def test_networks_that_are_compared_are_predicted_exactly_or_by_one_engine(
    trained, copies, tmp_path
):
    """Where there is no copy of reduced precision of one of them, Keras predicts all."""
    weights = [tmp_path / f"{name}.weights.h5" for name in ("a", "no-copy")]
    for path in weights:
        path.write_bytes(trained.read_bytes())

    def names(engine):
        maps_by = lambda name: {path: ModelMaps(path, "m", 2, 1, engine=name) for path in weights}  # noqa: E731
        return [one.engine.name for one in of_one_precision(maps_by, engine).values()]

    assert names("openvino") == ["openvino", "keras"]
    assert names(engines.REDUCED) == ["keras", "keras"]
    del weights[1]
    assert names(engines.REDUCED) == [engines.REDUCED]


@pytest.mark.slow
def test_scores_by_openvino_are_those_by_keras(run, trained):
    pytest.importorskip("openvino")
    (keras, _), (copy, lines) = (
        run(weights=trained, engine=name) for name in ("keras", "openvino")
    )
    assert not [line for line in lines if "Keras is used instead" in line]
    for one, other in zip(keras.rows[0].scores, copy.rows[0].scores, strict=True):
        assert one == pytest.approx(other, abs=1e-3, nan_ok=True)


def test_tuning_maps_needs_the_maps_of_the_validation_pictures(run, maps):
    with pytest.raises(UserError, match="--val_maps"):
        run(maps=maps, tune=True)


def test_other_maps_of_the_same_size_and_time_are_scored_again(tmp_path, rng):
    """Archives set times."""
    samples = loading.load("synthetic", None, "test")
    for sample in samples:
        np.save(tmp_path / f"{sample.name}.npy", rng.random((30, 40)))

    def key():
        for path in tmp_path.glob("*.npy"):
            os.utime(path, (10**9, 10**9))
        return FolderMaps(tmp_path, "maps", samples, Notes()).fingerprint()

    first = key()
    assert key() == first
    np.save(tmp_path / f"{samples[0].name}.npy", rng.random((30, 40)))
    assert key() != first
