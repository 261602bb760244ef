"""One tool task by PydanticAI.

    python pydantic_agent.py URL MODEL PROMPT [forced]

Once by each API. `forced`: it asks for a call in the first turn, and for none in those after it.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Literal

from pydantic_ai import Agent, ModelSettings, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class CallFirst(AbstractCapability[Any]):
    """Its settings differ from turn to turn."""

    def get_model_settings(self) -> Callable[[RunContext[Any]], ModelSettings]:
        def settings(context: RunContext[Any]) -> ModelSettings:
            choice: Literal["required", "none"] = "required" if context.run_step == 1 else "none"
            return ModelSettings(temperature=0, tool_choice=choice)

        return settings


async def main(api: str, url: str, model: str, prompt: str, forced: str = "") -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    agent = Agent(kind(model, provider=provider), capabilities=[CallFirst()] if forced else [])

    @agent.tool_plain
    def price_of(what: Literal["helmet", "glove"]) -> str:
        """The price of an article."""
        print("TOOL", what)
        return "42 euros"

    ended = await agent.run(prompt)
    print("ANSWER", ended.output)


for each in ("responses", "chat"):
    asyncio.run(main(each, *sys.argv[1:]))
