"""Which pictures are taken for screenshots."""

import cv2
import numpy as np
import pytest

from commands.demo.view import photographs
from salience.pictures.letterbox import preprocess
from salience.pictures.screens import edges_on_flat_ground, is_like_a_screen

SHAPES = [(240, 320), (288, 384), (480, 640)]


def page(ground=(255, 255, 255), ink=(40, 30, 30), size=(800, 1280)):
    """Return a page of text with a box."""
    picture = np.full((*size, 3), ground, np.uint8)
    for y in range(60, size[0] - 40, 34):
        cv2.putText(picture, "the quick brown fox jumps over the lazy dog", (60, y),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.8, ink, 2, cv2.LINE_AA)  # fmt: skip
    cv2.rectangle(picture, (900, 100), (1200, 400), (200, 120, 30), cv2.FILLED)
    return picture


def as_jpeg(picture, quality):
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def seen(picture, shape):
    """Return what a network sees of a picture, without padding."""
    placed, box = preprocess(picture, shape)
    return box.without_padding(placed)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_page_is_a_screen_as_png_and_as_jpeg_light_and_dark(shape):
    for picture in (page(), page((30, 25, 20), (220, 220, 220))):
        for kind in (picture, as_jpeg(picture, 90), as_jpeg(picture, 75)):
            assert is_like_a_screen(seen(kind, shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_photograph_is_none_whatever_its_size(shape):
    assert photographs()
    for path in photographs():
        picture = cv2.imread(str(path))
        small = cv2.resize(picture, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
        for kind in (picture, small, as_jpeg(picture, 60)):
            assert not is_like_a_screen(seen(kind, shape)), path


def test_padding_would_count_as_flat_ground_and_is_left_out(picture):
    placed, box = preprocess(picture(60, 200) // 2 + 128, (288, 384))
    assert edges_on_flat_ground(placed) > 1
    assert edges_on_flat_ground(box.without_padding(placed)) < 0.1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (60, 80)])
def test_an_even_or_tiny_picture_is_none(shape):
    assert edges_on_flat_ground(np.full((*shape, 3), 90, np.uint8)) == 0
