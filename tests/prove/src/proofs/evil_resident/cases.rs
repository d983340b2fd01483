//! The table: every hostile answer, to which of our requests it is given, and what must come of it.
//! May not: run anything.

use std::{
    io::{self, Write},
    sync::Arc,
};

use serde_json::{Value, json};
use vestibule_scenery::{
    FakePeer,
    foul::{
        Change, put_at,
        replies::{BROKEN, EMPTY_HANDED, ENDLESS, nested, status, verbatim},
        rooms::{Forgers, UNPROVEN, UNVOUCHED, find},
        shown::{odd_creates, odd_lists},
        templates::{AMBIGUOUS, baited, lies},
    },
};

/// What a user of ours wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Knock,
    Join,
    /// Take a knock back.
    Leave,
    /// Invite a user of the hostile server into a room of ours.
    Invite,
}

/// What comes of it for our client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// Nothing: this is the answer, and nothing is shown.
    Refused(u16, &'static str),
    /// What the user wanted, through the hostile server.
    Through,
    /// What the user wanted, through the next server.
    ThroughNext,
}

/// Writes a whole reply.
type Reply = dyn Fn(&mut dyn Write) -> io::Result<()> + Send + Sync;

/// What the hostile server does to its honest answer.
#[derive(Clone)]
pub enum Deed {
    /// Says something else.
    Change(Arc<dyn Fn(Value) -> Value + Send + Sync>),
    /// Writes it otherwise.
    Text(fn(&Value) -> Vec<u8>),
    /// Writes something else.
    Raw(Arc<Reply>),
    /// Something that depends on the room.
    Made(fn(&Place<'_>) -> Deed),
}

/// Where a deed is done.
pub struct Place<'a> {
    pub evil: &'a FakePeer,
    /// A server that is none of the room's.
    pub stranger: &'a FakePeer,
    pub version: &'a str,
    pub room_id: &'a str,
}

/// A hostile answer.
#[derive(Clone)]
pub struct Case {
    pub flow: Flow,
    /// Which request is answered so.
    pub endpoint: &'static str,
    pub what: String,
    pub deed: Deed,
    /// Versions of the room, one of which is drawn.
    pub versions: &'static [&'static str],
    pub rule: &'static str,
    /// With the hostile server alone.
    pub alone: Comes,
    /// With an honest server behind it. `None`: that makes no difference.
    pub beside: Option<Comes>,
    /// Whether our signature may be on something that this server then gets: the template was one that could be signed for.
    pub may_be_signed: bool,
    /// What the user must not be shown of the room.
    pub unshown: &'static [&'static str],
    /// Whether it lasts until a deadline.
    pub is_slow: bool,
}

/// All that can be knocked on.
const KNOCKABLE: &[&str] = &["7", "8", "9", "10", "11", "12"];
/// All in which somebody may vouch for a join.
const RESTRICTED: &[&str] = &["8", "9", "10", "11", "12"];
const NOTHING: Comes = Comes::Refused(502, "M_UNKNOWN");
const NEXT: Option<Comes> = Some(Comes::ThroughNext);

/// What a status says about the request.
#[derive(Clone, Copy)]
enum Says {
    /// Nothing of it.
    Nothing,
    /// Not now.
    Later,
    /// No; and what our client hears then.
    No(u16, &'static str),
}

impl Case {
    fn of(flow: Flow, endpoint: &'static str, what: impl Into<String>, deed: Deed) -> Self {
        let is_template = endpoint.starts_with("make_");
        Self {
            flow,
            endpoint,
            what: what.into(),
            deed,
            versions: KNOCKABLE,
            rule: if flow == Flow::Join { "public" } else { "knock" },
            alone: NOTHING,
            beside: NEXT,
            may_be_signed: !is_template,
            unshown: &["forged", "ghost", "bait"],
            is_slow: false,
        }
    }

