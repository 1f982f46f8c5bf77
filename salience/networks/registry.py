"""The systems besides ML-Net, one file each; found by `config.MODELS`.

A system's module holds `build(config)`, `to_unit_range` and `load_pretrained(model, config)`;
`loss` where its published loss is not a sum of those in `losses`; `CROP` and `BLUR`, by system,
where a map is not a plain grid over its input (see `letterbox.OutputGrid`); and `TRAINING_METRICS`
where training is to watch more than the loss.
"""

import importlib
from types import ModuleType

import keras

from config import MODELS
from salience.pictures.letterbox import OutputGrid


def get(name: str) -> ModuleType:
    """Return the module of a system."""
    return importlib.import_module(MODELS[name])


def grid_of(model: keras.Model) -> OutputGrid:
    """Return where a network's map lies on its input.

    Args:
        model: from a system's `build`, whose name it carries.
    """
    module = get(model.name)
    crop = getattr(module, "CROP", {}).get(model.name, 0)
    stride = (model.input_shape[1] - 2 * crop) // model.output_shape[1]
    return OutputGrid(stride, crop, getattr(module, "BLUR", {}).get(model.name, 0.0))
