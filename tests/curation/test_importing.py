"""What eye trackers' programs export becomes a data set, right to the pixel.

The screen has 100 x 80 pixels. a.png has 60 x 40 of them, in its centre from (20, 20); b.jpg has
50 x 50, from (25, 15). All exports below tell of the same fixations, as far as they can.
"""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from commands.curation.importing import import_recordings
from commands.settings import ImportConfig
from salience.data import loading
from salience.data.plan import Plan
from salience.system.errors import UserError
from salience.system.terminal import counted

ALL = Plan(val=0, test=0)
SCREEN = "100x80"
# picture, observer: x, y, and duration in ms of each fixation
TRUTH = {
    ("a.png", "ann"): [(10, 5, 200), (30.5, 20, 180), (-5, 3, 90)],
    ("a.png", "bob"): [(40, 10, 300)],
    ("b.jpg", "ann"): [(12, 13, 150)],
}
# by picture and observer, where an export tells when the picture appeared
TIMES = {("a.png", "ann"): [4, 250, 480], ("a.png", "bob"): [10], ("b.jpg", "ann"): [0]}

EYELINK = """\
RECORDING_SESSION_LABEL\tTRIAL_INDEX\timage\tCURRENT_FIX_START\tCURRENT_FIX_DURATION\t\
CURRENT_FIX_X\tCURRENT_FIX_Y
ann\t1\ta.png\t4\t200\t30\t25
ann\t1\ta.png\t250\t180\t50,5\t40
ann\t1\ta.png\t480\t90\t15\t23
ann\t1\ta.png\t600\t.\t.\t.
ann\t2\tb.jpg\t0\t150\t37\t28
ann\t3\tcross.png\t5\t150\t50\t40
bob\t1\ta.png\t10\t300\t60\t30
"""
# fixation 1 of ann began on the screen before; timestamps are microseconds, as their steps tell
TOBII = """\
Recording timestamp\tParticipant name\tRecording name\tEvent\tValidity left\tValidity right\t\
Eye movement type\tGaze event duration\tEye movement type index\tFixation point X\t\
Fixation point Y\tPresented Stimulus name
1000000\tann\tR1\tRecordingStart\t\t\t\t\t\t\t\t
1004000\tann\tR1\t\tValid\tValid\tFixation\t100\t1\t50\t40\t
1008000\tann\tR1\tImageStimulusStart\t\t\t\t\t\t\t\ta
1008000\tann\tR1\t\tValid\tValid\tFixation\t100\t1\t50\t40\ta
1010000\tann\tR1\t\tValid\tValid\tSaccade\t30\t1\t\t\ta
1012000\tann\tR1\t\tValid\tInvalid\tFixation\t200\t2\t30\t25\ta
1016000\tann\tR1\t\tValid\tValid\tFixation\t200\t2\t30\t25\ta
1258000\tann\tR1\t\tValid\tValid\tFixation\t180\t3\t50,5\t40\ta
1300000\tann\tR1\t\tInvalid\tInvalid\tFixation\t60\t4\t52\t41\ta
1488000\tann\tR1\t\tValid\tValid\tFixation\t90\t5\t15\t23\ta
1600000\tann\tR1\t\tInvalid\tInvalid\tEyesNotFound\t90\t1\t\t\ta
2000000\tann\tR1\t\tValid\tValid\tFixation\t150\t6\t37\t28\tb
3000000\tbob\tR2\tImageStimulusStart\t\t\t\t\t\t\t\ta
3010000\tbob\tR2\t\tValid\tValid\tFixation\t300\t1\t60\t30\ta
"""
GAZEPOINT = {
    "ann": """\
MEDIA_ID,MEDIA_NAME,CNT,TIME(2026/11/02 10:00:00.000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,
0,a.png,1,0.10000,0.99000,0.99000,0.00000,0.10000,1,0,
0,a.png,2,0.20000,0.30500,0.31875,0.10400,0.10000,2,1,
0,a.png,3,0.30000,0.30500,0.31875,0.10400,0.20000,2,1,
0,a.png,4,0.50000,0.51000,0.50625,0.35000,0.18000,3,1,
0,a.png,5,0.60000,0.15500,0.29375,0.58000,0.09000,4,1,
1,b.jpg,6,0.70000,0.37500,0.35625,0.70000,0.15000,5,1,
""",
    "bob": """\
MEDIA_ID,MEDIA_NAME,CNT,TIME(2026/11/02 10:00:00.000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,
0,a.png,1,0.01000,0.60500,0.38125,0.01000,0.30000,1,1,
""",
}
PUPIL_HEAD = (
    "world_timestamp,world_index,fixation_id,start_timestamp,duration,dispersion,norm_pos_x,"
    "norm_pos_y,x_scaled,y_scaled,on_surf\n"
)
# y counts from the bottom; the two rows of fixation 1 have the mean (10, 5)
PUPIL = {
    "ann/000/exports/000/surfaces/fixations_on_surface_a.csv": """\
11.00,1,1,11.000,200.0,1.0,0.165,0.8625,0,0,True
11.03,2,1,11.000,200.0,1.0,0.185,0.8625,0,0,True
11.06,3,1,11.000,200.0,1.0,0.900,0.9000,0,0,False
11.25,4,2,11.246,180.0,1.0,0.51666667,0.4875,0,0,True
11.48,5,3,11.476,90.0,1.0,-0.075,0.9125,0,0,True
""",
    "ann/000/exports/000/surfaces/fixations_on_surface_b_1552524777.3223464.csv": """\
20.00,1,9,20.000,150.0,1.0,0.25,0.73,0,0,True
""",
    "bob/000/exports/000/surfaces/fixations_on_surface_a.csv": """\
30.00,1,1,30.000,300.0,1.0,0.675,0.7375,0,0,True
""",
}
SMI = """\
## [BeGaze]
## Converted from:\tC:\\test.idf
## Number of Samples:\t11
Trial\tStimulus\tParticipant\tCategory\tEye L/R\tEvent Start Trial Time [ms]\t\
Event Duration [ms]\tFixation Position X [px]\tFixation Position Y [px]
1\ta.png\tann\tFixation\tRight\t4.0\t200.0\t30.0\t25.0
1\ta.png\tann\tFixation\tLeft\t5.0\t199.0\t33.0\t26.0
1\ta.png\tann\tSaccade\tRight\t204.0\t40.0\t-\t-
1\ta.png\tann\tFixation\tRight\t250.0\t180.0\t50.5\t40.0
1\ta.png\tann\tFixation\tRight\t480.0\t90.0\t15.0\t23.0
1\ta.png\tann\tFixation\tRight\t700.0\t90.0\t-\t-
2\tb.jpg\tann\tFixation\tRight\t0.0\t150.0\t37.0\t28.0
1\ta.png\tbob\tFixation\tLeft\t10.0\t300.0\t60.0\t30.0
"""
# microseconds of the recording's clock
SMI_EVENTS = {
    "ann": """\
[iView]
Subject:\tann
Table Header for Fixations:
Event Type\tTrial\tNumber\tStart\tEnd\tDuration\tLocation X\tLocation Y\t\
Dispersion X\tDispersion Y\tPlane
Table Header for Saccades:
Event Type\tTrial\tNumber\tStart\tEnd\tDuration\tStart Loc.X\tStart Loc.Y\tEnd Loc.X\tEnd Loc.Y
Table Header for User Events:
Event Type\tTrial\tNumber\tStart\tDescription

Fixation L\t1\t1\t3000000\t3090000\t90000\t50.00\t40.00\t1\t1\t-1
UserEvent\t1\t1\t3100000\t# Message: a.png
Fixation L\t1\t2\t3104000\t3304000\t200000\t30.00\t25.00\t1\t1\t-1
Fixation R\t1\t2\t3104000\t3304000\t200000\t31.00\t25.00\t1\t1\t-1
Saccade L\t1\t1\t3304000\t3350000\t46000\t30.00\t25.00\t50.50\t40.00
Fixation L\t1\t3\t3350000\t3530000\t180000\t50.50\t40.00\t1\t1\t-1
Fixation L\t1\t4\t3580000\t3670000\t90000\t15.00\t23.00\t1\t1\t-1
UserEvent\t1\t2\t4000000\t# Message: shown\\b.jpg
UserEvent\t1\t3\t4000000\t# Message: key pressed
Fixation L\t1\t5\t4000000\t4150000\t150000\t37.00\t28.00\t1\t1\t-1
""",
    "bob": """\
Subject:\tbob
Event Type\tTrial\tNumber\tStart\tEnd\tDuration\tLocation X\tLocation Y
UserEvent\t1\t1\t1000000\t# Message: a.png
Fixation R\t1\t1\t1010000\t1310000\t300000\t60\t30
""",
}
CSV = """\
Shown;FixX;FixY;Who;t;duration;order
a.png;30,5;20;ann;250;180;2
a.png;10;5;ann;4;200;1
a.png;-5;3;ann;480;90;3
b.jpg;12;13;ann;0;150;1
a.png;40;10;bob;10;300;1
"""
SCREEN_FLAGS = {"screen": SCREEN}
# files, settings, what is left out, and whether times are told
EXPORTS = {
    "eyelink": (
        {"report.txt": EYELINK},
        SCREEN_FLAGS,
        {"without coordinates": 1, "on something that is no picture of --images": 1},
        True,
    ),
    "tobii": (
        {"export.tsv": TOBII.encode("utf-16")},
        SCREEN_FLAGS,
        {
            "without a fixation": 5,
            "without a picture": 1,
            "of a fixation that began before its picture": 1,
            "of a fixation that is counted already": 1,
            "of which no eye is valid": 1,
        },
        True,
    ),
    "pupil": (
        {name: PUPIL_HEAD + text for name, text in PUPIL.items()},
        {},
        {"of a fixation that is counted already": 1, "whose on_surf is False": 1},
        False,
    ),
    "gazepoint": (
        {f"{name}_all_gaze.csv": text for name, text in GAZEPOINT.items()},
        SCREEN_FLAGS,
        {"of a fixation that is counted already": 1, "whose FPOGV is 0": 1},
        False,
    ),
    "smi": (
        {"events.txt": SMI},
        SCREEN_FLAGS,
        {"without a fixation": 1, "without coordinates": 1, "of the other eye": 1},
        True,
    ),
    "smi-events": (
        {f"{name}_Events.txt": text for name, text in SMI_EVENTS.items()},
        SCREEN_FLAGS,
        {"without a fixation": 5, "without a picture": 1, "of the other eye": 1},
        True,
    ),
    "csv": ({"own.csv": CSV}, {"columns": "image=Shown,x=FixX,y=FixY,subject=Who"}, {}, True),
}


