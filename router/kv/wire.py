"""KV events as vLLM and SGLang put them on the wire, and what of them is of interest here.

    a message   [topic, 8-byte sequence number, msgpack of [time, [event, …], rank]]
    an event    a map with its `type`; in older releases an array that begins with it

Only the cache that prompts are looked up in counts: events of slower tiers (`medium`) and of a
model's further cache groups are left out, and so is what is not known by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

BlockHash = int | bytes


class Malformed(ValueError):
    """Not a batch of KV events."""


class BlockStored(msgspec.Struct, tag=True):
    """New blocks, one after the other, the first after `parent_block_hash` (None: a beginning)."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    block_size: int
    medium: str | None = None
    group_idx: int | None = None
    session_id: str | None = None
    """What the request was marked with; see `router.kv.residency`."""


class BlockRemoved(msgspec.Struct, tag=True):
    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True):
    pass


Event = BlockStored | BlockRemoved | AllBlocksCleared


class _StoredArray(msgspec.Struct, tag="BlockStored", array_like=True):
    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: msgspec.Raw
    block_size: int
    lora_id: int | None = None
    medium: str | None = None


class _RemovedArray(msgspec.Struct, tag="BlockRemoved", array_like=True):
    block_hashes: list[BlockHash]
    medium: str | None = None


class _ClearedArray(msgspec.Struct, tag="AllBlocksCleared", array_like=True):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[Event]


class _RawBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Batch:
    """What an engine did to its cache in one step."""

    time_s: float
    """By the engine's clock."""
    events: Sequence[Event]


_decode = msgspec.msgpack.Decoder(_Batch).decode
_decode_raw = msgspec.msgpack.Decoder(_RawBatch).decode
_decode_event = msgspec.msgpack.Decoder(Event).decode
_decode_array = msgspec.msgpack.Decoder(_StoredArray | _RemovedArray | _ClearedArray).decode


def read(payload: bytes) -> Batch:
    """Raises Malformed."""
    try:
        batch = _decode(payload)
        return Batch(batch.ts, [e for e in batch.events if _counts(e)])
    except msgspec.ValidationError:
        pass  # arrays, or something new among them
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    try:
        raw = _decode_raw(payload)
        events = [event for each in raw.events if (event := _read_event(each)) is not None]
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    return Batch(raw.ts, [e for e in events if _counts(e)])


def _read_event(raw: msgspec.Raw) -> Event | None:
    """None for a kind that is not known. Raises DecodeError for a known one that is broken."""
    said = msgspec.msgpack.decode(raw)
    if isinstance(said, dict):
        known = said.get("type") in ("BlockStored", "BlockRemoved", "AllBlocksCleared")
        return _decode_event(raw) if known else None
    if not isinstance(said, list) or not said:
        raise msgspec.ValidationError("an event is a map or an array")
    if said[0] not in ("BlockStored", "BlockRemoved", "AllBlocksCleared"):
        return None
    found = _decode_array(raw)
    if isinstance(found, _StoredArray):
        return BlockStored(
            found.block_hashes, found.parent_block_hash, found.block_size, found.medium
        )
    if isinstance(found, _RemovedArray):
        return BlockRemoved(found.block_hashes, found.medium)
    return AllBlocksCleared()


def _counts(event: Event) -> bool:
    if isinstance(event, AllBlocksCleared):
        return True
    return event.medium in (None, "GPU") and not event.group_idx
