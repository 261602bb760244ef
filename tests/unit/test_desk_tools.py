"""The bundled agent's tools treat whatever the model writes as data."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints

import pytest

DESK = Path(__file__).resolve().parents[2] / "examples" / "desk"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("desk_tools_under_test", DESK / "desk_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


desk = _load()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(17 + 25) * 3", "126"),
        ("7 * 12.90", "90.30"),
        ("0.1 + 0.2", "0.3"),
        ("10 / 4", "2.5"),
        ("10 / 3", "3.3333333333"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("100 * 1.00", "100"),
        ("-(3 - 3)", "0"),
        ("  1\n+ 1 ", None),
        (".5 + 1.", "1.5"),
    ],
)
def test_arithmetic_is_exact_or_refused_in_words(expression: str, value: str | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match="not an arithmetic expression"):
            desk.calculator(expression)
    else:
        assert desk.calculator(expression) == value


@pytest.mark.parametrize(
    "attempt",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd').read()",
        "().__class__.__bases__",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "exec('1')",
        "1 if 1 else 2",
        "a + 1",
        "1; 2",
        "1 == 1",
        "'a' * 9",
        "1_000",
        "0x10",
        "1e9",
        "2j",
        "1,250 * 2",
        "~1",
        "1 << 9",
        "\u0661 + 1",
        "1\x00",
    ],
)
def test_anything_but_plain_arithmetic_is_refused_before_it_is_parsed(
    attempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.ast, "parse", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match="are allowed"):
        desk.calculator(attempt)


@pytest.mark.parametrize("attempt", ["()", "(1)(2)", "1 2", "*(1)", "1 +", "((1)", "007", "5(3)"])
def test_malformed_arithmetic_is_refused_with_a_sentence(attempt: str) -> None:
    with pytest.raises(ValueError, match=r"not an arithmetic expression|are allowed"):
        desk.calculator(attempt)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("1 / 0", "division by zero"),
        ("0 / 0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "exponents"),
        ("2 ** 101", "exponents"),
        ("4 ** 0.5", "exponents"),
        ("99999 ** 99", "digits"),
        ("9" * 40, "digits"),
        ("1" + "+1" * 200, "longer than"),
        ("(" * 90 + "1" + ")" * 89, "not an arithmetic expression"),
    ],
)
def test_work_and_size_are_bounded_and_the_reason_is_said(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        desk.calculator(expression)


def test_as_deep_as_the_length_allows_is_still_computed() -> None:
    assert desk.calculator("-" * 199 + "1") == "-1"
    assert desk.calculator("(" * 90 + "1" + ")" * 90) == "1"


def test_search_finds_the_line_and_names_its_file() -> None:
    assert desk.search("helmet price").splitlines()[0] == (
        "price_list.csv: item: helmet, sku: HEL-330, price_eur: 79.00"
    )
    assert desk.search("opening hours Saturday shop").startswith(
        "opening_hours.md: Shop, Saturday: open 10:00 to 16:00."
    )


def test_search_is_the_same_every_time_and_whatever_the_word_order_case_or_plural() -> None:
    assert desk.search("front light price") == desk.search("PRICE of Front Lights")
    assert len({desk.search("bicycle") for _ in range(5)}) == 1


def test_search_answers_with_few_short_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long.md").write_text("\n".join(f"saddle {'x' * 999}" for _ in range(50)))
    monkeypatch.setattr(desk, "FILES", tmp_path)
    lines = desk.search("saddle " * 500).splitlines()
    assert len(lines) == desk.MAX_HITS
    assert all(len(line) <= desk.MAX_LINE for line in lines)


@pytest.mark.parametrize("query", ["", "   ", "?!", "what is the", "\x00"])
def test_a_query_without_keywords_is_refused_with_advice(query: str) -> None:
    with pytest.raises(ValueError, match="no keywords"):
        desk.search(query)


def test_nothing_found_is_an_answer_not_an_error() -> None:
    assert desk.search("submarine") == "nothing found; try other keywords"


def test_no_path_that_the_model_names_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    shutil.copytree(DESK / "files", files)
    secret = tmp_path / "secret.txt"
    secret.write_text("root zebra secret")
    (files / "link.txt").symlink_to(secret)
    (files / "folder").mkdir()
    (files / "folder" / "inner.txt").write_text("zebra")
    monkeypatch.setattr(desk, "FILES", files)
    for query in ("../secret.txt", str(secret), f"file://{secret}", "link.txt", "zebra"):
        assert "zebra" not in desk.search(query)


def test_a_file_that_is_not_text_or_too_large_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe saddle \x00")
    (tmp_path / "large.md").write_text("saddle saddle\n" * 40_000)
    monkeypatch.setattr(desk, "FILES", tmp_path)
    assert desk.search("saddle").startswith("binary.md: ")


@pytest.mark.parametrize("name", ["calculator", "search"])
def test_every_parameter_has_a_type_and_a_description_for_its_schema(name: str) -> None:
    function = getattr(desk, name)
    hints = get_type_hints(function, include_extras=True)
    assert inspect.getdoc(function)
    assert hints.pop("return") is str
    assert list(hints) == list(inspect.signature(function).parameters)
    assert all(get_args(hint)[0] is str and get_args(hint)[1] for hint in hints.values())
