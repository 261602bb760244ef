"""Two tenants at one front door over a real vLLM: neither finds the other's prompts warm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from router.tenancy.keys import KeyFile
from serving.config import stack_file
from tests.integration.conftest import RealEngine
from tests.integration.stacks import stack

pytestmark = pytest.mark.engine

LONG = "The tenants' desk opens at nine and closes at six. " * 40


@pytest.fixture(scope="module")
def clients(
    vllm_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, openai.OpenAI]]:
    models = {"small": {"engine": "external", "tier": "small", "urls": [vllm_engine.url]}}
    folder: Path = tmp_path_factory.mktemp("tenants")
    admission = {"keys": str(folder / "keys.json")}
    with stack(folder, models=models, tenants={"a": {}, "b": {}}, admission=admission) as made:
        file = KeyFile(stack_file.load(made.config).keys_path)
        keys = {name: file.create(name)[0] for name in ("a", "b")}
        url = made.up()
        with ExitStack() as open_clients:
            yield {
                name: open_clients.enter_context(
                    openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=300)
                )
                for name, key in keys.items()
            }


def cached(client: openai.OpenAI, route: str) -> int:
    if route == "chat":
        messages = [{"role": "user", "content": LONG}]
        chat = client.chat.completions.create(model="small", messages=messages, max_tokens=2)  # type: ignore[call-overload]
        return int(chat.usage.prompt_tokens_details.cached_tokens or 0)
    if route == "completions":
        done = client.completions.create(model="small", prompt=LONG, max_tokens=2)
        assert done.usage is not None
        details = done.usage.prompt_tokens_details
        return int((details and details.cached_tokens) or 0)
    body = {
        "model": "small",
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "M" + LONG}],
    }
    said = client.post("/messages", body=body, cast_to=dict[str, object])
    usage = said["usage"]
    assert isinstance(usage, dict)
    return int(usage.get("cache_read_input_tokens") or 0)


@pytest.mark.parametrize("route", ["chat", "completions", "messages"])
def test_no_tenant_is_warm_from_what_another_asked(
    clients: dict[str, openai.OpenAI], route: str
) -> None:
    assert cached(clients["a"], route) == 0
    warm = cached(clients["a"], route)
    assert warm > 300
    assert cached(clients["b"], route) == 0
    assert cached(clients["b"], route) == warm
