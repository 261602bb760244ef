"""Our load generator beside `vllm bench serve`: `python -m benchmarks.load_beside`.

On one real vLLM, the 135M model on CPU, with prompts of one length and single turns: both can do
that. They take turns, and each run has texts of its own, so that nothing is warm. Prints the two
side by side; ends with 1 where they are further apart than the bar of `load_outside`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import load
from benchmarks.engines import engine, model_of
from benchmarks.harness.run import out_folder
from benchmarks.harness.stats import by_turns
from benchmarks.load_workload import Dialogue, Shape, Synthetic
from serving.engines.environment import interpreter
from serving.models import weights

STACK = Path(__file__).parents[1] / "configs" / "cpu-small.yaml"
NAME = "small"
# Its own command needs package metadata that its build for CPU does not have, and it reads files of
# prompts with pandas, which is not there. All that is replaced is how the file is read.
VLLM_BENCH = """
import json
from vllm.benchmarks.datasets.datasets import CustomDataset
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
def load_data(self):
    with open(self.dataset_path, encoding="utf-8") as lines:
        self.data = [json.loads(line) for line in lines]
CustomDataset.load_data = load_data
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
_OURS_FINE = (0, 1)
"""1: it was not judged. The comparison says what there is to say."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


class Pair:
    """The n-th run of both."""

    def __init__(self, url: str, number: int, options: argparse.Namespace) -> None:
        self._url = url
        self._options = options
        self._seed = options.seed + 2 * number
        self.ours = options.out / f"ours-{number}"
        self.theirs = options.out / f"vllm-bench-{number}.json"
        self._prompts = options.out / f"prompts-{number}.jsonl"

    def shape(self) -> Shape:
        return Shape(
            turns=1,
            head_tokens=0,
            first_tokens=self._options.prompt_tokens,
            answer_tokens=self._options.answer_tokens,
            spread=0.0,
        )

    def our_command(self) -> list[str]:
        shape, options = self.shape(), self._options
        said = {
            "url": self._url,
            "model": NAME,
            "turns": shape.turns,
            "head-tokens": shape.head_tokens,
            "first-tokens": shape.first_tokens,
            "answer-tokens": shape.answer_tokens,
            "spread": shape.spread,
            "rate": options.rate,
            "seconds": options.requests / options.rate,
            "arrivals": options.arrivals,
            "seed": self._seed,
            "body": json.dumps({"ignore_eos": True}),
            "out": self.ours,
        }
        return [sys.executable, "-m", "benchmarks.load", *_flags(said)]

    def their_command(self, python: Path, tokenizer: Path) -> list[str]:
        self._write_prompts()
        options = self._options
        said = {
            "backend": "openai-chat",
            "base-url": self._url,
            "endpoint": "/v1/chat/completions",
            "model": NAME,
            "tokenizer": tokenizer,
            "dataset-name": "custom",
            "dataset-path": self._prompts,
            "custom-output-len": -1,
            "num-prompts": options.requests,
            "request-rate": options.rate,
            "burstiness": "inf" if options.arrivals == "even" else 1,
            "seed": self._seed,
            "ready-check-timeout-sec": 0,  # else the first prompt is sent twice
            "percentile-metrics": "ttft,tpot,itl,e2el",
            "metric-percentiles": "50,90,99",
            "result-filename": self.theirs,
        }
        plain = ("skip-chat-template", "disable-shuffle", "ignore-eos", "save-result")
        flags = [*_flags(said), *(f"--{name}" for name in plain), "--disable-tqdm"]
        return [str(python), "-I", "-c", VLLM_BENCH, *flags]

    def _write_prompts(self) -> None:
        """The same sessions as ours, with other texts."""
        sessions = Synthetic(self.shape(), self._seed)
        with self._prompts.open("w", encoding="utf-8") as file:
            for number in range(self._options.requests):
                script = sessions.script(number)
                prompt = Dialogue(script, f"{self._seed + 1:x}").prompt(0)[0]["content"]
                line = {"prompt": prompt, "output_tokens": script.asks[0].output_tokens}
                file.write(json.dumps(line) + "\n")


def _flags(said: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in said.items()]


async def run(command: Sequence[str], log: Path, *, fine: Sequence[int] = (0,)) -> None:
    """To its end; what it prints goes to the log. Raises RuntimeError where it ended otherwise than
    is fine."""
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            *command, stdout=out, stderr=out, env={**os.environ, **OFFLINE}
        )
        try:
            await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    if child.returncode not in fine:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}; see {log}")


async def measure(options: argparse.Namespace) -> list[Pair]:
    model = model_of(STACK, NAME)
    async with engine(NAME, model) as url:
        folder = await asyncio.to_thread(
            weights.fetch, NAME, model, progress=weights.PlainProgress()
        )
        pairs = [Pair(url, number, options) for number in range(options.pairs + 1)]
        await run(pairs.pop().our_command(), options.out / "warm-up.log", fine=_OURS_FINE)
        for number, who in by_turns(options.pairs, ("ours", "vllm-bench")):
            pair, log = pairs[number], options.out / f"{who}-{number}.log"
            if who == "ours":
                await run(pair.our_command(), log, fine=_OURS_FINE)
            else:
                await run(pair.their_command(interpreter(model), folder), log)
            print(f"{who}, run {number + 1} of {options.pairs}", flush=True)
    return pairs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load_beside",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40, help="of each run")
    parser.add_argument("--rate", type=float, default=1.0, help="requests/s")
    parser.add_argument("--arrivals", choices=("even", "poisson"), default="even")
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--answer-tokens", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=out_folder, default=Path("out/load-beside"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pairs = asyncio.run(measure(options))
    theirs = [str(pair.theirs) for pair in pairs]
    ours = [str(pair.ours / "load.json") for pair in pairs]
    return load.main(
        ["--outside", "vllm-bench", *theirs, "--ours", *ours, "--out", str(options.out)]
    )


if __name__ == "__main__":
    sys.exit(main())
