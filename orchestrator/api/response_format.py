"""`text`: the form of an answer, and the schema that an engine's grammar holds it to.

    {"type": "text"} | {"type": "json_object"} | {"type": "json_schema", "name", "schema", "strict"}

A schema is registered as a tool's is: refused here, with the path, where no grammar can promise it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.api.inbound import Strict, unsupported, wrong_at
from serving import schemas
from serving.schemas import SchemaRefused

ENGINES_OWN = replace(schemas.DEFAULT, string_lengths=False)
"""An engine's own grammar gets slow where it counts characters."""


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    """An answer fits its schema in any case."""

    @model_validator(mode="after")
    def _complete(self) -> TextFormat:
        if self.type != "json_schema":
            return self
        for param, value in (("name", self.name), ("schema", self.schema_)):
            if value is None:
                raise wrong_at(
                    f"text.format.{param}", "is missing; add it", "missing_required_parameter"
                )
        try:
            schemas.register(self.schema_)
        except SchemaRefused as refused:
            raise wrong_at("text.format.schema", str(refused), "invalid_json_schema") from None
        return self


class TextConfig(Strict):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    @field_validator("verbosity")
    @classmethod
    def _medium(cls, value: str | None) -> str | None:
        if value not in (None, "medium"):
            unsupported(f"{value!r}: these models have no such setting; say it in instructions")
        return value


def response_format(text: dict[str, Any] | None) -> dict[str, Any] | None:
    """The chat API's form of what the log keeps of `text`; None for plain text."""
    wanted = (text or {}).get("format") or {}
    if wanted.get("type") == "json_object":
        return {"type": "json_object"}
    if wanted.get("type") != "json_schema":
        return None
    schema = schemas.register(wanted["schema"], ENGINES_OWN).schema
    return {
        "type": "json_schema",
        "json_schema": {"name": wanted["name"], "schema": schema, "strict": True},
    }
