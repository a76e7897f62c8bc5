"""Where points are computed: this machine's cores through joblib, or an existing Dask or Ray cluster.

Every worker writes the points' files itself; on a cluster the folder must be one that all machines see. What a worker
cannot write (no shared folder) the client writes from what came back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsesim.errors import InputError, Problem
from sparsesim.study.points import Ended, Point, evaluate, read, write_text

CONNECT_S = 10.0
"""Seconds after which a cluster that does not answer is given up."""
TRIES = 3
"""Times a point is given to a worker that dies with it."""


@dataclass(frozen=True, slots=True)
class Backend:
    """`local`, `dask` or `ray`, and its address."""

    kind: str = "local"
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Backend:
        """`local`, `dask=ADDRESS` or `ray=ADDRESS`.

        Raises:
            InputError: anything else.

        """
        kind, _, address = text.partition("=")
        if (kind == "local" and not address) or (kind in ("dask", "ray") and address):
            return cls(kind, address)
        hint = "local, dask=tcp://HOST:8786 or ray=HOST:6379"
        raise InputError(Problem(f"{text!r} is no backend", path="--backend", hint=hint))


@dataclass(frozen=True)
class Computed:
    """Results in the order of the points (None: not computed), and whether it was interrupted."""

    results: list[dict[str, Any] | None]
    partial: bool


def compute(
    points: Sequence[Point],
    folder: Path,
    backend: Backend | None = None,
    jobs: int = -1,
    resume: bool = False,
    ended: Ended = lambda _done, _of: None,
) -> Computed:
    """Answer every point; with `resume`, those that lie in the folder already are kept.

    A worker that is killed loses the point it was at, which is given to another; Ctrl-C keeps what has ended.

    Raises:
        InputError: the cluster cannot be reached, its package is missing, or a point is killed again and again.

    """
    backend = backend or Backend()
    folder.mkdir(parents=True, exist_ok=True)
    todo = {one.hash: one for one in points if not (resume and read(one, folder))}
    if not resume:
        for one in todo.values():
            one.path(folder).unlink(missing_ok=True)
    done, partial = len(points) - len(todo), False
    ended(done, len(points))
    try:
        for one, text in _RUNNERS[backend.kind](list(todo.values()), folder, backend.address, jobs):
            if read(one, folder) is None:
                write_text(one.path(folder), text)
            done += 1
            ended(done, len(points))
    except KeyboardInterrupt:
        partial = True
    return Computed([read(one, folder) for one in points], partial)


def _local(points: list[Point], folder: Path, _address: str, jobs: int) -> Iterator[tuple[Point, str]]:
    """One core computes in this process; several in joblib's, which are started anew when one is killed."""
    cores = min(os.cpu_count() or 1 if jobs < 1 else jobs, max(len(points), 1))
    if cores == 1:
        for one in points:
            yield one, evaluate(one, str(folder))
        return
    for tried in range(TRIES):
        left = [one for one in points if read(one, folder) is None] if tried else points
        try:
            yield from _joblib(left, folder, cores)
            return
        except _killed():
            yield from ()
    worst = [one.name for one in points if read(one, folder) is None]
    raise InputError(f"workers were killed {TRIES} times; left: {', '.join(worst[:5])} (out of memory? fewer --jobs)")


def _joblib(points: list[Point], folder: Path, cores: int) -> Iterator[tuple[Point, str]]:
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=cores, backend="loky", return_as="generator_unordered", pre_dispatch="2*n_jobs")
    yield from parallel(delayed(_numbered)(one, str(folder)) for one in points)


def _killed() -> type[BaseException]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    killed: type[BaseException] = TerminatedWorkerError
    return killed


def _numbered(one: Point, folder: str) -> tuple[Point, str]:
    return one, evaluate(one, folder)


def _dask(points: list[Point], folder: Path, address: str, _jobs: int) -> Iterator[tuple[Point, str]]:
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InputError("--backend dask needs the package distributed: pip install 'sparsesim[dask]'") from None
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _unreachable("Dask scheduler", address, error) from None
    with client:
        futures = client.map(_numbered, points, folder=str(folder.resolve()), pure=False, retries=TRIES)
        try:
            for future in as_completed(futures, loop=client.loop):
                one, text = future.result()
                yield one, text
        finally:
            client.cancel(futures)


def _ray(points: list[Point], folder: Path, address: str, _jobs: int) -> Iterator[tuple[Point, str]]:
    try:
        import ray
    except ImportError:
        raise InputError("--backend ray needs the package ray: pip install 'sparsesim[ray]'") from None
    _knock("Ray cluster", address)
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable("Ray cluster", address, error) from None
    try:
        task = ray.remote(max_retries=TRIES)(_numbered)
        left = [task.remote(one, str(folder.resolve())) for one in points]
        while left:
            ended, left = ray.wait(left)
            yield from ray.get(ended)
    finally:
        ray.shutdown()


def _knock(what: str, address: str) -> None:
    """Open and close a connection to HOST:PORT, which ray.init would try for a quarter of an hour."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _unreachable(what, address, error) from None


def _unreachable(what: str, address: str, error: BaseException) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = f"does it run, and is {address} its address?"
    return InputError(Problem(f"no {what} answers at {address!r}: {reason}", path="--backend", hint=hint))


_RUNNERS = {"local": _local, "dask": _dask, "ray": _ray}
