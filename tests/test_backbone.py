import shutil

import h5py
import keras
import numpy as np
import pytest
from conftest import VGG16, needs

import backbone
from config import Config
from errors import UserError
from model import build


@pytest.fixture
def offline(monkeypatch):
    """Make Keras' download fail as it does without a network."""

    def refuse(*args, **kwargs):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", refuse)


def test_named_file_comes_first(tmp_path, offline):
    named, local = tmp_path / "mine.h5", tmp_path / backbone.FILE_NAME
    named.touch()
    local.touch()
    assert backbone.find_weights(str(named), tmp_path) == named
    assert backbone.find_weights(None, tmp_path) == local


def test_the_projects_folder_is_searched_whatever_the_weights_folder(
    tmp_path, offline, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / backbone.FILE_NAME).touch()
    found = backbone.find_weights(None, tmp_path / "mine")
    assert found == backbone.Path("weights") / backbone.FILE_NAME


def test_a_failing_download_says_nothing_of_its_own(tmp_path, monkeypatch, capsys):
    def get_file(*arguments, **options):
        print("Downloading data from ...")
        raise Exception("no network")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(UserError, match="the download from"):
        backbone.find_weights(None, tmp_path)
    assert capsys.readouterr() == ("", "")


def test_keras_cache_or_download_comes_last(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: asked.append(a) or "cached.h5")
    assert str(backbone.find_weights(None, tmp_path)) == "cached.h5"
    assert asked == [(backbone.FILE_NAME, backbone.DOWNLOAD)]


def test_none_is_the_only_way_to_a_random_start(tmp_path, offline):
    assert backbone.find_weights("none", tmp_path) is None
    with pytest.raises(UserError, match=f"put {backbone.FILE_NAME} into weights/"):
        backbone.find_weights(None, tmp_path)
    with pytest.raises(UserError, match=r"missing\.h5: no such file"):
        backbone.find_weights(str(tmp_path / "missing.h5"), tmp_path)


@pytest.fixture
def tiny_model():
    return build(Config(rows=16, cols=16, width=0.02))


def write_vgg16(path, shapes, name="{layer}/{kind}"):
    """Write a file in the layout of keras.applications, filled with each layer's number."""
    with h5py.File(path, "w") as file:
        for number, (layer, (kernel, bias)) in enumerate(shapes.items(), 1):
            group = file.create_group(layer)
            names = [name.format(layer=layer, kind=kind) for kind in ("kernel", "bias")]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for n, shape in zip(names, (kernel, bias), strict=True):
                group[n] = np.full(shape, number, "float32")


def vgg16_shapes(model):
    return {n: [tuple(w.shape) for w in model.get_layer(n).weights] for n in backbone.CONVOLUTIONS}


def test_each_layer_gets_its_own_weights(tmp_path, tiny_model):
    write_vgg16(tmp_path / "w.h5", vgg16_shapes(tiny_model), "{layer}_{kind}_1:0")
    backbone.load_weights(tiny_model, tmp_path / "w.h5")
    for number, name in enumerate(backbone.CONVOLUTIONS, 1):
        for weight in tiny_model.get_layer(name).get_weights():
            assert (weight == number).all()


def test_wrong_files_are_refused_and_nothing_is_loaded(tmp_path, tiny_model):
    before = [w.numpy().copy() for w in tiny_model.weights]
    shapes = vgg16_shapes(tiny_model)
    lacking = {k: v for k, v in shapes.items() if k != "block5_conv3"}
    other = {**shapes, "block5_conv3": [(3, 3, 9, 9), (9,)]}
    (tmp_path / "text.h5").write_text("not HDF5")
    for name, content, message in (
        ("lacking.h5", lacking, "layer block5_conv3 with its kernel and bias is expected"),
        ("other.h5", other, r"block5_conv3 has weights of shape \[\(3, 3, 9, 9\), \(9,\)\]"),
        ("text.h5", None, "is not an HDF5 file"),
    ):
        if content:
            write_vgg16(tmp_path / name, content)
        with pytest.raises(UserError, match=message):
            backbone.load_weights(tiny_model, tmp_path / name)
    for weight, old in zip(tiny_model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


@needs(VGG16)
def test_features_equal_keras_applications_up_to_the_changed_pooling(rng):
    """VGG16 differs from ours only from the fourth pooling on."""
    ours = build(Config(rows=64, cols=96))
    backbone.load_weights(ours, VGG16)
    theirs = keras.applications.VGG16(include_top=False, weights=VGG16, input_shape=(64, 96, 3))
    x = rng.uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    prepared = x - np.float32(backbone.CAFFE_MEAN_BGR)
    for name in ("block3_pool", "block4_conv3"):
        a, b = (
            keras.Model(m.input, m.get_layer(name).output)(values)
            for m, values in ((ours, x), (theirs, prepared))
        )
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2)
    ours_5, theirs_5 = (m.get_layer("block5_conv3").get_weights() for m in (ours, theirs))
    np.testing.assert_array_equal(ours_5[0], theirs_5[0])


@needs(VGG16)
def test_preprocessing_is_the_caffe_one(picture):
    """BGR minus the mean, as Keras' own preprocessing makes it from RGB."""
    image = picture(16, 24)[None]
    inputs = keras.Input((16, 24, 3))
    x = keras.Model(inputs, backbone.caffe(inputs))(image)
    rgb = image[..., ::-1].astype("float32")
    expected = keras.applications.vgg16.preprocess_input(rgb)
    np.testing.assert_allclose(np.asarray(x), expected, atol=1e-3)


@needs(VGG16)
def test_real_weights_do_not_fit_a_thin_network(tmp_path, tiny_model):
    copy = tmp_path / "vgg.h5"
    shutil.copy(VGG16, copy)
    with pytest.raises(UserError, match="is --width 1"):
        backbone.load_weights(tiny_model, copy)
