"""Tools: what one is, and how a call of it is made. These names are for whoever writes tools."""

from orchestrator.tools.base import (
    NOT_DONE,
    UNKNOWN,
    ToolContext,
    ToolError,
    ToolOutput,
    tool,
)

__all__ = ["NOT_DONE", "UNKNOWN", "ToolContext", "ToolError", "ToolOutput", "tool"]
