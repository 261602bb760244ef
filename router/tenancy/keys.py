"""The file of API keys: who may come in, as hashes.

    {"secret": "...", "keys": [{"id", "tenant", "sha256", "created_at", "expires_at"}, ...]}

A key is 32 random bytes, shown once, when it is made; the file has its SHA-256. A slow hash with a
salt of its own is for what people think of: it makes guessing expensive. Nobody guesses 256 random
bits, so a fast hash gives nothing away, and each request can afford it.

`secret` is the stack's own: tenants' cache salts are derived from it, so that nobody who knows a
tenant's name can compute its salt, and every front door that reads this file has the same salts. It
outlives keys: a new key of a tenant finds its prefixes warm.

The file is replaced as a whole, by rename: a reader never sees half of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from serving import whole_file
from serving.errors import ConfigError

PREFIX = "wl_"
_RANDOM_BYTES = 32


class StoredKey(msgspec.Struct, frozen=True):
    """One key as the file has it. Times in Unix seconds; `expires_at` 0: never."""

    id: str
    tenant: str
    sha256: str
    created_at: float
    expires_at: float = 0.0

    def is_valid(self, now: float) -> bool:
        return not self.expires_at or now < self.expires_at


class Contents(msgspec.Struct, frozen=True):
    """The whole file."""

    secret: str
    keys: tuple[StoredKey, ...] = ()

    def salt(self, tenant: str) -> str:
        """The tenant's cache salt: 128 bits in hexadecimal, which every engine accepts."""
        return hmac.new(self.secret.encode(), tenant.encode(), hashlib.sha256).hexdigest()[:32]

    def key(self, purpose: str, tenant: str) -> bytes:
        """256 bits that are this tenant's, for one purpose. No tenant's name holds a line break, so
        no salt, which engines see, is such a key."""
        said = f"{purpose}\n{tenant}".encode()
        return hmac.new(self.secret.encode(), said, hashlib.sha256).digest()


_decoder = msgspec.json.Decoder(Contents)


def digest(key: str | bytes) -> str:
    """What the file knows of a key."""
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    return hashlib.sha256(data).hexdigest()


class KeyFile:
    """Reads and changes the file. All methods raise ConfigError when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever the file does; empty while there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def read(self) -> Contents:
        try:
            mode = self.path.stat().st_mode
            text = self.path.read_bytes()
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path}: there are no keys yet; make one with: warmloop keys create TENANT"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"{self.path}: others may write to it, and so let anybody in; chmod 600 it"
            )
        try:
            return _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path}: is no file of keys: {error}") from None

    def ensure(self) -> Contents:
        """The contents; a file without keys is made where there is none."""
        if not self.path.exists():
            with self._alone():
                if not self.path.exists():
                    self._write(_fresh())
        return self.read()

    def create(self, tenant: str, expires_at: float = 0.0) -> tuple[str, StoredKey]:
        """A new key, and how it is stored. The key itself is kept nowhere."""
        key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        stored = StoredKey(secrets.token_hex(4), tenant, digest(key), time.time(), expires_at)
        with self._alone():
            before = self.read() if self.path.exists() else _fresh()
            self._write(msgspec.structs.replace(before, keys=(*before.keys, stored)))
        return key, stored

    def revoke(self, key_id: str) -> StoredKey | None:
        """Forget a key; None when there is none with this id."""
        with self._alone():
            before = self.read()
            found = next((key for key in before.keys if key.id == key_id), None)
            if found is not None:
                left = tuple(key for key in before.keys if key.id != key_id)
                self._write(msgspec.structs.replace(before, keys=left))
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time: two at once would lose one of them."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, contents: Contents) -> None:
        text = msgspec.json.format(msgspec.json.encode(contents), indent=2) + b"\n"
        try:
            whole_file.write(self.path, text)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.path}: cannot be written: {error.strerror}; "
            "set admission.keys to a file that can be"
        )


def _fresh() -> Contents:
    return Contents(secrets.token_hex(32))
