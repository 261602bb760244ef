"""Tool-calling conversations, made up by rule: what the adapter is trained on and checked with.

    catalogue_train.txt ──▶ training()    tools under changing names, words and schemas
         (some domains) ──▶ validation()  tools that training does not see: for tuning
    catalogue_held_out.txt ▶ held_out()   other domains altogether: for the check, nothing else
    small_talk.txt ───────▶ all three     what needs no tool; the check has its own questions

An example is a chat request as an engine gets it: the client's tools and the `reply` tool, and
messages whose last one, the assistant's, is the right decision. Everything follows from a seed.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from serving import reply  # the one place that knows where the reply tool is defined

HERE = Path(__file__).parent
REPLY = reply.REPLY
VALIDATION_EVERY = 11
"""Each 11th domain of the training catalogue is kept for validation."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter and the values that questions give it."""

    name: str
    about: str
    values: tuple[Any, ...]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of a catalogue; a parameter that not every ask names is optional."""

    name: str
    domain: str
    about: str
    parameters: tuple[Parameter, ...]
    asks: tuple[str, ...]

    @property
    def required(self) -> list[str]:
        named = [p.name for p in self.parameters]
        return [name for name in named if all("{" + name + "}" in ask for ask in self.asks)]


@dataclass(frozen=True, slots=True)
class Example:
    """A request's tools and messages; `decision` is the name in its last message's call."""

    tools: list[Json]
    messages: list[Json]
    decision: str
    kind: str


# --- reading the catalogues -----------------------------------------------------------------

_TOOL = re.compile(r"([a-z]\w*)\((.*)\)  (.+)")
_POOL = re.compile(r"@(\w+) ([^:]+): (.+)")


@cache
def catalogue(name: str) -> tuple[Tool, ...]:
    """The tools of `catalogue_NAME.txt`. Raises ValueError with the line that is malformed."""
    pools: dict[str, tuple[str, tuple[str, ...]]] = {}
    tools: list[Tool] = []
    heads: list[tuple[str, str, str, str, list[str]]] = []
    domain = ""
    for line in (HERE / f"catalogue_{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if found := _POOL.fullmatch(line):
            pools[found[1]] = (found[2], tuple(found[3].split(" / ")))
        elif line.startswith("["):
            domain = line.strip("[]")
        elif line.startswith("  ") and heads:
            heads[-1][4].append(line.strip())
        elif found := _TOOL.fullmatch(line):
            heads.append((found[1], domain, found[3], found[2], []))
        else:
            raise ValueError(f"catalogue_{name}.txt: cannot read {line!r}")
    for tool, where, about, takes, asks in heads:
        parameters = tuple(_parameter(part, pools) for part in takes.split(", "))
        tools.append(Tool(tool, where, about, parameters, tuple(asks)))
    return tuple(tools)


def _parameter(text: str, pools: Mapping[str, tuple[str, tuple[str, ...]]]) -> Parameter:
    name, _, source = text.partition("=")
    about = name.replace("_", " ")
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", source):
        low, high = int(bounds[1]), int(bounds[2])
        values = tuple(sorted({low + (high - low) * n // 24 for n in range(25)}))
        return Parameter(name, about, values, {"type": "integer", "minimum": low, "maximum": high})
    if "|" in source:
        choices = source.split("|")
        if all(choice.isdigit() for choice in choices):
            numbers = [int(choice) for choice in choices]
            return Parameter(name, about, tuple(numbers), {"type": "integer", "enum": numbers})
        return Parameter(name, about, tuple(choices), {"type": "string", "enum": choices})
    what, words = pools[source or name]
    if all(re.fullmatch(r"[\d.]+", word) for word in words):
        return Parameter(name, what, tuple(float(word) for word in words), {"type": "number"})
    return Parameter(name, what, words, {"type": "string"})


@cache
def small_talk(section: str) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs of a section of `small_talk.txt`: "train" or "held out"."""
    found: list[tuple[str, str]] = []
    patterns: list[tuple[str, str]] = []
    inside = rows = False
    for line in (HERE / "small_talk.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif not inside or not line or line.startswith("#"):
            continue
        elif line.startswith("~ "):
            patterns = [] if rows else patterns
            rows = False
            question, _, answer = line[2:].partition(" => ")
            patterns.append((question, answer))
        elif " => " in line:
            question, _, answer = line.partition(" => ")
            found.append((question, answer))
        else:
            rows = True
            a, _, b = line.partition(" | ")
            found += [(q.format(a=a, b=b), r.format(a=a, b=b)) for q, r in patterns]
    return tuple(found)


def splits() -> tuple[tuple[Tool, ...], tuple[Tool, ...]]:
    """(training tools, validation tools), by whole domains."""
    tools = catalogue("train")
    domains = list(dict.fromkeys(tool.domain for tool in tools))
    kept = set(domains[VALIDATION_EVERY - 1 :: VALIDATION_EVERY])
    training = tuple(tool for tool in tools if tool.domain not in kept)
    return training, tuple(tool for tool in tools if tool.domain in kept)


# --- how a request may look -----------------------------------------------------------------

SYNONYMS = {
    "search": ("find", "search", "look_up", "query"),
    "find": ("find", "search", "locate"),
    "list": ("list", "show", "get"),
    "create": ("create", "make", "add", "new"),
    "add": ("add", "create", "insert"),
    "set": ("set", "change", "update"),
    "delete": ("delete", "remove", "erase"),
    "cancel": ("cancel", "drop", "revoke"),
    "book": ("book", "reserve", "schedule"),
    "buy": ("buy", "purchase", "order"),
    "read": ("read", "show", "open"),
    "start": ("start", "run", "launch"),
    "log": ("log", "record", "save"),
    "report": ("report", "submit"),
}
STYLES = ("snake", "snake", "snake", "snake", "camel", "camel", "kebab", "prefix", "opaque")
REPLY_ABOUT = (
    "Answer the user in plain text.",
    "Answer without a tool, or say what the tools found.",
    "Reply to the user. Use this when no other tool fits.",
    "Say something to the user: an answer, a greeting, or that no tool fits.",
    "Write the final answer.",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Use the tools when they fit, else reply.",
    "Be brief.",
    "You help the user with the tools below. Answer in English.",
    "Use one tool at a time. Reply when you have the answer.",
    "You are a careful assistant and never guess.",
)
NO_TOOL = (
    "I have no tool for that.",
    "Sorry, none of my tools can do that.",
    "I can't do that with the tools that I have.",
    "That is not something that my tools can do.",
)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _named(tool: Tool, style: str, rng: random.Random) -> str:
    verb, _, rest = tool.name.partition("_")
    name = f"{rng.choice(SYNONYMS[verb])}_{rest}" if rest and verb in SYNONYMS else tool.name
    if style == "camel":
        return _camel(name)
    if style == "kebab":
        return name.replace("_", "-")
    if style == "prefix":
        return f"{tool.domain.split()[0].lower()}_{name}"
    if style == "opaque":
        return f"{rng.choice(('fn', 'tool', 'action', 'op'))}_{rng.randrange(10, 1000)}"
    return name


def _described(tool: Tool, rng: random.Random) -> str:
    about, lowered = tool.about, tool.about[0].lower() + tool.about[1:]
    return rng.choice(
        (about, about, about, about.rstrip("."), f"Use this to {lowered}", f"Tool to {lowered}")
    )


def _schema(tool: Tool, rng: random.Random, *, agent: bool, wordy: bool, bounded: bool) -> Json:
    properties: Json = {}
    for parameter in tool.parameters:
        schema = dict(parameter.schema)
        if not wordy and "minimum" in schema:
            del schema["minimum"], schema["maximum"]
        if wordy or (rng.random() < 0.2 and "enum" not in schema):
            schema["description"] = parameter.about
        if bounded and schema == {"type": "string"}:
            schema["maxLength"] = rng.choice((100, 256, 1000, 4000))
        properties[parameter.name] = schema
    made: Json = {"type": "object", "properties": properties, "required": tool.required}
    if agent or rng.random() < 0.3:
        made["additionalProperties"] = False
    return _sorted(made) if agent else made


def _sorted(value: Any) -> Any:
    """As canonical JSON has it: what agents send."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def reply_definition(rng: random.Random, *, agent: bool) -> Json:
    """The reply tool, mostly as it is served, sometimes in other words."""
    made = copy.deepcopy(reply.DEFINITION)
    if rng.random() < 0.3:
        made["function"]["description"] = rng.choice(REPLY_ABOUT)
    if agent:
        made["function"]["parameters"] = _sorted(made["function"]["parameters"])
    return made


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of one request, as the engine shows them to the model."""

    names: Mapping[str, str]
    """Catalogue name → name in the request."""
    definitions: list[Json]

    def schema(self, name: str) -> Json:
        found: Json = next(
            d["function"]["parameters"] for d in self.definitions if d["function"]["name"] == name
        )
        return found


def offer(tools: Sequence[Tool], rng: random.Random, *, varied: bool) -> Offer:
    """`tools` as definitions, and `reply`: last as in raw requests, or sorted in as in agents'."""
    agent, wordy, bounded = (
        rng.random() < 0.35,
        rng.random() < 0.3,
        varied and rng.random() < 0.2,
    )
    style = rng.choice(STYLES) if varied else "snake"
    strict = agent or rng.random() < 0.4
    names: dict[str, str] = {}
    definitions: list[Json] = []
    for tool in tools:
        name = _named(tool, style, rng) if varied else tool.name
        if name in names.values():
            name = tool.name
        names[tool.name] = name
        function: Json = {
            "name": name,
            "description": _described(tool, rng) if varied else tool.about,
            "parameters": _schema(tool, rng, agent=agent, wordy=wordy, bounded=bounded),
        }
        if strict:
            function["strict"] = True
        definitions.append({"type": "function", "function": function})
    definitions.append(reply_definition(rng, agent=agent) if varied else _served_reply(agent))
    if agent:
        definitions.sort(key=lambda definition: str(definition["function"]["name"]))
    elif varied and rng.random() < 0.2:
        rng.shuffle(definitions)
    return Offer(names, definitions)


def _served_reply(agent: bool) -> Json:
    """As agents send it, or as the router adds it to a client's request."""
    made = copy.deepcopy(reply.DEFINITION)
    if agent:
        made["function"]["parameters"] = _sorted(made["function"]["parameters"])
    else:
        del made["function"]["strict"]
    return made


# --- one exchange ---------------------------------------------------------------------------


def _ask(tool: Tool, rng: random.Random) -> tuple[str, Json]:
    """A question for `tool`, and the arguments that it gives."""
    ask = rng.choice(tool.asks)
    values = {p.name: rng.choice(p.values) for p in tool.parameters if "{" + p.name + "}" in ask}
    shown = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in values.items()}
    text = ask.format(**shown)
    return text[0].upper() + text[1:], values


