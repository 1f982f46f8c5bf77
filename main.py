"""The command line: parse, dispatch, print the outcome. Networks are imported inside a command."""

import argparse
import sys
from pathlib import Path

from config import Config, EvaluateConfig, Parser, PredictConfig, add_flags, resolve
from errors import UserError
from quiet import hushed

EXIT_PARTIAL, EXIT_USER_ERROR = 1, 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = Parser(
        prog="main.py",
        description="Train, run and score networks that predict where people look in a picture.",
        epilog="Each command has its own help: main.py train --help",
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

    test = commands.add_parser(
        "test",
        help="write saliency maps of pictures",
        description="Write one 8-bit PNG saliency map a picture, at the picture's own size.",
        epilog="example: main.py test images/ --overlay",
    )
    test.add_argument("images", nargs="+", help="a folder, a picture, or a glob such as 'a/*.jpg'")
    add_flags(test, PredictConfig)

    evaluate = commands.add_parser(
        "evaluate",
        help="score a model, or maps made elsewhere, on a split of a data set",
        description="Score a model, or a folder of saliency maps, beside the centre bias, a "
        "uniform map and the human observers.",
        epilog="example: main.py evaluate --dataset osie --data PATH --split test --output eval/",
    )
    add_flags(evaluate, EvaluateConfig)
    return top


def import_quietly() -> None:
    """Import Keras and its backend, which is slow, and loud by default."""
    with hushed():
        import keras  # noqa: F401


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command and return the exit code."""
    flags = {k: v for k, v in vars(arguments).items() if k not in ("command", "config", "images")}
    if arguments.command == "train":
        config = resolve(flags, arguments.config)
        import_quietly()
        from train import train

        train(config)
        return 0
    if arguments.command == "test":
        settings = PredictConfig(**flags)
        import_quietly()
        from predict import predict

        return EXIT_PARTIAL if predict(arguments.images, settings) else 0
    settings = EvaluateConfig(**flags)
    if not settings.maps:  # maps made elsewhere are scored without a network
        import_quietly()
    from evaluate import evaluate

    return EXIT_PARTIAL if evaluate(settings).left_out else 0


def main(words: list[str] | None = None) -> int:
    """Run the program; return 0, 1 where some pictures failed, or 2 for an error of the user's."""
    try:
        return run(parser().parse_args(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
