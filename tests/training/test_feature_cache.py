import subprocess
import sys
from dataclasses import replace

import cv2
import keras
import numpy as np
import pytest
from conftest import PROJECT

import utilities
from commands.curation.prepare import prepare
from commands.evaluation.strategies import is_done
from commands.settings import PrepareConfig
from commands.training import backends, feature_cache, objective, train
from commands.training.devices import Devices
from commands.training.feature_cache import (
    Choice,
    Rates,
    choose,
    cut,
    decide,
    fingerprint,
    frontier,
)
from config import Config, resolve
from model import grid_of, load_model, system_module
from salience.system import cache
from salience.system.errors import UserError
from utilities import OutputGrid

QUIET = {"say": lambda line: None}
SIZES = {
    "mlnet": {"rows": 48, "cols": 64, "width": 0.1},
    "salnet-deep": {"rows": 48, "cols": 64, "width": 0.1},
    "salnet-half": {"rows": 48, "cols": 64, "width": 0.2},
    "resnet50-decoder": {"rows": 64, "cols": 32, "width": 0.1},
    "linear-probe": {"rows": 48, "cols": 64, "width": 0.1, "backbone": "vgg16"},
    "multiscale": {"rows": 64, "cols": 96, "width": 0.1, "readout": (8, 4)},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path, picture):
    """Return a folder of pictures and maps: 10 to train on, 3 to validate with."""
    root = tmp_path / "own"
    for split, count in (("train", 10), ("val", 3)):
        for kind in ("images", "maps"):
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                image = picture(50, 70)
                cv2.imwrite(
                    str(root / split / kind / f"{i}.png"),
                    image if kind == "images" else image[..., 0],
                )
    return root


@pytest.fixture
def cached(tiny, own):
    """Return a function that makes a config of a run on features of `own`."""

    def make(**changes):
        settings = {"dataset": "folder", "data": own, "flip": True, "epochs": 3, "batch_size": 4,
                    "width": 0.1, "feature_cache": "on", "overwrite": True}  # fmt: skip
        return tiny(**{**settings, **changes})

    return make


def fit(config, lines=None):
    """Return the losses of a run and its last maps, without what `train` writes."""
    backends.make_deterministic(config.seed)
    _, fitted, training, validation, _ = attached(config, lines)
    objective.set_up(fitted, config, len(training))
    begin = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(training, "epoch", epoch)
    )
    history = fitted.fit(
        training, epochs=config.epochs, shuffle=False, verbose=0, callbacks=[begin]
    ).history
    maps = [fitted.predict_on_batch(validation[i][0]) for i in range(len(validation))]
    return history["loss"], np.concatenate(maps)


def equal(one, other):
    return one[0] == other[0] and np.array_equal(one[1], other[1])


def entries(root):
    return sorted(root.rglob("*.features"))


def attached(config, lines=None):
    """Return a network's head or itself, and its batches, as `train` has them."""
    model = system_module(config.model).build(config)
    grid = grid_of(model)
    training, validation = (train.batches(config, split, grid) for split in ("train", "val"))
    say = QUIET["say"] if lines is None else lines.append
    kept = feature_cache.attach(model, training, validation, config, say)
    return model, kept.fitted, training, validation, kept.message


def test_training_on_kept_features_has_the_same_losses(cached, own_cache):
    """With dropout and flips; the second run on features reads what the first has kept."""
    plain = fit(cached(feature_cache="off"))
    assert not entries(own_cache)
    for _ in range(2):
        assert equal(fit(cached(feature_precision="float32")), plain)
    kept = entries(own_cache)
    assert {path.stem.endswith("-flipped") for path in kept} == {True, False}
    rounded = fit(cached())
    assert not equal(rounded, plain)
    np.testing.assert_allclose(rounded[0], plain[0], atol=1e-3)


