"""Keeps the terminal for our words while libraries are imported, and names the one that is absent.

Some say what no setting of their own can silence. What Keras' own settings file asks for does not
reach the networks here.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

from salience.system.errors import UserError, did_you_mean
from salience.system.files import HERE, is_installed, read_text
from salience.system.signals import as_interrupts

BACKENDS = ("tensorflow", "jax", "torch")  # what Keras runs on: KERAS_BACKEND
LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # whoever sets it wants to read what TensorFlow says, and does
_one_at_a_time = RLock()  # environment variables are one for all threads


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables, which a library reads, while the block runs.

    One that is set already stays as it is.
    """
    with _one_at_a_time:
        new = {name: value for name, value in values.items() if name not in os.environ}
        os.environ.update(new)
        try:
            yield
        finally:
            for name in new:
                os.environ.pop(name, None)


@contextmanager
def hushed(stream: int = 2) -> Iterator[None]:
    """Drop what is written to standard error, by C++ code too, while a backend is imported.

    TensorFlow's first lines come before it reads its log level. Exceptions pass.

    Args:
        stream: 2, or 1 for standard output.
    """
    if LEVEL in os.environ:
        yield
        return
    for ours in (sys.stdout, sys.stderr):
        ours.flush()
    kept = os.dup(stream)
    with Path(os.devnull).open("w") as nowhere, variables({LEVEL: "3"}):
        os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            os.dup2(kept, stream)
            os.close(kept)


def import_keras() -> None:
    """Import Keras and its backend, which is slow, and loud by default.

    Raises:
        UserError: the backend is not installed, or none of those that can train.
    """
    chosen = os.environ.get("KERAS_BACKEND", "")
    if chosen and chosen not in BACKENDS:  # Keras has others, which cannot train
        raise UserError(f"KERAS_BACKEND={chosen}: {did_you_mean(chosen, BACKENDS)}")
    file = _settings_file()
    if not chosen and "keras" not in sys.modules:
        _refuse_backend_of(file)
    try:
        with hushed():
            import keras  # noqa: F401
    except (ValueError, AttributeError) as error:
        if not file.is_file():
            raise
        raise UserError(
            f"Keras does not take what its settings file {file} asks for: {error} Remove the file, "
            "which Keras writes anew."
        ) from error
    except ModuleNotFoundError as error:
        if error.name not in BACKENDS:
            raise
        there = [name for name in BACKENDS if find_spec(name)]
        instead = f", or set KERAS_BACKEND={there[0]}, which is there" if there else ""
        file = "requirements.txt" if error.name == "tensorflow" else "requirements/backends.txt"
        version = "" if is_installed() else f" (the version is in {file})"
        raise UserError(
            f"Keras is to run on {error.name}, which is not installed in {sys.executable}. "
            f"pip install {error.name}{version}{instead}."
        ) from None


def start_keras() -> None:
    """Import Keras for a command: a signal that comes meanwhile ends the program at once.

    TensorFlow takes seconds for that, and an exception inside it for a failure of its own. What
    it and JAX log later is kept from the terminal, too.

    Raises:
        UserError: as `import_keras` does.
    """
    if LEVEL not in os.environ:
        for name in ("tensorflow", "jax"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with as_interrupts(at_once=True):
        import_keras()


@contextmanager
def keras_started() -> Iterator[None]:
    """Run a command's block with Keras, as `start_keras` and `keras_conventions` have it."""
    start_keras()
    with keras_conventions():
        yield


def _settings_file() -> Path:
    """Return where Keras looks for its settings."""
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"), "keras.json")  # noqa: PTH111, Path raises where there is no home


def _refuse_backend_of(file: Path) -> None:
    """Raise UserError where Keras' settings file names a backend that is not there or cannot train.

    Earlier versions of Keras knew others, and wrote them there.
    """
    with suppress(OSError, ValueError, AttributeError):
        named = json.loads(read_text(file)).get("backend", BACKENDS[0])
        if named not in BACKENDS:
            raise UserError(
                f"{file} asks for the backend '{named}'. {did_you_mean(str(named), BACKENDS)} "
                "Remove the file, which Keras writes anew, or set KERAS_BACKEND=tensorflow."
            )


@contextmanager
def keras_conventions() -> Iterator[None]:
    """Work in float32 and with channels last, whatever Keras' settings file asks for.

    Afterwards its settings are the caller's again.
    """
    import_keras()
    from keras import config

    kept = config.floatx(), config.epsilon(), config.image_data_format()

    def use(floatx: str, epsilon: float, data_format: str) -> None:
        config.set_floatx(floatx)
        config.set_epsilon(epsilon)
        config.set_image_data_format(data_format)

    try:
        use("float32", 1e-7, "channels_last")  # Keras' own defaults, for which networks are made
        yield
    finally:
        use(*kept)


def import_openvino() -> Any:
    """Return OpenVINO, which by default reports to its maker that it is imported, without that."""
    # it has a stub for where its reporter is not installed
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def program(*words: str) -> list[str]:
    """Return the words that start this program anew, as a process of its own.

    Installed, it is found as a module: as a file, all packages would come before Python's own.
    """
    start = ["-P", "-m", "main"] if is_installed() else [str(HERE / "main.py")]
    return [sys.executable, *start, *words]
