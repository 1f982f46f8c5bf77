import dataclasses

import pytest
from flag_parser import parse

import main
from commands.settings import EvaluateConfig
from config import Config, PredictConfig
from salience.system.flags import Parser, add_flags


@pytest.mark.parametrize("text", ["False", "false", "0", "no", "NO"])
def test_false_is_false_however_it_is_spelt(text):
    assert parse("--freeze_backbone", text) == {"freeze_backbone": False}
    assert parse(f"--freeze-backbone={text}") == {"freeze_backbone": False}


@pytest.mark.parametrize("text", ["True", "true", "1", "yes"])
def test_true_is_true_however_it_is_spelt(text):
    assert parse("--freeze-backbone", text) == {"freeze_backbone": True}


def test_a_bare_flag_is_true_and_leaves_the_next_word_alone():
    parser = Parser(prog="main.py")
    parser.add_argument("images", nargs="*")
    add_flags(parser, PredictConfig)
    for words in (
        ["--overlay", "a", "b"],
        ["a", "b", "--overlay"],
        ["--overlay", "True", "a", "b"],
    ):
        parsed = vars(parser.parse_args(words))
        assert parsed == {"images": ["a", "b"], "overlay": True}


def test_every_field_has_a_flag_and_a_help():
    for settings in (Config, PredictConfig, EvaluateConfig):
        parser = Parser(prog="main.py")
        add_flags(parser, settings)
        actions = {action.dest: action for action in parser._actions}
        for field in dataclasses.fields(settings):
            assert actions[field.name].help


def test_a_mistyped_flag_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as left:
        parse("--learning-rat", "1")
    assert left.value.code == 2
    assert "Did you mean '--learning_rate'?" in capsys.readouterr().err


def test_a_choice_of_another_flag_is_not_suggested(capsys):
    with pytest.raises(SystemExit):
        main.main(["test", "a.jpg", "--colormap", "nope"])  # near to none, a choice of --maps
    assert "Did you mean" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["test", "a.jpg", "--colormap", "virids"])
    assert "Did you mean 'viridis'?" in capsys.readouterr().err
