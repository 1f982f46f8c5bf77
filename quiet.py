"""Keeps the terminal for our words while a library says what no setting of its own can silence."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# a bad picture gets our one line, not OpenCV's; it reads this when it is first imported
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
# whoever sets the level wants to read what TensorFlow says, and does
ASKED_FOR_WORDS = LEVEL in os.environ


@contextmanager
def hushed(stream: int = 2) -> Iterator[None]:
    """Drop what is written to standard error, by C++ code too, while TensorFlow is imported.

    Its first lines come before it reads its log level. Exceptions pass.

    Args:
        stream: 2, or 1 for standard output.
    """
    if ASKED_FOR_WORDS:
        yield
        return
    os.environ[LEVEL] = "3"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for ours in (sys.stdout, sys.stderr):
        ours.flush()
    kept = os.dup(stream)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            os.dup2(kept, stream)
            os.close(kept)


def import_keras() -> None:
    """Import Keras and its backend, which is slow, and loud by default."""
    with hushed():
        import keras  # noqa: F401


def environment() -> dict[str, str]:
    """Return the environment for a process of our own, which decides for itself what to hush."""
    return {k: v for k, v in os.environ.items() if k != LEVEL or ASKED_FOR_WORDS}
