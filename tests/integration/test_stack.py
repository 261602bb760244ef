"""Whole stacks on a real Ray: they come up, survive the front door's death, and leave nothing."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.integration.openai_calls import client_of
from tests.integration.stacks import Stack, eventually, stack

pytestmark = pytest.mark.ray

TOOLS = Path(__file__).parent / "tools"
SIMULATED = {
    "frontier": {"engine": "simulated", "tier": "frontier"},
    "small": {"engine": "simulated", "tier": "small"},
}
AGENT = {
    "model": "auto",
    "tools": ["ledger_tools:charge", "ledger_tools:ship"],
    "tool_path": str(TOOLS),
}
GONE_S = 10.0


def script(*steps: dict[str, Any]) -> str:
    """A question that makes a simulated engine answer with these steps."""
    return "go\nSIMULATE: " + json.dumps(steps)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"calls": [{"name": name, "arguments": arguments}]}


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def gone(made: Stack) -> None:
    eventually(lambda: not made.processes(), "all processes are gone", GONE_S)


def ended(url: str, response_id: str) -> Any:
    """The response, once it has ended; None before, and while the front door is away."""
    try:
        with client_of(url, 120) as user:
            found = user.responses.retrieve(response_id)
    except openai.APIConnectionError:
        return None
    return found if found.status not in ("queued", "in_progress") else None


def front_of(made: Stack) -> psutil.Process:
    return eventually(lambda: made.process("orchestrator.front"), "the front door runs")


def test_a_run_survives_the_front_doors_sigkill_and_repeats_only_what_may_be_repeated(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    hold = tmp_path / "ledger.hold"
    with stack(tmp_path, models=SIMULATED, agents={"clerk": AGENT}) as made:
        made.extra_env["WARMLOOP_TEST_LEDGER"] = str(ledger)
        url = made.up()
        engines = {p.pid for p in made.processes() if "serving.simulator" in p.cmdline()}
        assert engines
        hold.touch()
        question = script(
            call("charge", amount=7), call("ship", order="A1"), call("reply", text="all done")
        )
        with client_of(url, 120) as user:
            begun = user.responses.create(model="clerk", input=question, background=True)
        eventually(lambda: any("ship-begin" in line for line in lines(ledger)), "the tool runs")

        front_of(made).kill()
        hold.unlink()
        response = eventually(lambda: ended(url, begun.id), "the run ends after the restart")
        assert response.status == "completed", response
        assert response.output_text == "all done"
        assert lines(ledger).count("charge 7") == 1
        keys = {line.split()[1] for line in lines(ledger) if line.startswith("ship-begin")}
        assert len(keys) == 1, "the repeated call has the same key"
        still = {p.pid for p in made.processes() if "serving.simulator" in p.cmdline()}
        assert still == engines, "the engines stayed up"
        assert made.run("down", "-c", str(made.config)).returncode == 0
        gone(made)


def test_an_unsafe_call_in_doubt_is_for_a_person_to_decide(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    source = (TOOLS / "ledger_tools.py").read_text().replace('kind="idempotent"', 'kind="unsafe"')
    source = source.replace(", *, idempotency_key: str", "").replace("{idempotency_key}", "-")
    (tmp_path / "tools" / "unsafe_tools.py").write_text(source)
    ledger, hold = tmp_path / "ledger", tmp_path / "ledger.hold"
    agent = {
        **AGENT,
        "tools": ["unsafe_tools:ship"],
        "tool_path": str(tmp_path / "tools"),
    }
    with stack(tmp_path, models=SIMULATED, agents={"clerk": agent}) as made:
        made.extra_env["WARMLOOP_TEST_LEDGER"] = str(ledger)
        url = made.up()
        hold.touch()
        question = script(call("ship", order="A1"), call("reply", text="told"))
        with client_of(url, 120) as user:
            begun = user.responses.create(model="clerk", input=question, background=True)
        eventually(lambda: lines(ledger), "the tool runs")
        front_of(made).kill()
        hold.unlink()
        response = eventually(lambda: ended(url, begun.id), "the run ends after the restart")
        asked = response.output[-1]
        assert (asked.type, asked.name) == ("mcp_approval_request", "ship")
        decision = {
            "type": "mcp_approval_response",
            "approval_request_id": asked.id,
            "approve": False,
            "reason": "it did ship",
        }
        # Retried: the new front door may not have heard of an engine yet.
        with client_of(url, 120) as user:
            told = user.with_options(max_retries=8).responses.create(
                model="clerk", previous_response_id=begun.id, input=[decision]
            )
        assert told.output_text == "told"
        assert lines(ledger).count("ship-begin -") == 1, "it did not run again"
        assert "outcome_unknown" in told.model_dump_json()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_sigkill_of_the_supervisor_leave_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    with stack(tmp_path, models=SIMULATED) as made:
        holder = made.start("up", "-c", str(made.config))
        run_file = made.home / "stacks" / made.name / "run.json"
        eventually(
            lambda: run_file.exists() and '"ready"' in run_file.read_text(), "the stack is ready"
        )
        assert len(made.processes()) > 5
        assert {ip.removeprefix("::ffff:") for ip in listening(made)} <= {"127.0.0.1", "::1"}
        holder.send_signal(number)
        gone(made)


def listening(made: Stack) -> list[str]:
    """Every address that some process of the stack listens on."""
    found = []
    for process in made.processes():
        try:
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.append(connection.laddr.ip)
        except psutil.Error:
            continue
    return found


def test_a_second_stack_of_the_same_name_is_refused(tmp_path: Path) -> None:
    models = {"m": {"engine": "external", "urls": ["http://127.0.0.1:9"]}}
    with stack(tmp_path, models=models) as made:
        first = made.start("up", "-c", str(made.config))
        run_file = made.home / "stacks" / made.name / "run.json"
        eventually(run_file.exists, "the first stack holds its lock")
        second = made.run("up", "-c", str(made.config))
        assert second.returncode == 2
        assert "already running" in second.stderr
        first.send_signal(signal.SIGINT)
        gone(made)


def test_an_engine_that_cannot_start_ends_up_with_its_own_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "nothing-like-this"}')
    (broken / "tokenizer.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"\0" * 16)
    models = {"m": {"engine": "vllm", "sources": [{"path": str(broken)}], "memory_gib": 0}}
    with stack(tmp_path, models=models) as made:
        done = made.run("up", "-c", str(made.config))
        assert done.returncode == 1, done.stdout + done.stderr
        assert "models.m" in done.stderr
        assert "nothing-like-this" in done.stderr
        assert "Traceback" not in done.stderr
        gone(made)


def test_a_tool_or_a_journal_that_cannot_be_used_is_said_before_anything_starts(
    tmp_path: Path,
) -> None:
    models = {"m": {"engine": "simulated"}}
    agents = {"clerk": {"tools": ["no_such_module:f"]}}
    with stack(tmp_path, models=models, agents=agents) as made:
        done = made.run("up", "-c", str(made.config))
        assert done.returncode == 2
        assert done.stderr.startswith("warmloop: agents.clerk.tools: 'no_such_module:f': no module")
        assert "Ray" not in done.stderr
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database, but long enough for a header" * 50)
    with stack(tmp_path, models=models, journal={"path": str(broken)}) as made:
        done = made.run("up", "-c", str(made.config))
        assert done.returncode == 1
        assert done.stderr.startswith(f"warmloop: {broken}: cannot be used as a journal")
        gone(made)


def test_a_url_that_is_none_is_refused(tmp_path: Path) -> None:
    made = Stack(tmp_path / "none.yaml", tmp_path, "none")
    for url in ("127.0.0.1:8400", "http://"):
        done = made.run("run", "hello", "--agent", "desk", "--url", url)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert "--url" in done.stderr


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    made = Stack(tmp_path / "none.yaml", tmp_path, "none")
    for args, word in [
        (("up", "-c", str(tmp_path / "none.yaml")), "no such file"),
        (("run", "hello"), "no stack is running"),
        (("run", " "), "task"),
        (("status",), "no stack is running"),
        (("down",), "no stack is running"),
    ]:
        done: subprocess.CompletedProcess[str] = made.run(*args)
        assert done.returncode in (1, 2)
        assert word in done.stderr
        assert "Traceback" not in done.stderr
