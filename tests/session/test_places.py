from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.errors import InvalidPlaceError, PlaceNotFoundError
from session.places import (
    HEAD,
    At,
    AtMessage,
    AtTurnEnd,
    AtVersion,
    BeforeHead,
    Place,
    needs_facts,
    parse_at,
    parse_place,
    resolve,
)
from session.state import Landmark, Turn

TURNS = tuple(Turn(number, number * 10, number * 10 + 5, 0, 0, number) for number in (1, 2, 3))
LANDMARKS = (Landmark("msg_a", 12), Landmark("msg_b", 25), Landmark("msg_a", 31))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s1", Place("s1")),
        ("s1@412", Place("s1", AtVersion(412))),
        ("s1@0", Place("s1", AtVersion(0))),
        ("s1@-3", Place("s1", BeforeHead(3))),
        ("s1@msg_01AbC-x_9", Place("s1", AtMessage("msg_01AbC-x_9"))),
        ("a.b-c_d@turn:7", Place("a.b-c_d", AtTurnEnd(7))),
    ],
)
def test_an_address_is_read_and_written_the_same(text: str, place: Place) -> None:
    assert parse_place(text) == place
    assert str(place) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@4",
        "s@",
        "s@ 4",
        "s@+4",
        "s@4@5",
        "s@4.0",
        "s@--4",
        "s@٤",
        "s@turn:",
        "s@turn:-1",
        "s@turn7",
        "s@msg_",
        "s@msg_é",
        "s@4\n",
        "s@" + "9" * 5_000,
    ],
)
def test_what_is_no_place_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(InvalidPlaceError) as caught:
        parse_place(text)
    assert caught.value.place == text


@given(st.text())
def test_any_text_is_a_place_or_an_invalid_one(text: str) -> None:
    try:
        place = parse_place(text)
    except InvalidPlaceError:
        return
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (412, AtVersion(412)),
        (-3, BeforeHead(3)),
        ("412", AtVersion(412)),
        ("-3", BeforeHead(3)),
        ("turn:2", AtTurnEnd(2)),
        (AtMessage("msg_1"), AtMessage("msg_1")),
    ],
)
def test_python_takes_numbers_and_the_same_forms(at: int | str | At, expected: At) -> None:
    assert parse_at(at) == expected


@pytest.mark.parametrize("at", [True, None, 1.0, b"4", "", "s@4"])
def test_other_things_are_no_place(at: object) -> None:
    with pytest.raises(InvalidPlaceError):
        parse_at(at)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "version"),
    [
        (HEAD, 40),
        (AtVersion(0), 0),
        (AtVersion(40), 40),
        (BeforeHead(3), 37),
        (BeforeHead(40), 0),
        (AtTurnEnd(1), 15),
        (AtTurnEnd(3), 35),
        (AtMessage("msg_b"), 25),
        (AtMessage("msg_a"), 31),
    ],
)
def test_a_place_is_found(at: At, version: int) -> None:
    assert resolve(at, head=40, turns=TURNS, landmarks=LANDMARKS) == version


@pytest.mark.parametrize("at", [AtVersion(41), BeforeHead(41), AtTurnEnd(0), AtTurnEnd(4), AtMessage("msg_c")])
def test_a_place_that_is_not_there_is_an_error_that_names_it(at: At) -> None:
    with pytest.raises(PlaceNotFoundError) as caught:
        resolve(at, head=40, turns=TURNS, landmarks=LANDMARKS)
    assert caught.value.place == str(at)


def test_only_messages_and_turns_need_a_fold() -> None:
    assert [needs_facts(at) for at in (HEAD, AtVersion(1), AtMessage("msg_1"), AtTurnEnd(1))] == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(PlaceNotFoundError, match="has 0 turns"):
        resolve(AtTurnEnd(1), head=4)
