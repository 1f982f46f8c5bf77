"""Backend-specific parts of training: seeds, precision, XLA and gradient accumulation.

Keras leaves these to its backend, so this module may import TensorFlow, JAX and PyTorch. All other
modules are independent of the backend.
"""

import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras
from keras import tree

from config import Config
from salience.networks.weight_files import versions
from salience.system.cache import Cache, make_key
from salience.system.errors import UserError
from salience.system.files import make_folder
from salience.system.quiet import hushed

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO, OWN_GROUP, GROUPS = (
    Path("/proc/meminfo"),
    Path("/proc/self/cgroup"),
    Path("/sys/fs/cgroup"),
)
COMPILED_BYTES = 10**9  # of the programs that JAX has compiled; those of a training take some MB
# CPU instructions that multiply in a precision, of x86-64 and Arm
CPU_FLAGS = {
    "mixed_bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "mixed_float16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


def backend() -> str:
    """Return the name of Keras' backend: tensorflow, jax or torch."""
    return keras.backend.backend()


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and the backend."""
    if backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    with tensorflow_hidden(), hushed():
        keras.utils.set_random_seed(seed)


@contextmanager
def tensorflow_hidden() -> Iterator[None]:
    """Hide TensorFlow from Keras, which would import it to seed it, with any backend.

    The import takes seconds and hundreds of megabytes. Keras looks for TensorFlow once per process,
    so its other uses of TensorFlow are disabled, too, as if it were not installed.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    sys.modules["tensorflow"] = None  # type: ignore  # None makes the import fail
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


def make_deterministic(seed: int, xla: str = "auto") -> None:
    """Seed all generators, and make TensorFlow's operations deterministic.

    Args:
        seed: seed of the run.
        xla: with `on`, operations are not made deterministic: XLA lacks some deterministic
            operations, so Keras would not compile the step.
    """
    seed_all(seed)
    if backend() == "tensorflow" and xla != "on":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


@contextmanager
def compilations_kept(cache: Cache) -> Iterator[None]:
    """Keep what JAX compiles in the block in the user's cache, so that a later start reads it.

    It is one shelf a version and machine, since XLA compiles for the instructions of a processor.
    JAX removes its least recently used entries beyond COMPILED_BYTES, the cache the whole shelf. A
    folder that the user gave to JAX itself ($JAX_COMPILATION_CACHE_DIR) is used instead, and
    $JAX_ENABLE_COMPILATION_CACHE=false switches it off. The other backends keep nothing.

    Args:
        cache: the user's cache; without a folder, or with too low a limit, nothing is kept.
    """
    if backend() != "jax" or cache.folder is None or cache.limit < 2 * COMPILED_BYTES:
        yield
        return
    import jax  # pyright: ignore[reportMissingImports]
    from jax.experimental.compilation_cache import compilation_cache  # pyright: ignore

    shelf = cache.shelf(make_key("compiled by JAX", jax.__version__, platform.machine(), _flags()))
    assert shelf.folder  # as the cache has one
    folder = shelf.folder
    own = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": COMPILED_BYTES,
        # also the dozens of small programs of a start
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in own}
    is_kept = not before["jax_compilation_cache_dir"]
    with suppress(UserError):  # of a full or read-only disk
        cache.make_room(COMPILED_BYTES // 10, shelf)
        make_folder(folder, "$SALIENCY_CACHE")
        shelf.touch()
    if not is_kept or not os.access(folder, os.W_OK):
        yield
        return
    # a folder that is removed, or a disk that fills on the way, is no matter
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    for name, value in own.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks for the folder once
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def _flags() -> str:
    """Return the processor's instructions as Linux lists them, or ""."""
    with suppress(OSError):
        lines = CPU_INFO.read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


def accelerators() -> list[str]:
    """Return the names of the GPUs or TPUs that the backend finds, of all hosts; [] without one."""
    if backend() == "tensorflow":
        import tensorflow as tf

        others = [one for one in tf.config.list_physical_devices() if one.device_type != "CPU"]
        details = [tf.config.experimental.get_device_details(one) for one in others]
        return [
            about.get("device_name", one.device_type)
            for one, about in zip(others, details, strict=True)
        ]
    if backend() == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        return [one.device_kind for one in jax.devices() if one.platform != "cpu"]
    import torch  # pyright: ignore[reportMissingImports]

    if torch.backends.mps.is_available():
        return ["Apple GPU"]
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def has_accelerator() -> bool:
    """Return True if the backend finds a GPU or TPU."""
    return bool(accelerators())


def devices_line() -> str:
    """Return the backend, its version and what it computes on, as text."""
    found = Counter(accelerators())
    devices = ", ".join(f"{name} ({count})" for name, count in found.items())
    return f"{versions()['backend']} computes on {devices or 'the CPU; it finds no GPU'}"


def available_memory() -> int:
    """Return the main memory that this process may still take, bytes; 0 where it is not known.

    It is what Linux calls available, within the limits of the process' control groups (as of a
    container or a job of Slurm).
    """
    try:
        lines = MEMORY_INFO.read_text().splitlines()
        [line] = [line for line in lines if line.startswith("MemAvailable:")]
        free = [1024 * int(line.split()[1])]
    except (OSError, ValueError, IndexError):
        return 0
    for folder, names in _groups():
        with suppress(OSError, ValueError):  # no such file, or "max"
            most, used = (int((folder / name).read_text()) for name in names)
            free.append(most - used)
    return max(0, min(free))


def _groups() -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the folders of this process' control groups, and the names of limit and use."""
    lines: list[str] = []
    with suppress(OSError):
        lines = OWN_GROUP.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root, names = GROUPS, ("memory.max", "memory.current")
        if "memory" in controllers.split(","):  # version 1
            root = GROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif controllers:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):  # a container may see only the last
            if folder == GROUPS.parent:
                break
            yield folder, names


