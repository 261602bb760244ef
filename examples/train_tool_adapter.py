"""Train a tool-calling LoRA adapter for SmolLM2-135M-Instruct, and check what it is worth.

    scripts/setup train
    .venv-train/bin/python examples/train_tool_adapter.py                # trains, on CPU
    .venv-train/bin/python examples/train_tool_adapter.py --device cuda  # or on a GPU
    .venv/bin/python examples/train_tool_adapter.py --check              # asks a real engine
    .venv-train/bin/python examples/train_tool_adapter.py --quick        # the same without one

The questions are made up here (tool_adapter/data.py). The check asks the base and the adapter the
same questions about tools of other domains, on one engine, under one grammar, in turns.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from serving.config.stack_file import load  # noqa: E402
from serving.models import weights  # noqa: E402 the checkout's own modules, found by the line above

ADAPTER = ROOT / "examples" / "adapters" / "smollm2-tools"


def main() -> None:
    """Train, or check with --check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--out", type=Path, default=ADAPTER, help="folder of the adapter (also what is checked)")
    add("--seed", type=int, default=7, help="of the training data and the first weights")
    add("--minutes", type=float, default=85, help="end the training by then, however far it is")
    add("--steps", type=int, default=400, help="training steps, six conversations each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=1, help="CPU threads; more than idle cores is slower")
    add("--check", action="store_true", help="ask base and adapter instead of training")
    add("--quick", action="store_true", help="check by scoring names, without an engine")
    add("--questions", type=int, default=220, help="of the check")
    add("--everyday", action="store_true", help="also ask benchmarks/everyday_questions.py")
    add("--validation", action="store_true", help="check with the validation tools (to tune)")
    add("--json", type=Path, help="write the check's answers to this file")
    args = parser.parse_args()
    config = load(ROOT / "configs" / "cpu-small.yaml").models["small"]
    folder = weights.fetch("small", config, progress=weights.PlainProgress())
    if args.check or args.quick:
        from examples.tool_adapter import check, data

        if args.validation:
            series = {"validation": data.validation(args.seed, args.questions)}
        else:
            series = {"held out": data.held_out(check.SEED, args.questions)}
        if args.everyday:
            series["everyday"] = check.everyday()
        adapter = args.out.resolve()
        if args.check:
            check.run(config, folder, adapter, series, args.json)
            return
        from examples.tool_adapter import scoring

        for name, asked in series.items():
            answers = scoring.compare(
                folder, adapter, asked, device=args.device, threads=args.threads
            )
            print("\n".join([name, *check.report(answers)]))
    else:
        from examples.tool_adapter import train

        settings = train.Settings(
            weights=folder,
            out=args.out,
            minutes=args.minutes,
            steps=args.steps,
            seed=args.seed,
            device=args.device,
            threads=args.threads,
        )
        train.Trainer(settings).run()


if __name__ == "__main__":
    main()
