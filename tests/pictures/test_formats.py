"""What single formats say of their pixels and decoders do not heed: each is read as it looks."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from commands.curation.check import check
from commands.prediction.predict import predict
from commands.settings import CheckConfig
from config import PredictConfig
from salience.pictures import headers, picture_files
from salience.pictures.formats import jpeg_end
from salience.pictures.headers import header_shape
from salience.pictures.picture_files import read_image, read_map, read_stored_map, whole_picture
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.notes import Notes

RAMP = np.tile(np.linspace(0, 1, 33), (8, 1))


def tiff(path, values, **options):
    tifffile.imwrite(path, values, **options)
    return path


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(shape=(48, 64)):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# ---------- which way up ----------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_turns_in_each_of_the_eight_ways(tmp_path, form, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[8:, :16], pixels[:8, 16:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path, grey = tmp_path / "p", tmp_path / "grey"
    path.write_bytes(tagged(pixels, form, orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(tagged(pixels, "PNG", orientation))))
    upright = np.asarray(upright)[..., ::-1]
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 12  # the edges of lossy formats
    grey.write_bytes(tagged(pixels[..., 0], form, orientation))
    assert np.abs(255 * read_map(grey) - upright[..., 2]).mean() < 12
    if form != "TIFF":  # which OpenCV turns in any case
        assert sample_image(Sample("p", path, shape=(16, 32))).shape == (16, 32, 3)


def tagged(pixels, form, orientation):
    exif = Image.Exif()  # a new one, as Pillow moves AVIF's turn out of it
    exif[headers.ORIENTATION] = orientation
    options = {} if form in ("PNG", "TIFF") else {"quality": 100}
    return saved(Image.fromarray(pixels), form, exif=exif, **options)


def test_a_turn_that_xmp_alone_tells_is_heeded_by_neither_header_nor_reader(tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    (tmp_path / "p.jpg").write_bytes(saved(noise(), "JPEG", xmp=xmp))
    assert header_shape(tmp_path / "p.jpg") == read_image(tmp_path / "p.jpg").shape[:2] == (48, 64)


# ---------- PNM ----------


def pnm(kind, most):
    levels = np.round(RAMP * most).astype(">u2" if most > 255 else "u1")
    if kind in (3, 6):
        levels = np.repeat(levels[..., None], 3, axis=2)
    body = levels.tobytes() if kind > 3 else " ".join(map(str, levels.ravel())).encode()
    return b"P%d\n33 # columns\n8\n%d\n" % (kind, most) + body


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("most", [1, 7, 100, 127, 255, 256, 1023, 4095, 65535])
def test_a_pnm_is_as_bright_as_its_own_greatest_value_says(tmp_path, kind, most):
    (tmp_path / "p.pnm").write_bytes(pnm(kind, most))
    levels = np.round(RAMP * most) / most
    read = read_image(tmp_path / "p.pnm")
    assert read.shape == (8, 33, 3)
    assert np.abs(read - 255 * levels[..., None]).max() <= 1
    np.testing.assert_allclose(read_map(tmp_path / "p.pnm"), levels, atol=1.01 / 255)
    assert np.corrcoef(read_stored_map(tmp_path / "p.pnm").ravel(), levels.ravel())[0, 1] > 0.999
    assert header_shape(tmp_path / "p.pnm") == whole_picture(tmp_path / "p.pnm").shape == (8, 33)


@pytest.mark.parametrize("kind", [1, 4])
def test_a_pnm_of_two_values_is_white_where_it_is_zero(tmp_path, kind):
    bits = np.tile([0, 0, 1, 1, 1, 1, 1, 1], (2, 1)).astype(np.uint8)
    body = b"0 0 1 1 1 1 1 1 " * 2 if kind == 1 else np.packbits(bits, axis=1).tobytes()
    (tmp_path / "p.pbm").write_bytes(b"P%d\n8 2\n" % kind + body)
    np.testing.assert_array_equal(read_map(tmp_path / "p.pbm"), 1 - bits)


@pytest.mark.parametrize(
    "content", [b"P5 2 2 0 abcd", b"P5 2 2 70000 abcd", b"P5 2 2 9", b"P2 2 2"]
)
def test_a_pnm_that_is_none_gets_one_line(tmp_path, content):
    (tmp_path / "p.pgm").write_bytes(content)
    with pytest.raises(UserError, match=r"p\.pgm is not a picture that can be read"):
        read_image(tmp_path / "p.pgm")


# ---------- the bits of others ----------


@pytest.mark.parametrize("bits", [10, 12])
def test_a_map_of_10_or_12_bits_is_white_where_these_are(tmp_path, bits):
    levels = np.round(RAMP * (2**bits - 1)).astype(np.uint16)
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    cv2.imwrite(str(tmp_path / "m.avif"), levels, options)
    np.testing.assert_allclose(read_map(tmp_path / "m.avif"), RAMP, atol=0.01)


def narrow(path, bits, photometric):
    """Write a TIFF of packed samples."""
    levels = np.round(RAMP * (2**bits - 1)).astype(int)
    rows = b""
    for row in levels:
        text = "".join(format(level, f"0{bits}b") for level in row)
        text += "0" * (-len(text) % 8)
        rows += int(text, 2).to_bytes(len(text) // 8, "big")
    tags = {256: 33, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 8,
            279: len(rows)}  # fmt: skip
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rows)


@pytest.mark.parametrize("bits", [2, 4, 8, 10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_of_few_bits_is_read_as_it_looks(tmp_path, bits, photometric):
    narrow(tmp_path / "p.tif", bits, photometric)
    looks = RAMP if photometric else 1 - RAMP
    np.testing.assert_allclose(
        read_map(tmp_path / "p.tif"), looks, atol=0.51 / (2**bits - 1) + 0.01
    )
    assert (
        np.abs(read_image(tmp_path / "p.tif")[..., 0] / 255 - looks).max()
        < 0.51 / (2**bits - 1) + 0.01
    )
    assert header_shape(tmp_path / "p.tif") == (8, 33)


# ---------- TIFF ----------

UNSIGNED = ["uint8", "uint16", "uint32"]


@pytest.mark.parametrize("kind", [*UNSIGNED, "float32", "float64"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_is_black_where_its_photometric_says(tmp_path, kind, photometric, order):
    most = np.iinfo(kind).max if kind in UNSIGNED else 1
    stored = np.round(RAMP * most).astype(kind) if kind in UNSIGNED else RAMP.astype(kind)
    path = tiff(tmp_path / "p.tif", stored, photometric=photometric, byteorder=order)
    looks = 1 - RAMP if photometric == "miniswhite" else RAMP
    np.testing.assert_allclose(read_map(path), looks, atol=0.51 / 255)
    assert np.abs(read_image(path)[..., 1] - 255 * looks).max() <= 1
    own = read_stored_map(path)
    assert own.dtype == kind
    np.testing.assert_allclose(own / most, looks, atol=0.51 / 255)
    assert header_shape(path) == whole_picture(path).shape == (8, 33)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32"])
def test_a_signed_tiff_is_no_picture_and_no_map_of_0_to_1(tmp_path, kind):
    values = np.tile(np.linspace(-100, 100, 33).astype(kind), (8, 1))
    path = tiff(tmp_path / "p.tif", values)
    with pytest.raises(UserError, match=rf"p\.tif holds {kind} of -100 to 100; .* 8 or 16 bits"):
        read_image(path)
    with pytest.raises(UserError, match="negative or not finite"):
        read_map(path)
    np.testing.assert_array_equal(read_stored_map(path), values)  # which is told where it is scored
    highest = np.iinfo(kind).max
    tiff(path, np.where(values > 0, highest, 0).astype(kind))
    assert set(np.unique(read_map(path))) == {0, 1}


@pytest.mark.parametrize("values", [RAMP * 255, RAMP - 0.1, np.where(RAMP > 0.5, np.nan, RAMP)])
def test_floats_whose_white_is_not_known_are_refused_as_a_picture(tmp_path, values):
    path = tiff(tmp_path / "p.tif", values.astype(np.float32))
    with pytest.raises(UserError, match=r"holds float32 of .*; a picture's values are"):
        read_image(path)
    tiff(path, (RAMP * 255).astype(np.float32), photometric="miniswhite")
    for read in (read_image, read_map, read_stored_map):
        with pytest.raises(UserError, match="of 0 to 255 whose least is white"):
            read(path)


def test_a_float_tiff_in_colour_is_read(tmp_path):
    colours = np.dstack([RAMP, 1 - RAMP, RAMP / 2]).astype(np.float32)
    path = tiff(tmp_path / "p.tif", colours, photometric="rgb")
    assert np.abs(read_image(path)[..., ::-1] - 255 * colours).max() <= 0.51


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_a_tiffs_transparency_is_dropped_and_does_not_darken(tmp_path, kind):
    most = np.iinfo(kind).max
    layers = np.round(np.dstack([RAMP, RAMP, RAMP, 1 - RAMP]) * most).astype(kind)
    path = tiff(tmp_path / "p.tif", layers, photometric="rgb", extrasamples=["unassalpha"])
    assert np.abs(read_image(path) - 255 * RAMP[..., None]).max() <= 1
    np.testing.assert_allclose(read_map(path), RAMP, atol=1 / 255)


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        (RAMP.astype(np.float16), {}, "holds 1 x 16 bits of floats. Store grey or RGB of 32"),
        (np.zeros((3, 8, 33), np.uint16), {"photometric": "rgb", "planarconfig": "separate"},
         "holds its channels of 16 bits apart"),
        (np.zeros((8, 33, 4), np.uint16), {"photometric": "separated"}, "of other colours"),
    ],
)  # fmt: skip
def test_a_tiff_that_no_decoder_reads_right_gets_one_line(tmp_path, values, options, told, capfd):
    path = tiff(tmp_path / "p.tif", values, **options)
    for read in (read_image, read_map, read_stored_map, whole_picture):
        with pytest.raises(UserError, match=told):
            read(path)
    assert capfd.readouterr().err == ""


def test_a_truncated_tiff_is_refused(tmp_path):
    path = tiff(tmp_path / "p.tif", RAMP.astype(np.float32))
    path.write_bytes(path.read_bytes()[:-9])
    for read in (read_image, read_map, whole_picture):
        with pytest.raises(UserError, match="truncated"):
            read(path)


# ---------- maps ----------


@pytest.mark.parametrize("read", [read_map, read_stored_map])
def test_a_heat_map_in_colour_is_no_map(tmp_path, read):
    heat = cv2.applyColorMap(np.round(RAMP * 255).astype(np.uint8), cv2.COLORMAP_JET)
    deep = heat.astype(np.uint16) * 257
    for name, picture in {"a.png": heat, "a.jpg": heat, "b.png": deep, "b.tif": deep}.items():
        cv2.imwrite(str(tmp_path / name), picture)
        with pytest.raises(UserError, match=f"{name} is in colour: .* Store grey maps"):
            read(tmp_path / name)


def test_what_is_grey_is_a_map_however_it_is_stored(tmp_path):
    grey = Image.fromarray(np.round(RAMP * 255).astype(np.uint8))
    half = Image.fromarray(np.full((8, 33), 9, np.uint8))
    kinds = {
        "rgb.png": grey.convert("RGB"), "palette.png": grey.convert("P"), "rgb.jpg": grey,
        "rgba.png": Image.merge("RGBA", (grey, grey, grey, half)),
        "la.png": Image.merge("LA", (grey, half)),
    }  # fmt: skip
    for name, picture in kinds.items():
        picture.save(tmp_path / name, **({"quality": 95} if name.endswith("jpg") else {}))
        np.testing.assert_allclose(read_map(tmp_path / name), RAMP, atol=2 / 255)
        np.testing.assert_allclose(read_stored_map(tmp_path / name) / 255, RAMP, atol=2 / 255)
    grey.convert("1", dither=Image.Dither.NONE).save(tmp_path / "one.png")
    assert set(np.unique(read_map(tmp_path / "one.png"))) == {0, 1}


def test_data_check_names_a_colour_map_and_why_it_is_none(tmp_path, picture):
    for folder in ("images", "maps"):
        (tmp_path / "set/test" / folder).mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"set/test/images/{name}.png"), picture())
        heat = cv2.applyColorMap(picture()[..., 0], cv2.COLORMAP_JET)
        cv2.imwrite(str(tmp_path / f"set/test/maps/{name}.png"), heat)
    lines = []
    settings = CheckConfig(dataset="folder", data=tmp_path / "set", output=tmp_path / "check")
    assert not check(settings, lines.append)
    assert any("test: maps that cannot be read (2: a.png, b.png)" in line for line in lines)
    assert sum("is in colour: the colours of a heat-map" in line for line in lines) == 1


# ---------- where a file ends ----------


def test_bytes_after_the_end_are_no_fault(tmp_path):
    """A film behind a phone's photograph has the marks of thousands of scans by chance."""
    film = np.random.default_rng(1).integers(0, 256, 2**20, dtype=np.uint8).tobytes()
    film += b"\xff\xda" * headers.MOST_SCANS
    for form in ("PNG", "JPEG"):
        path = tmp_path / f"p.{form.lower()}"
        path.write_bytes(saved(noise(), form))
        notes = Notes()
        alone = read_image(path, notes=notes)
        assert not notes.lines()
        path.write_bytes(path.read_bytes() + film)
        np.testing.assert_array_equal(read_image(path, notes=notes), alone)
        assert notes.lines() == [f"with bytes after the end ({path})"]
        assert whole_picture(path).remark == "with bytes after the end"


