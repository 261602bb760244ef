"""Adapters at run time: on every replica of their model or on none.

    POST /v1/load_lora_adapter    {"lora_name", "lora_path"[, "model", "load_inplace"]}
    POST /v1/unload_lora_adapter  {"lora_name"}

    load    allowed? ─► does it fit? ─► copy it ─► write that it may be there ─► every ready replica
              one refuses: the others give it back, the client hears why
              all have it: write that it is wanted, wait until the table says so, answer
    unload  write that it leaves (no more turns for it) ─► every ready replica ─► answer

The fields are vLLM's, so that scripts for it work here. Loading by path is an operator's act: only
folders that the configuration allows are read. Replicas that are away are brought up to date when
they are back (`keeper`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from router.adapters.adapter_set import Step, Wanted
from router.adapters.keeper import FAILURES, Keeper, reason
from router.http.body import body_of
from router.http.described import Told, answers, body
from serving.config.model import ModelConfig
from serving.config.sections import is_name, nearest
from serving.config.stack import StackConfig
from serving.errors import (
    AdapterError,
    BadRequest,
    Conflict,
    EngineError,
    NotFound,
    RequestError,
    Unavailable,
    UpstreamError,
)
from serving.tables.base import EngineTable

MAX_BODY_BYTES = 64 * 1024
T = TypeVar("T")


class LoadRequest(msgspec.Struct, frozen=True):
    """Fields that are not listed are ignored, as vLLM does."""

    lora_name: str
    lora_path: str
    model: str = ""
    load_inplace: bool = False


class UnloadRequest(msgspec.Struct, frozen=True):
    lora_name: str


class Adapters:
    """What clients may ask for, and what they hear."""

    def __init__(self, config: StackConfig, table: EngineTable, keeper: Keeper) -> None:
        self._config = config
        self._table = table
        self._keeper = keeper

    async def load(self, asked: LoadRequest) -> tuple[Wanted, list[str]]:
        """Make an adapter known on every replica of its model; also returns their names.

        Raises BadRequest (the adapter, its place or its name will not do), NotFound (the model),
        Conflict (the name is in use), Unavailable (no replica is ready), UpstreamError.
        """
        name, model = asked.lora_name, self._model(asked.model)
        self._check_name(name)
        keeper = self._keeper
        async with keeper.alone():
            before = keeper.set.get(name)
            if before is not None and before.model != model:
                raise _in_use(f"{name!r} is an adapter of {before.model!r}; unload it there first")
            self._check_room(model, before)
            wanted = await self._accepted(name, asked.lora_path, model)
            if before is not None and before != wanted and not asked.load_inplace:
                raise _in_use(
                    f"{name!r} is loaded with other contents; unload it first, or send "
                    "load_inplace: true"
                )
            replicas = await self._everywhere(wanted, before)
            keeper.change(lambda value: value.with_loaded(wanted))
        await keeper.seen(name, replicas, there=True)
        return wanted, replicas

    async def unload(self, asked: UnloadRequest) -> tuple[Wanted, list[str]]:
        """Forget an adapter; also returns the replicas that have yet to let go of it.

        Raises NotFound, Conflict (it is in the configuration, or not ours).
        """
        name, keeper = asked.lora_name, self._keeper
        async with keeper.alone():
            wanted = keeper.set.get(name)
            if wanted is None:
                raise self._not_ours(name)
            engines = [e for e in self._table.snapshot() if e.model == wanted.model]
            everywhere = [engine.replica for engine in engines]
            keeper.change(lambda value: value.without(name, everywhere))
            ready = [engine for engine in engines if engine.state == "ready"]
            await asyncio.gather(*(keeper.attempt(Step(engine, name, None)) for engine in ready))
            left = [each.replica for each in keeper.set.leaving if each.name == name]
        await keeper.seen(name, set(everywhere) - set(left), there=False)
        return wanted, left

    async def _everywhere(self, wanted: Wanted, before: Wanted | None) -> list[str]:
        """Load it into every ready replica, or leave all as they were; the replicas' names."""
        keeper, name = self._keeper, wanted.name
        engines = keeper.ready(wanted.model)
        replicas = [engine.replica for engine in engines]
        if not engines:
            raise Unavailable(
                f"model {wanted.model!r} has no engine ready that could load the adapter",
                retry_after_s=5,
            )
        if before is None:
            # Should we die half-way, this is what must be taken back.
            keeper.change(lambda value: value.without(name, replicas))
        results = await asyncio.gather(
            *(keeper.do(Step(engine, name, wanted.folder)) for engine in engines),
            return_exceptions=True,
        )
        failed = {e.replica: r for e, r in zip(engines, results, strict=True) if r is not None}
        if not failed:
            return replicas
        folder = before.folder if before is not None else None
        await asyncio.gather(*(keeper.attempt(Step(engine, name, folder)) for engine in engines))
        # The table may have seen it where it was for a moment; turns go by the table.
        await keeper.seen(name, replicas, there=folder is not None)
        raise _refusal(name, failed, len(engines))

    async def _accepted(self, name: str, path: str, model: str) -> Wanted:
        folder = Path(path)
        try:
            _check_allowed(folder, self._config.models[model])
            return await self._keeper.accepted(name, folder, model)
        except AdapterError as error:
            raise BadRequest(
                f"lora_path: {error}", param="lora_path", code="adapter_refused"
            ) from None

    def _model(self, model: str) -> str:
        """The model that is meant: the one that is named, or the only one that takes adapters."""
        able = [name for name, config in self._config.models.items() if config.takes_adapters]
        fix = "set lora: {enabled: true} for it in the configuration, and restart the stack"
        if model in able:
            return model
        if model in self._config.models:
            raise BadRequest(f"model: {model!r} takes no adapters; {fix}", param="model")
        if model:
            hint = nearest(model, list(self._config.models))
            raise NotFound(f"model: {model[:80]!r} is not a model here; {hint}", param="model")
        if len(able) == 1:
            return able[0]
        said = f"several take adapters; say which: {', '.join(able)}"
        raise BadRequest(
            f"model: {said if able else f'none here takes adapters; {fix}'}", param="model"
        )

    def _check_name(self, name: str) -> None:
        if not is_name(name):
            raise BadRequest(
                f"lora_name: {name[:80]!r} cannot be a name: a name is of a-z, 0-9, '.', '_' and "
                "'-', and begins with a-z or 0-9",
                param="lora_name",
            )
        if name == "auto" or name in self._config.models or name in self._config.agents:
            raise _in_use(
                f"{name!r} is the name of a model or an agent, and adapters are addressed as "
                "models; choose another one"
            )
        if name in self._config.adapters:
            raise _in_use(
                f"{name!r} is an adapter of the configuration; choose another name, or change it "
                "there"
            )

    def _check_room(self, model: str, before: Wanted | None) -> None:
        """Names are not pushed out by newer ones: a client's model must not vanish by itself."""
        config = self._config.models[model]
        known = len(self._keeper.set.of_model(model)) + len(config.adapters)
        if before is None and known >= config.lora.max_known:
            raise _in_use(
                f"{known} adapters of {model!r} are known, as many as lora.max_known allows; "
                "unload one first, or raise it",
                code="too_many_adapters",
            )

    def _not_ours(self, name: str) -> RequestError:
        if name in self._config.adapters:
            return _in_use(f"{name!r} is in the configuration; remove it there, and restart")
        if any(name in engine.adapters for engine in self._table.snapshot()):
            return _in_use(
                f"{name[:80]!r} was not loaded through this front door; unload it where its engine "
                "was started"
            )
        loaded = [each.name for each in self._keeper.set.loaded]
        hint = nearest(name, loaded) if loaded else "none is loaded"
        return NotFound(
            f"lora_name: no adapter {name[:80]!r} was loaded; {hint}",
            param="lora_name",
            code="adapter_not_found",
        )


