"""Importing the library changes nothing for the program that imports it."""

import subprocess
import sys

import pytest
from conftest import PROJECT

# what a notebook may have set: none of it is a default
CHILD = """
import importlib, logging, os, signal, sys, warnings
from pathlib import Path

# what these change themselves is not ours to answer for
import cv2, h5py, numpy, scipy.io, scipy.ndimage, scipy.special, scipy.stats, tqdm
from PIL import Image

if sys.argv[1] == "with keras":
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_epsilon(1e-3)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("float64")
Image.MAX_IMAGE_PIXELS = 12345
numpy.set_printoptions(precision=3)
warnings.filterwarnings("error", category=FutureWarning)
logging.getLogger("tensorflow").setLevel(logging.DEBUG)
logging.getLogger("jax").setLevel(logging.DEBUG)


def state():
    found = {
        "environment": dict(os.environ),
        "Pillow": Image.MAX_IMAGE_PIXELS,
        "OpenCV": (cv2.getNumThreads(), cv2.useOptimized(), cv2.ocl.useOpenCL()),
        "NumPy": (str(numpy.get_printoptions()), str(numpy.geterr())),
        "warnings": [str(one) for one in warnings.filters],
        "loggers": [logging.getLogger(n).level for n in ("", "tensorflow", "jax", "absl")],
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
    }
    if "keras" in sys.modules:
        c = sys.modules["keras"].config
        found["Keras"] = (c.floatx(), c.epsilon(), c.image_data_format(), c.dtype_policy().name)
    return found


before = state()
root = Path.cwd()
files = sorted((root / "salience").rglob("*.py"))
if sys.argv[1] == "with keras":
    files += [root / f"{name}.py" for name in ("config", "eltwise_product", "utilities", "model")]
for file in files:
    parts = file.relative_to(root).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    importlib.import_module(name)
    if sys.argv[1] != "with keras" and "keras" in sys.modules:
        continue  # Keras' own import is not ours to answer for
    now = state()
    for what in now.keys() & before.keys():
        if now[what] != before[what]:
            print(name, "changes", what, before[what], "to", now[what])
    before = now
"""


def changes(way: str) -> str:
    """Return what a fresh process says of the modules that change something."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, way], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_no_module_changes_the_settings_of_the_program_that_imports_it():
    assert changes("with keras") == ""


@pytest.mark.slow
def test_nor_where_keras_is_not_imported_yet():
    assert changes("alone") == ""
