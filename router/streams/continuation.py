"""A stream was cut: how does another replica go on from the text that the client already has?

    ways_on(path, body, told) ──► Continuation, or in a clause why not
    continuation.body(...)    ──► the request for the next replica
    Rest.event(data)          ──► its events, as more of the stream that was cut

Chat: the same messages and the text as the assistant's unfinished message, with
`continue_final_message` (vLLM, SGLang). Completions: the prompt and the text. Messages: engines
take an unfinished message there for a finished one, so it goes on as a chat, and the chat's chunks
are written as Messages events (`messages_rest`). What had been generated counts: `max_tokens` and
`min_tokens` are less by it, and in the usage at the end it is output, not prompt.

What may be continued at all: `continuable`.

A stop sequence that spans the cut is found where the engine withholds what may become one (vLLM
does): that text was not sent, and is generated again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from router.streams.continuable import obstacle, prompt_text
from router.streams.messages_as_chat import as_chat
from router.streams.sent import Told
from serving.protocol import CHAT, COMPLETIONS, MESSAGES
from serving.tables.base import EngineKind

_COMPLETION_TOKENS = 16
"""OpenAI's default for Completions; engines have it too."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Continuation:
    """A request, and what a client already has of its answer."""

    route: str
    """The client's, in whose form it has the stream."""
    request: Mapping[str, Any]
    told: Told

    @property
    def path(self) -> str:
        """The route that is asked for the rest."""
        return CHAT if self.route == MESSAGES else self.route

    def asked(self, kind: EngineKind) -> Json:
        """The request in the form of that route, as that kind of engine makes it."""
        return as_chat(self.request, kind) if self.route == MESSAGES else dict(self.request)

    @property
    def counts(self) -> bool:
        """Whether the number of tokens that were sent makes a difference."""
        limits = ("max_tokens", "max_completion_tokens", "min_tokens")
        return self.wants_usage or any(self.request.get(name) for name in limits) or (
            self.route == COMPLETIONS
        )  # fmt: skip

    @property
    def wants_usage(self) -> bool:
        if self.route == MESSAGES:
            return True
        options = self.request.get("stream_options") or {}
        return bool(options.get("include_usage"))

    @property
    def lacks_only_its_mark(self) -> bool:
        """Whether the client has everything but the mark of the end."""
        return bool(self.told.finish) and (self.route == MESSAGES or not self.wants_usage)

    def can_go_to(self, kind: EngineKind) -> bool:
        """Of an external server that is nothing we know, we do not know how it takes an
        unfinished message, nor what chat it makes of a Messages request."""
        free = self.route == COMPLETIONS or (self.route != MESSAGES and not self.told.text)
        return free or kind != "external"

    def sent_tokens(self, counted: int | None) -> int:
        """`counted` is the tokenizer's count of the text; without one, the events are counted,
        which is exact where each brought one token, and else too few."""
        return self.told.pieces if counted is None else counted

    def left(self, sent: int) -> int | None:
        """How many tokens may still come; None where the request sets no limit."""
        limit = self.request.get("max_completion_tokens") or self.request.get("max_tokens")
        if limit is None and self.route == COMPLETIONS:
            limit = _COMPLETION_TOKENS
        return limit - sent if isinstance(limit, int) else None

    def body(self, kind: EngineKind, sent: int) -> bytes:
        """The request for the rest, when `sent` tokens are out. Where none may follow, it asks
        for one: the usage at the end is still to come."""
        asked = self.asked(kind)
        if not self.told.text:
            return msgspec.json.encode(asked)
        left = self.left(sent)
        if left is not None:
            name = "max_completion_tokens" if asked.get("max_completion_tokens") else "max_tokens"
            asked[name] = max(1, left)
        if asked.get("min_tokens"):
            asked["min_tokens"] = max(0, asked["min_tokens"] - sent)
        if self.route == COMPLETIONS:
            asked["prompt"] = (prompt_text(asked) or "") + self.told.text
            return msgspec.json.encode(asked)
        asked["messages"] = messages(asked, self.told.text, kind)
        asked["continue_final_message"] = True
        if kind == "sglang":
            asked.pop("add_generation_prompt", None)  # it opens the assistant's turn itself
        else:
            asked["add_generation_prompt"] = False
        return msgspec.json.encode(asked)


