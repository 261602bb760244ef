"""The image's health check: asks whatever the container's role is made of.

    up, front      the front door's /health     port 8400, or $WARMLOOP_PORT
    head, worker   Ray's own node check         port 52365
    others         nothing to ask: healthy

Exits with 0 or 1, as Docker wants it. Kubernetes has probes of its own.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 5.0


def url(role: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """What to ask; None where nothing listens."""
    if role in ("up", "front"):
        return f"http://127.0.0.1:{environ.get('WARMLOOP_PORT', '8400')}/health"
    if role in ("head", "worker"):
        return "http://127.0.0.1:52365/api/healthz"
    return None


def main() -> int:
    role = (Path(os.environ.get("TMPDIR") or "/tmp") / "warmloop-role").read_text().strip()  # noqa: S108 as the entrypoint
    asked = url(role)
    if asked is None:
        return 0
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S):  # noqa: S310 our own http URL
            return 0
    except OSError as error:
        print(f"{asked}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
