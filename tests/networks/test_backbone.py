import functools
import importlib
import shutil

import keras
import numpy as np
import pytest
from conftest import VGG16, needs
from imagenet import shapes_of, write_weights

import config as settings
from config import Config
from model import build
from salience.networks import backbone
from salience.networks.backbone import BACKBONES
from salience.networks.trunks.resampling import sampling
from salience.system.errors import UserError

VGG = BACKBONES["vgg16"]
# one of each family; the others are the same code with other widths and depths
FAMILIES = ("vgg16", "vgg19", "resnet50", "mobilenet_v2", "efficientnet_v2_b0", "convnext_tiny",
            "densenet201", "dinov2_small")  # fmt: skip
OTHERS = FAMILIES[2:]
OF_KERAS = FAMILIES[2:-1]  # built by keras.applications
# DenseNet-201 takes longest to build; where it has nothing of its own, ResNet-50 stands for it
WITHOUT_DENSENET = tuple(name for name in FAMILIES if name != "densenet201")
QUICK = ("vgg16", "vgg19", "mobilenet_v2")  # the others take seconds to build


@pytest.fixture
def offline(monkeypatch):
    """Make Keras' download fail as it does without a network."""

    def refuse(*args, **kwargs):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", refuse)


def test_named_file_comes_first(tmp_path, offline):
    named, local = tmp_path / "mine.h5", tmp_path / VGG.file_name
    named.touch()
    local.touch()
    assert backbone.find_weights("vgg16", str(named), tmp_path) == named
    assert backbone.find_weights("vgg16", None, tmp_path) == local


def test_the_projects_folder_is_searched_whatever_the_weights_folder(
    tmp_path, offline, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / VGG.file_name).touch()
    found = backbone.find_weights("vgg16", None, tmp_path / "mine")
    assert found == backbone.Path("weights") / VGG.file_name


def test_a_failing_download_says_nothing_of_its_own(tmp_path, monkeypatch, capsys):
    def get_file(*arguments, **options):
        print("Downloading data from ...")
        raise Exception("no network")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(UserError, match="the download from"):
        backbone.find_weights("vgg16", None, tmp_path)
    assert capsys.readouterr() == ("", "")


def test_keras_cache_or_download_comes_last(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: asked.append(a) or "cached.h5")
    assert str(backbone.find_weights("vgg16", None, tmp_path)) == "cached.h5"
    assert asked == [(VGG.file_name, VGG.address)]


def test_none_is_the_only_way_to_a_random_start(tmp_path, offline):
    assert backbone.find_weights("vgg16", "none", tmp_path) is None
    with pytest.raises(UserError, match=f"put {VGG.file_name} into weights/"):
        backbone.find_weights("vgg16", None, tmp_path)
    with pytest.raises(UserError, match=r"missing\.h5: no such file"):
        backbone.find_weights("vgg16", str(tmp_path / "missing.h5"), tmp_path)


@pytest.fixture
def tiny_model():
    return build(Config(rows=16, cols=16, width=0.02))


def test_each_layer_gets_its_own_weights(tmp_path, tiny_model):
    write_weights(tmp_path / "w.h5", shapes_of(tiny_model), "{layer}_W_{number}:0")
    backbone.load_weights(tiny_model, "vgg16", tmp_path / "w.h5")
    convolutions = list(shapes_of(tiny_model))
    assert len(convolutions) == 13
    for number, name in enumerate(convolutions, 1):
        for weight in tiny_model.get_layer(name).get_weights():
            assert (weight == number).all()


