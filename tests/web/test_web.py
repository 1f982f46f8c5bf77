"""The page of `export --format web`: its runtime, its words where it cannot run, and its maps."""

import base64
import hashlib
import io
import os
import re
import tarfile
import threading
import urllib.error
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from pages import overflow

from commands.pages.web_page import render_web, write_web_page
from commands.prediction import engines
from commands.web import half, runtime
from salience.measures.adaptation import Adaptation
from salience.measures.finish import Finish
from salience.system.errors import UserError
from salience.system.files import file_digest, read_json

ABSENT = [] if "REQUIRE_BACKENDS" in os.environ else [
    package for package in ("onnx", "onnxruntime", "tf2onnx") if not find_spec(package)
]  # fmt: skip
WITH_ONNX = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {ABSENT}")
FILES = {"network": "network.onnx", "script": runtime.SCRIPT, "wasm": runtime.WASM}
INCLUDED = Path(__file__).parents[2] / "weights" / "mlnet-osie.weights.h5"
CARD = {
    "system": "mlnet",
    "dataset": "osie",
    "weights": {"file": "<img src=x onerror=alert(1)>.weights.h5"},
    "input": {"rows": 48, "cols": 64},
    "output": {"stride": 8, "crop": 0, "blur": 0.0},
    "finish": {"adaptation": vars(Adaptation()), "map_blur": 0.0},
    "limits": "Photographs only.",
}


class Quiet(SimpleHTTPRequestHandler):
    """A static server that prints nothing."""

    def log_message(self, format, *args):
        pass


@contextmanager
def served(folder):
    """Yield the address of a server of a folder, on this machine alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


# ---------- the runtime ----------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a small package that counts as the runtime, in an empty cache."""
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    contents = {name: name.encode() * 9 for name in (*runtime.FILES, "other.js")}
    path = tmp_path / "given.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digests = {name: hashlib.sha256(contents[name]).hexdigest() for name in runtime.FILES}
    whole = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(runtime, "FILES", digests)
    monkeypatch.setattr(runtime, "INTEGRITY", whole)
    monkeypatch.setattr(runtime, "SIZE_BYTES", path.stat().st_size)
    return path


def answers(monkeypatch, content):
    """Have the registry answer with bytes, or fail with an error."""
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr(runtime.urllib.request, "urlopen", urlopen)
    return asked


def test_the_runtime_is_downloaded_once_over_https(package, monkeypatch):
    asked, lines = answers(monkeypatch, package.read_bytes()), []
    folder = runtime.runtime_folder(say=lines.append)
    assert {path.name for path in folder.iterdir()} == set(runtime.FILES)
    assert runtime.runtime_folder(say=lines.append) == folder
    assert asked == [runtime.ADDRESS] and asked[0].startswith("https://") and len(lines) == 1


