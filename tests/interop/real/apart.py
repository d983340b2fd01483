"""What happens between two steps, and while the other server is away.

May not: reach into a server to make it happen: the test stands in front of it, or stops it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from person import Person
from real.ground import SYNAPSE_ADDRESS, VERSIONS, VESTIBULE_ADDRESS, Peers
from relay import Relay
from together import chat
from vestibule import free_port, text_value

# Where Vestibule listens while a relay has the address that is its name.
BEHIND_ADDRESS = "127.0.1.11"
# Where we find a relay in place of Synapse.
IN_FRONT_ADDRESS = "127.0.1.12"
# An answer to a knock may not wait for a server that is away.
AT_ONCE_SECONDS = 5.0
ARRIVES_WITHIN_SECONDS = 10.0
BURST = 10
BEYOND = 2
DENIES_SYNAPSE = {"allow": ["*"], "deny": [SYNAPSE_ADDRESS]}
DENIES_US = {"allow": ["*"], "deny": [VESTIBULE_ADDRESS]}
# The rates as they are out of the box, in place of the wider ones of `ground.py`.
DEFAULT_RATES = {
    "rate_limit.knocks_by_origin": "{ per_second = 1.0, burst = 20 }",
    "rate_limit.knocks_by_network": "{ per_second = 2.0, burst = 20 }",
    "rate_limit.messages_by_user": "{ per_second = 5.0, burst = 50 }",
}


@contextmanager
def in_front_of_us(peers: Peers) -> Iterator[Relay]:
    """All that Synapse asks of Vestibule passes a relay."""
    behind = (BEHIND_ADDRESS, free_port(BEHIND_ADDRESS))
    front = peers.vestibule.federation_address
    with peers.vestibule.restarted_with({"listener.1.address": text_value(_address(behind))}):
        relay = Relay(peers.authority, VESTIBULE_ADDRESS, front, behind)
        try:
            yield relay
        finally:
            relay.close()


@contextmanager
def in_front_of_synapse(peers: Peers) -> Iterator[Relay]:
    """All that Vestibule asks of Synapse passes a relay."""
    front = (IN_FRONT_ADDRESS, free_port(IN_FRONT_ADDRESS))
    relay = Relay(peers.authority, SYNAPSE_ADDRESS, front, peers.synapse.federation_address)
    found = f'{{ "{peers.synapse.server_name}" = "{_address(front)}" }}'
    try:
        with peers.vestibule.restarted_with({"federation.server_addresses": found}):
            yield relay
    finally:
        relay.close()


def acl_between_here(peers: Peers) -> None:
    """A server ACL comes between Synapse's make and its send."""
    with in_front_of_us(peers) as relay:
        for version in VERSIONS:
            peers.say(f"\nAn ACL between the steps here, room version {version}")
            olga, sam = peers.local("Olga"), peers.visitor("Sam")
            room_id = peers.room(version, by=olga)
            _shut(relay, "/send_knock/", olga, room_id, DENIES_SYNAPSE)
            peers.refused(lambda s=sam, r=room_id: s.knock(r), "server_denied",
                          f"{sam.user_id} knocks, and between make_knock and send_knock Olga"
                          " denies Synapse: 403 M_FORBIDDEN")
            peers.check(olga.client.membership(room_id, sam.user_id) is None,
                        "the room has no trace of it")
            _open(olga, room_id)
            answer = sam.knock(room_id)
            peers.check(answer.status == 200, "Olga opens the ACL: 200", answer)
            olga.client.about(room_id, "invite", sam.user_id)
            peers.check(sam.finds(room_id, "invite"), "and lets Sam in")
            _shut(relay, "/send_join/", olga, room_id, DENIES_SYNAPSE)
            answer = sam.join(room_id)
            peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                        "Sam joins, and between make_join and send_join Olga denies Synapse:"
                        " 403 M_FORBIDDEN", answer)
            peers.check(olga.client.membership(room_id, sam.user_id) == "invite",
                        "Sam is still invited, and not in")
            _open(olga, room_id)
            answer = sam.join(room_id)
            peers.check(answer.status == 200, "Olga opens the ACL again: 200", answer)
            for _ in chat(peers.check, olga, sam, room_id):
                pass


