"""POST /v1/tools/check: what registration makes of tools, in full, before a turn is made with them.

    {"tools": [...]}  →  {"tools": [{"name", "verdict", "changes", "checked_after", "schema"}]}

`verdict` is accepted, rewritten or refused; a refused one has `error` in place of the rest. Tools
may be written as Chat Completions, Messages or Responses write them. Nothing is kept.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from router.calls.plan import decoded
from router.http.body import body_of
from router.http.described import Told, answers, body
from serving import schemas
from serving.errors import BadRequest
from serving.schemas import SchemaRefused


class Checked(Told):
    object: Literal["list"]
    tools: list[dict[str, Any]]
    """What became of each, in their order."""


def routes(bounds: schemas.Bounds, max_tools: int, max_body_bytes: int) -> APIRouter:
    """The route, for a front door with these bounds."""
    found = APIRouter()
    # What is no tool is a verdict, too.
    tools = {"type": "array", "items": {}, "minItems": 1, "maxItems": max_tools}
    asked = {"type": "object", "properties": {"tools": tools}, "required": ["tools"]}

    @found.post("/v1/tools/check", responses=answers(Checked, 400, 413), openapi_extra=body(asked))
    async def check(request: Request) -> JSONResponse:
        said = decoded(await body_of(request, max_body_bytes), "the body")
        listed = said.get("tools") if isinstance(said, dict) else None
        if not isinstance(listed, list) or not listed:
            raise BadRequest("tools: send a list of at least one tool", param="tools")
        if len(listed) > max_tools:
            raise BadRequest(
                f"tools: has {len(listed)} entries, and tools.max_tools allows {max_tools}; "
                "send fewer",
                param="tools",
            )
        return JSONResponse({"object": "list", "tools": [_verdict(t, bounds) for t in listed]})

    return found


def _verdict(tool: Any, bounds: schemas.Bounds) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    if not isinstance(function, dict) or "name" not in function:
        return {"name": None, "verdict": "refused", "error": "is not a tool: it has no name"}
    name = function["name"]
    schema = function.get("parameters", function.get("input_schema"))
    try:
        found = schemas.register(schema, bounds)
    except SchemaRefused as refused:
        return {"name": name, "verdict": "refused", "error": str(refused)}
    return {
        "name": name,
        "verdict": "rewritten" if found.changes else "accepted",
        "changes": [{"path": change.path, "what": change.what} for change in found.changes],
        "checked_after": list(found.unchecked),
        "streams": found.covered,
        "schema": found.schema,
    }
