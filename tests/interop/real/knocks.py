"""Users of Synapse knock on rooms of Vestibule; nobody but the owner here answers.

May not: wait for anything that has to cross from Vestibule to Synapse by itself; that is told in
`life_here.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from person import REASON, Person
from raw_http import Answer
from real.ground import SYNAPSE_ADDRESS, VERSIONS, VESTIBULE_ADDRESS, Peers
from together import waits
from vestibule import quoted

# The older versions that can knock, and the other rule, get the short scenario.
FURTHER = (("7", "knock"), ("8", "knock"), ("9", "knock"), ("10", "knock_restricted"),
           ("11", "knock_restricted"), ("12", "knock_restricted"))
# Counted by Synapse when an event of `knock_room_state` is not whole: its room, hash or signature.
INVALID_STATE = "synapse_federation_saw_invalid_stripped_state_total"
AT_ONCE = 8


def knocks(peers: Peers) -> None:
    """A Synapse user knocks by room id; everybody who should see it does."""
    for version in VERSIONS:
        _whole_knock(peers, version, "knock")


def further_versions(peers: Peers) -> None:
    """The same in the older versions that can knock, and with `knock_restricted`."""
    for version, rule in FURTHER:
        _whole_knock(peers, version, rule)


def _whole_knock(peers: Peers, version: str, rule: str) -> None:
    peers.say(f"\nRoom version {version}, join rule `{rule}`")
    room_id = peers.room(version, rule)
    sam = peers.visitor("Sam")
    since = peers.owner.sync()["next_batch"]
    counts = peers.knock_counts()
    answer = sam.knock(room_id)
    if not peers.check(answer.status == 200 and answer.json == {"room_id": room_id},
                       f"{sam.user_id} knocks on {room_id} at Synapse: 200", answer):
        return
    _visitor_sees(peers, sam, room_id, rule)
    _owner_sees(peers, sam, room_id, version, since)
    after = peers.knock_counts()
    peers.check((after["prepared"] - counts["prepared"], after["admitted"] - counts["admitted"],
                 after["pending"] - counts["pending"]) == (1, 1, 1)
                and after["refused"] == counts["refused"],
                "in all rooms one more was prepared, admitted and is pending; none was refused",
                f"{counts} → {after}")


def _visitor_sees(peers: Peers, visitor: Person, room_id: str, rule: str) -> None:
    waits(peers.check, visitor, room_id, rule)
    invalid = peers.synapse.metric(INVALID_STATE)
    peers.check(invalid == 0, "of the full events behind them Synapse counts none as invalid",
                invalid)


def _owner_sees(peers: Peers, visitor: Person, room_id: str, version: str, since: str) -> None:
    event, _ = peers.owner.sync_until_knock(room_id, visitor.user_id, since)
    peers.check(event is not None and event["sender"] == visitor.user_id
                and event["content"].get("membership") == "knock"
                and event["content"].get("reason") == REASON
                and event["content"].get("displayname") == "Sam",
                f"the owner's /sync shows the knock, Sam's name and “{REASON}”", event)
    waiting = peers.waiting(room_id)
    peers.check(event is not None and list(waiting) == [visitor.user_id]
                and waiting[visitor.user_id]["event_id"] == event["event_id"]
                and waiting[visitor.user_id]["content"] == event["content"],
                "/members?membership=knock lists exactly this knock", waiting)
    actor = peers.vestibule.actor(room_id)
    peers.check(actor["pending_knocks"] == 1 and actor["room_version"] == version
                and actor["members"] == {"join": 1, "invite": 0, "knock": 1, "leave": 0, "ban": 0}
                and actor["messages"].get("prepare_knock") == 1
                and actor["messages"].get("admit_knock") == 1,
                "the room's actor stats count one template, one admission, one pending knock",
                actor)
    listed = peers.admins_list(room_id).get(visitor.user_id, {})
    peers.check(listed.get("origin") == peers.synapse.server_name
                and listed.get("reason") == REASON
                and event is not None and listed.get("event_id") == event["event_id"],
                "the admins' list of knocks says where it came from, and why", listed)


def aliases(peers: Peers) -> None:
    """By alias: Synapse looks it up here (query/directory) and knocks through whom it is told."""
    for version in VERSIONS:
        peers.say(f"\nBy alias, room version {version}")
        room_id = peers.room(version, room_alias_name=f"otters{version}")
        alias = f"#otters{version}:{peers.vestibule_name}"
        anna = peers.visitor("Anna")
        answer = anna.knock(alias, via=())
        peers.check(answer.status == 200 and answer.json == {"room_id": room_id},
                    f"{anna.user_id} knocks on {alias}, without `via`: 200 and the room's id",
                    answer)
        peers.check(list(peers.waiting(room_id)) == [anna.user_id], "and the knock is there")
        anna.finds(room_id, "knock")
        shown = anna.view(room_id)
        peers.check(shown.stripped_content("m.room.canonical_alias").get("alias") == alias,
                    "their /sync shows the alias", shown.stripped)
    anna = peers.visitor("Anna")
    counts = peers.knock_counts()
    nobodys = f"#badgers:{peers.vestibule_name}"
    answer = anna.knock(nobodys, via=())
    peers.check((answer.status, answer.errcode) == (404, "M_NOT_FOUND"),
                f"an alias that nobody made, {nobodys}: 404 M_NOT_FOUND", answer)
    peers.check(peers.knock_counts() == counts, "and nobody was asked for a knock")


def repeats(peers: Peers) -> None:
    """A second knock on top of the first: too early by default, a new reason with `0s`."""
    rooms = {version: (peers.room(version), peers.visitor("Rita")) for version in VERSIONS}
    first: dict[str, dict[str, Any]] = {}
    for version, (room_id, rita) in rooms.items():
        peers.say(f"\nKnocking again, room version {version}")
        answer = rita.knock(room_id, "first")
        peers.check(answer.status == 200, f"{rita.user_id} knocks: 200", answer)
        peers.refused(lambda rita=rita, room_id=room_id: rita.knock(room_id, "second"),
                      "already_knocking", "the same again at once: 403 M_FORBIDDEN")
        first[version] = peers.waiting(room_id)
        peers.check([event["content"].get("reason") for event in first[version].values()]
                    == ["first"], "the first knock and its reason are as they were",
                    first[version])
    peers.say("\nVestibule is started again with knock.repeat_after=0s")
    with peers.vestibule.restarted_with({"knock.repeat_after": "0s"}):
        for version, (room_id, rita) in rooms.items():
            since = peers.owner.sync()["next_batch"]
            answer = rita.knock(room_id, "second")
            peers.check(answer.status == 200, f"version {version}: now the repeat gets 200", answer)
            event, _ = peers.owner.sync_until_knock(room_id, rita.user_id, since)
            peers.check(event is not None and event["content"].get("reason") == "second"
                        and event["event_id"] != first[version][rita.user_id]["event_id"],
                        "the owner's /sync shows the new reason", event)
            waiting = peers.waiting(room_id)
            peers.check(event is not None
                        and {user: e["event_id"] for user, e in waiting.items()}
                        == {rita.user_id: event["event_id"]},
                        "and it has taken the place of the first: one knock waits", waiting)
            pending = peers.vestibule.actor(room_id)["pending_knocks"]
            peers.check(pending == 1, "in the actor stats too", pending)


def reasons(peers: Peers) -> None:
    """What Synapse lets its users give as a reason arrives unchanged, or not at all."""
    accepted = {
        "none": None,
        "an empty one": "",
        "many scripts, controls and quotes": "Grüße 🦦 שלום \u202e\u0000\t\"\\ \u2028 \U0010ffff",
        "one longer than our own users may give": "o" * 3000,
    }
    for number, (kind, reason) in enumerate(accepted.items()):
        version = VERSIONS[number % len(VERSIONS)]
        peers.say(f"\nA reason: {kind}, room version {version}")
        room_id = peers.room(version)
        rosa = peers.visitor("Rosa")
        answer = rosa.knock(room_id, reason)
        peers.check(answer.status == 200, f"{rosa.user_id} knocks: 200", answer)
        waiting = peers.waiting(room_id)
        peers.check([event["content"].get("reason") for event in waiting.values()] == [reason],
                    "the owner reads it as it was given", waiting)
        listed = peers.admins_list(room_id).get(rosa.user_id, {})
        peers.check(listed.get("reason") == reason, "and so do the admins", listed)
    for version in VERSIONS:
        peers.say(f"\nA reason of 5,000 bytes, room version {version}")
        room_id = peers.room(version)
        rosa = peers.visitor("Rosa")
        peers.refused(lambda rosa=rosa, room_id=room_id: rosa.knock(room_id, "o" * 5000),
                      "content_too_large", f"{rosa.user_id} knocks: 413 M_TOO_LARGE",
                      413, "M_TOO_LARGE")
        peers.check(peers.waiting(room_id) == {} and rosa.knock(room_id).status == 200,
                    "the room has no trace of it, and a shorter one gets 200")


def forbidding_rooms(peers: Peers) -> None:
    """Rooms that nobody may knock on, or not in this way."""
    for version in VERSIONS:
        for rule in ("invite", "public", "restricted"):
            peers.say(f"\nRoom version {version}, join rule `{rule}`")
            room_id = peers.room(version, rule)
            felix = peers.visitor("Felix")
            peers.refused(lambda felix=felix, room_id=room_id: felix.knock(room_id),
                          "join_rule_forbids", f"{felix.user_id} knocks: 403 M_FORBIDDEN")
            peers.check(peers.waiting(room_id) == {}
                        and peers.owner.membership(room_id, felix.user_id) is None,
                        "and the room has no trace of it")
    peers.say("\nA room that the owner closes and opens")
    room_id = peers.room("11", "invite")
    felix = peers.visitor("Felix")
    peers.refused(lambda: felix.knock(room_id), "join_rule_forbids", "closed: 403 M_FORBIDDEN")
    peers.owner.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    answer = felix.knock(room_id)
    peers.check(answer.status == 200, "the owner sets the join rule to `knock`: 200", answer)
    peers.say("\nRoom version 6, which has no knocks, whatever its join rule")
    room_id = peers.room("6")
    peers.refused(lambda: felix.knock(room_id), "version_cannot_knock",
                  "Synapse offers all versions it knows: 403 M_FORBIDDEN")


def banned(peers: Peers) -> None:
    """Who is banned is refused, in words that tell no more than those for a closed room."""
    for version in VERSIONS:
        peers.say(f"\nBanned, room version {version}")
        room_id = peers.room(version)
        boris = peers.visitor("Boris")
        peers.owner.about(room_id, "ban", boris.user_id)
        told = peers.refused(
            lambda boris=boris, room_id=room_id: boris.knock(room_id), "banned",
            f"{boris.user_id}, banned before ever coming, knocks: 403 M_FORBIDDEN")
        peers.check(peers.owner.membership(room_id, boris.user_id) == "ban", "and stays banned")
        closed = boris.knock(peers.room(version, "invite"))
        peers.check(told.body == closed.body, "told the same as at a closed room",
                    f"{told} / {closed}")
        peers.owner.about(room_id, "unban", boris.user_id)
        answer = boris.knock(room_id)
        peers.check(answer.status == 200, "the owner lifts the ban: 200", answer)
        peers.owner.about(room_id, "ban", boris.user_id)
        peers.check(peers.waiting(room_id) == {}, "the owner bans again: the knock is gone")
        peers.refused(lambda boris=boris, room_id=room_id: boris.knock(room_id), "banned",
                      "knocking is refused again: 403 M_FORBIDDEN")


def denied_by_acl(peers: Peers) -> None:
    """A server ACL that denies Synapse: by its name without port, or because the name is an IP."""
    acls = {
        "names it": {"allow": ["*"], "deny": [SYNAPSE_ADDRESS]},
        "denies it by a glob": {"allow": ["*"], "deny": ["127.0.?.*"]},
        "allows no IP literals": {"allow": ["*"], "allow_ip_literals": False},
        "allows only others": {"allow": ["*.example.org", VESTIBULE_ADDRESS]},
        "allows nobody": {"allow": []},
    }
    for number, (kind, acl) in enumerate(acls.items()):
        version = VERSIONS[number % len(VERSIONS)]
        peers.say(f"\nA server ACL that {kind}, room version {version}")
        acl_event = {"type": "m.room.server_acl", "state_key": "", "content": acl}
        room_id = peers.room(version, "knock", acl_event)
        greta = peers.visitor("Greta")
        peers.refused(lambda greta=greta, room_id=room_id: greta.knock(room_id), "server_denied",
                      f"{greta.user_id} knocks: 403 M_FORBIDDEN")
        peers.check(peers.waiting(room_id) == {}, "and the room has no knock")
        peers.owner.set_state(room_id, "m.room.server_acl", {"allow": ["*"]})
        answer = greta.knock(room_id)
        peers.check(answer.status == 200, "the owner opens the ACL: 200", answer)


def killed(peers: Peers) -> None:
    """`kill -9` the moment that Synapse's client has its 200."""
    for version in VERSIONS:
        peers.say(f"\nKilled right after the knock, room version {version}")
        room_id = peers.room(version)
        kim, lou = peers.visitor("Kim"), peers.visitor("Lou")
        since = peers.owner.sync()["next_batch"]
        answer = kim.knock(room_id)
        peers.vestibule.kill()
        peers.check(answer.status == 200, f"{kim.user_id} knocks: 200, and that instant we kill -9",
                    answer)
        down = lou.knock(room_id)
        peers.check(down.status == 502, f"{lou.user_id} knocks while Vestibule is down: Synapse"
                    " says so with 502", down)
        peers.vestibule.start()
        waiting = peers.waiting(room_id)
        peers.check(list(waiting) == [kim.user_id]
                    and waiting[kim.user_id]["content"].get("reason") == REASON,
                    "started again: Kim's knock is there, with its reason", waiting)
        event, _ = peers.owner.sync_until_knock(room_id, kim.user_id, since)
        peers.check(event is not None and event["event_id"] == waiting[kim.user_id]["event_id"],
                    "the owner's /sync goes on from before the kill and shows it", event)
        answer = lou.knock(room_id)
        peers.check(answer.status == 200, "Lou knocks again: 200", answer)
        peers.check(set(peers.waiting(room_id)) == {kim.user_id, lou.user_id}, "both wait")
        peers.refused(lambda kim=kim, room_id=room_id: kim.knock(room_id), "already_knocking",
                      "the time of Kim's knock outlived the kill: a repeat gets 403 M_FORBIDDEN")


