"""The local page in a process of its own: what it does in a browser, and what it refuses."""

import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from conftest import PROJECT

from commands.demo import areas, view
from salience.pictures import marks

pytestmark = pytest.mark.slow  # the page starts for half a minute
PHOTOGRAPH = "chelsea.png"  # of scikit-image: 451 x 300
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

    def __init__(self, folder, weights, program=(PROJECT / "main.py",)):
        self.weights, self.temporary, self.log = weights, folder / "tmp", folder / "network.log"
        self.errors = folder / "errors.txt"
        self.temporary.mkdir()
        (folder / "sitecustomize.py").write_text(LISTENING)
        path = os.pathsep.join([str(folder), str(PROJECT)])
        environment = {"PYTHONPATH": path, "TMPDIR": self.temporary, "NETWORK_LOG": self.log}
        environment |= {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0"}  # not heeded
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *program, "demo", "--engine", "keras", "--port", "0",
                 "--weights", weights, "--weights_dir", folder / "weights",
                 "--upload_limit", str(LIMIT)],
                env={**environment_of_a_user(), **{k: str(v) for k, v in environment.items()}},
                cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        assert self.process.stdout
        self.said = self.process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/\?token=[\w-]{43}) shows the page", self.said)
        assert found, self.said + self.errors.read_text()
        self.address, self.port = found[1], urlsplit(found[1]).port

    def files(self, pattern):
        """Return what the page has written."""
        return sorted(self.temporary.glob(f"saliency-demo-*/**/{pattern}"))

    def end(self, number):
        """Send a signal; return the exit code and what was said besides the first line."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out + self.errors.read_text()


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


def layout_drawn(shown, found, shape, count):
    """Return the overlay with regions below its numbers."""
    picture = areas.drawn(view.drawn(shown, 1, ["10%"], 0), found, shape)
    return marks.draw_peaks(picture, shown.peaks[:count])


def test_a_picture_is_predicted_drawn_and_compared(visit, served, tmp_path):
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

    image_box = page.locator("#side-0 .overlay img").bounding_box()
    assert image_box
    for share, move in ((0.25, page.mouse.move), (0.75, page.mouse.move)):
        move(image_box["x"] + share * image_box["width"],
             image_box["y"] + share * image_box["height"])  # fmt: skip
        (page.mouse.down if share == 0.25 else page.mouse.up)()
    written = areas.parsed(page.input_value("#regions textarea"))
    rows, columns = saliency_map.shape
    corner = written[0].polygons[0]
    np.testing.assert_allclose(
        [corner.min(axis=0), corner.max(axis=0)],
        [[columns / 4, rows / 4], [3 * columns / 4, 3 * rows / 4]], atol=4,
    )  # fmt: skip
    text = areas.text_of(written)
    (density,) = served.files("*.density.npy")
    (expected_share,) = areas.shares(density, text)
    page.locator("#side-0 .shares").get_by_text(f"{100 * expected_share.share:.1f} %").wait_for()
    drawing = layout_drawn(shown, [expected_share], saliency_map.shape, 2)
    comes_to(lambda: overlay_of(page), drawing)
    file, name = downloaded(page, "Overlay as PNG")
    assert name.endswith(".overlay.png")
    assert np.abs(cv2.imread(str(file)).astype(int) - drawing).mean() < 1
    page.fill("#regions textarea", "no region")
    page.locator("#status").get_by_text("Line 1 is no region").wait_for()
    page.get_by_text("Remove all regions").click()
    page.wait_for_selector("#side-0 .shares", state="hidden")
    regions_file = tmp_path / "regions.csv"
    regions_file.write_text("image,name,x,y,width,height\nchelsea.png,nose,190,150,60,50\n")
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Open a file of regions").click()
    chooser.value.set_files(regions_file)
    page.locator("#side-0 .shares").get_by_text("nose").wait_for()
    page.get_by_text("Remove all regions").click()
    page.wait_for_selector("#side-0 .shares", state="hidden")
    comes_to(lambda: overlay_of(page), view.drawn(shown, 1, ["10%"], 2))

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

    assert len(served.files("*.density.npy")) == 2  # those of the map before are gone
    assert len(served.files("*.npy")) == 4
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


# ---------- the page under attack ----------

ANOTHER_PAGE = {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-site"}
SECRET = b"a secret of this machine"


class Answer:
    """What came back."""

    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body
        self.text = body.decode("utf-8", "replace")


class Attacker:
    """Whoever sends requests to the page; without `enter` they know nothing of it."""

    def __init__(self, served):
        self.served, self.cookie, self.root = served, {}, ""

    def enter(self):
        """Open the address that was printed, as its user does."""
        answer = self.ask("GET", self.served.address.partition(str(self.served.port))[2])
        assert answer.status == 303, answer.text
        self.cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
        self.root = answer.headers["location"].removesuffix("/")
        return self

    def ask(self, method, path, body=None, headers=()):
        """Send a request; a body that is no bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **dict(headers)}
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=SECONDS)
        ) as asking:
            asking.request(method, self.root + path, body, {**self.cookie, **dict(headers)})
            response = asking.getresponse()
            try:
                return Answer(response, response.read())
            except http.client.IncompleteRead as broken_off:
                return Answer(response, broken_off.partial)

    def upload(self, content, name="x.png"):
        """Upload a file; return its path."""
        body, headers = form(content, name)
        answer = self.ask("POST", "/gradio_api/upload", body, headers)
        assert answer.status == 200, answer.text
        return json.loads(answer.body)[0]

    def call(self, data, session="abc", **more):
        """Call what predicts; return what is told of it, the last line."""
        body = {"data": data, "fn_index": self.looked(), "session_hash": session, **more}
        answer = self.ask("POST", "/gradio_api/queue/join", body)
        if answer.status != 200:
            return answer.text
        told = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}").text
        return next(line for line in told.splitlines() if "process_completed" in line)

    def looked(self):
        """Return the number of what predicts."""
        config = json.loads(self.ask("GET", "/config").body)
        return next(d["id"] for d in config["dependencies"] if d["api_name"] == "predict")


