"""Vestibule beside a real homeserver: Synapse, as it comes from PyPI, over real TLS on loopback.

Users of either server ask, answer and talk through their own server's client API. What both
servers' clients are told, what the owners see and what the admins count has to agree.

    real_peers.py                   every scenario
    real_peers.py aliases banned    only those named
    real_peers.py --all             kills after every step, not after one step of each story

May not: speak federation itself or read either server's files; both are asked as their users and
admins ask them. A 429 counts as a miss, as everywhere.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from real import apart, both_ways, knocks, life_here, life_there, signals, upgrades
from real.ground import Peers
from report import Report, run

SCENARIOS = {scenario.__name__: scenario
             for module in (knocks, life_here, life_there, both_ways, signals, upgrades, apart)
             for scenario in module.SCENARIOS}


def main(report: Report) -> None:
    every_step = "--all" in sys.argv
    names = [name for name in sys.argv[1:] if name != "--all"] or list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise SystemExit(f"no such scenario: {' '.join(unknown)}; there are {' '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory(prefix="real-peers-") as directory:
        peers = Peers(report, Path(directory), every_step=every_step)
        try:
            peers.begin()
            for name in names:
                report.attempt(name, lambda name=name: SCENARIOS[name](peers))
            peers.end()
        finally:
            peers.kill()


if __name__ == "__main__":
    run(main)
