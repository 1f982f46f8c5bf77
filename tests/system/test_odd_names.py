"""Names from strangers: no output leaves its folder, no terminal obeys, no page runs them."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import PROJECT, TINY

from commands.prediction.inputs import ENDINGS
from commands.prediction.map_record import RECORD
from commands.prediction.predict import predict
from commands.settings import CheckConfig, EvaluateConfig, PrepareConfig, SubsetConfig
from config import PredictConfig
from salience.data import loading
from salience.system.errors import UNPRINTABLE, UserError, printable
from salience.system.files import FORMULA, composed
from salience.system.terminal import tell

# all are legal on Linux
STEMS = [
    "<img src=x onerror=alert(1)>",
    "\"onmouseover='alert(2)' x=",
    "<script>alert(3)<\\script><!--",
    "new\nline: error\r",
    "\x1b[31mred\x1b]0;title\x07\x1b[2J",
    "\u202egnp.exe\u2066",
    os.fsdecode(b"caf\xe9 \xff\x80"),
    "Straße ソース 🐕 e\u0301",
    "$(touch pwned); `touch pwned` %s {0} {{ x }}",
    "--weights=x -rf *[?]",
    "..x",
    "up \\..\\..\\..",
    "\t\x01\x7f\x9b",
    "=1+1,\"a\";'b'",
    "n" * 251,
]
SEEN = [stem for stem in STEMS if not stem.startswith(".")]  # the others are hidden
OF_A_SET = {composed(f"{stem}.png") for stem in SEEN}


@pytest.fixture
def strange(tmp_path, picture):
    """Return a folder with pictures of these names."""
    return fill(tmp_path / "strange", picture())


def fill(folder, image):
    folder.mkdir(parents=True)
    png = cv2.imencode(".png", image)[1].tobytes()
    for stem in STEMS:
        (folder / f"{stem}.png").write_bytes(png)
    return folder


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {os.path.relpath(path, folder) for path in found}


def is_fit_to_print(text):
    return not UNPRINTABLE.search(text.replace("\n", ""))


def test_a_printable_text_is_one_harmless_line():
    for stem in STEMS:
        assert is_fit_to_print(printable(stem))
        assert "\n" not in printable(stem)
        printable(stem).encode()
    assert printable("Straße ソース 🐕") == "Straße ソース 🐕"
    assert str(UserError("no\x1b[2J\nmore")) == r"no\x1b[2J\nmore"


def test_a_line_said_is_harmless_and_keeps_its_ends(capsys):
    tell("a table\nof " + STEMS[4])
    assert capsys.readouterr().out == "a table\nof \\x1b[31mred\\x1b]0;title\\x07\\x1b[2J\n"


def test_maps_of_strange_names_lie_in_the_output_and_nowhere_else(strange, trained, tmp_path):
    before = files(tmp_path)
    settings = PredictConfig(weights=trained, output=tmp_path / "out")
    assert predict(replace(settings, images=(str(strange),))) == 0
    assert files(tmp_path) - before == {f"out/{stem}.png" for stem in SEEN}


def test_every_kind_of_output_of_strange_names_lies_in_the_output(strange, trained, tmp_path):
    (strange / f"{STEMS[-1]}.png").unlink()  # too long for anything but a map
    before = files(tmp_path)
    all_kinds = {"overlay": True, "float_maps": True, "contours": True, "side_by_side": True}
    all_kinds |= {"peaks": 2, "crop": "1:1", "mask": 0.1, "density": True}
    settings = PredictConfig(weights=trained, output=tmp_path / "out", **all_kinds)
    assert predict(replace(settings, images=(str(strange),))) == 0
    expected = {f"out/{stem}{end}" for stem in SEEN[:-1] for end in ENDINGS.values()}
    assert files(tmp_path) - before == expected


def test_a_list_leads_nowhere_else_either(strange, trained, tmp_path, monkeypatch):
    """Paths upwards and from the root are put below the output folder, wherever they lead."""
    monkeypatch.chdir(strange)
    before = files(tmp_path)
    ways = ["../strange/{}", "../../../../../../../../../..{}", "{}", "./{}", "x/../../strange/{}"]
    (tmp_path / "strange/x").mkdir()
    lines = []
    for i, stem in enumerate(stem for stem in STEMS if "\n" not in stem):
        way = ways[i % len(ways)]
        lines.append(way.format(f"{strange}/{stem}.png" if way.endswith("..{}") else f"{stem}.png"))
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\n".join(map(os.fsencode, lines)))
    settings = PredictConfig(weights=trained, output=tmp_path / "out/deep/er", listed=listed)
    assert predict(settings) == 0
    new = files(tmp_path) - before - {"list.txt"}
    assert len(new) == len(STEMS) - 1
    assert all(name.startswith("out/deep/er/") for name in new)
    for name in new:
        assert (tmp_path / name).resolve().is_relative_to(tmp_path / "out/deep/er")


def test_what_is_said_of_strange_names_is_one_line_each(tmp_path, trained, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    for stem in STEMS:
        (folder / f"{stem}.png").write_text("no picture")
    (folder / "\x1b[2Jsub\n").mkdir()
    settings = PredictConfig(weights=trained, output=tmp_path / "\x1b[2Jout\n", recursive=True)
    assert predict(replace(settings, images=(str(folder),))) == len(SEEN)
    said = capsys.readouterr()
    skipped = said.err.splitlines()
    assert len(skipped) == len(SEEN)
    assert all(line.startswith(f"skipped: {folder}/") for line in skipped)
    assert is_fit_to_print(said.err + said.out)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("utf-8", marks=pytest.mark.slow)])
def test_the_program_prints_strange_names_to_any_terminal(tmp_path, encoding):
    """In its own process: paths that do not exist, and words that are no flags."""
    for words in (
        ["test", f"x{''.join(STEMS[:8])}"],
        ["test", "p.png", f"--{''.join(STEMS[3:8])}"],
        ["data", "check", "--dataset", "folder", "--data", f"x{''.join(STEMS[3:8])}"],
    ):
        done = subprocess.run(
            [sys.executable, str(PROJECT / "main.py"), *map(os.fsencode, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 2, done
        told = (done.stdout + done.stderr).decode(encoding)
        assert is_fit_to_print(told)
        assert told.startswith("error: ")
        assert told.count("\n") == 1


# ---------- the other outputs ----------


@pytest.fixture
def strange_set(tmp_path, picture, rng):
    """Return a data set of these names, with maps and fixations."""
    for split in ("train", "val", "test"):
        fill(tmp_path / "set" / split / "images", picture())
        fill(tmp_path / "set" / split / "maps", picture()[..., 0])
        points = tmp_path / "set" / split / "fixations"
        points.mkdir()
        for stem in STEMS:
            np.savez(points / f"{stem}.npz", fixations=rng.uniform(2, 28, (6, 2)))
    return tmp_path / "set"


def test_a_working_copy_of_strange_names_stays_in_its_folder(strange_set, tmp_path):
    from commands.curation.subset import subset

    before = files(tmp_path)
    many = 3 * len(OF_A_SET)
    subset(SubsetConfig(dataset="folder", data=(strange_set,), n=many, output=tmp_path / "copy"))
    new = files(tmp_path) - before
    assert all(name.startswith("copy/") for name in new)
    for split in ("train", "val", "test"):
        copied = loading.load("folder", tmp_path / "copy", split)
        assert {sample.name for sample in copied} == OF_A_SET


def test_a_store_of_strange_names_stays_in_its_folder(strange_set, tmp_path, capsys):
    from commands.curation.prepare import prepare

    before = files(tmp_path)
    settings = {"dataset": "folder", "data": strange_set, "rows": 48, "cols": 64}
    prepare(PrepareConfig(**settings, output=tmp_path / "store"))
    assert all(name.startswith("store/") for name in files(tmp_path) - before)
    kept = loading.load("folder", tmp_path / "store", "train")
    assert {sample.name for sample in kept} == OF_A_SET
    said = capsys.readouterr()
    assert is_fit_to_print(said.out + said.err)


def test_a_look_at_strange_names_is_fit_to_print(strange_set, tmp_path, capsys):
    from commands.curation.check import check

    for stem in STEMS[:4]:
        (strange_set / f"train/maps/{stem}.png").unlink()
        (strange_set / f"val/images/{stem}.png").write_text("no picture")
    settings = CheckConfig(dataset="folder", data=strange_set, output=tmp_path / "check")
    assert not check(settings)
    assert is_fit_to_print(capsys.readouterr().out)
    json.loads((tmp_path / "check/check.json").read_text())


def test_scores_of_strange_names_are_whole_rows(strange_set, trained, tmp_path, capsys):
    from commands.evaluation import evaluate

    before = files(tmp_path)
    settings = {"dataset": "folder", "data": strange_set, "metrics": "cc,nss", "human": False}
    evaluate.evaluate(EvaluateConfig(weights=trained, output=tmp_path / "out", **settings))
    assert all(name.startswith("out/") for name in files(tmp_path) - before)
    with (tmp_path / "out/per_image.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {name.encode(errors="backslashreplace").decode() for name in OF_A_SET}
    # what a spreadsheet would reckon out is a text with a quote before it
    assert {row["picture"] for row in rows} == {
        f"'{name}" if name.startswith(FORMULA) else name for name in names
    }
    json.loads((tmp_path / "out/metrics.json").read_text())
    assert is_fit_to_print(capsys.readouterr().out)


def test_training_on_strange_names_stays_in_its_folders(strange_set, tmp_path, capsys):
    """Features are kept, and found again, by paths with line ends in them."""
    from commands.training.train import train
    from config import Config

    before = files(tmp_path)
    settings = {
        **TINY,
        "dataset": "folder",
        "data": strange_set,
        "epochs": 2,
        "weights_dir": tmp_path / "weights",
    }
    settings["feature_cache"] = "on"
    for run in ("one", "two"):
        train(Config(**settings, output=tmp_path / run))
    new = files(tmp_path) - before
    assert {name.split("/")[0] for name in new} <= {"one", "two", "weights"}
    said = capsys.readouterr()
    assert is_fit_to_print(re.sub(r"\r|\x1b\[A", "", said.out))
