"""What training makes small, and by which steps: a run's loss, optimiser and schedules."""

from collections.abc import Callable

import keras

from commands.training import backends
from commands.training.schedules import LinearByEpoch, ScheduledSGD
from config import Config
from salience.networks import losses, registry


def set_up(model: keras.Model, config: Config, steps_per_epoch: int) -> None:
    """Give a network its configured optimiser and loss."""
    model.compile(
        optimizer=optimizer(config, steps_per_epoch),
        loss=loss_function(config),
        metrics=[losses.zero_maps, *training_metrics(config)],
        steps_per_execution=backends.steps_per_execution(config),
        # auto: Keras leaves XLA off under TensorFlow on a CPU (its convolutions are slower than
        # oneDNN's) and wherever reproducible operations are asked for
        jit_compile={"auto": "auto", "on": True, "off": False}[config.xla],
    )
    if config.part_size:
        backends.take_in_parts(model, config.part_size)


def loss_function(config: Config) -> Callable:
    """Return the configured loss, with the system's own among the names."""
    system = registry.get(config.model)
    own = {config.model: system.loss} if hasattr(system, "loss") else {}
    return losses.combine(config.loss, own, system.to_unit_range)


def training_metrics(config: Config) -> tuple[Callable, ...]:
    """Return what training is to watch, besides the loss, for the configured system."""
    return getattr(registry.get(config.model), "TRAINING_METRICS", ())


def optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the configured optimiser, with its schedules of step size and momentum."""
    return backends.scaled(unscaled_optimizer(config, steps_per_epoch), config.precision)


def unscaled_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the configured optimiser as it is for float32."""
    if config.learning_rate_end is None:
        rate = keras.optimizers.schedules.InverseTimeDecay(
            config.learning_rate, decay_steps=1, decay_rate=config.decay
        )
    else:
        rate = LinearByEpoch(
            config.learning_rate, config.learning_rate_end, config.epochs, steps_per_epoch
        )
    if config.optimizer == "sgd" and config.momentum_end is not None:
        momentum = LinearByEpoch(
            config.momentum, config.momentum_end, config.epochs, steps_per_epoch
        )
        return ScheduledSGD(rate, momentum, nesterov=config.nesterov)
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov)
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    return keras.optimizers.Adam(rate)
