import itertools
import math

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter

from salience.pictures.marks import (
    LEVELS,
    Peak,
    best_crop,
    contours,
    disc_radius,
    draw_contours,
    draw_peaks,
    matched,
    number_places,
    parse_aspect,
    peaks,
    side_by_side,
    thresholded,
)
from salience.system.errors import UserError

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))
# few levels, so that there are plateaus and terraces
stepped = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.sampled_from(
    [0.0, 0.25, 0.5, 0.75, 1.0])))  # fmt: skip
smooth = st.tuples(shapes, st.integers(0, 2**32 - 1)).map(
    lambda drawn: gaussian_filter(np.random.default_rng(drawn[1]).random(drawn[0]), 1.5)
)
maps = stepped | smooth


def blobs(shape, *spots):
    """Return a map of Gaussian blobs, each (x, y, height)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return sum(h * np.exp(-((x - i) ** 2 + (y - j) ** 2) / 50) for i, j, h in spots).astype("f4")


# ---------- peaks ----------


def test_peaks_are_the_blobs_by_strength():
    found = peaks(blobs((80, 120), (20, 15, 0.5), (90, 60, 1.0), (50, 40, 0.25)), 5)
    assert [(p.x, p.y, p.rank) for p in found] == [(90, 60, 1), (20, 15, 2), (50, 40, 3)]
    assert [p.strength for p in found] == pytest.approx([1, 0.5, 0.25], abs=1e-3)
    assert peaks(blobs((80, 120), (20, 15, 0.5), (90, 60, 1.0)), 1) == found[:1]


def test_no_two_peaks_are_nearer_than_asked():
    spots = blobs((60, 60), (20, 20, 1.0), (38, 20, 0.9))
    assert len(peaks(spots, 9, apart=18)) == 2
    assert [(p.x, p.y) for p in peaks(spots, 9, apart=18.1)] == [(20, 20)]


@given(maps, st.integers(0, 9), st.floats(0, 12))
def test_each_peak_is_a_local_maximum_and_apart_from_the_others(saliency_map, count, apart):
    found = peaks(saliency_map, count, apart)
    assert len(found) <= count
    assert [p.rank for p in found] == list(range(1, len(found) + 1))
    assert [p.strength for p in found] == sorted((p.strength for p in found), reverse=True)
    for p in found:
        around = saliency_map[max(p.y - 1, 0) : p.y + 2, max(p.x - 1, 0) : p.x + 2]
        assert saliency_map[p.y, p.x] == around.max() > 0
        assert p.strength == pytest.approx(saliency_map[p.y, p.x] / saliency_map.max(), rel=1e-6)
    for one, other in itertools.combinations(found, 2):
        assert math.hypot(one.x - other.x, one.y - other.y) >= apart


@given(stepped)
def test_a_plateau_counts_once_and_only_if_nothing_overtops_it(saliency_map):
    """Against a plain search: flood each plateau and look at all that touches it."""
    expected = 0
    for value in set(saliency_map[saliency_map > 0].tolist()):
        count, labels = cv2.connectedComponents((saliency_map == value).astype(np.uint8))
        for label in range(1, count):
            around = cv2.dilate((labels == label).astype(np.uint8), np.ones((3, 3), np.uint8))
            expected += saliency_map[around > 0].max() == value
    if saliency_map.min() == saliency_map.max():
        expected = 0
    assert len(peaks(saliency_map, saliency_map.size, apart=0)) == expected


def test_a_plateau_is_marked_at_its_middle():
    plateau = np.zeros((21, 31))
    plateau[5:10, 10:21] = 1
    assert [(p.x, p.y) for p in peaks(plateau, 3)] == [(15, 7)]
    plateau[6:9, 11:20] = 0  # its middle is a hole now: the nearest pixel of the ring
    (peak,) = peaks(plateau, 3, apart=0)
    assert (peak.x, peak.y) == (15, 5)


def test_equal_peaks_come_from_top_to_bottom():
    even = np.zeros((40, 40))
    even[[30, 10, 10], [5, 30, 8]] = 1
    assert [(p.x, p.y) for p in peaks(even, 3)] == [(8, 10), (30, 10), (5, 30)]


@pytest.mark.parametrize("value", [0, 0.3, 1])
def test_a_constant_map_has_no_peak(value):
    assert peaks(np.full((20, 30), value, np.float32), 5) == []


def test_a_map_without_positive_values_has_no_peak():
    assert peaks(-blobs((20, 20), (10, 10, 1.0)), 5) == []


# ---------- drawing ----------


@pytest.mark.parametrize("ground", [0, 255])
def test_a_mark_is_seen_on_black_and_on_white(ground):
    picture = np.full((200, 300, 3), ground, np.uint8)
    drawn = draw_peaks(picture, [Peak(150, 100, 1.0, 1)])
    assert np.ptp(drawn) == 255
    assert (picture == ground).all()  # it is left as it was


@pytest.mark.parametrize(("x", "y"), [(150, 100), (0, 0), (299, 199), (150, 0), (299, 100)])
def test_a_mark_does_not_cover_its_peak(x, y):
    picture = np.full((200, 300, 3), 99, np.uint8)
    drawn = draw_peaks(picture, [Peak(x, y, 1.0, 1)])
    assert (drawn[y, x] == 99).all()
    ((column, row),) = number_places([Peak(x, y, 1.0, 1)], picture.shape)
    assert math.hypot(column - x, row - y) > 1.5 * disc_radius(picture.shape)


def test_numbers_stand_clear_of_each_other_and_of_other_peaks():
    rng = np.random.default_rng(1)
    found = peaks(gaussian_filter(rng.random((300, 400)), 8), 12)
    places, radius = np.array(number_places(found, (300, 400))), disc_radius((300, 400))
    assert len(found) == 12
    points = np.array([(p.x, p.y) for p in found])
    for i, place in enumerate(places):
        assert np.hypot(*(points - place).T).min() > radius
        assert np.hypot(*(np.delete(places, i, axis=0) - place).T).min() > 2 * radius
    assert (places >= radius).all() and (places <= [399 - radius, 299 - radius]).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 120), st.data())
def test_any_peak_is_drawn_into_a_picture_of_any_size(rows, cols, rank, data):
    x, y = data.draw(st.integers(0, cols - 1)), data.draw(st.integers(0, rows - 1))
    drawn = draw_peaks(np.full((rows, cols, 3), 99, np.uint8), [Peak(x, y, 1.0, rank)])
    assert drawn.shape == (rows, cols, 3)
    assert (drawn != 99).any()


@pytest.mark.parametrize("rank", [1, 8, 10, 88, 100])
def test_a_number_stands_in_the_middle_of_its_disc(rank):
    """Large, so that a pixel matters little: the disc's radius is 110, its inner one 82."""
    peak = Peak(1500, 1000, 1.0, rank)
    ((column, row),) = number_places([peak], (3000, 4000))
    drawn = draw_peaks(np.zeros((3000, 4000, 3), np.uint8), [peak])
    y, x = np.nonzero(drawn[..., 0] > 128)
    inner = np.hypot(x - column, y - row) < 80  # without the white ring
    assert 30 < np.ptp(y[inner]) < 120
    assert (y[inner].min() + y[inner].max()) / 2 == pytest.approx(row, abs=4)
    assert (x[inner].min() + x[inner].max()) / 2 == pytest.approx(column, abs=6)


