"""Files of strangers: nothing in them is run, and what they claim is not believed."""

import ast
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib

import h5py
import layouts
import numpy as np
import pytest
import rehearsal
from conftest import PROJECT
from scipy.io import loadmat, savemat

import config
from commands.evaluation.score_log import ScoreLog
from commands.preflight import from_tf_config
from salience.data import fixation_files, hdf5, store
from salience.data import mat as _mat
from salience.data import points as _points
from salience.data.sets import cat2000, salicon
from salience.networks import foreign_weights, weight_files
from salience.system import archives, arrays, files
from salience.system.errors import LONGEST, UserError

SOURCES = [
    path
    for where in ("*.py", "commands/**/*.py", "salience/**/*.py")
    for path in PROJECT.glob(where)
]
UNPICKLERS = {
    "pickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "cloudpickle",
    "yaml",
    "code",
}


def calls(path):
    """Yield the dotted name and the arguments by name of each call in a source."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func), given


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_no_source_runs_what_a_file_holds(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & UNPICKLERS
    for name, given in calls(path):
        assert name not in ("eval", "exec", "compile", "__import__", "torch.load", "os.system"), (
            name
        )
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", name
        if name.endswith(("models.load_model", "saving.load_model", "keras.load_model")):
            assert given.get("safe_mode") == "True", name
        assert given.get("shell", "False") == "False"


def test_the_rule_on_sources_finds_what_it_forbids(tmp_path):
    source = tmp_path / "a.py"
    for text in ("import pickle", "eval('1')", "np.load(a)", "keras.saving.load_model(a)",
                 "from joblib import load", "torch.load(a)", "run(a, shell=True)"):  # fmt: skip
        source.write_text(text)
        with pytest.raises(AssertionError):
            test_no_source_runs_what_a_file_holds(source)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def lambda_network(path, touched):
    """Write a .keras file whose layer makes a folder where it is called."""
    import keras

    made = str(touched)
    inputs = keras.Input((4,))
    layer = keras.layers.Lambda(lambda x: (__import__("os").mkdir(made), x)[1])
    keras.Model(inputs, layer(inputs)).save(path)
    touched.rmdir()
    keras.saving.load_model(path, safe_mode=False)  # the payload is one
    touched.rmdir()


def function_handle(kind):
    """Return a .mat file whose variable is of a class that MATLAB alone understands."""
    buffer = io.BytesIO()
    savemat(buffer, {"fixLocs": np.eye(4)})
    data = bytearray(buffer.getvalue())
    at = data.index(struct.pack("<II", 6, 8)) + 8  # the flags of the array
    data[at] = kind
    return bytes(data)


def written(path, kind, touched):
    """Write weights of a stranger that would run code where they are believed."""
    if kind == "lambda":
        lambda_network(path, touched)
    elif kind == "mat":
        path.write_bytes(function_handle(16))
    elif kind == "npy":
        np.save(path, np.array([Touches(touched)], object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Touches(touched)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("lambda", "a.keras"), ("pickle", "a.weights.h5"), ("npy", "a.npy"), ("mat", "a.mat")],
)
def test_weights_that_would_run_code_are_refused_and_run_none(cli, tmp_path, pictures, kind, name):
    touched, path = tmp_path / "touched", tmp_path / name
    written(path, kind, touched)
    for words in (
        ("test", pictures, "--weights", path),
        ("convert", path, tmp_path / "b.weights.h5"),
    ):
        done = cli(*words, code=2)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert str(path) in done.stderr
        assert not touched.exists()


def test_arrays_of_objects_are_refused_and_run_nothing(tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "a.npy"
    written(path, "npy", touched)
    np.savez(tmp_path / "a.npz", fixations=np.array([Touches(touched)], object), allow_pickle=True)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError, match=r"a\.np. cannot be read as an array"):
            fixation_files.parse(tmp_path / name, tmp_path / "a.png")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("kind", "said"),
    [(3, "an object"), (16, "a function handle"), (17, "an object"), (18, "class 18")],
)
def test_matlabs_functions_and_objects_are_refused(tmp_path, kind, said):
    path = tmp_path / "a.mat"
    path.write_bytes(function_handle(kind))
    with pytest.raises(UserError, match=f"'fixLocs' holds {said}, which is not read"):
        cat2000.parse_mat(path)


# what is claimed


def test_a_message_is_bounded(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"x" * 10**6: 1}))
    with pytest.raises(UserError, match="unknown field") as caught:
        config.read_settings(tmp_path / "a.json")
    assert len(str(caught.value)) < LONGEST + 100


def test_json_nested_beyond_reason_is_one_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 10**5)
    with pytest.raises(UserError, match="nested a thousand deep"):
        files.read_json(path)
    with pytest.raises(UserError, match="TF_CONFIG is not understood"):
        from_tf_config("[" * 10**5)


def test_a_number_beyond_every_float_is_one_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"learning_rate": 10**400}))
    with pytest.raises(UserError, match="which is too large"):
        config.read_settings(path)


@pytest.mark.parametrize("field", ["rows", "cols", "width"])
def test_a_network_beyond_reason_is_not_built(field):
    with pytest.raises(UserError, match=f"--{field} .* is too large"):
        config.Config(**{field: 10**6})


def npy(kind="<f8", shape="(5, 2)", body=bytes(80)):
    """Return a .npy file with a header of its own."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + body


