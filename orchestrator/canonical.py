"""Canonical JSON: one spelling for one value, so that it is the same bytes in every prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

canonical: Callable[[Any], bytes] = msgspec.json.Encoder(order="sorted").encode
