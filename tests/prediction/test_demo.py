"""The local page: what it draws, what it refuses, and what it does in a browser."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from conftest import PROJECT
from markup import MARKUP

from commands.demo import offered as networks
from commands.demo import server, view
from commands.demo.offered import Networks, looked_at
from commands.prediction.engines import Engine
from commands.settings import DemoConfig
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
    assert max(shown.picture.shape) == view.LONGEST
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
    assert (one[:, 40:] == image[:, 40:]).all()
    assert (view.drawn(shown, 0, [], 2)[:, 40:] != image[:, 40:]).any()
    contours = view.drawn(shown, 0, ["10%"], 0)
    assert (contours == marks.draw_contours(image, two, [0.1])).all()


def test_the_colours_are_those_that_were_asked_for(picture):
    shown = view.view(picture(60, 80), ramp())
    assert (view.drawn(shown, 1, [], 0, "jet") != view.drawn(shown, 1, [], 0, "viridis")).any()


def test_the_small_print_says_what_is_known_and_is_no_markup():
    text = view.small_print(
        {"system": MARKUP, "strategy": MARKUP, "dataset": MARKUP, "input_shape": [MARKUP]}
    )
    assert not re.search("[<>\"']", text)
    scored = {"dataset": "osie", "metrics": {"val_cc": 0.75, "val_nss": None, "val_kld": "x"}}
    assert view.small_print(scored).endswith("On its validation pictures: CC 0.750.")
    assert "does not name" in view.small_print({})
    assert "drawn scenes" in view.small_print({"dataset": "synthetic", "metrics": []})


def test_the_photographs_are_there_and_may_be_missing(monkeypatch):
    found = view.photographs()
    assert [path.name for path in found] == list(view.PHOTOGRAPHS)
    assert all(cv2.imread(str(path)) is not None for path in found)
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert view.photographs() == []


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
    found = Networks.found(DemoConfig(weights=named, weights_dir=weights, engine="keras"), print)
    assert found.names == ["b", "a"]
    assert found.cards["a"]["dataset"] == "synthetic"


def test_without_weights_one_line_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"No trained weights in .*none/\. Run main\.py train"):
        Networks.found(DemoConfig(weights_dir=tmp_path / "none"), print)


def test_a_damaged_file_among_the_weights_is_passed_over(weights, capsys):
    (weights / "c.weights.h5").write_bytes(b"no weights")
    found = Networks.found(DemoConfig(weights_dir=weights, engine="keras"), print)
    assert sorted(found.names) == ["a", "b"]
    assert re.match(r"passed over: .*c\.weights\.h5 is not an HDF5 file", capsys.readouterr().out)


def test_a_network_is_loaded_once_and_few_are_held(monkeypatch):
    loaded = []

    def load(engine, path, say):
        time.sleep(0.05)
        loaded.append(path.name)
        return object()

    monkeypatch.setattr(networks.engines, "get", load)
    monkeypatch.setattr(networks.engines, "chosen", lambda name: name)
    names = [f"{i}.weights.h5" for i in range(networks.READY + 1)]
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
    result = looked_at(tmp_path / "wide.png", constant(), tmp_path, "some/w.weights.h5")
    saliency_map = np.load(result.npy)
    assert saliency_map.shape == (900, 1800)
    assert saliency_map.dtype == np.float32
    assert saliency_map.max() == 1
    png = cv2.imread(str(result.png), cv2.IMREAD_UNCHANGED)
    assert (png == np.round(saliency_map * 255)).all()
    assert result.view.picture.shape == (640, 1280, 3)
    assert result.png.name == "wide-w.weights.h5.png"
    assert result.png.parent.parent == tmp_path
    networks.forget([result, None])
    assert not result.png.exists()
    assert not result.npy.exists()


def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path, picture):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(30, 50)).save(tmp_path / "turned.jpg", exif=exif)
    result = looked_at(tmp_path / "turned.jpg", constant(), tmp_path, "w")
    assert result.view.picture.shape == (50, 30, 3)
    assert np.load(result.npy).shape == (50, 30)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_gets_one_line_and_leaves_nothing(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png is"):
        looked_at(tmp_path / "x.png", constant(), tmp_path, "w")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_picture_that_takes_too_much_memory_gets_one_line(tmp_path, picture):
    def full(batch):
        raise MemoryError

    cv2.imwrite(str(tmp_path / "x.png"), picture())
    engine = Engine("keras", (48, 64), OutputGrid(8), full)
    with pytest.raises(UserError, match=r"x\.png takes more memory than there is\."):
        looked_at(tmp_path / "x.png", engine, tmp_path, "w")


# ---------- the command ----------


def test_a_port_that_is_taken_is_named(weights, monkeypatch):
    monkeypatch.setattr(server.engines, "installed", lambda package: True)
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        settings = DemoConfig(weights_dir=weights, engine="keras", port=port)
        with pytest.raises(UserError, match=f"--port {port} of 127.0.0.1 cannot be had: .*in use"):
            server.demo(settings)


def test_a_limit_that_is_no_size_is_refused():
    assert DemoConfig(upload_limit="2MB").upload_bytes == 2_000_000
    with pytest.raises(UserError, match="--upload_limit big: a size such as"):
        DemoConfig(upload_limit="big")


HIDDEN = "import sys; sys.modules['gradio'] = None"  # as if it were not installed


def test_without_gradio_one_line_says_how_to_install_it(cli, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    done = cli("demo", code=2, PYTHONPATH=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: demo needs the package gradio, which is not installed in ")
    assert line.endswith("pip install --no-deps -r requirements/demo.lock")


# ---------- the page in a browser ----------

SHIPPED = PROJECT / "weights" / "mlnet-osie.weights.h5"
LIMIT = 300_000  # bytes; the photograph has 241 thousand
SECONDS = 120  # at most, on a machine that is busy with other things
# says of each process that Python runs which addresses it binds, asks for and connects to
LISTENING = """
import os, sys
log = open(os.environ["NETWORK_LOG"], "a", buffering=1)
def heard(event, arguments):
    if event in ("socket.bind", "socket.connect"):
        log.write(f"{event} {arguments[1]}\\n")
    elif event == "socket.getaddrinfo":
        log.write(f"{event} {arguments[:1]}\\n")
