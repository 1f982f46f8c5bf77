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
PAGE, THREADS = "index.html", "threads.js"
TEMPLATE_OF_THREADS = "web_threads.js"
PORT = 8000  # of the server that the page recommends


def write_web_page(folder: Path, card: dict[str, Any], files: dict[str, str]) -> None:
    """Write the page, and its service worker, into the folder of the network.

    Args:
        folder: the folder, which has the files.
        card: card of the export, see `export_card`. All its texts are escaped.
        files: names of the files that the page loads: `network`, `script` and `wasm`.

    Raises:
        UserError: a file cannot be written.
    """
    sizes = {role: (folder / name).stat().st_size for role, name in files.items()}
    write_text(folder / THREADS, script_of(TEMPLATE_OF_THREADS)[0])
    write_text(folder / PAGE, render_web(card, files | {"threads": THREADS}, sizes))


def render_web(card: dict[str, Any], files: dict[str, str], sizes: dict[str, int]) -> str:
    """Return the HTML of the page.

    Args:
        card: card of the export, see `export_card`.
        files: names of the files beside the page: `network`, `script`, `wasm` and `threads`.
        sizes: bytes of those that take time to load.
    """
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