@pytest.fixture
def shown(tmp_path, picture):
    """Return the folder of the pictures that were shown."""
    folder = tmp_path / "shown"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture(40, 60))
    cv2.imwrite(str(folder / "b.jpg"), picture(50, 50))
    return folder


@pytest.fixture
def made(tmp_path, shown):
    """Return a function that imports files and returns the folder and what was told."""

    def run(program, files, **settings):
        paths = []
        for name, text in files.items():
            path = tmp_path / "exports" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            paths.append(path)
        said = []
        given = {"images": shown, "output": tmp_path / "set", **settings}
        import_recordings(ImportConfig(tuple(paths), program, **given), said.append)
        return tmp_path / "set", said

    return run


def table(folder):
    with (folder / "fixations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_becomes_a_set_with_each_fixation_at_its_pixel(made, name):
    files, settings, left_out, has_times = EXPORTS[name]
    folder, said = made(name.partition("-")[0], files, **settings)
    names = {row["subject"] for row in table(folder)}
    short = {who: "ann" if "ann" in who else "bob" for who in names}  # some are called by folders
    found = {}
    for row in table(folder):
        key = row["image"], short[row["subject"]]
        found.setdefault(key, []).append(
            (float(row["x"]), float(row["y"]), float(row["duration"]), float(row["t"]))
        )
        assert int(row["order"]) == len(found[key])
    assert {key: [place[:3] for place in places] for key, places in found.items()} == {
        key: [pytest.approx(place, abs=1e-3) for place in places] for key, places in TRUTH.items()
    }
    times = {key: [place[3] for place in places] for key, places in found.items()}
    if has_times:
        assert times == {key: pytest.approx(own, abs=1e-3) for key, own in TIMES.items()}
    else:  # they count from the first row
        for own in times.values():
            assert own[0] == pytest.approx(104 if name == "gazepoint" and len(own) > 1 else 0)
    report = json.loads((folder / "import.json").read_text())
    assert report["left_out"] == left_out
    assert report["rows"] == report["fixations"] + sum(left_out.values())
    assert (report["fixations"], report["outside"]) == (5, 1)
    assert any("1 of 5 fixations lie outside their picture" in line for line in said)
    assert any(line.startswith("observer") and "2 observers" in line for line in said)
    for reason, count in left_out.items():
        assert f"left out: {counted(count, 'row')} {reason}" in said


@pytest.mark.parametrize("name", EXPORTS)
def test_the_set_loads_and_passes_its_check_and_is_scored(made, cli, name, tmp_path, rng):
    files, settings, *_ = EXPORTS[name]
    folder, _ = made(name.partition("-")[0], files, **settings)
    assert cv2.imread(str(folder / "check.png")) is not None
    samples = {s.name: s for s in loading.load("folder", folder, "train", ALL)}
    assert samples["a.png"].fixations.tolist() == [[10, 5], [30.5, 20], [40, 10]]
    assert samples["a.png"].durations.tolist() == [200, 180, 300]
    assert samples["a.png"].subjects.tolist() == [0, 0, 1]
    assert samples["a.png"].outside == 1
    assert loading.remarks("folder", folder) == []
    printed = cli("data", "check", "--dataset", "folder", "--data", folder).stdout
    assert "no problems" in printed and "not read" not in printed
    maps = tmp_path / "maps"
    maps.mkdir()
    for sample in samples.values():
        np.save(maps / f"{Path(sample.name).stem}.npy", rng.random(sample.shape))
    cli("evaluate", "--dataset", "folder", "--data", folder, "--maps", maps, "--split", "all",
        "--metrics", "nss,auc_judd", "--output", "eval", "--human", "False")  # fmt: skip
    with (tmp_path / "eval/per_image.csv").open() as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {"a.png", "b.jpg"}


def test_the_command_prints_what_it_read(cli, tmp_path, shown):
    (tmp_path / "report.txt").write_text(EYELINK)
    printed = cli("data", "import", "--format", "eyelink", "report.txt", "--images", shown,
                  "--screen", SCREEN, "--output", "set").stdout  # fmt: skip
    assert "7 rows of 1 file: 5 fixations on pictures" in printed
    assert "no picture of --images: cross.png (1)" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["ann", "2", "4", "1", "165"] in lines
    assert ["bob", "1", "1", "0", "300"] in lines
    assert ["2", "observers", "2", "5", "1", "180"] in lines
    assert printed.endswith("To use it: --dataset folder --data set\n")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"screen": SCREEN}, [10, 5]),
        ({"screen": SCREEN, "placed": "centre"}, [10, 5]),
        ({"placed": "20,20,60,40"}, [10, 5]),
        # pixel (30, 25) of the screen is the left of two for each of the picture
        ({"placed": "20,20,30,20"}, [20.5, 10.5]),
        ({"screen": SCREEN, "placed": "0,0,60,40"}, [30, 25]),
    ],
)
def test_pictures_lie_where_they_are_placed(made, settings, expected):
    export = EYELINK.splitlines()[0] + "\nann\t1\ta.png\t4\t200\t30\t25\n"
    folder, _ = made("eyelink", {"report.txt": export}, **settings)
    [row] = table(folder)
    assert [float(row["x"]), float(row["y"])] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 30), ({"screen": SCREEN}, 30), ({"screen": SCREEN, "placed": "centre"}, 10)],
)
def test_a_table_counts_in_the_picture_unless_pictures_are_placed(made, settings, expected):
    folder, _ = made("csv", {"own.csv": "image,x,y,subject\na,30,25,ann\n"}, **settings)
    [row] = table(folder)
    assert (float(row["x"]), row["t"], row["duration"]) == (expected, "", "")