def test_train_writes_the_same_history_and_the_whole_network(cached):
    found = []
    for choice in ("off", "on"):
        config = cached(epochs=2, feature_precision="float32", feature_cache=choice)
        run = train.train(config, **QUIET)
        scores = [(row["loss"], row["val_loss"], row["val_cc"]) for row in run.history]
        found.append((scores, load_model(run.path("last.weights.h5")).get_weights()))
    assert found[0][0] == found[1][0]
    done = replace(config, overwrite=False)
    assert is_done(replace(done, feature_cache="off", cache_limit="1GB"))
    with pytest.raises(UserError, match="other settings: feature_precision float32, now float16"):
        is_done(replace(done, feature_precision="float16"))
    for plain, kept in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(plain, kept)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "resnet50-decoder" else n for n in SIZES],
)
def test_every_system_is_cut_where_it_begins_to_learn(name, rng):
    given = {"model": name, "freeze_backbone": True, "backbone_weights": "none", **SIZES[name]}
    model = system_module(name).build(resolve(given))
    x = rng.integers(0, 256, (3, *model.input_shape[1:]), dtype=np.uint8)
    parts = cut(model, "float32")
    assert parts
    assert not parts.trunk.trainable_weights
    assert {id(w) for w in parts.head.trainable_weights} == {id(w) for w in model.trainable_weights}
    assert {id(w) for w in parts.trunk.weights + parts.head.weights} == {
        id(w) for w in model.weights
    }
    features = parts.trunk.predict_on_batch(x)
    np.testing.assert_array_equal(parts.head.predict_on_batch(features), model.predict_on_batch(x))


@pytest.mark.parametrize("name", ["mlnet", "linear-probe", "salnet-deep", "salnet-shallow"])
def test_where_every_layer_learns_nothing_is_kept(name):
    given = {"model": name, "freeze_backbone": False, "backbone_weights": "none"}
    assert cut(system_module(name).build(resolve({**given, **SIZES.get(name, {})}))) is None


def test_finetuning_goes_on_without_a_word_unless_asked(cached, own_cache):
    config = cached(freeze_backbone=False, feature_cache="auto")
    model, fitted, training, _, line = attached(config)
    assert (fitted is model, training.features, line) == (True, None, "")
    assert attached(replace(config, feature_cache="on"))[-1].endswith(
        "no layer with weights is frozen"
    )
    assert not own_cache.exists()


def test_of_blocks_that_are_fixed_the_ends_are_kept():
    network = system_module("mlnet").build(
        Config(rows=48, cols=64, width=0.1, freeze_backbone=False, fixed_blocks=3)
    )
    assert [tap.shape[1:] for tap in frontier(network)] == [(6, 8, 26)]  # the third pool


def test_a_skip_connection_is_kept_as_well():
    inputs = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(2, 3, padding="same", trainable=False, activation="relu")(inputs)
    second = keras.layers.Conv2D(4, 3, padding="same", trainable=False)(first)
    x = keras.layers.Concatenate()([keras.layers.Conv2D(2, 1)(second), first])
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1)(x))
    assert {tuple(t.shape) for t in frontier(model)} == {(None, 8, 8, 2), (None, 8, 8, 4)}
    parts, x = cut(model, "float32"), np.random.default_rng(0).random((2, 8, 8, 3)) * 255
    found = parts.head.predict_on_batch(parts.trunk.predict_on_batch(x))
    np.testing.assert_allclose(found, model.predict_on_batch(x), rtol=1e-5)


