"""The scripts of `examples/`: what `make demo` and `make weights` run."""

import importlib.util
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import PROJECT, SHARED, needs

import main
from config import TrainConfig
from model import load_model, predict
from salience.data import loading
from salience.measures.adaptation import IDENTITY
from salience.measures.density import CALIBRATION, calibration_of
from salience.measures.finish import GENERAL, MAP_BLUR
from salience.measures.metrics import cc
from salience.networks import weight_files
from salience.pictures.picture_files import read_image
from salience.pictures.reading import sample_density


def script(name):
    """Return a script of the folder as a module."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_photographs_are_written_in_their_colours(tmp_path):
    script("write_photographs").main(tmp_path)
    assert len(list(tmp_path.glob("*.jpg"))) == 4
    rocket = read_image(tmp_path / "rocket.jpg")
    assert rocket.shape == (427, 640, 3)
    assert rocket[5, 5, 0] > rocket[5, 5, 2] + 30  # the sky is blue, the first channel


@pytest.mark.parametrize("network", ["mlnet", "multiscale"])
def test_stages_of_the_weights_in_the_box_are_trainings_that_fit_together(network):
    recipe = script("train_weights").RECIPES[network]
    assert {name.split("/")[0] for name in recipe.averaged} < set(recipe.stages)
    configs = []
    for words in recipe.stages.values():
        flags = vars(main.parser().parse_args(["train", *words]))
        assert flags.pop("command") == "train"
        configs.append(TrainConfig.from_flags(flags).run)
    head, *others = configs
    assert head.freeze_backbone and not any(config.freeze_backbone for config in others)
    for config in others:
        assert config.model == head.model == network
        # the weights of the first are the start of the others: its prior's shape is theirs
        assert [n // 8 // 10 for n in head.input_shape] == [
            n // 8 // 10 for n in config.input_shape
        ]
        assert "osie" in config.dataset and config.split_seed == head.split_seed


def test_their_card_tells_how_they_came_about_and_no_paths(trained, tmp_path):
    examples = script("train_weights")
    output = tmp_path / "mlnet-osie.weights.h5"
    one = Path(shutil.copy(trained, tmp_path / "one.weights.h5"))
    nine = {"parameters": vars(IDENTITY)}
    of_one = {CALIBRATION: nine, GENERAL: nine, MAP_BLUR: {"blur": 0.05}, "box": {}}
    weight_files.amend(one, of_one)
    examples.save("mlnet", [one, trained], output, {"val": {"cc": 0.5}}, {"test": ["1.jpg"]})
    card = weight_files.read_card(output)
    assert card == json.loads((tmp_path / "mlnet-osie.json").read_text())
    assert set(examples.ABOUT) < set(card)
    assert not of_one.keys() & card.keys()
    assert weight_files.validation_cc(card) == 0.5
    assert [line.split()[:2] for line in card["trained"]] == [["main.py", "train"]] * 3
    assert str(Path(trained).parent) not in json.dumps(card)
    assert card["held_out"] == {"test": ["1.jpg"]}
    # the mean of equal weights is those weights
    for found, wanted in zip(
        load_model(output).trainable_weights, load_model(trained).trainable_weights, strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "sets"), [("mlnet", ["osie"]), ("multiscale", ["osie", "eyecrowd"])]
)
def test_finished_weights_are_scored_on_each_set_with_test_pictures(
    tmp_path, monkeypatch, network, sets
):
    examples = script("train_weights")
    asked = []

    def evaluate(*words):
        asked.append(words)
        row = {"kind": "model", "means": {name: {"mean": 0.12346} for name in examples.SCORES}}
        found = {"pictures": 7, "rows": {"a network": row}}
        folder = words[words.index("--output") + 1]
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(found))

    monkeypatch.setattr(examples, "call", evaluate)
    folders = {"osie": Path("o"), "eyecrowd": Path("e")}
    recipe = examples.RECIPES[network]
    # no test picture of a set is left by --test_share 0
    for stage in recipe.stages.values():
        kept_back = ["osie"] if "--test_share" in stage else ["osie", "eyecrowd"]
        assert set(sets) <= set(kept_back)
    found = examples.scores_on(folders, Path("w"), recipe, tmp_path)
    assert list(found) == sets
    for name, words in zip(sets, asked, strict=True):
        assert ("--set" in words) == recipe.has_sets
        flags = vars(main.parser().parse_args([str(word) for word in words]))
        assert (flags["dataset"], flags["data"]) == (name, Path(folders[name]))
        assert flags.get("of_set") == (name if recipe.has_sets else None)
        own = {"set": name} if recipe.has_sets else {}
        expected = {"split": "test", "pictures": 7, "cc": 0.1235, **own}
        assert {key: found[name][key] for key in expected} == expected
    assert weight_files.scores_by_set({weight_files.SCORES_ON: found}) == found


def test_a_stage_that_fails_ends_the_script(monkeypatch):
    examples = script("train_weights")
    with pytest.raises(SystemExit) as ended:
        examples.call("train", "--dataset", "osie", "--data", "nowhere")
    assert ended.value.code == 2


def test_without_its_split_the_training_does_not_begin(tmp_path, monkeypatch):
    """On another split, pictures that weights have learnt from would test them."""
    examples = script("train_weights")
    monkeypatch.setattr("sys.argv", ["train_weights.py", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match=r"split\.json is missing"):
        examples.main(examples.parsed())


# least CC, NSS and AUC on OSIE's test pictures
BOX = {"mlnet-osie": (0.80, 3.15, 0.91), "multiscale-osie": (0.79, 3.4, 0.917)}


@pytest.mark.parametrize("name", BOX)
def test_the_weights_in_the_box_are_whole_small_and_say_what_they_are(name):
    shipped = PROJECT / "weights" / f"{name}.weights.h5"
    assert shipped.stat().st_size <= 35e6
    card = weight_files.read_card(shipped)
    assert card == json.loads(shipped.with_name(f"{name}.json").read_text(encoding="utf-8"))
    scores = [card["scores"]["test"][metric] for metric in ("cc", "nss", "auc_judd")]
    assert all(score >= least for score, least in zip(scores, BOX[name], strict=True))
    calibration = calibration_of(card, shipped)
    assert calibration is not None
    # a network that was trained by the likelihood of fixations needs no calibration
    assert (calibration == IDENTITY) == (name == "multiscale-osie")
    fitted_on = [card[CALIBRATION][name] for name in ("dataset", "split", "pictures")]
    assert fitted_on == ["osie", "val", len(card["held_out"]["val"])]
    assert card[CALIBRATION]["gain"]["mean"] > (0.02 if calibration != IDENTITY else -0.01)
    kinds = set()
    with h5py.File(shipped) as file:
        file.visititems(lambda name, item: kinds.add(getattr(item, "dtype", None)))
    assert kinds - {None} == {np.dtype("float16")}


@pytest.mark.slow
@needs(SHARED / "osie")
@pytest.mark.parametrize("name", BOX)
def test_the_weights_in_the_box_score_what_their_card_says_on_pictures_of_the_test_split(name):
    """On the first 5, whose mean is 0.757 for one network and 0.778 for the other."""
    model = load_model(PROJECT / "weights" / f"{name}.weights.h5")
    scores = []
    for sample in loading.load("osie", SHARED / "osie", "test")[:5]:
        saliency_map = predict(model, sample.image)
        scores.append(cc(saliency_map, sample_density(sample, saliency_map.shape, None)))
    assert np.mean(scores) > 0.75
