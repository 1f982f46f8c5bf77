"""Weights files: which serve where none are named, what is refused, what a card remembers."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from model import build, load_model
from salience.networks import foreign_weights, provenance, weight_files
from salience.pictures.sample import Sample
from salience.system.errors import UserError


@pytest.fixture
def put(tmp_path, trained):
    """Return a function that writes weights with another card into a folder, and the folder."""
    model, card = load_model(trained), weight_files.read_card(trained)
    folder = tmp_path / "weights"
    folder.mkdir()

    def write(name, cc=0.5, date="2026-01-01T00:00:00+00:00", dataset="osie", to=folder, **more):
        path = to / f"{name}.weights.h5"
        about = {"metrics": {"val_cc": cc}, "date": date, "dataset": dataset, **more}
        weight_files.save(model, path, {**card, **about})
        return path

    return write, folder


def chosen(folder):
    lines = []
    return weight_files.choose(None, folder, lines.append).name, lines


def spoil(path, value):
    """Put a value into the last array of the layers of a file."""
    found = []
    with h5py.File(path, "r+") as file:
        file["layers"].visititems(
            lambda name, item: (
                found.append(item)
                if isinstance(item, h5py.Dataset) and item.dtype.kind == "f"
                else None
            )
        )
        found[-1][...] = value


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_no_finite_numbers_are_refused_where_they_are_loaded(put, value):
    path = put[0]("bad")
    spoil(path, value)
    with pytest.raises(UserError, match=r"infinite or NaN .*Get the file again"):
        load_model(path)


def test_weights_that_single_precision_cannot_hold_are_refused(put, trained):
    """1e300 is a finite number of the file, and an infinite one of the network."""
    path = put[0]("bad")
    with h5py.File(path, "r+") as file:
        names = []
        file["layers"].visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        values = np.asarray(file["layers"][names[-1]], np.float64)
        del file["layers"][names[-1]]
        file["layers"][names[-1]] = np.full_like(values, 1e300)
    with pytest.raises(UserError, match="infinite or NaN"):
        load_model(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself", "too long"])
def test_what_is_no_file_is_refused_in_a_line_and_never_waited_for(tmp_path, kind):
    path = tmp_path / "a.weights.h5"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    else:
        path = tmp_path / ("x" * 300)
    for read in (weight_files.read_card, foreign_weights.read):
        with pytest.raises(UserError, match=r"is not a file|Cannot read|not an HDF5"):
            read(path)
    if kind != "too long":
        assert weight_files.cards_in(tmp_path, lambda line: None) == {}


def test_the_newest_of_ones_own_serve_whatever_another_set_scored(put):
    write, folder = put
    write("mlnet-frozen-osie", cc=0.4, date="2026-03-01T00:00:00+00:00")
    write("mlnet-frozen-cat2000", cc=0.99, date="2026-02-01T00:00:00+02:00", dataset="cat2000")
    assert chosen(folder)[0] == "mlnet-frozen-osie.weights.h5"
    undated = write("of-others", date="no date")
    os.utime(undated, (2e9, 2e9))  # its file tells
    assert chosen(folder)[0] == "of-others.weights.h5"
    write("toy", date="2040-01-01T00:00:00+00:00", dataset="synthetic")
    assert chosen(folder)[0] == "of-others.weights.h5"


def test_where_the_box_does_better_a_line_says_so_with_both_figures(put, monkeypatch, tmp_path):
    write, folder = put
    (tmp_path / "box").mkdir()
    box = write("mlnet-box", cc=0.8, to=tmp_path / "box")
    monkeypatch.setattr(weight_files, "SHIPPED", box)
    write("mine", cc=0.4, box={"val_cc": 0.79, "pictures": 26})
    name, lines = chosen(folder)
    assert name == "mine.weights.h5"
    assert lines[-1] == (
        "the included network does better: on the same 26 validation pictures it has CC 0.790, "
        f"these weights CC 0.400; choose it with --weights {box}"
    )
    write("mine", cc=0.8, box={"val_cc": 0.79, "pictures": 26})
    assert len(chosen(folder)[1]) == 1
    for odd in ({"val_cc": float("nan")}, {"val_cc": "high"}, {"val_cc": 10**400}, "text", {}):
        write("mine", cc=0.4, box=odd)
        assert len(chosen(folder)[1]) == 1


@pytest.mark.parametrize(("nss", "is_better"), [(3.047, True), (3.335, False)])
def test_the_box_is_better_only_if_it_is_in_all_metrics(nss, is_better, trained, monkeypatch):
    monkeypatch.setattr(weight_files, "SHIPPED", trained)
    card = {
        "metrics": {"val_cc": 0.782, "val_nss": nss},
        "box": {"val_cc": 0.792, "val_nss": 3.147, "val_auc_judd": 0.914, "pictures": 50},
    }
    line = weight_files.included_is_better(card)
    assert bool(line) == is_better
    said = "it has CC 0.792, NSS 3.147, these weights CC 0.782, NSS 3.047; choose it"
    assert not is_better or said in line


def test_a_copy_of_an_included_file_is_not_ones_own(put, monkeypatch, tmp_path):
    """The project's folder has one, beside an installed program."""
    write, folder = put
    box = tmp_path / "box"
    box.mkdir()
    shipped = write("mlnet-osie", to=box)
    monkeypatch.setattr(weight_files, "SHIPPED", shipped)
    copy = folder / shipped.name
    copy.write_bytes(shipped.read_bytes())
    lines = []
    assert weight_files.choose(None, folder, lines.append) == shipped
    assert "using the included weights" in lines[0]
    write("mlnet-osie", cc=0.6)  # one's own, of the same name
    assert weight_files.choose(None, folder, lines.append) == copy
    copy.unlink()
    copy.symlink_to(tmp_path / "nowhere")
    assert weight_files.choose(None, folder, lines.append) == shipped