def frozen_then(layer):
    """Return a network of a frozen convolution, then a layer, then one that learns."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3, trainable=False, name="frozen")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(1, 1)(layer(x)))


@pytest.mark.parametrize(
    ("layer", "fixed"),
    [
        (keras.layers.ReLU(), True),
        (keras.layers.Dropout(0.0), True),
        (keras.layers.Dropout(0.5), False),
        (keras.layers.GaussianNoise(0.1), False),
        (keras.layers.BatchNormalization(center=False, scale=False), False),
        (keras.layers.BatchNormalization(trainable=False), True),
    ],
)
def test_what_draws_or_counts_in_training_is_not_fixed(layer, fixed):
    [tap] = frontier(frozen_then(layer))
    assert (tap is frozen_then_output(layer)) == fixed


def frozen_then_output(layer):
    return layer.output


def test_a_picture_is_decoded_once_and_in_no_later_run(cached, monkeypatch):
    """Both ways round must be there: pictures are drawn, half of them flipped, epoch by epoch."""
    opened = []
    real = utilities.network_input

    def counted(sample, input_shape):
        opened.append(sample.image)
        return real(sample, input_shape)

    monkeypatch.setattr(feature_cache, "network_input", counted)
    *_, training, validation, _ = attached(cached())
    read(validation)
    for epoch in range(12):
        training.epoch = epoch
        opened.clear()
        for index in range(len(training)):
            training[index]
        assert len(opened) == len(set(opened))
        if epoch == 0:
            assert len(opened) == 10
    assert opened == []
    *_, training, validation, line = attached(cached())
    assert "23 are cached" in line
    assert "none is missing" in line
    read(training), read(validation)
    assert opened == []


def test_a_flipped_picture_has_features_of_its_own(cached):
    model, _, training, _, _ = attached(cached(feature_precision="float32"))
    plain = train.batches(cached(), "train", OutputGrid())
    trunk = cut(model, "float32").trunk
    flips = [plain.is_flipped(i) for i in plain.order().tolist()]
    assert {True, False} == set(flips)
    for index in range(len(plain)):
        (x, y), (features, same_y) = plain[index], training[index]
        made = trunk.predict_on_batch(x)
        np.testing.assert_array_equal(features, made)
        np.testing.assert_array_equal(y, same_y)


def test_a_changed_picture_is_computed_anew(cached, own, picture):
    config = cached(flip=False)
    *_, training, _, _ = attached(config)
    before = training[0][0]
    changed = training.samples[training.order()[0]].image
    cv2.imwrite(str(changed), picture(50, 70))
    *_, again, _, _ = attached(config)
    assert not np.array_equal(again[0][0][0], before[0])
    np.testing.assert_array_equal(again[0][0][1:], before[1:])


def test_equal_pictures_of_two_sets_share_their_features(tiny, own, own_cache):
    *_, training, _, _ = attached(
        tiny(dataset=("folder", "synthetic"), data=own, feature_cache="on", width=0.1, flip=False)
    )
    one = training.samples[0]
    twin = replace(one, name="twin", image=lambda: cv2.imread(str(one.image)))
    features, _ = training.features.batch([one, twin], [False, False])
    np.testing.assert_array_equal(features[0], features[1])
    assert len(entries(own_cache)) == 1


def test_a_prepared_store_shares_the_features_of_its_originals(cached, own, own_cache, tmp_path):
    stored = tmp_path / "store"
    prepare(PrepareConfig(dataset="folder", data=(own,), rows=48, cols=64, output=stored), **QUIET)
    originals = read(attached(cached(flip=False))[2])
    kept = entries(own_cache)
    features = read(attached(cached(flip=False, data=stored))[2])
    np.testing.assert_array_equal(features, originals)
    assert entries(own_cache) == kept
    assert "10 are cached" in attached(cached(flip=False, data=stored))[-1]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_features_of_any_precision_are_kept_finite(cached, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, fitted, training, _, _ = attached(cached(flip=False))
        layer = model.get_layer("block5_conv3")
        layer.bias.assign_add(np.full(layer.bias.shape, 1e6))
        x = training[0][0]
        assert x.dtype == np.float16
        assert x.max() == 65504
        assert fitted.predict_on_batch(x).shape == (4, 6, 8, 1)
    finally:
        keras.config.set_dtype_policy("float32")


def read(batches, epochs=1):
    """Return all features of some epochs."""
    found = []
    for epoch in range(epochs):
        batches.epoch = epoch
        found += [batches[index][0] for index in range(len(batches))]
    return np.concatenate(found)


def test_an_interrupted_run_goes_on_where_it_was(cached, own_cache, monkeypatch):
    whole = read(attached(cached(flip=False))[2])
    for path in entries(own_cache)[::2]:  # as if it had been ended halfway
        path.unlink()
    computed = []
    real = feature_cache.Features.compute
    monkeypatch.setattr(
        feature_cache.Features,
        "compute",
        lambda self, pictures: computed.append(len(pictures)) or real(self, pictures),
    )
    np.testing.assert_array_equal(read(attached(cached(flip=False))[2]), whole)
    assert sum(computed) == 5
    assert len(computed) > 1  # in batches that also hold kept ones


def test_a_damaged_entry_is_computed_again(cached, own_cache):
    whole = read(attached(cached(flip=False))[2])
    paths = entries(own_cache)
    before = [path.read_bytes() for path in paths]
    paths[0].write_bytes(before[0][:-3])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(before[2][:50] + b"???" + before[2][53:])
    np.testing.assert_array_equal(read(attached(cached(flip=False))[2]), whole)
    assert [path.read_bytes() for path in entries(own_cache)] == before


def test_with_room_for_a_part_the_rest_is_computed_each_time(
    cached, own_cache, monkeypatch, capsys
):
    monkeypatch.setattr(cache, "_told", [])
    whole = read(attached(cached(flip=False))[2], epochs=3)
    size = max(path.stat().st_size for path in entries(own_cache))
    for path in entries(own_cache):
        path.unlink()
    lines = []
    rest = sum(one.size for one in cache.Cache(own_cache).occupants())  # the truth, above all
    limit = (rest + 7 * size) / cache.BULKY_SHARE
    *_, training, _, line = attached(cached(flip=False, cache_limit=f"{limit:.0f}B"), lines)
    np.testing.assert_array_equal(read(training, epochs=3), whole)
    assert 4 <= len(entries(own_cache)) < 10
    assert sum(path.stat().st_size for path in entries(own_cache)) <= 7 * size
    assert sum(one.size for one in cache.Cache(own_cache).occupants()) <= limit
    assert "the rest is computed each time" in line
    assert lines == []
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(".")[0] for line in told] == ["note: nothing more is cached"]
    assert "No more room in" in told[0]


@pytest.mark.slow
def test_two_runs_at_once_share_what_they_compute(own, own_cache, tmp_path):
    words = [sys.executable, str(PROJECT / "main.py"), "train", "--dataset", "folder", "--data",
             str(own), "--rows", "48", "--cols", "64", "--width", "0.1", "--epochs", "2", "--flip",
             "--backbone_weights", "none", "--feature_cache", "on",
             "--batch_size", "4"]  # fmt: skip
    runs = [
        subprocess.Popen(
            [*words, "--output", str(tmp_path / name), "--weights_dir", str(tmp_path / "weights")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    for run in runs:
        said = run.communicate(timeout=200)[0]
        assert run.returncode == 0, said
    curves = [(tmp_path / name / "history.csv").read_text().splitlines() for name in ("a", "b")]
    cost = [[line.rsplit(",", 3)[0] for line in lines] for lines in curves]
    assert cost[0] == cost[1]
    assert len({path.parents[1] for path in entries(own_cache)}) == 1
    assert not list(own_cache.rglob(".*"))  # nothing half-written is left


def test_name_of_a_network_follows_its_weights_and_not_the_runs_seed(cached):
    def name(config, change=None):
        model = system_module(config.model).build(config)
        for w, value in zip(model.weights, same, strict=True):
            w.assign(value)
        if change:
            change(model)
        return fingerprint(cut(model, config.feature_precision).trunk)

    same = system_module("mlnet").build(cached()).get_weights()
    first = name(cached())
    assert first == name(cached(seed=5, dropout=0.3, optimizer="sgd"))

    def raised(layer):
        return lambda model: model.get_layer(layer).bias.assign_add(
            np.full(model.get_layer(layer).bias.shape, 1e-3)
        )

    assert first != name(cached(), raised("block1_conv1"))
    assert first == name(cached(), raised("head_conv1"))
    others = [name(cached(feature_precision="float32")), name(cached(rows=64))]
    assert len({first, *others}) == 3


def test_features_beyond_float16_are_cut_off_and_told(cached):
    lines = []
    model, _, training, _, _ = attached(cached(flip=False), lines)
    assert lines == []
    training.features.trunk.get_layer("block5_conv3").bias.assign_add(
        np.full(model.get_layer("block5_conv3").bias.shape, 1e6)
    )
    x = training[0][0]
    training[1]
    assert np.isfinite(x).all()
    assert x.max() == 65504
    assert [line.startswith("warning: features beyond 65,504 are clipped") for line in lines] == [
        True
    ]


def test_auto_reasons_from_sizes():
    sizes = {"count": 1000, "nbytes": 10**6}
    assert decide("auto", **sizes, there=0, room=10**9, epochs=20)[0]
    assert decide("auto", **sizes, there=0, room=10**8, epochs=20)[0]
    assert not decide("auto", **sizes, there=0, room=10**7, epochs=20)[0]
    assert decide("on", **sizes, there=0, room=10**7, epochs=1)[0]
    # what is there is read, whatever the room and the epochs
    assert decide("auto", **sizes, there=900, room=0, epochs=1)[0]
    assert decide("auto", **sizes, there=1000, room=0, epochs=20) == (True, "none is missing")
    assert not decide("auto", **sizes, there=0, room=10**10, epochs=1)[0]


def test_auto_says_what_it_decided(cached, own_cache):
    model, fitted, training, _, line = attached(cached(feature_cache="auto", epochs=1))
    # rounded as kept ones: more epochs, or more room, change no result
    assert (fitted is model, training.features) == (False, None)
    assert fitted.input_shape == model.input_shape
    assert line.startswith("feature cache: off, one epoch reads nothing twice. Of 23 sets")
    *_, line = attached(cached(feature_cache="auto", cache_limit="1KB"))
    assert line.startswith("feature cache: off, room for only")
    assert not own_cache.exists()
    *_, line = attached(cached(feature_cache="auto"))
    assert line.startswith("feature cache: on, all missing ones fit. Of 23 sets of features 0 ")
    assert "at most 12.3 kB each, all take up to 283 kB in " in line


QUICK = Rates(compute=0.001, read=0.004, write=0.006, recall=0.002)
MEMORY = Rates(compute=0.001, read=0.004, write=0.006, recall=0.0001)
SLOW = Rates(compute=0.3, read=0.004, write=0.006, recall=0.0001)


def rated(monkeypatch, rates):
    monkeypatch.setattr(feature_cache.Probe, "rates", lambda self, is_complete: rates)


def test_what_auto_decides_alters_no_bit(cached, own_cache, monkeypatch):
    """Also in float16: features that are computed each time are rounded as kept ones."""
    found = []
    for rates in (QUICK, MEMORY):
        rated(monkeypatch, rates)
        found.append(fit(cached(epochs=2, feature_cache="auto")))
        assert not entries(own_cache)
    assert equal(*found)


def test_auto_keeps_features_only_where_that_pays(cached, monkeypatch):
    said = {}
    for name, rates in (("quick", QUICK), ("memory", MEMORY), ("slow", SLOW)):
        rated(monkeypatch, rates)
        model, fitted, training, _, said[name] = attached(cached(feature_cache="auto"))
        assert (training.features is None) == (name == "quick")
        assert fitted is not model
    assert said["quick"].startswith("feature cache: off, since computing features takes less time")
    assert said["quick"].endswith(
        "A picture's take 1 ms to compute, 4 ms to read and unpack, 6 ms to write, 2 ms from "
        "memory. They are kept nowhere"
    )
    assert said["memory"].startswith("feature cache: on, ")
    assert said["memory"].endswith("They are kept in memory")
    assert said["slow"].endswith("They are kept on disk and in memory")
    monkeypatch.setattr(backends, "available_memory", lambda: 0)
    assert attached(cached(feature_cache="auto"))[-1].endswith("They are kept on disk")


def test_features_are_written_only_if_they_are_read_often_enough():
    dear = Rates(compute=0.01, read=0.002, write=0.02, recall=1.0)
    assert choose(dear, missing=100, reads=1000, fits=False) == Choice(True, False)
    assert choose(dear, missing=100, reads=300, fits=False) == Choice(False, False)
    assert choose(dear, missing=0, reads=100, fits=False) == Choice(True, False)
    assert choose(SLOW, missing=100, reads=100, fits=True) == Choice(False, False)


class Clock:
    """A clock that only what is measured moves."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize(("compute", "read"), [(0.2, 0.01), (0.01, 0.2)])
