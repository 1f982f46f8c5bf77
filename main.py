"""The command line: parse, dispatch, print the outcome. Networks are imported inside a command."""

import argparse
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

from commands.settings import (
    AdaptConfig,
    CheckConfig,
    CompareConfig,
    ConvertConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    ExportMapsConfig,
    PrepareConfig,
    ProbeConfig,
    SubsetConfig,
    preparation,
)
from commands.training.hosts import choose_engine
from config import STRATEGIES, TRUTH_FIELDS, Config, PredictConfig, resolve
from salience.system.errors import Interrupted, StorageError, UserError
from salience.system.files import refused
from salience.system.flags import Parser, add_flags
from salience.system.quiet import import_keras

OURS = ("commands", "salience", "config", "model", "utilities", "eltwise_product")
EXIT_PARTIAL, EXIT_USER_ERROR = 1, 2
# what can happen at any time, wherever something is read or written, and is no defect of ours
SICK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV,
        errno.EMFILE, errno.ENFILE, errno.EFBIG)  # fmt: skip
EXIT_CODES = (
    "Exit codes: 0 all was done; 1 part of it (a picture that cannot be read is left out), or the "
    "disk refused (full, read-only, gone), which one line says; 2 a mistake in what was asked for; "
    "75 a signal ended a training in good order, and the same command goes on; 130 interrupted."
)
# what the parser finds besides the fields of a settings dataclass
NO_FIELDS = ("command", "action", "config", "images", "runs", "strategies", "seeds", "old", "new")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = Parser(
        prog="main.py",
        description="Train, run and score networks that predict where people look in a picture.",
        epilog=f"Each command has its own help: main.py train --help. {EXIT_CODES}",
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )

    train = commands.add_parser(
        "train",
        help="train a network, frozen or fine-tuned",
        description="Train a network on a data set; the best weights also go to weights/.",
        epilog="example: main.py train --freeze_backbone True --dataset osie --data PATH "
        "--rows 240 --cols 320 --output runs/frozen",
    )
    add_flags(train, Config)
    train.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings that an earlier run wrote (config.json); flags win over them",
    )

    train.add_argument(
        "--strategies",
        nargs="+",
        choices=STRATEGIES,
        metavar="STRATEGY",
        help="train these arms one after the other and compare them on the test split: "
        + ", ".join(STRATEGIES),
    )
    train.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="INT",
        help="with --strategies: train every arm with each of these seeds (default: --seed)",
    )

    test = commands.add_parser(
        "test",
        help="write saliency maps of pictures and videos",
        description="Write one 8-bit PNG saliency map a picture, at the picture's own size; of a "
        "video that is named, an overlay and the maps of its frames.",
        epilog="example: main.py test images/ --overlay",
    )
    test.add_argument(
        "images", nargs="*", help="a folder, a picture, a video, or a glob such as 'a/*.jpg'"
    )
    add_flags(test, PredictConfig)

    demo = commands.add_parser(
        "demo",
        help="look at maps of your own pictures on a local web page",
        description="Serve a web page to this machine alone: drop, paste or snap a picture and see "
        "where people would look. Ctrl-C ends it.",
        epilog="example: main.py demo --browser",
    )
    add_flags(demo, DemoConfig)

    evaluate = commands.add_parser(
        "evaluate",
        help="score a model, or maps made elsewhere, on a split of a data set",
        description="Score a model, or a folder of saliency maps, beside the centre bias, a "
        "uniform map and the human observers.",
        epilog="example: main.py evaluate --dataset osie --data PATH --split test --output eval/",
    )
    trained = "that of the model's training"
    add_flags(evaluate, EvaluateConfig, dict.fromkeys(["dataset", "data", *TRUTH_FIELDS], trained))

    compare = commands.add_parser(
        "compare",
        help="compare trained runs on the same pictures",
        description="Score runs on the same pictures, test what differs, and write a page to look "
        "at. The data set is the first run's unless named.",
        epilog="example: main.py compare runs/frozen runs/finetuned --split test",
    )
    compare.add_argument("runs", nargs="+", type=Path, help="run folders that train wrote")
    own = "that of the first run"
    add_flags(compare, CompareConfig, dict.fromkeys(["dataset", "data", *TRUTH_FIELDS], own))

    probe = commands.add_parser(
        "probe",
        help="ask how well each stage of a frozen network aligns with human attention",
        description="Solve linear read-outs of every stage of a frozen network exactly, in one "
        "pass over the training pictures, and score them beside the references.",
        epilog="example: main.py probe --backbone vgg16 --dataset osie --data PATH --output probe/",
    )
    add_flags(probe, ProbeConfig)

    adapt = commands.add_parser(
        "adapt",
        help="fit a data set's bias to a network's maps on a few pictures",
        description="Fit contrast, blur and centre bias of a data set to a network's maps on a few "
        "of its pictures; the network stays as it is. The file lies beside the weights, and "
        "--adaptation of test and evaluate uses it.",
        epilog="example: main.py adapt --dataset folder --data PATH --n 50 --weights FILE",
    )
    add_flags(adapt, AdaptConfig, dict.fromkeys(["dataset", "data", *TRUTH_FIELDS], trained))

    export = commands.add_parser(
        "export",
        help="write a trained network as ONNX, OpenVINO, LiteRT or SavedModel",
        description="Convert a trained network to a format that runs without this program, check "
        "it against Keras, and say beside it, as JSON, how pictures go in and maps come out.",
        epilog="example: main.py export --format onnx --output exports/mlnet.onnx",
    )
    add_flags(export, ExportConfig)

    export_maps = commands.add_parser(
        "export-maps",
        help="write the maps of a benchmark's test pictures as it asks for them",
        description="Predict the pictures of a benchmark that keeps their truth, and write the one "
        "archive that it asks for. The archive is read again and checked.",
        epilog="example: main.py export-maps --format mit300 --data PATH --output submission/",
    )
    add_flags(export_maps, ExportMapsConfig)

    convert = commands.add_parser(
        "convert",
        help="make weights of Keras 1 or 2 this program's, the ML-Net of 2016 among them",
        description="Read an ML-Net that Keras 1 or 2 wrote (mlnet_salicon_weights.pkl of 2016, "
        "say) and write it as a .weights.h5; or the VGG16 in groups layer_N (vgg16_weights.h5) as "
        "an .h5 for --backbone_weights.",
        epilog="example: main.py convert mlnet_salicon_weights.pkl weights/mlnet-2016.weights.h5",
    )
    convert.add_argument("old", type=Path, metavar="OLD", help="the file to convert")
    convert.add_argument("new", type=Path, metavar="NEW", help="the file to write")
    add_flags(convert, ConvertConfig)

    data = commands.add_parser(
        "data",
        help="look after data sets: check, prepare, subset",
        description="Look after the data sets on disk.",
        epilog="Each action has its own help: main.py data check --help",
    )
    actions = data.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=Parser
    )
    check = actions.add_parser(
        "check",
        help="say what is there, what is missing and what is wrong",
        description="Read all files of a data set and say what is there, what is missing and what "
        "does not fit together. The exit code is 0 where all is well, 1 where something is missing "
        "or wrong, and 2 for bad input.",
        epilog="example: main.py data check --dataset salicon --data PATH",
    )
    add_flags(check, CheckConfig)
    prepare = actions.add_parser(
        "prepare",
        help="resize the pictures and make their density maps once",
        description="Pack resized pictures and density maps into a store, which --data takes in "
        "place of the data set's folder. What was interrupted goes on where it stopped; over a "
        "finished store, all checksums are verified, and what is damaged is made again.",
        epilog="example: main.py data prepare --dataset osie --data PATH --rows 240 --cols 320 "
        "--output stores/osie",
    )
    add_flags(prepare, PrepareConfig)
    subset = actions.add_parser(
        "subset",
        help="draw a small working copy",
        description="Copy some pictures of each split, with all that is known of them, to a folder "
        "that --dataset folder reads.",
        epilog="example: main.py data subset --dataset osie --data PATH --n 100 --seed 42 "
        "--output small/osie",
    )
    add_flags(subset, SubsetConfig)
    return top


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command and return the exit code."""
    flags = {name: value for name, value in vars(arguments).items() if name not in NO_FIELDS}
    return COMMANDS[arguments.command](arguments, flags)


def run_train(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Train one run, or the arms of `--strategies`."""
    config = resolve(flags, arguments.config)
    if arguments.seeds and not arguments.strategies:
        raise UserError("--seeds goes with --strategies; for one run there is --seed.")
    if arguments.strategies and "freeze_backbone" in flags:
        raise UserError("--strategies sets --freeze_backbone of each arm: leave one of them away.")
    if arguments.strategies:
        from commands.evaluation.strategies import run_strategies

        done = run_strategies(config, arguments.strategies, arguments.seeds or [config.seed])
        return EXIT_PARTIAL if done["left_out"] else 0
    choose_engine(config.devices, config.cluster)
    import_keras()
    from commands.training.train import train

    train(config)
    return 0


