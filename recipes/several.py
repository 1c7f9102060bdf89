"""Runs made several at a time, each in a process of one thread, until the hours are over."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

from everlearn.types import Progress
from recipes.deadline import Until

Job = TypeVar("Job")


def several(
    make: Callable[[Job, Progress], object], jobs: Sequence[Job], workers: int, until: Until, title: str = "runs"
) -> None:
    """Make runs that keep what they have done on disk, where a second call finds it.

    Args:
        make: makes one of them, telling of its progress; a function of a module, or `functools.partial` of one.
        jobs: which runs.
        workers: how many at a time, of one thread each; a single one takes this process with all its threads.
        until: who wants to know how far it is, and stops it.
        title: of what is counted.

    Raises:
        Interrupted: if the time is over, in whatever process.
    """
    until.update(title, 0, len(jobs), str(jobs[0]) if jobs else "")
    if workers == 1:
        for done, job in enumerate(jobs, 1):
            make(job, until)
            until.update(title, done, len(jobs), str(job))
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))
    try:
        waits = {pool.submit(make, job, until.elsewhere()): job for job in jobs}
        for done, ended in enumerate(as_completed(waits), 1):
            ended.result()
            until.update(title, done, len(jobs), str(waits[ended]))
    finally:
        pool.shutdown(cancel_futures=True)