def denied(peers: Peers) -> None:
    """The owner kicks, which is "no, but you may ask again"."""
    for version in VERSIONS:
        peers.say(f"\nDenied, room version {version}")
        room_id = peers.room(version)
        nina = peers.visitor("Nina")
        answer = nina.knock(room_id)
        peers.check(answer.status == 200, f"{nina.user_id} knocks: 200", answer)
        peers.owner.about(room_id, "kick", nina.user_id)
        peers.check(peers.waiting(room_id) == {}
                    and peers.owner.membership(room_id, nina.user_id) == "leave",
                    "the owner denies it by a kick: nobody waits")
        answer = nina.knock(room_id, "please")
        peers.check(answer.status == 200, "no knock is pending, so Nina may knock again: 200",
                    answer)
        waiting = peers.waiting(room_id)
        peers.check([event["content"].get("reason") for event in waiting.values()] == ["please"],
                    "and the new one waits", waiting)


def retractions(peers: Peers) -> None:
    """Synapse takes a knock back on its own side only: it never tells the room's server.

    That is Synapse's (element-hq/synapse#18030), not ours: a scripted make_leave and send_leave do
    retract (`bad/odd_but_right.py`). Should Synapse learn it one day, this fails and has to turn.
    """
    for version in VERSIONS:
        peers.say(f"\nRetracted at Synapse, room version {version}")
        room_id = peers.room(version)
        paul, quinn = peers.visitor("Paul"), peers.visitor("Quinn")
        answer = paul.knock(room_id)
        peers.check(answer.status == 200, f"{paul.user_id} knocks: 200", answer)
        peers.check(paul.finds(room_id, "knock"), "and sees it in /sync")
        counts = peers.knock_counts()
        answer = paul.client.in_room(room_id, "leave")
        peers.check(answer.status == 200, "Paul takes it back at Synapse: 200", answer)
        peers.check(paul.finds(room_id, "leave"),
                    "his /sync shows the room under `rooms.leave`")
        # Synapse sends to one destination in order of time: what it had to say about Paul would
        # have come before this.
        answer = quinn.knock(room_id)
        peers.check(answer.status == 200, f"{quinn.user_id} knocks after that: 200", answer)
        peers.check(set(peers.waiting(room_id)) == {paul.user_id, quinn.user_id},
                    "here both wait: nothing of the retraction has come", peers.waiting(room_id))
        after = peers.knock_counts()
        peers.check(after["retracted"] == counts["retracted"]
                    and not peers.vestibule.actor(room_id)["messages"].get("prepare_leave"),
                    "not even a make_leave", after)
        peers.refused(lambda paul=paul, room_id=room_id: paul.knock(room_id), "already_knocking",
                      "so Paul's next knock is a repeat: 403 M_FORBIDDEN")


