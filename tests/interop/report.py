"""Counts what was expected and what came, and ends with the line that other programs read.

May not: decide what is expected.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable


class Report:
    """Prints each finding as it comes; misses are printed once more at the end."""

    def __init__(self) -> None:
        self.passed = 0
        self.misses: list[str] = []

    def check(self, holds: bool, what: str, otherwise: object = "") -> bool:
        """Count one expectation. `otherwise` says what came instead."""
        if holds:
            self.passed += 1
            print(f"  ok    {what}", flush=True)
        else:
            miss = f"{what}: {otherwise}" if otherwise != "" else what
            self.misses.append(miss)
            print(f"  MISS  {miss}", flush=True)
        return holds

    @staticmethod
    def say(text: str) -> None:
        print(text, flush=True)

    def attempt(self, name: str, act: Callable[[], object]) -> None:
        """Do one part of a run. If it breaks off that is a miss, and the others still have their
        turn."""
        try:
            act()
        except (Exception, SystemExit) as fault:
            traceback.print_exc()
            self.check(False, f"{name} reached its end", repr(fault))

    def close(self) -> int:
        """The exit code, after the closing line."""
        if self.misses:
            print("\nMisses:")
            for miss in self.misses:
                print(f"  {miss}")
        print(f"{self.passed} passed, {len(self.misses)} failed", flush=True)
        return 1 if self.misses else 0


def run(body: Callable[[Report], object]) -> None:
    """Run `body(report)`. Whatever breaks off is a miss, so the closing line always comes."""
    report = Report()
    report.attempt("the run", lambda: body(report))
    sys.exit(report.close())
