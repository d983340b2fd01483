"""Stories that servers go through together, told once as they are and once more with a kill.

A story is a generator. It yields the name of each step right after somebody was promised something,
before it looks whether that holds: there a `kill -9` hurts most. With a kill or without, a story
makes the same checks, so its outcome must be the same.

May not: know what a story is about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from report import Report

Story = Iterator[str]
# Any order of kills has to come out right; this one is drawn when nobody asks for another.
SEED = 3


class Killable(Protocol):
    """A server as a process."""

    def is_running(self) -> bool: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


@dataclass(frozen=True)
class Kill:
    """Which server goes, and after which step. The number tells steps of one name apart."""

    server: str
    number: int
    step: str

    def __str__(self) -> str:
        return f"kill -9 of {self.server} after “{self.step}”"


class Teller:
    """Tells stories about these servers."""

    def __init__(self, report: Report, servers: Mapping[str, Killable], *,
                 every_step: bool = False, seed: int = SEED) -> None:
        self._report = report
        self._servers = servers
        self._every_step = every_step
        self._seed = seed

    def once(self, story: Story) -> list[Kill]:
        """Tell it; every kill that would have been possible."""
        return [Kill(name, number, step) for number, step in enumerate(story)
                for name, server in self._servers.items() if server.is_running()]

    def with_kills(self, title: str, possible: list[Kill],
                   anew: Callable[[Kill], Story]) -> None:
        """Tell it again for one of these kills, drawn by seed and title, or for each."""
        drawn = possible if self._every_step else [
            random.Random(f"{self._seed} {title}").choice(possible)]
        for kill in drawn:
            self._report.say(f"\n{title}, again, with a {kill}")
            server = self._servers[kill.server]
            for number, step in enumerate(anew(kill)):
                if number == kill.number:
                    self._report.check(step == kill.step and server.is_running(),
                                       f"{kill.server} is killed and started again", step)
                    server.kill()
                    server.start()
