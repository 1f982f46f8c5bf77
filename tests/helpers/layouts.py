"""Miniature copies of the public data sets' layouts, with fixations known to the pixel.

Each function fills a folder as a download does, and returns what must come out of it: by picture
name, the fixations as 0-based (x, y).
"""

import json
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat

from salience.pictures.fixations import density_map

SHAPE = (48, 64)  # rows and columns; a tenth of SALICON's
CATEGORIES = ("Action", "Art", "Pattern")
Points = dict[str, np.ndarray]


def struct(**fields):
    """Return a MATLAB struct of one element."""
    record = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        record[name][0, 0] = value
    return record


def cells(values, columns=False):
    """Return a column, or a row, of MATLAB cells."""
    column = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        column[i, 0] = value
    return column.T if columns else column


def picture(path: Path, shape=SHAPE, seed=0) -> None:
    """Write a smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 3))


def points_of(index: int, shape=SHAPE) -> np.ndarray:
    """Return the fixations of a picture: all corners' pixels, and one of its own."""
    rows, cols = shape
    own = [3 + index % (cols - 6), 2 + index % (rows - 4)]
    corners = [[0, 0], [cols - 1, 0], [0, rows - 1], [cols - 1, rows - 1]]
    return np.array([own, *corners], np.float32)


def mask_of(points: np.ndarray, shape=SHAPE, value=1) -> np.ndarray:
    """Return a picture-sized mask of points."""
    mask = np.zeros(shape, np.uint8)
    columns, rows = points.astype(int).T
    mask[rows, columns] = value
    return mask


def density(path: Path, points: np.ndarray, shape=SHAPE, sigma=4.0) -> None:
    """Write a density map as a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.round(density_map(points, shape, sigma) * 255).astype(np.uint8)
    cv2.imwrite(str(path), grey)


def salicon(
    root: Path,
    form: str | None = "mat2015",
    counts: dict[str, int] | None = None,
    maps: bool = True,
    flat: bool = False,
) -> dict[str, Points]:
    """Write SALICON's layout; return each split's fixations by picture name.

    Args:
        root: the folder.
        form: of the fixations: mat2015, mat2017, png, json; None for maps alone.
        counts: pictures by split.
        maps: whether density maps are there.
        flat: whether all pictures lie in images/ itself.
    """
    known: dict[str, Points] = {}
    for part, (split, count) in enumerate((counts or {"train": 4, "val": 2, "test": 2}).items()):
        known[split] = {}
        for i in range(count):
            name = f"COCO_{split}2014_{100 * part + i + 1:012d}"
            picture(root / "images" / ("" if flat else split) / f"{name}.jpg", seed=10 * part + i)
            if split == "test":
                continue
            known[split][f"{name}.jpg"] = points = points_of(i)
            if maps:
                density(root / "maps" / split / f"{name}.png", points)
            if form in ("mat2015", "mat2017"):
                path = root / "fixations" / split / f"{name}.mat"
                path.parent.mkdir(parents=True, exist_ok=True)
                savemat(path, salicon_mat(name, points, columns=form == "mat2017"))
            elif form == "png":
                path = root / "fixations" / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), mask_of(points, value=255))
        if form == "json" and known[split]:
            path = root / f"fixations_{split}2014.json"
            path.write_text(json.dumps(salicon_json(known[split])))
    return known


def salicon_mat(name: str, points: np.ndarray, columns: bool) -> dict:
    """Return a picture's record: the first observer has one point, a third none at all."""
    looks = [points[:1] + 1, points[1:] + 1, np.zeros((0, 0))]
    gaze = np.empty((len(looks), 1), dtype=[(n, object) for n in ("location", "timestamp",
                                                                  "fixations")])  # fmt: skip
    for i, look in enumerate(looks):
        mouse = np.array([[5.5, 6.5], [7.0, 8.0]])
        gaze[i, 0] = (mouse, np.array([[0], [16]]), look)
    shape = np.array([SHAPE], np.uint16)
    return {"image": name, "resolution": shape, "gaze": gaze.T if columns else gaze}


def salicon_json(known: Points) -> dict:
    """Return the API's JSON: [row, column] from one; two workers a picture."""
    images, annotations = [], []
    for i, (name, points) in enumerate(known.items()):
        images.append({"id": 7 * i + 1, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]})
        for worker, look in ((70, points[:1]), (31, points[1:])):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": 7 * i + 1,
                    "worker_id": worker,
                    "fixations": (look[:, ::-1].astype(int) + 1).tolist(),
                }
            )
    return {"type": "fixations", "images": images, "annotations": annotations}