def _framed(text: str, rng: random.Random) -> str:
    """`text` with what people put around a request."""
    chance = rng.random()
    if chance < 0.65:
        return text
    if chance < 0.75:
        return text.rstrip(".?!") if rng.random() < 0.5 else text[0].lower() + text[1:]
    before = ("Hi! ", "Hello, ", "Quick one: ", "OK. ", "Next: ", "One more thing: ")
    after = (" Thanks!", " Please.", " Thank you.", " It's urgent.")
    return rng.choice(before) + text if chance < 0.9 else text + rng.choice(after)


def _call(name: str, arguments: Json) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}


def _calling(tool: Tool, arguments: Json, offered: Offer) -> Json:
    name = offered.names[tool.name]
    # The grammar has the properties in the schema's order.
    order = offered.schema(name)["properties"]
    return _call(name, {key: arguments[key] for key in order if key in arguments})


def _replying(text: str) -> Json:
    return _call(REPLY, {"text": text})


def _result(question: str, rng: random.Random) -> tuple[str, str]:
    """(what the tool returns, what to tell the user)."""
    code = f"{rng.choice('ABKQXZ')}-{rng.randrange(100, 9999)}"
    number = rng.choice((rng.randrange(2, 900), round(rng.uniform(0.5, 99), 1)))
    if rng.random() < 0.12:
        why = rng.choice(("not available", "no such entry", "permission denied", "timed out"))
        return f'{{"error": "{why}"}}', f"Sorry, that did not work: {why}."
    if question.rstrip().endswith("?"):
        word = rng.choice(("yes", "no", "on the second floor", "tomorrow", "green", "closed"))
        return rng.choice(
            (
                (f'{{"result": {number}}}', f"The answer is {number}."),
                (str(number), f"It is {number}."),
                (f'{{"answer": "{word}"}}', f"The answer: {word}."),
                (f'{{"items": ["{code}", "{number}"]}}', f"I found {code} and {number}."),
            )
        )
    return rng.choice(
        (
            ('{"status": "ok"}', "Done."),
            ("ok", "Done."),
            (f'{{"status": "ok", "reference": "{code}"}}', f"Done, the reference is {code}."),
            (f'{{"id": "{code}"}}', f"Done, its number is {code}."),
        )
    )


