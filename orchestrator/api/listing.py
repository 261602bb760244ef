"""Pages of items, as OpenAI's lists are read: `after`, `limit`, `order`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.loop.events import Item
from serving.errors import BadRequest

Order = Literal["asc", "desc"]


def told(item: Item) -> Item:
    """An item as its client sees it: what a seal says is for the model."""
    if item["type"] != "compaction":
        return item
    return {name: value for name, value in item.items() if name != "text"}


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    after: str | None = None
    limit: int = 20
    order: Order = "desc"

    def of(self, items: Sequence[Item]) -> dict[str, Any]:
        """The list object; `items` are in order of time. Raises BadRequest."""
        listed = list(items) if self.order == "asc" else list(reversed(items))
        if self.after is not None:
            ids = [item["id"] for item in listed]
            if self.after not in ids:
                raise BadRequest(
                    f"after: no item {self.after[:80]!r} in this list; send the last_id of a page",
                    param="after",
                )
            listed = listed[ids.index(self.after) + 1 :]
        shown = [*map(told, listed[: self.limit])]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(listed) > len(shown),
        }