def test_a_jpeg_of_several_pictures_is_none_with_bytes_after_its_end(tmp_path):
    noise().save(tmp_path / "p.mpo", save_all=True, append_images=[noise()])
    assert read_image(tmp_path / "p.mpo").shape == (48, 64, 3)
    assert whole_picture(tmp_path / "p.mpo").remark == ""


KINDS = {
    "baseline": {}, "progressive": {"progressive": True}, "grey": {}, "restarts": {
        "restart_marker_blocks": 2}, "thumbnail": {"exif": b"Exif\0\0\xff\xd8\xff\xda\xff\xd9"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lacking", [1, 2])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_read(tmp_path, kind, lacking, capfd):
    image = noise().convert("L") if kind == "grey" else noise()
    data = saved(image, "JPEG", **KINDS[kind])
    path = tmp_path / "p.jpg"
    path.write_bytes(data)
    whole, half = read_image(path), read_image(path, reduction=2)
    assert jpeg_end(data).end == len(data)
    path.write_bytes(data[:-lacking])
    notes = Notes()
    np.testing.assert_array_equal(read_image(path, notes=notes), whole)
    np.testing.assert_array_equal(read_image(path, reduction=2), half)
    assert notes.lines() == [f"without an end marker, but otherwise whole ({path})"]
    assert whole_picture(path).shape == (48, 64)
    assert capfd.readouterr().err == ""


def test_a_truncated_jpeg_is_not_called_whole(tmp_path):
    path = tmp_path / "p.jpg"
    data = saved(noise(), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    notes = Notes()
    with pytest.raises(UserError, match="truncated"):
        read_image(path, notes=notes)
    assert notes.lines() == []


def test_a_marker_may_have_fill_bytes_and_restarts_do_not_end_a_scan():
    data = saved(noise(), "JPEG", restart_marker_blocks=2)
    scan = data.index(b"\xff\xda")
    filled = data[:scan] + b"\xff\xff" + data[scan:-2] + b"\xff\xff\xff\xd9"
    assert b"\xff\xd0" in data[scan:]
    assert jpeg_end(filled + b"more").end == len(filled)
    assert jpeg_end(filled).scans == jpeg_end(data).scans == 1


@pytest.mark.parametrize("lacking", [1, 5, 12])
def test_a_png_that_lacks_its_end_chunk_alone_is_read(tmp_path, lacking):
    path = tmp_path / "p.png"
    noise().save(path)
    whole, data = read_image(path), path.read_bytes()
    path.write_bytes(data[:-lacking])
    np.testing.assert_array_equal(read_image(path), whole)
    assert whole_picture(path).remark == "without an end marker, but otherwise whole"
    last = data.rindex(b"IDAT") - 4
    for shorter in (data[: -12 - lacking], data[:last], data[:last] + data[-12:]):
        path.write_bytes(shorter)
        for read in (read_image, whole_picture):
            with pytest.raises(UserError, match=r"p\.png is not a"):
                read(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lacking", [4, 10, 100, 1000, 3000])
def test_a_jpeg_that_lacks_more_stays_refused(tmp_path, kind, lacking):
    image = noise().convert("L") if kind == "grey" else noise()
    data = saved(image, "JPEG", **KINDS[kind])
    (tmp_path / "p.jpg").write_bytes(data[: max(len(data) - lacking, 300)])
    for read in (read_image, whole_picture):
        with pytest.raises(UserError, match="truncated"):
            read(tmp_path / "p.jpg")


def test_a_progressive_jpeg_whose_last_scans_are_lacking_is_truncated(tmp_path):
    """All of its blocks are there, coarser than they were."""
    data = saved(noise(), "JPEG", progressive=True)
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    for start in starts[1:]:
        tables = data.rfind(b"\xff\xc4", 0, start)  # of the scan, before it
        (tmp_path / "p.jpg").write_bytes(data[:tables])
        with pytest.raises(UserError, match="truncated"):
            read_image(tmp_path / "p.jpg")


def test_what_was_odd_and_read_is_said_once_with_its_number(trained, pictures, tmp_path):
    for name in ("x.jpg", "y.jpg"):
        (pictures / name).write_bytes(saved(noise(), "JPEG") + b"a film")
    (pictures / "z.jpg").write_bytes(saved(noise(), "JPEG")[:-2])
    said = []
    settings = PredictConfig(
        weights=trained, images=(str(pictures),), output=tmp_path / "out", batch_size=2
    )
    assert predict(settings, said.append) == 0
    notes = [line for line in said if line.startswith("note: ")]
    odd = {
        "2 pictures with bytes after the end": "x",
        "1 picture without an end marker, but otherwise whole": "z",
    }
    assert notes == [
        f"note: {what}; read, first: {pictures}/{name}.jpg" for what, name in odd.items()
    ]


# ---------- decoders ----------


@pytest.mark.parametrize("error", [ValueError, SystemError, cv2.error, IndexError])
def test_no_exception_of_a_decoder_ends_a_folder(trained, pictures, tmp_path, monkeypatch, error):
    decode = cv2.imdecode

    def failing(data, flags):
        if data.tobytes() == (pictures / "a.jpg").read_bytes():
            raise error("what a decoder may say")
        return decode(data, flags)

    monkeypatch.setattr(picture_files.cv2, "imdecode", failing)
    settings = PredictConfig(weights=trained, images=(str(pictures),), output=tmp_path / "out")
    assert predict(settings, lambda line: None) == 1
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["b.png"]
