"""What the tools of a request mean: decided once for the same bytes, kept for the session's turns.

    tools, tool_choice ─► every schema registered ─► ToolPlan ─┬─► the body that the engine gets
        │                                                      └─► how its answer is read
        └─► BadRequest with the path of what cannot be promised

The engine gets every tool with its registered schema. Where a model writes pseudo-calls as text
when it is free to choose (`auto_text: reply` in its configuration), `auto` becomes a call that is
required, and one of the tools is `reply`: a reply is text to the client, and text in the history is
the reply that it was, so that the prompt of the next turn begins with what the model wrote.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from router.calls.forms import Call, Choice, Form, Mode, ToolSpec, encode, form_of
from router.http import rewrites
from serving import reply, schemas
from serving.config.model import DEFAULT_PARSER, ModelConfig
from serving.config.router import ToolsConfig
from serving.errors import BadRequest
from serving.protocol import AnyAsk
from serving.schemas import Registered, SchemaRefused

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ABSENT = (b"", b"null", b"[]")
_NO_REPLY = {"warmloop_reply": 0}


@dataclass(frozen=True)
class ToolPlan:
    """One request's tools. The same plan serves every request that has the same ones."""

    form: Form
    registered: Mapping[str, Registered]
    choice: Choice | None
    """What the client asked for; None where only the engine knows what it means."""
    reply: bool
    """Calls of `reply` are the answer's text."""
    guarded: bool
    """The engine's grammar leaves no pseudo-call to write."""
    max_calls: int
    resamples: int
    summary: str
    """What registration did, for a header; empty when every schema was accepted as it is."""
    _fields: Mapping[str, bytes]
    _extra: Mapping[str, Any]

    @property
    def mode(self) -> Mode | None:
        return self.choice.mode if self.choice is not None else None

    def body(self, body: bytes, model: str) -> bytes:
        """The request for the engine: its own name of the model, its tools, its history.

        Raises BadRequest for what is no JSON inside of it.
        """
        fields: dict[str, msgspec.Raw] = decoded(body, "the body", dict[str, msgspec.Raw])
        fields["model"] = msgspec.Raw(encode(model))
        fields |= {name: msgspec.Raw(value) for name, value in self._fields.items()}
        if self._extra:
            given = decoded(fields.get("vllm_xargs") or b"{}", "vllm_xargs")
            known = given if isinstance(given, dict) else {}
            fields["vllm_xargs"] = msgspec.Raw(encode({**known, **self._extra}))
        if self.reply:
            fields["messages"] = self._history(fields["messages"])
        return rewrites.joined(fields)

    def _history(self, messages: msgspec.Raw) -> msgspec.Raw:
        listed = msgspec.json.decode(messages, type=list[msgspec.Raw])
        last = len(listed) - 1  # a beginning that the model is to continue stays as it is
        written = [
            (self.form.reply_of(message, i) if i < last else None) or bytes(message)
            for i, message in enumerate(listed)
        ]
        return msgspec.Raw(b"[" + b",".join(written) + b"]")

    def again(self, body: bytes, call: Call, problems: list[str]) -> bytes:
        """The request to make a call once more; `body` is what the engine got before."""
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        said = "; ".join(problems[:5])
        complaint = f"error: {said}. Call {call.name} again with arguments that fit its schema."
        for name, value in self.form.again(fields, call, complaint).items():
            if value is None:
                fields.pop(name, None)
            elif isinstance(value, msgspec.Raw):
                fields[name] = value
            else:
                fields[name] = msgspec.Raw(encode(value))
        return rewrites.joined(fields)


