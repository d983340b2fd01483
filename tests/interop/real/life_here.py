"""The whole life of a knock on a room of ours, by a user of Synapse.

May not: do for Synapse what its own user's client can ask it to do.
"""

from __future__ import annotations

from person import REASON
from real.ground import VERSIONS, Peers
from real.knocks import INVALID_STATE
from story import Story
from together import accepted

RULES = ("knock", "knock_restricted")


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
    yield from accepted(peers.check, olga, sam, room_id)
    invalid = peers.synapse.metric(INVALID_STATE)
    peers.check(invalid == 0, "of the full events behind the invite Synapse counts none as invalid",
                invalid)
    olga.client.about(room_id, "ban", sam.user_id)
    yield "the ban"
    peers.refused(lambda: sam.knock(room_id, "please"), "banned",
                  "Olga bans Sam: the third knock gets 403 M_FORBIDDEN")


SCENARIOS = (life_here,)
