"""What scores are read against: the left-out centre bias, the uniform map, the observers."""

import os

import cv2
import numpy as np
import pytest

from salience.measures.metrics import cc
from salience.measures.references import (
    CENTRE_BIAS,
    GOLD,
    HALVES,
    UNIFORM,
    LeaveOneOut,
    SplitHalf,
    TruthSplit,
    _predictions,
    folds_of_half,
    folds_of_one,
    references,
    shelf_key,
    spearman_brown,
)
from salience.pictures.fixations import blurred, count_map, kernel_density, mixture_weights, pixels
from salience.pictures.sample import Sample
from salience.system.cache import Cache

SHAPE = (60, 80)


def sample_of(name, fixations, subjects=None, sigma=3.0):
    blank = np.zeros((*SHAPE, 3), np.uint8)
    return Sample(
        name,
        lambda: blank,
        None,
        np.asarray(fixations, np.float32).reshape(-1, 2),
        None if subjects is None else np.asarray(subjects, np.int32),
        sigma,
    )


def looks(rng, centre, count=8, spread=4.0):
    return rng.normal(centre, spread, (count, 2)).clip(0, (79, 59))


@pytest.fixture
def agreeing(rng):
    """Return a split in which six observers look at one place, which differs by picture."""
    places = rng.uniform((15, 15), (65, 45), (10, 2))
    return TruthSplit(
        [
            sample_of(
                f"{i}.png",
                np.concatenate([looks(rng, place) for _ in range(6)]),
                np.repeat(range(6), 8),
            )
            for i, place in enumerate(places)
        ]
    )


@pytest.fixture
def guessing(rng):
    """Return a split in which observers look anywhere."""
    return TruthSplit(
        [
            sample_of(f"{i}.png", rng.uniform((0, 0), (79, 59), (48, 2)), np.repeat(range(6), 8))
            for i in range(10)
        ]
    )


def test_the_centre_bias_of_a_picture_does_not_know_that_picture():
    corners = [[5, 5]], [[75, 5]], [[40, 55]]
    split = TruthSplit([sample_of(str(i), points) for i, points in enumerate(corners)])
    for i, points in enumerate(corners):
        (x, y), others = points[0], [p[0] for j, p in enumerate(corners) if j != i]
        without = split.centre.without(i)
        assert without.sum() == pytest.approx(1)
        assert without[y, x] < 1e-9
        expected = blurred(count_map(np.array(others), SHAPE), 3.0)
        np.testing.assert_allclose(without, expected / expected.sum(), atol=1e-7)


def test_pictures_of_other_shapes_count_where_they_lie_when_scaled():
    large = Sample("b", lambda: np.zeros((120, 160, 3), np.uint8), None, np.array([[120.0, 30.0]]))
    split = TruthSplit([sample_of("a", [[10, 10]]), large])
    assert np.unravel_index(split.centre.without(0).argmax(), SHAPE) == (15, 60)


def test_the_centre_bias_gains_nothing_over_itself_and_uniform_is_chance(agreeing):
    rows = references(TruthSplit(agreeing.samples, human=False))
    assert set(rows) == {CENTRE_BIAS, UNIFORM}
    for i in range(3):
        truth = agreeing.truth(i)
        assert rows[CENTRE_BIAS](truth)["ig"] == pytest.approx(0, abs=1e-12)
        uniform = rows[UNIFORM](truth)
        assert (uniform["nss"], uniform["auc_judd"], uniform["cc"]) == (0, 0.5, 0)


def test_a_baseline_is_computed_only_for_what_is_compared_with_it(agreeing, monkeypatch):
    asked = []
    monkeypatch.setattr(TruthSplit, "baseline", lambda split, i: asked.append(i))
    split = TruthSplit(agreeing.samples, names=("cc", "nss", "auc_judd"))
    split.truth(1).score(agreeing.truth(1).density)
    assert asked == []
    with_ig = TruthSplit(agreeing.samples, names=("ig",)).truth(1)
    assert with_ig.baseline is with_ig.baseline is None
    assert asked == [1]


def test_likelihood_gives_a_centre_bias_that_fits_badly_to_the_uniform(guessing):
    assert guessing.uniform_share > 0.5
    one_place = TruthSplit([sample_of(str(i), [[40, 30]] * 9) for i in range(5)])
    assert one_place.uniform_share < 0.01


def test_observers_who_agree_are_foretold_and_guessers_are_not(agreeing, guessing):
    good, bad = SplitHalf.fitted(agreeing), SplitHalf.fitted(guessing)
    assert sum(good.weights) == pytest.approx(1)
    assert good.weights[0] > 0.9 > 0.3 > bad.weights[0]
    assert good.score(agreeing.truth(0))["cc"] > 0.9 > bad.score(guessing.truth(0))["cc"]
    (gold,), (blind,) = agreeing.gold_standards(), guessing.gold_standards()
    assert gold.humans > 0.9 > 0.5 > blind.humans or blind.bandwidth > 4
    good, bad = references(agreeing)[GOLD], references(guessing)[GOLD]
    assert good(agreeing.truth(0))["nss"] > 2
    assert abs(bad(guessing.truth(0))["nss"]) < 0.5
    assert good(agreeing.truth(0))["ig"] > 1


