"""What happens between two steps, and while one side is away. These stop and kill by themselves.

May not: reach into a server to make it happen: the test stands in front of it, or stops it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pair.answers import NOT_NOW, knock, was_told
from pair.ground import VERSIONS, WIDE, Pair
from person import Person
from story import Story
from together import chat, let_in

# An answer to a knock may not wait for a server that is away.
AT_ONCE_SECONDS = 5.0
ARRIVES_WITHIN_SECONDS = 10.0
BURST = 10
BEYOND = 4
# The room's server has its rates as they are out of the box, in place of those of `ground.py`; the
# knockers' server, which would limit its own users first, has not.
DEFAULT_RATES = {
    "rate_limit.knocks_by_origin": "{ per_second = 1.0, burst = 20 }",
    "rate_limit.knocks_by_network": "{ per_second = 2.0, burst = 20 }",
}
OWN_RATES = {"rate_limit.knocks_in_room": WIDE}


def _done(story: Story) -> None:
    for _ in story:
        pass


def accepted_while_away(pair: Pair, version: str) -> None:
    """The knocker's server is down while the owner accepts, and the owner's dies right after."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    _done(knock(pair, olga, sam, room_id))
    pair.south.stop()
    _at_once(pair, "the south is stopped, and Olga accepts at once",
             lambda: olga.client.about(room_id, "invite", sam.user_id))
    pair.north.kill()
    pair.north.start()
    pair.south.start()
    pair.check(sam.finds(room_id, "invite"), "the north is killed and started again, then the"
               " south: Sam is invited", sam.view(room_id).sections)
    answer = sam.join(room_id, via=())
    pair.check(answer.status == 200 and sam.finds(room_id, "join"), "and joins: 200", answer)
    _done(chat(pair.check, olga, sam, room_id))
    pair.check(sam.view(room_id).sections.count("invite") == 1, "the invite came once",
               sam.view(room_id).sections)


def denied_while_away(pair: Pair, version: str) -> None:
    """The same, and the owner denies."""
    _answered_while_away(pair, version, "kick", "leave")


def banned_while_away(pair: Pair, version: str) -> None:
    """The same, and the owner bans."""
    _answered_while_away(pair, version, "ban", "ban")


def _answered_while_away(pair: Pair, version: str, action: str, membership: str) -> None:
    olga, sam, tom = pair.owner(), pair.visitor(), pair.visitor("Tom")
    room_id = pair.room(olga, version)
    _done(knock(pair, olga, sam, room_id))
    _done(knock(pair, olga, tom, room_id))
    pair.south.stop()
    _at_once(pair, f"the south is stopped, and Olga's {action} is done at once",
             lambda: olga.client.about(room_id, action, sam.user_id, reason=NOT_NOW))
    pair.north.kill()
    pair.north.start()
    pair.south.start()
    pair.report.say("        the north is killed and started again, then the south")
    event = was_told(pair, sam, room_id, olga, membership, NOT_NOW)
    # The north sends to the south in order: a second copy would have come before this.
    olga.client.about(room_id, "kick", tom.user_id)
    was_told(pair, tom, room_id, olga, "leave", None)
    sam.listen()
    pair.check(event is not None and sam.view(room_id).count(event["event_id"]) == 1
               and sam.view(room_id).sections.count("leave") == 1,
               "what Olga says after that arrives as well, and nothing of the first comes again",
               sam.view(room_id).sections)


