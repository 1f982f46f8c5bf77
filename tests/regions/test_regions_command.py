"""The command `regions`: shares of what `test --density` writes, observed values, and failures."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

HEAD = "image,name,x,y,width,height\n"
REGIONS = (
    HEAD + "a.jpg,logo,4,3,10,8\na.jpg,price,20,10,40,8\nb,logo,0,0,35,25\nb,corner,30,45,5,5\n"
)
MORE = HEAD.replace("image", "image,subject,t,duration").replace(",name,x,y,width,height", ",x,y")
FIXATIONS = MORE + (
    "a,p1,100,200,5,5\na,p1,400,100,25,12\na,p2,50,300,5,5\na,p2,500,40,6,4\nb,p1,20,20,5,30\n"
)


@pytest.fixture
def regions(cli, pictures, tmp_path, trained):
    """Return a function that runs the command; it returns what was printed and regions.json."""
    file = tmp_path / "input.csv"
    file.write_text(REGIONS, encoding="utf-8")

    def run(*words, code=0, images=(pictures,), file=file):
        done = cli(
            "regions", *images, "--regions", file, "--weights", trained, "--engine", "keras",
            *words, code=code,
        )  # fmt: skip
        record = tmp_path / "regions" / "regions.json"
        return done, json.loads(record.read_text(encoding="utf-8")) if code < 2 else {}

    return run


def rows_of(found):
    return {(p["image"], r["name"]): r for p in found["pictures"] for r in p["regions"]}


def test_shares_are_sums_of_the_density_that_test_writes(regions, cli, pictures, trained, tmp_path):
    done, found = regions()
    rows = rows_of(found)
    cli(
        "test", pictures, "--weights", trained, "--density", "--engine", "keras", "--output", "maps"
    )
    density = np.exp(np.load(tmp_path / "maps" / "a.density.npy").astype(np.float64))
    logo, price = rows["a.jpg", "logo"], rows["a.jpg", "price"]
    assert logo["share"] == pytest.approx(density[3:11, 4:14].sum(), rel=1e-4)
    assert price["share"] == pytest.approx(density[10:18, 20:40].sum(), rel=1e-4)
    assert (logo["area"], price["area"]) == (80 / 1200, 160 / 1200)
    assert logo["peak"] == pytest.approx(density[3:11, 4:14].max() / density.max(), rel=1e-4)
    assert {logo["rank"], price["rank"]} == {1, 2}
    assert (logo["rank"] == 1) == (logo["peak"] > price["peak"])
    assert "observed_share" not in logo
    # what lies outside is told, and that these weights have no calibration
    assert "only the part inside counts (a.jpg: price, 50 % outside)" in done.stdout
    assert "has no calibration" in done.stdout
    with (tmp_path / "regions" / "regions.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["name"]) for line in lines] == list(rows)
    assert float(lines[0]["share"]) == logo["share"]
    assert [line["pictures"] for line in found["summary"]] == [2]
    mean = (rows["a.jpg", "logo"]["share"] + rows["b.png", "logo"]["share"]) / 2
    assert found["summary"][0]["share"]["mean"] == pytest.approx(mean)


def test_fixations_give_what_was_observed(regions, pictures, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copytree(pictures, data / "images", ignore=shutil.ignore_patterns("sub"))
    (data / "fixations.csv").write_text(FIXATIONS, encoding="utf-8")
    columns = {f"observed_{name}" for name in ("share", "looked", "first_ms", "dwell_ms")}
    for images in ((), (pictures,)):  # the data set's own pictures, and the same elsewhere
        _, found = regions("--data", data, images=images)
        rows = rows_of(found)
        logo, price = rows["a.jpg", "logo"], rows["a.jpg", "price"]
        assert {key: logo[key] for key in columns} == {
            "observed_share": 3 / 4,
            "observed_looked": 1.0,
            "observed_first_ms": (100 + 50) / 2,
            "observed_dwell_ms": (200 + 340) / 2,
        }
        assert {key: price[key] for key in columns} == {
            "observed_share": 1 / 4,
            "observed_looked": 1 / 2,
            "observed_first_ms": 400,
            "observed_dwell_ms": 100 / 2,
        }
        assert rows["b.png", "corner"]["observed_first_ms"] is None
        assert rows["b.png", "corner"]["observed_dwell_ms"] == 0
    cv2.imwrite(str(pictures / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    done, _ = regions("--data", data, code=2)
    assert "has 9 x 9 pixels, but its fixations are on 40 x 30 pixels" in done.stderr


def test_a_built_in_set_has_pictures_and_fixations_of_its_own(regions, tmp_path):
    from salience.data import loading

    sample, *_ = loading.load("synthetic", None, "val")
    file = tmp_path / "scene.csv"
    file.write_text(HEAD + f"{sample.name},all,0,0,9999,9999\n", encoding="utf-8")
    _, found = regions("--dataset", "synthetic", "--split", "val", images=(), file=file)
    (row,) = rows_of(found).values()
    assert row["share"] == pytest.approx(1, abs=1e-5)
    assert (row["area"], row["times"]) == (1, row["share"])
    assert (row["observed_share"], row["observed_looked"]) == (1, 1)


def test_another_version_gives_differences(regions, pictures, tmp_path, picture):
    (other := tmp_path / "other").mkdir()
    shutil.copy(pictures / "a.jpg", other / "a.jpg")
    cv2.imwrite(str(other / "b.jpg"), picture(50, 35)[::-1])
    _, found = regions("--against", other)
    rows = rows_of(found)
    assert {rows["a.jpg", name]["difference"] for name in ("logo", "price")} == {0}
    logo = rows["b.png", "logo"]
    assert logo["difference"] == pytest.approx(logo["share"] - logo["against_share"])
    assert logo["difference"] != 0
    assert found["pictures"][1]["against"] == {"image": "b.jpg", "width": 35, "height": 50}
    (line,) = found["summary"]
    assert line["difference"]["pictures"] == 2
    assert line["difference"]["difference"] == pytest.approx(logo["difference"] / 2)
    assert line["difference"]["low"] <= line["difference"]["difference"]

    # a picture against another, whose regions are elsewhere
    moved = tmp_path / "moved.csv"
    moved.write_text(HEAD + "b.jpg,logo,0,25,35,25\n", encoding="utf-8")
    done, found = regions("--against", other / "b.jpg", "--against_regions", moved,
                          images=(pictures / "b.png",))  # fmt: skip
    rows = rows_of(found)
    assert rows["b.png", "logo"]["against_share"] == pytest.approx(
        1 - logo["against_share"], abs=1e-6
    )
    assert rows["b.png", "corner"]["difference"] is None
    assert "regions 'corner' are not in the other version" in done.stdout


def test_regions_are_at_the_same_places_of_a_version_of_another_size(regions, pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    image = cv2.imread(str(pictures / "a.jpg"))  # 30 x 40
    for name, size in (("half", (20, 15)), ("longer", (40, 60))):
        cv2.imwrite(str(other / "a.png"), cv2.resize(image, size))
        done, found = regions("--against", other)
        row = rows_of(found)["a.jpg", "logo"]
        assert row["against_area"] == pytest.approx(row["area"] / (1 if name == "half" else 2))
        note = "are scaled to the picture (a.png)" if name == "half" else "differ in aspect"
        assert note in done.stdout


def test_a_region_below_its_limit_fails_with_one_line(regions):
    done, found = regions("--fail_below", "logo=0.99", "corner=0", "price=0.000001", code=1)
    failing = [line for line in done.stdout.splitlines() if line.startswith("failing")]
    assert [(one["image"], one["name"]) for one in found["failing"]] == [
        ("a.jpg", "logo"),
        ("b.png", "logo"),
    ]
    assert len(failing) == 2
    assert "failing: a.jpg: 'logo' gets 0." in failing[0]
    assert failing[0].endswith("of the predicted density, less than 0.99")
    regions("--fail_below", "corner=0", code=0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fail_below", "logo"], "NAME=SHARE"),
        (["--fail_below", "logo=12"], "a share from 0 to 1"),
        (["--fail_below", "lgo=0.1"], "no picture has this region. Did you mean 'logo'?"),
        (["--against", "nowhere"], "No picture or folder at 'nowhere'"),
        (["--against_regions", "x.csv"], "needs --against"),
        (["--regions", "nowhere.csv"], "Cannot read nowhere.csv"),
        (["--dataset", "osie"], "--data is needed: the folder of osie"),
        (["--data", "nowhere"], "The folder data set is not at nowhere"),
    ],
)
def test_bad_input_is_one_line(regions, tmp_path, words, told):
    done, _ = regions(*words, code=2)
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "regions").exists()


def test_regions_of_no_picture_are_told(regions, tmp_path, pictures):
    file = tmp_path / "other.csv"
    file.write_text(HEAD + "z.jpg,logo,0,0,5,5\n", encoding="utf-8")
    done, _ = regions(file=file, code=2)
    assert "names z.jpg, but none of the 2 pictures, such as a.jpg" in done.stderr
    file.write_text(REGIONS + "z.jpg,logo,0,0,5,5\na.jpg,far,99,0,5,5\n", encoding="utf-8")
    done, found = regions(file=file)
    assert "names are not there: left out (z.jpg)" in done.stdout
    assert "outside their picture: they get nothing (a.jpg: far)" in done.stdout
    assert rows_of(found)["a.jpg", "far"]["share"] == 0
    assert rows_of(found)["a.jpg", "far"]["rank"] is None
    # no output replaces its input
    (tmp_path / "regions" / "regions.csv").write_text(REGIONS, encoding="utf-8")
    done, _ = regions(file=tmp_path / "regions" / "regions.csv", code=2)
    assert "would replace" in done.stderr


def test_an_unreadable_picture_is_left_out(regions, pictures):
    (pictures / "b.png").write_bytes(b"no picture")
    done, found = regions(code=1)
    assert "skipped" in done.stderr
    assert [p["image"] for p in found["pictures"]] == ["a.jpg"]
    assert len(found["left_out"]) == 1
