"""Each data set's layout, end to end through the command line: check, prepare, train, evaluate."""

import json
import zipfile

import layouts
import pytest

import main

SHARES = "--val_share 0.2 --test_share 0.2"
TINY = (
    "--rows 48 --cols 64 --width 0.05 --backbone_weights none --batch_size 8 --epochs 1 "
    f"--loss kld --optimizer adam {SHARES}"
)
# by data set: how its miniature is built, and which split it can be scored on
BUILT = {
    "salicon": (lambda root: layouts.salicon(root, "mat2015"), "val"),
    "salicon, 2017": (lambda root: layouts.salicon(root, "mat2017"), "val"),
    "salicon, JSON": (lambda root: layouts.salicon(root, "json"), "val"),
    "salicon, masks": (lambda root: layouts.salicon(root, "png"), "val"),
    "cat2000": (layouts.cat2000, "test"),
    "mit1003": (layouts.mit1003, "test"),
    "toronto": (layouts.toronto, "test"),
    "npy": (layouts.npy, "test"),
}
BENCHMARKS = {
    "salicon": (layouts.salicon, 2),
    "cat2000": (layouts.cat2000, 6),
    "mit300": (layouts.mit300, 3),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a command in an empty folder and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda text: main.main(text.split())


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case == "cat2000" else pytest.mark.slow) for case in BUILT],
)
def test_a_layout_is_checked_prepared_trained_on_and_scored(case, run, tmp_path, monkeypatch):
    name, (build, split) = case.split(",")[0], BUILT[case]
    build(tmp_path / "set")
    # fewer pictures than published are a problem, and nothing else is
    assert run(f"data check --dataset {name} --data set --output check") in (0, 1)
    problems = json.loads((tmp_path / "check" / "check.json").read_text())["problems"]
    assert {key for key in problems if problems[key]} <= {"remarks"}, problems
    of = f"--dataset {name} {SHARES}"
    assert run(f"data prepare {of} --rows 48 --cols 64 --data set --output store") == 0
    assert run(f"train --dataset {name} --data store --output run {TINY}") == 0
    rows = []
    for data in ("set", "store"):
        scoring = f"--data {data} --metrics cc,nss,auc_judd --human False --output {data}-eval"
        assert run(f"evaluate --weights run/best.weights.h5 --split {split} {scoring}") == 0
        rows.append((tmp_path / f"{data}-eval" / "per_image.csv").read_text().splitlines())
    assert rows[0] == rows[1]
    assert len(rows[0]) > 1


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_benchmarks_pictures_become_its_submission(benchmark, run, tmp_path, trained):
    build, count = BENCHMARKS[benchmark]
    build(tmp_path / "set")
    words = f"export-maps --format {benchmark} --data set --weights {trained} --output submission"
    assert run(words) == 1  # a part of the benchmark's pictures is a problem, not a failure
    [archive] = (tmp_path / "submission").glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        assert len([n for n in file.namelist() if not n.endswith("/")]) == count
    assert run(f"export-maps --format {benchmark} --data set --check {archive}") == 1