def run_test(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Write saliency maps; some pictures may fail."""
    settings = PredictConfig(**flags)
    if not arguments.images and not settings.listed:
        raise UserError("No pictures: name a folder, a picture or a glob, or a file with --list.")
    one_thread_a_product()
    from commands.prediction.predict import predict

    return EXIT_PARTIAL if predict(arguments.images, settings) else 0


def run_demo(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Serve the local page until a signal ends it."""
    settings = DemoConfig(**flags)
    one_thread_a_product()
    from commands.demo.server import demo

    demo(settings)
    return 0


def one_thread_a_product() -> None:
    """Keep NumPy's matrix products, which are small here, from waiting on threads of their own.

    Several pictures are worked on at a time. It is heard before NumPy is imported.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def run_evaluate(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Score a model or maps; some pictures may have no map."""
    if not flags.get("maps"):  # maps made elsewhere are scored without a network
        import_keras()
    from commands.evaluation.evaluate import evaluate, settings_of

    return EXIT_PARTIAL if evaluate(settings_of(flags)).left_out else 0


def run_compare(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Compare runs."""
    import_keras()
    from commands.evaluation.compare import compare

    return EXIT_PARTIAL if compare(arguments.runs, flags)["left_out"] else 0


def run_probe(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Probe the stages of frozen networks."""
    settings = ProbeConfig(**flags)
    import_keras()
    from commands.evaluation.probe import probe

    return EXIT_PARTIAL if probe(settings)["left_out"] else 0


def run_adapt(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Fit a data set's bias; some pictures may have no score."""
    import_keras()
    from commands.evaluation.adapt import adapt, settings_of

    return EXIT_PARTIAL if adapt(settings_of(flags))["left_out"] else 0


def run_export(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Write a network in another format."""
    settings = ExportConfig(**flags)
    import_keras()
    from commands.prediction.export import export

    export(settings)
    return 0


def run_export_maps(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Write or check a submission; something may be wrong with it."""
    settings = ExportMapsConfig(**flags)
    one_thread_a_product()
    from commands.evaluation.submission import export_maps

    return EXIT_PARTIAL if export_maps(settings) else 0


def run_convert(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Convert a weights file."""
    settings = ConvertConfig(**flags)
    import_keras()
    from commands.prediction.convert import convert

    convert(arguments.old, arguments.new, settings)
    return 0


def run_data(arguments: argparse.Namespace, flags: dict[str, Any]) -> int:
    """Carry out an action on a data set."""
    return DATA_ACTIONS[arguments.action](flags)


def run_data_check(flags: dict[str, Any]) -> int:
    """Check a data set; something may be missing or wrong."""
    from commands.curation.check import check

    return 0 if check(CheckConfig(**flags)) else EXIT_PARTIAL


def run_data_prepare(flags: dict[str, Any]) -> int:
    """Prepare a data set for training."""
    settings = preparation(flags)
    import_keras()
    from commands.curation.prepare import prepare

    prepare(settings)
    return 0


def run_data_subset(flags: dict[str, Any]) -> int:
    """Draw a working copy."""
    from commands.curation.subset import subset

    subset(SubsetConfig(**flags))
    return 0


DATA_ACTIONS = {
    "check": run_data_check,
    "prepare": run_data_prepare,
    "subset": run_data_subset,
}
COMMANDS = {
    "train": run_train,
    "test": run_test,
    "demo": run_demo,
    "evaluate": run_evaluate,
    "compare": run_compare,
    "probe": run_probe,
    "adapt": run_adapt,
    "export": run_export,
    "export-maps": run_export_maps,
    "convert": run_convert,
    "data": run_data,
}


def main(words: list[str] | None = None) -> int:
    """Run the program; return its exit code, see `EXIT_CODES`."""
    open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the letters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = run(parser().parse_args(words))
        sys.stdout.flush()  # here, where it can be told that it fails
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise  # a defect
        print(
            f"error: the package {error.name} is not installed in {sys.executable}. Activate the "
            "environment (source .venv/bin/activate), or pip install -r requirements.txt.",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what reads our words has gone, as `| head` does
        drop_output()
        return EXIT_PARTIAL
    except OSError as error:
        if error.errno not in SICK:
            raise  # a defect
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        what = error.filename or "standard output, or a file"
        print(f"error: {refused(f'Cannot write {what}', error)}", file=sys.stderr)
        return StorageError.exit_code


def open_closed_streams() -> None:
    """Open what the caller has closed of the standard streams (`>&-`), to nowhere.

    Else the next file that is opened takes its number, and gets what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def drop_output() -> None:
    """Send to nowhere what is still to be printed, which Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
