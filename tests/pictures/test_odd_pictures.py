"""Odd, huge and hostile pictures: each gives a map or one clear line, in little memory."""

import os
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from commands.evaluation import evaluate
from commands.prediction import predict as predict_module
from commands.prediction.inputs import Collection
from commands.prediction.predict import predict
from commands.settings import EvaluateConfig
from config import PredictConfig
from salience.pictures import headers, picture_files, reading
from salience.pictures.headers import header_shape, room
from salience.pictures.letterbox import Letterbox, preprocess, read_input
from salience.pictures.picture_files import overlay, read_image, read_map, to_8_bit, whole_picture
from salience.pictures.reading import sample_density
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from utilities import SaliencyBatches

BLUE = (200, 60, 10)  # as BGR
MEGABYTE = 2**20


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(rows, cols, *before, packed=None, after=()):
    """Return a black RGB PNG with chunks before and after its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", cols, rows, 8, 2, 0, 0, 0))
    packed = zlib.compress(bytes(rows * (1 + 3 * cols))) if packed is None else packed
    body = b"".join((*before, chunk(b"IDAT", packed), *after))
    return headers.PNG + header + body + chunk(b"IEND", b"")


def packed_zeros(size):
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(size // MEGABYTE)) + (
        packer.flush()
    )


def frames(count=3, shape=(24, 32)):
    """Return pictures, the first of which is blue."""
    colours = [BLUE[::-1], *((250 - i % 200, 250, 250) for i in range(1, count))]
    return [Image.new("RGB", shape[::-1], colour) for colour in colours]


def save_all(path, **options):
    first, *rest = frames()
    first.save(path, save_all=True, append_images=rest, **options)


def plain(path, mode="RGB", shape=(24, 32), **options):
    Image.new("RGB", shape[::-1], BLUE[::-1]).convert(mode).save(path, **options)


def bad_gamma(content, checksum=None):
    gamma = chunk(b"gAMA", content)
    return lambda path: path.write_bytes(png(24, 32, gamma[:-4] + (checksum or gamma[-4:])))


GAMMA = struct.pack(">I", 45455)
# a name tells what it should look like: blue, or black
ODD = {
    "black.png": lambda path: path.write_bytes(png(30, 40)),
    "blue one pixel.png": lambda path: plain(path, shape=(1, 1)),
    "blue one pixel.jpg": lambda path: plain(path, shape=(1, 1), quality=95),
    "blue tall.png": lambda path: plain(path, shape=(5000, 1)),
    "blue wide.png": lambda path: plain(path, shape=(1, 5000)),
    "blue tall.jpg": lambda path: plain(path, shape=(5000, 1), quality=95),
    "blue wide.gif": lambda path: plain(path, shape=(1, 5000)),
    "blue 16 bits.png": lambda path: cv2.imwrite(
        str(path), np.full((24, 32, 3), [257 * c for c in BLUE], np.uint16)
    ),
    "blue 16 bits.tiff": lambda path: cv2.imwrite(
        str(path), np.full((24, 32, 3), [257 * c for c in BLUE], np.uint16)
    ),
    "blue 10 bits.avif": lambda path: cv2.imwrite(
        str(path), np.full((24, 32, 3), [4 * c for c in BLUE], np.uint16),
        [cv2.IMWRITE_AVIF_DEPTH, 10],
    ),
    "blue moving.gif": lambda path: save_all(path, duration=20),
    "blue moving.png": lambda path: save_all(path),
    "blue moving.webp": lambda path: save_all(path, lossless=True),
    "blue pages.tiff": lambda path: save_all(path),
    "blue inks.jpg": lambda path: plain(path, "CMYK", quality=95),
    "blue progressive.jpg": lambda path: plain(path, progressive=True, quality=95),
    "blue transparent.png": lambda path: plain(path, "RGBA"),
    "blue palette.png": lambda path: frames()[0].quantize(4).save(path),
    "grey.png": lambda path: plain(path, "L"),
    "grey and transparent.png": lambda path: plain(path, "LA"),
    "two colours.png": lambda path: plain(path, "1"),
    "black gamma zero.png": bad_gamma(bytes(4)),
    "black gamma huge.png": bad_gamma(b"\xff" * 4),
    "black gamma short.png": bad_gamma(b"\1\2"),
    "black gamma damaged.png": bad_gamma(GAMMA, b"bad!"),
    "blue.jp2": plain,
    "blue.ppm": plain,
}  # fmt: skip


@pytest.fixture
def odd(tmp_path):
    """Return a folder with a picture of every odd kind."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, write in ODD.items():
        write(folder / name)
    return folder


