"""Tools that come with the loop, for agents that name them: `builtin:sleep`, ...

They are made as users' tools are, and need nothing but what every tool is given.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from orchestrator.tools.base import Later, Tool, ToolContext, ToolError, tool
from orchestrator.tools.errors import INVALID_ARGUMENTS
from orchestrator.tools.functions import from_function
from serving.config.sections import nearest
from serving.errors import ConfigError

PREFIX = "builtin:"


@tool(kind="pure", version="1")
async def sleep(
    seconds: Annotated[float, Field(gt=0, description="how long")], context: ToolContext
) -> Later:
    """Wait, and go on after that time."""
    return Later(context.at + seconds, f"{seconds:g} seconds have passed")


@tool(kind="pure", version="1")
async def wait_until(
    time: Annotated[
        str, Field(max_length=40, description="ISO 8601 with offset: 2026-11-28T09:00:00+01:00")
    ],
    context: ToolContext,
) -> Later:
    """Wait until a point in time, and go on then."""
    try:
        until = datetime.fromisoformat(time)
    except ValueError:
        until = None
    if until is None or until.tzinfo is None:
        raise ToolError(
            INVALID_ARGUMENTS,
            f"{time!r} is no time with an offset; write 2026-11-28T09:00:00+00:00",
        )
    return Later(until.timestamp(), f"it is {until.astimezone(UTC).isoformat()}")


@tool(kind="pure", version="1")
async def read_result(
    handle: Annotated[str, Field(max_length=80, description="from the note at the cut")],
    context: ToolContext,
    offset: Annotated[int, Field(ge=0, description="first character")] = 0,
    length: Annotated[int, Field(ge=1, le=16_000, description="characters")] = 4000,
) -> str:
    """Read on in a result that was too long to be shown whole."""
    whole = await context.host.kept(handle) if context.host else None
    if whole is None:
        raise ToolError(INVALID_ARGUMENTS, f"no result is kept as {handle!r}")
    piece = whole[offset : offset + length]
    end = offset + len(piece)
    more = f"[{end} of {len(whole)} characters]" if end < len(whole) else "[the end]"
    return f"{piece}\n{more}"


@tool(kind="pure", version="1")
async def note(
    text: Annotated[str, Field(min_length=1, max_length=2000, description="one fact or step")],
) -> str:
    """Write something down for later; `recall` shows all notes, whatever left the conversation."""
    return "noted"  # the call itself is the note: it is in the log


@tool(kind="pure", version="1")
async def recall(context: ToolContext) -> str:
    """Read all notes of this conversation, the oldest first."""
    notes = await context.host.notes() if context.host else []
    return "\n".join(f"{number}. {text}" for number, text in enumerate(notes, 1)) or "no notes yet"


BUILT_IN = {each.__name__: each for each in (sleep, wait_until, read_result, note, recall)}


def built_in(spec: str, where: str) -> Tool:
    """The tool that `builtin:NAME` means. Raises ConfigError."""
    name = spec.removeprefix(PREFIX)
    if name not in BUILT_IN:
        hint = nearest(name, list(BUILT_IN))
        raise ConfigError(f"{where}: {spec!r} is not built in; {hint}")
    return from_function(BUILT_IN[name])
