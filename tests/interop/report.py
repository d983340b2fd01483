"""Counts what was expected and what came, and ends with the line that other programs read.

May not: decide what is expected.
"""

from __future__ import annotations

import sys


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

    def close(self) -> int:
        """The exit code, after the closing line."""
        if self.misses:
            print("\nMisses:")
            for miss in self.misses:
                print(f"  {miss}")
        print(f"{self.passed} passed, {len(self.misses)} failed", flush=True)
        return 1 if self.misses else 0


def run(body: object) -> None:
    """Run `body(report)`. Whatever breaks off is a miss, so the closing line always comes."""
    report = Report()
    try:
        body(report)  # type: ignore[operator]
    except SystemExit as fault:
        report.check(False, "the run reached its end", fault)
    except Exception as fault:  # noqa: BLE001 - the closing line must come whatever happened
        import traceback

        traceback.print_exc()
        report.check(False, "the run reached its end", repr(fault))
    sys.exit(report.close())
