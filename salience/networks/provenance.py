"""Short hashes of the pictures that weights were trained on, for the weights' card.

The hashes depend on the content of the files. A picture is therefore recognised in a copy, in a
subset and under another name.
"""

import base64
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salience.pictures.sample import Sample, Stored
from salience.system.errors import UserError
from salience.system.files import open_regular

HASH_BYTES = 5  # between 10,000 and 10,000 other pictures, a collision has probability 1e-4
ENDS = 2**16  # bytes at each end of the file that are hashed, with the file's size


def picture_hash(sample: Sample) -> bytes | None:
    """Return a short hash of the content of a picture's file; None without a readable file.

    Times and names are left out, since they differ in a copy.
    """
    digest = hashlib.sha256()
    try:
        if isinstance(sample.image, Stored):
            digest.update(sample.image().tobytes())
        elif isinstance(sample.image, Path):
            with open_regular(sample.image) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                digest.update(f"{size} ".encode() + file.read(ENDS))
                file.seek(max(ENDS, size - ENDS))
                digest.update(file.read(ENDS))
        else:
            return None
    except (OSError, UserError):
        return None
    return digest.digest()[:HASH_BYTES]


def hashes(samples: Iterable[Sample], workers: int = 2) -> list[bytes | None]:
    """Return the hash of each picture; None for a picture without a readable file."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(picture_hash, samples))


def encode_hashes(found: Iterable[bytes | None]) -> str:
    """Return the distinct hashes as base64 text, sorted.

    >>> decode_hashes(encode_hashes([b"abcde", None, b"12345"])) == {b"abcde", b"12345"}
    True
    """
    return base64.b64encode(b"".join(sorted({one for one in found if one}))).decode()


def hashes_in_card(card: dict[str, Any], part: str = "train") -> set[bytes]:
    """Return the hashes of pictures that a card lists.

    Args:
        card: the card of a weights file.
        part: "train" for the training pictures; "val" for those that selected the epoch.
    """
    pictures = card.get("pictures")
    return decode_hashes(pictures.get(part)) if isinstance(pictures, dict) else set()


def decode_hashes(text: object) -> set[bytes]:
    """Return the hashes in a text of `encode_hashes`; an empty set for anything else."""
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except ValueError:
        return set()
    return {data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)}
