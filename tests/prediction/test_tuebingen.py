"""One HDF5 file of log-densities, and a network as a model of pysaliency."""

import sys
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest

from commands.prediction import tuebingen
from commands.settings import ExportMapsConfig
from model import load_model, predict
from salience.pictures.sample import Sample
from salience.system.errors import UserError


@pytest.fixture
def samples(tmp_path, picture):
    found = []
    for name, shape in (("Action/1.png", (30, 40)), ("Art/2.png", (33, 25))):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), picture(*shape))
        found.append(Sample(name, path))
    return found


def test_the_file_has_a_log_density_for_each_picture_under_its_name(
    cli, samples, tmp_path, trained, monkeypatch
):
    monkeypatch.setattr(tuebingen, "pictures_of", lambda settings: samples)
    monkeypatch.setattr(tuebingen.engines, "choose", lambda *_: "keras")  # ready at once
    words = ["export-maps", "--format", "tuebingen", "--weights", trained, "--output"]
    for half, kind in (("False", np.float32), ("True", np.float16)):
        done = cli(*words, half, "--half", half)
        assert "read again, no problems" in done.stdout
        [path] = (tmp_path / half).iterdir()
        with h5py.File(path) as file:
            for sample in samples:
                made = file[sample.name]
                assert made.dtype == kind
                expected = predict(load_model(trained), sample.image, density=True)
                # half floats round by 1 in 2048
                assert np.allclose(made, expected, atol=1e-5, rtol=5e-4 if half == "True" else 0)
    assert "--overwrite" in cli(*words, half, code=2).stderr
    checked = cli("export-maps", "--format", "tuebingen", "--check", path)
    assert "no problems" in checked.stdout


def test_the_flags_of_one_format_are_refused_with_another():
    for changes in ({"dataset": "osie"}, {"split": "val"}, {"half": True}):
        with pytest.raises(UserError, match="are for --format tuebingen"):
            ExportMapsConfig(**changes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, "is missing"),
        (np.zeros((30, 41)), "30x41, but its picture 30x40"),
        (np.zeros((30, 40), int), "holds int64, not floats"),
        (np.full((30, 40), np.nan), "not logarithms"),
        (np.full((30, 40), -7.0), "logsumexp of 0.0901, and pysaliency takes"),
        (np.full((30, 40), -7.0, np.float16), "try --half False"),
        (np.full((30, 40), -np.log(1200)), None),
    ],
)
def test_each_problem_is_told(samples, tmp_path, values, expected):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        if values is not None:
            file[samples[0].name] = values
        file[samples[1].name] = np.full((33, 25), -np.log(33 * 25), np.float32)
        file["else"] = np.ones(3)
    problems = tuebingen.problems_in(tmp_path / "a.hdf5", samples)
    assert problems[-1] == "'else' is unexpected"
    assert len(problems) == (2 if expected else 1)
    assert expected is None or (expected in problems[0] and samples[0].name in problems[0])


def test_a_file_that_is_not_hdf5_is_one_line(samples, tmp_path):
    (tmp_path / "a.hdf5").write_text("x")
    with pytest.raises(UserError, match="not a file in HDF5"):
        tuebingen.problems_in(tmp_path / "a.hdf5", samples)
    with pytest.raises(UserError, match="no such file"):
        tuebingen.problems_in(tmp_path / "b.hdf5", samples)


def test_half_floats_are_summed_as_pysaliency_sums_them():
    flat = np.full((600, 800), -np.log(480_000)).astype(np.float16)
    assert tuebingen.log_sum(flat) == pytest.approx(0.0034, abs=1e-3)


@pytest.fixture
def without_class():
    import model

    model.pysaliency_model.cache_clear()
    yield model
    model.pysaliency_model.cache_clear()


def test_a_network_is_a_model_of_pysaliency(without_class, monkeypatch, trained, rng):
    """The real pysaliency has an environment of its own: tests/whole/test_pysaliency_agrees.py."""

    class Model:
        def __init__(self, caching=True):
            self.caching = caching

    monkeypatch.setitem(sys.modules, "pysaliency", SimpleNamespace(Model=Model))
    PysaliencyModel = without_class.PysaliencyModel
    assert PysaliencyModel is without_class.PysaliencyModel
    network = load_model(trained)
    rgb = rng.integers(0, 256, (30, 40, 3), np.uint8)
    for one in (PysaliencyModel(str(trained), caching=False), PysaliencyModel(network)):
        assert isinstance(one, Model)
        logs = one._log_density(rgb)
        assert logs.dtype == np.float64
        assert (logs == predict(network, rgb, rgb=True, density=True)).all()
        assert np.exp(logs).sum() == pytest.approx(1, abs=1e-4)
        assert one._log_density(rgb[..., 0]).shape == (30, 40)


def test_without_pysaliency_one_line_says_so(without_class, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysaliency", None)
    with pytest.raises(UserError, match="environment of its own"):
        _ = without_class.PysaliencyModel
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = without_class.Other
