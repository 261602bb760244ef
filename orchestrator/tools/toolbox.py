"""The tools of one agent: which call may run, and what became of it in words for the model.

    prepare(call)         ─► Ready | Refused       no effect, the same every time
    run(ready, context)   ─► Ran                   the effect, whatever happens in it
    lookup(ready, context)─► Ran | NotDone | None  what an earlier run of the same key did

A failure is canonical JSON, {"error_code", "human", "retry_after_ms"}. A result that is longer than
the agent shows is cut, and `Ran.whole` has all of it for the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import pydantic_core

from orchestrator.canonical import canonical
from orchestrator.clock import Clock, SystemClock
from orchestrator.loop.events import Call
from orchestrator.loop.state import ToolKind
from orchestrator.tools.base import (
    NOT_DONE,
    UNKNOWN,
    Later,
    NeedsPerson,
    Ready,
    Refused,
    Tool,
    ToolContext,
    ToolError,
    ToolOutput,
)
from orchestrator.tools.errors import LONGEST_RETRY_AFTER_S, bounded, error_text
from orchestrator.tools.gate import ToolGate
from serving import reply
from serving.config.agent import AgentLimits
from serving.config.sections import nearest

Outcome = Literal["ok", "error", "timeout"]
READ_RESULT = "read_result"
"""The built-in tool that reads a long result on."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


class Ran(msgspec.Struct, frozen=True, gc=False):
    """What a call gave."""

    outcome: Outcome
    output: str
    """As the model reads it."""
    code: str = ""
    """Of a failure: what kind."""
    whole: str = ""
    """All of a result that was too long for `output`."""
    cost_usd: float = 0.0
    quota: dict[str, float] = {}
    partial: bool = False
    later: float = 0.0
    """Unix seconds before which the model must not hear of it; 0: now."""
    transient: bool = False
    """Nothing happened, and trying again may help."""
    retry_after_s: float | None = None
    agents_usd: float = 0.0
    """Of the cost, what agents have spent that were asked."""


class Toolbox:
    """The tools of one agent."""

    def __init__(self, tools: Iterable[Tool], clock: Clock | None = None) -> None:
        self._tools = {each.name: each for each in sorted(tools, key=lambda each: each.name)}
        self._clock = clock = clock or SystemClock()
        self._gates = {t.name: ToolGate(t.name, t.limits, clock) for t in self._tools.values()}
        self.kinds: Mapping[str, ToolKind] = {t.name: t.kind for t in self._tools.values()}
        self.need_approval = frozenset(t.name for t in self._tools.values() if t.requires_approval)

    def extended(self, more: Iterable[Tool]) -> Toolbox:
        """These tools and more; what counts calls of these goes on counting them."""
        box = Toolbox([*self._tools.values(), *more], self._clock)
        box._gates |= self._gates
        return box

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def definitions(self) -> list[dict[str, Any]]:
        """For the request, in the order of their names."""
        return [each.definition() for each in self._tools.values()]

    def prepare(self, call: Call) -> Ready | Refused:
        """Find the tool and check the arguments; has no effect, and gives the same every time."""
        found = self._tools.get(call.name)
        if found is None:
            if call.name == reply.REPLY:
                return Refused(reply.REFUSED)
            hint = nearest(call.name, self.names) if self._tools else "there are no tools"
            return Refused(error_text("unknown_tool", f"there is no tool {call.name!r}; {hint}"))
        checked = found.check(call.arguments)
        return checked if isinstance(checked, Refused) else Ready(call, found, checked)

    async def run(
        self, ready: Ready, context: ToolContext, limits: AgentLimits
    ) -> Ran | NeedsPerson:
        """Call the tool; returns whatever happens, except that cancelling it cancels."""
        chosen = ready.tool
        gate = self._gates[chosen.name]
        limit_s = chosen.limits.timeout_s or limits.tool_timeout_s
        result_bytes = limits.tool_result_bytes
        # It tells its own expiry from a TimeoutError that the tool itself raised.
        timer: asyncio.Timeout | None = None
        try:
            async with gate, asyncio.timeout(limit_s) as timer:
                value = await chosen.invoke(ready.arguments, context)
            if isinstance(value, NeedsPerson):
                return value
            ran = result_of(chosen, value, result_bytes, self._handle(context))
            gate.worked()
        except ToolError as error:
            if error.transient and error.error_code != "tool_unavailable":
                gate.failed()
            return failure_of(error, result_bytes)
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            gate.failed()
            if timer is not None and timer.expired():
                note = "" if chosen.kind == "pure" else "; it may still have taken effect"
                said = error_text("timeout", f"no result within {limit_s:g} s{note}")
                return Ran("timeout", said, "timeout")
            said = f"{type(error).__name__}: {error}" if str(error) else repr(error)
            return Ran("error", error_text("tool_failed", said[:result_bytes]), "tool_failed")
        return ran

    async def lookup(
        self, ready: Ready, context: ToolContext, limits: AgentLimits
    ) -> Ran | bool | None:
        """What the call with this key did: its result, False for nothing, None for unknown."""
        chosen = ready.tool
        if chosen.lookup is None:
            return None
        try:
            async with asyncio.timeout(chosen.limits.timeout_s or limits.tool_timeout_s):
                value = await chosen.lookup(context.key, context)
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            return None  # who cannot be asked has not said that nothing happened
        if value is UNKNOWN:
            return None
        if value is NOT_DONE:
            return False
        return result_of(chosen, value, limits.tool_result_bytes, self._handle(context))

    def _handle(self, context: ToolContext) -> str:
        """What the rest of a long result is asked for by, where the agent can."""
        return context.call_id if READ_RESULT in self._tools else ""

    def close(self) -> None:
        """Let go of what the tools hold."""
        for each in self._tools.values():
            each.close()


