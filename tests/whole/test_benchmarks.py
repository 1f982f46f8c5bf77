"""Benchmarks that are run seldom, or on another machine, work: here with tiny networks."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import PROJECT

GPU = PROJECT / "benchmarks" / "gpu.sh"
ROWS = {
    **{f"step, {kind}, {p}": True for kind in ("finetuned", "frozen") for p in ("bf16", "float32")},
    **{f"step, {kind}, bf16, plain PyTorch": False for kind in ("finetuned", "frozen")},
    "step, finetuned, bf16, Keras on PyTorch": False,
    **{f"step, finetuned, float32, {h}": True for h in ("compiled before", "no autotuning")},
    "train, finetuned, last epoch": True,
    **{f"train, frozen, feature cache {c}, last epoch": True for c in ("off", "on", "auto")},
    "the feed alone, 2 threads": True,
    "test, 8 pictures": True,
    "evaluate, first": True,
}


def needed(package):
    if find_spec(package) is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip(f"{package} is not installed")


def run(*words, code=0, **environment):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def cells_of(table):
    lines = [line.strip("| \n").split(" | ") for line in table.splitlines() if line[:1] == "|"]
    return {name: [cell.strip() for cell in cells] for name, *cells in lines[2:]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--data: give OSIE's folder, or --tiny"),
        (["--data"], "--data: a value is missing"),
        (["--data", "no/folder"], "--data: there is no no/folder"),
        (["--rows", "3"], "--rows: unknown. Usage: benchmarks/gpu.sh --data OSIE"),
    ],
)
def test_the_table_of_a_gpu_needs_its_data(words, said):
    done = run("bash", GPU, *words, code=2)
    assert done.stderr.startswith(said)
    assert not done.stdout


@pytest.mark.slow
def test_the_table_of_a_gpu_is_whole_on_a_cpu():
    needed("jax")
    done = run("bash", GPU, "--tiny", PYTHON=sys.executable, KERAS_BACKEND="jax")
    assert "NOT MEASURED" not in done.stdout
    found = cells_of(done.stdout)
    assert found.keys() >= ROWS.keys()
    for name, is_ours in ROWS.items():
        assert not is_ours or float(found[name][0].replace(",", "")) > 0
    assert " to compute, " in found["train, frozen, feature cache auto, last epoch"][-1]
    assert ", KERAS_BACKEND=jax, " in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_peers_are_the_published_networks():
    """MSI-Net has the 24,934,209 weights of its code, UNISAL the encoder of MobileNetV2."""
    needed("torch")
    from benchmarks.peers import PEERS, PRIORS, msinet, peer, unisal

    def count(*parts):
        return sum(weight.numel() for part in parts for weight in part.parameters())

    assert count(msinet()) == 24_934_209
    network = unisal()
    assert count(network.first, network.blocks, network.encoded) == 2_223_872
    assert len(PRIORS) == 16
    maps = network.prior_maps(9, 13).detach().numpy()
    centred = maps[4]  # the first nine are narrow, at the nine places of a grid
    assert np.unravel_index(centred.argmax(), centred.shape) == (4, 6)
    assert np.allclose(centred, centred[::-1, ::-1])
    x = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    for name in PEERS:
        maps = peer(name)(x)
        assert maps.shape == (2, 96, 128, 1)
        if name == "UNISAL":
            assert np.exp(maps).sum((1, 2, 3)) == pytest.approx(1, abs=1e-3)
        else:
            assert (maps.min((1, 2, 3)), maps.max((1, 2, 3))) == (
                pytest.approx(0),
                pytest.approx(1, abs=1e-4),
            )


@pytest.mark.slow
def test_peers_are_compared_in_one_table():
    needed("torch")
    done = run(
        *(sys.executable, PROJECT / "benchmarks" / "peers.py", "--pictures", 2, "--rounds", 1),
        *("--rows", 48, "--cols", 64, "--engines", "ncnn"),
    )
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [(name.strip("| "), engine) for name, engine, *_ in lines] == [
        ("MSI-Net", "PyTorch"),
        ("UNISAL", "PyTorch"),
        ("ML-Net, ours", "ncnn"),
    ]
    for *_, speed, processor, memory, first, start in lines:
        assert min(map(float, (speed, processor, memory, first, start.strip("| ")))) > 0
