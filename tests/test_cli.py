"""The program as its users start it: by its words, from another folder."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import PROJECT, TINY

FLAGS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))] + [
    "--rows",
    "120",
    "--cols",
    "160",
]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train"],
        ["test"],
        ["demo"],
        ["evaluate"],
        ["compare"],
        ["export"],
        ["export-maps"],
        ["data", "check"],
        ["data", "prepare"],
        ["data", "subset"],
    ],
)
def test_help_is_complete_without_loading_a_network(words):
    """Under a second, because neither Keras nor TensorFlow nor OpenCV is imported."""
    code = (
        "import sys, main\n"
        "try: main.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'keras', 'tensorflow', 'cv2', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert "usage: main.py" in done.stdout
    assert len(done.stdout.splitlines()) > 10


def test_matrix_products_of_pictures_scored_side_by_side_run_on_one_thread_each(tmp_path):
    """With more, threads that wait for each other double the processor time of scores."""
    code = (
        "import os, sys, main\n"
        "class Watch:\n"
        "    def find_spec(self, name, *about):\n"
        "        if name == 'numpy': print('threads:', os.environ.get('OPENBLAS_NUM_THREADS'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "main.main(sys.argv[1:])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "--dataset", "synthetic", "--maps",
         str(tmp_path / "none"), "--metrics", "cc", "--human", "False"],
        cwd=PROJECT, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.stdout.startswith("threads: 1\n"), done.stdout + done.stderr


def test_train_test_evaluate_from_end_to_end(shell, cli, tmp_path, pictures):
    words = ("train", *FLAGS, "--freeze-backbone", "False", "--output")
    trained = shell(*words, "runs/x")
    assert "epoch 1: loss" in trained.stdout
    # not a word of the libraries', and no progress bar where there is no terminal
    assert trained.stderr == ""
    assert (tmp_path / "weights/mlnet-scratch-synthetic.weights.h5").exists()

    # unnamed, those in the box would serve, before any that were trained on synthetic scenes
    own = ("--weights", "weights/mlnet-scratch-synthetic.weights.h5")
    tested = cli("test", "pictures", "--overlay", "--recursive", *own)
    assert tested.stderr == ""
    assert "3 maps written to predictions/" in tested.stdout
    assert cv2.imread(str(tmp_path / "predictions/sub/c.png")).shape == (24, 64, 3)

    scored = cli("evaluate", "--dataset", "synthetic", "--output", "eval", *own)
    assert scored.stderr == ""
    assert "centre bias" in scored.stdout
    rows = json.loads((tmp_path / "eval/metrics.json").read_text())["rows"]
    assert list(rows) == [
        "mlnet-scratch-synthetic", "centre bias", "uniform", "humans, split half",
        "humans, gold standard",
    ]  # fmt: skip
    assert len((tmp_path / "eval/per_image.csv").read_text().splitlines()) == 1 + 5 * 4

    trained = cli(*words, "runs/y")
    repeated = cli("train", "--config", "runs/y/config.json", "--output", "runs/z")
    losses = [
        next(line for line in done.stdout.splitlines() if line.startswith("epoch 1:")).split("  ")
        for done in (trained, repeated)
    ]
    assert losses[0][:5] == losses[1][:5]  # all but the images/s


@pytest.mark.slow
def test_strategies_train_every_arm_and_end_in_the_comparison(cli, tmp_path):
    words = ("train", *FLAGS, "--strategies", "frozen", "scratch", "--output", "study")
    done = cli(*words)
    assert done.stderr == ""
    assert "run 2 of 2: study/scratch-seed0" in done.stdout
    assert "minus" in done.stdout
    assert "wrote study/comparison/index.html" in done.stdout
    assert (tmp_path / "study/comparison/index.html").stat().st_size > 50_000
    again = cli(*words)
    assert again.stdout.count("is done") == 2


def test_one_bad_picture_gives_exit_code_1_and_all_the_rest(cli, tmp_path, pictures, trained):
    (pictures / "bad.jpg").write_text("no picture")
    done = cli("test", pictures, "--weights", trained, code=1)
    assert done.stderr.startswith(f"skipped: {pictures / 'bad.jpg'}")
    assert (tmp_path / "predictions/a.png").exists()


BAD = {
    "no command": ([], "the following arguments are required: COMMAND"),
    "unknown command": (["trian"], "Did you mean 'train'?"),
    "unknown flag": (["train", "--epoch", "3"], "Did you mean '--epochs'?"),
    "unknown model": (["train", "--model", "mlnett"], "Did you mean 'mlnet'?"),
    "no data": (["train"], "--data is needed"),
    "missing folder": (["train", "--data", "nowhere"], "not at nowhere: no such folder"),
    "empty folder": (["train", "--data", "empty"], "is missing, so empty is not OSIE's folder"),
    "empty own folder": (["train", "--dataset", "folder", "--data", "empty"], "No images in"),
    "no pictures": (["test", "empty"], "No pictures in the folder empty"),
    "no such picture": (["test", "nowhere.jpg"], "No picture or folder at 'nowhere.jpg'"),
    "negative size": (["train", *FLAGS, "--rows", "-8"], "--rows -8 is too small"),
    "odd size": (["train", *FLAGS, "--rows", "50"], "is not a multiple of 8"),
    "no truth value": (["train", "--freeze_backbone", "maybe"], "neither True nor False"),
    "no number": (["train", "--epochs", "many"], "invalid int value: 'many'"),
    "no backbone": (["train", *FLAGS, "--backbone_weights", "no.h5"], "no.h5: no such file"),
    "wrong backbone": (["train", *FLAGS, "--backbone_weights", "text.h5"], "not an HDF5 file"),
    "output is a file": (["train", *FLAGS, "--output", "text.h5/run"], "Cannot create the folder"),
    "no weights": (["test", "p.png"], "No trained weights in weights/"),
    "missing name": (["test", "p.png", "--weights", "no"], "no such file, and no weights of this"),
    "missing weights": (["test", "p.png", "--weights", "no.h5"], "No weights file at no.h5"),
    "text as weights": (["test", "p.png", "--weights", "text.h5"], "not an HDF5 file"),
    "zero batch": (["test", "p.png", "--batch_size", "0"], "--batch_size 0 is too small"),
    "unwritable output": (
        ["data", "subset", "--dataset", "synthetic", "--n", "1", "--output", "text.h5/x"],
        "Cannot create the folder",
    ),
    "no config": (["train", "--config", "no.json"], "Cannot read no.json"),
    "seeds alone": (["train", "--seeds", "1"], "--seeds needs --strategies"),
    "both": (
        ["train", "--strategies", "frozen", "--freeze_backbone", "True"],
        "leave out one of them",
    ),
    "no run": (["compare", "nowhere"], "neither a run folder nor a weights file"),
    "no such metric": (["evaluate", "--metrics", "ncc"], "Did you mean 'cc'?"),
    "nothing to prepare": (["data", "prepare", "--data", "x", "--output", "s"], "is not at x: no"),
    "no such task": (["data", "prepair"], "Did you mean 'prepare'?"),
    "no such split": (["evaluate", "--split", "tets"], "Did you mean 'test'?"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line_and_exit_code_2(
    case, tmp_path, picture, monkeypatch, capsys
):
    """In this process, since each of two dozen fresh ones would load TensorFlow."""
    import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("hello")
    cv2.imwrite("p.png", picture())
    words, message = BAD[case]
    try:
        code = main.main(words)
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err + out
    assert sorted(p.name for p in tmp_path.iterdir()) in (
        ["empty", "p.png", "text.h5"],
        ["empty", "p.png", "predictions", "text.h5"],
    )


def test_weights_of_another_size_are_refused_before_anything_is_written(
    cli, trained, tmp_path, picture
):
    """A card that was tampered with does not load half a model."""
    import h5py

    other = tmp_path / "other.weights.h5"
    other.write_bytes(trained.read_bytes())
    with h5py.File(other, "r+") as file:
        card = json.loads(file.attrs["card"])
        card["config"]["width"] = 0.1
        file.attrs["card"] = json.dumps(card)
    cv2.imwrite(str(tmp_path / "p.png"), picture())
    done = cli("test", "p.png", "--weights", other, code=2)
    assert "does not fit mlnet" in done.stderr
    assert not list((tmp_path / "predictions").iterdir())


def test_a_reader_who_leaves_early_gets_no_traceback(tmp_path, picture):
    for i in range(32):
        np.save(tmp_path / f"test_{i:03d}.npy", picture(120, 160)[..., 0])
    words = f"{PROJECT / 'main.py'} evaluate --dataset synthetic --metrics cc --maps {tmp_path}"
    command = f"{sys.executable} {words} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
