"""For all tests: nothing fails because a machine is busy."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Hypothesis would fail an example that takes longer than 200 ms, or data that comes slowly.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
