"""What the card does to finished maps: fitted where it helps a set left out, and left out else."""

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest

from salience.measures.adaptation import IDENTITY, Adaptation, LowResolutionMaps
from salience.measures.density import CALIBRATION, log_density
from salience.measures.finish import (
    BLURS,
    GENERAL,
    LARGEST_LOSS,
    MAP_BLUR,
    NONE,
    SHARES,
    UNFINISHED,
    Finish,
    blur_entry,
    finish_of,
    fit_general,
    fit_map_blur,
    general_entry,
    map_and_truth,
)
from salience.measures.metrics import as_distribution
from salience.pictures.fixations import blurred, count_map
from salience.system.errors import UserError

OWN = Adaptation(contrast=1.5, centre_share=0.2, centre_width=0.2, centre_height=0.2)
SHAPE = (24, 32)


def looked_at(adaptation, rng, pictures=6, fixations=3000):
    """Return the maps of pictures that are looked at as an adaptation says, and their truth."""
    low, maps = [], []
    for _ in range(pictures):
        heights = rng.random(SHAPE) ** 6
        saliency_map = blurred(heights.astype(np.float32), 1.5) + 1e-3
        density = as_distribution(adaptation.density(saliency_map))
        drawn = rng.choice(density.size, fixations, p=density.ravel())
        points = np.stack(np.unravel_index(drawn, SHAPE)[::-1], axis=1).astype(np.float32)
        counts = as_distribution(count_map(points, SHAPE))
        low.append(LowResolutionMaps(saliency_map, counts))
        maps.append(map_and_truth(saliency_map, points, blurred(counts, 1.0)))
    return low, maps


def general_of_sets(rng, *adaptations):
    sets = {f"set{i}": looked_at(own, rng) for i, own in enumerate(adaptations)}
    return fit_general({k: v[0] for k, v in sets.items()}, {k: v[1] for k, v in sets.items()})


def test_what_all_sets_have_in_common_is_general(rng):
    fit = general_of_sets(rng, OWN, OWN)
    assert fit.kept and fit.share == 1.0
    assert fit.adaptation.contrast == pytest.approx(OWN.contrast, rel=0.2)
    assert all(gain.mean > 0.01 for gain in fit.gains.values())


def test_what_helps_one_set_and_harms_another_is_not(rng):
    sharper, flatter = Adaptation(contrast=1.8), Adaptation(contrast=0.5)
    fit = general_of_sets(rng, sharper, flatter)
    assert not fit.kept
    assert fit.adaptation == IDENTITY
    assert fit.share in SHARES
    assert set(fit.gains) == {"set0", "set1"} and min(g.mean for g in fit.gains.values()) < 0.01


def test_a_map_sharper_than_the_blurred_truth_is_blurred_as_far_as_the_bits_allow(rng):
    points = rng.uniform(0, 1, (40, 2)) * (191, 143)
    counts = count_map(points.astype(np.float32), (144, 192))
    sharp, truth = blurred(counts, 2.0) + 1e-4, blurred(counts, 6.0)
    near = points.repeat(30, axis=0) + rng.normal(0, 4, (1200, 2))
    pictures = [map_and_truth(sharp, near, truth), map_and_truth(truth, points, truth)]
    usable = [picture for picture in pictures if picture]
    fit = fit_map_blur(usable[:1])
    assert fit.blur in BLURS and fit.gain > 0.01 and fit.bits >= -LARGEST_LOSS
    # a map that is the truth already has nothing to gain
    assert fit_map_blur(usable[1:]).blur == 0


def card_of():
    general = {"parameters": asdict(OWN), "kept": True}
    return {GENERAL: general, MAP_BLUR: {"blur": 0.01}, CALIBRATION: None}


def test_what_is_told_is_what_is_done(tmp_path):
    told = []
    ask = partial(finish_of, card_of(), tmp_path / "w.weights.h5", say=told.append)
    ask()
    ask(only_densities=True)
    ask(has_flag=False)
    assert ["a blur of 1.0%" in line for line in told] == [True, False, True]
    assert ["--adaptation none" in line for line in told] == [True, True, False]
    assert told[1].endswith("densities get its general adaptation (--adaptation none leaves them "
                            "as they are)")  # fmt: skip
    with pytest.raises(UserError, match=r"for pictures of no known data set, but --set osie"):
        ask(adaptation=GENERAL, of_set="osie")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, Finish(OWN, 0.01, OWN)),
        ({"adaptation": NONE}, UNFINISHED),
        ({"adaptation": GENERAL}, Finish(OWN, 0.01, OWN)),
        ({"of_set": "osie"}, Finish(map_blur=0.01, numbers="osie")),
        ({"of_set": "mean"}, Finish(OWN, 0.01, OWN, "mean")),
        ({"smooth": 3.0}, Finish(OWN, 0.0, OWN)),
    ],
)
def test_a_card_finishes_maps_unless_the_flags_say_otherwise(flags, expected, tmp_path):
    lines = []
    assert finish_of(card_of(), tmp_path / "w.weights.h5", **flags, say=lines.append) == expected
    assert len(lines) == (expected != UNFINISHED)  # one line says which


def test_what_is_fitted_for_bits_alone_is_not_kept(rng):
    """Maps that are as sharp as the fixations are, and a truth that is blurred far more."""
    sets = {name: looked_at(Adaptation(contrast=2.0), rng) for name in "ab"}
    flat = {k: [m._replace(density_map=as_distribution(np.sqrt(m.density_map))) for m in v[1]]
            for k, v in sets.items()}  # fmt: skip
    fit = fit_general({k: v[0] for k, v in sets.items()}, flat)
    assert min(gain.mean for gain in fit.gains.values()) > 0.01
    assert min(gain.mean for gain in fit.map_gains.values()) < 0
    assert not fit.kept and fit.adaptation == IDENTITY


def test_a_blur_of_maps_changes_no_density(rng):
    values = rng.random((30, 40)).astype(np.float32)
    finish = Finish(map_blur=0.05)
    assert np.ptp(finish.apply(values)) < np.ptp(values)
    assert finish.calibration is None
    np.testing.assert_array_equal(log_density(values), log_density(values, IDENTITY))


def test_fits_go_into_a_card_and_back(rng, tmp_path):
    fit = general_of_sets(rng, OWN, OWN)
    blur = fit_map_blur(looked_at(OWN, rng, 1)[1])
    card = {GENERAL: general_entry(fit, {"dataset": "a+b"}), MAP_BLUR: blur_entry(blur, {})}
    found = finish_of(json.loads(json.dumps(card)), tmp_path / "w.weights.h5")
    assert found == Finish(fit.adaptation, blur.blur, fit.adaptation)


@pytest.mark.parametrize(
    ("card", "flag", "message"),
    [
        ({}, GENERAL, "has no general adaptation that helps"),
        ({GENERAL: {"parameters": {}}}, None, "the general adaptation of its card has not"),
        ({GENERAL: 3}, None, "the general adaptation of its card has not"),
        ({MAP_BLUR: {"blur": "wide"}}, None, "no number `blur` from 0 to 0.1"),
        ({MAP_BLUR: {"blur": float("nan")}}, None, "no number `blur`"),
        ({MAP_BLUR: []}, None, "no number `blur`"),
    ],
)
def test_a_damaged_card_is_one_line(card, flag, message, tmp_path):
    with pytest.raises(UserError, match=message):
        finish_of(card, tmp_path / "w.weights.h5", flag)
