import os
import threading

import cv2
import numpy as np
import pytest
from conftest import SHARED, needs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import utilities
from salience.pictures import letterbox, reading
from salience.pictures.picture_files import read_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.cache import Cache
from salience.system.errors import UserError
from utilities import (
    Letterbox,
    OutputGrid,
    SaliencyBatches,
    make_truth,
    network_input,
    postprocess,
    preprocess,
)

SIZES = st.integers(1, 300)


@given(SIZES, SIZES, SIZES, SIZES)
def test_letterbox_keeps_the_aspect_ratio_and_fits(rows, cols, in_rows, in_cols):
    box = Letterbox.fit((rows, cols), (in_rows, in_cols))
    scaled = box.scaled_shape
    assert 1 <= scaled[0] <= in_rows
    assert 1 <= scaled[1] <= in_cols
    assert scaled[0] == in_rows or scaled[1] == in_cols
    # to the pixel that rounding leaves
    scale = min(in_rows / rows, in_cols / cols)
    for i, length in enumerate((rows, cols)):
        assert abs(scaled[i] - length * scale) <= max(0.5, 1 - length * scale) + 1e-9
    # centred
    assert abs(box.top - (in_rows - scaled[0] - box.top)) <= 1
    assert abs(box.left - (in_cols - scaled[1] - box.left)) <= 1


def test_padding_is_black_before_the_mean_is_taken():
    x, box = preprocess(np.full((10, 20, 3), 255, np.uint8), (32, 32))
    assert x.dtype == np.uint8
    assert (x[0, 0] == 0).all()
    assert (x[16, 16] == 255).all()
    assert (box.top, box.scaled_shape) == (8, (16, 32))


@pytest.mark.parametrize("image_shape", [(600, 800), (480, 640), (333, 517), (800, 300), (37, 900)])
@pytest.mark.parametrize("input_shape", [(480, 640), (240, 320), (64, 64)])
def test_undo_puts_each_point_back_where_it_was(image_shape, input_shape, rng):
    """A ramp over x and over y, placed and undone, is the same ramp: to half a map's cell."""
    box = Letterbox.fit(image_shape, input_shape)
    rows, cols = input_shape
    ramp_y, ramp_x = np.mgrid[:rows, :cols].astype(np.float32)
    points = rng.uniform(0.2, 0.8, (20, 2)) * (image_shape[1] - 1, image_shape[0] - 1)
    placed = box.place_points(points)
    for axis, ramp in enumerate((ramp_x, ramp_y)):
        for stride in (1, 8):
            coarse = cv2.resize(
                ramp, (cols // stride, rows // stride), interpolation=cv2.INTER_AREA
            )
            undone = box.undo(coarse)
            assert undone.shape == image_shape
            x, y = np.round(points).astype(int).T
            # a rounded point is at most half a picture's pixel off, in input pixels
            half = 0.5 * box.scaled_shape[1 - axis] / image_shape[1 - axis] + 1e-2
            inner = np.abs(undone[y, x] - placed[:, axis]) <= half
            # within half a cell of the map's border the outer cell's value goes on
            length = (cols, rows)[axis]
            border = np.abs(placed[:, axis] - length / 2) > length / 2 - stride / 2 - 1
            assert (inner | border).all()


def test_placing_a_picture_and_its_points_agree():
    image = np.zeros((60, 90), np.float32)
    image[40, 70] = 1
    box = Letterbox.fit((60, 90), (240, 240))
    placed = box.place(image)
    y, x = np.unravel_index(placed.argmax(), placed.shape)
    where = box.place_points(np.array([[70.0, 40.0]]))[0]
    assert abs(where[0] - x) <= 1.5
    assert abs(where[1] - y) <= 1.5


def test_extreme_shapes_survive():
    for shape in ((1, 5000), (5000, 1), (1, 1)):
        x, box = preprocess(np.full((*shape, 3), 200, np.uint8), (48, 64))
        assert x.shape == (48, 64, 3)
        assert postprocess(np.ones((6, 8, 1)), box).shape == shape


def test_saliency_map_has_maximum_one_and_zero_stays_zero(rng):
    box = Letterbox.fit((33, 44), (48, 64))
    assert postprocess(rng.random((6, 8, 1)) * 70, box).max() == pytest.approx(1)
    assert not postprocess(np.zeros((6, 8)), box).any()
    below = postprocess(rng.normal(size=(6, 8)), box)
    assert below.min() == 0 and below.max() == 1
    smooth = postprocess(rng.random((6, 8, 1)), box, smooth_pixels=5)
    rough = postprocess(rng.random((6, 8, 1)), box)
    assert np.abs(np.diff(smooth)).max() < np.abs(np.diff(rough)).max()


@pytest.fixture
def samples(tmp_path, picture, rng):
    made = []
    for i in range(7):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), picture(30, 44))
        points = rng.uniform(0, 1, (9, 2)) * (43, 29)
        made.append(Sample(path.name, path, fixations=points.astype("f4"), sigma_pixels=2.0))
    return made


