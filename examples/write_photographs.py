"""Write photographs that scikit-image brings along, as JPEG files, to try `main.py test` on.

    python examples/write_photographs.py FOLDER

Astronaut and rocket are NASA's (public domain), the cat and the coffee CC0.
"""

import sys
from pathlib import Path

import skimage.data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from files import make_folder
from pictures import write_image

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def main(folder: Path) -> None:
    """Write the photographs."""
    make_folder(folder)
    for name in NAMES:
        rgb = getattr(skimage.data, name)()
        write_image(folder / f"{name}.jpg", rgb[..., ::-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
