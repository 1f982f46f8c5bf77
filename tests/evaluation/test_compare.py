"""Runs compared on the same pictures: arms, differences and their sureness, and what is written."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY

import config as config_files
from commands.evaluation import compare, strategies
from commands.evaluation.map_sources import ModelMaps
from commands.settings import CompareConfig
from commands.training import runs
from config import Config
from salience.measures.finish import MAP_BLUR
from salience.networks import weight_files
from salience.system.errors import Interrupted, UserError

FEW = {"metrics": "cc,nss,kld", "gallery": 3}
QUIET = {"say": lambda line: None}


def of(runs, flags):
    return CompareConfig.from_flags({"runs": tuple(runs), **flags})


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """Return the folders of two tiny runs: a frozen random trunk, and all of it trained."""
    from commands.training.train import train
    from salience.data.sets import synthetic

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "COUNTS", {"train": 12, "val": 4, "test": 4})
        for name, freeze in (("frozen", True), ("scratch", False)):
            settings = {**TINY, "freeze_backbone": freeze, "weights_dir": root / "weights"}
            train(Config(**settings, output=root / name), **QUIET)
    return [root / "frozen", root / "scratch"]


def twin(folder, to, **changes):
    """Return a copy of a run whose config says something else."""
    shutil.copytree(folder, to)
    changed = dataclasses.replace(runs.Run(folder).config, output=to, **changes)
    config_files.save(changed, to / "config.json")
    return to


def test_a_comparison_answers_and_writes_all_that_it_promises(two_runs, tmp_path):
    lines = []
    done = compare.compare(of(two_runs, {**FEW, "output": tmp_path}), lines.append)
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert [e["name"] for e in written["scored"] if e["kind"] == "model"] == [
        "scratch-frozen", "scratch",
    ]  # fmt: skip
    assert written["dataset"] == "synthetic"  # that of the runs, unasked
    assert written["truth"]["sigma_from"].startswith("synthetic: ")
    assert {(d["a"], d["b"]) for d in written["differences"]} == {("scratch", "scratch-frozen")}
    by_metric = {d["metric"]: d for d in written["differences"]}
    means = {e["name"]: e["means"] for e in written["scored"]}
    for metric, row in by_metric.items():
        gap = means["scratch"][metric]["mean"] - means["scratch-frozen"][metric]["mean"]
        assert row["difference"] == pytest.approx(gap)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["p"] <= row["p_corrected"] <= 1
    costs = {e["name"]: e["cost"] for e in written["scored"] if e["cost"]}
    assert costs["scratch-frozen"]["trainable_weights"] < costs["scratch"]["trainable_weights"]
    assert costs["scratch-frozen"]["weights"] == costs["scratch"]["weights"]
    for name in ("seconds_per_epoch", "images_per_second", "peak_memory_mb"):
        assert costs["scratch"][name] > 0
    assert len((tmp_path / "per_image.csv").read_text().splitlines()) == 1 + 4 * 6
    page = (tmp_path / "index.html").read_text()
    assert done["sentence"].split(",")[0] in page
    assert "test_003.png" in page
    text = "\n".join(lines)
    assert "scratch minus scratch-frozen, paired by picture:" in text
    assert done["sentence"] in text
    assert "Each arm is one run" in text
    effect = written["effects"][0]
    gains = [e["scratch"] - e["scratch-frozen"] for e in effect["most_gained"]]
    assert gains == sorted(gains, reverse=True)
    assert effect["best"][0]["scratch"] == max(e["scratch"] for e in effect["best"])


def test_a_second_comparison_scores_nothing_again(two_runs, tmp_path, monkeypatch):
    compare.compare(of(two_runs, {**FEW, "output": tmp_path}), **QUIET)
    asked = []
    real = ModelMaps.maps
    monkeypatch.setattr(
        ModelMaps, "maps", lambda self, s, shapes: asked.append(len(s)) or real(self, s, shapes)
    )
    compare.compare(of(two_runs, {**FEW, "gallery": 2, "output": tmp_path}), **QUIET)
    assert sorted(asked) == [0, 0, 2, 2]  # the pictures of the page alone


def test_a_run_against_its_copy_is_no_difference(two_runs, tmp_path):
    copy = twin(two_runs[0], tmp_path / "copy", learning_rate=0.5)
    lines = []
    done = compare.compare(of([two_runs[0], copy], {**FEW, "output": tmp_path / "o"}), lines.append)
    for row in done["differences"]:
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
        assert row["p"] == row["p_corrected"] == 1
        assert row["improved"] == 0.5
    assert "is not significant" in done["sentence"]
    assert "The arms also differ in learning_rate." in "\n".join(lines)
    # two arms of one strategy go by their folders
    assert [e["name"] for e in done["scored"]][:2] == ["frozen", "copy"]


def test_runs_that_differ_in_their_seed_are_one_arm(two_runs, tmp_path):
    other = twin(two_runs[0], tmp_path / "other", seed=1)
    shutil.copy(two_runs[1] / "best.weights.h5", other / "best.weights.h5")  # other scores
    lines = []
    done = compare.compare(
        of([two_runs[0], other], {**FEW, "output": tmp_path / "o"}), lines.append
    )
    single = [
        compare.compare(of([folder], {**FEW, "output": tmp_path / "s"}), **QUIET)["scored"][0]
        for folder in (two_runs[0], other)
    ]
    assert [e["name"] for e in done["scored"] if e["kind"] == "model"] == ["scratch-frozen"]
    expected = np.mean([e["means"]["nss"]["mean"] for e in single])
    assert done["scored"][0]["means"]["nss"]["mean"] == pytest.approx(expected)
    assert done["differences"] == []
    assert "is the mean of 2 runs (seeds 0, 1)" in "\n".join(lines)


def test_arms_of_two_systems_carry_their_names(two_runs, tmp_path):
    other = twin(two_runs[0], tmp_path / "other", model="salnet-deep", freeze_backbone=False)
    found = runs.arms_of([runs.Run(two_runs[0]), runs.Run(other)])
    assert [arm.name for arm in found] == ["mlnet-scratch-frozen", "salnet-deep-scratch"]


def test_runs_that_differ_in_more_than_the_seed_are_two_arms(two_runs, tmp_path):
    other = twin(two_runs[0], tmp_path / "other", batch_size=3)
    assert len(runs.arms_of([runs.Run(two_runs[0]), runs.Run(other)])) == 2
    mine = [
        runs.Run(twin(two_runs[0], tmp_path / name, dataset="folder", data=tmp_path / name, seed=i))
        for i, name in enumerate(("a", "b"))
    ]
    assert len(runs.arms_of(mine)) == 2
    same = twin(two_runs[0], tmp_path / "same")
    with pytest.raises(UserError, match="have the same settings and seed"):
        runs.arms_of([runs.Run(two_runs[0]), runs.Run(same)])


def test_what_the_first_weights_of_each_run_had_learned_from_is_asked(two_runs, tmp_path):
    """Of two runs alike but for their start, neither hides what the other's began with."""
    start = {"init_weights": tmp_path / "lost.weights.h5", "backbone_weights": None}
    other = twin(two_runs[0], tmp_path / "other", **start)
    for order in ([other, two_runs[0]], [two_runs[0], other]):
        lines = []
        compare.compare(of(order, {**FEW, "output": tmp_path / "o"}), lines.append)
        assert "lost.weights.h5, which was removed or replaced" in "\n".join(lines)


