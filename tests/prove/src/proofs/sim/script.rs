//! What people do: knock, answer, join, leave, speak, change rules; and what goes wrong meanwhile. All drawn from the seed.
//! May not: wait for what it has begun, or know how it must end.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix_web::http::Method;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    server::generator,
    world::{Heard, KNOCKERS, SERVERS, World},
};

/// One more than the rooms' numbers.
pub const ROOMS: usize = 5;
/// The least time for which people do things.
const LASTS: Duration = Duration::from_hours(1);
const PAUSE_MS_MAX: u64 = 36_000;
/// One in so many operations follows at once.
const AT_ONCE_ONE_IN: u32 = 4;
const DOWN_MS_MAX: u64 = 120_000;
const CUT_MS_MAX: u64 = 600_000;
/// Draws for one operation.
const DRAWS_MAX: u32 = 32;
/// A client hangs up after so long.
const PATIENCE: Duration = Duration::from_mins(2);

struct RoomPlan {
    version: &'static str,
    rule: &'static str,
    owner: usize,
    has_moderator: bool,
}

const PLANS: [RoomPlan; ROOMS] = [
    // First, since another room lets its members in.
    RoomPlan { version: "11", rule: "public", owner: 2, has_moderator: true },
    RoomPlan { version: "10", rule: "knock", owner: 0, has_moderator: true },
    RoomPlan { version: "12", rule: "knock", owner: 1, has_moderator: true },
    RoomPlan { version: "10", rule: "knock_restricted", owner: 0, has_moderator: true },
    RoomPlan { version: "7", rule: "knock", owner: 1, has_moderator: false },
];

/// A room, and what its people have wanted of it.
pub struct Room {
    pub room_id: OwnedRoomId,
    pub owner: usize,
    /// Who may answer knocks, with their servers.
    pub moderators: Vec<(usize, OwnedUserId)>,
    /// Join rules that somebody ever asked for.
    pub rules: Vec<String>,
    /// Whom somebody ever asked to let in.
    pub invited: Vec<OwnedUserId>,
    version: &'static str,
}

/// The rooms and who is about.
pub struct Cast {
    pub rooms: Vec<RefCell<Room>>,
    pub users: Vec<(usize, OwnedUserId)>,
    messages: RefCell<Vec<(usize, usize, OwnedUserId, String)>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Knock,
    Retract,
    Accept,
    Deny,
    Ban,
    Unban,
    Join,
    Leave,
    Message,
    Rules,
    Redact,
    Crash,
    Cut,
    Heal,
}

const KINDS: [(Kind, u32); 14] = [
    (Kind::Knock, 26),
    (Kind::Retract, 6),
    (Kind::Accept, 16),
    (Kind::Deny, 8),
    (Kind::Ban, 4),
    (Kind::Unban, 4),
    (Kind::Join, 14),
    (Kind::Leave, 5),
    (Kind::Message, 6),
    (Kind::Rules, 3),
    (Kind::Redact, 2),
    (Kind::Crash, 3),
    (Kind::Cut, 2),
    (Kind::Heal, 1),
];

/// A request of somebody.
struct Wish {
    number: u64,
    kind: Kind,
    at: usize,
    sender: OwnedUserId,
    target: OwnedUserId,
    room: usize,
    method: Method,
    uri: String,
    body: Value,
    /// What the target is to be.
    membership: Option<&'static str>,
}

