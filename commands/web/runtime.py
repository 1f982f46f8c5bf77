"""ONNX Runtime's WebAssembly for the page of `export --format web`, kept in the user's cache.

The npm package `onnxruntime-web` is downloaded once, over HTTPS, and compared with the digest that
the registry states. A file that the user names replaces the download.
"""

import base64
import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from salience.system import archives, cache
from salience.system.errors import UserError
from salience.system.files import file_digest, move, open_regular, scratch, telling
from salience.system.terminal import progress, tell

VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
# SHA-512 in base64 and size: `npm view onnxruntime-web@1.30.0 dist`
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
SIZE_BYTES = 33_106_585
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
# SHA-256 of the files of the package that the page needs: its folder `dist` has 26 others
FILES = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
LIMIT_BYTES, LIMIT_FILES = 300_000_000, 2_000  # twice what the package has
TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 2**20


def runtime_folder(archive: Path | None = None, say: Callable[[str], None] = tell) -> Path:
    """Return a folder with the files of FILES, from the cache if they are there.

    Args:
        archive: the package as a file, instead of a download.
        say: called with the message of a download.

    Raises:
        UserError: the download failed, the package is damaged or of another version, or there is no
            folder for the cache.
    """
    if archive is not None:
        check_archive(archive, f"--runtime {archive}")
    shelf = cache.default_cache().shelf(cache.make_key("onnxruntime-web", INTEGRITY, FILES))
    return shelf.files(lambda folder: _unpack(folder, archive, say), whole)


def whole(folder: Path) -> bool:
    """Return whether a folder has all files of FILES, undamaged."""
    try:
        return all(file_digest(folder / name) == digest for name, digest in FILES.items())
    except (OSError, UserError):
        return False


def _unpack(folder: Path, archive: Path | None, say: Callable[[str], None]) -> None:
    """Write the files of FILES into a folder."""
    with scratch(folder) as temporary:
        package = archive or download(temporary / ARCHIVE, say)
        unpacked = archives.extract([package], temporary / "all", LIMIT_BYTES, LIMIT_FILES)
        for name in FILES:
            move(unpacked / "package" / "dist" / name, folder / name)


def download(path: Path, say: Callable[[str], None] = tell) -> Path:
    """Download the package to a path, and return the path.

    Raises:
        UserError: the registry does not answer, or sends something else.
        StorageError: the file cannot be written.
    """
    say(f"downloading {ARCHIVE} ({SIZE_BYTES / 1e6:.0f} MB), once")
    with (
        telling(f"Cannot write {path}"),
        path.open("wb") as file,
        progress(SIZE_BYTES, f"downloading {ARCHIVE}", unit="B") as bar,
    ):
        for block in _blocks():
            file.write(block)
            bar.update(len(block))
    check_archive(path, ADDRESS)
    return path


def _blocks() -> Iterator[bytes]:
    """Yield the bytes of the package from the registry, at most as many as it has."""
    left = SIZE_BYTES
    try:
        with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT_SECONDS) as answer:
            while left > 0 and (block := answer.read(min(left, BLOCK_BYTES))):
                left -= len(block)
                yield block
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)  # urllib wraps the system's errors
        reason = " ".join(str(why).split()) or type(error).__name__
        raise UserError(
            f"The page needs ONNX Runtime's WebAssembly, and its download failed ({reason}): "
            f"download {ADDRESS} elsewhere, and name the file with --runtime FILE."
        ) from error


def check_archive(path: Path, name: str) -> None:
    """Check that a file is the package, whole and of this version.

    Args:
        path: the file.
        name: what the error calls it.

    Raises:
        UserError: it is not, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha512").digest()
    except OSError as error:
        raise UserError(f"Cannot read {name}: {error.strerror}.") from error
    if base64.b64encode(digest).decode() != INTEGRITY:
        raise UserError(
            f"{name} is damaged, or not {ARCHIVE}: its SHA-512 is another one. Download {ADDRESS} "
            "again."
        )