def test_an_arm_named_like_a_reference_keeps_its_own_scores(two_runs, tmp_path):
    copy = twin(two_runs[0], tmp_path / "uniform", learning_rate=0.5)
    done = compare.compare(of([two_runs[0], copy], {**FEW, "output": tmp_path / "o"}), **QUIET)
    means = {e["name"]: e["means"]["nss"]["mean"] for e in done["scored"]}
    assert means["uniform (maps)"] == means["frozen"] != means["uniform"] == 0


def test_the_command_shown_makes_the_comparison_again(two_runs, tmp_path):
    flags = {**FEW, "human": False, "output": tmp_path, "profile": "mit"}
    command = compare.compare(of(two_runs, flags), **QUIET)["command"]
    for words in ("--metrics cc,nss,kld", "--human False", "--profile mit", "--dataset synthetic"):
        assert words in command


def test_maps_without_fixations_are_compared_by_map_metrics(two_runs, tmp_path, picture):
    for i in range(3):
        for kind in ("images", "maps"):
            (tmp_path / "set/test" / kind).mkdir(parents=True, exist_ok=True)
            image = picture() if kind == "images" else picture()[..., 0]
            cv2.imwrite(str(tmp_path / f"set/test/{kind}/{i}.png"), image)
    lines = []
    flags = {**FEW, "dataset": "folder", "data": tmp_path / "set", "output": tmp_path / "o"}
    done = compare.compare(of(two_runs, flags), lines.append)
    assert "scores CC" in done["sentence"]
    assert "nan" not in "\n".join(lines)


