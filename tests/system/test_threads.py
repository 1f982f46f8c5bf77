"""One thread does jobs in order, waits for no one, and fails in the caller's thread."""

import platform
import threading

import numpy as np
import pytest

from salience.system.threads import Background, keep_freed_memory


@pytest.fixture
def background():
    made = Background("tested")
    yield made
    made.close()


def test_jobs_are_done_in_order_and_spare_ones_last_and_only_the_newest(background):
    begun, go, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(10)
        done.append((1, threading.current_thread().name))

    background.submit(first)
    assert begun.wait(10)
    background.submit_spare(lambda: done.append("spare, old"))
    background.submit(lambda: done.append(2))
    background.submit_spare(lambda: done.append("spare, new"))
    assert done == []
    go.set()
    background.wait()
    assert done == [(1, "tested"), 2, "spare, new"]


def test_a_third_job_waits_for_the_first_to_end(background):
    go, done = threading.Event(), []
    begun = threading.Event()
    background.submit(lambda: (begun.set(), go.wait(10)))
    assert begun.wait(10)
    background.submit(lambda: None)
    caller = threading.Thread(target=lambda: (background.submit(lambda: None), done.append(True)))
    caller.start()
    caller.join(0.1)
    assert not done
    go.set()
    caller.join(10)
    assert done


def test_after_a_failure_nothing_more_is_done_and_all_methods_raise_it(background):
    done = []

    class Failed(BaseException):
        pass

    def fail():
        raise Failed

    background.submit(fail)
    with pytest.raises(Failed):
        background.wait()
    for method in (background.submit, background.submit_spare):
        with pytest.raises(Failed):
            method(lambda: done.append(1))
    with pytest.raises(Failed):
        background.check()
    background.close()
    assert done == []
    assert "tested" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries stay as they are")
def test_the_memory_of_a_freed_array_serves_the_next():
    import resource  # here: not on Windows

    keep_freed_memory()
    np.ones(2**22, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(2**22, np.uint8)
    # at least one huge page, and 1024 small ones, of each array otherwise
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 50
