"""Versions of adapters: immutable, consecutive, never reused, and never served from an outdated cache."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from adapters.adapter import Adapter
from adapters.recipe import Recipe
from server.errors import NotFound
from server.names import Reference
from server.registry import Registry
from server.resolve_cache import ResolveCache


def adapter(value: float = 0.5, **recipe: int) -> Adapter:
    made = Recipe(**recipe)
    return Adapter.from_vector(torch.full((made.groups, made.u), value), made, "a" * 64, "bfloat16")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tinylora.db"


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    registry = Registry(url)
    yield registry
    registry.close()


@pytest.fixture
def other(url: str, registry: Registry) -> Iterator[Registry]:
    """Another process on the same database, as far as the database can tell."""
    other = Registry(url)
    yield other
    other.close()


def test_what_was_stored_comes_back_unchanged_after_a_restart(url: str) -> None:
    first = Registry(url)
    stored = first.create("acme/math", adapter(0.25, rank=1, u=3, groups=2, seed=7), {"job": "j1", "ünï": "code"})
    first.close()
    second = Registry(url)
    assert second.resolve(Reference("acme/math")) == stored
    assert second.resolve(Reference("acme/math", 1)) == stored
    assert second.create("acme/math", adapter()).version == 2
    second.close()


def test_identical_bytes_make_a_new_version_and_leave_the_old_one(registry: Registry) -> None:
    first, second = registry.create("a", adapter()), registry.create("a", adapter())
    assert (first.id, second.id) == ("a@1", "a@2")
    assert registry.resolve(Reference("a", 1)) == first
    assert registry.resolve(Reference("a")) == second


def test_concurrent_uploads_of_one_name_get_consecutive_versions(registry: Registry, other: Registry) -> None:
    def upload(number: int) -> tuple[int, float]:
        stored = (registry, other)[number % 2].create("a", adapter(float(number)))
        return stored.version, float(number)

    with ThreadPoolExecutor(8) as pool:
        versions = dict(pool.map(upload, range(40)))
    assert sorted(versions) == list(range(1, 41))
    for version, value in versions.items():
        assert registry.resolve(Reference("a", version)).adapter.vector()[0, 0] == value


def test_deleted_adapter_is_gone_and_its_numbers_are_not_given_again(registry: Registry) -> None:
    registry.create("a", adapter())
    registry.create("a", adapter())
    registry.delete(Reference("a"))
    for reference in (Reference("a"), Reference("a", 1), Reference("a", 2)):
        with pytest.raises(NotFound):
            registry.resolve(reference)
        with pytest.raises(NotFound):
            registry.delete(reference)
    assert registry.list().items == ()
    with pytest.raises(NotFound):
        registry.versions("a")
    assert registry.create("a", adapter()).id == "a@3"


def test_deletions_and_uploads_of_two_processes_do_not_fail_each_other(registry: Registry, other: Registry) -> None:
    registry.create("a", adapter())
    done = Event()

    def delete() -> None:
        while not done.is_set():
            with suppress(NotFound):
                other.delete(Reference("a"))

    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete)
        versions = [registry.create("a", adapter()).version for _ in range(60)]
        done.set()
        deleting.result()
    assert versions == list(range(2, 62))


def test_deleting_the_latest_version_uncovers_the_one_before(registry: Registry) -> None:
    for _ in range(3):
        registry.create("a", adapter())
    registry.delete(Reference("a", 3))
    assert registry.resolve(Reference("a")).version == 2
    registry.delete(Reference("a", 1))
    assert [item.version for item in registry.versions("a").items] == [2]
    assert registry.create("a", adapter()).version == 4


def test_resolved_versions_are_cached_until_a_write_concerns_them(registry: Registry) -> None:
    latest, pinned = Reference("a"), Reference("a", 1)
    registry.create("a", adapter())
    assert registry.cached(latest) is None
    assert registry.cached(latest) is None
    registry.resolve(latest), registry.resolve(pinned)
    registry.create("b", adapter())
    assert registry.cached(latest) == registry.cached(pinned) == registry.resolve(pinned)
    registry.create("a", adapter())
    assert registry.cached(latest) is None
    assert registry.cached(pinned) is not None
    registry.delete(Reference("a"))
    assert registry.cached(pinned) is None


def test_writes_of_another_process_are_seen_at_once(registry: Registry, other: Registry) -> None:
    registry.create("a", adapter())
    assert registry.resolve(Reference("a")).version == 1
    assert registry.resolve(Reference("a", 1)).version == 1
    other.create("a", adapter())
    assert registry.cached(Reference("a")) is None
    assert registry.resolve(Reference("a")).version == 2
    other.delete(Reference("a", 1))
    assert registry.cached(Reference("a", 1)) is None
    with pytest.raises(NotFound):
        registry.resolve(Reference("a", 1))


def test_readers_among_writers_never_see_a_version_go_back(registry: Registry, other: Registry) -> None:
    registry.create("a", adapter())
    done = Event()

    def watch() -> bool:
        seen = 0
        while not done.is_set():
            version = (registry.cached(Reference("a")) or registry.resolve(Reference("a"))).version
            if version < seen:
                return False
            seen = version
        return True

    with ThreadPoolExecutor(3) as pool:
        watchers = [pool.submit(watch) for _ in range(3)]
        for number in range(60):
            created = (registry, other)[number % 2].create("a", adapter())
            assert (registry.cached(Reference("a")) or registry.resolve(Reference("a"))) == created
        done.set()
        assert all(watcher.result() for watcher in watchers)


def test_value_read_before_an_invalidation_is_not_cached_after_it() -> None:
    cache: ResolveCache[str] = ResolveCache(10)
    reading = cache.sync(1)
    cache.forget(Reference("a"))
    cache.put(Reference("a"), "old", reading)
    assert cache.get(Reference("a")) is None
    cache.put(Reference("a"), "new", cache.sync(1))
    assert cache.get(Reference("a")) == "new"
    assert cache.sync(2) != cache.sync(1)
    assert cache.get(Reference("a")) is None


def test_cache_keeps_the_most_recently_used() -> None:
    cache: ResolveCache[int] = ResolveCache(2)
    generation = cache.sync(1)
    for number in range(2):
        cache.put(Reference("a", number), number, generation)
    cache.get(Reference("a", 0))
    cache.put(Reference("a", 2), 2, generation)
    assert [cache.get(Reference("a", number)) for number in range(3)] == [0, None, 2]


def test_pages_hold_every_adapter_once_while_others_are_inserted(registry: Registry, other: Registry) -> None:
    wanted = [f"n{number:03}" for number in range(60)]
    for name in wanted:
        registry.create(name, adapter())
    stop = Event()

    def insert() -> None:
        number = 0
        while not stop.is_set():
            other.create(f"n{number % 60:03}x{number}", adapter())
            other.create(f"n{number % 60:03}", adapter())
            number += 7

    writer = Thread(target=insert)
    writer.start()
    listed: list[str] = []
    has_more = True
    while has_more:
        page = registry.list(after=listed[-1] if listed else "", limit=7)
        listed += [item.name for item in page.items]
        has_more = page.has_more
    stop.set()
    writer.join()
    assert listed == sorted(set(listed))
    assert set(wanted) <= set(listed)


def test_versions_come_newest_first_in_pages(registry: Registry) -> None:
    for _ in range(5):
        registry.create("a", adapter())
    first = registry.versions("a", limit=2)
    second = registry.versions("a", before=first.items[-1].version, limit=3)
    assert [item.version for item in first.items] == [5, 4] and first.has_more
    assert [item.version for item in second.items] == [3, 2, 1] and not second.has_more
    assert registry.versions("a", before=1).items == ()
