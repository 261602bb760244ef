"""What a client carries for us and gives back: sealed, so that it is opaque to it and unchanged.

    text ──seal──► "wls1." + base64url(nonce, AES-256-GCM(text)) ──open──► the same text, or BadSeal

Each tenant has a key of its own, made from the secret in the file of keys: another tenant can
neither read nor use what it was not given, and every front door opens what another one sealed.
Where no tenants are configured everybody is one tenant, and there is no secret: the key is then
known to all who read this, so that a seal shows damage and keeps nothing from anybody.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from router.tenancy.keys import Contents

PREFIX = "wls1."
PURPOSE = "sealed"
_NONCE_BYTES = 12

KeyOf = Callable[[str], bytes]
"""A tenant's 256-bit key, by its name."""


class BadSeal(ValueError):
    """It was not sealed here for this tenant, or it was changed."""


def open_to_all(tenant: str) -> bytes:
    """The key where there is no secret."""
    return Contents("").key(PURPOSE, tenant)


def seal(text: str, key: bytes) -> str:
    nonce = os.urandom(_NONCE_BYTES)
    closed = AESGCM(key).encrypt(nonce, text.encode(), PREFIX.encode())
    return PREFIX + base64.urlsafe_b64encode(nonce + closed).decode()


def opened(sealed: str, key: bytes) -> str:
    """Raises BadSeal."""
    try:
        raw = base64.b64decode(sealed.removeprefix(PREFIX), altchars=b"-_", validate=True)
        if not sealed.startswith(PREFIX) or len(raw) <= _NONCE_BYTES:
            raise BadSeal
        return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], PREFIX.encode()).decode()
    except (InvalidTag, binascii.Error, ValueError) as error:
        raise BadSeal from error
