"""One tool task by the OpenAI Agents SDK.

    python agents_sdk.py URL MODEL PROMPT [forced]

Once by each API. `forced`: it asks for a call in the first turn, and for none in those after it.
"""

import asyncio
import sys
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


async def main(api: str, url: str, model: str, prompt: str, forced: str = "") -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    agent = Agent(name="clerk", model=kind(model=model, openai_client=client))

    @function_tool
    def price_of(what: Literal["helmet", "glove"]) -> str:
        """The price of an article."""
        print("TOOL", what)
        if forced:
            agent.model_settings.tool_choice = "none"
        return "42 euros"

    agent.tools = [price_of]
    if forced:
        agent.model_settings = ModelSettings(temperature=0, tool_choice="required")
        agent.reset_tool_choice = False
    streamed = Runner.run_streamed(agent, prompt, max_turns=4)
    async for _ in streamed.stream_events():
        pass
    print("ANSWER", streamed.final_output)


for each in ("responses", "chat"):
    asyncio.run(main(each, *sys.argv[1:]))
