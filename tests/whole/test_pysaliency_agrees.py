"""pysaliency itself reads what goes out, scores as we do, and writes what comes back.

It needs older versions of NumPy and setuptools, so it runs in an environment of its own:
`make pysaliency`, or PYSALIENCY_PYTHON names another one's Python.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, SHARED, needs

from salience.data import hdf5, loading
from salience.data.plan import SPLITS
from salience.measures import metrics
from salience.measures.references import TruthSplit
from salience.pictures.fixations import pixels

PYTHON = Path(os.environ.get("PYSALIENCY_PYTHON", PROJECT / ".venv-pysaliency/bin/python"))
ABSENT = not PYTHON.exists() and "REQUIRE_PYSALIENCY" not in os.environ
OSIE = SHARED / "osie"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ABSENT, reason=f"pysaliency: {PYTHON} is absent; make pysaliency"),
]


def probe(*words):
    """Return what pysaliency says."""
    done = subprocess.run(
        [PYTHON, PROJECT / "tests/helpers/pysaliency_probe.py", *map(str, words)],
        capture_output=True, text=True, timeout=1800,
        env={**os.environ, "KERAS_BACKEND": "torch", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def exported(cli, tmp_path):
    """Return the folder of a few of OSIE's pictures, exported; and those as they were."""
    cli("data", "subset", "--dataset", "osie", "--data", OSIE, "--n", 10, "--output", "few")
    cli("data", "export", "--dataset", "folder", "--data", "few", "--output", "out")
    return tmp_path / "out"


def assert_equal(ours, theirs):
    assert [s.name for s in ours] == [s.name for s in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.fixations, other.fixations)
        assert np.array_equal(one.subjects, other.subjects)
        assert one.times is other.times is None


@needs(OSIE)
@pytest.mark.parametrize("stimuli", ["files", "pixels"])
def test_what_pysaliency_reads_and_writes_again_is_equal_to_the_bit(cli, tmp_path, stimuli):
    cli("data", "subset", "--dataset", "osie", "--data", OSIE, "--n", 10, "--output", "few")
    words = ["data", "export", "--dataset", "folder", "--data", "few", "--output", "out"]
    cli(*words, "--stimuli", stimuli)
    told = probe("rewrite", tmp_path / "out", tmp_path / "again")
    assert told["stimuli"] == ("Stimuli" if stimuli == "pixels" else "FileStimuli")
    assert told["fixations"] == "FixationTrains"
    assert told["shapes"] == told["read"] == [[600, 800, 3]] * 10
    first = [s for split in SPLITS for s in loading.load("folder", tmp_path / "few", split)]
    points = np.concatenate([s.fixations for s in first])
    assert np.array_equal(np.array([told["x"], told["y"]]).T, points.astype(float) + 0.5)
    assert told["pixels"] == pixels(points, (600, 800))[:, ::-1].tolist()
    for split in SPLITS:
        theirs = loading.load("folder", tmp_path / "few", split)
        for folder in ("out", "again"):
            ours = loading.load("pysaliency", tmp_path / folder, split)
            if stimuli == "files":
                assert_equal(ours, theirs)
            else:  # pixels have no file, and so no suffix of one
                assert all(np.array_equal(a.fixations, b.fixations)
                           for a, b in zip(ours, theirs, strict=True))  # fmt: skip


@needs(OSIE)
def test_pysaliency_scores_the_densities_as_we_do(cli, exported, tmp_path, trained, monkeypatch):
    monkeypatch.setattr("commands.prediction.engines.choose", lambda *_: "keras")
    words = ["export-maps", "--format", "tuebingen", "--dataset", "pysaliency", "--split", "train"]
    cli(*words, "--data", exported, "--weights", trained, "--output", "maps")
    [densities] = (tmp_path / "maps").glob("*.hdf5")
    samples = loading.load("pysaliency", exported, "train")
    split, rows = TruthSplit(samples, ("ig",), human=False), []
    with hdf5.open_checked(densities) as file, hdf5.writing(tmp_path / "base.hdf5") as base:
        for index, sample in enumerate(samples):
            density = np.exp(file[sample.name][...].astype(float))
            baseline = np.asarray(split.baseline(index), np.float64)
            baseline /= baseline.sum()
            base[sample.name] = np.log(baseline)
            rows.append({
                "ig": metrics.ig(density, sample.fixations, baseline),
                "ll": metrics.ig(density, sample.fixations, np.ones_like(density)),
                "nss": metrics.nss(density, sample.fixations),
                "auc": metrics.auc_judd(density, sample.fixations),
            })  # fmt: skip
    told = probe("score", exported, densities, tmp_path / "base.hdf5", "train")
    assert told.pop("pictures") == len(samples) >= 5
    ours = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    assert told == pytest.approx(ours, abs=1e-6)


@needs(OSIE)
def test_a_network_is_a_model_of_pysaliency(cli, exported, tmp_path, trained, monkeypatch):
    monkeypatch.setattr("commands.prediction.engines.choose", lambda *_: "keras")
    words = ["export-maps", "--format", "tuebingen", "--dataset", "pysaliency"]
    cli(*words, "--data", exported, "--weights", trained, "--output", "maps")
    [densities] = (tmp_path / "maps").glob("*.hdf5")
    told = probe("model", exported, densities, trained, PROJECT)
    assert told["is_model"]
    # TensorFlow and OpenCV's JPEG there, PyTorch and Pillow's here
    assert told["difference"] < 0.05
