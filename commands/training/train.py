"""Trains a network: loads data and weights, and runs the epochs with their validation."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from commands.evaluation.map_sources import ModelMaps
from commands.prediction.calibrate import fitted
from commands.training import backends, checkpoint, feature_cache
from commands.training.checkpoint import Arrays, Standing, State
from commands.training.devices import Devices, Feed, started
from commands.training.epochs import Callbacks, Epochs
from commands.training.objective import set_up
from commands.training.run_folder import EarlierRun, RunFolder, find_earlier_run
from commands.training.runs import history_of
from commands.training.validation import score_shipped, scores_line
from config import SYSTEMS, Config, trained_config
from model import grid_of, system_module
from salience.data import loading
from salience.measures.adaptation import IDENTITY, LEAST_PICTURES
from salience.networks import provenance, weight_files
from salience.networks.backbone_table import BACKBONES
from salience.system.cache import default_cache
from salience.system.errors import Interrupted, UserError
from salience.system.signals import Stop, heeded
from salience.system.terminal import counted, tell
from utilities import OutputGrid, SaliencyBatches, opencv_threads

FIRST_STEP = "the first step compiles the network: usually 10 to 60 s, less where it is kept"
FEW_PICTURES = 2000  # of training: with fewer, ML-Net's published recipe has too few steps


def train(config: Config, say: Callable[[str], None] = tell) -> RunFolder:
    """Train a network, or resume its training; return the run folder with the history.

    Args:
        config: settings of the run.
        say: called with each message.

    Raises:
        UserError: the data, the backbone's weights or the output folder cannot be used.
        Interrupted: a signal ended the training; the same settings resume it.
    """
    config.check_start()
    cache = default_cache(config.cache_bytes)
    with heeded(say) as stop, opencv_threads(config.workers):
        with started(config) as devices, backends.compilations_kept(cache):
            chief = devices.is_chief
            run = train_on(devices, config, say if chief else lambda line: None, stop)
        if run.is_interrupted:
            raise Interrupted(
                f"{stop.name or 'another process stopped'}: a checkpoint is saved in {run.folder}. "
                "The same command resumes the training"
                + (", without --overwrite." if config.overwrite else ".")
            )
    return run


def train_on(devices: Devices, config: Config, say: Callable[[str], None], stop: Stop) -> RunFolder:
    """Train on the devices of a run; see `train`."""
    found = look_for_earlier(devices, config)
    if found.is_done:
        say(f"{config.run_folder} is done")
        return RunFolder(config, writes=False, history=history_of(config.run_folder))
    backends.make_deterministic(config.seed, config.xla)
    with backends.precision(config.precision):
        model = system_module(config.model).build(config)
    grid = grid_of(model)
    training, validation = (batches(config, split, grid) for split in ("train", "val"))
    check_truth_of_loss(config.loss, config.dataset_name, training)
    weights = load_start(model, config, say) if devices.is_chief else None  # it may download them
    devices.copy_weights(model)
    same = {
        "pictures": digest_of_pictures(training, validation),
        "first weights": digest_of_weights(model),
    }
    devices.check_same("The pictures of --data", same["pictures"].encode())
    # with cached features, only the trainable part is fitted; it shares its layers with the network
    trained = training_network(model, config)
    kept = feature_cache.attach(trained, training, validation, config, say, devices, found.features)
    fitted = kept.fitted
    set_up(fitted, config, steps_per_epoch=len(training))
    devices.feed(training)  # which may refuse the batch
    # last, so that bad input leaves no empty folder behind; only the chief writes
    run = RunFolder(config, same, kept.mode, say, devices.is_chief)
    run.pictures = picture_hashes(config, training, validation, say) if devices.is_chief else None
    run.costs, run.counts = kept.costs, weight_files.counts(model)
    with contextlib.closing(run):
        standing, arrays = start_of(run, devices)
        say(describe(config, run.counts, training, validation, weights))
        for line in (recipe_remark(config, training.count), gains_remark(validation, config)):
            if line:
                say(line)
        for remark in remarks(devices, config, model, kept.message, standing if arrays else None):
            say(remark)
        say(FIRST_STEP)
        state = State(model, fitted)
        epochs = Epochs(
            config, run, state, training, validation, say, devices, stop, standing, arrays
        )
        stop.can_wait = True
        try:
            fit(epochs, config, say)
        except Exception:
            # Keras wraps errors of reading threads; raise the original one
            failure = training.failure or validation.failure
            if failure:
                raise failure from None
            raise
        finally:
            epochs.close()
        # after a signal in the last epoch, the same command calibrates; one device has no others
        # that wait
        run.is_interrupted = epochs.is_interrupted or (bool(stop) and devices.count == 1)
        if not run.is_interrupted:
            rival = ""
            if devices.is_chief:
                calibrate(run, validation, devices, say)
            if devices.is_chief and devices.count > 1:
                say("the included network is not scored in a training on several devices")
            elif devices.is_chief and (scores := score_shipped(config, validation, stop, say)):
                rival = run.record_included(scores)
            run.finish()
            say(best_line(run))
            if rival:
                say(rival)
    return run


def calibrate(
    run: RunFolder, validation: SaliencyBatches, devices: Devices, say: Callable[[str], None]
) -> None:
    """Fit what becomes of the best weights' maps, into their cards; see `calibrate.fitted`.

    There is none without fixations, or in a training on several devices.
    """
    config, samples = run.config, validation.samples
    if sum(sample.fixations is not None for sample in samples) < LEAST_PICTURES:
        return
    if devices.count > 1:
        say("densities are not calibrated in a training on several devices: run `calibrate`")
        return
    about = {"dataset": config.dataset_name, "split": "val"}
    sets = dict(zip(config.dataset, validation.samples_by_set, strict=True))
    try:
        source = ModelMaps(run.path("best.weights.h5"), "best", config.batch_size, config.workers)
        found = fitted(
            source, sets, about, config.seed, say, IDENTITY, sigma_pixels=config.gaussian_pixels
        )
    except UserError as error:
        say(f"densities are not calibrated: {error}")
        return
    run.amend_best(found)


def training_network(model: keras.Model, config: Config) -> keras.Model:
    """Return the network as it is trained: with a map for each data set, if it has their numbers.

    The layers are the model's own.
    """
    if not config.own.has_numbers:
        return model
    return system_module(config.model).for_training(model, len(config.dataset))


def look_for_earlier(devices: Devices, config: Config) -> EarlierRun:
    """Return the earlier run that the chief finds in the run folder, in every process."""
    found = dataclasses.asdict(find_earlier_run(config)) if devices.is_chief else {}
    received = devices.from_chief(json.dumps(found).encode())
    return EarlierRun(**json.loads(received or b"{}"))


def start_of(run: RunFolder, devices: Devices) -> tuple[Standing, Arrays | None]:
    """Return the position of the training and the values of its variables (None at the start)."""
    data = devices.from_chief(run.resumed)
    if not data:
        return Standing(started=run.started), None
    kept = checkpoint.read(data)
    run.resume(kept.standing)
    return kept.standing, kept.arrays


def remarks(
    devices: Devices, config: Config, model: keras.Model, kept: str, standing: Standing | None
) -> Iterator[str]:
    """Yield notes on the data, the feature cache, the backend and resuming.

    Args:
        devices: those of the run.
        config: the run's settings.
        model: the network.
        kept: message on the feature cache.
        standing: position of a resumed training, or None.
    """
    for name, root in config.sets:
        found = loading.remarks(name, root, columns=config.columns)
        yield from (f"{name}: {remark}" for remark in found)
    if kept:
        yield kept
    yield from backends.remarks(model, config)
    if devices.count > 1:
        yield f"{devices.count} devices of {devices.processes} processes share each batch, by JAX"
    if standing:
        yield f"resuming from {standing}"


def recipe_remark(config: Config, pictures: int) -> str:
    """Return a recommendation if ML-Net's published recipe meets few training pictures, else ""."""
    published = SYSTEMS["mlnet"].recipe
    is_published = all(
        getattr(config, name) == published[name] for name in ("loss", "optimizer", "learning_rate")
    )
    if config.model != "mlnet" or not is_published or pictures >= FEW_PICTURES:
        return ""
    return (
        f"note: the paper's recipe was made for 10,000 pictures, and these are {pictures}. Try "
        "--loss kld --optimizer adam --decay 0 --learning_rate 1e-4: docs/SMALL_SETS.md"
    )