/// Makes the rooms. With `hides_rule` the owner of the public room is taken to have wanted knocks.
///
/// # Errors
/// A room cannot be made, in good weather.
pub async fn set_up(world: &Rc<World>, hides_rule: bool) -> Result<Rc<Cast>, String> {
    let user = |localpart: &str, at: usize| -> Result<OwnedUserId, String> {
        format!("@{localpart}:{}", SERVERS[at]).try_into().map_err(|error: ruma::IdParseError| error.to_string())
    };
    let mut rooms: Vec<RefCell<Room>> = Vec::new();
    for plan in &PLANS {
        let owner = user("owner", plan.owner)?;
        let moderator = (plan.owner + 1) % SERVERS.len();
        let mut moderators = vec![(plan.owner, owner.clone())];
        let mut levels = json!({ "users": {} });
        if plan.version != "12" {
            levels["users"][owner.as_str()] = json!(100);
        }
        if plan.has_moderator {
            moderators.push((moderator, user("mod", moderator)?));
            levels["users"][user("mod", moderator)?.as_str()] = json!(90);
        }
        let allowed = rooms.first().map(|room| room.borrow().room_id.clone());
        let body = json!({
            "room_version": plan.version,
            "preset": "private_chat",
            "power_level_content_override": levels,
            "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": rule(plan.rule, allowed.as_ref()) }],
        });
        let made = asked(world, plan.owner, &owner, "/_matrix/client/v3/createRoom", &body).await?;
        let room_id = made["room_id"].as_str().unwrap_or_default().to_owned();
        if let Some((at, moderator)) = moderators.get(1) {
            let invite = format!("/_matrix/client/v3/rooms/{room_id}/invite");
            asked(world, plan.owner, &owner, &invite, &json!({ "user_id": moderator })).await?;
            sleep(Duration::from_secs(10)).await;
            let join = format!("/_matrix/client/v3/join/{room_id}");
            asked(world, *at, moderator, &join, &json!({})).await?;
        }
        let wanted = if hides_rule && plan.rule == "public" { "knock" } else { plan.rule };
        rooms.push(RefCell::new(Room {
            room_id: room_id.try_into().map_err(|error: ruma::IdParseError| error.to_string())?,
            owner: plan.owner,
            invited: moderators.iter().skip(1).map(|(_, moderator)| moderator.clone()).collect(),
            moderators,
            rules: vec![wanted.to_owned()],
            version: plan.version,
        }));
        sleep(Duration::from_secs(10)).await;
    }
    let mut users = Vec::new();
    for at in 0..SERVERS.len() {
        for number in 0..KNOCKERS {
            users.push((at, user(&format!("user{number}"), at)?));
        }
    }
    Ok(Rc::new(Cast { rooms, users, messages: RefCell::default() }))
}

async fn asked(world: &World, at: usize, user: &OwnedUserId, uri: &str, body: &Value) -> Result<Value, String> {
    match world.ask(at, user.as_str(), (Method::POST, uri), body, PATIENCE).await {
        Heard::Answer(200, answer) => Ok(answer),
        Heard::Answer(status, answer) => Err(format!("{uri} in good weather: {status} {answer}")),
        Heard::Nothing => Err(format!("{uri} in good weather: no answer")),
    }
}

fn rule(rule: &str, allowed: Option<&OwnedRoomId>) -> Value {
    let mut content = json!({ "join_rule": rule });
    if let Some(allowed) = allowed.filter(|_| rule.ends_with("restricted")) {
        content["allow"] = json!([{ "type": "m.room_membership", "room_id": allowed }]);
    }
    content
}

/// Lets people do so many things in bad weather, for an hour or more.
pub async fn play(world: &Rc<World>, cast: &Rc<Cast>, seed: u64, operations: u64) {
    let mut random = generator(seed, 2);
    let began = world.now();
    world.set_stormy(true);
    for number in 1..=operations {
        if !random.random_ratio(1, AT_ONCE_ONE_IN) {
            sleep(Duration::from_millis(random.random_range(0..PAUSE_MS_MAX * 4 / 3))).await;
        }
        // What nobody can do at the moment is drawn again.
        if (0..DRAWS_MAX).any(|_| begin(world, cast, number, &mut random)) {
            world.count(|counts| counts.operations += 1);
        }
    }
    sleep(LASTS.saturating_sub(world.now().saturating_sub(began))).await;
    world.set_stormy(false);
}

/// `false`: there is nobody who could do it.
fn begin(world: &Rc<World>, cast: &Rc<Cast>, number: u64, random: &mut StdRng) -> bool {
    let kind = KINDS.choose_weighted(random, |(_, weight)| *weight).map_or(Kind::Knock, |(kind, _)| *kind);
    let server = random.random_range(0..SERVERS.len());
    let other = (server + random.random_range(1..SERVERS.len())) % SERVERS.len();
    match kind {
        Kind::Crash => {
            let down = Duration::from_millis(random.random_range(1..DOWN_MS_MAX));
            if !world.crash(server) {
                return false;
            }
            world.count(|counts| counts.crashes += 1);
            world.step(&format!("{number}: server {server} crashes, for {down:?}"));
            let world = world.clone();
            tokio::task::spawn_local(async move {
                sleep(down).await;
                world.boot(server).await;
            });
        }
        Kind::Cut => {
            let lasts = Duration::from_millis(random.random_range(1..CUT_MS_MAX));
            world.cut(server, other);
            world.count(|counts| counts.partitions += 1);
            world.step(&format!("{number}: {server} and {other} do not reach each other, for {lasts:?}"));
            let world = world.clone();
            tokio::task::spawn_local(async move {
                sleep(lasts).await;
                world.heal(Some((server, other)));
            });
        }
        Kind::Heal => {
            world.heal(None);
            world.step(&format!("{number}: all servers reach each other"));
        }
        _ => {
            let Some(wish) = cast.draw_wish(world, kind, number, random) else { return false };
            let (world, cast) = (world.clone(), cast.clone());
            tokio::task::spawn_local(async move { cast.fulfil(&world, wish).await });
        }
    }
    true
}

