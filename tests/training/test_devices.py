import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec

import cv2
import h5py
import numpy as np
import pytest
from conftest import PROJECT

from commands.training import hosts
from commands.training.hosts import Place, ProcessGroup, find_place
from config import Config, resolve
from salience.system.errors import StorageError, UserError
from utilities import BatchShare, SaliencyBatches

WORKERS = ["a:1000", "a:1000", "b:1000"]


def tf_config(index, workers=WORKERS, kind="worker", **more):
    """Return the environment of a task."""
    value = {"cluster": {"worker": workers, **more}, "task": {"type": kind, "index": index}}
    return {"TF_CONFIG": json.dumps(value)}


SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04,11],login",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "9",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def test_tf_config_gives_the_place():
    assert find_place(tf_config(0)) == Place(0, 3, "a", 1000, 0)
    assert find_place(tf_config(1)) == Place(1, 3, "a", 1000, 1)
    assert find_place(tf_config(2)) == Place(2, 3, "a", 1000, 0)


def test_a_chief_comes_before_the_workers():
    assert find_place(tf_config(0, kind="chief", chief=["c:7"])) == Place(0, 4, "c", 7, 0)
    assert find_place(tf_config(1, chief=["c:7"])) == Place(2, 4, "c", 7, 1)


def test_slurms_step_gives_the_place():
    place = find_place(SLURM)
    assert (place.rank, place.count, place.host, place.local) == (3, 4, "gpu03", 1)
    assert place.port == find_place({**SLURM, "SLURM_PROCID": "0"}).port
    assert place.port != find_place({**SLURM, "SLURM_STEP_ID": "3"}).port  # side by side
    assert 61440 <= place.port < 65536


def test_what_somebody_set_comes_before_slurm():
    assert find_place({**SLURM, **tf_config(2)}).host == "a"


def test_a_job_of_one_task_needs_no_step():
    alone = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    assert find_place(alone).count == 1


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "neither TF_CONFIG nor SLURM's variables are set"),
        ({"TF_CONFIG": "no json"}, "TF_CONFIG is not understood; expected"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG is not understood"),
        ({"TF_CONFIG": '{"cluster": {}, "task": {"index": 0}}'}, "lists no workers as host:port"),
        (tf_config(3), "there is no worker 3; 3 are listed, from 0"),
        (tf_config(-1), "there is no worker -1"),
        (tf_config(0, workers=["a"]), "lists no workers as host:port"),
        (tf_config(0, workers=["a:99999"]), "99999 is no port"),
        (tf_config(0, ps=["d:1"]), "names 'ps': only chief and worker"),
        (tf_config(0, kind="evaluator"), "names 'evaluator'"),
        ({**SLURM, "SLURM_PROCID": "4"}, "task 4 is none of 4"),
        ({**SLURM, "SLURM_PROCID": "x"}, "SLURM_PROCID is x"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "Start it with srun"),
    ],
)
def test_an_environment_that_makes_no_sense_is_told(environment, told):
    with pytest.raises(UserError, match=told):
        find_place(environment)


