"""`tinylora worker --ray`: training workers on the machines of a Ray cluster, which come back when a machine dies.

    this process, the driver          an actor for each worker, spread over the nodes; starts them, watches, ends them
      RayWorker, an actor             Ray starts it again, on another node if its own is gone
        `tinylora worker`, a process  the same as without Ray; a job that it had goes on behind its last step

Design decision: a process in each actor, and not the loop in the actor itself. A worker sets what torch reads when it
is imported, ends on signals and may end with its memory full; as a process it is exactly what runs without Ray.

The nodes need the same versions of this package, Python and Ray, and the model where `--model` says. What the variables
TINYLORA_* say here, the key among them, is given to the workers; whoever may use the Ray cluster can read it there.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from server.launch.gpu_facts import VISIBLE_VARIABLE
from server.launch.own_workers import LOOPBACK
from server.launch.ray_actor import RayWorker
from server.launch.start_checks import INSTALL_RAY, CannotStart

LOOK_S = 2.0
# A worker has 30 s for its running steps.
STOP_S = 45.0
WAITING_LINE_S = 30.0
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class RayOptions:
    """address: of the cluster; "auto" is the one that this machine is part of. count: of workers.

    cpus, gpus: what Ray keeps for each; of 0 GPUs a worker sees none.
    """

    address: str = "auto"
    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


def run_ray_workers(
    options: RayOptions, url: str, command: Sequence[str], environment: Mapping[str, str], log: Callable[[str], None]
) -> None:
    """Keep workers running on the cluster until SIGTERM or SIGINT. CannotStart without Ray, or without a cluster.

    command: `worker` and its flags. environment: more variables for it. log: called with a line for the operator.
    """
    ray = _connected(options.address)
    try:
        _warn(ray, options, url, log)
        stopping = threading.Event()
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: stopping.set())
        remote = ray.remote(RayWorker).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=4,
            scheduling_strategy="SPREAD",
        )
        # What Ray gives to an actor without GPUs depends on its version.
        given = {**environment, **({} if options.gpus else {VISIBLE_VARIABLE: ""})}
        actors = [remote.remote(list(command), given) for _ in range(options.count)]
        runs = [actor.run.remote() for actor in actors]
        placed = _watch(ray, actors, options, stopping, log)
        if placed:
            log("ending: running steps have 30 seconds")
            for number in placed:
                actors[number].stop.remote()
            ray.wait([runs[number] for number in placed], num_returns=len(placed), timeout=STOP_S)
    finally:
        ray.shutdown()
    log("ended")


def ray_environment() -> dict[str, str]:
    """The variables of this process that are settings of the project's."""
    return {name: value for name, value in os.environ.items() if name.startswith("TINYLORA_")}


def _connected(address: str) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise CannotStart(f"--ray needs Ray, which is not installed: {INSTALL_RAY}.")
    import ray

    try:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():  # Ray itself asks a machine that is not there for minutes
            socket.create_connection((host.rpartition("/")[2], int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, log_to_driver=True, logging_level="warning")
    except (OSError, ValueError, RuntimeError) as error:
        raise CannotStart(
            f"There is no Ray cluster at {address} that can be joined ({error}). Start one with `ray start --head`, "
            "add machines with `ray start --address HOST:6379`, or name one: --ray-address HOST:6379."
        ) from error
    return ray


def _warn(ray: Any, options: RayOptions, url: str, log: Callable[[str], None]) -> None:
    alive = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    log(f"{len(alive)} nodes with {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs")
    machines = {node["NodeManagerAddress"] for node in alive}
    if len(machines) > 1 and urlsplit(url).hostname in LOOPBACK:
        log(f"--url {url} is another machine on each node: give the address that all of them reach the server by")
    for name, wanted in (("CPU", options.cpus), ("GPU", options.gpus)):
        most = max((node["Resources"].get(name, 0) for node in alive), default=0)
        if wanted > most:
            log(f"no node has {wanted:g} {name}s, which each worker is to have; the largest has {most:g}")


def _watch(
    ray: Any, actors: Sequence[Any], options: RayOptions, stopping: threading.Event, log: Callable[[str], None]
) -> list[int]:
    """Until `stopping`, tell where workers are, and which wait for a node. The numbers of those that had one."""
    asked = {number: actor.place.remote() for number, actor in enumerate(actors)}
    places: dict[int, str] = {}
    waiting_since, told = dict.fromkeys(asked, time.monotonic()), dict.fromkeys(asked, 0.0)
    while not stopping.wait(LOOK_S):
        for number, question in list(asked.items()):
            if ray.wait([question], timeout=0)[0]:
                place = ray.get(question)
                if places.get(number) != place:
                    before = f", before on {places[number]}, which is gone" if number in places else ""
                    log(f"worker {number} runs on {place}{before}")
                places[number], waiting_since[number] = place, time.monotonic()
                asked[number] = actors[number].place.remote()
            waits_s = time.monotonic() - waiting_since[number]
            if waits_s > WAITING_LINE_S and time.monotonic() - told[number] > WAITING_LINE_S:
                told[number] = time.monotonic()
                log(
                    f"worker {number} has waited {waits_s:.0f} s for a node with {options.cpus:g} CPUs and "
                    f"{options.gpus:g} GPUs free"
                )
    return sorted(places)