def test_tobii_tells_itself_where_pictures_were(made):
    head, *rows = TOBII.splitlines()
    head += "\tPresented Media width\tPresented Media height\tPresented Media position X (DACSpx)"
    head += "\tPresented Media position Y (DACSpx)"
    lines = [head, *(f"{row}\t30\t20\t20\t20" for row in rows if not row.endswith("\tb"))]
    folder, _ = made("tobii", {"export.tsv": "\n".join(lines)})
    first = table(folder)[0]
    assert [float(first[name]) for name in ("x", "y", "duration")] == [20.5, 10.5, 200]


def test_tobii_shares_of_the_picture_need_no_screen(made):
    text = TOBII.replace("\t30\t25\t", "\t0,175\t0,1375\t")
    for axis in "XY":
        text = text.replace(f"Fixation point {axis}", f"Fixation point {axis} [MCS norm]")
    text = text.replace("Recording timestamp", "Recording timestamp [μs]")
    folder, said = made("tobii", {"export.tsv": text})
    row = table(folder)[0]
    assert [float(row[c]) for c in ("x", "y", "t")] == pytest.approx([10, 5, 4], abs=1e-3)
    assert not any("is read as" in line for line in said)


@pytest.mark.parametrize(
    ("eye", "expected"),
    [("auto", [10, 40]), ("left", [13, 40]), ("right", [10]), ("both", [10, 13, 40])],
)
def test_an_eye_is_chosen(made, eye, expected):
    rows = SMI.splitlines()
    short = [*rows[:6], rows[-1]]
    folder, _ = made("smi", {"events.txt": "\n".join(short)}, screen=SCREEN, eye=eye)
    assert [float(row["x"]) for row in table(folder)] == expected


