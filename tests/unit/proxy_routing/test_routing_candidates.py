"""From a model's name to the routes that a request may take."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.call import Call, Operation
from proxy.routing.candidates import OTHER, Candidate, Catalogue, Served, roomier, suited
from proxy.settings.models import Model

SERVED = [Served("one", (), ("small",)), Served("two", ("small", "large"), ("small", "large")), Served("three", (), ())]


def model(name: str, **fields: Any) -> Model:
    return Model.model_validate({"name": name, **fields})


def routes(catalogue: Catalogue, name: str) -> list[tuple[str, str, str]]:
    return [(found.provider, found.model, found.label) for found in catalogue.candidates(name)]


def call(operation: Operation = Operation.CHAT, **fields: Any) -> Call:
    return Call(operation, b"", fields, "m", stream=False, id="r", caller="me")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small", [("one", "small", "small"), ("two", "small", "small"), ("three", "small", "small")]),
        ("large", [("one", "large", "large"), ("two", "large", "large"), ("three", "large", "large")]),
        ("junk", [("one", "junk", OTHER), ("three", "junk", OTHER)]),
    ],
)
def test_names_without_an_entry_go_to_each_provider_that_serves_them(
    name: str, expected: list[tuple[str, str, str]]
) -> None:
    """In the providers' order; a name that nobody configured bears the label `other`."""
    assert routes(Catalogue(SERVED, []), name) == expected


def test_routes_and_aliases() -> None:
    """A model's routes come in their own order with the providers' names of it, under each alias too."""
    entry = model("gpt", aliases=["best"], routes=[{"provider": "three", "model": "dep"}, {"provider": "one"}])
    catalogue = Catalogue(SERVED, [entry])
    assert routes(catalogue, "gpt") == [("three", "dep", "gpt"), ("one", "gpt", "gpt")]
    assert catalogue.candidates("best") == catalogue.candidates("gpt")


def test_a_route_to_a_provider_that_cannot_serve_the_operation_is_left_out() -> None:
    """A model all of whose routes are left out is served by nobody, and by no other provider instead."""
    entry = model("gpt", routes=[{"provider": "elsewhere"}])
    assert Catalogue(SERVED, [entry]).candidates("gpt") == ()


def test_nobody_serves_an_unknown_model() -> None:
    """Without a provider for any model an unknown name has no candidates."""
    assert Catalogue(SERVED[1:2], []).candidates("junk") == ()


def test_fallbacks_follow_once_each() -> None:
    """Fallbacks' routes come after the model's own, theirs after them, and a cycle ends."""
    one = {"routes": [{"provider": "one"}]}
    entries = [
        model("a", fallbacks=["b", "c"], **one),
        model("b", fallbacks=["a", "d"], **one),
        model("c", **one),
        model("d", **one),
    ]
    catalogue = Catalogue(SERVED, entries)
    assert [found.model for found in catalogue.candidates("a")] == ["a", "b", "d", "c"]
    assert [found.model for found in catalogue.candidates("b")] == ["b", "a", "c", "d"]


def test_a_place_is_tried_once_though_two_models_lead_to_it() -> None:
    """The same provider's same model is one candidate."""
    same = {"routes": [{"provider": "one", "model": "x"}]}
    catalogue = Catalogue(SERVED, [model("a", fallbacks=["b"], **same), model("b", **same)])
    assert routes(catalogue, "a") == [("one", "x", "a")]


def test_labels_are_bounded() -> None:
    """Labels are configured names and `other`, whatever is asked for."""
    catalogue = Catalogue(SERVED, [model("gpt", aliases=["best"], routes=[{"provider": "three"}])])
    for number in range(100):
        catalogue.candidates(f"junk-{number}")
    assert catalogue.labels_of("three") == ("small", "large", "gpt", OTHER)
    assert catalogue.labels_of("two") == ("small", "large", OTHER)


def test_listing_has_each_name_once() -> None:
    """Listed names, models and aliases, owned by the provider that is tried first."""
    catalogue = Catalogue(SERVED, [model("gpt", aliases=["best"], routes=[{"provider": "three"}])])
    assert catalogue.listing() == [("small", "one"), ("large", "one"), ("gpt", "three"), ("best", "three")]


PLAIN, CONTINUES = Candidate("p", "plain", "plain", tools=False), Candidate("q", "cont", "cont", prefill="assistant")


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        (Operation.CHAT, {"messages": [{"role": "user"}]}, [PLAIN, CONTINUES]),
        (Operation.CHAT, {"messages": [{"role": "assistant"}]}, [CONTINUES, PLAIN]),
        (Operation.MESSAGES, {"messages": [{"role": "assistant"}]}, [CONTINUES, PLAIN]),
        (Operation.CHAT, {"messages": [], "tools": [{}]}, [CONTINUES]),
        (Operation.CHAT, {"messages": [], "tools": []}, [PLAIN, CONTINUES]),
        (Operation.EMBEDDINGS, {"input": "x", "tools": [{}]}, [PLAIN, CONTINUES]),
    ],
)
def test_suited(operation: Operation, fields: dict[str, Any], expected: list[Candidate]) -> None:
    """Tools need a model that has them, and the assistant's last words one that continues them."""
    assert list(suited((PLAIN, CONTINUES), call(operation, **fields))) == expected


def test_suited_keeps_models_without_tools_when_there_are_no_others() -> None:
    """Whether a request with tools can be served at all is then the provider's to say."""
    assert suited((PLAIN,), call(messages=[], tools=[{}])) == (PLAIN,)


@pytest.mark.parametrize(
    ("context", "full", "expected"),
    [(8000, 4000, True), (4000, 4000, False), (2000, 4000, False), (None, 4000, True), (2000, None, True)],
)
def test_roomier(context: int | None, full: int | None, expected: bool) -> None:
    """Only a larger context, or one of unknown size, is worth another try."""
    assert roomier(Candidate("p", "b", "b", context), Candidate("p", "a", "a", full)) is expected


def test_the_same_model_elsewhere_is_not_roomier() -> None:
    """Neither under the same name at another provider, nor under the same label by another name."""
    assert not roomier(Candidate("q", "a", OTHER), Candidate("p", "a", OTHER))
    assert not roomier(Candidate("q", "dep", "a"), Candidate("p", "a", "a"))
