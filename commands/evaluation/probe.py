"""The command `probe`: measures how well each stage of a frozen network predicts fixations.

One pass over the training pictures accumulates the sums of ridge regression. They give the exact
linear read-outs of each stage, of all stages, and the global one. The read-outs are scored on the
test split, together with the references and the same network with random weights.
"""

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from commands.evaluation.rows import (
    Evaluation,
    all_reference_rows,
    model_row,
    note_reading,
    score_rows,
)
from commands.evaluation.score_log import LOG, ScoreLog
from commands.evaluation.scored_split import load_part, load_split, truth_of
from commands.evaluation.tables import metric_definitions, write_per_image
from commands.pages import figures
from commands.pages.report import write_probe_page
from commands.settings import ProbeConfig
from salience.measures.references import TruthSplit
from salience.measures.ridge import PENALTIES, Moments, RidgeFit, solve
from salience.networks import backbone
from salience.networks.backbone import BACKBONES
from salience.networks.linear_probe import GRID, features
from salience.pictures.letterbox import Letterbox, OutputGrid, postprocess
from salience.pictures.network_inputs import network_input
from salience.pictures.picture_files import overlay
from salience.pictures.reading import sample_density, sample_image
from salience.pictures.sample import Sample
from salience.system.cache import make_key
from salience.system.files import as_csv, make_folder, write_json, write_text
from salience.system.flags import to_json, typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, aligned, progress, tell
from utilities import SaliencyBatches

ALL, GLOBAL = "all stages", "global"
TRAINED, RANDOM = "ImageNet", "random weights"


