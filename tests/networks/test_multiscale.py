"""The multi-scale read-out: its density, its numbers of data sets, and joint training."""

from dataclasses import replace

import keras
import layouts
import numpy as np
import pytest

import model
from commands.training import objective, train, validation
from commands.training.devices import Devices
from config import resolve
from model import grid_of, load_model, predict
from salience.networks import multiscale
from salience.networks.losses import nll
from salience.networks.trunks.resampling import Resampled, sampling
from salience.system.errors import UserError

SMALL = {
    "model": "multiscale", "rows": 64, "cols": 96, "width": 0.05, "readout": (8, 4),
    "backbone_weights": "none", "dropout": 0.0,
}  # fmt: skip


def built(**changes):
    return multiscale.build(resolve({**SMALL, **changes}))


def pictures(rng, count=2):
    return rng.integers(1, 256, (count, 64, 96, 3), dtype=np.uint8)


def set_number(network, row, name, value):
    layer = network.get_layer("density")
    table = np.array(layer.numbers)
    table[row, multiscale.number_names(2).index(name)] = value
    layer.numbers.assign(table)


def test_output_is_a_density_inside_the_picture_and_zero_on_its_padding(rng):
    x = pictures(rng)
    x[1, :, :24] = x[1, :, 72:] = 0  # padding of an upright picture
    density = np.asarray(built()(x))[..., 0]
    np.testing.assert_allclose(density.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert density[0].min() > 0
    assert density[1, :, :3].max() == density[1, :, 9:].max() == 0 < density[1, :, 3:9].min()


def test_cells_that_the_picture_covers_in_part_have_density(rng):
    """Fixations at the border fall into them."""
    x = pictures(rng, 1)
    x[0, :, :22] = x[0, :, 73:] = 0  # 2 of 8 columns of a cell are picture, and one
    for array in (x, x.astype("float16")):
        density = np.asarray(built()(array))[0, ..., 0]
        assert (density.max(axis=0) > 0).tolist() == [False] * 2 + [True] * 8 + [False] * 2


def test_centre_bias_follows_the_picture_and_not_its_padding(rng):
    network = built()
    set_number(network, 0, "centre_power", 20)
    set_number(network, 0, "centre_x", -1.5)  # far to the left
    x = pictures(rng, 1)
    x[0, :, :48] = 0
    density = np.asarray(network(x))[0, ..., 0]
    assert density.sum(axis=0).argmax() in (6, 7)


def test_a_scale_that_is_smaller_sees_the_picture_reduced(rng):
    """The second scale's features are those of the picture at half its size."""
    x = pictures(rng, 1).astype("float32")
    network = built()
    half = keras.Model(network.input, network.get_layer("picture_2").output)
    by_hand = x.reshape(1, 32, 2, 48, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(np.asarray(half(x)), by_hand, atol=1e-3)


def test_trunk_is_shared_by_the_scales():
    two, one = built(), built(scales=(1.0,))
    counts = [sum(w.path.startswith("block5_conv1/") for w in m.weights) for m in (two, one)]
    assert counts == [2, 2]


def test_reading_before_resampling_equals_reading_after(rng):
    """A 1x1 convolution and linear resampling commute, so that the cheaper order is exact."""
    cells = keras.Input((4, 6, 5))
    read = keras.layers.Conv2D(3, 1, use_bias=False)
    rows, cols = (sampling(n, 16, 0.5, 2 * n, 8) for n in (4, 6))
    on_grid = Resampled(rows, cols)
    x = rng.normal(size=(2, 4, 6, 5)).astype("float32")
    first, last = (
        keras.Model(cells, order) for order in (on_grid(read(cells)), read(on_grid(cells)))
    )
    np.testing.assert_allclose(np.asarray(first(x)), np.asarray(last(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "by_name"),
    [("contrast", "larger"), ("uniform_share", "smaller"), ("blur", "smaller")],
)
def test_numbers_do_what_they_say(rng, name, by_name):
    x, peaks = pictures(rng), []
    for value in (0.0, 0.5, 1.0):
        network = built()
        set_number(network, 0, name, value)
        set_number(network, 0, "centre_power", -0.5 / multiscale.PACE)  # no centre bias
        peaks.append(np.asarray(network(x)).max())
    assert (peaks if by_name == "larger" else peaks[::-1]) == sorted(peaks), peaks


def test_an_unknown_set_gets_the_mean_of_the_numbers(rng):
    network = built(dataset=("osie", "eyecrowd"))
    for row, value in enumerate((0.6, -0.2)):
        set_number(network, row, "contrast", value)
    own = multiscale.numbers_of(network, ("osie", "eyecrowd"))
    assert own["osie"]["contrast"] == pytest.approx(np.exp(0.6 * multiscale.PACE), rel=1e-5)
    assert own["mean"]["contrast"] == pytest.approx(np.exp(0.2 * multiscale.PACE), rel=1e-5)
    assert len(own["mean"]) < 20
    x = pictures(rng)
    all_sets = multiscale.for_training(network, 2)
    assert all_sets.output_shape == (None, 8, 12, 2)
    for row, name in enumerate(("osie", "eyecrowd")):
        chosen = multiscale.with_set(network, ("osie", "eyecrowd"), name)
        assert (chosen.output_shape, chosen.name) == ((None, 8, 12, 1), "multiscale")
        expected = np.asarray(all_sets(x))[..., row]
        np.testing.assert_allclose(np.asarray(chosen(x))[..., 0], expected, atol=1e-6)
    assert multiscale.with_set(network, ("osie", "eyecrowd"), None) is network
    with pytest.raises(
        UserError, match=r"--set osi: .*knows the numbers of osie, eyecrowd; 'mean'"
    ):
        multiscale.with_set(network, ("osie", "eyecrowd"), "osi")


def test_each_picture_trains_the_numbers_of_its_own_set(rng):
    density = rng.random((2, 3, 4, 2)).astype("float32")
    y = np.zeros((2, 3, 4, 3), "float32")
    y[0, ..., 2], y[1, ..., 2] = 1, 0
    own = np.asarray(multiscale.of_own_set(y, density))
    np.testing.assert_array_equal(own[0, ..., 0], density[0, ..., 1])
    np.testing.assert_array_equal(own[1, ..., 0], density[1, ..., 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (0.5,)}, "--scales 0.5: name shares"),
        ({"scales": (1.0, 1.0)}, "named twice"),
        ({"backbone": "mobilenet_v2", "rows": 96}, "--rows 96 at scale 0.5 is 48 pixels"),
        ({"scales": (1.0, 0.3)}, "--rows 64 at scale 0.3 is 19.2 pixels"),
    ],
)
def test_scales_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        built(**changes)


@pytest.fixture
def two_sets(tmp_path):
    """Return settings of a joint training on synthetic scenes and on a small set like OSIE."""
    layouts.osie(tmp_path / "osie")
    return {
        **SMALL, "dataset": ("synthetic", "osie"), "data": (tmp_path / "osie",), "batch_size": 4,
        "epochs": 2, "flip": True, "output": tmp_path / "run", "weights_dir": tmp_path / "weights",
    }  # fmt: skip


def test_sets_are_trained_together_and_each_is_validated_by_its_own_numbers(two_sets, picture):
    config = resolve(two_sets)
    run = train.train(config, say=lambda line: None)
    for row in run.history:
        gains = [row["val_ig_synthetic"], row["val_ig_osie"]]
        assert row["val_ig"] == min(gains)
    assert run.best_epoch["val_ig"] == max(row["val_ig"] for row in run.history)
    path, image = run.path("best.weights.h5"), picture()
    table = np.array(load_model(path).get_layer("density").numbers)
    assert table.shape == (2, 12)
    assert (table[0] != table[1]).all()
    maps = [predict(load_model(path, name), image) for name in ("synthetic", "osie", None)]
    assert all(saliency_map.max() == 1 for saliency_map in maps)
    assert not np.allclose(maps[0], maps[1])
    with pytest.raises(UserError, match=r"--set toronto: .*synthetic, osie"):
        load_model(path, "toronto")


@pytest.mark.slow
def test_mean_over_the_sets_may_be_the_criterion(two_sets):
    config = resolve({**two_sets, "criterion": "mean", "epochs": 1})
    [row] = train.train(config, say=lambda line: None).history
    assert row["val_ig"] == pytest.approx((row["val_ig_synthetic"] + row["val_ig_osie"]) / 2)


def test_information_gain_of_the_centre_bias_itself_is_zero(two_sets):
    config = resolve(two_sets)
    grid = grid_of(multiscale.build(config))
    training, found = (train.batches(config, split, grid) for split in ("train", "val"))
    validator = validation.Validator(config, found, Devices(), training)
    for index in range(len(found)):
        _, y = found[index]
        biases = validation.centre_biases(training, 2)
        density = np.broadcast_to(np.stack(biases, -1), (len(y), *biases[0].shape, 2))
        np.testing.assert_allclose(validator.gain(y, density), 0, atol=1e-5)
    assert not np.allclose(*biases)


def test_a_set_without_fixations_does_not_choose_the_epoch(two_sets):
    config = resolve(two_sets)
    grid = grid_of(multiscale.build(config))
    training, found = (train.batches(config, split, grid) for split in ("train", "val"))
    assert train.gains_remark(found, config) == ""
    validator = validation.Validator(config, found, Devices(), training)
    _, y = found[0]
    y[1:, ..., 1] = 0
    gains = validator.gain(y, np.ones((*y.shape[:3], 2), np.float32))
    assert np.isfinite(gains).tolist() == [True] + [False] * (len(y) - 1)
    (some, bare), nothing = found.sizes, np.full(sum(found.sizes), np.nan)
    values = np.append(np.arange(some), nothing[:bare])
    mean = np.mean(np.arange(some))
    assert validator.gains_by_set(values) == {"val_ig_synthetic": mean, "val_ig": mean}
    assert validator.gains_by_set(nothing) == {}
    found.samples[some:] = [replace(one, fixations=None) for one in found.samples[some:]]
    assert train.gains_remark(found, config).startswith("osie: without fixations")


@pytest.mark.parametrize("now", [("toronto",), ("cat2000", "toronto", "osie")])
def test_rows_of_numbers_go_to_their_data_sets(now):
    before, rows = ("osie", "toronto"), {"osie": 1.0, "toronto": 3.0, "cat2000": 2.0}  # the mean
    start, model = (
        built(dataset=sets, data=("folder",) * len(sets), seed=seed)
        for seed, sets in enumerate((before, now))
    )
    table = start.get_layer("density").numbers
    table.assign(np.broadcast_to([[rows[name]] for name in before], table.shape))
    told = multiscale.begin_from(model, start, before, now)
    found = np.array(model.get_layer("density").numbers)
    assert found.tolist() == [[rows[name]] * found.shape[1] for name in now]
    for own, other in zip(model.weights, start.weights, strict=True):
        if own is not model.get_layer("density").numbers:
            np.testing.assert_array_equal(own, other)
    assert ("cat2000 begin as the mean of osie, toronto" in told) == ("cat2000" in now)
    assert "toronto" in told.partition(" are kept")[0]


def test_initial_weights_of_other_sizes_are_refused():
    with pytest.raises(UserError, match="--backbone, --scales and --readout"):
        multiscale.begin_from(built(), built(readout=(4, 4)), ["osie"], ["toronto"])


def test_a_training_begins_with_a_network_of_other_data_sets(two_sets):
    lines = []
    settings = {**two_sets, "epochs": 1}
    first = train.train(resolve(settings), say=lambda line: None)
    own = {"dataset": ("synthetic",), "data": (), "init_weights": first.path("best.weights.h5"),
           "backbone_weights": None, "output": first.folder.with_name("own")}  # fmt: skip
    run = train.train(resolve({**settings, **own}), say=lines.append)
    assert "numbers of data sets: those of synthetic are kept" in lines
    assert np.array(load_model(run.path("best.weights.h5")).get_layer("density").numbers).shape == (
        1, 12,
    )  # fmt: skip


@pytest.mark.slow
def test_features_at_all_scales_go_through_the_cache(two_sets, monkeypatch, tmp_path):
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    losses = []
    for choice in ("off", "on"):
        config = resolve(
            {**two_sets, "feature_cache": choice, "feature_precision": "float32",
             "output": tmp_path / choice, "epochs": 1}
        )  # fmt: skip
        losses.append(train.train(config, say=lambda line: None).history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_log_density_sums_to_one(rng):
    image = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    found = predict(built(), image, density=True)
    assert found.shape == (30, 50)
    assert np.exp(found.astype(float)).sum() == pytest.approx(1, rel=1e-4)


def test_the_loss_is_bits_of_the_fixations_above_uniform():
    y = np.zeros((1, 2, 2, 2), "float32")
    y[0, 0, 0, 1], y[0, 1, 1, 1] = 3, 1
    density = np.array([[[[0.5], [0.25]], [[0.125], [0.125]]]], "float32")
    # log2(0.5 * 4) = 1 at three fixations, log2(0.125 * 4) = -1 at one
    assert float(nll(y, density)[0]) == pytest.approx(-(3 * 1 - 1) / 4, rel=1e-5)
    assert float(nll(y, 7 * density)[0]) == pytest.approx(-0.5, rel=1e-5)
    assert float(nll(y, np.ones_like(density))[0]) == pytest.approx(0, abs=1e-6)


def test_other_systems_have_no_numbers(tiny, trained):
    with pytest.raises(UserError, match="--set osie: mlnet has no numbers"):
        model.load_model(trained, "osie")


def test_mixed_precision_leaves_the_density_in_float32(rng):
    from commands.training import backends

    with backends.precision("mixed_bfloat16"):
        network = built()
    density = np.asarray(network(pictures(rng)))
    assert density.dtype == np.float32
    np.testing.assert_allclose(density.sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert objective.loss_function("multiscale", "nll") is not None
