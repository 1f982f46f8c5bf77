"""The page of `test --page`: what it says, what it is made of, and what it does in a browser."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_film
from markup import elements, hostile
from pages import overflow, visits

import main
from commands.pages import pictures_page
from commands.pages.pictures_page import Shown, compared, figures, render_pictures, view
from commands.pages.report import THIN_SPACE
from commands.prediction import key_frames
from commands.prediction import page as page_module
from commands.prediction.inputs import Job
from commands.prediction.map_record import RECORD
from config import PredictConfig
from salience.pictures.marks import peaks
from salience.pictures.picture_files import read_map
from salience.pictures.video_files import open_clip
from salience.system.errors import UserError
from salience.system.notes import Notes

NAMES = ["<img src=x onerror=alert(1)>.jpg", "b.jpg", "c.jpg"]
REGIONS = "image,name,x,y,width,height\na.jpg,left,0,0,20,30\na.jpg,corner,30,20,10,10\n"


def blob(x, y, sigma=6.0, shape=(60, 80)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).astype(np.float32)


def outline(name, share):
    return {"name": name, "share": share, "polygons": [[2.0, 2.0, 30.0, 2.0, 30.0, 40.0]],
            "left": 2.5, "top": 3.3, "right": 37.5, "bottom": 66.7}  # fmt: skip


def made(rng, saliency_map, regions=()):
    picture = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    return view(picture, saliency_map, peaks(saliency_map, 3), list(regions))


@pytest.fixture(scope="module")
def found():
    """Return a page of three pictures: with another version, with regions, and without either."""
    rng = np.random.default_rng(0)
    one, other = blob(20, 30), blob(60, 30)
    regions = [outline("logo", 0.4), outline("price", 0.01)]
    return {
        "shown": [
            compared(NAMES[0], made(rng, one, regions), made(rng, other), one, other),
            Shown("b.jpg", made(rng, blob(40, 30, 14), [outline("logo", 0.1)])),
            Shown("c.jpg", made(rng, np.zeros((60, 80), np.float32))),
        ],
        "labels": ["new", "old"],
        "colormap": "inferno",
        "notes": ["1 pictures have no map"],
        "date": "2026-01-02T03:04:05",
        "command": "python main.py test images/ --page",
    }


@pytest.fixture
def visit(browser, found, tmp_path):
    """Return a function that opens the page."""
    path = tmp_path / "index.html"
    pictures_page.write_pictures_page(path, found)
    with visits(browser) as open_page:
        yield lambda scheme="light", width=1280: open_page(path, scheme, width)


def data_of(html):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text[1])


# ---------- the file ----------


def test_page_refers_to_nothing_outside_itself_and_no_text_is_markup(found):
    html = render_pictures(found)
    assert {link[:1] for link in re.findall(r'(?:src|href)="([^"]*)"', html)} <= {"#", "d"}
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", html)
    texts = {key: value for key, value in found.items() if key not in ("shown", "colormap")}
    other = {**found, **hostile(texts, fixed=("date",))}
    assert elements(render_pictures(other)) == elements(html)
    assert data_of(html)["pictures"][0]["name"] == NAMES[0]


def test_figures_tell_even_from_concentrated_maps():
    even, point = figures(np.ones((20, 30))), figures(np.eye(1, 600).reshape(20, 30))
    assert even == pytest.approx({"half": 0.5, "entropy": 0, "peak": 1, "off_centre": 0}, abs=1e-9)
    assert point["half"] == pytest.approx(1 / 600)
    assert point["entropy"] == pytest.approx(np.log2(600))
    assert point["peak"] == pytest.approx(600)
    assert point["off_centre"] == pytest.approx(np.hypot(9.5, 14.5) / np.hypot(20, 30))
    assert set(figures(np.zeros((3, 4))).values()) == {None}


def test_two_maps_are_compared_on_the_first_ones_grid():
    one, far = blob(10, 30, 3), cv2.resize(blob(70, 30, 3), (160, 120))
    rng = np.random.default_rng(0)
    side = made(rng, one)
    apart = compared("a", side, side, one, far)
    assert apart.differences["moved"] > 0.99
    assert apart.greatest == pytest.approx(1, abs=0.02)
    same = compared("a", side, side, one, 5 * one)
    assert same.differences == pytest.approx({"moved": 0, "cc": 1}, abs=1e-5)
    empty = compared("a", side, side, one, 0 * one)
    assert empty.differences == {"moved": None, "cc": None}


def test_contours_lie_where_the_map_is_highest(found):
    lines = pictures_page.contour_lines(blob(20, 30), (120, 160))
    assert len(lines) == len(data_of(render_pictures(found))["pictures"][0]["sides"][0]["levels"])
    for level, share in zip(lines, (0.05, 0.1, 0.2), strict=True):
        (points,) = level
        corners = np.array([[float(n) for n in pair.split(",")] for pair in points.split()])
        assert cv2.contourArea(corners.astype(np.float32)) / (120 * 160) == pytest.approx(
            share, rel=0.3
        )
        np.testing.assert_allclose(corners.mean(axis=0), [41, 61], atol=4)


def test_the_answer_names_the_most_concentrated_or_the_most_changed(found):
    answer = render_pictures(found).split('<p class="answer">')[1].split("</p>")[0]
    assert "differ most on &lt;img" in answer
    assert f"100.0{THIN_SPACE}%" in answer or f"99.9{THIN_SPACE}%" in answer
    values = [{"name": "x", "differences": {}, "own": {"figures": {"half": half}}}
              for half in (0.2, 0.1, None)]  # fmt: skip
    values[1]["name"] = "y"
    assert pictures_page.sentence(values).startswith("The map of y is the most concentrated")
    assert pictures_page.sentence(values[2:]) == "No map has any structure."


# ---------- the command ----------


@pytest.fixture
def run(trained, tmp_path, capsys):
    """Return a function that runs `test --page` into tmp_path/out and returns (code, output)."""

    def go(*words):
        code = main.main(["test", *map(str, words), "--weights", str(trained), "--output",
                          f"{tmp_path}/out"])  # fmt: skip
        said = capsys.readouterr()
        return code, said.out + said.err

    return go


def test_the_page_shows_the_maps_of_the_folder_also_those_of_earlier_calls(run, pictures, tmp_path):
    run(pictures, "--recursive")
    code, said = run(pictures, "--recursive", "--page", "--gallery", "2")
    assert code == 0, said
    assert "3 kept" in said
    assert "shows the first 2 of 3 pictures (--gallery shows more)" in said
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    data = data_of(html)
    assert [one["name"] for one in data["pictures"]] == ["a.jpg", "b.png"]
    saliency_map = read_map(tmp_path / "out" / "a.png")
    (side,) = data["pictures"][0]["sides"]
    assert (side["height"], side["width"]) == saliency_map.shape
    points = [(point["x"], point["y"]) for point in side["points"]]
    assert points == [(peak.x, peak.y) for peak in peaks(saliency_map, page_module.POINTS)]
    assert data["pictures"][0]["figures"][0][0] == pytest.approx(
        figures(saliency_map)["half"], rel=1e-4
    )


def test_the_page_has_shares_of_regions_and_another_version(run, pictures, tmp_path):
    (tmp_path / "regions.csv").write_text(REGIONS)
    other = tmp_path / "other"
    other.mkdir()
    cv2.imwrite(str(other / "a.png"), cv2.imread(str(pictures / "a.jpg"))[:, ::-1])
    words = [pictures, "--page", "--regions", tmp_path / "regions.csv", "--against", other]
    code, said = run(*words, "--peaks", "2")
    assert code == 0, said
    assert "1 map written" in said and "shown alone" in said
    data = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    first, second = data["pictures"]
    assert (len(first["sides"]), len(second["sides"])) == (2, 1)
    assert data["labels"] == [pictures.name, "other"]
    density = np.exp(np.load(tmp_path / "out" / "a.density.npy").astype(float))
    shares = {one["name"]: one["share"] for one in first["sides"][0]["regions"]}
    assert shares["left"] == pytest.approx(density[:, :20].sum(), rel=1e-6)
    names = [column["name"] for column in data["columns"]]
    assert names[-2:] == ["Region: left", "Region: corner"] and "Correlation" in names
    assert len(first["sides"][0]["points"]) <= 2


def test_other_weights_are_shown_beside(run, pictures, trained, tmp_path):
    code, said = run(pictures / "a.jpg", "--page", "--against", trained)
    assert code == 0, said
    data = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert data["pictures"][0]["figures"][4][0] == pytest.approx(0, abs=1e-6)  # the same weights
    assert (tmp_path / "out" / page_module.OTHERS / "a.png").is_file()


def test_maps_that_are_not_of_this_call_are_not_on_the_page(run, pictures, trained, tmp_path):
    clip = write_film(tmp_path / "clip.mp4")
    run(pictures / "a.jpg", clip, "--every", "4", "--page", "--against", trained)
    records = [tmp_path / "out" / folder / RECORD for folder in ("", page_module.OTHERS)]
    records[1].unlink()  # by other weights, for all that is known
    code, said = run(pictures / "a.jpg", clip, "--every", "4", "--page", "--against", trained)
    assert "pictures have no other map of this call: shown alone (a.jpg)" in said
    assert "videos have no other maps of this call: shown alone (clip.mp4)" in said
    data = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert {len(one["sides"]) for one in data["pictures"]} == {1}
    (tmp_path / "out/clip.maps/note.png").write_bytes(b"")  # no frame
    code, said = run(pictures / "a.jpg", clip, "--every", "4", "--page")
    assert code == 0 and "4 pictures" in said
    records[0].write_text("")
    code, said = run(pictures / "a.jpg", clip, "--every", "4", "--page")
    assert "videos have no maps of this call: left out (clip.mp4)" in said


def test_a_video_that_cannot_be_read_is_left_out_alone(run, tmp_path):
    clips = [write_film(tmp_path / name) for name in ("one.mp4", "two.mp4")]
    run(*clips, "--every", "4", "--page")
    real = key_frames.open_clip

    def broken(path):
        if path == clips[0]:
            raise UserError("one.mp4 is not a video.")
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_frames, "open_clip", broken)
        said = run(*clips, "--every", "4", "--page")[1]
    assert "videos cannot be read: left out: one.mp4 is not a video. (one.mp4)" in said
    data = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert {one["name"].split(",")[0] for one in data["pictures"]} == {"two.mp4"}


def test_a_video_whose_maps_are_where_those_of_the_other_version_go_is_refused(run, tmp_path):
    clip = write_film(tmp_path / "against.mp4")
    code, said = run(clip, "--every", "4", "--page", "--against", "mlnet-osie")
    assert code == 2 and "Rename the video" in said


def test_a_damaged_density_is_left_out_in_one_line(run, pictures, tmp_path):
    (tmp_path / "regions.csv").write_text(REGIONS)
    words = [pictures, "--page", "--regions", tmp_path / "regions.csv"]
    run(*words)
    file = tmp_path / "out/a.density.npy"
    file.write_bytes(file.read_bytes()[:200])
    said = run(*words)[1]
    assert "a.density.npy is damaged" in said and "left out" in said


def test_pictures_are_paired_by_their_path_before_their_name(run, tmp_path, picture):
    for folder, suffix in (("own", "png"), ("own/sub", "png"), ("oth", "jpg"), ("oth/sub", "jpg")):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / f"a.{suffix}"), picture(30, 40))
    code, said = run(tmp_path / "own", "--recursive", "--page", "--against", tmp_path / "oth")
    assert code == 0, said
    data = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert [len(one["sides"]) for one in data["pictures"]] == [2, 2]


def test_names_on_the_page_are_those_of_the_pictures(tmp_path):
    names = {"x.png": "x.png", "x.png.png": "x.png.png", "a.jpg.png": "a.jpg", "b.png": "b.jpg"}
    for saliency_map, name in names.items():
        job = Job(Path("in") / name, {"map": tmp_path / saliency_map})
        assert page_module.name_of(job, tmp_path) == name


def test_numbers_that_other_weights_do_not_have_are_left_out_for_them(trained, tmp_path):
    settings = PredictConfig(
        output=tmp_path,
        page=True,
        against=str(trained),
        of_set="osie",
        adaptation=Path("mine"),
    )
    notes = Notes()
    own, _ = page_module.other_settings(settings, lambda: trained, notes, lambda line: None)
    assert (own.of_set, own.adaptation) == (None, None)
    told = "\n".join(notes.lines())
    assert "--set is left out for" in told and "--adaptation is left out for" in told


def test_key_frames_of_a_video_are_on_the_page(run, tmp_path):
    clip = cv2.VideoWriter(
        str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48)
    )
    rng = np.random.default_rng(0)
    for _ in range(9):
        clip.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    clip.release()
    code, said = run(tmp_path / "clip.mp4", "--every", "4", "--page", "--maps", "npz")
    assert code == 0, said
    data = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert data["pictures"][0]["name"] == "clip.mp4, 0.0 s (frame 0)"
    assert len(data["pictures"]) <= key_frames.KEY_FRAMES
    code, said = run(tmp_path / "clip.mp4", "--page", "--maps", "none", "--overwrite")
    assert "needs --maps png or npz" in said


def test_key_frames_are_compared_with_another_version_of_the_video(run, trained, tmp_path):
    clip = write_film(tmp_path / "clip.mp4")
    for folder in ("turned", "others"):
        (tmp_path / folder).mkdir()
    writer = cv2.VideoWriter(
        str(tmp_path / "turned/clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48)
    )
    for _, frame in open_clip(clip).frames():
        writer.write(frame[:, ::-1])
    writer.release()
    for name in ("a.avi", "b.avi"):
        shutil.copy(tmp_path / "turned/clip.avi", tmp_path / "others" / name)

    def shown(against):
        code, said = run(clip, "--every", "4", "--page", "--against", against)
        assert code == 0, said
        return data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8")), said

    same, _ = shown(trained)  # the same weights
    frames = [0, 4, 8]
    assert [one["name"][-2] for one in same["pictures"]] == [str(number) for number in frames]
    assert all(len(one["sides"]) == 2 for one in same["pictures"])
    assert all(one["figures"][4][0] == pytest.approx(0, abs=1e-6) for one in same["pictures"])

    turned, _ = shown(tmp_path / "turned")
    assert turned["labels"] == ["clip.mp4", "turned"]
    for number, one in zip(frames, turned["pictures"], strict=True):
        own, other = (read_map(tmp_path / "out" / folder / f"clip.maps/{number:06d}.png")
                      for folder in ("", page_module.OTHERS))  # fmt: skip
        a, b = (values / values.sum() for values in (own, other))
        assert one["figures"][4][0] == pytest.approx(0.5 * np.abs(a - b).sum(), rel=1e-3)
        assert one["sides"][0]["image"] != one["sides"][1]["image"]

    alone, said = shown(tmp_path / "others")
    assert "videos have no single namesake in" in said and "shown alone (clip.mp4)" in said
    assert all(len(one["sides"]) == 1 for one in alone["pictures"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--regions", "r.csv"], "add --page"),
        (["--page", "--shard", "1/2"], "repeat the command without --shard"),
        (["--page", "--against", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(run, pictures, words, message):
    code, said = run(pictures, *words)
    assert code == 2 and message in said


def test_what_does_not_fit_the_pictures_of_the_page_is_said(run, pictures, tmp_path, picture):
    def regions(*names):
        rows = "".join(f"{name},logo,0,0,9,9\n" for name in names)
        (file := tmp_path / "r.csv").write_text(f"image,name,x,y,width,height\n{rows}")
        return "--page", "--regions", file

    code, said = run(pictures, *regions("z.jpg"))
    assert code == 2 and "names z.jpg, but none of the 2 pictures of the page, such as" in said
    code, said = run(pictures, *regions("a.jpg", "z.jpg"))
    assert code == 0 and "r.csv names are not on the page (z.jpg)" in said

    (other := tmp_path / "other").mkdir()
    cv2.imwrite(str(other / "z.png"), picture(30, 40))
    code, said = run(pictures, "--page", "--against", other)
    assert code == 2 and "other holds no picture called like a.jpg" in said
    for name in ("a.png", "a.bmp"):
        cv2.imwrite(str(other / name), picture(30, 40))
    code, said = run(pictures, "--page", "--against", other)
    assert code == 2 and re.search(r"a\.jpg has two other versions: .*a\.bmp and .*a\.png", said)

    write_film(tmp_path / "clip.mp4")
    code, said = run(pictures, "--page", "--against", tmp_path / "clip.mp4")
    assert code == 0 and "--against names videos: pictures are shown alone" in said

    (pictures / "b.png").write_bytes(b"no picture")
    (other / "a.bmp").unlink()
    (other / "a.png").write_bytes(b"no picture")
    code, said = run(pictures, "--page", "--against", other, "--overwrite")
    assert code == 1 and "pictures have no map of this call: left out (b.png)" in said
    assert "pictures have no other map of this call: shown alone (a.jpg)" in said


# ---------- in a browser ----------


def names_on_cards(page):
    return page.eval_on_selector_all(".card-name > span", "all => all.map((e) => e.textContent)")


def test_the_page_sorts_filters_switches_views_and_obeys_the_keyboard(visit):
    page = visit()
    assert names_on_cards(page) == [NAMES[0], "b.jpg", "c.jpg"]
    page.select_option("#by", label="Area of half the map")
    page.select_option("#order", label="highest first")
    assert names_on_cards(page) == ["b.jpg", NAMES[0], "c.jpg"]  # without a figure: last
    page.select_option("#by", label="Region: logo")
    page.select_option("#order", label="lowest first")
    assert names_on_cards(page) == ["b.jpg", NAMES[0], "c.jpg"]
    page.fill("#name", "B.")
    assert names_on_cards(page) == ["b.jpg"]
    page.fill("#name", "")
    page.select_option("#by", label="name")

    page.focus(".open >> nth=0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.text_content("#detail-title") == "b.jpg"
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#detail-title") == NAMES[0]
    assert page.locator("#stages .canvas").count() == 3  # both versions and their difference
    page.wait_for_selector("#stages .heat[data-painted='difference']")
    heat = "getComputedStyle(document.querySelector('#stages .heat')).opacity"
    # a map is never painted before its picture, as in a screenshot or in print
    assert page.evaluate("[...document.images].every((one) => one.decoding !== 'async')")
    assert page.evaluate(heat) == "0.8"
    page.fill("#detail .opacity input", "30")
    assert page.evaluate(heat) == "0.3"
    page.click("#detail [data-look='map']")
    page.wait_for_selector("#stages .heat[data-painted='map']")
    assert page.evaluate(heat) == "1"
    page.click("#detail [data-look='contours']")
    assert page.locator("#stages .levels .line").first.is_visible()
    assert page.locator("#detail .colour-key >> text=5\u202f%").is_visible()
    assert page.locator("#stages .points text").first.is_visible()
    page.uncheck("#detail [data-mark='points']")
    assert page.locator("#stages .points text").first.is_hidden()
    page.keyboard.press("Escape")
    assert page.is_hidden("#detail")


def test_difference_is_warm_where_the_first_is_higher(visit):
    page = visit()
    page.wait_for_selector(".card .heat[data-painted='difference']")
    colours = page.evaluate(
        """() => {
            const canvas = document.querySelector(".card .heat[data-painted='difference']");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            const at = (x, y) => [...data.slice(4 * (y * width + x)).slice(0, 4)];
            return [at(20, 30), at(60, 30), at(40, 2)];
        }"""
    )
    (warm, cold, none) = colours
    assert warm[0] > warm[2] and warm[3] > 250
    assert cold[2] > cold[0] and cold[3] > 250
    assert none[3] < 30


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_phone_never_scrolls_sideways_and_axe_finds_no_barrier(visit, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(scheme, width)
    assert overflow(page, "html") == 0
    assert Axe().run(page).response["violations"] == []
    page.click(".open >> nth=0")
    assert overflow(page, "#detail") == 0
    assert Axe().run(page).response["violations"] == []