def test_only_jax_trains_on_several_devices(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    hosts.choose_engine(devices=1, cluster=False)
    with pytest.raises(UserError, match=r"on JAX, not on KERAS_BACKEND=tensorflow|pip install"):
        hosts.choose_engine(devices=2, cluster=False)
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements/backends\.txt"):
        hosts.choose_engine(devices=2, cluster=False)


def test_a_batch_that_does_not_divide_by_the_devices_is_refused():
    from commands.training.devices import check_batch

    check_batch(10, None, 5, Place(0, 2))
    with pytest.raises(UserError, match=r"--batch_size 10 .* all 4 devices .* Try 8 or 12"):
        check_batch(10, None, 2, Place(0, 2))
    with pytest.raises(UserError, match=r"Try 4\."):
        check_batch(2, None, 4, Place())
    with pytest.raises(UserError, match=r"--micro_batch 3 .* all 2 devices .* Try 2 or 4"):
        check_batch(10, 3, 2, Place())
    whole = Config(micro_batch=13).part_size  # the batch is smaller, so it is held at once
    check_batch(10, whole, 2, Place())


PARTS = """
import jax, numpy as np
from commands.training import backends
from jax.sharding import Mesh, NamedSharding, PartitionSpec
mesh = Mesh(np.array(jax.devices()), ("batch",))
batch = jax.device_put(np.arange(16.0), NamedSharding(mesh, PartitionSpec("batch")))
@jax.jit
def work(batch):
    first, others, number = backends._parts(batch, 4, len(batch))
    add = lambda total, part: (total + (part**2).sum(), None)
    return jax.lax.scan(add, (first**2).sum(), others)[0]
print(len(jax.devices()), float(work(batch)), "all-gather" in work.lower(batch).compile().as_text())
"""


def test_each_device_computes_its_share_of_each_part_of_a_batch():
    needs_jax()
    flags = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    words = [sys.executable, "-c", PARTS]
    said = subprocess.run(
        words, cwd=PROJECT, env={**os.environ, **flags}, capture_output=True, text=True
    )
    assert said.stdout.split() == ["2", "1240.0", "False"], said.stderr


def test_machines_are_those_of_who_asks_now(tmp_path):
    import config

    config.save(Config(devices=4, cluster=True, batch_size=8), tmp_path / "config.json")
    again = resolve({}, tmp_path / "config.json")
    assert (again.devices, again.cluster, again.batch_size) == (1, False, 8)


@pytest.mark.parametrize("size", [4, 12, 13])
def test_processes_read_each_picture_of_a_batch_once(size):
    whole = np.arange(size)
    parts = [BatchShare(number, 2, 4).of(whole) for number in (0, 1)]
    if size % 4 == 0:
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    else:  # all compute the whole
        assert [part.tolist() for part in parts] == [whole.tolist()] * 2


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_though_the_first_is_looked_at_twice(workers):
    from commands.training.devices import Feed
    from salience.data.sets import synthetic

    samples = synthetic.load(None, "train")
    batches = SaliencyBatches(samples, (48, 64), 2, shuffle=True, seed=3, workers=workers)
    feed = Feed(batches, 0, 5)
    feed[0]
    assert len(feed) == 5
    for epoch in (0, 1):
        batches.epoch = epoch
        for index in range(5):
            for ours, plain in zip(feed[index], batches[index], strict=True):
                np.testing.assert_array_equal(ours, plain)


def test_no_more_batches_are_held_than_the_generator_says():
    """Kept features are larger than pictures: `feature_cache.attach` lets fewer be read ahead."""
    from commands.training.devices import Feed
    from salience.data.sets import synthetic

    batches = SaliencyBatches(synthetic.load(None, "train"), (48, 64), 2)
    batches.max_queue_size = 2
    feed = Feed(batches, 0, len(batches))
    feed[0]
    assert list(feed.coming) == [(0, 0), (0, 1)]
    feed[1]
    assert list(feed.coming) == [(0, 1), (0, 2)]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


class Member(threading.Thread):
    """A process of a group, played by a thread; `left` is the exit code that it ended with."""

    playing: list["Member"] = []

    def __init__(self, place, settings=None, timeout=5.0):
        super().__init__(daemon=True)
        self.args = (place, settings or {"batch_size": 4}, timeout)
        self.error = self.group = self.left = None
        self.gone = threading.Event()
        self.playing.append(self)
        self.start()

    def run(self):
        try:
            self.group = ProcessGroup(*self.args, leave=self.leave)
        except UserError as error:
            self.error = str(error)

    def leave(self, code):
        self.left = code
        self.gone.set()

    def met(self):
        self.join(15)
        assert not self.is_alive()
        return self


@pytest.fixture(autouse=True)
def hang_up():
    """Close what the members of a test have left open."""
    yield
    while Member.playing:
        group = Member.playing.pop().met().group
        if group:
            group.close()


def members(count, settings=({}, {}, {}), **more):
    port = free_port()
    return [
        Member(Place(rank, count, "localhost", port), {"batch_size": 4, **settings[rank]}, **more)
        for rank in reversed(range(count))
    ][::-1]


def test_processes_meet_and_end_together():
    group = [member.met().group for member in members(3)]
    assert len({one.port for one in group}) == 1
    ending = [threading.Thread(target=one.finish) for one in group]
    for thread in ending[:2]:
        thread.start()
    ending[1].join(0.3)
    assert ending[0].is_alive() and ending[1].is_alive()  # they wait for the third
    ending[2].start()
    for thread in ending:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", [UserError, StorageError])
@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_all_in_one_line(capfd, failing, kind):
    all_three = [member.met() for member in members(3)]
    all_three[failing].group.fail(kind("x.png is not a picture."))
    others = [member for member in all_three if member is not all_three[failing]]
    assert [member.gone.wait(5) and member.left for member in others] == [kind.exit_code] * 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"error: process {failing} of 3 (")
        assert "failed: x.png is not a picture." in line


