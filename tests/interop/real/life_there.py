"""The whole life of a knock by a user of ours on a room of Synapse.

May not: do for Synapse what its own user's client can ask it to do.
"""

from __future__ import annotations

from person import REASON
from real.ground import VERSIONS, Peers
from real.life_here import RULES
from story import Story
from together import accepted, waits
from vestibule import free_port


def life_there(peers: Peers) -> None:
    """Knock, retract, knock again, be accepted, join, chat, be kicked, knock again, be banned."""
    for rule in RULES:
        for version in VERSIONS:
            title = f"A whole life there, room version {version}, join rule `{rule}`"
            possible = peers.tell(title, lambda v=version, r=rule: _life(peers, v, r))
    peers.tell_with_kills("A whole life there", possible, lambda: _life(peers, "12", "knock"))


def _life(peers: Peers, version: str, rule: str) -> Story:
    lena, otto = peers.local("Lena"), peers.visitor("Otto")
    room_id = peers.room(version, rule, by=otto)
    answer = lena.knock(room_id)
    peers.check(answer.status == 200 and answer.json == {"room_id": room_id},
                f"{lena.user_id} knocks on {room_id} at Vestibule: 200", answer)
    yield "the knock"
    waits(peers.check, lena, room_id, rule)
    event = otto.sees(room_id, lena.user_id, "knock", reason=REASON, displayname="Lena")
    peers.check(event is not None and event["sender"] == lena.user_id,
                f"Otto's /sync shows the knock, Lena's name and “{REASON}”", event)
    answer = lena.leave(room_id, "never mind")
    peers.check(answer.status == 200, "Lena takes it back: 200", answer)
    yield "the retraction"
    lena.listen()
    peers.check(lena.membership(room_id) == "leave", "her next /sync has it under `rooms.leave`",
                lena.view(room_id).sections)
    event = otto.sees(room_id, lena.user_id, "leave")
    peers.check(event is not None and event["sender"] == lena.user_id,
                "and Otto's /sync shows that it is taken back, by herself", event)
    answer = lena.knock(room_id, "after all")
    peers.check(answer.status == 200, "she knocks again: 200", answer)
    yield "the second knock"
    peers.check(otto.sees(room_id, lena.user_id, "knock", reason="after all"), "and Otto sees it")
    yield from accepted(peers.check, otto, lena, room_id)
    otto.client.about(room_id, "ban", lena.user_id)
    yield "the ban"
    answer = lena.knock(room_id, "please")
    peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                "Otto bans Lena: the next knock gets 403 M_FORBIDDEN", answer)


def aliases_there(peers: Peers) -> None:
    """By alias: we look it up at Synapse and knock through whom we are told."""
    for version in VERSIONS:
        peers.say(f"\nBy alias there, room version {version}")
        lena, otto = peers.local("Lena"), peers.visitor("Otto")
        room_id = peers.room(version, by=otto, room_alias_name=f"dam{version}")
        alias = f"#dam{version}:{peers.synapse.server_name}"
        answer = lena.knock(alias, via=())
        peers.check(answer.status == 200 and answer.json == {"room_id": room_id},
                    f"{lena.user_id} knocks on {alias}, without `via`: 200 and the room's id",
                    answer)
        peers.check(otto.sees(room_id, lena.user_id, "knock"), "Otto sees the knock")
        lena.finds(room_id, "knock")
        shown = lena.view(room_id)
        peers.check(shown.stripped_content("m.room.canonical_alias").get("alias") == alias,
                    "Lena's /sync shows the alias", shown.stripped)
    lena = peers.local("Lena")
    nobodys = f"#badgers:{peers.synapse.server_name}"
    answer = lena.knock(nobodys, via=())
    peers.check((answer.status, answer.errcode) == (404, "M_NOT_FOUND"),
                f"an alias that nobody made, {nobodys}: 404 M_NOT_FOUND", answer)


def refused_there(peers: Peers) -> None:
    """Rooms there that refuse knocks: our user is told so, and their /sync shows nothing."""
    for version in VERSIONS:
        for rule in ("invite", "public"):
            peers.say(f"\nRoom version {version} there, join rule `{rule}`")
            lena, otto = peers.local("Lena"), peers.visitor("Otto")
            room_id = peers.room(version, rule, by=otto)
            answer = lena.knock(room_id)
            peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                        f"{lena.user_id} knocks: 403 M_FORBIDDEN", answer)
            lena.listen()
            peers.check(lena.view(room_id).sections == [], "and her /sync does not speak of it",
                        lena.view(room_id).sections)
    peers.say("\nRooms there that do not exist, and servers that do not")
    lena, otto = peers.local("Lena"), peers.visitor("Otto")
    answer = lena.knock(f"!nobodys:{peers.synapse.server_name}")
    peers.check((answer.status, answer.errcode) == (404, "M_NOT_FOUND"),
                "a room that Synapse does not have: 404 M_NOT_FOUND", answer)
    # Its id names no server, so there is no other way to it than the one given.
    room_id = peers.room("12", by=otto)
    nobody = f"127.0.1.9:{free_port('127.0.1.9')}"
    answer = lena.knock(room_id, via=[nobody])
    peers.check(answer.status == 502, "through a server that does not answer: 502", answer)
    lena.listen()
    peers.check(lena.view(room_id).sections == [], "and her /sync does not speak of it",
                lena.view(room_id).sections)
    answer = lena.knock(room_id, via=[nobody, peers.synapse.server_name])
    peers.check(answer.status == 200, "through that and Synapse: the next one is tried, 200",
                answer)
    peers.check(otto.sees(room_id, lena.user_id, "knock"), "and Otto sees the knock")


def denied_there(peers: Peers) -> None:
    """Synapse denies a knock by a kick, and tells nobody outside: not ours to mend.

    Synapse sends a kick only to servers that were in the room (`federation/sender`, as its comments
    say). So our user's knock goes on to show as pending; asking again is what they can do.
    """
    for version in VERSIONS:
        peers.say(f"\nDenied there, room version {version}")
        lena, mia, otto = peers.local("Lena"), peers.local("Mia"), peers.visitor("Otto")
        room_id = peers.room(version, by=otto)
        answer = lena.knock(room_id)
        peers.check(answer.status == 200 and otto.sees(room_id, lena.user_id, "knock"),
                    f"{lena.user_id} knocks, and Otto sees it", answer)
        otto.client.about(room_id, "kick", lena.user_id)
        # Synapse sends to one destination in order of time: what it had to say about Lena would
        # have come before this.
        otto.client.about(room_id, "invite", mia.user_id)
        peers.check(mia.finds(room_id, "invite"),
                    "Otto denies it by a kick, and then invites Mia, to whom that is told")
        lena.listen()
        peers.check(lena.membership(room_id) == "knock",
                    "Lena was told nothing: her knock still waits", lena.view(room_id).sections)
        answer = lena.knock(room_id, "still there?")
        peers.check(answer.status == 200, "she may knock again: 200", answer)
        peers.check(otto.sees(room_id, lena.user_id, "knock", reason="still there?"),
                    "and Otto sees the new one")
        otto.client.about(room_id, "invite", lena.user_id)
        peers.check(lena.finds(room_id, "invite"), "which he accepts: Lena is invited")


SCENARIOS = (life_there, aliases_there, refused_there, denied_there)