def form(content, name="x.png", field="files"):
    """Return a form with a file, and the header that goes with it."""
    part = f'--B\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return part.encode() + content + b"\r\n--B--\r\n", {
        "Content-Type": "multipart/form-data; boundary=B"
    }


def file_data(path, **more):
    """Return what Gradio takes for a file."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def values(picture=None, first="b", second="(nothing)", opacity=0.6, contours=(), peaks=5,
           regions=""):  # fmt: skip
    """Return the values of the page's controls."""
    return [None, picture, first, second, opacity, list(contours), peaks, regions]


@pytest.fixture
def stranger(served):
    """Return who has not opened the printed address."""
    return Attacker(served)


@pytest.fixture
def user(served):
    """Return who has, and so could a page that learned all that there is to know."""
    return Attacker(served).enter()


@pytest.fixture
def secret(tmp_path):
    """Return a file that the page has no business with; Gradio would show an SVG at once."""
    for name in ("secret.txt", "secret.png", "secret.svg"):
        (tmp_path / name).write_bytes(SECRET)
    return tmp_path / "secret.svg"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://localhost:PORT", "Host": "localhost:PORT"}, 200),  # a tunnel's end
        ({"Origin": "http://localhost:PORT"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 403),
        ({"Origin": "https://127.0.0.1:PORT"}, 403),
        ({"Origin": "http://foreign.example"}, 403),
        ({"Origin": "null"}, 403),
        (ANOTHER_PAGE, 403),
        ({"Host": "localhost:9000"}, 403),
        ({"Host": "localhost"}, 403),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "rebound.example:PORT"}, 403),
        ({"Host": "127.0.0.1.example:PORT"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
    ],
)
def test_another_page_gets_nothing_even_with_the_cookie(user, headers, status):
    headers = {k: v.replace("PORT", str(user.served.port)) for k, v in headers.items()}
    answer = user.ask("GET", "/config", headers=headers)
    assert answer.status == status
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    if status == 200:
        assert json.loads(answer.body)["analytics_enabled"] is False
    else:
        assert answer.text == "Requests from other pages are not allowed."


def test_a_request_with_two_names_of_the_page_is_refused(user):
    names = f"Host: 127.0.0.1:{user.served.port}\r\nHost: rebound.example\r\n"
    with socket.create_connection(("127.0.0.1", user.served.port)) as asking:
        asking.sendall(f"GET {user.root}/config HTTP/1.1\r\n{names}\r\n".encode())
        assert re.match(rb"HTTP/1.1 40[03] ", asking.recv(1000))


