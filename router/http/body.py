"""The body of a request to a route of ours: whole, and no larger than it may be."""

from __future__ import annotations

from fastapi import Request

from serving.errors import BadRequest, TooLarge

RAISE = "shorten it, or raise front.max_body_bytes"


async def body_of(request: Request, limit: int, fix: str = RAISE) -> bytes:
    """The whole body; `fix` says what to do with one that is too large.

    Raises TooLarge, and BadRequest for one that is compressed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BadRequest("content-encoding: send the body as plain JSON")
    declared = int(request.headers.get("content-length", "0"))
    if declared > 2 * limit:  # not worth waiting for
        raise _too_large(limit, fix)
    size = 0
    chunks: list[bytes] = []
    async for chunk in request.stream():
        # An excess is read and dropped: most clients read no answer before they have sent all.
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > 2 * limit:
            break
    if size > limit:
        raise _too_large(limit, fix)
    return b"".join(chunks)


def _too_large(limit: int, fix: str) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes; {fix}")
