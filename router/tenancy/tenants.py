"""Whose turn is it? A tenant is who is billed, limited and kept apart from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.config.tenancy import OPERATOR, TenantConfig


@dataclass(frozen=True, slots=True)
class Tenant:
    """One user of the stack. Turns of two tenants never share a cached prefix."""

    name: str = ""
    """Empty: no keys are configured, and everybody is this one tenant."""
    weight: float = 1.0
    """Its share of a busy model, beside other tenants' weights."""
    salt: str = ""
    """Mixed into the prefix chain, and sent to the engine as `cache_salt`; empty: none."""
    batch_only: bool = False
    models: frozenset[str] | None = None
    """Models, agents and `auto` that it may ask for; None: all."""
    adapters: frozenset[str] = frozenset()
    """Its own."""
    others_adapters: frozenset[str] = frozenset()
    """Those that other tenants have for themselves."""

    @property
    def is_operator(self) -> bool:
        return self.name == OPERATOR

    def may_use(self, name: str, parent: str | None = None) -> bool:
        """May it ask for this model, agent or adapter (whose model is `parent`)?"""
        if name in self.adapters:
            return True
        if name in self.others_adapters:
            return False
        return self.models is None or name in self.models or parent in self.models


OPEN = Tenant()
"""Everybody, where no keys are configured."""


def tenants_of(configs: Mapping[str, TenantConfig], salts: Mapping[str, str]) -> dict[str, Tenant]:
    """The configured tenants, and the operator; `salts` by name."""
    owned = {name: frozenset(config.adapters) for name, config in configs.items()}
    everybodys = frozenset().union(*owned.values())
    found = {
        name: Tenant(
            name=name,
            weight=config.weight,
            salt=salts[name],
            batch_only=config.batch_only,
            models=None if config.models is None else frozenset(config.models),
            adapters=owned[name],
            others_adapters=everybodys - owned[name],
        )
        for name, config in configs.items()
    }
    return {**found, OPERATOR: Tenant(name=OPERATOR, salt=salts[OPERATOR], adapters=everybodys)}
