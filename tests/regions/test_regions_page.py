"""The page of regions: what it says, and what it does in a browser."""

import itertools
import re

import cv2
import numpy as np
import pytest
from markup import elements, hostile
from pages import overflow, visits

from commands.pages import regions_page
from commands.pages.report import DASH, thumbnail_jpeg
from commands.regions.measured import Shown

SHAPE = (60, 80)
NAMES = ["logo", "price", "a long name of a region that does not fit", "<b>bold</b>"]
SHARES = [[0.5, 0.1, 0.05, 0.2], [0.3, 0.15, 0.01, 0.0]]


def shown(rng, place):
    outlines = [
        {
            "name": name,
            "share": SHARES[place][i],
            "polygons": [[18.0 * i, 5.0, 18.0 * i + 16, 5.0, 18.0 * i + 16, 40.5, 18.0 * i, 40.5]],
            **{"left": 22.5 * i, "right": 22.5 * i + 20, "top": 8.3, "bottom": 67.5},
        }
        for i, name in enumerate(NAMES)
    ]
    picture = thumbnail_jpeg(rng.integers(0, 255, (*SHAPE, 3), dtype=np.uint8))
    return Shown(SHAPE[1], SHAPE[0], picture, regions_page.heat_png(rng.random(SHAPE)), outlines)


@pytest.fixture(scope="module")
def found():
    """Return the results of two pictures with other versions, observed values and a failure."""
    rng = np.random.default_rng(0)
    pictures = [
        {
            "image": image,
            "width": SHAPE[1],
            "height": SHAPE[0],
            "against": {"image": f"old {image}", "width": SHAPE[1], "height": SHAPE[0]},
            "regions": [
                {
                    "name": name,
                    "share": share,
                    "area": 0.12,
                    "times": share / 0.12,
                    "peak": None if share == 0 else 2 * share,
                    "rank": None if share == 0 else i + 1,
                    "observed_share": 0.25,
                    "observed_first_ms": float("nan") if place else 100.0 * (i + 1),
                    "against_share": 0.2,
                    "difference": share - 0.2,
                }
                for i, (name, share) in enumerate(zip(NAMES, SHARES[place], strict=True))
            ],
        }
        for place, image in enumerate(("<img src=x onerror=alert(1)>.jpg", "b.jpg"))
    ]
    mean = {"mean": 0.4, "low": 0.3, "high": 0.5, "pictures": 2}
    gap = {"difference": 0.2, "low": -0.1, "high": 0.4, "p": 0.04, "p_corrected": 0.08}
    return {
        "pictures": pictures,
        "summary": [{"name": "logo", "pictures": 2, "share": mean, "area": mean,
                     "observed_share": mean, "difference": gap}],
        "limits": {"logo": 0.4},
        "failing": [{"image": "b.jpg", "name": "logo", "share": 0.3, "least": 0.4}],
        "left_out": [],
        "notes": ["1 regions reach outside their picture"],
        "regions": "regions.csv",
        "against": "old/",
        "fixations": "folder at mine",
        "date": "2026-01-02T03:04:05",
        "command": "python main.py regions new/ --regions regions.csv",
        "shown": [[shown(rng, place), shown(rng, place)] for place in range(2)],
    }  # fmt: skip


@pytest.fixture
def visit(browser, found, tmp_path):
    """Return a function that opens the page."""
    path = tmp_path / "index.html"
    regions_page.write_regions_page(path, found)
    with visits(browser) as open_page:
        yield lambda scheme="light", width=1280: open_page(path, scheme, width)


def column(page, number):
    """Return the texts of a column of the table of regions."""
    return page.eval_on_selector_all(
        f"#regions tbody tr > :nth-child({number})", "all => all.map((c) => c.innerText.trim())"
    )


