"""After the kills: the ledger, the journal and the prompts, held against each other.

lost      a session without its end, or a call whose effect the world never saw, though the
          log says it ran; or a call that must run and did not
doubled   two effects for one call of a session (a key takes effect once, so: two keys), or a
          second run of a call that nobody can ask about; two requests stored for one
stuck     a session that did not come to its end when nobody killed any more
changed   a prompt that was asked again with other bytes, or does not continue the one before
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from benchmarks.kills_child import TURNS, Place, conversation
from orchestrator.journal.base import Recorded
from orchestrator.loop.events import ModelFailed, ResponseAccepted, ToolIntent, ToolResult
from orchestrator.loop.machine import fold_all
from orchestrator.tools.children import ids_of

MUST_RUN = {"book", "charge", "flaky", "helper"}
"""Tools whose every call has its effect in the end. `refund` needs a person, `pay` is unsafe."""
RUN_ONCE = {"charge", "pay"}
"""Tools that nobody may start a second time: the one can be asked, the other cannot."""
PURE = {"look", "rest"}
WRONG = ("lost", "doubled", "stuck", "prompts_changed", "crashed_by_themselves")
"""Counts that must be zero."""
CHILD = "helper"


@dataclass
class Findings:
    """Counts; those of WRONG must be zero."""

    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    prompts_changed: int = 0
    crashed_by_themselves: int = 0
    sessions: int = 0
    effects: int = 0
    runs_with_a_known_key: int = 0
    """Of idempotent tools: run again after a crash, no second effect."""
    calls_in_doubt: int = 0
    """A person was asked, and said no."""
    turns_superseded: int = 0
    prompts: int = 0
    events: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, what: str, said: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        if len(self.examples) < 20:
            self.examples.append(f"{what}: {said}")


async def judge(place: Place, *, ended: bool, crashed: int) -> Findings:
    """Everything that can be said about what happened."""
    lines = [json.loads(line) for line in place.ledger.read_text().splitlines()]
    by_session: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        by_session[line["session"]].append(line)
    found = Findings(crashed_by_themselves=crashed)
    journal = place.journal()
    await journal.start()
    try:
        for session, of_session in sorted(by_session.items()):
            log = await journal.read(conversation(session))
            keys = [each.event.key for each in log if isinstance(each.event, ToolIntent)]
            children = [await journal.read(ids_of(key).conversation) for key in dict.fromkeys(keys)]
            _session(found, session, of_session, log, [e for child in children for e in child])
    finally:
        await journal.close()
    if not ended and not found.stuck:
        found.note("stuck", "the last process did not come to its end")
    return found


def _session(
    found: Findings,
    session: int,
    lines: list[dict[str, Any]],
    log: list[Recorded],
    of_children: list[Recorded],
) -> None:
    found.sessions += 1
    found.events += len(log)
    events = [each.event for each in log]
    if [each.seq for each in log] != list(range(1, len(log) + 1)):
        found.note("lost", f"session {session}: its log has gaps")
    told = any(line["do"] == "told" for line in lines)
    state = fold_all(log)
    over = state.run is None and not state.waiting and state.last_status == "completed"
    if not told or not over:
        found.note("stuck", f"session {session}: told {told}, {state.last_status}, {events[-1:]}")
    requests = Counter(e.response_id for e in events if isinstance(e, ResponseAccepted))
    for response_id, count in requests.items():
        if count > 1:
            found.note("doubled", f"session {session}: {response_id} was stored {count} times")
    found.turns_superseded += sum(isinstance(e, ModelFailed) and e.superseded for e in events)
    _calls(found, session, lines, events, [each.event for each in of_children])
    _prompts(found, session, lines)


def _calls(
    found: Findings,
    session: int,
    lines: list[dict[str, Any]],
    events: list[Any],
    of_children: list[Any],
) -> None:
    runs: dict[int, Counter[str]] = defaultdict(Counter)
    for line in lines:
        if line["do"] == "run":
            runs[line["n"]][line["key"]] += 1
    keys = {e.call_id: e.key for e in events if isinstance(e, ToolIntent)}
    results = [e for e in events if isinstance(e, ToolResult)]
    for call_id, count in Counter(e.call_id for e in results).items():
        if count > 1:
            found.note("doubled", f"session {session}: {call_id} has {count} results")
    for name, n in (call for turn in TURNS for call in turn if call[0] not in PURE):
        _effect(found, f"session {session}, call {n} of {name}", name, runs[n])
    effects = {key for ran in runs.values() for key in ran}
    intended = {e.key for e in (*events, *of_children) if isinstance(e, ToolIntent)}
    for key in effects - intended:
        found.note("lost", f"session {session}: {key} had an effect without an intent")
    # A child's effect has a key of the child's own.
    no_key = {*PURE, CHILD}
    keyless = {c.call_id for e in events for c in getattr(e, "calls", ()) if c.name in no_key}
    for result in results:
        key = keys.get(result.call_id, "")
        found.calls_in_doubt += result.outcome == "outcome_unknown"
        if result.outcome == "ok" and result.call_id not in keyless and key not in effects:
            found.note("lost", f"session {session}: {key} is ok in the log and never ran")


def _effect(found: Findings, where: str, name: str, ran: Counter[str]) -> None:
    """What the world saw of one call: how often it ran, by key."""
    found.effects += len(ran)
    found.runs_with_a_known_key += ran.total() - len(ran)
    if not ran and name in MUST_RUN:
        found.note("lost", where)
    if len(ran) > 1 or (name in RUN_ONCE and ran.total() > 1):
        found.note("doubled", f"{where}: {dict(ran)}")


def _prompts(found: Findings, session: int, lines: list[dict[str, Any]]) -> None:
    asked: dict[int, set[str]] = defaultdict(set)
    for line in lines:
        if line["do"] == "asked":
            asked[line["turn"]].add(_messages(line["body"]))
    before = ""
    for turn in range(len(TURNS) + 1):
        bodies = asked.get(turn, set())
        found.prompts += len(bodies)
        if len(bodies) > 1:
            found.note("prompts_changed", f"session {session}, turn {turn}: {len(bodies)} prompts")
        for body in bodies:
            if not body.startswith(before):
                found.note("prompts_changed", f"session {session}, turn {turn}: a new beginning")
            before = body
    if len(asked) != len(TURNS) + 1 and not found.stuck:
        found.note("lost", f"session {session}: turns {sorted(asked)} were asked")


def _messages(body: str) -> str:
    return body.partition('"messages":[')[2].partition('],"model":')[0]
