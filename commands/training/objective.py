"""The loss, the optimiser and the schedules of a training.

Scheduled learning rates and momenta are functions of the optimiser's step counter, which is part of
its state. So they are not constants of a compiled step, and a resumed run continues correctly on
every backend.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from commands.training import backends
from config import Config, parse_loss
from model import system_module
from salience.networks import losses


def set_up(model: keras.Model, config: Config, steps_per_epoch: int) -> None:
    """Compile a network with the configured optimiser and loss."""
    # TensorFlow traces a step twice if the first trace creates variables: build them all here
    metrics = [losses.zero_maps, *training_metrics(config.model)]
    model.compile(
        optimizer=optimizer(config, steps_per_epoch),
        loss=loss_function(config.model, config.loss),
        metrics=[keras.metrics.MeanMetricWrapper(f, name=f.__name__) for f in metrics],
        steps_per_execution=backends.steps_per_execution(config.steps_per_execution),
        # auto: Keras disables XLA for TensorFlow on a CPU (its convolutions are slower than
        # oneDNN's) and for deterministic operations
        jit_compile={"auto": "auto", "on": True, "off": False}[config.xla],
    )
    model.optimizer.build(model.trainable_variables)
    if config.part_size:
        backends.split_batches(model, config.part_size)


def loss_function(system: str, loss: str) -> Callable:
    """Return the loss function of a training.

    Args:
        system: key of `config.SYSTEMS`.
        loss: a sum of losses such as "kld+0.5*nss"; the system's name stands for its own loss.
    """
    module = system_module(system)
    own = {system: module.loss} if hasattr(module, "loss") else {}
    summed = losses.combine(parse_loss(loss), own, module.to_unit_range)

    def loss_of_own_maps(y_true, y_pred):
        return summed(y_true, own_maps(system, y_true, y_pred))

    return loss_of_own_maps


def own_maps(system: str, y_true: Any, y_pred: Any) -> Any:
    """Return each picture's map, [b, rows, cols, 1], of networks with a map for each data set."""
    choose = getattr(system_module(system), "of_own_set", None)
    return choose(y_true, y_pred) if choose else y_pred


def training_metrics(system: str) -> tuple[Callable, ...]:
    """Return the metrics that are computed in training for a system, besides the loss."""
    return getattr(system_module(system), "TRAINING_METRICS", ())


def optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the configured optimiser, with its schedules of learning rate and momentum."""
    return backends.with_loss_scaling(unscaled_optimizer(config, steps_per_epoch), config.precision)


def unscaled_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the configured optimiser without loss scaling."""
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


def linear_by_epoch(start: float, end: float, epochs: int, epoch: int) -> float:
    """Return the value of an epoch in a linear schedule.

    Args:
        start: value of epoch 0.
        end: value of epoch `epochs - 1` and of later ones.
        epochs: number of epochs; a single epoch has the value `start`.
        epoch: index of the epoch, from 0.

    >>> [linear_by_epoch(1.0, 0.0, 3, epoch) for epoch in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    return start + (end - start) * min(epoch / max(epochs - 1, 1), 1.0)


@keras.saving.register_keras_serializable(package="saliency")
class LinearByEpoch(keras.optimizers.schedules.LearningRateSchedule):
    """`linear_by_epoch` as a function of the optimiser's step counter.

    Args:
        start, end, epochs: see `linear_by_epoch`.
        steps_per_epoch: optimiser steps per epoch.
    """

    def __init__(self, start: float, end: float, epochs: int, steps_per_epoch: int) -> None:
        self.start, self.end = start, end
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch

    def __call__(self, step):
        # integers, as a quotient of floats may be slightly less than the epoch
        epoch = ops.floor_divide(ops.cast(step, "int32"), self.steps_per_epoch)
        share = ops.cast(epoch, "float32") / max(self.epochs - 1, 1)
        return self.start + (self.end - self.start) * ops.minimum(share, 1.0)

    def get_config(self):
        return {
            "start": self.start,
            "end": self.end,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
        }


@keras.saving.register_keras_serializable(package="saliency")
class ScheduledSGD(keras.optimizers.SGD):
    """Keras' SGD with a schedule for the momentum.

    Keras' SGD reads `momentum` as a Python number when a step is compiled, so a later change (such
    as by a callback) has no effect.

    Args:
        learning_rate: a number or a schedule.
        momentum: a schedule with `start` and `end`.
        nesterov: whether to use Nesterov momentum.
    """

    def __init__(self, learning_rate, momentum: LinearByEpoch, nesterov: bool = False, **kwargs):
        # Keras creates velocities unless the momentum is 0
        super().__init__(learning_rate, momentum=1.0, nesterov=nesterov, **kwargs)
        self.momentum_schedule = momentum

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        momentum = ops.cast(self.momentum_schedule(self.iterations), variable.dtype)
        step = ops.cast(gradient, variable.dtype) * rate
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, velocity * momentum - step)
        self.assign_add(variable, velocity * momentum - step if self.nesterov else velocity)
