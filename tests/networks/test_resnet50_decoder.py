import keras
import numpy as np
import pytest

from commands.training import backends, train
from config import resolve
from model import grid_of
from salience.networks import resnet50_decoder
from salience.system.errors import UserError

SMALL = {"model": "resnet50-decoder", "rows": 64, "cols": 64, "backbone_weights": "none"}


def built(**changes):
    return resnet50_decoder.build(resolve({**SMALL, **changes}))


@pytest.fixture(scope="module")
def full():
    return resnet50_decoder.build(resolve({"model": "resnet50-decoder"}))


@pytest.fixture(scope="module")
def thin():
    return built(width=0.02)


@pytest.mark.slow
def test_full_size_has_the_published_layers(full):
    names = ["conv5_block3_out", *(f"up{b}_relu2" for b in (1, 2, 3, 4)), "up5_conv2", "saliency"]
    assert [tuple(full.get_layer(name).output.shape[1:]) for name in names] == [
        (16, 16, 2048),
        (32, 32, 1024),
        (64, 64, 512),
        (128, 128, 256),
        (256, 256, 128),
        (512, 512, 64),
        (512, 512, 1),
    ]
    for block in (1, 2, 3, 4):
        kinds = [la.__class__.__name__ for la in full.layers if la.name.startswith(f"up{block}")]
        assert kinds == ["UpSampling2D"] + 2 * ["Conv2D", "BatchNormalization", "ReLU"]
    assert full.get_layer("saliency").activation is keras.activations.sigmoid


@pytest.mark.slow
def test_full_size_has_keras_encoder_and_a_decoder_of_known_size(full):
    theirs = keras.applications.ResNet50(include_top=False, weights=None)
    ours = {layer.name: layer for layer in full.layers}
    for layer in theirs.layers[1:]:
        if layer.weights:
            found = [tuple(w.shape) for w in ours[layer.name].weights]
            assert found == [tuple(w.shape) for w in layer.weights], layer.name
    channels, decoder = 2048, 0
    for block in (1024, 512, 256, 128):
        decoder += 9 * channels * block + 9 * block * block + 2 * 4 * block
        channels = block
    decoder += 9 * 128 * 64 + 64 + 9 * 64 * 64 + 64 + 9 * 64 + 1
    assert theirs.count_params() == 23_587_712
    assert full.count_params() == 23_587_712 + decoder == 61_315_649


@pytest.mark.slow
def test_light_is_a_quarter_of_the_decoder_and_all_of_the_encoder():
    network = built(light=True)
    assert network.count_params() == 29_487_665
    channels = [network.get_layer(f"up{b}_conv2").filters for b in (1, 2, 3, 4, 5)]
    assert channels == [256, 128, 64, 32, 16]
    assert network.get_layer("conv5_block3_out").output.shape[-1] == 2048


def test_recipe_is_the_published_one(thin):
    config = resolve({"model": "resnet50-decoder"})
    expected = (512, 512, "bce", "sgd", 1e-4, 0.0, 0.0, 4, 200, 0.2, "resnet50")
    assert expected == (
        config.rows, config.cols, config.loss, config.optimizer, config.learning_rate,
        config.momentum, config.decay, config.batch_size, config.epochs, config.val_share,
        config.backbone,
    )  # fmt: skip
    assert config.name == "resnet50-decoder-frozen-osie"
    grid = grid_of(thin)
    assert (grid.stride, grid.crop, grid.blur) == (1, 0, 0.0)


def is_encoder(weight):
    return not weight.path.startswith(("up", "saliency"))


def weights_after_training(tiny, **changes):
    """Return (weight, before, after) of a run of one epoch."""
    config = resolve(
        {**SMALL, "rows": 32, "cols": 32, "width": 0.05, "dataset": "synthetic", "epochs": 1,
         "learning_rate": 0.01, "output": tiny().run_folder, "weights_dir": tiny().weights_dir,
         **changes}
    )  # fmt: skip
    backends.make_deterministic(config.seed)
    before = resnet50_decoder.build(config).get_weights()
    run = train.train(config, say=lambda line: None)
    network = resnet50_decoder.build(config)
    network.load_weights(run.path("last.weights.h5"))
    return run, list(zip(network.weights, before, network.get_weights(), strict=True))


@pytest.mark.slow
def test_frozen_encoder_keeps_its_weights_and_its_statistics(tiny):
    run, weights = weights_after_training(tiny, freeze_backbone=True)
    for weight, before, after in weights:
        moved = not np.array_equal(before, after)
        assert moved == (not is_encoder(weight)), weight.path
    # what only this system watches
    row = run.history[0]
    assert list(row)[:4] == ["epoch", "loss", "zero_maps", "ssim"]
    assert -1 < row["ssim"] < 1
    assert -1 < row["val_ssim"] < 1


@pytest.mark.slow
def test_finetuned_encoder_learns_and_gathers_statistics(tiny):
    _, weights = weights_after_training(tiny, freeze_backbone=False)
    still = [w.path for w, before, after in weights if np.array_equal(before, after)]
    # the normalisation after a convolution takes its bias off again: there is nothing to learn
    assert all(path.endswith("conv/bias") for path in still), still


@pytest.mark.slow
def test_frozen_encoder_normalises_by_its_statistics_in_training_too(rng):
    network = built(width=0.05, freeze_backbone=True)
    encoder = keras.Model(network.input, network.get_layer("conv5_block3_out").output)
    x = rng.uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(encoder(x, training=True), encoder(x, training=False))
    tuned = built(width=0.05, freeze_backbone=False)
    encoder = keras.Model(tuned.input, tuned.get_layer("conv5_block3_out").output)
    assert np.abs(encoder(x, training=True) - encoder(x, training=False)).max() > 1e-3


def test_imagenet_weights_are_looked_for_as_resnet50s(thin, tmp_path):
    """How a file is read is tested with the backbones."""
    (tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5").write_text("text")
    config = resolve({**SMALL, "width": 0.02, "backbone_weights": None, "weights_dir": tmp_path})
    with pytest.raises(UserError, match="is not an HDF5 file"):
        resnet50_decoder.load_pretrained(thin, config)
    nothing = resolve({**SMALL, "width": 0.02})
    assert resnet50_decoder.load_pretrained(thin, nothing) is None