def cat2000(
    root: Path, count: int = 10, variable: str = "fixLocs", test: int = 2, shape=SHAPE
) -> Points:
    """Write CAT2000's layout; return the fixations of its training set by Category/picture."""
    known = {}
    train = root / "trainSet"
    for c, category in enumerate(CATEGORIES):
        for i in range(count):
            name = f"{category}/{i + 1:03d}"
            known[f"{name}.jpg"] = points = points_of(10 * c + i, shape)
            picture(train / "Stimuli" / f"{name}.jpg", shape, seed=10 * c + i)
            output = train / "Stimuli" / category / "Output" / f"{i + 1:03d}_SaliencyMap.jpg"
            density(output, points, shape)
            density(train / "FIXATIONMAPS" / f"{name}.jpg", points, shape)
            path = train / "FIXATIONLOCS" / f"{name}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {variable: mask_of(points, shape)})
        for i in range(test):
            picture(root / "testSet" / "Stimuli" / category / f"{i + 131:03d}.jpg", shape, seed=i)
    return known


def osie(root: Path, count: int = 10) -> Points:
    """Write OSIE's layout: two observers, of whom the second has fixations between pixels."""
    known, records = {}, []
    for i in range(count):
        name = f"{1001 + i}.jpg"
        picture(root / "data" / "stimuli" / name, seed=i)
        first, second = np.array([[0.0, 0], [39, 29]]), np.array([[i + 0.5, 6.25]])
        subjects = [
            struct(fix_x=look[:, :1].T + 1, fix_y=look[:, 1:].T + 1, fix_duration=look[:, :1].T)
            for look in (first, second)
        ]
        records.append(struct(img=name, subjects=cells(subjects)))
        known[name] = np.concatenate([first, second])
    (root / "data" / "eye").mkdir()
    savemat(root / "data" / "eye" / "fixations.mat", {"fixations": cells(records)})
    return known


def mit1003(root: Path, count: int = 12) -> Points:
    """Write MIT1003's layout, pictures of several sizes and one odd name among them."""
    known = {}
    for i in range(count):
        shape = (40 + i, 64) if i % 2 else (64, 40 + i)
        stem = f"i{1000 + i}"
        known[f"{stem}.jpeg"] = points = points_of(i, shape)
        picture(root / "ALLSTIMULI" / f"{stem}.jpeg", shape, seed=i)
        density(root / "ALLFIXATIONMAPS" / f"{stem}_fixMap.jpg", points, shape)
        odd = "fixPts.jpg" if i == 3 else "_fixPts.jpg"
        mask = mask_of(points, shape, 255)
        cv2.imwrite(str(root / "ALLFIXATIONMAPS" / f"{stem}{odd}"), mask)
    return known


def mit300(root: Path, count: int = 3) -> list[str]:
    """Write MIT300's layout: pictures alone; return their names."""
    names = [f"i{i + 1}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        picture(root / "BenchmarkIMAGES" / name, (40 + i, 64), seed=i)
    return names


def toronto(root: Path, count: int = 10, twins: tuple[int, ...] = ()) -> Points:
    """Write Toronto's layout; the pictures of `twins`, counted from one, are the same file."""
    known = {}
    folder = root / "eyetrackingdata" / "fixdens"
    for i in range(count):
        known[f"{i + 1}.jpg"] = points_of(i)
        seed = min(twins) if i + 1 in twins else i + 1
        picture(folder / "Original Image Set" / f"{i + 1}.jpg", seed=seed)
    masks = [mask_of(points).astype(np.float64) for points in known.values()]
    savemat(folder / "origfixdata.mat", {"white": cells(masks, columns=True)})
    return known


def rgb_of(index: int, shape=SHAPE) -> np.ndarray:
    """Return a picture of one colour a quarter, RGB uint8 with 0 and 255 in every channel."""
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[: shape[0] // 2] = (255, 128, index)
    rgb[:, : shape[1] // 2, 2] = 255
    return rgb


def npy(root: Path, form: str = "uint8", count: int = 10, folders: bool = False) -> np.ndarray:
    """Write arrays as notebooks prepare them; return the pictures, RGB uint8 [n, rows, cols, 3].

    Args:
        root: the folder.
        form: of the pictures: uint8, unit (0 to 1), signed (-1 to 1), imagenet (normalised), or
            chw (channels first).
        count: of pictures.
        folders: one file a picture instead of one for all.
    """
    rgb = np.stack([rgb_of(i) for i in range(count)])
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    stored = {
        "uint8": rgb,
        "unit": (rgb / 255).astype(np.float32),
        "signed": (rgb / 127.5 - 1).astype(np.float32),
        "imagenet": ((rgb / 255 - mean) / deviation).astype(np.float32),
        "chw": rgb.transpose(0, 3, 1, 2),
    }[form]
    maps = np.stack([density_map(points_of(i), SHAPE, 4.0) for i in range(count)])[..., None]
    root.mkdir(parents=True, exist_ok=True)
    if not folders:
        np.save(root / "images.npy", stored)
        np.save(root / "maps.npy", maps)
        return rgb
    for kind, values in (("images", stored), ("maps", maps)):
        (root / kind).mkdir(exist_ok=True)
        for i, value in enumerate(values):
            np.save(root / kind / f"p{i:02d}.npy", value)
    return rgb
