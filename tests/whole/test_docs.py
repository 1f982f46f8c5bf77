"""What the documents name is there."""

import re
import shlex

import pytest
from conftest import PROJECT

TABLE = (PROJECT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`pytest ([^`]+)`", TABLE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_table_of_faults_finds_tests(command):
    words = shlex.split(command)
    chosen = words[words.index("-k") + 1] if "-k" in words else ""
    files = [word for word in words if word.startswith("tests/")]
    assert files
    text = "".join((PROJECT / file).read_text(encoding="utf-8") for file in files)
    named = "\n".join(re.findall(r"def test_\w+", text))
    for part in re.findall(r"\w+", chosen):
        assert part in ("or", "and", "not") or part in named, part


def test_the_page_on_predicting_names_every_flag_and_every_output():
    import dataclasses

    from commands.prediction.inputs import ENDINGS
    from config import PredictConfig

    page = (PROJECT / "docs" / "PREDICTING.md").read_text(encoding="utf-8")
    flags = [f for f in dataclasses.fields(PredictConfig) if not f.metadata["words"]]
    for field in flags:
        assert re.search(rf"`--{field.metadata['flag'] or field.name}\b", page), field.name
    for ending in ENDINGS.values():
        assert f"`NAME{ending}`" in page