@pytest.mark.parametrize(
    "data",
    [npy(shape="(1000000000000, 2)"), npy(kind="|O"), npy(shape="(-1, 2)"), npy(kind="<U999999999"),
     npy(kind="__import__"),
     npy(kind="01f4"), npy(shape="(" * 900), npy(shape="-" * 9000), npy(shape="+1" * 4500),
     npy(shape="not " * 2000 + "1"), npy(shape="(5, 2" + " " * 10**4 + ")"),
     b"\x93NUMPY\1\0\xff\xff", b"PK\3\4"],
)  # fmt: skip
def test_an_array_that_claims_too_much_is_one_error(tmp_path, data):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("fixations.npy", data)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError, match="cannot be read as an array"):
            fixation_files.parse(tmp_path / name, tmp_path / "a.png")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "?", ">f8", "<f4", "<U5", "<i8"])
def test_what_numpy_writes_is_read(tmp_path, order, kind):
    array = np.asarray(np.arange(6).reshape(2, 3).astype(kind), order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", x=array, y=array[:0])
    for mapped in (False, True):
        found = arrays.read_array(tmp_path / "a.npy", mapped)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype and found.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(arrays.read_arrays(tmp_path / "a.npz")["x"], array)
    assert arrays.read_arrays(tmp_path / "a.npz")["y"].shape == (0, 3)


def test_what_other_writers_write_is_read_without_a_warning(tmp_path):
    """Python 2's whole numbers, and a header with a length of four bytes where two would do."""
    whole = npy(shape="(5L, 2L)")
    for data in (whole, whole[:6] + b"\2\0" + whole[8:10] + b"\0\0" + whole[10:]):
        (tmp_path / "a.npy").write_bytes(data)
        for mapped in (False, True):
            assert arrays.read_array(tmp_path / "a.npy", mapped).shape == (5, 2)


def test_a_table_is_read_where_one_is_asked_for_and_holds_numbers_or_text_alone(tmp_path):
    for kind, is_read in (([("x", "f4"), ("who", "U3")], True), ([("x", "f4"), ("o", "O")], False),
                          ([("x", "f4", (2,))], False), ([("x", "c8")], False)):  # fmt: skip
        np.save(tmp_path / "a.npy", np.zeros(3, kind), allow_pickle=True)
        for mapped in (False, True):
            with pytest.raises(ValueError, match="it claims"):
                arrays.read_array(tmp_path / "a.npy", mapped)
            if is_read:
                assert arrays.read_array(tmp_path / "a.npy", mapped, table=True).shape == (3,)
            else:
                with pytest.raises(ValueError, match="it claims"):
                    arrays.read_array(tmp_path / "a.npy", mapped, table=True)


def test_a_npz_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, fixations=np.zeros((10**5, 2)))
    monkeypatch.setattr(arrays, "MOST_BYTES", 10**5)
    with pytest.raises(UserError, match="take more than 100000 bytes"):
        fixation_files.parse(path, tmp_path / "a.png")


def test_lengths_that_do_not_fit_are_one_error(tmp_path):
    for lengths in (np.array([10**9]), np.array([1.5]), np.array([-7]), np.array([[1]])):
        arrays = {"fixations_values": np.zeros((2, 2)), "fixations_lengths": lengths}
        arrays |= {"subjects_values": np.zeros(0), "subjects_lengths": np.array([-1])}
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match="missing or damaged"):
            store.read_points(tmp_path / "a.npz", 1, "Repair it.")


