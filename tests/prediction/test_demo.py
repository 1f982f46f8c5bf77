"""The local page: what it draws, and what it refuses."""

import dataclasses
import re
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
from markup import MARKUP

from commands.demo import areas, layout, server, view
from commands.demo import offered as networks
from commands.demo.offered import Networks, predict_picture
from commands.prediction.engines import Engine
from commands.settings import DemoConfig
from salience.networks import weight_files
from salience.pictures import marks
from salience.pictures.letterbox import OutputGrid
from salience.system.errors import UserError

PHOTOGRAPH = "chelsea.png"  # of scikit-image: 451 x 300


def ramp(rows=60, cols=80):
    """Return a map that rises from 0 at the left to 1 at the right."""
    return np.tile(np.linspace(0, 1, cols, dtype=np.float32), (rows, 1))


# ---------- what is drawn ----------


def test_a_picture_that_fits_the_screen_is_shown_as_it_is(picture):
    image = picture(60, 80)
    shown = view.view(image, ramp())
    assert (shown.picture == image).all()
    assert (shown.saliency_map == ramp()).all()


@pytest.mark.parametrize("shape", [(300, 4000), (4000, 300), (1, 6000)])
def test_a_larger_one_is_scaled_down_with_its_map(shape):
    shown = view.view(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.float32))
    assert max(shown.picture.shape) == view.MAX_SIDE
    assert shown.picture.shape[:2] == shown.saliency_map.shape
    assert shown.picture.dtype == np.uint8
    assert shown.saliency_map.dtype == np.float32


def test_the_picture_shows_through_where_nothing_is_laid_over_it(picture):
    image = picture(60, 80)
    shown = view.view(image, ramp())
    assert (view.drawn(shown, 0, [], 0) == image).all()
    strengths = [
        np.abs(view.drawn(shown, opacity, [], 0).astype(int) - image).mean()
        for opacity in (0.2, 0.5, 1.0)
    ]
    assert strengths == sorted(set(strengths))


def test_points_are_numbered_and_contours_are_drawn_as_marks_has_them(picture):
    image = picture(60, 80)
    two = np.zeros((60, 80), np.float32)
    two[20, 20], two[40, 60] = 1, 0.5
    shown = view.view(image, two := cv2.GaussianBlur(two, (0, 0), 4))
    assert [(peak.x, peak.y) for peak in shown.peaks] == [(20, 20), (60, 40)]
    one = view.drawn(shown, 0, [], 1)
    assert (one == marks.draw_peaks(image, marks.peaks(two, 1))).all()
    second = np.s_[32:, 50:]  # about the second peak, away from the first one's number
    assert (one[second] == image[second]).all()
    assert (view.drawn(shown, 0, [], 2)[second] != image[second]).any()
    contours = view.drawn(shown, 0, ["10%"], 0)
    assert (contours == marks.draw_contours(image, two, [0.1])).all()


def test_the_colours_are_those_that_were_asked_for(picture):
    shown = view.view(picture(60, 80), ramp())
    assert (view.drawn(shown, 1, [], 0, "jet") != view.drawn(shown, 1, [], 0, "viridis")).any()


def test_the_small_print_says_what_is_known_and_is_no_markup():
    text = view.describe_weights(
        {"system": MARKUP, "strategy": MARKUP, "dataset": MARKUP, "input_shape": [MARKUP]}
    )
    assert not re.search("[<>\"']", re.sub("</?d[ldt]>", "", text))
    scored = {"dataset": "osie", "metrics": {"val_cc": 0.75, "val_nss": None, "val_kld": "x"}}
    assert "<dd>On its validation pictures: CC 0.750.</dd>" in view.describe_weights(scored)
    assert "does not name" in view.describe_weights({})
    assert "drawn scenes" in view.describe_weights({"dataset": "synthetic", "metrics": []})


