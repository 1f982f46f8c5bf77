"""`main.py data check`: each defect is found, counted and named, and all is well without one."""

import json
import shutil

import cv2
import layouts
import numpy as np
import pytest
from conftest import SHARED, needs
from PIL import Image
from scipy.io import savemat

from commands.curation import check
from commands.evaluation.evaluate import evaluate
from commands.pages.figures import BARS, edges
from commands.settings import CheckConfig, EvaluateConfig
from salience.data.sets import cat2000, mit1003, salicon
from salience.system.errors import UserError


@pytest.fixture
def look(tmp_path):
    """Return a function that checks a data set: whether all is well, what was said, the JSON."""

    def run(name, root):
        said = []
        output = tmp_path / "check"
        shutil.rmtree(output, ignore_errors=True)
        well = check.check(CheckConfig(name, root, output), said.append)
        report = json.loads((output / "check.json").read_text())
        assert report["well"] == well
        return well, "\n".join(said), report

    return run


@pytest.fixture
def small(monkeypatch):
    """Make the published counts those of the miniatures."""
    monkeypatch.setattr(salicon, "PUBLISHED", {"train": (4,), "val": (2,), "test": (2,)})
    monkeypatch.setattr(cat2000, "PUBLISHED", {"trainSet": (30,), "testSet": (6,)})
    monkeypatch.setattr(mit1003, "PUBLISHED", {"all": (12,)})


def rows_of(report):
    return {row["part"]: row for row in report["parts"]}


@pytest.mark.parametrize("name", ["salicon", "cat2000", "mit1003"])
def test_a_whole_data_set_is_well(tmp_path, small, look, name):
    known = getattr(layouts, name)(tmp_path / "set")
    well, said, report = look(name, tmp_path / "set")
    assert well, said
    assert report["problems"] == {"remarks": []}
    assert "no problems" in said
    points = known["train"] if name == "salicon" else known
    row = report["parts"][0]
    assert row["fixations"] == sum(map(len, points.values()))
    assert row["pictures"] == row["maps"] == row["fixation_records"] == len(points)
    assert row["outside"] == 0
    assert row["median_fixations"] == 5
    figure = cv2.imread(str(tmp_path / "check/check.png"))
    assert figure.std() > 20


def test_what_is_missing_is_counted(tmp_path, look):
    layouts.salicon(tmp_path / "set", counts={"train": 4})
    well, said, report = look("salicon", tmp_path / "set")
    assert not well
    assert "problem: train: 4 pictures instead of 10,000" in said
    assert "problem: val: no pictures (5,000 are published)" in said
    assert "note: test: no pictures (5,000 are published); they have no ground truth" in said
    assert rows_of(report)["train"]["published"] == [10_000]


def test_every_defect_is_found_at_once(tmp_path, small, look):
    root = tmp_path / "set"
    layouts.salicon(root)
    names = [f"COCO_train2014_{i + 1:012d}" for i in range(4)]
    (root / f"maps/train/{names[0]}.png").unlink()
    mat = root / f"fixations/train/{names[1]}.mat"
    mat.write_bytes(mat.read_bytes()[:300])
    picture = root / f"images/train/{names[2]}.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])  # OpenCV would read it, half grey
    layouts.density(root / f"maps/train/{names[3]}.png", layouts.points_of(0, (20, 30)), (20, 30))
    savemat(
        root / "fixations/val/COCO_val2014_000000000999.mat",
        layouts.salicon_mat("x", layouts.points_of(1), columns=False),
    )
    (root / "maps/val/COCO_val2014_000000000101.png").write_bytes(b"no picture")
    well, said, report = look("salicon", root)
    assert not well
    problems = report["problems"]
    assert problems["train: pictures without maps"] == [names[0]]
    assert problems["train: fixation files that cannot be read"] == [names[1]]
    assert problems["train: pictures that cannot be read"] == [f"{names[2]}.jpg"]
    assert problems["train: pictures of another size than their map"] == [f"{names[3]}.jpg"]
    assert problems["val: fixation records without a picture"] == ["COCO_val2014_000000000999"]
    assert problems["val: maps that cannot be read"] == ["COCO_val2014_000000000101.jpg"]
    assert len(problems) == 7  # and why the .mat file could not be read
    assert f"problem: train: pictures without maps ({names[0]})" in said
    assert any("cannot be read as SALICON's fixations" in line for line in problems["remarks"])


