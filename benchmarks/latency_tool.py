"""The tool that the latency benchmark's agent has: it takes its time, and says when it began."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Literal

from orchestrator.tools import tool

TAKES_S = 0.05


@tool(kind="pure")
async def look_up(item: Literal["bell", "chain", "pump"]) -> str:
    """Find an item's price."""
    began = time.time()
    await asyncio.sleep(TAKES_S)
    return json.dumps({"item": item, "price": "12.90 EUR", "began": began})
