"""Densities and the best maps under them: brute force on a small grid, and pysaliency's scores."""

import json

import numpy as np
import pytest
from conftest import SHARED, needs
from scipy.optimize import linprog
from scipy.special import logsumexp

from benchmarks.measures import optimal as parity
from benchmarks.measures.parity import osie_scenes
from salience.measures.adaptation import IDENTITY, Adaptation, AdaptationFit
from salience.measures.density import (
    CALIBRATION,
    calibration_entry,
    calibration_of,
    density_kind,
    log_density,
)
from salience.measures.metrics import as_distribution, auc_judd, cc, ig, kld, ll, nss, sauc, sim
from salience.measures.optimal import (
    best_for_cc_and_kld,
    best_for_sauc,
    best_for_sim,
    highest_mean_overlap,
    optimal_scores,
    simulated_truths,
)
from salience.measures.references import HALVED, TruthSplit
from salience.measures.significance import mean_interval
from salience.pictures.fixations import blurred
from salience.pictures.sample import Sample
from salience.system.errors import UserError

SHAPE = (12, 16)
SIGMA = 1.5
CALIBRATION_OF_A_SET = Adaptation(
    contrast=1.3, blur=0.01, centre_share=0.1, centre_power=0.2, uniform_share=0.02
)


@pytest.fixture
def density(rng):
    """Return a density on 12 x 16 pixels: three places, and a little everywhere."""
    counts = np.zeros(SHAPE)
    counts[3, 4], counts[8, 11], counts[9, 3] = 6, 3, 1
    return as_distribution(blurred(counts, 1.2) + 0.002 + 0.001 * rng.random(SHAPE))


def rivals(best, rng):
    """Yield maps near the best one, and others."""
    for share in (0.01, 0.1, 0.5):
        for _ in range(5):
            yield np.maximum(best * (1 + share * rng.standard_normal(best.shape)), 1e-12)
    yield from (best**power for power in (0.5, 0.9, 1.1, 2))
    yield from (blurred(best, sigma) + 1e-12 for sigma in (0.5, 1, 2))


