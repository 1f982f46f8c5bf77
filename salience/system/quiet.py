"""Imports of libraries that print too much: Keras and its backend, and OpenVINO.

Output that no setting of a library suppresses is dropped during its import. The settings file of
Keras does not affect the networks here.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

from salience.system.errors import UserError, did_you_mean
from salience.system.files import HERE, is_installed, read_text
from salience.system.signals import as_interrupts

BACKENDS = ("tensorflow", "jax", "torch")  # values of KERAS_BACKEND
LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # if the user sets it, TensorFlow's log is shown
STARTING = "starting Keras and its backend: usually 5 to 10 s"
_one_at_a_time = RLock()  # all threads share the environment variables


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables that a library reads, while the block runs.

    Variables that are already set keep their values.
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
    """Drop output to standard error, also of C++ code, while a backend is imported.

    TensorFlow prints its first lines before it reads its log level. Exceptions are not affected.

    Args:
        stream: 2 for standard error, 1 for standard output.
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
    """Import Keras and its backend, without their log.

    Raises:
        UserError: the backend is not installed, or cannot train.
    """
    chosen = os.environ.get("KERAS_BACKEND", "")
    if chosen and chosen not in BACKENDS:  # other backends of Keras cannot train
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


def announce_keras(say: Callable[[str], None]) -> None:
    """Say how long the import of Keras takes, unless it is already imported, or missing."""
    if "keras" not in sys.modules and find_spec("keras"):
        say(STARTING)


def start_keras(say: Callable[[str], None] | None = None) -> None:
    """Import Keras for a command, such that a signal ends the program at once.

    The import takes seconds, and TensorFlow would treat an exception as a failure of its own. Later
    log lines of TensorFlow and JAX are suppressed, too.

    Args:
        say: called with a message if Keras is not yet imported; None for no message.

    Raises:
        UserError: see `import_keras`.
    """
    if say:
        announce_keras(say)
    if LEVEL not in os.environ:
        for name in ("tensorflow", "jax"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with as_interrupts(at_once=True):
        import_keras()


@contextmanager
def keras_started(say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Run a command's block with Keras; see `start_keras` and `keras_conventions`."""
    start_keras(say)
    with keras_conventions():
        yield


def _settings_file() -> Path:
    """Return the path of Keras' settings file."""
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"), "keras.json")  # noqa: PTH111, Path raises where there is no home


def _refuse_backend_of(file: Path) -> None:
    """Raise UserError if Keras' settings file names a backend that is unknown here.

    Earlier versions of Keras supported other backends and wrote them into the file.
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
    """Use float32 and channels last, against Keras' settings file, while the block runs.

    Afterwards the caller's settings are restored.
    """
    import_keras()
    from keras import config

    kept = config.floatx(), config.epsilon(), config.image_data_format()

    def use(floatx: str, epsilon: float, data_format: str) -> None:
        config.set_floatx(floatx)
        config.set_epsilon(epsilon)
        config.set_image_data_format(data_format)

    try:
        use("float32", 1e-7, "channels_last")  # Keras' defaults, which the networks assume
        yield
    finally:
        use(*kept)


def import_openvino() -> Any:
    """Return OpenVINO, imported without its telemetry."""
    # OpenVINO has a stub for a missing telemetry package
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def program(*words: str) -> list[str]:
    """Return the command line that starts this program in a new process.

    An installed program is started as a module: started as a file, its folder of packages would
    precede Python's standard library.
    """
    start = ["-P", "-m", "main"] if is_installed() else [str(HERE / "main.py")]
    return [sys.executable, *start, *words]
