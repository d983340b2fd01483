"""Both servers, their users and their rooms, for scenarios with a real homeserver.

May not: speak federation itself or read either server's files; both are asked as their users and
admins ask them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from authority import CertificateAuthority
from person import Person
from raw_http import Answer
from report import Report
from story import Kill, Story, Teller
from synapse import Synapse
from together import chat, let_in
from vestibule import Client, Vestibule, quoted

VESTIBULE_ADDRESS = "127.0.1.1"
SYNAPSE_ADDRESS = "127.0.1.2"
# What other servers host by default today.
VERSIONS = ("10", "11", "12")
WIDE = "{ per_second = 1000.0, burst = 1000 }"
# One server on one network stands for the whole world here, one machine for all our users, and one
# room sees a whole life within a second. What bounds a room, and repeats, is left as it is.
SETTINGS = {
    **{f"rate_limit.{bucket}": WIDE for bucket in (
        "knocks_by_origin", "knocks_by_network", "knocks_by_user_in_room",
        "registrations_by_address", "rooms_by_user", "invites_by_user", "messages_by_user")},
    # A peer that was killed and is back is asked again at once, as Synapse asks us.
    "federation.retry_backoff_min": '"1s"',
    "federation.retry_backoff_max": '"1s"',
}


class Busy:
    """Synapse with somebody who writes a diary there. What it owed to others when it was killed it
    looks for with the next event, whatever that is; on a server with no other users none would
    come."""

    def __init__(self, synapse: Synapse) -> None:
        self._synapse = synapse
        self._writes: Callable[[], object] = lambda: None

    def gives_work_to(self, somebody: Person) -> None:
        diary = somebody.client.create_room(VERSIONS[0], "invite")
        self._writes = lambda: somebody.say(diary, "it was dark for a moment")

    def is_running(self) -> bool:
        return self._synapse.is_running()

    def kill(self) -> None:
        self._synapse.kill()

    def start(self) -> None:
        self._synapse.start()
        self._writes()


class Peers:
    """Both servers, and an owner of rooms. Scenarios share them, but no rooms and no other users."""

    def __init__(self, report: Report, directory: Path, *, every_step: bool = False) -> None:
        self.report = report
        self.authority = CertificateAuthority(directory)
        self.vestibule = Vestibule.at(VESTIBULE_ADDRESS, directory / "vestibule", self.authority,
                                      SETTINGS)
        self.synapse = Synapse(directory / "synapse", self.authority, SYNAPSE_ADDRESS)
        self.owner: Client = self.vestibule.client()
        self._busy = Busy(self.synapse)
        self._teller = Teller(report, {"Vestibule": self.vestibule, "Synapse": self._busy},
                              every_step=every_step)
        self._users = 0

    @property
    def vestibule_name(self) -> str:
        return self.vestibule.server_name

    def begin(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.start(), (self.vestibule, self.synapse)))
        self.say(f"Vestibule is {self.vestibule_name}, Synapse is {self.synapse.server_name}.")
        self.owner.register("owner")
        self.owner.must("PUT", f"/v3/profile/{quoted(self.owner.user_id)}/displayname",
                        {"displayname": "Olga the Owner"})
        self._meet()

    def _meet(self) -> None:
        """Each has told the other of an event. Where that never was, Synapse, killed between its
        first one and the telling of it, does not come back to it until there is a second one: what
        it remembers per server is the last event that arrived."""
        self.say("\nFirst of all")
        one, other = self.local("Olga"), self.visitor("Sam")
        room_id = self.room(VERSIONS[0], by=one)
        if let_in(self.check, one, other, room_id):
            for _ in chat(self.check, one, other, room_id):
                pass
        self._busy.gives_work_to(self.visitor("Nora"))

    def end(self) -> None:
        self.say("\nAt the end")
        totals = self.vestibule.totals()
        self.check(totals["actors_restarted"] == 0 and totals["rooms_quarantined"] == {},
                   "no room's actor of Vestibule had to be started again", totals)
        panics = [line for line in self.vestibule.log_file.read_text().splitlines()
                  if "panicked" in line]
        self.check(not panics, "nothing panicked in it", panics[:3])
        self.check(self.synapse.stop() == 0, "Synapse stops when asked to, with status 0")
        self.check(self.vestibule.stop() == 0, "Vestibule stops when asked to, with status 0")

    def kill(self) -> None:
        self.vestibule.kill()
        self.synapse.kill()

    # --- telling and judging ------------------------------------------------------------------

    def say(self, text: str) -> None:
        self.report.say(text)

    def check(self, holds: Any, what: str, otherwise: object = "") -> bool:
        return self.report.check(bool(holds), what, otherwise)

    def tell(self, title: str, story: Callable[[], Story]) -> list[Kill]:
        self.say(f"\n{title}")
        return self._teller.once(story())

    def tell_with_kills(self, title: str, possible: list[Kill],
                        story: Callable[[], Story]) -> None:
        self._teller.with_kills(title, possible, lambda _: story())

    # --- users and rooms ----------------------------------------------------------------------

    def visitor(self, name: str) -> Person:
        """A new user of Synapse, called `name` by everybody."""
        self._users += 1
        client = self.synapse.register(f"{name.lower()}{self._users}", name)
        return Person(client, name, [self.vestibule_name])

    def local(self, name: str) -> Person:
        """A new user of ours, called `name` by everybody."""
        self._users += 1
        client = self.vestibule.client().register(f"{name.lower()}{self._users}")
        client.must("PUT", f"/v3/profile/{quoted(client.user_id)}/displayname",
                    {"displayname": name})
        return Person(client, name, [self.synapse.server_name])

    def room(self, version: str, join_rule: str = "knock", *further: dict[str, Any],
             by: Person | None = None, **body: Any) -> str:
        """A room of the owner's, or of anybody's on either server."""
        content: dict[str, Any] = {"join_rule": join_rule}
        if join_rule.endswith("restricted"):
            content["allow"] = []
        body = {"name": "Otters", "topic": "All about them", **body}
        maker = self.owner if by is None else by.client
        return maker.create_room(version, content, *further, **body)

    # --- what Vestibule knows -----------------------------------------------------------------

    def waiting(self, room_id: str) -> dict[str, dict[str, Any]]:
        """The knocks that wait in the room, as its owner's client lists them: user id → event."""
        return {event["state_key"]: event
                for event in self.owner.members(room_id, membership="knock")}

    def admins_list(self, room_id: str) -> dict[str, dict[str, Any]]:
        """The same as the admins are told: user id → entry."""
        path = f"/_vestibule/admin/v1/rooms/{quoted(room_id)}/knocks"
        answer = self.vestibule.admin("GET", path)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer}")
        return {knock["user_id"]: knock for knock in answer.json["knocks"]}

    def knock_counts(self) -> dict[str, Any]:
        return self.vestibule.totals()["knocks"]

    def refused(self, knock: Callable[[], Answer], reason: str, what: str,
                status: int = 403, errcode: str = "M_FORBIDDEN") -> Answer:
        """Knock, and expect this refusal at the client and under this reason at the admins."""
        before = self.knock_counts()
        answer = knock()
        after = self.knock_counts()
        self.check((answer.status, answer.errcode) == (status, errcode), what, answer)
        expected = before["refused"] | {reason: before["refused"].get(reason, 0) + 1}
        self.check(after["refused"] == expected and after["admitted"] == before["admitted"],
                   f"the admins count one more refused as `{reason}`, and none admitted",
                   f"{before} → {after}")
        return answer
