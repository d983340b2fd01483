"""Every kind of bad request that we know, each with the answer it must get.

Prints one line a row. Before and after each row the room is compared: state, members, last event,
forward extremities, pending knocks. After each row a good request must work, after each group a
whole knock. Words given as arguments choose the rows whose name holds one of them.

May not: take a 429 or a 5xx for an answer, except where a row says so.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from authority import CertificateAuthority
from bad import (client_calls, headers, joins, json_bodies, keys, leave, limits, make_knock,
                 odd_but_right, reads, send_knock, sent)
from bad.ground import Ground
from bad.row import Row
from report import Report, run

GROUPS: list[tuple[str, list[Row]]] = [
    ("The Authorization header", headers.ROWS),
    ("Keys of other servers", keys.ROWS),
    ("make_knock", make_knock.ROWS),
    ("send_knock", send_knock.ROWS),
    ("JSON", json_bodies.ROWS),
    ("make_leave and send_leave", leave.ROWS),
    ("make_join and send_join", joins.ROWS),
    ("Reading rooms", reads.ROWS),
    ("Invites and transactions", sent.ROWS),
    ("Clients, admins, listeners", client_calls.ROWS),
    ("Limits", limits.ROWS),
    ("Odd, but right", odd_but_right.ROWS),
]


class Grounds:
    """The servers that rows ask for, each started when the first row needs it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = CertificateAuthority(directory)
        self.started: dict[str, Ground] = {}

    def named(self, name: str) -> Ground:
        if name not in self.started:
            self.started[name] = Ground(self._directory / name, self._authority,
                                        limits.SETTINGS[name])
        return self.started[name]


def complaints(ground: Ground, row: Row) -> list[str]:
    """Run one row; everything that is not as it must be."""
    ground.enter(row.room)
    if row.prepare is not None:
        ground.prepared = row.prepare(ground)
    here = ground.here
    before = None if row.changes else ground.fingerprint(here)
    answer = row.act(ground)
    found = []
    if (complaint := row.complaint(answer)) is not None:
        found.append(complaint)
    elif row.also is not None and (complaint := row.also(ground, answer)) is not None:
        found.append(complaint)
    if before is not None and (after := ground.fingerprint(here)) != before:
        found.append(f"the room changed: {_difference(before, after)}")
    good = ground.good_request()
    if good.status != 200:
        found.append(f"the next good request: {good}")
    return found


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {key: (before[key], after[key]) for key in before
            if key not in ("state", "members") and before[key] != after[key]} | {
        f"{key} of {what}": (before[key].get(what), after[key].get(what))
        for key in ("state", "members") for what in {*before[key], *after[key]}
        if before[key].get(what) != after[key].get(what)}


def run_row(report: Report, grounds: Grounds, row: Row) -> None:
    try:
        ground = grounds.named(row.ground)
        if not ground.vestibule.is_running():
            ground.vestibule.start()
        found = complaints(ground, row)
        if not ground.vestibule.is_running():
            found.append("the server is gone")
    except Exception as fault:  # noqa: BLE001 - a row that cannot run is a miss, the others go on
        where = traceback.extract_tb(fault.__traceback__)[-1]
        found = [f"the row could not run: {fault!r} ({Path(where.filename).name}:{where.lineno})"]
    report.check(not found, f"{row.name} → {row.expected}  [{row.source}]", "; ".join(found))


def main(report: Report) -> None:
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="bad-requests-") as directory:
        grounds = Grounds(Path(directory))
        try:
            for title, rows in GROUPS:
                chosen = [row for row in rows
                          if not wanted or any(word in row.name for word in wanted)]
                if not chosen:
                    continue
                report.say(f"\n{title}")
                for row in chosen:
                    run_row(report, grounds, row)
                if "open" in grounds.started:
                    knock = grounds.started["open"].good_knock()
                    report.check(knock.status == 200, f"after {title.lower()}: a whole knock", knock)
            for name, ground in grounds.started.items():
                panics = [line for line in ground.vestibule.log_file.read_text().splitlines()
                          if "panicked" in line]
                report.check(not panics, f"nothing panicked in the server of “{name}”", panics[:3])
                report.check(ground.vestibule.stop() == 0, "and it stops with status 0")
        finally:
            for ground in grounds.started.values():
                ground.close()


if __name__ == "__main__":
    run(main)
