"""Synthetic scenes with simulated observers: no files, no human data, nothing to conclude from.

Textured scenes hold a grid of alike items, of which one pops out by colour, orientation or size
(after Treisman and Gelade, 1980), or a blob like a face. Simulated observers look at the target, at
the items, and towards the centre. It serves demos and tests, and a paper must not quote it.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.data.plan import BY_SHARES, Plan
from salience.pictures.sample import Sample

NEEDS_FILES = False
SOURCE = "Built in."
SHAPE = (120, 160)  # rows and columns of a scene, pixels
SIGMA_PIXELS = 5.0
SIGMA_FROM = "the share of the height that OSIE's has, 4 %"
COUNTS = {"train": 96, "val": 16, "test": 32}
OBSERVERS, LOOKS = 12, 8
# places that an observer may look at: the target, to any item, towards the centre, anywhere
TARGET, ITEM, CENTRE, ANYWHERE = 0.6, 0.1, 0.2, 0.1
POP_OUTS = ("colour", "orientation", "size", "face")


def load(root: Path | None, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split, determined by `plan.seed`; `root` is ignored."""
    return [_sample(split, index, plan.seed) for index in range(COUNTS[split])]


def _sample(split: str, index: int, seed: int) -> Sample:
    """Return a scene and its observers."""
    key = (seed, list(COUNTS).index(split), index)
    fixations = _looks(np.random.default_rng((*key, 1)), *_layout(key)[:2])
    return Sample(
        name=f"{split}_{index:03d}.png",
        image=partial(draw, key),
        fixations=fixations,
        subjects=np.repeat(np.arange(OBSERVERS), LOOKS).astype(np.int32),
        sigma_pixels=SIGMA_PIXELS,
        shape=SHAPE,
    )


def _layout(
    key: tuple[int, ...],
) -> tuple[NDArray[np.float64], int, str, np.random.Generator]:
    """Return the items' centres (x, y), the target's index and feature, and the generator."""
    rng = np.random.default_rng((*key, 0))
    columns, lines = int(rng.integers(3, 6)), int(rng.integers(2, 5))
    cell = np.array([SHAPE[1] / columns, SHAPE[0] / lines])
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(lines)), axis=-1).reshape(-1, 2)
    centres = (grid + 0.5 + rng.uniform(-0.2, 0.2, grid.shape)) * cell
    return centres, int(rng.integers(len(centres))), POP_OUTS[key[-1] % len(POP_OUTS)], rng


def _looks(rng: np.random.Generator, centres: NDArray, target: int) -> NDArray[np.floating]:
    """Return the fixations (x, y) of all observers, inside the scene."""
    count = OBSERVERS * LOOKS
    limits = np.array([SHAPE[1], SHAPE[0]])
    goals = np.stack(
        [
            centres[target] + rng.normal(0, 3, (count, 2)),
            centres[rng.integers(len(centres), size=count)] + rng.normal(0, 4, (count, 2)),
            limits / 2 + rng.normal(0, 0.15, (count, 2)) * limits,
            rng.uniform(0, 1, (count, 2)) * limits,
        ]
    )
    kind = rng.choice(4, size=count, p=[TARGET, ITEM, CENTRE, ANYWHERE])
    return np.clip(goals[kind, np.arange(count)], 0, limits - 1).astype(np.float32)


def draw(key: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the scene of a key as BGR uint8 [rows, columns, 3]."""
    centres, target, pop_out, rng = _layout(key)
    scene = _texture(rng)
    colour, angle, size = rng.integers(40, 215, 3), rng.uniform(0, 180), rng.uniform(5, 7)
    for index, centre in enumerate(centres):
        item = {"colour": colour, "angle": angle, "size": size}
        if index == target:
            if pop_out == "face":
                _draw_face(scene, centre, size * 1.6)
                continue
            item |= {
                "colour": {"colour": 255 - colour},
                "orientation": {"angle": angle + 90},
                "size": {"size": size * 2},
            }[pop_out]
        _draw_bar(scene, centre, **item)
    return scene


def _texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a background of smooth noise at three scales, tinted."""
    noise = sum(
        cv2.resize(
            rng.normal(0, amplitude, (max(2, SHAPE[0] // step), max(2, SHAPE[1] // step))),
            SHAPE[::-1],
            interpolation=cv2.INTER_CUBIC,
        )
        for step, amplitude in ((40, 18), (10, 10), (2, 6))
    )
    tint = rng.uniform(80, 170, 3)
    return np.clip(tint + np.asarray(noise)[..., None], 0, 255).astype(np.uint8)


def _draw_bar(
    scene: NDArray[np.uint8], centre: NDArray, colour: NDArray, angle: float, size: float
) -> None:
    """Draw a filled bar, three times as long as wide."""
    box = cv2.boxPoints(((float(centre[0]), float(centre[1])), (2 * size, size * 2 / 3), angle))
    cv2.fillConvexPoly(scene, box.astype(np.int32), colour.tolist(), cv2.LINE_AA)


def _draw_face(scene: NDArray[np.uint8], centre: NDArray, size: float) -> None:
    """Draw a skin-coloured oval with two eyes and a mouth."""
    x, y = (round(float(v)) for v in centre)
    wide, high = round(size * 0.8), round(size)
    cv2.ellipse(scene, (x, y), (wide, high), 0, 0, 360, (150, 180, 225), -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(scene, (x + side * wide // 2, y - high // 4), 2, (40, 30, 30), -1, cv2.LINE_AA)
    cv2.ellipse(
        scene, (x, y + high // 3), (wide // 2, high // 5), 0, 0, 180, (60, 50, 150), 2, cv2.LINE_AA
    )
