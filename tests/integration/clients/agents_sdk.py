"""One tool task by the OpenAI Agents SDK: python agents_sdk.py URL MODEL responses|chat PROMPT"""

import asyncio
import sys

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


@function_tool
def price_of(what: str) -> str:
    """The price of an article."""
    print("TOOL", what)
    return "42 euros"


async def main(url: str, model: str, api: str, prompt: str) -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    agent = Agent(name="clerk", model=kind(model=model, openai_client=client), tools=[price_of])
    streamed = Runner.run_streamed(agent, prompt, max_turns=4)
    async for _ in streamed.stream_events():
        pass
    print("ANSWER", streamed.final_output)


asyncio.run(main(*sys.argv[1:]))
