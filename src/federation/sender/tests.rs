use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ruma::{OwnedEventId, OwnedUserId, RoomVersionId, ServerName, events::room::member::MembershipState};
use serde_json::{Value, json, value::to_raw_value};
use tokio::time::advance;
use vestibule_actors::{
    AdmitJoin, MembershipChange, PrepareJoin,
    testing::{RESIDENT, TestRoom, World, message, read, server, settle, until},
};
use vestibule_protocol::{
    fixture::{ALICE, identity, user},
    membership::handshake::HandshakeKind,
    room_version::RoomVersion,
    stream::StreamPosition,
};
use vestibule_storage::{
    accounts::AccountChange,
    commit::{Announcement, Commit, CommitListener},
    device_keys::{KeyChange, ListNews},
};

use super::{Backoff, LaneKind, OutboundQueue, Sender, SenderParts, SenderSettings};
use crate::{
    client::Client,
    discovery::Discovery,
    egress::EgressError,
    testing::{Answer, Peers, ScriptedResolver, Sent, on_paused_time, response},
};

const BOB: &str = "@bob:peer.test";
const CAROL: &str = "@carol:other.test";
const PEER: &str = "peer.test";
const OTHER: &str = "other.test";

fn event_ids(sent: &Sent, room: &TestRoom) -> Vec<OwnedEventId> {
    let pdus = sent.body["pdus"].as_array().unwrap();
    pdus.iter().map(|pdu| id_of(pdu, &room.version)).collect()
}

fn id_of(pdu: &Value, version: &RoomVersion) -> OwnedEventId {
    vestibule_protocol::pdu::checks::event_id_of(&serde_json::from_value(pdu.clone()).unwrap(), version).unwrap()
}

fn taken() -> Answer {
    response(200, &[], r#"{"pdus":{}}"#)
}

/// Lets time pass, and the millisecond by which timers are rounded.
async fn pass(span: Duration) {
    advance(span + Duration::from_millis(1)).await;
}

struct Bench {
    world: World,
    peers: Arc<Peers>,
    queue: OutboundQueue,
    sender: Sender,
}

impl Bench {
    fn new(peers: Arc<Peers>) -> Self {
        Self::on(World::new(), peers)
    }

    fn on(world: World, peers: Arc<Peers>) -> Self {
        let resolver = ScriptedResolver::default().address(PEER, "1.1.1.1").address(OTHER, "2.2.2.2");
        let us = Arc::new(identity(&server(RESIDENT)));
        let discovery =
            Discovery::new(Arc::new(resolver), peers.clone(), BTreeMap::new(), world.clock.clone(), Arc::new(|| 0));
        let parts = SenderParts {
            client: Client::new(us.clone(), discovery, peers.clone()),
            identity: us,
            stores: world.stores(),
            rooms: world.rooms.clone(),
            clock: world.clock.clone(),
            random: Arc::new(|| 0),
            settings: SenderSettings {
                request_timeout: Duration::from_secs(20),
                backoff: Backoff { min: Duration::from_mins(10), max: Duration::from_hours(7 * 24) },
            },
        };
        let queue = OutboundQueue::default();
        let sender = Sender::new(queue.clone(), parts);
        Self { world, peers, queue, sender }
    }

    async fn public_room(&self) -> TestRoom {
        let rules = vec![("m.room.join_rules", json!({ "join_rule": "public" }))];
        self.world.room_with(RoomVersionId::V11, "public", rules).await
    }

    async fn join(&self, room: &TestRoom, user_id: &str) {
        let origin = user(user_id).server_name().to_owned();
        let request =
            PrepareJoin { user_id: user(user_id), origin, offered: RoomVersion::hosted(), authorised_via: None };
        let template = self.world.rooms.ask(&room.room_id, request).await.unwrap();
        let join = room.signed(template.event, user_id, HandshakeKind::Join).into_join().unwrap();
        self.world.rooms.ask(&room.room_id, AdmitJoin { join }).await.unwrap();
    }

    async fn say(&self, room: &TestRoom, count: usize) -> Vec<OwnedEventId> {
        let mut event_ids = Vec::new();
        for number in 0..count {
            event_ids.push(self.world.send(room, message(ALICE, &format!("number {number}"))).await.unwrap());
        }
        event_ids
    }

    /// As the writer does after a commit.
    fn ring(&self, destinations: &[&str]) {
        let destinations = destinations.iter().map(|name| server(name)).collect();
        let announcement = Announcement { position: StreamPosition(0), room_id: None, users: Vec::new(), destinations };
        self.queue.committed(&announcement);
    }

    fn pending(&self, server_name: &str) -> usize {
        let server_name: &ServerName = &server(server_name);
        read(self.world.stores().outbox.pending(server_name, None, 1000)).len()
    }

    async fn delivered(&self, server_name: &str) {
        until("everything is delivered", || self.pending(server_name) == 0).await;
    }

    async fn requests(&self, count: usize) -> Vec<Sent> {
        until("the requests are made", || self.peers.sent().len() >= count).await;
        settle().await;
        let sent = self.peers.sent();
        assert_eq!(sent.len(), count, "{sent:#?}");
        sent
    }
}

#[test]
fn events_arrive_in_order_fifty_at_a_time() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| taken()));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        let said = bench.say(&room, 120).await;
        bench.sender.start();
        bench.delivered(PEER).await;

        let sent = bench.requests(3).await;
        let sizes: Vec<usize> = sent.iter().map(|sent| event_ids(sent, &room).len()).collect();
        assert_eq!(sizes, [50, 50, 20]);
        assert_eq!(sent.iter().flat_map(|sent| event_ids(sent, &room)).collect::<Vec<_>>(), said);
        assert_eq!(sent[0].body["origin"], RESIDENT);
        assert!(sent[0].target.starts_with("/_matrix/federation/v1/send/"), "{}", sent[0].target);
        assert!(sent[0].target != sent[1].target && sent[1].target != sent[2].target);
        assert!(bench.sender.statuses().is_empty(), "a lane without work is gone");
    });
}

