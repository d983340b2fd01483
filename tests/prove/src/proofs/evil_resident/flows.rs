//! One hostile answer, gone through: what our client hears, what is shown to it, and what bears our signature afterwards.
//! May not: ask our server what it signed; what reached the other servers counts.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use ruma::signatures::PublicKeyMap;
use serde_json::{Value, json};
use vestibule_scenery::{Answer, FakePeer, TestServer, User, encoded, now_ms};

use super::{
    cases::{Case, Comes, Deed, Flow, Place},
    signed::{Asked, Sent, bears_our_signature, differences, expected},
};

/// Until our client has its answer. Source: SECURITY G11.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Until something has come about that the server does by itself, on a busy machine: what goes to one server goes one by one.
const COMES_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Bytes of all that is shown of a room together, and what is around it. Source: SECURITY T5.
const SHOWN_BYTES_MAX: usize = 262_144 + 1_024;
/// What a user says when knocking.
const REASON: &str = "otters, \"please\" – \u{1f9a6}";

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Our signature is on something that is not ours.
    Signed,
    /// Our client waits.
    Unanswered,
    /// Our client hears something else than is right.
    Answered,
    /// The next server was not used.
    NotThroughNext,
    /// The user is shown what did not come to be, or not what did.
    Shown,
    /// The server does not serve any more.
    Dead,
    /// The case did not happen: the hostile answer was not asked for.
    NotAsked,
}

/// Where cases are gone through.
pub struct Ground {
    pub server: TestServer,
    pub honest: FakePeer,
    pub keys: PublicKeyMap,
    /// Stands between the proof and what a server got from us.
    pub border: Border,
}

/// What a fault that is planted at the border makes of what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// It passes as it is.
    Open,
    /// Whatever a template says comes back with our signature, as from a server that does not look.
    SignsTemplates,
    /// What the hostile server wants to say is not said: it is honest.
    Honest,
    /// The next server is down.
    NextIsDown,
    /// The user is invited to the room meanwhile, and so is shown it.
    Invites,
}

/// What came of a case.
#[derive(Default)]
pub struct Came {
    pub wrong: Vec<(Wrong, String)>,
    /// Hostile answers that were asked for.
    pub answers: u64,
    /// Events with our signature that were compared.
    pub compared: u64,
    pub through_next: u64,
    pub slowest: Duration,
    /// Where the user must find the room from now on: a list of the sync, or none.
    pub room: Option<(String, Option<&'static str>)>,
    /// What a user of the hostile server is to a room of ours from now on.
    pub invited: Option<(String, String, &'static str)>,
}

/// One case on its way.
pub struct Passage<'a> {
    pub ground: &'a Ground,
    pub user: &'a User,
    pub case: &'a Case,
    pub evil: &'a FakePeer,
    pub version: &'a str,
    /// Whether the honest server is in the room as well, and named after the hostile one.
    pub is_beside: bool,
}

impl Passage<'_> {
    pub fn go(&self) -> Came {
        let mut came = Came::default();
        match self.case.flow {
            Flow::Knock | Flow::Join => self.enter(&mut came),
            Flow::Leave => self.leave(&mut came),
            Flow::Invite => self.invite(&mut came),
        }
        let alive = self.ask("GET", "/_matrix/client/versions", None, &mut came);
        if alive.is_none_or(|answer| answer.status != 200) {
            came.wrong.push((Wrong::Dead, "no versions any more".to_owned()));
        }
        came
    }

