"""Flags from settings dataclasses: how fields are declared, checked, parsed and written.

The fields themselves are in `config.py` and `commands/settings.py`.
"""

import argparse
import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Self

from salience.system.errors import UserError, did_you_mean, printable
from salience.system.files import HDF5_SUFFIXES, joined_pair

TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}  # of a size


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: tuple = (),
    least: float | None = None,
    most: float | None = None,
    flag: str = "",
    group: str = "",
    words: str = "",
    metavar: str = "",
) -> Any:
    """Declare a field of a settings dataclass, with the help and the range of its flag.

    Args:
        default: value without the flag; `dataclasses.MISSING` for a required field.
        help: meaning of the field.
        unit: unit of the value.
        choices: allowed values; empty for any.
        least: smallest allowed value.
        most: largest allowed value.
        flag: name of the flag, if it differs from the field's.
        group: heading in the help, for this field and the fields after it.
        words: for positional arguments, "1" or argparse's number of arguments, "*" or "+".
        metavar: name of the value in the help; default: its type.
    """
    meta = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "least": least,
        "most": most,
        "flag": flag,
        "group": group,
        "words": words,
        "metavar": metavar,
    }
    return dataclasses.field(default=default, metadata=meta)


class Checked:
    """Base class of settings dataclasses: checks its fields, and is made from flags."""

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """Return the settings of a command line.

        Args:
            flags: values of the given flags only, by field.

        Raises:
            UserError: a value is out of range, or a file that sets other fields cannot be read.
        """
        return cls(**flags)

    @classmethod
    def default_text(cls, field: str) -> str:
        """Return a field's default for the help, if it is not the default value; else ""."""
        return ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if takes_many(field.type):
                value = getattr(self, field.name)
                if isinstance(value, str | Path | float):  # a single value needs no tuple
                    value = (value,)
                object.__setattr__(self, field.name, tuple(value or ()))
            check_value(field, getattr(self, field.name))


def value_type(annotation: Any) -> type:
    """Return the type of a field's value: without None, and of the elements of a tuple."""
    if isinstance(annotation, types.UnionType):
        return next(t for t in typing.get_args(annotation) if t is not type(None))
    return typing.get_args(annotation)[0] if takes_many(annotation) else annotation


def takes_many(annotation: Any) -> bool:
    """Return whether a field is a tuple of any length."""
    return typing.get_origin(annotation) is tuple


def check_value(field: dataclasses.Field, value: Any) -> None:
    """Raise UserError if a field's value is outside its choices or its range."""
    if isinstance(value, tuple):
        for one in value:
            check_value(field, one)
        return
    choices, least = field.metadata["choices"], field.metadata["least"]
    if choices and value not in choices:
        raise UserError(
            f"Unknown {field.name} '{value}'. {did_you_mean(str(value), map(str, choices))}"
        )
    flag = f"--{field.metadata['flag'] or field.name} {value}"
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag} is not a finite number.")
    if least is not None and value is not None and not value >= least:
        raise UserError(f"{flag} is too small: at least {least} is needed.")
    most = field.metadata["most"]
    if most is not None and value is not None and value > most:
        raise UserError(f"{flag} is too large: at most {most} is possible.")


def typed(value: Any, kind: type, about: str) -> Any:
    """Return a JSON value converted to a field's type.

    Raises:
        UserError: the value has another type.
    """
    wanted = {Path: str, float: (int, float)}.get(kind, kind)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{about} is {value!r}, but {kind.__name__} is expected.")
    try:
        return kind(value)
    except OverflowError as error:
        raise UserError(f"{about} is {value!r}, which is too large.") from error


def to_json(settings: Any) -> dict[str, Any]:
    """Return the fields of a settings dataclass as JSON values, without positional arguments."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    return {
        field.name: plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if not field.metadata.get("words")
    }


def parse_bool(text: str) -> bool:
    """Return the truth value of a flag's text.

    >>> parse_bool("False"), parse_bool("yes")
    (False, True)
    """
    if not is_bool(text):
        raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")
    return TRUTHS[text.lower()]


def is_bool(text: str) -> bool:
    """Return whether a flag's text is a truth value."""
    return text.lower() in TRUTHS