#[test]
fn a_retry_is_the_same_transaction_also_when_more_was_said_meanwhile() {
    on_paused_time(async || {
        let attempts = Mutex::new(0);
        let bench = Bench::new(Peers::new(move |_| {
            let mut attempts = attempts.lock().unwrap();
            *attempts += 1;
            if *attempts < 3 { response(502, &[], "") } else { taken() }
        }));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        bench.say(&room, 2).await;
        bench.sender.start();
        bench.requests(1).await;
        bench.say(&room, 1).await;
        bench.ring(&[PEER]);
        settle().await;
        assert_eq!(bench.peers.sent().len(), 1, "news end no pause");
        let [status] = &bench.sender.statuses()[..] else { panic!("one lane") };
        assert_eq!((status.failures, status.lane), (1, LaneKind::Transactions));

        pass(Duration::from_mins(10)).await;
        bench.requests(2).await;
        pass(Duration::from_mins(19)).await;
        assert_eq!(bench.peers.sent().len(), 2, "the second pause is longer");
        pass(Duration::from_mins(1)).await;
        bench.delivered(PEER).await;
        let sent = bench.requests(4).await;
        assert_eq!(sent[0].target, sent[1].target);
        assert_eq!(sent[0].body["pdus"], sent[2].body["pdus"]);
        assert_eq!(event_ids(&sent[3], &room).len(), 1);
    });
}

#[test]
fn a_restart_loses_nothing() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| Err(EgressError::Timeout)));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        let said = bench.say(&room, 3).await;
        bench.sender.start();
        bench.requests(1).await;
        bench.sender.stop();
        settle().await;
        pass(Duration::from_hours(1)).await;
        assert_eq!(bench.peers.sent().len(), 1, "a sender that was stopped is silent");

        let next = Bench::on(bench.world.restarted(), Peers::new(|_| taken()));
        next.sender.start();
        next.delivered(PEER).await;
        assert_eq!(event_ids(&next.requests(1).await[0], &room), said);
    });
}

#[test]
fn a_server_that_does_not_answer_holds_up_no_other() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::slow(|sent| {
            if sent.to == PEER { Box::pin(std::future::pending()) } else { Box::pin(async { taken() }) }
        }));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        bench.join(&room, CAROL).await;
        bench.sender.start();
        bench.say(&room, 1).await;
        bench.ring(&[PEER, OTHER]);
        bench.delivered(OTHER).await;
        assert!(bench.pending(PEER) > 0);
    });
}

