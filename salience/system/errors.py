"""The errors that are the user's to fix. Anything else that is raised is a defect of ours."""

import difflib
import re
from collections.abc import Iterable

LONGEST = 2000  # characters of a message
# what a terminal obeys, takes for the end of a line or writes the other way round; lone surrogates
# stand for the bytes of file names that are no UTF-8, and cannot be written
UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text in one line that does nothing to a terminal, whatever a file is called.

    >>> printable("a\x1b[2J\n\u202eb\udcff")
    'a\\x1b[2J\\n\\u202eb\\udcff'
    """
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    `main.py` prints the message and leaves with its exit code. A library caller catches it like
    any exception. What a message quotes of names and files is made fit to be printed.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:  # it quotes what a file holds
            message = f"{message[: LONGEST // 2]} [...] {message[-LONGEST // 2 :]}"
        super().__init__(message)

    def __str__(self) -> str:
        return printable(super().__str__())


class StorageError(UserError):
    """What the machine's storage refused: a full or read-only disk, a folder that has gone.

    The same command goes on, or can be given again, once that is mended.
    """

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal ended the work in good order: the same command takes it up again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again

    def __str__(self) -> str:
        return printable(super().__str__())


class NotBegun(Interrupted):
    """A signal ended the work before anything was done: to try again might end in the same way."""

    exit_code = 130


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
