import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import step_probe
from backend_probe import TINY
from conftest import PROJECT
from conftest import TINY as TINY_FLAGS

from benchmarks.cost import flop
from commands.training import backends, epochs, train
from config import SYSTEMS, resolve
from model import load_model, system_module
from salience.networks import weight_files
from salience.system.errors import UserError

pytestmark = pytest.mark.graphs
QUIET = {"say": lambda line: None}


def run_probe(backend, path):
    """Return what `step_probe.py` finds on a backend, in a process of its own."""
    subprocess.run(
        [sys.executable, PROJECT / "tests/helpers/step_probe.py", path],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(PROJECT)},
        check=True,
        timeout=900,
    )
    found = {}
    for name, value in np.load(path).items():
        way, _, about = name.partition(": ")
        found.setdefault(way, {})[about] = value
    return found


def check_ways(found):
    """Check that a step in parts is the whole one, and mixed precision near it."""
    whole = found["whole"]
    assert whole["updates"] == 4  # of two epochs of 8 and 3 pictures
    assert whole["loss"][1] < whole["loss"][0]
    for way in ("parts of 3", "two steps at once"):
        for name, value in found[way].items():
            np.testing.assert_allclose(value, whole[name], rtol=0, atol=1e-5, err_msg=name)
    for way in ("bfloat16", "float16 in parts"):
        assert {v.dtype for k, v in found[way].items() if "/" in k} == {np.dtype("float32")}
        # float16 leaves out a step whose scaled gradients are too large for it
        assert found[way]["updates"] in (3, 4)
        rate = 1e-3 / (1 + 0.1 * found[way]["updates"])
        assert found[way]["step size"] == pytest.approx(rate)
        np.testing.assert_allclose(found[way]["loss"], whole["loss"], rtol=0.2)


def asked_for(graph):
    """Return the operations of a TensorFlow graph that its results or effects depend on."""
    found, waiting = set(), [t.op for t in graph.outputs] + list(graph.control_outputs)
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [t.op for t in operation.inputs] + list(operation.control_inputs)
    return found


def built(config):
    return system_module(config.model).build(config)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of the other backends below")
def test_no_gradient_is_computed_where_nothing_learns():
    """TensorFlow's tape makes gradients of the trunk, too, but nothing asks for them."""
    import tensorflow as tf

    # the head's two convolutions, and VGG's thirteen; neither picture nor features need a gradient
    for freeze, expected in ((True, (2, 1)), (False, (15, 14))):
        model, data = step_probe.set_up(step_probe.config(freeze_backbone=freeze))
        model.optimizer.build(model.trainable_variables)
        graph = tf.function(model.train_step).get_concrete_function(data[0]).graph
        kinds = [operation.type for operation in asked_for(graph)]
        found = kinds.count("Conv2DBackpropFilter"), kinds.count("Conv2DBackpropInput")
        assert found == expected


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of the other backends below")
def test_step_in_parts_or_in_mixed_precision_does_what_the_whole_one_does():
    check_ways(
        {
            way: step_probe.trained(step_probe.config(**changes))
            for way, changes in step_probe.WAYS.items()
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_step_does_so_on_the_other_backends(backend, tmp_path):
    if find_spec(backend) is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip(f"optional: {backend} is not installed (requirements/backends.txt)")
    found = run_probe(backend, tmp_path / "found.npz")
    check_ways(found)
    # a trunk that learns goes back twice as far as forward; a frozen one does not go back at all
    forward = sum(map(flop, built(step_probe.config()).layers)) * 8
    assert found["flop"]["fine-tuned"] == pytest.approx(3 * forward, rel=0.1)
    assert found["flop"]["frozen"] == pytest.approx(forward, rel=0.25)


@pytest.mark.parametrize(
    "name",
    [
        # building all of ResNet-50 twice takes as long as all the others
        pytest.param(name, marks=[pytest.mark.slow] if name == "resnet50-decoder" else [])
        for name in sorted(SYSTEMS)
    ],
)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_map_is_float32_and_near_that_of_float32(name, policy):
    config = resolve({"model": name, **TINY[name], "backbone_weights": "none"})
    plain = system_module(name).build(config)
    with backends.precision(policy):
        mixed = system_module(name).build(config)
    assert keras.config.dtype_policy().name == "float32"  # what is built next is as before
    mixed.set_weights(plain.get_weights())
    assert any(layer.compute_dtype == policy.removeprefix("mixed_") for layer in mixed.layers)
    assert {weight.dtype for weight in mixed.trainable_weights} == {"float32"}
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, config.rows, config.cols, 3), dtype=np.uint8)
    expected, found = np.asarray(plain(x)), np.asarray(mixed(x))
    assert found.dtype == np.float32
    assert np.unique(found).size > 0.9 * np.unique(expected).size  # no steps of a half's width
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=0.06)


def test_precision_that_the_machine_does_not_compute_in_is_told(tiny, tmp_path, monkeypatch):
    config = tiny(precision="mixed_bfloat16")
    model = built(config)
    monkeypatch.setattr(backends, "has_accelerator", lambda: False)
    monkeypatch.setattr(backends, "CPU_INFO", tmp_path / "cpuinfo")
    for flags in (None, "flags : sse2 avx512f avx512_bf16_not"):
        if flags:
            backends.CPU_INFO.write_text(flags)
        assert "the processor does not support it" in backends.remarks(model, config)[0]
    backends.CPU_INFO.write_text("flags : sse2 avx512_bf16 avx512f\n")
    assert backends.remarks(model, config) == []
    assert backends.remarks(model, tiny()) == []


