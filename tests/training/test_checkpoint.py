"""What is kept of a training on its way, and what an earlier run in the folder allows."""

import json
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from commands.evaluation import strategies
from commands.training import checkpoint, train
from commands.training.checkpoint import Checkpoints, Standing, read
from commands.training.run_folder import RunFolder
from salience.system.errors import Interrupted, StorageError, UserError

QUIET = {"say": lambda line: None}
ARRAYS = {"network/0000": np.arange(6, dtype=np.float32).reshape(2, 3)}


def names(checkpoints):
    return [path.stem for path in checkpoints.paths()]


def test_what_is_kept_is_read_back_to_the_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    row = {"epoch": 1, "loss": 0.1 + 0.2, "val_nss": float("nan")}
    standing = Standing(epoch=1, step=7, seconds=1 / 3, history=[row], started="then")
    arrays = {**ARRAYS, "optimizer/0000": np.array(3, np.int64)}
    checkpoints.save(standing, arrays)
    found = checkpoint.read(checkpoints.newest(print))
    assert repr(found.standing) == repr(standing)
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def test_checkpoints_are_in_the_order_of_their_epochs(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for epoch in range(99_997, 100_001):
        checkpoints.save(Standing(epoch=epoch), ARRAYS)
    assert names(checkpoints) == ["100000-00000000", "100001-00000000"]


def test_the_newest_two_are_kept_one_of_them_between_two_epochs(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    seen = []
    for epoch, step in ((0, 3), (0, 5), (0, 8), (1, 0), (1, 2), (1, 4), (2, 0), (3, 0), (3, 1)):
        checkpoints.save(Standing(epoch=epoch, step=step), ARRAYS)
        seen.append(names(checkpoints))
    assert seen[:3] == [
        ["00001-00000003"],
        ["00001-00000003", "00001-00000005"],
        ["00001-00000005", "00001-00000008"],
    ]
    assert seen[5] == ["00002-00000000", "00002-00000004"]
    assert seen[-2:] == [
        ["00003-00000000", "00004-00000000"],
        ["00004-00000000", "00004-00000001"],
    ]
    assert checkpoints.between_epochs().standing.epoch == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(Standing(step=step), ARRAYS)
    newest = checkpoints.paths()[-1]
    data = bytearray(newest.read_bytes())
    at = data.index(ARRAYS["network/0000"].tobytes()) + 5
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    damaged = {"cut": data[:-30], "flipped": flipped, "empty": b"", "text": b"no checkpoint"}
    newest.write_bytes(damaged[damage])
    lines = []
    assert checkpoint.read(checkpoints.newest(lines.append)).standing.step == 1
    assert len(lines) == 1 and str(newest) in lines[0]
    for path in checkpoints.paths():
        path.write_bytes(b"")
    assert checkpoints.newest(lines.append) is None


def test_one_that_does_not_read_back_takes_nothing_away(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(Standing(step=step), ARRAYS)
    real = np.savez

    def spoilt(file, **arrays):
        real(file, **arrays)
        file.seek(file.tell() // 2)
        file.write(b"\xff" * 100)

    monkeypatch.setattr(np, "savez", spoilt)
    with pytest.raises(StorageError, match=r"Cannot write .*00001-00000003\.npz"):
        checkpoints.save(Standing(step=3), ARRAYS)
    assert names(checkpoints) == ["00001-00000001", "00001-00000002"]
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.suffix != ".npz"]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_checkpoint_of_another_network_is_refused_and_nothing_is_set(tiny):
    from commands.training.checkpoint import State
    from commands.training.objective import set_up
    from model import system_module

    states = []
    for width in (0.05, 0.1):
        network = system_module("mlnet").build(tiny(width=width))
        set_up(network, tiny(), 1)
        states.append(State(network, network))
    before = states[0].capture()
    with pytest.raises(UserError, match=r"its network/\d+ has shape .* is expected"):
        states[0].restore(states[1].capture(), "network")
    after = states[0].capture()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.fixture
def unfinished(tiny, monkeypatch):
    """Return the settings of a run that was interrupted after its first step."""
    with monkeypatch.context() as patch:
        patch.setattr("commands.training.epochs.Epochs.asked_to_stop", lambda self: True)
        with pytest.raises(Interrupted):
            train.train(tiny(), **QUIET)
    return tiny()


def test_an_unfinished_run_is_only_taken_up_by_its_own_settings(unfinished):
    folder = unfinished.run_folder
    before = {path: path.read_bytes() for path in folder.rglob("*.npz")}
    assert before
    with pytest.raises(UserError, match=r"holds an earlier run with other settings: "
                       r"learning_rate 0.001, now 0.1; seed 0, now 5\. .*--output"):  # fmt: skip
        train.train(replace(unfinished, learning_rate=0.1, seed=5), **QUIET)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "backend": "jax"}))
    with pytest.raises(UserError, match=r"unfinished run on jax.* set KERAS_BACKEND=jax"):
        train.train(unfinished, **QUIET)
    for what in ("pictures", "first weights"):
        (folder / "run.json").write_text(json.dumps({**about, what: "others"}))
        with pytest.raises(UserError, match=f"unfinished run whose {what} differ"):
            train.train(unfinished, **QUIET)
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"cannot be resumed: no run\.json"):
        train.train(unfinished, **QUIET)
    assert {path: path.read_bytes() for path in folder.rglob("*.npz")} == before
    with pytest.raises(UserError, match="--overwrite starts anew and --resume continues"):
        train.train(replace(unfinished, overwrite=True, resume=True), **QUIET)


