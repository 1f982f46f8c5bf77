"""Digest of the code that a function depends on, for keys of caches.

Cached scores, features, exported networks and fixations become stale when the code that makes them
changes. The modules are found by following imports, never from a list kept by hand.
"""

import dis
import hashlib
import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType
from typing import Any

from salience.system.files import HERE, real_path

# the project's modules and packages; an installed project lies beside other packages
OURS = ("main", "commands", "salience", "config", "model", "utilities", "eltwise_product")


def code_digest(maker: Callable | str, root: Path = HERE) -> str:
    """Return a digest of the code that a function depends on, 64 hexadecimal digits.

    Args:
        maker: the function or class that makes the cached value; or the name of its module, if the
            import of the module is slow.
        root: folder of the project.

    Raises:
        ModuleNotFoundError: the project has no such module.
    """
    return _digest(_start(maker, root), root)


@lru_cache  # called for every picture of an epoch
def _start(maker: Callable | str, root: Path) -> Path:
    """Return the file of a function, class or module."""
    if not isinstance(maker, str):
        return real_path(Path(inspect.getfile(maker)))
    start = _file_of(maker, root)
    if start is None:
        raise ModuleNotFoundError(f"{root} has no module {maker}", name=maker)
    return start


def is_ours(thing: Callable) -> bool:
    """Return whether a function or class belongs to the project."""
    return thing.__module__.partition(".")[0] in OURS


@lru_cache
def _digest(start: Path, root: Path) -> str:
    """Return the digest of a file and of all project files that it imports."""
    digest = hashlib.sha256()
    for path in sorted(reached(start, root)):
        place = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        code = path.read_bytes()
        digest.update(f"{place} {len(code)} ".encode() + code)
    return digest.hexdigest()


def reached(start: Path, root: Path = HERE) -> set[Path]:
    """Return a file and the project files that it imports, directly or indirectly.

    Imports inside functions count. A string that names a module counts, too, since `import_module`
    may take it; a string that ends in a dot stands for all modules of its package.
    """
    found, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        imported, strings = _names(path.read_bytes())
        for name in imported:
            waiting += _run_by(name, root)
        for name in strings:
            if name.endswith("."):
                folder = _place(name[:-1], root)
                waiting += folder.glob("*.py") if folder else ()
            elif _file_of(name, root):
                waiting += _run_by(name, root)
    return found


@lru_cache(maxsize=512)
def _names(code: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that a file imports, and its strings with a dot, which may name modules.

    The file is compiled rather than parsed. In Python 3.11, two threads that make syntax trees at
    the same time can raise a SystemError, and TensorFlow makes some while pictures are read.
    """
    imported: list[str] = []
    strings: list[str] = []
    waiting: list[Any] = [InspectLoader.source_to_code(code)]  # compiled, but not run
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple | frozenset):
            waiting += part
        elif isinstance(part, str) and "." in part:
            strings.append(part)
        elif isinstance(part, CodeType):
            waiting += part.co_consts
            if any(name.partition(".")[0] in OURS for name in part.co_names):
                imported += _imports(part)
    return tuple(imported), tuple(strings)


def _imports(code: CodeType) -> Iterator[str]:
    """Yield the dotted names that code imports: a and a.b for `from a import b`."""
    module = ""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            module = step.argval
            yield module
        elif step.opname == "IMPORT_FROM":
            yield f"{module}.{step.argval}"


def _run_by(name: str, root: Path) -> Iterator[Path]:
    """Yield the files that an import of a.b.c runs, with a/__init__.py and a/b/__init__.py."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        if file := _file_of(".".join(parts[:end]), root):
            yield file


@lru_cache(maxsize=4096)
def _file_of(name: str, root: Path) -> Path | None:
    """Return the file of a module or package; None if the project has no such module."""
    place = _place(name, root)
    if place is None:
        return None
    files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _place(name: str, root: Path) -> Path | None:
    """Return the path of a dotted name, without suffix; None if it is not a name of the project."""
    parts = name.split(".")
    ours = parts[0] in OURS and all(part.isidentifier() for part in parts)
    return root.joinpath(*parts) if ours else None
