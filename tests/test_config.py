import dataclasses
import re
from pathlib import Path

import pytest
from flag_parser import parse

import config
from commands.settings import EvaluateConfig, PrepareConfig
from config import Config, resolve
from salience.data import loading
from salience.system.errors import UserError


def test_ml_nets_recipe_is_the_published_one():
    resolved = resolve({})
    for name, value in {
        "rows": 480,
        "cols": 640,
        "batch_size": 10,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "nesterov": True,
        "decay": 5e-4,
        "epochs": 20,
        "patience": 5,
        "loss": "mlnet",
        "dropout": 0.5,
    }.items():
        assert getattr(resolved, name) == value
    for system in config.SYSTEMS.values():
        assert system.recipe.keys() <= {field.name for field in dataclasses.fields(Config)}


def test_saved_settings_are_read_back_and_flags_win(tmp_path):
    first = resolve({"rows": 240, "cols": 320, "output": Path("runs/x"), "sigma_pixels": 19.0})
    config.save(first, tmp_path / "config.json")
    assert resolve({}, tmp_path / "config.json") == first
    again = resolve({"rows": 48}, tmp_path / "config.json")
    assert again == dataclasses.replace(first, rows=48)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"row": 3}', "unknown field 'row'. Did you mean 'rows'"),
        ('{"rows": "3"}', "field 'rows' is '3', but int is expected"),
        ('{"rows": true}', "field 'rows' is True, but int is expected"),
        ('{"freeze_backbone": "False"}', "bool is expected"),
        ("[1]", "holds no settings"),
        ("{", "is not valid JSON"),
    ],
)
def test_ill_typed_files_are_refused(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=message):
        resolve({}, tmp_path / "c.json")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rows": -480}, "--rows -480 is too small"),
        ({"cols": 321}, "--cols 321 is not a multiple of 8.* Try 320"),
        ({"epochs": 0}, "--epochs 0 is too small"),
        ({"dropout": 1.0}, "drops everything"),
        ({"learning_rate": float("nan")}, "--learning_rate nan"),
        ({"model": "mlnett"}, "Unknown model 'mlnett'. Did you mean 'mlnet'"),
        ({"dataset": "osi"}, "Unknown dataset 'osi'. Did you mean 'osie'"),
        ({"loss": "kl"}, "unknown 'kl'"),
        ({"dataset": ("osie", "osie")}, "names a data set twice"),
        ({"dataset": ("osie", "folder"), "mix": (1.0,)}, "--mix 1: one positive share for each"),
        ({"dataset": ("osie", "folder"), "mix": (1.0, 0.0)}, "one positive share"),
        ({"dataset": ("synthetic",), "data": (Path("x"),)}, "--data names 1 folders"),
        ({"init_weights": Path("w"), "backbone_weights": "none"}, "leave out --.*weights none"),
        ({"light": True}, "--light is for resnet50-decoder; mlnet has no such decoder"),
        (
            {"fixed_blocks": 4, "backbone": "resnet50"},
            "resnet50 has 4 blocks. Choose at most 3",
        ),
        ({"fixed_blocks": 5}, "--fixed_blocks 5"),
        ({"model": "salnet-deep", "fixed_blocks": 1}, "--fixed_blocks is for mlnet"),
        ({"model": "salnet-deep", "backbone": "resnet50"}, "resnet50 does not fit salnet-deep"),
        ({"backbone": "resnet50", "theano_pooling": True}, "is for mlnet on vgg16 or vgg19"),
        ({"model": "multiscale", "scales": ()}, "--scales and --readout each need"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave no picture to train on"),
        ({"folds": 1}, "at least 2 folds"),
        ({"folds": 5, "fold": 5}, "the fold counts from 0"),
    ],
)
def test_values_out_of_range_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        resolve(flags)


