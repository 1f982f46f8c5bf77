"""Adapting maps to a data set: what is fitted, when it is not, whose it is, and who uses it."""

import csv
import dataclasses
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from one_place import X, Y, everybody_looks_there

from commands.evaluation import adapt, evaluate
from commands.evaluation.map_sources import ModelMaps
from commands.evaluation.scored_split import load_split
from commands.prediction.predict import predict
from commands.settings import OBJECTIVES, AdaptConfig, EvaluateConfig
from config import PredictConfig
from main import parser
from salience.data import loading
from salience.measures import adaptation, metrics
from salience.measures.adaptation import (
    BOUNDS,
    IDENTITY,
    Adaptation,
    LowResolutionMaps,
    best_parameters,
    fit_adaptation,
    objective_values,
)
from salience.measures.finish import MAP_BLUR, Finish, finish_of
from salience.measures.metrics import METRICS, as_distribution
from salience.measures.significance import Interval
from salience.networks import weight_files
from salience.pictures.picture_files import write_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system import files
from salience.system.errors import UserError
from salience.system.flags import typed_flags

CHANGED = Adaptation(
    contrast=1.6,
    blur=0.03,
    centre_x=0.4,
    centre_y=0.6,
    centre_width=0.2,
    centre_height=0.15,
    centre_power=0.5,
    centre_share=0.3,
    uniform_share=0.1,
)


def blobs(rng, shape=(36, 48), count=6):
    """Return a network's map: a few blobs anywhere."""
    points = rng.uniform(0, 1, (count, 2)) * shape
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    heights = [
        rng.uniform(0.2, 1) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
        for y, x in points
    ]
    return np.sum(heights, axis=0) + 1e-3


def looked_at(maps, truth, rng, fixations=400):
    """Return pictures whose fixations are drawn from what an adaptation makes of their maps."""
    pictures = []
    for saliency_map in maps:
        density = as_distribution(truth.density(saliency_map))
        counts = rng.multinomial(fixations, density.ravel()).reshape(density.shape)
        pictures.append(LowResolutionMaps(saliency_map.astype(np.float32), counts / fixations))
    return pictures


def test_there_are_fewer_than_twenty_parameters_and_the_identity_is_among_them():
    assert [field.name for field in dataclasses.fields(Adaptation)] == list(BOUNDS)
    assert len(BOUNDS) < 20
    for name, bounds in BOUNDS.items():
        assert bounds.low <= getattr(IDENTITY, name) <= bounds.high
        assert bounds.low <= bounds.start <= bounds.high


def test_the_identity_changes_nothing(rng):
    values = rng.random((20, 30)).astype(np.float32)
    assert IDENTITY.apply(values) is values
    # and so does what is written out as a formula, but for the scale
    np.testing.assert_allclose(IDENTITY.density(values), as_distribution(values), rtol=1e-5)


def test_an_adapted_map_is_a_density_and_a_map(rng):
    maps = rng.random((3, 20, 30))
    densities = CHANGED.density(maps)
    np.testing.assert_allclose(densities.sum(axis=(1, 2)), 1, rtol=1e-5)
    for saliency_map, density in zip(maps, densities, strict=True):
        made = CHANGED.apply(saliency_map)
        assert made.dtype == np.float32
        assert made.max() == 1
        np.testing.assert_allclose(made, density / density.max(), rtol=1e-4, atol=1e-6)
        # of no scale, as maps are
        np.testing.assert_allclose(made, CHANGED.apply(7 * saliency_map), rtol=1e-4, atol=1e-6)


def test_a_map_that_says_nothing_stays_so():
    nothing = np.zeros((4, 5), np.float32)
    assert not CHANGED.apply(nothing).any()
    assert CHANGED.density(nothing).sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("ends", [0, 1], ids=["least", "greatest"])