def test_a_page_of_another_port_in_the_same_browser_learns_and_does_nothing(visit, served):
    got = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            got.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    page = visit()
    inside = page.url
    assert "token" not in inside
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        ask = """async ([url, how]) => {
            try { const r = await fetch(url, {credentials: "include", ...how});
                  return r.type == "opaque" ? "opaque" : await r.text(); }
            catch (error) { return "refused"; } }"""
        assert page.evaluate(ask, [inside + "config", {}]) == "refused"
        before = served.files("*")
        form = {"method": "POST", "mode": "no-cors", "body": "--B--",
                "headers": {"Content-Type": "multipart/form-data; boundary=B"}}  # fmt: skip
        assert page.evaluate(ask, [inside + "gradio_api/upload", form]) in ("opaque", "refused")
        assert served.files("*") == before
        with page.expect_response(inside):
            framed = "url => { document.body.innerHTML = `<iframe src='${url}'></iframe>`; }"
            page.evaluate(framed, inside)
        assert not page.frames[-1].locator("#picture").count()
        other.shutdown()
    assert got
    assert not [headers for headers in got if "salience" in str(headers)]


def test_no_other_page_is_asked_whether_it_may_ask(user):
    for origin in ("http://localhost:8000", f"http://127.0.0.1:{user.served.port}"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = user.ask("OPTIONS", "/gradio_api/queue/join", headers=headers)
        assert answer.status in (403, 404)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/?token=", "/?token=wrong", "/?token=%ff", "/?" + "a&" * 999),
        *("/config", "/gradio_api/queue/data", "/favicon.ico"),
    ],
)
def test_who_did_not_open_the_printed_address_is_told_to(stranger, user, path):
    sentence = "Open the address that the terminal printed: it contains the token of this page."
    name = next(iter(user.cookie.values())).partition("=")[0]
    assert stranger.ask("GET", path).text == sentence
    stranger.cookie = {"Cookie": f"{name}=wrong; {name}=; a b; other={name}"}
    stranger.root = user.root
    answer = stranger.ask("GET", path)
    assert (answer.status, answer.text) == (403, sentence)


def test_the_token_stays_neither_in_the_address_nor_in_a_cookie_of_other_ports(stranger, user):
    answer = stranger.ask("GET", "/" + user.served.address.rpartition("/")[2])
    assert answer.status == 303
    name, value, *rest = re.split("=|; ", answer.headers["set-cookie"], maxsplit=2)
    assert name == f"salience-{user.served.port}"
    # a browser sends it to every port, but only below a path that nobody can guess
    assert rest == [f"Path={answer.headers['location']}; HttpOnly; SameSite=Strict"]
    assert len(user.root) > 40
    token = user.served.address.rpartition("=")[2]
    assert token not in value + answer.headers["location"]
    stranger.cookie = {"Cookie": f"{name}={value}"}
    assert stranger.ask("GET", "/config").status == 404
    others = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert user.ask("GET", "/", headers=others).status == 200  # a link in a mail, say
    assert user.ask("GET", "/", headers={**others, "Sec-Fetch-Mode": "no-cors"}).status == 403


@pytest.mark.parametrize("slot", range(1, 8))
@pytest.mark.parametrize("name", ["secret.txt", "secret.png", "secret.svg"])
def test_no_control_has_a_file_of_the_machine_read(user, served, secret, slot, name):
    target = secret.with_name(name)
    up = "/".join([".."] * 20)
    for path in (target, f"{up}{target}", f"{served.files('chelsea.png')[0].parent}/{up}{target}"):
        for more in ({}, {"is_stream": True}, {"url": f"file://{target}"}):
            for crafted in (file_data(path, **more), [file_data(path, **more)]):
                data = values()
                data[slot] = crafted
                told = user.call(data)
                assert '"success":false' in told, told
                assert str(target) not in told
        assert user.ask("GET", f"/gradio_api/file={path}").status == 404
    assert not [
        file for file in served.files("*") if file.is_file() and SECRET in file.read_bytes()
    ]


UNCHECKED = """
import sys, main
from commands.demo import layout
layout.check_inputs = lambda *_: None
sys.exit(main.main())
"""


