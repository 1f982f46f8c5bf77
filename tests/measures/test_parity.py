"""Our metrics against pysaliency's and scikit-learn's, as benchmarks/measures/ stored them."""

import json

import numpy as np
import pytest
from conftest import SHARED, needs

from benchmarks.measures.parity import (
    COMPARED,
    EXPLAINED,
    GOLDEN,
    TOLERANCE,
    osie_scenes,
    ours,
    seeded_scenes,
)

SETS = [
    pytest.param("seeded"),
    pytest.param("osie", marks=needs(SHARED / "osie")),
]


def scenes_of(title):
    return seeded_scenes() if title == "seeded" else osie_scenes(SHARED / "osie")


def golden_of(title):
    return json.loads((GOLDEN / f"parity_{title}.json").read_text())


@pytest.mark.parametrize("title", SETS)
@pytest.mark.parametrize("source", ["pysaliency", "pysaliency, mit", "scikit-learn"])
def test_scores_are_theirs_or_the_difference_is_explained(title, source):
    scenes, golden = scenes_of(title), golden_of(title)
    assert golden["versions"]["pysaliency"] == "0.2.22"
    assert golden["pictures"] == [scene.name for scene in scenes]
    profile = "mit" if source.endswith("mit") else "tuebingen"
    rows = zip(scenes, ours(scenes, profile), golden["scores"][source], strict=True)
    for scene, mine, theirs in rows:
        if source.startswith("pysaliency"):
            assert set(theirs) == set(COMPARED[profile])
        for name, value in theirs.items():
            if source == "scikit-learn" or (scene.name, profile, name) not in EXPLAINED:
                assert mine[name] == pytest.approx(value, abs=TOLERANCE), (scene.name, name)


def test_each_explanation_is_of_a_difference_that_is_there():
    scenes, golden = seeded_scenes(), golden_of("seeded")
    index = {scene.name: i for i, scene in enumerate(scenes)}
    for (scene, profile, name), reason in EXPLAINED.items():
        source = "pysaliency, mit" if profile == "mit" else "pysaliency"
        theirs = golden["scores"][source][index[scene]][name]
        mine = ours(scenes, profile)[index[scene]][name]
        assert np.isfinite(mine)
        assert theirs is None or abs(mine - theirs) > TOLERANCE, reason