def test_no_observer_is_foretold_from_himself(agreeing):
    """Two observers at two places: each one's map lies where the other looked, and only there."""
    fixations = np.array([[10, 10]] * 5 + [[70, 50]] * 5, np.float32)
    split = TruthSplit([sample_of("0.png", fixations, [0] * 5 + [1] * 5), *agreeing.samples])
    truth = split.truth(0)
    for folds in (folds_of_one, folds_of_half):
        parts = folds(np.asarray(truth.subjects), truth.seed)
        made = list(_predictions(truth, parts, 3.0, (1.0, 0.0, 0.0)))
        assert len(made) == 2
        for foretold, density, own in made:
            x, y = own[0].astype(int)
            assert foretold[y, x] < 1e-9 < density[y, x]
            assert foretold[60 - y, 80 - x] > 1e-3


def test_negatives_of_sauc_are_other_pictures_fixations(agreeing):
    for i in range(3):
        own = agreeing.pictures[i][0]
        others = np.asarray(agreeing.truth(i).others)
        assert len(others) == sum(len(p) for p, _ in agreeing.pictures) - len(own)
        assert not (others[:, None] == own).all(axis=2).any()


def test_fixations_outside_the_picture_make_no_fold(agreeing):
    fixations = np.array([[10, 10], [12, 10], [500, 500]], np.float32)
    split = TruthSplit([sample_of("0.png", fixations, [0, 1, 2]), *agreeing.samples])
    split.names = ("nss",)
    scores = LeaveOneOut(split.gold_standards()).score(split.truth(0))
    inside = TruthSplit([sample_of("0.png", fixations[:2], [0, 1]), *agreeing.samples], ("nss",))
    assert scores == LeaveOneOut(split.gold_standards()).score(inside.truth(0))
    assert np.isfinite(scores["nss"])


@pytest.mark.parametrize(("count", "asked"), [(3, 3), (10, 10), (450, 150)])
def test_shares_are_fitted_on_pictures_spread_over_the_split(agreeing, count, asked):
    split = TruthSplit(agreeing.samples)
    split.samples = [agreeing.samples[0]] * count
    chosen = split.over_fitted_pictures(lambda i: i)
    assert len(chosen) == asked
    assert max(chosen) >= count - 3


def test_model_and_observers_are_held_against_the_same_halves(agreeing):
    truth = agreeing.truth(0)
    scores = truth.score(truth.halves[0])
    expected = np.mean([cc(truth.halves[0], half) for half in truth.halves])
    assert scores["cc_vs_half"] == pytest.approx(expected)
    halves = references(agreeing)[HALVES](truth)
    assert halves["kld_vs_half"] == halves["kld"]
    assert halves["cc_vs_half"] == pytest.approx(cc(*truth.halves), abs=1e-5)


def test_only_the_correlation_of_the_halves_is_corrected_to_all_observers(agreeing):
    halves = references(agreeing)[HALVES](agreeing.truth(0))
    assert halves["cc"] == spearman_brown(halves["cc_vs_half"]) > halves["cc_vs_half"]
    assert halves["sim"] == halves["sim_vs_half"]
    assert np.isnan([halves[name] for name in ("nss", "ig", "auc_judd", "sauc")]).all()
    gold = references(agreeing)[GOLD](agreeing.truth(0))
    assert np.isnan([gold[name] for name in ("cc", "sim", "kld", "kld_vs_half")]).all()


def test_twice_as_many_draws_correlate_as_spearman_and_brown_say(rng):
    signal = rng.normal(size=200_000)

    def correlation(draws):
        one, other = (signal + rng.normal(size=(draws, len(signal))).mean(axis=0) for _ in range(2))
        return np.corrcoef(one, other)[0, 1]

    assert spearman_brown(correlation(1)) == pytest.approx(correlation(2), abs=0.01)
    assert spearman_brown(-0.2) == -0.2


def test_the_gold_standard_has_the_likelihood_of_its_fit(agreeing):
    """The map's IG, over all pictures, is the closed form's at the fixations."""
    (gold,) = agreeing.gold_standards()
    score = references(agreeing)[GOLD]
    gained = np.mean([score(agreeing.truth(i))["ig"] for i in range(10)])
    centre = np.concatenate([np.log(agreeing.left_out(i).centre) for i in range(10)]).mean()
    assert gained == pytest.approx((gold.log_likelihood - centre) / np.log(2), abs=0.01)


@pytest.mark.slow
def test_each_picture_may_have_a_gold_standard_of_its_own(agreeing):
    own = TruthSplit(agreeing.samples, by_picture=True)
    standards = own.gold_standards()
    assert len({gold.bandwidth for gold in standards}) == len(own.samples)
    assert own.fingerprint != agreeing.fingerprint
    gained = [
        np.mean([references(split)[GOLD](split.truth(i))["ll"] for i in range(10)])
        for split in (agreeing, own)
    ]
    assert gained[1] > gained[0]


