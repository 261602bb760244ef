"""Is an engine hung? Told by what it produces, not by its health route.

An engine can accept connections, answer for its health and list its models while its GPU, a lock or
a helper process is stuck. What cannot be faked is progress. Once a second its own metrics are read:

    progress   a token counter moved; or its KV cache filled for the same requests, which is what a
               long prefill shows before its first token
    idle       nothing runs, nothing waits, and the server holds no request
    stalled    neither: then the clock runs, and after `hung_after_s` the engine is hung

A request that the HTTP server holds and the scheduler has never heard of counts too: vLLM's metrics
stand still when its EngineCore does. But a server may forget to count down a request that was given
up. So halfway to the verdict an engine whose scheduler has no work is in doubt, and is asked for
one token: the counters of an engine that works move, and the clock begins anew.
Silence of the metrics themselves is the simpler sign, and needs less patience: they are made by the
HTTP server, which has time for them however long a step of the engine takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from serving.tables.base import EngineLoad

AT_REST = EngineLoad()
SILENT_AFTER_S = 60.0
"""Without an answer, however long `hung_after_s` is."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What was last heard of one engine, and since when. Times in seconds, monotonic."""

    heard_s: float
    progress_s: float
    load: EngineLoad = AT_REST

    def beat(self, load: EngineLoad, now_s: float) -> Pulse:
        """The metrics were read once more."""
        at_rest = load.running + load.waiting + load.open_requests == 0
        if at_rest or _progressed(self.load, load):
            return Pulse(now_s, now_s, load)
        return replace(self, heard_s=now_s, load=load)

    def hung(self, now_s: float, hung_after_s: float) -> str:
        """Why the engine counts as hung, as a clause; empty while it does not."""
        silent_s = now_s - self.heard_s
        if silent_s >= min(hung_after_s, SILENT_AFTER_S):
            return f"it has not answered for {silent_s:.0f} s"
        stalled_s = now_s - self.progress_s
        if stalled_s >= hung_after_s:
            load = self.load
            held = max(load.running + load.waiting, load.open_requests)
            return (
                f"it holds {held} request{'s' * (held != 1)} "
                f"and has produced nothing for {stalled_s:.0f} s"
            )
        return ""

    def doubtful(self, now_s: float, hung_after_s: float) -> bool:
        """Half the time is over, and only the server's own count says that there is work."""
        idle = self.load.running + self.load.waiting == 0
        return idle and now_s - self.progress_s >= hung_after_s / 2

    def spared(self, now_s: float) -> Pulse:
        """Nothing can be told from the answer to the question: the clock begins anew."""
        return replace(self, progress_s=now_s)


def _progressed(before: EngineLoad, now: EngineLoad) -> bool:
    if _counters(now) != _counters(before):
        return True
    same_requests = (now.running, now.waiting) == (before.running, before.waiting)
    # Not when requests came or went: in an engine that is stuck, clients come and give up.
    return same_requests and now.kv_usage > before.kv_usage


def _counters(load: EngineLoad) -> tuple[int, ...]:
    # Tokens that were looked up in the cache: a prompt has been scheduled, given up or not.
    return load.prompt_tokens, load.generated_tokens, load.queried_tokens
