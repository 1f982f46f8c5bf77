import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from salience.pictures.fixations import (
    blurred,
    blurred_fixations,
    centre_bias,
    count_map,
    density_map,
    density_of_fixations,
    other_fixations,
    pixels,
    rescaled,
    within,
)


def test_density_is_the_gaussian_of_the_counts():
    fixations = np.array([[10.2, 5.0], [10.0, 5.3], [30.0, 20.0]])
    counts = np.zeros((40, 50))
    counts[5, 10], counts[20, 30] = 2, 1
    expected = gaussian_filter(counts, 3, mode="constant")
    np.testing.assert_allclose(
        density_map(fixations, (40, 50), 3), expected / expected.max(), atol=1e-6
    )


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_the_blur_of_single_fixations_is_that_of_their_counts(rng, count):
    """By the product of two matrices, and by the filter from 4 x 8 fixations on."""
    points, shape = rng.uniform(-5, 45, (count, 2)), (30, 40)
    expected = blurred(count_map(points, shape), 2.0)
    found = blurred_fixations(points, shape, 2.0)
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, expected.max()))
    density = density_map(points, shape, 2.0)
    np.testing.assert_allclose(density_of_fixations(points, shape, 2.0), density, atol=1e-6)


def test_density_without_fixations_is_zero():
    assert not density_map(np.zeros((0, 2)), (4, 5), 2).any()


def test_corner_pixels_are_inside_and_their_neighbours_are_not():
    corners = np.array([[0, 0], [7, 3], [-0.5, -0.5], [7.49, 3.49]])
    beyond = np.array([[-0.51, 0], [7.5, 3], [7, 3.5], [0, -1]])
    assert pixels(corners, (4, 8)).tolist() == [[0, 0], [3, 7], [0, 0], [3, 7]]
    assert not len(pixels(beyond, (4, 8)))
    assert not len(within(beyond, (4, 8)))


def test_every_fixation_is_counted():
    fixations = np.array([[1, 1], [1, 1], [2, 0], [99, 99]])
    assert count_map(fixations, (3, 4)).sum() == 3
    assert count_map(fixations, (3, 4))[1, 1] == 2


def test_centre_bias_maps_every_picture_onto_one_shape():
    # the same relative place in a small and a large picture
    pictures = [(np.array([[1.5, 0.5]]), (2, 4)), (np.array([[15.5, 9.5]]), (20, 32))]
    centre = centre_bias(pictures, (20, 32), 1.0)
    assert np.unravel_index(centre.argmax(), centre.shape) in [(9, 15), (10, 16), (9, 16), (10, 15)]
    assert centre.max() == pytest.approx(1)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 24.0])
def test_blur_is_scipys_with_nothing_beyond_the_borders(sigma, rng):
    counts = rng.poisson(0.01, (90, 120)).astype(np.float32)
    expected = gaussian_filter(counts, sigma, mode="constant")
    np.testing.assert_allclose(blurred(counts, sigma), expected, atol=1e-6 * expected.max())


def test_scaling_keeps_the_pixel_and_comes_back(rng):
    points = rng.random((50, 2)) * (79, 59)
    doubled = rescaled(points, (60, 80), (120, 160))
    assert (pixels(doubled, (120, 160)) // 2 == pixels(points, (60, 80))).all()
    np.testing.assert_allclose(rescaled(doubled, (120, 160), (60, 80)), points)


def test_other_fixations_are_those_of_all_pictures_but_one():
    pictures = [(np.full((i + 1, 2), float(i)), (10, 10)) for i in range(6)]
    assert np.unique(other_fixations(pictures, 2)).tolist() == [0, 1, 3, 4, 5]
    assert len(other_fixations(pictures, 2)) == 1 + 2 + 4 + 5 + 6
    assert other_fixations(pictures[:1], 0).shape == (0, 2)


def test_a_few_other_pictures_are_drawn_by_seed():
    pictures = [(np.full((1, 2), float(i)), (30, 30)) for i in range(20)]
    draws = [set(other_fixations(pictures, 7, 10, seed)[:, 0]) for seed in (0, 0, 1, (1, 2))]
    assert all(len(drawn) == 10 and 7 not in drawn for drawn in draws)
    assert draws[0] == draws[1] != draws[2]
    assert len(other_fixations(pictures, 7, 50)) == 19