def test_wrong_files_are_refused_and_nothing_is_loaded(tmp_path, tiny_model):
    before = [w.numpy().copy() for w in tiny_model.weights]
    shapes = shapes_of(tiny_model)
    lacking = {k: v for k, v in shapes.items() if k != "block5_conv3"}
    other = {**shapes, "block5_conv3": [(3, 3, 9, 9), (9,)]}
    (tmp_path / "text.h5").write_text("not HDF5")
    for name, content, message in (
        ("lacking.h5", lacking, "13 layers with weights are expected, found 12"),
        ("other.h5", other, r"block5_conv3 with 3x3x9x9 \+ 9"),
        ("text.h5", None, "is not an HDF5 file"),
    ):
        if content:
            write_weights(tmp_path / name, content)
        with pytest.raises(UserError, match=message):
            backbone.load_weights(tiny_model, "vgg16", tmp_path / name)
    for weight, old in zip(tiny_model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


@needs(VGG16)
def test_features_equal_keras_applications_up_to_the_changed_pooling(rng):
    """VGG16 differs from ours only from the fourth pooling on."""
    ours = build(Config(rows=64, cols=96))
    backbone.load_weights(ours, "vgg16", VGG16)
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
def test_real_weights_do_not_fit_a_thin_network(tmp_path, tiny_model):
    copy = tmp_path / "vgg.h5"
    shutil.copy(VGG16, copy)
    with pytest.raises(UserError, match="is --width 1"):
        backbone.load_weights(tiny_model, "vgg16", copy)


def test_the_command_line_knows_the_same_backbones():
    assert settings.BACKBONES.keys() == BACKBONES.keys()


def light_first(names, quick=QUICK):
    """Return networks to run a test over; those that take seconds to build are for the slow run."""
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in names]


def built(name, size=(64, 96), **options):
    """Return a thin network of all stages."""
    inputs = keras.Input((*size, 3))
    ends = backbone.stages(name, inputs, **{"width": 0.1, "seed": 3, **options})
    return keras.Model(inputs, ends)


small = functools.cache(built)  # building takes seconds


