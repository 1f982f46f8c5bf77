"""Adapting the numbers inside a network: what is fitted, its file, and all who use it."""

import json
import subprocess

import numpy as np
import pytest
from one_place import everybody_looks_there

from commands.evaluation import adapt, evaluate
from commands.evaluation.map_sources import RowMaps
from commands.prediction import engines
from commands.prediction.export import finish_for
from commands.settings import AdaptConfig, EvaluateConfig, ExportConfig
from config import resolve, to_json
from main import parser
from model import load_model
from salience.measures import adaptation
from salience.measures.adaptation import BOUNDS, IDENTITY, Adaptation, SetNumbers, fit_adaptation
from salience.measures.finish import Finish, finish_of
from salience.measures.row_fit import FeaturesAndTruth, in_network
from salience.networks import multiscale, weight_files
from salience.networks.multiscale import ReadoutRows
from salience.system.cache import default_cache
from salience.system.errors import UserError

SETS = ("synthetic", "osie")
SMALL = resolve({
    "model": "multiscale", "rows": 64, "cols": 96, "width": 0.05, "readout": (8, 4),
    "backbone_weights": "none", "dropout": 0.0, "dataset": SETS,
})  # fmt: skip
AWAY = {"contrast": 2.0, "centre_x": 0.3, "centre_power": 2.0, "scale_1": 3.0}  # of a set's numbers


@pytest.fixture(scope="module")
def network():
    """Return a network of random weights, whose sets differ."""
    rng, made = np.random.default_rng(0), multiscale.build(SMALL)
    layer = made.get_layer("density")
    layer.numbers.assign(rng.normal(0, 0.05, layer.numbers.shape))
    for kernel in layer.kernels:
        kernel.assign(rng.normal(0, 0.8, kernel.shape))
    return made


@pytest.fixture(scope="module")
def rows(network):
    return ReadoutRows(network)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """Return the network's weights file; each test's adaptation has a name of its own."""
    path = tmp_path_factory.mktemp("weights") / "own.weights.h5"
    card = {"model": "multiscale", "config": to_json(SMALL), "dataset": "+".join(SETS)}
    weight_files.save(network, path, card)
    return path


