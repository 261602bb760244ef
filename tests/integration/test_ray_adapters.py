"""LoRA adapters on engines that we start: a real Ray, simulated engines, the real front door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.adapters import write_adapter
from tests.integration.openai_calls import client_of
from tests.integration.stacks import Stack, eventually, stack


def cards(url: str) -> dict[str, dict[str, Any]]:
    with client_of(url, 60) as client:
        return {model.id: model.model_dump() for model in client.models.list()}


def replicas(url: str, name: str) -> int:
    return int(cards(url).get(name, {}).get("ready_replicas", 0))


def engines(made: Stack) -> list[psutil.Process]:
    """The simulated engines themselves, without their guardians."""
    found = []
    for process in made.processes():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if "serving.simulator" in line and not any("guardian" in part for part in line):
            found.append(process)
    return found


@pytest.mark.ray
def test_adapters_are_on_every_replica_before_it_is_ready_and_after_each_restart(
    tmp_path: Path,
) -> None:
    _, later = (
        write_adapter(tmp_path / "lora" / name, seed=seed, layers=(0,), modules=("q_proj",))
        for seed, name in enumerate(("fixed", "later"))
    )
    model = {"engine": "simulated", "replicas": 2, "adapters": {"fixed": "lora/fixed"}}
    with stack(tmp_path, models={"small": model}) as made:
        url = made.up()
        with client_of(url, 60) as client:
            # "Ready" came after the configured adapter: nothing is waited for here.
            assert (cards(url)["fixed"]["parent"], replicas(url, "fixed")) == ("small", 2)
            asked = {"lora_name": "later", "lora_path": str(later)}
            said = client.post("/load_lora_adapter", body=asked, cast_to=dict[str, Any])
            assert len(said["replicas"]) == 2
            assert replicas(url, "later") == 2
            for name in ("small", "fixed", "later"):
                answer = client.completions.create(model=name, prompt="hello", max_tokens=1)
                assert answer.model == name
            victim = engines(made)[0]
            victim.kill()
            eventually(lambda: replicas(url, "later") == 1, "the dead one is out")
            eventually(lambda: replicas(url, "later") == 2, "its successor has been given it")
            assert replicas(url, "fixed") == 2
            front = made.process("orchestrator.front")
            assert front is not None
            front.kill()

            def back() -> bool:
                try:
                    return replicas(url, "later") == 2
                except openai.APIConnectionError:
                    return False

            eventually(back, "the front door is back, and knows")
            client.post("/unload_lora_adapter", body=asked, cast_to=dict[str, Any])
            assert "later" not in cards(url)
            assert replicas(url, "fixed") == 2
            kept = made.home / "stacks" / made.name / "adapters.json"
            assert json.loads(kept.read_text()) == {"loaded": [], "leaving": []}
            assert made.run("down", "-c", str(made.config)).returncode == 0


def test_a_bad_adapter_in_the_configuration_ends_the_start_with_one_line(tmp_path: Path) -> None:
    write_adapter(tmp_path / "high", rank=64, layers=(0,), modules=("q_proj",))
    model = {"engine": "simulated", "adapters": {"high": "high"}}
    with stack(tmp_path, models={"small": model}) as made:
        done = made.run("up", "-c", str(made.config))
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert line.startswith("warmloop: models.small.adapters.high: ")
        assert line.endswith("raise lora.max_rank of the model, or train with a lower rank")
        assert not made.processes()
