"""Says which packages of the locks have known vulnerabilities: a report, which fails no build.

    python .ci/audit.py requirements/dev.lock ...

Run it in an environment that has pip-audit (`make audit`). The advisories of PyPI are asked, and
OSV's where those cannot be had; what nobody could be asked about is said to be unknown, not good.
"""

import json
import subprocess
import sys
from typing import Any

SERVICES = ("pypi", "osv")
SECONDS = 600  # for one lock


def ask(lock: str, service: str) -> list[dict[str, Any]]:
    """Return what a service says of each package of a lock; nothing where it cannot be asked."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--disable-pip",
               "--vulnerability-service", service, "--format", "json", "--timeout", "10",
               "--progress-spinner", "off"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        return json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []


def report(lock: str, asked: list[dict[str, Any]]) -> list[str]:
    """Return the lines that say what is known of a lock.

    >>> report("a.lock", [{"name": "x", "version": "1", "vulns": []}, {"name": "y"}])
    ['a.lock: 1 of 2 packages audited, 0 known vulnerabilities; unknown: y']
    """
    audited = [package for package in asked if "vulns" in package]
    if not audited:
        return [f"{lock}: no advisory service could be asked, so nothing is known of it"]
    found = [(package, flaw) for package in audited for flaw in package["vulns"]]
    unknown = [package["name"] for package in asked if "vulns" not in package]
    lines = [
        f"{lock}: {len(audited)} of {len(asked)} packages audited, {len(found)} known "
        "vulnerabilities" + (f"; unknown: {', '.join(unknown)}" if unknown else "")
    ]
    for package, flaw in found:
        mended = ", ".join(flaw["fix_versions"]) or "no version yet"
        lines.append(f"  {package['name']} {package['version']}: {flaw['id']}, mended in {mended}")
    return lines


def main() -> None:
    """Print the report."""
    for lock in sys.argv[1:]:
        asked: list[dict[str, Any]] = []
        for service in SERVICES:
            asked = ask(lock, service)
            if any("vulns" in package for package in asked):
                break
        print("\n".join(report(lock, asked)), flush=True)


if __name__ == "__main__":
    main()
