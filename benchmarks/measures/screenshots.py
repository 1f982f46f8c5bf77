"""Measure how well screenshots are told from photographs (`salience/pictures/screens.py`).

    python benchmarks/measures/screenshots.py PHOTOGRAPHS... [--pages FOLDER]

PHOTOGRAPHS are folders of photographs; each is also taken at a quarter of its size. Pages are the
HTML files of a folder, and pages that are written here: articles of docs/, forms, and pages with
the photographs. Chromium shows them at three widths; each is taken as PNG and as JPEG.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import markdown
from playwright.sync_api import Page, sync_playwright

from salience.pictures.letterbox import preprocess
from salience.pictures.picture_files import read_image
from salience.pictures.screens import SIDES, edges_on_flat_ground

SHAPES = ((240, 320), (288, 384), (480, 640))  # inputs of networks
SCREENS = ((1280, 800), (390, 844), (1920, 1080))
QUALITIES = (90, 75)
TEXT = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. "
LIGHT = "body{font:16px sans-serif;max-width:860px;margin:2em auto}td{border:1px solid #ccc}"
DARK = "body{font:15px sans-serif;margin:1em;background:#15181d;color:#ddd}td{padding:4px}"
# kinds of pages with photographs: style, and the page; each %s is a photograph
WITH_PHOTOGRAPHS = {
    "news": (
        (
            ".g{display:grid;grid-template-columns:2fr 1fr 1fr;gap:16px;padding:16px}"
            "img{width:100%}"
            "h1{background:#036;color:#fff;padding:20px}"
        ),
        "<h1>The Daily</h1><div class=g>"
        + 9 * f"<div><img src='%s'><h3>{TEXT[:40]}</h3><p>{2 * TEXT}</p></div>",
    ),
    "shop": (
        (
            "body{font:14px sans-serif;background:#fafafa}img{width:100%;border-radius:6px}"
            ".g{display:grid;grid-template-columns:repeat(3,1fr);gap:20px;padding:20px}"
            ".c{background:#fff;border:1px solid #ddd;padding:10px}"
        ),
        "<div class=g>" + 12 * f"<div class=c><img src='%s'><b>{TEXT[:22]}</b><p>12.90</p></div>",
    ),
    "hero": (
        (
            "body{margin:0;font:18px sans-serif}header{padding:18px}"
            "main{padding:40px;column-count:2}"
            ".h{height:60vh;color:#fff;padding:60px;font-size:48px}"
        ),
        (
            "<header><b>Brand</b> Home</header>"
            "<div class=h style='background:url(%s) center/cover'>"
            f"Better sleep</div><main>{12 * TEXT}</main>"
        ),
    ),
}
FORM = (
    "<style>body{font:15px sans-serif;background:linear-gradient(%s);min-height:100vh;margin:0;"
    "display:grid;place-items:center}form{background:#fff;padding:30px;width:360px}"
    "input{width:90%%}</style><form><h2>Sign in</h2>Name<input>Password<input type=password>"
    "<button>Go</button></form>"
)


def write_pages(folder: Path, photographs: list[Path]) -> None:
    """Write the HTML pages."""
    draw = random.Random(1)
    for place, text in enumerate(sorted(ROOT.glob("docs/*.md"))):
        html = markdown.markdown(text.read_text("utf-8"), extensions=["tables", "fenced_code"])
        style = DARK if place % 3 == 2 else LIGHT
        page = f"<meta charset=utf-8><style>{style}</style>{html}"
        (folder / f"{text.stem}.html").write_text(page, "utf-8")
    for number, colours in enumerate(("#eef,#fff", "#135,#9cf", "#fff,#fff", "#222,#444")):
        (folder / f"form{number}.html").write_text(FORM % colours)
        for kind, (style, page) in WITH_PHOTOGRAPHS.items():
            own = [draw.choice(photographs).as_uri() for _ in range(page.count("%s"))]
            text = f"<style>{style}</style>{page % tuple(own)}"
            (folder / f"{kind}-photographs{number}.html").write_text(text)


def shown(page: Page, files: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the picture of each page at each size."""
    for width, height in SCREENS:
        page.set_viewport_size({"width": width, "height": height})
        for file in files:
            page.goto(file.as_uri())
            yield f"{file.stem}-{width}", decoded(page.screenshot())


def decoded(data: bytes) -> np.ndarray:
    """Return the picture of a file's bytes."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def measured(picture: np.ndarray, shape: tuple[int, int]) -> tuple[float, float]:
    """Return the measure of a picture at the shape of an input, and the milliseconds it took."""
    placed, box = preprocess(picture, shape)
    inner = box.without_padding(placed)
    began = perf_counter()
    return edges_on_flat_ground(inner), 1000 * (perf_counter() - began)


def report(name: str, found: list[tuple[str, list[tuple[float, float]]]]) -> None:
    """Print the measures of a kind of picture, and how many are taken for screens."""
    for i, shape in enumerate(SHAPES):
        values = np.array([own[i][0] for _, own in found])
        cost = np.median([own[i][1] for _, own in found])
        ends = ", ".join(f"{np.percentile(values, at):.2f}" for at in (0, 5, 50, 95, 100))
        print(f"{name} at {shape[0]}x{shape[1]}: {(values > SIDES).sum()} of {len(values)} taken "
              f"for screens; 0, 5, 50, 95, 100 %: {ends}; {cost:.2f} ms")  # fmt: skip


def main() -> None:
    """Measure photographs and pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--pages", type=Path)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    everything: list[Path] = []
    for folder in given.photographs:
        files = sorted(folder.resolve().rglob("*.jpg"))
        everything += files
        whole, small = [], []
        for file in files:
            picture = read_image(file)
            size = picture.shape[1] // 4, picture.shape[0] // 4
            quarter = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
            whole.append((file.name, [measured(picture, shape) for shape in SHAPES]))
            small.append((file.name, [measured(quarter, shape) for shape in SHAPES]))
        report(str(folder), whole)
        report(f"{folder}, at a quarter of the size", small)
    found: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as own, sync_playwright() as playwright:
        write_pages(Path(own), everything)
        files = sorted(Path(own).glob("*.html"))
        files += sorted(given.pages.resolve().rglob("*.html")) if given.pages else []
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, picture in shown(browser.new_page(), files):
            kinds: dict[str, np.ndarray] = {"PNG": picture}
            for quality in QUALITIES:
                data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
                kinds[f"JPEG {quality}"] = decoded(data.tobytes())
            for kind, one in kinds.items():
                content = "photographs and text" if "photographs" in name else "text"
                values = [measured(one, shape) for shape in SHAPES]
                found.setdefault(f"pages of {content}, {kind}", []).append((name, values))
        browser.close()
    for name, values in found.items():
        report(name, values)
        missed = [one for one, own in values if own[1][0] <= SIDES]
        print(f"  missed at {SHAPES[1]}: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
