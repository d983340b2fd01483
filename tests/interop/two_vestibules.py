"""Two Vestibules, each with its own name and address, over real TLS on loopback: what no other
server can do yet. A knock's every answer arrives, also when either side is killed in between.

    two_vestibules.py                     every story, and once more each with a kill
    two_vestibules.py denied retracted    only those named
    two_vestibules.py --all               a kill of either side after every step of each story
    two_vestibules.py --seed 7            another draw of the kills

May not: speak federation itself, or look into either server's files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pair import answers, apart, rooms
from pair.ground import Pair
from report import Report, run
from story import SEED

STORIES = {story.__name__: story for story in (*answers.STORIES, *rooms.STORIES)}
SCENARIOS = {scenario.__name__: scenario for scenario in apart.SCENARIOS}


def main(report: Report) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("names", nargs="*", choices=[*STORIES, *SCENARIOS, []])
    wanted = parser.parse_args()
    report.say(f"Kills are drawn with seed {wanted.seed}.")
    with tempfile.TemporaryDirectory(prefix="two-vestibules-") as directory:
        pair = Pair(report, Path(directory), every_step=wanted.all, seed=wanted.seed)
        try:
            pair.begin()
            for name in wanted.names or (*STORIES, *SCENARIOS):
                report.attempt(name, lambda name=name: tell(pair, name))
            pair.end()
        finally:
            pair.kill()


def tell(pair: Pair, name: str) -> None:
    if name in STORIES:
        pair.tell(name.replace("_", " ").capitalize(), STORIES[name])
    else:
        apart.tell(pair, SCENARIOS[name])


if __name__ == "__main__":
    run(main)
