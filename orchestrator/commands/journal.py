"""`warmloop journal export | purge`: conversations out of the journal, as lines or for good.

export   reads beside the stack, whether it runs or not; it changes nothing
purge    a stack that runs does it itself, else we do, under the leases of all who purge: on
         PostgreSQL other front doors may run meanwhile, a SQLite file has one process at a time
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from orchestrator import supervisor
from orchestrator.clock import SystemClock
from orchestrator.commands.approve import ask
from orchestrator.commands.options import StackOption, seconds, stack_of
from orchestrator.journal.outside import logs_of
from orchestrator.journal.stores import open_journal
from orchestrator.worker import purging
from router.tenancy.access import PURGE
from serving.config.stack import StackConfig
from serving.errors import ConfigError

app = typer.Typer(help="The journal: conversations as lines, and purging.", no_args_is_help=True)
err = Console(stderr=True, emoji=False)


@app.command()
def export(
    conversation: Annotated[str | None, typer.Argument(help="Its id, conv_...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every conversation.")] = False,
    config: StackOption = None,
) -> None:
    """Print logs as JSON lines: conversation, seq, and the event as it is stored."""
    if (conversation is None) != everything:
        raise ConfigError("CONVERSATION: give the id of one, or --all")
    try:
        asyncio.run(_export(stack_of(config), conversation))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _export(stack: StackConfig, conversation: str | None) -> None:
    async with logs_of(stack) as logs:
        if conversation is not None:
            _print(conversation, await logs.named(conversation))
            return
        async for name in logs.names():
            _print(name, await logs.log(name))


def _print(name: str, log: list[tuple[int, str]]) -> None:
    of = json.dumps(name)
    for seq, payload in log:
        sys.stdout.write(f'{{"conversation":{of},"seq":{seq},"event":{payload}}}\n')


@app.command()
def purge(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Without news for so long: 12h, 30d.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: StackOption = None,
) -> None:
    """Delete conversations without news for so long, for good; what runs in one keeps it."""
    than_s = seconds(older_than, "--older-than")
    stack = stack_of(config)
    if not yes:
        said = f"delete all conversations of {stack.name} without news for {older_than}, for good?"
        typer.confirm(said, abort=True, err=True)
    running = [run.url for run in supervisor.running() if run.name == stack.name]
    gone = _by(running[0], than_s) if running else asyncio.run(_alone(stack, than_s))
    err.print(f"{gone} conversations are deleted", highlight=False)


def _by(base: str, than_s: float) -> int:
    """A running stack deletes them, batch by batch."""
    gone = 0
    while batch := ask(f"{base}{PURGE}?older_than_s={than_s}", {})["purged"]:
        gone += batch
    return gone


async def _alone(stack: StackConfig, than_s: float) -> int:
    gone, journal = 0, open_journal(stack)
    try:
        await journal.start()
        purger = purging.alone(journal, SystemClock())
        while batch := await purger.older(than_s):
            gone += batch
        await journal.scrub()
    finally:
        await journal.close()
    return gone
