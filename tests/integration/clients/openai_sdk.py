"""One tool task by the OpenAI SDK alone.

    python openai_sdk.py URL MODEL PROMPT [forced]

Once by each API. `forced`: it asks for a call in the first turn, and for none in those after it.
"""

import json
import sys
from typing import Any

from openai import OpenAI

FUNCTION: dict[str, Any] = {
    "name": "price_of",
    "description": "The price of an article.",
    "parameters": {
        "type": "object",
        "properties": {"what": {"type": "string", "enum": ["helmet", "glove"]}},
        "required": ["what"],
        "additionalProperties": False,
    },
}


def price_of(arguments: str) -> str:
    asked = json.loads(arguments)
    assert list(asked) == ["what"], asked
    assert asked["what"] in ("helmet", "glove"), asked
    print("TOOL", asked["what"])
    return "42 euros"


def choice(forced: str, *, first: bool) -> dict[str, Any]:
    return {"temperature": 0, "tool_choice": "required" if first else "none"} if forced else {}


def by_responses(client: OpenAI, model: str, prompt: str, forced: str) -> str:
    common: dict[str, Any] = {"model": model, "tools": [{"type": "function", **FUNCTION}]}
    answer = client.responses.create(input=prompt, **common, **choice(forced, first=True))
    while calls := [each for each in answer.output if each.type == "function_call"]:
        results: list[Any] = [
            {
                "type": "function_call_output",
                "call_id": each.call_id,
                "output": price_of(each.arguments),
            }
            for each in calls
        ]
        answer = client.responses.create(
            input=results,
            previous_response_id=answer.id,
            **common,
            **choice(forced, first=False),
        )
    return answer.output_text


def by_chat(client: OpenAI, model: str, prompt: str, forced: str) -> str:
    common: dict[str, Any] = {"model": model, "tools": [{"type": "function", "function": FUNCTION}]}
    messages: list[Any] = [{"role": "user", "content": prompt}]
    while True:
        first = len(messages) == 1
        answer = client.chat.completions.create(
            messages=messages, **common, **choice(forced, first=first)
        )
        message = answer.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content or ""
        for each in message.tool_calls:
            result = price_of(each.function.arguments)
            messages.append({"role": "tool", "tool_call_id": each.id, "content": result})


def main(url: str, model: str, prompt: str, forced: str = "") -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        for ask in (by_responses, by_chat):
            print("ANSWER", ask(client, model, prompt, forced))


main(*sys.argv[1:])
