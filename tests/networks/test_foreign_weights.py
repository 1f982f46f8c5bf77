"""Weights that Keras 1 wrote on Theano, against a network of 2016 written out in NumPy."""

import h5py
import numpy as np
import pytest
from conftest import VGG16, needs
from weights_of_2016 import BLOCKS, drawn, theano_weights, write_2016

from commands.prediction.convert import convert
from config import Config
from model import build, load_model
from salience.networks import backbone, foreign_weights, weight_files
from salience.system.errors import UserError

VGG_LAYERS = (1, 3, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29)
MEAN = np.array([103.939, 116.779, 123.68], np.float32)


def convolved(x, kernel, bias):
    """Return a true convolution of [channels, rows, columns], "same", and its ReLU.

    y[o, r, c] = sum of x[i, r - u, c - v] * kernel[o, i, u, v], u and v counted from the middle.
    """
    out, depth, side, _ = kernel.shape
    half = side // 2
    _, rows, cols = x.shape
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    total = np.zeros((out, rows * cols), np.float32)
    for u in range(side):
        for v in range(side):
            # x at r - (u - half): in the padded picture that row is r + side - 1 - u
            shifted = padded[:, side - 1 - u :, side - 1 - v :][:, :rows, :cols]
            total += kernel[:, :, u, v] @ shifted.reshape(depth, -1)
    return np.maximum(total.reshape(out, rows, cols) + bias[:, None, None], 0)


