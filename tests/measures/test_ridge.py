"""Ridge regression from sums equals ridge regression from all the data."""

import numpy as np
import pytest
from least_squares import dense

from salience.measures.ridge import PENALTIES, Moments, solve


@pytest.fixture
def data(rng):
    """Return features on very different scales, far from zero, and targets that hang on them."""
    scale, offset = 10.0 ** rng.uniform(-2, 3, 7), 10.0 ** rng.uniform(0, 4, 7)
    mixing = rng.normal(size=(7, 7))

    def draw(n):
        x = (rng.normal(size=(n, 7)) @ mixing) * scale + offset
        y = (x - offset) / scale @ rng.normal(size=(7, 2)) + rng.normal(size=(n, 2)) + 5
        return x, y

    return draw(200), draw(80)


def summed(x, y, batch=30):
    sums = Moments(x.shape[1], y.shape[1])
    for start in range(0, len(x), batch):
        sums.add(x[start : start + batch], y[start : start + batch])
    return sums


def test_gradient_descent_comes_to_the_same_solution(rng):
    x = rng.normal(size=(2000, 12)) @ (np.eye(12) + 0.1 * rng.normal(size=(12, 12))) + 30
    y = (x[:, :3].sum(axis=1, keepdims=True) + rng.normal(size=(2000, 1))) / 10
    z, penalty = (x - x.mean(axis=0)) / x.std(axis=0), 1e-3
    kernel, bias = np.zeros((12, 1)), 0.0

    def loss(predicted, kernel):
        return np.mean((predicted - y) ** 2) + penalty * (kernel**2).sum()

    for _ in range(500):
        gap = z @ kernel + bias - y
        kernel -= 0.2 * (z.T @ gap / len(z) + penalty * kernel)
        bias -= 0.2 * gap.mean()
    exact = solve(summed(x, y), summed(x, y), (penalty,))
    by_descent, by_solving = z @ kernel + bias, x @ exact.kernel + exact.intercept
    least = loss(by_solving, exact.kernel * x.std(axis=0)[:, None])
    assert -1e-6 < loss(by_descent, kernel) / least - 1 < 1e-6
    assert np.corrcoef(by_descent[:, 0], by_solving[:, 0])[0, 1] > 0.999999


@pytest.mark.parametrize("penalty", [0.0, 1e-4, 0.1, 10.0])
def test_sums_give_the_dense_solution(data, penalty):
    train, validation = data
    fit = solve(summed(*train), summed(*validation), (penalty,))
    kernel, intercept = dense(*train, penalty)
    np.testing.assert_allclose(fit.kernel, kernel, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(fit.intercept, intercept, rtol=1e-7)


def test_the_penalty_is_that_of_brute_force(data):
    train, (x, y) = data
    fit = solve(summed(*train), summed(x, y))
    errors = []
    for penalty in PENALTIES:
        kernel, intercept = dense(*train, penalty)
        errors.append(np.mean((x @ kernel + intercept - y) ** 2))
    np.testing.assert_allclose(fit.errors, errors, rtol=1e-6)
    assert fit.penalty == PENALTIES[int(np.argmin(errors))]
    nothing = np.mean((train[1].mean(axis=0) - y) ** 2)
    assert fit.explained == pytest.approx(1 - min(errors) / nothing, rel=1e-6)


def test_a_block_is_what_its_features_alone_would_have_summed_to(data):
    (x, y), (vx, vy) = data
    part = slice(2, 5)
    a = solve(summed(x, y).block(part), summed(vx, vy).block(part))
    b = solve(summed(x[:, part], y), summed(vx[:, part], vy))
    np.testing.assert_allclose(a.kernel, b.kernel, rtol=1e-7)
    assert a.penalty == b.penalty


def test_sums_stay_as_large_as_they_are(rng):
    sums = Moments(5, 2)
    sums.add(rng.normal(size=(10, 5)), rng.normal(size=(10, 2)))
    before = {name: np.shape(value) for name, value in vars(sums).items()}
    for _ in range(50):
        sums.add(rng.normal(size=(100, 5)), rng.normal(size=(100, 2)))
    assert {name: np.shape(value) for name, value in vars(sums).items()} == before
    assert sums.count == 5010


def test_far_from_zero_nothing_is_lost(rng):
    """Features like raw activations: a mean a million times their deviation."""
    x = rng.normal(size=(500, 3)) + 1e6
    y = (x - 1e6) @ np.array([[1.0], [2.0], [3.0]])
    fit = solve(summed(x, y), summed(x, y), (0.0,))
    np.testing.assert_allclose(fit.kernel[:, 0], [1, 2, 3], rtol=1e-6)


def test_constant_and_repeated_features_are_borne(rng):
    """Of a constant feature nothing is read; of a repeated one each half."""
    x = rng.normal(size=(100, 1))
    features = np.concatenate([x, np.full((100, 1), 3.7), x], axis=1)
    fit = solve(summed(features, 2 * x), summed(features, 2 * x), (1e-9,))
    np.testing.assert_allclose(fit.kernel[:, 0], [1, 0, 1], atol=1e-6)