def retracted_while_away(pair: Pair, version: str) -> None:
    """The room's server is down while the visitor takes the knock back."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    _done(knock(pair, olga, sam, room_id))
    pair.north.stop()
    _at_once(pair, "the north is stopped, and Sam takes the knock back at once",
             lambda: pair.check(sam.leave(room_id, "never mind").status == 200, "with 200"))
    sam.listen()
    pair.check(sam.membership(room_id) == "leave", "his next /sync has it under `rooms.leave`",
               sam.view(room_id).sections)
    pair.south.kill()
    pair.south.start()
    pair.north.start()
    event = olga.sees(room_id, sam.user_id, "leave", reason="never mind")
    pair.check(event is not None and event["sender"] == sam.user_id
               and olga.view(room_id).count(event["event_id"]) == 1,
               "the south is killed and started again, then the north: Olga hears it, once", event)


def said_while_away(pair: Pair, version: str) -> None:
    """What is said in a shared room while the other side is down is not lost."""
    olga, sam = pair.owner(), pair.visitor()
    room_id = pair.room(olga, version)
    if not let_in(pair.check, olga, sam, room_id):
        return
    pair.south.stop()
    said = [olga.say(room_id, f"message {number}") for number in range(60)]
    pair.north.kill()
    pair.north.start()
    pair.south.start()
    sam.misses(room_id, said)
    heard = [event["event_id"] for event in sam.view(room_id).timeline
             if event["event_id"] in set(said)]
    pair.check(heard == said, f"the south is stopped, Olga says {len(said)} things,"
               " the north is killed, both are started: Sam reads all, each once and in order",
               f"{len(heard)} of {len(said)}")


def overtaken(pair: Pair, version: str) -> None:
    """The answer is there before the answer to the knock that it answers."""
    with pair.relays() as (in_front_of_north, _):
        for action, section in (("invite", "invite"), ("kick", "leave"), ("ban", "leave")):
            olga, sam = pair.owner(), pair.visitor()
            room_id = pair.room(olga, version)
            told = threading.Event()

            def answer(olga: Person = olga, sam: Person = sam, room_id: str = room_id,
                       action: str = action, told: threading.Event = told) -> None:
                if olga.sees(room_id, sam.user_id, "knock"):
                    olga.client.about(room_id, action, sam.user_id)
                    told.set()

            in_front_of_north.after("/send_knock/", answer)
            answered = sam.knock(room_id)
            pair.check(answered.status == 200 and told.is_set(),
                       f"{sam.user_id} knocks, and while the answer is held up comes the {action}:"
                       " 200", answered)
            pair.check(sam.finds(room_id, section), "the one that stands in the end is that",
                       sam.view(room_id).sections)


def lost_answers(pair: Pair, version: str) -> None:
    """Whoever gets no answer asks again; what was asked happens once."""
    with pair.relays() as (in_front_of_north, in_front_of_south):
        olga, sam = pair.owner(), pair.visitor()
        room_id = pair.room(olga, version)
        in_front_of_north.lose_answer("/send_knock/")
        answer = sam.knock(room_id)
        pair.check(answer.status in (200, 502, 504), f"{sam.user_id} knocks, and the answer to"
                   " send_knock is lost", answer)
        if answer.status != 200:
            answer = sam.knock(room_id)
            pair.check(answer.status in (200, 403), "he knocks again", answer)
        pair.check(sam.finds(room_id, "knock") and olga.sees(room_id, sam.user_id, "knock"),
                   "both see that he knocks", sam.view(room_id).sections)
        knocks = [event for event in olga.view(room_id).timeline
                  if event.get("state_key") == sam.user_id]
        pair.check(len(knocks) == 1, "and it is one knock", knocks)
        in_front_of_south.lose_answer("/invite/")
        olga.client.about(room_id, "invite", sam.user_id)
        pair.check(sam.finds(room_id, "invite"), "the answer to the invite is lost: he sees it")
        in_front_of_north.lose_answer("/send_join/")
        answer = sam.join(room_id)
        if answer.status != 200:
            answer = sam.join(room_id)
        pair.check(answer.status == 200 and sam.finds(room_id, "join"),
                   "the answer to send_join is lost: he is in, at the latest when asking again",
                   answer)
        in_front_of_south.lose_answer("/send/")
        said = olga.say(room_id, "Is that you?")
        pair.check(sam.reads(room_id, said), "the answer to a transaction is lost: Sam reads it")
        _done(chat(pair.check, olga, sam, room_id))
        pair.check(sam.view(room_id).count(said) == 1
                   and sam.view(room_id).sections.count("invite") == 1,
                   "and both the invite and what was said came once", sam.view(room_id).sections)


def killed_while_asking(pair: Pair, version: str) -> None:
    """The knocker's server dies between make and send, and with the answer on its way."""
    with pair.relays() as (in_front_of_north, _):
        for when, arrange in (("before send_knock", in_front_of_north.before),
                              ("before its answer", in_front_of_north.after)):
            olga, sam = pair.owner(), pair.visitor()
            room_id = pair.room(olga, version)
            arrange("/send_knock/", pair.south.kill)
            with ThreadPoolExecutor(1) as pool:
                knocking = pool.submit(sam.knock, room_id)
                pair.check(knocking.exception() is not None,
                           f"{sam.user_id} knocks, and {when} his server is killed")
            pair.south.start()
            pair.check(sam.finds(room_id, "knock"), "it is started again, and has not forgotten:"
                       " the room comes under `rooms.knock`", sam.view(room_id).sections)
            pair.check(olga.sees(room_id, sam.user_id, "knock"), "Olga sees the knock")
            knocks = [event for event in olga.view(room_id).timeline
                      if event.get("state_key") == sam.user_id]
            pair.check(len(knocks) == 1, "and it is one knock", knocks)
            olga.client.about(room_id, "kick", sam.user_id)
            was_told(pair, sam, room_id, olga, "leave", None)


def killed_while_joining(pair: Pair, version: str) -> None:
    """The server of whoever joins dies with the join, or with the answer to it, on its way."""
    with pair.relays() as (in_front_of_north, _):
        for when, arrange in (("before send_join", in_front_of_north.before),
                              ("before its answer", in_front_of_north.after)):
            olga, sam = pair.owner(), pair.visitor()
            room_id = pair.room(olga, version, "public")
            arrange("/send_join/", pair.south.kill)
            with ThreadPoolExecutor(1) as pool:
                joining = pool.submit(sam.join, room_id)
                pair.check(joining.exception() is not None,
                           f"{sam.user_id} joins, and {when} his server is killed")
            pair.south.start()
            pair.check(sam.finds(room_id, "join") and olga.sees(room_id, sam.user_id, "join"),
                       "it is started again and goes on: both see that he is in the room",
                       sam.view(room_id).sections)
            said = sam.say(room_id, "Here I am")
            pair.check(olga.reads(room_id, said), "and Olga reads what he says")


