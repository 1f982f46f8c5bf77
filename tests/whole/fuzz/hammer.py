"""Read many hostile files of one kind: `python tests/whole/fuzz/hammer.py READER --inputs 100000`.

Atheris (libFuzzer) chooses what to damage next by which code a file reached. Whatever is raised
besides UserError in one line, takes over 2 s of processor or more memory than the table of readers
says is a finding: it is printed, its file kept, and the exit code is 1. A crash or a hang ends the
process with libFuzzer's own report.
"""

import argparse
import os
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(PROJECT / "tests/helpers"), str(PROJECT / "tests"), str(PROJECT)]

OURS = ("salience", "commands", "config")
THEIRS = ("tarfile", "zipfile", "json")
SECONDS = 2.0  # of processor an input
HANGS = 60  # seconds after which libFuzzer ends it all, on a busy machine too
ADDRESSES = 16 * 2**30  # bytes of address space: no machine is brought down by a finding


def place_of(error: BaseException) -> str:
    """Return where an error was raised, the innermost of our own lines."""
    root = str(PROJECT)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
    own = [f for f in frames if not f.filename.startswith(str(HERE)) and ".venv" not in f.filename]
    last = (own or frames or [None])[-1]
    where = f"{Path(last.filename).name}:{last.lineno}" if last else "?"
    return f"{type(error).__name__} at {where}"


def complaint(error: BaseException | None) -> str:
    """Return what is wrong with how a reader ended, or nothing."""
    from salience.system.errors import UserError

    if error is None:
        return ""
    cause = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"asked for too much memory: {place_of(cause)}"
        cause = cause.__cause__ or cause.__context__
    if not isinstance(error, UserError):
        return place_of(error)
    lines = str(error).splitlines()
    return (
        "" if len(lines) == 1 and len(lines[0]) < 6000 else f"{len(lines)} lines: {place_of(error)}"
    )


class Hammer:
    """Reads inputs, and notes what should not be.

    Args:
        reader: a row of the table.
        room: an empty folder.
        kept: where the inputs of findings go.
    """

    def __init__(self, reader, room: Path, kept: Path) -> None:
        self.reader, self.room, self.kept = reader, room, kept
        self.findings: Counter[str] = Counter()
        self.inputs = self.refused = 0
        self.slowest = 0.0
        self.start = self.peak = memory()

    def __call__(self, data: bytes) -> None:
        """Read one input."""
        self.inputs += 1
        error, started = None, time.process_time()
        try:
            self.reader.read(data, self.room)
        except Exception as raised:
            error = raised
        taken = time.process_time() - started
        self.slowest, grown, self.peak = max(self.slowest, taken), memory() - self.peak, memory()
        found = [complaint(error)]
        if taken > SECONDS:
            found.append("more than 2 s of processor")
        if grown > self.reader.megabytes:
            found.append(f"more than {self.reader.megabytes} MB of memory")
        for what in filter(None, found):
            if not self.findings[what]:
                self.keep(what, data, error)
            self.findings[what] += 1
        self.refused += error is not None

    def keep(self, what: str, data: bytes, error: BaseException | None) -> None:
        """Tell of a finding and keep its input."""
        self.kept.mkdir(parents=True, exist_ok=True)
        path = self.kept / f"finding-{len(self.findings)}"
        path.write_bytes(data)
        print(f"FINDING {what} -> {path}", flush=True)
        if error is not None:
            print("".join(traceback.format_exception(error)[-30:]), flush=True)

    def told(self) -> str:
        """Return what was done, in a line."""
        return (
            f"{self.inputs} inputs, {self.refused} refused, {len(self.findings)} findings; slowest"
            f" {1000 * self.slowest:.0f} ms, memory {self.start} MB + {self.peak - self.start}"
        )


def memory() -> int:
    """Return the most that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Read the inputs that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--input", type=Path, help="read this one alone")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    warnings.simplefilter("ignore")

    os.environ["OPENCV_LOG_LEVEL"] = "OFF"
    import atheris

    with atheris.instrument_imports(include=[*OURS, *THEIRS]):
        from readers import READERS, a_room
    reader, kept = READERS[asked.reader], asked.kept / asked.reader
    kept.mkdir(parents=True, exist_ok=True)
    with a_room() as room:
        hammer = Hammer(reader, room, kept)
        if asked.input:
            hammer(asked.input.read_bytes())
            print(hammer.told())
            sys.exit(bool(hammer.findings))
        corpus = room.parent / f"{room.name}-corpus"
        corpus.mkdir()
        seeds = reader.seeds()
        for i, seed in enumerate(seeds):
            (corpus / f"seed{i}").write_bytes(seed)

        def next_input(data: bytes, most: int, number: int) -> bytes:
            return reader.make(data, random.Random(number), seeds)[:most]

        started = time.monotonic()

        def read(data: bytes) -> None:
            hammer(data)
            if hammer.inputs >= asked.inputs:  # here, as libFuzzer's own end is the process's
                print(
                    f"{asked.reader}: {hammer.told()}, {time.monotonic() - started:.0f} s",
                    flush=True,
                )
                for what, count in hammer.findings.most_common():
                    print(f"  {count} x {what}", flush=True)
                shutil.rmtree(corpus), shutil.rmtree(room)
                os._exit(bool(hammer.findings))

        words = [
            sys.argv[0],
            str(corpus),
            f"-seed={asked.seed}",
            f"-timeout={HANGS}",
            f"-artifact_prefix={kept}/",
            *("-max_len=65536", "-mutate_depth=1", "-rss_limit_mb=4096", "-reload=0"),
            *("-detect_leaks=0", "-print_final_stats=0", "-verbosity=0"),
        ]
        atheris.Setup(words, read, custom_mutator=next_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
