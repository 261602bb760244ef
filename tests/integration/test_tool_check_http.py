"""POST /v1/tools/check, as a client sees it."""

from __future__ import annotations

from tests.integration.engines_behaving_badly import front_door

TEXT = {"type": "string", "maxLength": 10}


def tool(name: str, **properties: object) -> dict[str, object]:
    parameters = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


async def test_each_tool_gets_its_verdict_with_paths() -> None:
    listed = [
        tool("plain", city=TEXT),
        tool("open", city={"type": "string"}),
        tool("tags", tags={"type": "array", "items": TEXT, "maxItems": 3, "uniqueItems": True}),
        tool("ahead", seat={"type": "string", "pattern": "^(?=A)A1$"}),
        {"name": "anthropic", "input_schema": {"type": "object", "properties": {"a": TEXT}}},
        17,
    ]
    async with front_door() as front, front.post({"tools": listed}, "/v1/tools/check") as answer:
        assert answer.status == 200
        found = {each["name"]: each for each in (await answer.json())["tools"]}
    assert found["plain"]["verdict"] == "accepted"
    assert found["plain"]["streams"]
    assert found["open"]["verdict"] == "rewritten"
    assert [change["path"] for change in found["open"]["changes"]] == ["/properties/city/maxLength"]
    assert found["tags"]["checked_after"] == ["/properties/tags/uniqueItems"]
    assert not found["tags"]["streams"]
    assert found["ahead"]["verdict"] == "refused"
    assert found["ahead"]["error"].startswith("/properties/seat/pattern")
    assert found["anthropic"]["verdict"] == "rewritten"
    assert found[None]["verdict"] == "refused"


async def test_what_is_no_list_of_tools_is_refused_with_the_field() -> None:
    async with front_door() as front:
        for body in (b"{}", b"[]", b'{"tools": {}}', b"nonsense"):
            async with front.post(body, "/v1/tools/check") as answer:
                assert answer.status == 400, body
                error = (await answer.json())["error"]
                assert error["param"] in ("tools", "the body")
