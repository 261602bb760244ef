"""What a model wrote in a turn with tools, and what a client may see of it.

    text ──────► text, or a pseudo-call found in it: a call
    reply call ► text, as it arrives
    call ──────► name at once; arguments as they arrive where the grammar holds them to the whole
                 schema, else when they are whole and have been checked
                 └ they do not fit: the model is asked once more; then InvalidToolCall
    end ───────► the right finish reason

One reader reads one choice of one answer. It knows no wire: it is fed plain values and returns
plain values, which `answer` writes in the client's form. A call that was cut off by the token
limit is never passed on as a call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from router.calls.forms import Call
from router.calls.plan import ToolPlan
from router.calls.pseudo import PseudoCalls
from serving.errors import InvalidToolCall
from serving.partial_json import StringField
from serving.reply import REFUSED, REPLY
from serving.schemas import Registered

Retry = Callable[[Call, list[str]], Awaitable[str | None]]
"""Asks the engine for one call again; None when nothing came of it."""


class Text(NamedTuple):
    text: str


class Begin(NamedTuple):
    """A call: its place among the calls that the client sees."""

    place: int
    call_id: str
    name: str


class Arguments(NamedTuple):
    place: int
    text: str


class End(NamedTuple):
    """`stop`, `tool_calls`, `length`, or what else the engine gave."""

    reason: str


Seen = Text | Begin | Arguments | End

_FINISHED = ("stop", "tool_calls", "function_call", "stop_sequence")
"""After any other reason (length, abort, content_filter) the last call may be half of one."""


@dataclass(slots=True)
class _Open:
    """The call that is being written."""

    call_id: str
    name: str
    registered: Registered | None
    index: int = -1
    reply: StringField | None = None
    told: bool = False
    """Some of the reply has been shown."""
    streams: bool = False
    pieces: list[str] = field(default_factory=list)


class ToolReader:
    """One choice. `whole`: all of it is here, and nothing is shown before it has been checked."""

    def __init__(self, plan: ToolPlan, retry: Retry, *, whole: bool) -> None:
        self._plan = plan
        self._retry = retry
        self._whole = whole
        self._open: _Open | None = None
        self._shown = 0
        # Under our grammar a turn that may be answered by `reply` has no text beside it.
        replies = plan.reply and plan.guarded and plan.mode == "auto"
        self._wordless = plan.mode in ("required", "named") or replies
        self._pseudo: PseudoCalls | None = None
        if plan.mode in ("auto", None) and not plan.guarded:
            self._pseudo = PseudoCalls([*plan.registered, *[REPLY] * plan.reply])
        # A small model may write a call even into the text of its reply, where no grammar looks.
        self._in_reply: PseudoCalls | None = None
        if plan.reply and plan.mode == "auto":
            self._in_reply = PseudoCalls(plan.registered)

    async def text(self, piece: str) -> list[Seen]:
        """More text of the answer; a call that was open before is whole."""
        if not piece or self._wordless:
            return []  # an engine's half-parsed call: there is no text
        seen = await self._close()
        if self._pseudo is None:
            return [*seen, Text(piece)]
        return seen + await self._sorted(self._pseudo.feed(piece))

    async def call(self, call_id: str | None, name: str) -> list[Seen]:
        """A call begins; what was open before is whole."""
        return await self.settle() + self._begin(call_id, name)

    async def arguments(self, piece: str) -> list[Seen]:
        """More of the open call's arguments."""
        opened = self._open
        if opened is None or not piece:
            return []
        opened.pieces.append(piece)
        if opened.reply is not None:
            text = opened.reply.feed(piece)
            opened.told = opened.told or bool(text)
            if self._in_reply is None:
                return [Text(text)] if text else []
            seen = await self._sorted(self._in_reply.feed(text))
            self._open = opened  # also after a call that was found in its text
            return seen
        return [Arguments(opened.index, piece)] if opened.streams else []

    async def settle(self, *, cut: bool = False) -> list[Seen]:
        """What was begun is over: what is held back comes out. `cut`: it was not finished."""
        seen = await self._close(cut=cut)
        if self._pseudo is not None:
            seen += await self._sorted(self._pseudo.end(), cut=cut)
        return seen

    async def end(self, reason: str) -> list[Seen]:
        """The answer is over; raises InvalidToolCall where it holds no call and must."""
        cut = reason not in _FINISHED
        seen = await self.settle(cut=cut)
        if cut:
            return [*seen, End(reason)]
        if self._shown:
            return [*seen, End("tool_calls")]
        if self._plan.mode in ("required", "named"):
            raise InvalidToolCall("the model made no call, and tool_choice requires one")
        return [*seen, End("stop" if reason == "tool_calls" else reason)]

    async def _sorted(self, found: list[str | tuple[str, str]], *, cut: bool = False) -> list[Seen]:
        seen: list[Seen] = []
        for i, part in enumerate(found):
            if isinstance(part, str):
                seen.append(Text(part))
                continue
            name, arguments = part
            half = cut and i == len(found) - 1
            if half and name != REPLY and self._plan.registered[name].problems(arguments):
                continue
            seen += self._begin(None, name)
            seen += await self.arguments(arguments)
            seen += await self._close(cut=half)
        return seen

    def _begin(self, call_id: str | None, name: str) -> list[Seen]:
        plan = self._plan
        if plan.reply and name == REPLY:
            self._open = _Open("", name, None, reply=StringField("text"))
            return []
        registered = plan.registered.get(name)
        if registered is None:
            raise InvalidToolCall(f"the model called {name[:64]!r}, which is not one of the tools")
        if plan.choice is not None and not plan.choice.allows(name):
            raise InvalidToolCall(
                f"the model called {name!r}, which is not what tool_choice allows"
            )
        self._open = opened = _Open(call_id or plan.form.new_id(), name, registered)
        if self._shown >= plan.max_calls:
            return []  # one too many: read and dropped
        opened.index = self._shown
        if self._whole:
            return []
        opened.streams = registered.covered and plan.guarded
        self._shown += 1
        return [Begin(opened.index, opened.call_id, name)]

    async def _close(self, *, cut: bool = False) -> list[Seen]:
        """The open call is whole, or was cut off: check it, and show what was held back."""
        opened, self._open = self._open, None
        if opened is None:
            return []
        arguments = "".join(opened.pieces)
        if opened.reply is not None:
            if not opened.told and not cut and not _is_reply(arguments):
                raise _unfit(REPLY, [REFUSED])
            return await self._sorted(self._in_reply.end(), cut=cut) if self._in_reply else []
        if opened.registered is None or opened.index < 0:
            return []
        streamed = opened.streams and bool(arguments.strip())
        if not arguments.strip() and not cut:
            arguments = "{}"  # some engines write nothing where there are none
        problems = opened.registered.problems(arguments)
        if problems and cut:
            return []
        if problems and opened.streams:
            raise _unfit(opened.name, problems)
        if problems:
            arguments = await self._again(opened, opened.registered, arguments, problems)
        if streamed:
            return []
        shown: list[Seen] = [Arguments(opened.index, arguments)]
        if self._whole:
            self._shown += 1
            shown.insert(0, Begin(opened.index, opened.call_id, opened.name))
        return shown

    async def _again(
        self, opened: _Open, registered: Registered, arguments: str, problems: list[str]
    ) -> str:
        """Arguments that fit, from the engine; raises InvalidToolCall when it has none."""
        for _ in range(self._plan.resamples):
            again = await self._retry(Call(opened.call_id, opened.name, arguments), problems)
            if again is None:
                break
            arguments = again
            problems = registered.problems(arguments)
            if not problems:
                return arguments
        raise _unfit(opened.name, problems)


def _is_reply(arguments: str) -> bool:
    """Whether this is a reply, be it an empty one."""
    try:
        given = msgspec.json.decode(arguments)
    except (ValueError, RecursionError):
        return False
    return isinstance(given, dict) and isinstance(given.get("text"), str)


def _unfit(name: str, problems: list[str]) -> InvalidToolCall:
    said = "; ".join(problems[:3])
    return InvalidToolCall(f"the model's call of {name} does not fit its schema: {said}")