def profiles(peers: Peers) -> None:
    """A Synapse user looks up users of ours (query/profile)."""
    peers.say("\nProfiles")
    tess = peers.visitor("Tess")

    def look_up(user_id: str, *field: str) -> Answer:
        path = "/".join((f"/v3/profile/{quoted(user_id)}", *field))
        return tess.client.call("GET", path)

    found = look_up(peers.owner.user_id)
    peers.check(found.status == 200 and found.json.get("displayname") == "Olga the Owner",
                f"{tess.user_id} looks up {peers.owner.user_id} at Synapse: 200 and the name",
                found)
    peers.owner.must("PUT", f"/v3/profile/{quoted(peers.owner.user_id)}/displayname",
                     {"displayname": "Olga"})
    found = look_up(peers.owner.user_id, "displayname")
    peers.check(found.status == 200 and found.json == {"displayname": "Olga"},
                "the owner changes the name: Tess gets the new one", found)
    found = look_up(f"@nobody:{peers.vestibule_name}")
    peers.check((found.status, found.errcode) == (404, "M_NOT_FOUND"),
                "a user that does not exist: 404 M_NOT_FOUND", found)


def many_at_once(peers: Peers) -> None:
    """Users of one server whose knocks overlap: templates from before, admissions after."""
    for version in VERSIONS:
        peers.say(f"\n{AT_ONCE} at once, room version {version}")
        room_id = peers.room(version)
        crowd = [peers.visitor(f"Una{number}") for number in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda visitor: visitor.knock(room_id), crowd))
        peers.check(all(answer.status == 200 for answer in answers),
                    f"{AT_ONCE} users knock at the same moment: each gets 200",
                    [str(answer) for answer in answers if answer.status != 200])
        peers.check(set(peers.waiting(room_id)) == {visitor.user_id for visitor in crowd},
                    "and all wait, each once", set(peers.waiting(room_id)))


SCENARIOS: tuple[Callable[[Peers], None], ...] = (
    knocks, further_versions, aliases, repeats, reasons, forbidding_rooms, banned, denied_by_acl,
    killed, denied, retractions, profiles, many_at_once,
)
