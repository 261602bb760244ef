"""The trivial engine of the gateway benchmark: `python -m benchmarks.gateway_engine`.

A bare protocol on uvloop that answers every chat request with the same completion: what it costs
is in all columns, and the less that is, the more of the difference is the routers'. It answers the
questions that routers ask of an engine before they send it work (is it well, what does it serve),
and 404 to everything that it is not.

It says its port on stdout, and serves until it is terminated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import cast

import uvloop

CHAT_PATH = "/v1/chat/completions"
MODEL = "bench-engine"
EVENTS = 33

_USAGE = {
    "prompt_tokens": 5000,
    "completion_tokens": 32,
    "total_tokens": 5032,
    "prompt_tokens_details": {"cached_tokens": 4992},
}
_CARD = {"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm", "root": MODEL}
_KNOWN = {
    b"/health": b"{}",
    b"/version": b'{"version":"0.0.0"}',
    b"/v1/models": json.dumps(
        {"object": "list", "data": [_CARD | {"max_model_len": 131_072}]}
    ).encode(),
}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _whole(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_NOT_FOUND = _whole(b"404 Not Found", b'{"detail":"Not Found"}')


def _completion(name: str) -> bytes:
    message = {"role": "assistant", "content": "forty-two " * 32}
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "system_fingerprint": name,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": _USAGE,
    }
    return _whole(b"200 OK", json.dumps(answer).encode())


def _event(data: bytes) -> bytes:
    text = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(text), text)


def _stream_parts() -> list[bytes]:
    def chunk(**fields: object) -> bytes:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL}
        return _event(json.dumps({**head, **fields}).encode())

    word = [{"index": 0, "delta": {"content": "forty-two "}, "finish_reason": None}]
    parts = [chunk(choices=word) for _ in range(EVENTS - 2)]
    return [*parts, chunk(choices=[], usage=_USAGE), _event(b"[DONE]"), b"0\r\n\r\n"]


class _Engine(asyncio.Protocol):
    """One connection: a whole completion, or one event of a stream a loop iteration."""

    _parts = _stream_parts()

    def __init__(self, completion: bytes, think_s: float) -> None:
        self._completion = completion
        self._think_s = think_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit
        self._loop = asyncio.get_running_loop()
        self._got = bytearray()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head_end = self._got.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._got[:head_end]).lower()
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"get", b"post"):  # some try HTTP/2 first
            self._transport.close()
            return
        length = 0
        if b"content-length:" in head:
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._got) < head_end + 4 + length:
            return
        stream = b'"stream":true' in self._got
        self._got.clear()
        if path != CHAT_PATH.encode():
            known = _KNOWN.get(path)
            self._transport.write(_NOT_FOUND if known is None else _whole(b"200 OK", known))
        elif stream:
            self._transport.write(_STREAM_HEAD)
            self._send(0)
        elif self._think_s:
            self._loop.call_later(self._think_s, self._transport.write, self._completion)
        else:
            self._transport.write(self._completion)

    def _send(self, i: int) -> None:
        self._transport.write(self._parts[i])
        if i + 1 < len(self._parts):
            self._loop.call_soon(self._send, i + 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_engine")
    parser.add_argument("--name", default="engine-0", help="what its answers say who they are from")
    parser.add_argument("--think-s", type=float, default=0.0, help="before a whole answer")
    options = parser.parse_args()
    completion = _completion(options.name)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Engine(completion, options.think_s), "127.0.0.1", 0
        )
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
