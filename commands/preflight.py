"""A first look at the files that a command names, before what takes seconds is imported."""

from pathlib import Path
from typing import Any

from commands.settings import PrepareConfig, ScoringConfig
from config import Config
from salience.data import loading
from salience.networks import weight_files
from salience.system.errors import UserError
from salience.system.flags import Checked


def check_data(flags: dict[str, Any]) -> None:
    """Look for the data set that flags name, where they name one.

    Settings may come from a card, whose reading takes Keras: so this is before there are any.

    Raises:
        UserError: it is not there.
    """
    name, root = flags.get("dataset"), flags.get("data")
    if isinstance(name, str) and isinstance(root, Path):
        loading.module_of(name, root)


def check_inputs(settings: Checked) -> None:
    """Look at the files that settings name, before networks are imported, which takes seconds.

    Raises:
        UserError: one is missing or of another type.
    """
    for field in ("weights", "init_weights", "reference"):
        if path := getattr(settings, field, None):
            weight_files.read_card(path)
    if (old := getattr(settings, "old", None)) and not old.is_file():
        raise UserError(f"{old}: no such file.")
    own = getattr(settings, "backbone_weights", None)
    if own not in (None, "none") and not Path(own).is_file():
        raise UserError(f"--backbone_weights {own}: no such file.")
    for name, root in _sets(settings):
        loading.module_of(name, root)


def _sets(settings: Any) -> list[tuple[str, Path | None]]:
    """Return the data sets that settings name, each with its folder; none that may be archives."""
    if isinstance(settings, Config):
        return settings.sets
    if isinstance(settings, ScoringConfig):
        return [(settings.dataset, settings.data)]
    if isinstance(settings, PrepareConfig):
        return [(settings.dataset, root) for root in settings.data if not root.is_file()]
    return []
