"""The systems besides ML-Net, one file each with `build(config)` and `loss`; found by file name."""

import importlib
from types import ModuleType


def get(name: str) -> ModuleType:
    """Return the module of a system: `model` for ML-Net, else the file of this folder."""
    return importlib.import_module("model" if name == "mlnet" else f"architectures.{name}")