def test_a_mask_of_more_fixations_than_pixels_is_a_density_map():
    with pytest.raises(UserError, match="a density map rather than fixations"):
        _points.points_of_mask(np.full((4, 4), 100, np.uint8), "a.mat")


def test_scores_of_a_damaged_log_are_made_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    good = ["mine", "a.jpg", {"nss": 1.0, "cc": None}, []]
    lines = [good, 5, [1, 2, 3, 4], ["a", "b", 3, []], ["a", "b", {"x": []}, []]]
    text = "\n".join([*map(json.dumps, lines), "[" * 10**5, "\x80"])
    path.write_bytes(text.encode("latin-1"))
    log = ScoreLog(path)
    assert list(log.scores) == [("mine", "a.jpg")]
    assert path.read_text() == json.dumps(good) + "\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"source": 5}, "'source'"), ({"settings": {}}, "'settings' without 'dataset'"),
     ({"splits": []}, "'splits'"), ({"splits": {"train": [{}]}}, "picture 0 of 'train'"),
     ({"settings": {"rows": 10**9}}, "rows 1000000000"), ({"left_out": None}, "'left_out'")],
)  # fmt: skip
def test_a_stores_manifest_is_checked_before_it_is_believed(tmp_path, change, said):
    settings = dict.fromkeys(store.SETTINGS, 8) | change.pop("settings", {"rows": 8})
    settings = {} if said.startswith("'settings'") else settings
    manifest = {"version": store.VERSION, "model": "mlnet", "source": "a", "inventory": "",
                "left_out": {}, "settings": settings, "splits": {}}  # fmt: skip
    files.write_json(tmp_path / store.MANIFEST, manifest | change)
    with pytest.raises(UserError, match=f"is damaged: {said} is not what a preparation writes"):
        store.Store.open(tmp_path)


def test_a_tar_whose_extended_header_is_no_number_is_one_error(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"GNU.sparse.size": "many"}
        file.addfile(info)
    with pytest.raises(UserError, match="damaged or truncated"):
        archives.extract([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# .mat


def mat(**content):
    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()


def test_what_is_checked_of_a_mat_file_is_what_scipy_reads():
    content = {"gaze": layouts.salicon_mat("a", layouts.points_of(0), columns=True)["gaze"],
               "text": "words", "complex": np.ones((2, 2)) * 1j, "other": np.eye(3)}  # fmt: skip
    wanted = ("gaze", "text", "complex")
    for options in ({}, {"do_compression": True}):
        buffer = io.BytesIO()
        savemat(buffer, content, **options)
        found = loadmat(_mat.checked(buffer.getvalue(), wanted, "a.mat"))
        expected = loadmat(buffer, variable_names=wanted)
        assert {name for name in found if name[0] != "_"} == set(wanted)
        assert all(pickle.dumps(found[name]) == pickle.dumps(expected[name]) for name in wanted)
    buffer = io.BytesIO()
    savemat(buffer, {"old": np.eye(2)}, format="4")
    assert loadmat(_mat.checked(buffer.getvalue(), ["old"], "a.mat"))["old"].tolist() == [
        [1, 0],
        [0, 1],
    ]


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [(16, 99, "without flags"), (32, 2**31 - 1, "a short element"), (48, 7, "without a name"),
     (64, 99, "of type 99"), (68, 2**31, "an element claims"), (40, 2**31 - 1, "a matrix of")],
)  # fmt: skip
def test_a_mat_file_that_contradicts_itself_never_reaches_scipy(tmp_path, at, value, said):
    data = bytearray(mat(fixLocs=np.eye(4)))
    # after the head of 128 bytes: the matrix's tag, flags, dimensions, name, numbers, from 8 on
    struct.pack_into("<I", data, 128 + at - 8, value)
    path = tmp_path / "a.mat"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said):
        cat2000.parse_mat(path)


def test_cells_in_cells_without_end_are_one_error(tmp_path):
    value = np.eye(2)
    for _ in range(_mat.DEEPEST + 2):
        value = layouts.cells([value])
    path = tmp_path / "a.mat"
    path.write_bytes(mat(gaze=value))
    with pytest.raises(UserError, match="nested more than"):
        salicon.parse_mat(path)