def gains_remark(validation: SaliencyBatches, config: Config) -> str:
    """Return which data sets the best epoch is chosen without, if it is chosen by their gains."""
    if not validation.marks_sets:
        return ""
    bare = [
        name
        for name, own in zip(config.dataset, validation.samples_by_set, strict=True)
        if all(sample.fixations is None for sample in own)
    ]
    if not bare:
        return ""
    chosen = "without these pictures" if len(bare) < len(config.dataset) else "by the loss"
    return (
        f"{', '.join(bare)}: without fixations there is no information gain, so the best epoch is "
        f"chosen {chosen}"
    )


def digest_of_pictures(training: SaliencyBatches, validation: SaliencyBatches) -> str:
    """Return a digest of a run's pictures and their ground truth, independent of their path.

    It contains the sizes of files, but not their modification times, which a copy may change.
    """
    digest = hashlib.sha256()
    for batches in (training, validation):
        for sample in batches.samples:
            about = [sample.name, *map(size_of, (sample.image, sample.map))]
            if sample.prepared:
                about.append(sample.prepared.digest)
            digest.update(f"{about}\n".encode(errors="surrogateescape"))
            if sample.fixations is not None:
                digest.update(np.ascontiguousarray(sample.fixations, np.float32).tobytes())
    return digest.hexdigest()