def test_what_changes_no_result_may_change(unfinished, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(unfinished.run_folder, elsewhere)
    lines = []
    train.train(replace(unfinished, output=elsewhere, workers=1, resume=True), say=lines.append)
    assert "resuming from epoch 1, after step 1" in lines


def test_a_run_that_is_done_is_no_mistake_with_resume(tiny):
    run = train.train(tiny(resume=True), **QUIET)  # nothing to take up: it begins
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    lines = []
    again = train.train(tiny(resume=True), say=lines.append)
    assert lines == [f"{run.folder} is done"]
    assert again.history == run.history
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
    with pytest.raises(UserError, match="holds an earlier run, which is finished"):
        train.train(tiny(), **QUIET)
    with pytest.raises(UserError, match="other settings: seed 0, now 1"):
        train.train(tiny(resume=True, seed=1), **QUIET)


def test_what_a_killed_process_left_unfinished_goes_when_the_run_goes_on(unfinished):
    left = unfinished.run_folder / "checkpoints" / ".partial-1-2.npz"
    left.write_bytes(b"half")
    RunFolder(replace(unfinished, overwrite=True)).close()
    assert not left.exists()


def test_a_run_whose_checkpoints_cannot_be_read_is_left_alone(unfinished, monkeypatch):
    folder = unfinished.run_folder
    for path in folder.rglob("*.npz"):
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"without a readable checkpoint.*--overwrite"):
        train.train(unfinished, **QUIET)
    assert len(list(folder.rglob("*.npz"))) == 1

    def refused(self):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("commands.training.checkpoint.read_bytes", refused)
        with pytest.raises(StorageError, match="Input/output error"):
            train.train(unfinished, **QUIET)
    shutil.rmtree(folder / "checkpoints")
    (folder / "history.csv").write_text("epoch,loss\n1,0.5\n2,0.4\n")
    with pytest.raises(UserError, match="without a readable checkpoint"):
        train.train(unfinished, **QUIET)
    assert (folder / "history.csv").exists()


def test_a_write_that_fails_in_its_thread_ends_the_run_and_the_epoch_is_kept(
    tiny, tmp_path, monkeypatch
):
    whole = train.train(tiny(output=tmp_path / "whole", epochs=3), **QUIET)
    threads = []

    def full(self, history):
        threads.append(threading.current_thread().name)
        raise StorageError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_history", full)
        with pytest.raises(StorageError, match="No space left on device"):
            train.train(tiny(epochs=3), **QUIET)
    assert threads == ["writer"]
    folder = tiny().run_folder
    assert not (folder / "history.csv").exists()  # as after a kill before it is written
    assert [path.stem for path in (folder / "checkpoints").iterdir()] == ["00002-00000000"]
    lines = []
    train.train(tiny(epochs=3), say=lines.append)
    assert "resuming from epoch 2, its first step" in lines
    assert (folder / "history.csv").read_bytes() == whole.path("history.csv").read_bytes()


def test_a_damaged_one_is_not_kept_in_the_place_of_a_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for epoch in (0, 1):
        checkpoints.save(Standing(epoch=epoch), ARRAYS)
    checkpoints.paths()[-1].write_bytes(b"damaged")
    assert checkpoint.read(checkpoints.newest(lambda line: None)).standing.epoch == 0
    checkpoints.save(Standing(epoch=0, step=4), ARRAYS)
    assert names(checkpoints) == ["00001-00000000", "00001-00000004"]
    assert checkpoints.between_epochs().standing.epoch == 0
    checkpoints.clear()
    with pytest.raises(UserError, match="no readable checkpoint of the epoch's start"):
        checkpoints.between_epochs()


def test_weights_that_are_no_numbers_are_not_saved(unfinished, monkeypatch):
    from commands.training import epochs

    real = epochs.State.capture

    def spoilt(self, whole=True):
        arrays = real(self, whole)
        arrays["network/0000"] = np.full_like(arrays["network/0000"], np.nan)
        return arrays

    before = list(unfinished.run_folder.rglob("*.npz"))
    monkeypatch.setattr(epochs.State, "capture", spoilt)
    with pytest.raises(UserError, match=r"weights \(network/0000\) are no longer finite"):
        train.train(unfinished, **QUIET)
    assert list(unfinished.run_folder.rglob("*.npz")) == before


def test_the_way_with_a_loss_that_is_no_number_may_change(unfinished):
    lines, changed = [], replace(unfinished, on_nan="skip")
    assert not strategies.is_done(changed)  # what the command asks first
    train.train(changed, say=lines.append)
    assert "resuming from epoch 1, after step 1" in lines


def test_a_file_system_without_locks_is_told_and_trained_on(tiny, monkeypatch):
    import filelock

    def unknown(self, *args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(filelock.FileLock, "acquire", unknown)
    lines = []
    train.train(tiny(), say=lines.append)
    assert "cannot be locked against other runs: Operation not supported" in lines[0]


def test_a_pipe_or_a_folder_named_like_a_checkpoint_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Standing(), {"network/0000": np.zeros(2, np.float32)})
    os.mkfifo(tmp_path / "00009-00000001.npz")
    (tmp_path / "00009-00000002.npz").mkdir()
    lines = []
    data = checkpoints.newest(lines.append)
    assert data and read(data).standing == Standing()
    assert len(lines) == 2 and all("is not a file" in line for line in lines)


def test_a_checkpoint_that_holds_infinities_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Standing(), {"network/0000": np.array([1, np.inf], np.float32)})
    lines = []
    assert checkpoints.newest(lines.append) is None
    assert "is not finite" in lines[0]
