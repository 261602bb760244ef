"""`warmloop keys`: make, list and revoke API keys. Front doors that run notice by themselves.

warmloop keys create acme --expires 90d     the key, once, on stdout
warmloop keys list
warmloop keys revoke 1f0c9a2b
"""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.commands import console as views
from orchestrator.commands.options import StackOption, seconds, stack_of
from router.tenancy.keys import KeyFile
from serving.config.sections import nearest
from serving.config.tenancy import OPERATOR
from serving.errors import ConfigError

app = typer.Typer(help="API keys of tenants, and of the operator.", no_args_is_help=True)
out = views.terminal()
err = Console(stderr=True, emoji=False)


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="A tenant of the stack file, or `operator`.")],
    expires: Annotated[
        str | None, typer.Option("--expires", help="When it ends: 30m, 12h, 90d; default: never.")
    ] = None,
    config: StackOption = None,
) -> None:
    """Make a key, and show it: this once."""
    stack = stack_of(config)
    if tenant != OPERATOR and tenant not in stack.tenants:
        hint = nearest(tenant, [OPERATOR, *stack.tenants])
        raise ConfigError(f"TENANT: {tenant!r} is not under tenants in the stack file; {hint}")
    expires_at = time.time() + seconds(expires, "--expires") if expires is not None else 0.0
    key, stored = KeyFile(stack.keys_path).create(tenant, expires_at)
    print(key)
    until = f"until {_date(expires_at)}" if expires_at else "until it is revoked"
    err.print(
        f"key {stored.id} of {tenant}, valid {until}. It is not shown again: the file "
        f"{stack.keys_path} has its hash only.",
        highlight=False,
        soft_wrap=True,
    )
    if not stack.tenants:
        err.print(
            "warning: no tenants are configured, so that no key is asked for yet",
            style="yellow",
            highlight=False,
        )


@app.command("list")
def list_keys(config: StackOption = None) -> None:
    """All keys by id; the keys themselves are nowhere."""
    stack = stack_of(config)
    file = KeyFile(stack.keys_path)
    keys = file.read().keys if file.path.exists() else ()
    table = Table("id", "tenant", "made", "ends", "", box=None)
    now = time.time()
    for key in sorted(keys, key=lambda each: (each.tenant, each.created_at)):
        known = key.tenant == OPERATOR or key.tenant in stack.tenants
        state = "" if known else "its tenant is not configured"
        state = state if key.is_valid(now) else "expired"
        ends = _date(key.expires_at) if key.expires_at else "-"
        table.add_row(key.id, key.tenant, _date(key.created_at), ends, state)
    out.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    config: StackOption = None,
) -> None:
    """End a key. Requests that are under way go on."""
    stack = stack_of(config)
    file = KeyFile(stack.keys_path)
    revoked = file.revoke(key_id)
    if revoked is None:
        ids = [key.id for key in file.read().keys]
        hint = nearest(key_id, ids) if ids else "there are none"
        raise ConfigError(f"ID: no key {key_id[:40]!r}; {hint}")
    err.print(f"key {revoked.id} of {revoked.tenant} is revoked", highlight=False)


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