impl Cast {
    fn draw_wish(&self, world: &World, kind: Kind, number: u64, random: &mut StdRng) -> Option<Wish> {
        let at_room = random.random_range(0..ROOMS);
        let mut room = self.rooms[at_room].borrow_mut();
        let room_id = room.room_id.clone();
        // Mostly what makes sense as far as people can see, else anything.
        let is_sensible = random.random_ratio(9, 10);
        let (moderator_at, moderator) = room.moderators.choose(random)?.clone();
        let suits = |user: &&(usize, OwnedUserId), by: Option<usize>, wanted: &[&str]| {
            let now = match by {
                Some(at) => world.membership(at, &room_id, user.1.as_str()),
                None => world.standing(user.0, &room_id, &user.1),
            };
            !is_sensible || wanted.contains(&now.as_str())
        };
        let (by, wanted): (Option<usize>, &[&str]) = match kind {
            Kind::Knock => (None, &["leave"]),
            Kind::Retract => (None, &["knock", "invite"]),
            Kind::Accept => (Some(moderator_at), &["knock"]),
            Kind::Deny => (Some(moderator_at), &["knock", "invite", "join"]),
            Kind::Ban => (Some(moderator_at), &["knock", "invite", "join", "leave"]),
            Kind::Unban => (Some(moderator_at), &["ban"]),
            Kind::Join => (None, &["invite", "leave"]),
            _ => (None, &["join"]),
        };
        let suiting: Vec<_> = self.users.iter().filter(|user| suits(user, by, wanted)).collect();
        // An invite is there to be followed.
        let invited: Vec<_> =
            suiting.iter().filter(|user| kind == Kind::Join && suits(user, None, &["invite"])).copied().collect();
        let pool = if invited.is_empty() || !is_sensible { suiting } else { invited };
        let (user_at, user) = (*pool.choose(random)?).clone();
        let via: Vec<String> = room.moderators.iter().map(|(at, _)| format!("via={}", SERVERS[*at])).collect();
        let via = via.join("&");
        let reason = json!({ "reason": format!("op {number}") });
        let of_target = json!({ "user_id": user, "reason": format!("op {number}") });
        let own = |what: &str| format!("/_matrix/client/v3/rooms/{room_id}/{what}");
        let (post, put) = (Method::POST, Method::PUT);
        let by_user = (user_at, user.clone());
        let by_moderator = (moderator_at, moderator);
        let speaks = random.random_ratio(1, 2);
        let ((at, sender), method, uri, body, membership) = match kind {
            Kind::Knock => (by_user, post, format!("/_matrix/client/v3/knock/{room_id}?{via}"), reason, Some("knock")),
            Kind::Retract | Kind::Leave => (by_user, post, own("leave"), reason, Some("leave")),
            Kind::Join => (by_user, post, format!("/_matrix/client/v3/join/{room_id}?{via}"), reason, Some("join")),
            Kind::Accept => {
                room.invited.push(user.clone());
                (by_moderator, post, own("invite"), of_target, Some("invite"))
            }
            Kind::Deny => (by_moderator, post, own("kick"), of_target, Some("leave")),
            Kind::Ban => (by_moderator, post, own("ban"), of_target, Some("ban")),
            Kind::Unban => (by_moderator, post, own("unban"), of_target, Some("leave")),
            Kind::Message => {
                let speaker = if speaks { by_user } else { by_moderator };
                let body = json!({ "msgtype": "m.text", "body": format!("op {number}") });
                (speaker, put, own(&format!("send/m.room.message/op{number}")), body, None)
            }
            Kind::Rules => {
                let mut rules = vec!["knock", "knock", "invite", "public"];
                if room.version != "7" {
                    rules.extend(["restricted", "knock_restricted"]);
                }
                let wanted = *rules.choose(random)?;
                room.rules.push(wanted.to_owned());
                let allowed = if at_room == 0 { room_id.clone() } else { self.rooms[0].borrow().room_id.clone() };
                (by_moderator, put, own("state/m.room.join_rules/"), rule(wanted, Some(&allowed)), None)
            }
            _ => {
                let messages = self.messages.borrow();
                let (at_message, at, sender, event_id) = messages.choose(random)?.clone();
                let room_id = self
                    .rooms
                    .get(at_message)
                    .filter(|_| at_message != at_room)
                    .map(|room| room.borrow().room_id.clone());
                let room_id = room_id.unwrap_or_else(|| room.room_id.clone());
                let uri = format!("/_matrix/client/v3/rooms/{room_id}/redact/{event_id}/op{number}");
                return Some(Wish {
                    number,
                    kind,
                    at,
                    target: sender.clone(),
                    sender,
                    room: at_message,
                    method: put,
                    uri,
                    body: reason,
                    membership: None,
                });
            }
        };
        Some(Wish { number, kind, at, sender, target: user, room: at_room, method, uri, body, membership })
    }