def test_gradio_s_own_check_of_paths_is_in_force_behind_ours(served, secret, tmp_path):
    page = Served(tmp_path, served.weights, ["-c", UNCHECKED])
    try:
        user = Attacker(page).enter()
        for path in (secret, "/etc/hostname"):
            for slot in (1, 2, 3):
                data = values(first=served.weights.name.removesuffix(".weights.h5"))
                data[slot] = file_data(path)
                assert '"success":false' in user.call(data)
        found = page.files("*")
        assert not [file for file in found if file.is_file() and SECRET in file.read_bytes()]
        assert "was not uploaded by a user" in page.errors.read_text()
    finally:
        page.end(signal.SIGTERM)


def test_only_an_upload_or_an_example_is_a_picture(user, served, secret):
    outside = served.files("chelsea.png")[0].with_name("linked.png")
    outside.symlink_to(secret)
    uploaded = user.upload(photograph().read_bytes(), "mine.png")
    for path in (outside, Path(uploaded).parent, f"{uploaded}/../mine.png", "", "mine.png"):
        assert '"success":false' in user.call(values(file_data(path)))
    inside = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    for crafted in ({"path": uploaded}, {"path": uploaded, "more": inside}, uploaded, [uploaded]):
        assert '"success":false' in user.call(values(crafted))
    assert user.ask("GET", f"/gradio_api/file={outside}").status == 404
    outside.unlink()
    for path in (uploaded, served.files("chelsea.png")[0]):
        assert '"success":true' in user.call(values(file_data(path)))


def test_no_address_is_fetched_for_a_client(user, served):
    with socket.socket() as target:
        target.bind(("127.0.0.1", 0))
        target.listen()
        target.settimeout(0.5)
        address = f"http://127.0.0.1:{target.getsockname()[1]}/x.png"
        for more in ({"path": address}, {"path": "x.png", "url": address}):
            for slot in (1, 2):
                data = values()
                data[slot] = {**file_data("x"), **more}
                assert '"success":false' in user.call(data)
        for route in ("file", "proxy"):
            assert user.ask("GET", f"/gradio_api/{route}={address}").status == 404
        with pytest.raises(TimeoutError):
            target.accept()
    log = served.log.read_text().splitlines()
    assert [line for line in log if not re.search(r"'(127\.0\.0\.1|::1)'", line)] == []


CLOSED = """
GET /login_check /gradio_api/login_check /gradio_api/user /gradio_api/token /gradio_api/app_id
GET /gradio_api/dev/reload /gradio_api/runs /gradio_api/run-history/buckets /gradio_api/deep_link
GET /gradio_api/openapi.json /gradio_api/stream/a/b/1/playlist.m3u8 /gradio_api/file/etc/hostname
GET /gradio_api/custom_component/a/client/component/x.js /gradio_api/queue/status /openapi.json
GET /gradio_api/file=/etc/hostname /gradio_api/file=etc/hostname /gradio_api/file=/proc/self/environ
GET /gradio_api/file=file:///etc/hostname /gradio_api/file=//foreign.example/x /gradio_api/file=%00
GET /monitoring /monitoring/summary /gradio_api/vibe-code /gradio_api/profiling/traces /docs
GET /static/../../../../../../../../etc/hostname /assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/hostname
GET /gradio_api/call/looked/x /gradio_api/mcp/sse /pwa_icon /logout /svelte/x.js /gradio_api/info
POST /login /gradio_api/run/looked /gradio_api/api/predict /gradio_api/call/looked /gradio_api/reset
POST /gradio_api/call/v2/looked /gradio_api/component_server /gradio_api/process_recording
POST /gradio_api/stream/x /gradio_api/stream/x/close /gradio_api/cancel /gradio_api/vibe-edit
POST / /config /gradio_api/queue/data /gradio_api/vibe-code /gradio_api/run-history/connect
PUT / /gradio_api/upload
DELETE / /gradio_api/upload
HEAD /gradio_api/file=/etc/hostname
"""


def test_what_the_page_does_not_need_is_not_there(user, served):
    before = served.files("*")
    for line in CLOSED.split("\n")[1:-1]:
        method, *paths = line.split()
        for path in paths:
            answer = user.ask(method, path, {} if method in ("POST", "PUT") else None)
            assert answer.status in (403, 404), (method, path, answer.status)
            assert "/" not in answer.text
    body, headers = form(b"film", field="video")
    assert user.ask("POST", "/gradio_api/process_recording", body, headers).status == 404
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
    assert user.ask("GET", "/gradio_api/queue/join", headers=upgrade).status == 404
    assert served.files("*") == before


