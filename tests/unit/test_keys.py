"""The file of keys: what is in it, what is not, and how it changes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from orchestrator.commands.options import seconds
from router.tenancy.keys import Contents, KeyFile, digest
from serving.errors import ConfigError


def test_a_key_is_in_the_file_as_a_hash_only(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "deep" / "keys.json")
    key, stored = file.create("acme")
    text = file.path.read_text()
    assert key not in text
    assert key.removeprefix("wl_") not in text
    assert stored.sha256 == digest(key)
    assert stored.sha256 in text
    assert len(key) >= 43  # 256 bits


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.create("acme")
    file.create("bolt")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_revoked_key_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    _, first = file.create("acme")
    _, second = file.create("acme")
    assert file.revoke(first.id) == first
    assert file.revoke(first.id) is None
    assert file.read().keys == (second,)


def test_the_secret_outlives_all_keys(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    _, stored = file.create("acme")
    before = file.read().salt("acme")
    file.revoke(stored.id)
    file.create("acme")
    assert file.read().salt("acme") == before


def test_salts_differ_between_tenants_and_between_stacks() -> None:
    ours, theirs = Contents("secret of ours"), Contents("secret of theirs")
    salts = {c.salt(t) for c in (ours, theirs) for t in ("acme", "bolt")}
    assert len(salts) == 4
    # vLLM takes up to 128 characters, and none of @ / \ NUL.
    assert all(len(salt) == 32 and salt.isalnum() for salt in salts)


def test_every_change_gives_the_file_another_stamp(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    stamps = [file.stamp()]
    for _ in range(5):
        file.create("acme")
        stamps.append(file.stamp())
    assert len(set(stamps)) == len(stamps)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": []}', '{"secret": 1}'])
def test_what_is_no_file_of_keys_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json: is no file of keys"):
        KeyFile(path).read()


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="warmloop keys create"):
        KeyFile(tmp_path / "keys.json").read()


def test_a_key_ends_when_it_was_said_to(tmp_path: Path) -> None:
    _, stored = KeyFile(tmp_path / "keys.json").create("acme", expires_at=100.0)
    assert stored.is_valid(99.9)
    assert not stored.is_valid(100.0)


def test_times_are_read_as_people_write_them() -> None:
    assert seconds("30m", "--expires") == 1800
    assert seconds("12h", "--expires") == 43_200
    assert seconds("90d", "--expires") == 7_776_000
    for text in ("", "90", "0d", "-1d", "1.5h", "1w", "d"):
        with pytest.raises(ConfigError, match="--expires"):
            seconds(text, "--expires")