def epoch_of(batches, epoch=0):
    batches.epoch = epoch
    return [batches[i] for i in range(len(batches))]


def test_an_epoch_shows_every_picture_once(samples):
    batches = SaliencyBatches(samples, (32, 48), 3, shuffle=True, seed=1)
    assert [len(x) for x, _ in epoch_of(batches)] == [3, 3, 1]
    shown = np.concatenate([x for x, _ in epoch_of(batches, 4)])
    plain = np.concatenate([x for x, _ in epoch_of(SaliencyBatches(samples, (32, 48), 3))])
    key = lambda x: x.tobytes()  # noqa: E731
    assert sorted(map(key, shown)) == sorted(map(key, plain))


def test_order_depends_on_seed_and_epoch_alone(samples):
    def orders(seed):
        batches = SaliencyBatches(samples, (32, 48), 3, shuffle=True, seed=seed)
        return [epoch_of(batches, e)[0][0].tobytes() for e in range(3)]

    assert orders(0) == orders(0)
    assert len(set(orders(0))) > 1
    assert orders(0) != orders(1)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_what_fit_sees_does_not_depend_on_the_workers(samples, workers):
    """Through Keras' own reading threads, over two epochs, flips included."""
    import keras

    inputs = keras.Input((32, 48, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 8, strides=8)(inputs))
    seen = []

    class Note(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            batches.epoch = epoch

    class Spy(keras.losses.Loss):
        def call(self, y_true, y_pred):
            seen.append(np.asarray(y_true))
            return keras.ops.mean(y_pred) * 0 + keras.ops.mean(y_true)

    batches = SaliencyBatches(
        samples, (32, 48), 3, shuffle=True, flip=True, seed=5, workers=workers
    )
    assert batches.workers == workers
    model.compile(loss=Spy(), run_eagerly=True)
    model.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=[Note()])
    expected = [y for e in range(2) for _, y in epoch_of(batches, e)]
    assert len(seen) == len(expected)
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_flip_turns_picture_map_and_fixations_together(samples):
    plain = SaliencyBatches(samples, (32, 48), 7)[0]
    flipping = SaliencyBatches(samples, (32, 48), 7, flip=True, seed=3)
    flipped = 0
    for i in range(7):
        x, y = (part[i] for part in flipping[0])
        mirrored = not np.array_equal(x, plain[0][i])
        flipped += mirrored
        step = -1 if mirrored else 1
        np.testing.assert_array_equal(x[:, ::step], plain[0][i])
        np.testing.assert_array_equal(y[:, ::step], plain[1][i])
    assert 0 < flipped < 7


def test_truth_keeps_every_fixation_and_a_maximum_of_one(samples):
    _, y = SaliencyBatches(samples, (32, 48), 7)[0]
    np.testing.assert_allclose(y[..., 0].max(axis=(1, 2)), 1)
    assert y[..., 1].sum(axis=(1, 2)).tolist() == [9] * 7


