"""The command line: a table of commands, parsing, dispatch and exit codes.

Slow imports, such as Keras, happen inside a command, so that `--help` is quick.
"""

import os
import signal

if __name__ == "__main__":  # before the other imports, since a signal may arrive during them
    for _name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        _number = getattr(signal, _name, None)  # Windows has the first two
        if _number is not None and signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))

import errno
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from commands.settings import (
    AdaptConfig,
    CalibrateConfig,
    CheckConfig,
    CompareConfig,
    ConvertConfig,
    DataExportConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    ExportMapsConfig,
    ImportConfig,
    PrepareConfig,
    ProbeConfig,
    RegionsConfig,
    SubsetConfig,
    WeightsConfig,
)
from config import PredictConfig, TrainConfig
from salience.system.code_digest import OURS
from salience.system.errors import Interrupted, StorageError, UserError
from salience.system.files import MISNAMED, how_to_install, refused
from salience.system.flags import Checked, Parser, add_flags
from salience.system.quiet import keras_started
from salience.system.signals import as_interrupts
from salience.system.terminal import PROGRAM, drop_output, open_closed_streams, tell

EXIT_PARTIAL, EXIT_USER_ERROR = 1, 2
# errors of the storage or of its limits, which can happen at any read or write: no defect of ours
STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV,
                  errno.EMFILE, errno.ENFILE, errno.EFBIG)  # fmt: skip
EXIT_CODES = (
    "Exit codes: 0 success; 1 partial success (an unreadable picture is left out), or an error of "
    "the storage (full, read-only, gone); 2 a usage error; 75 training was stopped by a signal "
    "after a checkpoint, and the same command resumes it; 130 interrupted."
)


@contextmanager
def keras(settings: Checked) -> Iterator[None]:
    """Check that the named files exist, then import Keras, which takes seconds."""
    with checked(settings), keras_started(tell):
        yield


def checked(settings: Checked) -> AbstractContextManager:
    """Check that the named files exist; a command imports Keras itself if its engine is Keras."""
    from commands.preflight import check_inputs  # here, since `--help` must be quick

    check_inputs(settings)
    return nullcontext()


@dataclass(frozen=True)
class Command:
    """A command; the docstring of its settings is its help.

    Attributes:
        settings: dataclass of its settings; `from_flags` makes them.
        run: module:function that takes the settings and returns True if everything was done, False
            if only a part.
        example: arguments for the example of the help.
        around: context manager that is entered before the function's module is imported.
        many_at_once: whether several pictures are processed in parallel, so that NumPy's matrix
            products run on one thread each.
    """

    settings: type[Checked]
    run: str
    example: str
    around: Callable[[Any], AbstractContextManager] = nullcontext
    many_at_once: bool = False


