//! What operators see: every counter against what was sent, the rows of knocks and decisions, and the shapes of the answers.
//! May not: take a counter's word for another counter; the ledger is kept here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Answer, FakePeer, SignedEvent, Template, TestServer, User, encoded, now_ms, path_of, until};

const ADMIN: &str = "/_vestibule/admin/v1";

/// What was sent, counted by hand.
#[derive(Default)]
struct Ledger {
    prepared: u64,
    admitted: u64,
    refused: BTreeMap<&'static str, u64>,
    retracted: u64,
    accepted: u64,
    denied: u64,
    pending: u64,
}

impl Ledger {
    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    #[track_caller]
    fn is_what(&self, server: &TestServer, step: &str) {
        let expected = json!({
            "prepared": self.prepared, "admitted": self.admitted, "refused": self.refused, "retracted": self.retracted,
            "accepted": self.accepted, "denied": self.denied, "pending": self.pending,
        });
        assert_eq!(server.knock_totals(), expected, "after {step}");
    }
}

/// A server, its owner, one room, and two other servers.
struct Scene {
    server: TestServer,
    owner: User,
    room_id: String,
    peer: FakePeer,
    other: FakePeer,
    ledger: Ledger,
}

impl Scene {
    fn set(settings: &[(&str, &str)]) -> Self {
        let (peer, other) = (FakePeer::new("peer.test"), FakePeer::new("other.test"));
        let mut server = TestServer::new().knowing(&[&peer, &other]);
        for (key, value) in settings {
            server.change(key, Some(value));
        }
        let server = server.start();
        let owner = server.register("owner");
        let room_id = owner.knockable_room("11");
        Self { server, owner, room_id, peer, other, ledger: Ledger::default() }
    }

    /// `make_knock` that gives a template.
    #[track_caller]
    fn template(&mut self, localpart: &str) -> Template {
        self.ledger.prepared += 1;
        self.peer.knock_template(&self.server, &self.room_id, &self.peer.user(localpart))
    }

    #[track_caller]
    fn knock(&mut self, localpart: &str) -> SignedEvent {
        self.ledger.prepared += 1;
        self.ledger.admitted += 1;
        self.ledger.pending += 1;
        self.peer.knock(&self.server, &self.room_id, &self.peer.user(localpart), "otters")
    }

    /// An answer that must be this refusal, counted once under this reason.
    #[track_caller]
    fn refused(&mut self, answer: &Answer, status: u16, errcode: &str, reason: &'static str) {
        answer.refused(status, errcode);
        self.ledger.refuse(reason);
        self.ledger.is_what(&self.server, reason);
    }

    #[track_caller]
    fn make_knock_refused(&mut self, localpart: &str, status: u16, errcode: &str, reason: &'static str) {
        let answer = self.peer.make_knock(&self.server, &self.room_id, &self.peer.user(localpart));
        self.refused(&answer, status, errcode, reason);
    }

    /// A `send_knock` of a template that was changed, signed after the change.
    #[track_caller]
    fn send_refused(&mut self, template: Template, status: u16, errcode: &str, reason: &'static str) {
        let knock = self.peer.sign(template);
        let answer = self.peer.send_knock(&self.server, &self.room_id, &knock);
        self.refused(&answer, status, errcode, reason);
    }

    #[track_caller]
    fn is_what(&self, step: &str) {
        self.ledger.is_what(&self.server, step);
    }

    fn decisions(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut from = String::new();
        loop {
            let page = self.server.ask_admin(&format!("{ADMIN}/decisions?limit=3{from}")).ok();
            let decisions = page["decisions"].as_array().unwrap();
            assert!(decisions.len() <= 3);
            rows.extend(decisions.iter().cloned());
            match page["next_from"].as_str() {
                Some(next) => from = format!("&from={}", encoded(next)),
                None => return rows,
            }
        }
    }
}

