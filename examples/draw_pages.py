"""Draw the pictures of docs/ that show pages: the regions, the local page and a comparison.

    python examples/draw_pages.py docs/pictures --comparison runs/demo/comparison/index.html

It needs Chromium, and Playwright and Gradio of the development packages. The photographs are those
of `write_photographs.py`; the pages are made by `regions` and `demo` with the included network.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from commands.demo.view import photographs
from examples.write_photographs import main as write_photographs
from salience.pictures.picture_files import read_image, write_image

MAIN = str(ROOT / "main.py")
REGIONS = """image,name,x,y,width,height
astronaut.jpg,face,170,50,120,130
astronaut.jpg,helmet,315,300,195,210
chelsea.jpg,eyes,140,60,180,90
chelsea.jpg,nose,212,208,78,62
"""
SECONDS = 120  # that a page may take on a busy machine


def opened(browser: Browser, address: str, width: int, height: int) -> Page:
    """Return a page of a size."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(1000 * SECONDS)
    page.goto(address)
    return page


def saved(page: Page, file: Path) -> None:
    """Write what a page shows, as PNG or JPEG."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        page.screenshot(path=shot)
        write_image(file, read_image(shot))


def draw_regions(browser: Browser, folder: Path, file: Path) -> None:
    """Draw a part of the page of `regions`."""
    write_photographs(folder / "images")
    (folder / "regions.csv").write_text(REGIONS)
    subprocess.run(
        [sys.executable, MAIN, "regions", "images", "--regions", "regions.csv", "--output", "made"],
        cwd=folder,
        check=True,
    )
    page = opened(browser, (folder / "made/index.html").as_uri(), 1000, 760)
    # below the bar at the top
    page.evaluate("scrollTo(0, document.querySelector('#pictures').offsetTop - 60)")
    saved(page, file)


def draw_demo(browser: Browser, folder: Path, file: Path) -> None:
    """Draw the page of `demo` with a photograph and a region."""
    served = subprocess.Popen(
        [sys.executable, MAIN, "demo", "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert served.stdout
        found = None
        while not found:
            line = served.stdout.readline()
            if not line:
                sys.exit("demo ended before it showed its page")
            found = re.match(r"(http://\S+) shows the page", line)
        page = opened(browser, found[1], 1240, 1120)
        (place,) = [i for i, one in enumerate(photographs()) if one.stem == "chelsea"]
        page.locator("#examples .gallery-item").nth(place).click()
        page.wait_for_selector("#side-0 img >> nth=1")
        page.fill("#regions textarea", "eyes, 140, 60, 180, 90\nnose, 212, 208, 78, 62")
        page.locator("#side-0 .shares").get_by_text("nose").wait_for()
        page.wait_for_timeout(3000)  # the overlay is drawn again
        page.locator("#about").click()  # out of the text
        saved(page, file)
    finally:
        served.terminate()
        served.wait()


def draw_comparison(browser: Browser, made: Path, file: Path) -> None:
    """Draw the beginning of a page of `compare`."""
    saved(opened(browser, made.resolve().as_uri(), 1200, 1400), file)


def main() -> None:
    """Draw the pictures into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--comparison", type=Path, help="index.html of make demo's comparison")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as own:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        draw_regions(browser, Path(own), given.folder / "regions.jpg")
        draw_demo(browser, Path(own), given.folder / "demo.png")
        if given.comparison:
            draw_comparison(browser, given.comparison, given.folder / "page.png")
        browser.close()


if __name__ == "__main__":
    main()
