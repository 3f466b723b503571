from __future__ import annotations

import asyncio

from server.limits.fair_semaphore import FairSemaphore, ShareSemaphore, Slots, TenantSemaphores


async def served(at_once: int, *crowds: tuple[str, str, int]) -> list[str]:
    """In which order these get in: so many of a tenant and a job each, all of a crowd before the next one."""
    semaphore, order = FairSemaphore(at_once), []

    async def one(tenant: str, job: str) -> None:
        async with semaphore.slot(tenant, job):
            order.append(job)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(tenant, job) for tenant, job, count in crowds for _ in range(count)))
    assert not semaphore._present and not semaphore._next and not semaphore._latest
    return order


class Held:
    """How many slots a tenant holds at a time, at most."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._now = self.most = 0

    async def once(self) -> None:
        async with self._slots.slot("acme"):
            self._now += 1
            self.most = max(self.most, self._now)
            await asyncio.sleep(0)
            self._now -= 1


async def test_a_tenant_that_comes_last_waits_for_one_of_each_other() -> None:
    order = await served(1, ("acme", "a", 100), ("globex", "b", 3))
    assert [place for place, job in enumerate(order) if job == "b"] == [1, 3, 5]


async def test_a_small_job_does_not_wait_for_a_large_one_of_its_tenant() -> None:
    order = await served(2, ("acme", "large", 100), ("acme", "small", 4))
    assert max(place for place, job in enumerate(order) if job == "small") < 12


async def test_a_tenant_with_many_jobs_has_no_more_turns_than_one_with_one() -> None:
    order = await served(1, ("acme", "a", 50), ("acme", "b", 50), ("globex", "c", 10))
    first = order[: order.index("c") + 19]
    assert first.count("c") == 10


async def test_a_place_given_up_while_waiting_is_nobodys() -> None:
    semaphore = FairSemaphore(1)
    async with semaphore.slot("acme"):
        waiting = [asyncio.create_task(semaphore.slot("acme").__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1), semaphore.slot("globex"):
        pass


async def test_waiting_that_is_cancelled_makes_no_slot() -> None:
    semaphore = FairSemaphore(1)
    held = Held(semaphore)
    async with semaphore.slot("acme"):
        waiting = [asyncio.create_task(held.once()) for _ in range(4)]
        await asyncio.sleep(0)
        for task in waiting[:3]:
            task.cancel()
    # The slot was free while the cancelled ones had not left yet.
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting, *(held.once() for _ in range(5)), return_exceptions=True)
    assert not any(task.exception() for task in waiting[3:])
    assert held.most == 1


async def test_a_tenant_whose_slots_hang_keeps_nobody_else_waiting() -> None:
    semaphores, ends = TenantSemaphores(2), asyncio.Event()

    async def hang() -> None:
        async with semaphores.slot("acme"):
            await ends.wait()

    hanging = [asyncio.create_task(hang()) for _ in range(5)]
    await asyncio.sleep(0)
    async with asyncio.timeout(1), semaphores.slot("globex"):
        pass
    ends.set()
    await asyncio.gather(*hanging)
    assert not semaphores._semaphores and not semaphores._present


async def test_a_tenant_has_no_more_slots_than_its_own() -> None:
    held = Held(TenantSemaphores(2))
    await asyncio.gather(*(held.once() for _ in range(9)))
    assert held.most == 2


async def test_by_time_a_tenant_of_short_turns_waits_for_few_long_ones() -> None:
    now = 0.0
    semaphore, order = FairSemaphore(1, lambda: now), []

    async def one(tenant: str, seconds: float) -> None:
        nonlocal now
        async with semaphore.slot(tenant):
            order.append(tenant)
            await asyncio.sleep(0)
            now += seconds

    await asyncio.gather(*(one("hangs", 5.0) for _ in range(16)), *(one("quick", 0.01) for _ in range(16)))
    last = 31 - order[::-1].index("quick")
    assert order[:last].count("hangs") <= 3


async def test_a_tenant_has_no_more_than_its_share_of_what_all_share() -> None:
    semaphore, ends = ShareSemaphore(4, 2), asyncio.Event()
    inside: list[str] = []

    async def hang(tenant: str) -> None:
        async with semaphore.slot(tenant):
            inside.append(tenant)
            await ends.wait()

    hanging = [asyncio.create_task(hang("acme")) for _ in range(9)]
    for _ in range(9):
        await asyncio.sleep(0)
    hanging += [asyncio.create_task(hang(tenant)) for tenant in ("globex", "globex", "initech")]
    for _ in range(9):
        await asyncio.sleep(0)
    assert inside == ["acme", "acme", "globex", "globex"]
    ends.set()
    await asyncio.gather(*hanging)
    assert sorted(inside) == ["acme"] * 9 + ["globex"] * 2 + ["initech"]