#[test]
fn every_counter_is_what_was_sent() {
    let mut scene = Scene::set(&[]);
    scene.is_what("the start");

    // A knock's life, in all its ends.
    let first = scene.knock("ann");
    scene.is_what("a knock");
    scene.peer.send_knock(&scene.server, &scene.room_id, &first).ok();
    scene.is_what("the same knock again");
    scene.make_knock_refused("ann", 403, "M_FORBIDDEN", "already_knocking");
    for name in ["ben", "cat", "dan"] {
        scene.knock(name);
    }
    scene.peer.retract(&scene.server, &scene.room_id, &scene.peer.user("ben"));
    scene.ledger.retracted += 1;
    scene.ledger.pending -= 1;
    scene.is_what("taking it back");
    scene.owner.about(&scene.room_id, "kick", &scene.peer.user("cat"));
    scene.ledger.denied += 1;
    scene.ledger.pending -= 1;
    scene.is_what("a denial");
    scene.owner.about(&scene.room_id, "ban", &scene.peer.user("dan"));
    scene.ledger.denied += 1;
    scene.ledger.pending -= 1;
    scene.is_what("a ban of one who knocks");
    scene.make_knock_refused("dan", 403, "M_FORBIDDEN", "banned");
    let anna = scene.server.register("anna");
    anna.try_knock(&scene.room_id, "may I?").ok();
    scene.ledger.admitted += 1;
    scene.ledger.pending += 1;
    scene.is_what("a local knock");
    scene.owner.about(&scene.room_id, "invite", &anna.user_id);
    scene.ledger.accepted += 1;
    scene.ledger.pending -= 1;
    scene.is_what("an invite");
    let again = anna.try_knock(&scene.room_id, "again");
    scene.refused(&again, 403, "M_FORBIDDEN", "already_invited");
    anna.join(&scene.room_id);
    scene.is_what("the join after it");
    let inside = anna.try_knock(&scene.room_id, "inside");
    scene.refused(&inside, 403, "M_FORBIDDEN", "already_joined");
    scene.owner.about(&scene.room_id, "ban", &scene.peer.user("zoe"));
    scene.is_what("a ban of one who does not knock");
    scene.knock("cat");
    scene.is_what("a knock after a denial");

    // Asking for a template in the wrong way.
    let user = scene.peer.user("eve");
    let path = path_of("v1/make_knock", &scene.room_id, &user);
    let answer = scene.peer.ask(&scene.server, "GET", &path, None);
    scene.refused(&answer, 400, "M_MISSING_PARAM", "no_versions_offered");
    let answer = scene.peer.ask(&scene.server, "GET", &format!("{path}?ver=10&ver=x"), None);
    scene.refused(&answer, 400, "M_INCOMPATIBLE_ROOM_VERSION", "version_not_offered");
    assert_eq!(answer.json()["room_version"], "11");
    let foreign = scene.peer.make_knock(&scene.server, &scene.room_id, &scene.other.user("eve"));
    scene.refused(&foreign, 400, "M_INVALID_PARAM", "user_not_of_origin");

    // Bodies that are no knock.
    let eve = scene.template("eve");
    let unknown = json!(["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]);
    let mut without_key = eve.clone();
    without_key.event.as_object_mut().unwrap().remove("state_key");
    let mut leaving = eve.clone();
    leaving.event["content"]["membership"] = json!("leave");
    let mut unselected = eve.clone();
    let prev_event = unselected.event["prev_events"][0].clone();
    unselected.event["auth_events"].as_array_mut().unwrap().push(prev_event);
    let foreign = eve.clone().for_user(&scene.other.user("eve"));
    let table = [
        (eve.clone().with("room_id", json!("!other:vestibule.test")), 400, "M_INVALID_PARAM", "room_mismatch"),
        (eve.clone().with("type", json!("m.room.topic")), 400, "M_INVALID_PARAM", "not_a_member_event"),
        (without_key, 400, "M_INVALID_PARAM", "not_a_state_event"),
        (leaving, 400, "M_INVALID_PARAM", "wrong_membership"),
        (foreign, 400, "M_INVALID_PARAM", "sender_not_of_origin"),
        (eve.clone().with("state_key", json!("@x:peer.test")), 400, "M_INVALID_PARAM", "state_key_mismatch"),
        (eve.clone().with("origin_server_ts", json!(now_ms() + 90_000_000)), 400, "M_INVALID_PARAM", "timestamp_ahead"),
        (eve.clone().with_reason(&"x".repeat(5_000)), 413, "M_TOO_LARGE", "content_too_large"),
        (eve.clone().with("prev_events", unknown.clone()), 400, "M_INVALID_PARAM", "unknown_prev_events"),
        (eve.clone().with("auth_events", unknown), 400, "M_INVALID_PARAM", "unknown_auth_events"),
        (unselected, 403, "M_FORBIDDEN", "not_authorized"),
        (eve.clone().with("depth", json!("deep")), 400, "M_BAD_JSON", "bad_format"),
    ];
    for (template, status, errcode, reason) in table {
        scene.send_refused(template, status, errcode, reason);
    }
    let sound = scene.peer.sign(eve.clone());
    let mut large = sound.clone();
    large.event.insert("padding".to_owned(), "x".repeat(70_000).into());
    let answer = scene.peer.send_knock(&scene.server, &scene.room_id, &large);
    scene.refused(&answer, 413, "M_TOO_LARGE", "too_large");
    let renamed = SignedEvent { event_id: first.event_id.clone(), ..sound.clone() };
    let answer = scene.peer.send_knock(&scene.server, &scene.room_id, &renamed);
    scene.refused(&answer, 400, "M_INVALID_PARAM", "event_id_mismatch");
    let forged = scene.other.sign(eve.clone());
    let answer = scene.peer.send_knock(&scene.server, &scene.room_id, &forged);
    scene.refused(&answer, 400, "M_INVALID_PARAM", "signature_invalid");

    // Doors that are closed.
    let acl = |deny: Value| json!({ "allow": ["*"], "deny": deny, "allow_ip_literals": true });
    scene.owner.set_state(&scene.room_id, "m.room.server_acl", "", acl(json!(["peer.*"])));
    scene.make_knock_refused("eve", 403, "M_FORBIDDEN", "server_denied");
    scene.send_refused(eve.clone(), 403, "M_FORBIDDEN", "server_denied");
    scene.owner.set_state(&scene.room_id, "m.room.server_acl", "", acl(json!([])));
    scene.owner.set_state(&scene.room_id, "m.room.join_rules", "", json!({ "join_rule": "invite" }));
    scene.make_knock_refused("eve", 403, "M_FORBIDDEN", "join_rule_forbids");
    scene.send_refused(eve.clone(), 403, "M_FORBIDDEN", "join_rule_forbids");
    scene.owner.set_state(&scene.room_id, "m.room.join_rules", "", json!({ "join_rule": "knock" }));
    let knock = scene.peer.sign(eve);
    scene.peer.send_knock(&scene.server, &scene.room_id, &knock).ok();
    scene.ledger.admitted += 1;
    scene.ledger.pending += 1;
    scene.is_what("a knock on the door that is open again");

    // Rooms of other kinds.
    let main_room = scene.room_id.clone();
    scene.room_id = scene.owner.create_room(json!({ "room_version": "6" }));
    scene.make_knock_refused("eve", 403, "M_FORBIDDEN", "version_cannot_knock");
    scene.room_id = scene.owner.create_room(json!({
        "creation_content": { "m.federate": false },
        "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }],
    }));
    scene.make_knock_refused("eve", 403, "M_FORBIDDEN", "not_federated");
    scene.room_id = scene.owner.knockable_room("10");
    scene.knock("eve");
    scene.owner.in_room(&scene.room_id, "leave", json!({}));
    scene.make_knock_refused("fay", 404, "M_NOT_FOUND", "server_not_in_room");
    let nowhere = scene.peer.make_knock(&scene.server, "!nowhere:vestibule.test", &scene.peer.user("eve"));
    nowhere.refused(404, "M_NOT_FOUND");
    scene.is_what("a room that nobody knows");
    scene.room_id = main_room;

    metrics_agree(&scene);
    decisions_are_told(&scene, &anna);
}

fn metrics_agree(scene: &Scene) {
    let text = scene.server.ask_admin("/metrics");
    assert_eq!(text.status, 200);
    let text = text.text();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u64>().unwrap()
    };
    let ledger = &scene.ledger;
    assert_eq!(value("vestibule_knock_templates_total"), ledger.prepared);
    for (outcome, number) in [
        ("admitted", ledger.admitted),
        ("retracted", ledger.retracted),
        ("accepted", ledger.accepted),
        ("denied", ledger.denied),
    ] {
        assert_eq!(value(&format!("vestibule_knocks_total{{outcome=\"{outcome}\"}}")), number, "{outcome}");
    }
    let refused: BTreeMap<String, u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("vestibule_knocks_refused_total{reason=\"")?.split_once("\"} "))
        .map(|(reason, number)| (reason.to_owned(), number.parse().unwrap()))
        .collect();
    assert_eq!(json!(refused), json!(ledger.refused));
    assert_eq!(value("vestibule_knocks_pending"), ledger.pending);
    assert_eq!(value("vestibule_rooms_stored"), 4);
    assert_eq!(value("vestibule_request_panics_total"), 0);
    for name in [scene.room_id.as_str(), "peer.test", "@"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
}

fn decisions_are_told(scene: &Scene, anna: &User) {
    let rows = scene.decisions();
    let keys: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.as_object().unwrap().keys().map(String::as_str)).collect();
    let expected = ["action", "at_ms", "by", "event_id", "origin", "reason", "room_id", "user_id"];
    assert_eq!(keys, BTreeSet::from(expected));
    let times: Vec<u64> = rows.iter().map(|row| row["at_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "newest first: {times:?}");
    let count = |action: &str| u64::try_from(rows.iter().filter(|row| row["action"] == action).count()).unwrap();
    assert_eq!(count("admitted"), scene.ledger.admitted);
    assert_eq!(count("retracted"), scene.ledger.retracted);
    assert_eq!(count("accepted"), scene.ledger.accepted);
    assert_eq!(count("denied") + count("banned"), scene.ledger.denied);
    let of = |action: &str, user_id: &str| {
        let found = rows.iter().find(|row| row["action"] == action && row["user_id"] == user_id);
        found.unwrap_or_else(|| panic!("no {action} of {user_id} in {rows:?}")).clone()
    };
    let peer = |name: &str| scene.peer.user(name);
    assert_eq!(of("admitted", &peer("ann"))["origin"], "peer.test");
    assert_eq!(of("admitted", &peer("ann"))["room_id"], json!(scene.room_id));
    assert_eq!(of("denied", &peer("cat"))["by"], json!(scene.owner.user_id));
    assert_eq!(of("banned", &peer("dan"))["by"], json!(scene.owner.user_id));
    assert_eq!(of("accepted", &anna.user_id)["by"], json!(scene.owner.user_id));
    assert_eq!(of("accepted", &anna.user_id)["origin"], "vestibule.test");
    for (user_id, reason) in [
        (anna.user_id.as_str(), "already_joined"),
        (&peer("eve"), "join_rule_forbids"),
        (&peer("eve"), "not_authorized"),
    ] {
        let is_told = rows.iter().any(|row| {
            row["action"] == "refused"
                && row["user_id"] == user_id
                && row["reason"] == reason
                && row["event_id"].is_string()
        });
        assert!(is_told, "{reason} of {user_id} in {rows:?}");
    }
}

#[test]
fn caps_and_rates_are_counted_under_their_names() {
    let mut scene = Scene::set(&[("knock.max_pending_per_origin_in_room", "3"), ("knock.max_pending_per_room", "4")]);
    for name in ["ann", "ben", "cat"] {
        scene.knock(name);
    }
    scene.make_knock_refused("dan", 403, "M_FORBIDDEN", "too_many_pending_from_origin");
    scene.other.knock(&scene.server, &scene.room_id, &scene.other.user("ann"), "");
    scene.ledger.prepared += 1;
    scene.ledger.admitted += 1;
    scene.ledger.pending += 1;
    let answer = scene.other.make_knock(&scene.server, &scene.room_id, &scene.other.user("ben"));
    scene.refused(&answer, 403, "M_FORBIDDEN", "too_many_pending_in_room");
    scene.owner.about(&scene.room_id, "kick", &scene.peer.user("ann"));
    scene.ledger.denied += 1;
    scene.ledger.pending -= 1;
    scene.other.knock(&scene.server, &scene.room_id, &scene.other.user("ben"), "");
    scene.ledger.prepared += 1;
    scene.ledger.admitted += 1;
    scene.ledger.pending += 1;
    scene.is_what("a place that came free");

    let rate = "{ per_second = 0.001, burst = 2 }";
    let mut scene = Scene::set(&[("rate_limit.enabled", "true"), ("rate_limit.knocks_by_origin_in_room", rate)]);
    scene.knock("ann");
    scene.knock("ben");
    let late = scene.peer.make_knock(&scene.server, &scene.room_id, &scene.peer.user("cat"));
    scene.refused(&late, 429, "M_LIMIT_EXCEEDED", "over_rate");
    assert!(late.json()["retry_after_ms"].as_u64().unwrap() > 5_000);
    scene.other.knock(&scene.server, &scene.room_id, &scene.other.user("ann"), "another server is not held back");
}

#[test]
fn a_knock_that_is_only_held_is_no_refusal() {
    let rate = "{ per_second = 4.0, burst = 1 }";
    let mut scene = Scene::set(&[("rate_limit.enabled", "true"), ("rate_limit.knocks_by_origin_in_room", rate)]);
    for name in ["ann", "ben", "cat"] {
        scene.knock(name);
    }
    scene.is_what("three knocks of which two had to wait");
}

#[test]
fn the_answer_has_the_shape_of_the_contract() {
    let scene = Scene::set(&[]);
    scene.peer.knock(&scene.server, &scene.room_id, &scene.peer.user("ann"), "");
    let second = scene.owner.knockable_room("12");
    let stats = scene.server.ask_admin(&format!("{ADMIN}/actors?order_by=mailbox_depth&limit=100")).ok();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&stats), ["actors", "totals"]);
    assert_eq!(
        keys(&stats["totals"]),
        [
            "actors_live",
            "actors_passivated",
            "actors_restarted",
            "actors_started",
            "knocks",
            "rooms_quarantined",
            "rooms_stored",
            "state_decided_by",
        ]
    );
    let totals = &stats["totals"];
    assert_eq!(totals["rooms_stored"], 2);
    assert_eq!((&totals["actors_live"], &totals["actors_started"]), (&json!(2), &json!(2)));
    assert_eq!((&totals["actors_passivated"], &totals["actors_restarted"]), (&json!(0), &json!(0)));
    assert_eq!(totals["rooms_quarantined"], json!({}));
    assert_eq!(
        keys(&totals["knocks"]),
        ["accepted", "admitted", "denied", "pending", "prepared", "refused", "retracted"]
    );

    let actors = stats["actors"].as_array().unwrap();
    assert_eq!(actors.len(), 2);
    let actor = actors.iter().find(|actor| actor["room_id"] == json!(scene.room_id)).unwrap();
    assert_eq!(
        keys(actor),
        [
            "forward_extremities",
            "handling_p50_us",
            "handling_p99_us",
            "join_rule",
            "last_active_ms",
            "mailbox",
            "members",
            "messages",
            "pending_knocks",
            "restarts",
            "room_id",
            "room_version",
            "started_ms",
        ]
    );
    assert_eq!(actor["room_version"], "11");
    assert_eq!(actor["join_rule"], "knock");
    assert_eq!(actor["members"], json!({ "join": 1, "invite": 0, "knock": 1, "leave": 0, "ban": 0 }));
    assert_eq!(actor["pending_knocks"], 1);
    assert_eq!(actor["mailbox"], json!({ "depth": 0, "capacity": 1024 }));
    assert_eq!(actor["messages"]["prepare_knock"], 1);
    assert_eq!(actor["messages"]["admit_knock"], 1);
    assert_eq!(actor["forward_extremities"], 1);
    assert_eq!(actor["restarts"], 0);
    let number = |key: &str| actor[key].as_u64().unwrap();
    assert!(0 < number("handling_p50_us") && number("handling_p50_us") <= number("handling_p99_us"));
    assert!(number("started_ms") <= number("last_active_ms") && number("last_active_ms") <= now_ms());
    let one = scene.server.ask_admin(&format!("{ADMIN}/rooms/{}/actor", encoded(&scene.room_id))).ok();
    assert_eq!(&one, actor);

    // Page by page the same rooms come, each once.
    let first = scene.server.ask_admin(&format!("{ADMIN}/actors?limit=1")).ok();
    let from = encoded(first["next_from"].as_str().unwrap());
    let rest = scene.server.ask_admin(&format!("{ADMIN}/actors?limit=1&from={from}")).ok();
    assert!(rest.get("next_from").is_none());
    let mut paged = [first["actors"][0]["room_id"].as_str().unwrap(), rest["actors"][0]["room_id"].as_str().unwrap()];
    let mut expected = [scene.room_id.as_str(), second.as_str()];
    expected.sort();
    paged.sort();
    assert_eq!(paged, expected);
}