class Network:
    """A frozen network that returns the features of all its stages on one grid.

    Args:
        name: key of BACKBONES.
        weights: file of its ImageNet weights; None for random weights.
        settings: size, width, seed, batch size and threads.
    """

    def __init__(self, name: str, weights: Path | None, settings: ProbeConfig) -> None:
        self.name, self.weights, self.settings = name, weights, settings
        self.input_shape = (settings.rows, settings.cols)
        self.shape = (settings.rows // GRID, settings.cols // GRID)
        self.model = features(name, self.input_shape, settings.width, seed=settings.seed)
        if weights:
            backbone.load_weights(self.model, name, weights)
        self.channels = {stage: end.shape[-1] for stage, end in self.model.output.items()}
        self._kept: tuple[list[Sample], NDArray, list[Letterbox]] = ([], np.zeros(0), [])

    @property
    def kind(self) -> str:
        """The origin of the weights: TRAINED or RANDOM."""
        return TRAINED if self.weights else RANDOM

    @property
    def label(self) -> str:
        """The network's name and the origin of its weights."""
        return f"{BACKBONES[self.name].title}, {self.kind}"

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all inputs of the features except the pictures."""
        weights = map(keras.ops.convert_to_numpy, self.model.weights)
        return make_key(self.name, self.input_shape, GRID, *weights)

    def predict(self, pixels: NDArray) -> NDArray[np.float32]:
        """Return the features [b, rows, cols, channels] of network inputs."""
        ends = self.model.predict_on_batch(pixels)
        return np.concatenate([np.asarray(ends[stage]) for stage in self.channels], axis=-1)

    def predict_samples(self, samples: list[Sample]) -> tuple[NDArray[np.float32], list[Letterbox]]:
        """Return the features of samples and their letterboxes; the last batch is cached.

        All read-outs request the same batch one after another.
        """
        kept = self._kept[0]
        if len(kept) != len(samples) or any(a is not b for a, b in zip(kept, samples, strict=True)):
            with ThreadPoolExecutor(self.settings.workers) as pool:
                read = list(pool.map(lambda s: network_input(s, self.input_shape), samples))
            pixels = np.stack([x for x, _ in read])
            self._kept = (list(samples), self.predict(pixels), [box for _, box in read])
        return self._kept[1], self._kept[2]

    def part(self, stage: str) -> slice:
        """Return the slice of a stage's channels."""
        if stage == ALL:
            return slice(None)
        names = list(self.channels)
        start = sum(self.channels[name] for name in names[: names.index(stage)])
        return slice(start, start + self.channels[stage])


@dataclass(frozen=True)
class ReadOut:
    """A linear read-out of a network's features.

    Attributes:
        network: the network of the features.
        stage: a layer, ALL, or GLOBAL, which maps the last stage's spatial means to a whole map.
        fit: ridge regression from a cell's features to its density, or from the means to all cells.
    """

    network: Network
    stage: str
    fit: RidgeFit

    @property
    def name(self) -> str:
        """The name of its row."""
        return f"{self.network.label}: {self.stage}"

    @property
    def part(self) -> slice:
        """The slice of its features."""
        last = list(self.network.channels)[-1]
        return self.network.part(last if self.stage == GLOBAL else self.stage)

    def fingerprint(self) -> str:
        """Return a digest of all inputs of its maps except the pictures."""
        about = make_key(ReadOut, self.network.fingerprint, self.fit.kernel, self.fit.intercept)
        return f"probe {self.stage} {about}"

    def saliency_cells(self, cells: NDArray, box: Letterbox) -> NDArray:
        """Return the map [rows, cols] on the grid for features [rows, cols, channels]."""
        if self.stage == GLOBAL:
            pooled = cells[cells_on_picture(box)][:, self.part].mean(axis=0)
            return (pooled @ self.fit.kernel + self.fit.intercept).reshape(cells.shape[:2])
        return cells[..., self.part] @ self.fit.kernel[:, 0] + self.fit.intercept[0]

    def maps(self, samples: list[Sample], shapes: list[tuple[int, int]]) -> Iterator[NDArray]:
        """Yield the map of each picture at its original size, maximum 1."""
        for batch in batches(samples, self.network.settings.batch_size):
            found, boxes = self.network.predict_samples(batch)
            # local copies: another network's batch may replace the cache before the next request
            for cells, box in zip(found, boxes, strict=True):
                yield postprocess(self.saliency_cells(cells, box), box, OutputGrid(GRID))


def batches(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield samples in batches."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def cells_on_picture(box: Letterbox) -> NDArray[np.bool_]:
    """Return a mask [rows, cols] of the cells whose centre is on the picture, not on padding."""
    spans = []
    for start, length, whole in zip(
        (box.top, box.left), box.scaled_shape, box.input_shape, strict=True
    ):
        centres = (np.arange(whole // GRID) + 0.5) * GRID
        spans.append((centres > start) & (centres < start + length))
    if not (spans[0].any() and spans[1].any()):  # the picture is thinner than a cell
        return np.ones((len(spans[0]), len(spans[1])), bool)
    return np.outer(*spans)


def run(settings: ProbeConfig) -> bool:
    """Run the command `probe`; return True if every picture could be read."""
    return not probe(settings)["left_out"]


def probe(settings: ProbeConfig, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Probe the stages of frozen networks; print and write their scores.

    Args:
        settings: the networks, the data and the output folder.
        say: called with each message.

    Returns:
        The content of `probe.json`.

    Raises:
        UserError: the data or the weights cannot be used, or the output cannot be written.
    """
    started, notes = time.monotonic(), Notes()
    make_folder(settings.output)
    split = load_split(settings, settings.split, notes)
    training, validation = (load_part(settings, part) for part in ("train", "val"))
    if settings.split != "test":
        notes.explain(f"Scored on {settings.split}, which the read-outs were fitted on.")
    readouts, seconds = [], {}
    for name, weights in networks(settings):
        if line := BACKBONES[name].size_note(settings.rows, settings.cols):
            notes.explain(line)
        network = Network(name, weights, settings)
        begun = time.monotonic()
        readouts += solve_readouts(network, training, validation)
        seconds[network.label] = round(time.monotonic() - begun, 1)
        say(
            f"{network.label}{f' ({weights})' if weights else ''}: {len(training)} training "
            f"pictures, {sum(network.channels.values())} features per cell, read-outs solved in "
            f"{seconds[network.label]:.0f} s"
        )
    rows = [model_row(readout, split) for readout in readouts] + all_reference_rows(split, notes)
    log = ScoreLog(settings.output / LOG, settings.overwrite)
    evaluation = score_rows(split, rows, log, notes, settings.seed, settings.workers)
    note_reading(evaluation)
    note_penalties(readouts, notes)
    found = results(settings, evaluation, readouts, len(training), len(validation))
    found["truth"] = truth_of(split, settings)
    found["seconds"] = {
        "solving": seconds,
        "all": round(time.monotonic() - started, 1),
        # summed over all cores, as wall time means little on a busy machine
        "processor": round(time.process_time(), 1),
    }
    say(stage_table(found))
    for line in notes.lines():
        say(f"note: {line}")
    say(found["sentence"])
    write(settings.output, evaluation, found, list(gallery(split, readouts, settings.gallery)))
    say(
        f"wrote {settings.output}/index.html, alignment.png, probe.json, probe.csv and "
        f"per_image.csv in {found['seconds']['all']:.0f} s "
        f"({found['seconds']['processor']:.0f} s of CPU time)"
    )
    return found


def networks(settings: ProbeConfig) -> list[tuple[str, Path | None]]:
    """Return the networks to probe and their weights, each followed by its random control.

    Raises:
        UserError: weights cannot be found or downloaded.
    """
    found = []
    for name in settings.backbones:
        weights = backbone.find_weights(name, settings.backbone_weights, settings.weights_dir)
        found.append((name, weights))
        if weights and settings.control:
            found.append((name, None))
    return found


def solve_readouts(
    network: Network, training: list[Sample], validation: list[Sample]
) -> list[ReadOut]:
    """Return the read-outs of a network: each stage, all stages, and the global one."""
    (spatial, whole), (val_spatial, val_whole) = (
        accumulate(network, samples, label)
        for samples, label in ((training, "training"), (validation, "validation"))
    )
    found = [
        ReadOut(network, stage, solve(spatial.block(part), val_spatial.block(part)))
        for stage in (*network.channels, ALL)
        for part in [network.part(stage)]
    ]
    return [*found, ReadOut(network, GLOBAL, solve(whole, val_whole))]


def accumulate(network: Network, samples: list[Sample], label: str) -> tuple[Moments, Moments]:
    """Return the regression sums over cells, and over spatial means and whole maps."""
    spatial = Moments(sum(network.channels.values()))
    last = network.part(list(network.channels)[-1])
    whole = Moments(last.stop - last.start, int(np.prod(network.shape)))
    bar = progress(len(samples), f"{network.label}, {label}")
    for first, x, y, reader in prefetched_batches(network, samples):
        found = network.predict(x)
        cells = [cells_on_picture(reader.boxes[first + i]) for i in range(len(x))]
        spatial.add(
            np.concatenate([f[mask] for f, mask in zip(found, cells, strict=True)]),
            np.concatenate([t[mask] for t, mask in zip(y, cells, strict=True)])[:, None],
        )
        pooled = [f[mask][:, last].mean(axis=0) for f, mask in zip(found, cells, strict=True)]
        whole.add(np.stack(pooled), y.reshape(len(y), -1))
        bar.update(len(x))
    bar.close()
    return spatial, whole


def prefetched_batches(
    network: Network, samples: list[Sample]
) -> Iterator[tuple[int, NDArray, NDArray, SaliencyBatches]]:
    """Yield the first index, pictures, densities on the grid and reader of prefetched batches."""
    settings = network.settings
    reader = SaliencyBatches(
        samples,
        network.input_shape,
        settings.batch_size,
        grid=OutputGrid(GRID),
        sigma_pixels=settings.gaussian_pixels,
    )
    with ThreadPoolExecutor(1) as pool:
        next_batch = pool.submit(reader.__getitem__, 0)
        for index in range(len(reader)):
            x, y = next_batch.result()
            if index + 1 < len(reader):
                next_batch = pool.submit(reader.__getitem__, index + 1)
            yield index * settings.batch_size, x, y[..., 0], reader


def note_penalties(readouts: list[ReadOut], notes: Notes) -> None:
    """Add a note for read-outs whose best penalty is the largest one."""
    for readout in readouts:
        if readout.fit.penalty == PENALTIES[-1]:
            notes.explain(f"{readout.name}: the largest penalty tried was the best.")


def results(
    settings: ProbeConfig,
    evaluation: Evaluation,
    readouts: list[ReadOut],
    training: int,
    validation: int,
) -> dict[str, Any]:
    """Return the results as JSON values."""
    stages = []
    for readout in readouts:
        network, fit = readout.network, readout.fit
        row = evaluation.row(readout.name)
        stages.append(
            {
                "name": readout.name,
                "backbone": network.name,
                "network": network.label,
                "weights": str(network.weights) if network.weights else None,
                "stage": readout.stage,
                "stride": BACKBONES[network.name].stages.get(readout.stage),
                "channels": int(fit.kernel.shape[0]),
                "penalty": fit.penalty,
                "explained": fit.explained,
                "validation_errors": list(fit.errors),
                "means": {key: dataclasses.asdict(mean) for key, mean in row.means.items()},
            }
        )
    references = [
        {"name": row.name, "means": {k: dataclasses.asdict(m) for k, m in row.means.items()}}
        for row in evaluation.rows
        if row.kind == "reference"
    ]
    found = {
        "title": "How well "
        + " and ".join(BACKBONES[name].title for name in settings.backbones)
        + " aligns with human attention, stage by stage",
        "dataset": settings.dataset,
        "split": settings.split,
        "pictures": len(evaluation.pictures),
        "left_out": evaluation.left_out,
        "training_pictures": training,
        "validation_pictures": validation,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*COMMAND_LINE, "probe", *typed_flags(settings)]),
        "settings": to_json(settings),
        "grid": GRID,
        "penalties": list(PENALTIES),
        "metrics": [
            {"key": key, **about} for key, about in metric_definitions(evaluation.metrics).items()
        ],
        "read_outs": stages,
        "references": references,
        "notes": evaluation.notes.lines(),
    }
    return {**found, "sentence": sentence(found)}


def sentence(found: dict[str, Any]) -> str:
    """Return a summary in the first metric: the best stage, all stages and the global read-out."""
    metric = found["metrics"][0]
    key, sign = metric["key"], 1 if metric["higher_is_better"] else -1
    text = []
    for network in dict.fromkeys(row["network"] for row in found["read_outs"]):
        rows = {r["stage"]: r["means"][key] for r in found["read_outs"] if r["network"] == network}
        single = {stage: mean for stage, mean in rows.items() if stage not in (ALL, GLOBAL)}
        best = max(single, key=lambda stage: sign * single[stage]["mean"])
        text.append(
            f"{network}: {best} aligns best of the stages ({metric['name']} "
            f"{with_interval(single[best])}), "
            f"all stages together reach {rows[ALL]['mean']:.3f}, the global read-out "
            f"{rows[GLOBAL]['mean']:.3f}."
        )
    return " ".join(text)


def with_interval(mean: dict[str, Any]) -> str:
    """Return a mean with its interval as text; a single picture has no interval."""
    interval = f" [{mean['low']:.3f}, {mean['high']:.3f}]"
    return f"{mean['mean']:.3f}" + (interval if mean["low"] == mean["low"] else "")


def stage_table(found: dict[str, Any]) -> str:
    """Return the means with their intervals as text: a line per read-out, a column per metric."""
    lines = [["", "features", "penalty", *(metric["name"] for metric in found["metrics"])]]
    for row in [*found["read_outs"], *found["references"]]:
        about = [f"{row[key]:{form}}" for key, form in (("channels", "d"), ("penalty", ".2g"))
                 if key in row] or ["", ""]  # fmt: skip
        means = [row["means"].get(metric["key"]) for metric in found["metrics"]]
        cells = [with_interval(mean) if mean else "-" for mean in means]
        lines.append([row["name"], *about, *cells])
    caption = (
        f"{found['dataset']}, {found['split']} split: {found['pictures']} pictures, means "
        "[bootstrap 95 %]"
    )
    return f"{caption}\n{aligned(lines)}"


def csv_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line for each read-out and reference."""
    lines = []
    columns = ("backbone", "weights", "stage", "stride", "channels", "penalty", "explained")
    for row in [*found["read_outs"], *found["references"]]:
        line = {"name": row["name"], **{column: row.get(column) for column in columns}}
        for metric in found["metrics"]:
            mean = row["means"].get(metric["key"], {})
            line |= {metric["key"]: mean.get("mean")}
            line |= {f"{metric['key']}_{end}": mean.get(end) for end in ("low", "high")}
        lines.append(line)
    return lines


def gallery(split: TruthSplit, readouts: list[ReadOut], count: int) -> Iterator[dict[str, Any]]:
    """Yield evenly spaced pictures of the split with human density and each read-out's map.

    Networks with random weights are shown only if there are no others.
    """
    shown = [r for r in readouts if r.network.kind == readouts[0].network.kind]
    places = np.linspace(0, len(split.samples) - 1, min(count, len(split.samples)))
    indices = places.round().astype(int)
    samples = [split.samples[i] for i in indices]
    shapes = [split.pictures[i][1] for i in indices]
    streams = {readout.name: readout.maps(samples, shapes) for readout in shown}
    for sample, shape in zip(samples, shapes, strict=True):
        image = sample_image(sample)
        human = sample_density(sample, shape, split.sigma_pixels)
        panels = {"picture": image, "people": overlay(image, human)}
        panels |= {name: overlay(image, next(maps)) for name, maps in streams.items()}
        yield {"picture": sample.name, "panels": panels}


def write(
    output: Path,
    evaluation: Evaluation,
    found: dict[str, Any],
    pictures: list[dict[str, Any]],
) -> None:
    """Write the JSON, the tables, the plot and the page."""
    folder = output
    write_json(folder / "probe.json", found)
    write_text(folder / "probe.csv", as_csv(csv_rows(found)))
    write_per_image(folder / "per_image.csv", evaluation)
    figures.save_alignment(found, folder / "alignment.png")
    write_probe_page(folder / "index.html", {**found, "gallery": pictures})