def add_flags(parser: argparse.ArgumentParser, settings: type[Checked]) -> None:
    """Add a flag for every field of a settings dataclass.

    Flags that are not given are left out of the parsed namespace, so that values of a recipe or a
    file can be distinguished from typed values.

    Args:
        parser: the parser that receives the flags.
        settings: the dataclass.
    """
    target = parser
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        kind = value_type(field.type)
        unit = field.metadata["unit"]
        default = settings.default_text(field.name) or field.default
        if isinstance(default, tuple):
            default = " ".join(map(str, default)) or None
        shown = "" if default in (None, "") else f" (default: {default})"
        metavar = field.metadata["metavar"] or kind.__name__.upper()
        extra: dict[str, Any] = {"type": kind, "metavar": metavar}
        if kind is bool:
            extra = {"type": parse_bool, "metavar": "True|False"}
        elif field.metadata["choices"]:
            extra = {
                "choices": field.metadata["choices"],
                "metavar": field.metadata["metavar"] or field.name.upper(),
            }
            shown = f": {', '.join(field.metadata['choices'])}{shown}"
        if takes_many(field.type):
            extra |= {"type": kind, "nargs": "+"}
        if field.metadata["group"]:
            target = parser.add_argument_group(field.metadata["group"])
        if words := field.metadata["words"]:
            many = {} if words == "1" else {"nargs": words, "default": argparse.SUPPRESS}
            metavar = field.metadata["metavar"] or field.name
            parser.add_argument(
                field.name, type=kind, metavar=metavar, help=field.metadata["help"], **many
            )
            continue
        target.add_argument(
            f"--{field.metadata['flag'] or field.name}",
            dest=field.name,
            default=argparse.SUPPRESS,
            help=(field.metadata["help"] + (f" [{unit}]" if unit else "") + shown).replace(
                "%", "%%"
            ),
            **extra,
        )


def typed_flags(settings: Any) -> list[str]:
    """Return the command-line arguments that reproduce settings, without default values.

    >>> Part = dataclasses.make_dataclass("Part", [("split", str, "test"), ("fold", int, 0)])
    >>> typed_flags(Part(split="val"))
    ['--split', 'val']
    """
    words, flags = [], []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        texts = [str(one) for one in (value if isinstance(value, tuple) else [value])]
        if field.metadata.get("words"):
            words += texts
        elif field.name not in ("workers", "overwrite") and value != field.default:
            flags += [f"--{field.name}", *texts]
    return words + flags


def with_pairs(words: list[str]) -> list[str]:
    """Return arguments in which two HDF5 files in a row after --data are one, see `joined_pair`.

    >>> with_pairs(["check", "--data", "a.hdf5", "b.hdf5", "--output", "c"]) == [
    ...     "check", "--data", str(joined_pair("a.hdf5", "b.hdf5")), "--output", "c"]
    True
    """
    found: list[str] = []
    flag, first = "", False  # the flag that the words follow; whether a pair may end here
    for word in words:
        flag = word if word.startswith("--") else flag
        is_file = word.lower().endswith(HDF5_SUFFIXES) and flag == "--data"
        if first and is_file:
            found[-1], first = str(joined_pair(found[-1], word)), False
        else:
            found.append(word)
            first = is_file
    return found


class Parser(argparse.ArgumentParser):
    """An argument parser that accepts --a-b for --a_b, and suggests the nearest flag or choice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # an abbreviation becomes ambiguous when a flag is added
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, with - and _ equivalent in a flag's name."""
        words = with_pairs(list(sys.argv[1:] if args is None else args))
        truths = {f for a in self._actions if a.type is parse_bool for f in a.option_strings}
        positional = any(not action.option_strings for action in self._actions)
        for i, word in enumerate(words):
            if word == "--":  # only positional arguments follow
                break
            if word.startswith("--"):
                name, equals, rest = word[2:].partition("=")
                words[i] = f"--{name.replace('-', '_')}{equals}{rest}"
            value = words[i + 1] if i + 1 < len(words) else "--"
            if words[i] in truths and (
                value.startswith("--") or (positional and not is_bool(value))
            ):
                words[i] += "=True"  # so that `test --overlay images/` means --overlay True
        namespace, unknown = super().parse_known_args(words, namespace)
        if unknown:
            # here, since only this parser knows the nearest flag
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> typing.NoReturn:
        """Print one line and exit with code 2."""
        typed = re.search(r"(?:unrecognized arguments: |invalid choice: '?)([^\s']+)", message)
        if typed:
            of_flag = re.match(r"argument ([^:]+):", message)
            known = [flag for action in self._actions for flag in action.option_strings]
            known += [
                str(choice)
                for action in self._actions
                if not of_flag
                or of_flag[1] in (*action.option_strings, action.dest, action.metavar)
                for choice in action.choices or ()
            ]
            near = difflib.get_close_matches(typed[1], known, n=1)
            message += f". Did you mean '{near[0]}'?" if near else ""
        # a glob may have expanded to any file name
        self.exit(2, f"error: {printable(message)} (see {self.prog} --help)\n")


def parse_bytes(text: str, flag: str) -> int:
    """Return a size such as 50GB in bytes; the units count in thousands.

    >>> parse_bytes("1.5 GB", "--cache_limit")
    1500000000

    Raises:
        UserError: it is no size.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)([KMGT]?B)?", text.upper().replace(" ", ""))
    if not match:
        raise UserError(f"{flag} {text}: a size such as 50GB, 800MB or 2TB is expected.")
    return round(float(match[1]) * BYTES[match[2] or "B"])
