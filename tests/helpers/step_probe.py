"""Train a tiny network in several ways on the backend of KERAS_BACKEND; save what comes out."""

import sys

import keras
import numpy as np

from commands.training import backends, objective
from config import Config
from model import system_module

COUNT = 11  # pictures: batches of 8 and 3


class Pairs(keras.utils.PyDataset):
    """Drawn pictures and truth, in batches the last of which is smaller."""

    def __init__(self, config):
        super().__init__()
        rng = np.random.default_rng(3)
        rows, cols = config.input_shape
        self.size = config.batch_size
        self.x = rng.integers(0, 256, (COUNT, rows, cols, 3), dtype=np.uint8)
        self.y = rng.random((COUNT, rows // 8, cols // 8, 2)).astype("float32")

    def __len__(self):
        return -(-COUNT // self.size)

    def __getitem__(self, index):
        chosen = slice(index * self.size, (index + 1) * self.size)
        return self.x[chosen], self.y[chosen]


def config(**changes):
    """Return settings of a tiny ML-Net whose prior has several weights, and learns from the start.

    Nothing is drawn while it trains.
    """
    return Config(
        **{
            "rows": 80, "cols": 160, "width": 0.05, "batch_size": 8, "epochs": 2, "dropout": 0.0,
            "freeze_backbone": False, "backbone_weights": "none", "decay": 0.1, **changes,
        }
    )  # fmt: skip


def set_up(settings):
    """Return a network, compiled, and its batches."""
    backends.seed_all(settings.seed)
    with backends.precision(settings.precision):
        model = system_module(settings.model).build(settings)
    data = Pairs(settings)
    objective.set_up(model, settings, len(data))
    return model, data


def step_flop(settings):
    """Return the floating-point operations of a step on the first batch, as the backend counts."""
    model, data = set_up(settings)
    model.train_on_batch(*data[0])  # builds what the next one is counted without
    if backends.backend() == "torch":
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            model.train_on_batch(*data[0])
        return counter.get_total_flops()
    import jax

    state = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    values = tuple([variable.value for variable in part] for part in state)
    return jax.jit(model.train_step).lower(values, data[0]).cost_analysis()["flops"]


def trained(settings):
    """Return the loss and share of zero maps of each epoch, the updates, and the weights."""
    model, data = set_up(settings)
    model.get_layer("prior").prior.assign(np.random.default_rng(4).normal(0, 0.3, (1, 2)))
    history = model.fit(data, epochs=settings.epochs, shuffle=False, verbose=0).history
    found = {"loss": np.array(history["loss"]), "zero maps": np.array(history["zero_maps"])}
    found["updates"] = np.array(int(keras.ops.convert_to_numpy(model.optimizer.iterations)))
    found["step size"] = np.array(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    return found | {weight.path: np.asarray(weight) for weight in model.weights}


# by name: what is changed in the settings
WAYS = {
    "whole": {},
    "parts of 3": {"micro_batch": 3},  # 2 + 3 + 3 pictures, then 3
    "float16 in parts": {"precision": "mixed_float16", "micro_batch": 3},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "two steps at once": {"steps_per_execution": 2},
}

if __name__ == "__main__":
    np.savez(
        sys.argv[1],
        **{
            f"{way}: {name}": value
            for way, changes in WAYS.items()
            for name, value in trained(config(**changes)).items()
        },
        **{
            f"flop: {name}": step_flop(config(freeze_backbone=name == "frozen"))
            for name in ("frozen", "fine-tuned")
        },
    )
