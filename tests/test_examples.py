"""The scripts of `examples/`: what `make demo` and `make weights` run."""

import importlib.util
import json
from pathlib import Path

import pytest
from conftest import PROJECT

import main
import weight_files
from config import resolve
from model import load_model
from pictures import read_image


def script(name):
    """Return a script of the folder as a module."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_photographs_are_written_in_their_colours(tmp_path):
    script("write_photographs").main(tmp_path)
    assert len(list(tmp_path.glob("*.jpg"))) == 4
    rocket = read_image(tmp_path / "rocket.jpg")
    assert rocket.shape == (427, 640, 3)
    assert rocket[5, 5, 0] > rocket[5, 5, 2] + 30  # the sky is blue, the first channel


def test_stages_of_the_weights_in_the_box_are_trainings_that_fit_together():
    stages = script("train_weights").STAGES
    configs = []
    for words in stages.values():
        flags = vars(main.parser().parse_args(["train", *words]))
        configs.append(resolve({k: v for k, v in flags.items() if k not in main.NO_FIELDS}))
    head, blocks = configs
    assert (head.freeze_backbone, blocks.freeze_backbone) == (True, False)
    # the weights of one are the start of the other: the prior's shape is that of both
    assert [n // 8 // 10 for n in head.input_shape] == [n // 8 // 10 for n in blocks.input_shape]
    assert "osie" in blocks.dataset and blocks.split_seed == head.split_seed


def test_their_card_tells_how_they_came_about_and_no_paths(trained, tmp_path):
    examples = script("train_weights")
    output = tmp_path / "mlnet-osie.weights.h5"
    examples.save(trained, output, {"rows": [{"name": "x"}]})
    card = weight_files.read_card(output)
    assert card == json.loads((tmp_path / "mlnet-osie.json").read_text())
    assert set(examples.ABOUT) < set(card)
    assert [line.split()[:2] for line in card["trained"]] == [["main.py", "train"]] * 2
    assert str(Path(trained).parent) not in json.dumps(card)
    assert load_model(output).count_params() == load_model(trained).count_params()


def test_a_stage_that_fails_ends_the_script(monkeypatch):
    examples = script("train_weights")
    with pytest.raises(SystemExit) as ended:
        examples.call("train", "--dataset", "osie", "--data", "nowhere")
    assert ended.value.code == 2