def size_of(source: object) -> int | None:
    """Return the size of a sample's file, bytes; None without a file."""
    return source.stat().st_size if isinstance(source, Path) and source.is_file() else None


def picture_hashes(
    config: Config,
    training: SaliencyBatches,
    validation: SaliencyBatches,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Return the hashes of a run's pictures by split, for the cards of its weights.

    They include the training pictures of the initial weights.
    """
    found = provenance.hashes(training.samples, config.workers)
    lost = sum(
        one is None and sample.prepared is not None
        for one, sample in zip(found, training.samples, strict=True)
    )
    if lost:
        say(
            f"note: {lost} training pictures are not recorded in the weights' card, since the "
            "sources of their store are missing: `evaluate` cannot detect copies of these pictures"
        )
    before: set[bytes] = set()
    if config.init_weights:
        before = provenance.hashes_in_card(weight_files.read_card(config.init_weights))
    return {
        "train": provenance.encode_hashes([*found, *before]),
        "val": provenance.encode_hashes(provenance.hashes(validation.samples, config.workers)),
    }


def digest_of_weights(model: keras.Model) -> str:
    """Return a digest of a network's weights."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()


def best_line(run: RunFolder) -> str:
    """Return a message with the best epoch of a run and the paths of its weights."""
    best = run.best_epoch
    copy = f", and {run.published}"
    if run.unpublished_reason:
        kept = "is kept" if run.published.exists() else "is not written"
        copy = f" only: {run.published} {kept}, as {run.unpublished_reason}"
    return (
        f"Best: epoch {best['epoch']}, {scores_line(best)}. Weights: "
        f"{run.path('best.weights.h5')}{copy}"
    )


def fit(epochs: Epochs, config: Config, say: Callable[[str], None]) -> None:
    """Train from the current position to the end; finish an interrupted epoch first.

    Args:
        epochs: callback with the position of the training.
        config: settings of the run.
        say: called with each message.
    """
    training, devices, at = epochs.training, epochs.devices, epochs.at
    make_variables(epochs)
    if not at.is_between_epochs:
        if at.step < devices.steps(training):
            fit_epochs(epochs, config, say, devices.feed(training, at.step), at.epoch + 1)
        else:
            epochs.end_epoch()
    if not epochs.is_over and not epochs.is_interrupted:
        feed = devices.feed(training, epochs=config.epochs)
        fit_epochs(epochs, config, say, feed, config.epochs)


def make_variables(epochs: Epochs) -> None:
    """Create the variables of the metrics, if they have to be restored."""
    if epochs.arrays or epochs.config.on_nan != "stop":
        epochs.state.fitted.test_on_batch(*epochs.training[0])


def fit_epochs(
    epochs: Epochs,
    config: Config,
    say: Callable[[str], None],
    feed: Feed,
    end: int,
) -> None:
    """Train up to an epoch; if `--xla on` cannot compile the step, train without XLA."""
    model = epochs.state.fitted
    callbacks = Callbacks([epochs], add_history=True, model=model, epochs=end, steps=len(feed))
    options = {
        "initial_epoch": epochs.at.epoch,
        "epochs": end,
        "shuffle": False,  # the generator shuffles, by seed and epoch
        "verbose": 0,
        "callbacks": callbacks,
    }
    try:
        model.fit(feed, **options)
    except Exception as error:
        tried = config.xla == "on" and model.jit_compile and not epochs.has_stepped
        # JAX has donated its arrays by then, and is too slow without compilation
        if not tried or backends.backend() == "jax":
            raise
        if epochs.training.failure or isinstance(error, UserError):
            raise
        say(f"XLA cannot compile the training step, so XLA is disabled: {first_line(error)}")
        set_up(model, dataclasses.replace(config, xla="off"), len(epochs.training))
        make_variables(epochs)
        model.fit(feed, **options)
    finally:
        feed.close()


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def load_start(model: keras.Model, config: Config, say: Callable[[str], None]) -> Path | None:
    """Load the initial weights; return their file, or None for random weights."""
    if config.init_weights is None:
        return system_module(config.model).load_pretrained(model, config)
    card = weight_files.read_card(config.init_weights)
    say(weight_files.card_line(config.init_weights, card))
    before = trained_config(config.init_weights) if config.own.has_numbers else config
    if before.own.has_numbers and before.dataset != config.dataset:
        from model import load_model

        # this process alone makes the second network: its variables are not those of all devices
        spread = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            start = load_model(config.init_weights)
        finally:
            keras.distribution.set_distribution(spread)
        say(system_module(config.model).begin_from(model, start, before.dataset, config.dataset))
    else:
        weight_files.load(model, config.init_weights)
    return config.init_weights


def batches(config: Config, split: str, grid: OutputGrid) -> SaliencyBatches:
    """Return the batches of a split; only those of training are shuffled and flipped."""
    samples, sizes = [], []
    for name, root in config.sets:
        found = loading.load(
            name, root, split, config.plan, config.out_of_bounds, columns=config.columns
        )
        if len(config.sets) > 1:  # two sets may each have a 001.jpg
            found = [dataclasses.replace(s, name=f"{name}/{s.name}") for s in found]
        samples += found
        sizes.append(len(found))
    return SaliencyBatches(
        samples,
        config.input_shape,
        config.batch_size,
        grid=grid,
        sigma_pixels=config.gaussian_pixels,
        shuffle=split == "train",
        flip=config.flip and split == "train",
        sizes=sizes,
        mix=config.mix if split == "train" else (),
        marks_sets=config.own.has_numbers and len(config.sets) > 1,
        seed=config.seed,
        cache=default_cache(config.cache_bytes),
        workers=config.workers,
    )


def check_truth_of_loss(loss: str, dataset_name: str, training: SaliencyBatches) -> None:
    """Raise UserError if the loss needs fixations and a picture has none."""
    bare = [sample.name for sample in training.samples if sample.fixations is None]
    if bare and ("nss" in loss or "nll" in loss):
        raise UserError(
            f"--loss {loss} needs fixations, but {counted(len(bare), 'picture')} of "
            f"{dataset_name} have only maps; first: {bare[0]}. Choose a loss without nss and nll, "
            "such as kld."
        )


def describe(
    config: Config,
    counts: Mapping[str, int],
    training: SaliencyBatches,
    validation: SaliencyBatches,
    weights: Path | None,
) -> str:
    """Return a description of the training: network, data, settings and devices."""
    note = BACKBONES[config.backbone].size_note(config.rows, config.cols)
    size = f"{config.rows}x{config.cols}" + (f" ({note})" if note else "")
    return (
        f"{config.system} ({config.strategy}) at {size}: {counts['trainable_weights']:,} of "
        f"{counts['weights']:,} weights are trainable; start: "
        f"{weights or 'random'}\n{config.dataset_name}: {training.count} training and "
        f"{counted(validation.count, 'validation picture')}"
        f"{outside(config.out_of_bounds, training)}; loss {config.loss}, {config.optimizer}, "
        f"learning rate {config.learning_rate:g}, batch {config.batch_size}"
        f"{speed(config.precision, config.part_size)}\n{backends.devices_line()}\n"
        f"writing to {config.run_folder}/"
    )


def speed(precision: str, part_size: int | None) -> str:
    """Return the precision and the micro-batch as text; "" for the defaults."""
    words = "" if precision == "float32" else f", {precision}"
    if part_size:
        words += f", micro-batch {part_size}"
    return words


def outside(out_of_bounds: str, training: SaliencyBatches) -> str:
    """Return the number of fixations outside their picture and their treatment as text, or ""."""
    count = sum(sample.outside for sample in training.samples)
    done = "clipped to the border" if out_of_bounds == "clip" else "dropped"
    return f" ({counted(count, 'fixation')} outside the picture {done})" if count else ""