def _is_cancelled() -> bool:
    """Is it us whom somebody cancels? A tool may raise CancelledError by itself, as one does that
    awaits a task which it, or a library, has cancelled: then its call has failed, no more."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def result_of(chosen: Tool, value: Any, result_bytes: int, handle: str = "") -> Ran:
    """What a tool returned, checked against its output schema. Raises TypeError for what is not
    data."""
    later, cost, agents_usd, partial = 0.0, 0.0, 0.0, False
    quota: dict[str, float] = {}
    failed: Any = ()
    if isinstance(value, Later):
        later, value = value.until, value.value
    if isinstance(value, ToolOutput):
        cost, quota, partial = value.cost_usd, dict(value.quota), bool(value.failed)
        agents_usd = value.agents_usd
        failed, value = value.failed, value.value
    if chosen.check_output is not None and (wrong := chosen.check_output(as_json(value))):
        said = f"the result of {chosen.name} does not fit its schema ({wrong}); it did take effect"
        if chosen.kind == "pure":
            said = said.partition("; ")[0]
        return Ran(
            "error",
            error_text("invalid_result", said),
            "invalid_result",
            cost_usd=cost,
            quota=quota,
            agents_usd=agents_usd,
        )
    text = as_text({"partial": True, "result": value, "failed": failed} if partial else value)
    shown = clip(text, result_bytes, handle)
    whole = "" if shown == text else text
    return Ran("ok", shown, "", whole, cost, quota, partial, later, agents_usd=agents_usd)


def failure_of(error: ToolError, result_bytes: int) -> Ran:
    """A tool's own refusal."""
    after_ms = bounded(error.retry_after_ms, LONGEST_RETRY_AFTER_S * 1000)
    shown_ms = None if after_ms is None else round(after_ms)
    said = error_text(error.error_code, error.human[:result_bytes], shown_ms)
    after_s = None if after_ms is None else after_ms / 1000
    return Ran("error", said, error.error_code, transient=error.transient, retry_after_s=after_s)


def pause_s(attempt: int, retry_after_s: float | None) -> float:
    """Seconds between a failed attempt and the next: what the tool says, else 0.5, 1, 2, ... 60."""
    if retry_after_s is not None:
        return max(0.0, retry_after_s)
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)))


def as_json(value: Any) -> str:
    """Canonical JSON. Raises TypeError for what is not data."""
    try:
        return canonical(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        plain = pydantic_core.to_jsonable_python(value)
        return canonical(plain).decode()


def as_text(value: Any) -> str:
    """A string as it is, anything else as canonical JSON. Raises TypeError for what is neither."""
    if isinstance(value, str):
        # Lone surrogates cannot be stored or sent: they become question marks.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return as_json(value)


def clip(text: str, limit_bytes: int, handle: str = "") -> str:
    """Cut a result that is too long, and say so; `limit_bytes` includes the note."""
    if len(text) * 4 <= limit_bytes:
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit_bytes:
        return raw.decode()
    note = f"\n[cut: the result has {len(raw)} bytes, {limit_bytes} are shown]"
    if handle:
        note = f'{note[:-1]}; {READ_RESULT}(handle="{handle}", offset=...) reads on]'
    return raw[: max(0, limit_bytes - len(note))].decode("utf-8", "ignore") + note
