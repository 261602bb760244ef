"""What belongs in a report: each benchmark's question, its command, the code that it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STACK = ("serving", "router", "orchestrator")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to run."""

    name: str
    benchmark: str
    question: str
    command: str
    code: tuple[str, ...] = _STACK
    """A change there makes its figures old."""
    part: str = ""
    """Of a benchmark that writes several files."""
    when: tuple[str, Any] | None = None
    """An option of the run and its value, where the same benchmark is two entries."""
    figures: str = ""
    """The form of its figures (report_figures); empty: they are shown as they are."""
    drawn: tuple[str, ...] = ()
    """Fields of such figures that bars show."""
    timed: bool = True
    """Whether others' work on the machine changes its figures; not so in virtual time."""

    def is_of(self, benchmark: str, part: str, configuration: Mapping[str, Any]) -> bool:
        if (benchmark, part) != (self.benchmark, self.part):
            return False
        return self.when is None or configuration.get(self.when[0]) == self.when[1]


def _bench(what: str) -> str:
    return f"warmloop bench {what}"


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "cost",
        "cost",
        "What a task costs, on real engines",
        _bench("cost"),
        when=("offline", False),
        figures="cost",
    ),
    Entry(
        "cost --offline",
        "cost",
        "What a task costs, by a trace and without engines",
        _bench("cost --offline"),
        ("router", "benchmarks/cost*.py", "benchmarks/prices"),
        when=("offline", True),
        figures="cost",
        timed=False,
    ),
    Entry(
        "latency",
        "latency",
        "Where the time of a turn goes",
        _bench("latency"),
        when=("simulated", False),
        figures="latency",
    ),
    Entry(
        "latency --simulated",
        "latency",
        "Where the time of a turn goes, before an engine without a model",
        _bench("latency --simulated"),
        when=("simulated", True),
        figures="latency",
    ),
    Entry(
        "agents",
        "agents",
        "Do agents do what they are asked, and at what cost?",
        _bench("agents --config configs/cpu.yaml"),
        figures="agents",
    ),
    Entry(
        "load",
        "load",
        "How many sessions a server takes",
        _bench("load --url http://127.0.0.1:8000 --ttft-s 2 --find-knee"),
        figures="load",
    ),
    Entry(
        "load-outside",
        "load",
        "The load generator beside another one",
        "python -m benchmarks.load_beside --out out",
        ("benchmarks/load*.py",),
        part="outside",
    ),
    Entry(
        "capacity",
        "capacity",
        "How many agents a GPU or a cluster serves, and where it breaks first",
        _bench("capacity"),
        ("router", "benchmarks/capacity*.py"),
        figures="capacity",
        drawn=("tasks_a_day", "usd_a_task"),
        timed=False,
    ),
    Entry(
        "orchestrator-steps",
        "orchestrator",
        "What a durable step costs, beside other agent loops",
        _bench("orchestrator steps"),
        ("orchestrator", "benchmarks/orchestrator*.py", "benchmarks/rivals"),
        part="steps",
        figures="steps",
    ),
    Entry(
        "orchestrator-agents",
        "orchestrator",
        "A thousand agents in one process: who is late?",
        _bench("orchestrator agents"),
        ("orchestrator", "benchmarks/orchestrator*.py"),
        part="agents",
        drawn=("late_p99_ms",),
    ),
    Entry(
        "gateway-speed",
        "gateway",
        "What forwarding a request costs, beside other routers",
        _bench("gateway speed"),
        ("router", "benchmarks/gateway*.py"),
        part="speed",
        drawn=("answer_p50_us", "stream_us", "requests_per_s"),
    ),
    Entry(
        "gateway-shared",
        "gateway",
        "Conversations with one system prompt: do they stay where they are warm?",
        _bench("gateway shared"),
        ("router", "benchmarks/gateway*.py"),
        part="shared",
        drawn=("stayed",),
    ),
    Entry(
        "gateway-killed",
        "gateway",
        "One of four engines is killed under 320 streams",
        _bench("gateway killed"),
        ("router", "benchmarks/gateway*.py"),
        part="killed",
    ),
    Entry(
        "routing",
        "routing",
        "Which replica: our policy beside six others, in virtual time",
        _bench("routing --json out/routing.json"),
        ("router", "serving/simulator", "benchmarks/routing*.py"),
        drawn=("hits", "mean_ttft_s"),
        timed=False,
    ),
    Entry(
        "routing-memory",
        "routing",
        "What the router remembers, in bytes",
        _bench("routing --memory --json out/routing-memory.json"),
        ("router", "benchmarks/routing*.py"),
        part="memory",
        timed=False,
    ),
    Entry(
        "replicas",
        "replicas",
        "The same on two real engines: does the simulation rank alike?",
        _bench("replicas --json out/replicas.json"),
        ("router", "serving", "benchmarks/replicas*.py"),
        drawn=("mean_ttft_s",),
    ),
    Entry(
        "warmth",
        "warmth",
        "Tokens that the router predicts to be cached, beside those that are",
        _bench("warmth --json out/warmth.json"),
        ("router", "serving", "benchmarks/warmth.py"),
        drawn=("mean_error_tokens",),
    ),
    Entry(
        "keep_warm",
        "keep_warm",
        "What keeping a prompt warm saves the turn after a pause",
        _bench("keep_warm --json out/keep_warm.json"),
    ),
    Entry(
        "tiers",
        "tiers",
        "Does choosing between two models keep quality and save money?",
        _bench("tiers"),
        ("router", "benchmarks/tiers*.py"),
        timed=False,
    ),
    Entry(
        "fairness",
        "fairness",
        "One tenant floods: what do the others notice?",
        _bench("fairness"),
        ("router", "serving/simulator", "benchmarks/fairness.py"),
        drawn=("p99_s",),
        timed=False,
    ),
    Entry(
        "parked",
        "parked",
        "What a conversation that waits costs",
        _bench("parked --json out/parked.json"),
        ("orchestrator", "benchmarks/parked.py"),
    ),
    Entry(
        "kills",
        "kills",
        "SIGKILL at random moments: is anything lost, doubled or stuck?",
        _bench("kills --json out/kills.json"),
        ("orchestrator", "benchmarks/kills*.py"),
        timed=False,
    ),
    Entry(
        "tool_validity",
        "tool_validity",
        "Is every call of real models valid?",
        _bench("tool_validity --json out/tool_validity.json"),
    ),
    Entry(
        "tool_decisions",
        "tool_decisions",
        "Are everyday questions answered with the right call?",
        _bench("tool_decisions --json out/tool_decisions.json"),
    ),
    Entry(
        "grammar_cost",
        "grammar_cost",
        "What the grammar of calls costs in speed",
        _bench("grammar_cost --json out/grammar_cost.json"),
        ("serving", "benchmarks/grammar_cost.py"),
    ),
    Entry(
        "token_stability",
        "token_stability",
        "Is a turn's own output found in the cache by the next one?",
        _bench("token_stability --json out/token_stability.json"),
        ("serving", "router", "benchmarks/token_stability.py"),
    ),
    Entry(
        "guard",
        "guard",
        "Is something broken that costs time?",
        _bench("guard --json out/guard.json"),
    ),
)
