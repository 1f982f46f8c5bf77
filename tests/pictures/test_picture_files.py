import cv2
import numpy as np
import pytest
from PIL import Image

from salience.pictures.picture_files import as_bgr, overlay, read_image, read_map, to_8_bit
from salience.pictures.reading import sample_density
from salience.pictures.sample import Sample
from salience.system.errors import UserError


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("I;16", "png"),
        ("CMYK", "jpg"), ("L", "jpg"), ("RGB", "jpg"), ("RGB", "tiff"), ("RGB", "webp"),
        ("RGB", "bmp"), ("P", "gif"),
    ],
)  # fmt: skip
def test_every_kind_of_picture_comes_out_as_bgr(mode, suffix, tmp_path):
    grey = np.tile(np.linspace(0, 255, 40), (30, 1))
    if mode == "I;16":
        image = Image.fromarray((grey * 257).astype(np.uint16))
        expected = np.repeat(grey[..., None], 3, axis=2)
    else:
        image = Image.fromarray(grey.astype(np.uint8)).convert("RGB").convert(mode)
        expected = np.asarray(image.convert("RGB"), float)[..., ::-1]
    path = tmp_path / f"p.{suffix}"
    image.save(path)
    read = read_image(path)
    assert read.shape == (30, 40, 3)
    assert read.dtype == np.uint8
    assert np.abs(read - expected).max() <= 12  # JPEG's and CMYK's loss


def test_channels_are_in_bgr_order(tmp_path):
    Image.new("RGB", (4, 3), (200, 100, 50)).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[0, 0].tolist() == [50, 100, 200]


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20] = 255  # the top left quarter is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(pixels).save(tmp_path / "p.jpg", exif=exif, quality=95)
    read = read_image(tmp_path / "p.jpg")
    assert read.shape == (40, 20, 3)
    assert read[5, 15].min() > 200  # now it is the top right one
    assert read[5, 5].max() < 50


def test_map_of_16_bits_keeps_its_precision(tmp_path):
    values = np.array([[0, 1, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "m.png"), values)
    np.testing.assert_allclose(read_map(tmp_path / "m.png"), [[0, 1 / 65535, 1]], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_truncated_picture_is_named(tmp_path, picture, suffix):
    whole = cv2.imencode(suffix, picture())[1].tobytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=f"{path} is not a picture that can be read"):
        read_image(path)


def test_missing_empty_and_text_files_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    for name, message in (
        ("missing.jpg", "Cannot read .*missing.jpg: No such file"),
        ("empty.jpg", "empty.jpg is empty"),
        ("text.jpg", "text.jpg is not a picture"),
    ):
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / name)


def test_8_bit_map_rounds():
    assert to_8_bit(np.array([[0, 0.5, 1, 0.4999 / 255]])).tolist() == [[0, 128, 255, 0]]


def test_overlay_leaves_the_picture_where_nothing_is_salient(picture):
    image = picture()
    heat = np.zeros(image.shape[:2], np.float32)
    heat[10:20, 10:20] = 1
    drawn = overlay(image, heat)
    np.testing.assert_array_equal(drawn[25:, 25:], image[25:, 25:])
    assert drawn[15, 15, 2] > drawn[15, 15, 0]  # hot is red


def test_a_map_of_floats_is_read_and_nonsense_in_it_refused(tmp_path):
    values = np.array([[0.0, 0.5], [2.0, 1.0]], np.float32)
    cv2.imwrite(str(tmp_path / "m.tiff"), values)
    np.testing.assert_allclose(read_map(tmp_path / "m.tiff"), values / 2)
    cv2.imwrite(str(tmp_path / "n.tiff"), -values)
    with pytest.raises(UserError, match="negative or not finite"):
        read_map(tmp_path / "n.tiff")


def test_own_map_is_preferred_unless_a_sigma_is_asked_for(tmp_path):
    own = np.zeros((20, 30), np.uint8)
    own[3, 4] = 200
    cv2.imwrite(str(tmp_path / "m.png"), own)
    sample = Sample(
        "s", tmp_path / "i.png", tmp_path / "m.png", np.array([[20.0, 10.0]], np.float32)
    )
    own_map = sample_density(sample, (20, 30), None)
    assert own_map[3, 4] == 1
    assert own_map.sum() == 1
    assert sample_density(sample, (20, 30), 2.0).argmax() == 10 * 30 + 20
    with pytest.raises(UserError, match=r"m\.png is 30 x 20 but its picture s is 40 x 20"):
        sample_density(sample, (20, 40), None)


@pytest.mark.parametrize(
    ("image", "rgb", "expected"),
    [
        (np.array([[7]], np.uint8), False, [7, 7, 7]),
        (np.array([[[7]]], np.uint8), True, [7, 7, 7]),
        (np.array([[[1, 2, 3]]], np.uint8), False, [1, 2, 3]),
        (np.array([[[1, 2, 3]]], np.uint8), True, [3, 2, 1]),
        (np.array([[[1, 2, 3, 0]]], np.uint8), True, [3, 2, 1]),  # as of a file with transparency
        (np.array([[[0, 257, 65535]]], np.uint16), False, [0, 1, 255]),
        (np.array([[0.5]], np.float32), False, [128, 128, 128]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), False, [3, 2, 1]),
        (Image.new("RGBA", (1, 1), (1, 2, 3, 0)), True, [3, 2, 1]),
        (Image.new("P", (1, 1)), False, [0, 0, 0]),
        (Image.fromarray(np.full((1, 1), 257, np.uint16)), False, [1, 1, 1]),
    ],
)
def test_what_a_notebook_holds_becomes_bgr(image, rgb, expected):
    made = as_bgr(image, rgb)
    assert made.tolist() == [[expected]]
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\) .* image.transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\) is no picture"),
        (np.zeros((4, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros(5, np.uint8), "is no picture"),
        (np.zeros((0, 5, 3), np.uint8), "is no picture"),
        (np.zeros((4, 5, 3), np.int64), r"int64 is no picture.*astype\('uint8'\)"),
        (np.zeros((4, 5), bool), "bool is no picture"),
        (np.full((4, 5), "a"), "is no picture"),
        (np.full((4, 5, 3), 255.0), "0 to 1, not 255 to 255"),
        (np.full((4, 5, 3), -0.1), "not -0.1 to -0.1"),
        (np.full((4, 5, 3), np.nan), "not nan to nan"),
        ([np.zeros((4, 5, 3), np.uint8)], "not a list. Of several, predict each"),
        (None, "not a NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_helps(image, told):
    with pytest.raises(UserError, match=told):
        as_bgr(image)
