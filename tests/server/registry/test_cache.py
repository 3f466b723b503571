"""The memory of adapters in use is bounded by their number and by their bytes."""

from server.registry.cache import ResolveCache


def test_most_recently_used_are_kept() -> None:
    cache: ResolveCache[int, str] = ResolveCache(2)
    cache.put(0, "a"), cache.put(1, "b")
    cache.get(0)
    cache.put(2, "c")
    assert [cache.get(key) for key in range(3)] == ["a", None, "c"]


def test_long_values_push_out_as_many_as_their_bytes_need() -> None:
    cache: ResolveCache[int, str] = ResolveCache(100, max_bytes=10, size_of=len)
    for key in range(5):
        cache.put(key, "12")
    cache.put(0, "1234")
    assert [cache.get(key) for key in range(5)] == ["1234", None, "12", "12", "12"]
    cache.put(9, "1" * 11)
    assert [cache.get(key) for key in (0, 2, 3, 4, 9)] == [None] * 5
    cache.put(5, "1" * 10)
    assert cache.get(5) == "1" * 10
