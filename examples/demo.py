"""The demo: a stack comes up, the bundled agent answers real questions, every claim is checked.

It uses a running stack only as any user would: the `warmloop` command, and HTTP. It ends with 0
only if each answer is right and the engines' own figures say that the prefix stayed warm.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from orchestrator import supervisor
from orchestrator.commands import console as views
from serving.config import stack_file
from serving.config.stack import StackConfig
from serving.errors import WarmloopError

HERE = Path(__file__).resolve().parent
WARM_SHARE = 0.80
AGENT = "desk"
SUMMARY = (
    "Summarise in one sentence what the user asked and what the answer was.",
    "Question: {ask}\nAnswer: {answer}",
)

out = views.terminal()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run Warmloop's demo.")
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "cpu.yaml")
    parser.add_argument("--keep", action="store_true", help="leave the stack up")
    parser.add_argument(
        "--check-structure", action="store_true", help="check all but the wording of the answers"
    )
    args = parser.parse_args()
    began = time.monotonic()
    try:
        stack = stack_file.load(args.config)
        warmloop("up", "--detach", "-c", str(args.config))
        try:
            url = supervisor.find(stack.name).url
            problems = ask_all(url, stack, strict=not args.check_structure)
        finally:
            if not args.keep:
                warmloop("down", "-c", str(args.config))
    except WarmloopError as error:
        out.print(f"demo: {error}", style="red", markup=False)
        return error.exit_code
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    for problem in problems:
        out.print(f"✗ {problem}", style="red", markup=False)
    if not problems:
        out.print(f"[green]✓ all checks passed[/green] in {time.monotonic() - began:.0f} s")
    if args.keep:
        views.print_usage(out, supervisor.find(stack.name).url, stack)
    return 1 if problems else 0


def warmloop(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "orchestrator.cli", *args], check=True)


def ask_all(url: str, stack: StackConfig, *, strict: bool) -> list[str]:
    """Ask every question; returns what was wrong, in sentences."""
    questions = yaml.safe_load((HERE / "desk" / "questions.yaml").read_text(encoding="utf-8"))
    problems: list[str] = []
    responses: list[dict[str, Any]] = []
    for number, question in enumerate(questions, start=1):
        out.rule(f"[bold]run {number}: {question['ask']}", align="left")
        response = asyncio.run(views.follow(out, url, AGENT, question["ask"]))
        responses.append(response)
        found = check_run(response) + (check_answer(response, question) if strict else [])
        problems += [f"run {number}: {problem}" for problem in found]
    out.rule("[bold]a side turn for the small model", align="left")
    text = SUMMARY[1].format(ask=questions[-1]["ask"], answer=answer_of(responses[-1]))
    try:
        side, small = asyncio.run(summarise(url, stack, text))
        responses.append(side)
        if not small:
            problems.append("the summary was not given to the small model")
    except aiohttp.ClientError as error:
        problems.append(f"the summary failed: {error}")
    out.print()
    views.print_turns(out, responses)
    return problems


def answer_of(response: Mapping[str, Any]) -> str:
    """The text of the response's messages."""
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )


def check_run(response: Mapping[str, Any]) -> list[str]:
    """What holds whatever the model says: it ended, used a tool, and its prefix stayed warm."""
    problems = []
    if response["status"] != "completed":
        problems.append(f"ended as {response['status']}")
    if not answer_of(response).strip():
        problems.append("the answer is empty")
    if not called(response):
        problems.append("no tool was called")
    turns = views.turns_of([response])
    later = turns[1:]
    prompt = sum(turn["prompt_tokens"] for turn in later)
    cached = sum(turn["cached_tokens"] for turn in later)
    if not prompt or cached < WARM_SHARE * prompt:
        problems.append(f"only {cached} of {prompt} prompt tokens came from the cache after turn 1")
    if any(turn["output_tokens"] <= 0 for turn in turns):
        problems.append("a turn reports no output tokens")
    return problems


def called(response: Mapping[str, Any]) -> list[str]:
    return [item["name"] for item in response["output"] if item["type"] == "function_call"]


def check_answer(response: Mapping[str, Any], question: Mapping[str, Any]) -> list[str]:
    problems = []
    text = answer_of(response).replace(",", "").lower()
    missing = [part for part in question["expect"] if part.replace(",", "").lower() not in text]
    if missing:
        problems.append(f"the answer lacks {missing}: {answer_of(response)!r}")
    if not in_order(question["tools"], called(response)):
        problems.append(f"tools called: {called(response)}, expected: {question['tools']}")
    return problems


def in_order(wanted: Sequence[str], seen: Sequence[str]) -> bool:
    """Each of `wanted` occurs in `seen`, in this order."""
    rest = iter(seen)
    return all(name in rest for name in wanted)


async def summarise(url: str, stack: StackConfig, text: str) -> tuple[dict[str, Any], bool]:
    """One side turn with `model: auto`: its figures as a response of one turn, and whether the
    small model took it."""
    body = {
        "model": "auto",
        "temperature": 0,
        "max_tokens": 60,
        "messages": [
            {"role": "system", "content": SUMMARY[0]},
            {"role": "user", "content": text},
        ],
    }
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(base_url=url, raise_for_status=True) as http,
        http.post(
            "/v1/chat/completions", json=body, headers={"x-warmloop-turn": "summarise"}
        ) as reply,
    ):
        headers, completion = reply.headers, await reply.json()
    usage = completion["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    tokens = {"prompt": usage["prompt_tokens"], "output": usage["completion_tokens"]}
    model = headers["x-warmloop-model"]
    prices = stack.models[model].prices
    out.print(completion["choices"][0]["message"]["content"].strip(), markup=False)
    turn = {
        "model": model,
        "replica": headers["x-warmloop-replica"],
        "reason": headers["x-warmloop-decision"],
        "prompt_tokens": tokens["prompt"],
        "cached_tokens": cached,
        "output_tokens": tokens["output"],
        "seconds": time.monotonic() - began,
        "cost_usd": prices.cost_usd(cached=cached, **tokens),
        "uncached_cost_usd": prices.cost_usd(cached=0, **tokens),
    }
    return {"warmloop": {"turns": [turn]}}, stack.models[model].tier == "small"


if __name__ == "__main__":
    sys.exit(main())
