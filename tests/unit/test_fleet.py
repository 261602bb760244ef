"""What can be reached under a name: models, and the adapters that engines list."""

from __future__ import annotations

from orchestrator.agents import Agents
from orchestrator.prices import PriceList
from router.dispatch import Router
from router.placing.fleet import Fleet, wire_name
from serving.config.model import Prices
from tests.unit.fakes import FakeTable, engine, stack

ZERO = engine("big-0", adapters=("polite",))
ONE = engine("big-1", adapters=("polite", "terse"))


def replicas(fleet: Fleet, name: str) -> list[str]:
    return [each.replica for each in fleet.ready(name)]


def test_an_adapter_is_reached_where_it_is_and_its_model_everywhere() -> None:
    fleet = Fleet((ZERO, ONE, engine("big-2", state="dead", adapters=("third",))))
    assert replicas(fleet, "big") == ["big-0", "big-1"]
    assert replicas(fleet, "terse") == ["big-1"]
    assert replicas(fleet, "third") == []
    assert fleet.parents == {"polite": "big", "terse": "big", "third": "big"}


def test_a_name_belongs_to_one_model_only() -> None:
    theirs = engine("tiny-0", "tiny", adapters=("polite", "big"))
    assert replicas(Fleet((ZERO, theirs)), "polite") == ["big-0"]
    assert replicas(Fleet((ZERO, theirs)), "big") == ["big-0"]
    ours = Fleet((ZERO, theirs), {"polite": "tiny", "big": "big", "tiny": "tiny"})
    assert replicas(ours, "polite") == ["tiny-0"]
    absent = Fleet((theirs,), {"big": "big", "tiny": "tiny"})
    assert replicas(absent, "big") == []


def test_an_engine_is_asked_for_its_own_name_of_the_model_and_for_the_adapters() -> None:
    renamed = engine("big-0", served_name="/weights/big", adapters=("polite",))
    assert wire_name(renamed, "big") == "/weights/big"
    assert wire_name(renamed, "polite") == "polite"


def test_an_adapter_is_a_plain_model_of_responses_while_it_is_there() -> None:
    table = FakeTable(ZERO)
    router = Router(stack(), table)
    agents = Agents((), ["big"], router.catalogue.parent)
    agent = agents.get("polite")
    assert (agent.key, agent.model, agent.settings["model"]) == ("polite", "polite", "polite")
    assert router.catalogue.adapters() == ["polite"]
    table.set(engine("big-0"))
    assert router.catalogue.parent("polite") is None
    assert router.catalogue.adapters() == []


def test_an_adapters_turns_cost_what_its_models_do() -> None:
    config = stack()
    big = config.models["big"].model_copy(update={"prices": Prices(fresh=3.0)})
    config = config.model_copy(update={"models": {**config.models, "big": big}})
    prices = PriceList(config, Router(config, FakeTable(ZERO)).catalogue.parent)
    assert prices["polite"] is prices["big"] is big.prices
    assert prices.get("nobody") is None
    assert sorted(prices) == ["big", "tiny"]
    assert len(prices) == 2


def test_why_an_adapter_has_no_engine_is_said_of_its_model() -> None:
    config = stack()
    router = Router(config, FakeTable(engine("big-0", state="starting", reason="loading")))
    router.known.parents = {"polite": "big"}
    assert router.catalogue.why_not("polite") == "big-0 is starting (loading)"
    router = Router(config, FakeTable(engine("big-0")))
    router.known.parents = {"polite": "big"}
    assert router.catalogue.why_not("polite") == (
        "big is ready, but does not have the adapter: it is about to be loaded"
    )
    router.known.problems = {"polite": "big-0 did not load it: no room"}
    assert router.catalogue.why_not("polite").endswith(
        "the adapter: big-0 did not load it: no room"
    )