def test_the_strongest_peak_chooses_its_place_first():
    one, other = Peak(100, 100, 1.0, 1), Peak(103, 100, 0.9, 2)
    assert number_places([other, one], (200, 300))[1] == number_places([one, other], (200, 300))[0]


# ---------- shares of the area ----------


@given(maps, st.floats(0, 1))
def test_a_share_holds_the_highest_values_and_is_no_larger(saliency_map, share):
    mask = thresholded(saliency_map, share)
    assert mask.sum() <= share * mask.size + 1e-6
    if mask.any() and not mask.all():
        assert saliency_map[mask].min() > saliency_map[~mask].max()


@pytest.mark.parametrize("share", [0, 0.01, 0.29, 0.5, 0.99, 1])
def test_without_ties_a_share_is_exact(rng, share):
    values = rng.permutation(10_000).reshape(80, 125)
    assert thresholded(values, share).sum() == round(share * 10_000)


def test_a_share_is_what_was_meant_although_29_hundredths_of_100_are_less_than_29():
    assert 0.29 * 100 < 29
    assert thresholded(np.arange(100).reshape(10, 10), 0.29).sum() == 29


@given(st.floats(0, 0.99), st.floats(0, 1))
def test_nothing_of_a_constant_map_stands_out(share, value):
    assert not thresholded(np.full((10, 10), value, np.float32), share).any()


