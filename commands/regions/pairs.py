"""The pictures of `regions`, each with its regions, its fixations and its other version."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from commands.prediction.inputs import find_pictures
from commands.settings import RegionsConfig
from salience.data import loading, regions
from salience.data.plan import BY_SHARES
from salience.data.regions import Region
from salience.pictures.reading import known_shape
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.notes import Notes

Regions = tuple[Region, ...]


@dataclass(frozen=True)
class Version:
    """A picture with its regions."""

    sample: Sample
    regions: Regions


@dataclass(frozen=True)
class Pair:
    """A picture, and the version of it that `--against` names, if any."""

    own: Version
    other: Version | None = None


def pairs(settings: RegionsConfig, notes: Notes, say: Callable[[str], None]) -> list[Pair]:
    """Return the pictures that have regions, in their order.

    Args:
        settings: the pictures, the regions and the data set.
        notes: receives what is left out.
        say: called with each message.

    Raises:
        UserError: the regions or the pictures cannot be used, or no picture has regions.
    """
    if settings.regions is None:
        raise UserError("Name the regions: --regions FILE, a table or COCO JSON.")
    read = regions.read(settings.regions)
    recorded = recordings(settings, notes)
    samples = list(pictures(settings.images, settings, say)) if settings.images else recorded
    if not samples:
        raise UserError("No pictures: name a folder, a picture or a glob, or a data set (--data).")
    known = {sample.name: sample for sample in samples}
    chosen, missing = regions.assign(read, list(known), settings.regions)
    others = list(pictures([settings.against], settings, say)) if settings.against else []
    single = len(known) == len(others) == 1
    if single:  # a table may name both versions of a single picture
        _, missing = regions.assign(
            {name: read[name] for name in missing}, [others[0].name], settings.regions
        )
    for name in missing:
        notes.add(f"pictures that {settings.regions} names are not there: left out", name)
    if not chosen:
        raise UserError(
            f"{settings.regions} names {', '.join(list(read)[:3])}, but none of the "
            f"{len(known)} pictures, such as {next(iter(known))}."
        )
    for name in known:
        if name not in chosen:
            notes.add("pictures without regions: left out", name)
    if settings.images and recorded:
        known = with_fixations([known[name] for name in chosen], recorded, notes)
    found = [Pair(Version(known[name], chosen[name])) for name in known if name in chosen]
    return with_others(found, others, read, settings, notes) if settings.against else found


def pictures(
    images: Iterable[str], settings: RegionsConfig, say: Callable[[str], None]
) -> Iterable[Sample]:
    """Yield each picture of folders, files and globs once, named by its relative path.

    Raises:
        UserError: an argument matches no file, or two pictures have one name.
    """
    seen: dict[str, str] = {}
    for path, name in find_pictures(list(images), settings.recursive, None, settings.output, say):
        if path in seen.values():
            continue
        if name in seen:
            raise UserError(f"{seen[name]} and {path} have one name: name their folders instead.")
        seen[name] = path
        yield Sample(Path(name).as_posix(), Path(path))


def recordings(settings: RegionsConfig, notes: Notes) -> list[Sample]:
    """Return the pictures of the data set with fixations; [] without a data set."""
    if settings.data is None and settings.dataset == RegionsConfig.dataset:
        return []
    loading.refuse_store(settings.data)
    samples, left_out = loading.load_to_score(
        settings.dataset, settings.data, settings.split, BY_SHARES, "drop",
        settings.columns,
    )  # fmt: skip
    for part, why in left_out.items():
        notes.explain(f"The {part} split is left out: {why}")
    if all(sample.fixations is None for sample in samples):
        raise UserError(f"{settings.dataset} has no fixations: leave --dataset and --data away.")
    for sample in samples:
        if sample.outside:
            notes.add("pictures with fixations outside: those are left out", sample.name)
    return samples


def with_fixations(
    samples: list[Sample], recorded: list[Sample], notes: Notes
) -> dict[str, Sample]:
    """Return the pictures by name, with the fixations of the pictures of a data set.

    Raises:
        UserError: two pictures of one name differ in size, or none has fixations.
    """
    by_name: dict[str, list[Sample]] = {}
    for one in recorded:
        for key in {one.name, PurePosixPath(one.name).name, PurePosixPath(one.name).stem}:
            by_name.setdefault(key, []).append(one)
    found = {}
    for sample in samples:
        path = PurePosixPath(sample.name)
        keys = (sample.name, path.name, path.stem)
        fitting = next((by_name[key] for key in keys if key in by_name), [])
        if len(fitting) > 1:
            raise UserError(
                f"{sample.name} is called like {fitting[0].name} and {fitting[1].name} of the data "
                "set."
            )
        if not fitting:
            notes.add("pictures without fixations in the data set", sample.name)
        else:
            own, other = known_shape(sample), known_shape(fitting[0])
            if own and other and own != other:
                raise UserError(
                    f"{sample.image} has {own[1]} x {own[0]} pixels, but its fixations are on "
                    f"{other[1]} x {other[0]} pixels."
                )
            sample = replace(fitting[0], name=sample.name, image=sample.image)
        found[sample.name] = sample
    return found


def with_others(
    found: list[Pair],
    others: list[Sample],
    read: dict[str, Regions],
    settings: RegionsConfig,
    notes: Notes,
) -> list[Pair]:
    """Return the pictures with their other versions, which have the same path without suffix.

    A single picture and a single other version need no equal names.

    Raises:
        UserError: no picture has another version, or a name is ambiguous.
    """
    file, theirs = settings.regions, read
    if settings.against_regions:
        file, theirs = settings.against_regions, regions.read(settings.against_regions)
    by_stem: dict[str, list[Sample]] = {}
    for other in others:
        by_stem.setdefault(_stem(other.name), []).append(other)
    single = len(others) == 1 and len(found) == 1
    assigned, _ = regions.assign(theirs, [other.name for other in others], file)
    made = []
    for pair in found:
        name = pair.own.sample.name
        fitting = others if single else by_stem.get(_stem(name), [])
        if len(fitting) > 1:
            raise UserError(f"{name} has two other versions: {fitting[0].image} and "
                            f"{fitting[1].image}.")  # fmt: skip
        if not fitting:
            notes.add("pictures without another version: not compared", name)
            made.append(pair)
            continue
        own = assigned.get(fitting[0].name, pair.own.regions)
        made.append(Pair(pair.own, Version(fitting[0], own)))
    if all(pair.other is None for pair in made):
        raise UserError(
            f"--against {settings.against} holds no picture called like {found[0].own.sample.name} "
            "or another picture with regions."
        )
    return made


def _stem(name: str) -> str:
    """Return a path without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))
