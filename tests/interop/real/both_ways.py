"""What goes the same way in a room of ours and in one of Synapse's: the owner is on the one server,
who asks to be let in on the other.

May not: do for Synapse what its own user's client can ask it to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from person import Person
from real.ground import VERSIONS, Peers
from story import Story
from together import at_odds, let_in, reads_history, vouched_for, write_history


@dataclass(frozen=True)
class Side:
    """Where the room is."""

    word: str
    owner: Callable[[Peers], Person]
    guest: Callable[[Peers], Person]
    another: Callable[[Peers], Person]


HERE = Side("here", lambda peers: peers.local("Olga"),
            lambda peers: peers.visitor("Sam"), lambda peers: peers.visitor("Tom"))
THERE = Side("there", lambda peers: peers.visitor("Otto"),
             lambda peers: peers.local("Lena"), lambda peers: peers.local("Mia"))


def forks_here(peers: Peers) -> None:
    """Both talk at the same time in a room of ours."""
    _forks(peers, HERE)


def forks_there(peers: Peers) -> None:
    """Both talk at the same time in a room of Synapse's."""
    _forks(peers, THERE)


def _forks(peers: Peers, side: Side) -> None:
    for version in VERSIONS:
        peers.tell(f"Talking at the same time {side.word}, room version {version}",
                   lambda v=version: _fork(peers, side, v))


def _fork(peers: Peers, side: Side, version: str) -> Story:
    owner, guest = side.owner(peers), side.guest(peers)
    room_id = peers.room(version, by=owner,
                         power_level_content_override={"events": {"m.room.topic": 0}})
    if let_in(peers.check, owner, guest, room_id):
        yield from at_odds(peers.check, owner, guest, room_id)


def history_here(peers: Peers) -> None:
    """What was said before Sam came is fetched by Synapse when he pages back."""
    _history(peers, HERE)


def history_there(peers: Peers) -> None:
    """What was said before Lena came is fetched by us when she pages back."""
    _history(peers, THERE)


def _history(peers: Peers, side: Side) -> None:
    for version in VERSIONS:
        peers.say(f"\nOld messages of a room {side.word}, room version {version}")
        owner, guest = side.owner(peers), side.guest(peers)
        room_id = peers.room(version, by=owner)
        written = write_history(owner, room_id)
        if let_in(peers.check, owner, guest, room_id):
            reads_history(peers.check, guest, room_id, written)


def restricted_here(peers: Peers) -> None:
    """`knock_restricted`: members of another room come in at once, all others knock."""
    _restricted(peers, HERE)


def restricted_there(peers: Peers) -> None:
    """The same at Synapse, whose user vouches for ours."""
    _restricted(peers, THERE)


def _restricted(peers: Peers, side: Side) -> None:
    for version in VERSIONS:
        peers.say(f"\nMembers of another room {side.word}, room version {version}")
        owner, member, stranger = side.owner(peers), side.guest(peers), side.another(peers)
        club = peers.room(version, by=owner)
        if not let_in(peers.check, owner, member, club):
            continue
        room_id = owner.client.create_room(version, {
            "join_rule": "knock_restricted",
            "allow": [{"type": "m.room_membership", "room_id": club}]}, name="Otters")
        answer = stranger.join(room_id)
        peers.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                    f"{stranger.user_id}, who is not in the other room, joins: 403 M_FORBIDDEN",
                    answer)
        answer = stranger.knock(room_id)
        peers.check(answer.status == 200, "but may knock: 200", answer)
        for _ in vouched_for(peers.check, owner, member, room_id):
            pass


SCENARIOS = (forks_here, history_here, restricted_here,
             forks_there, history_there, restricted_there)
