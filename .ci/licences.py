"""Writes the table of packages in docs/LICENCES.md: what the locks hold, and under which licence.

    python .ci/licences.py

Licences are those that packages state of themselves. pip asks its index for them, and downloads
nothing. A licence that is not among KINDS ends it: a person reads it first.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageMetadata
from pathlib import Path

from packaging.markers import Marker

PROJECT = Path(__file__).resolve().parent.parent
TABLE = PROJECT / "docs" / "LICENCES.md"
HEADING = "## Packages\n"
# What a package of the locks may be under, as it is stated: anybody may use, change and pass on the
# program with it, also for money. Not here, so refused: GPL and AGPL, what forbids commercial use,
# what states nothing.
KINDS = {
    "permissive": (
        "0BSD", "3-Clause BSD", "Apache", "BSD", "BSL-1.0", "CC0", "CNRI-Python", "HPND", "ISC",
        "MIT", "PSF", "Python Software Foundation", "Unlicense", "Zlib",
    ),
    # changes of the package itself stay open; using it asks for nothing
    "weak copyleft": ("MPL", "Mozilla Public License", "LGPL"),
    # proprietary, free of charge; only PyTorch's CUDA build brings them, for NVIDIA's GPUs
    "NVIDIA's agreement": ("LicenseRef-NVIDIA", "NVIDIA Proprietary"),
}  # fmt: skip
# the least and the newest Python of the locks, and where pip is to think that it is
PYTHONS = ("3.11", "3.13")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + [
    f"manylinux{year}_x86_64" for year in (1, 2010, 2014)
]
# what states nothing to the index; read in the package's own repository or licence file
READ = {
    ("atheris", "3.0.0"): "Apache-2.0",
    ("axe-playwright-python", "0.1.8"): "MIT AND MPL-2.0",  # axe-core, inside it, is the latter
    ("namex", "0.1.0"): "Apache-2.0",
    ("cuda-toolkit", "13.0.3.0"): "NVIDIA Proprietary",  # empty: it names the packages of NVIDIA
}
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ; (.+?))? \\$", re.M)


@dataclass(frozen=True)
class Pin:
    """A package of a lock, at one version.

    Attributes:
        name: as the index writes it, in lower case with hyphens.
        version: without the mark of a build, such as `+cpu`.
        marker: on which machines; "" for all.
    """

    name: str
    version: str
    marker: str = ""

    def is_for(self, python: str) -> bool:
        """Return whether a Python on Linux, macOS or Windows takes it."""
        where = {"python_version": python, "python_full_version": f"{python}.0"}
        return not self.marker or any(
            Marker(self.marker).evaluate(
                {**where, "platform_machine": "x86_64", "sys_platform": system}
            )
            for system in ("linux", "darwin", "win32")
        )


def locked(lock: Path) -> list[Pin]:
    """Return the packages of a lock."""
    found = [Pin(name, version, marker) for name, version, marker in PIN.findall(lock.read_text())]
    return [Pin(pin.name, pin.version.partition("+")[0], pin.marker) for pin in found]


def all_locked() -> list[Pin]:
    """Return the packages of all locks that some machine takes, by name and version."""
    pins = [pin for path in PROJECT.glob("requirements/*.lock") for pin in locked(path)]
    taken = [pin for pin in pins if any(map(pin.is_for, PYTHONS))]  # none is a browser
    found = {(pin.name, pin.version): pin for pin in taken}
    return [found[key] for key in sorted(found)]


def licence(metadata: dict) -> str:
    """Return the licence that a package states: an SPDX expression, else what it is filed under.

    Args:
        metadata: as pip's report has it: `license_expression`, `classifier`, `license`.
    """
    if expression := metadata.get("license_expression"):
        return expression
    filed = [
        line.split(" :: ")[-1]
        for line in metadata.get("classifier", [])
        if line.startswith("License ::") and not line.endswith(":: OSI Approved")
    ]
    if filed == ["Other/Proprietary License"] and metadata["name"].startswith("nvidia-"):
        return "NVIDIA Proprietary"
    if filed:
        return "; ".join(filed)
    lines = [line.strip() for line in metadata.get("license", "").splitlines() if line.strip()]
    return lines[0].replace("|", "/")[:80] if lines else ""


def installed_licence(metadata: PackageMetadata) -> str:
    """Return the licence that an installed package states."""
    return licence(
        {
            "name": metadata["Name"],
            "license_expression": metadata.get("License-Expression"),
            "classifier": metadata.get_all("Classifier", []),
            "license": metadata.get("License", ""),
        }
    )


def kind(stated: str) -> str | None:
    """Return which of KINDS a licence is; None for one that is refused.

    Of licences joined by OR one must be known, of those joined otherwise each.

    >>> kind("Apache-2.0 AND (MIT OR GPL-3.0-only)"), kind("AGPL-3.0"), kind("")
    ('permissive', None, None)
    """
    worst = 0
    for part in re.split(r"; | AND |,", stated):
        kinds = [
            number
            for choice in re.split(r" OR ", part)
            for number, names in enumerate(KINDS.values())
            if re.match(rf"\(*(the )?({'|'.join(names)})", choice.strip(), re.I)
        ]
        if not kinds:
            return None
        worst = max(worst, min(kinds))
    return list(KINDS)[worst]


def stated_licences(pins: list[Pin], python: str) -> dict[tuple[str, str], str]:
    """Return what pip's index says of packages, by name and version."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        wanted.write_text("\n".join(f"{pin.name}=={pin.version}" for pin in pins))
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
             "--no-deps", "--only-binary", ":all:", "--python-version", python, *platforms,
             "--target", folder, "--report", report, "-r", wanted],
            check=True,
        )  # fmt: skip
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    by_name = {normal(m["name"]): licence(m) for m in found}
    return {(p.name, p.version): by_name[p.name] or READ.get((p.name, p.version), "") for p in pins}


def normal(name: str) -> str:
    """Return a package's name as the locks have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def table(licences: dict[tuple[str, str], str]) -> str:
    """Return the table; every licence in it is of one of KINDS.

    Raises:
        SystemExit: one is not.
    """
    unknown = [f"{n} {v}: {stated!r}" for (n, v), stated in licences.items() if not kind(stated)]
    if unknown:
        raise SystemExit("None of KINDS: " + ", ".join(unknown))
    rows = ["| package | version | licence, as it states it | kind |", "| --- | --- | --- | --- |"]
    for (name, version), stated in sorted(licences.items()):
        rows.append(f"| {name} | {version} | {stated} | {kind(stated)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the table anew; what stands above it stays."""
    licences: dict[tuple[str, str], str] = {}
    for python in PYTHONS:
        new = [p for p in all_locked() if p.is_for(python) and (p.name, p.version) not in licences]
        licences |= stated_licences(new, python) if new else {}
    above = TABLE.read_text().partition(HEADING)[0]
    TABLE.write_text(f"{above}{HEADING}\n{table(licences)}")


if __name__ == "__main__":
    main()