def burst(pair: Pair, version: str) -> None:
    """More knocks at once than the default rates let through do not hold up what is said."""
    with pair.north.restarted_with(DEFAULT_RATES), pair.south.restarted_with(OWN_RATES):
        olga, sam = pair.owner(), pair.visitor()
        shared, besieged = (pair.room(olga, version) for _ in range(2))
        if not let_in(pair.check, olga, sam, shared):
            return
        crowd = [pair.visitor(f"Una{number}") for number in range(BURST + BEYOND)]
        before = pair.north.totals()["knocks"]["refused"].get("over_rate", 0)
        with ThreadPoolExecutor(len(crowd)) as pool:
            knocks = [pool.submit(person.knock, besieged) for person in crowd]
            pair.check(olga.until(besieged, lambda room: room.members("knock") >= BURST),
                       f"of {len(crowd)} knocks at once {BURST} come in")
            for speaker, listener in ((sam, olga), (olga, sam)):
                said = speaker.say(shared, f"{speaker.name} is heard")
                pair.check(listener.reads(shared, said, ARRIVES_WITHIN_SECONDS),
                           f"{speaker.name} says something in the room they share, and"
                           f" {listener.name} reads it within {ARRIVES_WITHIN_SECONDS:.0f} s")
            still = sum(not knocking.done() for knocking in knocks)
            answers = [knocking.result() for knocking in knocks]
        pair.check(still > 0, "meanwhile the others are held up", [str(a) for a in answers])
        limited = [answer for answer in answers if answer.status != 200]
        pair.check(limited and all((answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")
                                   and answer.json.get("retry_after_ms", 0) > 0
                                   for answer in limited),
                   f"in the end {len(limited)} get 429 M_LIMIT_EXCEEDED, and for how long",
                   [str(answer) for answer in limited])
        counted = pair.north.totals()["knocks"]["refused"].get("over_rate", 0) - before
        pair.check(counted == len(limited), "the north's admins count as many over the rate",
                   counted)


def joined_at_once(pair: Pair, version: str) -> None:
    """With `knock.auto_join_accepted` whoever is let in is in."""
    with pair.south.restarted_with({"knock.auto_join_accepted": "true"}):
        olga, sam = pair.owner(), pair.visitor()
        room_id = pair.room(olga, version)
        _done(knock(pair, olga, sam, room_id))
        olga.client.about(room_id, "invite", sam.user_id)
        pair.check(sam.finds(room_id, "join") and olga.sees(room_id, sam.user_id, "join"),
                   "Olga accepts, and Sam is in without a further step",
                   sam.view(room_id).sections)
        _done(chat(pair.check, olga, sam, room_id))


def crossing(pair: Pair, version: str) -> None:
    """The owner accepts while the visitor takes it back: whoever comes first, both sides agree."""
    for _ in range(3):
        olga, sam = pair.owner(), pair.visitor()
        room_id, later, elsewhere = (pair.room(olga, version) for _ in range(3))
        _done(knock(pair, olga, sam, room_id))
        with ThreadPoolExecutor() as pool:
            accept = pool.submit(olga.client.in_room, room_id, "invite",
                                 {"user_id": sam.user_id})
            retract = pool.submit(sam.leave, room_id)
        pair.check((accept.result().status, retract.result().status) == (200, 200),
                   "Olga accepts the knock while Sam takes it back: 200 for both",
                   f"{accept.result()}, {retract.result()}")
        # What one server tells the other comes in order: after these two nothing is on its way.
        olga.client.about(later, "invite", sam.user_id)
        pair.check(sam.finds(later, "invite"), "what Olga tells him later arrives")
        _done(knock(pair, olga, sam, elsewhere))
        pair.check(sam.leave(elsewhere).status == 200
                   and olga.sees(elsewhere, sam.user_id, "leave"), "and so does what he tells her")
        stands = olga.client.membership(room_id, sam.user_id)
        pair.check(stands in ("leave", "invite") and sam.finds(room_id, stands),
                   f"what stands in the room is `{stands}`, and Sam's client comes to the same",
                   sam.view(room_id).sections)
        if stands == "invite":
            answer = sam.join(room_id, via=())
            pair.check(answer.status == 200, "so he can join: 200", answer)
        else:
            _done(knock(pair, olga, sam, room_id, "once more"))


def _at_once(pair: Pair, what: str, act: Callable[[], object]) -> None:
    began = time.monotonic()
    act()
    took = time.monotonic() - began
    pair.check(took < AT_ONCE_SECONDS, what, f"{took:.1f} s")


SCENARIOS = (accepted_while_away, denied_while_away, banned_while_away, retracted_while_away,
             said_while_away, overtaken, lost_answers, killed_while_asking, burst,
             joined_at_once, crossing, killed_while_joining)


def tell(pair: Pair, scenario: Callable[[Pair, str], None]) -> None:
    version = VERSIONS[SCENARIOS.index(scenario) % len(VERSIONS)]
    title = scenario.__name__.replace("_", " ").capitalize()
    pair.report.say(f"\n{title}, room version {version}")
    scenario(pair, version)
