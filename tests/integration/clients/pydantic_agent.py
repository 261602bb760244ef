"""One tool task by PydanticAI: python pydantic_agent.py URL MODEL responses|chat PROMPT"""

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


async def main(url: str, model: str, api: str, prompt: str) -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    agent = Agent(kind(model, provider=provider))

    @agent.tool_plain
    def price_of(what: str) -> str:
        """The price of an article."""
        print("TOOL", what)
        return "42 euros"

    ended = await agent.run(prompt)
    print("ANSWER", ended.output)


asyncio.run(main(*sys.argv[1:]))
