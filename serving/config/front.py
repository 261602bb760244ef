"""The front door of a stack: where it listens, and its limits."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from serving.config.sections import Frozen


class FrontConfig(Frozen):
    """The front door: address and limits."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    peers: tuple[str, ...] = ()
    """The other front doors of this stack, e.g. http://10.0.0.6:8400; one's own may be among them.
    They tell each other what they learn, signed with $WARMLOOP_PEER_SECRET. In a Ray cluster the
    front doors of the group `front` find each other."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    max_inflight: int = Field(default=1024, ge=1)
    """Requests on their way to engines, all models together; one more gets 429."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    first_byte_timeout_s: float = Field(default=600.0, gt=0)
    idle_timeout_s: float = Field(default=120.0, gt=0)
    """Longest silence within a stream before the engine counts as hung."""
    drain_s: float = Field(default=5.0, ge=0)
    """How long running requests may go on when the whole stack is stopped."""
    media_hosts: tuple[str, ...] = ()
    """Hosts from which engines may fetch pictures, sound and film that requests name by their URL,
    e.g. images.example.com. Without any, such things come as data: URLs only."""

    @field_validator("media_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
                raise ValueError(
                    f"media_hosts: {host!r} must be the name of a host, such as "
                    "images.example.com, without scheme, port and path"
                )
        return tuple(host.lower() for host in value)

    @field_validator("peers")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"peers: {url!r} must begin with http:// or https://")
        return tuple(url.rstrip("/") for url in value)