def test_page_refers_to_nothing_outside_itself_and_no_text_is_markup(found):
    html = regions_page.render_regions(found)
    assert {link[:1] for link in re.findall(r'(?:src|href)="([^"]*)"', html)} <= {"#", "d"}
    assert not re.search(r"@import|url\((?!#)", html)
    assert "<img src=x" not in html
    texts = {key: value for key, value in found.items() if key != "shown"}
    fixed = ("date",)
    other = {**found, **hostile(texts, fixed=fixed, keyed_by_name=("limits",))}
    assert elements(regions_page.render_regions(other)) == elements(html)


def answer(values):
    return regions_page.sentence(regions_page.table_rows(values), values["failing"])


def test_the_answer_is_the_failure_or_the_greatest_change_or_the_most_outstanding(found):
    assert "1 region gets less than --fail_below asks: “logo” of b.jpg" in answer(found)
    passing = {**found, "failing": []}
    assert "“logo” of <img src=x" in answer(passing)
    assert "changed most" in answer(passing)
    alone = [
        {**picture, "regions": [{**row, "difference": None} for row in picture["regions"]]}
        for picture in found["pictures"]
    ]
    assert "stands out most" in answer({**passing, "pictures": alone})


def test_heat_is_more_opaque_where_the_density_is_higher():
    ramp = np.linspace(0, 1, 64).reshape(1, 64).repeat(8, axis=0)
    pixels = cv2.imdecode(
        np.frombuffer(regions_page.heat_png(ramp / ramp.sum()), np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert pixels.shape == (8, 64, 4)
    assert (np.diff(pixels[0, :, 3].astype(int)) >= 0).all()
    assert pixels[0, 0, 3] == 0
    assert pixels[0, -1, 3] == int(255 * regions_page.OPACITY)


def test_the_table_sorts_the_slider_fades_and_a_row_points_at_its_outline(visit):
    page = visit()
    assert column(page, 3)[:2] == ["50.0\u202f%", "10.0\u202f%"]
    heading = page.locator("#regions thead th:nth-child(3)")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    shares = [float(text.split("\u202f")[0]) for text in column(page, 3)]
    assert shares == sorted((100 * share for shares in SHARES for share in shares), reverse=True)
    page.keyboard.press("Enter")  # the heading still has the focus
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, 3)[0] == "0.0\u202f%"
    page.click("#regions thead th:nth-child(7) button")  # rank, which one region has not
    assert column(page, 7)[-1] == DASH
    page.click("#regions thead th:nth-child(1) button")
    assert column(page, 1)[:2] == [NAMES[3], NAMES[3]]
    assert page.locator("tr.failing").inner_text().count("below 40.0") == 1

    opacity = "getComputedStyle(document.querySelector('.heat')).opacity"
    assert page.evaluate(opacity) == "0.8"
    page.locator(".strength input").first.fill("25")
    assert page.evaluate(opacity) == "0.25"

    page.hover("#regions tbody tr:nth-child(3)")
    region = page.get_attribute("#regions tbody tr:nth-child(3)", "data-region")
    pointed = page.locator(".canvas .pointed")
    assert pointed.count() == 4  # outline and label, in both versions
    assert set(pointed.evaluate_all("all => all.map((e) => e.dataset.region)")) == {region}


def test_labels_do_not_hide_each_other(visit):
    page = visit(width=390)
    boxes = page.eval_on_selector_all(
        ".canvas >> nth=0 >> .label",
        "all => all.map((e) => e.getBoundingClientRect().toJSON())",
    )
    assert len(boxes) == len(NAMES)
    for a, b in itertools.combinations(boxes, 2):
        apart = a["right"] <= b["left"] or b["right"] <= a["left"]
        assert apart or a["bottom"] <= b["top"] or b["bottom"] <= a["top"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_phone_never_scrolls_sideways_and_axe_finds_no_barrier(visit, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(scheme, width)
    assert overflow(page, "html") == 0
    assert Axe().run(page).response["violations"] == []
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.click("#theme")
    assert page.evaluate(paper) != before
