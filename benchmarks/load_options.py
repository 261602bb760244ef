"""Load benchmark, what can be asked of it: the command line, checked before anything is sent."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks import load_arrivals as arrivals
from benchmarks.harness.run import out_folder
from benchmarks.load_client import Target
from benchmarks.load_outside import HARNESSES
from benchmarks.load_workload import Shape

_OTHER_FILES = 256
_ABOVE_0 = ("rate", "seconds", "scale", "ttft_s", "latency_s", "timeout_s", "total_s", "most_lag_s")
_AT_LEAST_0 = ("spread", "tool_s", "think_s", "most_think_s", "head_tokens", "warm_up_s")
_AT_LEAST_1 = (
    "turns",
    "first_tokens",
    "next_tokens",
    "answer_tokens",
    "context_tokens",
    "most_open",
    "step_requests",
)


def read(
    about: str, arguments: Sequence[str] | None
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The options, with what is not said filled in. Ends the program where they cannot be."""
    made = parser(about)
    options = made.parse_args(arguments)
    if wrong := problem(options):
        made.error(wrong)
    _settle(options)
    return made, options


def parser(about: str) -> argparse.ArgumentParser:
    """All options, with their defaults."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--url", help="http://HOST:PORT, with or without /v1")
    add("--model", default="", help="default: the first that the server lists")
    add("--api-key-env", metavar="NAME", default="", help="the variable that holds the key")
    add("--rate", type=float, help="sessions/s; of a search, the first (default: 1)")
    add("--arrivals", choices=(arrivals.POISSON, arrivals.EVEN, arrivals.TRACE), default=None)
    add("--seconds", type=float, default=60.0, help="that are counted; of a search, at least")
    add(
        "--warm-up-s",
        type=float,
        help="before them (default: as long as a session's pauses, at most --seconds)",
    )
    add("--traces", type=Path, metavar="FILE")
    add("--scale", type=float, default=1.0, help="sizes of a trace are multiplied by it")
    add("--most-think-s", type=float, default=60.0, help="longer pauses of a trace are cut to it")
    for field in fields(Shape):
        flag = "--" + field.name.replace("_", "-")
        kind = int if isinstance(field.default, int) else float
        add(flag, type=kind, default=field.default, help=f"default: {field.default}")
    add("--ttft-s", type=float, help="objective: first token, from when it was due")
    add("--latency-s", type=float, help="objective: whole answer, from when it was due")
    add("--share", type=float, default=0.9, help="of requests that must be good")
    add("--find-knee", action="store_true")
    add("--step-requests", type=int, default=100, help="of a search: a step brings so many")
    add("--total-s", type=float, default=900.0, help="of a search: no step begins that ends later")
    add("--body", type=json.loads, default={}, metavar="JSON", help="fields of each request")
    add("--session-header", default="", metavar="NAME", help="a header with the session's name")
    add("--timeout-s", type=float, default=120.0, help="of one request")
    add("--most-open", type=int, default=4096, help="requests at once")
    add("--most-lag-s", type=float, default=0.02, help="p99 of the client's own lateness")
    add("--seed", type=int, help="default: another each time, so that nothing is warm")
    add("--events", type=Path, metavar="FILE", help="times of all events, one request a line")
    add("--outside", nargs="+", metavar=("HARNESS", "FILE"), help="vllm-bench and its results")
    add("--ours", nargs="+", type=Path, metavar="FILE", help="default: the one made now")
    add("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    return made


def problem(options: argparse.Namespace) -> str:
    """What is wrong with them: the option, its value, the fix. Empty: nothing."""
    return _number(options) or _together(options) or _target(options)


def _number(options: argparse.Namespace) -> str:
    ranges: tuple[tuple[Sequence[str], Callable[[float], bool], str], ...] = (
        (_ABOVE_0, lambda value: 0 < value < math.inf, "must be above 0"),
        (_AT_LEAST_0, lambda value: 0 <= value < math.inf, "must be at least 0"),
        (_AT_LEAST_1, lambda value: value >= 1, "must be at least 1"),
        (("share", "tool_share"), lambda value: 0 <= value <= 1, "must be from 0 to 1"),
    )
    for names, fits, need in ranges:
        for name in names:
            value = getattr(options, name)
            if value is not None and not fits(value):
                return f"--{name.replace('_', '-')}: {value:g}; {need}"
    return ""


def _together(options: argparse.Namespace) -> str:
    files = options.outside[1:] if options.outside else []
    for wrong, why in (
        (bool(options.url) == bool(options.ours), "--url: needed to send load; or --ours instead"),
        (options.ours and not files, "--ours: goes with --outside HARNESS FILE"),
        (
            options.outside and options.outside[0] not in HARNESSES,
            f"--outside: names no harness; valid: {', '.join(HARNESSES)}",
        ),
        (
            options.outside and len(files) != len(options.ours or [None]),
            f"--outside: {len(files)} files; needs one for each report of ours",
        ),
        (options.outside and options.find_knee, "--outside: goes with one rate, not --find-knee"),
        (
            options.find_knee and options.ttft_s is None and options.latency_s is None,
            "--find-knee: needs an objective, --ttft-s or --latency-s",
        ),
        (
            options.arrivals == arrivals.TRACE and not options.traces,
            "--arrivals: trace; needs --traces FILE",
        ),
    ):
        if wrong:
            return why
    return ""


def _target(options: argparse.Namespace) -> str:
    if options.api_key_env and not os.environ.get(options.api_key_env):
        return f"--api-key-env: the variable {options.api_key_env!r} is not set"
    if not isinstance(options.body, dict):
        return "--body: must be a JSON object"
    if options.url:
        try:
            Target.of(options.url)
        except ValueError as error:
            return f"--url: {error}"
    return ""


def _settle(options: argparse.Namespace) -> None:
    """What is not said follows from the rest, and is in the report."""
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    if options.arrivals is None:
        options.arrivals = arrivals.POISSON
    if options.rate is None and (options.find_knee or options.arrivals != arrivals.TRACE):
        options.rate = 1.0
    options.most_open = _files(options.most_open)


def _files(wanted: int) -> int:
    """So many connections as the system lets us open, at most those wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return soft - _OTHER_FILES
    return wanted