def steps_per_execution(asked: int) -> int:
    """Return the number of updates per execution; Keras' trainer for PyTorch supports only one."""
    return 1 if backend() == "torch" else asked


def remarks(model: keras.Model, config: Config) -> list[str]:
    """Return warnings on settings that have less effect on this machine than expected."""
    lines = []
    if config.precision in CPU_FLAGS and not (has_accelerator() or has_on_cpu(config.precision)):
        lines.append(
            f"--precision {config.precision}: there is no GPU, and the processor does not support "
            "it, so training may be slower."
        )
    if config.steps_per_execution != steps_per_execution(config.steps_per_execution):
        lines.append(
            f"--steps_per_execution {config.steps_per_execution}: with PyTorch, Keras runs one "
            "update at a time."
        )
    normalised = [
        layer
        for layer in model.layers
        if layer.trainable and isinstance(layer, keras.layers.BatchNormalization)
    ]
    if config.part_size and normalised:
        lines.append(
            f"--micro_batch {config.part_size}: batch normalisation uses {config.part_size} "
            f"pictures, not the {config.batch_size} of the batch."
        )
    return lines


def has_on_cpu(policy: str) -> bool:
    """Return True if Linux reports processor instructions for a precision."""
    return any(flag in _flags().split() for flag in CPU_FLAGS[policy])


def peak_device_memory_mb() -> float:
    """Return the peak memory of the first GPU, MiB; 0 without a GPU."""
    if not has_accelerator():
        return 0.0
    if backend() == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    if backend() == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20
    import torch  # pyright: ignore[reportMissingImports]

    return torch.cuda.max_memory_allocated() / 2**20


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Set the precision of all layers that are built within the context.

    Args:
        policy: one of `config.PRECISIONS`. Weights are always float32, so files do not differ.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def with_loss_scaling(
    optimizer: keras.optimizers.Optimizer, policy: str
) -> keras.optimizers.Optimizer:
    """Return the optimiser for a precision, with loss scaling for float16.

    A step with non-finite gradients is skipped, and the scale is halved. Schedules count only the
    updates that were made.
    """
    if policy != "mixed_float16":
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def split_batches(model: keras.Model, micro_batch: int) -> None:
    """Let a compiled network process each batch in parts, with one update per batch.

    The gradients of the parts are weighted by their share of the batch, so the update is that of
    the whole batch. The first part has 1 to `micro_batch` pictures, the others have `micro_batch`.
    Keras' own `gradient_accumulation_steps` gives a smaller last batch the same weight, and moves
    the rest of an epoch into the next.

    Batch normalisation computes its means over a part, not over the batch.

    Args:
        model: the compiled network.
        micro_batch: pictures per part.
    """
    make = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}[backend()]
    model.train_step = make(model, micro_batch)


def _parts(data: Any, micro_batch: int, count: Any) -> tuple[Any, Any, Any]:
    """Return the first part of a batch, the others stacked along a new axis, and their number.

    Args:
        data: a structure of tensors with the same first dimension.
        micro_batch: pictures per part.
        count: pictures of the batch, a number or a tensor.
    """
    others = (count - 1) // micro_batch
    first = count - others * micro_batch

    def stacked(values: Any) -> Any:
        # a part takes every others-th picture, so that each device has its share of every part;
        # otherwise, each device would compute the parts of other devices, too
        pictures = keras.ops.reshape(values[first:], (micro_batch, others, *values.shape[1:]))
        return keras.ops.swapaxes(pictures, 0, 1)

    return (
        tree.map_structure(lambda values: values[:first], data),
        tree.map_structure(stacked, data),
        others,
    )