def _check_allowed(folder: Path, config: ModelConfig) -> None:
    """Raises AdapterError unless the folder, links followed, is in one that adapters come from."""
    if not folder.is_absolute():
        raise AdapterError(f"{str(folder)[:200]!r} is not an absolute path; give the whole path")
    real = folder.resolve()
    if not any(real.is_relative_to(each.resolve()) for each in config.adapter_folders):
        allowed = ", ".join(map(str, config.adapter_folders))
        raise AdapterError(
            f"{folder} is in none of the folders that adapters may be loaded from ({allowed}); "
            "put it there, or add its folder to lora.folders"
        )


def _in_use(message: str, code: str | None = None) -> Conflict:
    return Conflict(f"lora_name: {message}", param="lora_name", code=code)


def _refusal(name: str, failed: dict[str, BaseException], count: int) -> BaseException:
    """What the client hears when a replica did not take an adapter that all others gave back."""
    for error in failed.values():
        if not isinstance(error, FAILURES):
            return error  # a defect of ours
    replica, first = next(iter(failed.items()))
    others = count - len(failed)
    back = f"; it was unloaded again from {others} that had taken it" if others else ""
    said = f"{replica} did not load it: {reason(first)}{back}"
    if isinstance(first, EngineError):
        return BadRequest(f"lora_path: {said}", param="lora_path", code="adapter_refused")
    return UpstreamError(f"adapter {name!r}: {said}")


class AdapterAnswer(Told):
    object: Literal["lora_adapter"]
    id: str
    parent: str
    """Its model."""
    status: Literal["loaded", "unloaded"]


def adapter_routes(adapters: Adapters) -> APIRouter:
    """The two routes."""
    routes = APIRouter()

    @routes.post(
        "/v1/load_lora_adapter",
        responses=answers(AdapterAnswer, 400, 404, 409, 413, 502),
        openapi_extra=body(msgspec.json.schema(LoadRequest)),
    )
    async def load(request: Request) -> JSONResponse:
        wanted, replicas = await adapters.load(await _asked(request, LoadRequest))
        return JSONResponse({**_described(wanted), "status": "loaded", "replicas": replicas})

    @routes.post(
        "/v1/unload_lora_adapter",
        responses=answers(AdapterAnswer, 400, 404, 409, 413),
        openapi_extra=body(msgspec.json.schema(UnloadRequest)),
    )
    async def unload(request: Request) -> JSONResponse:
        wanted, left = await adapters.unload(await _asked(request, UnloadRequest))
        return JSONResponse({**_described(wanted), "status": "unloaded", "pending": left})

    return routes


def _described(wanted: Wanted) -> dict[str, object]:
    return {"object": "lora_adapter", "id": wanted.name, "parent": wanted.model}


async def _asked(request: Request, kind: type[T]) -> T:
    """The body as a trusted value. Raises BadRequest, TooLarge."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        # A page in a browser may send other types to this machine without asking it first.
        raise BadRequest("content-type: send the body as application/json", param=None)
    raw = await body_of(request, MAX_BODY_BYTES, "shorten it")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body: {error}; see vLLM's fields", code="invalid_value") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(
            'the body is not valid JSON; send {"lora_name": "...", "lora_path": "..."}',
            code="invalid_json",
        ) from None
