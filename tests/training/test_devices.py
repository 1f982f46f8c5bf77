import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from importlib.util import find_spec

import cv2
import h5py
import numpy as np
import pytest
from conftest import PROJECT, TWO_DEVICES

from commands import preflight
from commands.preflight import Place, choose_engine, find_place
from config import Config, resolve
from salience.system.errors import StorageError, UserError
from utilities import BatchShare, SaliencyBatches

pytestmark = pytest.mark.waits
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
        (tf_config(0, workers=["a:99999"]), "99999 is not a port"),
        (tf_config(0, ps=["d:1"]), "names 'ps': only chief and worker"),
        (tf_config(0, kind="evaluator"), "names 'evaluator'"),
        ({**SLURM, "SLURM_PROCID": "4"}, "task 4 of SLURM is not below the 4"),
        ({**SLURM, "SLURM_PROCID": "x"}, "SLURM_PROCID is x"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "Start it with srun"),
    ],
)
def test_an_environment_that_makes_no_sense_is_told(environment, told):
    with pytest.raises(UserError, match=told):
        find_place(environment)


def test_only_jax_trains_on_several_devices(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    choose_engine(devices=1, cluster=False)
    with pytest.raises(UserError, match=r"need JAX, but KERAS_BACKEND is tensorflow|pip install"):
        choose_engine(devices=2, cluster=False)
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements/backends\.txt"):
        choose_engine(devices=2, cluster=False)


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
    flags = {"KERAS_BACKEND": "jax", "XLA_FLAGS": TWO_DEVICES}
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
    feed = Feed(batches, 0, 5, epochs=2)
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
    assert list(feed.pending) == [(0, 0), (0, 1)]
    feed[1]
    assert list(feed.pending) == [(0, 1), (0, 2)]
    feed = Feed(batches, 0, 3, epochs=2)
    feed[2]  # reads on in the next epoch
    assert list(feed.pending) == [(0, 2), (1, 0)]
    batches.epoch = 1
    feed[2]
    assert list(feed.pending) == [(1, 2)]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


HEARTBEAT_SECONDS = 5  # for tests to be short
MEMBER = f"""
import os, sys, time
from commands.preflight import Place
from commands.training import hosts
from salience.system.errors import StorageError, UserError
from salience.system.quiet import hushed
hosts.HEARTBEAT_SECONDS = {HEARTBEAT_SECONDS}
with hushed():
    import jax
rank, count, port, batch_size = map(int, sys.argv[1:5])
try:
    place = Place(rank, count, "localhost", port)
    with hosts.together(place, {{"batch_size": batch_size}}, 1, TIME):
        print("met", flush=True)
        WORK
except UserError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
WAITS = "sys.stdin.read()"  # until the test hangs up


def member(rank, count, port, work="pass", batch_size=4, seconds=60):
    """Start a process of a group that does some work between its meeting and its end."""
    text = MEMBER.replace("WORK", work).replace("TIME", str(seconds))
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, (rank, count, port, batch_size))],
        cwd=PROJECT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(group):
    """Return the exit code of each process of a group, and the one line that it has said."""
    said = [one.communicate(timeout=100)[1].splitlines() for one in group]
    assert [len(lines) for lines in said] == [1] * len(group), said
    return [one.returncode for one in group], [lines[0] for lines in said]


def test_processes_meet_and_end_together_whatever_strangers_say():
    needs_jax()
    port = free_port()
    group = [member(0, 3, port)]
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n"):
        say_to(port, words)
    group += [member(1, 3, port), member(2, 3, port, WAITS)]
    for one in group:
        assert one.stdout.readline() == "met\n"
    with pytest.raises(subprocess.TimeoutExpired):
        group[0].wait(1)  # they wait for the third
    assert [one.communicate(timeout=60)[1] for one in group[::-1]] == [""] * 3
    assert [one.returncode for one in group] == [0] * 3


def say_to(port, words):
    """Connect to a port, once somebody waits there, and send some bytes."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(words)
            return
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.parametrize(
    ("kind", "failing"),
    [(UserError, 0), (StorageError, 1)],
)
@pytest.mark.slow
def test_one_that_fails_ends_all_in_one_line(failing, kind):
    needs_jax()
    port, fails = free_port(), f"raise {kind.__name__}('x.png is not a picture.')"
    codes, lines = ends(
        [member(rank, 3, port, fails if rank == failing else WAITS) for rank in range(3)]
    )
    assert codes == [kind.exit_code] * 3
    own = lines.pop(failing)
    assert own.startswith(f"error: process {failing} of 3 (")
    assert own.endswith("): x.png is not a picture.")
    for line in lines:
        assert line.startswith(f"error: process {failing} of 3 (")
        assert "failed: x.png is not a picture." in line


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 2])
def test_one_that_vanishes_ends_all_in_one_line(gone):
    needs_jax()
    port = free_port()
    group = [member(rank, 3, port, WAITS) for rank in range(3)]
    for one in group:
        assert one.stdout.readline() == "met\n"
    lost = group.pop(gone)
    lost.kill()
    lost.communicate()
    codes, lines = ends(group)
    assert codes == [2, 2]
    for line in lines:
        assert line.startswith(f"error: process {gone} of 3 (") and "has gone." in line