#[test]
fn an_event_that_a_server_cannot_stand_holds_up_no_other() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|sent| {
            let is_bad = sent.body["pdus"].to_string().contains("number 4");
            if is_bad { response(400, &[], r#"{"errcode":"M_BAD_JSON"}"#) } else { taken() }
        }));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        let said = bench.say(&room, 7).await;
        bench.sender.start();
        until("only the bad event is left", || bench.sender.statuses().iter().any(|lane| lane.failures == 1)).await;
        pass(Duration::from_mins(10)).await;
        settle().await;
        pass(Duration::from_mins(20)).await;
        settle().await;
        pass(Duration::from_mins(40)).await;
        bench.delivered(PEER).await;
        let mut arrived: Vec<OwnedEventId> = Vec::new();
        for sent in bench.peers.sent() {
            if !sent.body["pdus"].to_string().contains("number 4") {
                arrived.extend(event_ids(&sent, &room));
            }
        }
        let expected: Vec<OwnedEventId> =
            said.iter().enumerate().filter(|(n, _)| *n != 4).map(|(_, id)| id.clone()).collect();
        assert_eq!(arrived, expected);
    });
}

#[test]
fn an_event_that_a_server_refuses_by_itself_is_done() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| response(200, &[], r#"{"pdus":{"$x":{"error":"no"}}}"#)));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        bench.say(&room, 1).await;
        bench.sender.start();
        bench.delivered(PEER).await;
        bench.requests(1).await;
    });
}

#[test]
fn a_sign_of_life_ends_the_pause_but_not_all_the_time() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| Err(EgressError::Connect { detail: "refused".to_owned() })));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        bench.say(&room, 1).await;
        bench.sender.start();
        bench.requests(1).await;
        bench.sender.sign_of_life(&server(OTHER));
        settle().await;
        bench.requests(1).await;
        bench.sender.sign_of_life(&server(PEER));
        bench.requests(2).await;
        bench.sender.sign_of_life(&server(PEER));
        settle().await;
        bench.requests(2).await;
        pass(Duration::from_secs(10)).await;
        bench.sender.sign_of_life(&server(PEER));
        bench.requests(3).await;
    });
}

#[test]
fn a_server_is_asked_again_when_it_says() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| response(429, &[("Retry-After", "7")], "{}")));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        bench.say(&room, 1).await;
        bench.sender.start();
        bench.requests(1).await;
        pass(Duration::from_secs(6)).await;
        bench.requests(1).await;
        pass(Duration::from_secs(1)).await;
        bench.requests(2).await;
    });
}

#[test]
fn a_poke_is_one_empty_transaction_a_minute() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| taken()));
        bench.sender.start();
        for _ in 0..3 {
            bench.sender.poke(&server(PEER));
        }
        let sent = bench.requests(1).await;
        assert_eq!((&sent[0].body["pdus"], &sent[0].body["edus"]), (&json!([]), &json!([])));
        bench.world.clock.advance(Duration::from_mins(1));
        bench.sender.poke(&server(PEER));
        let sent = bench.requests(2).await;
        assert_ne!(sent[0].target, sent[1].target);
    });
}

#[test]
fn edus_ride_once_and_the_newest_hundred_of_them() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| taken()));
        for number in 0..130 {
            let edu = to_raw_value(&json!({ "edu_type": "m.typing", "content": { "number": number } })).unwrap();
            bench.sender.add_edu([server(PEER), server(RESIDENT)], &edu);
        }
        bench.sender.start();
        let sent = bench.requests(1).await;
        let edus = sent[0].body["edus"].as_array().unwrap();
        assert_eq!((edus.len(), &edus[0]["content"]["number"]), (100, &json!(30)));
    });
}