def test_costs_are_measured_on_the_first_batches(cached, own_cache, monkeypatch, compute, read):
    clock = Clock()

    def timed(owner, name, cost):
        real = getattr(owner, name)

        def work(self, *about):
            clock.now += cost(*about)
            return real(self, *about)

        monkeypatch.setattr(owner, name, work)

    timed(feature_cache.Features, "compute", lambda pictures: compute * len(pictures))
    timed(cache.Shelf, "read", lambda name: read)
    timed(cache.Shelf, "write", lambda name, data: read / 2 if "features" in name else 0)
    monkeypatch.setattr(feature_cache, "time", clock)
    monkeypatch.setattr(backends, "available_memory", lambda: 0)
    *_, training, _, line = attached(cached(feature_cache="auto", workers=1))
    pays = compute > read
    assert f"take {1e3 * compute:.3g} ms to compute, {1e3 * read:.3g} ms to read" in line
    assert f"{500 * read:.3g} ms to write, 0 ms from memory" in line
    assert (training.features is not None) == pays
    assert len(entries(own_cache)) == (4 if pays else 0)  # those of the first batch are used


def test_a_run_on_kept_features_does_not_compute_to_decide(cached, monkeypatch):
    *_, training, validation, _ = attached(cached(flip=False))
    read(training), read(validation)
    attached(cached(flip=False, feature_cache="auto"))  # measures, and notes what it has measured
    monkeypatch.setattr(feature_cache.Features, "compute", None)
    *_, line = attached(cached(flip=False, feature_cache="auto"))
    assert "Of 13 sets of features 13 are cached" in line
    assert "0 ms to write" in line