@pytest.mark.slow
def test_settings_that_differ_are_refused_by_all():
    needs_jax()
    port = free_port()
    codes, lines = ends([member(rank, 2, port, batch_size=4 + 4 * rank) for rank in (0, 1)])
    assert codes == [2, 2]
    for line in lines:
        assert "has --batch_size 8, process 0 has 4: give all the same" in line


@pytest.mark.slow
@pytest.mark.parametrize("present", [(0, 2), (1, 2)])
def test_one_that_does_not_come_is_told_in_time(present):
    needs_jax()
    port = free_port()
    codes, lines = ends([member(rank, 3, port, seconds=2) for rank in present])
    assert codes == [2, 2]
    for line in lines:
        assert f"not all of 3 processes came to localhost:{port} within 2 s" in line


@pytest.mark.slow
def test_a_place_taken_twice_is_refused():
    needs_jax()
    port = free_port()
    codes, lines = ends([member(rank, 3, port, seconds=5) for rank in (0, 1, 1)])
    assert codes == [2] * 3
    # who comes first decides whether JAX sees a place taken or one that stays empty
    for line in lines:
        assert "the same TF_CONFIG" in line


def test_a_port_that_is_taken_is_told():
    needs_jax()
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        codes, lines = ends([member(0, 2, port)])
    assert codes == [2]
    assert f"at port {port}: Address already in use" in lines[0]


def test_a_cluster_without_an_environment_ends_in_one_line(cli):
    done = cli("train", "--cluster", "--dataset", "synthetic", code=2)
    assert done.stderr.startswith("error: --cluster: neither TF_CONFIG nor SLURM's variables")
    assert len(done.stderr.splitlines()) == 1
    arms = ("--strategies", "frozen", "scratch")
    done = cli("train", "--cluster", *arms, "--dataset", "synthetic", code=2)
    assert "Omit --cluster" in done.stderr


PROGRAM = f"""
import sys
from commands.training import hosts
from salience.networks import weight_files
hosts.HEARTBEAT_SECONDS = {HEARTBEAT_SECONDS}
weight_files.SHIPPED = weight_files.SHIPPED.with_name("none.weights.h5")  # to score it takes time
import main
sys.exit(main.main())
"""
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


def start(folder, root, *more, epochs=4, **environment):
    """Start main.py in a folder of its own."""
    folder.mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    words = FLAGS.format(root=root, epochs=epochs).split()
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words, *more],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(PROJECT), **environment},
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


Pair = namedtuple("Pair", "folder said")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, own_set):
    """Return the folder of two processes that have trained one network, and what each has said."""
    needs_jax()
    folder = tmp_path_factory.mktemp("pair")
    codes, said = ended(start_pair(folder, own_set))
    assert codes == [0, 0], said
    return Pair(folder, said)


