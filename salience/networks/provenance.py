"""What a card remembers of pictures: short hashes of their files, whatever those are called.

So a picture is known again in a copy, in a subset or under another name.
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

HASH_BYTES = 5  # of 10,000 against 10,000 pictures, one is taken for another in 10,000 cases
ENDS = 2**16  # bytes of each end that count: pictures of equal ends and size are one


def picture_hash(sample: Sample) -> bytes | None:
    """Return a short hash of what a picture's file holds; None where it has none, or none is there.

    Times and names do not count: a copy has others.
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
    """Return the hash of each picture."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(picture_hash, samples))


def packed(found: Iterable[bytes | None]) -> str:
    """Return hashes as text, each once, in the order of their values.

    >>> unpacked(packed([b"abcde", None, b"12345"])) == {b"abcde", b"12345"}
    True
    """
    return base64.b64encode(b"".join(sorted({one for one in found if one}))).decode()


def remembered(card: dict[str, Any], part: str = "train") -> set[bytes]:
    """Return the hashes of pictures that a card tells.

    Args:
        card: of weights.
        part: train, what they have learned from; or val, what their epoch was chosen on.
    """
    pictures = card.get("pictures")
    return unpacked(pictures.get(part)) if isinstance(pictures, dict) else set()


def unpacked(text: object) -> set[bytes]:
    """Return the hashes of a card's text; none where it is no such text."""
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except ValueError:
        return set()
    return {data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)}