# --- the three sets -------------------------------------------------------------------------

COUNTS = (1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 8, 10)
BRANCHES = 6
"""Conversations over the same tools: they share the long head of the prompt, which is read once,
and what the tools mean is learned from their difference."""


def _pick(tools: Sequence[Tool], tool: Tool | None, count: int, rng: random.Random) -> list[Tool]:
    """`count` tools, `tool` among them; some of its own domain, since those are confusable."""
    chosen: list[Tool] = []
    anchor = tool or rng.choice(tools)
    near = [other for other in tools if other.domain == anchor.domain and other != tool]
    far = [other for other in tools if other.domain != anchor.domain]
    share = rng.choice((0.0, 0.3, 0.6, 1.0))
    for _ in range(count - (tool is not None)):
        source = near if near and rng.random() < share else far
        other = source.pop(rng.randrange(len(source)))
        chosen.append(other)
    if tool is not None:
        chosen.insert(rng.randrange(len(chosen) + 1), tool)
    return chosen


@dataclass(frozen=True, slots=True)
class Group:
    """Conversations that begin with the same system message and tools."""

    tools: list[Json]
    system: list[Json]
    branches: tuple[Example, ...]


def training(seed: int) -> Iterator[Group]:
    """Groups of examples without end, over the training tools."""
    rng = random.Random(f"training {seed}")
    tools, _ = splits()
    while True:
        listed = _pick(tools, None, rng.choice(COUNTS), rng)
        offered = offer(listed, rng, varied=True)
        system: list[Json] = []
        if rng.random() < 0.3:
            system = [{"role": "system", "content": rng.choice(SYSTEMS)}]
        branches = tuple(_branch(tools, listed, offered, rng) for _ in range(BRANCHES))
        yield Group(offered.definitions, system, branches)