    fn raw(
        flow: Flow,
        endpoint: &'static str,
        what: impl Into<String>,
        write: impl Fn(&mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::of(flow, endpoint, what, Deed::Raw(Arc::new(write)))
    }

    fn change(
        flow: Flow,
        endpoint: &'static str,
        what: impl Into<String>,
        change: impl Fn(Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::of(flow, endpoint, what, Deed::Change(Arc::new(change)))
    }

    fn comes(self, alone: Comes, beside: Option<Comes>) -> Self {
        Self { alone, beside, ..self }
    }

    /// It is as good as an honest answer.
    fn goes_through(self) -> Self {
        Self { may_be_signed: true, ..self.comes(Comes::Through, None) }
    }

    fn on(self, versions: &'static [&'static str]) -> Self {
        Self { versions, ..self }
    }
}

/// The endpoints of a handshake: of the template, and of the event made of it.
fn endpoints(flow: Flow) -> (&'static str, &'static str, &'static str) {
    match flow {
        Flow::Knock => ("make_knock", "send_knock", "knock"),
        Flow::Join => ("make_join", "send_join", "join"),
        Flow::Leave => ("make_leave", "send_leave", "leave"),
        Flow::Invite => ("", "invite", "invite"),
    }
}

/// Every hostile answer. `canary` is where redirects lead: nobody may come there.
pub fn all(canary: u16) -> Vec<Case> {
    let mut cases = Vec::new();
    for flow in [Flow::Knock, Flow::Join, Flow::Leave] {
        cases.extend(templates(flow));
    }
    for (flow, endpoint) in [
        (Flow::Knock, "make_knock"),
        (Flow::Knock, "send_knock"),
        (Flow::Join, "make_join"),
        (Flow::Join, "send_join"),
        (Flow::Leave, "make_leave"),
        (Flow::Leave, "send_leave"),
        (Flow::Invite, "invite"),
    ] {
        cases.extend(replies(flow, endpoint));
        cases.extend(statuses(flow, endpoint, canary));
    }
    cases.extend(shown());
    cases.extend(rooms());
    cases.extend(invites());
    cases
}

fn templates(flow: Flow) -> Vec<Case> {
    let (make, _, membership) = endpoints(flow);
    let lie = |pointer: &'static str, lie: Value| {
        let what = format!("{pointer} {lie}").chars().take(70).collect::<String>();
        Case::change(flow, make, what, move |mut told| {
            put_at(&mut told, pointer, lie.clone());
            told
        })
    };
    let mut cases: Vec<Case> = lies(membership).into_iter().map(|(pointer, value)| lie(pointer, value)).collect();
    cases.extend(AMBIGUOUS.map(|(what, text)| Case::of(flow, make, what, Deed::Text(text))));
    cases.extend(["0", "2", "13", "", "११"].map(|version| lie("/room_version", json!(version))));
    cases.push(lie("/event/depth", json!(u64::MAX)));
    cases.push(lie("/event/prev_events", json!(vec!["$a"; 2])));
    cases.push(lie("/event/prev_events", json!([format!("${}", "a".repeat(100_000))])));
    cases.push(lie("/event/auth_events", Value::Null));
    cases.push(lie("/event/content/padding", json!("x".repeat(300_000))));
    let nested = (0..200).fold(json!(0), |inner, _| json!([inner]));
    cases.push(lie("/event/content/nested", nested));
    cases.push(
        Case::of(
            flow,
            make,
            "the create event among those that authorize",
            Deed::Made(|place| {
                let create = format!("${}", place.room_id.trim_start_matches('!'));
                Deed::Change(Arc::new(move |mut told| {
                    if let Some(list) = told["event"]["auth_events"].as_array_mut() {
                        list.push(json!(create));
                    }
                    told
                }))
            }),
        )
        .on(&["12"]),
    );
    cases.push(Case::change(flow, make, "bait in every place", baited).goes_through());
    if flow == Flow::Knock {
        // Known to us and offered, but nobody can knock there.
        let cannot = Comes::Refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
        cases.extend(["3", "6"].map(|version| lie("/room_version", json!(version)).comes(cannot, NEXT)));
    }
    if flow == Flow::Join {
        let vouchers = [json!("@boss:vestibule.test"), json!("nobody"), json!(7), json!(["@o:evil.test"]), Value::Null];
        let key = "/event/content/join_authorised_via_users_server";
        cases.extend(vouchers.map(|voucher| lie(key, voucher).on(RESTRICTED)));
        // This could be: whoever is said to vouch has to sign what we then send, and does not.
        let absent = lie(key, json!("@owner:nowhere.test")).on(RESTRICTED);
        // A room that took it is no room that an honest server could give.
        cases.push(Case { may_be_signed: true, beside: None, ..absent });
    }
    cases
}

/// Replies that are none, or have no end.
fn replies(flow: Flow, endpoint: &'static str) -> Vec<Case> {
    let is_done_with_2xx = ["send_knock", "send_leave", "invite"].contains(&endpoint);
    // An invite stands whatever its server says, unless that is no.
    let kept = |case: Case| if flow == Flow::Invite { case.goes_through() } else { case };
    let with_2xx = |case: Case| if is_done_with_2xx { case.goes_through() } else { case };
    let mut cases: Vec<Case> = Vec::new();
    cases.extend(EMPTY_HANDED.map(|(what, bytes)| with_2xx(Case::raw(flow, endpoint, what, verbatim(bytes)))));
    cases.extend(BROKEN.map(|(what, bytes)| kept(Case::raw(flow, endpoint, what, verbatim(bytes)))));
    cases.extend(
        [127, 129, 100_000]
            .map(|levels| with_2xx(Case::raw(flow, endpoint, format!("{levels} levels"), nested(levels)))),
    );
    for (what, write) in ENDLESS {
        let is_slow = what == "drip";
        // A room has three minutes to come. A leave is tried again, five times, before the next server is asked.
        if is_slow && (endpoint == "send_join" || flow == Flow::Leave) {
            continue;
        }
        let is_read = !is_slow && !what.ends_with("head") && !what.ends_with("line");
        let case = Case { is_slow, ..Case::raw(flow, endpoint, what, write) };
        cases.push(if is_read { with_2xx(case) } else { kept(case) });
    }
    cases
}

fn statuses(flow: Flow, endpoint: &'static str, canary: u16) -> Vec<Case> {
    let error = |errcode: &str| json!({ "errcode": errcode, "error": "<script>forged</script>" }).to_string();
    let to = format!("Location: https://127.0.0.1:{canary}/_matrix/federation/v1/elsewhere\r\n");
    let forbidden = Says::No(403, "M_FORBIDDEN");
    // What is about the request, and what our client hears of it; a code that says nothing to it is a 502.
    let said: Vec<(&str, &str, String, String, Says)> = vec![
        ("moved", "301 Moved Permanently", to.clone(), "{}".to_owned(), Says::Nothing),
        ("found elsewhere", "302 Found", to.clone(), "{}".to_owned(), Says::Nothing),
        ("elsewhere, with its method", "307 Temporary Redirect", to.clone(), "{}".to_owned(), Says::Nothing),
        ("elsewhere for good", "308 Permanent Redirect", to, "{}".to_owned(), Says::Nothing),
        ("not modified", "304 Not Modified", String::new(), String::new(), Says::Nothing),
        ("a log-out", "401 Unauthorized", String::new(), error("M_UNKNOWN_TOKEN"), Says::Nothing),
        ("a page that forbids", "403 Forbidden", String::new(), "<html>no</html>".to_owned(), Says::Nothing),
        ("a page that is not there", "404 Not Found", String::new(), "<html>no</html>".to_owned(), Says::Nothing),
        (
            "too much, for centuries",
            "429 Slow Down",
            "Retry-After: 99999999999999999999\r\n".to_owned(),
            json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "forged", "retry_after_ms": u64::MAX }).to_string(),
            Says::Later,
        ),
        ("its own failure", "500 Oops", String::new(), error("M_UNKNOWN"), Says::Nothing),
        ("no gateway", "504 Gateway Timeout", String::new(), String::new(), Says::Nothing),
        ("a status beyond all", "999 Beyond", String::new(), error("M_FORBIDDEN"), Says::Nothing),
        ("forbidden", "403 Forbidden", String::new(), error("M_FORBIDDEN"), forbidden),
        ("forbidden as if logged out", "403 Forbidden", String::new(), error("M_UNKNOWN_TOKEN"), forbidden),
        ("forbidden, with an odd code", "403 Forbidden", String::new(), error("\r\nX: 1"), forbidden),
        ("not found", "404 Not Found", String::new(), error("M_NOT_FOUND"), Says::No(404, "M_NOT_FOUND")),
        (
            "bad, as if logged out",
            "400 Bad Request",
            String::new(),
            error("M_UNKNOWN_TOKEN"),
            Says::No(502, "M_UNKNOWN"),
        ),
        (
            "another version, which is none",
            "400 Bad Request",
            String::new(),
            json!({ "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": 7, "room_version": { "forged": 1 } })
                .to_string(),
            Says::No(400, "M_INCOMPATIBLE_ROOM_VERSION"),
        ),
    ];
    let judged = |case: Case, says: Says| match (flow, says) {
        (Flow::Invite, Says::No(..)) => case.comes(Comes::Refused(200, "taken back"), None),
        (Flow::Invite, _) => case.goes_through(),
        (_, Says::Nothing) => case,
        (_, Says::Later) => case.comes(Comes::Refused(429, "M_LIMIT_EXCEEDED"), NEXT),
        (_, Says::No(status, errcode)) => {
            let refused = Comes::Refused(status, errcode);
            // A knock that was refused by one server of the room is refused by the room.
            case.comes(refused, if endpoint == "send_knock" { Some(refused) } else { NEXT })
        }
    };
    let case = |(what, line, headers, body, says): (&str, &str, String, String, Says)| {
        judged(Case::raw(flow, endpoint, format!("{line}: {what}"), status(line, &headers, &body)), says)
    };
    said.into_iter().map(case).collect()
}