@given(maps, st.floats(0, 1))
def test_contours_run_along_the_inner_border_of_the_share(saliency_map, level):
    mask = thresholded(saliency_map, level)
    (lines,) = contours(saliency_map, (level,))
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.polylines(drawn, lines, True, 1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    border = mask & (cv2.dilate((~mask).astype(np.uint8), cross) > 0)
    assert (drawn[border] == 1).all()
    assert mask[drawn == 1].all()


def test_a_blob_has_one_ring_a_level_and_larger_shares_lie_outside():
    saliency_map = blobs((90, 90), (45, 45, 1.0))
    rings = contours(saliency_map, LEVELS)
    assert [len(lines) for lines in rings] == [1, 1, 1]
    for level, (ring,) in zip(LEVELS, rings, strict=True):
        radius = math.sqrt(level * 90 * 90 / math.pi)
        reached = np.hypot(*(ring - 45).T)
        assert reached == pytest.approx(radius, abs=1.5)


def test_a_constant_map_has_no_contours(picture):
    image, flat = picture(), np.full((30, 40), 0.5, np.float32)
    assert contours(flat) == [[], [], []]
    np.testing.assert_array_equal(draw_contours(image, flat), image)


def test_contours_are_seen_on_black_and_on_white():
    saliency_map = blobs((200, 300), (150, 100, 1.0))
    for ground in (0, 255):
        picture = np.full((200, 300, 3), ground, np.uint8)
        drawn = draw_contours(picture, saliency_map)
        assert np.ptp(drawn) >= 200
        assert (picture == ground).all()


def test_a_speck_that_its_line_would_hide_is_not_drawn():
    saliency_map = blobs((200, 300), (150, 100, 1.0))
    saliency_map[20, 30] = 2
    assert len(contours(saliency_map, (0.05,))[0]) == 2
    drawn = draw_contours(np.zeros((200, 300, 3), np.uint8), saliency_map, (0.05,))
    assert not drawn[:40, :50].any()
    assert drawn[80:120].any()


def test_the_levels_may_be_named_in_any_order():
    saliency_map = blobs((60, 80), (30, 30, 1.0))
    picture = np.zeros((60, 80, 3), np.uint8)
    np.testing.assert_array_equal(
        draw_contours(picture, saliency_map, (0.2, 0.05, 0.1)),
        draw_contours(picture, saliency_map, (0.05, 0.1, 0.2)),
    )


# ---------- the best crop ----------


@given(maps, st.floats(0.05, 20))
def test_the_best_crop_fits_is_largest_and_keeps_most(saliency_map, aspect):
    rows, cols = saliency_map.shape
    x, y, width, height = best_crop(saliency_map, aspect)
    assert 0 <= x <= x + width <= cols
    assert 0 <= y <= y + height <= rows
    assert width >= 1
    assert height >= 1
    assert width == cols or height == rows
    assert abs(width - height * aspect) <= max(0.5, 0.5 * aspect) + 1e-9 or 1 in (width, height)
    kept = [
        saliency_map[j : j + height, i : i + width].sum(dtype=float)
        for j in range(rows - height + 1)
        for i in range(cols - width + 1)
    ]
    chosen = saliency_map[y : y + height, x : x + width].sum(dtype=float)
    assert chosen >= max(kept) - 1e-6 * max(sum(kept), 1e-12)


@given(shapes, st.floats(0.1, 10), st.floats(0, 1))
def test_the_crop_of_a_constant_map_is_the_middle(shape, aspect, value):
    x, y, width, height = best_crop(np.full(shape, value, np.float32), aspect)
    assert abs(2 * x + width - shape[1]) <= 1
    assert abs(2 * y + height - shape[0]) <= 1


def test_rounding_does_not_move_the_crop_of_a_constant_map():
    assert best_crop(np.full((300, 401), 0.1), 1) == (50, 0, 300, 300)


def test_a_crop_follows_what_is_salient():
    wide = blobs((90, 160), (140, 45, 1.0))
    assert best_crop(wide, 1) == (70, 0, 90, 90)
    assert best_crop(wide.T, 1) == (0, 70, 90, 90)
    assert best_crop(wide, 16 / 9) == (0, 0, 160, 90)


def test_an_aspect_is_read():
    assert parse_aspect("4:3") == 4 / 3
    assert parse_aspect(" 2.39:1 ") == 2.39


@pytest.mark.parametrize(
    "text",
    ["", "0:3", "3:0", "0", "0.0", "-1:1", "1:-1", "nan", "inf", "1e3", "16x9", "16:9:1", ":", "1:",
     ":1", "square", "1.:2", "1,91", "9" * 400, "\u0661:\u0662", "1:1\n2:1"],
)  # fmt: skip
def test_what_is_no_aspect_is_told(text):
    with pytest.raises(UserError, match=r"is no aspect ratio: .* such as 16:9"):
        parse_aspect(text)


# ---------- side by side ----------


def test_pictures_stand_side_by_side_at_one_height(picture):
    one, other, grey = picture(30, 40), picture(60, 20), np.full((30, 5), 7, np.uint8)
    row = side_by_side(one, other, grey)
    assert row.shape == (30, 40 + 2 + 10 + 2 + 5, 3)
    np.testing.assert_array_equal(row[:, :40], one)
    assert (row[:, 40:42] == 255).all()
    assert (row[:, -5:] == 7).all()
    np.testing.assert_array_equal(side_by_side(one), one)


# ---------- histogram matching ----------


@given(maps, maps)
@example(np.zeros((3, 3), np.float32), np.eye(4))
def test_matching_keeps_the_order_and_takes_the_references_mean_and_range(saliency_map, reference):
    result = matched(saliency_map, reference)
    assert result.dtype == np.float32
    assert result.shape == saliency_map.shape
    assert result.mean(dtype=float) == pytest.approx(reference.mean(dtype=float), abs=1e-5)
    assert result.min() >= np.float32(reference.min())
    assert result.max() <= np.float32(reference.max())
    order = np.argsort(saliency_map, axis=None, kind="stable")
    ordered, values = result.ravel()[order], saliency_map.ravel()[order]
    assert (np.diff(ordered) >= 0).all()
    assert (np.diff(ordered)[np.diff(values) == 0] == 0).all()


@given(shapes, st.integers(0, 99))
def test_matching_maps_of_one_size_without_ties_gives_the_references_values(shape, seed):
    rng = np.random.default_rng(seed)
    one, other = rng.random(shape), rng.random(shape[::-1])
    result = matched(one, other)
    np.testing.assert_allclose(np.sort(result, axis=None), np.sort(other, axis=None), atol=1e-6)


@given(smooth)
def test_matching_a_map_to_itself_changes_nothing(saliency_map):
    np.testing.assert_allclose(matched(saliency_map, saliency_map), saliency_map, atol=1e-6)


def test_matching_agrees_with_scikit_image(rng):
    """Theirs gives equal pixels the last of their ranks, so only maps without ties are alike."""
    from skimage.exposure import match_histograms

    one, other = rng.random((60, 80)), rng.random((60, 80)) ** 3
    np.testing.assert_allclose(matched(one, other), match_histograms(one, other), atol=1e-6)


def test_what_is_flat_stays_flat():
    reference = np.linspace(0, 1, 101)
    flat = matched(np.full((5, 6), 0.7), reference)
    assert flat == pytest.approx(0.5)
    half = np.concatenate([np.zeros(50), np.arange(1, 51)])  # half of the map is zero
    result = matched(half, reference)
    assert result[:50] == pytest.approx(0.25, abs=0.01)  # not the median: zeros are lowest
    assert (matched(half, np.full(9, 0.3)) == np.float32(0.3)).all()
