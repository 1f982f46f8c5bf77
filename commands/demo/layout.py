"""The page of `demo`, in Gradio: what stands where on it, and what its controls do.

What is drawn of a picture stands in `view`; what answers the browser, in `server`.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.demo import view as panels
from commands.demo.offered import Networks, Result, forget, looked_at
from commands.demo.view import View
from salience.pictures.picture_files import to_8_bit
from salience.system.errors import UserError

TITLE = "Salience: where do people look?"
ABOUT = (
    "Give a picture: a network that learned from people's eye movements says which parts of it "
    "draw the eye. Nothing leaves this computer."
)
HINT = "Drop a picture, paste or snap one, or try an example: its saliency map appears here."
NOTHING = "(nothing)"  # to compare with
SESSIONS = 16  # open pages whose pictures are held; of more, the oldest begin anew
# files of a page that was left open, and how often they are looked for
KEPT_SECONDS, SWEEP_SECONDS = 4 * 3600, 600
# the picture, what comes of it, the weights: one below the other on a phone; else the first and the
# last are beside the second
CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; }
#about h1 { font-size: 1.9rem; font-weight: 700; margin: 0 0 .2rem; }
#about p { font-size: 1.05rem; margin: 0; opacity: .8; }
#layout { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; }
@media (min-width: 768px) {
    #layout { grid-template-columns: minmax(280px, 2fr) minmax(0, 5fr);
              grid-template-rows: auto 1fr; }
    #results { grid-column: 2; grid-row: 1 / 3; }
}
#hint { display: grid; place-items: center; min-height: 20rem; text-align: center;
        border: 2px dashed var(--border-color-primary) !important; }
#hint .prose { opacity: .8; font-size: 1.05rem; }
.card { font-size: .8rem; line-height: 1.4; opacity: .8; margin-top: -8px; }
#results img { max-height: 75vh; object-fit: contain; }
span[data-testid=min-value], span[data-testid=max-value] { color: inherit !important; }
#examples .gallery-item, #examples .gallery-item > * { width: 64px; height: 64px; }
"""
# thumbnails are buttons without a name to be read out, whenever they come
SCRIPT = """() => {
    const name = () => document.querySelectorAll("#examples .gallery-item").forEach(
        (button, i) => button.ariaLabel || (button.ariaLabel = `Example ${i + 1}`));
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
    name();
}"""


