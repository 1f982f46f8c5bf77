import h5py
import keras
import numpy as np
import pytest

from commands.evaluation.strategies import run_strategies
from commands.training import objective, train
from config import resolve
from model import grid_of
from salience.networks import losses, salnet
from salience.system.errors import UserError

DEEP = {"rows": 16, "cols": 16, "width": 0.05}


def built(model, **changes):
    return salnet.build(resolve({"model": model, **changes}))


@pytest.fixture(scope="module")
def deep():
    return built("salnet-deep")


def shapes(network):
    return {layer.name: tuple(layer.output.shape[1:]) for layer in network.layers}


def test_deep_has_the_papers_layers(deep):
    assert shapes(deep) == {
        "image": (240, 320, 3),
        "normalised": (240, 320, 3),
        "conv1": (240, 320, 96),
        "norm1": (240, 320, 96),
        "pool1": (119, 159, 96),
        "conv2": (119, 159, 256),
        "pool2": (59, 79, 256),
        "conv3": (59, 79, 512),
        "conv4": (59, 79, 512),
        "conv5": (59, 79, 512),
        "conv6": (59, 79, 256),
        "conv7": (59, 79, 128),
        "conv8": (59, 79, 32),
        "conv9": (59, 79, 1),
        "deconv1": (240, 320, 1),
        "saliency": (236, 316, 1),
    }
    kernels = [layer.kernel_size for layer in deep.layers if hasattr(layer, "kernel_size")]
    assert [k[0] for k in kernels] == [7, 5, 3, 5, 5, 7, 11, 11, 13, 8]


def test_deep_has_the_papers_number_of_weights(deep):
    counts = [7 * 7 * 3 * 96 + 96, 5 * 5 * 96 * 256 + 256, 3 * 3 * 256 * 512 + 512,
              5 * 5 * 512 * 512 + 512, 5 * 5 * 512 * 512 + 512, 7 * 7 * 512 * 256 + 256,
              11 * 11 * 256 * 128 + 128, 11 * 11 * 128 * 32 + 32, 13 * 13 * 32 + 1,
              8 * 8]  # fmt: skip
    layers = [layer.count_params() for layer in deep.layers if layer.weights]
    assert layers == counts
    assert deep.count_params() == sum(counts) == 25_806_209


def test_half_has_half_the_channels():
    channels = [shapes(built("salnet-half"))[f"conv{i}"][2] for i in range(1, 10)]
    assert channels == [48, 128, 256, 256, 256, 128, 64, 16, 1]


def test_shallow_has_the_papers_layers():
    network = built("salnet-shallow")
    found = shapes(network)
    assert {name: found[name] for name in found if name != "normalised"} == {
        "image": (96, 96, 3),
        "conv1": (92, 92, 32),
        "pool1": (46, 46, 32),
        "conv2": (44, 44, 64),
        "pool2": (22, 22, 64),
        "conv3": (20, 20, 64),
        "pool3": (10, 10, 64),
        "flatten": (6400,),
        "dense4": (4608,),
        "maxout4": (2304,),
        "dense5": (2304,),
        "map": (48, 48, 1),
        "saliency": (48, 48, 1),
    }


@pytest.mark.parametrize("model", ["salnet-deep", "salnet-half"])
@pytest.mark.parametrize("size", [(8, 8), (40, 64), (100, 132)])
def test_deep_leaves_out_two_pixels_at_each_side_at_any_size(model, size):
    network = built(model, width=0.02, rows=size[0], cols=size[1])
    assert network.output_shape == (None, size[0] - 4, size[1] - 4, 1)
    grid = grid_of(network)
    assert (grid.stride, grid.crop, grid.blur) == (1, 2, 0.0)
    assert grid.shape(size) == network.output_shape[1:3]


def test_shallow_is_a_plain_grid_that_is_blurred():
    grid = grid_of(built("salnet-shallow", width=0.02))
    assert (grid.stride, grid.crop, grid.blur) == (2, 0, 3.0)


def test_recipes_are_the_published_ones():
    deep, half, shallow = (resolve({"model": f"salnet-{n}"}) for n in ("deep", "half", "shallow"))
    for config in (deep, half):
        expected = (240, 320, "mse", "sgd", 1e-3, 0.9, False, 0.0, 4e-6, 2, 25, 0.15)
        assert expected == (
            config.rows, config.cols, config.loss, config.optimizer, config.learning_rate,
            config.momentum, config.nesterov, config.decay, config.weight_decay,
            config.batch_size, config.epochs, config.test_share,
        )  # fmt: skip
    expected = (96, 96, True, 0.05, 1e-4, 0.9, 0.999, True, 128, 1200)
    assert expected == (
        shallow.rows, shallow.cols, shallow.flip, shallow.learning_rate, shallow.learning_rate_end,
        shallow.momentum, shallow.momentum_end, shallow.nesterov, shallow.batch_size,
        shallow.epochs,
    )  # fmt: skip
    assert [c.name for c in (deep, half, shallow)] == [
        "salnet-deep-scratch-osie",
        "salnet-half-scratch-osie",
        "salnet-shallow-scratch-osie",
    ]


