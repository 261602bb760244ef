"""One model answer as it arrives: what of it can be journaled now, and what it is in the end.

    feed(event)* ─► drain()   OutputDeltas of what came since the last drain
                 ─► whole()   text and calls, or why there is no answer

The text inside a `reply` call's arguments is text of the answer, piece by piece as it arrives.
Ids of calls are ours, `call_STEP_INDEX` (and `_ATTEMPT`, from the second on): engines make up
random ones, which would make prompts differ for no reason, and some repeat them.
"""

from __future__ import annotations

import msgspec

from orchestrator.loop.events import Call, OutputDelta
from orchestrator.model import (
    ArgumentsDelta,
    CallStart,
    Done,
    ModelError,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
)
from serving.partial_json import StringField
from serving.reply import REPLY


class Answer:
    """Collects the events of one attempt."""

    def __init__(self, step: int, attempt: int) -> None:
        self.step = step
        self.attempt = attempt
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._names: list[str] = []
        self._arguments: list[list[str]] = []
        self._reply: StringField | None = None
        self._drained_text = 0
        self._drained_reasoning = 0
        self._drained_calls: list[int] = []
        """For each call that is in the log, how many pieces of its arguments are."""
        self._whole_calls = 0
        self.done: Done | None = None

    def feed(self, event: ModelEvent) -> None:
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        elif isinstance(event, ArgumentsDelta):
            if not self._arguments:
                raise ModelError(
                    "the engine sent arguments without a call", code="engine_failed", retry=True
                )
            self._arguments[-1].append(event.text)
            if self._reply is not None and (text := self._reply.feed(event.text)):
                self._text.append(text)
        elif isinstance(event, CallStart):
            self._names.append(event.name)
            self._arguments.append([])
            self._reply = StringField("text") if event.name == REPLY else None
        elif isinstance(event, ReasoningDelta):
            self._reasoning.append(event.text)
        elif isinstance(event, Done):
            self.done = event

    @property
    def characters(self) -> int:
        """How much the model wrote, to estimate what a failed attempt wasted."""
        arguments = sum(len(piece) for pieces in self._arguments for piece in pieces)
        return sum(map(len, [*self._text, *self._reasoning])) + arguments

    @property
    def text(self) -> str:
        """What the model said so far."""
        return "".join(self._text)

    def whole_calls(self) -> list[Call]:
        """Calls that have become whole since it was last asked: another one follows them, or
        their arguments are a JSON value that nothing can follow."""
        found = []
        for index in range(self._whole_calls, len(self._names)):
            arguments = "".join(self._arguments[index])
            if index + 1 == len(self._names) and not _is_whole(arguments):
                break
            self._whole_calls += 1
            if self._names[index] != REPLY:
                found.append(Call(self._call_id(index), self._names[index], arguments))
        return found

    @property
    def reasoning(self) -> str:
        """What the model thought so far."""
        return "".join(self._reasoning)

    def drain(self) -> list[OutputDelta]:
        """What came since the last drain, coalesced; `reply` shows as its text only."""
        deltas = []
        step, attempt = self.step, self.attempt
        if len(self._reasoning) > self._drained_reasoning:
            thought = "".join(self._reasoning[self._drained_reasoning :])
            self._drained_reasoning = len(self._reasoning)
            deltas.append(OutputDelta(step, attempt, "reasoning", thought))
        if len(self._text) > self._drained_text:
            text = "".join(self._text[self._drained_text :])
            self._drained_text = len(self._text)
            deltas.append(OutputDelta(step, attempt, "text", text))
        for index in range(max(0, len(self._drained_calls) - 1), len(self._names)):
            name, pieces = self._names[index], self._arguments[index]
            opened = index < len(self._drained_calls)
            new = pieces[self._drained_calls[index] :] if opened else pieces
            if opened:
                self._drained_calls[index] = len(pieces)
            else:
                self._drained_calls.append(len(pieces))
            if name == REPLY or (opened and not new):
                continue
            call_id, arguments = self._call_id(index), "".join(new)
            if opened:
                deltas.append(OutputDelta(step, attempt, "arguments", arguments, call_id))
            else:
                deltas.append(OutputDelta(step, attempt, "call", arguments, call_id, name))
        return deltas

    def whole(self) -> tuple[str, list[Call], Done]:
        """Text, calls and usage. Raises ModelError for a stream that was cut, or said nothing.

        A truncated answer has no calls: half a call is a failure, not a call.
        """
        done = self.done
        if done is None:
            raise ModelError("the engine's stream was cut", code="engine_failed", retry=True)
        text = "".join(self._text)
        if done.finish_reason == "length":
            return text, [], done
        calls = [
            Call(self._call_id(index), name, "".join(self._arguments[index]))
            for index, name in enumerate(self._names)
        ]
        if not calls and not text.strip():
            raise ModelError("the model answered with nothing", code="empty_answer", retry=True)
        return text, calls, done

    def _call_id(self, index: int) -> str:
        # Of every attempt its own: what a dead attempt streamed must not be taken for this one.
        again = f"_{self.attempt}" if self.attempt > 1 else ""
        return f"call_{self.step}_{index}{again}"


def _is_whole(arguments: str) -> bool:
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeError):
        return False
