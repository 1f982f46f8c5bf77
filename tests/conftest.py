"""Shared by all tests: a quiet backend, a private cache, tiny settings, one tiny trained model."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # as main.py has it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as main.py has it for scoring
# XLA's and oneDNN's own threads would make tiny models slower on two cores, not faster
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# JAX compiles a tiny network for longer than it runs: without optimisation it takes half the time
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import cv2
import numpy as np
import pytest
from hypothesis import settings

# a processor as two devices, for JAX in a process of its own
TWO_DEVICES = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
# the first runs in an environment of its own, the second needs PyTorch
collect_ignore = ["helpers/pysaliency_probe.py", "helpers/torch_trunks.py"]
PROJECT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SALIENCY_DATA", PROJECT.parent / "shared" / "data"))
VGG16 = SHARED.parent / "weights" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
TINY = {
    "dataset": "synthetic",
    "rows": 48,
    "cols": 64,
    "width": 0.05,
    "backbone_weights": "none",
    "batch_size": 4,  # divides the numbers of scenes: another size is another graph to trace
    "epochs": 1,
    "loss": "kld",
    "optimizer": "adam",
}

# in memory where Linux offers it: a disk takes milliseconds to remove each of thousands of folders
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4e9:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
SMALL = ("curation", "data", "measures", "pictures")  # folders whose files take seconds each
# of the browser that looks at pages: it asks nobody for anything of its own
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# how long an example takes depends on what else the machine does
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that mostly wait, and end with small ones, which fill the last gaps."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return item.get_closest_marker("waits") is None, item.path.parent.name in SMALL

    items.sort(key=place)


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where real data is absent; never where CI found the folder."""
    absent = not path.exists() and "REQUIRE_REAL_DATA" not in os.environ
    return pytest.mark.skipif(absent, reason=f"real data: {path} is absent")


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts():
    """Heed Ctrl-C, also where a shell runs the tests in the background, which has it ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Keep the tests out of the user's cache."""
    os.environ["SALIENCY_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def few_synthetic_scenes(monkeypatch):
    """Make an epoch over the synthetic set a matter of milliseconds."""
    from salience.data.sets import synthetic

    monkeypatch.setattr(synthetic, "COUNTS", {"train": 12, "val": 4, "test": 4})


@pytest.fixture(autouse=True)
def no_shipped_weights(monkeypatch, tmp_path):
    """Keep the weights that come with the program out of the tests' own folders."""
    from salience.networks import weight_files

    monkeypatch.setattr(weight_files, "SHIPPED", tmp_path / "none.weights.h5")


@pytest.fixture(autouse=True)
def few_figures(request, monkeypatch):
    """Draw no figures of an epoch, which take a quarter of a tiny training's time, unless asked."""
    epochs = sys.modules.get("commands.training.epochs")  # to import it takes seconds
    if epochs and "figures" not in request.keywords:
        monkeypatch.setattr(epochs.Epochs, "draw", lambda *about: None)


@pytest.fixture(autouse=True)
def no_calibration(request, monkeypatch):
    """Fit no calibration after a tiny training, which takes as long as that, unless asked."""
    train = sys.modules.get("commands.training.train")  # to import it takes seconds
    if train and "calibration" not in request.keywords:
        monkeypatch.setattr(train, "calibrate", lambda *about: None)


@pytest.fixture(autouse=True)
def eager_steps(request, monkeypatch):
    """Train and predict without graphs, unless asked: to trace one takes as long as 20 steps."""
    keras = sys.modules.get("keras")  # to import it takes seconds
    if keras and "graphs" not in request.keywords:
        always = property(lambda model: True, lambda model, value: None)
        monkeypatch.setattr(keras.Model, "run_eagerly", always)


@pytest.fixture(autouse=True)
def one_rehearsal(monkeypatch):
    """Rehearse the reading of HDF5 files in one process: a new one takes a third of a second."""
    import rehearsal

    monkeypatch.setattr("salience.data.hdf5.reads_safely", rehearsal.survives)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def tiny(tmp_path):
    """Return a function that makes a config of seconds, in a folder of its own."""
    from config import Config

    def make(**changes):
        folders = {"output": tmp_path / "run", "weights_dir": tmp_path / "weights"}
        return Config(**{**TINY, **folders, **changes})

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return the weights file of a tiny trained model."""
    from commands.training import train as training
    from config import Config

    folder = tmp_path_factory.mktemp("trained")
    config = Config(**TINY, output=folder / "run", weights_dir=folder / "weights")
    with pytest.MonkeyPatch.context() as patch:
        from salience.data.sets import synthetic

        patch.setattr(synthetic, "COUNTS", {"train": 12, "val": 4, "test": 4})
        patch.setattr(training, "calibrate", lambda *about: None)
        training.train(config, say=lambda line: None)
    return folder / "weights" / f"{config.name}.weights.h5"


@pytest.fixture
def picture(rng):
    """Return a function that makes a smooth random BGR picture."""

    def make(rows=30, cols=40):
        noise = rng.integers(0, 256, (rows, cols, 3), dtype=np.uint8)
        return cv2.GaussianBlur(noise, (0, 0), 3)

    return make


@pytest.fixture
def pictures(tmp_path, picture):
    """Return a folder with two pictures and a sub-folder with one."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name, shape in (("a.jpg", (30, 40)), ("b.png", (50, 35)), ("sub/c.jpg", (24, 64))):
        cv2.imwrite(str(folder / name), picture(*shape))
    return folder


@pytest.fixture
def shell(tmp_path):
    """Return a function that runs main.py in a fresh process, in an empty folder."""

    def run(*words, code=0, **environment):
        # as a user's shell has it: no log level set, so that the program's own silence is tested
        inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        done = subprocess.run(
            [sys.executable, str(PROJECT / "main.py"), *map(str, words)],
            cwd=tmp_path,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Return a function that runs main.py in this process, in an empty folder.

    What depends on a process of its own, such as what libraries print when imported, needs `shell`.
    """
    from main import main

    def run(*words, code=0):
        monkeypatch.chdir(tmp_path)
        printed, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
            try:
                ended = main([str(word) for word in words])
            except SystemExit as left:  # argparse
                ended = left.code
        done = subprocess.CompletedProcess(words, ended, printed.getvalue(), complained.getvalue())
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium; where there is none the test is skipped, never in CI."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    chromium = next((path for path in found if path), None)
    if chromium is None and "REQUIRE_CHROMIUM" not in os.environ:
        pytest.skip("no Chromium here: apt-get install chromium")
    assert chromium, "REQUIRE_CHROMIUM is set, but there is no chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield started
        started.close()


def write_film(path, count=10, shape=(48, 64), rate=10.0):
    """Write a video of a bright blob that goes from left to right over a dark ground."""
    codec = {".avi": "MJPG", ".mp4": "mp4v"}[path.suffix]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), rate, shape[::-1]
    )
    assert writer.isOpened()
    for i in range(count):
        frame = np.full((*shape, 3), (60, 40, 30), np.uint8)
        centre = (round((i + 0.5) / count * shape[1]), shape[0] // 2)
        cv2.circle(frame, centre, max(1, shape[0] // 8), (240, 240, 240), -1)
        writer.write(frame)
    writer.release()
    return path
