"""What a configuration says about single tools of an agent, over what their authors said."""

from __future__ import annotations

from pydantic import Field

from serving.config.sections import Frozen


class ToolSettings(Frozen):
    """Of one tool, by its name; what is left out stays as the tool's author wrote it."""

    requires_approval: bool | None = None
    """A person allows each call, see docs/tools.md."""
    timeout_s: float | None = Field(default=None, gt=0)
    at_once: int | None = Field(default=None, ge=1)
    """Calls that run at the same time."""
    per_minute: float | None = Field(default=None, gt=0)
    breaker_failures: int | None = Field(default=None, ge=1)
    """So many failures in a row, and calls are refused at once for a while."""
    breaker_open_s: float | None = Field(default=None, gt=0)
    fork: bool = False
    """Of an agent as a tool: it begins with what its caller has been shown, not with the task
    alone. Warm where both have the same instructions and tools."""