    /// A request of our user's client, in time or not at all.
    fn ask(&self, method: &str, target: &str, body: Option<Value>, came: &mut Came) -> Option<Answer> {
        let bearer = format!("Bearer {}", self.user.token);
        let body = body.map(|body| body.to_string());
        let begun = Instant::now();
        let connection = self.ground.server.client().connect();
        let answer = connection.and_then(|mut connection| {
            connection.ask(method, target, &[("Authorization", &bearer)], body.as_ref().map(String::as_bytes))
        });
        let took = begun.elapsed();
        came.slowest = came.slowest.max(took);
        if took > ANSWERED_WITHIN {
            came.wrong.push((Wrong::Unanswered, format!("{method} {target} took {took:?}")));
        }
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                came.wrong.push((Wrong::Unanswered, format!("{method} {target}: {error}")));
                None
            }
        }
    }

    fn client(path: &str) -> String {
        format!("/_matrix/client/v3{path}")
    }

    fn via(&self) -> String {
        let next = if self.is_beside { format!("&via={}", self.ground.honest.name()) } else { String::new() };
        format!("via={}{next}", self.evil.name())
    }

    /// The room that the case is about, on the hostile server or on the honest one.
    fn room(&self) -> String {
        let host = if self.is_beside { &self.ground.honest } else { self.evil };
        let rule = match self.case.rule {
            "restricted" => json!({ "join_rule": "restricted", "allow": [] }),
            rule => json!({ "join_rule": rule }),
        };
        host.host("owner", self.version, rule)
    }

    fn play(&self, room_id: &str) {
        if self.ground.border == Border::Honest {
            return;
        }
        let place = Place { evil: self.evil, stranger: &self.ground.honest, version: self.version, room_id };
        let mut deed = self.case.deed.clone();
        if let Deed::Made(make) = deed {
            deed = make(&place);
        }
        match deed {
            Deed::Change(change) => self.evil.corrupt(self.case.endpoint, move |told| change(told)),
            Deed::Text(text) => self.evil.rewrite(self.case.endpoint, text),
            Deed::Raw(write) => self.evil.answer_raw(self.case.endpoint, move |out| write(out)),
            Deed::Made(_) => {}
        }
    }

    fn comes(&self) -> Comes {
        self.case.beside.filter(|_| self.is_beside).unwrap_or(self.case.alone)
    }

    fn enter(&self, came: &mut Came) {
        let room_id = self.room();
        self.play(&room_id);
        if self.ground.border == Border::Invites {
            self.evil.invite(&self.ground.server, &room_id, &self.user.user_id);
        }
        let (action, list, body) = match self.case.flow {
            Flow::Knock => ("knock", "knock", json!({ "reason": REASON })),
            _ => ("join", "join", json!({})),
        };
        let begun = now_ms();
        let target = Self::client(&format!("/{action}/{}?{}", encoded(&room_id), self.via()));
        let answer = self.ask("POST", &target, Some(body), came);
        self.was_asked(came);
        let comes = self.comes();
        if let Some(answer) = &answer {
            answered(answer, comes, came);
        }
        let reason = (self.case.flow == Flow::Knock).then_some(REASON);
        let asked =
            Asked { room_id: &room_id, user_id: &self.user.user_id, membership: list, reason, version: self.version };
        self.all_is_ours(&asked, (begun, now_ms()), came);
        let is_next = self.went_to(&self.ground.honest, &room_id) > 0;
        if comes == Comes::ThroughNext {
            came.through_next += u64::from(is_next);
            if !is_next {
                came.wrong.push((Wrong::NotThroughNext, "nothing was sent to it".to_owned()));
            }
        }
        let shown = if matches!(comes, Comes::Refused(..)) { None } else { Some(list) };
        self.shows(&room_id, shown, came);
        came.room = Some((room_id, shown));
    }

    fn leave(&self, came: &mut Came) {
        let room_id = self.room();
        let knock = Self::client(&format!("/knock/{}?{}", encoded(&room_id), self.via()));
        let knocked = self.ask("POST", &knock, Some(json!({ "reason": REASON })), came);
        if knocked.is_none_or(|answer| answer.status != 200) {
            came.wrong.push((Wrong::NotAsked, "there is no knock to take back".to_owned()));
            return;
        }
        self.play(&room_id);
        let begun = now_ms();
        let target = Self::client(&format!("/rooms/{}/leave", encoded(&room_id)));
        if let Some(answer) = self.ask("POST", &target, Some(json!({})), came)
            && answer.status != 200
        {
            came.wrong.push((Wrong::Answered, format!("a leave: {} {}", answer.status, answer.text())));
        }
        self.shows(&room_id, None, came);
        self.was_asked(came);
        if self.comes() == Comes::ThroughNext {
            let heard =
                || self.bodies(&self.ground.honest, &room_id).iter().any(|(endpoint, ..)| endpoint == "send_leave");
            if comes_about(heard) {
                came.through_next += 1;
            } else {
                came.wrong.push((Wrong::NotThroughNext, "it did not hear of the leave".to_owned()));
            }
        }
        for (membership, reason) in [("leave", None), ("knock", Some(REASON))] {
            let user_id = &self.user.user_id;
            let asked = Asked { room_id: &room_id, user_id, membership, reason, version: self.version };
            self.all_is_ours(&asked, (begun.saturating_sub(60_000), now_ms()), came);
        }
        came.room = Some((room_id, None));
    }

    /// Our invite, and what its server answers to it.
    fn invite(&self, came: &mut Came) {
        let room_id = self.user.room_with_rule(self.version, json!({ "join_rule": "invite" }), &[]);
        let before = self.state(&room_id, came);
        self.play(&room_id);
        let guest = self.evil.user("guest");
        let begun = now_ms();
        let target = Self::client(&format!("/rooms/{}/invite", encoded(&room_id)));
        if let Some(answer) = self.ask("POST", &target, Some(json!({ "user_id": guest })), came)
            && answer.status != 200
        {
            came.wrong.push((Wrong::Answered, format!("an invite: {} {}", answer.status, answer.text())));
        }
        self.was_asked(came);
        let is_taken_back = matches!(self.comes(), Comes::Refused(..));
        let stands = if is_taken_back { "leave" } else { "invite" };
        if !comes_about(|| self.user.membership(&room_id, &guest).as_deref() == Some(stands)) {
            came.wrong.push((Wrong::Shown, format!("{guest} is not {stands}")));
        }
        for seen in self.evil.seen("invite") {
            let mut expected = json!({
                "type": "m.room.member", "room_id": room_id, "sender": self.user.user_id, "state_key": guest,
                "content": { "membership": "invite" },
            });
            // Where it stands in our own room is ours to say.
            for key in ["auth_events", "prev_events", "depth"] {
                expected[key] = seen.body["event"][key].clone();
            }
            let sent = Sent { body: &seen.body["event"], target: &seen.target, made: (begun, now_ms()) };
            came.compared += 1;
            let found = differences(&sent, &expected, self.version, &self.ground.keys);
            came.wrong.extend(found.into_iter().map(|difference| (Wrong::Signed, difference)));
        }
        let mut after = self.state(&room_id, came);
        let member = after.remove(&format!("m.room.member {guest}")).unwrap_or_default();
        if member["sender"] != self.user.user_id.as_str()
            || member["content"]["membership"] != stands
            || after != before
        {
            came.wrong.push((Wrong::Shown, format!("the room is another: {member}")));
        }
        came.invited = Some((room_id, guest, stands));
    }

    /// The state as our user sees it.
    fn state(&self, room_id: &str, came: &mut Came) -> BTreeMap<String, Value> {
        let target = Self::client(&format!("/rooms/{}/state", encoded(room_id)));
        let answer = self.ask("GET", &target, None, came).filter(|answer| answer.status == 200);
        let events = answer.map(|answer| answer.json()).unwrap_or_default();
        let words =
            |event: &Value| [&event["type"], &event["state_key"]].map(|word| word.as_str().unwrap_or("?").to_owned());
        let without_age = |event: &Value| {
            let mut event = event.clone();
            event["unsigned"].take();
            event
        };
        events.as_array().into_iter().flatten().map(|event| (words(event).join(" "), without_age(event))).collect()
    }

    /// The hostile answer was asked for.
    fn was_asked(&self, came: &mut Came) {
        if comes_about(|| !self.evil.seen(self.case.endpoint).is_empty()) {
            came.answers += 1;
        } else {
            came.wrong.push((Wrong::NotAsked, "the hostile server was not asked".to_owned()));
        }
    }

    /// What `send_*` brought to a server about a room: endpoint, path, body.
    fn bodies(&self, peer: &FakePeer, room_id: &str) -> Vec<(String, String, Value)> {
        let mut bodies = Vec::new();
        for endpoint in ["send_knock", "send_join", "send_leave"] {
            let seen = peer.seen(endpoint).into_iter().filter(|seen| seen.body["room_id"] == room_id);
            bodies.extend(seen.map(|seen| (seen.endpoint, seen.target, seen.body)));
        }
        if self.ground.border == Border::SignsTemplates && peer.name() == self.evil.name() {
            bodies.extend(self.signed_as_it_came());
        }
        bodies
    }

    /// What a server that does not look would have sent.
    fn signed_as_it_came(&self) -> Option<(String, String, Value)> {
        let send = format!("send_{}", self.case.endpoint.strip_prefix("make_")?);
        let mut event = self.evil.told(self.case.endpoint).pop()?["event"].take();
        let object = event.as_object_mut()?;
        object.insert("origin_server_ts".to_owned(), json!(now_ms()));
        object.insert("signatures".to_owned(), json!({ super::signed::US: { "ed25519:1": "as it came" } }));
        object.insert("hashes".to_owned(), json!({}));
        Some((send, String::new(), event))
    }

    fn went_to(&self, peer: &FakePeer, room_id: &str) -> usize {
        self.bodies(peer, room_id).len()
    }

    /// All that servers got in our name is what a template that may be signed for leads to, word by word.
    fn all_is_ours(&self, asked: &Asked<'_>, made: (u64, u64), came: &mut Came) {
        let make = format!("make_{}", asked.membership);
        let send = format!("send_{}", asked.membership);
        let peers = [self.evil, &self.ground.honest];
        let templates = peers.map(|peer| peer.told(&make)).concat();
        let fitting: Vec<(Value, String)> = templates.iter().filter_map(|told| expected(told, asked).ok()).collect();
        for peer in peers {
            for (_, target, body) in self.bodies(peer, asked.room_id).iter().filter(|(endpoint, ..)| *endpoint == send)
            {
                came.compared += 1;
                let is_unfit =
                    self.case.endpoint == make && !self.case.may_be_signed && peer.name() == self.evil.name();
                if is_unfit {
                    came.wrong.push((Wrong::Signed, format!("signed and sent: {body}")));
                    continue;
                }
                let sent = Sent { body, target, made };
                let found =
                    fitting.iter().map(|(event, version)| differences(&sent, event, version, &self.ground.keys));
                let least = found.min_by_key(Vec::len).unwrap_or_else(|| vec!["no template leads to it".to_owned()]);
                came.wrong.extend(least.into_iter().map(|difference| (Wrong::Signed, difference)));
            }
        }
        for seen in ["send", "invite"].map(|endpoint| self.evil.seen(endpoint)).concat() {
            if bears_our_signature(&seen.body) {
                came.wrong.push((Wrong::Signed, format!("nobody asked for {}", seen.target)));
            }
        }
    }

    /// The room is in this list of the user's sync, and in no other; and nothing of the lies is.
    fn shows(&self, room_id: &str, wanted: Option<&'static str>, came: &mut Came) {
        let Some(answer) = self.ask("GET", &Self::client("/sync?timeout=0"), None, came) else { return };
        if answer.status != 200 {
            came.wrong.push((Wrong::Shown, format!("a sync: {} {}", answer.status, answer.text())));
            return;
        }
        let sync = answer.json();
        came.wrong.extend(misplaced(&sync, room_id, wanted).map(|what| (Wrong::Shown, what)));
        let mut shown = wanted.map(|list| sync["rooms"][list][room_id].clone()).unwrap_or_default();
        if wanted == Some("join") {
            shown["state of the room"] = json!(self.state(room_id, came));
        }
        let text = shown.to_string();
        let is_there = self.case.unshown.iter().find(|word| text.contains(**word) && wanted.is_some());
        // What a joined room is made of is no lie.
        if let Some(word) = is_there.filter(|word| **word != "m.room.create" || wanted == Some("knock")) {
            came.wrong.push((Wrong::Shown, format!("{word}: {}", text.chars().take(300).collect::<String>())));
        }
        if wanted == Some("knock") {
            came.wrong.extend(unfit(&shown["knock_state"]["events"], text.len()).map(|what| (Wrong::Shown, what)));
        }
    }
}

