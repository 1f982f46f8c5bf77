"""Every metric: closed forms, edges, properties, and brute force where the code is clever."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from salience.measures import metrics
from salience.measures.metrics import (
    BUCKETS,
    EPSILON,
    JITTER,
    METRICS,
    PROFILES,
    SPLITS,
    as_distribution,
    auc_borji,
    auc_judd,
    cc,
    emd,
    from_8bit,
    ig,
    kld,
    mean_scores,
    mse,
    nss,
    sauc,
    score,
    sim,
    ssim,
    unit_range,
)
from salience.pictures.fixations import centre_bias, density_map

MAPS = arrays(np.float32, (5, 7), elements=st.integers(0, 50).map(float))
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=12).map(
    lambda p: np.array(p, np.float32)
)
NOBODY = np.zeros((0, 2))
OUTSIDE = np.array([[-3.0, 1.0], [1.0, 99.0], [np.nan, 1.0]])
EVERY = [(profile, name) for profile, rows in PROFILES.items() for name in rows]
every_metric = pytest.mark.parametrize(("profile", "name"), EVERY)
ASKS_FIXATIONS = [row for row in EVERY if METRICS[row[1]].truth == "fixations"]
ASKS_DENSITY = [row for row in EVERY if METRICS[row[1]].truth == "density_map"]
RANGES = {
    "cc": (-1, 1),
    "nss": (-np.inf, np.inf),
    "auc_judd": (0, 1),
    "auc_borji": (0, 1),
    "sauc": (0, 1),
    "ig": (-np.inf, np.inf),
    "ll": (-np.inf, np.inf),
    "sim": (0, 1),
    "kld": (0, np.inf),
    "emd": (0, np.inf),
    "ssim": (-1, 1),
    "mse": (0, 1),
}


@pytest.fixture
def scene():
    """Return a picture of 40 x 60 pixels: map, density, fixations, others, baseline."""
    rng = np.random.default_rng(1)
    fixations = rng.normal((20, 25), (6, 4), (30, 2)).clip(0, (59, 39))
    others = rng.normal((30, 20), (12, 8), (90, 2)).clip(0, (59, 39))
    baseline = centre_bias([(others, (40, 60))], (40, 60), 5) + 0.01
    seen = density_map(fixations[::2], (40, 60), 3).astype(float)
    return {
        "saliency_map": seen + 0.2 * rng.random((40, 60)),
        "density_map": density_map(fixations, (40, 60), 3).astype(float),
        "fixations": fixations,
        "others": others,
        "baseline": baseline.astype(float),
    }


def one_score(scene, profile, name, **changes):
    """Return one metric of a scene, through the same door as every caller."""
    given = {**scene, **changes}
    truth = [given.pop(key) for key in ("saliency_map", "density_map", "fixations")]
    return score(*truth, (name,), profile=profile, **given)[name]


def brute_force_auc(positives, negatives):
    """Every pair, counted one by one."""
    return np.mean([(a > b) + 0.5 * (a == b) for a in positives for b in negatives])


def at(saliency_map, fixations):
    return [saliency_map[int(y), int(x)] for x, y in fixations]


def walked(positives, negatives, thresholds):
    """The area under a ROC curve, threshold by threshold, as the MATLAB code walks it."""
    hits = [np.mean(np.asarray(positives) >= t) for t in sorted(thresholds, reverse=True)]
    alarms = [np.mean(np.asarray(negatives) >= t) for t in sorted(thresholds, reverse=True)]
    return np.trapezoid([0, *hits, 1], [0, *alarms, 1])


# What holds of every row of the tables


def test_the_tables_agree_on_names_and_say_what_they_are():
    for rows in PROFILES.values():
        assert list(rows) == list(METRICS) == list(RANGES)
        for name, metric in rows.items():
            assert metric.variant
            assert metric.name == METRICS[name].name
            assert metric.truth in ("fixations", "density_map")
    assert "plain AUC" in METRICS["auc_judd"].variant
    assert "unfixated" in PROFILES["mit"]["auc_judd"].variant


@every_metric
def test_a_score_is_a_float_in_its_range(scene, profile, name):
    value = one_score(scene, profile, name)
    assert type(value) is float
    assert RANGES[name][0] <= value <= RANGES[name][1]


@every_metric
def test_a_good_map_beats_noise(scene, profile, name, rng):
    good, bad = scene["saliency_map"], rng.random((40, 60))
    better = one_score(scene, profile, name) - one_score(
        {**scene, "saliency_map": bad}, profile, name
    )
    assert not np.array_equal(good, bad)
    assert (better > 0) == METRICS[name].higher_is_better


@every_metric
def test_nothing_is_changed_and_nothing_but_the_seed_is_random(scene, profile, name):
    for values in scene.values():
        values.flags.writeable = False
    assert one_score(scene, profile, name, seed=4) == one_score(scene, profile, name, seed=4)


@every_metric
def test_strides_and_number_types_do_not_matter(scene, profile, name):
    steps = np.round(scene["saliency_map"] * 100)  # whole numbers, exact in every type
    expected = one_score({**scene, "saliency_map": steps}, profile, name)
    spread = np.zeros((80, 120))
    spread[::2, ::2] = steps
    changed = [steps.astype(np.uint8), steps.astype(np.int64), np.asfortranarray(steps)]
    for values in (*changed, steps.astype(np.float16), steps.astype("f4"), spread[::2, ::2]):
        assert one_score({**scene, "saliency_map": values}, profile, name) == pytest.approx(
            expected, rel=1e-12, abs=1e-12
        )


@every_metric
def test_nan_in_a_map_gives_nan(scene, profile, name):
    saliency_map = scene["saliency_map"].copy()
    saliency_map[0, 59] = np.nan  # where nobody looked
    assert np.isnan(one_score({**scene, "saliency_map": saliency_map}, profile, name))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize(
    ("profile", "name"), [row for row in EVERY if row[0] == "mit" or "auc" not in row[1]]
)
def test_an_infinity_gives_nan_where_more_than_its_rank_counts(scene, profile, name, value):
    saliency_map = scene["saliency_map"].copy()
    saliency_map[0, 59] = value
    assert np.isnan(one_score({**scene, "saliency_map": saliency_map}, profile, name))


@pytest.mark.parametrize(("profile", "name"), ASKS_FIXATIONS)
@pytest.mark.parametrize("points", [NOBODY, OUTSIDE], ids=["none", "outside"])
def test_without_fixations_there_is_no_score(scene, profile, name, points):
    assert np.isnan(one_score({**scene, "fixations": points}, profile, name))


@every_metric
def test_fixations_outside_the_picture_do_not_count(scene, profile, name):
    more = np.concatenate([scene["fixations"], OUTSIDE])
    assert one_score({**scene, "fixations": more}, profile, name) == one_score(scene, profile, name)


@pytest.mark.parametrize(("profile", "name"), [*ASKS_DENSITY, *[(p, "ig") for p in PROFILES]])
def test_maps_of_two_sizes_are_refused(scene, profile, name):
    key = "baseline" if name == "ig" else "density_map"
    with pytest.raises(ValueError, match=r"40 x 60 .* but truth of 40 x 59"):
        one_score({**scene, key: scene[key][:, :-1]}, profile, name)


@every_metric
@pytest.mark.parametrize("value", [0.0, 0.1, 3.0])
def test_a_constant_map_scores_what_chance_scores(scene, profile, name, value):
    got = one_score({**scene, "saliency_map": np.full((40, 60), value)}, profile, name)
    chance = {"nss": 0, "cc": 0, "auc_judd": 0.5, "auc_borji": 0.5, "sauc": 0.5}
    if (profile, name) == ("mit", "auc_judd"):
        assert got == pytest.approx(0.5, abs=0.15)  # the jitter ranks the pixels
    elif name in chance:
        assert got == chance[name]
    elif name in ("ig", "sim", "kld", "emd"):
        uniform = {**scene, "saliency_map": np.full((40, 60), 1 / 2400)}
        assert got == pytest.approx(one_score(uniform, profile, name))
    else:  # SSIM and MSE scale it to zeros
        assert got == one_score({**scene, "saliency_map": np.zeros((40, 60))}, profile, name)


@pytest.mark.parametrize(("profile", "name"), ASKS_DENSITY)
def test_a_constant_density_map_is_no_truth(scene, profile, name):
    assert np.isnan(one_score({**scene, "density_map": np.ones((40, 60))}, profile, name))


@pytest.mark.parametrize(
    ("profile", "name"),
    [row for row in EVERY if row[1] not in ("ig", "ll", "sim", "kld", "emd", "cc")],
)
def test_maps_below_zero_are_maps_too(scene, profile, name):
    lower = {**scene, "saliency_map": scene["saliency_map"] - 5}
    assert one_score(lower, profile, name) == pytest.approx(one_score(scene, profile, name))


@pytest.mark.parametrize("name", ["ig", "ll", "sim", "kld", "emd"])
def test_where_shares_are_asked_the_least_negative_value_becomes_zero(scene, name):
    grounded = scene["saliency_map"] - scene["saliency_map"].min()
    lower = one_score({**scene, "saliency_map": grounded - 5}, "tuebingen", name)
    assert lower == pytest.approx(
        one_score({**scene, "saliency_map": grounded}, "tuebingen", name), abs=1e-6
    )


@pytest.mark.parametrize("name", [name for name in METRICS if "auc" in name])
def test_aucs_rank_infinities(scene, name):
    values = np.log(scene["saliency_map"])
    ranked, floored = (np.where(values > -2, values, least) for least in (-np.inf, -1e3))
    assert one_score({**scene, "saliency_map": ranked}, "tuebingen", name) == one_score(
        {**scene, "saliency_map": floored}, "tuebingen", name
    )


@pytest.mark.parametrize(("profile", "name"), ASKS_FIXATIONS)
def test_duplicates_count_by_default_and_are_merged_by_the_mit_profile(scene, profile, name):
    peak = np.argmax(scene["saliency_map"])
    best = np.array([[peak % 60, peak // 60]], float)
    once = {**scene, "fixations": np.concatenate([scene["fixations"], best])}
    often = {**scene, "fixations": np.concatenate([scene["fixations"], *[best] * 20])}
    if profile == "mit":
        assert one_score(often, profile, name) == one_score(once, profile, name)
    else:
        assert one_score(often, profile, name) > one_score(once, profile, name)


# score and its kin


def test_score_leaves_a_gap_where_the_truth_is_absent(scene):
    whole = score(*list(scene.values())[:3], others=scene["others"], baseline=scene["baseline"])
    assert list(whole) == list(METRICS)
    assert not np.isnan(list(whole.values())).any()
    for key, gaps in {
        "density_map": {name for _, name in ASKS_DENSITY},
        "fixations": {name for _, name in ASKS_FIXATIONS},
        "others": {"sauc"},
        "baseline": {"ig"},
    }.items():
        given = {**scene, key: None}
        truth = [given.pop(k) for k in ("saliency_map", "density_map", "fixations")]
        assert {name for name, v in score(*truth, **given).items() if np.isnan(v)} == gaps


def test_mean_scores_leaves_out_gaps():
    rows = [{"cc": 1.0, "nss": np.nan}, {"cc": 0.0, "nss": np.nan}]
    means = mean_scores(rows)
    assert means["cc"] == 0.5
    assert np.isnan(means["nss"])
    assert list(mean_scores(rows, ("cc",))) == ["cc"]


def test_importing_the_metrics_imports_no_more_than_numpy_and_scipy():
    heavy = "{'ot', 'skimage', 'cv2', 'keras', 'tensorflow'}"
    code = f"import sys; from salience.measures import metrics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# AUC-Judd


@given(MAPS, POINTS)
def test_auc_equals_counting_every_pair(saliency_map, fixations):
    expected = brute_force_auc(at(saliency_map, fixations), saliency_map.ravel())
    assert auc_judd(saliency_map, fixations) == pytest.approx(expected)


@given(MAPS, POINTS)
def test_auc_survives_any_monotone_change(saliency_map, fixations):
    assert auc_judd(saliency_map**3 + 2, fixations) == auc_judd(saliency_map, fixations)
    assert auc_judd(np.log1p(saliency_map), fixations) == auc_judd(saliency_map, fixations)
    assert auc_judd(-saliency_map, fixations) == pytest.approx(
        1 - auc_judd(saliency_map, fixations)
    )


def test_a_fixation_belongs_to_the_pixel_whose_centre_is_nearest():
    saliency_map = np.zeros((3, 4))
    saliency_map[1, 2] = 1
    inside = [(1.5, 0.5), (2.49, 1.49), (2.0, 1.0)]
    outside = [(1.49, 1.0), (2.5, 1.0), (2.0, 1.5)]
    best = 1 - 0.5 / 12  # the pixel itself is one of the negatives, and a tie
    assert [auc_judd(saliency_map, np.array([p])) for p in inside] == pytest.approx([best] * 3)
    assert all(auc_judd(saliency_map, np.array([p])) < 0.5 for p in outside)


@given(MAPS, POINTS, st.integers(0, 9))
def test_mit_auc_judd_is_the_curve_walked_at_the_fixations(saliency_map, fixations, seed):
    cells = {(int(y), int(x)) for x, y in fixations}
    assume(len(cells) < saliency_map.size)
    jitter = np.random.default_rng(seed).random(saliency_map.shape) * JITTER
    values = unit_range(saliency_map) + jitter
    here = [values[cell] for cell in cells]
    elsewhere = [v for cell, v in np.ndenumerate(values) if cell not in cells]
    got = auc_judd(saliency_map, fixations, seed, "mit")
    assert got == pytest.approx(walked(here, elsewhere, here))
    # that curve cuts the corners of the exact one
    assert -1e-12 <= got - brute_force_auc(here, elsewhere) <= 0.5 / len(here) + 1e-12


def test_mit_auc_judd_without_an_unfixated_pixel_is_a_gap():
    everywhere = np.array([[x, y] for x in range(3) for y in range(2)], float)
    assert np.isnan(auc_judd(np.eye(2, 3), everywhere, profile="mit"))


# AUC-Borji and sAUC


@given(MAPS, POINTS, st.integers(0, 9))
@settings(max_examples=25)
def test_auc_borji_is_the_mean_over_the_splits(saliency_map, fixations, seed):
    draws = np.random.default_rng(seed).integers(35, size=(SPLITS, len(fixations)))
    splits = [brute_force_auc(at(saliency_map, fixations), saliency_map.ravel()[d]) for d in draws]
    assert auc_borji(saliency_map, fixations, seed) == pytest.approx(np.mean(splits))


@given(MAPS, POINTS, st.integers(0, 9))
@settings(max_examples=25)
def test_mit_auc_borji_is_the_curve_walked_in_tenths(saliency_map, fixations, seed):
    values = unit_range(saliency_map)
    merged = np.unique(fixations[:, ::-1].astype(int), axis=0)
    here = [values[tuple(cell)] for cell in merged]
    draws = np.random.default_rng(seed).integers(35, size=(SPLITS, len(here)))
    tenths = np.arange(11) * 0.1
    splits = [
        walked(here, away, tenths[tenths <= max(*here, *away, 0)]) for away in values.ravel()[draws]
    ]
    assert auc_borji(saliency_map, fixations, seed, "mit") == pytest.approx(np.mean(splits))


@given(MAPS, POINTS, POINTS)
def test_sauc_equals_counting_every_pair(saliency_map, fixations, others):
    expected = brute_force_auc(at(saliency_map, fixations), at(saliency_map, others))
    assert sauc(saliency_map, fixations, others) == pytest.approx(expected)
    assert sauc(saliency_map**3, fixations, others) == pytest.approx(expected)


@given(MAPS, POINTS)
def test_sauc_against_the_same_fixations_is_a_half(saliency_map, fixations):
    assert sauc(saliency_map, fixations, fixations) == 0.5


def test_sauc_gives_a_centre_bias_nothing(rng):
    centre = rng.normal((30, 20), 5, (2000, 2))
    bias = density_map(centre, (40, 60), 5)
    assert auc_judd(bias, centre[:1000]) > 0.8
    assert sauc(bias, centre[:1000], centre[1000:]) == pytest.approx(0.5, abs=0.02)


def test_sauc_of_a_sample_is_near_that_of_all(scene):
    saliency_map, fixations, others = (scene[k] for k in ("saliency_map", "fixations", "others"))
    exact = sauc(saliency_map, fixations, others)
    samples = [sauc(saliency_map, fixations, others, seed, samples=45) for seed in range(20)]
    assert len(set(samples)) > 10
    assert np.mean(samples) == pytest.approx(exact, abs=0.01)
    assert sauc(saliency_map, fixations, others, 3, samples=len(others)) == exact


def test_without_others_there_is_no_sauc(scene):
    for others in (NOBODY, OUTSIDE):
        assert np.isnan(sauc(scene["saliency_map"], scene["fixations"], others))
        assert np.isnan(sauc(scene["saliency_map"], scene["fixations"], others, profile="mit"))


@given(MAPS, POINTS, POINTS, st.integers(0, 9))
@settings(max_examples=25)
def test_mit_sauc_is_the_curve_walked_in_tenths(saliency_map, fixations, others, seed):
    values = unit_range(saliency_map)
    here, away = (
        np.unique([int(y) * 7 + int(x) for x, y in points]) for points in (fixations, others)
    )
    rng, count = np.random.default_rng(seed), min(len(here), len(away))
    tenths = np.arange(11) * 0.1
    splits = []
    for _ in range(SPLITS):
        drawn = values.ravel()[rng.choice(away, count, replace=False)]
        positives = values.ravel()[here]
        splits.append(walked(positives, drawn, tenths[tenths <= max(*positives, *drawn, 0)]))
    assert sauc(saliency_map, fixations, others, seed, profile="mit") == pytest.approx(
        np.mean(splits)
    )


def test_mit_sauc_knows_only_tenths():
    saliency_map = np.array([[0.0, 0.41, 0.49, 1.0]])
    fixation, other = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]])
    assert sauc(saliency_map, fixation, other) == 1
    assert sauc(saliency_map, fixation, other, profile="mit") == 0.5


# The counting behind all of them


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda rng, n: rng.random(n), "f8"),
        (lambda rng, n: rng.random(n), "f4"),
        (lambda rng, n: rng.random(n), "f2"),
        (lambda rng, n: rng.integers(0, 256, n), "u1"),
        (lambda rng, n: rng.integers(-(2**40), 2**40, n), "i8"),
        (lambda rng, n: rng.random(n) ** 40, "f8"),  # nearly all in the lowest bucket
        (lambda rng, n: rng.normal(size=n) * 1e-300, "f8"),
        (lambda rng, n: rng.normal(size=n) * 1e307, "f8"),
        (lambda rng, n: rng.choice([-3e38, 0, 3e38], n), "f4"),  # a range beyond 32 bits
        (lambda rng, n: np.where(rng.random(n) < 0.3, -np.inf, rng.random(n)), "f8"),
        (lambda rng, n: np.full(n, 0.1), "f8"),
        (lambda rng, n: 1 + np.finfo(float).eps * rng.integers(0, 9, n), "f8"),
        (lambda rng, n: np.round(rng.random(n), 2), "f8"),
    ],
)
def test_counting_in_buckets_is_exact(rng, make, dtype):
    size = BUCKETS // 4 + 5000
    population = make(rng, size).astype(dtype)
    points = rng.choice(population, 60)
    below, equal = metrics._count_below_and_equal(points, population)
    assert below.tolist() == [(population < p).sum() for p in points]
    assert equal.tolist() == [(population == p).sum() for p in points]


def test_counting_places_points_beyond_the_population(rng):
    population = rng.random(BUCKETS)
    below, equal = metrics._count_below_and_equal(np.array([-1.0, 2.0]), population)
    assert below.tolist() == [0, BUCKETS]
    assert equal.tolist() == [0, 0]


# NSS and IG


@given(MAPS, MAPS, POINTS)
def test_nss_and_cc_survive_affine_changes(saliency_map, density_map, fixations):
    changed = 3 * saliency_map.astype(float) + 4
    assert nss(changed, fixations) == pytest.approx(nss(saliency_map, fixations), abs=1e-9)
    assert cc(changed, density_map) == pytest.approx(
        cc(saliency_map, density_map), abs=1e-9, nan_ok=True
    )
    assert nss(-changed, fixations) == pytest.approx(-nss(saliency_map, fixations), abs=1e-9)


def test_nss_of_a_standardised_map_is_its_value_at_the_fixation(rng):
    values = rng.normal(size=(20, 30))
    values = (values - values.mean()) / values.std()
    assert nss(values, np.array([[12.0, 5.0]])) == pytest.approx(values[5, 12])
    values /= values.std(ddof=1)
    assert nss(values, np.array([[12.0, 5.0]]), "mit") == pytest.approx(values[5, 12])


def test_nss_of_all_pixels_is_zero(rng):
    everywhere = np.array([[x, y] for x in range(30) for y in range(20)], float)
    assert nss(rng.random((20, 30)), everywhere) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("profile", PROFILES)
def test_ig_of_the_baseline_is_zero(scene, profile):
    baseline = scene["baseline"]
    assert ig(baseline, scene["fixations"], baseline, profile) == 0
    assert ig(7 * baseline, scene["fixations"], baseline, profile) == pytest.approx(0, abs=1e-9)


def test_ig_by_hand():
    saliency_map, uniform = np.array([[1.0, 3.0, 4.0, 0.0]]), np.ones((1, 4))
    fixations = np.array([[0.0, 0.0], [1.0, 0.0]])
    expected = np.mean(np.log2([1 / 8, 3 / 8])) - np.log2(1 / 4)
    assert ig(saliency_map, fixations, uniform) == pytest.approx(expected)


def test_ig_of_a_zero_where_somebody_looked_is_dear_but_finite():
    saliency_map, uniform = np.array([[1.0, 0.0]]), np.ones((1, 2))
    expected = np.log2(EPSILON) - np.log2(0.5)
    assert ig(saliency_map, np.array([[1.0, 0.0]]), uniform) == pytest.approx(expected)


def test_mit_ig_takes_the_least_value_from_both_maps():
    saliency_map, baseline = np.array([[3.0, 4.0, 5.0]]), np.array([[1.0, 3.0, 5.0]])
    # both become 0, 1/3, 2/3
    assert ig(saliency_map, np.array([[2.0, 0.0]]), baseline, "mit") == pytest.approx(0)
    assert ig(saliency_map, np.array([[2.0, 0.0]]), baseline) < -0.1


# CC, SIM, KLD, MSE, SSIM


@given(MAPS, MAPS)
def test_ranges_and_symmetry(a, b):
    for profile in PROFILES:
        assert 0 <= sim(a, b, profile) <= 1 + 1e-12
        assert sim(a, b, profile) == pytest.approx(sim(b, a, profile))
        assert sim(a, a, profile) == pytest.approx(1)
    assert kld(a, b) >= -1e-9
    assert kld(a, a) == pytest.approx(0, abs=1e-9)
    assert 0 <= mse(a, b) <= 1
    assert mse(a, b) == pytest.approx(mse(b, a))
    assert mse(a, a) == 0
    assert np.isnan(cc(a, b)) or abs(cc(a, b)) <= 1 + 1e-12


@given(MAPS, MAPS)
def test_shares_do_not_know_the_scale(a, b):
    assert sim(5 * a, b) == pytest.approx(sim(a, b))
    assert kld(5 * a, b) == pytest.approx(kld(a, b), abs=1e-9)
    assert mse(5 * a + 3, b) == pytest.approx(mse(a, b))
    assert sim(5 * a + 3, b, "mit") == pytest.approx(sim(a, b, "mit"))


def test_cc_is_numpys(rng):
    a, b = rng.random((20, 30)), rng.random((20, 30))
    assert cc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_cc_of_a_constant_density_map_is_a_gap(rng):
    assert np.isnan(cc(rng.random((5, 7)), np.ones((5, 7))))


def test_kld_by_hand():
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert kld(np.array([[2.0, 2.0]]), np.array([[3.0, 1.0]])) == pytest.approx(expected)


def test_kld_of_a_map_that_misses_everything_is_what_the_epsilon_lets_it_be():
    missed = kld(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert missed == pytest.approx(-np.log(EPSILON))
    assert sim(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 0


def test_an_all_zero_map_is_the_uniform_one():
    assert as_distribution(np.zeros((2, 5))).tolist() == [[0.1] * 5] * 2
    truth = np.arange(10.0).reshape(2, 5)
    assert kld(np.zeros((2, 5)), truth) == kld(np.ones((2, 5)), truth)


def test_sim_with_and_without_min_max():
    a, b = np.array([[2.0, 4.0, 4.0]]), np.array([[0.0, 1.0, 1.0]])
    assert sim(a, b) == pytest.approx(0.8)
    assert sim(a, b, "mit") == pytest.approx(1)


def test_half_a_step_undoes_most_of_what_rounding_to_8_bits_does_to_kld():
    rows, columns = np.mgrid[:60, :80]
    truth = np.exp(-((rows - 20) ** 2 + (columns - 25) ** 2) / 200.0)
    saliency_map = np.exp(-((rows - 30) ** 2 + (columns - 40) ** 2) / 300.0)
    stored = np.round(255 * saliency_map).astype(np.uint8)
    in_floats = kld(saliency_map, truth)
    as_stored, half_a_step_up = kld(stored, truth), kld(from_8bit(stored), truth)
    assert abs(half_a_step_up - in_floats) < 0.5 * abs(as_stored - in_floats)
    points = np.array([[25.0, 20.0], [40.0, 31.0]])
    assert nss(from_8bit(stored), points) == pytest.approx(nss(stored, points))
    assert auc_judd(from_8bit(stored), points) == auc_judd(stored, points)


def test_ssim_of_a_map_and_its_inverse(rng):
    values = rng.random((20, 30))
    assert ssim(values, values) == pytest.approx(1)
    assert ssim(4 * values + 2, values) == pytest.approx(1)
    assert ssim(-values, values) < 0
    assert ssim(values, rng.random((20, 30))) == pytest.approx(0, abs=0.1)


def test_ssim_needs_a_window():
    assert np.isnan(ssim(np.eye(10, 30), np.eye(10, 30)))
    assert ssim(np.eye(11, 30), np.eye(11, 30)) == pytest.approx(1)


# EMD


@given(
    arrays(np.float64, (1, 9), elements=st.integers(0, 9).map(float)),
    arrays(np.float64, (1, 9), elements=st.integers(0, 9).map(float)),
)
@settings(max_examples=25)
def test_emd_on_a_line_is_the_distance_of_the_cumulated_shares(a, b):
    assume(a.any() and b.any())
    line = np.arange(9)
    expected = wasserstein_distance(line, line, a[0], b[0])
    assert emd(a, b, cell_pixels=1) == pytest.approx(expected, abs=1e-9)
    assert emd(b, a, cell_pixels=1) == pytest.approx(expected, abs=1e-9)


def test_emd_of_moved_mass_is_the_way_in_cells():
    a, b = np.zeros((96, 160)), np.zeros((96, 160))
    a[:32, :32] = 1
    b[64:, 96:128] = 1  # two cells down, three to the right
    assert emd(a, b) == pytest.approx(np.hypot(2, 3))
    assert emd(a, a) == pytest.approx(0, abs=1e-12)


def test_emd_knows_where_a_narrow_last_cell_lies():
    a, b = np.zeros((32, 48)), np.zeros((32, 48))
    a[:, :32] = 1
    b[:, 32:] = 1  # from the centre of pixels 0 to 31 to that of 32 to 47
    assert emd(a, b) == pytest.approx((39.5 - 15.5) / 32)


def test_mit_emd_knows_only_the_order_of_the_saliency_maps_cells(rng):
    a, b = rng.random((6, 8)), rng.random((6, 8))
    assert emd(a**3, b, 1, "mit") == pytest.approx(emd(a, b, 1, "mit"))
    assert emd(b**3, b, 1, "mit") == pytest.approx(0, abs=1e-12)
    assert emd(np.ones((6, 8)), b, 1, "mit") == pytest.approx(emd(np.ones((6, 8)), b, 1))


@pytest.mark.parametrize("shape", [(24, 32), (150, 200)], ids=["sorted", "in buckets"])
@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("name", list(METRICS))
def test_a_map_scores_as_its_multiples_do_however_small_or_large(name, profile, shape):
    rng = np.random.default_rng(3)
    saliency_map, truth = rng.random(shape), rng.random(shape)
    points = rng.uniform(0, shape[0] - 1, (30, 2))
    about = {"others": points / 2, "baseline": rng.random(shape), "seed": 1, "profile": profile}

    def found(factor, kind=np.float64):
        values = (factor * saliency_map).astype(kind)
        return metrics.score(values, truth, points, (name,), **about)[name]

    for factor in (1e-300, 1e-170, 1e-30, 1e30, 1e170, 1e308):
        assert found(factor) == pytest.approx(found(1.0), rel=1e-6, abs=1e-9), factor
        assert found(-factor) == pytest.approx(found(-1.0), rel=1e-6, abs=1e-9), -factor
    for factor in (1e-30, 1e30):
        assert found(factor, np.float32) == pytest.approx(found(1.0, np.float32), rel=1e-4)
