"""The notebook of examples/: it is one, it is clean, and its cells run from top to bottom.

They run as a script in a process of their own: a kernel of Jupyter would bring some 30 packages,
and they use nothing that it alone knows.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT

NOTEBOOK = PROJECT / "examples" / "quickstart.ipynb"
SHIPPED = PROJECT / "weights" / "mlnet-osie.weights.h5"


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_a_notebook_without_outputs(notebook):
    """Exactly the fields that format 4.5 asks for, so that every reader of it takes the file."""
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"].keys() == {"name", "display_name", "language"}
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in names)
    common = {"cell_type", "id", "metadata", "source"}
    for cell in notebook["cells"]:
        assert all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell.keys() == common | {"execution_count", "outputs"}
            assert cell["execution_count"] is None
            assert cell["outputs"] == []
        else:
            assert cell["cell_type"] == "markdown"
            assert cell.keys() == common


def run(notebook, folder):
    """Run the cells as a script, from a folder beside a copy of what they need; see what came."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(line.startswith(("%", "!")) for cell in cells for line in cell.splitlines())
    told = "import json\nprint(json.dumps({**scores, 'shape': saliency_map.shape}))"
    script = folder / "quickstart.py"
    script.write_text("\n\n".join([*cells, told]), encoding="utf-8")
    # as Jupyter has it: the folder of the notebook is the current one
    return subprocess.run(
        [sys.executable, "-W", "error:::__main__", str(script)],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_its_cells_run(notebook, trained, tmp_path):
    """With the weights that the program brings, where they are there, or else with tiny ones."""
    if not SHIPPED.exists():
        (tmp_path / "weights").mkdir()
        shutil.copy(trained, tmp_path / "weights")
    done = run(notebook, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [512, 512]
    assert -1 <= found["CC"] <= 1
    assert 0 <= found["AUC-Judd"] <= 1
    assert found["NSS"] == pytest.approx(found["NSS"])  # no NaN