#[test]
fn an_answered_knock_is_delivered_as_an_invite() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| taken()));
        let room = bench.world.knockable(RoomVersionId::V12).await;
        bench.world.knock(&room, BOB).await;
        let invite = bench.world.change(&room, ALICE, MembershipChange::Invite, BOB).await.unwrap();
        bench.sender.start();
        bench.delivered(PEER).await;
        let sent = bench.requests(1).await;
        assert!(sent[0].target.starts_with("/_matrix/federation/v2/invite/%21"), "{}", sent[0].target);
        let body = &sent[0].body;
        assert_eq!((id_of(&body["event"], &room.version), &body["room_version"]), (invite, &json!("12")));
        let shown = body["invite_room_state"].as_array().unwrap();
        assert_eq!(shown[0]["type"], "m.room.create");
        assert!(shown.iter().all(|event| event["signatures"].is_object()));
        let members: Vec<&Value> = shown.iter().filter(|event| event["type"] == "m.room.member").collect();
        assert!(members.len() == 1 && members[0]["state_key"] == ALICE, "{members:?}");
    });
}

#[test]
fn a_refused_invite_is_taken_back_unless_it_answers_a_knock() {
    for (is_answer, expected) in [(false, MembershipState::Leave), (true, MembershipState::Invite)] {
        on_paused_time(async || {
            let bench = Bench::new(Peers::new(|sent| {
                let is_invite = sent.target.contains("/invite/");
                if is_invite { response(403, &[], r#"{"errcode":"M_FORBIDDEN"}"#) } else { taken() }
            }));
            let room = bench.world.knockable(RoomVersionId::V11).await;
            if is_answer {
                bench.world.knock(&room, BOB).await;
            }
            bench.world.change(&room, ALICE, MembershipChange::Invite, BOB).await.unwrap();
            bench.sender.start();
            until("the invite is done", || {
                read(bench.world.stores().outbox.pending(&server(PEER), None, 10))
                    .iter()
                    .all(|row| row.delivery == vestibule_storage::outbox::Delivery::Transaction)
            })
            .await;
            assert_eq!(bench.world.membership(&room, BOB), expected);
        });
    }
}

#[test]
fn an_invite_that_fails_holds_up_neither_events_nor_other_invites() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|sent| {
            let is_bad = sent.body["event"]["state_key"] == "@bad:peer.test";
            if is_bad { response(500, &[], "") } else { taken() }
        }));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        bench.world.change(&room, ALICE, MembershipChange::Invite, "@bad:peer.test").await.unwrap();
        bench.world.change(&room, ALICE, MembershipChange::Invite, "@good:peer.test").await.unwrap();
        bench.say(&room, 1).await;
        bench.sender.start();
        until("one row is left", || bench.pending(PEER) == 1).await;
        pass(Duration::from_mins(10)).await;
        until("the bad one is tried again", || {
            let is_bad = |sent: &Sent| sent.body["event"]["state_key"] == "@bad:peer.test";
            bench.peers.sent().iter().filter(|sent| is_bad(sent)).count() == 2
        })
        .await;
    });
}

#[test]
fn nobody_hears_of_an_invite_that_stands_no_more() {
    on_paused_time(async || {
        let bench = Bench::new(Peers::new(|_| taken()));
        let room = bench.world.knockable(RoomVersionId::V11).await;
        bench.world.change(&room, ALICE, MembershipChange::Invite, BOB).await.unwrap();
        bench.world.change(&room, ALICE, MembershipChange::Kick, BOB).await.unwrap();
        bench.sender.start();
        bench.delivered(PEER).await;
        assert!(bench.peers.sent().iter().all(|sent| !sent.target.contains("/invite/")), "{:?}", bench.peers.sent());
    });
}

