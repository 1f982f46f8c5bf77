"""The gold standard: its fit finds the truth, nothing leaks, and pysaliency agrees."""

import json

import numpy as np
import pytest

from benchmarks.measures.gold_standard import (
    GOLDEN,
    SETTINGS,
    SIDE,
    SIGMA_PIXELS,
    UNIFORM_SHARE,
    miniature,
)
from salience.measures.gold_standard import (
    GoldStandard,
    LeftOut,
    fit_gold_standard,
    likeliest_shares,
)
from salience.measures.references import TruthSplit, mixed
from salience.pictures.fixations import density_map, kernel_density
from salience.pictures.sample import Sample

SHAPE = (60, 80)
SIGMA = 6.0


def centre_bias(shape=SHAPE):
    density = density_map(np.array([[shape[1] / 2, shape[0] / 2]]), shape, 10.0).astype(float)
    return density / density.sum()


def drawn(rng, bandwidth_pixels, shares, each=40):
    """Return a picture whose last observer looks as the density of the others and shares say.

    Args:
        bandwidth_pixels: spread around the fixations of two others, who look anywhere but near the
            border.
        shares: shares of that density, the centre bias, and the uniform density.
        each: fixations of each observer.
    """
    others = rng.uniform((15, 15), (65, 45), (2 * each, 2)).round()
    kernel = rng.normal(others[rng.integers(0, len(others), each)], bandwidth_pixels)
    centre = rng.normal((40, 30), 10.0, (each, 2))
    uniform = rng.uniform((-0.5, -0.5), (79.5, 59.5), (each, 2))
    own = np.choose(rng.choice(3, (each, 1), p=shares), (kernel, centre, uniform))
    return LastObserver(
        np.concatenate([others, own]), np.repeat(range(3), each), SHAPE, SIGMA, centre_bias()
    )


class LastObserver(LeftOut):
    """A picture that counts the last observer alone, the one whose density is known."""

    def likelihoods(self, bandwidth):
        return super().likelihoods(bandwidth)[self.owners == 2]


def mean_log_likelihood(pictures, bandwidth, shares):
    seen = np.concatenate([picture.likelihoods(bandwidth) for picture in pictures])
    return np.log(seen @ shares).mean()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(3)
    return [drawn(rng, 2.0, (0.7, 0.1, 0.2)) for _ in range(30)]


def test_a_left_out_observer_is_predicted_by_the_others_kernels(rng):
    fixations = rng.uniform((0, 0), (79, 59), (12, 2)).round()
    subjects = np.repeat([3, 5, 9], (2, 4, 6))
    picture = LeftOut(fixations, subjects, SHAPE, SIGMA, centre_bias())
    found = picture.kernel_densities(0.5)
    for subject in np.unique(subjects):
        own = subjects == subject
        expected = kernel_density(fixations[~own], fixations[own], SHAPE, 3.0)
        np.testing.assert_allclose(found[own], expected)


def test_where_an_observer_looked_does_not_change_what_predicts_him(rng):
    """His fixations move: the density stays, at every place where he may look."""
    fixations = rng.uniform((0, 0), (79, 59), (12, 2)).round()
    subjects = np.repeat([0, 1, 2], 4)
    at = np.arange(8, 12)  # of the last observer: one place after the other is asked for
    places = rng.uniform((0, 0), (79, 59), (4, 2)).round()
    values = []
    for elsewhere in (places[:3], places[[2, 0, 1]], [[0, 0], [79, 59], [5, 5]]):
        moved = fixations.copy()
        moved[at] = [places[3], *elsewhere]
        picture = LeftOut(moved, subjects, SHAPE, SIGMA, centre_bias())
        values.append(picture.likelihoods(1.0)[8])
    np.testing.assert_allclose(values, values[:1] * 3, rtol=1e-12)
    assert values[0][0] > 0


def test_the_centre_bias_of_a_picture_does_not_know_that_picture_either(rng):
    """All fixations of a picture move: its own centre bias stays, that of others does not."""

    def split(first):
        pictures = [first, *([[30 + i, 20]] * 4 for i in range(3))]
        blank = np.zeros((*SHAPE, 3), np.uint8)
        return TruthSplit(
            [
                Sample(
                    str(i), lambda: blank, None, np.array(points, np.float32),
                    np.array([0, 0, 1, 1]), 3.0,
                )
                for i, points in enumerate(pictures)
            ],
            ("ig",),
        )  # fmt: skip

    before, after = split([[10, 10]] * 4), split([[70, 50]] * 4)
    np.testing.assert_allclose(before.centre.without(0), after.centre.without(0), atol=1e-9)
    assert np.abs(before.centre.without(1) - after.centre.without(1)).max() > 1e-3


def test_the_fit_comes_near_the_density_that_fixations_were_drawn_from(pictures):
    found = fit_gold_standard(pictures)
    assert found.bandwidth_pixels(SIGMA) == pytest.approx(2.0, rel=0.1)
    assert found.humans == pytest.approx(0.7, abs=0.06)
    assert found.centre == pytest.approx(0.1, abs=0.06)
    assert found.uniform == pytest.approx(0.2, abs=0.06)
    assert found.humans + found.centre + found.uniform == pytest.approx(1)


