"""LoRA on a simulated engine: names that come and go, each with a cache of its own.

The routes, the cards and the refusals are vLLM's. An adapter changes no answer here, since there is
no model; it separates what is cached, and it is refused where its rank is too high or its files are
missing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web


class SimulatedAdapters:
    """The adapters of one simulated engine. `max_rank` 0: it was started without LoRA."""

    def __init__(self, model: str, max_rank: int) -> None:
        self._model = model
        self._max_rank = max_rank
        self._folders: dict[str, str] = {}

    @property
    def names(self) -> Collection[str]:
        return self._folders.keys()

    def root(self, name: str) -> bytes:
        """What the block hashes of requests for `name` begin with; empty for the model itself."""
        folder = self._folders.get(name)
        return b"" if folder is None else f"lora\0{name}\0{folder}\0".encode()

    def cards(self) -> list[dict[str, Any]]:
        """As they stand in /v1/models."""
        return [
            {"id": name, "object": "model", "root": folder, "parent": self._model}
            for name, folder in self._folders.items()
        ]

    def add_routes(self, app: web.Application) -> None:
        if self._max_rank:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)

    async def _load(self, http: web.Request) -> web.Response:
        request = await http.json()
        name, folder = str(request.get("lora_name", "")), str(request.get("lora_path", ""))
        if not name or not folder:
            return _refused(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name == self._model:
            return _refused(400, f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self._folders:
            return _refused(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            rank = int(json.loads((Path(folder) / "adapter_config.json").read_text())["r"])
        except (OSError, ValueError, KeyError, TypeError):
            return _refused(404, f"Loading lora {name} failed: No adapter found for {folder}")
        if rank > self._max_rank:
            said = f"LoRA rank {rank} is greater than max_lora_rank {self._max_rank}."
            return _refused(500, said)
        self._folders[name] = folder
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, http: web.Request) -> web.Response:
        name = str((await http.json()).get("lora_name", ""))
        if self._folders.pop(name, None) is None:
            return _refused(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


def _refused(status: int, message: str) -> web.Response:
    kind = HTTPStatus(status).phrase.replace(" ", "")
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
