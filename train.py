"""What `train` does, in order: data, network, weights, epochs, and after each the validation."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import architectures
import cluster
import datasets
import feature_cache
import step
import weight_files
from cluster import Devices
from config import Config
from epochs import Epochs
from errors import UserError
from objective import set_up
from run_folder import RunFolder, WitnessedRun
from utilities import OutputGrid, SaliencyBatches
from validation import scores_line


def train(config: Config, say: Callable[[str], None] = print) -> RunFolder:
    """Train a network as configured; return its run folder, with the history.

    Args:
        config: the run's settings.
        say: gets each line of news.

    Raises:
        UserError: the data, the backbone's weights or the output folder are not usable.
    """
    config.check_start()
    with cluster.started(config) as devices:
        return train_on(devices, config, say if devices.is_chief else lambda line: None)


def train_on(devices: Devices, config: Config, say: Callable[[str], None]) -> RunFolder:
    """Train on the devices of a run; see `train`."""
    step.make_deterministic(config.seed, config.xla)
    with step.precision(config.precision):
        model = architectures.get(config.model).build(config)
    grid = architectures.grid_of(model)
    training, validation = (batches(config, split, grid) for split in ("train", "val"))
    check_loss_has_its_truth(config, training)
    with devices.chief_first():
        weights = load_start(model, config, say)
    check_same_start(devices, model, training)
    # where features are kept, what learns is fitted on them; it shares its layers with the network
    fitted, kept = feature_cache.attach(model, training, validation, config, say, devices)
    set_up(fitted, config, steps_per_epoch=len(training))
    feed = devices.feed(training)
    # last, so that bad input leaves no empty folder behind; only the chief writes
    run = RunFolder(config) if devices.is_chief else WitnessedRun(config)
    for name, root in config.sets:
        for remark in datasets.remarks(name, root):
            say(f"{name}: {remark}")
    say(describe(config, model, training, validation, weights))
    remarks = [kept, *step.remarks(model, config)]
    if devices.count > 1:
        remarks.append(
            f"{devices.count} devices of {devices.processes} processes share each batch, by JAX"
        )
    for remark in filter(None, remarks):
        say(remark)
    epochs = Epochs(config, run, model, training, validation, say, devices)
    try:
        fit(fitted, config, feed, len(training), epochs, say)
    except Exception:
        # Keras wraps what a reading thread raised; the user is owed the line that it had
        failure = training.failure or validation.failure
        if failure:
            raise failure from None
        raise
    finally:
        epochs.close()
    run.finish()
    best = run.best_epoch
    copy = f", and {run.published}"
    if run.kept_back:
        copy = f" alone: {run.published} is kept, as {run.kept_back}"
    say(
        f"Best: epoch {best['epoch']}, {scores_line(best)}. Weights: "
        f"{run.path('best.weights.h5')}{copy}"
    )
    return run


def fit(
    model: keras.Model,
    config: Config,
    feed: keras.utils.PyDataset,
    steps_per_epoch: int,
    epochs: Epochs,
    say: Callable[[str], None],
) -> None:
    """Train a network; without XLA where that was asked for and cannot compile its step."""
    options = {
        "epochs": config.epochs,
        "shuffle": False,  # the generator shuffles, by seed and epoch
        "verbose": 0,
        "callbacks": [epochs],
    }
    try:
        model.fit(feed, **options)
    except Exception as error:
        tried = config.xla == "on" and model.jit_compile and not epochs.has_stepped
        # JAX has given its arrays away by then, and is of no use uncompiled
        if not tried or step.backend() == "jax":
            raise
        if epochs.training.failure or isinstance(error, UserError):
            raise
        say(f"XLA cannot compile this step, so it is not compiled: {first_line(error)}")
        set_up(model, dataclasses.replace(config, xla="off"), steps_per_epoch)
        model.fit(feed, **options)


def first_line(error: Exception) -> str:
    """Return the beginning of what an exception says; compilers say a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def check_same_start(devices: Devices, model: keras.Model, training: SaliencyBatches) -> None:
    """Refuse processes that would train other networks, or on other pictures.

    Raises:
        UserError: this one would.
    """
    if devices.processes == 1:
        return
    names = "\n".join(sample.name for sample in training.samples)
    devices.check_same("The training pictures of --data", names.encode())
    devices.check_same(
        "The weights that training starts from",
        b"".join(keras.ops.convert_to_numpy(w).tobytes() for w in model.weights),
    )


def load_start(model: keras.Model, config: Config, say: Callable[[str], None]) -> Path | None:
    """Load the weights that training begins with; return their file, or None for a random start."""
    if config.init_weights is None:
        return architectures.get(config.model).load_pretrained(model, config)
    card = weight_files.read_card(config.init_weights)
    weight_files.load(model, config.init_weights)
    say(weight_files.described(config.init_weights, card))
    return config.init_weights


def batches(config: Config, split: str, grid: OutputGrid) -> SaliencyBatches:
    """Return the generator of a split; only training shuffles and flips."""
    samples, sizes = [], []
    for name, root in config.sets:
        found = datasets.load(name, root, split, config.plan, config.out_of_bounds)
        if len(config.sets) > 1:  # two sets may each have a 001.jpg
            found = [dataclasses.replace(s, name=f"{name}/{s.name}") for s in found]
        samples += found
        sizes.append(len(found))
    return SaliencyBatches(
        samples,
        config.input_shape,
        config.batch_size,
        grid=grid,
        sigma_pixels=config.sigma_pixels,
        shuffle=split == "train",
        flip=config.flip and split == "train",
        sizes=sizes,
        mix=config.mix if split == "train" else (),
        seed=config.seed,
        workers=config.workers,
    )


def check_loss_has_its_truth(config: Config, training: SaliencyBatches) -> None:
    """Refuse a loss from fixations where the data set has none."""
    bare = [sample.name for sample in training.samples if sample.fixations is None]
    if bare and "nss" in config.loss:
        raise UserError(
            f"--loss {config.loss} needs fixations, but {len(bare)} pictures of "
            f"{config.dataset_name} have only maps; first: {bare[0]}. Choose a loss without nss, "
            "such as kld."
        )


def describe(
    config: Config,
    model: keras.Model,
    training: SaliencyBatches,
    validation: SaliencyBatches,
    weights: Path | None,
) -> str:
    """Return a few lines that say what is about to be trained, on what."""
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return (
        f"{config.system} ({config.strategy}) at {config.rows}x{config.cols}: {trainable:,} of "
        f"{model.count_params():,} weights learn; start: {weights or 'random'}\n"
        f"{config.dataset_name}: {training.count} training and {validation.count} validation "
        f"pictures{outside(config, training)}; loss {config.loss}, {config.optimizer}, "
        f"learning rate {config.learning_rate:g}, batch {config.batch_size}"
        f"{speed(config)}\n"
        f"writing to {config.run_folder}/"
    )


def speed(config: Config) -> str:
    """Return how the step is computed where that is not the plain way, or nothing."""
    words = "" if config.precision == "float32" else f", {config.precision}"
    if config.part_size:
        words += f", {config.part_size} at once"
    return words


def outside(config: Config, training: SaliencyBatches) -> str:
    """Return how many fixations lay outside their picture and what was done, or nothing."""
    count = sum(sample.outside for sample in training.samples)
    done = "clipped to the border" if config.out_of_bounds == "clip" else "dropped"
    return f" ({count} fixations outside their picture {done})" if count else ""