def test_a_variable_that_unpacks_to_gigabytes_is_not_unpacked(monkeypatch, tmp_path):
    monkeypatch.setattr(_mat, "MOST_BYTES", 10**5)
    path = tmp_path / "a.mat"
    savemat(path, {"fixLocs": np.zeros((1000, 1000))}, do_compression=True)
    with pytest.raises(UserError, match="takes more than 100000 bytes"):
        cat2000.parse_mat(path)
    data = path.read_bytes()[:128]
    path.write_bytes(data + struct.pack("<II", 15, 40) + zlib.compress(bytes(10))[:40].ljust(40))
    with pytest.raises(UserError, match="cannot be read"):
        cat2000.parse_mat(path)


# HDF5


@pytest.fixture
def weights(tmp_path):
    """Return a function that writes a file of Keras 2 whose one weight a function puts there."""

    def build(put, **attributes):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv"]
            layer = file.create_group("conv")
            layer.attrs["weight_names"] = [b"kernel"]
            put(layer)
            for name, value in attributes.items():
                file.attrs[name] = value
        return path

    return build


def external(layer):
    layer.create_dataset("kernel", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(layer):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[...] = h5py.VirtualSource("b.h5", "x", (4,))
    layer.create_virtual_dataset("kernel", layout)


def great(layer):
    layer.create_dataset("kernel", (10**6, 10**6), "f4", chunks=(64, 64))


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (external, "stores its data in another file"),
        (virtual, "stores its data in another file"),
        (great, "claims 1,000,000,000,000 values"),
        (
            lambda layer: layer.__setitem__("kernel", h5py.ExternalLink("b.h5", "/x")),
            "not an arr",
        ),
        (lambda layer: layer.__setitem__("kernel", h5py.SoftLink("/conv/kernel")), "not an array"),
        (lambda layer: layer.create_dataset("kernel", (3,), h5py.string_dtype()), "not an array"),
        (lambda layer: layer.create_dataset("kernel", data=h5py.Empty("f4")), "not an array"),
    ],
)
def test_weights_that_lie_elsewhere_or_nowhere_are_refused(weights, put, said):
    with pytest.raises(UserError, match=said):
        foreign_weights.read(weights(put))


def test_an_external_link_is_not_followed(weights, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    path = weights(lambda layer: None)
    with h5py.File(path, "r+") as file:
        file["layers"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
    with pytest.raises(UserError, match=r"a\.h5"):
        weight_files.read_card(path)


def test_a_number_of_arrays_beyond_reason_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layer_1").attrs["nb_params"] = 2**62
    with pytest.raises(UserError, match="layer_1 claims"):
        foreign_weights.read(path)


@pytest.fixture
def rehearsed(monkeypatch):
    """Rehearse each file in a process of its own, as the program does."""
    rehearsal.with_a_process_each.cache_clear()
    monkeypatch.setattr(hdf5, "reads_safely", rehearsal.with_a_process_each)
    yield
    rehearsal.with_a_process_each.cache_clear()


@pytest.mark.usefixtures("rehearsed")
def test_a_module_in_the_current_folder_is_not_run(tmp_path, monkeypatch, trained):
    """A folder of pictures is often the current one, and not always one's own."""
    (tmp_path / "h5py.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    hdf5.open_checked(trained).close()


@pytest.mark.usefixtures("rehearsed")
def test_a_file_that_ends_the_library_is_refused_by_a_process_of_its_own(
    weights, tmp_path, monkeypatch
):
    path = weights(lambda layer: layer.create_dataset("kernel", data=np.ones(4, np.float32)))
    hdf5.open_checked(path).close()
    outcomes = {
        "import os; os.abort()": "is damaged: the HDF5 library fails on it",
        "import time; time.sleep(60)": "was not read within 1 s: it is damaged, or this machine",
    }  # fmt: skip
    rehearsal.with_a_process_each.cache_clear()
    for act, said in outcomes.items():
        monkeypatch.setattr(hdf5, "CHILD", (sys.executable, "-c", act))
        monkeypatch.setattr(hdf5, "SECONDS", 1)
        rehearsal.with_a_process_each.cache_clear()
        with pytest.raises(UserError, match=said):
            hdf5.open_checked(path)
    # a machine that was busy may read it later
    monkeypatch.undo()
    monkeypatch.setattr(hdf5, "reads_safely", rehearsal.with_a_process_each)
    hdf5.open_checked(path).close()