/// What a knock is answered with when it is taken.
fn shown() -> Vec<Case> {
    let entry = |kind: &str, content: Value| json!({ "type": kind, "state_key": "", "sender": "@owner:evil.test", "content": content });
    let mut lists = odd_lists();
    lists.push(json!(vec![entry("m.room.name", json!({ "name": "x" })); 5_000]));
    lists.push(json!([entry("m.room.topic", json!({ "topic": "x".repeat(900_000) }))]));
    lists.push(json!([entry("m.room.topic", json!({ "topic": "x".repeat(3_000_000) }))]));
    lists.push(json!([entry("m.room.power_levels", json!({ "users": { "forged": 100 } }))]));
    lists.push(json!([
        entry("org.example.odd", json!({ "forged": 1 })),
        entry("m.room.tombstone", json!({ "body": "forged" }))
    ]));
    let mut cases: Vec<Case> = lists
        .into_iter()
        .map(|list| {
            let what = format!("shows {list}").chars().take(70).collect::<String>();
            Case::change(Flow::Knock, "send_knock", what, move |mut told| {
                told["knock_room_state"] = list.clone();
                told
            })
            .goes_through()
        })
        .collect();
    // One case for each place in the list of odd create events, of which version 12 has one more.
    const CREATES: [fn(&Place<'_>) -> Deed; 6] = [
        |place| create(place, 0),
        |place| create(place, 1),
        |place| create(place, 2),
        |place| create(place, 3),
        |place| create(place, 4),
        |place| create(place, 5),
    ];
    for version in [&["11"], &["12"]] {
        for (number, made) in CREATES.into_iter().enumerate() {
            if number < 5 || version == &["12"] {
                let case = Case::of(Flow::Knock, "send_knock", format!("create event {number}"), Deed::Made(made));
                cases.push(Case { unshown: &["m.room.create"], ..case.goes_through().on(version) });
            }
        }
    }
    cases
}

fn create(place: &Place<'_>, number: usize) -> Deed {
    let other = place.evil.host("other", place.version, json!({ "join_rule": "knock" }));
    let impostor = FakePeer::new(place.evil.name());
    let own = place.evil.create_event(place.room_id);
    let odd = odd_creates(place.version, &place.evil.create_event(&other), &impostor).into_iter().nth(number);
    let odd = odd.map_or(Value::Null, |(_, change)| change(own));
    Deed::Change(Arc::new(move |mut told| {
        for event in told["knock_room_state"].as_array_mut().into_iter().flatten() {
            if event["type"] == "m.room.create" {
                *event = odd.clone();
            }
        }
        told
    }))
}

/// What a join is answered with when it is taken.
fn rooms() -> Vec<Case> {
    let join = |what: &str, deed: Deed| Case::of(Flow::Join, "send_join", what, deed).on(KNOCKABLE);
    let mut cases: Vec<Case> = UNPROVEN
        .into_iter()
        .map(|(what, change)| {
            Case::change(Flow::Join, "send_join", what, move |mut told| {
                change(&mut told);
                told
            })
        })
        .collect();
    // What is not proven is left out; what is proven stands.
    cases.push(join("forged events beside the room's own", Deed::Made(forged)).comes(Comes::Through, None));
    cases.push(join("another room's create event in place of its own", Deed::Made(|place| stolen(place, true))));
    let beside = join("another room's create event before its own", Deed::Made(|place| stolen(place, false)));
    cases.push(beside.comes(Comes::Through, None));
    cases.push(
        Case::change(Flow::Join, "send_join", "a name that its hash does not vouch for", |mut told| {
            find(&mut told["state"], "m.room.name", "")["content"]["name"] = json!("forged");
            told
        })
        .comes(Comes::Through, None),
    );
    for (what, change) in UNVOUCHED {
        let case = Case::change(Flow::Join, "send_join", format!("a vouched join, {what}"), move |mut told| {
            change(&mut told);
            told
        });
        cases.push(Case { rule: "restricted", beside: None, ..case.on(RESTRICTED) });
    }
    cases
}

fn forged(place: &Place<'_>) -> Deed {
    let elsewhere = place.evil.host("owner", place.version, json!({ "join_rule": "public" }));
    let impostor = FakePeer::new(place.evil.name());
    let forgers = Forgers { resident: place.evil, impostor: &impostor, stranger: place.stranger };
    let events = forgers.events(place.version, place.room_id, &elsewhere, "@ghost:vestibule.test");
    Deed::Change(Arc::new(move |mut told| {
        for list in ["state", "auth_chain"] {
            if let Some(list) = told[list].as_array_mut() {
                list.extend(events.iter().cloned());
            }
        }
        told
    }))
}

fn stolen(place: &Place<'_>, stands_in: bool) -> Deed {
    let other = place.evil.host("ghost", place.version, json!({ "join_rule": "public" }));
    let stolen = place.evil.create_event(&other);
    Deed::Change(Arc::new(move |mut told| {
        for list in ["state", "auth_chain"] {
            if stands_in {
                *find(&mut told[list], "m.room.create", "") = stolen.clone();
            } else if let Some(list) = told[list].as_array_mut() {
                list.insert(0, stolen.clone());
            }
        }
        told
    }))
}

/// What our invite is answered with. The room needs our signature alone, so none of it may reach it.
fn invites() -> Vec<Case> {
    let changes: [(&str, Change); 6] = [
        ("a join", |told| told["event"]["content"]["membership"] = json!("join")),
        ("another sender", |told| told["event"]["sender"] = json!("@boss:vestibule.test")),
        ("another room", |told| told["event"]["room_id"] = json!("!forged:evil.test")),
        ("no signature", |told| told["event"]["signatures"] = json!({})),
        ("a name", |told| told["event"]["content"]["displayname"] = json!("forged")),
        ("no event", |told| *told = json!({ "event": null })),
    ];
    let case = |(what, change): (&str, Change)| {
        Case::change(Flow::Invite, "invite", what, move |mut told| {
            change(&mut told);
            told
        })
        .goes_through()
    };
    changes.into_iter().map(case).collect()
}
