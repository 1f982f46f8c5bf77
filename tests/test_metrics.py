import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metrics import METRICS, auc_judd, cc, kld, nss, score, sim

MAPS = arrays(np.float32, (5, 7), elements=st.integers(0, 50).map(float))
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=12).map(
    lambda p: np.array(p, np.float32)
)


def brute_force_auc(saliency_map, fixations):
    """Every pair of a fixation and an unfixated pixel, counted one by one."""
    cells = {(int(y), int(x)) for x, y in fixations}
    others = [v for cell, v in np.ndenumerate(saliency_map) if cell not in cells]
    here = [saliency_map[int(y), int(x)] for x, y in fixations]
    return np.mean([(a > b) + 0.5 * (a == b) for a in here for b in others])


@given(MAPS, POINTS)
def test_auc_equals_counting_every_pair(saliency_map, fixations):
    assert auc_judd(saliency_map, fixations) == pytest.approx(
        brute_force_auc(saliency_map, fixations)
    )


@given(MAPS, POINTS)
def test_auc_survives_any_monotone_change(saliency_map, fixations):
    assert auc_judd(saliency_map**3 + 2, fixations) == auc_judd(saliency_map, fixations)


@given(MAPS, MAPS, POINTS)
def test_nss_and_cc_survive_affine_changes(saliency_map, density_map, fixations):
    changed = 3 * saliency_map.astype(float) + 4
    assert nss(changed, fixations) == pytest.approx(nss(saliency_map, fixations), abs=1e-9)
    assert cc(changed, density_map) == pytest.approx(
        cc(saliency_map, density_map), abs=1e-9, nan_ok=True
    )


@given(MAPS, MAPS)
def test_ranges_and_symmetry(a, b):
    assert 0 <= sim(a, b) <= 1 + 1e-12
    assert sim(a, b) == pytest.approx(sim(b, a))
    assert kld(a, b) >= -1e-9
    assert kld(a, a) == pytest.approx(0, abs=1e-9)
    assert sim(a, a) == pytest.approx(1)


def test_nss_of_a_standardised_map_is_its_value_at_the_fixation(rng):
    values = rng.normal(size=(20, 30))
    values = (values - values.mean()) / values.std()
    assert nss(values, np.array([[12.0, 5.0]])) == pytest.approx(values[5, 12])


def test_a_fixation_belongs_to_the_pixel_whose_centre_is_nearest():
    saliency_map = np.zeros((3, 4))
    saliency_map[1, 2] = 1
    inside = [(1.5, 0.5), (2.49, 1.49), (2.0, 1.0)]
    outside = [(1.49, 1.0), (2.5, 1.0), (2.0, 1.5)]
    assert [auc_judd(saliency_map, np.array([p])) for p in inside] == [1.0] * 3
    assert all(auc_judd(saliency_map, np.array([p])) < 1 for p in outside)


def test_constant_map_is_chance_where_fixations_are_asked(rng):
    fixations = np.array([[1.0, 2.0], [3.0, 0.0]])
    assert nss(np.ones((5, 7)), fixations) == 0
    assert auc_judd(np.ones((5, 7)), fixations) == 0.5
    assert cc(np.ones((5, 7)), rng.random((5, 7))) == 0


def test_constant_density_map_is_no_truth(rng):
    assert np.isnan(cc(rng.random((5, 7)), np.ones((5, 7))))


def test_without_fixations_there_is_no_score():
    for points in (np.zeros((0, 2)), np.array([[-3.0, 1.0]])):
        assert np.isnan(nss(np.eye(4), points))
        assert np.isnan(auc_judd(np.eye(4), points))


def test_two_fixations_at_one_pixel_count_twice():
    saliency_map = np.arange(12.0).reshape(3, 4)
    once, twice = [[3.0, 2.0], [0.0, 0.0]], [[3.0, 2.0], [3.0, 2.0], [0.0, 0.0]]
    assert nss(saliency_map, np.array(twice)) > nss(saliency_map, np.array(once))
    assert auc_judd(saliency_map, np.array(twice)) > auc_judd(saliency_map, np.array(once))


def test_kld_by_hand():
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert kld(np.array([[2.0, 2.0]]), np.array([[3.0, 1.0]])) == pytest.approx(expected)


def test_score_leaves_a_gap_where_the_truth_is_absent(rng):
    row = score(rng.random((5, 7)), rng.random((5, 7)), None)
    assert list(row) == list(METRICS)
    for name, metric in METRICS.items():
        assert np.isnan(row[name]) == (metric.truth == "fixations")