def decoded(text: bytes | msgspec.Raw, param: str, kind: Any = Any) -> Any:
    """What `parse` only passed over: it may still be no UTF-8, or too deep."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"{param}: is not valid JSON: {error}; send plain JSON in UTF-8",
            param=param,
            code="invalid_json",
        ) from None


def bounds_of(config: ToolsConfig) -> schemas.Bounds:
    """What schemas may ask for, where the grammar is ours."""
    return schemas.Bounds(
        max_string=config.max_string, max_items=config.max_items, max_depth=config.max_depth
    )


class ToolPlans:
    """Plans by the bytes that they were made from; the least recently used go first."""

    def __init__(self, config: ToolsConfig) -> None:
        self._config = config
        ours = bounds_of(config)
        # Only our own grammar holds a string to its length without being slow.
        self._bounds = {True: ours, False: replace(ours, string_lengths=False)}
        self._plans: OrderedDict[bytes, ToolPlan] = OrderedDict()

    def plan(self, path: str, ask: AnyAsk, model: ModelConfig) -> ToolPlan | None:
        """The plan for this request on this model; None where it has no tools.

        Raises BadRequest naming the tool and the path of what is wrong with it.
        """
        form = form_of(path)
        if form is None or bytes(ask.tools).translate(None, b" \t\r\n") in _ABSENT:
            return None
        most = f"{model.max_parallel_calls} {bytes(ask.parallel_tool_calls)!r}"
        policy = f"{path} {model.engine} {model.auto_text} {_grammar(model)} {most}"
        formatted = bytes(ask.response_format) not in _ABSENT
        running = hashlib.sha256(f"{policy} {formatted}".encode())
        for part in (ask.tools, ask.tool_choice):
            running.update(b"\0")
            running.update(part)
        key = running.digest()
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make(form, ask, model, formatted=formatted)
            while len(self._plans) > self._config.max_known:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return plan

    def _make(self, form: Form, ask: AnyAsk, model: ModelConfig, *, formatted: bool) -> ToolPlan:
        listed = decoded(ask.tools, "tools")
        if not isinstance(listed, list):
            raise BadRequest("tools: is not a list; send a list of tools", param="tools")
        if len(listed) > self._config.max_tools:
            raise BadRequest(
                f"tools: has {len(listed)} entries, and tools.max_tools allows "
                f"{self._config.max_tools}; send fewer",
                param="tools",
            )
        specs = form.tools(listed)
        grammar = _grammar(model)
        registered = self._register(specs, self._bounds[grammar])
        choice = form.choice(decoded(ask.tool_choice or b"null", "tool_choice"))
        mode = choice.mode if choice is not None else None
        parallel = choice is None or choice.parallel
        if bytes(ask.parallel_tool_calls) == b"false":
            parallel = False
        if choice is not None and mode == "named" and choice.name not in registered:
            raise BadRequest(
                f"tool_choice: {choice.name!r} is not one of the tools; "
                f"they are: {', '.join(sorted(registered))}",
                param="tool_choice",
            )
        ours = model.auto_text == "reply" and mode is not None and not formatted
        # The tools stand at the front of the prompt: the list stays the same whatever the choice.
        with_reply = ours and reply.REPLY not in registered and bool(registered)
        told = grammar and model.engine != "sglang"
        if with_reply and mode == "required" and not told:
            with_reply = False  # there is no way to tell this engine that a reply will not do
        fields = {
            "tools": form.write_tools(
                listed,
                {i: registered[spec.name].schema for i, spec in specs.items()},
                reply=with_reply,
                strict=not grammar,
            )
        }
        if with_reply and mode == "auto":
            fields["tool_choice"] = form.write_choice(Choice("required"))
        elif with_reply and mode == "none":
            # A model whose earlier texts are replies writes another one, whatever it is told.
            fields["tool_choice"] = form.write_choice(Choice("named", reply.REPLY))
        return ToolPlan(
            form=form,
            registered=registered,
            choice=choice,
            reply=with_reply,
            guarded=grammar,
            max_calls=model.max_parallel_calls if parallel else 1,
            resamples=self._config.resamples,
            summary=_summary(registered),
            _fields=fields,
            _extra=_NO_REPLY if with_reply and mode == "required" else {},
        )

    def _register(
        self, specs: Mapping[int, ToolSpec], bounds: schemas.Bounds
    ) -> dict[str, Registered]:
        found: dict[str, Registered] = {}
        for i, spec in specs.items():
            if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
                raise BadRequest(
                    f"tools[{i}]: {str(spec.name)[:80]!r} is no name for a tool; use 1 to 64 of "
                    "A-Z, a-z, 0-9, '_', '-' and '.'",
                    param=f"tools[{i}]",
                )
            if spec.name in found:
                raise BadRequest(
                    f"tools[{i}]: the name {spec.name!r} is there twice; rename one",
                    param=f"tools[{i}]",
                )
            found[spec.name] = _registered(spec, bounds)
        return found


def _registered(spec: ToolSpec, bounds: schemas.Bounds) -> Registered:
    """One tool's schema. Raises BadRequest with the path of the keyword and the fix."""
    try:
        return schemas.register(spec.schema, bounds)
    except SchemaRefused as refused:
        raise BadRequest(
            f"{spec.where}{refused}", param=spec.where, code="invalid_tool_schema"
        ) from None


def _grammar(model: ModelConfig) -> bool:
    """True where the engine runs our own grammar and parser."""
    ours = DEFAULT_PARSER if model.engine in ("vllm", "sglang") else None
    return (model.tool_parser or ours) == DEFAULT_PARSER


def _summary(registered: Mapping[str, Registered]) -> str:
    parts = []
    for name, one in registered.items():
        said = []
        if one.changes:
            said.append(f"{len(one.changes)} rewritten")
        if one.unchecked:
            said.append(f"{len(one.unchecked)} checked after")
        if said:
            parts.append(f"{name}: {', '.join(said)}")
    return "; ".join(parts)[:1000]