def test_a_damaged_runtime_in_the_cache_is_made_again(package, monkeypatch):
    folder = runtime.runtime_folder(package)
    (folder / runtime.WASM).write_bytes(b"damaged")
    assert runtime.whole(runtime.runtime_folder(package))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"something else", "is damaged, or not onnxruntime-web"),
        (urllib.error.URLError("no route to host"), r"no route to host.*tgz elsewhere.*--runtime"),
        (TimeoutError("timed out"), r"timed out.*tgz elsewhere.*--runtime"),
    ],
)
def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    package, tmp_path, monkeypatch, content, message
):
    answers(monkeypatch, content)
    with pytest.raises(UserError, match=message):
        runtime.runtime_folder(say=lambda line: None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_damaged_package_is_refused_in_one_line(cli, package, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda name: True)  # else that is said first
    package.write_bytes(package.read_bytes()[:-9])
    where = ("--output", tmp_path / "out")
    done = cli("export", "--format", "web", *where, "--runtime", package, code=2)
    assert re.fullmatch(r"error: --runtime .*given\.tgz is damaged, or not .*\n", done.stderr)
    done = cli("export", "--format", "web", *where, "--runtime", "nosuch.tgz", code=2)
    assert "Cannot read --runtime nosuch.tgz" in done.stderr
    done = cli("export", "--format", "openvino", *where, "--runtime", package, code=2)
    assert "--runtime is for --format web" in done.stderr
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_said_before_the_download(cli, package, tmp_path, monkeypatch):
    asked = answers(monkeypatch, package.read_bytes())
    monkeypatch.setattr(engines, "installed", lambda name: name != "tf2onnx")
    for words in ((), ("--runtime", package)):
        done = cli("export", "--format", "web", "--output", tmp_path / "out", *words, code=2)
        assert re.fullmatch(r"error: --format web needs tf2onnx: pip install .*\n", done.stderr)
    assert not asked and not (tmp_path / "out").exists()


def test_the_download_comes_once_and_after_all_checks(cli, package, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda name: True)
    asked = answers(monkeypatch, urllib.error.URLError("no route to host"))
    web = ("export", "--format", "web", "--weights", INCLUDED)
    done = cli(*web, "--output", tmp_path / "a.onnx", code=2)
    assert "is a folder" in done.stderr and not asked
    done = cli(*web, "--output", tmp_path / "exports" / "page", code=2)
    assert "no route to host" in done.stderr and len(asked) == 1
    assert not (tmp_path / "exports").exists()


# ---------- the network ----------


@WITH_ONNX
def test_weights_are_rounded_where_float16_holds_them(rng):
    import onnx
    from onnx import helper, numpy_helper

    own = {"plain": rng.normal(size=(16, 16)), "large": np.full((16, 16), 1e6), "few": np.eye(2)}
    own = {name: values.astype(np.float32) for name, values in own.items()}
    outputs = [helper.make_tensor_value_info(f"{n}-out", 1, v.shape) for n, v in own.items()]
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}-out"]) for name in own],
        "graph", [], outputs,
        [numpy_helper.from_array(values, name) for name, values in own.items()],
    )  # fmt: skip
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    half.round_weights(network)
    onnx.checker.check_model(network)
    from onnx.reference import ReferenceEvaluator

    found = dict(zip(own, ReferenceEvaluator(network).run(None, {}), strict=True))
    np.testing.assert_array_equal(found["plain"], own["plain"].astype(np.float16))
    np.testing.assert_array_equal(found["large"], own["large"])
    kinds = {weight.name: weight.data_type for weight in network.graph.initializer}
    assert kinds == {"plain/float16": onnx.TensorProto.FLOAT16, "large": 1, "few": 1}


# ---------- the page ----------


