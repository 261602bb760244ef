"""Where engines publish their KV events, and what they are told."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import zmq
from pydantic import ValidationError

from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for, kv_endpoints
from serving.engines.base import EngineSpec
from serving.engines.kv_endpoints import KvEndpoints
from serving.tables.static_table import StaticTable

ON_A_NODE = KvEndpoints("tcp://10.0.0.5:7001", "tcp://10.0.0.5:7002")


def told(engine: str, endpoints: KvEndpoints | None, tmp_path: Path) -> Any:
    """What an engine's launch line says of KV events; None where it says nothing."""
    python = tmp_path / "python"
    python.touch(mode=0o755)
    model = ModelConfig.model_validate(
        {"engine": engine, "sources": ["hf:a/b"], "python": str(python)}
    )
    spec = EngineSpec("small", model, tmp_path, 9000, "10.0.0.5", endpoints)
    argv = adapter_for(model.engine).command(spec).argv
    flag = "--kv-events-config"
    return json.loads(argv[argv.index(flag) + 1]) if flag in argv else None


def test_on_one_machine_only_the_owner_can_reach_the_events() -> None:
    endpoints = kv_endpoints.on("127.0.0.1")
    try:
        assert endpoints.events.startswith("ipc://")
        folder = Path(endpoints.events.removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert Path(endpoints.replay.removeprefix("ipc://")).parent == folder
    finally:
        kv_endpoints.remove(endpoints)
    assert not folder.exists()
    kv_endpoints.remove(endpoints)


def test_vllm_binds_the_address_that_subscribers_connect_to(tmp_path: Path) -> None:
    said = told("vllm", ON_A_NODE, tmp_path)
    assert said["enable_kv_cache_events"] is True
    assert "::" in said["endpoint"]  # else it would connect
    context = zmq.Context()
    endpoints = KvEndpoints("tcp://127.0.0.1:0")
    [_, config] = kv_endpoints.vllm_flags(endpoints)
    socket = context.socket(zmq.PUB)
    try:
        socket.bind(json.loads(config)["endpoint"])
        assert socket.getsockopt_string(zmq.LAST_ENDPOINT).startswith("tcp://127.0.0.1:")
    finally:
        context.destroy(linger=0)


def test_sglang_binds_when_told(tmp_path: Path) -> None:
    said = told("sglang", ON_A_NODE, tmp_path)
    assert (said["endpoint"], said["bind"]) == (ON_A_NODE.events, True)
    assert said["replay_endpoint"] == ON_A_NODE.replay


@pytest.mark.parametrize("engine", ["vllm", "sglang", "simulated"])
def test_an_engine_without_endpoints_is_told_nothing(engine: str, tmp_path: Path) -> None:
    assert told(engine, None, tmp_path) is None


@pytest.mark.parametrize(
    ("settings", "publishes"),
    [
        ({}, True),
        ({"kv_events": False}, False),
        ({"extra_args": ["--kv-events-config", "{}"]}, False),
        ({"engine": "sglang"}, False),
        ({"engine": "sglang", "extra_args": ["--page-size", "64"]}, True),
        ({"engine": "sglang", "kv_events": True}, True),
    ],
)
def test_who_publishes(settings: dict[str, Any], publishes: bool) -> None:
    model = ModelConfig.model_validate({"sources": ["hf:a/b"], **settings})
    assert model.publishes_kv is publishes


def test_engines_of_others_are_listened_to_where_the_configuration_says() -> None:
    model = {
        "engine": "external",
        "urls": ["http://a:1", "http://b:1"],
        "kv_endpoints": ["tcp://a:2", {"events": "tcp://b:2", "replay": "tcp://b:3"}],
    }
    stack = StackConfig.model_validate({"models": {"big": model}})
    first, second = StaticTable(stack).snapshot()
    assert (first.kv_events, first.kv_replay) == ("tcp://a:2", "")
    assert (second.kv_events, second.kv_replay) == ("tcp://b:2", "tcp://b:3")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kv_endpoints": ["tcp://a:2"], "urls": ["http://a:1", "http://b:1"]}, "1 for 2 urls"),
        ({"kv_endpoints": ["http://a:2"], "urls": ["http://a:1"]}, "pattern"),
        ({"kv_endpoints": ["tcp://a:2"], "engine": "simulated"}, "engine: external"),
    ],
)
def test_a_mistake_is_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelConfig.model_validate({"engine": "external", **settings})
