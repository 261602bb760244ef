"""Runs inside schemathesis: lets what it makes up reach the API's core.

A made-up model or id is answered with 404 at the door. So most of them are replaced by real ones:
the agent `desk`, and ids that the test has made before and lists in $WARMLOOP_FUZZ_IDS (JSON: the
parameter's name to its values). What is no string stays: it has to be refused. And the operator's
purge takes nothing that is younger than a day, or all of that would be gone in the first second.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import schemathesis

IDS: dict[str, list[str]] = json.loads(Path(os.environ["WARMLOOP_FUZZ_IDS"]).read_text())
DAY_S = 86_400
_choice = random.Random(1)


@schemathesis.hook
def map_path_parameters(_: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    if parameters and _choice.random() < 0.8:
        conversation = _choice.choice(IDS["conversation_id"])
        real = {
            "response_id": _choice.choice(IDS["response_id"]),
            "conversation_id": conversation,
            "item_id": IDS["item_id"][IDS["conversation_id"].index(conversation)],
        }
        return {**parameters, **{name: real[name] for name in parameters if name in real}}
    return parameters


@schemathesis.hook
def map_query(_: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    age = (query or {}).get("older_than_s")
    if query and isinstance(age, float | int) and 0 < age < DAY_S:
        return {**query, "older_than_s": age + DAY_S}
    return query


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    if not isinstance(body, dict) or "lora_name" in body:
        return body
    if isinstance(model := body.get("model"), str) and model:
        return {**body, "model": "desk"}
    return body