# ---------- what a picture is, whatever its kind ----------


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_read_as_it_looks(name, tmp_path, capfd):
    ODD[name](tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8
    assert read.shape[:2] == header_shape(tmp_path / name)
    look = name.split()[0].split(".")[0]
    if look in ("blue", "black"):
        inks = 25 if "inks" in name else 6  # turned into inks and back
        assert np.abs(read - np.array(BLUE if look == "blue" else (0, 0, 0), float)).max() <= inks
    else:
        assert np.ptp(read, axis=2).max() == 0
    # libraries that complain would speak past our one line, and in the file's own words
    assert capfd.readouterr().err == ""


def test_every_odd_picture_gets_a_map_of_its_size(odd, trained, tmp_path, capsys):
    settings = PredictConfig(
        weights=trained, output=tmp_path / "out", overlay=True, float_maps=True
    )
    assert predict(replace(settings, images=(str(odd),)), lambda line: None) == 0
    assert capsys.readouterr().err == ""
    with Collection([str(odd)], settings) as jobs:
        outputs = {job.source.name: job.outputs for job in jobs}
    assert outputs.keys() == ODD.keys()
    for name, written in outputs.items():
        shape = header_shape(odd / name)
        grey = cv2.imread(str(written["map"]), cv2.IMREAD_UNCHANGED)
        assert (grey.dtype, grey.shape) == (np.uint8, shape)
        assert read_image(written["overlay"]).shape[:2] == shape
        values = np.load(written["float"])
        assert np.isfinite(values).all()
        assert values.max() <= 1


def test_odd_pictures_and_truths_make_finite_batches(odd):
    points = {
        "none": np.zeros((0, 2), np.float32),
        "corner": np.array([[0.0, 0.0]], np.float32),
    }
    samples = [
        Sample(f"{name} {kind}", odd / name, fixations=fixations)
        for name in ODD
        for kind, fixations in points.items()
    ]
    batches = SaliencyBatches(samples, (48, 64), 8, flip=True)
    for index in range(len(batches)):
        x, truth = batches[index]
        assert (x.dtype, x.shape[1:]) == (np.uint8, (48, 64, 3))
        assert np.isfinite(truth).all()
        chosen = samples[index * 8 : (index + 1) * 8]
        for sample, (density, counts) in zip(chosen, np.moveaxis(truth, -1, 1), strict=True):
            looked = len(sample.fixations)
            assert density.max() == (1 if looked else 0), sample.name
            assert counts.sum() == looked, sample.name


def test_a_black_map_as_truth_makes_a_finite_batch(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "p.png"), picture())
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((30, 40), np.uint8))
    _, truth = SaliencyBatches([Sample("p", tmp_path / "p.png", tmp_path / "m.png")], (48, 64), 1)[
        0
    ]
    assert not truth.any()


@pytest.mark.parametrize("map_kind", ["a network's", "constant"])
def test_odd_pictures_are_scored_or_left_out_with_a_note(trained, tmp_path, picture, map_kind):
    """Each mean is over what has a score; nobody looking is said, and nothing crashes."""
    root, shapes = tmp_path / "set", {}
    for kind in ("images", "fixations"):
        (root / "test" / kind).mkdir(parents=True)
    for name, image in {
        "black": np.zeros((30, 40, 3), np.uint8),
        "dot": np.full((1, 1, 3), 9, np.uint8),
        "tall": np.full((5000, 1, 3), 9, np.uint8),
        "plain": picture(),
        "nobody": picture(),
    }.items():
        cv2.imwrite(str(root / f"test/images/{name}.png"), image)
        shapes[name] = image.shape[:2]
        looked = [] if name == "nobody" else [[0.0, 0.0]]
        np.savez(
            root / f"test/fixations/{name}.npz",
            fixations=np.array(looked, np.float32).reshape(-1, 2),
        )
    about = {"weights": trained}
    if map_kind == "constant":
        (tmp_path / "maps").mkdir()
        for name, shape in shapes.items():
            cv2.imwrite(str(tmp_path / f"maps/{name}.png"), np.full(shape, 7, np.uint8))
        about = {"maps": tmp_path / "maps"}
    lines = []
    settings = EvaluateConfig(
        dataset="folder", data=root, metrics="nss,auc_judd,cc,sim,kld", human=False, **about
    )
    done = evaluate.evaluate(settings, say=lines.append)
    assert any("pictures without fixations or a map: no metric counts" in line for line in lines)
    row = done.rows[0]
    for metric, mean in row.means.items():
        assert np.isfinite(mean.mean), metric
        assert mean.pictures <= 4, metric
    if map_kind == "constant":
        assert row.means["nss"].mean == 0
        assert row.means["auc_judd"].mean == 0.5


