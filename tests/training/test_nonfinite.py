"""A loss that is no number: training stops, or goes on from what was kept."""

import json

import numpy as np
import pytest

from commands.training import epochs, nonfinite, train
from salience.system.errors import Interrupted, UserError
from utilities import SaliencyBatches

pytestmark = pytest.mark.graphs
QUIET = {"say": lambda line: None}
THREE_STEPS = {"batch_size": 4, "feature_cache": "off", "dropout": 0.0}


@pytest.fixture
def spoilt(monkeypatch):
    """Return a function that makes the truth of some training batches NaN: {(epoch, index)}."""
    real = SaliencyBatches.read

    def spoil(batches):
        def read(self, epoch, index, readers=None):
            x, y = real(self, epoch, index, readers)
            bad = self.shuffle and (epoch, index) in batches
            return x, np.full_like(y, np.nan) if bad else y

        monkeypatch.setattr(SaliencyBatches, "read", read)

    return spoil


@pytest.fixture
def after_each_step(monkeypatch):
    """Return a list that gets the weights after each step, and before the first."""
    found = []

    def noting(name):
        real = getattr(epochs.Epochs, name)

        def noted(self, *args, **kwargs):
            real(self, *args, **kwargs)
            arrays = self.state.capture(whole=False)
            found.append([v for k, v in arrays.items() if not k.startswith("metrics")])

        monkeypatch.setattr(epochs.Epochs, name, noted)

    noting("on_train_batch_end")
    noting("on_epoch_begin")
    return found


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def incidents_of(folder):
    return json.loads((folder / "nonfinite.json").read_text())


def test_stopping_names_step_and_pictures_and_keeps_the_weights_of_before(tiny, spoilt):
    spoilt({(1, 1)})
    config = tiny(epochs=3, **THREE_STEPS)
    with pytest.raises(UserError, match=r"epoch 2, step 2: the loss is nan for train_\d+\.png, "):
        train.train(config, **QUIET)
    (incident,) = incidents_of(config.run_folder)
    assert (incident["epoch"], incident["step"], incident["done"]) == (2, 2, "stop")
    batches = train.batches(config, "train", None)
    batches.epoch = 1
    assert incident["pictures"] == [batches.samples[i].name for i in batches.order()[4:8]]
    from model import load_model

    for name in ("last", "best"):
        weights = load_model(config.run_folder / f"{name}.weights.h5").get_weights()
        assert all(np.isfinite(weight).all() for weight in weights)


def test_a_step_that_is_left_out_changes_nothing(tiny, spoilt, after_each_step):
    spoilt({(0, 1)})
    lines = []
    run = train.train(tiny(on_nan="skip", **THREE_STEPS), say=lines.append)
    start, first, second, third = after_each_step
    assert not equal(start, first)
    assert equal(first, second)
    assert not equal(second, third)
    assert np.isfinite(run.history[0]["loss"])
    assert any(line.endswith("the step is skipped") for line in lines)
    assert incidents_of(run.folder)[0]["done"] == "skip"


def test_a_rewind_goes_back_to_the_epochs_start_and_on_with_the_next_step(
    tiny, spoilt, after_each_step
):
    spoilt({(0, 1), (1, 2)})
    lines = []
    run = train.train(tiny(on_nan="rewind", epochs=2, **THREE_STEPS), say=lines.append)
    start, first, second, third, start_2, first_2, second_2, third_2 = after_each_step
    assert not equal(start, first)
    assert equal(start, second)
    assert not equal(second, third)
    assert equal(third, start_2)
    assert equal(start_2, third_2)
    assert not equal(first_2, second_2)
    assert np.isfinite([row["loss"] for row in run.history]).all()
    assert sum("the weights are reset to the start of the epoch" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("policy", "message"),
    [("skip", "so it was for the 2 steps before"), ("rewind", "this epoch has been rewound")],
)
def test_what_does_not_help_is_not_tried_for_ever(tiny, spoilt, monkeypatch, policy, message):
    monkeypatch.setattr(nonfinite, "MAX_SKIPPED_IN_A_ROW", 2)
    monkeypatch.setattr(nonfinite, "MAX_REWINDS", 1)
    spoilt({(epoch, index) for epoch in range(5) for index in range(3)})
    with pytest.raises(UserError, match=message):
        train.train(tiny(on_nan=policy, epochs=5, **THREE_STEPS), **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [pytest.param("skip", marks=pytest.mark.slow), "rewind"])
def test_what_was_left_out_is_known_after_an_interruption(tiny, tmp_path, spoilt, monkeypatch,
                                                          policy):  # fmt: skip
    spoilt({(0, 1), (1, 0)})
    changes = {"on_nan": policy, "epochs": 2, **THREE_STEPS}
    whole = train.train(tiny(output=tmp_path / "whole", **changes), **QUIET)
    asks = iter([False, True, False, False, False, True] + [False] * 9)
    monkeypatch.setattr("commands.training.epochs.Epochs.asked_to_stop", lambda self: next(asks))
    config = tiny(output=tmp_path / "parts", **changes)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train.train(config, **QUIET)
    run = train.train(config, **QUIET)
    assert run.path("history.csv").read_bytes() == whole.path("history.csv").read_bytes()
    assert incidents_of(run.folder) == incidents_of(whole.folder)


def test_a_validation_loss_that_is_no_number_names_its_pictures(tiny, monkeypatch):
    from commands.training import validation

    real = validation.loss_function

    def spoilt(system, loss):
        function = real(system, loss)
        return lambda y, p: function(y, p) + np.array([0, np.nan, 0, 0], "float32")

    monkeypatch.setattr(validation, "loss_function", spoilt)
    with pytest.raises(UserError, match=r"is nan for 1 of 4 pictures \(val_001\.png\)"):
        train.train(tiny(), **QUIET)
    assert not tiny().run_folder.joinpath("best.weights.h5").exists()
