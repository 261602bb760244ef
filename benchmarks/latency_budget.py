"""Latency benchmark, where the time of a turn went: recorded instants → seconds by part. Pure.

    sent ─ network ─ accepted ─ to begin ─ intent ─ to ask ─ TURN
         ─ orchestration ─ intent ─ to call ─ tool ─ orchestration ─ intent ─ to ask ─ TURN
         ─ orchestration ─ finished ─ to end ─ ended

    TURN = queue ─ router ─ server ─ queue ─ prefill ─ server ─ decode ─ server ─ router

The instants are the client's own, those of the log's events, of the router's log lines, and of a
relay before the engine, all of one machine's clock; how long a turn waited and was computed in the
engine the engine says itself. Each instant of the whole belongs to one part (`cover`): nothing can
count twice, and the parts with `rest` are the whole. Parts are

    network        until a request is accepted: connection, HTTP, checks, lease (bare: both ways)
    orchestration  from an answer, or a tool's result, to what is decided upon it
    to begin, to ask, to call, to end
                   from an event to what must wait until it is stored. The journal's own clock says
                   how much of these four together is the journal; what else is in them cannot be
                   told apart from outside: a run that starts, a prompt that is rendered, a task
                   that is made for a tool, the end on its way to the client
    router         decides and forwards
    queue          waits: in the router, and in the engine
    server         the engine's HTTP, template and tokenizer; also without us
    first token    prefill, with the server and the queue, where the engine does not tell them apart
    prefill, decode, tool
    rest           none of these: a failed attempt, a pause, a person
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.loop.events import (
    AnyEvent,
    ModelIntent,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)

STORING = ("to begin", "to ask", "to call", "to end")
STACK = ("network", *STORING, "orchestration", "router")
ENGINE = ("queue", "server", "first token", "prefill", "decode")
PARTS = (*STACK, *ENGINE, "tool", "rest")


@dataclass(frozen=True, slots=True)
class Claim:
    """A part says that it had these instants (Unix seconds)."""

    part: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it (Unix seconds)."""

    sent: float
    first_event: float
    first_text: float | None
    """None: no text was streamed."""
    ended: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as a relay before the engine saw it (Unix seconds), and what the engine said."""

    came: float
    first: float
    """The first byte of the answer's body."""
    ended: float
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """A turn's line in the router's log."""

    waited_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Budget:
    """One turn: its seconds by part, and what the engine says of its tokens."""

    whole_s: float
    parts: Mapping[str, float]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def stack_s(self) -> float:
        """What a bare engine's client would not have waited for, as far as the parts say it."""
        return sum(self.parts[part] for part in STACK)


def cover(start: float, end: float, claims: Iterable[Claim]) -> dict[str, float]:
    """Seconds by part: each instant is the first claim's that has it, or `rest`."""
    free = [(start, end)] if end > start else []
    spent = dict.fromkeys(PARTS, 0.0)
    for claim in claims:
        left: list[tuple[float, float]] = []
        for begin, stop in free:
            cut, to = max(begin, claim.start), min(stop, claim.end)
            if cut >= to:
                left.append((begin, stop))
                continue
            spent[claim.part] += to - cut
            left += [each for each in ((begin, cut), (to, stop)) if each[1] > each[0]]
        free = left
    spent["rest"] += sum(stop - begin for begin, stop in free)
    return spent


def at_engine(seen: Exchange) -> list[Claim]:
    """The engine's parts of one exchange. Where the engine's clocks say more than passed at its
    door, they are cut."""
    if seen.queue_s is None or seen.prefill_s is None or seen.decode_s is None:
        first = Claim("first token", seen.came, seen.first)
        return [first, Claim("decode", seen.first, seen.ended)]
    computed = min(seen.came + seen.queue_s + seen.prefill_s, seen.first)
    return [
        Claim("queue", seen.came, min(seen.came + seen.queue_s, computed)),
        Claim("prefill", seen.came, computed),
        Claim("decode", seen.first, min(seen.first + seen.decode_s, seen.ended)),
        Claim("server", seen.came, seen.ended),
    ]


