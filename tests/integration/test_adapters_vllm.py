"""Real LoRA adapters on a real vLLM engine, through a real front door.

The adapters are random but large, so each answers in its own way: an answer says which weights it
came from, and cached tokens say whose prefix was used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest
from openai.types.completion_choice import Logprobs

from serving.config.model import ModelConfig
from serving.engines import adapter_for, guardian
from serving.engines.base import EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.errors import EngineError
from tests.adapters import SMOLLM2_135M, write_adapter
from tests.integration import conftest
from tests.integration.stacks import Stack, eventually, stack

pytestmark = pytest.mark.engine

SIZE = 0.2
SEEDS = {"polite": 1, "terse": 2, "third": 3}
MARGIN = 0.01
"""By which each token of an answer leads, in log probability: far above what rounding can do."""
MAX_TOKENS = 3
TOPICS = ("opening hours", "the price of a bell", "a lost umbrella", "the way to the station")
PROMPTS = [
    f"Notes about {topic}. The desk opens at nine and closes at six, and lunch is at noon. "
    f"Whoever asks about {topic} gets a short answer, a map of the town, and a word of thanks. "
    f"The clerk writes down what was said, and at the end of the day reads it again with care. "
    f"All of this is about {topic}, and about nothing else that people may ask of a clerk. "
    f"Question about {topic}: what is"
    for topic in TOPICS
]
BLOCK = 32
NO_LOGPROBS = Logprobs()


@dataclass
class Lab:
    """An engine with room for two adapters, a front door, and what each model says by itself."""

    folder: Path
    spec: EngineSpec
    client: openai.OpenAI
    door: Stack
    process: EngineProcess | None = None
    said: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def adapters(self) -> Path:
        return self.folder / "lora"

    def start_engine(self) -> None:
        async def start() -> EngineProcess:
            async with aiohttp.ClientSession() as http:
                process = EngineProcess(adapter_for("vllm"), http)
                process.start(self.spec, self.folder / "engine.log")
                await process.wait_ready(self.spec.config.ready_timeout_s)
                return process

        self.process = asyncio.run(start())

    def ask(self, model: str, prompt: int, **more: Any) -> tuple[str, int]:
        """(text, cached tokens) through the front door."""
        answer = self.client.completions.create(
            model=model, prompt=PROMPTS[prompt], max_tokens=MAX_TOKENS, temperature=0, **more
        )
        assert answer.model == model
        assert answer.usage is not None
        details = answer.usage.prompt_tokens_details
        for top in (answer.choices[0].logprobs or NO_LOGPROBS).top_logprobs or ():
            first, second = sorted(top.values(), reverse=True)[:2]
            assert first - second > MARGIN, "too close to call; choose other seeds"
        return answer.choices[0].text, (details.cached_tokens if details else 0) or 0

    def learn(self, model: str) -> None:
        """What a model says when nothing of anybody is cached: each under a salt of its own."""
        for prompt in range(len(PROMPTS)):
            salt = {"cache_salt": f"reference {model} {prompt}"}
            text, cached = self.ask(model, prompt, extra_body=salt, logprobs=2)
            assert cached == 0
            self.said[model, prompt] = text

    def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        try:
            found = self.client.post(path, body=body, cast_to=dict[str, Any])
        except openai.APIStatusError as error:
            return error.status_code, error.response.json()
        return 200, found

    def load(
        self, name: str, folder: Path | None = None, **more: Any
    ) -> tuple[int, dict[str, Any]]:
        path = str(folder or self.adapters / name)
        return self.post("/load_lora_adapter", lora_name=name, lora_path=path, **more)

    def engines_list(self) -> list[str]:
        """What the engine itself lists."""
        with openai.OpenAI(base_url=f"{self.spec.url}/v1", api_key="none") as direct:
            return sorted(model.id for model in direct.models.list())


@pytest.fixture(scope="module")
def lab(small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    for name, seed in SEEDS.items():
        write_adapter(folder / "lora" / name, seed=seed, size=SIZE)
    lora = {"enabled": True, "max_rank": 8, "max_resident": 2, "max_cached": 2}
    settings = {
        **conftest.SMOLLM2_135M,
        "context_tokens": 1024,
        "kv_cache_gib": 0.5,
        "lora": lora,
        # In bfloat16 two tokens are often equally likely, and the answer is a matter of chance.
        "extra_args": ["--dtype", "float32"],
    }
    spec = EngineSpec("small", ModelConfig.model_validate(settings), small_weights, free_port())
    external = {
        "engine": "external",
        "urls": [spec.url],
        "lora": {**lora, "folders": [str(folder / "lora")]},
        "adapters": {"polite": str(folder / "lora" / "polite")},
    }
    with stack(folder, models={"small": external}) as door:
        made = Lab(folder, spec, openai.OpenAI(base_url="http://none", api_key="none"), door)
        made.start_engine()
        try:
            # Retries: on a machine under load an engine may be silent for longer than we wait.
            made.client = made.client.with_options(
                base_url=f"{door.up()}/v1", max_retries=8, timeout=300
            )
            eventually(lambda: "polite" in made.engines_list(), "the configured adapter is there")
            eventually(lambda: ready(made, "polite"), "the front door has seen it")
            assert made.load("terse")[0] == 200
            for model in ("small", "polite", "terse"):
                made.learn(model)
            yield made
        finally:
            made.client.close()
            if made.process is not None:
                asyncio.run(made.process.stop(0))


def ready(lab: Lab, name: str) -> int:
    cards = {model.id: model.model_dump() for model in lab.client.models.list()}
    return int(cards.get(name, {}).get("ready_replicas", 0))


def test_each_speaks_in_its_own_way(lab: Lab) -> None:
    """Else the tests below could not tell them apart."""
    for prompt in range(len(PROMPTS)):
        said = {lab.said[model, prompt] for model in ("small", "polite", "terse")}
        assert len(said) == 3, (prompt, said)


def test_a_prefix_is_warm_for_the_one_that_computed_it_and_cold_for_all_others(lab: Lab) -> None:
    for prompt, order in enumerate(itertools.permutations(("small", "polite", "terse"))):
        if prompt == len(PROMPTS):
            break
        for model in order:
            text, cached = lab.ask(model, prompt)
            assert (text, cached) == (lab.said[model, prompt], 0), (model, prompt)
            text, cached = lab.ask(model, prompt)
            assert text == lab.said[model, prompt]
            assert cached >= BLOCK
            assert cached % BLOCK == 0


def test_two_adapters_and_the_base_interleaved_answer_as_themselves_200_times(lab: Lab) -> None:
    chance = random.Random(7)
    cases = [
        (model, prompt)
        for model in ("small", "polite", "terse")
        for prompt in range(len(PROMPTS))
        for _ in range(17)
    ][:200]
    assert len(cases) == 200
    chance.shuffle(cases)
    with ThreadPoolExecutor(4) as pool:  # so that one step of the engine computes several of them
        answers = list(pool.map(lambda case: lab.ask(*case), cases))
    wrong = [
        (case, text, lab.said[case])
        for case, (text, _) in zip(cases, answers, strict=True)
        if text != lab.said[case]
    ]
    assert wrong == []
    assert all(cached % BLOCK == 0 and cached >= BLOCK for _, cached in answers)
    print(f"200 of 200 right; cached tokens {sum(cached for _, cached in answers)}")


def test_prefixes_that_are_computed_side_by_side_are_right_and_stay_so_in_the_cache(
    lab: Lab,
) -> None:
    """One step of the engine computes rows of the base and of adapters; each must keep its own."""
    together = {"extra_body": {"cache_salt": "side by side"}}
    cases = [(model, n) for n in range(len(PROMPTS)) for model in ("small", "polite", "terse")]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda case: lab.ask(*case, **together), cases))
    assert {case: text for case, (text, _) in zip(cases, answers, strict=True)} == {
        case: lab.said[case] for case in cases
    }
    assert [cached for _, cached in answers] == [0] * len(cases)
    for case in cases:  # alone now, from what was computed in company
        text, cached = lab.ask(*case, **together)
        assert text == lab.said[case]
        assert cached >= BLOCK


def test_three_adapters_with_room_for_two_all_answer_as_themselves(lab: Lab) -> None:
    assert lab.load("third")[0] == 200
    try:
        lab.learn("third")
        assert all(lab.said["third", n] != lab.said["small", n] for n in range(len(PROMPTS)))
        assert lab.spec.config.lora.max_resident == lab.spec.config.lora.max_cached == 2
        for prompt in range(len(PROMPTS)):
            for model in ("third", "polite", "terse", "small"):
                assert lab.ask(model, prompt)[0] == lab.said[model, prompt], (model, prompt)
    finally:
        assert lab.post("/unload_lora_adapter", lora_name="third")[0] == 200
    assert "third" not in lab.engines_list()
    with pytest.raises(openai.NotFoundError):
        lab.ask("third", 0)


def test_new_weights_in_the_same_folder_never_meet_the_old_ones_cache(lab: Lab) -> None:
    folder = write_adapter(lab.adapters / "changing", seed=0, size=SIZE)
    assert lab.load("changing")[0] == 200
    first, _ = lab.ask("changing", 0)
    assert lab.ask("changing", 0)[1] >= BLOCK
    write_adapter(folder, seed=SEEDS["third"], size=SIZE)
    assert lab.ask("changing", 0)[0] == first  # what was loaded stays as it was
    assert lab.load("changing", load_inplace=True)[0] == 200
    text, cached = lab.ask("changing", 0)
    assert cached == 0
    lab.said["changing", 0] = lab.ask("changing", 0, extra_body={"cache_salt": "new"})[0]
    assert text == lab.said["changing", 0] != first
    assert lab.post("/unload_lora_adapter", lora_name="changing")[0] == 200


NARROW = {**SMOLLM2_135M, "hidden_size": 288, "intermediate_size": 768}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"rank": 16}, "r: 16 is more than the 8 that the engine takes"),
        ({"base": NARROW}, "has 288 input features where the base has 576"),
        ({"layers": (31,)}, "is in layer 31, and the base has 30"),
        ({"use_dora": True}, "use_dora: True: DoRA is not served"),
        ({"cut": True}, "cut short"),
    ],
)
def test_a_bad_adapter_is_refused_with_the_reason_and_nothing_is_left_of_it(
    lab: Lab, how: dict[str, Any], said: str
) -> None:
    before = lab.engines_list()
    cut = how.get("cut")
    bad = write_adapter(lab.adapters / "bad", **({} if cut else how))
    if cut:
        weights = bad / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    status, body = lab.load("bad")
    assert status == 400
    assert said in body["error"]["message"]
    assert lab.engines_list() == before
    assert lab.ask("polite", 0)[0] == lab.said["polite", 0]


def test_what_only_the_engine_finds_out_comes_back_in_its_words(lab: Lab) -> None:
    """It was started for rank 8; a front door that believes in 16 lets more pass."""
    high = write_adapter(lab.adapters / "high", rank=16)

    async def load() -> None:
        async with aiohttp.ClientSession() as http:
            await adapter_for("external").load_adapter(http, lab.spec.url, "high", high)

    with pytest.raises(EngineError) as caught:
        asyncio.run(load())
    assert "high" not in lab.engines_list()
    assert "LoRA rank 16 is greater than max_lora_rank 8." in str(caught.value)
    assert "{" not in str(caught.value)


def test_responses_take_an_adapter_for_a_model(lab: Lab) -> None:
    response = lab.client.responses.create(model="terse", input="Hello", max_output_tokens=4)
    assert response.model == "terse"
    turns = response.model_dump()["warmloop"]["turns"]
    assert [turn["model"] for turn in turns] == ["terse"]


def test_an_engine_that_was_killed_has_its_adapters_back_by_itself(lab: Lab) -> None:
    assert lab.process is not None
    assert lab.process._tree is not None
    killed = 0
    for pid in guardian.descendants(lab.process._tree.pid):
        with contextlib.suppress(psutil.Error):  # it may have just ended
            process = psutil.Process(pid)
            listens = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            if any(connection.laddr.port == lab.spec.port for connection in listens):
                process.send_signal(signal.SIGKILL)
                killed += 1
    assert killed == 1
    asyncio.run(lab.process.stop(0))

    patient, lab.client = lab.client, lab.client.with_options(max_retries=0)

    def status() -> int:
        try:
            lab.ask("terse", 0)
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    eventually(lambda: status() == 503, "the front door says that there is no engine")
    lab.client = patient
    lab.start_engine()
    eventually(lambda: ready(lab, "terse") and ready(lab, "polite"), "the adapters are back")
    for model in ("small", "polite", "terse"):
        assert lab.ask(model, 1) == (lab.said[model, 1], 0)
    kept = json.loads((lab.door.home / "stacks" / lab.door.name / "adapters.json").read_text())
    assert [each["name"] for each in kept["loaded"]] == ["terse"]