COMMANDS = {
    "train": Command(
        TrainConfig,
        "commands.evaluation.strategies:run",
        "train --freeze_backbone True --dataset osie --data PATH --output runs/frozen",
    ),
    "test": Command(
        PredictConfig,
        "commands.prediction.predict:run",
        "test images/ --overlay",
        many_at_once=True,
    ),
    "regions": Command(
        RegionsConfig,
        "commands.regions.regions:run",
        "regions images/ --regions regions.csv",
        many_at_once=True,
    ),
    "demo": Command(DemoConfig, "commands.demo.server:run", "demo --browser", many_at_once=True),
    "evaluate": Command(
        EvaluateConfig,
        "commands.evaluation.evaluate:run",
        "evaluate --dataset osie --data PATH --split test --output eval/",
        checked,
        many_at_once=True,
    ),
    "compare": Command(
        CompareConfig,
        "commands.evaluation.compare:run",
        "compare runs/frozen runs/finetuned --split test",
        checked,
        many_at_once=True,
    ),
    "probe": Command(
        ProbeConfig,
        "commands.evaluation.probe:run",
        "probe --backbone vgg16 --dataset osie --data PATH --output probe/",
        keras,
    ),
    "adapt": Command(
        AdaptConfig,
        "commands.evaluation.adapt:run",
        "adapt --dataset folder --data PATH --n 50 --weights FILE",
        checked,
    ),
    "calibrate": Command(
        CalibrateConfig,
        "commands.prediction.calibrate:run",
        "calibrate --dataset osie --data PATH --weights FILE",
        keras,
    ),
    "export": Command(
        ExportConfig,
        "commands.web.folder:run",
        "export --output exports/mlnet.xml",
        keras,
    ),
    "export-maps": Command(
        ExportMapsConfig,
        "commands.evaluation.submission:run",
        "export-maps --format mit300 --data PATH --output submission/",
        many_at_once=True,
    ),
    "convert": Command(
        ConvertConfig,
        "commands.prediction.convert:run",
        "convert mlnet_salicon_weights.pkl weights/mlnet-2016.weights.h5",
        keras,
    ),
    "weights": Command(WeightsConfig, "commands.curation.weights:run", "weights"),
    "data check": Command(
        CheckConfig, "commands.curation.check:check", "data check --dataset salicon --data PATH"
    ),
    "data prepare": Command(
        PrepareConfig,
        "commands.curation.prepare:run",
        "data prepare --dataset osie --data PATH --rows 240 --cols 320 --output stores/osie",
        keras,
    ),
    "data import": Command(
        ImportConfig,
        "commands.curation.importing:run",
        "data import --format eyelink report.txt --images shown/ --screen 1920x1080 --output mine",
    ),
    "data export": Command(
        DataExportConfig,
        "commands.curation.exporting:run",
        "data export --format pysaliency --dataset osie --data PATH --output exported/osie",
    ),
    "data subset": Command(
        SubsetConfig,
        "commands.curation.subset:run",
        "data subset --dataset osie --data PATH --n 100 --seed 42 --output small/osie",
    ),
}
# help of command groups, by the first word of their commands
GROUPS = {"data": "check, prepare, subset, import and export data sets"}


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog=PROGRAM,
        description="Salience: train, run and score networks that predict where people look in a "
        "picture.",
        epilog=f"Each command has its own help: {PROGRAM} train --help. {EXIT_CODES}",
    )
    places = {"": top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)}
    for name, row in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        if group not in places:
            epilog = f"Each action has its own help: {PROGRAM} {name} --help"
            line = GROUPS[group]
            about = places[""].add_parser(
                group, help=line, description=f"{line[0].upper()}{line[1:]}.", epilog=epilog
            )
            places[group] = about.add_subparsers(
                required=True, metavar="ACTION", parser_class=Parser
            )
        example = f"example: {PROGRAM} {row.example}"
        line, _, description = (inspect.getdoc(row.settings) or " ").partition("\n\n")
        one = places[group].add_parser(
            word,
            help=line[0].lower() + line[1:].rstrip("."),
            description=description,
            epilog=example,
        )
        add_flags(one, row.settings)
        one.set_defaults(command=name)
    return top


def dispatch(flags: dict[str, Any]) -> bool:
    """Run a parsed command; return True if everything was done, False if only a part."""
    row = COMMANDS[flags.pop("command")]
    if row.many_at_once:  # before NumPy is imported: OpenBLAS reads it then
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if flags.get("data"):
        from commands.preflight import check_data

        check_data(flags)
    settings = row.settings.from_flags(flags)
    module, _, function = row.run.partition(":")
    with row.around(settings):
        return getattr(importlib.import_module(module), function)(settings)


def main(words: list[str] | None = None) -> int:
    """Run the program; return its exit code, see `EXIT_CODES`."""
    open_closed_streams()
    # OpenCV reads this on import: for a bad picture, our message replaces its own
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    if isinstance(sys.stdout, io.TextIOWrapper):  # the terminal may not encode every file name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with as_interrupts():
            done = dispatch(vars(parser().parse_args(words)))
            sys.stdout.flush()  # here, where an error can still be reported
        return 0 if done else EXIT_PARTIAL
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise  # a defect
        activate = "activate the environment (source .venv/bin/activate), or "
        remedy = how_to_install("train", f"{activate}pip install -r requirements.txt")
        print(
            f"error: the package {error.name} is not installed in {sys.executable}: {remedy}.",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of standard output has closed it, as `| head` does
        drop_output()
        return EXIT_PARTIAL
    except OSError as error:
        if error.errno in MISNAMED and error.filename:
            print(
                f"error: {refused(f'Cannot use {error.filename}', error, 'name another')}",
                file=sys.stderr,
            )
            return EXIT_USER_ERROR
        if error.errno not in STORAGE_ERRNOS:
            raise  # a defect
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        what = error.filename or "standard output, or a file"
        print(f"error: {refused(f'Cannot write {what}', error)}", file=sys.stderr)
        return StorageError.exit_code


if __name__ == "__main__":
    sys.exit(main())
