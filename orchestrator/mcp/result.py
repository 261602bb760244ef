"""What an MCP tool gave, as the text that a model reads.

    structuredContent        canonical JSON, instead of the text that repeats it
    text                     as it is
    image, audio, resource   a line that says what it is: no engine here reads it

A result is data: nothing in it is followed, fetched or run.
"""

from __future__ import annotations

from typing import Any

import mcp_types as types

from orchestrator.canonical import canonical


def as_text(result: types.CallToolResult) -> str:
    """All that the result says, in its own order."""
    pieces = [_piece(block) for block in result.content]
    if result.structured_content is not None:
        # Servers repeat it as text for older clients: said once, it costs half the tokens.
        others = [
            piece
            for block, piece in zip(result.content, pieces, strict=True)
            if not isinstance(block, types.TextContent)
        ]
        pieces = [canonical(result.structured_content).decode(), *others]
    return "\n".join(pieces)


def _piece(block: Any) -> str:  # noqa: PLR0911 one line for each kind
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent():
            return f"[image: {block.mime_type}, {_size(block.data)}]"
        case types.AudioContent():
            return f"[audio: {block.mime_type}, {_size(block.data)}]"
        case types.ResourceLink():
            about = f": {block.description}" if block.description else ""
            return f"[resource {block.name} at {block.uri}{about}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as inside):
            return f"[resource {inside.uri}]\n{inside.text}"
        case types.EmbeddedResource(resource=types.BlobResourceContents() as inside):
            kind = inside.mime_type or "unknown type"
            return f"[resource {inside.uri}: {kind}, {_size(inside.blob)}]"
        case _:
            return f"[{type(block).__name__}]"


def _size(base64_text: str) -> str:
    return f"{len(base64_text) * 3 // 4} bytes"
