"""Two Vestibules with names of their own, their users, and rooms in the north that the south asks
to be let into.

May not: tell one server anything about the other but the authority that both trust.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from authority import CertificateAuthority
from person import Person
from relay import Relay
from report import Report
from story import Kill, Story, Teller
from vestibule import Vestibule, free_port, quoted, text_value

NORTH_ADDRESS = "127.0.1.1"
SOUTH_ADDRESS = "127.0.1.3"
# Where they listen while a relay has the address that is their name.
BEHIND = {NORTH_ADDRESS: "127.0.1.11", SOUTH_ADDRESS: "127.0.1.13"}
VERSIONS = ("12", "11", "10")
WIDE = "{ per_second = 1000.0, burst = 1000 }"
# One server on one network stands for the whole world here, and one machine for all its users. What
# bounds a single room or a single user is left as it is.
SETTINGS = {
    **{f"rate_limit.{bucket}": WIDE for bucket in (
        "knocks_by_origin", "knocks_by_network", "registrations_by_address", "messages_by_user")},
    # A peer that was killed and is back is asked again at once.
    "federation.retry_backoff_min": '"1s"',
    "federation.retry_backoff_max": '"1s"',
}


class Pair:
    """Both servers. Stories share them, but neither rooms nor users."""

    def __init__(self, report: Report, directory: Path, *, every_step: bool, seed: int,
                 settings: dict[str, str] = SETTINGS) -> None:
        self.report = report
        self.authority = CertificateAuthority(directory)
        self.north = Vestibule.at(NORTH_ADDRESS, directory / "north", self.authority, settings)
        self.south = Vestibule.at(SOUTH_ADDRESS, directory / "south", self.authority, settings)
        self._teller = Teller(report, {"north": self.north, "south": self.south},
                              every_step=every_step, seed=seed)
        self._users = 0

    def begin(self) -> None:
        self.north.start()
        self.south.start()
        self.report.say(f"The north is {self.north.server_name}, the south is"
                        f" {self.south.server_name}.")

    def end(self) -> None:
        self.report.say("\nAt the end")
        for name, server in (("north", self.north), ("south", self.south)):
            totals = server.totals()
            self.check(totals["actors_restarted"] == 0 and totals["rooms_quarantined"] == {},
                       f"no room's actor of the {name} had to be started again", totals)
            panics = [line for line in server.log_file.read_text().splitlines()
                      if "panicked" in line]
            self.check(not panics, "nothing panicked in it", panics[:3])
            self.check(server.stop() == 0, "and it stops when asked to, with status 0")

    def kill(self) -> None:
        self.north.kill()
        self.south.kill()

    def check(self, holds: Any, what: str, otherwise: object = "") -> bool:
        return self.report.check(bool(holds), what, otherwise)

    def tell(self, title: str, story: Callable[[Pair, str], Story]) -> None:
        """As it is, and again with kills, in another room version."""
        self.report.say(f"\n{title}, room version {VERSIONS[0]}")
        possible = self._teller.once(story(self, VERSIONS[0]))
        self._teller.with_kills(title, possible, lambda kill: story(self, _version(kill)))

    # --- users and rooms ----------------------------------------------------------------------

    def owner(self, name: str = "Olga") -> Person:
        """A new user of the north."""
        return self._person(self.north, name)

    def visitor(self, name: str = "Sam") -> Person:
        """A new user of the south, who asks the north for rooms."""
        return self._person(self.south, name, self.north.server_name)

    def _person(self, server: Vestibule, name: str, *via: str) -> Person:
        self._users += 1
        localpart = re.sub("[^a-z]", "", name.lower())
        client = server.client().register(f"{localpart}{self._users}")
        client.must("PUT", f"/v3/profile/{quoted(client.user_id)}/displayname",
                    {"displayname": name})
        return Person(client, name, via)

    @staticmethod
    def room(owner: Person, version: str, join_rule: str | dict[str, Any] = "knock",
             **body: Any) -> str:
        return owner.client.create_room(version, join_rule, name="Otters",
                                        topic="All about them", **body)

    # --- in between ---------------------------------------------------------------------------

    @contextmanager
    def relays(self) -> Iterator[tuple[Relay, Relay]]:
        """All that the one asks of the other passes a relay: in front of the north, of the south."""
        with ExitStack() as stack:
            yield (stack.enter_context(self._relay(self.north, NORTH_ADDRESS)),
                   stack.enter_context(self._relay(self.south, SOUTH_ADDRESS)))

    @contextmanager
    def _relay(self, server: Vestibule, address: str) -> Iterator[Relay]:
        behind = (BEHIND[address], free_port(BEHIND[address]))
        front = server.federation_address
        listener = {"listener.1.address": text_value("{}:{}".format(*behind))}
        with server.restarted_with(listener):
            relay = Relay(self.authority, address, front, behind)
            try:
                yield relay
            finally:
                relay.close()


def _version(kill: Kill) -> str:
    """The versions of the killed tellings: any but the first, which was told already."""
    return VERSIONS[1 + kill.number % (len(VERSIONS) - 1)]