sys.addaudithook(heard)
"""


def environment_of_a_user():
    """Return the environment without what the tests keep TensorFlow quiet by."""
    return {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}


class Served:
    """A page that a process of its own serves."""

    def __init__(self, folder, weights):
        self.weights, self.temporary, self.log = weights, folder / "tmp", folder / "network.log"
        self.temporary.mkdir()
        (folder / "sitecustomize.py").write_text(LISTENING)
        environment = {"PYTHONPATH": folder, "TMPDIR": self.temporary, "NETWORK_LOG": self.log}
        environment |= {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0"}  # not heeded
        self.process = subprocess.Popen(
            [sys.executable, PROJECT / "main.py", "demo", "--engine", "keras", "--port", "0",
             "--weights", weights, "--weights_dir", folder / "weights",
             "--upload_limit", str(LIMIT)],
            env={**environment_of_a_user(), **{k: str(v) for k, v in environment.items()}},
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        self.said = self.process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:\d+", self.said)
        assert found, self.said + self.process.communicate()[1]
        self.address, self.port = found[0], urlsplit(found[0]).port

    def files(self, pattern):
        """Return what the page has written."""
        return sorted(self.temporary.glob(f"saliency-demo-*/**/{pattern}"))

    def end(self, number):
        """Send a signal; return the exit code and what was said besides the first line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out + err


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """Return the page with two networks, or three with the one that comes along."""
    if find_spec("gradio") is None and "REQUIRE_DEMO" not in os.environ:
        pytest.skip("no Gradio here: pip install --no-deps -r requirements/demo.lock")
    folder = tmp_path_factory.mktemp("served")
    for name in ("a", "b"):
        (folder / "weights").mkdir(exist_ok=True)
        shutil.copy(trained, folder / "weights" / f"{name}.weights.h5")
    page = Served(folder, SHIPPED if SHIPPED.exists() else folder / "weights" / "a.weights.h5")
    yield page
    if page.process.poll() is None:
        page.process.kill()
        page.process.communicate()