def test_one_degree_becomes_the_gaussian_of_each_picture(made):
    folder, said = made(
        "eyelink", {"report.txt": EYELINK}, screen=SCREEN, distance_cm=57.0, screen_cm="25x20"
    )
    degree = 4 * 2 * 57 * math.tan(math.radians(0.5))  # 4 pixels a centimetre
    [a, _] = loading.load("folder", folder, "train", ALL)
    assert a.sigma_pixels == pytest.approx(degree, abs=1e-3)
    assert any(line.startswith("one degree is 3.979 pixels") for line in said)
    flags = f"--distance_cm 57 --screen_cm 25x20 --screen {SCREEN}"
    assert loading.sigma_origin("folder", folder) == f"dataset.json: one degree, by {flags}"


def test_a_picture_shown_smaller_has_more_pixels_a_degree(made):
    export = EYELINK.splitlines()[0] + "\nann\t1\ta.png\t4\t200\t30\t25\n"
    folder, _ = made("eyelink", {"report.txt": export}, placed="20,20,30,20", pixels_per_degree=3.0)
    [a] = loading.load("folder", folder, "train", ALL)
    assert a.sigma_pixels == 6


HEAD = EYELINK.splitlines()[0]


BAD_NUMBER = f"{HEAD}\nann\t1\ta.png\t4\t200\tleft\t25\n"
CUT_OFF = f"{HEAD}\nann\t1\ta.png\t4\t200\t3\t5\nann\t1\ta.pn"
NOT_SHOWN = EYELINK.replace("a.png", "c.png").replace("b.jpg", "d")
ANGLE = {"screen": SCREEN, "distance_cm": 60.0, "screen_cm": "25x40"}
# program, export, settings and what is told
UNUSABLE = [
    ("eyelink", TOBII, {}, "names the columns 'current_fix_x' .* 'Recording timestamp', 'Partic"),
    ("eyelink", EYELINK.replace("\timage", "\tSTIM"), {}, "pictures .*'STIM'.* --columns image=N"),
    ("eyelink", EYELINK, {"columns": "image=pic"}, r"no column 'pic' .*, but 'RECORDING_SESSION_"),
    ("eyelink", BAD_NUMBER, SCREEN_FLAGS, r"t\.txt, line 2: 'CURRENT_FIX_X' is 'left', which is n"),
    ("eyelink", CUT_OFF, SCREEN_FLAGS, r"t\.txt, line 3: 3 values for 7 columns: the file may be"),
    ("eyelink", EYELINK, {}, "--screen is needed, such as 1920x1080, or --placed"),
    ("eyelink", EYELINK, {"screen": "50x40"}, r"A picture of 60 x 40 .* --placed X,Y,W,H"),
    ("eyelink", EYELINK, {"screen": "50"}, "--screen 50: width and height in pixels"),
    ("eyelink", EYELINK, {"placed": "left"}, "--placed left: 'centre', or X,Y,W,H"),
    ("eyelink", EYELINK, {"placed": "5,5,0,9"}, "--placed 5,5,0,9: 'centre', or X,Y,W,H"),
    ("eyelink", EYELINK, {"placed": "500,500,60,40"}, r"None of 5 .* first: \(-470\.0, -475\.0\)"),
    ("eyelink", NOT_SHOWN, SCREEN_FLAGS, r"No fixation on .* name c\.png \(4\), d \(1\), cross"),
    ("eyelink", f"{HEAD}\n", SCREEN_FLAGS, "No fixation on a picture of .*: no rows"),
    ("eyelink", b"\xff\xfe\x00", SCREEN_FLAGS, "no text in UTF-8 or UTF-16"),
    ("eyelink", HEAD.encode() + b"\nann\t1\t\xe4.png", SCREEN_FLAGS, "no text in UTF-8"),
    ("gazepoint", GAZEPOINT["ann"], {}, "has shares of the screen: --screen is needed"),
    ("pupil", PUPIL_HEAD, {}, "does not name its picture: call it fixations_on_surface_PIC"),
    ("eyelink", EYELINK, {"distance_cm": 60.0}, "together; add --screen_cm and --screen"),
    ("eyelink", EYELINK, ANGLE, r"4\.0 pixels per centimetre of width but 2\.0 of height"),
]