def test_of_two_included_networks_the_first_is_the_default(put, monkeypatch, tmp_path):
    write, folder = put
    (tmp_path / "box").mkdir()
    box = write("mlnet-osie", date="2026-01-01T00:00:00+00:00", to=tmp_path / "box")
    write("multiscale-osie", date="2026-02-01T00:00:00+00:00", to=tmp_path / "box")
    monkeypatch.setattr(weight_files, "SHIPPED", box)
    assert chosen(folder)[0] == "mlnet-osie.weights.h5"
    assert chosen(box.parent)[0] == "mlnet-osie.weights.h5"


def test_weights_are_named_by_their_file_or_their_name_alone(put, monkeypatch, tmp_path):
    write, folder = put
    (tmp_path / "box").mkdir()
    monkeypatch.setattr(weight_files, "SHIPPED", write("mlnet-osie", to=tmp_path / "box"))
    mine, lines = write("mine"), []
    for given, wanted in (("mine", mine), ("mlnet-osie", weight_files.SHIPPED), (mine, mine)):
        assert weight_files.choose(Path(given), folder, lines.append) == wanted
    with pytest.raises(
        UserError, match=r"--weights other: no such file, .*Choose from mine, mlnet-osie\."
    ):
        weight_files.choose(Path("other"), folder, lines.append)
    with pytest.raises(UserError, match="No weights file at"):
        weight_files.choose(Path("other.weights.h5"), folder, lines.append)


def test_a_pin_is_told_and_one_of_weights_that_are_gone_is_an_error(put):
    write, folder = put
    old = write("old", date="2020-01-01T00:00:00+00:00")
    write("new")
    (folder / weight_files.PIN).write_text('{"use": "old"}')
    name, lines = chosen(folder)
    assert name == "old.weights.h5"
    assert "pins them" in lines[0]
    old.unlink()
    with pytest.raises(UserError, match=r"pins old, and .* has no such weights.*--use newest"):
        chosen(folder)
    (folder / weight_files.PIN).write_text("[1]")
    with pytest.raises(UserError, match="is damaged"):
        chosen(folder)


def test_a_card_of_ten_thousand_pictures_is_kept_and_can_be_added_to(put):
    path = put[0]("large")
    before = load_model(path).get_weights()
    hashes = [i.to_bytes(provenance.HASH_BYTES, "big") for i in range(10_000)]
    weight_files.amend(path, {"pictures": {"train": provenance.encode_hashes(hashes)}})
    weight_files.amend(path, {"box": {"val_cc": 0.5}})
    card = weight_files.read_card(path)
    assert provenance.hashes_in_card(card) == set(hashes)
    assert card["box"] == {"val_cc": 0.5}
    assert card == json.loads(weight_files.card_path(path).read_text())
    for one, other in zip(load_model(path).get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    weight_files.amend(path, {"pictures": {}})  # small again
    assert weight_files.read_card(path)["pictures"] == {}


def test_weights_of_another_set_or_folder_are_not_replaced_and_worse_ones_are():
    def card(cc, *pictures, dataset="folder", data="a", val="v"):
        about = {"train": provenance.encode_hashes(pictures), "val": val}
        return {"dataset": dataset, "metrics": {"val_cc": cc}, "pictures": about,
                "config": {"data": [data]}}  # fmt: skip

    better, one, two = weight_files.reason_to_keep, b"aaaaa", b"bbbbb"
    assert "0.900, not 0.100" in better(card(0.9, one), card(0.1, one))
    assert not better(card(0.1, one), card(0.9, one))
    assert not better(card(0.9, one), card(0.1, one, val="w"))  # scored on other pictures
    assert "trained on osie" in better(card(0.1, one, dataset="osie"), card(0.9, one))
    assert "trained on a" in better(card(0.1, one), card(0.9, two, data="b"))
    assert not better(card(0.1, one, two), card(0.9, one, data="moved"))
    assert not better({}, card(0.9, one))


def test_a_picture_is_known_again_by_its_content_alone(tmp_path):
    first, copy, other = (tmp_path / name for name in ("a.jpg", "sub-b.jpg", "c.jpg"))
    for size in (10, provenance.ENDS + 5, 5 * provenance.ENDS):
        content = bytes(range(256)) * (size // 256 + 1)
        for path in (first, copy):
            path.write_bytes(content)
        os.utime(copy, (1, 1))
        other.write_bytes(content[:-1] + b"\0")
        found = provenance.hashes([Sample(p.name, p) for p in (first, copy, other)])
        assert found[0] == found[1] != found[2]
    assert provenance.hashes([Sample("gone", tmp_path / "gone.jpg")]) == [None]
    assert provenance.decode_hashes("no base64 \x00") == set()


def test_half_precision_and_a_wider_network_are_still_told_apart(put, tiny):
    with pytest.raises(UserError, match="does not fit mlnet"):
        weight_files.load(build(tiny(width=0.1)), put[0]("mine"))