def test_the_ends_of_the_bounds_give_finite_maps(rng, ends):
    extreme = Adaptation(**{name: bounds[ends] for name, bounds in BOUNDS.items()})
    for values in (rng.random((12, 16)), np.eye(12, 16)):
        made = extreme.apply(values)
        assert np.isfinite(made).all()
        assert made.min() >= 0


def test_a_wide_blur_is_as_good_on_averages_of_pixels(rng):
    saliency_map = cv2.resize(blobs(rng), (480, 360)).astype(np.float32)
    quick = adaptation._wide_blur(saliency_map, 30.0)
    exact = adaptation.blurred(saliency_map, 30.0)
    assert np.abs(quick - exact).max() < 0.02 * exact.max()


def test_known_parameters_are_recovered(rng):
    maps = [blobs(rng) for _ in range(40)]
    truth = dataclasses.replace(CHANGED, centre_power=0.0)
    found = best_parameters(looked_at(maps, truth, rng))
    assert found.contrast == pytest.approx(truth.contrast, rel=0.15)
    for name in ("centre_x", "centre_y", "centre_width", "centre_height"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), abs=0.03), name
    for name in ("blur", "centre_share", "uniform_share"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), abs=0.06), name


def test_what_a_set_shares_improves_pictures_that_were_not_fitted_on(rng):
    pictures = looked_at([blobs(rng) for _ in range(60)], CHANGED, rng, fixations=100)
    fit = fit_adaptation(pictures[:20])
    assert fit.kept
    assert fit.gain.low > 0
    unseen = pictures[20:]
    best = objective_values(CHANGED, unseen).mean() - objective_values(IDENTITY, unseen).mean()
    won = (
        objective_values(fit.adaptation, unseen).mean() - objective_values(IDENTITY, unseen).mean()
    )
    assert 0.8 * best < won <= 1.02 * best
    assert won == pytest.approx(fit.gain.mean, rel=0.5)  # what it promised


@pytest.mark.parametrize("seed", range(3))
def test_a_set_that_needs_nothing_keeps_the_identity(seed):
    rng = np.random.default_rng(seed)
    fit = fit_adaptation(looked_at([blobs(rng) for _ in range(8)], IDENTITY, rng, fixations=60))
    assert not fit.kept
    assert fit.adaptation == IDENTITY
    assert "nothing is gained" in adaptation.fit_line(fit)


def test_pictures_that_contradict_each_other_keep_the_identity(rng):
    """Two pictures, one with all looks at the left, the other with all at the right."""
    pictures = []
    for column in (4, 43):
        looks = np.zeros((36, 48))
        looks[18, column] = 1
        pictures.append(LowResolutionMaps(np.ones((36, 48), np.float32), looks))
    fit = fit_adaptation(pictures)
    assert fit.gain.mean < 0
    assert fit.adaptation == IDENTITY


def test_pictures_of_several_shapes_are_fitted_together(rng):
    maps = [blobs(rng, shape) for shape in ((36, 48), (48, 36), (30, 48)) for _ in range(6)]
    pictures = looked_at(maps, CHANGED, rng)
    values = objective_values(CHANGED, pictures)
    assert values.tolist() == [objective_values(CHANGED, [picture])[0] for picture in pictures]
    assert fit_adaptation(pictures).kept


