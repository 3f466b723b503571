"""An adapter's versions and aliases through any sequence of changes, against a model of a few dictionaries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from server.core.errors import ApiError, NotFound
from tests.server.support.process import Process

ALIASES = ("prod", "next")
versions = st.integers(1, 4)
aliases = st.sampled_from(ALIASES)


class AdapterLife(RuleBasedStateMachine):
    """`values` and `deleted` have a key per version that was not purged; deletions are numbered."""

    processes: tuple[Process, ...]
    runner: asyncio.Runner
    lives = 0

    def __init__(self) -> None:
        super().__init__()
        AdapterLife.lives += 1
        self.name = f"acme/math{AdapterLife.lives}"
        self.turn = 0
        self.values: dict[int, float] = {}
        self.deleted: dict[int, int] = {}
        self.last_version = self.deletions = 0
        self.aliases: dict[str, Mapping[int, float]] = {}
        self.moves: dict[str, list[Mapping[int, float] | None]] = {alias: [] for alias in ALIASES}

    @property
    def process(self) -> Process:
        self.turn += 1
        return self.processes[self.turn % 2]

    @property
    def live(self) -> list[int]:
        return sorted(self.values.keys() - self.deleted.keys())

    def expect(self, allowed: bool, do: Callable[[], Any]) -> bool:
        """Whether it was done; it must be exactly when the model allows it."""
        try:
            do()
        except ApiError as error:
            assert not allowed and 400 <= error.status < 500, error
        else:
            assert allowed
        return allowed

    def move(self, alias: str, targets: Mapping[int, float] | None) -> None:
        self.moves[alias].append(targets)
        if targets is None:
            del self.aliases[alias]
        else:
            self.aliases[alias] = targets

    def came_back(self) -> None:
        for alias, targets in list(self.aliases.items()):
            if not targets.keys() <= set(self.live):
                self.move(alias, None)

    @initialize()
    def begin(self) -> None:
        self.create()

    @rule()
    def create(self) -> None:
        was_deleted = not self.live
        self.last_version += 1
        value = self.last_version / 8
        assert self.process.create(self.name, value).version == self.last_version
        self.values[self.last_version] = value
        if was_deleted:
            self.came_back()

    @rule(version=versions)
    def delete_version(self, version: int) -> None:
        used = any(version in targets for targets in self.aliases.values())
        if self.expect(version in self.live and not used, lambda: self.process.delete(f"{self.name}@{version}")):
            self.deletions += 1
            self.deleted[version] = self.deletions

    @rule()
    def delete_adapter(self) -> None:
        live = self.live
        if self.expect(bool(live), lambda: self.process.delete(self.name)):
            self.deletions += 1
            self.deleted.update(dict.fromkeys(live, self.deletions))

    @rule(version=versions)
    def restore_version(self, version: int) -> None:
        was_deleted = not self.live
        if self.expect(version in self.deleted, lambda: self.process.restore(f"{self.name}@{version}")):
            del self.deleted[version]
            if was_deleted:
                self.came_back()

    @rule()
    def restore_adapter(self) -> None:
        last = max(self.deleted.values(), default=0)
        if self.expect(bool(self.deleted) and not self.live, lambda: self.process.restore(self.name)):
            self.deleted = {version: number for version, number in self.deleted.items() if number != last}
            self.came_back()

    @rule(version=versions)
    def purge_version(self, version: int) -> None:
        used = bool(self.live) and any(version in targets for targets in self.aliases.values())
        if self.expect(version in self.values and not used, lambda: self.process.purge(f"{self.name}@{version}")):
            del self.values[version]
            self.deleted.pop(version, None)

    @rule()
    def purge_adapter(self) -> None:
        if self.expect(bool(self.values), lambda: self.process.purge(self.name)):
            self.values, self.deleted, self.aliases = {}, {}, {}
            self.moves = {alias: [] for alias in ALIASES}

    @rule(alias=aliases, to=st.dictionaries(versions, st.sampled_from([1.0, 3.0]), min_size=1, max_size=2))
    def set_alias(self, alias: str, to: Mapping[int, float]) -> None:
        allowed = bool(self.live) and to.keys() <= set(self.live)
        done = self.expect(allowed, lambda: self.process.set_alias(self.name, alias, to))
        if done and self.aliases.get(alias) != to:
            self.move(alias, to)

    @rule(alias=aliases)
    def remove_alias(self, alias: str) -> None:
        allowed = bool(self.live) and alias in self.aliases
        if self.expect(allowed, lambda: self.process.remove_alias(self.name, alias)):
            self.move(alias, None)

    @rule(alias=aliases)
    def roll_back(self, alias: str) -> None:
        before = self.moves[alias][-2] if len(self.moves[alias]) > 1 else None
        allowed = bool(self.live) and before is not None and before.keys() <= set(self.live)
        if self.expect(allowed, lambda: self.process.roll_back(self.name, alias)):
            self.move(alias, before)

    @invariant()
    def a_process_serves_what_the_model_has(self) -> None:
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        live = self.live
        expected: dict[str, int | None] = {self.name: live[-1] if live else None}
        expected |= {f"{self.name}@{version}": version if version in live else None for version in range(1, 5)}
        for alias in ALIASES:
            targets = self.aliases.get(alias) if live else None
            lowest = min(targets) if targets else None
            expected[f"{self.name}@{alias}"] = lowest
        process = self.process
        for reference, version in expected.items():
            try:
                stored = await process.resolve(reference, pick=0.0)
            except NotFound:
                assert version is None, reference
            else:
                assert stored.version == version, reference
                assert stored.adapter.vector()[0, 0] == self.values[stored.version]
        if live:
            assert process.aliases(self.name) == self.aliases
            assert process.versions(self.name) == live[::-1]
        if self.last_version:
            assert process.versions(self.name, deleted=True) == sorted(self.deleted, reverse=True)


def test_adapter_is_what_the_model_says_after_any_changes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tinylora.db"
    AdapterLife.processes = (Process.on(url), Process.on(url))
    with asyncio.Runner() as AdapterLife.runner:
        run_state_machine_as_test(
            AdapterLife,
            settings=settings(max_examples=30, stateful_step_count=20, deadline=None, derandomize=True),
        )
        for process in AdapterLife.processes:
            AdapterLife.runner.run(process.close())