def _branch(
    tools: Sequence[Tool], listed: Sequence[Tool], offered: Offer, rng: random.Random
) -> Example:
    chance = rng.random()
    talk = small_talk("train")
    if chance < 0.15:  # small talk and knowledge
        question, answer = rng.choice(talk)
        messages = [_user(_framed(question, rng)), _replying(answer)]
        return Example(offered.definitions, messages, REPLY, "talk")
    if chance < 0.31:  # a request that no listed tool can do, sometimes of a listed tool's domain
        domains = {tool.domain for tool in listed}
        others = [tool for tool in tools if tool not in listed]
        near = [tool for tool in others if tool.domain in domains]
        far = [tool for tool in others if tool.domain not in domains]
        question, _ = _ask(rng.choice(near if near and rng.random() < 0.25 else far), rng)
        messages = [_user(_framed(question, rng)), _replying(rng.choice(NO_TOOL))]
        return Example(offered.definitions, messages, REPLY, "unfit")
    tool = rng.choice(listed)
    question, arguments = _ask(tool, rng)
    messages = [_user(_framed(question, rng)), _calling(tool, arguments, offered)]
    if chance < 0.86:
        return Example(offered.definitions, messages, offered.names[tool.name], "call")
    returned, told = _result(question, rng)
    messages += [{"role": "tool", "content": returned}, _replying(told)]
    if chance < 0.95:
        return Example(offered.definitions, messages, REPLY, "result")
    messages.append({"role": "tool", "content": reply.ACKNOWLEDGED})
    if rng.random() < 0.35:
        question, answer = rng.choice(talk)
        messages += [_user(question), _replying(answer)]
        return Example(offered.definitions, messages, REPLY, "second talk")
    second = rng.choice(listed)
    question, arguments = _ask(second, rng)
    messages += [_user(_framed(question, rng)), _calling(second, arguments, offered)]
    return Example(offered.definitions, messages, offered.names[second.name], "second call")


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


PER_SET = 4
"""Questions over one set of tools: three calls, and one that needs no tool. An engine finds the
tools of the second in its prefix cache."""


def validation(seed: int, count: int) -> list[Example]:
    """Questions over the validation tools; for tuning, so the small talk may be training's."""
    rng = random.Random(f"validation {seed}")
    _, tools = splits()
    return _questions(tools, small_talk("train"), rng, count)


def held_out(seed: int, count: int = 220) -> list[Example]:
    """The check's questions: a quarter needs no tool, half of those because no tool fits."""
    rng = random.Random(f"held out {seed}")
    return _questions(catalogue("held_out"), small_talk("held out"), rng, count)


def _questions(
    tools: Sequence[Tool], talk: Sequence[tuple[str, str]], rng: random.Random, count: int
) -> list[Example]:
    made: list[Example] = []
    anchors: list[Tool] = []
    chat: list[tuple[str, str]] = []
    while len(made) < count:
        anchors = anchors or rng.sample(tools, len(tools))
        chat = chat or rng.sample(talk, len(talk))
        anchor = anchors.pop()
        listed = _pick(tools, anchor, rng.choice((2, 3, 3, 4, 5)), rng)
        offered = offer(listed, rng, varied=False)
        asked = [anchor, *rng.choices(listed, k=PER_SET - 2)]
        domains = {tool.domain for tool in listed}
        several = []
        for tool in asked:
            question, arguments = _ask(tool, rng)
            messages = [_user(question), _calling(tool, arguments, offered)]
            several.append(Example(offered.definitions, messages, tool.name, "call"))
        if len(made) // PER_SET % 2:
            question, answer = chat.pop()
            kind = "talk"
        else:
            others = [tool for tool in tools if tool.domain not in domains]
            question, _ = _ask(rng.choice(others), rng)
            answer, kind = NO_TOOL[0], "unfit"
        messages = [_user(question), _replying(answer)]
        several.append(Example(offered.definitions, messages, REPLY, kind))
        made += rng.sample(several, PER_SET)
    return made[:count]
