import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import cv2
import h5py
import numpy as np
import pytest
from conftest import VGG16, needs

import config as settings
from commands.evaluation.map_sources import ModelMaps
from commands.prediction.calibrate import fitted
from commands.training import backends, objective, train, validation
from commands.training.run_folder import RunFolder
from commands.training.runs import DONE, Run
from model import build, load_model
from salience.data import loading
from salience.measures.adaptation import IDENTITY
from salience.measures.density import CALIBRATION
from salience.measures.finish import GENERAL, MAP_BLUR, finish_of
from salience.networks import provenance, weight_files
from salience.system import files
from salience.system.errors import Interrupted, UserError

QUIET = {"say": lambda line: None}


def weights_of(path):
    """Return all layers' weights of a file, by name."""
    found = {}
    with h5py.File(path) as file:
        file["layers"].visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def start_of(config):
    """Return the random weights that a run of this config starts from."""
    backends.make_deterministic(config.seed)
    return build(config).get_weights()


@pytest.mark.parametrize(
    "loss", [("mlnet", "sgd"), pytest.param(("kld", "adam"), marks=pytest.mark.slow)]
)
def test_frozen_moves_no_weight_of_the_trunk_and_finetuned_moves_all(tiny, loss):
    for frozen in (True, False):
        config = tiny(
            freeze_backbone=frozen, loss=loss[0], optimizer=loss[1], rows=160, cols=160,
            epochs=2, overwrite=True,
        )  # fmt: skip
        before = start_of(config)
        run = train.train(config, **QUIET)
        model = build(config)
        weight_files.load(model, run.path("last.weights.h5"))
        for weight, old, new in zip(model.weights, before, model.get_weights(), strict=True):
            moved = not np.array_equal(old, new)
            assert moved == (not frozen or not weight.path.startswith("block")), weight.path


@pytest.mark.slow
@pytest.mark.graphs
def test_same_seed_gives_the_same_weights_bit_for_bit(tiny, tmp_path):
    runs = [
        train.train(tiny(output=tmp_path / name, seed=seed, workers=workers, flip=True,
                         freeze_backbone=False, epochs=2), **QUIET)
        for name, seed, workers in (("a", 1, 1), ("b", 1, 3), ("c", 2, 1))
    ]  # fmt: skip
    # a CPU might give equal weights by luck: that they are asked for is what holds elsewhere
    from tensorflow.python.framework.config import is_op_determinism_enabled  # pyright: ignore

    assert is_op_determinism_enabled()
    a, b, c = (weights_of(run.path("last.weights.h5")) for run in runs)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)
    assert any(not np.array_equal(a[name], c[name]) for name in a)
    history = [run.path("history.csv").read_bytes() for run in runs]
    assert history[0] == history[1] != history[2]


@pytest.mark.figures
def test_run_writes_all_that_it_promises(tiny):
    config = tiny(epochs=2)
    lines = []
    run = train.train(config, say=lines.append)
    folder = run.folder
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"val_loss", "val_cc", "val_nss", "zero_maps", "learning_rate"} < rows[0].keys()
    with (folder / "speed.csv").open() as file:
        taken = list(csv.DictReader(file))
    assert [row["epoch"] for row in taken] == ["1", "2"]
    parts = ["train_seconds", "validation_seconds", "other_seconds"]
    kept = ["features_kept", "features_compute_ms", "features_read_ms"]
    rest = ["images_per_second", "peak_memory_mb"]
    assert list(taken[0]) == ["epoch", "seconds", *parts, *rest, *kept]
    assert all(float(row[name]) > 0 for row in taken for name in kept)
    for row in taken:
        assert sum(float(row[part]) for part in parts) == pytest.approx(
            float(row["seconds"]), abs=0.03
        )
        rate = 12 / float(row["images_per_second"])  # of training alone
        assert rate == pytest.approx(float(row["train_seconds"]), abs=0.01)
    assert np.isfinite([float(value) for row in rows for value in row.values()]).all()
    assert settings.resolve({}, folder / "config.json") == config
    assert json.loads((folder / DONE).read_text())["epochs"] == 2
    for name in ("curves.png", "examples.png"):
        assert cv2.imread(str(folder / name)).std() > 5
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    card = json.loads((config.weights_dir / "mlnet-scratch-frozen-synthetic.json").read_text())
    assert card["model"] == "mlnet"
    assert card["strategy"] == "scratch-frozen"
    assert card["input_shape"] == [48, 64]
    assert card["dataset"] == "synthetic"
    assert card["metrics"]["val_loss"] == min(float(row["val_loss"]) for row in rows)
    assert {"keras", "backend", "numpy", "python"} <= card["versions"].keys()
    assert any(line.startswith("epoch 2:") and "AUC-Judd" in line for line in lines)
    # nothing half-written is left
    assert not [p for p in [*folder.iterdir(), *config.weights_dir.iterdir()] if p.name[0] == "."]


