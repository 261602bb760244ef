"""The `warmloop` command: up, run, status, approvals, approve, journal, logs, bench, down and more.

Errors that a person can mend are one line on stderr, never a trace: exit code 2 for bad input,
1 for a stack that failed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator import supervisor
from orchestrator.commands import approve as approve_cli
from orchestrator.commands import bench as benches
from orchestrator.commands import console as views
from orchestrator.commands import engine_logs as engine_log_view
from orchestrator.commands import journal as journal_cli
from orchestrator.commands import keys as keys_cli
from orchestrator.commands import lint as linting
from orchestrator.commands import mcp as mcp_cli
from router.tenancy.access import exposed
from serving.cluster import commands
from serving.config import stack_file
from serving.config.sections import nearest
from serving.config.stack import StackConfig
from serving.errors import ConfigError, EngineError, WarmloopError

app = typer.Typer(
    help="Serve LLM agents on your own machines: warm prefixes, valid tool calls, durable runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(keys_cli.app, name="keys")
app.add_typer(mcp_cli.app, name="mcp")
app.add_typer(journal_cli.app, name="journal")
out = views.terminal()
err = Console(stderr=True, emoji=False)

ConfigOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="A stack file, e.g. configs/cpu.yaml.")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="A front door elsewhere, e.g. http://host:8400.")
]


@app.command()
def up(
    config: Annotated[Path, typer.Option("-c", "--config", help="A stack file.")],
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready.")] = False,
) -> None:
    """Start a stack and hold it until Ctrl-C."""
    stack = stack_file.load(config)
    if detach:
        _up_detached(stack, config)
        return
    if warning := exposed(stack):
        err.print(f"warning: {warning}", highlight=False, markup=False, style="yellow")
    began = time.monotonic()

    def say(line: str) -> None:
        err.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {line}", highlight=False)

    def on_ready(url: str) -> None:
        views.print_usage(out, url, stack)

    supervisor.Supervisor(stack, config, say=say).run(on_ready)
    say("stopped")


def _up_detached(stack: StackConfig, config: Path) -> None:
    """Start `warmloop up` in a session of its own; wait until the stack is ready or has failed."""
    log = stack.folder / "logs" / "up.log"
    with supervisor.writing(stack.folder):
        stack.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.parent.mkdir(exist_ok=True)
        sink = log.open("wb")
    with sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", "up", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "100"},
        )
    shown = 0
    while True:
        exit_code = child.poll()
        text = log.read_text(errors="replace")
        if text.endswith("\n") or exit_code is not None:
            sys.stderr.write(text[shown:])
            shown = len(text)
        if exit_code is not None:
            raise typer.Exit(exit_code)
        if any(run.pid == child.pid and run.state == "ready" for run in supervisor.running()):
            return
        time.sleep(supervisor.POLL_S)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="What the agent shall do.")],
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", help="Agent or model; default: the first agent.")
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Give an agent a task; show its events live, then what each turn cost."""
    if not task.strip():
        raise ConfigError("task: is empty; write what the agent shall do")
    base = _base(config, url)
    name = agent or views.first_agent(base)
    response = asyncio.run(views.follow(out, base, name, task))
    views.print_turns(out, [response])
    if response.get("status") != "completed":
        raise typer.Exit(1)


@app.command()
def status(config: ConfigOption = None) -> None:
    """Engines, load, hit rate, sessions."""
    found = _find(config)
    health = supervisor.get_json(f"{found.url}/health")
    if health is None:
        raise EngineError(f"{found.name}: {found.state}; the front door at {found.url} is silent")
    views.print_status(out, found, health)


