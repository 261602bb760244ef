"""Tools whose every execution leaves a line in a file outside of the stack's own state."""

import os
import time
from pathlib import Path
from typing import Annotated

from orchestrator.tools import tool


def _record(line: str) -> None:
    with Path(os.environ["WARMLOOP_TEST_LEDGER"]).open("a") as ledger:
        ledger.write(line + "\n")


@tool(kind="unsafe")
def charge(amount: Annotated[int, "whole euros"]) -> str:
    """Charge the customer."""
    _record(f"charge {amount}")
    return f"charged {amount}"


@tool(kind="idempotent")
def ship(order: Annotated[str, "the order's number"], *, idempotency_key: str) -> str:
    """Ship an order; slow, so that it can be killed inside."""
    _record(f"ship-begin {idempotency_key}")
    gate = Path(os.environ["WARMLOOP_TEST_LEDGER"] + ".hold")
    while gate.exists():
        time.sleep(0.02)
    _record(f"ship-end {idempotency_key}")
    return f"shipped {order}"