@pytest.mark.parametrize(("program", "text", "settings", "message"), UNUSABLE)
def test_an_export_that_cannot_be_used_is_told_in_a_line(made, program, text, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        made(program, {"report.txt": text}, **settings)
    assert "\n" not in str(caught.value)


def test_both_files_of_a_recording_are_refused(made):
    files = {f"ann_{kind}.csv": GAZEPOINT["ann"] for kind in ("fixations", "all_gaze")}
    with pytest.raises(UserError, match=r"ann_all_gaze.csv has .* that .*ann_fixations.csv has"):
        made("gazepoint", files, **SCREEN_FLAGS)


def test_rows_of_fixations_alone_tell_the_unit_of_their_times(made):
    head, *rows = TOBII.splitlines()
    rows = [row for row in rows if "\tFixation\t" not in row or "\tValid\tValid" in row]
    rows = [re.sub(r"^(\d+)000\t", r"\1\t", row) for row in rows]  # milliseconds
    folder, said = made("tobii", {"export.tsv": "\n".join([head, *rows])}, **SCREEN_FLAGS)
    assert "read as milliseconds, by the durations of its fixations" in "".join(said)
    times = [float(row["t"]) for row in table(folder) if row["subject"] == "ann"]
    assert times[:3] == [8, 250, 480]  # the first valid row of a fixation is its start


def test_surfaces_are_not_placed_on_a_screen(made):
    files = {name: PUPIL_HEAD + text for name, text in PUPIL.items()}
    with pytest.raises(UserError, match=r"--placed centre: .* are the pictures' own"):
        made("pupil", files, placed="centre", screen=SCREEN)


def test_nothing_is_written_where_the_folder_exists_or_the_import_fails(made, tmp_path, shown):
    with pytest.raises(UserError):
        made("eyelink", {"report.txt": EYELINK})
    assert not (tmp_path / "set").exists()
    made("eyelink", {"report.txt": EYELINK}, screen=SCREEN)
    with pytest.raises(UserError, match="set exists"):
        made("eyelink", {"report.txt": EYELINK}, screen=SCREEN)
    with pytest.raises(UserError, match="--images is required"):
        import_recordings(ImportConfig((shown,), "csv", output=tmp_path / "other"))
    with pytest.raises(UserError, match="is named twice"):
        import_recordings(
            ImportConfig((shown, shown), "csv", images=shown, output=tmp_path / "other")
        )
    with pytest.raises(UserError, match="is not a file"):
        import_recordings(ImportConfig((shown,), "csv", images=shown, output=tmp_path / "other"))


def test_pictures_that_nobody_looked_at_are_told_and_left_out(made, shown, picture):
    cv2.imwrite(str(shown / "unseen.png"), picture(20, 20))
    folder, said = made("eyelink", {"report.txt": EYELINK}, screen=SCREEN)
    assert "left out: 1 picture without a fixation (unseen.png)" in said
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["a.png", "b.jpg"]


def test_pictures_that_cannot_be_used_are_told_in_a_line(made, shown, tmp_path):
    def refused(message, **settings):
        with pytest.raises(UserError, match=message):
            made("eyelink", {"report.txt": EYELINK}, screen=SCREEN, **settings)

    refused("--images .*nowhere: no such folder", images=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("--images .*empty has no pictures", images=tmp_path / "empty")
    (shown / "b.jpg").write_bytes(b"no picture")
    refused(r"b\.jpg cannot be read as a picture")
    shutil.copy(shown / "a.png", shown / "a.jpg")
    refused(r"a\.png and a\.jpg have one name")
