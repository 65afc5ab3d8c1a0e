"""The random bytes that are fetched ahead are given out once each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from eventstore._requests import RandomPool
from eventstore.log import COMMIT_ID_BYTES, SALT_BYTES

_FOR_ONE = SALT_BYTES + COMMIT_ID_BYTES


def test_no_two_appends_get_the_same_bytes() -> None:
    pool = RandomPool()
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(pool, [_FOR_ONE] * 20_000))
    assert len(set(drawn)) == len(drawn)
    assert {len(random) for random in drawn} == {_FOR_ONE}


def test_any_number_of_bytes_can_be_drawn() -> None:
    pool = RandomPool()
    for wanted in (0, 1, _FOR_ONE, _FOR_ONE + SALT_BYTES, 1_000_000):
        assert len(pool(wanted)) == wanted
