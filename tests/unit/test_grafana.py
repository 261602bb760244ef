"""The board and the alert rules speak of metrics and labels that exist, in PromQL that parses.

What exists is the table of docs/metrics.md, which tests/integration/test_metrics.py holds against a
front door that runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.metric_names import documented

FOLDER = Path(__file__).parents[2] / "configs" / "grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "warmloop.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = BOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [
    *((f"{p['title']}/{t['refId']}", t["expr"]) for p in GRAPHS for t in p["targets"]),
    *((rule["alert"], rule["expr"]) for rule in RULES),
]
_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")
_OF_GRAFANA = {"$__rate_interval": "5m", "$__range": "6h"}


def parsed(query: str) -> promql.Expr:
    for name, value in _OF_GRAFANA.items():
        query = query.replace(name, value)
    return promql.parse(query)


def selectors(query: str) -> list[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []
    promql.walk(
        parsed(query),
        lambda each: found.append(each) if isinstance(each, promql.VectorSelector) else None,
    )
    assert found
    return found


def labels_of(metric: str) -> frozenset[str]:
    """Raises KeyError where there is no such metric."""
    known = documented()
    if metric in known:
        return known[metric]
    base = _HISTOGRAM.sub("", metric)
    assert metric != base, f"{metric} is not in docs/metrics.md"
    return known[base] | ({"le"} if metric.endswith("_bucket") else set())


def grouped(query: str) -> Iterator[str]:
    """The labels of its `by (...)`."""
    for names in re.findall(r"by \(([^)]*)\)", query):
        yield from re.findall(r"\w+", names)


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_a_query_parses_and_asks_for_what_there_is(where: str, query: str) -> None:
    found = selectors(query)
    for each in found:
        allowed = labels_of(str(each.name))
        assert {matcher.name for matcher in each.matchers.matchers} <= allowed, each.name
    common = frozenset.union(*(labels_of(str(each.name)) for each in found))
    assert set(grouped(query)) <= common


def test_every_metric_is_on_the_board() -> None:
    shown = {
        _HISTOGRAM.sub("", str(each.name))
        for panel in GRAPHS
        for target in panel["targets"]
        for each in selectors(target["expr"])
    }
    assert {*documented()} - shown == set()


def test_ids_are_unique_and_panels_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in GRAPHS:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


def test_the_board_works_with_any_data_source_and_its_variables_exist() -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in GRAPHS:
        assert [panel["datasource"], *(t["datasource"] for t in panel["targets"])].count(
            source
        ) == 1 + len(panel["targets"])
    for name, variable in variables.items():
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert asked is not None
            assert asked[2] in labels_of(asked[1]), name
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(PANELS)))
    assert used == {*variables}


def test_it_has_what_grafanas_classic_model_asks_for() -> None:
    assert BOARD["id"] is None  # it gets one where it is imported
    assert 8 <= len(BOARD["uid"]) <= 40
    assert BOARD["title"] == "Warmloop"
    assert isinstance(BOARD["schemaVersion"], int)
    for panel in PANELS:
        assert {"id", "type", "title", "gridPos"} <= panel.keys()
        assert panel["type"] in ("row", "stat", "timeseries")
    for panel in GRAPHS:
        assert {"datasource", "targets", "fieldConfig", "options"} <= panel.keys()
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_rules_have_unique_names_and_say_what_happens() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    assert "WarmloopHitRateDropped" in names
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        if "for" in rule:
            assert promql.parse_duration(rule["for"]).total_seconds() > 0
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert named <= set(grouped(rule["expr"])), rule["alert"]
