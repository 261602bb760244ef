"""Give a stack to a Ray cluster that already runs, from any of its nodes.

    python -m orchestrator.deploy --config configs/cluster.yaml [--address HOST:PORT] [--fronts 1]

One Serve application a model, and one for the front doors. It returns as soon as Serve has taken
them; Serve then starts what is missing and replaces what changed. Ray's token, where the cluster
has one, comes from the environment. On one machine nobody needs this: there is `warmloop up`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from orchestrator import front_group
from serving.cluster import directory
from serving.config import stack_file
from serving.errors import ConfigError, WarmloopError


def deploy(path: Path, address: str, fronts: int) -> list[str]:
    """Hand the stack to Serve; returns the applications' names. Raises ConfigError."""
    stack = stack_file.load(path)
    if front_group.NAME in stack.models:
        raise ConfigError(f"{path}: models.{front_group.NAME}: the front doors have this name")
    import ray
    from ray import serve

    from serving.cluster.replica import deployment

    try:
        ray.init(
            address=address,
            namespace=directory.NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--address: no Ray at {address!r} ({error})") from None
    serve.start(proxy_location="Disabled")
    logs = Path(os.environ.get("WARMLOOP_LOGS") or stack.folder / "logs")
    wanted = {
        name: deployment(name, model, logs)
        for name, model in stack.models.items()
        if model.engine != "external"
    }
    if fronts:
        wanted[front_group.NAME] = front_group.deployment(stack, path.resolve(), fronts)
    serve.run_many(
        [serve.RunTarget(app, name=name, route_prefix=None) for name, app in wanted.items()],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    return list(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.deploy")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--address", default="auto", help="Ray's head; default: this node's Ray")
    parser.add_argument("--fronts", type=int, default=1, help="front doors, at most one a node")
    args = parser.parse_args()
    status = 0
    try:
        names = deploy(args.config, args.address, args.fronts)
        print(f"deployed: {', '.join(names)}; 'serve status' and the front door's /health say how")
    except WarmloopError as error:
        print(f"warmloop: {error}", file=sys.stderr)
        status = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # Ray's exit handlers have nothing to do for us, and may wait


if __name__ == "__main__":
    main()
