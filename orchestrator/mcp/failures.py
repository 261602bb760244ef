"""What can go wrong with an MCP server, told apart by what the model and the loop must know.

McpFailure             a call gave no result
├── NotSent            it never reached the server: it may be tried again, whatever it does
├── OutcomeOpen        it may have taken effect: only a repeatable tool may be tried again
└── Declined           the server answered, and the answer is an error
    └── BadArguments   ... about the call's arguments
ServerLost             the connection ended; why, for the operator
"""

from __future__ import annotations

from orchestrator.tools.errors import INVALID_ARGUMENTS


class McpFailure(Exception):
    """`str(failure)` is a sentence for the model and the log; no arguments, no headers in it."""

    code = "mcp_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotSent(McpFailure):
    code = "mcp_server_unavailable"


class OutcomeOpen(McpFailure):
    code = "mcp_connection_lost"


class TimedOut(OutcomeOpen):
    code = "mcp_timeout"


class Declined(McpFailure):
    code = "mcp_declined"


class BadArguments(Declined):
    code = INVALID_ARGUMENTS


class ServerLost(Exception):
    """The connection to a server has ended."""


def reason(error: BaseException) -> str:
    """An error in few words: of a group, what says most about a server's end."""
    leaves = sorted(_leaves(error), key=_rank)
    chosen = leaves[0]
    text = " ".join(str(chosen).split())[:600]
    if isinstance(chosen, ServerLost | McpFailure) and text:
        return text
    name = type(chosen).__name__
    return f"{name}: {text}" if text else name


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in _leaves(each)]


def _rank(error: BaseException) -> int:
    if isinstance(error, ServerLost):
        return 0
    # What tasks raise because another one has failed.
    echo = type(error).__name__ in ("CancelledError", "BrokenResourceError", "ClosedResourceError")
    return 2 if echo else 1
