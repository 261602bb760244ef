"""Where an engine publishes what its KV cache stores and drops, and how it is told to.

    events   ZeroMQ PUB: [topic, 8-byte sequence number, msgpack batch], as it happens
    replay   ZeroMQ ROUTER: asked with a sequence number, it sends what it still has from there

Both are open to whoever can reach them, and events hold the token ids of prompts. So on one machine
they are sockets in a folder that only its owner may enter; in a cluster they listen on the
engine's own address, beside its HTTP port, and the network must keep strangers out.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from serving.engines.ports import free_port

IPC = "ipc://"
TCP = "tcp://"


@dataclass(frozen=True, slots=True)
class KvEndpoints:
    """The addresses that a subscriber connects to."""

    events: str
    replay: str = ""
    """Empty: what was missed is lost."""


def on(host: str) -> KvEndpoints:
    """Fresh endpoints for an engine on `host`, an address of this machine.

    On loopback they lie in a new folder; `remove` takes it away again.
    """
    if ip_address(host).is_loopback:
        folder = tempfile.mkdtemp(prefix="warmloop-kv-")  # for its owner only
        return KvEndpoints(f"{IPC}{folder}/events", f"{IPC}{folder}/replay")
    name = f"[{host}]" if ":" in host else host
    return KvEndpoints(f"{TCP}{name}:{free_port(host)}", f"{TCP}{name}:{free_port(host)}")


def remove(endpoints: KvEndpoints) -> None:
    """The folder of endpoints that `on` made, once their engine has ended. Idempotent."""
    for endpoint in (endpoints.events, endpoints.replay):
        if endpoint.startswith(IPC):
            path = Path(endpoint.removeprefix(IPC))
            path.unlink(missing_ok=True)
    if endpoints.events.startswith(IPC):
        folder = Path(endpoints.events.removeprefix(IPC)).parent
        if folder.name.startswith("warmloop-kv-") and folder.is_dir():
            folder.rmdir()


def vllm_flags(endpoints: KvEndpoints | None) -> tuple[str, ...]:
    """What makes vLLM publish; nothing without endpoints.

    It binds an address with `::` in it and connects to others. An IPv4 address may be written as an
    IPv6 one; ZeroMQ then listens on that IPv4 address alone.
    """
    if endpoints is None:
        return ()
    events = endpoints.events
    if events.startswith(TCP) and not events.startswith(f"{TCP}["):
        events = events.replace(TCP, f"{TCP}[::ffff:", 1)
        host, _, port = events.rpartition(":")
        events = f"{host}]:{port}"
    return _flags(endpoints, endpoint=events, enable_kv_cache_events=True)


def sglang_flags(endpoints: KvEndpoints | None) -> tuple[str, ...]:
    """What makes SGLang publish; nothing without endpoints."""
    if endpoints is None:
        return ()
    return _flags(endpoints, endpoint=endpoints.events, bind=True)


def _flags(endpoints: KvEndpoints, **more: str | bool) -> tuple[str, ...]:
    said: dict[str, str | bool] = {"publisher": "zmq", **more}
    if endpoints.replay:
        said["replay_endpoint"] = endpoints.replay
    return ("--kv-events-config", json.dumps(said))