def test_what_the_backend_computes_on_is_told(monkeypatch):
    found = ["NVIDIA H200", "NVIDIA H200"]
    monkeypatch.setattr(backends, "accelerators", lambda: found)
    assert backends.devices_line().endswith(" computes on NVIDIA H200 (2)")
    assert backends.has_accelerator()
    found.clear()
    line = backends.devices_line()
    assert re.fullmatch(r"\w+ \d[\w.+]+ computes on the CPU; it finds no GPU", line)
    assert not backends.has_accelerator()


def test_weights_of_mixed_precision_load_in_float32_and_go_on_in_another(tiny, tmp_path):
    lines = []
    run = train.train(tiny(precision="mixed_bfloat16"), say=lines.append)
    assert "mixed_bfloat16" in lines[0]
    assert backends.devices_line() in lines[0].splitlines()
    path = run.path("best.weights.h5")
    model = load_model(path)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    again = tiny(
        output=tmp_path / "again", init_weights=path, backbone_weights=None, learning_rate=0.0,
        precision="mixed_float16",
    )  # fmt: skip
    second = train.train(again, **QUIET)
    found = load_model(second.path("best.weights.h5"))
    for before, after in zip(model.weights, found.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    card = weight_files.read_card(second.path("best.weights.h5"))
    assert card["config"]["precision"] == "mixed_float16"


@pytest.mark.slow
def test_bar_and_history_count_pictures_whatever_is_run_at_once(tiny, tmp_path, monkeypatch):
    rows, counts = [], []
    for number, changes in enumerate(
        [{}, {"steps_per_execution": 2}, {"micro_batch": 2}, {"steps_per_execution": 9}]
    ):
        seen = []
        bar = epochs.progress
        monkeypatch.setattr(
            epochs, "progress", lambda total, *_, bar=bar, seen=seen, **more: Counted(total, seen)
        )
        config = tiny(output=tmp_path / str(number), batch_size=5, dropout=0.0, **changes)
        rows.append(train.train(config, **QUIET).history[0])
        monkeypatch.setattr(epochs, "progress", bar)
        counts.append([n for total, n in seen if total == 12])
    assert [sum(count) for count in counts] == [12] * 4  # batches of 5, 5 and 2
    assert [len(count) for count in counts] == [3, 2, 3, 1]
    for row in rows[1:]:
        for name in ("loss", "val_loss", "zero_maps", "learning_rate"):
            assert row[name] == pytest.approx(rows[0][name], abs=1e-5), name


class Counted:
    """A progress bar that only notes by how much it advances."""

    def __init__(self, total, seen):
        self.total, self.seen, self.n = total, seen, 0

    def update(self, count):
        self.n += count
        self.seen.append((self.total, count))

    def set_postfix(self, **_):
        pass

    def close(self):
        pass


def test_batch_normalisation_in_parts_is_told():
    config = resolve({"model": "linear-probe", **TINY["linear-probe"], "micro_batch": 4})
    model = system_module("linear-probe").build(config)
    assert any("batch normalisation uses 4 pictures" in r for r in backends.remarks(model, config))
    whole = replace(config, micro_batch=None)
    assert backends.remarks(model, whole) == []


def test_xla_is_tried_and_left_where_it_cannot_compile(tiny, monkeypatch):
    real = keras.Model.fit
    tried = []

    def refuses(model, *args, **kwargs):
        tried.append(model.jit_compile)
        if model.jit_compile:
            raise RuntimeError("no kernel for this\nand a page more")
        return real(model, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", refuses)
    monkeypatch.setattr(backends, "make_deterministic", lambda seed, xla: backends.seed_all(seed))
    monkeypatch.setattr(keras.src.trainers.trainer, "model_supports_jit", lambda model: True)
    lines = []
    run = train.train(tiny(xla="on"), say=lines.append)
    assert tried == [True, False]
    assert "XLA cannot compile the training step, so XLA is disabled: no kernel for this" in lines
    assert len(run.history) == 1


def test_a_failure_that_is_not_the_compilers_is_no_reason_to_begin_anew(tiny, monkeypatch):
    monkeypatch.setattr(epochs.Epochs, "on_epoch_begin", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.train(tiny(xla="off"), **QUIET)


def test_settings_that_make_no_sense_are_refused(tiny):
    with pytest.raises(UserError, match="--micro_batch 0 is too small"):
        tiny(micro_batch=0)
    with pytest.raises(UserError, match="Unknown precision 'float8'"):
        tiny(precision="float8")


@pytest.mark.slow
def test_a_second_start_under_jax_compiles_nothing_anew(shell, tmp_path):
    if find_spec("jax") is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip("optional: jax is not installed (requirements/backends.txt)")

    def start(name, cache, **environment):
        words = [word for key, value in TINY_FLAGS.items() for word in (f"--{key}", value)]
        folders = ["--output", tmp_path / name, "--weights_dir", tmp_path / f"weights-{name}"]
        environment |= {"KERAS_BACKEND": "jax", "SALIENCY_CACHE": str(cache)}
        said = shell("train", *words, "--freeze_backbone", "False", *folders, **environment)
        kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*-cache")}
        return said, kept, (tmp_path / name / "history.csv").read_bytes()

    _, first, history = start("first", tmp_path / "cache")
    said, second, again = start("second", tmp_path / "cache")
    assert first and second == first
    assert again == history
    assert said.stderr == ""
    off = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    _, none, without = start("third", tmp_path / "other", **off)
    assert not none
    assert without == history
