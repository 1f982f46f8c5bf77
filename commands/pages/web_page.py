"""Renders the page of `export --format web`: it runs a network on pictures in the browser.

Unlike the other pages, it loads files that lie beside it: the network and its runtime.
"""

from pathlib import Path
from typing import Any

import numpy as np

from commands.pages.report import environment, plain, script_of, style_of
from config import PredictConfig
from salience.measures.adaptation import IDENTITY, Adaptation
from salience.pictures.picture_files import in_colours
from salience.system.files import write_text

LONGEST = 4096  # pixels of a map on the page: phones have no larger canvas
PORT = 8000  # of the server that the page recommends


def write_web_page(
    path: Path, card: dict[str, Any], files: dict[str, str], sizes: dict[str, int]
) -> None:
    """Write the page atomically as an HTML file.

    Args:
        path: the HTML file.
        card: card of the export, see `export_card`. All its texts are escaped.
        files: names of the files beside the page: `network`, `script` and `wasm`.
        sizes: their sizes, bytes.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, render_web(card, files, sizes))


def render_web(card: dict[str, Any], files: dict[str, str], sizes: dict[str, int]) -> str:
    """Return the HTML of the page; for the arguments see `write_web_page`."""
    values = plain(card)
    adaptation = values["finish"]["adaptation"]
    colours = in_colours(np.arange(256)[None] / 255, PredictConfig().colormap)[0, :, ::-1]
    script, digest = script_of("shared.js", "web.js", "theme.js")
    return environment().get_template("web.html").render(
        title="Where do people look?",
        notes=[],
        date="",
        command="",
        network=values["weights"]["file"],
        system=values["system"],
        dataset=values["dataset"],
        limits=values["limits"],
        rows=values["input"]["rows"],
        cols=values["input"]["cols"],
        megabytes=round(sum(sizes.values()) / 1e6),
        port=PORT,
        colours=[f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours[::8].tolist()],
        script=script,
        script_hash=digest,
        style=style_of("report.css", "regions.css", "pictures.css", "web.css"),
        payload={
            "input": {key: values["input"][key] for key in ("rows", "cols")},
            "grid": {key: values["output"][key] for key in ("stride", "crop", "blur")},
            "adaptation": None if Adaptation(**adaptation) == IDENTITY else adaptation,
            "mapBlur": values["finish"]["map_blur"],
            "colours": colours.ravel().tolist(),
            "longest": LONGEST,
            "files": files,
            "sizes": sizes,
            "port": PORT,
        },
    )  # fmt: skip