def acl_between_there(peers: Peers) -> None:
    """A server ACL comes between our make and our send."""
    with in_front_of_synapse(peers) as relay:
        for version in VERSIONS:
            peers.say(f"\nAn ACL between the steps there, room version {version}")
            lena, otto = peers.local("Lena"), peers.visitor("Otto")
            room_id = peers.room(version, by=otto)
            _shut(relay, "/send_knock/", otto, room_id, DENIES_US)
            answer = lena.knock(room_id)
            peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                        f"{lena.user_id} knocks, and between make_knock and send_knock Otto"
                        " denies us: 403 M_FORBIDDEN", answer)
            lena.listen()
            peers.check(lena.view(room_id).sections == [], "her /sync does not speak of it",
                        lena.view(room_id).sections)
            _open(otto, room_id)
            answer = lena.knock(room_id)
            peers.check(answer.status == 200, "Otto opens the ACL: 200", answer)
            otto.client.about(room_id, "invite", lena.user_id)
            peers.check(lena.finds(room_id, "invite"), "and lets Lena in")
            _shut(relay, "/send_join/", otto, room_id, DENIES_US)
            answer = lena.join(room_id)
            peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                        "Lena joins, and between make_join and send_join Otto denies us:"
                        " 403 M_FORBIDDEN", answer)
            lena.listen()
            peers.check(lena.membership(room_id) == "invite", "Lena is still invited, and not in",
                        lena.view(room_id).sections)
            _open(otto, room_id)
            answer = lena.join(room_id)
            peers.check(answer.status == 200, "Otto opens the ACL again: 200", answer)
            for _ in chat(peers.check, lena, otto, room_id):
                pass


def _shut(relay: Relay, word: str, owner: Person, room_id: str, acl: dict[str, object]) -> None:
    relay.before(word, lambda: owner.client.set_state(room_id, "m.room.server_acl", acl))


def _open(owner: Person, room_id: str) -> None:
    owner.client.set_state(room_id, "m.room.server_acl", {"allow": ["*"]})


def overtaken(peers: Peers) -> None:
    """The invite is here before the answer to the knock that it answers."""
    with in_front_of_synapse(peers) as relay:
        for version in VERSIONS:
            peers.say(f"\nThe invite overtakes the answer to the knock, room version {version}")
            lena, otto = peers.local("Lena"), peers.visitor("Otto")
            room_id = peers.room(version, by=otto)
            accepted: list[bool] = []

            def accept(lena: Person = lena, otto: Person = otto, room_id: str = room_id,
                       accepted: list[bool] = accepted) -> None:
                otto.sees(room_id, lena.user_id, "knock")
                # Synapse answers its client when we have taken the invite.
                otto.client.about(room_id, "invite", lena.user_id)
                accepted.append(True)

            relay.after("/send_knock/", accept)
            answer = lena.knock(room_id)
            peers.check(answer.status == 200 and accepted,
                        f"{lena.user_id} knocks, and while the answer is held up Otto accepts: 200",
                        f"{answer} {accepted}")
            lena.listen()
            peers.check(lena.membership(room_id) == "invite",
                        "what Lena's /sync says in the end is that she is invited",
                        lena.view(room_id).sections)
            answer = lena.join(room_id)
            peers.check(answer.status == 200, "and she joins: 200", answer)


def away(peers: Peers) -> None:
    """Synapse is down while we answer; what is answered arrives when it is back, also after our own
    kill -9, and once."""
    for version in VERSIONS:
        peers.say(f"\nAnswered while Synapse is down, room version {version}")
        olga, sam, tom = peers.local("Olga"), peers.visitor("Sam"), peers.visitor("Tom")
        room_id = peers.room(version, by=olga)
        answers = [person.knock(room_id) for person in (sam, tom)]
        peers.check([answer.status for answer in answers] == [200, 200],
                    f"{sam.user_id} and {tom.user_id} knock: 200", [str(a) for a in answers])
        peers.synapse.stop()
        took = _seconds(lambda o=olga, r=room_id, s=sam: o.client.about(r, "invite", s.user_id))
        peers.check(took < AT_ONCE_SECONDS, "Synapse is stopped; Olga accepts Sam at once", took)
        olga.client.about(room_id, "kick", tom.user_id)
        peers.check(olga.client.membership(room_id, tom.user_id) == "leave", "and denies Tom")
        peers.vestibule.kill()
        peers.vestibule.start()
        peers.check(olga.client.membership(room_id, sam.user_id) == "invite",
                    "Vestibule is killed and started again: Sam is invited")
        peers.synapse.start()
        peers.check(sam.finds(room_id, "invite"), "Synapse is started again: Sam sees the invite")
        answer = sam.join(room_id)
        peers.check(answer.status == 200, "and joins: 200", answer)
        for _ in chat(peers.check, olga, sam, room_id):
            pass
        peers.check(sam.view(room_id).sections.count("invite") == 1, "the invite came once",
                    sam.view(room_id).sections)
        answer = tom.knock(room_id, "I did not hear you")
        peers.check(answer.status == 200 and olga.sees(room_id, tom.user_id, "knock",
                                                       reason="I did not hear you"),
                    "Tom, to whom Synapse tells nothing of the denial, may knock again", answer)


