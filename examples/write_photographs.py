"""Write example photographs of scikit-image as JPEG files, for trying `main.py test`.

    python examples/write_photographs.py FOLDER

Astronaut and rocket are by NASA (public domain), the cat and the coffee are CC0.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commands.demo.view import photographs
from salience.pictures.picture_files import read_image, write_image
from salience.system.files import make_folder


def main(folder: Path) -> None:
    """Write the photographs."""
    make_folder(folder)
    for path in photographs():
        write_image(folder / f"{path.stem}.jpg", read_image(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
