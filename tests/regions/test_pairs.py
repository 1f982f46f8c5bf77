"""Which pictures are measured: with their fixations and other versions; what cannot be is told."""

import shutil

import cv2
import numpy as np
import pytest

from commands.regions.pairs import pairs, with_fixations
from commands.settings import RegionsConfig
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.notes import Notes

HEAD = "image,name,x,y,width,height\n"


@pytest.fixture
def find(tmp_path, pictures):
    """Return a function that finds pairs, by regions of pictures and points of others."""

    def run(regions="a.jpg", fixations=(), **settings):
        file = tmp_path / "regions.csv"
        file.write_text(HEAD + "".join(f"{name},logo,0,0,9,9\n" for name in regions.split()))
        if fixations:
            points = "".join(f"{name},5,5\n" for name in fixations)
            (tmp_path / "set" / "fixations.csv").write_text("image,x,y\n" + points)
            settings["data"] = tmp_path / "set"
        given = {"images": (str(pictures),), "regions": file, **settings}
        notes = Notes()
        return pairs(RegionsConfig(**given), notes, print), "\n".join(notes.lines())

    return run


@pytest.fixture
def recorded(tmp_path, picture):
    """Return a function that writes pictures of a data set, by name and shape."""

    def write(**shapes):
        for name, shape in shapes.items():
            path = tmp_path / "set" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(f"{path}.png", picture(*shape))

    return write


def test_a_picture_without_regions_is_left_out(find, pictures):
    found, said = find("a.jpg", images=(str(pictures), str(pictures)))
    assert [pair.own.sample.name for pair in found] == ["pictures/a.jpg"]
    assert "without regions: left out (pictures/b.png)" in said


def test_pictures_get_the_fixations_of_the_data_set_by_name(find, recorded):
    recorded(a=(30, 40), other=(30, 40))
    found, said = find("a.jpg b.png", ["a.png", "other.png"])
    points = [pair.own.sample.fixations for pair in found]
    assert [None if one is None else len(one) for one in points] == [1, None]
    assert "pictures without fixations in the data set (b.png)" in said


def test_what_cannot_be_matched_is_one_line(find, recorded, pictures, tmp_path):
    def refused(message, *words, **settings):
        with pytest.raises(UserError, match=message):
            find(*words, **settings)

    with pytest.raises(UserError, match="Name the regions: --regions FILE"):
        pairs(RegionsConfig((str(pictures),)), Notes(), print)
    refused("No pictures: name a folder", images=())
    (twin := tmp_path / "twin").mkdir()
    shutil.copy(pictures / "a.jpg", twin)
    both = (str(pictures / "a.jpg"), str(twin / "a.jpg"))
    refused(r"pictures/a\.jpg and .*twin/a\.jpg have one name", images=both)
    recorded(a=(30, 41))
    refused("has 40 x 30 pixels, but its fixations are on 41 x 30", "a.jpg", ["a.png"])
    of_a_set = [Sample("p/a.png", tmp_path), Sample("q/a.png", tmp_path)]
    with pytest.raises(UserError, match=r"a\.jpg is called like p/a\.png and q/a\.png"):
        with_fixations([Sample("a.jpg", pictures / "a.jpg")], of_a_set, Notes())
    for kind in ("images", "maps"):
        (tmp_path / "maps" / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "maps" / kind / "a.png"), np.eye(30, 40, dtype=np.uint8) * 255)
    refused("folder has no fixations: leave --dataset and --data away", data=tmp_path / "maps")


def test_other_versions_are_found_by_name(find, pictures, tmp_path, picture):
    (other := tmp_path / "other").mkdir()
    cv2.imwrite(str(other / "a.png"), picture(30, 40))
    found, said = find("a.jpg b.png", against=str(other))
    assert [pair.other and pair.other.sample.name for pair in found] == ["a.png", None]
    assert "pictures without another version: not compared (b.png)" in said
    cv2.imwrite(str(other / "a.bmp"), picture(30, 40))
    with pytest.raises(UserError, match=r"which fits a\.bmp and a\.png: name it with its folder"):
        find("a.jpg", against=str(other))
    (theirs := tmp_path / "theirs.csv").write_text(f"{HEAD}a.bmp,logo,0,0,9,9\n")
    with pytest.raises(UserError, match=r"a\.jpg has two other versions: .*a\.bmp and .*a\.png"):
        find("a.jpg", against=str(other), against_regions=theirs)
    for path in other.iterdir():
        path.rename(other / f"z{path.name}")
    with pytest.raises(UserError, match=r"holds no picture called like a\.jpg"):
        find("a.jpg b.png", against=str(other))
