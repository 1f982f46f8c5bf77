"""The page of `demo` in Gradio: its layout and the functions of its controls.

`view` draws the pictures; `server` answers the browser.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from commands.demo import areas
from commands.demo import view as panels
from commands.demo.offered import Networks, Result, forget, overlay_file, predict_picture
from salience.pictures.headers import header_shape
from salience.pictures.marks import draw_peaks
from salience.pictures.picture_files import to_8_bit
from salience.system.errors import UserError

TITLE = "Salience: where do people look?"
ABOUT = (
    "A network trained on people's eye movements predicts which parts of a picture draw the eye. "
    "Nothing leaves this computer."
)
NOTHING = "(nothing)"  # no second network for comparison
SESSIONS = 16  # open pages with a state; beyond that, the oldest pages lose their pictures
# age at which files of an abandoned page are removed, and interval of the search
KEPT_SECONDS, SWEEP_SECONDS = 4 * 3600, 600
# On a phone, the picture, the results and the weights are stacked. On a wide screen, the picture
# and the weights are to the left of the results.
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
.card { font-size: .85rem; line-height: 1.4; margin-top: -8px; }
.card dl { margin: 0; }
.card dt { font-weight: 600; margin-top: .35rem; }
.card dd { margin: 0; opacity: .85; }
/* labels and buttons stand above the picture, not on its corners */
.picture, #picture { padding-top: 2.2rem !important; }
.picture .icon-button-wrapper.top-panel { top: -2.2rem; }
.picture img { width: 100% !important; max-height: 75vh; object-fit: contain !important; }
#results .picture img { cursor: crosshair; -webkit-user-drag: none; user-select: none; }
#results .map img { cursor: default; }
.note { border-left: 4px solid var(--color-accent); padding: .2rem .8rem !important; }
.shares :is(table, thead, tbody, tr) { border: 0 !important; }
.shares table { border-collapse: collapse; width: 100%; margin: 0; font-size: .9rem; }
.shares :is(th, td) { padding: .25rem .3rem !important; text-align: right; border: 0 !important;
    border-bottom: 1px solid var(--border-color-primary) !important; }
.shares td { white-space: nowrap; }
.shares th:first-child { text-align: left !important; overflow-wrap: anywhere; min-width: 5rem; }
.card h2 { margin: .4rem 0 0 !important; font-size: 1.05rem; }
#regions .info-text, #regions [class*=info] { color: inherit !important; }
#status:not(:has(p)) { display: none; }
#status p { margin: 0; color: var(--error-text-color, #b91c1c); }
#drag { position: fixed; z-index: 99; pointer-events: none; border: 2px solid #3cc8ff;
        box-shadow: 0 0 0 1px #000; }
span[data-testid=min-value], span[data-testid=max-value] { color: inherit !important; }
#examples .gallery-item, #examples .gallery-item > * { width: 64px; height: 64px; }
"""
# Gradio's thumbnails are buttons without an accessible name. A drag with the mouse or a pen on an
# overlay adds a line to the regions.
SCRIPT = """() => {
    const name = () => document.querySelectorAll("#examples .gallery-item").forEach(
        (button, i) => button.ariaLabel || (button.ariaLabel = `Example ${i + 1}`));
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
    name();

    const overlay = (target) => target.closest?.("#results .overlay img");
    document.addEventListener("dragstart", (event) => overlay(event.target)
        && event.preventDefault());
    document.addEventListener("pointerdown", (down) => {
        const image = overlay(down.target);
        const shape = document.getElementById("shape")?.dataset;
        if (!image || !shape || down.button || down.pointerType === "touch") return;
        down.preventDefault();
        const frame = document.body.appendChild(document.createElement("div"));
        frame.id = "drag";
        // the picture is fitted into its element
        const area = image.getBoundingClientRect();
        const scale = Math.min(area.width / shape.columns, area.height / shape.rows);
        const left = area.left + (area.width - scale * shape.columns) / 2;
        const top = area.top + (area.height - scale * shape.rows) / 2;
        const clamp = (value, most) => Math.min(Math.max(value, 0), most);
        const box = (event) => [["clientX", left, shape.columns], ["clientY", top, shape.rows]].map(
            ([side, start, most]) => [down, event]
                .map((one) => Math.round(clamp((one[side] - start) / scale, +most)))
                .sort((a, b) => a - b));
        const move = (event) => {
            const [[x, right], [y, bottom]] = box(event);
            Object.assign(frame.style, {
                left: `${left + x * scale}px`, top: `${top + y * scale}px`,
                width: `${(right - x) * scale}px`, height: `${(bottom - y) * scale}px` });
        };
        const stop = () => {
            frame.remove();
            removeEventListener("pointermove", move);
            removeEventListener("pointerup", up);
            removeEventListener("pointercancel", stop);
        };
        const up = (event) => {
            stop();
            const [[x, right], [y, bottom]] = box(event);
            const text = document.querySelector("#regions textarea");
            if (!text || (right - x) * scale < 5 || (bottom - y) * scale < 5) return;
            const lines = text.value.split("\\n").filter((line) => line.trim());
            const used = new Set(lines.map((line) => line.split(",")[0].trim()));
            let number = 1;
            while (used.has(`region ${number}`)) number += 1;
            lines.push(`region ${number}, ${x}, ${y}, ${right - x}, ${bottom - y}`);
            text.value = lines.join("\\n");
            text.dispatchEvent(new Event("input", { bubbles: true }));
        };
        addEventListener("pointermove", move);
        addEventListener("pointerup", up);
        addEventListener("pointercancel", stop);
    });
}"""