def test_what_was_looked_at_is_counted_where_it_lies():
    saliency_map = np.ones((128, 256))
    points = np.array([[255.0, 0.0], [0.0, 127.0], [0.0, 126.0], [999.0, 5.0]])
    found = adaptation.low_resolution_maps(saliency_map, points)
    assert found.truth.shape == (32, 64)
    assert (found.truth[0, 63], found.truth[31, 0]) == pytest.approx((1 / 3, 2 / 3))
    assert adaptation.low_resolution_maps(saliency_map, points[3:]) is None  # outside
    assert adaptation.low_resolution_maps(saliency_map, None) is None
    density = np.zeros((128, 256))
    density[:4, :4] = 1
    assert adaptation.low_resolution_maps(saliency_map, None, density).truth[0, 0] == 1


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_a_fit_does_best_in_what_it_is_fitted_for(rng, objective):
    pictures = looked_at([blobs(rng) for _ in range(12)], CHANGED, rng, fixations=100)
    fit = fit_adaptation(pictures, 0, objective)
    assert fit.kept
    assert fit.objective == objective
    unit = adaptation.OBJECTIVES[objective].unit
    assert f"] {unit} on pictures left out" in adaptation.fit_line(fit)
    before, after = (
        objective_values(own, pictures, objective).mean() for own in (IDENTITY, fit.adaptation)
    )
    assert after > before + 0.01
    likeliest = objective_values(best_parameters(pictures), pictures, objective).mean()
    assert after >= likeliest - 0.01  # no other fit does better in it


def test_the_objectives_are_the_metrics_of_the_small_maps(rng):
    maps, looks = blobs(rng), as_distribution(blobs(rng))
    picture = LowResolutionMaps(maps, looks)
    rows, columns = np.mgrid[:36, :48]
    counts = np.round(looks * 3000).astype(int)
    points = np.repeat(np.stack([columns, rows], -1).reshape(-1, 2), counts.ravel(), axis=0)
    seen = LowResolutionMaps(maps, counts / counts.sum())
    own = {name: objective_values(IDENTITY, [picture], name)[0] for name in ("cc", "kld")}
    assert own["cc"] == pytest.approx(metrics.cc(maps, looks), rel=1e-4)
    assert own["kld"] == pytest.approx(-metrics.kld(maps, looks), rel=1e-4)
    assert objective_values(IDENTITY, [seen], "nss")[0] == pytest.approx(metrics.nss(maps, points))
    constant = LowResolutionMaps(np.ones((36, 48)), looks)
    assert objective_values(IDENTITY, [constant], "cc")[0] == 0


def test_the_choices_of_the_flag_are_the_objectives():
    assert tuple(adaptation.OBJECTIVES) == OBJECTIVES


class Scored:
    """An evaluation of given scores, by row and metric."""

    def __init__(self, **rows):
        self.metrics = {name: METRICS[name] for name in rows["before"]}
        self.rows = rows

    def row(self, name):
        columns = self.rows[name.split(",")[0]]
        return SimpleNamespace(
            scores=[dict(zip(columns, v, strict=True)) for v in zip(*columns.values(), strict=True)]
        )


def test_what_a_fit_costs_is_told_as_a_loss(rng):
    noise = rng.normal(0, 0.01, 30)
    found = Scored(
        before={"cc": 0.6 + noise, "nss": 1 + noise, "kld": 0.5 + noise, "ig": 1 + noise},
        n={"cc": 0.5 + noise[::-1], "nss": 1.2 + noise, "kld": 0.8 + noise[::-1], "ig": 1 + noise},
    )
    fit = adaptation.AdaptationFit(CHANGED, Interval(1, 1, 1, 30), True)
    groups = [adapt.AdaptedGroup("before"), adapt.AdaptedGroup("n", (fit,))]
    found.rows["n"]["ig"] = found.rows["before"]["ig"] + 1e-5  # clear, but nothing
    found.pictures = [""] * 30
    lines = adapt.summary(found, groups, 0)
    (line,) = adapt.effect_lines(found, lines)
    assert line == (
        "fitted on n pictures: gains in NSS +0.200; loses in CC -0.100, KLD +0.300 (lower is "
        "better); unclear in IG +0.000"
    )
    table = adapt.adaptation_table(found, groups, lines, "set")
    assert re.search(r"^CC .*\] loss *$", table, re.MULTILINE)
    found.rows["n"] = found.rows["before"]  # the identity is kept
    (line,) = adapt.effect_lines(found, adapt.summary(found, groups, 0))
    assert line == "fitted on n pictures: no score changes"
    assert re.search(r"^KLD .*\] loss *$", table, re.MULTILINE)