def test_the_cards_of_the_included_weights_are_told_whole():
    for path in weight_files.included():
        card = weight_files.read_card(path)
        text = view.describe_weights(card)
        for part in ("OSIE: 450 training pictures", "pictures of osie: CC", "CC BY 4.0"):
            assert part in text
        assert card["limits"] in text


# ---------- regions ----------


def test_lines_are_boxes_and_polygons_and_what_is_none_is_named():
    found = areas.parsed('a, 1, 2, 3, 4\n\n"b, c" , 0,0, 9,0, 9,9\na,5,5,1,1\n')
    assert [one.name for one in found] == ["a", "b, c"]
    assert [len(one.polygons) for one in found] == [2, 1]
    assert areas.parsed(areas.text_of(found))[1].polygons[0].tolist() == [[0, 0], [9, 0], [9, 9]]
    assert areas.text_of(areas.parsed(areas.text_of(found))) == areas.text_of(found)
    long = "n" * 60
    both = areas.parsed(f"{long}1, 0, 0, 1, 1\n{long}2, 0, 0, 1, 1")
    assert [one.name for one in both] == [f"{long}1", f"{long}2"]
    (fine,) = areas.parsed("a, 1000.4996, 0, 1009.25, 0, 1009, 9.125")
    (again,) = areas.parsed(areas.text_of([fine]))
    assert (again.polygons[0] == fine.polygons[0]).all()
    for line in ("a", "a, 1, 2, 3", "a, 1, 2, 3, x", ", 1, 2, 3, 4", "a, 1, 2, 3, 4, 5", 'a"b, "'):
        with pytest.raises(UserError, match=r"Line 2 is no region: name, x, y, width, height are"):
            areas.parsed(f"ok, 1, 2, 3, 4\n{line}")
    for line in ("a, 0, 0, 0, 5", "a, 0, 0, 5, -1"):
        with pytest.raises(UserError, match=r"Line 1: a box of .* pixels is none"):
            areas.parsed(line)
    for odd in ("nan", "inf", "1e99"):
        with pytest.raises(UserError, match="Line 1: a number is not between"):
            areas.parsed(f"a, {odd}, 0, 5, 5")
    with pytest.raises(UserError, match="more than"):
        areas.parsed("a" * (areas.LONGEST_TEXT + 1))
    with pytest.raises(UserError, match="at most"):
        areas.parsed("\n".join(f"r{i}, 0, 0, 1, 1" for i in range(areas.MOST + 1)))


def test_shares_are_those_of_the_density_and_the_table_is_no_markup(tmp_path):
    density = np.full((10, 20), 1 / 200)
    np.save(tmp_path / "d.npy", np.log(density).astype(np.float32))
    found = areas.shares(tmp_path / "d.npy", f"{MARKUP[:40]}, 0, 0, 5, 10\nfar, 50, 50, 4, 4")
    assert [round(one.share, 6) for one in found] == [0.25, 0]
    table = areas.table(found)
    assert "<td>25.0 %</td><td>25.0 %</td><td>1.00</td><td>1</td>" in table
    assert "outside the picture" in table
    assert "<img" not in table and "<script" not in table
    assert areas.table(()) == ""


def test_a_region_is_outlined_where_it_is_and_labelled_inside_the_picture(picture):
    image = picture(120, 160)
    (box,) = areas.parsed("logo, 200, 100, 80, 80")
    one = areas.Share(box, 0.5, 0.1, 1)
    shown = areas.drawn(image, [one], (240, 320))  # twice the size of what is shown
    changed = (shown != image).any(axis=2)
    assert changed[50:90, 100].all() and changed[50:90, 140].all()
    assert not changed[60:85, 106:134].any()
    far = areas.Share(areas.parsed("far, -900000, -900000, 10, 10")[0], 0.0, 0.0, None)
    assert areas.drawn(image, [far], (240, 320)).shape == image.shape
    assert areas.label(one, 1) == "logo 50.0 %"
    (foreign,) = areas.parsed("été, 0, 0, 1, 1")
    assert areas.label(areas.Share(foreign, 0.5, 0.1, 1), 3) == "region 3 50.0 %"


