"""The table of commands: one contract over all of its rows."""

import ast
import importlib
import inspect
import typing

import pytest
from conftest import PROJECT

from config import SHARED
from main import COMMANDS, parser
from salience.system.flags import Checked


@pytest.mark.parametrize("name", COMMANDS)
def test_a_row_names_a_function_from_its_settings_to_whether_all_was_done(name):
    row = COMMANDS[name]
    module, _, function = row.run.partition(":")
    types = typing.get_type_hints(getattr(importlib.import_module(module), function))
    assert issubclass(row.settings, types["settings"]) and issubclass(row.settings, Checked)
    assert types["return"] is bool


@pytest.mark.parametrize("name", COMMANDS)
def test_the_docstring_of_its_settings_is_its_help_and_its_example_parses(name, capsys):
    row = COMMANDS[name]
    line, _, description = (inspect.getdoc(row.settings) or "").partition("\n\n")
    assert line[0].isupper() and line.endswith(".") and len(line) < 80
    with pytest.raises(SystemExit):
        parser().parse_args([*name.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(description.split()) in shown
    assert f"example: main.py {row.example}" in shown
    flags = vars(parser().parse_args(row.example.split()))
    assert flags.pop("command") == name
    if "--data" not in row.example and name != "compare":  # those look for what they name
        assert row.settings.from_flags(flags)


def test_a_field_of_several_commands_is_declared_once():
    for file in ("config.py", "commands/settings.py"):
        for node in ast.walk(ast.parse((PROJECT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
                assert isinstance(node.target, ast.Name) and isinstance(node.value.func, ast.Name)
                if node.target.id in SHARED:
                    assert node.value.func.id == "shared", (file, node.target.id)
