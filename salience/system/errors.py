"""Errors that the user can fix. Any other exception is a defect of this program."""

import difflib
import re
from collections.abc import Iterable

LONGEST = 2000  # characters of a message
# control characters, line ends and marks of text direction; and lone surrogates, which stand for
# invalid UTF-8 in file names and cannot be written
UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text in one line, with control characters escaped.

    >>> printable("a\x1b[2J\n\u202eb\udcff")
    'a\\x1b[2J\\n\\u202eb\\udcff'
    """
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(Exception):
    """Invalid input, with a message of one line: what is wrong, where, and the remedy.

    `main.py` prints the message and exits with `exit_code`. Control characters in quoted names are
    escaped.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:  # it may quote the content of a file
            message = f"{message[: LONGEST // 2]} [...] {message[-LONGEST // 2 :]}"
        super().__init__(message)

    def __str__(self) -> str:
        return printable(super().__str__())


class StorageError(UserError):
    """An error of the storage, such as a full or read-only disk, or a removed folder.

    After the remedy, the same command can be repeated or resumed.
    """

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal ended the work after its state was saved; the same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again

    def __str__(self) -> str:
        return printable(super().__str__())


class NotBegun(Interrupted):
    """A signal ended the work before any step; a repetition may end in the same way."""

    exit_code = 130


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest choice to a mistyped name, or lists all.

    >>> did_you_mean("mlnett", ["mlnet", "salnet-deep"])
    "Did you mean 'mlnet'?"
    >>> did_you_mean("xyz", ["mlnet", "salnet-deep"])
    'Choose from mlnet, salnet-deep.'
    """
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"Choose from {', '.join(choices)}."