# ---------- which way up ----------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif", "jp2"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("turn", [True, False])
def test_a_header_tells_the_shape_that_is_read(tmp_path, suffix, orientation, turn):
    exif = Image.Exif()
    exif[headers.ORIENTATION] = orientation
    path = tmp_path / f"p.{suffix}"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert header_shape(path, turn) == read_image(path, turn).shape[:2]


def test_exif_data_after_the_pixels_of_a_png_are_heeded(tmp_path):
    exif = Image.Exif()
    exif[headers.ORIENTATION] = 6
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "p.png").write_bytes(png(20, 40, after=[late]))
    assert header_shape(tmp_path / "p.png") == read_image(tmp_path / "p.png").shape[:2] == (40, 20)


def test_the_header_of_a_png_costs_no_decoding(tmp_path):
    """Pillow decodes all of a PNG to look for EXIF data; of this one there is nothing to decode."""
    (tmp_path / "p.png").write_bytes(png(9000, 9000, packed=b""))
    assert header_shape(tmp_path / "p.png") == (9000, 9000)


# ---------- what is refused ----------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC picture, .* heif-convert"),
        ("a.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0heic", "is a HEIC picture"),
        ("a.png", b"\0\0\0\x0cJXL \r\n\x87\n", r"is a JPEG XL picture, .* djxl"),
        ("a.jpg", b"8BPS\0\1", "is a Photoshop file"),
        ("a.jpg", b"%PDF-1.4", "is a document"),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a document"),
        ("a.png", b"<svg xmlns=", "is a drawing"),
        ("a.pfm", b"Pf\n2 1\n-1.0\n" + bytes(8), "is a PFM picture, whose .* float TIFF"),
        ("a.png", b"PF\n2 1\n1.0\n" + bytes(24), "is a PFM picture"),
        ("a.png", b"hello", "is not a picture that can be read"),
        ("a.png", png(0, 5), "is not a picture that can be read"),
    ],
)
def test_what_is_no_picture_of_ours_is_called_by_its_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for read in (read_image, read_map, whole_picture):
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_a_phones_pictures_are_named_in_a_folder_and_the_rest_is_done(
    trained, tmp_path, pictures, capsys
):
    (pictures / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    settings = PredictConfig(weights=trained, output=tmp_path / "out")
    assert predict(replace(settings, images=(str(pictures),)), lambda line: None) == 1
    assert "IMG_1.HEIC is a HEIC picture" in capsys.readouterr().err
    assert (tmp_path / "out/a.png").exists()


# ---------- bombs ----------


@pytest.mark.parametrize(
    ("rows", "cols"), [(100_000, 100_000), (23_171, 23_171), (2_000_000, 1), (2**31, 2**31)]
)
def test_a_header_that_promises_too_much_is_refused_unread(tmp_path, rows, cols):
    (tmp_path / "p.png").write_bytes(png(rows, cols, packed=zlib.compress(bytes(99))))
    for read in (read_image, read_map, whole_picture):
        with pytest.raises(UserError, match=rf"p\.png is {cols} x {rows} pixels; at most .* down"):
            read(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("suffix", "place", "form"), [("bmp", 18, "<II"), ("gif", 6, "<HH"), ("tiff", None, "")]
)
def test_other_formats_promise_no_more(tmp_path, suffix, place, form):
    path = tmp_path / f"p.{suffix}"
    if suffix == "tiff":
        plain(path, tiffinfo={})
        data = bytearray(path.read_bytes())
        with Image.open(path) as picture:
            first = struct.unpack_from("<I", data, 4)[0]
            count = struct.unpack_from("<H", data, first)[0]
            assert picture.format == "TIFF"
        for i in range(count):
            tag, _, _ = struct.unpack_from("<HHI", data, first + 2 + 12 * i)
            if tag in (256, 257):  # width and height, now as 32 bits
                struct.pack_into("<HHII", data, first + 2 + 12 * i, tag, 4, 1, 99_000)
    else:
        plain(path)
        data = bytearray(path.read_bytes())
        struct.pack_into(form, data, place, 60_000, 60_000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"at most .* are read"):
        read_image(path)


def test_maps_and_truths_are_held_to_less_than_pictures(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((30, 40), np.uint8))
    for module in (picture_files, reading):
        monkeypatch.setattr(module, "LARGEST_MAP", 1199)
    assert read_image(tmp_path / "p.png").shape == (30, 40, 3)
    with pytest.raises(UserError, match="40 x 30 pixels; at most 1,199 are read"):
        read_map(tmp_path / "p.png")
    sample = Sample("p", tmp_path / "p.png", fixations=np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match="p is 40 x 30 pixels; density maps have at most 1,199"):
        sample_density(sample, (30, 40), None)


def limited(code, megabytes, *arguments, complaint=""):
    """Run Python with so much memory for its data; return what it printed."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({megabytes}*2**20,)*2)\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + code, *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert complaint in done.stderr
    return done.stdout


READ = """
import sys
from pathlib import Path
from salience.system.errors import UserError
from salience.pictures.headers import header_shape
from salience.pictures.picture_files import read_image, whole_picture
for name in sys.argv[1:]:
    for read in (header_shape, read_image, whole_picture):
        try:
            print(len(read(Path(name))))
        except UserError as error:
            print(error)
"""


def test_what_unpacks_to_gigabytes_is_read_in_little_memory(tmp_path):
    """Texts and profiles are left away, and what goes on after the last row is not unpacked."""
    bomb = packed_zeros(1024 * MEGABYTE)
    kinds = {
        "ztxt": [chunk(b"zTXt", b"k\0\0" + bomb)] * 3,
        "itxt": [chunk(b"iTXt", b"k\0\1\0\0\0" + bomb)],
        "iccp": [chunk(b"iCCP", b"k\0\0" + bomb)],
    }
    for kind, chunks in kinds.items():
        (tmp_path / f"{kind}.png").write_bytes(png(8, 8, *chunks))
    whole = [tmp_path / f"{kind}.png" for kind in kinds]
    assert limited(READ, 700, *whole).split() == ["2", "8", "3"] * 3
    surplus = tmp_path / "surplus.png"
    surplus.write_bytes(png(8, 8, packed=bomb * 3))
    told = limited(READ, 700, surplus).splitlines()
    assert told == ["2", *[f"{surplus} unpacks to more than 8 x 8 pixels. Save it anew."] * 2]


def test_the_largest_rows_of_a_png_are_no_surplus():
    """16 bits, four channels and interlacing: the most that a shape may unpack to."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**16, (700, 700, 4), dtype=np.uint16)
    data = cv2.imencode(".png", noise, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    assert len(data) > headers.SURELY_QUICK
    packed = zlib.compress(bytes(700 * (700 * 8 + 7)), 0)
    assert not headers._unpacks_beyond([packed], (700, 700))
    assert headers._unpacks_beyond([zlib.compress(bytes(9 * 700 * 700), 0)], (700, 700))


def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    path = tmp_path / "p.jpg"
    plain(path, progressive=True)
    data = path.read_bytes()
    last = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + last * headers.MOST_SCANS + data[-2:])
    with pytest.raises(UserError, match=r"p\.jpg is a JPEG of more than 200 scans"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["gif", "tiff", "webp"])
def test_of_thousands_of_frames_the_first_is_read(tmp_path, suffix):
    first, *rest = frames(300 if suffix == "tiff" else 2000, (8, 8))  # Pillow is slow at TIFF
    path = tmp_path / f"p.{suffix}"
    first.save(path, save_all=True, append_images=rest)
    assert np.abs(read_image(path) - np.array(BLUE, float)).max() <= 6
    assert whole_picture(path)[0] == (8, 8)


def test_what_never_ends_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (Path("/dev/zero"), tmp_path / "pipe.png", tmp_path):
        assert header_shape(path) is None
        for read in (read_image, lambda path: read_input(Sample("p", path), (48, 64))):
            with pytest.raises(UserError, match=f"{path} is not a file"):
                read(path)
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(UserError, match=r"sparse.png has 8,589,934,592 bytes"):
        read_image(tmp_path / "sparse.png")


# ---------- large pictures ----------


def test_one_large_picture_is_worked_on_at_a_time(monkeypatch):
    monkeypatch.setattr(headers, "LARGE", 100)
    inside, most = 0, 0

    def work(shape):
        nonlocal inside, most
        with room(shape):
            inside += 1
            most = max(most, inside)
            event.wait(0.01)
            inside -= 1

    event = threading.Event()
    for shape, expected in (((10, 11), 1), ((10, 10), 4), (None, 4)):
        inside = most = 0
        threads = [threading.Thread(target=work, args=(shape,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most <= expected
        assert (most == 1) == (expected == 1)


def test_large_pictures_are_read_and_drawn_within_the_room(trained, tmp_path, picture, monkeypatch):
    """Decoding, placing, the map and the overlay of all threads: none meets another."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(8):
        cv2.imwrite(str(folder / f"{i}.{'jpg' if i % 2 else 'png'}"), picture())
    monkeypatch.setattr(headers, "LARGE", 100)
    for owner, name in (
        (cv2, "imdecode"), (Letterbox, "place"), (predict_module, "_write"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, held(headers._one_large, getattr(owner, name)))
    drawn = {"overlay": True, "contours": True, "peaks": 3, "crop": "1:1", "side_by_side": True}
    settings = PredictConfig(weights=trained, output=tmp_path / "out", batch_size=2, **drawn)
    assert predict(replace(settings, images=(str(folder),)), lambda line: None) == 0


def held(lock, function):
    """Return a function that asserts that its thread has the lock."""

    def checked(*arguments, **named):
        assert lock._is_owned(), function
        return function(*arguments, **named)

    return checked


def test_bands_of_a_picture_are_drawn_as_the_whole_is(picture, monkeypatch, rng):
    image, heat = picture(50, 40), rng.random((50, 40)).astype(np.float32)
    whole = to_8_bit(heat), overlay(image, heat)
    monkeypatch.setattr(picture_files, "BAND_PIXELS", 130)
    np.testing.assert_array_equal(to_8_bit(heat), whole[0])
    np.testing.assert_array_equal(overlay(image, heat), whole[1])


def test_a_jpeg_beyond_pillows_own_limit_is_decoded_smaller(tmp_path, monkeypatch):
    """Its header was refused by Pillow, and all of it decoded, in 2 GB."""
    path = tmp_path / "p.jpg"
    cv2.imwrite(str(path), np.full((13_500, 13_500), 99, np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])
    seen = []
    decode = picture_files._decode
    monkeypatch.setattr(
        picture_files, "_decode", lambda *a: seen.append(decode(*a).shape) or decode(*a)
    )
    x, box = read_input(Sample("p", path), (48, 64))
    assert box.image_shape == (13_500, 13_500)
    assert seen == [(1688, 1688, 3)]
    assert np.abs(x[box.top + 1 : -1, box.left + 1 : -box.left - 1].astype(int) - 99).max() <= 2


def test_an_extreme_picture_keeps_a_row_or_column(picture):
    for shape in ((1, 5000), (5000, 1), (1, 1)):
        x, box = preprocess(np.full((*shape, 3), 77, np.uint8), (48, 64))
        assert x.any()
        assert box.undo(np.ones((6, 8), np.float32)).shape == shape


def test_a_picture_beyond_the_machines_memory_costs_that_picture_alone(trained, tmp_path, picture):
    """Within the cap, and yet more than 1.1 GB: the next one is done."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(20_000, 20_000, packed=b""))
    cv2.imwrite(str(folder / "b.png"), picture())
    told = limited(
        "import sys, main; sys.exit(main.main(sys.argv[1:]) - 1)", 1100,
        "test", folder, "--weights", trained, "--output", tmp_path / "out", "--workers", 1,
        complaint=f"skipped: {folder}/a.png needs more memory than is available. Scale it down.",
    )  # fmt: skip
    assert "1 map written" in told
    assert (tmp_path / "out/b.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_20000_by_20000_pixels_take_less_than_3_gb(trained, tmp_path, suffix):
    """The picture has 1.2 GB and its map 1.6; the network's own memory is a tenth of that."""
    path = tmp_path / f"p.{suffix}"
    if suffix == "png":
        packed = packed_zeros(20_000 * 60_001 // MEGABYTE * MEGABYTE + MEGABYTE)
        path.write_bytes(png(20_000, 20_000, packed=packed))
    else:
        cv2.imwrite(str(path), np.full((20_000, 20_000, 3), 99, np.uint8))
    limited(
        "import sys, main; sys.exit(main.main(sys.argv[1:]))", 3000,
        "test", path, "--weights", trained, "--output", tmp_path / "out", "--batch_size", 1,
    )  # fmt: skip
    assert header_shape(tmp_path / "out/p.png") == (20_000, 20_000)


def test_a_png_that_claims_more_than_it_has_is_refused_at_once(tmp_path):
    """Found by fuzzing: OpenCV took minutes over these 55 bytes."""
    parts = (
        "89504e470d0a1a0a0000000d49484452000000240000002010000000000f6a5911",
        "ffffff7f49444154480d01dff67a2d31323700000000",
    )
    (tmp_path / "cut.png").write_bytes(bytes.fromhex("".join(parts)))
    with pytest.raises(UserError, match=r"cut\.png is not a picture that can be read: truncated"):
        read_image(tmp_path / "cut.png")
