"""An engine without a model: real HTTP, a real block cache, modelled time.

    python -m serving.simulator --port 8001 --model small --capacity-tokens 300000

For tests, and for benchmarks of scale on a machine without GPUs. It speaks what a vLLM server
speaks (Chat Completions, Completions, Messages; streaming or not; /v1/models, /health, /metrics),
holds prefixes as a vLLM does, and takes the time that it is told to take. It never pretends to be
real: every answer says `system_fingerprint: warmloop-simulated` and `x-warmloop-simulated: 1`.

SIGUSR1 makes it hang: it takes requests and answers for its health, and produces nothing.

    request → read (answers) → run (engine) → write (wire)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from aiohttp import web

from serving.config.model import SimulatorConfig
from serving.simulator.adapters import SimulatedAdapters
from serving.simulator.answers import Answer, BadInput, Prompt, limit, read_chat, read_text
from serving.simulator.cache import BYTES_PER_TOKEN, chain
from serving.simulator.engine import Clock, Job, Running, SimulatedEngine
from serving.simulator.kv import published
from serving.simulator.messages import MessagesWire, messages_to_chat
from serving.simulator.wire import ChatWire, TextWire, Usage, Wire, pieces

Read = Callable[[dict[str, Any], str | None], tuple[Prompt, Answer]]
MAX_BODY_BYTES = 64 * 2**20


class _Refused(Exception):
    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


@dataclass(frozen=True, slots=True)
class _Form:
    """One of the three routes."""

    path: str
    read: Read
    wire: Callable[[str, dict[str, Any]], Wire]
    prefix: str


_FORMS = (
    _Form("/v1/chat/completions", read_chat, ChatWire, "chatcmpl"),
    _Form("/v1/completions", read_text, TextWire, "cmpl"),
    _Form(
        "/v1/messages",
        lambda request, header: read_chat(messages_to_chat(request), header),
        MessagesWire,
        "chatcmpl",
    ),
)


class Simulator:
    """The routes of one simulated engine."""

    def __init__(
        self,
        model: str,
        context_tokens: int,
        config: SimulatorConfig,
        *,
        seed: int = 0,
        max_running: int = 256,
        max_lora_rank: int = 0,
        says_times: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """`says_times`: at each answer's end, as vLLM with --enable-per-request-metrics."""
        if context_tokens > config.capacity_tokens:
            raise ValueError(
                f"the context ({context_tokens} tokens) is larger than what the KV cache holds "
                f"({config.capacity_tokens} tokens): lower --context-tokens or raise "
                "--capacity-tokens"
            )
        self.engine = SimulatedEngine(config, max_running=max_running, clock=clock)
        self._model = model
        self._context_tokens = context_tokens
        self._seed = seed
        self._says_times = says_times
        self._count = 0
        self._created = int(time.time())
        self._adapters = SimulatedAdapters(model, max_lora_rank)

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.append(_label)
        for form in _FORMS:
            app.router.add_post(form.path, self._route(form))
        self._adapters.add_routes(app)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/reset_prefix_cache", self._reset)
        app.router.add_post("/tokenize", self._tokenize)
        return app

    def _route(self, form: _Form) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(http: web.Request) -> web.StreamResponse:
            try:
                return await self._generate(form, http)
            except _Refused as refused:
                return _error(form, refused)

        return handle

    async def _generate(self, form: _Form, http: web.Request) -> web.StreamResponse:
        request, prompt, answer = await self._read(form, http)
        self._count += 1
        # Ids repeat from run to run, yet two turns of a conversation never share one, whichever
        # replicas they go to: call ids are made from it.
        mark = blake2b(prompt.data, key=f"{self._seed}.{self._count}".encode(), digest_size=12)
        request_id = f"{form.prefix}-{mark.hexdigest()}"
        wire = form.wire(request_id, request)
        if answer.wait_s:
            await self.engine.clock.sleep(answer.wait_s)
        root = self._adapters.root(request["model"]) + prompt.salt
        session = http.headers.get("x-session-id", "")
        async with self.engine.run(self._job(prompt, answer, root, session)) as running:
            usage = partial(self._usage, prompt, answer, running)
            if request.get("stream"):
                return await _stream(http, wire, answer, usage, running)
            await running.decode(answer.tokens)
            return web.json_response(wire.whole(answer, usage()))

    def _usage(self, prompt: Prompt, answer: Answer, running: Running) -> Usage:
        """As it is known by now; times only of an engine that is to say them."""
        times = running.times_ms() if self._says_times else None
        return Usage(prompt.tokens, running.cached_tokens, answer.tokens, times)

    async def _read(self, form: _Form, http: web.Request) -> tuple[dict[str, Any], Prompt, Answer]:
        try:
            request = json.loads(await http.read())
            if not isinstance(request, dict):
                raise BadInput("the body must be a JSON object")
            if request.get("model") not in (self._model, *self._adapters.names):
                raise _Refused(404, f"The model `{request.get('model')}` does not exist.", "model")
            if request.get("n", 1) != 1:
                raise BadInput("n: a simulated engine gives one choice")
            prompt, answer = form.read(request, http.headers.get("x-simulate"))
        except (BadInput, ValueError) as error:
            raise _Refused(400, str(error)) from None
        if answer.error is not None:
            raise _Refused(answer.error, "an error that the request's script asked for")
        room_tokens = self._context_tokens - prompt.tokens
        if room_tokens <= 0:
            raise _Refused(
                400,
                f"This model's maximum context length is {self._context_tokens} tokens. However, "
                f"your prompt contains {prompt.tokens} input tokens, which exceeds this limit even "
                "without any output tokens. Please reduce the length of the input prompt.",
                "input_tokens",
            )
        return request, prompt, limit(answer, request, room_tokens)

    def _job(self, prompt: Prompt, answer: Answer, root: bytes, session: str) -> Job:
        block_tokens = self.engine.config.block_tokens
        blocks = chain(prompt.data + answer.data, block_tokens, root)
        return Job(
            prompt=blocks[: prompt.tokens // block_tokens],
            prompt_tokens=prompt.tokens,
            output_tokens=answer.tokens,
            answer=blocks,
            session=session,
        )

    async def _models(self, _: web.Request) -> web.Response:
        card = {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "warmloop-simulator",
            "root": self._model,
            "parent": None,
            "max_model_len": self._context_tokens,
        }
        return web.json_response({"object": "list", "data": [card, *self._adapters.cards()]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _reset(self, _: web.Request) -> web.Response:
        self.engine.cache.clear()
        return web.Response()

    async def _tokenize(self, http: web.Request) -> web.Response:
        """Pseudo-tokens of a `prompt`, or of `messages` as the template renders them."""
        request = json.loads(await http.read())
        try:
            read = read_chat if "messages" in request else read_text
            data = read(request)[0].data
        except BadInput as error:
            return _error(_FORMS[0], _Refused(400, str(error)))
        size = BYTES_PER_TOKEN
        tokens = [int.from_bytes(data[i : i + size], "big") for i in range(0, len(data), size)]
        return web.json_response(
            {"count": len(tokens), "max_model_len": self._context_tokens, "tokens": tokens}
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        load = self.engine.load()
        labels = f'engine="0",model_name="{self._model}"'
        lines = []
        for name, kind, value in (
            ("num_requests_running", "gauge", load.running),
            ("num_requests_waiting", "gauge", load.waiting),
            ("kv_cache_usage_perc", "gauge", load.kv_usage),
            ("prefix_cache_queries_total", "counter", load.queried_tokens),
            ("prefix_cache_hits_total", "counter", load.hit_tokens),
            ("prompt_tokens_total", "counter", load.prompt_tokens),
            ("generation_tokens_total", "counter", load.generated_tokens),
        ):
            # vLLM's client library writes the family's name without `_total`.
            lines.append(f"# TYPE vllm:{name.removesuffix('_total')} {kind}")
            lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
        lines.append("# TYPE vllm:cache_config_info gauge")
        lines.append(
            f'vllm:cache_config_info{{block_size="{self.engine.config.block_tokens}",engine="0",'
            f'num_gpu_blocks="{self.engine.cache.capacity_blocks}"}} 1.0'
        )
        return web.Response(text="\n".join(lines) + "\n")


async def _stream(
    http: web.Request,
    wire: Wire,
    answer: Answer,
    usage: Callable[[], Usage],
    running: Running,
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(http)
    if head := wire.head(usage()):
        await response.write(head)
    decoded = 0
    for count, piece in enumerate(pieces(answer)):
        if answer.cut_after is not None and count >= answer.cut_after:
            if http.transport is not None:
                http.transport.abort()
            raise ConnectionResetError("the request's script asked for a cut")
        await running.decode(1)
        decoded += 1
        await response.write(wire.piece(piece))
    await running.decode(max(0, answer.tokens - decoded))
    await response.write(wire.tail(answer.finish, usage()))
    await response.write_eof()
    return response


async def _label(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-warmloop-simulated"] = "1"


def _error(form: _Form, refused: _Refused) -> web.Response:
    """vLLM's error bodies: its own type names, and the status as the code."""
    kind = {400: "BadRequestError", 404: "NotFoundError"}.get(refused.status, "InternalServerError")
    error: dict[str, Any] = {"message": str(refused), "type": kind}
    body: dict[str, Any] = {"type": "error", "error": error}
    if form.path != "/v1/messages":
        body = {"error": error | {"param": refused.param, "code": refused.status}}
    return web.json_response(body, status=refused.status)


async def serve(
    simulator: Simulator, host: str, port: int, start_s: float, kv: str | None = None
) -> None:
    """Listen until cancelled. Like a real engine, the port opens only after the start.

    `kv` is --kv-events-config; raises ValueError where it cannot be understood.
    """
    async with published(simulator.engine, kv):
        await asyncio.sleep(start_s)
        await _serve(simulator, host, port)


async def _serve(simulator: Simulator, host: str, port: int) -> None:
    # A client that hangs up must free its slot: aiohttp cancels the handler only when asked to.
    runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        print(f"simulated engine ready on http://{bound[0]}:{bound[1]}", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Command line; see the module's story."""
    # `@FILE` stands for the arguments in that file, one a line.
    parser = argparse.ArgumentParser(prog="python -m serving.simulator", fromfile_prefix_chars="@")
    defaults = SimulatorConfig()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--model", default="simulated")
    parser.add_argument("--context-tokens", type=int, default=32_768)
    parser.add_argument("--max-running", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-lora-rank", type=int, default=0, help="0: it takes no adapters")
    parser.add_argument("--kv-events-config", help="as vLLM's")
    parser.add_argument("--enable-per-request-metrics", action="store_true", help="as vLLM's")
    for name, info in SimulatorConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        kind = int if info.annotation is int else float
        parser.add_argument(flag, type=kind, default=getattr(defaults, name))
    args = parser.parse_args()
    config = SimulatorConfig(**{name: getattr(args, name) for name in SimulatorConfig.model_fields})
    try:
        simulator = Simulator(
            args.model,
            args.context_tokens,
            config,
            seed=args.seed,
            max_running=args.max_running,
            max_lora_rank=args.max_lora_rank,
            says_times=args.enable_per_request_metrics,
        )
        signal.signal(signal.SIGUSR1, lambda *_: simulator.engine.hang())
        asyncio.run(serve(simulator, args.host, args.port, config.start_s, args.kv_events_config))
    except (ValueError, OSError) as error:
        parser.exit(1, f"serving.simulator: {error}\n")
    except KeyboardInterrupt:
        pass