@pytest.fixture
def visit(browser, served):
    """Return a function that opens the page; who was asked for what is in its `asked`."""
    contexts = []

    def open_page(**how):
        contexts.append(browser.new_context(accept_downloads=True, **how))
        page = contexts[-1].new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("dialog", lambda dialog: pytest.fail("markup was run"))
        page.goto(served.address)
        page.wait_for_selector("#picture input[type=file]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()


def photograph():
    """Return the file of the photograph."""
    return next(path for path in view.photographs() if path.name == PHOTOGRAPH)


def give(page, path):
    """Upload a file."""
    page.set_input_files("#picture input[type=file]", path)


def overlay_of(page, side=0):
    """Return the overlay that is shown, BGR."""
    source = page.locator(f"#side-{side} img").first.get_attribute("src")
    return cv2.imdecode(np.frombuffer(page.request.get(source).body(), np.uint8), cv2.IMREAD_COLOR)


def comes_to(look, expected):
    """Wait until what is looked at differs from what is expected by no more than JPEG does."""
    deadline = time.monotonic() + SECONDS
    while (off := np.abs(look().astype(int) - expected).mean()) > 5:
        assert time.monotonic() < deadline, f"off by {off}"
        time.sleep(0.2)


def set_slider(page, label, value):
    """Type a slider's value."""
    box = page.get_by_label(f"number input for {label}")
    box.fill(str(value))
    box.press("Enter")


def downloaded(page, name, side=0):
    """Return the file that a button gives."""
    with page.expect_download() as download:
        page.locator(f"#side-{side}").get_by_text(name).click()
    return Path(download.value.path()), download.value.suggested_filename


def test_a_picture_is_predicted_drawn_and_compared(visit, served):
    from model import load_model, predict

    page = visit(viewport={"width": 1280, "height": 900})
    give(page, photograph())
    page.wait_for_selector("#side-0 img >> nth=1")
    file, name = downloaded(page, "Map as .npy")
    saliency_map = np.load(file, allow_pickle=False)
    expected = predict(load_model(served.weights), photograph())
    np.testing.assert_allclose(saliency_map, expected, atol=1e-3)
    assert name == f"chelsea-{served.weights.name.removesuffix('.weights.h5')}.npy"
    file, _ = downloaded(page, "Map as PNG")
    png = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert (png == np.round(saliency_map * 255)).all()

    image = cv2.imread(str(photograph()))
    shown = view.view(image, saliency_map)
    assert shown.peaks
    comes_to(lambda: overlay_of(page), view.drawn(shown, 0.6, [], 5))
    before = served.files("*.npy")
    set_slider(page, "Most salient points", 0)
    set_slider(page, "Opacity of the map", 0)
    comes_to(lambda: overlay_of(page), image)
    set_slider(page, "Opacity of the map", 1)
    set_slider(page, "Most salient points", 2)
    page.get_by_label("10%").check()
    comes_to(lambda: overlay_of(page), view.drawn(shown, 1, ["10%"], 2))
    assert served.files("*.npy") == before  # what was drawn anew was not predicted anew

    assert not page.locator("#side-1").is_visible()
    page.get_by_label("Compare with").click()
    page.get_by_role("option", name="b", exact=True).click()
    page.wait_for_selector("#side-1 img >> nth=1")
    other = np.load(downloaded(page, "Map as .npy", side=1)[0])
    second = view.view(image, other)
    comes_to(lambda: overlay_of(page, side=1), view.drawn(second, 1, ["10%"], 2))
    boxes = [page.locator(f"#side-{side}").bounding_box() for side in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]

    assert len(served.files("*.npy")) == 2  # those of the map before are gone
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    page.wait_for_selector("#side-0", state="hidden")
    assert not served.files("*.npy")
    assert page.locator("#hint").is_visible()
    hosts = {urlsplit(url).netloc for url in page.asked if not re.match("data:|blob:", url)}
    assert hosts == {f"127.0.0.1:{served.port}"}


def test_what_is_wrong_is_said_in_one_line_and_names_are_no_markup(visit, tmp_path):
    page = visit()
    bad = tmp_path / "<img src=x onerror=alert(1)>&lt;b.jpg"
    bad.write_bytes(b"no picture")
    give(page, bad)
    toast = page.locator("[data-testid=toast-body]")
    toast.get_by_text("b.jpg is not a picture that can be read: truncated or of another").wait_for()
    assert "onerror" in toast.inner_text()
    assert not page.locator("[data-testid=toast-body] img").count()
    assert str(tmp_path.anchor) + "tmp" not in toast.inner_text()
    large = tmp_path / "large.png"
    large.write_bytes(photograph().read_bytes().ljust(LIMIT + 1, b"\0"))
    give(page, large)
    toast.get_by_text("exceed the maximum allowed size").wait_for()


def test_what_came_of_a_picture_goes_when_it_can_be_read_no_more(visit, served, tmp_path):
    page, mine = visit(), tmp_path / "mine.png"
    shutil.copy(photograph(), mine)
    give(page, mine)
    page.wait_for_selector("#side-0 img >> nth=1")
    for path in served.files("mine.png"):
        path.write_bytes(b"no picture")
    page.get_by_label("Compare with").click()
    page.get_by_role("option", name="b", exact=True).click()
    page.wait_for_selector("#side-0", state="hidden")
    assert page.get_by_text("mine.png is not a picture that can be read").first.is_visible()
    assert page.locator("#hint").is_visible()
    assert not served.files("*.npy")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_barrier_and_a_phone_need_not_scroll_sideways(visit, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(color_scheme=scheme, viewport={"width": width, "height": 844})
    page.locator("#examples .gallery-item").nth(1).click()
    page.wait_for_selector("#side-0 img >> nth=1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9000"}, 200),  # the end of a tunnel
        ({"Host": "rebound.example"}, 403),
        ({"Host": "127.0.0.1.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_another_site_s_page_gets_nothing(served, headers, status):
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=SECONDS)) as asking:
        asking.request("GET", "/config", headers=headers)
        answer = asking.getresponse()
        body = answer.read()
    assert answer.status == status
    if status == 200:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "http" not in policy
        assert json.loads(body)["analytics_enabled"] is False


def test_a_signal_ends_it_well_and_nothing_is_left(served, visit):
    page = visit()
    page.locator("#examples .gallery-item").first.click()
    page.wait_for_selector("#side-0 img >> nth=1")
    assert served.files("*.npy")
    assert served.end(signal.SIGTERM) == (0, "")  # with a page still open
    assert list(served.temporary.iterdir()) == []
    assert served.said.count("\n") == 1
    log = served.log.read_text().splitlines()
    assert "socket.bind ('127.0.0.1', 0)" in log
    # a library tries whether this machine has IPv6, at its own address
    assert [line for line in log if not re.search(r"'(127\.0\.0\.1|::1)'", line)] == []


def test_a_signal_before_the_page_is_there_is_heard_and_leaves_nothing(served, tmp_path):
    """It is sent as soon as the temporary folder is there: while Gradio is imported."""
    process = subprocess.Popen(
        [sys.executable, PROJECT / "main.py", "demo", "--engine", "keras", "--port", "0",
         "--weights", served.weights],
        env={**environment_of_a_user(), "TMPDIR": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not list(tmp_path.glob("saliency-demo-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out + err) == (0, "")
    assert list(tmp_path.glob("saliency-demo-*")) == []
