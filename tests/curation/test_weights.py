"""`weights`: the list of what is there, and the pin."""

from pathlib import Path

import pytest

from commands.curation.weights import weights
from commands.settings import WeightsConfig
from model import load_model
from salience.networks import weight_files
from salience.system.errors import UserError


@pytest.fixture
def folder(tmp_path, trained):
    """Return a folder with weights of two data sets, the older of which scored better."""
    model, card = load_model(trained), weight_files.read_card(trained)
    (tmp_path / "weights").mkdir()
    for name, date, cc in (("cat2000", "2026-01-02", 0.9), ("osie", "2026-03-04", 0.4)):
        about = {"dataset": name, "date": f"{date}T00:00:00+00:00", "metrics": {"val_cc": cc}}
        path = tmp_path / "weights" / f"mlnet-frozen-{name}.weights.h5"
        weight_files.save(model, path, {**card, **about})
    return tmp_path / "weights"


def listed(folder, **changes):
    lines = []
    return weights(WeightsConfig(weights_dir=folder, **changes), lines.append).name, lines


def test_the_list_says_what_is_there_which_serve_and_why(folder):
    name, lines = listed(folder)
    assert name == "mlnet-frozen-osie.weights.h5"
    table = lines[0].splitlines()
    assert table[1].split()[:5] == ["mlnet-frozen-cat2000", "mlnet", "cat2000", "2026-01-02",
                                    "0.900"]  # fmt: skip
    assert table[2].split()[:2] == ["*", "mlnet-frozen-osie"]
    assert lines[1] == "* default without --weights: your newest weights"


def test_a_pin_serves_until_it_is_taken_away(folder):
    assert listed(folder, use="mlnet-frozen-cat2000")[0] == "mlnet-frozen-cat2000.weights.h5"
    name, lines = listed(folder)
    assert name == "mlnet-frozen-cat2000.weights.h5"
    assert lines[1].endswith("pinned")
    said = []
    assert weight_files.choose(None, folder, said.append).name == name
    assert "pins them" in said[0]
    assert listed(folder, use="newest")[0] == "mlnet-frozen-osie.weights.h5"


def test_a_name_that_is_not_there_pins_nothing(folder, tmp_path):
    with pytest.raises(UserError, match=r"no such weights\. Did you mean 'mlnet-frozen-osie'"):
        listed(folder, use="mlnet-frozen-osi")
    assert not (folder / weight_files.PIN).exists()
    with pytest.raises(UserError, match="No trained weights in"):
        listed(tmp_path / "nowhere")


def test_the_list_shows_size_licence_and_the_scores_on_each_set(folder):
    path = folder / "mlnet-frozen-osie.weights.h5"
    scores = {"split": "test", "pictures": 199, "cc": 0.8112, "nss": 3.5, "ig": None}
    licences = {"OSIE": "MIT", "these weights": "as the program"}
    by_set = {"osie": scores, "odd": 3, "eyecrowd": scores | {"set": "eyecrowd"}}
    fields = {weight_files.SCORES_ON: by_set, "licences": licences}
    weight_files.amend(path, fields)
    _, lines = listed(folder)
    last = lines[0].split("\n\n")[-1].splitlines()  # of the blocks that fit 100 columns
    assert last[1].endswith("yours, under the terms of the data")
    assert last[2].endswith("as the program")
    assert f"{path.stat().st_size / 1e6:.1f} MB" in lines[0]
    assert lines[1] == "mlnet-frozen-osie on osie (test split, 199 pictures): CC 0.811, NSS 3.500"
    assert "on eyecrowd (test split, 199 pictures, --set eyecrowd): CC 0.811" in lines[2]
    assert lines[3].startswith("* default without --weights")


def test_a_name_that_is_not_there_lists_the_others(folder):
    with pytest.raises(UserError, match="Choose from mlnet-frozen-cat2000, mlnet-frozen-osie"):
        weight_files.named(Path("deepgaze"), folder)