@contextmanager
def broken_off(user):
    """Begin an upload that is not gone on with."""
    start = form(b"")[0].partition(b"\r\n--B--")[0]
    request = (
        f"POST {user.root}/gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{user.served.port}\r\n"
        f"Cookie: {user.cookie['Cookie']}\r\nContent-Length: 9000000\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", user.served.port)) as asking:
        asking.sendall(request.encode() + start + b"x" * 100_000)
        yield


def test_an_upload_that_breaks_off_leaves_nothing(user, served):
    before = served.files("*")
    with broken_off(user):
        assert wait_for(lambda: served.files("*") != before)
    assert wait_for(lambda: served.files("*") == before)
    body, headers = form(b"no such field", field="video")
    assert user.ask("POST", "/gradio_api/upload", body, headers).status == 200
    assert wait_for(lambda: served.files("*") == before)
    (folder,) = served.temporary.iterdir()
    assert folder.name.startswith("saliency-demo-")
    assert [path.name for path in folder.iterdir()] == ["page"]


def wait_for(look):
    """Return whether something comes to be within some seconds."""
    deadline = time.monotonic() + 20
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


ODD = [
    *(None, True, "", "x", "0.5", -1, 1e9, 10**400, float("nan"), float("inf"), [], [None], {}),
    *({"path": "b"}, {"path": 1, "meta": {}}, {"path": "b", "meta": None}, [["b"]], ["10%", 5]),
]


def test_malformed_calls_are_refused_quietly_and_the_page_goes_on(user, served):
    fn, good = user.looked(), values()
    whole = {"data": good, "fn_index": fn, "session_hash": "odd"}
    for slot in range(1, len(good)):
        for odd in ODD:
            if (slot, odd) in ((1, None), (5, [])) or (slot == 6 and type(odd) is bool):
                continue  # no picture, no contour
            if slot == 7 and isinstance(odd, str):
                continue  # any text may stand among the regions
            data = [*good]
            data[slot] = odd
            told = user.call(data, "odd")
            assert "process_completed" not in told or '"success":false' in told, (slot, odd, told)
    for data in ([], good[:-1], [*good, 1]):
        assert '"success":false' in user.call(data, "odd")
    odd_bodies = [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * 100_000, {}, {"data": 5},
        {"data": good}, {"data": good, "fn_index": fn}, {"data": {}, "fn_index": fn},
        *({**whole, "fn_index": odd} for odd in (-1, 999, 10**30, "x", 1.5, None, [])),
        *({**whole, "session_hash": odd} for odd in (None, 5, [], {})),
    ]  # fmt: skip
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
        for body in odd_bodies:
            answer = user.ask("POST", path, body, {"Content-Type": "application/json"})
            assert 400 <= answer.status < 600, (path, body, answer.text)
            assert "Traceback" not in answer.text
    for more in ({"batched": True}, {"simple_format": True}, {"event_data": [1]},
                 {"trigger_id": 10**30}, {"event_id": "x"}, {"oauth_token": "x"}):  # fmt: skip
        user.ask("POST", "/gradio_api/queue/join", {**whole, **more, "session_hash": "more"})
        user.ask("POST", "/gradio_api/run/predict", {**whole, **more, "session_hash": "more"})
    for path in ("queue/data", "upload_progress?upload_id=none"):
        assert 400 <= user.ask("GET", f"/gradio_api/{path}").status < 600
    assert "unexpected_error" in user.ask("GET", "/gradio_api/queue/data?session_hash=none").text
    for kind in ("", "text/plain", "multipart/form-data", "multipart/form-data; boundary=C"):
        answer = user.ask("POST", "/gradio_api/upload", form(b"")[0], {"Content-Type": kind})
        assert 400 <= answer.status < 600
    path = user.upload(photograph().read_bytes(), "../../../mine.png")
    for span in ("bytes=9-2", "bytes=a-b", "bytes=1-2-3", "bytes=-", "bytes=9999999999-"):
        user.ask("GET", f"/gradio_api/file={path}", headers={"Range": span})
    assert '"success":true' in user.call(values(file_data(path)), "odd")
    assert served.errors.read_text() == ""


def test_a_signal_ends_it_well_and_nothing_is_left(served, visit, user):
    page = visit()
    page.locator("#examples .gallery-item").first.click()
    page.wait_for_selector("#side-0 img >> nth=1")
    assert served.files("*.npy")
    before = served.files("*")
    with broken_off(user):
        assert wait_for(lambda: served.files("*") != before)
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
