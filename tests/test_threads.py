"""The pool of threads and the dealing of tasks: every task once, in the phase it belongs to."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

NEXT = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p)
TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32)
CACHE_LINE = 64


@pytest.fixture(scope="module")
def library(internals: ctypes.CDLL) -> ctypes.CDLL:
    internals.threads_open.argtypes = (ctypes.c_uint32, ctypes.c_void_p)
    internals.threads_open.restype = ctypes.c_void_p
    internals.threads_close.argtypes = (ctypes.c_void_p,)
    internals.threads_run_phases.argtypes = (ctypes.c_void_p, NEXT, TASK, ctypes.c_void_p)
    internals.threads_run_tasks.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, TASK, ctypes.c_void_p,
    )  # fmt: skip
    internals.threads_run.argtypes = (ctypes.c_void_p, WORK, ctypes.c_void_p)
    internals.task_hands_deal.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    internals.task_hands_take.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32),
    )  # fmt: skip
    internals.task_hands_take.restype = ctypes.c_bool
    return internals


class Hands:
    def __init__(self, library: ctypes.CDLL, n_hands: int) -> None:
        self.library, self.n_hands = library, n_hands
        memory = np.zeros((n_hands + 1) * CACHE_LINE, np.uint8)
        self.memory = memory[-memory.ctypes.data % CACHE_LINE :]

    def deal(self, n_tasks: int) -> None:
        self.library.task_hands_deal(self.memory.ctypes.data, self.n_hands, n_tasks)

    def take(self, own: int) -> int | None:
        task = ctypes.c_uint32()
        address = self.memory.ctypes.data
        taken = self.library.task_hands_take(address, self.n_hands, own, ctypes.byref(task))
        return task.value if taken else None


def test_a_thread_takes_its_own_run_in_order_and_then_the_ends_of_the_others(
    library: ctypes.CDLL,
) -> None:
    hands = Hands(library, 3)
    assert hands.take(0) is None
    hands.deal(10)  # 0 1 2 | 3 4 5 | 6 7 8 9
    assert [hands.take(1) for _ in range(5)] == [3, 4, 5, 9, 8]
    assert [hands.take(0) for _ in range(4)] == [0, 1, 2, 7]
    assert [hands.take(2) for _ in range(2)] == [6, None]


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 64, 1000])
def test_each_task_is_dealt_once(library: ctypes.CDLL, n_tasks: int) -> None:
    for n_hands in (1, 2, 5, 64):
        hands = Hands(library, n_hands)
        hands.deal(n_tasks)
        taken = [hands.take(i % n_hands) for i in range(n_tasks)]
        assert sorted(task for task in taken if task is not None) == list(range(n_tasks))
        assert all(hands.take(i) is None for i in range(n_hands))


class Recorder:
    """Phases of the given sizes; notes every task with the phase that was open at its ends."""

    def __init__(self, sizes: list[int], body: Callable[[int, int], None] | None = None) -> None:
        self.sizes, self.body = sizes, body
        self.phase = -1
        self.lock = threading.Lock()
        self.done: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self.is_torn = False
        self.next, self.task = NEXT(self.open_next), TASK(self.run)

    def open_next(self, _: object) -> int:
        self.phase += 1
        return self.sizes[self.phase] if self.phase < len(self.sizes) else 0

    def run(self, _: object, task: int, thread: int) -> None:
        phase = self.phase
        if self.body is not None:
            self.body(task, thread)
        with self.lock:
            self.done.append((phase, task))
            self.threads.add(thread)
            self.is_torn |= self.phase != phase

    def expected(self) -> list[tuple[int, int]]:
        return [(phase, task) for phase, size in enumerate(self.sizes) for task in range(size)]


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_every_task_runs_once_while_its_phase_is_open(library: ctypes.CDLL, n_threads: int) -> None:
    sizes = np.random.default_rng(n_threads).integers(1, 12, 60).tolist()
    pool = library.threads_open(n_threads, None)
    for run in range(5):
        record = Recorder(sizes[run:])
        library.threads_run_phases(pool, record.next, record.task, None)
        assert sorted(record.done) == record.expected()
        assert [phase for phase, _ in record.done] == sorted(phase for phase, _ in record.done)
        assert not record.is_torn and record.threads <= set(range(n_threads))
    library.threads_close(pool)


def test_a_run_of_no_tasks_ends(library: ctypes.CDLL) -> None:
    pool = library.threads_open(2, None)
    record = Recorder([])
    library.threads_run_phases(pool, record.next, record.task, None)
    assert record.phase == 0 and not record.done
    library.threads_close(pool)


def test_nobody_waits_for_a_thread_that_is_late(library: ctypes.CDLL) -> None:
    """A task sleeps: the tasks behind it in its thread's share are done by another meanwhile."""
    pool = library.threads_open(2, None)
    first_of_each_share = (0, 8)

    def sleep_once(task: int, _: int) -> None:
        if task == first_of_each_share[1]:
            time.sleep(0.5)

    record = Recorder([16, 2], sleep_once)
    start = time.monotonic()
    library.threads_run_phases(pool, record.next, record.task, None)
    assert time.monotonic() - start >= 0.5
    in_first_phase = [task for phase, task in record.done if phase == 0]
    assert in_first_phase[-1] == first_of_each_share[1]
    assert sorted(record.done) == record.expected()
    library.threads_close(pool)


def test_threads_that_slept_are_woken(library: ctypes.CDLL) -> None:
    pool = library.threads_open(4, None)
    for _ in range(3):
        time.sleep(0.05)  # far longer than anyone spins
        record = Recorder([4, 4], lambda *_: time.sleep(0.05))
        library.threads_run_phases(pool, record.next, record.task, None)
        assert len(record.threads) > 1
    library.threads_close(pool)


def test_one_piece_of_work_for_each_thread(library: ctypes.CDLL) -> None:
    pool = library.threads_open(3, None)
    ran: list[int] = []
    library.threads_run(pool, WORK(lambda _, i: ran.append(i)), None)
    assert sorted(ran) == [0, 1, 2]
    library.threads_close(pool)


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 50])
def test_one_phase_of_tasks(library: ctypes.CDLL, n_tasks: int) -> None:
    """A single task runs where it was asked for."""
    pool = library.threads_open(3, None)
    ran: list[tuple[int, int, int]] = []

    def run(_: object, task: int, thread: int) -> None:
        ran.append((task, thread, threading.get_ident()))

    library.threads_run_tasks(pool, n_tasks, TASK(run), None)
    assert sorted(task for task, _, _ in ran) == list(range(n_tasks))
    assert {thread for _, thread, _ in ran} <= {0, 1, 2}
    if n_tasks == 1:
        assert ran == [(0, 0, threading.get_ident())]
    library.threads_close(pool)
