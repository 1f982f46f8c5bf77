"""What is installed: the locks, their licences, and what is known of their flaws."""

import doctest
import importlib.util
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from conftest import PROJECT

PARTS = ("base", "dev", "engines", "backends", "audit", "demo", "dinov2")


def script(name):
    spec = importlib.util.spec_from_file_location(name, PROJECT / ".ci" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


licences, audit = script("licences"), script("audit")


@pytest.mark.parametrize("module", [licences, audit], ids=lambda module: module.__name__)
def test_the_examples_hold(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def wanted(part):
    """Return the pins of a requirements file, {name: version}."""
    file = "requirements.txt" if part == "base" else f"requirements/{part}.txt"
    text = (PROJECT / file).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = dict(line.partition(";")[0].split("==") for line in lines if not line.startswith("-r "))
    for line in lines:
        if line.startswith("-r "):
            assert line == "-r ../requirements.txt"
            pins |= wanted("base")
    return {licences.normal(name): version for name, version in pins.items()}


def lock_of(part):
    return PROJECT / f"requirements/{part}.lock"


@pytest.mark.parametrize("part", PARTS)
def test_a_lock_holds_what_its_requirements_ask_for(part):
    by_name = {}
    for pin in licences.locked(lock_of(part)):
        by_name.setdefault(pin.name, set()).add(pin.version)
    assert {name: by_name.get(name) for name in wanted(part)} == {
        name: {version} for name, version in wanted(part).items()
    }


@pytest.mark.parametrize("part", PARTS)
def test_each_entry_of_a_lock_has_a_version_and_hashes(part):
    """Nor is anything built: that would fetch tools which no lock names."""
    text = lock_of(part).read_text()
    assert "\n--only-binary :all:\n" in text
    entries = re.split(r"\n(?=[^\s#-])", text)[1:]
    assert len(entries) == len(licences.locked(lock_of(part))) >= len(wanted(part))
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+( ; [^\\]+)? \\\n    --hash=sha256:[0-9a-f]{64}\b", entry)


def test_the_locks_agree_with_each_other():
    """So that several go into one environment."""
    for python in licences.PYTHONS:
        versions = {}
        for pin in licences.all_locked():
            if pin.is_for(python):
                versions.setdefault(pin.name, set()).add(pin.version)
        assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_only_locked_packages_are_installed_by_make_and_ci():
    """But for a CI that does not reach PyTorch's CPU build, which is told."""
    for line in (PROJECT / "Makefile").read_text().replace("\\\n", " ").splitlines():
        assert "pip install" not in line or "--require-hashes" in line, line
        assert "-r requirements" not in line or ".txt" not in line, line
    run = (PROJECT / ".ci" / "run").read_text().replace("\\\n", " ")
    first, told, second = (run.index(text) for text in (" --require-hashes ", "echo ", ".txt -r"))
    assert first < told < second
    makefile = (PROJECT / "Makefile").read_text()
    assert ".venv/installed: requirements/dev.lock\n" in makefile
    assert "$(BIN)/$(INSTALL) -r $<\n" in makefile


@pytest.fixture(scope="module")
def listed():
    """Return the table of docs/LICENCES.md, {(name, version): (licence, kind)}."""
    text = licences.TABLE.read_text().partition(licences.HEADING)[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[1:]]
    assert rows[0][:2] == ["package", "version"]
    return {(name, version): (stated, kind) for name, version, stated, kind in rows[2:]}


def test_the_table_lists_exactly_what_is_locked(listed):
    assert sorted(listed) == [(pin.name, pin.version) for pin in licences.all_locked()]


def test_every_licence_allows_any_use(listed):
    for package, (stated, kind) in listed.items():
        assert licences.kind(stated) == kind, package
    by_agreement = [name for (name, _), (_, kind) in listed.items() if "agreement" in kind]
    # only with PyTorch's CUDA build, which the CPU build that is tested does not need
    assert all(re.match(r"nvidia-|cuda-", name) for name in by_agreement)
    for pin in licences.locked(lock_of("backends")):
        assert pin.name not in by_agreement or "platform_machine == 'x86_64'" in pin.marker


def test_what_is_installed_states_what_the_table_says(listed):
    compared = 0
    for (name, version), (stated, _) in listed.items():
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if found.version.partition("+")[0] == version and (name, version) not in licences.READ:
            assert licences.installed_licence(found.metadata) == stated, name
            compared += 1
    assert compared > 50


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "GPL-3.0-or-later",
        "GNU General Public License v3 (GPLv3)",
        "MIT AND AGPL-3.0-only",
        "BUSL-1.1",
        "CC-BY-NC-4.0",
        "Other/Proprietary License",
        "SSPL-1.0 OR AGPL-3.0",
    ],
)
def test_a_licence_that_forbids_something_is_refused(stated):
    assert licences.kind(stated) is None
    with pytest.raises(SystemExit, match=r"None of KINDS: some 1\.0"):
        licences.table({("fine", "2"): "MIT", ("some", "1.0"): stated})


@pytest.mark.parametrize(
    ("metadata", "stated", "kind"),
    [
        ({"license_expression": "MIT", "license": "GPL"}, "MIT", "permissive"),
        ({"license": "\n BSD 3-Clause \n\nCopyright"}, "BSD 3-Clause", "permissive"),
        (
            {"classifier": ["License :: OSI Approved", "License :: OSI Approved :: MIT License"]},
            "MIT License",
            "permissive",
        ),
        ({"license_expression": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT", "weak copyleft"),
        ({"license_expression": "GPL-2.0 OR MIT"}, "GPL-2.0 OR MIT", "permissive"),
        ({}, "", None),
    ],
)
def test_a_licence_is_read_where_it_is_stated_best(metadata, stated, kind):
    assert licences.licence({"name": "some", **metadata}) == stated
    assert licences.kind(stated) == kind


def test_the_audit_says_what_is_flawed_and_what_is_unknown():
    flaw = {"id": "PYSEC-1", "fix_versions": ["1.2", "2.0"]}
    asked = [
        {"name": "a", "version": "1.0", "vulns": [flaw, {"id": "PYSEC-2", "fix_versions": []}]},
        {"name": "b", "version": "2.0", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]
    assert audit.report("x.lock", asked) == [
        "x.lock: 2 of 3 packages audited, 2 known vulnerabilities; unknown: c",
        "  a 1.0: PYSEC-1, mended in 1.2, 2.0",
        "  a 1.0: PYSEC-2, mended in no version yet",
    ]


@pytest.mark.parametrize("asked", [[], [{"name": "c", "skip_reason": "not found"}]])
def test_an_audit_that_could_ask_nobody_does_not_say_that_all_is_well(asked):
    """pip-audit itself then says "No known vulnerabilities found", or dies."""
    (line,) = audit.report("x.lock", asked)
    assert line == "x.lock: no advisory service could be asked, so nothing is known of it"


def test_an_audit_without_its_tool_is_no_good_news(monkeypatch):
    monkeypatch.setattr(audit.sys, "executable", "false")
    assert audit.ask("x.lock", "pypi") == []
