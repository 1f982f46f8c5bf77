"""MIT300: 300 pictures of the MIT/Tuebingen benchmark, without truth; Judd et al., 2012.

`BenchmarkIMAGES/*.jpg`, or the folder itself. Sub-folders, such as the sample maps in `SM/`, are no
pictures of the benchmark.
"""

from pathlib import Path

from salience.data.parts import FileGroup, by_stem, find_root, load_parts, offer, samples
from salience.data.plan import BY_SHARES, Plan
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.errors import UserError

NEEDS_FILES = True
SOURCE = (
    "Get BenchmarkIMAGES.zip from http://saliency.mit.edu/results_mit300.html and point --data at "
    "the folder that holds BenchmarkIMAGES/."
)
SIGMA_PIXELS = 35.0
SIGMA_FROM = "about one degree, the value in general use"
PUBLISHED = {"all": (300,)}
WITHOUT_TRUTH = ("all",)


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the pictures as the test split; there is no other.

    Raises:
        UserError: no pictures, or another split is asked for.
    """
    return load_parts(parts(root), root, split, plan)


def submission_pictures(root: Path) -> list[Sample]:
    """Return all pictures, whose truth the benchmark does not publish."""
    return samples(parts(root)[0])


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the data set.

    Raises:
        UserError: there are no pictures.
    """
    base = find_root(root, lambda folder: (folder / "BenchmarkIMAGES").is_dir())
    folder = base / "BenchmarkIMAGES" if base else root
    clashes: list[str] = []
    images = by_stem(folder, IMAGE_SUFFIXES, clashes)
    if not images:
        raise UserError(f"No pictures in {folder}. {offer(SOURCE)}")
    return [
        FileGroup(
            "all",
            "test",
            folder,
            images,
            sigma_pixels=SIGMA_PIXELS,
            published=PUBLISHED["all"],
            clashes=tuple(clashes),
            known=(folder / "SM",),
        )
    ]
