"""A knock and its answers between two Vestibules: each arrives, and is what was said.

May not: restart anything; the kills come from outside.
"""

from __future__ import annotations

from pair.ground import Pair
from person import REASON, Event, Person
from story import Story
from together import chat, invited, same_state

NOT_NOW = "We are full, ask again in spring."


def knock(pair: Pair, owner: Person, visitor: Person, room_id: str,
          reason: str = REASON) -> Story:
    """A knock that both sides come to see."""
    answer = visitor.knock(room_id, reason)
    pair.check(answer.status == 200 and answer.json == {"room_id": room_id},
               f"{visitor.user_id} knocks: 200", answer)
    yield "the knock"
    pair.check(visitor.finds(room_id, "knock"), f"{visitor.name}'s /sync has it under `rooms.knock`",
               visitor.view(room_id).sections)
    event = owner.sees(room_id, visitor.user_id, "knock", reason=reason)
    pair.check(event is not None and event["content"].get("displayname") == visitor.name,
               f"{owner.name}'s shows the knock, the name and the reason", event)


def was_told(pair: Pair, visitor: Person, room_id: str, by: Person, membership: str,
             reason: str | None) -> Event | None:
    """The one answer that ends a knock or a stay, in the /sync of the person it is about."""
    visitor.finds(room_id, "leave")
    room = visitor.view(room_id)
    event = room.member(visitor.user_id)
    pair.check(room.section == "leave" and event.get("sender") == by.user_id
               and event["content"].get("membership") == membership
               and event["content"].get("reason") == reason
               and room.count(event["event_id"]) == 1,
               f"{visitor.name}'s /sync has it under `rooms.leave`: the {membership} by {by.name},"
               f" {'with its reason' if reason else 'without a reason'}, once",
               f"{event} {room.sections} {room.timeline}")
    return event or None


def same_event(pair: Pair, owner: Person, visitor: Person, room_id: str,
               told: Event | None) -> None:
    """What the visitor was told is the very event that the room has."""
    stands = owner.view(room_id).member(visitor.user_id)
    if not stands or told is None or stands.get("event_id") != told["event_id"]:
        stands = owner.until(room_id, lambda room: room.member(visitor.user_id)
                             if told and room.count(told["event_id"]) else {})
    pair.check(told is not None and stands.get("event_id") == told["event_id"],
               f"and {owner.name}'s room has that very event", f"{stands} {told}")


def denied(pair: Pair, version: str) -> Story:
    """The owner says no; the visitor hears it, and why, and may ask again."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    olga.client.about(room_id, "kick", sam.user_id, reason=NOT_NOW)
    yield "the denial"
    event = was_told(pair, sam, room_id, olga, "leave", NOT_NOW)
    same_event(pair, olga, sam, room_id, event)
    yield from knock(pair, olga, sam, room_id, "It is spring.")
    olga.client.about(room_id, "kick", sam.user_id)
    yield "the second denial"
    was_told(pair, sam, room_id, olga, "leave", None)


def banned(pair: Pair, version: str) -> Story:
    """The owner says no for good."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    olga.client.about(room_id, "ban", sam.user_id, reason=NOT_NOW)
    yield "the ban"
    event = was_told(pair, sam, room_id, olga, "ban", NOT_NOW)
    same_event(pair, olga, sam, room_id, event)
    answer = sam.knock(room_id)
    pair.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
               "the next knock gets 403 M_FORBIDDEN", answer)
    sam.listen()
    pair.check(sam.membership(room_id) == "leave", "and leaves no trace in Sam's /sync",
               sam.view(room_id).sections)
    olga.client.about(room_id, "unban", sam.user_id)
    yield "the unban"
    yield from knock(pair, olga, sam, room_id, "Thank you.")