def test_each_data_set_gets_its_folder_in_order():
    flags = parse("--dataset", "osie", "synthetic", "folder", "--data", "a", "b", "--mix=1")
    assert flags == {
        "dataset": ["osie", "synthetic", "folder"], "data": [Path("a"), Path("b")], "mix": [1.0],
    }  # fmt: skip
    made = Config(dataset=("osie", "synthetic", "folder"), data=(Path("a"), Path("b")))
    assert made.sets == [("osie", Path("a")), ("synthetic", None), ("folder", Path("b"))]
    assert Config(dataset="osie", data=Path("a")).sets == [("osie", Path("a"))]


def test_settings_of_another_system_are_no_recipe(tmp_path):
    config.save(resolve({}), tmp_path / "c.json")
    with pytest.raises(UserError, match=r"c\.json holds the settings of mlnet"):
        resolve({"model": "salnet-half"}, tmp_path / "c.json")


def test_files_from_before_there_were_several_sets_are_read(tmp_path):
    (tmp_path / "c.json").write_text('{"dataset": "osie", "data": "a"}')
    assert resolve({}, tmp_path / "c.json").sets == [("osie", Path("a"))]
    (tmp_path / "c.json").write_text('{"dataset": "synthetic", "data": null}')
    assert resolve({}, tmp_path / "c.json").sets == [("synthetic", None)]


def test_a_preparation_divides_as_the_systems_recipe_does():
    """What was prepared with other shares would be refused by the training that it is for."""
    for model in config.SYSTEMS:
        trained, made = resolve({"model": model}), PrepareConfig.from_flags({"model": model})
        assert (made.plan, made.sigma_pixels) == (trained.plan, trained.sigma_pixels)
    assert PrepareConfig.from_flags({"model": "salnet-deep", "test_share": 0.3}).test_share == 0.3


def test_a_run_is_named_by_what_it_transfers():
    names = {
        (frozen, weights): Config(freeze_backbone=frozen, backbone_weights=weights).name
        for frozen in (True, False)
        for weights in (None, "none")
    }
    assert names == {
        (True, None): "mlnet-frozen-osie",
        (False, None): "mlnet-finetuned-osie",
        (True, "none"): "mlnet-scratch-frozen-osie",
        (False, "none"): "mlnet-scratch-osie",
    }
    assert Config().run_folder == Path("runs/mlnet-frozen-osie")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"distance_cm": 60.0}, "belong together; add --screen_cm and --screen"),
        ({"screen_cm": "50", "screen": "1920x1080"}, "belong together; add --distance_cm"),
        ({"screen": "1920x1080"}, "--screen needs --distance_cm and --screen_cm"),
        ({"pixels_per_degree": 35.0, "distance_cm": 60.0}, "leave out --distance_cm"),
        ({"distance_cm": 60.0, "screen_cm": "50 cm", "screen": "1920x1080"}, "--screen_cm 50 cm: "),
        ({"distance_cm": 60.0, "screen_cm": "0.5", "screen": "1920x1080"}, "in centimetres?"),
        ({"distance_cm": 60.0, "screen_cm": "50x50", "screen": "1920x1080"}, "but 21.6 of height"),
    ],
)
def test_flags_that_do_not_give_a_degree_are_told(flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        EvaluateConfig(dataset="folder", **flags)


def test_a_degree_of_the_scoring_replaces_the_gaussian_of_the_training(monkeypatch):
    trained = Config(dataset=("folder",), sigma_pixels=20.0)
    monkeypatch.setattr(EvaluateConfig, "training", lambda self: trained)
    assert EvaluateConfig.from_flags({"dataset": "folder"}).gaussian_pixels == 20
    given = EvaluateConfig.from_flags({"dataset": "folder", "pixels_per_degree": 35.0})
    assert (given.sigma_pixels, given.gaussian_pixels) == (None, 35)
    screen = {"distance_cm": 60.0, "screen_cm": "53.1x29.9", "screen": "1920x1080"}
    by_screen = EvaluateConfig.from_flags({"dataset": "folder", **screen})
    assert by_screen.gaussian_pixels == pytest.approx(1920 / 53.1 * 60 * 2 * 0.0087269, abs=1e-2)


@pytest.mark.parametrize("name", config.DATASETS)
def test_a_set_says_where_its_gaussian_comes_from(name):
    assert len(loading.sigma_origin(name).split()) > 2
