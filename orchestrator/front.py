"""The front-door process: the app of `app.py` under uvicorn.

Started by the supervisor under a guardian, or by Ray on each node of the `front` group. It exits
with one line when its configuration or its journal cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

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
        _exit(error)
    if args.check:
        os._exit(0)  # at once: a tool's module may have started threads that never end
    logs.install()
    if warning := exposed(stack):
        logging.getLogger("warmloop.front").warning(warning)
    port = stack.front.port if args.port is None else args.port
    try:
        server.server(app, stack.front.model_copy(update={"port": port})).run()
    finally:
        if app.unstarted is not None:
            _exit(app.unstarted)


def _exit(why: WarmloopError) -> NoReturn:
    sys.stderr.write(f"warmloop: {why}\n")
    sys.exit(why.exit_code)


if __name__ == "__main__":
    main()