def test_no_other_parameters_on_a_grid_are_likelier(pictures):
    found = fit_gold_standard(pictures[:8])
    reached = mean_log_likelihood(
        pictures[:8], found.bandwidth, np.array([found.humans, found.centre, found.uniform])
    )
    assert reached == pytest.approx(found.log_likelihood)
    others = []
    for bandwidth in found.bandwidth * np.array([0.25, 0.5, 0.8, 0.98, 1.02, 1.25, 2, 4]):
        seen = np.concatenate([picture.likelihoods(bandwidth) for picture in pictures[:8]])
        grid = np.stack(np.meshgrid(np.linspace(0, 0.5, 26), np.linspace(0.001, 0.5, 26)), axis=-1)
        centre, uniform = grid.reshape(-1, 2).T
        mixtures = seen @ np.stack([1 - centre - uniform, centre, uniform])
        others.append(np.log(mixtures[:, centre + uniform < 1]).mean(axis=0).max())
    assert max(others) <= reached + 1e-6
    assert max(others) > reached - 0.01  # the grid comes near it


def test_a_picture_by_itself_is_at_least_as_likely_as_with_the_sets_parameters(pictures):
    of_set = fit_gold_standard(pictures[:8])
    shares = np.array([of_set.humans, of_set.centre, of_set.uniform])
    for picture in pictures[:3]:
        own = fit_gold_standard([picture], of_set)
        assert own.log_likelihood >= mean_log_likelihood([picture], of_set.bandwidth, shares) - 1e-6


def test_observers_who_agree_by_nothing_but_the_centre_get_the_centre_bias(rng):
    found = fit_gold_standard([drawn(rng, 3.0, (0.0, 1.0, 0.0)) for _ in range(10)])
    assert found.centre > 0.85


def test_a_kernel_is_never_narrower_than_a_pixel():
    """Two observers at one pixel: without the limit the likelihood would grow for ever."""
    fixations = np.array([[10, 10], [10, 10], [60, 40], [60, 40]], float)
    found = fit_gold_standard([LeftOut(fixations, np.array([0, 1] * 2), SHAPE, 3.0, centre_bias())])
    assert found.bandwidth_pixels(3.0) == 1.0
    assert found.log_likelihood < 0


def test_shares_are_the_likeliest_of_all_mixtures(rng):
    likelihoods = rng.random((200, 3)) ** 3 + 1e-9
    value, shares = likeliest_shares(likelihoods)
    assert np.log(likelihoods @ shares).mean() == pytest.approx(value)
    for other in rng.dirichlet((1, 1, 1), 200):
        assert np.log(likelihoods @ other).mean() <= value + 1e-9


def test_agreement_with_pysaliency():
    """pysaliency 0.2.22: benchmarks/measures/gold_standard.py names the classes."""
    golden = json.loads(GOLDEN.read_text())
    points, observers = miniature()
    shape = (SIDE, SIDE)
    samples = [
        Sample(
            str(i), lambda: np.zeros((*shape, 3), np.uint8), None, p.astype(np.float32), who,
            SIGMA_PIXELS,
        )
        for i, (p, who) in enumerate(zip(points, observers, strict=True))
    ]  # fmt: skip
    split = TruthSplit(samples, ("ig",))
    found = {"centre_bias": [], "kernel_density": []}
    pictures = []
    for i, at in enumerate(points):
        # pysaliency's eps counts against one fixation, not against the sum of all
        others = sum(map(len, points)) - len(at)
        share = UNIFORM_SHARE / (UNIFORM_SHARE + (1 - UNIFORM_SHARE) * others)
        centre = mixed([split.centre.without(i)], [1 - share], share)
        pictures.append(LeftOut(at, observers[i], shape, SIGMA_PIXELS, centre))
        found["centre_bias"].append(np.log(pictures[-1].centre))
        found["kernel_density"].append(np.log(kernel_density(at, at, shape, SIGMA_PIXELS)))
    for name, values in found.items():
        np.testing.assert_allclose(np.concatenate(values), golden[name], atol=2e-6)
    ours = [
        mean_log_likelihood(pictures, bandwidth, np.array([1 - c - u, c, u]))
        for bandwidth, c, u in SETTINGS
    ]
    count = sum(map(len, points))
    np.testing.assert_allclose(np.array(ours) * count, golden["left_out"], rtol=1e-6)
    assert fit_gold_standard(pictures).log_likelihood >= max(golden["left_out"]) / count


def test_the_bandwidth_follows_the_sigma_of_a_picture():
    standard = GoldStandard(0.5, 0.8, 0.1, 0.1)
    assert [standard.bandwidth_pixels(sigma) for sigma in (1.0, 24.0)] == [1.0, 12.0]