@pytest.mark.parametrize(
    "name", light_first(WITHOUT_DENSENET, quick=(*QUICK, "convnext_tiny", "dinov2_small"))
)
def test_stages_have_the_strides_of_the_published_network(name):
    about = BACKBONES[name]
    rows, cols = about.size_read(64), about.size_read(96)
    for layer, output in small(name).output.items():
        stride = about.stages[layer]
        assert output.shape[1:3] == (rows // stride, cols // stride), layer


CHANNELS = {
    "vgg16": [64, 128, 256, 512, 512, 512],
    "vgg19": [64, 128, 256, 512, 512, 512],
    "resnet50": [256, 512, 1024, 2048],
    "mobilenet_v2": [96, 144, 192, 576, 1280],
    "efficientnet_v2_b0": [16, 32, 192, 672, 1280],
}


@pytest.mark.parametrize("name", light_first(CHANNELS, quick={"vgg16", "mobilenet_v2"}))
def test_stages_have_the_published_channels_and_strides(name):
    """Those of the newer ones are in `test_trunks.py`."""
    about = BACKBONES[name]
    network = small(name, (32, 32), width=1.0)
    assert [output.shape[-1] for output in network.output.values()] == CHANNELS[name]
    size = about.size_read(32)
    for layer, output in network.output.items():
        cells = -(-size // about.stages[layer])
        assert output.shape[1:3] == (cells, cells), layer


def test_weights_come_from_where_keras_has_them():
    """The addresses and digests of the newer ones are those of `keras.applications`' own code."""
    applications = importlib.import_module("keras.src.applications")
    found = 0
    for about in BACKBONES.values():
        if about.folder in ("convnext", "efficientnet_v2"):
            theirs = importlib.import_module(f"{applications.__name__}.{about.folder}")
            key = about.file_name.removesuffix("_notop.h5").removeprefix("efficientnetv2")
            key = key.replace("-b0", "b0")
            assert about.digest == theirs.WEIGHTS_HASHES[key][1]
            assert about.address == theirs.BASE_WEIGHTS_PATH + about.file_name
            found += 1
    densenet = importlib.import_module(f"{applications.__name__}.densenet")
    assert BACKBONES["densenet201"].address == densenet.DENSENET201_WEIGHT_PATH_NO_TOP
    assert found == 8


@pytest.mark.parametrize("name", light_first(FAMILIES))
def test_cells_are_centred_where_the_table_says(name, rng):
    """The pixels that a row of cells hangs on lie around the row's centre."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are taken with TensorFlow here")
    import tensorflow as tf

    about, image = BACKBONES[name], tf.constant(rng.uniform(150, 250, (1, 256, 256, 3)), tf.float32)
    network = built(name, (256, 256))
    # channels differ where there are layer norms, which take away what all of them share
    spread = 0.5 if name.startswith(("convnext", "dinov2")) else 0
    for layer in network.layers:  # means throughout, so that no gradient is cut or cancelled
        if getattr(layer, "kernel", None) is not None:
            *field, _, _ = shape = layer.kernel.shape
            kernel = rng.uniform(1 - spread, 1 + spread, (*[1] * len(field), *shape[-2:]))
            layer.kernel.assign(np.broadcast_to(kernel, shape) / np.prod(shape[:-1]))
    for layer in about.stages:
        if about.stages[layer] > 8 and not about.patch:
            continue  # its field is wider than this picture
        cells, channels = network.output[layer].shape[1::2]
        stride, cell = about.stride_of(layer, cells, 256), cells // 2
        with tf.GradientTape() as tape:
            tape.watch(image)
            weights = rng.uniform(1 - spread, 1 + spread, channels)
            value = tf.reduce_sum(network(image)[layer][0, cell] * weights)
        seen = np.abs(tape.gradient(value, image).numpy()[0]).sum(axis=(1, 2))
        seen[seen < 0.05 * seen.max()] = 0  # what squeeze and excitation spreads everywhere
        centre = (seen * (np.arange(256) + 0.5)).sum() / seen.sum()
        expected = (cell + about.centre_of(layer)) * stride + 0.5 - about.centre_of(layer)
        assert centre == pytest.approx(expected, abs=0.5), layer


# ours, and one of Keras'
@pytest.mark.parametrize(
    "name",
    [
        "vgg16",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("mobilenet_v2", "convnext_tiny", "dinov2_small")
        ),
    ],
)
def test_a_seed_makes_the_network_and_another_another(name, rng):
    image = rng.uniform(0, 255, (1, 64, 96, 3))
    keras.utils.set_random_seed(1)
    first = built(name)
    for layer, features in first(image).items():
        assert np.isfinite(features).all(), layer
        assert np.abs(features).max() > 0, layer
    keras.utils.set_random_seed(2)
    again, other = (built(name, seed=seed) for seed in (3, 4))
    for layer in first.layers:
        if getattr(layer, "kernel", None) is not None:
            kernel = np.asarray(layer.kernel)
            np.testing.assert_array_equal(kernel, again.get_layer(layer.name).kernel)
            assert (kernel != np.asarray(other.get_layer(layer.name).kernel)).any()
    for one, same in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("name", light_first(WITHOUT_DENSENET[2:]))
def test_frozen_features_are_those_of_inference(name, rng):
    """Neither batch normalisation nor dropped blocks act while a head learns on frozen features."""
    network = small(name, trainable=False)
    image = rng.uniform(0, 255, (2, 64, 96, 3))
    quiet, training = network(image), network(image, training=True)
    assert not network.trainable_weights
    for layer, features in quiet.items():
        np.testing.assert_array_equal(features, training[layer])
    tuned = small(name)
    assert len(tuned.trainable_weights) > 100


@pytest.mark.parametrize("name", light_first(OTHERS))
def test_fixed_blocks_are_frozen_and_the_others_learn(name, rng):
    """A block ends with a stage: what the first stage hangs on is fixed, and nothing else."""
    network = built(name, fixed_blocks=1)
    first, *others = network.output
    layers = {layer.name for layer in keras.Model(network.input, network.output[first]).layers}
    for layer in network.layers:
        if layer.weights:
            assert bool(layer.trainable_weights) == (layer.name not in layers), layer.name
    image = rng.uniform(0, 255, (2, 64, 96, 3))
    quiet, training = network(image), network(image, training=True)
    np.testing.assert_array_equal(quiet[first], training[first])
    assert others and len(network.trainable_weights) > 20


@pytest.mark.parametrize("name", BACKBONES)
def test_each_network_prepares_pictures_as_its_authors_did(name, picture):
    image = picture(16, 24)[None]
    inputs = keras.Input((16, 24, 3))
    prepared = keras.Model(inputs, backbone.PREPARE[BACKBONES[name].prepare](inputs))(image)
    # ConvNeXt's own is a layer of its network, and DINOv2 is not Keras': both have DenseNet's
    module = "densenet" if "201" in name or BACKBONES[name].prepare == "torch_rgb" else name
    module = "efficientnet_v2" if name.startswith("efficientnet") else module
    rgb = image[..., ::-1].astype("float32")
    expected = getattr(keras.applications, module).preprocess_input(rgb)
    np.testing.assert_allclose(np.asarray(prepared), expected, atol=1e-3)


@pytest.mark.parametrize("name", light_first(["vgg19", *OF_KERAS]))
def test_a_file_of_the_published_layout_loads_as_keras_loads_it(name, tmp_path):
    ours = small(name, (32, 32), width=1.0)
    about, path = BACKBONES[name], tmp_path / BACKBONES[name].file_name
    application = {"vgg19": "VGG19"}.get(name, about.application)
    theirs = getattr(keras.applications, application)(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    shapes = {
        layer.name: [tuple(w.shape) for w in layer.weights]
        for layer in theirs.layers
        if layer.weights
    }
    write_weights(path, shapes, "{layer}_{number}_other_name:0", step=0.1)
    assert backbone.load_pretrained(ours, name, None, tmp_path) == path
    theirs.load_weights(path)
    own, others = (
        [weight for layer in layers for weight in layer.get_weights()]
        for layers in (backbone.weighted_layers(ours, name), theirs.layers)
    )
    assert len(own) == len(others) and len({float(w.flat[0]) for w in own}) == len(own)
    for a, b in zip(own, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name", light_first(["resnet50", "mobilenet_v2", "convnext_tiny"], quick={"mobilenet_v2"})
)
def test_another_networks_file_is_refused_with_its_name(name, tmp_path, tiny_model):
    write_weights(tmp_path / "vgg.h5", shapes_of(tiny_model))
    with pytest.raises(UserError, match=f"does not fit {BACKBONES[name].title}"):
        backbone.load_weights(small(name), name, tmp_path / "vgg.h5")


@pytest.mark.parametrize(("stride", "centre"), [(2, 0.5), (32, 0.5), (8, 0.0), (32, 1.0)])
def test_a_slope_is_read_where_the_grids_cells_are(stride, centre):
    """Features that tell their own position tell the grid's, but for what lies beyond the ends."""
    cells = 640 // stride
    positions = (np.arange(cells) + centre) * stride + 0.5 - centre
    read = sampling(cells, stride, centre, 40, 16) @ positions
    inner = slice(2, -2)
    np.testing.assert_allclose(read[inner], (np.arange(40) * 16 + 8)[inner], atol=1e-3)


@pytest.mark.parametrize("name", light_first(FAMILIES))
def test_mlnet_takes_every_backbone(name):
    config = Config(rows=64, cols=96, backbone=name, width=0.1, freeze_backbone=False)
    network = build(config)
    assert network.output_shape == (None, 8, 12, 1)
    # what the head reads is all that the backbone has: its deepest stage is in it
    assert len(backbone.weighted_layers(network, name)) >= len(network.layers) // 4


def test_a_run_on_another_backbone_has_a_name_of_its_own():
    assert Config().name == "mlnet-frozen-osie"
    assert Config(backbone="resnet50").name == "mlnet-resnet50-frozen-osie"
    with pytest.raises(UserError, match="which mlnet-mobilenet_v2 needs"):
        Config(rows=240, cols=320, backbone="mobilenet_v2")