def every_pixel():
    """Return each pixel of the grid as a fixation, [n, 1, 2]."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack([x, y], axis=-1).reshape(-1, 1, 2).astype(float)


# Log-densities


@pytest.mark.parametrize("calibration", [IDENTITY, CALIBRATION_OF_A_SET])
@pytest.mark.parametrize("shape", [(1, 1), (12, 16), (480, 640), (1500, 2100)])
def test_a_log_density_sums_to_one_and_is_the_logarithm_of_the_density(shape, calibration, rng):
    saliency_map = blurred(rng.random(shape), 2).astype(np.float32)
    saliency_map /= saliency_map.max()
    made = log_density(saliency_map, calibration)
    assert made.dtype == np.float32 and made.shape == shape
    assert abs(logsumexp(made.astype(np.float64))) < 1e-5
    expected = calibration.density(saliency_map.astype(np.float64))
    assert np.allclose(np.exp(made.astype(np.float64)), expected / expected.sum(), rtol=1e-5)


@pytest.mark.slow
def test_a_log_density_of_36_megapixels_sums_to_one(rng):
    row = rng.random(6000).astype(np.float32)
    made = log_density(np.outer(row, row), CALIBRATION_OF_A_SET)
    assert abs(logsumexp(made.astype(np.float64))) < 1e-4


def test_steep_calibrations_do_not_round_a_density_to_zero():
    """Single precision would: 1e-6 to the tenth power."""
    steep = np.array([[1.0, 1e-6]], np.float32)
    for calibration in (Adaptation(contrast=10.0), Adaptation(contrast=10.0, blur=0.001)):
        made = log_density(steep, calibration)
        assert np.isfinite(made).all() and made[0, 1] < -100


def test_zeros_become_minus_infinity_and_an_empty_map_uniform():
    made = log_density(np.array([[0.0, 1.0], [1.0, 2.0]]))
    assert made[0, 0] == -np.inf and logsumexp(made) == pytest.approx(0, abs=1e-6)
    assert log_density(np.zeros((2, 2))) == pytest.approx(np.log(0.25))


def test_densities_and_log_densities_are_recognised(density):
    with np.errstate(divide="ignore"):
        with_zero = np.log(as_distribution(np.maximum(density - np.median(density), 0)))
    assert density_kind(density) == density_kind(density.astype(np.float32)) == "densities"
    assert density_kind(np.log(density)) == density_kind(with_zero) == "log-densities"
    assert density_kind(np.log(density).astype(np.float16)) == "log-densities"
    assert density_kind(np.full(SHAPE, -np.log(12 * 16))) == "log-densities"
    for other in (
        density / density.max(),
        density * 1.01,
        np.log(density) + 0.01,
        np.log2(density),
        np.log(density) * np.nan,
        np.where(density < np.median(density), np.nan, density),
        np.full(SHAPE, -np.inf),
        np.full(SHAPE, np.inf),
        density - density.mean(),
        np.eye(1, dtype=np.uint8),
        np.zeros((0, 4)),
    ):
        assert density_kind(other) is None


def test_a_calibration_goes_into_a_card_and_back():
    fit = AdaptationFit(CALIBRATION_OF_A_SET, mean_interval([0.1, 0.2], 0), True)
    card = {CALIBRATION: json.loads(json.dumps(calibration_entry(fit, {"dataset": "osie"})))}
    assert card[CALIBRATION]["dataset"] == "osie"
    assert calibration_of(card, "a.weights.h5") == CALIBRATION_OF_A_SET
    assert calibration_of({}, "a.weights.h5") is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("yes", "has not the parameters contrast"),
        ({"parameters": {"contrast": 1.0}}, "has not the parameters contrast"),
        ({"parameters": {**vars(IDENTITY), "contrast": "high"}}, "contrast is 'high'"),
        ({"parameters": {**vars(IDENTITY), "blur": 7}}, "blur is '7'"),
    ],
)
def test_a_damaged_calibration_is_one_line(entry, message):
    with pytest.raises(UserError, match=message) as error:
        calibration_of({CALIBRATION: entry}, "a.weights.h5")
    assert str(error.value).startswith("a.weights.h5: ") and "\n" not in str(error.value)


# LL


def test_ll_is_the_mean_logarithm_above_uniform_and_ig_its_difference(density, rng):
    fixations = rng.uniform((0, 0), (15, 11), (20, 2))
    cells = np.floor(fixations + 0.5).astype(int)
    expected = np.log2(density[cells[:, 1], cells[:, 0]] * density.size).mean()
    assert ll(density, fixations) == pytest.approx(expected, abs=1e-9)
    baseline = rng.random(SHAPE) + 0.1
    difference = ll(density, fixations) - ll(baseline, fixations)
    assert ig(density, fixations, baseline) == pytest.approx(difference, abs=1e-9)
    assert ll(np.ones(SHAPE), fixations) == 0


# Best maps, by brute force


@pytest.mark.parametrize("metric", [nss, auc_judd, ll])
def test_no_map_has_a_higher_expected_score_than_the_density(metric, density, rng):
    def expected(saliency_map):
        return float(density.ravel() @ [metric(saliency_map, one) for one in every_pixel()])

    best = expected(density)
    assert best > expected(best_for_cc_and_kld(density, SIGMA)) + 1e-3
    for other in rivals(density, rng):
        assert expected(other) <= best + 1e-12


def test_no_map_has_a_higher_expected_sauc_than_the_likelihood_ratio(density, rng):
    centre = as_distribution(blurred(np.pad([[1.0]], ((6, 5), (8, 7))), 3) + 1e-3)
    # negatives in the shares of the centre bias: each pair of pixels is weighed by both densities
    pixels = every_pixel()

    def expected(saliency_map):
        values = np.asarray(saliency_map).ravel()
        wins = (values[:, None] > values) + 0.5 * (values[:, None] == values)
        return float(density.ravel() @ wins @ centre.ravel())

    best = best_for_sauc(density, centre)
    for other in (density, *rivals(best, rng)):
        assert expected(other) <= expected(best) + 1e-12
    assert expected(best) > expected(density) + 0.01
    # `sauc` has the same definition: one fixation against one negative
    assert sauc(best, pixels[5], pixels[9]) in (0, 0.5, 1)


def test_no_map_has_a_lower_expected_kld_than_the_blurred_density(rng):
    """Exactly: all density maps of one fixation, away from the border, which cuts some off."""
    inner = np.zeros(SHAPE)
    inner[6, 6:10] = rng.random(4) + 0.1
    inner = as_distribution(inner)
    truths = [(p, blurred(np.eye(1, inner.size, i).reshape(SHAPE), 0.9))
              for i, p in enumerate(inner.ravel()) if p]  # fmt: skip

    def expected(saliency_map):
        return sum(p * kld(saliency_map, truth) for p, truth in truths)

    best = best_for_cc_and_kld(inner, 0.9)
    assert expected(best) < expected(inner) - 1
    for other in rivals(best, rng):
        assert expected(other) >= expected(best) - 1e-9


def test_the_blurred_density_has_a_higher_expected_cc_than_the_density(density, rng):
    truths = simulated_truths(density, SIGMA, 200, 300, seed=1).astype(float)

    def expected(saliency_map):
        return float(np.mean([cc(saliency_map, truth) for truth in truths]))

    best = expected(best_for_cc_and_kld(density, SIGMA))
    assert best > expected(density) + 0.02
    # the best map of all is the mean of the standardised truths; many fixations come near it
    spread = truths.std(axis=(1, 2), keepdims=True)
    limit = expected(((truths - truths.mean(axis=(1, 2), keepdims=True)) / spread).mean(axis=0))
    assert limit - 2e-3 < best <= limit + 1e-12


def test_the_map_for_sim_is_that_of_a_linear_program():
    """Maximise the mean of sum min(s, t): variables z <= s, z <= t for each t."""
    grid = as_distribution(np.random.default_rng(3).random((4, 5)) ** 3)
    truths = simulated_truths(grid, 0.8, 6, 12, seed=2).reshape(12, -1).astype(float)
    n, size = truths.shape
    cost = np.r_[np.zeros(size), np.full(n * size, -1 / n)]
    below = np.hstack([-np.tile(np.eye(size), (n, 1)), np.eye(n * size)])
    bounds = [(0, None)] * size + [(0, value) for value in truths.ravel()]
    total = np.r_[np.ones(size), np.zeros(n * size)][None]
    found = linprog(cost, below, np.zeros(n * size), total, [1.0], bounds)
    best = highest_mean_overlap(truths)
    assert best.sum() == pytest.approx(1) and best.min() >= 0
    assert np.minimum(best, truths).sum(axis=1).mean() == pytest.approx(-found.fun, abs=2e-3)


def test_the_map_for_sim_beats_others_on_unseen_fixations(density, rng):
    unseen = simulated_truths(density, SIGMA, 6, 500, seed=5)

    def expected(saliency_map):
        return float(np.mean([sim(saliency_map, truth) for truth in unseen]))

    best = best_for_sim(density, SIGMA, 6, seed=1)
    blurred_density = best_for_cc_and_kld(density, SIGMA)
    assert best.sum() == pytest.approx(1)
    assert expected(best) > expected(blurred_density) + 0.005
    for other in rivals(blurred_density, rng):
        assert expected(best) > expected(other)


def test_a_coarse_grid_for_sim_loses_nothing():
    """Pictures of photographs' size are optimised on a grid of three cells a standard deviation."""
    rng = np.random.default_rng(0)
    density = as_distribution(blurred(rng.random((60, 90)) ** 20, 3) + 1e-4)
    unseen = simulated_truths(density, 6.0, 40, 200, seed=5)
    fine = highest_mean_overlap(simulated_truths(density, 6.0, 40, 400).reshape(400, -1))
    values = [
        np.minimum(one.reshape(1, 60, 90), unseen).sum(axis=(1, 2)).mean()
        for one in (fine, best_for_sim(density, 6.0, 40))
    ]
    assert values[1] == pytest.approx(values[0], abs=2e-3)