def test_on_a_gpu_the_copies_count(cached, monkeypatch):
    """Features stay on the device while computing is measured, and are copied when read."""
    timed = []
    real = feature_cache.Features.device_seconds
    monkeypatch.setattr(backends, "has_accelerator", lambda: True)
    monkeypatch.setattr(
        feature_cache.Features,
        "device_seconds",
        lambda self, pictures: timed.append(pictures.shape) or real(self, pictures),
    )
    copied = feature_cache.Probe.copy_seconds
    monkeypatch.setattr(
        feature_cache.Probe, "copy_seconds", lambda self, arrays: 4e3 + copied(self, arrays)
    )
    *_, training, _, line = attached(cached(feature_cache="auto"))
    assert timed == [(4, 48, 64, 3)]
    assert training.features is None
    assert line.endswith("1e+06 ms from memory. They are kept nowhere")


def test_a_resumed_run_keeps_its_features_where_they_were(cached, own_cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "Probe", None)
    config = cached(feature_cache="auto", flip=False)
    model = system_module(config.model).build(config)
    grid = grid_of(model)
    for earlier in ("computed", "memory", "on", "off"):
        parts = (train.batches(config, split, grid) for split in ("train", "val"))
        kept = feature_cache.attach(model, *parts, config, **QUIET, earlier=earlier)
        assert kept.mode == earlier
        assert (kept.fitted is model) == (earlier == "off")
    training, validation = (train.batches(config, split, grid) for split in ("train", "val"))
    feature_cache.attach(model, training, validation, config, **QUIET, earlier="memory")
    first = training[0][0]
    monkeypatch.setattr(feature_cache.Features, "compute", None)
    np.testing.assert_array_equal(training[0][0], first)
    assert not entries(own_cache)