def build(networks: Networks, folder: Path, colormap: str, upload_bytes: int, root: str) -> Any:
    """Return the page as an ASGI application.

    Args:
        networks: networks that can be selected.
        folder: folder for the files of maps; Gradio's own, so that Gradio makes no copies.
        colormap: colour map of the overlays, a key of `config.COLORMAPS`.
        upload_bytes: largest size of a picture's file, bytes.
        root: prefix of all paths of the page; may be empty.
    """
    import gradio as gr  # pyright: ignore[reportMissingImports]
    from fastapi import FastAPI  # pyright: ignore[reportMissingImports]
    from gradio import themes  # pyright: ignore[reportMissingImports]

    # system fonts: the default theme of Gradio loads fonts from files or from the web
    own = [themes.Font(name) for name in ("system-ui", "sans-serif")]
    blocks = compose(gr, networks, folder, colormap)
    check_inputs(gr, blocks, folder)
    # Gradio checks the allowed paths only if it considers itself launched
    blocks.has_launched = True
    blocks.api_open = False  # predictions only go through the queue, one at a time
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        "/",
        root_path=root,
        allowed_paths=[],  # only the files in the folder
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


def compose(gr: Any, networks: Networks, folder: Path, colormap: str) -> Any:
    """Return the page's components with their event handlers."""
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
                    drawing_controls = controls(gr)
                hint = gr.HTML(hint_text(), elem_id="hint")
                with gr.Row():
                    sides = [Side(gr, number) for number in range(2)]
                with gr.Column(visible=False) as below:
                    regions, file, status = region_controls(gr)
            with gr.Column(min_width=0):
                weights = choices(gr, networks)
        held = gr.State([None] * len(sides), delete_callback=forget)

        def predict(before: list[Result | None], path: str | None, *chosen: Any) -> dict[Any, Any]:
            """Predict the picture with the selected weights."""
            names, drawing = chosen[: len(weights)], Drawing(*chosen[len(weights) :])
            results = [
                result_or_warning(gr, path, networks, name, folder)
                if path and name != NOTHING
                else None
                for name in names
            ]
            forget(before)
            is_any = any(results)
            shown = {held: results, hint: gr.update(visible=not is_any)}
            shown |= {below: gr.update(visible=is_any), status: status_of(results, drawing)}
            for side, name, result in zip(sides, names, results, strict=True):
                shown |= side.shown(name, result, drawing, colormap)
            return shown

        def redraw(results: list[Result | None], *chosen: Any) -> dict[Any, Any]:
            """Draw the overlays again with other settings, and measure the regions."""
            drawing = Drawing(*chosen)
            shown: dict[Any, Any] = {status: status_of(results, drawing)}
            for side, result in zip(sides, results, strict=True):
                shown |= side.redrawn(result, drawing, colormap)
            return shown

        def of_file(path: str | None, shown: str | None, before: str) -> str:
            """Return the regions of an uploaded file as text; the text before after an error."""
            if not path:
                return before
            try:
                shape = header_shape(Path(shown)) if shown else None
                return areas.of_file(Path(path), Path(shown or "picture").name, shape)
            except UserError as error:
                gr.Warning(escape(str(error).replace(path, Path(path).name)), title="")
                return before

        quiet = {"api_visibility": "private", "trigger_mode": "always_last"}
        drawing_controls = [*drawing_controls, regions]
        gr.on(
            [upload.change, *(one.change for one in weights)],
            predict,
            [held, upload, *weights, *drawing_controls],
            [held, hint, below, status, *(part for side in sides for part in side.parts)],
            concurrency_limit=1,
            **quiet,
        )
        gr.on(
            [one.change for one in drawing_controls],
            redraw,
            [held, *drawing_controls],
            [status, *(part for side in sides for part in side.drawn_parts)],
            show_progress="hidden",
            **quiet,
        )
        file.upload(of_file, [file, upload, regions], regions, show_progress="hidden", **quiet)
    return blocks


