"""Prometheus counters by a label that has at most N values of its own, beside some that it always has.

    a name of the top N   what was counted of it since it joined the top N
    other                 what was counted of names that were not in the top N at the time
    former                the totals of names that have left the top N

Nothing counted ever disappears, so `sum(x)` only grows.

Design decision: the totals of a name that leaves go to "former" and not to "other", where every rate would show them as
new traffic. So `rate(x{adapter!="former"})` is exact. A name that comes back begins at zero, which Prometheus takes for
a counter's reset.

A lock keeps counting and collecting apart, so that Prometheus reads all counters at one moment.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from server.core.names import FORMER, OTHER
from server.observability.top_labels import TopLabels


@dataclass(frozen=True, slots=True, eq=False)
class TopCounter:
    """One metric: a total for every value of the top label with the values of the `further` labels."""

    name: str
    documentation: str
    further: tuple[str, ...] = ()
    totals: dict[str, dict[tuple[str, ...], float]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, value: str, further: tuple[str, ...], amount: float) -> None:
        totals = self.totals[value]
        totals[further] = totals.get(further, 0.0) + amount


class TopCounters(Collector):
    """The counters that share `label`. `always` are values that have a series beside the `size` others."""

    def __init__(
        self,
        registry: CollectorRegistry,
        label: str,
        size: int,
        *,
        always: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._always = frozenset(always)
        self._top = TopLabels(size, clock=clock)
        self._counters: list[TopCounter] = []
        self._lock = threading.Lock()
        registry.register(self)

    def counter(self, name: str, documentation: str, *further: str) -> TopCounter:
        """A new counter, to be called `<name>_total`, with `further` labels."""
        counter = TopCounter(name, documentation, further)
        self._counters.append(counter)
        return counter

    def count(self, name: str, *amounts: tuple[TopCounter, tuple[str, ...], float]) -> None:
        """One use of `name`, and what it adds to counters, each with the values of its further labels."""
        with self._lock:
            value = name if name in self._always else self._value(name)
            for counter, further, amount in amounts:
                counter.add(value, further, amount)

    def _value(self, name: str) -> str:
        if name in (OTHER, FORMER):
            return OTHER
        demoted = self._top.use(name)
        if demoted is not None:
            for counter in self._counters:
                for further, total in counter.totals.pop(demoted, {}).items():
                    counter.add(FORMER, further, total)
        return name if name in self._top else OTHER

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What Prometheus calls."""
        with self._lock:
            yield from [self._family(counter) for counter in self._counters]

    def _family(self, counter: TopCounter) -> CounterMetricFamily:
        family = CounterMetricFamily(counter.name, counter.documentation, labels=(self._label, *counter.further))
        for value, totals in counter.totals.items():
            for further, total in totals.items():
                family.add_metric((value, *further), total)
        return family
