"""`warmloop approvals` and `approve`: the calls that wait, and a person's word on one of them.

    mcpr_RESPONSE_call_STEP_INDEX ──► GET /v1/responses/resp_RESPONSE  its model, its conversation
                                  ──► POST /v1/responses {conversation, mcp_approval_response}

    GET /v1/warmloop/approvals ──► what waits, page by page

It sends what any client could send; the front door says what waits, what was decided before (409),
and who may decide: the key in $WARMLOOP_API_KEY has to be the tenant's whose response it is.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from orchestrator.commands.console import key_header
from orchestrator.loop.call_rules import DECISION
from serving.errors import ConfigError, EngineError

APPROVAL = re.compile(r"mcpr_(.+)_call_\d+_\d+(?:_\d+)?")
TIMEOUT_S = 30.0
SHOWN = 100
"""Characters of a call."""


def decide(base: str, approval_id: str, *, approve: bool, reason: str) -> str:
    """The id of the response in which the call goes on. Raises ConfigError, EngineError."""
    found = APPROVAL.fullmatch(approval_id)
    if found is None:
        raise ConfigError(
            f"ID: {approval_id!r} is not the id of an approval request; it stands in the "
            "response's output as mcp_approval_request, and looks like mcpr_..._call_3_0"
        )
    asked = ask(f"{base}/v1/responses/resp_{found[1]}")
    item = {"type": DECISION, "approval_request_id": approval_id, "approve": approve}
    request = {
        "model": asked["model"],
        "conversation": asked["conversation"]["id"],
        "input": [{**item, **({"reason": reason} if reason else {})}],
        "background": True,
    }
    return str(ask(f"{base}/v1/responses", request)["id"])


def waiting(base: str) -> Iterator[dict[str, Any]]:
    """All calls that wait, of the conversations that the key may see. Raises EngineError."""
    after: str | None = ""
    while after is not None:
        page = ask(f"{base}/v1/warmloop/approvals?{urlencode({'after': after})}")
        yield from page["data"]
        after = page["next"]


def lines(waits: Mapping[str, Any], now: float) -> tuple[str, str]:
    """A call that waits, for a person to read: its id, and what it is. Models wrote the arguments:
    what could move a terminal's cursor is not printed."""
    call = f"{waits['name']}({waits['arguments']})"
    if len(call) > SHOWN:
        call = f"{call[: SHOWN - 1]}…"
    doubt = "in doubt: " if waits["reason"] == "outcome_unknown" else ""
    facts = [doubt + call, waits["agent"], waits["conversation"], waits["tenant"]]
    facts.append(f"for {_span(now - waits['requested_at'])}")
    told = "   ".join(each for each in facts if each)
    return waits["id"], "".join(each if each.isprintable() else "·" for each in told)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"


def ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the front door answers: GET, or POST of a body. Raises EngineError."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **key_header()}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 our own http URL
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        with error:
            raise EngineError(_said(error.read(), error.code)) from None
    except OSError as error:
        raise EngineError(f"the front door at {url} does not answer: {error}") from error


def _said(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the front door answered with status {status}"
