"""Observers who look at one place of each scene, whatever is there."""

import dataclasses

import numpy as np
import pytest

from salience.data import loading

X, Y = 110, 50  # pixels of a scene of 160 x 120


def everybody_looks_there(monkeypatch: pytest.MonkeyPatch, deviation: float) -> None:
    """Replace the fixations of all data that is loaded.

    Args:
        monkeypatch: of the test.
        deviation: standard deviation of the fixations around the place, pixels.
    """
    real = loading.load

    def biased(name, root, split, *rest, **options):
        rng = np.random.default_rng(len(split))
        return [
            dataclasses.replace(s, fixations=rng.normal((X, Y), deviation, s.fixations.shape))
            for s in real(name, root, split, *rest, **options)
        ]

    monkeypatch.setattr(loading, "load", biased)
