"""Intervals that cover, tests that are exact, corrections that hold."""

import numpy as np
import pytest
from scipy import stats

from salience.measures.significance import compare_metrics, holm, mean_interval, sign_flip_p


def test_the_interval_covers_the_true_mean_as_often_as_it_says(rng):
    hits = sum(
        (found := mean_interval(rng.normal(3, 1, 40), seed)).low <= 3 <= found.high
        for seed in range(100)
    )
    assert 88 <= hits <= 99  # of 100 at 95 %


def test_the_interval_of_many_values_is_the_normal_one(rng):
    values = rng.normal(0, 2, 2000)
    found = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert found.mean == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_the_same_seed_gives_the_same_interval(rng):
    values = rng.random(30)
    assert mean_interval(values, 1) == mean_interval(values, 1)
    assert mean_interval(values, 1) != mean_interval(values, 2)


@pytest.mark.parametrize("values", [[], [1.0], [float("nan"), 2.0]])
def test_fewer_than_two_pictures_have_no_interval(values):
    found = mean_interval(values)
    assert np.isnan(found.low)
    assert np.isnan(sign_flip_p(values))


def test_the_permutation_test_is_exact_for_few_pictures():
    # all of 2^4 sign flips: only the two with equal signs reach the mean
    assert sign_flip_p([1.0, 1.0, 1.0, 1.0]) == pytest.approx(2 / 16)
    assert sign_flip_p([1.0, -1.0, 2.0, -2.0]) == 1.0
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_the_permutation_test_agrees_with_the_t_test_on_normal_data(rng):
    values = rng.normal(0.25, 1, 100)
    assert sign_flip_p(values) == pytest.approx(stats.ttest_1samp(values, 0)[1], abs=0.01)


def test_p_is_never_zero(rng):
    assert 0 < sign_flip_p(rng.random(200) + 1) <= 2e-4


def test_holm_keeps_order_and_never_exceeds_one():
    assert holm({"a": 0.6, "b": 0.5, "c": float("nan")})["a"] == 1.0
    corrected = holm({"a": 0.001, "b": 0.02, "c": 0.02})
    assert corrected == pytest.approx({"a": 0.003, "b": 0.04, "c": 0.04})


def test_a_metric_whose_low_is_good_improves_when_it_falls():
    a = {"cc": [0.1, 0.2, 0.3], "kld": [1.0, 2.0, 3.0]}
    b = {"cc": [0.2, 0.3, 0.3], "kld": [0.5, 2.0, 3.5]}
    found = compare_metrics(a, b, {"cc": True, "kld": False})
    assert found["cc"].improved == pytest.approx(2.5 / 3)
    assert found["kld"].improved == pytest.approx(0.5)
    assert found["kld"].difference == 0.0


def test_pictures_without_a_value_are_left_out_of_the_pairs():
    nan = float("nan")
    found = compare_metrics({"cc": [0.1, nan, 0.3]}, {"cc": [0.2, 0.9, nan]}, {"cc": True})
    assert found["cc"].pictures == 1
    assert found["cc"].difference == pytest.approx(0.1)
