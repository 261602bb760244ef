"""The front-door process: the app of `app.py` under uvicorn.

Started by the supervisor under a guardian, or by Ray on each node of the `front` group. It exits
with 2 and one line when its configuration or its journal cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from orchestrator.app import create_app
from router import logs
from router.http import server
from router.tenancy.access import exposed
from serving.config import stack_file
from serving.errors import WarmloopError


def main() -> None:
    os.umask(0o077)  # a journal holds conversations, wherever journal.path puts it
    parser = argparse.ArgumentParser(prog="warmloop-front")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, help="overrides front.port")
    parser.add_argument("--check", action="store_true", help="build it all, and serve nothing")
    args = parser.parse_args()
    try:
        stack = stack_file.load(args.config)
        app = create_app(stack)
    except WarmloopError as error:
        sys.stderr.write(f"warmloop: {error}\n")
        sys.exit(error.exit_code)
    if args.check:
        os._exit(0)  # at once: a tool's module may have started threads that never end
    logs.install()
    if warning := exposed(stack):
        logging.getLogger("warmloop.front").warning(warning)
    port = stack.front.port if args.port is None else args.port
    server.server(app, stack.front.model_copy(update={"port": port})).run()


if __name__ == "__main__":
    main()
