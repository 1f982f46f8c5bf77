"""Regions: which pixels belong to them, what lies outside, and the files that hold them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from salience.data import regions
from salience.data.regions import Region, area, clipped, corners, filled
from salience.system.errors import UserError

SHAPE = (12, 16)
HEAD = "image,name,x,y,width,height\n"
coordinate = st.integers(-50, 250).map(lambda n: n / 10)
polygons = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=3)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def coco(path, *annotations, **changes):
    content = {
        "images": [{"id": 7, "file_name": "sub/a.jpg"}],
        "categories": [{"id": 1, "name": "logo"}, {"id": 2, "name": "price"}],
        "annotations": [{"image_id": 7, "category_id": 1, **one} for one in annotations],
    }
    return write(path, json.dumps({**content, **changes}))


def test_a_box_holds_the_pixels_from_its_first_to_before_its_end():
    window = Region("box", (corners(3, 2, 5, 4),)).window(SHAPE)
    inside = np.zeros(SHAPE, bool)
    window.of(inside)[:] = window.inside
    expected = np.zeros(SHAPE, bool)
    expected[2:6, 3:8] = True
    np.testing.assert_array_equal(inside, expected)


def test_a_pixel_counts_if_its_centre_is_inside():
    window = Region("box", (corners(2.4, 1.6, 2.2, 2.0),)).window(SHAPE)
    assert (window.top, window.left) == (1, 2)
    # centres 2.5, 3.5 and 4.5 are between 2.4 and 4.6; 2.5 and 3.5 between 1.6 and 3.6
    np.testing.assert_array_equal(window.inside, [[False] * 3, [True] * 3, [True] * 3])


@given(polygons)
def test_a_triangle_holds_what_another_library_finds(polygon):
    polygon = np.array(polygon)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
    expected = Outline(polygon).contains_points(centres).reshape(SHAPE)
    window = Region("triangle", (polygon,)).window(SHAPE)
    inside = np.zeros(SHAPE, bool)
    window.of(inside)[:] = window.inside
    # a centre on an edge is decided by a rule, which the other library does not have
    ends = np.roll(polygon, -1, axis=0)
    normals = (ends - polygon)[:, ::-1] * (-1, 1)
    across = np.abs(centres @ normals.T - (polygon * normals).sum(axis=1))
    clear = across.min(axis=1).reshape(SHAPE) > 1e-6
    np.testing.assert_array_equal(inside[clear], expected[clear])


def test_polygons_that_share_edges_divide_the_pixels():
    middle = (7.5, 5.5)  # a centre of a pixel
    around = [(0, 0), (16, 0), (16, 12), (0, 12)]
    parts = [
        filled(np.array([middle, around[i], around[(i + 1) % 4]], float), SHAPE) for i in range(4)
    ]
    assert (np.sum(parts, axis=0) == 1).all()


@given(coordinate, coordinate, st.floats(0.5, 30), st.floats(0.5, 30))
def test_the_share_outside_is_that_of_the_box(x, y, width, height):
    across = max(0.0, min(x + width, SHAPE[1]) - max(x, 0))
    down = max(0.0, min(y + height, SHAPE[0]) - max(y, 0))
    expected = 1 - across * down / (width * height)
    region = Region("box", (corners(x, y, width, height),))
    assert region.outside(SHAPE) == pytest.approx(expected, abs=1e-8)


def test_a_hollow_shape_is_clipped_to_its_parts_inside():
    # a U that lies on its side: its arms reach 4 pixels to the left of the picture
    u = np.array([(-4, 1), (6, 1), (6, 9), (-4, 9), (-4, 7), (4, 7), (4, 3), (-4, 3)], float)
    assert area(u) == 48
    assert area(clipped(u, SHAPE)) == pytest.approx(32)


def test_a_table_has_a_box_a_row_and_rows_of_a_name_are_one_region(tmp_path):
    text = (
        "Image;Label;x;y;w;h;note\na.jpg;logo;1,5;2;3;4;-\na.jpg;logo;10;2;3;4;-\n"
        "b.jpg;price;0;0;1;1;\n"
    )
    found = regions.read(write(tmp_path / "r.csv", text))
    assert [region.name for region in found["a.jpg"]] == ["logo"]
    (logo,), (price,) = found["a.jpg"], found["b.jpg"]
    np.testing.assert_array_equal(logo.polygons[0], corners(1.5, 2, 3, 4))
    np.testing.assert_array_equal(logo.polygons[1], corners(10, 2, 3, 4))
    assert price.window(SHAPE).inside.tolist() == [[True]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,name,x,y,width\n", "must name each of image, name, x, y, width, height once"),
        (HEAD, "holds no region"),
        (HEAD + "a.jpg,logo,1,2,3,4\na.jpg,logo,1,2,0,4\n", "line 3: 0 x 4 pixels are no box"),
        (HEAD + "a.jpg,logo,1,2,3\n", "line 2: 5 values for 6 columns"),
        (HEAD + "a.jpg,,1,2,3,4\n", "line 2: the name is blank"),
        (HEAD + "a.jpg,logo,1,nan,3,4\n", "line 2: 'nan' is no place in a picture"),
        (HEAD + "a.jpg,logo,1e9,2,3,4\n", "line 2: a coordinate is not between"),
    ],
)
def test_a_bad_table_is_told_by_line(tmp_path, text, told):
    with pytest.raises(UserError, match=told):
        regions.read(write(tmp_path / "r.csv", text))


def test_coco_has_polygons_or_boxes(tmp_path):
    path = coco(
        tmp_path / "r.json",
        {"segmentation": [[0, 0, 4, 0, 0, 4]], "bbox": [0, 0, 4, 4]},
        {"bbox": [5, 6, 2, 3], "segmentation": []},
        {"bbox": [1, 1, 2, 2], "category_id": 2},
    )
    logo, price = regions.read(path)["sub/a.jpg"]
    assert (logo.name, price.name) == ("logo", "price")
    # four more centres are on the long edge, which ends the region
    assert np.count_nonzero(filled(logo.polygons[0], SHAPE)) == 6
    np.testing.assert_array_equal(logo.polygons[1], corners(5, 6, 2, 3))


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        ({"image_id": 9, "bbox": [1, 1, 2, 2]}, "its image_id '9' is not listed"),
        ({"category_id": None, "bbox": [1, 1, 2, 2]}, "its category_id 'None' is not listed"),
        ({"segmentation": {"counts": "x"}}, "its segmentation is run-length encoded; polygons"),
        ({"segmentation": [[0, 0, 1, 1]]}, "a polygon needs three corners"),
        ({"segmentation": [[0, 0, 1, "1"]]}, "a polygon of numbers x, y, ... is expected"),
        ({"bbox": [1, 1, 0, 2]}, "its bbox is not"),
        ({"bbox": [1, 1, 2, 10**400]}, "a bbox has a number that is too large"),
        ({}, "a bbox of numbers"),
    ],
)
def test_a_bad_annotation_is_told_by_its_place(tmp_path, annotation, told):
    with pytest.raises(UserError, match=f"annotation 1 .from 0.: {told}"):
        regions.read(coco(tmp_path / "r.json", {"bbox": [1, 1, 2, 2]}, annotation))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": None}, "is not COCO JSON"),
        ({"categories": [{"id": 1}]}, 'categories: each needs an "id" and a "name"'),
        ({"annotations": [3]}, "annotation 0 .from 0.: no object"),
    ],
)
def test_a_json_that_is_not_coco_is_told(tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        regions.read(coco(tmp_path / "r.json", **changes))


def test_regions_drawn_at_another_size_are_scaled_and_another_aspect_is_refused(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "categories": [{"id": 1, "name": "logo"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [20, 10, 40, 20]}],
    }
    (tmp_path / "r.json").write_text(json.dumps(content))
    ((logo,),) = regions.read(tmp_path / "r.json").values()
    assert logo.size == (60, 80) and logo.on((60, 80)) is logo
    half = logo.on((30, 40))
    assert half.polygons[0].tolist() == [[10, 5], [30, 5], [30, 15], [10, 15]]
    with pytest.raises(UserError, match=r"logo was drawn on 80 x 60 pixels, .* another aspect"):
        logo.on((40, 40))


def test_pictures_are_found_by_path_name_or_stem():
    pictures = ["sub/a.jpg", "b.png", "Straße.png"]

    def found(*names):
        return regions.assign(dict.fromkeys(names, ()), pictures, "r.csv")

    assert found("sub/a.jpg", "b")[0].keys() == {"sub/a.jpg", "b.png"}
    assert found("a.jpg")[0].keys() == found("sub\\a")[0].keys() == {"sub/a.jpg"}
    assert found("b.jpg")[0].keys() == {"b.png"}  # another version of the picture
    assert found("c.png", "Straße")[1] == ["c.png"]
    with pytest.raises(UserError, match=r"names b\.png both as b and as b\.png"):
        found("b", "b.png")
    with pytest.raises(UserError, match=r"fits x/a\.jpg and y/a\.jpg"):
        regions.assign({"a.jpg": ()}, ["x/a.jpg", "y/a.jpg"], "r.csv")
