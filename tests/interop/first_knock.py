"""The first knock in five minutes, told step by step, for every room version that can knock.

Starts Vestibule on a fresh data directory, lets an owner make a room, and lets a user of another
server (a small signed peer in this process) knock on it. Then it kills the server right after a
further knock was answered, and looks whether that knock is still there.

May not: look into the data directory; everything is seen through the interfaces that people use.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pdu
from authority import CertificateAuthority
from peer import Peer, SignedEvent
from report import Report, run
from vestibule import Client, Vestibule

SERVER_NAME = "vestibule.test"
ROOMS = (
    [("12", "knock")]
    + [(version, "knock") for version in ("7", "8", "9", "10", "11")]
    + [(version, "knock_restricted") for version in ("10", "11", "12")]
)
REASON = "I read your page about otters, may I come in?"
STRIPPED_KEYS = {"type", "state_key", "sender", "content"}
# What a server may show to somebody who is not in the room.
SHOWN_TYPES = {
    "m.room.create", "m.room.join_rules", "m.room.canonical_alias", "m.room.avatar",
    "m.room.encryption", "m.room.name", "m.room.topic",
}


class Story:
    """The server, the owner and the peer of one run, and the knocks that must never be lost."""

    def __init__(self, report: Report, directory: Path) -> None:
        self.report = report
        authority = CertificateAuthority(directory)
        self.peer = Peer(authority, "peer.test", "127.0.1.7")
        self.vestibule = Vestibule(directory / "vestibule", authority,
                                   {self.peer.name: self.peer.listens_at},
                                   server_name=SERVER_NAME)
        self.owner: Client = self.vestibule.client()
        self.since = ""
        self.sent = 0
        self.admitted: list[tuple[str, str, SignedEvent]] = []

    def check(self, holds: Any, what: str, otherwise: object = "") -> bool:
        return self.report.check(bool(holds), what, otherwise)

    def begin(self) -> None:
        self.vestibule.start()
        self.report.say(f"Vestibule runs, with clients at {self.vestibule.client_url} and other"
                        " servers at {}:{}.".format(*self.vestibule.federation_address))
        self.owner.register("owner")
        self.report.say(f"{self.owner.user_id} registered.")
        self.since = self.owner.sync()["next_batch"]

    def room(self, version: str, rule: str) -> None:
        self.report.say(f"\nRoom version {version}, join rule `{rule}`")
        content: dict[str, Any] = {"join_rule": rule}
        if rule == "knock_restricted":
            content["allow"] = []
        room_id = self.owner.create_room(version, content, name="Otters", topic="All about them")
        self.report.say(f"  The owner made the room {room_id}.")
        alice = self.peer.user(f"alice{version}{rule.replace('_', '')}")
        template = self.ask(room_id, version, alice)
        if template is None:
            return
        signed = self.deliver(room_id, version, template)
        if signed is None:
            return
        self.owner_sees(room_id, alice, signed)
        self.outlives_a_kill(room_id, version, rule)

    def ask(self, room_id: str, version: str, user_id: str) -> dict[str, Any] | None:
        answer = self.peer.make_knock(self.vestibule, room_id, user_id)
        if not self.check(answer.status == 200,
                          f"{user_id} asks how to knock (make_knock) and gets a template", answer):
            return None
        template = answer.json
        event = template["event"]
        self.check(template["room_version"] == version, "the template names the room's version",
                   template["room_version"])
        expected = {"room_id": room_id, "type": "m.room.member", "sender": user_id,
                    "state_key": user_id}
        self.check({key: event.get(key) for key in expected} == expected
                   and event["content"].get("membership") == "knock"
                   and event["prev_events"] and event["auth_events"]
                   and isinstance(event["depth"], int) and event.get("origin") == SERVER_NAME
                   and isinstance(event.get("origin_server_ts"), int),
                   "the template is that user's knock, with all that its server cannot know", event)
        foreign = {"signatures", "hashes", "event_id", "unsigned"} & set(event)
        self.check(not foreign, "the template is unsigned and bare", foreign)
        return template

    def deliver(self, room_id: str, version: str, template: dict[str, Any],
                reason: str = REASON) -> SignedEvent | None:
        event = self.peer.from_template(template["event"], reason=reason, displayname="Alice")
        signed = self.peer.sign_event(event, version)
        answer = self.peer.send_knock(self.vestibule, room_id, signed)
        if not self.check(answer.status == 200, "its server signs the knock and delivers it"
                          " (send_knock): 200", answer):
            return None
        self.sent += 1
        self.admitted.append((room_id, event["state_key"], signed))
        self.shown_state(room_id, version, answer.json)
        return signed

    def shown_state(self, room_id: str, version: str, answer: dict[str, Any]) -> None:
        """The room's face as the answer shows it: full events, and the same events stripped."""
        full, stripped = answer.get("knock_room_state"), answer.get("knock_state_events")
        if not self.check(isinstance(full, list) and isinstance(stripped, list),
                          "the answer shows the room, in both forms", answer):
            return
        document = self.peer.request(self.vestibule, "GET", "/_matrix/key/v2/server",
                                     authorization=[]).json
        keys = pdu.verify_keys_of(document)
        faults = [(event, found) for event in full
                  if (found := pdu.pdu_faults(event, version, room_id, SERVER_NAME, keys))]
        types = [event.get("type") for event in full]
        self.check(not faults, f"all {len(full)} events shown are whole: hashes and signatures"
                   " hold", faults)
        self.check("m.room.create" in types and set(types) <= SHOWN_TYPES
                   and {"m.room.name", "m.room.join_rules"} <= set(types),
                   "the creation of the room is among them, and nothing private is", types)
        self.check(all(set(event) == STRIPPED_KEYS for event in stripped)
                   and stripped == [{key: event[key] for key in event if key in STRIPPED_KEYS}
                                    for event in full],
                   "the stripped form says the same in four keys each", stripped)

    def owner_sees(self, room_id: str, user_id: str, signed: SignedEvent) -> None:
        event, self.since = self.owner.sync_until_knock(room_id, user_id, self.since)
        self.check(event is not None and event["content"].get("membership") == "knock"
                   and event["content"].get("reason") == REASON
                   and event["event_id"] == signed.event_id,
                   f"the owner's /sync shows the knock and its reason: “{REASON}”", event)
        waiting = self.owner.members(room_id, membership="knock")
        self.check([e["event_id"] for e in waiting] == [signed.event_id],
                   "/members?membership=knock lists exactly this knock", waiting)
        actor = self.vestibule.actor(room_id)
        self.check(actor["pending_knocks"] == 1 and actor["members"]["knock"] == 1
                   and actor["members"]["join"] == 1
                   and actor["room_version"] == signed.version,
                   "the admins' actor stats count one pending knock", actor)
        knocks = self.vestibule.totals()["knocks"]
        self.check(knocks["admitted"] >= 1 and knocks["pending"] == len(self.admitted),
                   f"in all rooms {len(self.admitted)} are pending", knocks)

    def outlives_a_kill(self, room_id: str, version: str, rule: str) -> None:
        bob = self.peer.user(f"bob{version}{rule.replace('_', '')}")
        made = self.peer.make_knock(self.vestibule, room_id, bob)
        if made.status != 200:
            self.check(False, f"{bob} asks how to knock", made)
            return
        event = self.peer.from_template(made.json["event"], reason="me too")
        signed = self.peer.sign_event(event, version)
        answer = self.peer.send_knock(self.vestibule, room_id, signed)
        self.vestibule.kill()
        self.check(answer.status == 200, f"{bob} knocks too: 200, and that instant we kill -9", answer)
        self.admitted.append((room_id, bob, signed))
        self.vestibule.start()
        waiting = {e["state_key"]: e["event_id"]
                   for e in self.owner.members(room_id, membership="knock")}
        expected = {user: knock.event_id for room, user, knock in self.admitted if room == room_id}
        self.check(waiting == expected, "started again: both knocks are still there", waiting)
        seen, self.since = self.owner.sync_until_knock(room_id, bob, self.since)
        self.check(seen is not None and seen["event_id"] == signed.event_id,
                   "and the owner's /sync goes on from where it was and shows the second", seen)
        again = self.peer.send_knock(self.vestibule, room_id, signed)
        self.check(again.status == 200, "the peer, unsure, delivers the same event again: 200", again)
        count = len(self.owner.members(room_id, membership="knock"))
        self.check(count == len(expected), "and it is still one knock", count)

    def end(self) -> None:
        self.report.say("\nAt the end")
        for room_id in dict.fromkeys(room for room, _, _ in self.admitted):
            state = {e["state_key"]: e["event_id"] for e in self.owner.state(room_id)
                     if e["type"] == "m.room.member" and e["content"]["membership"] == "knock"}
            expected = {u: knock.event_id for room, u, knock in self.admitted if room == room_id}
            self.check(state == expected, f"the state of {room_id} holds its knocks, each once",
                       state)
        pending = self.vestibule.totals()["knocks"]["pending"]
        self.check(pending == len(self.admitted),
                   f"all {len(self.admitted)} knocks of this run are pending", pending)
        self.check(self.vestibule.stop() == 0, "Vestibule stops when asked to, with status 0")


def main(report: Report) -> None:
    rooms = ROOMS[:1] if "--short" in sys.argv else ROOMS
    with tempfile.TemporaryDirectory(prefix="first-knock-") as directory:
        story = Story(report, Path(directory))
        try:
            story.begin()
            for version, rule in rooms:
                story.room(version, rule)
            story.end()
        finally:
            story.vestibule.kill()
            story.peer.close()


if __name__ == "__main__":
    run(main)
