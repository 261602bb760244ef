"""The API under requests that schemathesis makes up from the schema that it serves of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import clients
from tests.contract.front_door import Front

HOOKS = Path(__file__).with_name("fuzz_hooks.py")
EXAMPLES = 10
"""For each operation; about a minute."""


@pytest.mark.clients
async def test_whatever_the_schema_allows_or_forbids_is_answered_as_it_says(
    front: Front, tmp_path: Path
) -> None:
    ids: dict[str, list[str]] = {"response_id": [], "conversation_id": [], "item_id": []}
    for _ in range(30):
        made = await front.client.conversations.create(
            items=[{"type": "message", "role": "user", "content": "hi"}]
        )
        items = await front.client.conversations.items.list(made.id)
        response = await front.client.responses.create(model="desk", input="hi")
        ids["conversation_id"].append(made.id)
        ids["item_id"].append(items.data[0].id or "")
        ids["response_id"].append(response.id)
    known = tmp_path / "ids.json"
    known.write_text(json.dumps(ids))

    # Not every rule of a request can be said in a schema, so valid ones may be refused: that check
    # does not apply. All others do.
    status, said = await clients.run(
        "schemathesis",
        *("run", f"{front.url}/openapi.json"),
        *("--include-path-regex", "^/v1/(responses|conversations)"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "10"),
        *("--exclude-checks", "positive_data_acceptance", "--suppress-health-check", "all"),
        *("--no-color",),
        env={"SCHEMATHESIS_HOOKS": str(HOOKS), "WARMLOOP_FUZZ_IDS": str(known)},
        folder=tmp_path,
        timeout_s=600,
    )

    assert status == 0, said[-8000:]
    async with front.http.get("/health") as answer:
        assert answer.status == 200
