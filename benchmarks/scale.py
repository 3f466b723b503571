"""What many gateways ask of one PostgreSQL: measured for one statement, computed for a fleet.

    python -m benchmarks.scale --measure    writes benchmarks/scale.json: minutes
    python -m benchmarks.scale              writes the tables of docs/scale.md from it: a second

Measured is the processor time of reads (read_costs.py); computed is what a fleet makes of it (fleet.py). Nothing here
has been measured with more than one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.fleet import connections, hit_ratio, load_of
from benchmarks.read_costs import FILE, Measured, measure
from benchmarks.registry import DURABLE
from tests.postgres import running_server

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
# What PostgreSQL should be at most, for its peaks.
BUSY = 0.5
CACHED = 65_536
USED = 1_000_000
FLEETS: Sequence[tuple[int, float]] = ((1, 20), (10, 20), (100, 20), (1000, 5), (1000, 20), (1000, 50))


def tables(measured: Measured) -> str:
    """Markdown, for docs/scale.md."""
    lines = [
        f"Processor time, measured on {measured.day} ({measured.machine}):",
        "",
        "| | of PostgreSQL, one row | 64 rows in a statement, each | of the gateway, each |",
        "|---|--:|--:|--:|",
    ]
    for label, cost in (
        ("the key and its tenant", measured.key),
        ("the adapter's revision", measured.adapter),
        ("a version that is not in memory", measured.load),
    ):
        one, many = 1e6 * cost.statement_s(1), 1e6 * cost.statement_s(64) / 64
        shown = "" if cost is measured.load else f"{many:.0f} µs"
        lines.append(f"| {label} | {one:.0f} µs | {shown} | {cost.gateway_us:.0f} µs |")
    lines += [
        "",
        "| gateways | requests/s of each | of all | statements/s | cores that they keep busy | cores to have "
        "| both reads of a request | connections |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    hits = hit_ratio(CACHED, USED)
    for gateways, rate in FLEETS:
        cores = 1
        while (found := load_of(measured, gateways, rate, cores, hits)).cores > BUSY * cores:
            cores *= 2
        lines.append(
            f"| {gateways:,} | {rate:g} | {gateways * rate:,.0f} | {found.statements:,.0f} | {found.cores:.2f} "
            f"| {cores} | {2000 * found.read_s:.1f} ms | {connections(gateways):,} |"
        )
    lines += [
        "",
        f"Of requests for {USED:,} adapters, {hits:.0%} find theirs among the {CACHED:,} in a gateway's memory.",
    ]
    return "\n".join(lines)


def with_tables(page: str, new: str) -> str:
    """`page` with `new` between its markers."""
    marked = re.compile(r"(<!-- benchmarks/scale.py -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}\n{new}\n\n{found[2]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure first, and keep it in benchmarks/scale.json")
    if parser.parse_args().measure:
        with running_server(**DURABLE) as server:
            measured = asyncio.run(measure(server.url(server.new_database()), server.process_id))
        FILE.write_text(json.dumps(asdict(measured), indent=2) + "\n")
    new = tables(Measured.stored())
    PAGE.write_text(with_tables(PAGE.read_text(), new))
    print(new)


if __name__ == "__main__":
    main()