def retracted(pair: Pair, version: str) -> Story:
    """The visitor takes it back; the owner hears it."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    answer = sam.leave(room_id, "never mind")
    pair.check(answer.status == 200, "Sam takes it back: 200", answer)
    yield "the retraction"
    sam.listen()
    pair.check(sam.membership(room_id) == "leave", "his next /sync has it under `rooms.leave`",
               sam.view(room_id).sections)
    event = olga.sees(room_id, sam.user_id, "leave", reason="never mind")
    pair.check(event is not None and event["sender"] == sam.user_id
               and olga.view(room_id).count(event["event_id"]) == 1,
               "Olga's /sync shows that he did, and why, once", event)
    waiting = olga.client.members(room_id, membership="knock")
    pair.check(waiting == [], "nobody waits any more", waiting)
    yield from knock(pair, olga, sam, room_id, "after all")


def accepted(pair: Pair, version: str) -> Story:
    """In, a talk, out, and never again."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    olga.client.about(room_id, "invite", sam.user_id)
    yield "the invite"
    invited(pair.check, olga, sam, room_id)
    answer = sam.join(room_id, via=())
    pair.check(answer.status == 200, "Sam joins: 200", answer)
    yield "the join"
    pair.check(sam.finds(room_id, "join") and olga.sees(room_id, sam.user_id, "join"),
               "both see that he is in")
    yield from chat(pair.check, olga, sam, room_id)
    same_state(pair.check, olga, sam, room_id)
    olga.client.about(room_id, "kick", sam.user_id, reason=NOT_NOW)
    yield "the kick"
    event = was_told(pair, sam, room_id, olga, "leave", NOT_NOW)
    same_event(pair, olga, sam, room_id, event)
    yield from knock(pair, olga, sam, room_id, "It is spring.")
    olga.client.about(room_id, "ban", sam.user_id)
    yield "the ban"
    was_told(pair, sam, room_id, olga, "ban", None)
    answer = sam.knock(room_id)
    pair.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
               "the next knock gets 403 M_FORBIDDEN", answer)


def declined(pair: Pair, version: str) -> Story:
    """Let in, and no longer interested."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    olga.client.about(room_id, "invite", sam.user_id)
    yield "the invite"
    invited(pair.check, olga, sam, room_id)
    answer = sam.leave(room_id)
    pair.check(answer.status == 200, "Sam declines: 200", answer)
    yield "the refusal"
    sam.listen()
    pair.check(sam.membership(room_id) == "leave", "his next /sync has it under `rooms.leave`",
               sam.view(room_id).sections)
    event = olga.sees(room_id, sam.user_id, "leave")
    pair.check(event is not None and event["sender"] == sam.user_id,
               "and Olga's shows that he did", event)


def rescinded(pair: Pair, version: str) -> Story:
    """Let in, and the door shut again before he came."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    olga.client.about(room_id, "invite", sam.user_id)
    yield "the invite"
    invited(pair.check, olga, sam, room_id)
    olga.client.about(room_id, "kick", sam.user_id, reason=NOT_NOW)
    yield "the kick"
    was_told(pair, sam, room_id, olga, "leave", NOT_NOW)
    answer = sam.join(room_id)
    pair.check((answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
               "he cannot join any more: 403 M_FORBIDDEN", answer)


def by_alias(pair: Pair, version: str) -> Story:
    """Who knows the room's alias needs to know nothing else."""
    olga, sam = pair.owner(), pair.visitor()
    alias = f"#{olga.user_id[1:].partition(':')[0]}:{pair.north.server_name}"
    room_id = pair.room(olga, version, room_alias_name=alias[1:].partition(":")[0])
    answer = sam.knock(alias, via=())
    pair.check(answer.status == 200 and answer.json == {"room_id": room_id},
               f"{sam.user_id} knocks on {alias}, without `via`: 200 and the room's id", answer)
    yield "the knock"
    pair.check(sam.finds(room_id, "knock"), "his /sync has it under `rooms.knock`")
    shown = sam.view(room_id)
    pair.check(shown.stripped_content("m.room.canonical_alias").get("alias") == alias,
               "with its alias", shown.stripped)
    pair.check(olga.sees(room_id, sam.user_id, "knock"), "and Olga sees the knock")


def deactivated(pair: Pair, version: str) -> Story:
    """Who closes their account waits nowhere any more."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    yield from knock(pair, olga, sam, room_id)
    user = sam.user_id[1:].partition(":")[0]
    answer = sam.client.call("POST", "/v3/account/deactivate", {"auth": {
        "type": "m.login.password", "password": "correct horse battery",
        "identifier": {"type": "m.id.user", "user": user}}})
    pair.check(answer.status == 200, "Sam closes his account: 200", answer)
    yield "the deactivation"
    event = olga.sees(room_id, sam.user_id, "leave")
    pair.check(event is not None and event["sender"] == sam.user_id,
               "Olga's /sync shows that his knock is taken back", event)


STORIES = (denied, banned, retracted, accepted, declined, rescinded, by_alias, deactivated)