def _update_metrics(
    model: keras.Model, loss: Any, x: Any, y: Any, y_pred: Any, count: Any
) -> dict[str, Any]:
    """Add a part to the means of loss and metrics; return the means so far."""
    for metric in model.metrics:
        if metric.name == "loss":
            metric.update_state(loss, sample_weight=count)
    return model.compute_metrics(x, y, y_pred)


def _tensorflow_step(model: keras.Model, micro_batch: int) -> Callable:
    """Return a training step in parts for TensorFlow's trainer."""
    import tensorflow as tf

    def gradients(data: Any, share: Any) -> list[Any]:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred, training=True)
            scaled_loss = model.optimizer.scale_loss(loss)
        _update_metrics(model, loss, x, y, y_pred, tf.shape(y)[0])
        weights = [weight.value for weight in model.trainable_weights]
        found = tape.gradient(
            scaled_loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [gradient * share for gradient in found]

    def train_step(data: Any) -> dict[str, Any]:
        count = tf.shape(tree.flatten(data)[0])[0]
        first, others, number = _parts(data, micro_batch, count)
        whole = tf.cast(count, "float32")
        total = gradients(first, tf.cast(count - number * micro_batch, "float32") / whole)

        def add(index: Any, total: list[Any]) -> tuple[Any, list[Any]]:
            part = tree.map_structure(lambda values: values[index], others)
            more = gradients(part, micro_batch / whole)
            return index + 1, [a + b for a, b in zip(total, more, strict=True)]

        # sequentially: in parallel, they would need the memory of the whole batch
        _, total = tf.while_loop(
            lambda index, total: index < number, add, (0, total), parallel_iterations=1
        )
        model.optimizer.apply(total, model.trainable_weights)
        return model.get_metrics_result()

    return train_step


def _jax_step(model: keras.Model, micro_batch: int) -> Callable:
    """Return a training step in parts for JAX' trainer, without side effects."""
    import jax  # pyright: ignore[reportMissingImports]

    differentiate = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)

    def updated_metrics(metrics: list[Any], *about: Any) -> list[Any]:
        with keras.StatelessScope(
            state_mapping=list(zip(model.metrics_variables, metrics, strict=True))
        ) as scope:
            _update_metrics(model, *about)
        return [scope.get_current_value(variable) for variable in model.metrics_variables]

    def train_step(state: tuple, data: Any) -> tuple[dict[str, Any], tuple]:
        trainable, fixed, optimizer, metrics = state
        count = len(tree.flatten(data)[0])
        first, others, number = _parts(data, micro_batch, count)

        def gradients(fixed: Any, metrics: Any, part: Any) -> tuple[Any, Any, Any]:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(part)
            (_, (loss, y_pred, fixed, _)), found = differentiate(
                trainable, fixed, metrics, x, y, None, training=True, optimizer_variables=optimizer
            )
            metrics = updated_metrics(metrics, loss, x, y, y_pred, len(y))
            return [gradient * (len(y) / count) for gradient in found], fixed, metrics

        def add(carried: tuple, part: Any) -> tuple[tuple, None]:
            total, fixed, metrics = carried
            more, fixed, metrics = gradients(fixed, metrics, part)
            return ([a + b for a, b in zip(total, more, strict=True)], fixed, metrics), None

        carried = gradients(fixed, metrics, first)
        if number:
            carried, _ = jax.lax.scan(add, carried, others)
        total, fixed, metrics = carried
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, total, trainable)
        with keras.StatelessScope(
            state_mapping=list(zip(model.metrics_variables, metrics, strict=True))
        ):
            logs = model.get_metrics_result()
        return logs, (trainable, fixed, optimizer, metrics)

    return train_step


def _torch_step(model: keras.Model, micro_batch: int) -> Callable:
    """Return a training step in parts for PyTorch's trainer."""
    import torch  # pyright: ignore[reportMissingImports]

    def train_step(data: Any) -> dict[str, Any]:
        count = len(tree.flatten(data)[0])
        first, others, number = _parts(data, micro_batch, count)
        parts = [first] + [tree.map_structure(lambda v, i=i: v[i], others) for i in range(number)]
        model.zero_grad()
        for part in parts:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(part)
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred, training=True)
            _update_metrics(model, loss.detach(), x, y, y_pred.detach(), len(y))
            (
                model.optimizer.scale_loss(loss) * (len(y) / count)
            ).backward()  # PyTorch accumulates gradients
        with torch.no_grad():
            gradients = [weight.value.grad for weight in model.trainable_weights]
            model.optimizer.apply(gradients, model.trainable_weights)
        return model.get_metrics_result()

    return train_step