def bare_turn(asked: Asked, seen: Exchange, tokens: tuple[int, int, int]) -> Budget:
    """A turn of a client that asks the engine itself. `tokens`: prompt, cached, output."""
    claims = [*at_engine(seen), Claim("network", asked.sent, asked.ended)]
    return Budget(asked.ended - asked.sent, cover(asked.sent, asked.ended, claims), *tokens)


def stack_turns(
    asked: Asked,
    events: Sequence[AnyEvent],
    exchanges: Sequence[Exchange],
    routed: Mapping[tuple[int, int], Routed],
) -> list[Budget]:
    """The turns of one response: each from where the last one's tools had ended (the first: from
    when the request was sent) to where its own have (the last: to the answer's end).

    `events` are the response's, from its ResponseAccepted to its ResponseFinished; `routed` are the
    router's lines by step and attempt. Raises ValueError for a log without a beginning or an end.
    """
    accepted, finished = events[0] if events else None, events[-1] if events else None
    if not isinstance(accepted, ResponseAccepted) or not isinstance(finished, ResponseFinished):
        raise ValueError("events: a response's log, from its ResponseAccepted to its end")
    claims = [
        *_models(events, exchanges, routed),
        *_tools(events),
        *_loop(events),
        Claim("network", asked.sent, accepted.at),
        Claim("to end", finished.at, asked.ended),
    ]
    results = [each for each in events if isinstance(each, ModelResult)]
    edges = [asked.sent, *_edges(events), asked.ended]
    return [
        Budget(
            end - start,
            cover(start, end, claims),
            result.prompt_tokens,
            result.cached_tokens,
            result.output_tokens,
        )
        for result, start, end in zip(results, edges[:-1], edges[1:], strict=True)
    ]


def _edges(events: Sequence[AnyEvent]) -> list[float]:
    """Where one turn ends and the next one begins."""
    edges, step, last = [], 0, 0.0
    for event in events:
        if isinstance(event, ModelIntent):
            if step and event.step != step:
                edges.append(last)
            step = event.step
        elif isinstance(event, ModelResult | ToolResult):
            last = event.at
    return edges


def _models(
    events: Sequence[AnyEvent],
    exchanges: Sequence[Exchange],
    routed: Mapping[tuple[int, int], Routed],
) -> list[Claim]:
    """From each attempt's intent to its answer. An attempt that failed claims what the engine
    computed for it, and no more."""
    claims = [claim for each in exchanges for claim in at_engine(each)]
    intents = {(e.step, e.attempt): e.at for e in events if isinstance(e, ModelIntent)}
    for result in events:
        if not isinstance(result, ModelResult):
            continue
        at = result.step, result.attempt
        line = routed.get(at)
        if line is None:
            continue  # nobody knows: it stays in the rest
        opened = result.at - line.total_s
        claims += [
            Claim("queue", opened, opened + line.waited_s),
            Claim("router", opened, result.at),
            Claim("to ask", intents[at], opened),
        ]
    return claims


def _tools(events: Sequence[AnyEvent]) -> list[Claim]:
    intents = {e.call_id: e.at for e in events if isinstance(e, ToolIntent)}
    claims = []
    for result in events:
        if isinstance(result, ToolResult) and result.call_id in intents:
            began = _began(result.output) or intents[result.call_id]
            claims.append(Claim("tool", began, result.at))
            claims.append(Claim("to call", intents[result.call_id], began))
    return claims


def _began(output: str) -> float | None:
    """When the tool was called, where it says so (`latency_tool`). Else its intent's storing counts
    as the tool's: an event's own times do not tell them apart."""
    try:
        return float(json.loads(output)["began"])
    except (ValueError, TypeError, KeyError):
        return None


def _loop(events: Sequence[AnyEvent]) -> list[Claim]:
    """Between what came in and what is decided upon it."""
    claims = []
    came: float | None = None
    for event in events:
        if isinstance(event, ResponseAccepted):
            first = next((e.at for e in events if isinstance(e, ModelIntent)), event.at)
            claims.append(Claim("to begin", event.at, first))
        elif isinstance(event, ModelResult | ToolResult):
            came = event.at
        elif isinstance(event, ModelIntent | ToolIntent | ResponseFinished):
            if came is not None:
                claims.append(Claim("orchestration", came, event.at))
            came = None
    return claims
