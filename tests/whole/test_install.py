"""Installed, the program runs from any folder by its own name, with the network in the box."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import cv2
import pytest
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from salience.system.code_digest import OURS

STATED = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
TRAINING = "train"  # the extra that stands in requirements.txt
EXTRAS = {
    "jax": "backends", "torch": "backends", "onnx": "engines", "demo": "demo", "dinov2": "dinov2",
    "dev": "dev",
}  # fmt: skip
OF_TESTS = {"pytest", "hypothesis"}  # they stand in requirements.txt, and are in the extra dev
COMPARED = {"torchvision"}  # networks that tests compare with: in a requirements file alone
# what comes with the packages named: Keras' backend is chosen among them, Gradio's page is served,
# and keras-hub's weights are fetched
BROUGHT_ALONG = {"fastapi": "gradio", "uvicorn": "gradio", "kagglehub": "keras-hub"}


def stated(extra=None):
    project = STATED["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = {canonicalize_name(r.name): r for r in map(Requirement, texts)}
    own = found.pop(project["name"], None)  # an extra that includes another
    assert own is None or own.extras == {TRAINING}
    return found


def pinned(file):
    lines = (PROJECT / file).read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if line and not line.startswith(("#", "-r"))]
    return {canonicalize_name(r.name): str(r.specifier)[2:] for r in map(Requirement, texts)}


def test_what_is_installed_is_what_is_tested():
    """Each package of pyproject.toml has a pin that it admits, and none is missing."""
    asked, pins = {**stated(), **stated(TRAINING)}, pinned("requirements.txt")
    assert asked.keys() == pins.keys() - OF_TESTS
    extras = {extra: stated(extra) for extra in EXTRAS}
    for file in sorted(set(EXTRAS.values())):
        theirs = {n for extra, part in EXTRAS.items() if part == file for n in extras[extra]}
        assert theirs - OF_TESTS == pinned(f"requirements/{file}.txt").keys() - COMPARED
        pins |= pinned(f"requirements/{file}.txt")
    for name, requirement in {
        **asked,
        **{n: r for e in extras.values() for n, r in e.items()},
    }.items():
        assert requirement.specifier.contains(pins[name]), name


def test_every_package_that_is_imported_is_named():
    places = packages_distributions()
    extras = (TRAINING, *(extra for extra in EXTRAS if extra != "dev"))
    named = {*stated(), *(name for extra in extras for name in stated(extra))}
    for where in (*(f"{module}.py" for module in OURS), "commands/**/*.py", "salience/**/*.py"):
        for path in PROJECT.glob(where):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in {name.split(".")[0] for name in names}:
                    if name in sys.stdlib_module_names or name in OURS:
                        continue
                    found = {BROUGHT_ALONG.get(name, name), *places.get(name, ())}
                    assert named & set(map(canonicalize_name, found)), (name, path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The program's wheel, built of what git keeps and not of what lies about."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True)
    for name in filter(None, done.stdout.decode().split("\0")):
        if (PROJECT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, source / name)
    words = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        made,
        source,
    ]
    subprocess.run([sys.executable, *words], check=True)
    (found,) = made.glob("salience-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_program_its_pages_and_the_networks_in_the_box(wheel):
    assert wheel.name.split("-")[1] == STATED["project"]["version"]
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    kept = {
        str(path.relative_to(PROJECT))
        for where in (*(f"{module}.py" for module in OURS), "commands/**/*.*", "salience/**/*.*")
        for path in PROJECT.glob(where)
        if path.suffix != ".pyc"
    }
    included = {f"weights/{name}-osie" for name in ("mlnet", "multiscale")}
    assert names == kept | {n + suffix for n in included for suffix in (".weights.h5", ".json")}


def predicted(program, folder, **environment):
    """Have the installed program predict a picture from an empty folder."""
    folder.mkdir()
    picture = folder / "picture.png"
    cv2.imwrite(
        str(picture), cv2.imread(str(PROJECT / "docs/pictures/predictions.jpg"))[:200, :300]
    )
    done = subprocess.run(
        [program, "test", "picture.png", "--overlay"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "SALIENCY_CACHE": str(folder / "cache"), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mlnet-osie.weights.h5" in done.stdout
    assert re.search(r"1 maps? written to predictions/", done.stdout)
    shown = cv2.imread(str(folder / "predictions/picture.png"), cv2.IMREAD_GRAYSCALE)
    assert shown.shape == (200, 300) and shown.max() == 255 and shown.std() > 10
    assert cv2.imread(str(folder / "predictions/picture.overlay.png")) is not None


@pytest.mark.slow
def test_installed_it_predicts_from_an_empty_folder(wheel, tmp_path):
    """Beside the packages that the tests have, since to fetch these anew takes minutes."""
    room = tmp_path / "environment"
    venv.create(room, with_pip=True)
    python = room / "bin/python"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([python, *words], check=True)
    (packages,) = room.glob("lib/python*/site-packages")
    theirs = Path(sys.prefix).glob("lib/python*/site-packages")
    (packages / "theirs.pth").write_text("\n".join(map(str, theirs)))
    predicted(room / "bin/salience", tmp_path / "elsewhere")


@pytest.mark.slow
def test_in_an_empty_environment_it_brings_what_it_needs(wheel, tmp_path):
    room = tmp_path / "environment"
    venv.create(room, with_pip=True)
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    subprocess.run([room / "bin/python", *words], check=True)
    (packages,) = room.glob("lib/python*/site-packages")
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size < 700e6, f"{size / 1e6:.0f} MB"
    assert not (packages / "keras").exists() and not (packages / "tensorflow").exists()
    predicted(room / "bin/salience", tmp_path / "elsewhere", PYTHONPATH="")
    # what needs a backend says how to get one
    done = subprocess.run(
        [room / "bin/salience", "train", "--dataset", "synthetic"], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert "keras is not installed" in done.stderr and '".[train]"' in done.stderr
