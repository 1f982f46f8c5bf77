"""The house itself: imports point one way, and public things say what they are."""

import re

from conftest import PROJECT

SOURCES = sorted(
    [*PROJECT.glob("*.py"), *PROJECT.glob("salience/**/*.py"), *PROJECT.glob("commands/**/*.py")]
)


def test_networks_are_written_for_every_backend():
    """What Keras leaves to its backends and what knows several devices stand in two modules.

    `export` besides reads what TensorFlow wrote.
    """
    for path in SOURCES:
        if path.name in ("backends.py", "devices.py", "export.py"):
            continue
        for name in ("tensorflow", "torch", "jax"):
            assert f"import {name}" not in path.read_text(), path


def test_nothing_unpickles():
    for path in SOURCES:
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "safe_mode=False" not in text, path


def test_what_is_said_is_made_fit_to_print():
    """Names of strangers go through `terminal.tell` or an error's text, never through print."""
    printing = {path.name for path in SOURCES if re.search(r"\bprint\b[(,]", path.read_text())}
    assert printing <= {"terminal.py", "main.py", "hosts.py"}
