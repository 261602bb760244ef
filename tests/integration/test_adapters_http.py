"""LoRA adapters through the front door, over simulated engines that come, go and refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from orchestrator.app import create_app
from router.adapters.adapter_set import AdapterFile, AdapterSet, KnownAdapters, Leaving
from router.adapters.keeper import Keeper
from router.adapters.routes import Adapters, adapter_routes
from router.dispatch import Router
from router.http import api
from serving.config.model import SimulatorConfig
from serving.config.stack import StackConfig
from serving.simulator.server import Simulator
from serving.tables.static_table import StaticTable
from tests.adapters import write_adapter
from tests.contract.front_door import served

PATIENCE_S = 20.0
QUICK_S = 0.02
LONG = "The desk opens at nine and closes at six. " * 20


class Engine:
    """A simulated engine that can go away and come back on its port, with or without memory."""

    def __init__(self, max_rank: int = 16) -> None:
        self.max_rank = max_rank
        self.simulator = self._new()
        self.port = 0
        self._runner: web.AppRunner | None = None

    def _new(self) -> Simulator:
        speed = SimulatorConfig(prefill_tokens_per_s=1e6, decode_tokens_per_s=1e4)
        return Simulator("big", 8192, speed, max_lora_rank=self.max_rank)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def adapters(self) -> dict[str, str]:
        return {card["id"]: card["root"] for card in self.simulator._adapters.cards()}

    async def up(self, *, anew: bool = False) -> None:
        if anew:
            self.simulator = self._new()
        self._runner = web.AppRunner(self.simulator.app(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@dataclass
class Door:
    """A front door over two engines, and what a test may look at."""

    url: str
    http: aiohttp.ClientSession
    router: Router
    keeper: Keeper
    log: list[dict[str, Any]] = field(default_factory=list)

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post(self.url + path, json=body, **options) as answer:
            return answer.status, await answer.json()

    async def load(self, name: str, folder: Path, **more: Any) -> tuple[int, dict[str, Any]]:
        return await self.post(
            "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder), **more}
        )

    async def unload(self, name: str) -> tuple[int, dict[str, Any]]:
        return await self.post("/v1/unload_lora_adapter", {"lora_name": name})

    async def chat(self, model: str, text: str = "hello", **options: Any) -> tuple[int, Any, Any]:
        """(status, body, headers)"""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        url = f"{self.url}/v1/chat/completions"
        async with self.http.post(url, json=body, **options) as answer:
            return answer.status, await answer.json(), answer.headers

    async def models(self) -> dict[str, dict[str, Any]]:
        async with self.http.get(f"{self.url}/v1/models") as answer:
            return {card["id"]: card for card in (await answer.json())["data"]}

    async def health(self) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/health") as answer:
            found: dict[str, Any] = await answer.json()
            return found


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """The folder that adapters may be loaded from."""
    folder = tmp_path / "lora"
    folder.mkdir()
    return folder


@pytest.fixture
def polite(lora: Path) -> Path:
    return write_adapter(lora / "polite", layers=(0,), modules=("q_proj",))


@pytest.fixture
async def engines() -> AsyncIterator[tuple[Engine, Engine]]:
    pair = Engine(), Engine(max_rank=8)
    for each in pair:
        await each.up()
    yield pair
    for each in pair:
        await each.down()


def stack(engines: tuple[Engine, ...], folder: Path, **model: Any) -> StackConfig:
    big = {
        "engine": "external",
        "urls": [each.url for each in engines],
        "lora": {
            "enabled": True,
            "folders": [str(folder)],
            "max_rank": 16,
            **model.pop("lora", {}),
        },
        "prices": {"fresh": 1.0, "output": 2.0},
        **model,
    }
    plain = {"engine": "external", "urls": [engines[0].url], "served_name": "big"}
    return StackConfig.model_validate(
        {"models": {"big": big, "plain": plain}, "router": {"eject_s": 0.05}}
    )


@asynccontextmanager
async def front_door(config: StackConfig, folder: Path) -> AsyncIterator[Door]:
    """A front door that looks at its engines more often than a real one."""
    async with AsyncExitStack() as life:
        table = StaticTable(config, poll_s=QUICK_S)
        known = KnownAdapters(config)
        keeper = Keeper(config, table, known, folder, tend_s=QUICK_S)
        log: list[dict[str, Any]] = []
        router = Router(config, table, known=known, sink=lambda line: log.append(json.loads(line)))
        for each in (table, router, keeper):
            await each.start()
            life.push_async_callback(each.stop)
        routes = adapter_routes(Adapters(config, table, keeper))
        url = await life.enter_async_context(served(api.build(router, extra_routes=[routes])))
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        http = await life.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        door = Door(url, http, router, keeper, log)
        await until(
            lambda: len(router.catalogue.fleet().ready("big")) == len(config.models["big"].urls)
        )
        yield door


@pytest.fixture
async def door(engines: tuple[Engine, Engine], lora: Path, tmp_path: Path) -> AsyncIterator[Door]:
    async with front_door(stack(engines, lora), tmp_path / "stack") as door:
        yield door


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 other processes do not announce
            await asyncio.sleep(0.01)


# Everywhere, or nowhere


async def test_an_adapter_is_loaded_on_every_replica_and_answers_at_once(
    door: Door, engines: tuple[Engine, Engine], polite: Path, tmp_path: Path
) -> None:
    status, said = await door.load("polite", polite)
    assert (status, said["status"], said["parent"]) == (200, "loaded", "big")
    assert said["replicas"] == ["big-0", "big-1"]
    assert [list(each.adapters) for each in engines] == [["polite"], ["polite"]]
    [folder] = {folder for each in engines for folder in each.adapters.values()}
    assert Path(folder).parent == tmp_path / "stack/adapters/run-time"
    status, _, headers = await door.chat("polite")
    assert (status, headers["x-warmloop-model"]) == (200, "polite")
    card = (await door.models())["polite"]
    assert (card["parent"], card["tier"], card["ready_replicas"]) == ("big", "frontier", 2)
    assert "parent" not in (await door.models())["big"]
    [listed] = (await door.health())["adapters"]
    assert listed == {"name": "polite", "model": "big", "ready_replicas": 2, "problem": ""}
    await until(lambda: bool(door.log))
    assert (door.log[-1]["model"], door.log[-1]["adapter"]) == ("big", "polite")


async def test_what_one_replica_refuses_the_others_give_back(
    door: Door, engines: tuple[Engine, Engine], lora: Path, tmp_path: Path
) -> None:
    high = write_adapter(lora / "high", layers=(0,), modules=("q_proj",), rank=16)
    status, said = await door.load("high", high)
    assert status == 400
    assert said["error"]["message"] == (
        "lora_path: big-1 did not load it: the engine answered 500: LoRA rank 16 is greater than "
        "max_lora_rank 8.; it was unloaded again from 1 that had taken it"
    )
    assert (said["error"]["param"], said["error"]["code"]) == ("lora_path", "adapter_refused")
    assert [each.adapters for each in engines] == [{}, {}]
    assert "high" not in await door.models()
    status, said, _ = await door.chat("high")
    assert (status, said["error"]["code"]) == (404, "model_not_found")
    assert AdapterFile(tmp_path / "stack/adapters.json").read() == AdapterSet()


async def test_what_is_unloaded_is_gone_everywhere_and_cannot_be_asked_for(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    status, said = await door.unload("polite")
    assert (status, said["status"], said["pending"]) == (200, "unloaded", [])
    assert [each.adapters for each in engines] == [{}, {}]
    assert (await door.chat("polite"))[0] == 404
    assert "polite" not in await door.models()
    status, said = await door.unload("polite")
    assert (status, said["error"]["code"]) == (404, "adapter_not_found")


async def test_an_engine_that_does_not_answer_is_waited_for_only_so_long(
    engines: tuple[Engine, Engine], polite: Path, lora: Path, tmp_path: Path
) -> None:
    config = stack(engines, lora, lora={"load_timeout_s": 0.3})
    hold = asyncio.Event()

    async def hang(http: web.Request) -> web.Response:
        await hold.wait()
        return web.Response()

    engines[1].simulator._adapters._load = hang  # type: ignore[method-assign]
    await engines[1].down()
    await engines[1].up()
    async with front_door(config, tmp_path / "stack") as door:
        status, said = await door.load("polite", polite)
        assert status == 502
        assert "big-1 did not load it: it did not answer within load_timeout_s: 0.3" in str(said)
        assert engines[0].adapters == {}
        assert (await door.chat("big"))[0] == 200
        hold.set()


async def test_without_a_ready_replica_nothing_is_promised(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    for each in engines:
        await each.down()
    await until(lambda: not door.router.catalogue.fleet().ready("big"))
    status, said = await door.load("polite", polite)
    assert (status, said["error"]["code"]) == (503, "no_engine_ready")
    assert "polite" not in await door.models()


# Restarts


async def test_a_replica_that_comes_back_empty_gets_its_adapters_by_itself(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    await engines[0].down()
    await until(lambda: len(door.router.catalogue.fleet().ready("polite")) == 1)
    for _ in range(5):
        status, _, headers = await door.chat("polite")
        assert (status, headers["x-warmloop-replica"]) == (200, "big-1")
    await engines[0].up(anew=True)
    await until(lambda: "polite" in engines[0].adapters)
    await until(lambda: len(door.router.catalogue.fleet().ready("polite")) == 2)


async def test_no_turn_fails_while_replicas_are_started_anew_one_after_the_other(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    seen: list[int] = []
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            seen.append((await door.chat("polite"))[0])

    clients = [asyncio.create_task(client()) for _ in range(4)]
    for each in engines:
        before = len(seen)
        await each.down()
        await until(lambda: len(door.router.catalogue.fleet().ready("big")) == 1)
        await each.up(anew=True)
        await until(lambda: len(door.router.catalogue.fleet().ready("polite")) == 2)
        await until(lambda before=before: len(seen) > before + 20)
    over.set()
    await asyncio.gather(*clients)
    assert set(seen) == {200}
    assert [list(each.adapters) for each in engines] == [["polite"], ["polite"]]


async def test_what_was_unloaded_while_a_replica_was_away_is_removed_there_later(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    await engines[0].down()
    await until(lambda: len(door.router.catalogue.fleet().ready("big")) == 1)
    status, said = await door.unload("polite")
    assert (status, said["pending"]) == (200, ["big-0"])
    await engines[0].up()
    assert "polite" in engines[0].adapters
    await until(lambda: not engines[0].adapters)
    await until(lambda: not door.keeper.set.leaving)
    assert (await door.chat("polite"))[0] == 404


async def test_a_front_door_that_starts_again_knows_what_was_loaded(
    engines: tuple[Engine, Engine], lora: Path, polite: Path, tmp_path: Path
) -> None:
    config, folder = stack(engines, lora), tmp_path / "stack"
    async with front_door(config, folder) as door:
        await door.load("polite", polite)
    for each in engines:
        await each.down()
        await each.up(anew=True)
    async with front_door(config, folder) as door:
        await until(lambda: len(door.router.catalogue.fleet().ready("polite")) == 2)
        assert (await door.chat("polite"))[0] == 200


async def test_while_no_replica_has_it_an_adapter_is_unavailable_but_not_unknown(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    for each in engines:
        await each.down()
    await until(lambda: not door.router.catalogue.fleet().ready("big"))
    status, said, headers = await door.chat("polite")
    assert (status, said["error"]["code"]) == (503, "no_engine_ready")
    assert headers["retry-after"]
    assert "big-0 is dead" in said["error"]["message"]


async def test_a_load_that_its_front_door_did_not_survive_is_taken_back(
    engines: tuple[Engine, Engine], lora: Path, tmp_path: Path, polite: Path
) -> None:
    async with aiohttp.ClientSession() as http:  # the first half of a load
        asked = {"lora_name": "polite", "lora_path": str(polite)}
        await http.post(f"{engines[0].url}/v1/load_lora_adapter", json=asked)
    left = AdapterSet().without("polite", ["big-0", "big-1"])
    assert left.leaving == (Leaving("polite", "big-0"), Leaving("polite", "big-1"))
    AdapterFile(tmp_path / "stack/adapters.json").write(left)
    async with front_door(stack(engines, lora), tmp_path / "stack") as door:
        await until(lambda: not engines[0].adapters)
        await until(lambda: not door.keeper.set.leaving)


async def test_two_front_doors_share_what_is_loaded(
    door: Door, engines: tuple[Engine, Engine], lora: Path, tmp_path: Path, polite: Path
) -> None:
    async with front_door(stack(engines, lora), tmp_path / "stack") as second:
        await door.load("polite", polite)
        await until(lambda: second.keeper.set.get("polite") is not None)
        assert (await second.chat("polite"))[0] == 200
        await second.unload("polite")
        await until(lambda: door.keeper.set.get("polite") is None)
        await until(lambda: door.router.catalogue.parent("polite") is None)


async def test_an_engine_that_cannot_take_it_back_is_tried_again_and_named(
    door: Door, engines: tuple[Engine, Engine], lora: Path, tmp_path: Path
) -> None:
    await engines[1].down()
    await until(lambda: len(door.router.catalogue.fleet().ready("big")) == 1)
    high = write_adapter(lora / "high", layers=(0,), modules=("q_proj",), rank=16)
    assert (await door.load("high", high))[0] == 200
    await engines[1].up()
    await until(lambda: "high" in door.router.known.problems)
    [listed] = (await door.health())["adapters"]
    assert listed["ready_replicas"] == 1
    assert listed["problem"].startswith("big-1 did not load it: the engine answered 500")
    assert (await door.chat("high"))[2]["x-warmloop-replica"] == "big-0"
    engines[1].max_rank = 16
    await engines[1].down()
    await until(lambda: "high" not in door.router.known.problems)
    await engines[1].up(anew=True)
    await until(lambda: "high" in engines[1].adapters)


# Contents


async def test_the_same_adapter_twice_is_no_mistake_and_another_one_is(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    assert (await door.load("polite", polite))[0] == 200
    write_adapter(polite, seed=2, layers=(0,), modules=("q_proj",))
    status, said = await door.load("polite", polite)
    assert status == 409
    assert "loaded with other contents; unload it first, or send load_inplace" in str(said)


async def test_new_contents_in_place_come_from_a_new_folder_so_no_old_cache_is_hit(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    before = dict(engines[0].adapters)
    await door.chat("polite", LONG)
    write_adapter(polite, seed=2, layers=(0,), modules=("q_proj",))
    status, _ = await door.load("polite", polite, load_inplace=True)
    assert status == 200
    assert engines[0].adapters == engines[1].adapters != before
    _, said, _ = await door.chat("polite", LONG)
    assert said["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_contents_that_one_replica_refuses_leave_the_old_ones_everywhere(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    await door.load("polite", polite)
    before = dict(engines[0].adapters)
    write_adapter(polite, rank=16, layers=(0,), modules=("q_proj",))
    status, _ = await door.load("polite", polite, load_inplace=True)
    assert status == 400
    assert engines[0].adapters == engines[1].adapters == before
    assert (await door.chat("polite"))[0] == 200


async def test_prefixes_are_cached_apart_for_the_base_and_for_each_adapter(
    engines: tuple[Engine, Engine], lora: Path, tmp_path: Path
) -> None:
    async with front_door(stack(engines[:1], lora), tmp_path / "stack") as door:
        for seed, name in enumerate(("polite", "terse")):
            folder = write_adapter(lora / name, seed=seed, layers=(0,), modules=("q_proj",))
            assert (await door.load(name, folder))[0] == 200
        cached: dict[str, list[int]] = {}
        for _ in range(2):
            for model in ("big", "polite", "terse"):
                _, said, _ = await door.chat(model, LONG, headers={"x-session-id": "one"})
                details = said["usage"]["prompt_tokens_details"]
                cached.setdefault(model, []).append(details["cached_tokens"])
        assert all(first == 0 < second for first, second in cached.values()), cached


async def test_a_session_has_a_home_of_its_own_under_each_adapter(door: Door, polite: Path) -> None:
    await door.load("polite", polite)
    same = {"headers": {"x-session-id": "one"}}
    seen = {model: await door.chat(model, LONG, **same) for model in ("big", "polite")}
    assert seen["big"][2]["x-warmloop-decision"] == "hash"
    assert seen["polite"][2]["x-warmloop-decision"] == "hash"
    assert seen["polite"][2]["x-warmloop-predicted-cached-tokens"] == "0"
    _, _, again = await door.chat("polite", LONG, **same)
    assert again["x-warmloop-decision"] == "home"
    assert int(again["x-warmloop-predicted-cached-tokens"]) > 0


# What the configuration names


async def test_a_configured_adapter_of_an_external_engine_is_loaded_by_itself(
    engines: tuple[Engine, Engine], lora: Path, tmp_path: Path, polite: Path
) -> None:
    config = stack(engines, lora, adapters={"polite": str(polite)})
    async with front_door(config, tmp_path / "stack") as door:
        await until(lambda: len(door.router.catalogue.fleet().ready("polite")) == 2)
        status, said = await door.unload("polite")
        assert status == 409
        assert "is in the configuration; remove it there" in said["error"]["message"]
        status, said = await door.load("polite", polite)
        assert (status, said["error"]["param"]) == (409, "lora_name")


async def test_an_adapter_that_somebody_else_loaded_is_served_and_left_alone(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    asked = {"lora_name": "theirs", "lora_path": str(polite)}
    await door.http.post(f"{engines[1].url}/v1/load_lora_adapter", json=asked)
    await until(lambda: len(door.router.catalogue.fleet().ready("theirs")) == 1)
    assert (await door.models())["theirs"]["parent"] == "big"
    for _ in range(5):
        status, _, headers = await door.chat("theirs")
        assert (status, headers["x-warmloop-replica"]) == (200, "big-1")
    status, said = await door.unload("theirs")
    assert status == 409
    assert "was not loaded through this front door" in said["error"]["message"]
    assert "theirs" in engines[1].adapters


async def test_an_engine_cannot_take_a_models_name_for_its_adapter(
    door: Door, engines: tuple[Engine, Engine], polite: Path
) -> None:
    asked = {"lora_name": "plain", "lora_path": str(polite)}
    await door.http.post(f"{engines[1].url}/v1/load_lora_adapter", json=asked)
    await until(lambda: any("plain" in e.adapters for e in door.router.catalogue.fleet().engines))
    assert [e.model for e in door.router.catalogue.fleet().ready("plain")] == ["plain"]
    assert "parent" not in (await door.models())["plain"]


# What is refused


Asked = Callable[[Door, Path, Path], Awaitable[tuple[int, dict[str, Any]]]]
REFUSED: list[tuple[Asked, int, str]] = [
    (lambda d, p, _: d.load("polite", p.parent.parent), 400, "is in none of the folders that"),
    (lambda d, _, __: d.load("polite", Path("lora/polite")), 400, "is not an absolute path"),
    (lambda d, p, _: d.load("polite", p / "../../../etc"), 400, "is in none of the folders that"),
    (lambda d, _, link: d.load("polite", link), 400, "is in none of the folders that"),
    (lambda d, p, _: d.load("polite", p.with_name("none")), 400, "none: no such folder"),
    (lambda d, p, _: d.load("auto", p), 409, "is the name of a model or an agent"),
    (lambda d, p, _: d.load("big", p), 409, "is the name of a model or an agent"),
    (lambda d, p, _: d.load("Not A Name", p), 400, "'Not A Name' cannot be a name"),
    (lambda d, p, _: d.load("", p), 400, "'' cannot be a name"),
    (lambda d, p, _: d.load("polite", p, model="bog"), 404, "did you mean 'big'?"),
    (lambda d, p, _: d.load("polite", p, model="plain"), 400, "set lora: {enabled: true} for it"),
    (lambda d, _, __: d.unload("nobody"), 404, "no adapter 'nobody' was loaded; none is loaded"),
    (lambda d, _, __: d.post("/v1/load_lora_adapter", {}), 400, "lora_name"),
    (lambda d, _, __: d.post("/v1/load_lora_adapter", []), 400, "the body: "),
    (lambda d, _, __: d.post("/v1/unload_lora_adapter", {"lora_name": 5}), 400, "the body: "),
    (
        lambda d, _, __: d.post("/v1/load_lora_adapter", {"lora_name": "x" * 70_000}),
        413,
        "the body is larger than 65536 bytes",
    ),
    (
        lambda d, _, __: d.post(
            "/v1/load_lora_adapter", {}, headers={"content-type": "text/plain"}
        ),
        400,
        "content-type: send the body as application/json",
    ),
]


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_done_is_refused_with_what_to_do(
    door: Door,
    engines: tuple[Engine, Engine],
    polite: Path,
    tmp_path: Path,
    case: tuple[Asked, int, str],
) -> None:
    asked, status, said = case
    elsewhere = write_adapter(tmp_path / "elsewhere", layers=(0,), modules=("q_proj",))
    link = polite.with_name("link")
    link.symlink_to(elsewhere)
    found, body = await asked(door, polite, link)
    assert found == status
    assert said in body["error"]["message"]
    assert [each.adapters for each in engines] == [{}, {}]


async def test_a_body_that_is_no_json_is_told_what_to_send(door: Door) -> None:
    headers = {"content-type": "application/json"}
    url = f"{door.url}/v1/load_lora_adapter"
    for data in (b"", b"{", b"\xff", b"[" * 60_000):
        async with door.http.post(url, data=data, headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] in ("invalid_json", "invalid_value")


async def test_more_names_than_the_limit_are_refused_and_none_is_pushed_out(
    engines: tuple[Engine, Engine], lora: Path, tmp_path: Path
) -> None:
    config = stack(engines, lora, lora={"max_known": 2})
    async with front_door(config, tmp_path / "stack") as door:
        for seed, name in enumerate(("a", "b")):
            folder = write_adapter(lora / name, seed=seed, layers=(0,), modules=("q_proj",))
            assert (await door.load(name, folder))[0] == 200
        status, said = await door.load("c", lora / "a")
        assert (status, said["error"]["code"]) == (409, "too_many_adapters")
        assert "as many as lora.max_known allows; unload one first" in said["error"]["message"]
        await door.unload("a")
        assert (await door.load("c", lora / "a"))[0] == 200
        assert {name for name in await door.models() if len(name) == 1} == {"b", "c"}


async def test_a_list_that_cannot_be_written_changes_nothing(
    door: Door, engines: tuple[Engine, Engine], polite: Path, tmp_path: Path
) -> None:
    (tmp_path / "stack").mkdir(exist_ok=True)
    (tmp_path / "stack/adapters.json").mkdir()
    status, said = await door.load("polite", polite)
    assert (status, said["error"]["code"]) == (503, "adapters_unavailable")
    assert [each.adapters for each in engines] == [{}, {}]


# The whole application


async def test_a_response_may_be_asked_of_an_adapter_at_its_models_price(
    engines: tuple[Engine, Engine],
    lora: Path,
    tmp_path: Path,
    polite: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path / "home"))
    config = stack(engines, lora)
    agents = {"desk": {"model": "polite", "reply_tool": False}}
    big = config.models["big"].model_copy(update={"adapters": {"fixed": polite}})
    raw = config.model_copy(update={"models": {**config.models, "big": big}}).model_dump()
    agents["desk"]["model"] = "fixed"
    config = StackConfig.model_validate({**raw, "agents": agents})
    async with (
        served(create_app(config)) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as http,
    ):

        async def ask(model: str) -> dict[str, Any]:
            body = {"model": model, "input": "hello"}
            async with http.post("/v1/responses", json=body) as answer:
                found: dict[str, Any] = await answer.json()
                return found

        async with asyncio.timeout(PATIENCE_S):
            while True:  # until the configured one is there
                desk = await ask("desk")
                if desk.get("status") == "completed":
                    break
                await asyncio.sleep(0.1)
        assert desk["warmloop"]["turns"][0]["model"] == "fixed"
        assert (await ask("polite"))["error"]["code"] == "model_not_found"
        asked = {"lora_name": "polite", "lora_path": str(polite)}
        async with http.post("/v1/load_lora_adapter", json=asked) as answer:
            assert answer.status == 200, await answer.text()
        response = await ask("polite")
        assert (response["status"], response["model"]) == ("completed", "polite")
        [turn] = response["warmloop"]["turns"]
        assert turn["model"] == "polite"
        cost = (turn["prompt_tokens"] + 2 * turn["output_tokens"]) / 1e6
        assert turn["uncached_cost_usd"] == pytest.approx(cost)
