"""Draw the picture at the top of the README: photographs and the maps of the included network.

    python examples/draw_predictions.py docs/pictures/predictions.jpg

The photographs are those of `write_photographs.py`.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commands.demo.view import photographs
from model import load_model, predict
from salience.networks import weight_files
from salience.pictures.marks import draw_peaks, peaks, side_by_side
from salience.pictures.picture_files import overlay, read_image, write_image

HEIGHT = 240  # of each photograph, pixels


def main(file: Path) -> None:
    """Predict the photographs and write the picture."""
    model = load_model(weight_files.SHIPPED)
    columns = []
    for path in photographs():
        picture = read_image(path)
        saliency_map = predict(model, picture)
        drawn = draw_peaks(overlay(picture, saliency_map, "jet"), peaks(saliency_map, 3))
        size = (round(HEIGHT * picture.shape[1] / picture.shape[0]), HEIGHT)
        columns.append(
            [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (picture, drawn)]
        )
    rows = [side_by_side(*row) for row in zip(*columns, strict=True)]
    gap = np.full((6, rows[0].shape[1], 3), 255, np.uint8)
    write_image(file, np.concatenate([rows[0], gap, rows[1]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