def scenes(count, seed=0):
    """Return pictures of a few large blots on noise; one is upright, between black borders."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 60, (count, 64, 96, 3), dtype=np.uint8)
    for picture in x:
        for top, left in rng.integers(0, (48, 80), (3, 2)):
            picture[top : top + 16, left : left + 16] += rng.integers(60, 190, 3, dtype=np.uint8)
    x[0, :, :28] = x[0, :, 68:] = 0  # ends in the middle of cells
    return x


def away(rows):
    """Return the numbers of a set that differs from the mean."""
    return SetNumbers({**rows.numbers(rows.mean).values, **AWAY})


def looked_at(rows, numbers, count, seed, fixations=150):
    """Return pictures whose fixations are drawn from the density by a row of numbers."""
    rng = np.random.default_rng(seed)
    found = []
    features = rows.features(scenes(count, seed))
    for own, density in zip(
        features, rows.densities(features, rows.place(numbers)[None]), strict=True
    ):
        share = density[0].astype(float).ravel() / density[0].astype(float).sum()
        counts = rng.multinomial(fixations, share).reshape(density[0].shape)
        found.append(FeaturesAndTruth(own.astype(np.float16), counts))
    return found


def test_rows_that_are_fitted_are_those_of_the_network(network, rows):
    """The fit has no forward pass of its own."""
    x, numbers = scenes(3), away(rows)
    features = rows.features(x)
    assert features.shape == (3, 8, 12, rows.channels)
    beside = rows.place(numbers)
    beside[-1] += 0.1  # other weights of the scales, so that not all rows share their logits
    places = np.stack([rows.mean, rows.place(numbers), beside])
    made = np.stack(list(rows.densities(features, places)))
    chosen = (None, numbers, rows.numbers(beside))
    for i, own in enumerate(chosen):
        expected = np.asarray(multiscale.with_set(network, SETS, own)(x))[..., 0]
        np.testing.assert_allclose(made[:, i], expected, rtol=2e-4, atol=1e-7)
    assert np.abs(made[:, 0] - made[:, 1]).max() > 0.01
    # a set of the training, named or by its numbers
    osie = SetNumbers(multiscale.numbers_of(network, SETS)["osie"])
    by_name, by_numbers = (
        np.asarray(multiscale.with_set(network, SETS, own)(x)) for own in ("osie", osie)
    )
    np.testing.assert_allclose(by_name, by_numbers, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_numbers_are_found_and_foretell_unseen_pictures(rows):
    truth = away(rows)
    fitting = in_network(rows)
    fit = fit_adaptation(looked_at(rows, truth, 12, 1), 0, "ig", fitting)
    assert fit.kept and isinstance(fit.adaptation, SetNumbers)
    assert fit.adaptation.values["centre_x"] == pytest.approx(0.3, abs=0.1)  # of 0.5
    unseen = looked_at(rows, truth, 12, 2)
    by_mean, by_fit, by_truth = (
        fitting.values(own, unseen, "ig").mean() for own in (IDENTITY, fit.adaptation, truth)
    )
    assert by_fit - by_mean > 0.8 * (by_truth - by_mean) > 0.1
    assert "numbers in the network: contrast" in adaptation.fit_line(fit)


@pytest.mark.slow
def test_the_mean_is_kept_where_nothing_is_gained(rows):
    mean = rows.numbers(rows.mean)
    fit = fit_adaptation(looked_at(rows, mean, 6, 3, 30), 0, "ig", in_network(rows))
    assert (fit.kept, fit.adaptation) == (False, IDENTITY)


# the file


def test_a_file_has_numbers_in_the_network_or_on_the_map(rows, weights):
    path, numbers = adaptation.path_of("either", weights), away(rows)
    adaptation.save(path, numbers, weights, {"n": 50})
    assert adaptation.load(path, weights) == numbers
    assert json.loads(path.read_text())["numbers"]["contrast"] == 2.0
    found = finish_of({}, weights, "either")
    assert found == Finish(calibration=IDENTITY, numbers=numbers)
    with pytest.raises(UserError, match="replace those of --set osie: leave one"):
        finish_of({}, weights, "either", "osie")
    on_map = Adaptation(contrast=2.0, centre_share=0.2)  # as all files were written before
    adaptation.save(path, on_map, weights, {})
    assert json.loads(path.read_text())["parameters"].keys() == BOUNDS.keys()
    assert finish_of({}, weights, "either", "osie") == Finish(on_map, 0.0, on_map, "osie")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"contrast": "high"}, "odd.adapt.json: the adaptation's contrast is 'high'"),
        ({"contrast": True}, "the adaptation's contrast is 'True'"),
        ({"contrast": 2.0}, "numbers are not contrast, blur"),
        ({**AWAY, "contrast": -1.0}, "The adaptation's contrast is -1, out of its range"),
        ({"first_share": 1.0, **AWAY}, "The adaptation's first_share is 1, out of its range"),
        ({str(i): 0.0 for i in range(101)}, "has 101 numbers of a data set"),
    ],
)
def test_odd_numbers_are_refused_in_one_line(rows, weights, values, told):
    path = weights.with_name("odd.adapt.json")
    adaptation.save(path, away(rows), weights, {})
    card = json.loads(path.read_text())
    whole = values.keys() >= AWAY.keys()
    card["numbers"] = {**card["numbers"], **values} if whole else values
    path.write_text(json.dumps(card))
    with pytest.raises(UserError, match="(?i)" + told) as caught:
        multiscale.row_at(adaptation.load(path, weights), 2)
    assert "\n" not in str(caught.value)


# the users


@pytest.mark.slow
def test_an_exported_engine_has_the_numbers(rows, weights):
    numbers, x, lines = away(rows), scenes(2), []
    adaptation.save(adaptation.path_of("baked", weights), numbers, weights, {})
    own = engines.load_adapted("openvino", weights, "baked", False, lines.append, density=True)
    assert (own.name, own.finish.numbers, own.calibration) == ("openvino", numbers, IDENTITY), lines
    expected = np.asarray(load_model(weights, adaptation="baked")(x))
    np.testing.assert_allclose(own.maps(x), expected, atol=1e-4 * expected.max())
    assert np.abs(expected - np.asarray(load_model(weights)(x))).max() > 0.1 * expected.max()
    made = default_cache().shelf(engines.key("openvino", weights, numbers)).folder / "made"
    card = json.loads((made / "network.xml.json").read_text())
    assert card["numbers"] == numbers.values
    assert sorted(path.suffix for path in made.iterdir()) == [".bin", ".json", ".xml"]


def test_a_copy_of_the_network_is_made_and_kept_by_its_numbers(rows, weights, monkeypatch):
    """The process that exports is given the numbers of which the key is made."""
    numbers, given = away(rows), []

    def run(words, **about):
        asked = vars(parser().parse_args(words[2:]))
        settings = ExportConfig(of_set=asked.get("of_set"), adaptation=asked.get("adaptation"))
        given.append(finish_for(settings, weights).numbers)
        return subprocess.CompletedProcess(words, 1, "", "error: enough")

    monkeypatch.setattr(engines.subprocess, "run", run)
    for own in (numbers, "osie", None):
        with pytest.raises(UserError, match="enough"):
            engines.exported_engine("openvino", weights, lambda line: None, own)
    assert given == [numbers, "osie", None]
    close = SetNumbers({**numbers.values, "contrast": 2.0 + 1e-9})
    keys = {engines.key("openvino", weights, one) for one in (None, "osie", numbers, close)}
    assert len(keys) == 4


def test_numbers_on_the_map_are_no_part_of_an_export(weights, cli):
    adaptation.save(adaptation.path_of("map", weights), Adaptation(blur=0.01), weights, {})
    done = cli("export", "--weights", weights, "--adaptation", "map", code=2)
    assert "--adaptation map changes finished maps, which an exported network" in done.stderr


@pytest.mark.parametrize("where", ["auto", pytest.param("maps", marks=pytest.mark.slow)])
def test_the_command_fits_numbers_in_the_network_or_on_maps(
    weights, tmp_path, picture, monkeypatch, where
):
    name = f"by-{where}"
    everybody_looks_there(monkeypatch, deviation=12)
    monkeypatch.setattr(adaptation, "FOLDS", 2)  # for time
    monkeypatch.setattr(adaptation, "SIDE", 24)
    about = {"dataset": "synthetic", "metrics": "nss", "weights": weights}
    settings = AdaptConfig(**about, n=(6,), numbers=where, name=name, output=tmp_path / "out")
    found = adapt.adapt(settings, say=lambda line: None)
    assert found["summary"][1]["gain"] > 0.1
    own = finish_of({}, weights, name)
    assert isinstance(own.numbers, SetNumbers) == (where == "auto")
    # the scores told are those that `evaluate` gives the file
    done = evaluate.evaluate(EvaluateConfig(**about, adaptation=name), say=lambda line: None)
    told = json.loads(adaptation.path_of(name, weights).read_text())["scores"]
    assert done.rows[0].means["nss"].mean == pytest.approx(told["after"]["nss"], rel=1e-4)


def test_features_are_computed_once_for_all_rows(rows, weights, tmp_path, picture, monkeypatch):
    import cv2

    from salience.pictures.sample import Sample

    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "kept"))
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    samples, source = [Sample("a.png", tmp_path / "a.png")], RowMaps(weights, "m", 2, 1)
    (before,) = source.maps(samples, [(30, 40)])
    monkeypatch.setattr(source.rows, "trunk", None)
    (after,) = source.with_numbers(away(rows)).maps(samples, [(30, 40)])
    assert not np.allclose(before, after)
    assert source.fingerprint() != source.with_numbers(away(rows)).fingerprint()


def test_networks_without_numbers_of_sets_are_told(trained, tmp_path):
    settings = AdaptConfig(
        dataset="synthetic", weights=trained, n=(4,), numbers="network", output=tmp_path / "out"
    )
    with pytest.raises(UserError, match="--numbers network: mlnet has no numbers of data sets"):
        adapt.adapt(settings, say=lambda line: None)
    numbers = SetNumbers({"contrast": 2.0})
    with pytest.raises(UserError, match="--adaptation with numbers in the network: mlnet has no"):
        engines.load("openvino", trained, lambda line: None, numbers)