def test_truth_lies_where_the_fixation_is():
    point = np.array([[100.0, 40.0]], np.float32)  # of 200 x 100, at one half and two fifths
    sample = Sample("s", lambda: np.zeros((100, 200, 3), np.uint8), fixations=point)
    box = Letterbox.fit((100, 200), (160, 160))  # 80 rows of picture below 40 of padding
    truth = make_truth(sample, box, OutputGrid(), 3.0)
    assert truth.shape == (20, 20, 2)
    cell = (int((40 + 40.5 * 0.8) // 8), int(100.5 * 0.8 // 8))
    for channel in range(2):
        found = np.unravel_index(truth[..., channel].argmax(), (20, 20))
        assert found == cell


def test_fixations_outside_the_picture_do_not_land_in_the_padding():
    points = np.array([[5.0, 5.0], [5.0, -3.0]], np.float32)
    sample = Sample("s", lambda: np.zeros((20, 40, 3), np.uint8), fixations=points)
    truth = make_truth(sample, Letterbox.fit((20, 40), (40, 40)), OutputGrid(), 2.0)
    assert truth[..., 1].sum() == 1


@pytest.mark.parametrize("grid", [OutputGrid(8), OutputGrid(1, 2), OutputGrid(2), OutputGrid(4, 4)])
def test_a_point_is_counted_in_the_cell_that_covers_it(grid):
    """The density peaks where the fixation is, whatever part of the input the map covers."""
    sample = Sample(
        "s", lambda: np.zeros((48, 64, 3), np.uint8), fixations=np.array([[29.0, 21.0]])
    )
    box = Letterbox.fit((48, 64), (48, 64))
    truth = make_truth(sample, box, grid, 3.0)
    assert truth.shape == (*grid.shape((48, 64)), 2)
    cell = ((21 - grid.crop) // grid.stride, (29 - grid.crop) // grid.stride)
    assert np.unravel_index(truth[..., 1].argmax(), truth.shape[:2]) == cell
    assert np.unravel_index(truth[..., 0].argmax(), truth.shape[:2]) == cell
    restored = postprocess(truth[..., 0], box, grid)
    peak = np.unravel_index(restored.argmax(), restored.shape)
    assert np.abs(np.subtract(peak, (21, 29))).max() <= grid.stride // 2


def test_a_system_may_blur_its_maps():
    spot = np.zeros((9, 9), np.float32)
    spot[4, 4] = 1
    box = Letterbox.fit((18, 18), (18, 18))
    sharp, soft = (postprocess(spot, box, OutputGrid(2, blur=blur)) for blur in (0.0, 2.0))
    assert (soft > 0.1).sum() > 4 * (sharp > 0.1).sum()


def test_truth_is_made_once_and_a_changed_map_is_noticed(tmp_path, monkeypatch):
    image, own = np.zeros((16, 16, 3), np.uint8), tmp_path / "m.png"
    cache = Cache(tmp_path / "cache")
    sample = Sample("s", lambda: image, own)

    def truth():
        return SaliencyBatches([sample], (16, 16), 1, cache=cache)[0][1]

    made = []
    real = utilities.make_truth
    monkeypatch.setattr(utilities, "make_truth", lambda *a: made.append(a) or real(*a))
    cv2.imwrite(str(own), np.eye(16, dtype=np.uint8) * 255)
    first = truth()
    np.testing.assert_array_equal(first, truth())
    assert len(made) == 1
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    cv2.imwrite(str(own), np.eye(16, dtype=np.uint8)[::-1] * 255)
    os.utime(own, ns=(1, 1))
    assert not np.array_equal(first, truth())


def test_sets_are_mixed_in_the_shares_asked_for():
    samples = [Sample(str(i), lambda: np.zeros((8, 8, 3), np.uint8)) for i in range(20)]
    batches = SaliencyBatches(
        samples, (8, 8), 4, shuffle=True, sizes=[15, 5], mix=[1, 3], cache=Cache(None)
    )
    epochs = []
    for batches.epoch in range(3):
        order = batches.order()
        assert (batches.count, len(order), len(batches)) == (20, 20, 5)
        assert len(set(order[order < 15])) == np.count_nonzero(order < 15) == 5
        assert np.bincount(order)[15:].tolist() == [3, 3, 3, 3, 3]
        epochs.append(order)
    assert len({i for order in epochs for i in order}) > 10  # others of the large set each time
    plain = SaliencyBatches(samples, (8, 8), 4, shuffle=True, sizes=[15, 5], cache=Cache(None))
    assert sorted(plain.order()) == list(range(20))


def test_the_smallest_share_is_a_picture():
    samples = [Sample(str(i), lambda: np.zeros((8, 8, 3), np.uint8)) for i in range(6)]
    mixed = {"sizes": [3, 3], "mix": [1, 1000], "cache": Cache(None)}
    batches = SaliencyBatches(samples, (8, 8), 4, shuffle=True, **mixed)
    assert np.count_nonzero(batches.order() < 3) == 1


def test_a_damaged_or_unwritable_cache_only_costs_time(tmp_path):
    shelf = Cache(tmp_path / "cache").shelf("shelf")
    made = shelf.get("ab12", lambda: np.ones((2, 2), np.float32))
    file = next((tmp_path / "cache").rglob("*.npz"))
    file.write_bytes(b"broken")
    np.testing.assert_array_equal(shelf.get("ab12", lambda: made), made)
    (tmp_path / "file").touch()
    blocked = Cache(tmp_path / "file").shelf("shelf")
    np.testing.assert_array_equal(blocked.get("ab12", lambda: made), made)


def test_unreadable_training_picture_is_remembered(samples):
    samples[0].image.write_text("no picture")
    batches = SaliencyBatches(samples, (32, 48), 3)
    with pytest.raises(UserError):
        batches[0]
    assert "0.png is not a picture" in str(batches.failure)


def test_batches_can_be_read_from_several_threads(samples):
    batches = SaliencyBatches(samples, (32, 48), 2, shuffle=True)
    expected, found = epoch_of(batches), {}
    threads = [
        threading.Thread(target=lambda i=i: found.setdefault(i, batches[i])) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(found[i][0], expected[i][0])


def photograph(rows, cols, name="chelsea"):
    """Return a photograph of scikit-image's, BGR, scaled to a shape."""
    from skimage import data

    return cv2.resize(getattr(data, name)()[..., ::-1], (cols, rows), interpolation=cv2.INTER_CUBIC)


def save_jpeg(path, image, mode="RGB", orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(image[..., ::-1]).convert(mode).save(
        path, "JPEG", quality=92, exif=exif, **options
    )
    return path


@pytest.fixture
def reductions(monkeypatch):
    """Return the list that gets how many times smaller each picture was decoded."""
    seen = []
    read = reading.read_image

    def noting(path, turn=True, reduction=1, notes=None):
        seen.append(reduction)
        return read(path, turn, reduction, notes)

    monkeypatch.setattr(reading, "read_image", noting)
    monkeypatch.setattr(letterbox, "REDUCED_PIXELS", 0)  # small pictures are quick to test with
    return seen


@pytest.mark.parametrize(
    ("image_shape", "input_shape", "times"),
    [
        ((960, 1280), (480, 640), 2),  # a whole multiple
        ((960, 1280), (240, 320), 4),
        ((480, 640), (240, 320), 1),  # so small that it would gain nothing
        ((1920, 2560), (240, 320), 8),
        ((1200, 1600), (480, 640), 1),  # 1.25 times as large after halving: too coarse
        ((600, 800), (480, 640), 1),
        ((1080, 1920), (240, 320), 2),  # CAT2000; a quarter would be 1.5 times as large
        ((3000, 4000), (240, 320), 4),
        ((40, 30), (240, 320), 1),
        ((5000, 1), (48, 64), 1),
    ],
)
def test_a_jpeg_is_decoded_smaller_where_enough_is_left(image_shape, input_shape, times):
    assert Letterbox.fit(image_shape, input_shape).reduction == times


@given(SIZES, SIZES, SIZES, SIZES)
def test_a_picture_decoded_smaller_is_never_enlarged(rows, cols, in_rows, in_cols):
    box = Letterbox.fit((rows * 9, cols * 9), (in_rows, in_cols))
    for length, scaled in zip(box.image_shape, box.scaled_shape, strict=True):
        assert box.reduction == 1 or length // box.reduction >= scaled


# grey levels; what saving the same pictures as JPEG again at quality 90 changes is 0.2 to 1.3
MEAN_TOLERANCE = 1.0


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
@pytest.mark.parametrize(
    ("shape", "times"),
    [((480, 640), 2), ((960, 1280), 4), ((1080, 1920), 2), ((1501, 1503), 2), ((1920, 2560), 8)],
)
def test_a_jpeg_decoded_smaller_is_nearly_the_same_input(
    mode, options, shape, times, tmp_path, reductions
):
    for name in ("chelsea", "coffee"):
        path = save_jpeg(tmp_path / "p.jpg", photograph(*shape, name), mode, **options)
        x, box = network_input(Sample("p", path), (240, 320))
        expected, expected_box = preprocess(read_image(path), (240, 320))
        assert box == expected_box
        difference = np.abs(x.astype(int) - expected)
        assert difference.mean() < MEAN_TOLERANCE
        assert np.percentile(difference, 99) < 12
    assert set(reductions) == {times}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(480, 640), (488, 1624)])
def test_a_jpeg_decoded_smaller_is_turned_as_in_full(orientation, shape, tmp_path, reductions):
    path = save_jpeg(tmp_path / "p.jpg", photograph(*shape), orientation=orientation)
    for asked in (None, shape):  # with a shape that its truth gives, it may have to lie as stored
        x, box = network_input(Sample("p", path, shape=asked), (80, 80))
        expected, expected_box = preprocess(sample_image(Sample("p", path, shape=asked)), (80, 80))
        assert box == expected_box
        assert np.abs(x.astype(int) - expected).mean() < MEAN_TOLERANCE
    assert max(reductions) > 1


@needs(SHARED / "eyecrowd")
def test_real_jpegs_decoded_smaller_are_nearly_the_same_inputs(reductions):
    paths = sorted((SHARED / "eyecrowd" / "data" / "stimuli").glob("*.jpg"))[::50]
    differences = []
    for path in paths:
        x, _ = network_input(Sample("p", path), (240, 320))
        expected, _ = preprocess(cv2.imread(str(path)), (240, 320))
        differences.append(np.abs(x.astype(int) - expected).mean())
    assert np.mean(differences) < MEAN_TOLERANCE
    assert max(differences) < 2 * MEAN_TOLERANCE  # crowds are fine texture
    assert reductions == [2] * len(paths)


def test_only_a_jpeg_is_decoded_smaller_whatever_its_name(tmp_path, reductions):
    image = photograph(480, 640)
    cv2.imwrite(str(tmp_path / "p.png"), image)
    (tmp_path / "p.png").rename(tmp_path / "png.jpg")
    save_jpeg(tmp_path / "jpg.png", image)
    x, _ = network_input(Sample("p", tmp_path / "png.jpg"), (240, 320))
    np.testing.assert_array_equal(x, preprocess(image, (240, 320))[0])
    network_input(Sample("p", tmp_path / "jpg.png"), (240, 320))
    assert reductions == [1, 2]


def test_a_damaged_jpeg_is_named_when_decoded_smaller(tmp_path, reductions):
    path = save_jpeg(tmp_path / "p.jpg", photograph(480, 640))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"p\.jpg is not a picture that can be read: truncated"):
        network_input(Sample("p", path), (240, 320))
    assert reductions == [2]
    for shape in ((480, 640), (20, 30)):
        with pytest.raises(UserError, match=r"Cannot read .*gone\.jpg"):
            network_input(Sample("p", tmp_path / "gone.jpg", shape=shape), (240, 320))
    whole = save_jpeg(tmp_path / "q.jpg", photograph(480, 640))
    with pytest.raises(UserError, match=r"q\.jpg is 640 x 480 but its map or fixations are 30 x"):
        network_input(Sample("q", whole, shape=(20, 30)), (240, 320))


def test_the_order_is_drawn_once_an_epoch(samples, monkeypatch):
    batches = SaliencyBatches(samples, (32, 48), 2, shuffle=True)
    draw, drawn = batches._draw, []
    monkeypatch.setattr(batches, "_draw", lambda epoch: drawn.append(epoch) or draw(epoch))
    for epoch in (0, 1, 0, 2, 1, 0):  # the last two are kept, as the next one is read ahead
        epoch_of(batches, epoch)
    assert drawn == [0, 1, 2, 0]