def test_the_fits_are_kept(agreeing, tmp_path, monkeypatch):
    shelf = Cache(tmp_path).shelf(shelf_key(agreeing))
    first = references(agreeing, shelf)
    again = TruthSplit(agreeing.samples, profile="mit")  # the fits are the same in each profile
    moved = TruthSplit(agreeing.samples[1:])
    for name in ("fit_gold_standard", "mixture_weights"):
        monkeypatch.setattr(f"salience.measures.references.{name}", None)
    second = references(again, shelf)
    truth = agreeing.truth(0)
    for name in (HALVES, GOLD):
        np.testing.assert_equal(first[name](truth), second[name](truth))
    with pytest.raises(TypeError):  # other fixations are fitted anew
        references(moved, Cache(tmp_path).shelf(shelf_key(moved)))


def test_a_picture_that_changed_has_another_fingerprint(tmp_path):
    def fingerprint(value):
        cv2.imwrite(str(tmp_path / "a.png"), np.full((*SHAPE, 3), value, np.uint8))
        os.utime(tmp_path / "a.png", ns=(value, value))
        points = np.array([[3.0, 3.0]], np.float32)
        return TruthSplit([Sample("a", tmp_path / "a.png", None, points)]).fingerprint

    assert fingerprint(1) == fingerprint(1) != fingerprint(2)


def test_a_lonely_fixation_does_not_rule_the_ceiling(agreeing, rng):
    """Mixed with a little of the uniform, a place nobody foretold costs bits, not the mean."""
    fixations = np.concatenate([agreeing.pictures[0][0], [[1.0, 58.0]]]).astype(np.float32)
    subjects = np.append(agreeing.samples[0].subjects, 6)
    split = TruthSplit([sample_of("0.png", fixations, subjects), *agreeing.samples[1:]])
    scores = references(split)[GOLD](split.truth(0))
    assert scores["ig"] > 0.5  # unmixed, the lonely fixation alone would cost 50 bits


def test_folds_part_the_observers_and_miss_none(rng):
    subjects = rng.integers(0, 7, 50)
    ones = folds_of_one(subjects, (0, 0))
    assert len(ones) == len(np.unique(subjects))
    assert (np.sum(ones, axis=0) == 1).all()
    halves = folds_of_half(subjects, (0, 0))
    assert (np.sum(halves, axis=0) == 1).all()
    assert sorted(len(np.unique(subjects[half])) for half in halves) == [3, 4]
    for half in halves:
        assert set(subjects[half]).isdisjoint(subjects[~half])
    assert not np.array_equal(halves[0], folds_of_half(subjects, (0, 1))[0])


def test_a_picture_with_one_observer_has_no_ceiling(agreeing):
    lonely = sample_of("x.png", [[3, 3], [9, 9]], [0, 0])
    split = TruthSplit([*agreeing.samples, lonely])
    rows = references(split)
    assert set(rows) == {CENTRE_BIAS, UNIFORM, HALVES, GOLD}
    for name in (GOLD, HALVES):
        assert np.isnan(list(rows[name](split.truth(10)).values())).all()
    assert split.compared == [True] * 10 + [False]
    alone = TruthSplit([lonely, sample_of("y.png", [[3, 3]], [1])])
    assert alone.without_observers
    assert set(references(alone)) == {CENTRE_BIAS, UNIFORM}


def test_kernel_density_is_the_blurred_map_read_at_points(rng):
    points = rng.uniform((0, 0), (79, 59), (20, 2)).round()
    at = rng.uniform((0, 0), (79, 59), (30, 2)).round()
    expected = blurred(count_map(points, SHAPE), 5.0)
    cells = pixels(at, SHAPE)
    np.testing.assert_allclose(
        kernel_density(points, at, SHAPE, 5.0),
        expected[cells[:, 0], cells[:, 1]] / expected.sum(),
        rtol=0.01,
        atol=1e-6,
    )


def test_no_other_mixture_makes_the_observations_likelier(rng):
    likelihoods = rng.random((200, 3)) ** 3
    best = mixture_weights(likelihoods, rounds=2000)
    reached = np.log(likelihoods @ best).mean()
    for other in rng.dirichlet((1, 1, 1), 200):
        assert np.log(likelihoods @ other).mean() <= reached + 1e-9


def test_the_fingerprint_follows_all_that_scores_depend_on(agreeing):
    same = TruthSplit(agreeing.samples)
    assert same.fingerprint == agreeing.fingerprint
    moved = sample_of("0.png", agreeing.pictures[0][0] + 1, agreeing.samples[0].subjects)
    others = [
        TruthSplit([moved, *agreeing.samples[1:]]),
        TruthSplit(agreeing.samples[1:]),
        TruthSplit(agreeing.samples, ("cc",)),
        TruthSplit(agreeing.samples, sigma_pixels=4.0),
        TruthSplit(agreeing.samples, profile="mit"),
        TruthSplit(agreeing.samples, seed=1),
    ]
    prints = {split.fingerprint for split in (agreeing, *others)}
    assert len(prints) == 1 + len(others)