def check_inputs(gr: Any, blocks: Any, folder: Path) -> None:
    """Reject values that the page's controls cannot send, before Gradio processes them.

    Gradio copies a file named in the value of any control into its folder. It prints a traceback
    for each invalid value.

    Args:
        gr: Gradio.
        blocks: the page's components.
        folder: Gradio's own folder; at this point, it holds only the examples.
    """
    examples = {str(path) for path in folder.rglob("*") if path.is_file()}
    original = blocks.preprocess_data

    def is_known_file(path: Any) -> bool:
        return isinstance(path, str) and (path in examples or path in blocks.upload_file_set)

    async def preprocess_data(block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> Any:
        components = block_fn.inputs
        if len(inputs) == len(components) and all(
            is_valid(gr, component, value, is_known_file)
            for component, value in zip(components, inputs, strict=True)
        ):
            try:
                return await original(block_fn, inputs, *rest, **more)
            except Exception:  # only the client's values can raise errors here
                pass
        raise gr.Error("Invalid value for a control of this page.", print_exception=False)

    blocks.preprocess_data = preprocess_data


def is_valid(gr: Any, component: Any, value: Any, is_known_file: Callable[[Any], bool]) -> bool:
    """Return True if a component can have a value.

    Args:
        gr: Gradio.
        component: a component of the page.
        value: JSON value of the request.
        is_known_file: returns True for the path of an upload or of an example.
    """
    if isinstance(component, gr.State):
        return True  # the client's value is ignored
    if isinstance(component, gr.Image):
        return value is None or (
            isinstance(value, dict)
            and value.get("meta") == {"_type": "gradio.FileData"}
            and is_known_file(value.get("path"))
        )
    if isinstance(component, gr.UploadButton):
        is_file = isinstance(value, dict) and value.get("meta") == {"_type": "gradio.FileData"}
        return value is None or (is_file and is_known_file(value.get("path")))
    if isinstance(component, gr.Textbox):
        return isinstance(value, str) and len(value) <= areas.LONGEST_TEXT
    if isinstance(component, gr.Slider):
        # also rejects NaN, infinite and huge values
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


def hint_text() -> str:
    """Return what to do on the empty page."""
    examples = ", or try an example" if panels.photographs() else ""
    return f"Drop, paste or photograph a picture{examples}: its saliency map appears here."


def picture(gr: Any) -> Any:
    """Return the component for the upload of the picture."""
    upload = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        label="Picture",
        buttons=["fullscreen"],
        height=280,
        elem_id="picture",
    )
    # otherwise Pillow would open the file before our own reader, whose errors are more precise
    upload.preprocess = lambda payload: payload.path if payload else None
    if examples := panels.photographs():
        gr.Examples([str(path) for path in examples], upload, elem_id="examples")
    return upload


def controls(gr: Any) -> list[Any]:
    """Return the controls of the drawing."""
    return [
        gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the map", min_width=220),
        gr.CheckboxGroup(
            list(panels.CONTOURS), label="Outline the most salient share", min_width=220
        ),
        gr.Slider(0, panels.MAX_PEAKS, 5, step=1, label="Most salient points", min_width=220),
    ]


def region_controls(gr: Any) -> tuple[Any, Any, Any]:
    """Return the text of the regions, the button for a file of regions, and the line below."""
    text = gr.Textbox(
        "",
        label="Regions",
        info="Drag a box on the overlay with a mouse or pen, or write one a line in pixels of the "
        f"picture: {areas.LINE}.",
        lines=3,
        max_lines=8,
        elem_id="regions",
    )
    status = gr.HTML("", elem_id="status", padding=False)
    with gr.Row():
        file = gr.UploadButton(
            "Open a file of regions (CSV or COCO JSON)", file_types=[".csv", ".json"], size="sm"
        )
        clear = gr.Button("Remove all regions", size="sm")
    clear.click(None, None, text, js="() => ''", api_visibility="private")
    return text, file, status


def status_of(results: list[Result | None], drawing: "Drawing") -> str:
    """Return the line below the regions: why they cannot be read, and the size of the picture."""
    result = next((one for one in results if one), None)
    if result is None:
        return ""
    rows, columns = result.shape
    shape = f'<span id="shape" data-rows="{rows}" data-columns="{columns}"></span>'
    try:
        areas.parsed(drawing.regions)
    except UserError as error:
        return f"{shape}<p>{escape(str(error))}</p>"
    return shape