def test_the_regions_of_a_file_are_those_of_its_picture(tmp_path):
    rows = ["image,name,x,y,width,height", "a.jpg,logo,1,2,3,4", "b.jpg,sky,0,0,9,9"]
    (tmp_path / "r.csv").write_text("\n".join(rows[:2]))
    assert areas.of_file(tmp_path / "r.csv", "other.png") == "logo, 1, 2, 3, 4"
    (tmp_path / "r.csv").write_text("\n".join(rows))
    assert areas.of_file(tmp_path / "r.csv", "b.jpg") == "sky, 0, 0, 9, 9"
    with pytest.raises(UserError, match=r"r\.csv names a\.jpg, b\.jpg, but not other\.png"):
        areas.of_file(tmp_path / "r.csv", "other.png")


def test_the_photographs_are_there_and_may_be_missing(monkeypatch):
    found = view.photographs()
    assert [path.name for path in found] == list(view.PHOTOGRAPHS)
    assert all(cv2.imread(str(path)) is not None for path in found)
    assert "or try an example" in layout.hint_text()
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert view.photographs() == []
    assert "example" not in layout.hint_text()


# ---------- the networks ----------


@pytest.fixture
def weights(trained, tmp_path):
    """Return a folder with the same weights under two names."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(trained, folder / f"{name}.weights.h5")
    return folder


def constant(rows=48, cols=64):
    """Return an engine whose maps are brighter at the right."""
    cells = ramp(rows // 8, cols // 8)[..., None]
    return Engine(
        "keras", (rows, cols), OutputGrid(8), lambda batch: np.stack([cells] * len(batch))
    )


def test_the_weights_named_come_first_and_then_those_of_the_folder(weights):
    named = weights / "b.weights.h5"
    found = Networks.found(named, weights, "keras", print)
    assert found.names == ["b", "a"]
    assert found.cards["a"]["dataset"] == "synthetic"


def test_without_weights_one_line_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"No trained weights in .*none/\. Run main\.py train"):
        Networks.found(None, tmp_path / "none", "keras", print)


def test_a_damaged_file_among_the_weights_is_passed_over(weights, capsys):
    (weights / "c.weights.h5").write_bytes(b"no weights")
    found = Networks.found(None, weights, "keras", print)
    assert sorted(found.names) == ["a", "b"]
    assert re.match(r"passed over: .*c\.weights\.h5 is not an HDF5 file", capsys.readouterr().out)


def test_a_network_is_loaded_once_and_few_are_held(monkeypatch):
    loaded = []

    def load(engine, path, *more, **flags):
        time.sleep(0.05)
        loaded.append(path.name)
        return object()

    monkeypatch.setattr(networks.engines, "load_adapted", load)
    monkeypatch.setattr(networks.engines, "choose", lambda name: name)
    names = [f"{i}.weights.h5" for i in range(networks.MAX_LOADED + 1)]
    offered = Networks({Path(name): {} for name in names}, "keras")
    asking = [Thread(target=offered.engine, args=("0", print)) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert loaded == names[:1]
    for name in ("1", "0", "2", "3", "0"):  # the first is used again, so another makes room
        offered.engine(name, print)
    assert loaded == names
    offered.engine("1", print)
    assert loaded == [*names, names[1]]


def test_the_files_of_a_map_hold_it_at_the_picture_s_own_size(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((900, 1800, 3), np.uint8))
    result = predict_picture(tmp_path / "wide.png", constant(), tmp_path, "some/w.weights.h5")
    saliency_map = np.load(result.npy)
    assert saliency_map.shape == (900, 1800)
    assert saliency_map.dtype == np.float32
    assert saliency_map.max() == 1
    png = cv2.imread(str(result.png), cv2.IMREAD_UNCHANGED)
    assert (png == np.round(saliency_map * 255)).all()
    assert result.view.picture.shape == (640, 1280, 3)
    assert np.exp(np.load(result.density).astype(float)).sum() == pytest.approx(1, abs=1e-4)
    assert result.shape == (900, 1800) and result.note == ""
    assert result.png.name == "wide-w.weights.h5.png"
    assert result.png.parent.parent == tmp_path
    networks.forget([result, None])
    assert not result.png.exists()
    assert not result.npy.exists()


def test_of_the_overlays_only_the_last_are_kept(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    result = predict_picture(tmp_path / "a.png", constant(), tmp_path, "w")
    files = [networks.overlay_file(result, picture()) for _ in range(networks.KEPT_OVERLAYS + 2)]
    assert len({file.parent for file in files}) == len(files)
    assert [file.exists() for file in files] == [False] * 2 + [True] * networks.KEPT_OVERLAYS
    assert files[0].name == "a-w.overlay.png"


def test_a_screenshot_gets_the_limits_of_the_card(tmp_path):
    page = np.full((240, 320, 3), 255, np.uint8)
    for y in range(20, 240, 20):
        cv2.putText(page, "a page of text and more text", (10, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5,
                    (0, 0, 0), 1)  # fmt: skip
    cv2.imwrite(str(tmp_path / "page.png"), page)
    limited = dataclasses.replace(constant(240, 320), limits="Not for web pages.")
    assert predict_picture(tmp_path / "page.png", limited, tmp_path, "w").note == limited.limits
    photograph = next(path for path in view.photographs() if path.name == PHOTOGRAPH)
    assert predict_picture(photograph, limited, tmp_path, "w").note == ""


def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path, picture):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(30, 50)).save(tmp_path / "turned.jpg", exif=exif)
    result = predict_picture(tmp_path / "turned.jpg", constant(), tmp_path, "w")
    assert result.view.picture.shape == (50, 30, 3)
    assert np.load(result.npy).shape == (50, 30)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_gets_one_line_and_leaves_nothing(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png is"):
        predict_picture(tmp_path / "x.png", constant(), tmp_path, "w")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_picture_that_takes_too_much_memory_gets_one_line(tmp_path, picture):
    def full(batch):
        raise MemoryError

    cv2.imwrite(str(tmp_path / "x.png"), picture())
    engine = Engine("keras", (48, 64), OutputGrid(8), full)
    with pytest.raises(UserError, match=r"x\.png needs more memory than is available\."):
        predict_picture(tmp_path / "x.png", engine, tmp_path, "w")


# ---------- the command ----------


def test_a_port_that_is_taken_is_named(weights, monkeypatch):
    monkeypatch.setattr(server.engines, "installed", lambda package: True)
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        settings = DemoConfig(weights_dir=weights, engine="keras", port=port)
        text = f"--port {port} of 127.0.0.1 cannot be opened: .*in use"
        with pytest.raises(UserError, match=text):
            server.demo(settings)


def test_a_limit_that_is_no_size_is_refused():
    assert DemoConfig(upload_limit="2MB").upload_bytes == 2_000_000
    with pytest.raises(UserError, match="--upload_limit big: a size such as"):
        DemoConfig(upload_limit="big")


HIDDEN = "import sys; sys.modules['gradio'] = None"  # as if it were not installed


def test_without_gradio_one_line_says_how_to_install_it(shell, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    done = shell("demo", code=2, PYTHONPATH=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: demo needs the package gradio, which is not installed in ")
    assert line.endswith("pip install --no-deps -r requirements/demo.lock")


def test_what_is_written_meanwhile_lies_in_the_page_s_folder_and_goes_with_it(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with server.temporary_folder() as folder:
        assert folder.parent == tmp_path
        assert Path(tempfile.mkdtemp()).parent == folder
    assert tempfile.gettempdir() == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
