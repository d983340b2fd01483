"""Two hundred users of twenty servers knock on one room at once, and one user fifty times.

May not: import anything of Vestibule's. What must come out is computed by `Model`, from the answers
the peers got and the knock rule alone.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from authority import CertificateAuthority
from peer import Peer, SignedEvent
from raw_http import Answer
from report import Report, run
from vestibule import Client, Vestibule

SERVERS = 20
USERS_PER_SERVER = 10
REPEATS = 50
# Draws the order in which each connection sends; any order has to come out right.
SEED = 20
# High enough that no bucket speaks up, and still in force, so that their code runs.
ROOMY = "{ per_second = 100000.0, burst = 100000 }"
BUCKETS = ("knocks_in_room", "knocks_by_origin_in_room", "knocks_by_origin", "knocks_by_network",
           "knocks_by_user_in_room", "knocks_by_user", "new_origins_by_network", "requests_by_origin")


@dataclass(frozen=True)
class Attempt:
    """One send_knock that is going to be made."""

    peer: Peer
    user_id: str
    signed: SignedEvent


@dataclass
class Model:
    """The rule: within `repeat_after`, of all knocks of one user exactly one enters the room."""

    attempts: list[Attempt]
    admitted: dict[str, list[str]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    def take(self, attempt: Attempt, answer: Answer) -> None:
        if answer.status == 200:
            self.admitted.setdefault(attempt.user_id, []).append(attempt.signed.event_id)
        elif answer.status == 403 and answer.errcode == "M_FORBIDDEN":
            self.refused[attempt.user_id] += 1
        else:
            self.odd.append(f"{attempt.user_id}: {answer}")

    def users(self) -> set[str]:
        return {attempt.user_id for attempt in self.attempts}

    def state(self) -> dict[str, str]:
        """User to knock event, as the room must hold it."""
        return {user: events[0] for user, events in self.admitted.items()}


def attempts_for(vestibule: Vestibule, peers: list[Peer], room_id: str) -> list[Attempt]:
    """Every event is signed before the first is sent: all of them fork from few points."""
    attempts = []
    for peer in peers:
        for number in range(USERS_PER_SERVER):
            user_id = peer.user(f"user{number}")
            attempts.append(Attempt(peer, user_id, built(vestibule, peer, room_id, user_id, "hi")))
    insistent = peers[0].user("insistent")
    template = peers[0].make_knock(vestibule, room_id, insistent).json
    for number in range(REPEATS):
        event = peers[0].from_template(template["event"], reason=f"attempt {number}")
        signed = peers[0].sign_event(event, template["room_version"])
        attempts.append(Attempt(peers[0], insistent, signed))
    assert len({attempt.signed.event_id for attempt in attempts}) == len(attempts)
    return attempts


def built(vestibule: Vestibule, peer: Peer, room_id: str, user_id: str, reason: str) -> SignedEvent:
    made = peer.make_knock(vestibule, room_id, user_id)
    if made.status != 200:
        raise SystemExit(f"make_knock for {user_id}: {made}")
    event = peer.from_template(made.json["event"], reason=reason)
    return peer.sign_event(event, made.json["room_version"])


def send_all(vestibule: Vestibule, room_id: str, model: Model) -> None:
    """Over twenty connections, which all begin at the same moment."""
    shuffled = list(model.attempts)
    random.Random(SEED).shuffle(shuffled)
    begin = threading.Barrier(SERVERS)
    lock = threading.Lock()

    def connection(share: list[Attempt]) -> Callable[[], None]:
        def send() -> None:
            line = share[0].peer.open_connection(vestibule)
            begin.wait(timeout=60)
            for attempt in share:
                answer = attempt.peer.send_knock(vestibule, room_id, attempt.signed, line)
                with lock:
                    model.take(attempt, answer)
            line.close()
        return send

    threads = [threading.Thread(target=connection(shuffled[start::SERVERS]))
               for start in range(SERVERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def judge(report: Report, model: Model, owner: Client, vestibule: Vestibule, room_id: str) -> None:
    insistent = model.attempts[-1].user_id
    others = model.users() - {insistent}
    report.check(not model.odd, "every answer is 200 or 403 M_FORBIDDEN", model.odd[:5])
    answered = sum(map(len, model.admitted.values())) + sum(model.refused.values())
    report.check(answered == len(model.attempts), f"all {len(model.attempts)} got an answer", answered)
    late = {user for user in others if len(model.admitted.get(user, [])) != 1}
    report.check(not late, f"each of the {len(others)} users got 200", sorted(late)[:5])
    won = len(model.admitted.get(insistent, []))
    report.check(won == 1, f"of the {REPEATS} knocks of one user exactly one got 200", won)
    in_state(report, model, owner, room_id, "the state holds every admission exactly once")

    listed = [e["event_id"] for e in owner.members(room_id, membership="knock")]
    report.check(sorted(listed) == sorted(model.state().values()),
                 "/members?membership=knock lists each exactly once", len(listed))
    sent = {attempt.signed.event_id for attempt in model.attempts}
    seen = Counter(event_id for event_id in timeline(owner, room_id) if event_id in sent)
    report.check(seen == Counter(model.state().values()),
                 "the timeline holds each admitted event once, and no refused one",
                 f"{len(seen)} events, {[e for e, n in seen.items() if n > 1]} doubled")

    knocks = vestibule.totals()["knocks"]
    expected = len(model.state())
    report.check(knocks["admitted"] == expected and knocks["pending"] == expected,
                 f"the actor stats count {expected} admitted and pending", knocks)
    report.check(knocks["prepared"] == len(others) + 1,
                 f"and {len(others) + 1} templates", knocks["prepared"])
    report.check(sum(knocks["refused"].values()) == sum(model.refused.values()),
                 f"and {sum(model.refused.values())} refusals", knocks["refused"])
    actor = vestibule.actor(room_id)
    report.check(actor["members"]["knock"] == expected and actor["pending_knocks"] == expected,
                 "and the room's actor says the same", actor)


def in_state(report: Report, model: Model, owner: Client, room_id: str, what: str) -> None:
    knocks = [(e["state_key"], e["event_id"]) for e in owner.state(room_id)
              if e["type"] == "m.room.member" and e["content"].get("membership") == "knock"]
    report.check(sorted(knocks) == sorted(model.state().items()), what, f"{len(knocks)} knocks")


def timeline(owner: Client, room_id: str) -> list[str]:
    """Every event id of the room, newest first, through the pages of /messages."""
    events: list[str] = []
    start: dict[str, str] = {}
    while True:
        page = owner.messages(room_id, dir="b", limit=100, **start)
        events += [event["event_id"] for event in page["chunk"]]
        if "end" not in page or not page["chunk"]:
            return events
        start = {"from": page["end"]}


def main(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="concurrency-") as directory:
        authority = CertificateAuthority(Path(directory))
        peers = [Peer(authority, f"hs{number}.test", f"127.0.2.{number + 1}")
                 for number in range(SERVERS)]
        vestibule = Vestibule(
            Path(directory) / "vestibule", authority, {p.name: p.listens_at for p in peers},
            {f"rate_limit.{bucket}": ROOMY for bucket in BUCKETS},
        )
        try:
            vestibule.start()
            owner = vestibule.client().register("owner")
            room_id = owner.create_room("12", name="Crowded")
            model = Model(attempts_for(vestibule, peers, room_id))
            send_all(vestibule, room_id, model)
            judge(report, model, owner, vestibule, room_id)
            report.check(all(peer.key_requests == 1 for peer in peers),
                         "each server was asked for its keys once",
                         {peer.name: peer.key_requests for peer in peers if peer.key_requests != 1})
            vestibule.kill()
            vestibule.start()
            in_state(report, model, owner, room_id, "after kill -9 and a new start the state is the same")
            later = built(vestibule, peers[1], room_id, peers[1].user("later"), "am I late?")
            answer = peers[1].send_knock(vestibule, room_id, later)
            report.check(answer.status == 200, "and the next knock is admitted", answer)
        finally:
            vestibule.kill()
            for peer in peers:
                peer.close()


if __name__ == "__main__":
    run(main)
