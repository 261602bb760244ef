"""Which requests belong to one session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.identity import Identity, Sessions
from router.tenancy.tenants import OPEN, Tenant
from router.turn import TurnRequest
from serving.protocol import CHAT, COMPLETIONS, MESSAGES, parse

SYSTEM = {"role": "system", "content": "You are helpful. " * 50}
EXAMPLES = [
    {"role": "user", "content": "Two plus two?"},
    {"role": "assistant", "content": "Four."},
]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class Desk:
    """A Sessions that remembers every turn, as the router does after a success."""

    def __init__(self, **settings: Any) -> None:
        self.sessions = Sessions(settings.pop("capacity", 1000), **settings)

    def ask(
        self,
        *messages: dict[str, str],
        path: str = CHAT,
        session: str | None = None,
        headers: dict[str, str] | None = None,
        tenant: Tenant = OPEN,
        **fields: Any,
    ) -> Identity:
        body = {"model": "m", **fields}
        if messages:
            body["messages"] = list(messages)
        raw = json.dumps(body).encode()
        turn = TurnRequest(path, raw, "id", headers or {}, session, tenant=tenant)
        identity = self.sessions.identify(turn, parse(path, raw))
        self.sessions.remember(identity, first=identity.source != "prefix")
        return identity


def test_a_longer_request_finds_the_session_of_the_shorter_one() -> None:
    desk = Desk()
    first = desk.ask(SYSTEM, user("a"))
    second = desk.ask(SYSTEM, user("a"), says("b"), user("c"))
    third = desk.ask(SYSTEM, user("a"), says("b"), user("c"), says("d"), user("e"))
    assert first.source == "new"
    assert second.source == third.source == "prefix"
    assert first.key == second.key == third.key


def test_the_longest_known_prefix_wins() -> None:
    desk = Desk()
    desk.ask(user("a"))
    branch = desk.ask(user("a"), says("b"), user("c"), session=None)
    deeper = desk.ask(user("a"), says("b"), user("c"), says("d"), user("e"))
    assert deeper.parent == branch.last


def test_a_session_s_key_is_found_alike_by_front_doors_that_have_never_seen_it() -> None:
    known = Desk()
    turns = [
        (SYSTEM, user("a")),
        (SYSTEM, user("a"), says("b"), user("c")),
        (SYSTEM, user("a"), says("b"), user("c"), says("d"), user("e")),
    ]
    keys = {known.ask(*messages).key for messages in turns}
    assert {Desk().ask(*messages).key for messages in turns} == keys
    assert len(keys) == 1


def test_a_shared_system_prompt_joins_nobody() -> None:
    desk = Desk()
    assert len({desk.ask(SYSTEM, user(f"question {i}")).key for i in range(50)}) == 50


def test_shared_examples_join_nobody_once_enough_sessions_have_passed_them() -> None:
    desk = Desk(branch_limit=4)
    keys = [desk.ask(SYSTEM, *EXAMPLES, user(f"question {i}")).key for i in range(50)]
    assert len(set(keys[4:])) == 46


def test_a_request_of_system_messages_alone_is_never_a_prefix() -> None:
    desk = Desk()
    alone = desk.ask(SYSTEM)
    assert alone.last is None
    assert desk.ask(SYSTEM, user("a")).source == "new"


def test_a_request_from_which_many_different_ones_grow_stops_joining_them() -> None:
    desk = Desk(branch_limit=4)
    desk.ask(SYSTEM, user("warm up"))
    grown = [desk.ask(SYSTEM, user("warm up"), says("ok"), user(f"{i}")) for i in range(20)]
    assert [i.source for i in grown] == ["prefix"] * 4 + ["new"] * 16
    # ... nor by its answer, once enough of them have passed that.
    assert len({i.key for i in grown[8:]}) == 12


def test_a_repeated_turn_is_the_same_session_and_no_new_branch() -> None:
    desk = Desk(branch_limit=2)
    desk.ask(user("a"))
    for _ in range(10):
        assert desk.ask(user("a"), says("b"), user("c")).source == "prefix"
    assert desk.ask(user("a"), says("b"), user("other")).source == "prefix"


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "other"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"cache_salt": "tenant-2"},
        {"user": "someone else"},
    ],
)
def test_what_changes_the_prefix_or_the_owner_makes_another_session(
    changed: dict[str, Any],
) -> None:
    desk = Desk()
    first = desk.ask(user("a"))
    assert desk.ask(user("a"), says("b"), user("c"), **changed).key != first.key


def test_the_caller_s_key_wins_over_headers_over_the_body_over_the_prefix() -> None:
    desk = Desk()
    headers = {"x-session-id": "from-header"}
    everything: dict[str, Any] = {
        "headers": headers,
        "conversation": "from-body",
        "metadata": {"session_id": "from-metadata"},
    }
    assert desk.ask(user("a"), session="mine", **everything).source == "caller"
    assert desk.ask(user("a"), **everything).source == "x-session-id"
    del everything["headers"]
    assert desk.ask(user("a"), **everything).source == "conversation"
    del everything["conversation"]
    assert desk.ask(user("a"), **everything).source == "metadata.session_id"


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"x-session-id": "s1"}},
        {"headers": {"x-conversation-id": "s1"}},
        {"conversation": "s1"},
        {"conversation": {"id": "s1"}},
        {"prompt_cache_key": "s1"},
        {"metadata": {"session_id": "s1"}},
        {"metadata": {"conversation_id": "s1"}},
    ],
)
def test_an_id_joins_requests_that_have_nothing_else_in_common(fields: dict[str, Any]) -> None:
    desk = Desk()
    one, two = desk.ask(user("a"), **fields), desk.ask(user("b"), **fields)
    assert one.key == two.key
    assert one.key == desk.ask(user("c"), session="s1").key


def test_a_coding_agent_s_session_is_found_inside_its_user_id() -> None:
    desk = Desk()
    session = "0b0e7a9e-1111-2222-3333-444455556666"

    def ask(account: str) -> Identity:
        user_id = f"user_ab12_account_{account}_session_{session}"
        return desk.ask(user(account), path=MESSAGES, metadata={"user_id": user_id})

    assert ask("x").source == "metadata.user_id"
    assert ask("x").key == ask("y").key


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u1"},
        {"metadata": {"user_id": "plain-person"}},
        {"metadata": None},
        {"metadata": [1]},
        {"conversation": 7},
        {"prompt_cache_key": None},
    ],
)
def test_a_person_or_a_value_of_a_strange_type_is_no_session(fields: dict[str, Any]) -> None:
    desk = Desk()
    assert desk.ask(user("a"), **fields).source == "new"
    assert desk.ask(user("b"), **fields).source == "new"


def test_the_system_prompt_of_the_messages_route_is_part_of_the_prefix() -> None:
    desk = Desk()
    first = desk.ask(user("a"), path=MESSAGES, system="one")
    other = desk.ask(user("a"), says("b"), user("c"), path=MESSAGES, system="two")
    again = desk.ask(user("a"), says("b"), user("c"), path=MESSAGES, system="one")
    assert other.key != first.key
    assert again.key == first.key


def test_a_growing_bare_prompt_is_one_session_and_a_short_one_is_none() -> None:
    desk = Desk()
    text = "".join(f"line {i}\n" for i in range(1000))
    first = desk.ask(path=COMPLETIONS, prompt=text[:6000])
    assert desk.ask(path=COMPLETIONS, prompt=text).key == first.key
    assert desk.ask(path=COMPLETIONS, prompt="hi").last is None


def test_memory_is_bounded_and_the_least_recently_used_session_goes_first() -> None:
    desk = Desk(capacity=3)
    kept = desk.ask(user("kept"))
    for i in range(10):
        desk.ask(user(f"passing {i}"))
        desk.ask(user("kept"))
    assert len(desk.sessions) == 3
    assert desk.ask(user("kept"), says("b"), user("c")).key == kept.key
    assert desk.ask(user("kept"), says("b"), user("c")).source == "prefix"
    assert desk.ask(user("passing 0"), says("b"), user("c")).source == "new"


def test_a_chain_tells_the_bytes_up_to_each_boundary() -> None:
    identity = Desk().ask(SYSTEM, user("a"), tools=[{"type": "function"}], session="s")
    pieces = [json.dumps(part) for part in ([{"type": "function"}], SYSTEM, user("a"))]
    assert list(identity.ends_bytes) == [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    assert identity.total_bytes == identity.ends_bytes[-1]
    assert len(identity.hashes) == 3


def test_requests_share_their_chains_up_to_where_they_part_whoever_asks() -> None:
    desk = Desk()
    one = desk.ask(SYSTEM, user("a"), says("b"), user("c"), session="parent")
    other = desk.ask(SYSTEM, user("a"), says("b"), user("sub"), user="u", session="subagent")
    assert one.key != other.key
    assert one.hashes[:4] == other.hashes[:4]
    assert one.hashes[4] != other.hashes[4]


def test_tenants_share_neither_ids_nor_chains() -> None:
    desk = Desk()
    ann, bob = Tenant("ann", salt="1"), Tenant("bob", salt="2")
    assert (
        desk.ask(user("a"), tenant=ann, session="s").key
        != desk.ask(user("a"), tenant=bob, session="s").key
    )
    first = desk.ask(user("a"), tenant=ann)
    second = desk.ask(user("a"), says("b"), user("c"), tenant=bob)
    assert second.source == "new"
    assert not set(first.hashes) & set(second.hashes)


def test_the_same_messages_under_an_adapter_are_another_session() -> None:
    desk = Desk()
    base = desk.ask(SYSTEM, user("a"))
    adapter = desk.ask(SYSTEM, user("a"), model="polite")
    assert adapter.source == "new"
    assert adapter.key != base.key
    grown = desk.ask(SYSTEM, user("a"), says("b"), user("c"), model="polite")
    assert (grown.source, grown.key) == ("prefix", adapter.key)