def test_one_that_vanishes_ends_all(capfd):
    all_three = [member.met() for member in members(3)]
    all_three[2].group.close()
    assert [member.gone.wait(5) and member.left for member in all_three[:2]] == [2, 2]
    assert "process 2 of 3" in capfd.readouterr().err


def test_settings_that_differ_are_refused_by_all():
    pair = [member.met() for member in members(2, ({}, {"batch_size": 8}))]
    for member in pair:
        assert "has --batch_size 8, process 0 has 4: give all the same" in member.error


def test_one_that_does_not_come_is_named():
    port = free_port()
    present = [Member(Place(rank, 3, "localhost", port), timeout=1.0) for rank in (0, 1)]
    for member in present:
        assert "1 did not come within 1 s; first: process 2" in member.met().error


def test_a_place_taken_twice_is_refused():
    port = free_port()
    three = [Member(Place(rank, 3, "localhost", port)) for rank in (0, 1, 1)]
    assert "do not have the same TF_CONFIG" in three[0].met().error


def test_a_chief_that_is_not_there_is_told_in_time():
    port = free_port()
    error = Member(Place(1, 2, "localhost", port), timeout=1.0).met().error
    assert f"did not reach process 0 at localhost:{port} within 1 s" in error


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        error = Member(Place(0, 2, "localhost", port)).met().error
    assert f"at port {port}: Address already in use" in error


def test_a_stranger_at_the_port_does_no_harm():
    port = free_port()
    chief = Member(Place(0, 2, "localhost", port))
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n"):
        while True:
            try:
                with socket.create_connection(("localhost", port)) as stranger:
                    stranger.sendall(words)
                break
            except ConnectionRefusedError:
                continue
    worker = Member(Place(1, 2, "localhost", port))
    assert chief.met().group and worker.met().group


def test_a_cluster_without_an_environment_ends_in_one_line(cli):
    done = cli("train", "--cluster", "--dataset", "synthetic", code=2)
    assert done.stderr.startswith("error: --cluster: neither TF_CONFIG nor SLURM's variables")
    assert len(done.stderr.splitlines()) == 1
    arms = ("--strategies", "frozen", "scratch")
    done = cli("train", "--cluster", *arms, "--dataset", "synthetic", code=2)
    assert "leave --cluster away" in done.stderr


FLAGS = (
    "train --dataset folder --data {root} --rows 48 --cols 64 --width 0.05 --batch_size 4 "
    "--backbone_weights none --freeze_backbone False --loss kld --optimizer adam --flip True "
    "--epochs {epochs} --output run --weights_dir weights"
)


def needs_jax():
    if find_spec("jax") is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip("optional: jax is not installed (requirements/backends.txt)")


