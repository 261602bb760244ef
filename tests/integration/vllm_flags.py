"""Asks vLLM itself whether it would take a launch line; runs in vLLM's own environment.

On stdin a JSON object: a name → the arguments of vllm.entrypoints.openai.api_server.
On stdout, as the last line, a JSON object: a name → null, or why the line is refused. No engine is
started, no weights are read, and no GPU is needed: vLLM's parser, its checks of arguments against
each other, its typed cache, scheduler and parallel configurations, and its tool parsers, the plugin
of the line included.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from vllm.config import CacheConfig, SchedulerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser


def said_of(engine: AsyncEngineArgs, *names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the arguments that have a value: the others are worked out with the model."""
    found = {name: getattr(engine, name) for group in names for name in group}
    return {name: value for name, value in found.items() if value is not None}


def refusal(argv: list[str]) -> str | None:
    """Why vLLM refuses `argv`; None when it takes it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
        validate_parsed_serve_args(args)
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        ToolParserManager.get_tool_parser(args.tool_call_parser)
        engine = AsyncEngineArgs.from_cli_args(args)
        CacheConfig(
            **said_of(
                engine,
                ("block_size", "gpu_memory_utilization", "kv_cache_memory_bytes"),
                ("kv_offloading_size", "kv_offloading_backend", "enable_prefix_caching"),
            ),
            cache_dtype=engine.kv_cache_dtype,
        )
        SchedulerConfig(
            **said_of(
                engine,
                ("max_model_len", "max_num_batched_tokens", "max_num_seqs"),
                ("async_scheduling", "enable_chunked_prefill"),
            ),
            policy=engine.scheduling_policy,
            is_encoder_decoder=False,
        )
    except SystemExit:
        _, _, why = said.getvalue().partition(": error: ")
        return why.strip() or said.getvalue()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print()
    print(json.dumps({name: refusal(argv) for name, argv in asked.items()}))
