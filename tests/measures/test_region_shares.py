"""What regions get: shares that add up, and fixations with known answers."""

import numpy as np
import pytest

from salience.data.regions import Region, corners
from salience.measures.region_shares import FixatedPixels, observed, predicted

SHAPE = (12, 16)


def window(*box, shape=SHAPE):
    return Region("box", (corners(*box),)).window(shape)


@pytest.fixture
def density(rng):
    values = rng.random(SHAPE)
    return values / values.sum()


def test_shares_of_regions_that_divide_the_picture_add_up_to_one(density):
    parts = [predicted(density, window(x, y, 4, 3)) for x in (0, 4, 8, 12) for y in (0, 3, 6, 9)]
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.area for part in parts) == pytest.approx(1)
    assert max(part.peak for part in parts) == 1
    row, column = np.unravel_index(density.argmax(), SHAPE)
    assert [(p.y, p.x) for p in parts if p.peak == 1] == [(row, column)]


def test_a_uniform_density_gives_each_region_its_area():
    found = predicted(np.full(SHAPE, 1 / 192), window(3, 2, 5, 4))
    assert found.share == pytest.approx(found.area) == pytest.approx(20 / 192)


@pytest.mark.parametrize("box", [(20, 1, 4, 4), (-9, -9, 5, 5), (3.6, 3.6, 0.8, 0.8)])
def test_a_region_without_a_pixel_gets_nothing(density, box):
    found = predicted(density, window(*box))
    assert (found.share, found.area, found.x, found.y) == (0, 0, -1, -1)
    assert np.isnan(found.peak)
    fixated = FixatedPixels.on_picture(SHAPE, np.array([[3.0, 3.0]]), np.array([0]))
    assert observed(fixated, window(*box)).share == 0


LOOKS = {
    "fixations": np.array(
        [[1, 1], [4, 4], [4.4, 5.4], [99, 4], [4, 4], [9, 9], [9, 9]], np.float32
    ),
    "subjects": np.array([0, 0, 0, 0, 1, 1, 2]),
    "times": np.array([10, 300, 600, 900, 100, 400, np.nan], np.float32),
    "durations": np.array([200, 250, 50, 999, 120, np.nan, 80], np.float32),
}


def test_observed_is_what_can_be_counted_by_hand():
    fixated = FixatedPixels.on_picture(SHAPE, **LOOKS)
    assert len(fixated.cells) == 6  # one is outside
    found = observed(fixated, window(4, 4, 1, 2))  # the pixels at column 4, rows 4 and 5
    assert found.share == pytest.approx(3 / 6)
    assert found.looked == pytest.approx(2 / 3)
    assert found.first_ms == pytest.approx((300 + 100) / 2)
    assert found.dwell_ms == pytest.approx((300 + 120 + 0) / 3)
    # the first look of observer 2 has no known time; observer 1's look has no known duration
    found = observed(fixated, window(8, 8, 3, 3))
    assert found.first_ms == pytest.approx(400)
    assert found.dwell_ms == pytest.approx((0 + 0 + 80) / 3)


def test_what_is_not_recorded_is_nan_and_not_zero():
    box = window(4, 4, 1, 2)
    alone = observed(FixatedPixels.on_picture(SHAPE, LOOKS["fixations"]), box)
    assert alone.share == pytest.approx(3 / 6)
    assert np.isnan([alone.looked, alone.first_ms, alone.dwell_ms]).all()
    untimed = observed(FixatedPixels.on_picture(SHAPE, LOOKS["fixations"], LOOKS["subjects"]), box)
    assert untimed.looked == pytest.approx(2 / 3)
    assert np.isnan([untimed.first_ms, untimed.dwell_ms]).all()
    nobody = observed(FixatedPixels.on_picture(SHAPE, np.zeros((0, 2))), box)
    assert np.isnan(nobody.share)
    unseen = observed(FixatedPixels.on_picture(SHAPE, **LOOKS), window(0, 11, 1, 1))
    assert (unseen.share, unseen.looked, unseen.dwell_ms) == (0, 0, 0)
    assert np.isnan(unseen.first_ms)
