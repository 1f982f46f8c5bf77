"""The probe: its read-outs are exact, its control is named for what it is, its page holds up."""

import csv
import json
import re

import numpy as np
import pytest
from imagenet import shapes_of, write_weights
from least_squares import dense
from markup import elements, hostile

from commands.evaluation import probe
from commands.evaluation.probe import ALL, GLOBAL, Network, ReadOut
from commands.pages import report
from commands.settings import ProbeConfig
from salience.data import loading
from salience.measures.ridge import PENALTIES
from salience.system.errors import UserError
from utilities import Letterbox

TOY = {"dataset": "synthetic", "width": 0.05, "rows": 64, "cols": 96, "batch_size": 5, "gallery": 2}
NASTY = "</script><img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the settings, the result and the lines of a probe with a weights file."""
    from salience.data.sets import synthetic

    folder = tmp_path_factory.mktemp("probe")
    weights = folder / "weights.h5"
    network = Network("vgg16", None, ProbeConfig(**TOY))
    write_weights(weights, shapes_of(network.model))
    settings = ProbeConfig(**TOY, backbone_weights=str(weights), output=folder / "out")
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "COUNTS", {"train": 12, "val": 4, "test": 4})
        found = probe.probe(settings, lines.append)
    return settings, found, lines


def test_every_stage_has_a_read_out_of_both_weights(ran):
    _, found, _ = ran
    stages = [
        "block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_conv3", "block5_pool",
        ALL, GLOBAL,
    ]  # fmt: skip
    labels = ("VGG16, ImageNet", "VGG16, random weights")
    expected = [f"{label}: {stage}" for label in labels for stage in stages]
    assert [row["name"] for row in found["read_outs"]] == expected
    for row in found["read_outs"]:
        assert (row["weights"] is None) == ("random weights" in row["name"])
        assert -1 <= row["means"]["cc"]["mean"] <= 1
        assert row["penalty"] in PENALTIES
    names = [row["name"] for row in found["references"]]
    assert names[:2] == ["centre bias", "uniform"]


def test_random_weights_are_never_called_anything_else(tmp_path):
    settings = ProbeConfig(**TOY, backbone_weights="none", output=tmp_path)
    found = probe.probe(settings, lambda line: None)
    assert {row["network"] for row in found["read_outs"]} == {"VGG16, random weights"}
    page = (tmp_path / "index.html").read_text()
    assert "ImageNet" not in page
    assert "ImageNet" not in (tmp_path / "probe.json").read_text()


