"""The table of commands: one contract over all of its rows."""

import ast
import dataclasses
import importlib
import inspect
import os
import re
import typing
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from conftest import PROJECT

from config import SHARED
from main import COMMANDS, main, parser
from salience.system import quiet
from salience.system.errors import UserError
from salience.system.flags import Checked, check_value, value_type


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


NUMBERS = {
    field.name: field
    for row in COMMANDS.values()
    for field in dataclasses.fields(row.settings)
    if value_type(field.type) in (int, float)
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds(name):
    """What no library takes is told in one line, before anything is read."""
    field = NUMBERS[name]
    kind = value_type(field.type)
    for value in (kind(-1e35), kind(1e35)):
        with pytest.raises(
            UserError, match=re.escape(f"--{field.metadata['flag'] or name} {value} is too")
        ):
            check_value(field, value)


@pytest.mark.parametrize(
    "words",
    [
        "train --dataset osie --overwrite",
        "train --dataset osie --data nosuch --overwrite",
        "train --dataset synthetic --init_weights nosuch --overwrite",
        "train --dataset synthetic --backbone_weights nosuch --overwrite",
        "evaluate --dataset osie --data nosuch",
        "evaluate --weights nosuch",
        "compare nosuch",
        "probe --dataset osie --data nosuch",
        "probe --dataset synthetic --backbone_weights nosuch",
        "adapt --weights nosuch",
        "export --weights nosuch",
        "convert nosuch new.weights.h5",
        "data prepare --dataset osie --data nosuch --output store",
    ],
)
def test_what_is_missing_is_told_before_keras_is_imported(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quiet, "start_keras", lambda: pytest.fail("Keras is imported"))
    assert main(words.split()) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


needs_gradio = pytest.mark.skipif(
    find_spec("gradio") is None and "REQUIRE_DEMO" not in os.environ,
    reason="no Gradio here: pip install --no-deps -r requirements/demo.lock",
)


@pytest.mark.parametrize(
    "words",
    [
        "train --dataset synthetic --output",
        "test picture.png --weights",
        "evaluate --dataset synthetic --maps",
        "data check --dataset folder --data",
        "compare --output x",
        pytest.param("demo --weights", marks=needs_gradio),
        "export --weights",
        "data subset --dataset folder --output x --data",
        "probe --dataset synthetic --output",
    ],
)
def test_a_name_longer_than_the_file_system_takes_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("picture.png", np.zeros((8, 8, 3), np.uint8))
    assert main([*words.split(), "x" * 300]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and "File name too long" in told
