"""What `probe` does: ask how well each stage of a frozen network aligns with human attention.

In one pass over the training pictures the sums of ridge regression are taken; each stage's linear
read-out, that of all stages, and the global one follow exactly. They are scored on the test split
beside the references, and beside the same network with random weights.
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
from commands.evaluation.scored_split import load_split
from commands.evaluation.tables import metric_definitions, write_per_image
from commands.pages import figures
from commands.pages.report import write_probe_page
from commands.settings import ProbeConfig
from salience.data import loading
from salience.measures.references import TruthSplit
from salience.measures.ridge import PENALTIES, Moments, RidgeFit, solve
from salience.networks import backbone
from salience.networks.backbone import BACKBONES
from salience.networks.linear_probe import GRID, features
from salience.pictures.picture_files import overlay
from salience.pictures.reading import sample_density, sample_image
from salience.pictures.sample import Sample
from salience.system.cache import make_key
from salience.system.files import as_csv, make_folder, write_json, write_text
from salience.system.flags import to_json, typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, aligned, progress, tell
from utilities import Letterbox, OutputGrid, SaliencyBatches, network_input, postprocess

ALL, GLOBAL = "all stages", "global"
TRAINED, RANDOM = "ImageNet", "random weights"


class Network:
    """A frozen network that gives the features of all its stages on one grid.

    Args:
        name: of BACKBONES.
        weights: the file of its ImageNet weights; None for random ones.
        settings: size, width, seed, and how pictures are read.
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
        """ImageNet or random weights: what the network knows."""
        return TRAINED if self.weights else RANDOM

    @property
    def label(self) -> str:
        """The network's name and what it knows."""
        return f"{BACKBONES[self.name].title}, {self.kind}"

    @cached_property
    def fingerprint(self) -> str:
        """A name for all that the features depend on, besides the pictures."""
        weights = map(keras.ops.convert_to_numpy, self.model.weights)
        return make_key(self.name, self.input_shape, GRID, *weights)

    def of(self, pixels: NDArray) -> NDArray[np.float32]:
        """Return the features of pictures as the network takes them, [b, rows, cols, channels]."""
        ends = self.model.predict_on_batch(pixels)
        return np.concatenate([np.asarray(ends[stage]) for stage in self.channels], axis=-1)

    def of_samples(self, samples: list[Sample]) -> tuple[NDArray[np.float32], list[Letterbox]]:
        """Return the features of samples and their boxes; the last asked for are kept.

        All read-outs ask for the same batch one after the other.
        """
        kept = self._kept[0]
        if len(kept) != len(samples) or any(a is not b for a, b in zip(kept, samples, strict=True)):
            with ThreadPoolExecutor(self.settings.workers) as pool:
                read = list(pool.map(lambda s: network_input(s, self.input_shape), samples))
            pixels = np.stack([x for x, _ in read])
            self._kept = (list(samples), self.of(pixels), [box for _, box in read])
        return self._kept[1], self._kept[2]

    def part(self, stage: str) -> slice:
        """Return where a stage's channels lie among all."""
        if stage == ALL:
            return slice(None)
        names = list(self.channels)
        start = sum(self.channels[name] for name in names[: names.index(stage)])
        return slice(start, start + self.channels[stage])


@dataclass(frozen=True)
class ReadOut:
    """A linear read-out of a network's features.

    Attributes:
        network: whose features.
        stage: a layer, ALL, or GLOBAL: the last stage's means over the picture to a whole map.
        fit: of a cell's features to the density there, or of GLOBAL's means to all cells.
    """

    network: Network
    stage: str
    fit: RidgeFit

    @property
    def name(self) -> str:
        """Of its row."""
        return f"{self.network.label}: {self.stage}"

    @property
    def part(self) -> slice:
        """Which features it reads."""
        last = list(self.network.channels)[-1]
        return self.network.part(last if self.stage == GLOBAL else self.stage)

    def fingerprint(self) -> str:
        """Return a name for all that its maps depend on, besides the pictures."""
        about = make_key(ReadOut, self.network.fingerprint, self.fit.kernel, self.fit.intercept)
        return f"probe {self.stage} {about}"

    def read(self, cells: NDArray, box: Letterbox) -> NDArray:
        """Return the map on the grid, [rows, cols], of features [rows, cols, channels]."""
        if self.stage == GLOBAL:
            pooled = cells[inside(box)][:, self.part].mean(axis=0)
            return (pooled @ self.fit.kernel + self.fit.intercept).reshape(cells.shape[:2])
        return cells[..., self.part] @ self.fit.kernel[:, 0] + self.fit.intercept[0]

    def maps(self, samples: list[Sample], shapes: list[tuple[int, int]]) -> Iterator[NDArray]:
        """Yield the map of each picture at its size, maximum 1."""
        for batch in batches(samples, self.network.settings.batch_size):
            found, boxes = self.network.of_samples(batch)
            # kept by now: another network's batch may take its place before the next is asked for
            for cells, box in zip(found, boxes, strict=True):
                yield postprocess(self.read(cells, box), box, OutputGrid(GRID))