/// What is wrong about the place of a room in a sync.
pub fn misplaced(sync: &Value, room_id: &str, wanted: Option<&str>) -> Option<String> {
    let lists = ["join", "invite", "knock", "leave"];
    let found: Vec<&str> = lists.into_iter().filter(|list| sync["rooms"][*list].get(room_id).is_some()).collect();
    // Who has left may find it among what was left.
    let is_right = match wanted {
        Some(list) => found == [list],
        None => found.iter().all(|list| *list == "leave"),
    };
    (!is_right).then(|| format!("{room_id} is in {found:?}, not in {wanted:?}"))
}

/// What is wrong about stripped state that clients get. Source: SECURITY T5.
fn unfit(events: &Value, bytes: usize) -> Option<String> {
    if bytes > SHOWN_BYTES_MAX {
        return Some(format!("{bytes} bytes are shown"));
    }
    for event in events.as_array()? {
        let keys: Vec<&String> = event.as_object().into_iter().flatten().map(|(key, _)| key).collect();
        let is_whole = keys == ["content", "sender", "state_key", "type"]
            && event["content"].is_object()
            && event["state_key"].is_string()
            && event["type"].is_string()
            && event["sender"].as_str().is_some_and(|sender| sender.starts_with('@'));
        if !is_whole {
            return Some(format!("shown, and no stripped event: {event}"));
        }
    }
    None
}

/// What our client hears.
fn answered(answer: &Answer, comes: Comes, came: &mut Came) {
    let (status, errcode) = match comes {
        Comes::Refused(status, errcode) => (status, Some(errcode)),
        Comes::Through | Comes::ThroughNext => (200, None),
    };
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is_right = answer.status == status
        && errcode.is_none_or(|errcode| body["errcode"] == errcode && body["error"].is_string())
        // Nothing of what other servers say goes to our clients.
        && !answer.text().contains("forged");
    if !is_right {
        came.wrong.push((Wrong::Answered, format!("{} {}, not {status} {errcode:?}", answer.status, answer.text())));
    }
}

fn comes_about(is_there: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + COMES_WITHIN;
    while !is_there() {
        if Instant::now() > deadline {
            return false;
        }
        thread::park_timeout(LOOK_AGAIN);
    }
    true
}
