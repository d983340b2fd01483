"""Living in one room from two servers.

May not: restart anything; the kills come from outside.
"""

from __future__ import annotations

from pair.answers import knock
from pair.ground import Pair
from story import Story
from together import (
    at_odds, chat, let_in, reads_history, same_state, vouched_for, write_history,
)


def restricted(pair: Pair, version: str) -> Story:
    """`knock_restricted`: members of another room come in at once, all others knock."""
    olga, sam, tom = pair.owner(), pair.visitor(), pair.visitor("Tom")
    club = pair.room(olga, version)
    if not let_in(pair.check, olga, sam, club):
        return
    room_id = pair.room(olga, version, {
        "join_rule": "knock_restricted",
        "allow": [{"type": "m.room_membership", "room_id": club}]})
    answer = tom.join(room_id)
    pair.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
               f"{tom.user_id}, who is not in the other room, joins: 403 M_FORBIDDEN", answer)
    yield from knock(pair, olga, tom, room_id)
    yield from vouched_for(pair.check, olga, sam, room_id)


def neighbours(pair: Pair, version: str) -> Story:
    """Once somebody of the south is in, others of the south knock at home, and can be answered by
    either side."""
    olga, sam, tom, una = pair.owner(), *(pair.visitor(name) for name in ("Sam", "Tom", "Una"))
    room_id = pair.room(olga, version)
    if not let_in(pair.check, olga, sam, room_id):
        return
    for person in (tom, una):
        yield from knock(pair, olga, person, room_id)
        pair.check(sam.sees(room_id, person.user_id, "knock"), "so does Sam's")
    sam.client.about(room_id, "invite", tom.user_id)
    yield "the invite by Sam"
    pair.check(tom.finds(room_id, "invite") and olga.sees(room_id, tom.user_id, "invite"),
               "Sam accepts Tom, and Olga sees it")
    answer = tom.join(room_id, via=())
    pair.check(answer.status == 200, "Tom joins: 200", answer)
    yield "the join"
    pair.check(olga.sees(room_id, tom.user_id, "join"), "and Olga sees that, too")
    olga.client.about(room_id, "kick", una.user_id, reason="no")
    yield "the denial by Olga"
    pair.check(una.sees(room_id, una.user_id, "leave", reason="no")
               and sam.sees(room_id, una.user_id, "leave", reason="no"),
               "Olga denies Una, who hears it; so does Sam")
    yield from chat(pair.check, olga, tom, room_id)
    same_state(pair.check, olga, sam, room_id)


def at_the_same_time(pair: Pair, version: str) -> Story:
    """Both talk and rename the room at once: it forks, and grows together."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version,
                        power_level_content_override={"events": {"m.room.topic": 0}})
    if let_in(pair.check, olga, sam, room_id):
        yield from at_odds(pair.check, olga, sam, room_id)


def history(pair: Pair, version: str) -> Story:
    """What was said before Sam came is fetched when he pages back."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    written = write_history(olga, room_id)
    if let_in(pair.check, olga, sam, room_id):
        yield "the join"
        reads_history(pair.check, sam, room_id, written)


def going(pair: Pair, version: str) -> Story:
    """Who leaves may knock again, and is let in again."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    if not let_in(pair.check, olga, sam, room_id):
        return
    answer = sam.leave(room_id)
    pair.check(answer.status == 200, "Sam leaves: 200", answer)
    yield "the leave"
    pair.check(sam.finds(room_id, "leave") and olga.sees(room_id, sam.user_id, "leave"),
               "and both see it")
    said = olga.say(room_id, "He is gone.")
    yield "what is said behind his back"
    if not let_in(pair.check, olga, sam, room_id):
        return
    yield from chat(pair.check, olga, sam, room_id)
    same_state(pair.check, olga, sam, room_id)
    pair.check(olga.reads(room_id, said), "what was said meanwhile stands in Olga's room")


STORIES = (restricted, neighbours, at_the_same_time, history, going)
