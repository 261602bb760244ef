"""What an operator sees of the loop's safety: how often what was noticed, wound down, cut.

    warmloop_guard_total{kind="same_call", action="told"}        the model was told
                                           action="wound_down"   asked for a last answer
                                           action="cut"          the response was ended
    warmloop_guard_total{kind="context", action="priced"}        the prompt was rewritten
    warmloop_guard_total{kind="tenant_cost", action="cut"}       of the tenant's budget; likewise
                         kind="conversation_cost"                of the whole conversation's

Counted when it is decided, by this process; a log that is read again is not counted again.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from orchestrator.loop.events import AnyEvent, Compacted, LimitReached, Notice


class GuardMetrics:
    """One counter; `registry` is the front door's."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._total = Counter(
            "warmloop_guard",
            "What the loop told models and why it ended responses, by kind and action",
            ("kind", "action"),
            registry=registry or CollectorRegistry(),
        )

    def note(self, event: AnyEvent) -> None:
        """Count an event that is about to be stored."""
        if isinstance(event, Notice):
            self._total.labels(_kind(event), "wound_down" if event.last else "told").inc()
        elif isinstance(event, Compacted):
            self._total.labels("context", event.why).inc()
        elif isinstance(event, LimitReached) and not event.answered:
            self._total.labels(_kind(event), "cut").inc()


def _kind(event: Notice | LimitReached) -> str:
    return event.kind if event.scope == "response" else f"{event.scope}_{event.kind}"