def test_each_arm_is_shown_by_its_own_maps(two_runs, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(compare, "write_page", lambda path, page: pages.append(page))
    compare.compare(of(two_runs, {**FEW, "output": tmp_path}), **QUIET)
    for shown in pages[0]["gallery"]:
        assert len(set(shown["maps"].values())) == 2
    histories = [e["history"] for e in pages[0]["scored"] if e["history"]]
    assert histories[0] != histories[1]


@pytest.mark.parametrize("missing", ["config.json", "best.weights.h5", "history.csv"])
def test_a_folder_that_is_no_run_is_named(two_runs, tmp_path, missing):
    copy = twin(two_runs[0], tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(UserError, match=f"copy is not a run .*{missing} is missing"):
        compare.compare(of([copy], {}), **QUIET)


def test_weights_are_compared_beside_runs(two_runs, trained, tmp_path):
    done = compare.compare(of([two_runs[0], trained], {**FEW, "output": tmp_path}), **QUIET)
    models = [entry for entry in done["scored"] if entry["kind"] == "model"]
    assert [entry["name"] for entry in models] == ["frozen", runs.weight_files.name_of(trained)]
    assert models[1]["history"] == []
    assert done["metrics"][0]["people"].startswith("humans")


def test_maps_are_those_that_the_cards_say_and_none_leaves_them(trained, tmp_path):
    blurred = Path(shutil.copy(trained, tmp_path / "blurred.weights.h5"))
    weight_files.amend(blurred, {MAP_BLUR: {"blur": 0.05}})
    flags = {"metrics": "cc,nss", "dataset": "synthetic", "gallery": 1, "output": tmp_path / "o"}
    lines = []
    by_card = compare.compare(of([trained, blurred], flags), lines.append)
    assert sum("maps get a blur of 5.0% of the diagonal" in line for line in lines) == 1
    assert all(row["difference"] for row in by_card["differences"])
    flags["adaptation"] = Path("none")
    own = compare.compare(of([trained, blurred], flags), **QUIET)
    assert not any(row["difference"] for row in own["differences"])


def test_a_name_of_nothing_is_named():
    with pytest.raises(UserError, match="frozn is neither a run folder nor"):
        runs.run_of(Path("frozn"))


def test_a_run_named_twice_is_refused(two_runs):
    with pytest.raises(UserError, match="named twice"):
        compare.compare(of([two_runs[0], two_runs[0]], {}), **QUIET)


def answer(a, b, metric="nss", share=0.8, **difference):
    """Return the sentence about two arms, `a` minus `b`, that were scored in two metrics."""
    row = {
        "a": "a", "b": "b", "metric": metric, "difference": a - b, "low": a - b - 0.1,
        "high": a - b + 0.1, "p": 0.001, "p_corrected": 0.002, "improved": 0.7, **difference,
    }  # fmt: skip
    arms = [
        {"name": n, "kind": "model", "means": {metric: {"mean": m}}, "share": {metric: share}}
        for n, m in (("a", a), ("b", b))
    ]
    rows = [row, {**row, "metric": "cc"}, {**row, "metric": "emd", "p": float("nan")}]
    found = {"pictures": 9, "dataset": "osie", "scored": arms, "differences": rows}
    return compare.sentence(found, metric)


def test_the_sentence_is_about_the_better_arm_whichever_comes_first():
    assert answer(2.5, 2.0) == (
        "On 9 pictures of osie, a scores NSS 2.500, +0.500 (95 % interval +0.400 to +0.600) "
        "against b and better in 70% of the pictures; that is 80% of the way from the centre bias "
        "to the observers' prediction of each other."
    )
    turned = answer(2.0, 2.5, improved=0.3)
    assert "b scores NSS 2.500, +0.500 (95 % interval +0.400 to +0.600) against a" in turned
    assert "better in 70% of the pictures" in turned
    assert "is not significant" in answer(2.0, 2.5, high=0.1)  # the interval holds zero
    assert "too few pictures" in answer(2.0, 2.5, low=float("nan"))
    lower = answer(0.5, 1.0, "kld", low=-0.6, high=-0.4)
    assert "a scores KLD 0.500, -0.500 (95 % interval -0.600 to -0.400) against b and b" in lower
    turned = answer(1.0, 0.5, "kld", low=0.4, high=0.6, improved=0.3)
    assert "b scores KLD 0.500, -0.500 (95 % interval -0.600 to -0.400) against a and b" in turned


def test_the_sentence_does_not_call_better_what_is_not_significant_or_rounds_to_zero():
    found = answer(2.5, 2.0, p=0.03, p_corrected=0.06)
    assert "against b, not significant after correcting for 2 metrics" in found
    assert "better" not in found
    found = answer(2.0004, 2.0, low=0.0003, high=0.0005)
    assert "+0.000 (95 % interval +0.000 to +0.001) against b, which rounds to zero" in found
    assert "better" not in found


def test_the_sentence_gives_a_share_only_of_a_gap():
    assert "of the way" not in answer(2.5, 2.0, share=float("nan"))
    assert answer(2.5, 2.0, share=-0.2).endswith("; that is worse than the centre bias.")


def test_the_lines_say_of_each_difference_what_it_is_worth():
    ends = {"a": "a", "b": "b", "low": 0.1, "high": 0.3, "improved": 0.7, "pictures": 9}
    clear = {**ends, "metric": "cc", "difference": 0.2, "p": 0.001, "p_corrected": 0.003}
    doubtful = {**clear, "metric": "nss", "p": 0.04, "p_corrected": 0.08}
    nothing = {**clear, "metric": "sim", "difference": 4e-4, "low": 3e-4, "high": 5e-4}
    small = {**nothing, "metric": "mse"}  # shown with a fourth decimal
    equal = {**nothing, "metric": "kld", "difference": 0.0, "low": 0.0, "high": 0.0}
    rows = [clear, doubtful, nothing, small, equal]
    _, *lines = compare.difference_lines({"differences": rows})
    words = [line.split("corrected ")[1].split("; ", 1)[1] for line in lines]
    assert words == [
        "better in 70% of 9",
        "better in 70% of 9; not significant after correcting for 5 metrics",
        "rounds to zero",
        "better in 70% of 9",
        "rounds to zero",
    ]


def test_the_gallery_shows_what_changed_most_and_keeps_the_order(two_runs, tmp_path):
    done = compare.compare(of(two_runs, {**FEW, "gallery": 0, "output": tmp_path}), **QUIET)
    effect = done["effects"][0]
    most = effect["most_gained"][0]["picture"]

    class Pictures:
        pictures = [f"test_{i:03d}.png" for i in range(4)]

    assert compare.gallery_pictures(done, Pictures, 1) == [most]
    assert compare.gallery_pictures(done, Pictures, 99) == Pictures.pictures


@pytest.fixture
def trained_here(two_runs, monkeypatch):
    """Let a tiny run of before stand in for each training; return what was asked for."""
    trained = []

    def run(config):
        trained.append(config.run_folder.name)
        shutil.copytree(two_runs[0], config.run_folder, dirs_exist_ok=True)
        config_files.save(config, config.run_folder / "config.json")

    monkeypatch.setattr(strategies, "train_in_subprocess", run)
    return trained


def test_arms_are_trained_with_every_seed_and_not_again(tiny, tmp_path, trained_here, monkeypatch):
    compared = []
    monkeypatch.setattr(
        compare, "compare", lambda settings, say: compared.append(settings.runs) or {}
    )
    config = tiny(output=tmp_path / "study")
    strategies.run_strategies(config, ["frozen", "scratch"], [0, 1], **QUIET)
    names = ["frozen-seed0", "frozen-seed1", "scratch-seed0", "scratch-seed1"]
    assert trained_here == names
    assert [folder.name for folder in compared[0]] == names
    assert runs.Run(tmp_path / "study/frozen-seed1").config.freeze_backbone
    assert runs.Run(tmp_path / "study/scratch-seed1").config.seed == 1
    assert [arm.name for arm in runs.arms_of([runs.Run(f) for f in compared[0]])] == [
        "scratch-frozen", "scratch",
    ]  # fmt: skip

    trained_here.clear()
    (tmp_path / "study/scratch-seed0" / runs.DONE).unlink()  # a run that was broken off
    strategies.run_strategies(config, ["frozen", "scratch"], [0, 1], **QUIET)
    assert trained_here == ["scratch-seed0"]

    with pytest.raises(UserError, match=r"settings: batch_size 4, now 2\. .* --overwrite"):
        strategies.run_strategies(
            dataclasses.replace(config, batch_size=2), ["frozen"], [0], **QUIET
        )


def test_no_run_of_before_is_left_where_a_study_that_overwrites_is_stopped(
    tiny, tmp_path, trained_here, monkeypatch
):
    monkeypatch.setattr(compare, "compare", lambda settings, say: {})
    config = tiny(output=tmp_path / "study")
    strategies.run_strategies(config, ["frozen", "scratch"], [0], **QUIET)

    other = dataclasses.replace(config, learning_rate=0.5)

    def stopped(run):
        raise Interrupted("the same command without --overwrite resumes the arms")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(strategies, "train_in_subprocess", stopped)
        again = dataclasses.replace(other, overwrite=True)
        strategies.run_strategies(again, ["frozen", "scratch"], [0], **QUIET)
    trained_here.clear()
    strategies.run_strategies(other, ["frozen", "scratch"], [0], **QUIET)
    assert trained_here == ["frozen-seed0", "scratch-seed0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((["frozen", "frozen"], [0]), "--strategies names frozen twice"),
        ((["frozen"], [1, 1]), "--seeds names 1 twice"),
        ((["finetuned", "scratch"], [0]), "finetuned and scratch are the same"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused_before_training(
    tiny, trained_here, words, message
):
    with pytest.raises(UserError, match=message):
        strategies.run_strategies(tiny(), *words, **QUIET)
    assert trained_here == []


def test_a_failing_arm_stops_the_study_in_one_line(tiny, tmp_path):
    config = tiny(output=tmp_path / "study", dataset="osie", data=tmp_path / "nowhere")
    with pytest.raises(UserError, match="frozen-seed0 ended with exit code 2, see above"):
        strategies.run_strategies(config, ["frozen"], [0], **QUIET)