def choices(gr: Any, networks: Networks) -> list[Any]:
    """Return the controls that select the weights and the weights to compare with."""
    weights = []
    for label, names in (
        ("Weights", networks.names),
        ("Compare with", [NOTHING, *networks.names]),
    ):
        one = gr.Dropdown(names, value=names[0], label=label, filterable=False)
        weights.append(one)
    for one in weights:
        card = gr.HTML(describe_weights(networks, one.value), elem_classes="card", padding=True)
        one.change(
            lambda name: describe_weights(networks, name),
            one,
            card,
            show_progress="hidden",
            api_visibility="private",
        )
    return weights


def describe_weights(networks: Networks, name: str) -> str:
    """Return the description of a network as HTML; empty without a network."""
    if name not in networks.cards:
        return ""
    return f"<h2>{escape(name)}</h2>{panels.describe_weights(networks.cards[name])}"


@dataclass(frozen=True)
class Drawing:
    """The values of the controls of the drawing, see `controls` and `region_controls`."""

    opacity: float
    contours: list[str]
    count: float
    regions: str

    def shares(self, result: Result) -> Sequence[areas.Share]:
        """Return the regions with their shares; none if the text is no list of regions."""
        try:
            return areas.shares(result.density, self.regions)
        except UserError:
            return ()  # `status_of` says why


class Side:
    """A column of the page with the result of one network.

    Args:
        gr: Gradio.
        number: index of the column, from 0.
    """

    def __init__(self, gr: Any, number: int) -> None:
        self.gr = gr
        with gr.Column(visible=False, min_width=320, elem_id=f"side-{number}") as self.column:
            self.note = gr.HTML(visible=False, elem_classes="note", padding=False)
            with gr.Row():  # wraps if there is little room, as with two columns
                self.overlay, self.map = (
                    gr.Image(
                        format="png",
                        buttons=["fullscreen"],
                        interactive=False,
                        min_width=300,
                        alt_text=text,
                        elem_classes=["picture", kind],
                    )
                    for kind, text in (
                        ("overlay", "The picture with its saliency map over it"),
                        ("map", "The saliency map"),
                    )
                )
            self.shares = gr.HTML(visible=False, elem_classes="shares", padding=False)
            with gr.Row():
                self.drawn = gr.DownloadButton("Overlay as PNG", size="sm", min_width=120)
                self.png = gr.DownloadButton("Map as PNG", size="sm", min_width=120)
                self.npy = gr.DownloadButton("Map as .npy", size="sm", min_width=120)
        self.drawn_parts = [self.overlay, self.shares, self.drawn]
        self.parts = [self.column, self.note, self.map, self.png, self.npy, *self.drawn_parts]

    def shown(
        self, name: str, result: Result | None, drawing: Drawing, colormap: str
    ) -> dict[Any, Any]:
        """Return the values of the column's components for a result."""
        update = self.gr.update
        column = update(visible=result is not None)
        if result is None:
            return dict.fromkeys(self.parts) | {self.column: column}
        drawn = self.redrawn(result, drawing, colormap)
        if self.overlay in drawn:
            drawn[self.overlay] = update(value=drawn[self.overlay], label=f"Overlay: {name}")
        note = f"This picture looks like a screenshot. {name}: {result.note}"
        return {
            self.column: column,
            self.note: update(value=escape(note), visible=bool(result.note)),
            self.map: update(
                value=to_8_bit(result.view.saliency_map), label=f"Saliency map: {name}"
            ),
            self.png: str(result.png),
            self.npy: str(result.npy),
            **drawn,
        }

    def redrawn(self, result: Result | None, drawing: Drawing, colormap: str) -> dict[Any, Any]:
        """Return the values of the components that depend on the controls of the drawing."""
        if result is None:
            return dict.fromkeys(self.drawn_parts)
        found = drawing.shares(result)
        picture = panels.drawn(result.view, drawing.opacity, drawing.contours, 0, colormap)
        if found:
            picture = areas.drawn(picture, found, result.shape)
        picture = draw_peaks(picture, result.view.peaks[: int(drawing.count)])
        try:
            file = str(overlay_file(result, picture))
        except UserError as error:
            self.gr.Warning(escape(str(error)), title="")
            return {}
        return {
            self.overlay: file,
            self.shares: self.gr.update(value=areas.table(found), visible=bool(found)),
            self.drawn: file,
        }


def result_or_warning(
    gr: Any, path: str, networks: Networks, name: str, folder: Path
) -> Result | None:
    """Return the prediction of a network; after an error, show it on the page and return None."""

    def say(line: str) -> None:
        gr.Info(escape(line))

    try:
        return predict_picture(Path(path), networks.engine(name, say), folder, name)
    except UserError as error:
        # do not show the path of Gradio's copy
        text = str(error).replace(path, Path(path).name)
        # not `gr.Error`, which would leave the results of the previous picture on the page
        gr.Warning(escape(text), title="")
        return None
