"""What Keras' own settings file asks for does not reach the networks."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import PROJECT

from commands import settings
from commands.evaluation.map_sources import LEAST_FOR_COPY, engine_for
from commands.prediction import engines
from model import load_model
from salience.system import quiet
from salience.system.errors import UserError


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Write a settings file as of a user's home, as Keras would read it anew."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.delitem(sys.modules, "keras")

    def write(settings):
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (tmp_path / "keras.json").write_text(text)

    yield write
    sys.modules["keras"] = keras


@pytest.mark.parametrize("backend", ["theano", "cntk", "openvino", "numpy", "tensorfow", 3, [], ""])
def test_a_backend_that_is_not_there_or_cannot_train_is_named_in_a_line(asked, backend):
    asked({"backend": backend})
    with pytest.raises(UserError, match=r"keras\.json asks for the backend .*KERAS_BACKEND="):
        quiet.import_keras()


def test_a_backend_that_the_environment_names_goes_before_the_file(asked, monkeypatch):
    asked({"backend": "theano"})
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setitem(sys.modules, "keras", keras)
    quiet.import_keras()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"image_dim_ordering": "th"}'])
def test_a_file_that_names_no_backend_is_left_to_keras(asked, text):
    asked(text)
    sys.modules["keras"] = keras
    quiet.import_keras()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"floatx": "bfloat16"}, {"epsilon": 1}, []])
def test_what_keras_does_not_take_from_its_file_is_one_line(tmp_path, settings):
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, PROJECT / "main.py", "train", "--dataset", "synthetic", "--output", "a"],
        cwd=tmp_path,
        env={**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Keras does not take") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("floatx", ["float16", "float64"])
def test_a_network_is_the_same_whatever_keras_is_set_to_and_the_settings_stay(trained, floatx):
    picture = np.random.default_rng(0).integers(0, 256, (1, *load_model(trained).input_shape[1:]))
    before = load_model(trained).predict_on_batch(picture.astype("uint8"))
    kept = keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()
    try:
        keras.config.set_floatx(floatx)
        keras.config.set_epsilon(1e-3)
        keras.config.set_image_data_format("channels_first")
        model = load_model(trained)
        assert keras.config.floatx() == floatx
        assert keras.config.epsilon() == 1e-3
        assert keras.config.image_data_format() == "channels_first"
        after = model.predict_on_batch(picture.astype("uint8"))
    finally:
        keras.config.set_floatx(kept[0])
        keras.config.set_epsilon(kept[1])
        keras.config.set_image_data_format(kept[2])
    assert after.dtype == before.dtype == np.float32
    assert np.array_equal(before, after)


def test_the_seconds_of_the_import_are_announced_and_only_they(monkeypatch):
    said = []
    monkeypatch.setattr(quiet, "import_keras", lambda: None)
    monkeypatch.setitem(sys.modules, "keras", keras)
    quiet.start_keras(said.append)
    assert said == []
    monkeypatch.delitem(sys.modules, "keras")
    quiet.start_keras(said.append)
    assert said == [quiet.STARTING]
    monkeypatch.setattr(quiet, "find_spec", lambda name: None)  # Keras is missing
    quiet.start_keras(said.append)
    assert said == [quiet.STARTING]


def test_settings_that_come_from_weights_need_no_keras(monkeypatch, trained, capsys):
    for name in ("keras", "model", "utilities"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    assert settings.training_of(trained, trained.parent).dataset == ("synthetic",)
    assert capsys.readouterr().out == ""


def test_scoring_announces_keras_only_where_it_predicts(monkeypatch, trained):
    monkeypatch.setattr(quiet, "import_keras", lambda: None)
    monkeypatch.setattr(engines, "has_gpu", lambda say=None: False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.delitem(sys.modules, "keras")
    said = []
    few = LEAST_FOR_COPY - 1
    assert engine_for("auto", few, [trained], said.append) == "auto"  # ncnn runs it
    monkeypatch.setattr(engines, "direct_settings", lambda weights: None)
    assert engine_for("auto", LEAST_FOR_COPY, [trained], said.append) == "auto"
    assert said == []
    assert engine_for("auto", few, [trained], said.append) == "keras"
    assert said == [quiet.STARTING]