def test_scores_of_best_maps_have_all_metrics_and_know_none_for_some(rng, tmp_path, density):
    import cv2

    samples = []
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((*SHAPE, 3), np.uint8))
        points = rng.uniform((0, 0), (15, 11), (24, 2)).astype(np.float32)
        samples.append(
            Sample(f"{i}.png", tmp_path / f"{i}.png", fixations=points, sigma_pixels=SIGMA,
                   subjects=np.arange(24, dtype=np.int32) % 4)
        )  # fmt: skip
    split = TruthSplit(samples)
    truth = split.truth(0)
    found, plain = optimal_scores(truth, density, 24), truth.score(density)
    assert found.keys() == plain.keys()
    for name in ("nss", "auc_judd", "auc_borji", "ig", "ll"):
        assert found[name] == plain[name]
    for name in ("emd", "ssim", "mse"):
        assert np.isnan(found[name])
    for name in HALVED:
        assert np.isfinite(found[f"{name}_vs_half"])
    assert found["kld"] != plain["kld"]
    few = TruthSplit(samples, names=("ssim",), human=False).truth(0)
    assert optimal_scores(few, density, 24).keys() == {"ssim"}


# pysaliency


@needs(SHARED / "osie")
def test_best_maps_score_as_pysaliencys_do():
    scenes = osie_scenes(SHARED / "osie")
    golden = json.loads(parity.GOLDEN.read_text())
    assert golden["versions"]["pysaliency"] == "0.2.22"
    assert golden["pictures"] == [scene.name for scene in scenes]
    for mine, theirs in zip(parity.ours(scenes), golden["scores"], strict=True):
        for name in parity.COMPARED:
            assert mine[name] == pytest.approx(theirs[name], abs=parity.TOLERANCE), name