@pytest.fixture(scope="module")
def own_set(tmp_path_factory):
    """Return a data set whose last batch of four is a single picture."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 5), ("test", 1)):
        for kind in ("images", "maps"):
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
                picture = cv2.GaussianBlur(noise, (0, 0), 3)
                kept = picture if kind == "images" else picture[..., 0]
                cv2.imwrite(str(root / split / kind / f"{i}.png"), kept)
    return root


def start(folder, root, *more, epochs=2, **environment):
    """Start main.py in a folder of its own."""
    folder.mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    words = FLAGS.format(root=root, epochs=epochs).split()
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "main.py"), *words, *more],
        cwd=folder,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_pair(folder, root, **more):
    """Start two processes that train one network."""
    workers = [f"127.0.0.1:{free_port()}"] * 2
    return [
        start(folder / f"process{i}", root, "--cluster", **tf_config(i, workers), **more)
        for i in (0, 1)
    ]


@pytest.mark.slow
def test_devices_and_processes_give_the_losses_of_one_device(tmp_path, own_set):
    """With dropout, flips and a last batch that does not divide; validation is shared out, too."""
    needs_jax()
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    running = {
        "one": start(tmp_path / "one", own_set, KERAS_BACKEND="jax"),
        "two": start(tmp_path / "two", own_set, "--devices", "2", **two_devices),
        **dict(zip(("process0", "process1"), start_pair(tmp_path, own_set), strict=True)),
    }
    said = {name: process.communicate(timeout=550) for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(said, 0)
    assert {err for _, err in said.values()} == {""}
    assert said["process1"][0] == ""  # the others are silent, and write nothing
    assert list((tmp_path / "process1").iterdir()) == []
    lines = [said[name][0].splitlines() for name in ("one", "two", "process0")]
    assert [len(some) for some in lines] == [6, 8, 8], lines
    for some in lines[1:]:
        assert any("not scored beside a training on several devices" in line for line in some)
    assert lines[1][3] == "2 devices of 1 processes share each batch, by JAX"
    assert lines[2][3] == "2 devices of 2 processes share each batch, by JAX"

    def history(name):
        with (tmp_path / name / "run/history.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = ("loss", "zero_maps", "val_loss", "val_cc")
        return np.array([[float(row[name]) for name in names] for row in rows])

    def weights(name):
        with h5py.File(tmp_path / name / "run/last.weights.h5") as file:
            found = []
            file["layers"].visititems(
                lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None
            )
        return np.concatenate([array.ravel() for array in found])

    expected = history("one")
    assert abs(expected[1, 0] - expected[0, 0]) > 0.01  # it learns: equal losses say something
    for name in ("two", "process0"):
        np.testing.assert_allclose(history(name), expected, atol=1e-4)
        np.testing.assert_allclose(weights(name), weights("one"), atol=1e-3)


@pytest.mark.slow
def test_processes_whose_caches_differ_train_on_the_same(tmp_path, own_set):
    """One has the features of an earlier run, for whose sake it would read them in one epoch."""
    needs_jax()
    frozen, once = ("--freeze_backbone", "True"), {"KERAS_BACKEND": "jax", "epochs": 1}
    cache = {"SALIENCY_CACHE": str(tmp_path / "cache")}
    earlier = start(tmp_path / "one", own_set, *frozen, "--feature_cache", "on", **once, **cache)
    assert earlier.communicate(timeout=300)[1] == ""
    workers = [f"127.0.0.1:{free_port()}"] * 2
    other = {"SALIENCY_CACHE": str(tmp_path / "empty")}
    pair = [
        start(tmp_path / f"process{i}", own_set, *frozen, "--cluster", **tf_config(i, workers),
              **once, **own)
        for i, own in enumerate((cache, other))
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in pair]
    assert [err for _, err in said] == ["", ""]
    assert "feature cache: off, as for another process of this run" in said[0][0]
    assert (tmp_path / "process0/run/best.weights.h5").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other(tmp_path, own_set):
    needs_jax()
    chief, other = start_pair(tmp_path, own_set, epochs=100_000)
    for line in chief.stdout:
        if line.startswith("epoch 1:"):
            break
    other.send_signal(signal.SIGKILL)
    _, told = chief.communicate(timeout=30)
    other.communicate()
    assert chief.returncode == 2
    assert told.startswith("error: process 1 of 2 (")
    assert "has gone" in told and len(told.splitlines()) == 1


@pytest.mark.slow
def test_a_picture_that_one_process_cannot_read_ends_both(tmp_path, own_set):
    needs_jax()
    broken = tmp_path / "own"
    for path in own_set.rglob("*.png"):
        copy = broken / path.relative_to(own_set)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (broken / "val/images/4.png").write_text("no picture")  # the second's share
    pair = start_pair(tmp_path, broken)
    told = [process.communicate(timeout=300)[1] for process in pair]
    assert [process.returncode for process in pair] == [2, 2]
    for lines in told:
        assert len(lines.splitlines()) == 1
        assert "val/images/4.png is not a picture that can be read" in lines
    assert told[0].startswith("error: process 1 of 2 (")
    assert not (tmp_path / "process0/run/best.weights.h5").exists()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step_and_they_go_on(tmp_path, own_set):
    needs_jax()
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = start_pair(tmp_path / "whole", own_set, epochs=6)
    assert ended(whole)[0] == [0, 0]
    parts = start_pair(tmp_path / "parts", own_set, epochs=6)
    for line in iter(parts[0].stdout.readline, ""):
        if line.startswith("epoch 1:"):
            break
    parts[1].send_signal(signal.SIGTERM)
    codes, said = ended(parts)
    assert codes == [75, 75], said
    codes, said = ended(start_pair(tmp_path / "parts", own_set, epochs=6))
    assert codes == [0, 0], said
    assert "resuming from epoch" in said[0][0]
    one, other = (tmp_path / name / "process0/run/history.csv" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def ended(processes):
    """Return the exit codes of processes that end, and what each has said."""
    said = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], said
