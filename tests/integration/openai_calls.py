"""What tests of a front door ask through the official client, whichever engine is behind it."""

from __future__ import annotations

from typing import Any

import openai


def client_of(front: str, timeout_s: float = 300) -> openai.OpenAI:
    """The official client of a front door without keys; to be closed. It asks once."""
    return openai.OpenAI(base_url=f"{front}/v1", api_key="none", max_retries=0, timeout=timeout_s)


def two_turns(
    client: openai.OpenAI, model: str, prompt: str, max_tokens: int
) -> list[tuple[int, int]]:
    """Two streamed turns of a chat, the second on top of the first: (prompt, cached) tokens."""
    messages: list[Any] = [{"role": "user", "content": prompt}]
    counted = []
    for _ in range(2):
        text, usage = "", None
        for chunk in client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        counted.append((usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens or 0))
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": "Again."},
        ]
    return counted


def completed(client: openai.OpenAI, asked: dict[str, Any], *, stream: bool) -> Any:
    """The whole completion, streamed or not."""
    if stream:
        with client.chat.completions.stream(**asked) as events:
            return events.until_done().get_final_completion()
    return client.chat.completions.create(**asked)
