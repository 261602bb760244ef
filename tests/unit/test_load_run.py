"""The load benchmark against servers: what is sent and counted, and how each failure is named.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from benchmarks import load, load_beside, load_options
from benchmarks import load_outside as outside
from benchmarks.load_client import LOST, NO_CONNECTION, NOT_HTTP, TIMED_OUT, Client, Target
from benchmarks.load_figures import Objectives, figures
from benchmarks.load_play import TOO_MANY, Asking, Played, Player
from benchmarks.load_report import draw_run, write_events
from benchmarks.load_stream import CUT, IN_STREAM
from benchmarks.load_workload import Shape, Synthetic
from serving.config.model import SimulatorConfig
from serving.engines.ports import free_port
from serving.simulator.server import Simulator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
QUICK = SimulatorConfig(prefill_tokens_per_s=1e6, decode_tokens_per_s=1e5)
SHAPE = Shape(turns=3, spread=0.0, tool_s=0.001, think_s=0.001, answer_tokens=12)
LONG_S = 600.0
"""A window in which everything is due; a run ends when its sessions have."""


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def play(url: str, sessions: int, **asking: Any) -> Played:
    """All sessions arrive at once."""
    client = Client(Target.of(url), "a-key", idle_s=LONG_S)
    asked = Asking("tiny", **{"timeout_s": 60.0, **asking})
    try:
        player = Player(client, Synthetic(SHAPE, 1), asked, LONG_S, "test")
        return await player.run([0.0] * sessions)
    finally:
        await client.close()


async def test_every_turn_of_every_session_is_sent_and_counted_with_all_its_events(
    tmp_path: Path,
) -> None:
    async with listening(Simulator("tiny", 32_768, QUICK).app()) as url:
        played = await play(url, 5, body={"ignore_eos": True})
    assert (played.begun, len(played.ended_s), played.open) == (5, 5, 0)
    assert sorted((s.session, s.turn) for s in played.sent) == [
        (session, turn) for session in range(5) for turn in range(3)
    ]
    for sent in played.sent:
        assert sent.error == ""
        times = [sent.due_s, sent.left_s, sent.sent_s, sent.first_byte_s, *sent.token_s, sent.end_s]
        assert times == sorted(times)
        assert sent.output_tokens == 12
        assert sent.prompt_tokens is not None
        assert sent.cached_tokens is not None
        if sent.turn:
            assert sent.cached_tokens > 0  # the turn before it, with the answer, is its prefix
    found = figures(played, Objectives(), 0.0)
    assert (found.requests, found.good, found.errors) == (15, 15, {})
    write_events(played, tmp_path / "events.jsonl")
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 15
    assert {"due_s", "sent_s", "first_byte_s", "token_s", "end_s"} <= {*json.loads(lines[0])}
    draw_run(played, Objectives(ttft_s=1.0), 0.0, tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


async def begin(http: web.Request, *events: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(http)
    for event in events:
        await response.write(b"data: " + event + b"\n\n")
    return response


TOKEN = b'{"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}'


async def refuses(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": "too many"}}, status=429)


async def stops_short(http: web.Request) -> web.StreamResponse:
    response = await begin(http, TOKEN)
    await response.write_eof()
    return response


async def hangs_up(http: web.Request) -> web.StreamResponse:
    response = await begin(http, TOKEN)
    assert http.transport is not None
    http.transport.close()
    return response


async def breaks(http: web.Request) -> web.StreamResponse:
    response = await begin(http, TOKEN, b'{"error": {"message": "the replica died"}}')
    await response.write_eof()
    return response


async def never_answers(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("handler", "kind", "said"),
    [
        (refuses, "HTTP 429", "too many"),
        (stops_short, CUT, "choices"),
        (hangs_up, LOST, "choices"),
        (breaks, IN_STREAM, "the replica died"),
        (never_answers, TIMED_OUT, ""),
    ],
)
async def test_each_failure_has_its_name_and_ends_its_session(
    handler: Handler, kind: str, said: str
) -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    async with listening(app) as url:
        played = await play(url, 2, timeout_s=0.2 if kind == TIMED_OUT else 60.0)
    assert [(s.turn, s.error) for s in played.sent] == [(0, kind)] * 2
    assert said in played.said[kind]
    assert played.ended_s == []


async def test_where_nobody_listens_that_is_an_error_of_each_request() -> None:
    played = await play(f"http://127.0.0.1:{free_port()}", 3)
    assert [s.error for s in played.sent] == [NO_CONNECTION] * 3
    assert played.said[NO_CONNECTION]


async def test_what_does_not_speak_http_is_an_error_too() -> None:
    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 this is a mail server\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greets, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        played = await play(f"http://127.0.0.1:{port}", 2)
    assert [s.error for s in played.sent] == [NOT_HTTP] * 2


async def test_more_than_may_be_open_are_not_sent_and_counted() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", never_answers)
    async with listening(app) as url:
        played = await play(url, 5, most_open=2, timeout_s=1.0)
    assert sorted(s.error for s in played.sent) == [TOO_MANY] * 3 + [TIMED_OUT] * 2


async def test_the_key_the_model_and_the_session_are_sent_and_fields_can_be_taken_away() -> None:
    seen: list[tuple[web.Request, dict[str, Any]]] = []

    async def answers(http: web.Request) -> web.StreamResponse:
        seen.append((http, await http.json()))
        response = await begin(http, TOKEN, b"[DONE]")
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answers)
    body = {"max_tokens": None, "max_completion_tokens": 9}
    async with listening(app) as url:
        await play(f"{url}/v1/", 1, body=body, session_header="x-session-id")
    assert len(seen) == 3
    http, sent = seen[0]
    assert http.headers["authorization"] == "Bearer a-key"
    assert {r.headers["x-session-id"] for r, _ in seen} == {"test-0"}
    assert (sent["model"], sent["stream"], sent["max_completion_tokens"]) == ("tiny", True, 9)
    assert "max_tokens" not in sent
    assert len({r.transport for r, _ in seen}) == 1  # one connection, kept


async def command(url: str, out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The whole benchmark, in a thread of its own: its exit code, and its report."""
    said = ("--url", url, "--out", str(out), "--turns", "1", "--most-lag-s", "1e9", *arguments)
    code = await asyncio.to_thread(load.main, said)
    assert (out / "load.png").read_bytes().startswith(b"\x89PNG")
    report: dict[str, Any] = json.loads((out / "load.json").read_text(encoding="utf-8"))
    return code, report


