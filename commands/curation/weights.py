"""What `weights` does: say which trained weights are there and which serve, or pin a choice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands.settings import WeightsConfig
from salience.networks import weight_files
from salience.networks.weight_files import NEWEST, PIN, card_line, name_of, validation_cc
from salience.system.errors import UserError
from salience.system.files import make_folder, telling, write_json
from salience.system.terminal import aligned, tell

COLUMNS = ["", "system", "data set", "date", "validation CC", "of the box there", "from"]


def run(settings: WeightsConfig) -> bool:
    """Carry out `weights`."""
    weights(settings)
    return True


def weights(settings: WeightsConfig, say: Callable[[str], None] = tell) -> Path:
    """List the weights of a folder and those of the box; return those that serve.

    Args:
        settings: the folder, and what to pin.
        say: gets each line.

    Raises:
        UserError: there are none, none of the name, or the pin cannot be written.
    """
    folder = settings.weights_dir
    cards = weight_files.cards_in(folder, say)
    if settings.use == NEWEST:
        with telling(f"Cannot remove {folder / PIN}"):
            (folder / PIN).unlink(missing_ok=True)
    elif settings.use is not None:
        who = f"--use {settings.use}"
        chosen = weight_files.find_by_name(settings.use, cards, folder, who)
        write_json(make_folder(folder, "--weights_dir") / PIN, {"use": name_of(chosen)})
    lost = ""
    try:
        default, why = weight_files.default_weights(cards, folder)
    except UserError as error:
        if not cards:
            raise
        default, why, lost = Path(), "", str(error)  # the list tells what could be pinned
    lines = [COLUMNS, *(row_of(path, card, path == default) for path, card in cards.items())]
    say(aligned(lines))
    if lost:
        raise UserError(lost)
    say(f"* serves where no --weights is given: {why}")
    say(card_line(default, cards[default]))
    if line := weight_files.included_is_better(cards[default]):
        say(line)
    return default


def row_of(path: Path, card: dict[str, Any], serves: bool) -> list[str]:
    """Return a line of the list, for COLUMNS."""
    rival = card.get("box")
    run = card.get("run") or card.get("converted_from") or "unknown"
    return [
        f"{'*' if serves else ' '} {name_of(path)}",
        str(card.get("system", card.get("model"))),
        str(card.get("dataset")),
        str(card.get("date", "unknown"))[:10],
        told(validation_cc(card)),
        told(validation_cc({"metrics": rival})) if rival else "",
        "the box" if weight_files.is_shipped(path) else str(run).rpartition(" ")[0] or str(run),
    ]


def told(cc: float) -> str:
    """Return a validation CC as text."""
    return "unknown" if cc == -1 else f"{cc:.3f}"