def pooled(x, stride):
    """Return the maxima of 2x2 windows that begin a row and a column early, as Theano's "same"."""
    _, rows, cols = x.shape
    out = np.zeros((len(x), -(-rows // stride), -(-cols // stride)), np.float32)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            top, left = stride * i - 1, stride * j - 1
            window = x[:, max(top, 0) : top + 2, max(left, 0) : left + 2]
            out[:, i, j] = window.max(axis=(1, 2))
    return out


def up_sampled(prior):
    """Return ten times the rows and columns: cell i at 10 i + 4, linear between, edges on."""
    rows, cols = (np.interp(np.arange(10 * n), 10 * np.arange(n) + 4, np.arange(n))
                  for n in prior.shape)  # fmt: skip
    first = np.stack([np.interp(rows, np.arange(len(prior)), column) for column in prior.T], 1)
    return np.stack([np.interp(cols, np.arange(prior.shape[1]), row) for row in first])


def reference(layers, prior, picture):
    """Return the map of 2016 of a BGR picture [rows, columns, 3]."""
    x = (picture.astype(np.float32) - MEAN).transpose(2, 0, 1)
    ends, layers = [], iter(layers)
    for block, (_, count) in enumerate(BLOCKS, 1):
        for _ in range(count):
            x = convolved(x, *next(layers))
        if block < 5:
            x = pooled(x, stride=1 if block == 4 else 2)
        if block >= 3:
            ends.append(x)
    x = np.concatenate(ends)
    x = convolved(convolved(x, *next(layers)), *next(layers))[0]
    return np.maximum(x * up_sampled(1 + prior), 0)


def same_maps(path, layers, prior, rng):
    model = load_model(path)
    picture = rng.integers(0, 256, (*model.input_shape[1:3], 3), np.uint8)
    found = np.asarray(model.predict_on_batch(picture[None]))[0, ..., 0]
    expected = reference(layers, prior, picture)
    assert expected.std() > 0.1 * expected.mean() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("under", "shape"),
    [
        (None, (2, 3)),
        ("model_weights", (1, 1, 2, 2)),
        pytest.param(None, (1, 1, 2, 2), marks=pytest.mark.slow),
        pytest.param("model_weights", (2, 3), marks=pytest.mark.slow),
    ],
)
def test_a_file_of_2016_gives_the_maps_of_2016(tmp_path, rng, under, shape):
    layers, prior = theano_weights(rng, 0.125, shape)
    path = tmp_path / "mlnet_salicon_weights.pkl"
    write_2016(path, layers, prior, under, "param_0" if under else "eltwiseproduct_1_W")
    same_maps(path, layers, prior.reshape(shape[-2:]), rng)
    new = tmp_path / "new" / "mlnet-2016.weights.h5"
    lines = []
    convert(path, new, weights_dir=tmp_path, say=lines.append)
    assert "ML-Net at 160x" in lines[0] and "rotated by 180" in lines[1]
    same_maps(new, layers, prior.reshape(shape[-2:]), rng)
    card = weight_files.read_card(new)
    assert card["config"]["theano_pooling"] is True and len(card["sha256"]) == 64


@pytest.mark.slow
def test_a_file_of_2016_gives_the_maps_of_2016_at_full_size(tmp_path, rng):
    layers, prior = theano_weights(rng, 1.0, (6, 8))
    write_2016(tmp_path / "mlnet_salicon_weights.pkl", layers, prior)
    same_maps(tmp_path / "mlnet_salicon_weights.pkl", layers, prior, rng)


def test_theanos_ways_matter(tmp_path, rng):
    """Each of kernels, pooling and prior taken as today would give other maps."""
    layers, prior = theano_weights(rng, 0.125, (2, 3))
    write_2016(tmp_path / "old.h5", layers, prior)
    right = load_model(tmp_path / "old.h5")
    config = Config(rows=160, cols=240, width=0.125, theano_pooling=False)
    today = build(config)
    today.set_weights(right.get_weights())
    picture = rng.integers(0, 256, (1, 160, 240, 3), np.uint8)
    a, b = (np.asarray(m.predict_on_batch(picture)) for m in (right, today))
    assert np.abs(a - b).max() > 0.01 * a.max()


def test_a_keras_2_file_is_taken_as_it_is(tmp_path, rng):
    config = Config(rows=160, cols=160, width=0.125)
    model = build(config)
    model.get_layer("prior").set_weights([rng.normal(0, 0.3, (2, 2))])
    with h5py.File(tmp_path / "port.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["backend"] = b"tensorflow"
        layers = [layer for layer in model.layers if layer.weights]
        root.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = root.create_group(layer.name)
            names = [f"{layer.name}/w_{i}:0" for i in range(len(layer.weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value
    again = load_model(tmp_path / "port.h5")
    picture = rng.integers(0, 256, (1, 160, 160, 3), np.uint8)
    np.testing.assert_array_equal(again.predict_on_batch(picture), model.predict_on_batch(picture))


def test_what_does_not_fit_is_told_layer_by_layer(tmp_path, rng):
    layers, prior = theano_weights(rng, 0.125, (2, 3))
    layers[13] = drawn(rng, 8, 100, 3)
    write_2016(tmp_path / "old.h5", layers, prior)
    told = "head_conv1 expects 3x3x160x8.*found convolution2d_14 with 3x3x100x8"
    with pytest.raises(UserError, match=told):
        load_model(tmp_path / "old.h5")
    write_2016(tmp_path / "short.h5", layers[:12], prior)
    with pytest.raises(UserError, match="16 layers with weights are expected, found 13"):
        load_model(tmp_path / "short.h5")
    write_2016(tmp_path / "bare.h5", layers[:12], layers[0][0])
    with pytest.raises(UserError, match="does not hold ML-Net: its last weights are 3x3x3x8"):
        load_model(tmp_path / "bare.h5")
    write_2016(tmp_path / "flat.h5", layers[:12], np.zeros(5))
    with pytest.raises(UserError, match="does not hold ML-Net: its last weights are 5, but"):
        load_model(tmp_path / "flat.h5")


def test_a_damaged_or_other_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.zeros(3)
    with pytest.raises(UserError, match="expected groups that an attribute layer_names lists"):
        foreign_weights.read(tmp_path / "other.h5")
    (tmp_path / "text.pkl").write_text("no HDF5")
    with pytest.raises(UserError, match="is not an HDF5 file"):
        foreign_weights.read(tmp_path / "text.pkl")
    with h5py.File(tmp_path / "texts.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = [b"w"]
        file["a/w"] = "not a number"
    with pytest.raises(UserError, match="/a/w is not an array of numbers"):
        foreign_weights.read(tmp_path / "texts.h5")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = [b"w"]
        file["a"].create_dataset("w", (10**10,), "f4", chunks=(1024,))
    with pytest.raises(UserError, match="claims 10,000,000,000 values"):
        foreign_weights.read(tmp_path / "bomb.h5")


def write_vgg(path, layers):
    """Write the VGG16 of 2015: groups layer_N, most of them empty, the last of a classifier."""
    with h5py.File(path, "w") as file:
        for n in range(34):
            file.create_group(f"layer_{n}").attrs["nb_params"] = 0
        for n, arrays in zip((*VGG_LAYERS, 32), (*layers, np.zeros((2, 4, 4))), strict=True):
            group = file[f"layer_{n}"]
            group.attrs["nb_params"] = 2
            group["param_0"], group["param_1"] = arrays


def test_vgg16_of_2015_is_a_start_for_training(tmp_path, rng):
    layers = theano_weights(rng, 1.0, (1, 1))[0][:13]
    write_vgg(tmp_path / "vgg16_weights.h5", layers)
    new = tmp_path / "vgg16.h5"
    convert(tmp_path / "vgg16_weights.h5", new, say=lambda line: None)
    model = build(Config(rows=16, cols=16))
    for path in (tmp_path / "vgg16_weights.h5", new):
        backbone.load_weights(model, "vgg16", path)
        kernel = model.get_layer("block3_conv2").get_weights()[0]
        np.testing.assert_array_equal(kernel[0, 2, 5, 7], layers[5][0][7, 5, 2, 0])
        model.get_layer("block3_conv2").set_weights([0 * kernel, np.zeros(256)])
    with pytest.raises(UserError, match="holds only a VGG"):
        load_model(tmp_path / "vgg16_weights.h5")


@needs(VGG16)
@pytest.mark.parametrize(("turn", "warned"), [(1, False), (-1, True)])
def test_imagenets_vgg16_tells_which_way_the_kernels_were(tmp_path, turn, warned):
    kernel = next(iter(foreign_weights.read(VGG16).layers.values()))[0]
    theano = kernel[::-1, ::-1].transpose(3, 2, 0, 1)[:, :, ::turn, ::turn]
    layers = theano_weights(np.random.default_rng(0), 1.0, (1, 1))[0][:13]
    write_vgg(tmp_path / "old.h5", [(theano, layers[0][1]), *layers[1:]])
    lines = []
    convert(tmp_path / "old.h5", tmp_path / "new.h5", False, VGG16.parent, lines.append)
    assert ("warning" in lines[-1]) is warned
    assert ("correlation with ImageNet's VGG16 is 1.00" in lines[-1]) is not warned


def test_nothing_is_replaced_or_misnamed(tmp_path, rng, cli):
    layers, prior = theano_weights(rng, 0.0625, (1, 1))
    write_2016(tmp_path / "old.pkl", layers, prior)
    assert "must end in .weights.h5" in cli("convert", "old.pkl", "new.h5", code=2).stderr
    cli("convert", "old.pkl", "new.weights.h5")
    assert "new.weights.h5 exists" in cli("convert", "old.pkl", "new.weights.h5", code=2).stderr
    assert "no such file" in cli("convert", "gone.pkl", "b.weights.h5", code=2).stderr
