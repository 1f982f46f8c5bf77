"""Flags as a command line has them, for tests."""

from config import Config
from salience.system.flags import Parser, add_flags


def parse(*words, settings=Config):
    parser = Parser(prog="main.py")
    add_flags(parser, settings)
    return vars(parser.parse_args(words))