async def test_a_run_reports_what_was_sent_and_of_what_configuration(tmp_path: Path) -> None:
    async with listening(Simulator("tiny", 32_768, QUICK).app()) as url:
        code, report = await command(
            url, tmp_path, "--rate", "25", "--seconds", "1", "--ttft-s", "1e6", "--seed", "5"
        )
    assert code == 0
    assert report["benchmark"] == "load"
    assert report["configuration"]["seed"] == 5
    (run,) = report["figures"]["runs"]
    assert (run["rate"], run["seed"], run["doubts"]) == (25.0, 5, [])
    assert (run["figures"]["requests"], run["figures"]["good"]) == (25, 25)
    assert {"p50", "p90", "p99", "mean"} == {*run["figures"]["ttft"]}
    assert [bar["missed"] for bar in report["bars"]] == [False]


async def test_too_few_requests_are_not_judged(tmp_path: Path) -> None:
    async with listening(Simulator("tiny", 32_768, QUICK).app()) as url:
        code, report = await command(url, tmp_path, "--rate", "3", "--seconds", "1")
    assert code == 1
    (doubt,) = report["figures"]["runs"][0]["doubts"]
    assert doubt.startswith("3 requests were counted")


@pytest.mark.parametrize(("ttft_s", "side"), [("1e6", "low"), ("1e-9", "high")])
async def test_a_search_that_runs_out_of_time_says_on_which_side_the_knee_lies(
    ttft_s: str, side: str, tmp_path: Path
) -> None:
    search = ("--find-knee", "--ttft-s", ttft_s, "--rate", "40", "--seconds", "0.1")
    async with listening(Simulator("tiny", 32_768, QUICK).app()) as url:
        code, report = await command(
            url, tmp_path, *search, "--step-requests", "1", "--total-s", "0.3"
        )
    assert code == 1
    assert len(report["figures"]["runs"]) >= 1
    other = "high" if side == "low" else "low"
    assert report["figures"]["knee"][side] is not None
    assert report["figures"]["knee"][other] is None