def ways_on(path: str, body: bytes, told: Told) -> Continuation | str:
    """How to go on, or in a clause why there is no way."""
    request: Json = msgspec.json.decode(body)
    stands = obstacle(path, request, told)
    return stands or Continuation(path, request, told)


def messages(request: Mapping[str, Any], text: str, kind: EngineKind) -> list[Any]:
    """The request's messages, with the text that was sent as the assistant's last one."""
    before = list(request["messages"])
    if request.get("continue_final_message"):
        last = before.pop()
        return [*before, {**last, "content": last["content"] + text}]
    last = before[-1]
    of_assistant = last.get("role") == "assistant" and isinstance(last.get("content"), str)
    if kind == "sglang" and of_assistant:
        # It took the first request's last word for the user's, as it does where nothing follows.
        before[-1] = {"role": "user", "content": last["content"]}
    return [*before, {"role": "assistant", "content": text}]


DONE = b"data: [DONE]\n\n"


class NotText(Exception):
    """The rest is something else than more of the text."""


class Rest:
    """The next replica's events → more events of the stream that was cut."""

    def __init__(self, how: Continuation, sent_tokens: int, *, drop: str = "") -> None:
        """`drop` is white space that the engine may begin with though the client has it."""
        self._told = how.told
        self._sent_tokens = sent_tokens if how.told.text else 0
        left = how.left(self._sent_tokens)
        self._spent = left is not None and left <= 0
        self._drop = drop
        self.done = False

    def event(self, data: bytes) -> bytes:
        """One event's data → the event for the client; empty where it says nothing new.
        Raises NotText."""
        if data == b"[DONE]":
            self.done = True
            return DONE
        event = self._news(data)
        return b"" if event is None else b"data: " + msgspec.json.encode(event) + b"\n\n"

    def _news(self, data: bytes) -> Json | None:
        """What a chunk says that the client does not have; None where that is nothing."""
        try:
            event: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError):
            raise NotText from None
        if not isinstance(event, dict) or "error" in event:
            raise NotText
        head = self._told.head
        if head is not None:
            for name in ("id", "created", "model", "system_fingerprint"):
                if name in event:
                    event[name] = getattr(head, name)
        choices = event.get("choices") or []
        news = [choice for choice in choices if self._is_new(choice)]
        if choices and not news:
            return None
        event["choices"] = news
        if isinstance(event.get("usage"), dict):
            event["usage"] = self._usage(event["usage"])
        return dict(event)

    def _is_new(self, choice: Json) -> bool:
        """Take out of it what the client has; is anything left?"""
        if self._spent and choice.get("finish_reason"):
            choice["finish_reason"] = "length"
        if "text" in choice:
            choice["text"] = self._text(choice["text"] or "")
            return bool(choice["text"] or choice.get("finish_reason"))
        delta = choice.get("delta") or {}
        if any(delta.get(name) for name in ("tool_calls", "reasoning", "reasoning_content")):
            raise NotText
        if self._told.role:
            delta.pop("role", None)
        if delta.get("content"):
            delta["content"] = self._text(delta["content"])
        return bool(delta.get("content") or delta.get("role") or choice.get("finish_reason"))

    def _text(self, text: str) -> str:
        if self._spent:
            return ""
        while self._drop and text:
            if text[0] != self._drop[0]:
                self._drop = ""
                break
            text, self._drop = text[1:], self._drop[1:]
        return text

    def _usage(self, usage: Json) -> Json:
        """The text that was sent was prompt to this engine, and is output to the client."""
        prompt = max(0, usage.get("prompt_tokens", 0) - self._sent_tokens)
        more = 0 if self._spent else usage.get("completion_tokens", 0)
        output = self._sent_tokens + more
        usage = {
            **usage,
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            cached = min(prompt, details["cached_tokens"])
            usage["prompt_tokens_details"] = {**details, "cached_tokens": cached}
            made = details.get("created_cache_tokens")
            if isinstance(made, int):
                made = min(prompt - cached, made)
                usage["prompt_tokens_details"]["created_cache_tokens"] = made
        return usage