def test_a_share_of_the_gap_is_given_only_where_there_is_one(rng):
    noise = rng.normal(0, 0.01, 30)
    far = rng.normal(0, 1, 30)
    found = Scored(
        before={"cc": 0.6 + noise, "nss": 1 + far, "kld": 0.5 + noise},
        n={"cc": 0.65 + noise, "nss": 1.1 + far, "kld": 0.4 + noise},
        reference={"cc": 0.7 + noise, "nss": 1.01 + far[::-1], "kld": 0.6 + noise},
    )
    fit = adaptation.AdaptationFit(CHANGED, Interval(1, 1, 1, 30), True)
    groups = [adapt.AdaptedGroup(name, fits) for name, fits in
              (("before", ()), ("n", (fit,)), ("reference", ()))]  # fmt: skip
    found.pictures = [""] * 30
    closed = {
        line["metric"]: line["closed_to_reference"]
        for line in adapt.summary(found, groups, 0) if line["fitted_on"] == "n"
    }  # fmt: skip
    assert closed["cc"] == pytest.approx(0.5)
    assert np.isnan(closed["nss"])  # chance
    assert np.isnan(closed["kld"])  # the reference is worse


# the file


@pytest.fixture
def weights(trained, tmp_path):
    """Return a copy of the tiny weights, beside which files can be written."""
    return shutil.copy(trained, tmp_path / "own.weights.h5")


def test_an_adaptation_is_read_as_it_was_saved(weights):
    path = adaptation.path_of("there", weights)
    assert path.name == "own.there.adapt.json"
    adaptation.save(path, CHANGED, weights, {"n": 50})
    assert adaptation.load(path, weights) == CHANGED
    assert json.loads(path.read_text())["n"] == 50
    assert adaptation.path_of(path, weights) == path


def test_nothing_is_written_into_an_installed_program(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HERE", tmp_path / "site-packages")
    included = tmp_path / "site-packages/weights/mlnet-osie.weights.h5"
    assert adaptation.path_of("own", included) == Path("weights/mlnet-osie.own.adapt.json")
    weights = tmp_path / "weights" / included.name
    assert adaptation.path_of("own", weights).parent == weights.parent


def test_other_weights_are_refused(weights):
    path = adaptation.path_of("there", weights)
    adaptation.save(path, CHANGED, weights, {})
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"fitted to maps of other weights \(own.weights.h5\)"):
        adaptation.load(path, weights)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda card: [card], "is not an adaptation"),
        (lambda card: {**card, "format": "else"}, "is not an adaptation"),
        (lambda card: {**card, "weights": "own.weights.h5"}, r"other weights \(others\)"),
        (lambda card: {**card, "weights": {"name": "x" * 999}}, r"other weights \(x{80}\)"),
        (lambda card: {**card, "parameters": [1.0] * 9}, "its parameters are not contrast"),
        (lambda card: {**card, "parameters": {"contrast": 1.0}}, "its parameters are not"),
        *[
            (
                lambda card, value=value: {
                    **card, "parameters": {**card["parameters"], "blur": value}
                },
                rf"the adaptation's blur is .*{text}.*a number from 0 to 0.1",
            )
            for value, text in [
                (float("nan"), "nan"), (float("inf"), "inf"), (-0.1, "-0.1"), (5000, "5000"),
                ("0.05", "0.05"), (True, "True"), (None, "None"), ([0.05], "0.05"),
            ]
        ],
    ],
)  # fmt: skip
def test_a_file_that_is_no_adaptation_is_refused_in_one_line(weights, tmp_path, change, told):
    path = tmp_path / "odd.adapt.json"
    adaptation.save(path, CHANGED, weights, {})
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=f"(?i){told}") as caught:
        adaptation.load(path, weights)
    assert "\n" not in str(caught.value)
    assert "odd.adapt.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "nested|is not valid JSON"),
        (b" " * 1_000_001, "too large"),
        (None, "No adaptation at"),
    ],
)
def test_a_damaged_file_is_refused(weights, tmp_path, content, told):
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        adaptation.load(path, weights)