def test_events_hold_the_history(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train.train(tiny(epochs=2), **QUIET)
    events = EventAccumulator(str(run.path("tensorboard")))
    events.Reload()
    logged = [(e.step, e.value) for e in events.Scalars("val_cc")]
    assert logged == [(row["epoch"], pytest.approx(row["val_cc"])) for row in run.history]


def test_validation_scores_equal_the_evaluation_of_the_same_weights(tiny, trained):
    """The line after an epoch and `evaluate` are computed by different code: they must agree."""
    from commands.evaluation.evaluate import evaluate
    from commands.settings import EvaluateConfig

    card = weight_files.read_card(trained)
    results = evaluate(EvaluateConfig(weights=trained, dataset="synthetic", split="val"), **QUIET)
    means = results.row("mlnet-scratch-frozen-synthetic").means
    for name in validation.VALIDATED:
        # the features of a training are rounded to half precision
        assert means[name].mean == pytest.approx(card["metrics"][f"val_{name}"], abs=2e-3)


def test_density_maps_are_blurred_once_and_up_to_a_limit(tiny, monkeypatch):
    blurred, real = [], validation.sample_density

    def counting(sample, shape, sigma_pixels):
        blurred.append(sample.name)
        return real(sample, shape, sigma_pixels)

    monkeypatch.setattr(validation, "sample_density", counting)
    first = train.train(tiny(epochs=2), **QUIET)
    assert sorted(blurred) == [f"val_{i:03}.png" for i in range(4)]
    blurred.clear()
    monkeypatch.setattr(validation, "KEPT_BYTES", 0)
    again = train.train(tiny(epochs=2, overwrite=True), **QUIET)
    assert len(blurred) == 8
    for one, other in zip(first.history, again.history, strict=True):
        assert one["val_cc"] == other["val_cc"]


def test_best_weights_are_those_of_the_lowest_validation_loss(tiny, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    real = validation.Validator.validate
    monkeypatch.setattr(
        validation.Validator, "validate", lambda *a: {**real(*a), "val_loss": next(losses)}
    )
    run = train.train(tiny(epochs=3), **QUIET)
    epochs = {
        name: weight_files.read_card(path)["metrics"]["epoch"]
        for name, path in {
            "best": run.path("best.weights.h5"),
            "last": run.path("last.weights.h5"),
            "published": run.weights_dir / "mlnet-scratch-frozen-synthetic.weights.h5",
        }.items()
    }
    assert epochs == {"best": 2, "last": 3, "published": 2}


def test_stops_after_patience_epochs_without_a_better_loss(tiny, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    real = validation.Validator.validate
    monkeypatch.setattr(
        validation.Validator, "validate", lambda *a: {**real(*a), "val_loss": next(losses)}
    )
    lines = []
    run = train.train(tiny(epochs=5, patience=2), say=lines.append)
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]
    assert any("No better epoch for 2 epochs" in line for line in lines)


def test_step_size_decays_as_keras_1_meant_it(tiny):
    config = tiny(optimizer="sgd", learning_rate=0.1, decay=0.5)
    optimizer = objective.optimizer(config, steps_per_epoch=3)
    model = build(config)
    optimizer.build(model.trainable_variables)
    for done in range(4):
        assert float(optimizer.learning_rate) == pytest.approx(0.1 / (1 + 0.5 * done))
        optimizer.iterations.assign_add(1)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)


def test_rise_of_all_zero_maps_is_told(tiny, monkeypatch):
    import model

    monkeypatch.setattr(model, "PositiveGlorotNormal", lambda seed: "zeros")
    lines = []
    train.train(tiny(loss="mlnet", optimizer="sgd"), say=lines.append)
    assert any("100.0% of the training maps were zero everywhere" in line for line in lines)


def test_earlier_run_is_not_overwritten_unasked(tiny):
    train.train(tiny(), **QUIET)
    before = tiny().run_folder.joinpath("history.csv").read_bytes()
    with pytest.raises(UserError, match=r"holds an earlier run.*--overwrite"):
        train.train(tiny(seed=5), **QUIET)
    assert tiny().run_folder.joinpath("history.csv").read_bytes() == before
    # the settings of a run are no leave to replace it
    with pytest.raises(UserError, match="holds an earlier run"):
        train.train(settings.resolve({"seed": 5}, _with_overwrite(tiny())), **QUIET)


def _with_overwrite(config):
    """Return a config file whose run was allowed to replace another."""
    path = config.run_folder / "copy.json"
    settings.save(replace(config, overwrite=True), path)
    return path


def test_a_replaced_run_leaves_nothing_of_itself(tiny, monkeypatch):
    folder = train.train(tiny(), **QUIET).folder
    monkeypatch.setattr(validation.Validator, "validate", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny(seed=5, overwrite=True), **QUIET)
    left = [p for p in folder.rglob("*") if p.is_file()]
    events = [p for p in left if "tfevents" in p.name]
    assert len(events) == 1
    begun = {folder / name for name in ("config.json", "run.json", "run.lock")}
    assert set(left) - set(events) == begun


def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(tiny):
    with pytest.raises(UserError, match=r"epoch 1, step 2: the loss is (nan|inf).*--learning_rate"):
        train.train(tiny(loss="mse", optimizer="sgd", learning_rate=1e30, epochs=3), **QUIET)
    assert not tiny().run_folder.joinpath("best.weights.h5").exists()


def card_of(weights_dir):
    return weight_files.read_card(weights_dir / "mlnet-scratch-frozen-synthetic.weights.h5")


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ({"dataset": "synthetic", "metrics": {"val_cc": 0.99}}, "validation CC is 0.990"),
        ({"dataset": "synthetic", "metrics": {"val_cc": -0.99}}, None),
        ({"dataset": "osie", "metrics": {"val_cc": -0.99}}, "trained on osie, not on synthetic"),
    ],
)
def test_weights_that_are_better_are_not_replaced_unasked(tiny, trained, tmp_path, there, kept):
    from model import load_model

    config, lines = tiny(), []
    config.weights_dir.mkdir()
    old = {**weight_files.read_card(trained), "run": "another", **there}
    published = config.weights_dir / "mlnet-scratch-frozen-synthetic.weights.h5"
    weight_files.save(load_model(trained), published, old)
    run = train.train(config, say=lines.append)
    assert (card_of(config.weights_dir)["run"] == "another") == bool(kept)
    assert run.path("best.weights.h5").exists()
    assert bool(kept) == ("is kept, as" in lines[-1])
    assert (kept or "") in lines[-1]


