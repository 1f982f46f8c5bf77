"""Files written whole or not at all: every output goes to a temporary name and is then renamed."""

import csv
import io
import itertools
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from errors import UserError


def make_folder(folder: Path, flag: str = "--output") -> Path:
    """Create a folder with its parents and return it; `flag` is what chooses another.

    Raises:
        UserError: it cannot be created or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot create the folder {folder}: {error.strerror}. Choose another with {flag}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"The folder {folder} is not writable. Choose another with {flag}.")
    return folder


_numbers = itertools.count()


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes, because OpenCV and Keras choose the format by them, and
    nothing else, because a name may be as long as the file system takes; its number tells threads
    apart. After an error the temporary file is removed and `path` is as it was.

    Args:
        path: what is written.
        durable: wait until the disk has it, so that it survives a loss of power.

    Raises:
        UserError: the file cannot be written (unwritable folder, full disk).
    """
    suffixes = "".join(path.suffixes[-2:])[-40:]
    temporary = path.with_name(f".{os.getpid()}-{next(_numbers)}{suffixes}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic(path) as temporary:
        # a file name may hold bytes that are no UTF-8
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, NaN as null, whole or not at all."""
    text = json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def without_nan(value: Any) -> Any:
    """Return nested values with None for NaN and infinities, which JSON does not know.

    >>> without_nan({"nss": [1.0, float("nan")]})
    {'nss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error


def as_csv(rows: list[dict[str, Any]]) -> str:
    r"""Return rows of equal keys as CSV text with a header.

    >>> as_csv([{"epoch": 1, "loss": 0.5}])
    'epoch,loss\n1,0.5\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
