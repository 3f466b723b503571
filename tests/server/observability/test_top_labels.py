"""The most used names, and counters that have labels for them alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from server.core.names import FORMER, OTHER
from server.observability.top_counters import TopCounters
from server.observability.top_labels import LEAD, TopLabels

NAMES = st.sampled_from("abcdefghij")
# A name is used, or time goes by (in seconds).
EVENTS = st.lists(NAMES | st.floats(0, 100), max_size=300)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def use_all(top: TopLabels, names: Iterable[str]) -> list[str]:
    """The names that lost their label, in order."""
    return [demoted for name in names if (demoted := top.use(name)) is not None]


def test_names_used_later_and_more_replace_those_that_came_first() -> None:
    top = TopLabels(2)
    assert use_all(top, "abccc") == ["a"]
    assert {name for name in "abc" if name in top} == {"b", "c"}


def test_names_used_equally_do_not_take_turns() -> None:
    assert use_all(TopLabels(2), "abc" * 1000) == []


def test_a_flood_of_names_used_once_displaces_nobody() -> None:
    top = TopLabels(3)
    assert use_all(top, "aabbcc") == []
    assert use_all(top, (str(number) for number in range(10_000))) == []


def test_what_was_used_long_ago_gives_way() -> None:
    clock = Clock()
    top = TopLabels(1, half_life_s=10, clock=clock)
    use_all(top, "a" * 1000)
    assert use_all(top, "bb") == []
    clock.now += 10 * 10  # a's thousand uses count less than one
    assert use_all(top, "bb") == ["a"]


def test_counts_survive_years_without_overflow() -> None:
    clock = Clock()
    top = TopLabels(2, half_life_s=1, clock=clock)
    for _ in range(20):
        use_all(top, "ab")
        clock.now += 400.0
    assert use_all(top, "cc") in (["a"], ["b"])
    clock.now += 1e9
    assert "c" in top and use_all(top, "dd")


@given(EVENTS, st.integers(0, 4))
def test_never_more_labels_than_allowed_and_none_for_a_name_that_others_lead(
    events: list[str | float], size: int
) -> None:
    clock = Clock()
    top = TopLabels(size, half_life_s=1e12, clock=clock)
    uses: Counter[str] = Counter()
    for event in events:
        if isinstance(event, float):
            clock.now += event
            continue
        before = {name for name in "abcdefghij" if name in top}
        demoted = top.use(event)
        uses[event] += 1
        assert len(top) <= size
        after = {name for name in "abcdefghij" if name in top}
        assert after - before <= {event} and before - after == ({demoted} if demoted else set())
        if demoted:
            assert uses[event] > LEAD
    # With room for all as candidates, nothing is forgotten: no name without a label leads one with a label.
    if size > 0 and len(uses) <= 2 * size:
        most = max((count for name, count in uses.items() if name not in top), default=0)
        assert all(most <= LEAD * uses[name] for name in uses if name in top)


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    """Totals by the name of the sample and the values of its labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


@given(
    st.lists(
        st.tuples(NAMES | st.sampled_from([OTHER, FORMER, "base"]), st.sampled_from(["2xx", "4xx"]), st.integers(0, 9))
    ),
    st.integers(0, 3),
)
def test_series_are_few_only_grow_and_together_lose_nothing(uses: list[tuple[str, str, int]], size: int) -> None:
    registry = CollectorRegistry()
    counters = TopCounters(registry, "adapter", size, always=["base"])
    requests = counters.counter("requests", "", "status")
    tokens = counters.counter("tokens", "")
    before: dict[tuple[str, tuple[str, ...]], float] = {}
    sent = 0
    for number, (name, status, amount) in enumerate(uses, start=1):
        counters.count(name, (requests, (status,), 1), (tokens, (), amount))
        sent += amount
        now = samples(registry)
        assert sum(total for (metric, _), total in now.items() if metric == "requests_total") == number
        assert sum(total for (metric, _), total in now.items() if metric == "tokens_total") == sent
        assert len({labels[0] for _, labels in now} - {OTHER, FORMER, "base"}) <= size
        gone = {labels[0] for _, labels in before.keys() - now.keys()}
        assert len(gone) <= 1
        for series, total in before.items():
            assert series not in now or now[series] >= total
        if not gone:
            assert now.get(("tokens_total", (FORMER,)), 0) == before.get(("tokens_total", (FORMER,)), 0)
        before = now


def test_former_takes_over_what_the_series_that_ended_had_and_rates_stay_right() -> None:
    registry = CollectorRegistry()
    counters = TopCounters(registry, "tenant", 1)
    tokens = counters.counter("tokens", "")
    for name, amount in (("a", 5), ("b", 7), ("b", 11), ("a", 13)):
        counters.count(name, (tokens, (), amount))
    totals = {labels: total for (_, labels), total in samples(registry).items()}
    # b's first use was among the others; by the second one it had overtaken a, whose next use is among the others.
    assert totals == {("b",): 11, (OTHER,): 7 + 13, (FORMER,): 5}