def build(networks: Networks, folder: Path, colormap: str, upload_bytes: int, root: str) -> Any:
    """Return the page, as what answers a browser (ASGI).

    Args:
        networks: that it offers.
        folder: for the files of maps; Gradio's own folder, so that it makes no copies.
        colormap: of `config.COLORMAPS`, of the overlays.
        upload_bytes: how large a picture's file may be.
        root: what stands before every path of the page; empty for nothing.
    """
    import gradio as gr  # pyright: ignore[reportMissingImports]
    from fastapi import FastAPI  # pyright: ignore[reportMissingImports]
    from gradio import themes  # pyright: ignore[reportMissingImports]

    # the system's own letters: by default a page of Gradio brings some along, or asks for them
    own = [themes.Font(name) for name in ("system-ui", "sans-serif")]
    blocks = laid_out(gr, networks, folder, colormap)
    check_inputs(gr, blocks, folder)
    # Gradio asks whether a path is one that may be opened only where it thinks that it was launched
    blocks.has_launched = True
    blocks.api_open = False  # what predicts is called through the queue, one at a time
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        "/",
        root_path=root,
        allowed_paths=[],  # none but those in the folder
        blocked_paths=[],
        theme=themes.Default(primary_hue="orange", font=own, font_mono=own),
        css=CSS,
        js=SCRIPT,
        max_file_size=upload_bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def laid_out(gr: Any, networks: Networks, folder: Path, colormap: str) -> Any:
    """Return the page's components, connected."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)
    ) as blocks:
        blocks.state_session_capacity = SESSIONS
        gr.HTML(f"<h1>{TITLE}</h1><p>{ABOUT}</p>", elem_id="about")
        with gr.Row(elem_id="layout"):
            with gr.Column(min_width=0):
                upload = picture(gr)
            with gr.Column(min_width=0, elem_id="results"):
                with gr.Row():
                    how = controls(gr)
                hint = gr.HTML(HINT, elem_id="hint")
                with gr.Row():
                    sides = [Side(gr, number) for number in range(2)]
            with gr.Column(min_width=0):
                weights = choices(gr, networks)
        held = gr.State([None] * len(sides), delete_callback=forget)

        def looked(before: list[Result | None], path: str | None, *chosen: Any) -> dict[Any, Any]:
            """Predict the picture with the weights chosen."""
            names, drawing = chosen[: len(weights)], chosen[len(weights) :]
            results = [
                told(gr, path, networks, name, folder) if path and name != NOTHING else None
                for name in names
            ]
            forget(before)
            shown = {held: results, hint: gr.update(visible=not any(results))}
            for side, name, result in zip(sides, names, results, strict=True):
                shown |= side.shown(name, result, drawing, colormap)
            return shown

        def redrawn(results: list[Result | None], *drawing: Any) -> list[Any]:
            """Draw again what the networks made of the picture."""
            return [
                None if result is None else drawn(result.view, drawing, colormap)
                for result in results
            ]

        quiet = {"api_visibility": "private", "trigger_mode": "always_last"}
        gr.on(
            [upload.change, *(one.change for one in weights)],
            looked,
            [held, upload, *weights, *how],
            [held, hint, *(part for side in sides for part in side.parts)],
            concurrency_limit=1,
            **quiet,
        )
        gr.on(
            [one.change for one in how],
            redrawn,
            [held, *how],
            [side.overlay for side in sides],
            show_progress="hidden",
            **quiet,
        )
    return blocks


def check_inputs(gr: Any, blocks: Any, folder: Path) -> None:
    """Have the page refuse values that its own controls do not send, before Gradio looks at them.

    Gradio copies into its folder whatever file a value names, of whichever control; it prints a
    traceback for each value that its components cannot take.

    Args:
        gr: Gradio.
        blocks: the page's components, laid out.
        folder: Gradio's own; what lies in it by now are the examples.
    """
    examples = {str(path) for path in folder.rglob("*") if path.is_file()}
    theirs = blocks.preprocess_data

    def offered(path: Any) -> bool:
        return isinstance(path, str) and (path in examples or path in blocks.upload_file_set)

    async def preprocess_data(block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> Any:
        components = block_fn.inputs
        if len(inputs) == len(components) and all(
            fits(gr, component, value, offered)
            for component, value in zip(components, inputs, strict=True)
        ):
            try:
                return await theirs(block_fn, inputs, *rest, **more)
            except Exception:  # of what the client sent, and only of that
                pass
        raise gr.Error("This is not what the page's controls send.", print_exception=False)

    blocks.preprocess_data = preprocess_data


def fits(gr: Any, component: Any, value: Any, offered: Callable[[Any], bool]) -> bool:
    """Return whether a component can have a value.

    Args:
        gr: Gradio.
        component: of the page.
        value: made from JSON by whoever asks.
        offered: whether a path is that of an upload or of an example.
    """
    if isinstance(component, gr.State):
        return True  # what the client says of it is not read
    if isinstance(component, gr.Image):
        return value is None or (
            isinstance(value, dict)
            and value.get("meta") == {"_type": "gradio.FileData"}
            and offered(value.get("path"))
        )
    if isinstance(component, gr.Slider):
        # also says no to what is not a number (NaN), infinite or huge
        return type(value) in (int, float) and component.minimum <= value <= component.maximum
    if isinstance(component, gr.Dataset):
        return type(value) is int and 0 <= value < len(component.samples)
    if isinstance(component, gr.Dropdown | gr.CheckboxGroup):
        several = isinstance(component, gr.CheckboxGroup)
        if isinstance(value, list) != several:
            return False
        choices = {choice for _, choice in component.choices}
        return all(
            isinstance(one, str) and one in choices for one in (value if several else [value])
        )
    return False


def picture(gr: Any) -> Any:
    """Return the component that takes the picture."""
    upload = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        label="Picture",
        buttons=["fullscreen"],
        height=280,
        elem_id="picture",
    )
    # Gradio would have Pillow open the file before our own reader says what is wrong with it
    upload.preprocess = lambda payload: payload.path if payload else None
    if examples := panels.photographs():
        gr.Examples([str(path) for path in examples], upload, elem_id="examples")
    return upload


def controls(gr: Any) -> list[Any]:
    """Return the components that say how maps are drawn."""
    return [
        gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the map", min_width=220),
        gr.CheckboxGroup(
            list(panels.CONTOURS), label="Outline the most salient share", min_width=220
        ),
        gr.Slider(0, panels.MOST_PEAKS, 5, step=1, label="Most salient points", min_width=220),
    ]


def choices(gr: Any, networks: Networks) -> list[Any]:
    """Return the components that choose the weights and those to compare with."""
    weights = []
    for label, names in (
        ("Weights", networks.names),
        ("Compare with", [NOTHING, *networks.names]),
    ):
        one = gr.Dropdown(names, value=names[0], label=label, filterable=False)
        card = gr.HTML(small_print(networks, names[0]), elem_classes="card", padding=True)
        one.change(
            lambda name: small_print(networks, name),
            one,
            card,
            show_progress="hidden",
            api_visibility="private",
        )
        weights.append(one)
    return weights


def small_print(networks: Networks, name: str) -> str:
    """Return what the card of a network says, as HTML; nothing of no network."""
    return panels.small_print(networks.cards[name]) if name in networks.cards else ""


class Side:
    """What one network makes of the picture, as a column of the page.

    Args:
        gr: Gradio.
        number: from 0; of the first nothing says which network it is.
    """

    def __init__(self, gr: Any, number: int) -> None:
        self.gr = gr
        with gr.Column(visible=False, min_width=320, elem_id=f"side-{number}") as self.column:
            with gr.Row():  # one below the other where there is no room, as with two of these
                self.overlay, self.map = (
                    gr.Image(
                        format=kind,
                        buttons=["fullscreen"],
                        interactive=False,
                        min_width=300,
                        alt_text=text,
                    )
                    for kind, text in (
                        ("jpeg", "The picture with its saliency map over it"),
                        ("png", "The saliency map"),
                    )
                )
            with gr.Row():
                self.png = gr.DownloadButton("Map as PNG", size="sm")
                self.npy = gr.DownloadButton("Map as .npy", size="sm")
        self.parts = [self.column, self.overlay, self.map, self.png, self.npy]

    def shown(
        self, name: str, result: Result | None, drawing: tuple[Any, ...], colormap: str
    ) -> dict[Any, Any]:
        """Return what its components show of a result."""
        column = self.gr.update(visible=result is not None)
        if result is None:
            return {self.column: column} | dict.fromkeys(self.parts[1:])
        return {
            self.column: column,
            self.overlay: self.gr.update(
                value=drawn(result.view, drawing, colormap), label=f"Overlay: {name}"
            ),
            self.map: self.gr.update(
                value=to_8_bit(result.view.saliency_map), label=f"Saliency map: {name}"
            ),
            self.png: str(result.png),
            self.npy: str(result.npy),
        }


def drawn(view: View, drawing: tuple[Any, ...], colormap: str) -> NDArray[np.uint8]:
    """Return the overlay that the page's controls ask for, RGB."""
    opacity, contours, count = drawing
    return panels.drawn(view, opacity, contours, int(count), colormap)[..., ::-1]


def told(gr: Any, path: str, networks: Networks, name: str, folder: Path) -> Result | None:
    """Return what a network makes of a picture, or None: then the page says in one line why."""

    def say(line: str) -> None:
        gr.Info(escape(line))

    try:
        return looked_at(Path(path), networks.engine(name, say), folder, name)
    except UserError as error:
        # where Gradio keeps the picture is nobody's concern
        text = str(error).replace(path, Path(path).name)
        # no `gr.Error`: it would leave on the page what came of the picture before
        gr.Warning(escape(text), title="")
        return None