def sign_of_life(peers: Peers) -> None:
    """A long pause after a failure ends when the other server shows that it is back."""
    with peers.vestibule.restarted_with({"federation.retry_backoff_min": '"10m"',
                                         "federation.retry_backoff_max": '"7d"'}):
        for version in VERSIONS[-1:]:
            peers.say(f"\nA sign of life, room version {version}")
            olga, sam = peers.local("Olga"), peers.visitor("Sam")
            room_id = peers.room(version, by=olga)
            answer = sam.knock(room_id)
            peers.check(answer.status == 200, f"{sam.user_id} knocks: 200", answer)
            peers.synapse.stop()
            with _hanging_up(peers.synapse.federation_address) as called:
                olga.client.about(room_id, "invite", sam.user_id)
                peers.check(called(), "Synapse is stopped, Olga accepts, and we try to say so")
            peers.synapse.start()
            looked = sam.client.call("GET", f"/v3/profile/{olga.user_id}")
            peers.check(looked.status == 200, "Synapse is started again and asks us for a profile",
                        looked)
            peers.check(sam.finds(room_id, "invite"),
                        "which ends the pause of ten minutes: the invite arrives")


@contextmanager
def _hanging_up(address: tuple[str, int]) -> Iterator[Callable[[], bool]]:
    """In place of a server that is down: whoever calls is hung up on. Gives the wait for a call."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        listener.settimeout(ARRIVES_WITHIN_SECONDS)

        def called() -> bool:
            try:
                listener.accept()[0].close()
            except TimeoutError:
                return False
            return True

        yield called


def burst(peers: Peers) -> None:
    """More knocks at once than the default rates let through do not hold up what is said."""
    with peers.vestibule.restarted_with(DEFAULT_RATES):
        for version in VERSIONS[-1:]:
            peers.say(f"\nA burst of knocks, room version {version}")
            olga, sam = peers.local("Olga"), peers.visitor("Sam")
            shared, besieged = (peers.room(version, by=olga) for _ in range(2))
            sam.knock(shared)
            olga.client.about(shared, "invite", sam.user_id)
            joined = sam.finds(shared, "invite") and sam.join(shared).status == 200
            peers.check(joined and olga.sees(shared, sam.user_id, "join"),
                        f"{sam.user_id} and {olga.user_id} are in one room")
            crowd = [peers.visitor(f"Una{number}") for number in range(BURST + BEYOND)]
            with ThreadPoolExecutor(len(crowd)) as pool:
                knocks = [pool.submit(person.knock, besieged) for person in crowd]
                peers.check(olga.until(besieged, lambda room: room.members("knock") >= BURST),
                            f"of {len(crowd)} knocks at once {BURST} come in")
                for speaker, listener in ((sam, olga), (olga, sam)):
                    said = speaker.say(shared, f"{speaker.name} is heard")
                    peers.check(listener.reads(shared, said, ARRIVES_WITHIN_SECONDS),
                                f"{speaker.name} says something in the room they share, and"
                                f" {listener.name} reads it within"
                                f" {ARRIVES_WITHIN_SECONDS:.0f} s")
                still = sum(not knock.done() for knock in knocks)
                answers = [knock.result() for knock in knocks]
            # Synapse sends the knocks on one room one after the other, so that each is only held.
            peers.check(still > 0, "meanwhile the others are held up", still)
            peers.check(all(answer.status == 200 for answer in answers),
                        "and come in when there is time for them: 200",
                        [str(answer) for answer in answers if answer.status != 200])


def _seconds(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _address(address: tuple[str, int]) -> str:
    return "{}:{}".format(*address)


SCENARIOS = (acl_between_here, acl_between_there, overtaken, away, sign_of_life, burst)