def batches(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield samples in batches."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def inside(box: Letterbox) -> NDArray[np.bool_]:
    """Return the grid's cells whose centre lies on the picture, not on the padding around it."""
    spans = []
    for start, length, whole in zip(
        (box.top, box.left), box.scaled_shape, box.input_shape, strict=True
    ):
        centres = (np.arange(whole // GRID) + 0.5) * GRID
        spans.append((centres > start) & (centres < start + length))
    if not (spans[0].any() and spans[1].any()):  # thinner than a cell
        return np.ones((len(spans[0]), len(spans[1])), bool)
    return np.outer(*spans)


def run(settings: ProbeConfig) -> bool:
    """Carry out `probe`; return whether every picture could be read."""
    return not probe(settings)["left_out"]


def probe(settings: ProbeConfig, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Probe the stages of frozen networks; print and write how well they align with people.

    Args:
        settings: networks, data and where to write.
        say: gets each line of news.

    Returns:
        What `probe.json` holds.

    Raises:
        UserError: the data or the weights are not usable, or the output cannot be written.
    """
    started, notes = time.monotonic(), Notes()
    make_folder(settings.output)
    split = load_split(settings, settings.split, notes)
    training, validation = (
        loading.load(settings.dataset, settings.data, part, settings.plan, settings.out_of_bounds)
        for part in ("train", "val")
    )
    if settings.split != "test":
        notes.explain(f"Scored on {settings.split}, which the read-outs have seen.")
    readouts, seconds = [], {}
    for name, weights in networks(settings):
        network = Network(name, weights, settings)
        begun = time.monotonic()
        readouts += solved(network, training, validation)
        seconds[network.label] = round(time.monotonic() - begun, 1)
        say(
            f"{network.label}{f' ({weights})' if weights else ''}: {len(training)} training "
            f"pictures, {sum(network.channels.values())} features a cell, read-outs solved in "
            f"{seconds[network.label]:.0f} s"
        )
    rows = [model_row(readout, split) for readout in readouts] + all_reference_rows(split)
    log = ScoreLog(settings.output / LOG, settings.overwrite)
    evaluation = score_rows(split, rows, log, notes, settings.seed, settings.workers)
    note_reading(evaluation)
    note_penalties(readouts, notes)
    found = results(settings, evaluation, readouts, len(training), len(validation))
    found["seconds"] = {
        "solving": seconds,
        "all": round(time.monotonic() - started, 1),
        # of all cores together: on a busy machine the clock tells little
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
        f"({found['seconds']['processor']:.0f} s of processors)"
    )
    return found


def networks(settings: ProbeConfig) -> list[tuple[str, Path | None]]:
    """Return the networks to probe and their weights, each followed by its random control.

    Raises:
        UserError: weights are not to be had.
    """
    found = []
    for name in settings.backbones:
        weights = backbone.find_weights(name, settings.backbone_weights, settings.weights_dir)
        found.append((name, weights))
        if weights and settings.control:
            found.append((name, None))
    return found


def solved(network: Network, training: list[Sample], validation: list[Sample]) -> list[ReadOut]:
    """Return the read-outs of a network: of each stage, of all, and the global one."""
    (spatial, whole), (seen, seen_whole) = (
        sums(network, samples, label)
        for samples, label in ((training, "training"), (validation, "validation"))
    )
    found = [
        ReadOut(network, stage, solve(spatial.block(part), seen.block(part)))
        for stage in (*network.channels, ALL)
        for part in [network.part(stage)]
    ]
    return [*found, ReadOut(network, GLOBAL, solve(whole, seen_whole))]


def sums(network: Network, samples: list[Sample], label: str) -> tuple[Moments, Moments]:
    """Return the sums over the cells of pictures, and over their means and whole maps."""
    spatial = Moments(sum(network.channels.values()))
    last = network.part(list(network.channels)[-1])
    whole = Moments(last.stop - last.start, int(np.prod(network.shape)))
    bar = progress(len(samples), f"{network.label}, {label}")
    for first, x, y, reader in read(network, samples):
        found = network.of(x)
        cells = [inside(reader.boxes[first + i]) for i in range(len(x))]
        spatial.add(
            np.concatenate([f[mask] for f, mask in zip(found, cells, strict=True)]),
            np.concatenate([t[mask] for t, mask in zip(y, cells, strict=True)])[:, None],
        )
        pooled = [f[mask][:, last].mean(axis=0) for f, mask in zip(found, cells, strict=True)]
        whole.add(np.stack(pooled), y.reshape(len(y), -1))
        bar.update(len(x))
    bar.close()
    return spatial, whole


def read(
    network: Network, samples: list[Sample]
) -> Iterator[tuple[int, NDArray, NDArray, SaliencyBatches]]:
    """Yield batches of pictures and their density on the grid; the next is read meanwhile."""
    settings = network.settings
    reader = SaliencyBatches(
        samples,
        network.input_shape,
        settings.batch_size,
        grid=OutputGrid(GRID),
        sigma_pixels=settings.sigma_pixels,
    )
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(reader.__getitem__, 0)
        for index in range(len(reader)):
            x, y = ahead.result()
            if index + 1 < len(reader):
                ahead = pool.submit(reader.__getitem__, index + 1)
            yield index * settings.batch_size, x, y[..., 0], reader


def note_penalties(readouts: list[ReadOut], notes: Notes) -> None:
    """Note which read-outs would have liked a penalty beyond those tried."""
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
    """Return what was found as plain values."""
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
    """Return what was found, in the first metric: the best single stage, all, and the control."""
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
    """Return a mean with its interval; of a single picture there is none."""
    interval = f" [{mean['low']:.3f}, {mean['high']:.3f}]"
    return f"{mean['mean']:.3f}" + (interval if mean["low"] == mean["low"] else "")


def stage_table(found: dict[str, Any]) -> str:
    """Return the means with their intervals as text: a line a read-out, a column a metric."""
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
    """Yield pictures evenly spread over the split: where people looked, and each read-out's map.

    Of several networks, those that know something are shown.
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