#[test]
fn who_knocked_is_told_of_an_invite_that_has_ended_and_then_of_its_end() {
    use MembershipChange::{Ban, Kick, Unban};
    for (ends, membership) in [(&[Kick][..], "leave"), (&[Ban], "ban"), (&[Ban, Unban], "ban")] {
        on_paused_time(async || {
            let bench = Bench::new(Peers::new(|_| taken()));
            let room = bench.world.knockable(RoomVersionId::V11).await;
            bench.world.knock(&room, BOB).await;
            let invite = bench.world.change(&room, ALICE, MembershipChange::Invite, BOB).await.unwrap();
            let mut ended = Vec::new();
            for end in ends {
                ended.push(bench.world.change(&room, ALICE, *end, BOB).await.unwrap());
            }
            bench.sender.start();
            bench.delivered(PEER).await;
            let sent = bench.peers.sent();
            let at = sent.iter().position(|sent| sent.target.contains("/invite/")).expect("the invite is delivered");
            assert_eq!(id_of(&sent[at].body["event"], &room.version), invite);
            let end = sent[at..].iter().find(|sent| sent.target.contains("/send/end")).expect("so is its end, later");
            assert_eq!(event_ids(end, &room), ended[..1]);
            assert_eq!(end.body["pdus"][0]["content"]["membership"], membership);
        });
    }
}

#[test]
fn a_server_that_comes_back_after_long_gets_the_newest_and_what_is_about_its_users() {
    on_paused_time(async || {
        let is_away = Arc::new(Mutex::new(true));
        let away = is_away.clone();
        let bench =
            Bench::new(Peers::new(move |_| if *away.lock().unwrap() { Err(EgressError::Timeout) } else { taken() }));
        let room = bench.public_room().await;
        bench.join(&room, BOB).await;
        let banned = bench.world.change(&room, ALICE, MembershipChange::Ban, "@bad:peer.test").await.unwrap();
        let said = bench.say(&room, 1_050).await;
        bench.sender.start();
        for attempt in 1..=5_u32 {
            bench.requests(usize::try_from(attempt).unwrap()).await;
            assert_eq!(bench.pending(PEER) > 500, attempt < 5, "{attempt}");
            if attempt < 5 {
                pass(Duration::from_mins(10) * 2_u32.pow(attempt - 1)).await;
            }
        }
        *is_away.lock().unwrap() = false;
        bench.sender.sign_of_life(&server(PEER));
        bench.delivered(PEER).await;
        let sent = bench.requests(6).await;
        let mut expected = vec![banned];
        expected.extend_from_slice(&said[said.len() - 20..]);
        assert_eq!(event_ids(&sent[5], &room), expected);
    });
}

#[test]
fn what_devices_need_to_hear_arrives_and_is_repeated_until_it_does() {
    on_paused_time(async || {
        let refuses = AtomicBool::new(true);
        let bench = Bench::new(Peers::new(move |_| {
            if refuses.swap(false, Ordering::SeqCst) { response(503, &[], "{}") } else { taken() }
        }));
        let destinations = BTreeSet::from([server(PEER)]);
        let edu = |number: u32| json!({ "content": { "n": number }, "edu_type": "m.direct_to_device" }).to_string();
        let sends = (0..130).map(|number| KeyChange::SendEdu { destinations: destinations.clone(), edu: edu(number) });
        let news = ListNews::Device { device_id: "GONE".into(), destinations: destinations.clone() };
        let user_id: OwnedUserId = ALICE.try_into().unwrap();
        let gone = KeyChange::ListChanged { user_id, wakes: BTreeSet::new(), news };
        let changes = sends.chain([gone]).map(AccountChange::Keys).collect();
        let writer = bench.world.stores().writer;
        writer.enqueue(writer.reserve().unwrap(), Commit::Accounts(changes)).await.unwrap();
        bench.sender.start();
        bench.requests(1).await;
        pass(Duration::from_mins(10)).await;
        let sent = bench.requests(3).await;
        assert_eq!((&sent[0].target, &sent[0].body["edus"]), (&sent[1].target, &sent[1].body["edus"]));
        assert_ne!(sent[1].target, sent[2].target);
        let edus: Vec<Value> =
            sent[1..].iter().flat_map(|sent| sent.body["edus"].as_array().unwrap().clone()).collect();
        assert_eq!(edus.len(), 131);
        assert!(edus[..130].iter().enumerate().all(|(number, edu)| edu["content"]["n"] == json!(number)));
        let content = &edus[130]["content"];
        assert_eq!(
            (&content["deleted"], &content["prev_id"], &content["user_id"]),
            (&json!(true), &json!([]), &json!(ALICE))
        );
        assert_eq!(bench.world.stores().outbox.edus(&server(PEER), None, 10).await.unwrap(), []);
    });
}