@pytest.mark.slow
def test_devices_and_processes_give_the_losses_of_one_device(tmp_path, own_set, pair):
    """With dropout, flips and a last batch that does not divide; validation is shared out, too."""
    needs_jax()
    two_devices = {"XLA_FLAGS": TWO_DEVICES}
    running = {
        "one": start(tmp_path / "one", own_set, KERAS_BACKEND="jax"),
        "two": start(tmp_path / "two", own_set, "--devices", "2", **two_devices),
    }
    said = {name: process.communicate(timeout=550) for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(said, 0)
    said |= {"process0": pair.said[0], "process1": pair.said[1]}
    assert {err for _, err in said.values()} == {""}
    assert said["process1"][0] == ""  # the others are silent, and write nothing
    assert list((pair.folder / "process1").iterdir()) == []
    lines = [said[name][0].splitlines() for name in ("one", "two", "process0")]
    for some in lines[:2]:  # in a cluster, each process would say so
        assert some.pop(0).startswith("starting Keras")
    assert [len(some) for some in lines] == [11, 12, 12], lines
    for some in lines[1:]:
        assert any("not scored in a training on several devices" in line for line in some)
    assert "2 devices of 1 processes share each batch, by JAX" in lines[1]
    assert "2 devices of 2 processes share each batch, by JAX" in lines[2]

    folders = {name: tmp_path / name for name in running} | {"process0": pair.folder / "process0"}

    def history(name):
        with (folders[name] / "run/history.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = ("loss", "zero_maps", "val_loss", "val_cc")
        return np.array([[float(row[name]) for name in names] for row in rows])

    def weights(name):
        with h5py.File(folders[name] / "run/last.weights.h5") as file:
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
    both = [
        start(tmp_path / f"process{i}", own_set, *frozen, "--cluster", **tf_config(i, workers),
              **once, **own)
        for i, own in enumerate((cache, other))
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in both]
    assert [err for _, err in said] == ["", ""]
    assert "feature cache: off, as in another process of this run" in said[0][0]
    assert (tmp_path / "process0/run/best.weights.h5").exists()


@pytest.mark.slow
def test_a_picture_that_one_process_cannot_read_ends_both(tmp_path, own_set):
    needs_jax()
    broken = tmp_path / "own"
    for path in own_set.rglob("*.png"):
        copy = broken / path.relative_to(own_set)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (broken / "val/images/4.png").write_text("no picture")  # the second's share
    codes, said = ended(start_pair(tmp_path, broken))
    assert codes == [2, 2]
    told = [err for _, err in said]
    for lines in told:
        assert len(lines.splitlines()) == 1
        assert "val/images/4.png is not a picture that can be read" in lines
    assert told[0].startswith("error: process 1 of 2 (")
    assert not (tmp_path / "process0/run/best.weights.h5").exists()


@pytest.mark.slow
def test_a_signal_or_a_death_of_one_process_stops_both_and_they_go_on(tmp_path, own_set, pair):
    """A signal stops both at the same step; where one is killed, the other says so and ends."""

    def start_again(end):
        """Start both, and once they have done an epoch, end the second by a signal."""
        both = start_pair(tmp_path, own_set)
        for line in iter(both[0].stdout.readline, ""):
            if line.startswith("epoch "):
                break
        both[1].send_signal(end)
        return ended(both)

    codes, said = start_again(signal.SIGTERM)
    assert codes == [75, 75], said
    codes, said = start_again(signal.SIGKILL)
    assert codes == [2, -signal.SIGKILL], said
    told = said[0][1]
    assert told.startswith("error: process 1 of 2 (")
    assert "has gone" in told and len(told.splitlines()) == 1
    codes, said = ended(start_pair(tmp_path, own_set))
    assert codes == [0, 0], said
    assert "resuming from epoch" in said[0][0]
    one, other = (folder / "process0/run/history.csv" for folder in (pair.folder, tmp_path))
    assert one.read_bytes() == other.read_bytes()


def ended(processes):
    """Return the exit codes of processes that end, and what each has said."""
    said = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], said
