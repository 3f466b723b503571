"""The events of jobs, on both databases: in the order in which things happened, by ids that tell of no other job."""

from __future__ import annotations

from itertools import pairwise

from server.db.training_tables import JOB_EVENTS
from server.training.jobs.events import add_events, event_id, list_events
from server.training.jobs.protocol import WorkerEvent
from tests.server.support.training_process import TrainingProcess


def say(gateway: TrainingProcess, job_id: str, *messages: str) -> None:
    gateway.do(lambda to: add_events(to, job_id, [WorkerEvent(message=message) for message in messages]))


def listed(gateway: TrainingProcess, job_id: str, limit: int = 100, after: str | None = None) -> list[tuple[str, str]]:
    """(id, message), newest first."""
    rows, _ = gateway.do(lambda to: list_events(to, job_id, after=after, limit=limit))
    return [(event_id(row.id), row.message) for row in rows]


def paged(gateway: TrainingProcess, job_id: str) -> list[tuple[str, str]]:
    found = page = listed(gateway, job_id, limit=2)
    while page:
        page = listed(gateway, job_id, limit=2, after=page[-1][0])
        found = found + page
    return found


def test_ids_do_not_show_how_many_events_other_jobs_have(gateway: TrainingProcess) -> None:
    own, other = gateway.new_job(), gateway.new_job()
    for number in range(4):
        say(gateway, own, f"own {number}")
        say(gateway, other, *["other"] * number)
    numbers = [int(id_.removeprefix("ftevent-"), 16) for id_, _ in listed(gateway, own)]
    assert [later - earlier for earlier, later in pairwise(numbers)] == [-1] * (len(numbers) - 1)
    assert paged(gateway, own) == listed(gateway, own)
    assert not {id_ for id_, _ in listed(gateway, own)} & {id_ for id_, _ in listed(gateway, other)}
    third = gateway.new_job()
    starts = [int(listed(gateway, job_id)[-1][0].removeprefix("ftevent-"), 16) for job_id in (own, other, third)]
    # The jobs began a few events after each other.
    assert min(abs(one - next_) for one, next_ in pairwise(starts)) > 2**16


def test_an_id_of_another_job_says_nothing_of_that_job(gateway: TrainingProcess) -> None:
    own, other = gateway.new_job(), gateway.new_job()
    say(gateway, other, "secret")
    their_id, _ = listed(gateway, other)[0]
    with_event = listed(gateway, own, after=their_id)
    gateway.do(lambda to: to.execute(JOB_EVENTS.delete().where(JOB_EVENTS.c.job_id == other)))
    assert listed(gateway, own, after=their_id) == with_event


def test_pages_go_on_where_events_were_removed_meanwhile(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    say(gateway, job_id, "a", "b", "c")
    events = listed(gateway, job_id)
    gateway.do(lambda to: to.execute(JOB_EVENTS.delete().where(JOB_EVENTS.c.message == "b")))
    assert listed(gateway, job_id, after=events[1][0]) == events[2:]


def test_events_that_the_database_numbered_keep_their_ids_and_new_ones_follow_them(gateway: TrainingProcess) -> None:
    own, other = gateway.new_job(), gateway.new_job()
    gateway.do(lambda to: to.execute(JOB_EVENTS.delete()))
    messages = [(own, "old 1"), (other, "theirs"), (own, "old 2"), (other, "theirs")]
    of_all = {"created_at": 0, "level": "info", "type": "message", "data": "{}"}
    for job_id, message in messages:
        old = JOB_EVENTS.insert().values(job_id=job_id, message=message, **of_all)
        gateway.do(lambda to, old=old: to.execute(old))
    assert listed(gateway, own) == [(event_id(3), "old 2"), (event_id(1), "old 1")]
    say(gateway, own, "new 1")
    say(gateway, own, "new 2")
    events = listed(gateway, own)
    assert [message for _, message in events] == ["new 2", "new 1", "old 2", "old 1"]
    assert events[2:] == [(event_id(3), "old 2"), (event_id(1), "old 1")]
    # Whoever reads on takes what is behind the last id it knows, compared as text.
    assert sorted(events, reverse=True) == events
    assert paged(gateway, own) == events
