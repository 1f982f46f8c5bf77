"""MIT1003: 1,003 pictures of up to 1024 pixels a side, 15 observers, 3 s each; Judd et al., 2009.

`ALLSTIMULI/*.jpeg`, and in `ALLFIXATIONMAPS/` for each picture `NAME_fixMap.jpg`, its density map,
and `NAME_fixPts.jpg`, its fixations as white pixels, without the first of each observer (one file
lacks the underscore). JPEG blurs white pixels: each pixel above half of white counts as
one fixation. Observers are not recorded. Pixels are counted from 0.

There is no published split: divide by shares or by `--folds`.
"""

import re
from pathlib import Path

from salience.data.parts import FileGroup, by_stem, files_of, find_root, load_parts, offer
from salience.data.plan import BY_SHARES, Plan
from salience.data.points import Read, looks_of_picture, read_files
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.errors import UserError
from salience.system.files import composed

NEEDS_FILES = True
SOURCE = (
    "Get ALLSTIMULI.zip and ALLFIXATIONMAPS.zip from "
    "http://people.csail.mit.edu/tjudd/WherePeopleLook/ and point --data at the folder that holds "
    "ALLSTIMULI/ and ALLFIXATIONMAPS/."
)
SIGMA_PIXELS = 35.0
SIGMA_FROM = "about one degree, the value in general use"
PUBLISHED = {"all": (1_003,)}


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: there are no pictures, or the truth does not match them.
    """
    return load_parts(parts(root), root, split, plan)


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the data set.

    Raises:
        UserError: there are no pictures.
    """
    base = find_root(root, lambda folder: (folder / "ALLSTIMULI").is_dir())
    clashes: list[str] = []
    images = by_stem(base / "ALLSTIMULI", IMAGE_SUFFIXES, clashes) if base else {}
    if base is None or not images:
        raise UserError(f"No pictures in {root / 'ALLSTIMULI'}. {offer(SOURCE)}")
    place = find_root(root, lambda folder: (folder / "ALLFIXATIONMAPS").is_dir()) or base
    truth: dict[str, dict[str, Path]] = {"fixMap": {}, "fixPts": {}}
    bare: dict[tuple[str, str], Path] = {}  # names without the underscore
    for path in files_of(place / "ALLFIXATIONMAPS", IMAGE_SUFFIXES):
        match = re.fullmatch(r"(.+?)(_?)(fixMap|fixPts)", composed(path.stem))
        if not match:
            continue
        key, underscore, kind = match.groups()
        other = truth[kind].get(key) if underscore else bare.get((kind, key))
        if other:
            clashes.append(f"{path} and {other.name} belong to one picture: remove one of them.")
        elif underscore:
            truth[kind][key] = path
        else:
            bare[kind, key] = path
    remarks = [
        f"{path.name} is ignored: {truth[kind][key].name} belongs to the same picture"
        for (kind, key), path in bare.items()
        if key in truth[kind]
    ]
    for (kind, key), path in bare.items():
        truth[kind].setdefault(key, path)
    points = {key: (path,) for key, path in truth["fixPts"].items()}
    return [
        FileGroup(
            "all",
            "",
            base,
            images,
            truth["fixMap"],
            (lambda: read_files(points, looks_of_picture)) if points else Read,
            SIGMA_PIXELS,
            published=PUBLISHED["all"],
            sought="ALLFIXATIONMAPS/*_fixMap.jpg and *_fixPts.jpg",
            clashes=tuple(clashes),
            remarks=tuple(remarks),
            known=(*truth["fixPts"].values(), *bare.values()),
        )
    ]
