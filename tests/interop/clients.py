"""People of ours whose clients are made with libraries that others use: matrix-nio and
matrix-js-sdk. Each goes through a whole knock on either side of it, with a user of Synapse; those
whose library encrypts talk encrypted.

    clients.py              every library
    clients.py nio          only that
    clients.py encrypted    only the talk of two that encrypt, one at each server

May not: help a library along; what it cannot make of our answers is a miss.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from library.client import LibraryClient
from library.js_client import JsClient
from library.nio_client import NioClient
from person import REASON, Person
from real.ground import Peers
from report import Report, run

PASSWORD = "correct horse battery"
# matrix-nio takes no room for one whose id has no server in it, as in version 12.
VERSIONS = {"nio": "11", "js": "12"}


def owner(peers: Peers, log_in: Callable[[Person], LibraryClient], version: str) -> None:
    """Ours owns a room; Synapse's Sam knocks on it and is let in."""
    olga, sam = peers.local("Olga"), peers.visitor("Sam")
    room_id = peers.room(version, by=olga)
    client = log_in(olga)
    try:
        peers.say(f"\n{client.library}: Olga, who owns a room")
        answer = sam.knock(room_id)
        peers.check(answer.status == 200, f"{sam.user_id} knocks: 200", answer)
        reason = client.knock_of(room_id, sam.user_id)
        peers.check(reason == REASON, f"her client shows the knock: “{REASON}”", reason)
        client.invite(room_id, sam.user_id)
        peers.check(sam.finds(room_id, "invite"), "she invites him with it, and he sees that")
        answer = sam.join(room_id)
        peers.check(answer.status == 200, "he joins: 200", answer)
        talk(peers, client, sam, room_id)
    finally:
        client.close()


def visitor(peers: Peers, log_in: Callable[[Person], LibraryClient], version: str) -> None:
    """Ours knocks on a room of Synapse's Otto and is let in."""
    lena, otto = peers.local("Lena"), peers.visitor("Otto")
    local_name = otto.user_id[1:].partition(":")[0]
    room_id = peers.room(version, by=otto, room_alias_name=local_name)
    client = log_in(lena)
    try:
        peers.say(f"\n{client.library}: Lena, who knocks elsewhere")
        alias = f"#{local_name}:{peers.synapse.server_name}"
        found = client.knock(alias, [peers.synapse.server_name], REASON)
        peers.check(found == room_id, f"she knocks on {alias} and gets the room's id", found)
        knocking = client.is_knocking(room_id)
        if knocking is not None:
            peers.check(knocking, "her client says that she is knocking")
            name = client.room_name(room_id)
            peers.check(name == "Otters", "on a room of this name", name)
        peers.check(otto.sees(room_id, lena.user_id, "knock", reason=REASON),
                    "Otto sees her knock and its reason")
        otto.client.about(room_id, "invite", lena.user_id)
        peers.check(client.is_invited(room_id), "he invites her, and her client says so")
        client.join(room_id)
        peers.check(otto.sees(room_id, lena.user_id, "join"), "she joins with it, and he sees that")
        talk(peers, client, otto, room_id)
        client.leave(room_id)
        peers.check(otto.sees(room_id, lena.user_id, "leave"), "she leaves, and he sees that")
    finally:
        client.close()


def talk(peers: Peers, client: LibraryClient, other: Person, room_id: str) -> None:
    said = other.say(room_id, f"{other.name} here.")
    text = client.read(room_id, said)
    peers.check(text == f"{other.name} here.", f"{other.name} says something, her client shows it",
                text)
    said = client.say(room_id, "Welcome to the otters.")
    event = other.reads(room_id, said)
    peers.check(event is not None and event["content"].get("body") == "Welcome to the otters.",
                f"she says something with it, and {other.name} reads it", event)


def encrypted(peers: Peers, version: str, log_file: Path) -> None:
    """Ours and Synapse's user encrypt for each other, in a room on either side."""
    lena, otto = peers.local("Lena"), peers.visitor("Otto")
    hers = JsClient(peers.vestibule.client_url, lena.user_id, PASSWORD, log_file)
    his = JsClient(peers.synapse.client_url, otto.user_id, PASSWORD, log_file)
    encryption = {"type": "m.room.encryption", "state_key": "",
                  "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    people = {lena: hers, otto: his}
    try:
        for owner, visitor in ((lena, otto), (otto, lena)):
            peers.say(f"\n{hers.library}: an encrypted room of {owner.name}'s")
            room_id = peers.room(version, "knock", encryption, by=owner)
            people[visitor].knock(room_id, list(visitor.via), REASON)
            reason = people[owner].knock_of(room_id, visitor.user_id)
            peers.check(reason == REASON, f"{owner.name}'s client shows {visitor.name}'s knock",
                        reason)
            people[owner].invite(room_id, visitor.user_id)
            peers.check(people[visitor].is_invited(room_id), f"and lets {visitor.name} in")
            people[visitor].join(room_id)
            peers.check(people[owner].has_joined(room_id, visitor.user_id), "who joins")
            for speaker, listener in ((owner, visitor), (visitor, owner), (owner, visitor)):
                words = f"{speaker.name} tells {listener.name} a secret."
                said = people[speaker].say(room_id, words)
                text = people[listener].read(room_id, said)
                peers.check(text == words, f"{speaker.name} says something, and {listener.name}'s"
                            " client can read it", text)
                # The raw client of the same user has another device, and no keys.
                event = listener.reads(room_id, said)
                peers.check(event is not None and event["type"] == "m.room.encrypted"
                            and words not in str(event), "which the servers could not", event)
    finally:
        hers.close()
        his.close()


def main(report: Report) -> None:
    names = sys.argv[1:] or [*VERSIONS, "encrypted"]
    with tempfile.TemporaryDirectory(prefix="clients-") as directory:
        peers = Peers(report, Path(directory))

        def log_in(name: str) -> Callable[[Person], LibraryClient]:
            def with_it(person: Person) -> LibraryClient:
                at = peers.vestibule.client_url
                if name == "nio":
                    return NioClient(at, person.user_id, PASSWORD)
                return JsClient(at, person.user_id, PASSWORD, Path(directory) / "js.log")
            return with_it

        try:
            peers.begin()
            for name in names:
                if name == "encrypted":
                    report.attempt(name, lambda: encrypted(peers, VERSIONS["js"],
                                                           Path(directory) / "js.log"))
                    continue
                for scenario in (owner, visitor):
                    report.attempt(f"{name}, {scenario.__name__}",
                                   lambda s=scenario, n=name: s(peers, log_in(n), VERSIONS[n]))
            peers.end()
        finally:
            peers.kill()


if __name__ == "__main__":
    run(main)
