"""Who may come in, by which path, with which key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.tenancy.access import OPERATOR_PATHS, Access, exposed, may_look
from router.tenancy.keys import KeyFile
from router.tenancy.tenants import OPEN
from serving.config.stack import StackConfig
from serving.errors import ConfigError, Forbidden, Unauthorized
from tests.unit.fakes import stack

REMOTE = ("10.1.2.3", 4711)
LOCAL = ("127.0.0.1", 4711)


class Door:
    """An access with two tenants, and their keys."""

    def __init__(self, folder: Path, **tenants: Any) -> None:
        self.now = 1000.0
        self.config = guarded(folder, **tenants)
        self.file = KeyFile(self.config.keys_path)
        self.acme, _ = self.file.create("acme")
        self.bolt, self.bolt_stored = self.file.create("bolt")
        self.operator, _ = self.file.create("operator")
        self.access = Access(self.config, lambda: self.now)

    def tenant(self, key: str) -> str:
        return self.access.tenant(f"Bearer {key}".encode(), b"").name


def guarded(folder: Path, **tenants: Any) -> StackConfig:
    return stack(
        tenants={"acme": {}, "bolt": {}, **tenants},
        admission={"keys": str(folder / "keys.json")},
    )


def scope(path: str, key: str = "", client: Any = REMOTE, **headers: str) -> dict[str, Any]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        fields["authorization"] = f"Bearer {key}"
    listed = [(name.encode(), value.encode()) for name, value in fields.items()]
    return {"type": "http", "path": path, "client": client, "headers": listed}


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_without_tenants_everybody_is_let_in_and_no_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    access = Access(stack(admission={"keys": str(path)}))
    for where in ("/v1/chat/completions", "/metrics", *OPERATOR_PATHS):
        assert access.admit(scope(where)) is OPEN
    assert not path.exists()


def test_a_key_stands_for_its_tenant_in_either_header(door: Door) -> None:
    assert door.tenant(door.acme) == "acme"
    assert door.tenant(door.bolt) == "bolt"
    assert door.access.tenant(b"", door.bolt.encode()).name == "bolt"
    assert door.access.tenant(b"bearer   " + door.acme.encode(), b"").name == "acme"


@pytest.mark.parametrize(
    "made_of",
    [
        lambda key: "",
        lambda key: "nonsense",
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key.upper(),
        lambda key: "wl_" + "A" * 43,
        lambda key: key * 100,
        lambda key: "\xff\xfe",
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(door: Door, made_of: Any) -> None:
    given = made_of(door.acme)
    with pytest.raises(Unauthorized) as refused:
        door.access.tenant(b"Bearer " + given.encode(), b"")
    error = refused.value
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.headers()["www-authenticate"].startswith("Bearer")
    assert len(given) < 8 or given not in str(error)


def test_a_hash_from_the_file_is_no_key(door: Door) -> None:
    with pytest.raises(Unauthorized):
        door.tenant(door.bolt_stored.sha256)


def test_a_scheme_that_is_not_bearer_does_not_hide_the_other_header(door: Door) -> None:
    assert door.access.tenant(b"Basic abc", door.acme.encode()).name == "acme"


def test_an_expired_key_is_refused(door: Door) -> None:
    key, _ = door.file.create("acme", expires_at=1001.0)
    door.access.refresh()
    assert door.tenant(key) == "acme"
    door.now = 1001.0
    with pytest.raises(Unauthorized):
        door.tenant(key)


def test_new_and_revoked_keys_are_noticed(door: Door) -> None:
    fresh, _ = door.file.create("acme")
    with pytest.raises(Unauthorized):
        door.tenant(fresh)
    door.access.refresh()
    assert door.tenant(fresh) == "acme"
    door.file.revoke(door.bolt_stored.id)
    door.access.refresh()
    with pytest.raises(Unauthorized):
        door.tenant(door.bolt)


def test_a_file_that_breaks_or_goes_leaves_the_keys_in_force(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    whole = door.file.path.read_bytes()
    door.file.path.write_bytes(whole[:40])
    door.access.refresh()
    assert door.tenant(door.acme) == "acme"
    door.file.path.unlink()
    door.access.refresh()
    assert door.tenant(door.acme) == "acme"
    assert "stay in force" in caplog.text
    assert door.acme not in caplog.text


def test_a_front_door_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(ConfigError, match="is no file of keys"):
        Access(guarded(tmp_path))


def test_a_file_that_others_may_write_is_refused(door: Door) -> None:
    door.file.path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod"):
        Access(door.config)


def test_a_key_of_a_tenant_that_is_not_configured_is_refused(door: Door) -> None:
    key, _ = door.file.create("gone")
    door.access.refresh()
    with pytest.raises(Unauthorized):
        door.tenant(key)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses", "/", "/v1/anything", "/console"])
def test_every_path_needs_a_key_unless_it_is_said_to_need_none(door: Door, path: str) -> None:
    with pytest.raises(Unauthorized):
        door.access.admit(scope(path))
    with pytest.raises(Unauthorized):
        door.access.admit(scope(path, client=LOCAL))
    assert door.access.admit(scope(path, door.acme)).name == "acme"


@pytest.mark.parametrize("path", sorted(OPERATOR_PATHS))
def test_what_changes_the_stack_takes_an_operators_key(door: Door, path: str) -> None:
    with pytest.raises(Unauthorized):
        door.access.admit(scope(path, client=LOCAL))
    with pytest.raises(Forbidden):
        door.access.admit(scope(path, door.acme))
    assert door.access.admit(scope(path, door.operator)).is_operator


def test_metrics_are_for_the_operator_and_this_machine(door: Door) -> None:
    with pytest.raises(Unauthorized):
        door.access.admit(scope("/metrics"))
    with pytest.raises(Forbidden):
        door.access.admit(scope("/metrics", door.acme))
    door.access.admit(scope("/metrics", door.operator))
    door.access.admit(scope("/metrics", client=LOCAL))
    door.access.admit(scope("/metrics", client=("::1", 1, 0, 0)))


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "via", "x_real_ip"])
def test_a_proxy_on_this_machine_is_not_the_operator(door: Door, header: str) -> None:
    with pytest.raises(Unauthorized):
        door.access.admit(scope("/metrics", client=LOCAL, **{header: "10.0.0.9"}))


def test_health_is_open_and_shows_its_details_to_the_operator(door: Door) -> None:
    seen = {}
    for who, asked in {
        "stranger": scope("/health"),
        "tenant": scope("/health", door.acme),
        "operator": scope("/health", door.operator),
        "here": scope("/health", client=LOCAL),
        "nowhere": scope("/health", client=None),
    }.items():
        door.access.admit(asked)
        seen[who] = may_look(asked)
    assert seen == {
        "stranger": False,
        "tenant": False,
        "operator": True,
        "here": True,
        "nowhere": False,
    }


def test_tenants_have_salts_of_their_own_also_when_they_are_gone(door: Door) -> None:
    access = door.access
    salts = {access.named(name).salt for name in ("acme", "bolt", "operator", "gone")}
    assert len(salts) == 4
    assert "" not in salts
    assert access.named("acme").salt == Access(door.config).named("acme").salt


def test_a_tenant_sees_its_own_adapters_and_nobody_elses(tmp_path: Path) -> None:
    door = Door(
        tmp_path,
        acme={"adapters": ["mine", "ours"]},
        bolt={"adapters": ["ours"], "models": ["big"]},
        carl={"models": ["auto"]},
    )
    acme, bolt, carl = (door.access.named(name) for name in ("acme", "bolt", "carl"))
    assert [t.may_use("mine", "big") for t in (acme, bolt, carl)] == [True, False, False]
    assert [t.may_use("ours", "big") for t in (acme, bolt, carl)] == [True, True, False]
    assert [t.may_use("everybodys", "big") for t in (acme, bolt, carl)] == [True, True, False]
    assert [t.may_use("tiny") for t in (acme, bolt, carl)] == [True, False, False]
    assert [t.may_use("auto") for t in (acme, bolt, carl)] == [True, False, True]
    assert door.access.named("operator").may_use("mine", "big")


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("10.0.0.1", True),
    ],
)
def test_a_door_that_all_may_use_is_warned_of(host: str, warned: bool) -> None:
    assert (exposed(stack(front={"host": host})) is not None) == warned
    assert exposed(stack(front={"host": host}, tenants={"acme": {}})) is None