async def test_beside_an_outside_harness_both_are_given_the_same_and_their_reports_compared(
    tmp_path: Path,
) -> None:
    said = argparse.Namespace(
        seed=3,
        prompt_tokens=40,
        answer_tokens=6,
        rate=200.0,
        requests=20,
        arrivals="even",
        out=tmp_path,
    )
    async with listening(Simulator("small", 32_768, QUICK).app()) as url:
        pair = load_beside.Pair(url, 0, said)
        await asyncio.to_thread(load.main, [*pair.our_command()[3:], "--most-lag-s", "1e9"])
    pair.their_command(Path("python"), tmp_path)
    lines = (tmp_path / "prompts-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["prompt"] for line in lines}) == 20
    assert {json.loads(line)["output_tokens"] for line in lines} == {6}
    mine = outside.ours(pair.ours / "load.json")
    assert (mine["requests"], mine["output tokens"]) == (20, 6)
    pair.theirs.write_text(
        json.dumps(
            {
                "completed": 20,
                "total_input_tokens": mine["prompt tokens"] * 20,
                "total_output_tokens": 120,
                "request_throughput": mine["answers/s"],
                "output_throughput": mine["output tokens/s"],
                "median_ttft_ms": mine["first token, p50"] * 1000 / 1.5,
            }
        ),
        encoding="utf-8",
    )
    files = ["vllm-bench", str(pair.theirs), "--ours", str(pair.ours / "load.json")]
    code = await asyncio.to_thread(load.main, ["--outside", *files, "--out", str(tmp_path)])
    assert code == 1
    report = json.loads((tmp_path / "load-outside.json").read_text(encoding="utf-8"))
    missed = {bar["what"]: bar["missed"] for bar in report["bars"]}
    assert missed == {
        "answers/s: |ours ÷ theirs - 1|": False,
        "output tokens/s: |ours ÷ theirs - 1|": False,
        "first token, p50: |ours ÷ theirs - 1|": True,
    }
    assert (tmp_path / "load-outside.png").read_bytes().startswith(b"\x89PNG")


async def test_an_outside_harness_that_failed_is_not_passed_over(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "raise SystemExit(1)"]
    await load_beside.run(fails, tmp_path / "a.log", fine=(0, 1))
    with pytest.raises(RuntimeError, match=r"ended with 1; see .*b\.log"):
        await load_beside.run(fails, tmp_path / "b.log")


def options(*arguments: str) -> str:
    return load_options.problem(load_options.parser("").parse_args(arguments))


def test_bad_input_names_the_option_the_value_and_the_fix() -> None:
    url = ("--url", "http://127.0.0.1:1")
    assert options(*url) == ""
    assert options() == "--url: needed to send load; or --ours instead"
    assert options(*url, "--rate", "0") == "--rate: 0; must be above 0"
    assert options(*url, "--turns", "0") == "--turns: 0; must be at least 1"
    assert options(*url, "--share", "2") == "--share: 2; must be from 0 to 1"
    assert options(*url, "--warm-up-s", "-1") == "--warm-up-s: -1; must be at least 0"
    assert "needs an objective" in options(*url, "--find-knee")
    assert "--traces" in options(*url, "--arrivals", "trace")
    assert "'NO_SUCH_KEY' is not set" in options(*url, "--api-key-env", "NO_SUCH_KEY")
    assert "vllm-bench" in options(*url, "--outside", "other", "a.json")
    assert "--api-key-env" in options("--url", "http://me:secret@host")
    assert "secret" not in options("--url", "http://me:secret@host")
    assert "expected http" in options("--url", "127.0.0.1:8000")


def test_a_server_without_models_is_a_line_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SystemExit) as ended:
        load.main(["--url", url, "--out", str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "it lists no model" in said
    assert "is --url right? --model names one" in said