@pytest.mark.parametrize("there", [True, False])
def test_weights_whose_validation_is_no_number_are_not_published(
    tiny, trained, tmp_path, there, monkeypatch
):
    from model import load_model

    config, lines = tiny(), []
    published = config.weights_dir / f"{config.name}.weights.h5"
    if there:
        config.weights_dir.mkdir()
        old = {**weight_files.read_card(trained), "run": "another"}
        weight_files.save(load_model(trained), published, old)
    none = {"cc": float("nan"), "nss": float("nan"), "auc_judd": float("nan")}
    monkeypatch.setattr("commands.training.validation.score", lambda *arguments: none)
    run = train.train(config, say=lines.append)
    assert run.path("best.weights.h5").exists()
    assert published.exists() == there
    assert not there or card_of(config.weights_dir)["run"] == "another"
    what = "is kept" if there else "is not written"
    assert f"{what}, as the validation CC is not finite" in lines[-1]


def test_a_name_that_looks_like_mathematics_is_only_a_name(tmp_path, picture):
    from commands.pages import figures

    image = picture()
    row = ("val$x_{0$ \N{CJK UNIFIED IDEOGRAPH-4E2D}.png", image, image[..., 0] / 255.0)
    figures.picture_grid([(*row, image[..., 1] / 255.0, "caption")], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000


def write_set(root: Path, picture, broken=None, fixations=False):
    """Write a data set in the layout of `folder`, one of whose images may be broken."""
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for kind in ("images", "maps"):
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                image = picture() if kind == "images" else picture()[..., 0]
                cv2.imwrite(str(root / split / kind / f"{i}.png"), image)
    if broken:
        (root / broken).write_text("not a picture")
    return root


def test_own_folder_of_maps_trains_and_evaluates(tiny, tmp_path, picture):
    from commands.evaluation.evaluate import evaluate
    from commands.settings import EvaluateConfig

    root = write_set(tmp_path / "own", picture)
    run = train.train(tiny(dataset="folder", data=root), **QUIET)
    assert np.isnan(run.history[0]["val_nss"])  # there are no fixations to score
    assert np.isfinite(run.history[0]["val_cc"])
    results = evaluate(
        EvaluateConfig(weights=run.path("best.weights.h5"), dataset="folder", data=root), **QUIET
    )
    # no fixations, so no centre bias and no observers
    assert [row.name for row in results.rows] == ["best", "uniform"]
    assert len(results.pictures) == 2
    assert np.isfinite(results.row("best").means["cc"].mean)
    assert results.notes.lines()[0].startswith("pictures without fixations")


def test_several_sets_train_one_network_in_the_shares_asked_for(tiny, tmp_path, picture):
    root = write_set(tmp_path / "own", picture)
    lines = []
    mixed = tiny(dataset=("synthetic", "folder"), data=root, mix=(1.0, 3.0))
    run = train.train(mixed, say=lines.append)
    assert "synthetic+folder: 16 training and 6 validation pictures" in lines[0]
    assert run.published.name == "mlnet-scratch-frozen-synthetic+folder-own.weights.h5"
    assert weight_files.read_card(run.published)["dataset"] == "synthetic+folder"
    assert Run(run.folder).config == mixed


def test_training_goes_on_from_another_networks_weights(tiny, trained, tmp_path, picture):
    """SALICON first, then one's own set: nothing is learned in no step at all."""
    root = write_set(tmp_path / "own", picture)
    lines = []
    config = tiny(
        dataset="folder", data=root, init_weights=trained, backbone_weights=None,
        learning_rate=0.0, freeze_backbone=False,
    )  # fmt: skip
    run = train.train(config, say=lines.append)
    assert lines[0].startswith(f"weights {trained}: mlnet (scratch-frozen), trained on synthetic")
    assert f"start: {trained}" in lines[1]
    assert run.published.name == "mlnet-finetuned-on-folder-own.weights.h5"
    pairs = zip(
        load_model(trained).weights, load_model(run.published).weights, strict=True
    )  # fmt: skip
    for before, after in pairs:
        np.testing.assert_array_equal(before, after)


def test_first_weights_of_another_size_are_refused(tiny, trained):
    config = tiny(init_weights=trained, backbone_weights=None, rows=160, cols=240)
    with pytest.raises(UserError, match="does not fit mlnet"):
        train.train(config, **QUIET)
    assert not config.run_folder.exists()


def test_nss_loss_without_fixations_is_refused(tiny, tmp_path, picture):
    root = write_set(tmp_path / "own", picture)
    with pytest.raises(UserError, match="needs fixations, but 4 pictures of folder have only maps"):
        train.train(tiny(dataset="folder", data=root, loss="kld+0.5*nss"), **QUIET)


@pytest.mark.parametrize("broken", ["train/images/3.png", "val/images/1.png", "train/maps/0.png"])
@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_file_of_the_set_is_named(tiny, tmp_path, picture, broken, workers):
    root = write_set(tmp_path / "own", picture, broken)
    with pytest.raises(UserError, match=f"{root / broken} is not a picture"):
        train.train(tiny(dataset="folder", data=root, workers=workers), **QUIET)


def test_run_folder_under_a_file_is_refused(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot create the folder"):
        RunFolder(tiny(output=tmp_path / "file" / "run"))


@pytest.mark.calibration
def test_the_best_weights_are_calibrated_on_the_validation_fixations(tiny, cli, capsys):
    lines = []
    config = tiny(epochs=2)
    run = train.train(config, say=lines.append)
    assert sum(line.startswith("calibration for densities, on 4 pictures: ") for line in lines) == 1
    best, published = (
        weight_files.read_card(path)[CALIBRATION]
        for path in (run.path("best.weights.h5"), run.published)
    )
    assert best == published
    assert (best["dataset"], best["split"], best["pictures"]) == ("synthetic", "val", 4)
    assert CALIBRATION not in weight_files.read_card(run.path("last.weights.h5"))
    # the command finds the same, and only adds it to the card
    before = weights_of(run.published)
    weight_files.amend(run.published, {CALIBRATION: None})
    cli("calibrate", "--weights", run.published)
    again = weight_files.read_card(run.published)
    assert again[CALIBRATION] == best
    assert json.loads(weight_files.card_path(run.published).read_text()) == again
    assert all(np.array_equal(before[n], v) for n, v in weights_of(run.published).items())


def test_the_weights_of_an_installed_program_are_not_changed(
    trained, tmp_path, monkeypatch, capsys
):
    from main import main

    monkeypatch.setattr(files, "HERE", tmp_path / "site-packages")
    weights = tmp_path / "site-packages/weights" / trained.name
    weights.parent.mkdir(parents=True)
    weights.write_bytes(before := trained.read_bytes())
    assert main(["calibrate", "--weights", str(weights), "--dataset", "synthetic"]) == 2
    assert "belongs to the installed program, and an update" in capsys.readouterr().err
    assert weights.read_bytes() == before


@pytest.mark.calibration
def test_without_fixations_nothing_is_calibrated(tiny, tmp_path, picture, capsys):
    from main import main

    root, lines = write_set(tmp_path / "own", picture), []
    run = train.train(tiny(dataset="folder", data=root), say=lines.append)
    assert CALIBRATION not in weight_files.read_card(run.published)
    assert "calibrat" not in "\n".join(lines)
    flags = ["--dataset", "folder", "--data", str(root), "--weights", str(run.published)]
    assert main(["calibrate", *flags]) == 2
    assert "0 of 2 pictures have fixations; a calibration needs 2" in capsys.readouterr().err


@pytest.mark.calibration
def test_a_calibration_that_fails_does_not_fail_the_training(tiny, monkeypatch):
    lines = []

    def fitted(*about, **more):
        raise UserError("p.png cannot be read.")

    monkeypatch.setattr(train, "fitted", fitted)
    run = train.train(tiny(), say=lines.append)
    assert "densities are not calibrated: p.png cannot be read." in lines
    assert run.path(DONE).exists()


@pytest.fixture
def box(trained, tmp_path, monkeypatch):
    """Put weights into the box; they are tiny ones, too."""
    path = tmp_path / "box" / "mlnet-box.weights.h5"
    path.parent.mkdir()
    shutil.copy(trained, path)
    monkeypatch.setattr(weight_files, "SHIPPED", path)
    return path


def test_the_network_in_the_box_is_scored_on_the_same_pictures(
    tiny, tmp_path, picture, box, trained
):
    from commands.evaluation.evaluate import evaluate
    from commands.settings import EvaluateConfig

    root, lines = write_set(tmp_path / "own", picture), []
    run = train.train(tiny(dataset="folder", data=root), say=lines.append)
    assert any(line.startswith("scoring the included network") for line in lines)
    rival = weight_files.read_card(run.path("best.weights.h5"))["box"]
    assert weight_files.read_card(run.published)["box"] == rival
    assert (rival["weights"], rival["pictures"]) == ("mlnet-box", 2)
    asked = EvaluateConfig(weights=trained, dataset="folder", data=root, split="val", metrics="cc")
    means = evaluate(asked, **QUIET).row("mlnet-scratch-frozen-synthetic").means
    assert rival["val_cc"] == pytest.approx(means["cc"].mean, abs=1e-5)


@pytest.mark.parametrize(("theirs", "is_better"), [(0.99, True), (-0.99, False)])
def test_the_last_line_says_where_the_box_does_better(
    tiny, tmp_path, picture, box, monkeypatch, theirs, is_better
):
    lines = []
    scores = {"val_cc": theirs, "pictures": 2}
    monkeypatch.setattr(train, "score_shipped", lambda *a: scores)
    config = tiny(dataset="folder", data=write_set(tmp_path / "own", picture))
    train.train(config, say=lines.append)
    assert ("the included network does better" in lines[-1]) == is_better
    assert not is_better or ("0.990" in lines[-1] and f"--weights {box}" in lines[-1])


def test_the_box_is_not_compared_on_pictures_that_it_was_trained_on(tiny, tmp_path, picture, box):
    root, lines = write_set(tmp_path / "own", picture), []
    known = provenance.hashes(loading.load("folder", root, "val", settings.Config().plan, "drop"))
    weight_files.amend(box, {"pictures": {"train": provenance.encode_hashes(known[:1])}})
    run = train.train(tiny(dataset="folder", data=root), say=lines.append)
    assert "was trained on 1 of the 2 validation pictures, so it is not compared" in "".join(lines)
    assert "box" not in weight_files.read_card(run.published)


def test_weights_of_another_training_keep_their_card(tiny):
    run = train.train(tiny(), **QUIET)
    weight_files.amend(run.published, {"run": "another"})
    before = run.published.read_bytes()
    run.amend_best({MAP_BLUR: {"blur": 0.02}})
    assert run.published.read_bytes() == before
    assert weight_files.read_card(run.path("best.weights.h5"))[MAP_BLUR] == {"blur": 0.02}
    assert "is kept, as another training has changed it since" in train.best_line(run)


def test_weights_that_a_training_began_with_are_not_replaced(tiny, trained):
    config = tiny(init_weights=trained, backbone_weights=None)
    start = config.weights_dir / f"{config.name}.weights.h5"
    start.parent.mkdir()
    shutil.copy(trained, start)
    run = train.train(replace(config, init_weights=start), **QUIET)
    assert run.published == start and start.read_bytes() == Path(trained).read_bytes()
    assert "as this training began with it" in train.best_line(run)


@pytest.mark.calibration
def test_a_signal_after_the_last_epoch_leaves_the_calibration_to_the_same_command(
    tiny, monkeypatch
):
    real, sigmas = train.fit, []
    fit_card = train.fitted

    def stopped(epochs, *others):
        real(epochs, *others)
        epochs.stop.name = "SIGTERM"

    def noted(*args, **kwargs):
        sigmas.append(kwargs["sigma_pixels"])
        return fit_card(*args, **kwargs)

    config = tiny(sigma_pixels=4.0)
    monkeypatch.setattr(train, "fitted", noted)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(train, "fit", stopped)
        train.train(config, **QUIET)
    assert not (config.run_folder / DONE).exists() and not sigmas
    run = train.train(replace(config, resume=True), **QUIET)
    assert run.path(DONE).exists() and sigmas == [4.0]
    assert MAP_BLUR in weight_files.read_card(run.published)


def test_where_the_box_cannot_be_scored_training_says_so_and_ends_well(
    tiny, tmp_path, picture, box
):
    box.write_text("damaged")
    lines = []
    config = tiny(dataset="folder", data=write_set(tmp_path / "own", picture))
    run = train.train(config, say=lines.append)
    assert any("the included network is not scored" in line for line in lines)
    assert run.path(DONE).exists()


def test_cards_know_the_training_pictures_in_a_copy_under_other_names(tiny, tmp_path, picture):
    from commands.evaluation.evaluate import evaluate
    from commands.settings import EvaluateConfig

    root, copy = write_set(tmp_path / "own", picture), tmp_path / "copy"
    first = train.train(tiny(dataset="folder", data=root), **QUIET)
    # what goes on from weights knows what those had learned from
    second = train.train(
        tiny(dataset="synthetic", init_weights=first.published, backbone_weights=None,
             output=tmp_path / "second"),
        **QUIET,
    )  # fmt: skip
    for kind in ("images", "maps"):
        (copy / "test" / kind).mkdir(parents=True)
        for i, source in enumerate(("train/{}/0.png", "train/{}/1.png", "val/{}/0.png")):
            shutil.copy(root / source.format(kind), copy / "test" / kind / f"renamed{i}.png")
    for weights in (first.published, second.published):
        asked = EvaluateConfig(weights=weights, dataset="folder", data=copy, metrics="cc")
        told = "\n".join(evaluate(asked, **QUIET).notes.lines())
        assert "WARNING: scored pictures that a model was trained on (2: renamed0.png" in told


def test_two_folders_of_ones_own_go_to_files_of_their_own(tiny, tmp_path):
    names = {tiny(dataset="folder", data=tmp_path / name).name for name in ("a", "b", "ü b")}
    assert names == {f"mlnet-scratch-frozen-folder-{name}" for name in ("a", "b", "_b")}


@needs(VGG16)
def test_imagenet_weights_are_loaded_before_training(tiny):
    lines = []
    config = tiny(width=1.0, backbone_weights=str(VGG16), rows=16, cols=16, batch_size=12)
    run = train.train(config, say=lines.append)
    assert str(VGG16) in lines[0]
    model = build(config)
    weight_files.load(model, run.path("last.weights.h5"))
    with h5py.File(VGG16) as file:
        kernel = file["block5_conv3/block5_conv3/kernel"][()]
    np.testing.assert_array_equal(model.get_layer("block5_conv3").get_weights()[0], kernel)


def test_the_papers_recipe_on_few_pictures_gets_a_recommendation():
    published = settings.Config(dataset=("synthetic",))
    assert "--loss kld --optimizer adam" in train.recipe_remark(published, 450)
    assert "these are 450" in train.recipe_remark(published, 450)
    assert train.recipe_remark(published, 10_000) == ""
    assert train.recipe_remark(replace(published, loss="kld"), 450) == ""


@pytest.mark.calibration
def test_several_sets_give_a_general_adaptation_and_any_a_blur_of_maps(trained, tmp_path):
    samples = loading.load("synthetic", None, "val")
    path, lines = tmp_path / "a.weights.h5", []
    shutil.copy(trained, path)
    sets = {"first": samples[:2], "second": samples[2:]}
    source = ModelMaps(path, "a", 2, 1)
    found = fitted(source, sets, {"split": "val"}, 0, lines.append, IDENTITY, calibrates=False)
    assert list(found) == [GENERAL, MAP_BLUR]
    assert set(found[GENERAL]["gains_left_out"]) == set(sets)
    assert found[MAP_BLUR]["pictures"] == 4
    assert [line.split(" ")[0] for line in lines] == ["general", "blur"]
    weight_files.amend(path, found)
    finish = finish_of(weight_files.read_card(path), path)
    assert finish.map_blur == found[MAP_BLUR]["blur"]
    one = fitted(source, {"first": samples}, {}, 0, lines.append, IDENTITY)
    assert list(one) == [CALIBRATION, MAP_BLUR]