# who uses it


@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_test_writes_what_the_pure_function_makes(trained, weights, tmp_path, engine):
    (tmp_path / "in").mkdir()
    for sample in loading.load("synthetic", None, "test"):
        write_image(tmp_path / "in" / sample.name, sample_image(sample))
    adaptation.save(adaptation.path_of("there", weights), CHANGED, weights, {})
    adaptation.save(adaptation.path_of("same", weights), IDENTITY, weights, {})
    lines = []
    for name in (None, "there", "same"):
        asked = {"adaptation": name} if name else {}
        settings = PredictConfig(
            weights=weights, output=tmp_path / str(name), float_maps=True, engine=engine, **asked
        )
        assert predict(replace(settings, images=(str(tmp_path / "in"),)), say=lines.append) == 0
    assert any(line.endswith("own.there.adapt.json") for line in lines)
    plain = sorted((tmp_path / "None").glob("*.npy"))
    assert len(plain) == 4
    for path in plain:
        made, same = (np.load(tmp_path / name / path.name) for name in ("there", "same"))
        np.testing.assert_array_equal(made, CHANGED.apply(np.load(path)))
        assert np.abs(made - np.load(path)).max() > 0.1
        np.testing.assert_array_equal(same, np.load(path))


def test_evaluate_scores_what_the_pure_function_makes(weights, tmp_path):
    path = adaptation.path_of("there", weights)
    adaptation.save(path, CHANGED, weights, {})
    settings = EvaluateConfig(
        dataset="synthetic", metrics="cc,nss,kld", human=False, weights=weights, engine="keras"
    )
    done, plain = (
        evaluate.evaluate(dataclasses.replace(settings, adaptation=name), say=lambda line: None)
        for name in ("there", None)
    )
    split = load_split(settings, "test", evaluate.Notes())
    maps = ModelMaps(weights, "m", 2, 1).maps(split.samples, [shape for _, shape in split.pictures])
    for i, saliency_map in enumerate(maps):
        assert done.rows[0].scores[i] == split.truth(i).score(CHANGED.apply(saliency_map))
        assert plain.rows[0].scores[i] == split.truth(i).score(saliency_map)
    assert done.rows[0].scores != plain.rows[0].scores


def test_evaluate_scores_the_maps_that_the_card_says_and_none_leaves_them(trained, tmp_path):
    path = tmp_path / "blurred.weights.h5"
    shutil.copy(trained, path)
    weight_files.amend(path, {MAP_BLUR: {"blur": 0.05}})
    settings = EvaluateConfig(dataset="synthetic", metrics="cc,nss", weights=path)
    lines = []
    by_card = evaluate.evaluate(settings, lines.append).rows[0].scores
    assert sum("maps get a blur of 5.0% of the diagonal" in line for line in lines) == 1
    own = dataclasses.replace(settings, adaptation="none")
    unchanged = evaluate.evaluate(own, lambda line: None).rows[0].scores
    plain = dataclasses.replace(settings, weights=trained)
    assert unchanged == evaluate.evaluate(plain, lambda line: None).rows[0].scores
    assert by_card != unchanged
    # densities are not blurred, and have a row of their own
    best = dataclasses.replace(settings, optimal=True)
    names = {row.name: row.scores for row in evaluate.evaluate(best, lambda line: None).rows}
    assert names["blurred"] == by_card
    assert names["blurred, density"] != by_card


def test_an_adaptation_that_gained_nothing_leaves_what_the_card_says(weights):
    adaptation.save(adaptation.path_of("own", weights), IDENTITY, weights, {})
    lines = []
    found = finish_of({MAP_BLUR: {"blur": 0.05}}, Path(weights), "own", say=lines.append)
    assert found == Finish(map_blur=0.05)
    assert "changes nothing" in "".join(lines)


