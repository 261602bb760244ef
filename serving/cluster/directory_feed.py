"""The directory's feed: a small process that is a Ray driver, so that the front door need not be.

    Ray cluster ◀── long poll ── this process ── one snapshot a line, stdout ──▶ front door
                                              ◀── what waits there, a line, stdin ──

Two reasons. A Ray driver whose cluster goes away is ended by Ray itself after a minute ("The
program will terminate"), and a front door must outlive its engines. And Ray's threads would share
the interpreter with the data path. It ends when its stdin closes, that is, with its owner.

    python -m serving.cluster.directory_feed --address 127.0.0.1:6379
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import threading
from collections.abc import Callable

from serving.cluster import directory, front_queues
from serving.cluster.front_queues import Queues

WATCH_S = 1.0
CALL_S = 10.0
"""A watch that takes longer means that the actor, or Ray, is gone."""


async def follow(address: str, front: str = "", queues: Callable[[], Queues] = dict) -> None:
    """Print snapshots for ever; raises what Ray raises when the cluster cannot be reached.

    `front` is where our front door listens, for the others to know; empty: they need not. `queues`
    is what waits there.
    """
    import ray

    ray.init(
        address=address,
        namespace=directory.NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
    )
    version = -1
    name = secrets.token_hex(8)
    actor = await asyncio.to_thread(directory.connect)
    while True:
        try:
            async with asyncio.timeout(CALL_S):
                snapshot = await actor.watch.remote(version, WATCH_S, name, front, queues())
        except ray.exceptions.RayActorError:
            # It restarts by itself; if it was killed for good, a new one is made.
            await asyncio.sleep(WATCH_S)
            actor = await asyncio.to_thread(directory.connect)
            continue
        version = snapshot.version
        sys.stdout.buffer.write(directory.encode(snapshot) + b"\n")
        sys.stdout.buffer.flush()


class Owner(threading.Thread):
    """Reads what our front door says; leaves at once when it ends: Ray's exit handlers may hang."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.queues: Queues = {}

    def run(self) -> None:
        try:
            for line in sys.stdin.buffer:
                self.queues = front_queues.decode(line)
        finally:
            os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.cluster.directory_feed")
    parser.add_argument("--address", required=True, help="the Ray cluster's GCS, host:port")
    parser.add_argument("--front", default="", help="where our front door listens, as a URL")
    args = parser.parse_args()
    owner = Owner()
    owner.start()
    try:
        asyncio.run(follow(args.address, args.front, lambda: owner.queues))
    except Exception as error:
        print(f"directory feed: {type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


if __name__ == "__main__":
    main()