@app.command()
def approve(
    approval: Annotated[str, typer.Argument(help="Id of an mcp_approval_request.")],
    deny: Annotated[bool, typer.Option("--deny", help="Say no.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Told to the model if you deny.")] = "",
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Decide on a call that waits for a person; it counts once."""
    base = _base(config, url)
    response = approve_cli.decide(base, approval, approve=not deny, reason=reason)
    out.print(f"{'denied' if deny else 'approved'}; it goes on in {response}", highlight=False)


@app.command()
def approvals(config: ConfigOption = None, url: UrlOption = None) -> None:
    """List the calls that wait for a person: their ids, and since when."""
    now, waiting = time.time(), list(approve_cli.waiting(_base(config, url)))
    for waits in waiting:
        approval, told = approve_cli.lines(waits, now)
        out.print(f"{approval}\n    {told}", highlight=False, markup=False, soft_wrap=True)
    if not waiting:
        err.print("nothing waits for a person", highlight=False)


@app.command()
def restart(
    model: Annotated[str, typer.Argument(help="Whose engines are replaced, one after another.")],
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Stop each engine before its successor starts.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Replace a model's engines without failing a turn; Ctrl-C leaves it going."""
    found = _find(config)
    of_stack = stack_file.load(config or Path(found.config)).models
    if model not in of_stack:
        raise ConfigError(f"model: {model!r} is not in this stack; {nearest(model, [*of_stack])}")
    if of_stack[model].engine == "external":
        raise ConfigError(f"model: {model!r} is external: restart it where it was started")
    began = time.monotonic()
    order = commands.Restart(model, in_place)
    for line in commands.ask(found.folder, order, lambda: found.process() is not None):
        if line.end == "failed":
            raise EngineError(line.text)
        text = f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {escape(line.text)}"
        err.print(text, highlight=False)


@app.command()
def logs(
    model: Annotated[str, typer.Argument(help="Whose engines' logs are shown.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Of each log's end.")] = 20,
    config: ConfigOption = None,
) -> None:
    """What a model's engines printed: those that live, and the one that died last."""
    if config is None:
        found = _find(None)
        config = Path(found.config)
    stack = stack_file.load(config)
    if model not in stack.models:
        raise ConfigError(f"model: {model!r} is not in {config}; {nearest(model, [*stack.models])}")
    log_dir = stack.folder / "logs"
    engine_log_view.show(out, log_dir, model, lines)
    if follow:
        engine_log_view.follow(out, log_dir, model)


@app.command()
def lint(
    agent: Annotated[str, typer.Argument(help="Of the stack file.")],
    config: Annotated[Path, typer.Option("-c", "--config", help="A stack file.")],
) -> None:
    """Find what in an agent would break the cache; exit code 1 if there is anything."""
    found = linting.lint(config, agent)
    for each in found:
        out.print(str(each), highlight=False, markup=False, soft_wrap=True)
    if found:
        raise typer.Exit(1)
    err.print(f"{agent}: nothing that would break the cache", highlight=False)


# What comes after the name is the benchmark's own, --help included.
@app.command(
    context_settings={
        "help_option_names": [],
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    }
)
def bench(
    words: Annotated[list[str] | None, typer.Argument(metavar="[NAME] [ARGUMENTS]...")] = None,
) -> None:
    """Measure something; without a name, the list of what can be measured."""
    name, *arguments = words or [""]
    if name in ("", "-h", "--help"):
        benches.show(out)
        return
    if code := benches.run(name, arguments):
        raise typer.Exit(code)


@app.command()
def down(config: ConfigOption = None) -> None:
    """Stop a stack: the front door, the engines, Ray."""
    found = _find(config)
    supervisor.stop(found)
    err.print(f"{found.name} is down", highlight=False)


def _base(config: Path | None, url: str | None) -> str:
    return _checked(url) if url else _find(config).url


def _checked(url: str) -> str:
    """A front door's address, without the path that OpenAI clients put behind it."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url: {url!r} must begin with http://, e.g. http://127.0.0.1:8400")
    return url.rstrip("/").removesuffix("/v1")


def _find(config: Path | None) -> supervisor.RunFile:
    return supervisor.find(stack_file.load(config).name if config else None)


def main() -> None:
    """Entry point: turns every expected failure into a line and an exit code."""
    status = 0
    try:
        app()
    except WarmloopError as error:
        err.print(f"warmloop: {error}", highlight=False, markup=False, style="red", soft_wrap=True)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit, which would wait for the threads of a download that was given up.
    os._exit(status)


if __name__ == "__main__":
    main()
