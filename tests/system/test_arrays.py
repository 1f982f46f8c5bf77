"""Arrays are read by many threads at a time.

In Python 3.11, threads that make syntax trees at the same time may raise a SystemError: "AST
constructor recursion depth mismatch". NumPy makes one of each header. Which reading fails is a
matter of chance, so the tests look at what prevents the error.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.lib import format as npy

from salience.system.arrays import read_array


def test_one_header_is_parsed_at_a_time(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.ones((12, 2)))
    read, inside, most = npy.read_array_header_1_0, [], []

    def slow(*args):
        inside.append(args)
        most.append(len(inside))
        time.sleep(0.001)
        inside.pop()
        return read(*args)

    monkeypatch.setattr(npy, "read_array_header_1_0", slow)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read_array(tmp_path / "a.npy"), range(40)))
    assert max(most) == 1 and len(most) >= 40
    assert all(array.shape == (12, 2) for array in found)


def test_a_header_is_read_again_where_a_library_s_thread_made_the_interpreter_fail(
    tmp_path, monkeypatch
):
    np.save(tmp_path / "a.npy", np.ones((12, 2)))
    read, failures = npy.read_array_header_1_0, iter(range(3))

    def failing(head, *args):
        found = read(head, *args)  # the header has been read when it is parsed
        if next(failures, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch (before=38, after=40)")
        return found

    monkeypatch.setattr(npy, "read_array_header_1_0", failing)
    assert read_array(tmp_path / "a.npy").shape == (12, 2)
    assert next(failures, None) is None
