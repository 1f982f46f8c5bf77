"""The errors that are the user's to fix. Anything else that is raised is a defect of ours."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    `main.py` prints the message and leaves with its exit code. A library caller catches it like
    any exception.
    """

    exit_code = 2


class StorageError(UserError):
    """What the machine's storage refused: a full or read-only disk, a folder that has gone.

    The same command goes on, or can be given again, once that is mended.
    """

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal ended the work in good order: the same command takes it up again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that offers the nearest choice to a mistyped name.

    >>> did_you_mean("mlnett", ["mlnet", "salnet-deep"])
    "Did you mean 'mlnet'?"
    >>> did_you_mean("xyz", ["mlnet", "salnet-deep"])
    'Choose from mlnet, salnet-deep.'
    """
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"Choose from {', '.join(choices)}."
