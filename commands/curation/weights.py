"""The command `weights`: lists the trained weights, and sets the default."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from commands.settings import WeightsConfig
from salience.measures.metrics import METRICS
from salience.networks import weight_files
from salience.networks.weight_files import NEWEST, PIN, card_line, name_of, validation_cc
from salience.system.errors import UserError
from salience.system.files import make_folder, telling, write_json
from salience.system.terminal import aligned, tell

COLUMNS = ["", "system", "trained on", "date", "validation CC", "CC of included weights", "size",
           "from", "licence"]  # fmt: skip
SCORES = ("cc", "nss", "auc_judd", "ig")


def run(settings: WeightsConfig) -> bool:
    """Run the command `weights`."""
    weights(settings)
    return True


def weights(settings: WeightsConfig, say: Callable[[str], None] = tell) -> Path:
    """List the weights of a folder and the included weights; return the default weights.

    Args:
        settings: the folder, and the name of the weights to make the default.
        say: called with each message.

    Raises:
        UserError: there are no weights, none of the name, or the choice cannot be written.
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
    problem = ""
    try:
        default, why = weight_files.default_weights(cards, folder)
    except UserError as error:
        if not cards:
            raise
        default, why, problem = Path(), "", str(error)  # the list shows the possible choices
    lines = [COLUMNS, *(row_of(path, card, path == default) for path, card in cards.items())]
    say(aligned(lines))
    for path, card in cards.items():
        for line in score_lines(path, card):
            say(line)
    if problem:
        raise UserError(problem)
    say(f"* default without --weights: {why}")
    say(card_line(default, cards[default]))
    if line := weight_files.included_is_better(cards[default]):
        say(line)
    return default


def row_of(path: Path, card: dict[str, Any], is_default: bool) -> list[str]:
    """Return the cells of a line of the list, see COLUMNS."""
    rival = card.get("box")
    run = card.get("run") or card.get("converted_from") or "unknown"
    return [
        f"{'*' if is_default else ' '} {name_of(path)}",
        str(card.get("system", card.get("model"))),
        str(card.get("dataset")),
        str(card.get("date", "unknown"))[:10],
        cc_text(validation_cc(card)),
        cc_text(validation_cc({"metrics": rival})) if rival else "",
        size_text(path),
        "included" if weight_files.is_shipped(path) else str(run).rpartition(" ")[0] or str(run),
        weight_files.licence_of(card),
    ]


def score_lines(path: Path, card: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each data set on whose pictures the card has scores (field SCORES_ON)."""
    for name, scores in weight_files.scores_by_set(card).items():
        values = ", ".join(
            f"{METRICS[key].name} {value:.3f}"
            for key in SCORES
            if isinstance(value := scores.get(key), int | float)
        )
        about = f"{scores.get('split')} split, {scores.get('pictures')} pictures"
        about += f", --set {scores['set']}" if "set" in scores else ""
        yield f"{name_of(path)} on {name} ({about}): {values}"


def size_text(path: Path) -> str:
    """Return the size of a file, in MB."""
    try:
        return f"{path.stat().st_size / 1e6:.1f} MB"
    except OSError:
        return "unknown"


def cc_text(cc: float) -> str:
    """Return a validation CC as text; -1 means unknown."""
    return "unknown" if cc == -1 else f"{cc:.3f}"