    async fn fulfil(&self, world: &World, wish: Wish) {
        let Wish { number, kind, at, sender, target, room, .. } = &wish;
        let room_id = self.rooms[*room].borrow().room_id.clone();
        let upon = if sender == target { String::new() } else { format!(" {target}") };
        let told = if *kind == Kind::Rules { wish.body.to_string() } else { String::new() };
        world.step(&format!("{number}: {sender} {kind:?}{upon} in room {room} {told}"));
        let (lived_in, was) = (world.lives_in(*at, &room_id), world.membership(*at, &room_id, target.as_str()));
        let heard = world.ask(*at, sender.as_str(), (wish.method.clone(), &wish.uri), &wish.body, PATIENCE).await;
        match heard {
            Heard::Nothing => {
                world.count(|counts| counts.unheard += 1);
                world.step(&format!("{number}: no answer"));
            }
            Heard::Answer(200, answer) => {
                world.count(|counts| {
                    counts.done += 1;
                    counts.joins += u64::from(*kind == Kind::Join);
                    let answers = was == "knock" && matches!(kind, Kind::Accept | Kind::Deny | Kind::Ban);
                    counts.answers += u64::from(answers);
                });
                world.step(&format!("{number}: done"));
                if let Some(event_id) = answer["event_id"].as_str() {
                    world.promise(*at, room_id.to_string(), event_id.to_owned(), format!("op {number}"));
                    if *kind == Kind::Message {
                        let spoken = (*room, *at, sender.clone(), event_id.to_owned());
                        self.messages.borrow_mut().push(spoken);
                    }
                }
                if lived_in && let Some(membership) = wish.membership {
                    note_membership(world, (*at, *number), &room_id, target.as_str(), membership);
                }
            }
            Heard::Answer(status, answer) => {
                world.count(|counts| counts.refused += 1);
                world.step(&format!("{number}: {status} {}", answer["errcode"].as_str().unwrap_or_default()));
            }
        }
    }

    /// Everybody in the rooms hears the owners say something, so that whoever missed an event asks for it.
    pub async fn speak(&self, world: &World, when: &str) -> Result<(), String> {
        for room in &self.rooms {
            let (room_id, owner) = (room.borrow().room_id.clone(), room.borrow().moderators[0].clone());
            let uri = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/{when}");
            let body = json!({ "msgtype": "m.text", "body": when });
            let heard = world.ask(owner.0, owner.1.as_str(), (Method::PUT, &uri), &body, PATIENCE).await;
            if !matches!(heard, Heard::Answer(200, _)) {
                return Err(format!("{} cannot speak in {room_id} in good weather", owner.1));
            }
        }
        Ok(())
    }
}

/// What was acknowledged about a member of a room that lives here is the event that says so, or one that says the same.
fn note_membership(world: &World, (at, number): (usize, u64), room_id: &OwnedRoomId, target: &str, membership: &str) {
    let now = world.member_event(at, room_id, target);
    let is_so =
        now.as_ref().is_some_and(|stored| stored.event.membership().is_some_and(|now| now.as_str() == membership));
    let event_id = now.filter(|_| is_so).map(|stored| stored.event.event_id().to_string());
    let what = format!("op {number}");
    // Without an event that says so, it is looked for by its reason.
    world.promise(at, room_id.to_string(), event_id.unwrap_or_default(), what);
}
