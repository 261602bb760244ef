"""One Ray node as a process of its own, so that a test can kill a whole machine.

    python ray_nodes.py --dir DIR --gpus 2 --resources '{"front": 1}'     the head
    python ray_nodes.py --dir DIR2 --gpus 2 --join HOST:PORT              another one

Says its cluster's address on stdout when it runs, and runs until it is killed. All nodes are at
127.0.0.1, the only address that Ray keeps its servers to. The GPUs are numbers that Ray counts: as
good as real ones for placing replicas.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True, help="short: sockets lie in it")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--resources", type=json.loads, default={})
    parser.add_argument("--join", help="the address that the head has said")
    args = parser.parse_args()
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class QuietNode(Node):  # type: ignore[misc]  # Ray has no type hints
        def start_api_server(self, **_: object) -> None:
            """No dashboard server, as in `serving.cluster.local_ray`."""

    params = RayParams(
        node_ip_address="127.0.0.1",
        gcs_address=args.join,
        num_cpus=0,
        num_gpus=args.gpus,
        resources=args.resources,
        object_store_memory=100 * 2**20,
        temp_dir=str(args.dir),
        no_monitor=True,
        include_log_monitor=False,
        include_dashboard=False,
        dashboard_agent_listen_port=0,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
    )
    node = QuietNode(params, head=args.join is None, shutdown_at_exit=True, spawn_reaper=False)
    print(json.dumps({"address": node.gcs_address}), flush=True)
    while node.remaining_processes_alive():
        time.sleep(0.2)


if __name__ == "__main__":
    main()
