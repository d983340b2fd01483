"""The whole life of a knock on a room of ours, by a user of Synapse.

May not: do for Synapse what its own user's client can ask it to do.
"""

from __future__ import annotations

from person import REASON, STRIPPED_KEYS, Person
from real.ground import VERSIONS, Peers
from real.knocks import INVALID_STATE, SHOWN_TYPES
from story import Story
from together import at_odds, chat, reads_history, same_state, write_history

RULES = ("knock", "knock_restricted")
GOODBYE = "Too loud for otters."


def life_here(peers: Peers) -> None:
    """Knock, accept, join, chat, kick, knock again, ban: in every version, with both rules."""
    for rule in RULES:
        for version in VERSIONS:
            title = f"A whole life here, room version {version}, join rule `{rule}`"
            possible = peers.tell(title, lambda v=version, r=rule: _life(peers, v, r))
    peers.tell_with_kills("A whole life here", possible, lambda: _life(peers, "11", "knock"))


def _life(peers: Peers, version: str, rule: str) -> Story:
    olga, sam = peers.local("Olga"), peers.visitor("Sam")
    room_id = peers.room(version, rule, by=olga)
    answer = sam.knock(room_id)
    peers.check(answer.status == 200, f"{sam.user_id} knocks at Synapse: 200", answer)
    yield "the knock"
    peers.check(olga.sees(room_id, sam.user_id, "knock", reason=REASON),
                "Olga's /sync shows the knock and its reason")
    peers.check(sam.finds(room_id, "knock"), "Sam's shows the room under `rooms.knock`")
    olga.client.about(room_id, "invite", sam.user_id)
    yield "the invite"
    _invited(peers, olga, sam, room_id)
    answer = sam.join(room_id, via=())
    peers.check(answer.status == 200, "Sam joins, and need not say through whom: 200", answer)
    yield "the join"
    peers.check(olga.sees(room_id, sam.user_id, "join", displayname="Sam"),
                "Olga's /sync shows that Sam is in")
    peers.check(sam.finds(room_id, "join"), "and so does Sam's")
    yield from chat(peers.check, olga, sam, room_id)
    same_state(peers.check, olga, sam, room_id)
    olga.client.about(room_id, "kick", sam.user_id, reason=GOODBYE)
    yield "the kick"
    event = sam.sees(room_id, sam.user_id, "leave", reason=GOODBYE)
    peers.check(event is not None and event["sender"] == olga.user_id
                and sam.membership(room_id) == "leave",
                "Olga kicks Sam, whose /sync shows by whom, and why", event)
    answer = sam.knock(room_id, "sorry")
    peers.check(answer.status == 200, "Sam knocks again: 200", answer)
    yield "the second knock"
    peers.check(olga.sees(room_id, sam.user_id, "knock", reason="sorry"), "and Olga sees it")
    olga.client.about(room_id, "ban", sam.user_id)
    yield "the ban"
    peers.refused(lambda: sam.knock(room_id, "please"), "banned",
                  "Olga bans Sam: the third knock gets 403 M_FORBIDDEN")


def _invited(peers: Peers, olga: Person, sam: Person, room_id: str) -> None:
    peers.check(sam.finds(room_id, "invite"),
                "Olga accepts by an invite: in Sam's /sync the room moves to `rooms.invite`")
    room = sam.view(room_id)
    invite = room.stripped_event("m.room.member", sam.user_id)
    peers.check(all(set(event) == STRIPPED_KEYS for event in room.stripped)
                and {event["type"] for event in room.stripped} <= SHOWN_TYPES
                and room.stripped_content("m.room.name") == {"name": "Otters"}
                and room.stripped_content("m.room.create") != {},
                "with the room's making and name, and nothing private", room.stripped)
    peers.check(invite.get("sender") == olga.user_id
                and invite["content"].get("membership") == "invite",
                "and with the invite itself, which is Olga's", room.stripped)
    peers.check(room.sections.count("invite") == 1, "it came once", room.sections)
    invalid = peers.synapse.metric(INVALID_STATE)
    peers.check(invalid == 0, "of the full events behind them Synapse counts none as invalid",
                invalid)


def _let_in(peers: Peers, olga: Person, sam: Person, room_id: str) -> bool:
    """A knock, its accept and the join, without looking left or right."""
    knocked = sam.knock(room_id)
    olga.client.about(room_id, "invite", sam.user_id)
    invited = sam.finds(room_id, "invite")
    joined = sam.join(room_id)
    return peers.check(
        (knocked.status, joined.status) == (200, 200) and invited and sam.finds(room_id, "join")
        and olga.sees(room_id, sam.user_id, "join"),
        f"{sam.user_id} knocks, is let in, and joins", f"{knocked}, {joined}")


def forks_here(peers: Peers) -> None:
    """Both talk at the same time in a room of ours."""
    for version in VERSIONS:
        peers.tell(f"Talking at the same time here, room version {version}",
                   lambda v=version: _forks(peers, v))


def _forks(peers: Peers, version: str) -> Story:
    olga, sam = peers.local("Olga"), peers.visitor("Sam")
    room_id = peers.room(version, by=olga,
                         power_level_content_override={"events": {"m.room.topic": 0}})
    if _let_in(peers, olga, sam, room_id):
        yield from at_odds(peers.check, olga, sam, room_id)


def history_here(peers: Peers) -> None:
    """What was said before Sam came is fetched by Synapse when he pages back."""
    for version in VERSIONS:
        peers.say(f"\nOld messages of a room here, room version {version}")
        olga, sam = peers.local("Olga"), peers.visitor("Sam")
        room_id = peers.room(version, by=olga)
        written = write_history(olga, room_id)
        if _let_in(peers, olga, sam, room_id):
            reads_history(peers.check, sam, room_id, written)


def restricted_here(peers: Peers) -> None:
    """`knock_restricted`: members of another room come in at once, all others knock."""
    for version in VERSIONS:
        peers.say(f"\nMembers of another room, room version {version}")
        olga, sam, tom = peers.local("Olga"), peers.visitor("Sam"), peers.visitor("Tom")
        club = peers.room(version, by=olga)
        if not _let_in(peers, olga, sam, club):
            continue
        room_id = olga.client.create_room(version, {
            "join_rule": "knock_restricted",
            "allow": [{"type": "m.room_membership", "room_id": club}]}, name="Otters")
        answer = tom.join(room_id)
        peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                    f"{tom.user_id}, who is not in the other room, joins: 403 M_FORBIDDEN", answer)
        answer = tom.knock(room_id)
        peers.check(answer.status == 200, "but may knock: 200", answer)
        answer = sam.join(room_id)
        peers.check(answer.status == 200, f"{sam.user_id}, who is, joins without asking: 200",
                    answer)
        event = olga.sees(room_id, sam.user_id, "join")
        peers.check(event is not None and event["content"].get("join_authorised_via_users_server")
                    == olga.user_id, "the join says that Olga's server vouches for it", event)
        for _ in chat(peers.check, olga, sam, room_id):
            pass
        same_state(peers.check, olga, sam, room_id)


SCENARIOS = (life_here, forks_here, history_here, restricted_here)
