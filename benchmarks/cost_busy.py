"""How long an engine was busy, where others use its machine too.

On CPUs: what its processes had of the processors. Whoever else runs there makes it wait, which a
clock on the wall would bill, and nobody who rents a machine of their own would pay for. An engine
with one thread that has its core to itself needs as many seconds of the one as of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import psutil


class Busy:
    """The processor seconds of the engine that listens at a URL of this machine."""

    def __init__(self, url: str) -> None:
        port = urlsplit(url).port
        for process in _ours():
            with suppress(psutil.Error):
                if any(
                    each.status == psutil.CONN_LISTEN and each.laddr.port == port
                    for each in process.net_connections("tcp")
                ):
                    self._server = process
                    return
        raise RuntimeError(f"{url}: no process of ours listens there")

    def seconds(self) -> float:
        """So far, with the processes that it started."""
        return sum(_used([self._server, *self._server.children(recursive=True)]))


def _ours() -> Iterator[psutil.Process]:
    this = psutil.Process()
    yield this
    yield from this.children(recursive=True)


def _used(processes: Iterable[psutil.Process]) -> Iterator[float]:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            yield times.user + times.system