def test_the_page_loads_from_its_own_server_alone_and_no_text_is_markup():
    html = render_web(CARD, FILES | {"threads": "threads.js"}, {"network": 1, "wasm": 1})
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[^']*' 'self' 'wasm-unsafe-eval'", rules["script-src"])
    assert rules["img-src"] == "data: blob:" and rules["worker-src"] == "'self'"
    assert "<img src=x" not in html and "&lt;img src=x" in html
    assert not re.search(r'(?:src|href)="http', html)


@pytest.fixture
def bare(tmp_path):
    """Return a folder with the page, but without a network."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in FILES.values():
        (folder / name).write_bytes(b"")
    write_web_page(folder, CARD, FILES)
    (folder / FILES["network"]).unlink()
    return folder


OBSTACLES = {
    "no WebAssembly": ("delete globalThis.WebAssembly", "This browser has no WebAssembly"),
    "no SIMD": ("WebAssembly.validate = () => false", "too old for the network"),
    "a file missing": ("", "network.onnx could not be loaded (404)"),
}


def test_the_page_says_in_a_sentence_why_it_cannot_run(browser, bare, tmp_path, picture):
    file = tmp_path / "picture.png"
    cv2.imwrite(str(file), picture())
    with served(bare) as address:
        for script, sentence in OBSTACLES.values():
            context = browser.new_context(viewport={"width": 390, "height": 844})
            page = context.new_page()
            page.add_init_script(script)
            page.goto(address)
            problem = page.locator("#problem")
            problem.get_by_text(sentence).wait_for(timeout=10_000)
            page.set_input_files("#file", file)  # the picture is shown, and the sentence stays
            page.locator("#result").wait_for(timeout=10_000)
            problem.get_by_text(sentence).wait_for(timeout=10_000)
            assert page.locator("#save-map").is_disabled()
            assert overflow(page, "html") <= 0
            for error in ("new RangeError('x')", "new Error('std::bad_alloc')"):
                assert "not enough memory" in page.evaluate(f"sentenceOf({error})")
            context.close()
    context = browser.new_context()
    page = context.new_page()
    page.goto((bare / "index.html").as_uri())
    page.locator("#problem").get_by_text("python -m http.server").wait_for(timeout=10_000)
    page.set_input_files("#file", bare / "index.html")
    page.locator("#problem").get_by_text("cannot be read as a picture").wait_for(timeout=10_000)
    context.close()


# ---------- its maps ----------


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return the web export of a tiny network; skip the test where the runtime is out of reach."""
    from commands.settings import ExportConfig
    from commands.web.folder import run

    try:
        runtime.runtime_folder(say=lambda line: None)
    except UserError as error:
        pytest.skip(str(error))
    output = tmp_path_factory.mktemp("web") / "network"
    assert run(ExportConfig(format="web", weights=trained, output=output))
    return output


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """Return the file of a photograph that is higher than wide, larger than the network's input."""
    from skimage import data

    path = tmp_path_factory.mktemp("photograph") / "portrait.jpg"
    cv2.imwrite(str(path), cv2.cvtColor(data.astronaut()[:, 60:360], cv2.COLOR_RGB2BGR))
    return path


def map_on_page(browser, folder, photograph, threads=True):
    """Return the map that the page makes of a picture, [rows, columns], and what it says.

    Without threads, it is as on plain http: browsers offer no service worker there.
    """
    complaints = []
    with served(folder) as address:
        context = browser.new_context()
        page = context.new_page()
        if not threads:
            page.add_init_script("Object.defineProperty(navigator, 'serviceWorker', {})")
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((address, "blob:", "data:"))
                or complaints.append(asked.url))  # fmt: skip
        page.goto(address)
        page.get_by_text("Ready: choose a picture").wait_for(timeout=60_000)
        page.set_input_files("#file", photograph)
        page.locator("#save-map:enabled, #problem:not([hidden])").wait_for(timeout=60_000)
        assert page.locator("#problem").is_hidden(), page.locator("#problem").inner_text()
        found = page.evaluate("[shown.height, shown.width, Array.from(shown.map.values)]")
        with page.expect_download() as download:
            page.click("#save-map")
        grey = cv2.imread(str(download.value.path()), cv2.IMREAD_UNCHANGED)
        said = page.locator("#status").inner_text()
        assert page.evaluate("self.crossOriginIsolated") == threads
        # other pages of the server are not touched later
        left = "navigator.serviceWorker?.getRegistrations().then(all => all.length)"
        assert not page.evaluate(left)
        context.close()
    assert complaints == []
    made = np.reshape(found[2], found[:2])
    assert download.value.suggested_filename == "portrait_map.png"
    assert np.abs(cv2.cvtColor(grey, cv2.COLOR_BGR2GRAY) / 255 - made).max() < 0.003
    return made, said


@WITH_ONNX
@pytest.mark.slow
def test_the_map_of_the_page_is_that_of_keras(browser, exported, trained, photograph):
    from model import load_model, predict

    made, said = map_on_page(browser, exported, photograph)
    expected = predict(load_model(trained), photograph)
    assert made.shape == expected.shape == (512, 300) and np.ptp(expected) > 0.1
    assert np.abs(made - expected).max() < 1e-2
    assert re.fullmatch(r"portrait\.jpg: \d+\.\d s on .* threads?\.", said)
    card = read_json(exported.with_name(f"{exported.name}.json"))
    for name, digest in card["files"].items():
        assert file_digest(exported.parent / name) == digest
    assert (exported / "LICENSE-onnxruntime.txt").read_text().startswith("MIT License")


@WITH_ONNX
@pytest.mark.slow
@pytest.mark.parametrize("map_blur", [0.01, 0.06])  # narrow, and wide: then the map is reduced
def test_the_page_finishes_maps_as_the_card_says(
    browser, exported, trained, photograph, tmp_path, map_blur
):
    from model import load_model, predict

    own = Adaptation(contrast=1.7, blur=0.02, centre_x=0.4, centre_y=0.6, centre_width=0.4,
                     centre_power=0.6, centre_share=0.2, uniform_share=0.1)  # fmt: skip
    folder = tmp_path / "finished"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).symlink_to(path)
    for name in ("index.html", "threads.js"):
        (folder / name).unlink()
    card = read_json(exported.with_name(f"{exported.name}.json"))
    finish = {"adaptation": vars(own), "map_blur": map_blur}
    write_web_page(folder, card | {"finish": finish}, FILES)
    made, said = map_on_page(browser, folder, photograph, threads=False)
    assert said.endswith("on one thread.")
    plain = predict(load_model(trained), photograph)
    expected = Finish(own, map_blur).apply(np.asarray(plain))
    assert np.abs(expected - plain).max() > 0.1
    assert np.abs(made - expected).max() < 1e-2
