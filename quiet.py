"""Keeps the terminal for our words while a library says what no setting of its own can silence."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# whoever sets the level wants to read what TensorFlow says, and does
ASKED_FOR_WORDS = LEVEL in os.environ


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what is written to standard error, by C++ code too, while TensorFlow is imported.

    Its first lines come before it reads its log level. Exceptions pass.
    """
    if ASKED_FOR_WORDS:
        yield
        return
    os.environ[LEVEL] = "3"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    standard_error = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