def test_memory_that_may_be_used_is_within_the_limits_of_groups(tmp_path, monkeypatch):
    for name in ("MEMORY_INFO", "OWN_GROUP", "GROUPS"):
        monkeypatch.setattr(backends, name, tmp_path / name)
    assert backends.available_memory() == 0  # as on macOS
    (tmp_path / "MEMORY_INFO").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert backends.available_memory() == 8_192_000
    job = tmp_path / "GROUPS" / "slurm" / "job"
    job.mkdir(parents=True)
    (tmp_path / "OWN_GROUP").write_text("0::/slurm/job\n")
    (job / "memory.max").write_text("max\n")
    (job / "memory.current").write_text("1000\n")
    assert backends.available_memory() == 8_192_000
    (job.parent / "memory.max").write_text("5000\n")
    (job.parent / "memory.current").write_text("2000\n")
    assert backends.available_memory() == 3000
    first = tmp_path / "GROUPS" / "memory"
    first.mkdir()
    (tmp_path / "OWN_GROUP").write_text("3:cpu:/x\n4:memory:/not/seen\n")
    (first / "memory.limit_in_bytes").write_text("900\n")
    (first / "memory.usage_in_bytes").write_text("1000\n")
    assert backends.available_memory() == 0


def test_features_are_kept_only_where_all_processes_keep_them(cached, own_cache):
    class Pair(Devices):
        def gather(self, table):
            return np.concatenate([table, 0 * table])  # the other's cache has no room

    model, _, training, validation, _ = attached(cached(feature_cache="off"))
    config = cached(feature_cache="auto")
    kept = feature_cache.attach(model, training, validation, config, devices=Pair())
    assert kept.fitted.input_shape == model.input_shape
    assert (kept.mode, training.features) == ("computed", None)
    assert kept.message.startswith("feature cache: off, as in another process of this run")
    assert not own_cache.exists()


def test_cache_that_cannot_be_written_is_refused_only_where_asked_for(
    cached, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"Cannot create the folder.*\$SALIENCY_CACHE"):
        attached(cached())
    *_, training, _, line = attached(cached(feature_cache="auto"))
    assert read(training).shape == (10, 6, 8, 128)
    assert line


@pytest.mark.parametrize("text", ["many", "-1GB", "5 PB", "", "GB"])
def test_limit_that_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="a size such as 50GB, 800MB or 2TB is expected"):
        Config(cache_limit=text)


def test_limit_is_read_in_thousands():
    assert Config(cache_limit="1.5gb").cache_bytes == 15 * 10**8
    assert Config().cache_bytes == 50 * 10**9
