"""The command `export`, and its format `web`: a network and a page that runs it in a browser.

The folder holds the network as ONNX, ONNX Runtime's WebAssembly and one page. Any web server shows
it. No picture leaves the browser.
"""

import shlex
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from commands.pages.web_page import PORT, write_web_page
from commands.prediction import engines
from commands.prediction.engines import Maps
from commands.prediction.export import ExportFormat, export, write_onnx
from commands.settings import WEB, ExportConfig
from commands.web import half
from commands.web.runtime import FILES, SCRIPT, WASM, runtime_folder
from salience.system.errors import UserError
from salience.system.terminal import tell

NETWORK = "network.onnx"
TOLERANCE = 1e-2  # of a map's maximum: float16 has 11 bits
# of the installed package, which is built from the same sources
LICENCES = {
    "LICENSE": "LICENSE-onnxruntime.txt",
    "ThirdPartyNotices.txt": "NOTICES-onnxruntime.txt",
}


def run(settings: ExportConfig) -> bool:
    """Run the command `export`."""
    if settings.format != WEB:
        export(settings)
        return True
    output = export(settings, form=web_format(settings.runtime))
    tell(
        f"open it: python -m http.server {PORT} --directory {shlex.quote(str(output))}   then "
        f"http://localhost:{PORT} (browsers do not load a network from a file:// address)"
    )
    return True


def web_format(archive: Path | None) -> ExportFormat:
    """Return the format `web`.

    Args:
        archive: the runtime's package, or None to download it; see `runtime_folder`.
    """
    runtime = cache(partial(runtime_folder, archive))
    return ExportFormat(
        suffix="",
        write=partial(write_web, runtime=runtime),
        open=open_web,
        main=NETWORK,
        tolerance=TOLERANCE,
        fetch=runtime,
    )


def write_web(model: Any, card: dict[str, Any], path: Path, runtime: Callable[[], Path]) -> None:
    """Write the folder of a network.

    Args:
        model: the Keras model.
        card: its card, see `export_card`.
        path: the folder, which does not exist.
        runtime: returns the folder of the runtime's files, see `runtime_folder`.

    Raises:
        UserError: the installed ONNX Runtime has no licence beside it.
    """
    import onnx  # pyright: ignore[reportMissingImports]

    path.mkdir()
    write_onnx(model, card, path / NETWORK)
    network = onnx.load(path / NETWORK)
    half.round_weights(network)
    onnx.checker.check_model(network)
    onnx.save(network, path / NETWORK)
    for name in FILES:
        shutil.copyfile(runtime() / name, path / name)
    copy_licences(path)
    write_web_page(path, card, {"network": NETWORK, "script": SCRIPT, "wasm": WASM})


def copy_licences(folder: Path) -> None:
    """Copy the licence and the notices of ONNX Runtime into a folder.

    Raises:
        UserError: the installed package has none.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    installed = Path(str(onnxruntime.__file__)).parent
    for name, copy in LICENCES.items():
        if not (installed / name).is_file():
            raise UserError(
                f"{installed} has no {name}, which belongs beside the runtime: install the package "
                "onnxruntime again, from PyPI."
            )
        shutil.copyfile(installed / name, folder / copy)


def open_web(path: Path) -> Maps:
    """Return the prediction function of a folder's network."""
    return engines.open_onnx(path / NETWORK)