def test_pictures_are_scaled_as_published():
    x = np.array([0, 127.5, 255], "float32").reshape(1, 1, 1, 3)  # blue, green, red
    for model, expected in (("salnet-deep", [1, 0, -1]), ("salnet-shallow", [1, 0.5, 0])):
        network = built(model, rows=24, cols=24, width=0.02)
        fed = keras.Model(network.input, network.get_layer("conv1").input)
        found = np.asarray(fed(np.tile(x, (1, 24, 24, 1))))[0, 0, 0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def by_hand(x):
    """Return local response normalisation, value by value."""
    result = np.empty_like(x)
    for i in range(x.shape[-1]):
        near = x[..., max(0, i - 2) : i + 3]
        result[..., i] = x[..., i] / (1 + 1e-4 / 5 * (near**2).sum(-1)) ** 0.75
    return result


@pytest.mark.parametrize("channels", [1, 4, 9])
def test_local_response_normalisation_by_hand(channels, rng):
    x = rng.normal(0, 300, (2, 3, 4, channels)).astype("float32")
    found = np.asarray(salnet.LocalResponseNormalization()(x))
    np.testing.assert_allclose(found, by_hand(x), rtol=1e-5, atol=1e-5)
    assert np.abs(found - x).max() > 10  # it does something at this scale


def test_local_response_normalisation_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(0, 300, (2, 3, 4, 9)).astype("float32")
    theirs = torch.nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    found = np.asarray(salnet.LocalResponseNormalization()(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_maxout_takes_the_larger_of_neighbours():
    x = np.array([[1.0, 3.0, -2.0, -5.0]], "float32")
    np.testing.assert_array_equal(salnet.MaxoutPairs()(x), [[3.0, -2.0]])


def test_shallows_loss_is_the_published_one_of_its_linear_output(rng):
    """The mean of (z - (2 y - 1))^2, where the last layer turns z into (z + 1) / 2."""
    config = resolve({"model": "salnet-shallow", "rows": 24, "cols": 24, "width": 0.1})
    network = salnet.build(config)
    linear = keras.Model(network.input, network.get_layer("map").output)
    x = rng.uniform(0, 255, (2, 24, 24, 3)).astype("float32")
    y = rng.random((2, 12, 12, 2)).astype("float32")
    z = np.asarray(linear(x))[..., 0]
    expected = ((z - (2 * y[..., 0] - 1)) ** 2).mean(axis=(1, 2))
    found = np.asarray(
        objective.loss_function(config.model, config.loss)(y, np.asarray(network(x)))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weight_decay_is_the_share_taken_off_through_the_gradient(rng):
    """One step of plain SGD on no error at all: w - rate * weight_decay * w."""
    config = resolve(
        {"model": "salnet-deep", **DEEP, "weight_decay": 0.5, "learning_rate": 0.1, "momentum": 0.0}
    )
    network = salnet.build(config)
    objective.set_up(network, config, steps_per_epoch=1)
    x = np.zeros((1, 16, 16, 3), "float32")
    y = np.stack([np.asarray(network(x))[..., 0]] * 2, -1)
    before = network.get_weights()
    network.train_on_batch(x, y)
    for weight, old, new in zip(network.weights, before, network.get_weights(), strict=True):
        expected = old * (1 - 0.1 * 0.5) if weight.path.endswith("kernel") else old
        np.testing.assert_allclose(new, expected, atol=1e-6, err_msg=weight.path)


def test_adamw_brings_its_own_weight_decay():
    assert not built("salnet-deep", **DEEP, optimizer="adamw").losses
    assert built("salnet-deep", **DEEP).losses


@pytest.mark.parametrize("name", ["kld", "cc", "mse", "bce", "nss"])
def test_no_loss_is_nan_for_negative_maps(name, rng):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow here")
    import tensorflow as tf

    y = rng.random((3, 6, 8, 2)).astype("float32")
    maps = rng.normal(0, 1, (3, 6, 8, 1)).astype("float32")
    maps[1] = -np.abs(maps[1])
    p = tf.Variable(maps)
    with tf.GradientTape() as tape:
        value = losses.SHARED_LOSSES[name](y, p)
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, p)).all()


# VGG-M's weights: the first three convolutions, by the shapes of the published network


@pytest.fixture(scope="module")
def vgg_m():
    rng = np.random.default_rng(0)
    expected = [(7, 7, 3, 96), (96,), (5, 5, 96, 256), (256,), (3, 3, 256, 512), (512,)]
    later = [(3, 3, 512, 512), (512,)]
    return [rng.normal(size=shape).astype("float32") for shape in expected + later]


def names(arrays):
    return [f"conv{i // 2 + 1}_{'wb'[i % 2]}" for i in range(len(arrays))]


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **dict(zip(names(arrays), arrays, strict=True)))
        return path
    with h5py.File(path, "w") as file:
        for name, array in zip(names(arrays), arrays, strict=True):
            file[f"{name[:5]}/{'bias' if name.endswith('b') else 'kernel'}"] = array
    return path


def caffe(arrays):
    """Return the arrays as Caffe keeps them: (out, in, rows, columns), biases (1, 1, 1, out)."""
    return [a.transpose(3, 2, 0, 1) if a.ndim == 4 else a[None, None, None] for a in arrays]


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("order", [lambda arrays: arrays, caffe], ids=["keras", "caffe"])
def test_vgg_m_starts_the_first_three_convolutions(tmp_path, vgg_m, suffix, order, deep):
    path = write(tmp_path / f"vgg_m{suffix}", order(vgg_m))
    config = resolve({"model": "salnet-deep", "backbone_weights": str(path)})
    assert (config.name, config.starts_at_random) == ("salnet-deep-finetuned-osie", False)
    before = deep.get_layer("conv4").get_weights()[0]
    assert salnet.load_pretrained(deep, config) == path
    for index, name in enumerate(("conv1", "conv2", "conv3")):
        for found, expected in zip(
            deep.get_layer(name).get_weights(), vgg_m[2 * index : 2 * index + 2], strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(deep.get_layer("conv4").get_weights()[0], before)


def test_frozen_learns_all_but_vgg_ms_convolutions():
    network = built("salnet-deep", **DEEP, backbone_weights="none", freeze_backbone=True)
    learning = {w.path.split("/")[0] for w in network.trainable_weights}
    assert learning == {f"conv{i}" for i in range(4, 10)} | {"deconv1"}


def test_what_is_not_vgg_m_is_refused_with_what_was_expected(tmp_path, vgg_m, deep):
    swapped = write(tmp_path / "a.npz", [vgg_m[2], vgg_m[3], vgg_m[0], vgg_m[1]])
    with pytest.raises(UserError, match=r"shape \(7, 7, 3, 96\), \(96,\).*found \(5, 5, 96, 256\)"):
        salnet.load_vgg_m(deep, swapped)
    empty = write(tmp_path / "b.h5", [])
    with pytest.raises(UserError, match="found none"):
        salnet.load_vgg_m(deep, empty)
    whole = write(tmp_path / "c.npz", vgg_m)
    with pytest.raises(UserError, match=r"salnet-half takes|salnet-deep takes"):
        salnet.load_vgg_m(built("salnet-deep", **DEEP), whole)


@pytest.mark.parametrize("name", ["text.h5", "text.npz", "objects.npz"])
def test_unreadable_weights_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("neither")
    if name == "objects.npz":
        np.savez(path, conv1=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=f"{name} is neither HDF5 nor an .npz of numeric"):
        salnet._arrays(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "salnet-deep", "freeze_backbone": True}, "would freeze random convolutions"),
        ({"model": "salnet-deep", "backbone_weights": "no.h5"}, "no.h5: no such file"),
        ({"model": "salnet-shallow", "freeze_backbone": True}, "has no backbone"),
        ({"model": "salnet-shallow", "backbone_weights": "x.h5"}, "has no backbone"),
        ({"model": "salnet-half", "loss": "kld+mlnet"}, "'mlnet' is the loss of another system"),
    ],
)
def test_senseless_starts_are_refused(flags, message):
    config = resolve({**flags, "rows": 24, "cols": 24, "width": 0.02})
    with pytest.raises(UserError, match=message):
        config.check_start()
        train.load_start(salnet.build(config), config, print)


def test_an_arm_that_cannot_start_is_refused_before_any_is_trained(tiny):
    config = tiny(model="salnet-half", loss="mse", freeze_backbone=False, backbone_weights=None)
    with pytest.raises(UserError, match="would freeze random convolutions"):
        run_strategies(config, ["scratch", "frozen"], [0], say=lambda line: None)
    assert not list(config.run_folder.glob("*/*"))


def test_a_start_without_weights_is_called_so(tiny):
    lines = []
    train.train(
        tiny(model="salnet-half", rows=24, cols=24, loss="mse", backbone_weights=None,
             freeze_backbone=False), say=lines.append,
    )  # fmt: skip
    assert "salnet-half (scratch) at 24x24" in lines[0]
    assert "start: random" in lines[0]


def test_too_small_an_input_is_refused():
    with pytest.raises(UserError, match="--rows 20: salnet-shallow needs at least 24"):
        built("salnet-shallow", rows=20, cols=64)