def test_gains_are_over_the_maps_that_the_card_says(weights, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "FOLDS", 2)  # for time
    monkeypatch.setattr(adaptation, "SIDE", 24)
    weight_files.amend(Path(weights), {MAP_BLUR: {"blur": 0.05}})
    flags = {"weights": weights, "n": (4,), "output": tmp_path / "out", "metrics": "cc"}
    settings = AdaptConfig.from_flags({**flags, "reference": trained})
    found = adapt.adapt(settings, say=lambda line: None)
    means = {line["fitted_on"]: line["mean"] for line in found["summary"]}
    for name, file in (("before", weights), ("reference", trained)):
        asked = EvaluateConfig(dataset="synthetic", metrics="cc", weights=Path(file))
        done = evaluate.evaluate(asked, say=lambda line: None)
        assert means[name] == pytest.approx(done.rows[0].means["cc"].mean)
    assert means["before"] != pytest.approx(means["reference"])
    notes = "\n".join(found["notes"])
    assert "before: the maps that `test` writes" in notes and "reference: the maps" not in notes
    assert "was trained on 4 of the 4 pictures to fit on" in notes


def test_maps_of_others_have_no_adaptation(tmp_path):
    with pytest.raises(UserError, match="--adaptation belongs to weights"):
        EvaluateConfig(maps=tmp_path, adaptation=tmp_path / "a.json")


def test_weights_without_the_adaptation_asked_for_end_before_anything_is_predicted(
    weights, pictures, tmp_path
):
    settings = PredictConfig(
        weights=weights, output=tmp_path / "out", adaptation="there", engine="keras"
    )
    with pytest.raises(UserError, match=r"No adaptation at .*own\.there\.adapt\.json"):
        predict(replace(settings, images=(str(pictures),)), say=lambda line: None)


# the command


def counted(monkeypatch):
    """Return a list that gets the number of pictures of each call of a network."""
    calls, real = [], keras.Model.predict_on_batch

    def counting(self, x):
        calls.append(len(x))
        return real(self, x)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counting)
    return calls