def test_what_is_no_problem_is_noted(tmp_path, small, look):
    root = tmp_path / "set"
    layouts.cat2000(root)
    stimuli = root / "trainSet/Stimuli"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(stimuli / "Pattern/004.jpg") as picture:
        picture.save(stimuli / "Pattern/004.jpg", exif=exif)
    grey = cv2.imread(str(stimuli / "Art/001.jpg"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(stimuli / "Art/001.jpg"), grey)
    shutil.copy(stimuli / "Art/002.jpg", stimuli / "Art/009.jpg")
    with (stimuli / "Art/003.jpg").open("ab") as file:
        file.write(b"a film")
    empty = {"fixLocs": np.zeros(layouts.SHAPE, np.uint8)}
    savemat(root / "trainSet/FIXATIONLOCS/Art/005.mat", empty)
    flat = np.zeros(layouts.SHAPE, np.uint8)
    cv2.imwrite(str(root / "trainSet/FIXATIONMAPS/Art/005.jpg"), flat)
    well, _, report = look("cat2000", root)
    assert well
    notes = report["notes"]
    turned = "trainSet: pictures with an EXIF rotation; read in the orientation of their truth"
    assert notes[turned] == ["Pattern/004.jpg"]
    assert notes["trainSet: grey pictures"] == ["Art/001.jpg"]
    assert notes["trainSet: pictures with bytes after the end"] == ["Art/003.jpg"]
    assert notes["trainSet: pictures that repeat another"] == ["Art/009 = Art/002"]
    assert notes["trainSet: pictures without a fixation"] == ["Art/005.jpg"]
    assert notes["trainSet: constant maps"] == ["Art/005.jpg"]


def test_fixations_outside_are_counted(tmp_path, small, look):
    root = tmp_path / "set"
    layouts.salicon(root)
    name = "COCO_train2014_000000000001"
    points = np.array([[64.0, 10], [3, 4], [-2, 48]])
    savemat(root / f"fixations/train/{name}.mat", layouts.salicon_mat(name, points, columns=False))
    well, _, report = look("salicon", root)
    assert well
    row = rows_of(report)["train"]
    assert (row["outside"], row["fixations"]) == (2, 3 * 5 + 1)
    [kind] = [kind for kind in report["notes"] if "outside" in kind]
    assert report["notes"][kind] == [f"{name}.jpg: 2"]


def test_masks_of_another_size_and_damaged_tables_are_problems(tmp_path, small, look):
    layouts.cat2000(tmp_path / "cat")
    layouts.picture(tmp_path / "cat/trainSet/Stimuli/Art/005.jpg", (20, 30))
    problems = look("cat2000", tmp_path / "cat")[2]["problems"]
    for truth in ("fixations", "map"):
        assert problems[f"trainSet: pictures of another size than their {truth}"] == ["Art/005.jpg"]
    layouts.toronto(tmp_path / "toronto")
    mat = tmp_path / "toronto/eyetrackingdata/fixdens/origfixdata.mat"
    mat.write_bytes(mat.read_bytes()[:300])
    well, said, _ = look("toronto", tmp_path / "toronto")
    assert not well
    assert "cannot be read as Toronto's fixations" in said
    assert "all: neither maps nor fixations; searched in origfixdata.mat" in said


def own_set(root, count=4):
    """Write a set in the folder layout whose val and train splits are its own."""
    for split, first in (("train", 0), ("val", 50)):
        for i in range(count):
            layouts.picture(root / split / f"images/p{i}.jpg", (300, 400), seed=first + i)
            layouts.density(root / split / f"maps/p{i}.png", layouts.points_of(i), (300, 400))


@pytest.mark.parametrize(("scale", "quality"), [(1, 95), (1, 30), (0.5, 80), (2, 80)], ids=str)
def test_one_picture_in_two_splits_is_told_with_both_names(tmp_path, look, scale, quality):
    root = tmp_path / "set"
    own_set(root)
    again = cv2.resize(cv2.imread(str(root / "val/images/p1.jpg")), None, fx=scale, fy=scale)
    for split in ("train", "val"):  # in one's own split it is told, too
        path = root / split / "images/again.jpg"
        cv2.imwrite(str(path), again, [cv2.IMWRITE_JPEG_QUALITY, quality])
        layouts.density(root / split / "maps/again.png", layouts.points_of(1), again.shape[:2])
    well, said, report = look("folder", root)
    assert well, said
    [apart] = [kind for kind in report["notes"] if "of one split that look like" in kind]
    assert report["notes"][apart] == [
        "again.jpg in train = again.jpg in val", "again.jpg in train = p1.jpg in val",
    ]  # fmt: skip


def test_pictures_of_a_drawn_split_that_look_alike_are_told_with_their_splits(
    tmp_path, look, monkeypatch
):
    layouts.osie(tmp_path / "set")
    stimuli = tmp_path / "set/data/stimuli"
    monkeypatch.setattr(check.loading.module_of("osie", tmp_path), "PUBLISHED", {"all": (10,)})
    picture = cv2.imread(str(stimuli / "1004.jpg"))
    cv2.imwrite(str(stimuli / "1008.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    flat = np.full((48, 64, 3), 90, np.uint8)
    for name in ("1001.jpg", "1002.jpg"):  # of which nothing can be told
        cv2.imwrite(str(stimuli / name), flat)
    split = {"train": [f"{n}.jpg" for n in range(1001, 1008)], "val": ["1008.jpg"], "test": []}
    (tmp_path / "set/split.json").write_text(json.dumps(split))
    notes = look("osie", tmp_path / "set")[2]["notes"]
    [names] = [names for kind, names in notes.items() if "look like" in kind]
    assert names == ["1004.jpg in train = 1008.jpg in val"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("dataset.json", '{"pictures": {"p0.jpg": {"sigma": 6}}}', "p0.jpg has sigma 6"),
     ("dataset.json", '{"pictures": [', "not valid JSON")],
)  # fmt: skip
def test_what_evaluate_refuses_fails_the_check(tmp_path, look, file, content, message):
    root = tmp_path / "set"
    own_set(root)
    (root / file).write_text(content)
    well, said, _ = look("folder", root)
    assert not well
    assert message in said


def test_a_fixed_split_that_is_none_fails_the_check(tmp_path, look, monkeypatch):
    layouts.osie(tmp_path / "set")
    monkeypatch.setattr(check.loading.module_of("osie", tmp_path), "PUBLISHED", {"all": (10,)})
    (tmp_path / "set/split.json").write_text('{"train": ["nosuch.jpg"], "val": [], "test": []}')
    well, said, _ = look("osie", tmp_path / "set")
    assert not well
    assert "nosuch.jpg" in said


def test_points_that_are_in_no_picture_fail_the_check(tmp_path, look):
    root = tmp_path / "set"
    own_set(root)
    for split, points in (("train", [[900.0, 9], [9, 800]]), ("val", [[0.5, 0.25], [0.1, 0.9]])):
        (root / split / "fixations").mkdir()
        for i in range(4):
            np.save(root / split / "fixations" / f"p{i}.npy", np.array(points))
    well, said, _ = look("folder", root)
    assert not well
    assert "None of the train split's 8 fixations" in said
    assert "The val split's fixations lie between -1 and 1, 8 of 8" in said


def test_files_that_are_not_read_are_noted(tmp_path, look):
    own_set(tmp_path / "set")
    (tmp_path / "set/train/maps/p0.exr").write_text("x")
    well, said, _ = look("folder", tmp_path / "set")
    assert well
    assert "note: not read: 1 .exr in train/maps/ (p0.exr)" in said


def test_maps_alone_are_averaged_and_pictures_alone_draw_nothing(tmp_path, look):
    layouts.npy(tmp_path / "npy")
    well, said, report = look("npy", tmp_path / "npy")
    assert well
    assert "pictures read as RGB from 0 to 255" in said
    assert report["parts"][0]["median_fixations"] is None
    assert (tmp_path / "check/check.png").exists()
    layouts.mit300(tmp_path / "mit300")
    look("mit300", tmp_path / "mit300")
    assert not (tmp_path / "check/check.png").exists()


def test_bad_input_is_answered_in_one_line(tmp_path, look):
    with pytest.raises(UserError, match="synthetic is built in"):
        look("synthetic", None)
    with pytest.raises(UserError, match=r"not at .*no such folder"):
        look("salicon", tmp_path / "absent")
    with pytest.raises(UserError, match="No pictures in"):
        look("salicon", tmp_path)


def test_exit_codes_of_the_command(cli, tmp_path):
    layouts.npy(tmp_path / "npy")
    assert "no problems" in cli("data", "check", "--dataset", "npy", "--data", "npy").stdout
    np.save(tmp_path / "npy/maps.npy", np.zeros((3, *layouts.SHAPE)))
    done = cli("data", "check", "--dataset", "npy", "--data", "npy", code=1)
    assert "all: pictures without maps (7: " in done.stdout
    assert done.stderr == ""
    done = cli("data", "check", "--dataset", "npy", "--data", "nowhere", code=2)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "--data" in cli("data", "check", "--help").stdout


@pytest.mark.slow
@needs(SHARED / "osie")
def test_real_osie_is_well(look):
    well, _, report = look("osie", SHARED / "osie")
    assert well
    [row] = report["parts"]
    assert (row["pictures"], row["fixations"], row["median_observers"]) == (700, 98_321, 15)
    assert row["sizes"] == {"800 x 600": 700}


def test_bars_of_the_histogram_hold_whole_counts():
    """Bars of 1.3 counts would stand at one or two in turn, like a comb."""
    for counts in ([5], [0, 39], [0, 40], [100, 153], [3, 90_000]):
        found = edges(counts)
        assert found[0] == min(counts) - 0.5
        assert found[-1] > max(counts)
        [step] = set(np.diff(found))
        assert step == int(step)
        assert len(found) - 1 <= BARS


# --- scores by category ---


def test_scores_of_a_set_with_categories_come_by_category(tmp_path):
    layouts.cat2000(tmp_path / "set")
    maps = tmp_path / "maps"
    shutil.copytree(tmp_path / "set/trainSet/FIXATIONMAPS", maps)
    said = []
    settings = EvaluateConfig(
        dataset="cat2000", data=tmp_path / "set", maps=maps, metrics="cc,nss", human=False,
        output=tmp_path / "eval",
    )  # fmt: skip
    evaluation = evaluate(settings, said.append)
    lines = (tmp_path / "eval/per_image.csv").read_text().splitlines()
    assert lines[0].startswith("picture,category,scored,cc,nss")
    assert all(line.split(",")[0].split("/")[0] == line.split(",")[1] for line in lines[1:])
    rows = json.loads((tmp_path / "eval/metrics.json").read_text())["rows"]
    means = rows["maps"]["means_by_category"]
    assert list(means) == list(layouts.CATEGORIES)
    assert "means_by_category" not in rows["uniform"]
    scored = evaluation.row("maps")
    for category, values in means.items():
        own = [
            scores["nss"]
            for name, scores in zip(evaluation.pictures, scored.scores, strict=True)
            if name.startswith(category)
        ]
        assert values["nss"] == pytest.approx(np.mean(own))
    text = "\n".join(said)
    assert "maps, by category" in text
    assert all(category in text for category in layouts.CATEGORIES)


def test_a_set_without_categories_has_no_such_column(tmp_path):
    layouts.mit1003(tmp_path / "set")
    maps = tmp_path / "maps"
    maps.mkdir()
    for path in (tmp_path / "set/ALLFIXATIONMAPS").glob("*_fixMap.jpg"):
        shutil.copy(path, maps / path.name.replace("_fixMap", ""))
    said = []
    settings = EvaluateConfig(
        dataset="mit1003", data=tmp_path / "set", maps=maps, metrics="cc", human=False,
        output=tmp_path / "eval",
    )  # fmt: skip
    evaluate(settings, said.append)
    assert (tmp_path / "eval/per_image.csv").read_text().startswith("picture,scored,cc")
    assert "category" not in "\n".join(said)