#[test]
fn pending_knocks_come_in_pages() {
    let scene = Scene::set(&[]);
    let other_room = scene.owner.knockable_room("12");
    let before = now_ms();
    let mut sent: BTreeMap<String, String> = BTreeMap::new();
    for name in ["ann", "ben", "cat", "dan", "eve"] {
        let user_id = scene.peer.user(name);
        let knock = scene.peer.knock(&scene.server, &scene.room_id, &user_id, &format!("I am {name}"));
        sent.insert(user_id, knock.event_id);
    }
    scene.peer.knock(&scene.server, &other_room, &scene.peer.user("fay"), "elsewhere");
    for (path, expected) in
        [(format!("{ADMIN}/rooms/{}/knocks", encoded(&scene.room_id)), 5), (format!("{ADMIN}/knocks"), 6)]
    {
        let mut rows = Vec::new();
        let mut from = String::new();
        loop {
            let page = scene.server.ask_admin(&format!("{path}?limit=2{from}")).ok();
            rows.extend(page["knocks"].as_array().unwrap().iter().cloned());
            match page["next_from"].as_str() {
                Some(next) => from = format!("&from={}", encoded(next)),
                None => break,
            }
        }
        assert_eq!(rows.len(), expected, "{rows:?}");
        for row in rows.iter().filter(|row| row["room_id"] == json!(scene.room_id)) {
            let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["event_id", "origin", "reason", "room_id", "since_ms", "user_id"]);
            let user_id = row["user_id"].as_str().unwrap();
            assert_eq!(row["event_id"], json!(sent[user_id]));
            assert_eq!(row["origin"], "peer.test");
            assert_eq!(row["reason"], json!(format!("I am {}", &user_id[1..4])));
            assert!((before..=now_ms()).contains(&row["since_ms"].as_u64().unwrap()));
        }
        let users: BTreeSet<&str> = rows.iter().map(|row| row["user_id"].as_str().unwrap()).collect();
        assert_eq!(users.len(), expected, "each once");
    }
    scene.server.ask_admin(&format!("{ADMIN}/rooms/!none:vestibule.test/knocks")).refused(404, "M_NOT_FOUND");
    for query in ["?from=nonsense", "?limit=0", "?limit=x"] {
        scene.server.ask_admin(&format!("{ADMIN}/knocks{query}")).refused(400, "M_INVALID_PARAM");
    }
}

#[test]
fn rooms_that_idle_leave_memory_and_come_back() {
    let scene = Scene::set(&[("actors.idle_timeout", "200ms")]);
    scene.peer.knock(&scene.server, &scene.room_id, &scene.peer.user("ann"), "");
    until("the room leaves memory", || (scene.server.totals()["actors_live"] == 0).then_some(()));
    let totals = scene.server.totals();
    assert_eq!(totals["actors_passivated"], totals["actors_started"]);
    assert_eq!(totals["knocks"]["pending"], 1);
    let actor = format!("{ADMIN}/rooms/{}/actor", encoded(&scene.room_id));
    scene.server.ask_admin(&actor).refused(404, "M_NOT_FOUND");
    let repeat = scene.peer.make_knock(&scene.server, &scene.room_id, &scene.peer.user("ann"));
    repeat.refused(403, "M_FORBIDDEN");
    scene.peer.knock(&scene.server, &scene.room_id, &scene.peer.user("ben"), "");
    assert_eq!(scene.owner.members(&scene.room_id, "?membership=knock").len(), 2);
    assert_eq!(scene.server.totals()["actors_restarted"], 0, "coming back is no restart");
}
