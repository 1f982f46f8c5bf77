"""Write the synthetic test scenes as PNG files: pictures to try `main.py test` on.

python examples/write_pictures.py FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from files import make_folder
from pictures import sample_image, write_image


def main(folder: Path, count: int = 8) -> None:
    """Write the first scenes of the synthetic test split."""
    make_folder(folder)
    for sample in datasets.load("synthetic", None, "test")[:count]:
        write_image(folder / sample.name, sample_image(sample))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
