"""Formats that are checked after generation; a name that is not here is a remark for people.

Each check takes bounded time: fixed patterns without nested repetition, and the standard library.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time

from serving.schemas import regex


def _parses(parse: Callable[[str], object], *, shape: str) -> Callable[[str], bool]:
    compiled = re.compile(shape, re.ASCII)

    def check(text: str) -> bool:
        if not compiled.fullmatch(text):
            return False
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _shaped(shape: str, most: int = 4096) -> Callable[[str], bool]:
    compiled = re.compile(shape, re.ASCII)
    return lambda text: len(text) <= most and compiled.fullmatch(text) is not None


def _is_regex(text: str) -> bool:
    try:
        regex.parse(text)
    except regex.Unsupported:
        return False
    return True


def _leap_second(text: str) -> str:
    return text.upper().replace(":60", ":59")


_TIME = r"\d\d:\d\d:\d\d(\.\d{1,6}\d*)?([Zz]|[+-]\d\d:\d\d)"


def _fraction(text: str) -> str:
    return re.sub(r"\.\d+", "", _leap_second(text))


IN_GRAMMAR = frozenset(
    (
        *("email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid"),
        *("uri", "uri-reference", "uri-template", "json-pointer", "relative-json-pointer"),
    )
)
"""What xgrammar enforces, more or less."""
BREAKS_JSON = frozenset(("uri-template", "json-pointer", "relative-json-pointer"))
"""What it writes with unescaped quotes and control characters."""
EXACT = frozenset(("duration", "uri", "uri-reference", "uuid"))
"""What it enforces so that the check cannot find anything."""
EMAIL = r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$"
"""A grammar's e-mail address: what people use, without the quoted forms."""

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_URI = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]"

CHECKS: dict[str, Callable[[str], bool]] = {
    "date": _parses(date.fromisoformat, shape=r"\d{4}-\d\d-\d\d"),
    "time": _parses(lambda text: time.fromisoformat(_fraction(text)), shape=_TIME),
    "date-time": _parses(
        lambda text: datetime.fromisoformat(_fraction(text)), shape=r"\d{4}-\d\d-\d\d[Tt]" + _TIME
    ),
    "duration": _shaped(
        r"P(?=[\dT])(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", 200
    ),
    "email": _shaped(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"),
    "hostname": _shaped(rf"{_LABEL}(\.{_LABEL}){{0,126}}", 253),
    "ipv4": _parses(ipaddress.IPv4Address, shape=r"[0-9.]{7,15}"),
    "ipv6": _parses(ipaddress.IPv6Address, shape=r"[0-9A-Fa-f:.]{2,45}"),
    "uri": _shaped(rf"[A-Za-z][A-Za-z0-9+.-]*:{_URI}*"),
    "uri-reference": _shaped(rf"{_URI}*"),
    "uuid": _parses(
        uuid.UUID,
        shape=r"[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
    ),
    "json-pointer": _shaped(r"(/([^/~]|~[01])*)*"),
    "relative-json-pointer": _shaped(r"(0|[1-9]\d*)(#|(/([^/~]|~[01])*)*)"),
    "regex": _is_regex,
}
