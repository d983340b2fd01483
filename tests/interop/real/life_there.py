"""The whole life of a knock by a user of ours on a room of Synapse.

May not: do for Synapse what its own user's client can ask it to do.
"""

from __future__ import annotations

from person import REASON, STRIPPED_KEYS, Person
from real.ground import VERSIONS, Peers
from real.knocks import SHOWN_TYPES
from real.life_here import GOODBYE, RULES
from story import Story
from together import at_odds, chat, reads_history, same_state, write_history
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
    _knocking(peers, lena, room_id, rule)
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
    otto.client.about(room_id, "invite", lena.user_id)
    yield "the invite"
    _invited(peers, lena, otto, room_id)
    answer = lena.join(room_id, via=())
    peers.check(answer.status == 200, "Lena joins, and need not say through whom: 200", answer)
    yield "the join"
    peers.check(otto.sees(room_id, lena.user_id, "join", displayname="Lena"),
                "Otto's /sync shows that Lena is in")
    peers.check(lena.finds(room_id, "join"), "and so does Lena's")
    yield from chat(peers.check, lena, otto, room_id)
    same_state(peers.check, lena, otto, room_id)
    otto.client.about(room_id, "kick", lena.user_id, reason=GOODBYE)
    yield "the kick"
    event = lena.sees(room_id, lena.user_id, "leave", reason=GOODBYE)
    peers.check(event is not None and event["sender"] == otto.user_id
                and lena.membership(room_id) == "leave",
                "Otto kicks Lena, whose /sync shows by whom, and why", event)
    answer = lena.knock(room_id, "sorry")
    peers.check(answer.status == 200, "Lena knocks again: 200", answer)
    yield "the third knock"
    peers.check(otto.sees(room_id, lena.user_id, "knock", reason="sorry"), "and Otto sees it")
    peers.check(lena.finds(room_id, "knock"), "and Lena's /sync has it under `rooms.knock`")
    otto.client.about(room_id, "ban", lena.user_id)
    yield "the ban"
    answer = lena.knock(room_id, "please")
    peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                "Otto bans Lena: the next knock gets 403 M_FORBIDDEN", answer)


def _knocking(peers: Peers, lena: Person, room_id: str, rule: str) -> None:
    peers.check(lena.finds(room_id, "knock"), "the room is under `rooms.knock` in Lena's /sync")
    room = lena.view(room_id)
    peers.check(all(set(event) == STRIPPED_KEYS for event in room.stripped)
                and {event["type"] for event in room.stripped} <= SHOWN_TYPES,
                f"with {len(room.stripped)} stripped events, and nothing private", room.stripped)
    peers.check(room.stripped_content("m.room.name") == {"name": "Otters"}
                and room.stripped_content("m.room.topic").get("topic") == "All about them"
                and room.stripped_content("m.room.join_rules").get("join_rule") == rule
                and room.stripped_content("m.room.create") != {},
                "they say how the room was made, its name, its topic and its join rule",
                room.stripped)
    members = [event for event in room.stripped if event["type"] == "m.room.member"]
    peers.check([event["state_key"] for event in members] == [lena.user_id]
                and members[0]["content"].get("membership") == "knock"
                and members[0]["content"].get("reason") == REASON,
                "and the user's own knock is the only membership among them", members)


def _invited(peers: Peers, lena: Person, otto: Person, room_id: str) -> None:
    peers.check(lena.finds(room_id, "invite"),
                "Otto accepts by an invite: in Lena's /sync the room moves to `rooms.invite`")
    room = lena.view(room_id)
    invite = room.stripped_event("m.room.member", lena.user_id)
    peers.check(all(set(event) == STRIPPED_KEYS for event in room.stripped)
                and room.stripped_content("m.room.name") == {"name": "Otters"}
                and room.stripped_content("m.room.create") != {},
                "with the room's making and name, in four keys each", room.stripped)
    peers.check(invite.get("sender") == otto.user_id
                and invite["content"].get("membership") == "invite",
                "and with the invite itself, which is Otto's", room.stripped)
    peers.check(room.sections.count("invite") == 1, "it came once", room.sections)


def _let_in(peers: Peers, lena: Person, otto: Person, room_id: str) -> bool:
    """A knock, its accept and the join, without looking left or right."""
    knocked = lena.knock(room_id)
    otto.client.about(room_id, "invite", lena.user_id)
    invited = lena.finds(room_id, "invite")
    joined = lena.join(room_id)
    return peers.check(
        (knocked.status, joined.status) == (200, 200) and invited and lena.finds(room_id, "join")
        and otto.sees(room_id, lena.user_id, "join"),
        f"{lena.user_id} knocks, is let in, and joins", f"{knocked}, {joined}")


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


def forks_there(peers: Peers) -> None:
    """Both talk at the same time in a room of Synapse's."""
    for version in VERSIONS:
        peers.tell(f"Talking at the same time there, room version {version}",
                   lambda v=version: _forks(peers, v))


def _forks(peers: Peers, version: str) -> Story:
    lena, otto = peers.local("Lena"), peers.visitor("Otto")
    room_id = peers.room(version, by=otto,
                         power_level_content_override={"events": {"m.room.topic": 0}})
    if _let_in(peers, lena, otto, room_id):
        yield from at_odds(peers.check, lena, otto, room_id)


def history_there(peers: Peers) -> None:
    """What was said before Lena came is fetched by us when she pages back."""
    for version in VERSIONS:
        peers.say(f"\nOld messages of a room there, room version {version}")
        lena, otto = peers.local("Lena"), peers.visitor("Otto")
        room_id = peers.room(version, by=otto)
        written = write_history(otto, room_id)
        if _let_in(peers, lena, otto, room_id):
            reads_history(peers.check, lena, room_id, written)


def restricted_there(peers: Peers) -> None:
    """`knock_restricted`: members of another room come in at once, all others knock."""
    for version in VERSIONS:
        peers.say(f"\nMembers of another room there, room version {version}")
        lena, mia, otto = peers.local("Lena"), peers.local("Mia"), peers.visitor("Otto")
        club = peers.room(version, by=otto)
        if not _let_in(peers, lena, otto, club):
            continue
        room_id = otto.client.create_room(version, {
            "join_rule": "knock_restricted",
            "allow": [{"type": "m.room_membership", "room_id": club}]}, name="Otters")
        answer = mia.join(room_id)
        peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                    f"{mia.user_id}, who is not in the other room, joins: 403 M_FORBIDDEN", answer)
        answer = mia.knock(room_id)
        peers.check(answer.status == 200, "but may knock: 200", answer)
        answer = lena.join(room_id)
        peers.check(answer.status == 200, f"{lena.user_id}, who is, joins without asking: 200",
                    answer)
        event = otto.sees(room_id, lena.user_id, "join")
        peers.check(event is not None and event["content"].get("join_authorised_via_users_server")
                    == otto.user_id, "the join says that Otto's server vouches for it", event)
        for _ in chat(peers.check, lena, otto, room_id):
            pass
        same_state(peers.check, lena, otto, room_id)


SCENARIOS = (life_there, aliases_there, refused_there, denied_there, forks_there, history_there,
             restricted_there)
