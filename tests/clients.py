"""Programs of the environment of clients (`scripts/setup clients`), run as child processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-clients"


async def run(
    program: str,
    *arguments: str,
    folder: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> tuple[int, str]:
    """Exit status and all that it said, run in `folder`.

    Kills it when time is up, and raises TimeoutError.
    """
    command = ENVIRONMENT / "bin" / program
    assert command.exists(), f"{command} is missing: run scripts/setup clients"
    process = await asyncio.create_subprocess_exec(
        str(command),
        *arguments,
        cwd=folder,
        env={**os.environ, "OPENAI_API_KEY": "none", **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode(errors="replace")