def test_files_tell_the_same(ran):
    settings, found, lines = ran
    folder = settings.output
    written = json.loads((folder / "probe.json").read_text())
    assert written["truth"]["sigma_from"].startswith("synthetic: ")
    assert written["read_outs"][0]["means"]["cc"] == found["read_outs"][0]["means"]["cc"]
    with (folder / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["read_outs"]) + len(found["references"])
    for row, expected in zip(rows, found["read_outs"], strict=False):
        assert (row["name"], row["stage"]) == (expected["name"], expected["stage"])
        assert float(row["cc"]) == pytest.approx(expected["means"]["cc"]["mean"])
    assert (folder / "alignment.png").stat().st_size > 10_000
    assert any("block3_pool" in line and "random weights" in line for line in lines)
    with (folder / "per_image.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * len(rows)


def test_the_command_on_the_page_makes_it_again(ran):
    settings, found, _ = ran
    assert found["command"].startswith("python main.py probe --dataset synthetic")
    assert f"--backbone_weights {settings.backbone_weights}" in found["command"]


def gathered(network, samples):
    """Return the features and densities of all cells at once, and those of whole pictures."""
    xs, ys = [], []
    for _, x, y, _ in probe.prefetched_batches(network, samples):
        xs.append(network.predict(x))
        ys.append(y)
    return np.concatenate(xs).astype(float), np.concatenate(ys).astype(float)


def test_read_outs_are_the_dense_ridge_solution():
    """Of features kept whole, by least squares; the penalty by trying all on the validation."""
    network = Network("vgg16", None, ProbeConfig(**TOY))
    train, validation = (loading.load("synthetic", None, split) for split in ("train", "val"))
    readouts = {r.stage: r for r in probe.solve_readouts(network, train, validation)}
    (x, y), (seen, truth) = gathered(network, train), gathered(network, validation)
    for stage in ("block1_pool", "block5_conv3", ALL, GLOBAL):
        fit, part = readouts[stage].fit, readouts[stage].part
        if stage == GLOBAL:
            a, b, va, vb = (
                x.mean((1, 2)),
                y.reshape(12, -1),
                seen.mean((1, 2)),
                truth.reshape(4, -1),
            )
        else:
            a, va = (values.reshape(-1, values.shape[-1]) for values in (x, seen))
            b, vb = y.reshape(-1, 1), truth.reshape(-1, 1)
        a, va = a[:, part], va[:, part]
        a, va = (values[:, a.std(axis=0) > 1e-6] for values in (a, va))
        errors = []
        for penalty in PENALTIES:
            kernel, intercept = dense(a, b, penalty)
            errors.append(np.mean((va @ kernel + intercept - vb) ** 2))
        np.testing.assert_allclose(fit.errors, errors, rtol=1e-4)
        assert fit.penalty == PENALTIES[int(np.argmin(errors))]


def test_a_read_outs_map_is_its_weighted_sum(rng):
    settings = ProbeConfig(**TOY)
    network = Network("vgg16", None, settings)
    sample = loading.load("synthetic", None, "test")[0]
    cells, (box,) = network.predict_samples([sample])
    part = network.part("block4_pool")
    kernel, intercept = rng.normal(size=(part.stop - part.start, 1)), np.array([0.5])
    fit = probe.RidgeFit(kernel, intercept, 1.0, (), 0.0)
    readout = ReadOut(network, "block4_pool", fit)
    expected = np.einsum("rcd,d->rc", cells[0, ..., part], kernel[:, 0]) + 0.5
    np.testing.assert_allclose(readout.saliency_cells(cells[0], box), expected, rtol=1e-5)
    saliency_map = next(readout.maps([sample], [(1, 1)]))
    assert saliency_map.min() >= 0


def test_a_batch_is_computed_once_for_all_read_outs(monkeypatch):
    network = Network("vgg16", None, ProbeConfig(**TOY))
    train, test = (loading.load("synthetic", None, split) for split in ("train", "test"))
    readouts = probe.solve_readouts(network, train, train)
    calls = []
    predict = network.predict
    monkeypatch.setattr(network, "predict", lambda x: calls.append(len(x)) or predict(x))
    streams = [readout.maps(test, []) for readout in readouts]
    for maps in zip(*streams, strict=True):
        assert len({m.tobytes() for m in maps}) == len(readouts)  # each its own
    assert calls == [4]


def test_cells_on_the_padding_do_not_count():
    """A picture of half the input's height leaves a quarter of the rows empty on either side."""
    mask = probe.cells_on_picture(Letterbox.fit((64, 128), (128, 128)))
    assert mask.all(axis=1).tolist() == [False] * 2 + [True] * 4 + [False] * 2
    assert probe.cells_on_picture(Letterbox.fit((2, 128), (128, 128))).all()  # thinner than a cell


def test_wrong_settings_are_refused():
    for flags, message in (
        ({"backbone": "resnet5"}, "unknown 'resnet5'. Did you mean 'resnet50'"),
        ({"backbone": "vgg16,vgg16"}, "names a network twice"),
        ({"rows": 250}, "--rows 250 is not a multiple of 16, which the probe"),
        ({"backbone": "mobilenet_v2"}, "--rows 240 is not a multiple of 32"),
        ({"backbone": "vgg16,vgg19", "backbone_weights": "a.h5"}, "is the file of one network"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            ProbeConfig(**flags)


def test_the_command_line_refuses_a_missing_file(cli):
    done = cli("probe", "--dataset", "synthetic", "--backbone-weights", "no.h5", code=2)
    assert done.stderr.strip() == "error: --backbone_weights no.h5: no such file."


# ---------- the page ----------


def test_the_page_refers_to_nothing_and_runs_nothing(ran):
    html = (ran[0].output / "index.html").read_text()
    assert {link[:1] for link in re.findall(r'(?:src|href)="([^"]*)"', html)} <= {"#", "d"}
    assert "<script" not in html
    assert "script-src 'none'" in html
    assert "var(--series-1)" in html  # the plot follows the theme
    assert html.count("<img ") == 2 * (2 + 8)


def test_names_on_the_page_are_escaped(ran):
    panel = np.zeros((6, 8, 3), np.uint8)
    gallery = [{"picture": NASTY, "panels": {NASTY: panel}}]
    html = report.render_probe({**ran[1], "title": NASTY, "notes": [NASTY], "gallery": gallery})
    assert NASTY not in html
    assert html.count("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;.png") >= 4


def test_no_text_on_the_page_is_markup(ran):
    found = {
        **ran[1],
        "gallery": [{"picture": "p", "panels": {"x": np.zeros((6, 8, 3), np.uint8)}}],
    }
    # the plot's labels are of this program
    fixed = ("key", "backbone", "stage", "network", "metrics", "references")
    html, tame = (report.render_probe(each) for each in (hostile(found, fixed), found))
    assert elements(html) == elements(tame)
    assert html.count("&lt;img src=x onerror=alert(2)&gt;") > 5


def test_the_plot_has_a_panel_a_backbone_and_metric(ran):
    other = [{**row, "backbone": "resnet50"} for row in ran[1]["read_outs"]]
    found = {**ran[1], "read_outs": ran[1]["read_outs"] + other}
    figure = report.alignment(found, "#000000", ("#ff0000", "#00ff00"))
    assert len(figure.axes) == 2 * 2
