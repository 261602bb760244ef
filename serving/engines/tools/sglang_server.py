"""SGLang's server with our parser of calls; started as a program by SGLang's own Python.

    python serving/engines/tools/sglang_server.py [SGLang's flags] --tool-call-parser hermes

Beside that it does what `python -m sglang.launch_server` does. SGLang's other processes load this
file too, and must find nothing to do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Register the parser, then serve until told to stop."""
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    # Last, so that nothing beside this file stands in front of SGLang's modules.
    sys.path.append(str(Path(__file__).parent))
    from sglang_hermes import register

    load_plugins()
    register()
    try:
        run_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
