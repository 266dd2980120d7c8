"""Workers for parallel computations: threads and processes of this machine, or a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from whisper_recipe.errors import RecipeError

CONNECT_SECONDS = 30
DASK_AHEAD = 256  # pieces submitted to a cluster before waiting for their results
Item, Loaded = TypeVar("Item"), TypeVar("Loaded")


@contextmanager
def workers(num_jobs: int, dask: str | None = None) -> Iterator[Executor]:
    """Yield an executor of `num_jobs` processes, or of a Dask cluster whose workers must see the same files.

    Args:
        num_jobs: number of processes on this machine.
        dask: address of the scheduler, such as tcp://10.0.0.1:8786.

    Raises:
        RecipeError: Dask is not installed, or no scheduler answers.
    """
    if dask is None:
        with ProcessPoolExecutor(num_jobs) as executor:
            yield executor
        return
    try:
        from distributed import Client
    except ImportError:
        cure = "pip install distributed, here and on the workers"
        raise RecipeError("Dask is not installed", where="--dask", cure=cure) from None
    try:
        client = Client(dask, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        cure = "use the address that `dask scheduler` prints"
        raise RecipeError(f"no scheduler answers at {dask} ({error})", where="--dask", cure=cure) from None
    with client, client.get_executor() as executor:
        yield executor


def finished(value: object) -> Future:
    """Return a future that already has its result."""
    future: Future = Future()
    future.set_result(value)
    return future


def in_order(futures: Iterable[Future], ahead: int) -> Iterator:
    """Yield the results of futures in order; take at most `ahead` + 1 of them before waiting for the first."""
    waiting: deque[Future] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def load_ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Iterator[Loaded]:
    """Yield load(item) in the order of the items; a thread loads the next item while the caller uses one."""
    with ThreadPoolExecutor(1) as thread:
        yield from in_order((thread.submit(load, item) for item in items), ahead=1)