def test_the_command_fits_scores_writes_and_sees_each_picture_once(
    weights, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(adaptation, "FOLDS", 2)  # for time
    monkeypatch.setattr(adaptation, "SIDE", 24)
    calls, lines = counted(monkeypatch), []
    flags = {"weights": weights, "n": (4, 8), "draws": 2, "output": tmp_path / "out", "seed": 3}
    settings = AdaptConfig.from_flags(
        {**flags, "metrics": "cc,nss", "reference": trained, "engine": "keras"}
    )
    assert settings.dataset == "synthetic"  # what the weights were trained on
    found = adapt.adapt(settings, say=lines.append)
    assert sum(calls) == 12 + 4 + 4  # training, test, and the latter by the reference
    names = ["before", "4", "8", "all", "reference"]
    assert [line["fitted_on"] for line in found["summary"] if line["metric"] == "cc"] == names
    assert [(fit["fitted_on"], fit["draw"]) for fit in found["fits"]] == [
        ("4", 0), ("4", 1), ("8", 0), ("8", 1), ("all", 0),
    ]  # fmt: skip
    written = json.loads((tmp_path / "out/adapt.json").read_text())
    assert written["pictures"] == 4
    assert written["truth"]["sigma_from"].startswith("synthetic: ")
    rows = list(csv.DictReader((tmp_path / "out/adapt.csv").read_text().splitlines()))
    assert len(rows) == len(names) * 2
    assert cv2.imread(str(tmp_path / "out/adapt.png")).shape[0] > 100
    text = "\n".join(lines)
    assert "--adaptation synthetic" in text
    assert "of the gap to reference" in text
    card = json.loads((tmp_path / "own.synthetic.adapt.json").read_text())
    assert (card["n"], card["seed"], card["dataset"]) == (8, 3, "synthetic")
    assert card["command"].startswith("python main.py adapt")
    assert "--n 4 8" in card["command"]
    # the scores told are those that `evaluate` gives the file
    done = evaluate.evaluate(
        EvaluateConfig(
            dataset="synthetic",
            metrics="cc,nss",
            weights=weights,
            adaptation="synthetic",
            engine="keras",
        ),
        say=lambda line: None,
    )
    for metric, mean in card["scores"]["after"].items():
        assert done.rows[0].means[metric].mean == pytest.approx(mean)
    calls.clear()
    again = adapt.adapt(settings, say=lines.append)
    assert repr(again["summary"]) == repr(found["summary"])  # NaN is not itself
    assert sum(calls) == 12  # scores are kept; pictures without a file are seen again


def test_a_strong_centre_bias_is_found_and_scores_rise(weights, tmp_path, monkeypatch):
    everybody_looks_there(monkeypatch, deviation=8)
    settings = AdaptConfig(
        dataset="synthetic", weights=weights, n=(6,), output=tmp_path / "out", name="own-set",
        metrics="cc,nss,auc_judd",
    )  # fmt: skip
    found = adapt.adapt(settings, say=lambda line: None)
    own = adaptation.load(adaptation.path_of("own-set", weights), weights)
    assert (own.centre_x, own.centre_y) == pytest.approx((X / 160, Y / 120), abs=0.04)
    for line in found["summary"]:
        if line["fitted_on"] == "6":
            assert line["gain_low"] > 0
    assert [fit["fitted_on"] for fit in found["fits"]] == ["6"]  # one number: no upper bound


def test_outputs_that_are_kept_are_not_computed_again(trained, tmp_path, picture, monkeypatch):
    samples = []
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture())
        samples.append(Sample(f"{i}.png", tmp_path / f"{i}.png"))
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "kept"))
    calls, shapes = counted(monkeypatch), [(30, 40)] * 3
    first, again, mirrored = (
        ModelMaps(trained, "m", 2, 1, mirror=mirror, keep=True) for mirror in (False, False, True)
    )
    maps = list(first.maps(samples, shapes))
    assert sum(calls) == 3
    for one, other in zip(maps, again.maps(samples, shapes), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(calls) == 3
    list(mirrored.maps(samples, shapes))
    assert sum(calls) == 3 + 6
    for path in (tmp_path / "kept").rglob("*.npz"):
        path.write_bytes(b"torn")
    list(again.maps(samples, shapes))
    assert sum(calls) == 3 + 6 + 3


def test_more_pictures_than_there_are_is_an_error(weights, tmp_path):
    settings = AdaptConfig(dataset="synthetic", weights=weights, n=(5, 13), output=tmp_path / "out")
    with pytest.raises(UserError, match=r"--n 13: the train split of .* 12 pictures.*--n 12\."):
        adapt.adapt(settings, say=lambda line: None)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"split": "train"}, "scored on test only"),
        ({"name": "../elsewhere"}, "becomes part of a file name"),
        ({"name": ""}, "becomes part of a file name"),
        ({"name": "none"}, "--adaptation none has a meaning of its own"),
        ({"n": (1,)}, "--n"),
        ({"draws": 0}, "--draws"),
        ({"objective": "ccc"}, "Unknown objective 'ccc'. Did you mean 'cc'"),
        ({"metrics": "ccc"}, "unknown 'ccc'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_read(wrong, told):
    with pytest.raises(UserError, match=told):
        AdaptConfig.from_flags(wrong)


def test_several_numbers_are_given_as_words():
    assert tuple(parser().parse_args(["adapt", "--n", "5", "10"]).n) == (5, 10)
    words = typed_flags(AdaptConfig(n=(5, 10), draws=3))  # the command in the card
    assert words == ["--n", "5", "10", "--draws", "3"]
