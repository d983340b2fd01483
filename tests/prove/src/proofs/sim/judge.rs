//! What must hold when the dust has settled: nobody is in who was not let in, nothing acknowledged is lost, all servers agree,
//! every knock has ended or waits, and its server knows, and nothing waits for another server.
//! May not: ask an actor; it reads what is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::OwnedEventId;
use serde_json::Value;
use tokio::time::sleep;
use vestibule_actors::testing::read;
use vestibule_storage::room::{Direction, StoredEvent};

use super::{
    script::{Cast, Room},
    world::{SERVERS, World},
};

/// What kind of promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It could not be judged.
    Run,
    LetIn,
    Lost,
    Disagreement,
    Knock,
    Pending,
    Trace,
}

pub type Miss = (Broken, String);

/// After that nothing may be under way: the last attempt of an interrupted knock is some four hours after its first.
const SETTLES_WITHIN: Duration = Duration::from_hours(12);
const LOOK_PAUSE: Duration = Duration::from_mins(30);
/// Long enough for every pause of a sender.
const QUIET: Duration = Duration::from_mins(70);

/// Ends all that goes wrong and waits.
///
/// # Errors
/// Something is still under way.
pub async fn settle(world: &std::rc::Rc<World>, cast: &Cast) -> Result<(), Miss> {
    world.heal(None);
    for at in 0..SERVERS.len() {
        world.boot(at).await;
    }
    world.step("good weather from now on");
    let run = |why: String| (Broken::Run, why);
    sleep(QUIET).await;
    cast.speak(world, "first").await.map_err(run)?;
    let mut waited = Duration::ZERO;
    loop {
        sleep(LOOK_PAUSE).await;
        waited += LOOK_PAUSE;
        let waits = under_way(world);
        if waits.is_empty() {
            break;
        }
        if waited > SETTLES_WITHIN {
            return Err((Broken::Pending, waits.join(", ")));
        }
    }
    cast.speak(world, "second").await.map_err(run)?;
    sleep(QUIET).await;
    let waits = under_way(world);
    if waits.is_empty() { Ok(()) } else { Err((Broken::Pending, waits.join(", "))) }
}

/// What is not over, on any server.
fn under_way(world: &World) -> Vec<String> {
    let mut waits = Vec::new();
    for at in 0..SERVERS.len() {
        let stores = world.storage(at).stores();
        for destination in read(stores.outbox.destinations(None, usize::MAX)) {
            let rows = read(stores.outbox.pending(&destination, None, usize::MAX));
            let first = rows.first().map(|row| format!("{:?} {}", row.delivery, row.event_id));
            waits.push(format!("{} rows of {at} for {destination}: {first:?}", rows.len()));
        }
        for row in read(stores.rooms.joining(None, None, usize::MAX)) {
            waits.push(format!("{} joins {}", row.user_id, row.room_id));
        }
        for row in read(stores.rooms.out_of_band(None, None, usize::MAX)) {
            if row.out_of_band.progress == vestibule_storage::room::Progress::Asking {
                waits.push(format!("{} asks for {} in {}", row.user_id, row.out_of_band.membership, row.room_id));
            }
        }
    }
    waits
}

/// Everything that is not as it must be.
pub fn judge(world: &World, cast: &Cast) -> Vec<Miss> {
    let mut misses = Vec::new();
    for (number, room) in cast.rooms.iter().enumerate() {
        let room = room.borrow();
        let mut found = Vec::new();
        agree(world, &room, &mut found);
        let_in(world, cast, &room, &mut found);
        knocks(world, cast, &room, &mut found);
        misses.extend(found.into_iter().map(|(kind, what)| (kind, format!("room {number}: {what}"))));
    }
    kept(world, &mut misses);
    misses
}

fn content(stored: &StoredEvent) -> Value {
    serde_json::from_str(stored.event.content().get()).unwrap_or(Value::Null)
}

type State = BTreeMap<(String, String), StoredEvent>;

fn state(world: &World, at: usize, room: &Room) -> State {
    let events = read(world.storage(at).stores().rooms.current_state(&room.room_id));
    let keyed = events.into_iter().filter_map(|stored| {
        let key = (stored.event.kind().to_string(), stored.event.state_key()?.to_owned());
        Some((key, stored))
    });
    keyed.collect()
}

fn told(event: Option<&StoredEvent>) -> String {
    event.map_or_else(
        || "nothing".to_owned(),
        |stored| format!("{} {}", stored.event.event_id(), stored.event.content().get()),
    )
}

/// Every server with somebody in the room has the same state.
fn agree(world: &World, room: &Room, misses: &mut Vec<Miss>) {
    let ours = state(world, room.owner, room);
    for at in (0..SERVERS.len()).filter(|at| *at != room.owner) {
        let is_in = ours.iter().any(|((kind, user_id), stored)| {
            kind == "m.room.member" && world.is_of(at, user_id) && content(stored)["membership"] == "join"
        });
        if !is_in && !world.lives_in(at, &room.room_id) {
            continue;
        }
        let theirs = state(world, at, room);
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for key in keys {
            let (here, there) = (ours.get(key), theirs.get(key));
            if here.map(|stored| stored.event.event_id()) != there.map(|stored| stored.event.event_id()) {
                let what = format!(
                    "{} {} is {} on server {} and {} on server {at}",
                    key.0,
                    key.1,
                    told(here),
                    room.owner,
                    told(there)
                );
                misses.push((Broken::Disagreement, what));
            }
        }
    }
}

/// Every join in the room's timeline follows from an invite, a rule or a join that somebody wanted.
fn let_in(world: &World, cast: &Cast, room: &Room, misses: &mut Vec<Miss>) {
    let rooms = world.storage(room.owner).stores().rooms;
    let timeline = read(rooms.timeline(&room.room_id, None, Direction::Forward, usize::MAX));
    let joins = timeline.iter().filter(|stored| stored.event.kind().to_string() == "m.room.member");
    for join in joins.filter(|stored| content(stored)["membership"] == "join") {
        if let Err(why) = follows(world, cast, room, join) {
            let who = join.event.state_key().unwrap_or_default();
            misses.push((Broken::LetIn, format!("{who} was never let in: {why} ({})", join.event.event_id())));
        }
    }
}

fn follows(world: &World, cast: &Cast, room: &Room, join: &StoredEvent) -> Result<(), String> {
    let user_id = join.event.state_key().unwrap_or_default();
    if room.moderators.first().is_some_and(|(_, owner)| owner == user_id) {
        return Ok(());
    }
    let rooms = world.storage(room.owner).stores().rooms;
    let cited: Vec<OwnedEventId> = join.event.auth_events().to_vec();
    let cited: Vec<StoredEvent> = read(rooms.events(&room.room_id, &cited)).into_iter().flatten().collect();
    let of_kind = |kind: &str, key: &str| {
        cited.iter().find(|stored| stored.event.kind().to_string() == kind && stored.event.state_key() == Some(key))
    };
    let before = of_kind("m.room.member", user_id);
    let membership = before.map_or(Value::Null, |stored| content(stored)["membership"].clone());
    if membership == "join" {
        return Ok(());
    }
    if membership == "ban" {
        return Err("it was banned".to_owned());
    }
    if let Some(invite) = before.filter(|_| membership == "invite") {
        let by = invite.event.sender();
        let is_moderator = room.moderators.iter().any(|(_, moderator)| moderator == by);
        let was_wanted = room.invited.iter().any(|invited| invited == user_id);
        return if is_moderator && was_wanted { Ok(()) } else { Err(format!("{by} invited, and nobody wanted it")) };
    }
    let rule = of_kind("m.room.join_rules", "").map_or(Value::Null, |stored| content(stored)["join_rule"].clone());
    let rule = rule.as_str().unwrap_or("invite");
    let was_wanted = room.rules.iter().any(|wanted| wanted == rule);
    match rule {
        "public" if was_wanted => Ok(()),
        "restricted" | "knock_restricted" if was_wanted => {
            let by = &content(join)["join_authorised_via_users_server"];
            if room.moderators.iter().all(|(_, moderator)| by != moderator.as_str()) && !by.is_string() {
                return Err("nobody vouched".to_owned());
            }
            let was_there = cast.rooms.first().is_some_and(|allowed| {
                // The public room may let in by the word of its own members.
                let Ok(allowed) = allowed.try_borrow() else { return true };
                let rooms = world.storage(allowed.owner).stores().rooms;
                let timeline = read(rooms.timeline(&allowed.room_id, None, Direction::Forward, usize::MAX));
                let is_join = |stored: &StoredEvent| {
                    stored.event.state_key() == Some(user_id) && content(stored)["membership"] == "join"
                };
                timeline.iter().any(is_join)
            });
            if was_there { Ok(()) } else { Err("it was never in the room that lets its members in".to_owned()) }
        }
        _ if was_wanted => Err(format!("the rule is {rule}")),
        _ => Err(format!("the rule is {rule}, which nobody wanted")),
    }
}

/// What the room knows of everybody is what the own server knows.
fn knocks(world: &World, cast: &Cast, room: &Room, misses: &mut Vec<Miss>) {
    let pending: BTreeSet<String> =
        read(world.storage(room.owner).stores().rooms.pending_knocks(Some(&room.room_id), None, usize::MAX))
            .into_iter()
            .map(|row| row.user_id.to_string())
            .collect();
    for (at, user_id) in &cast.users {
        let there = world.membership(room.owner, &room.room_id, user_id.as_str());
        let own = world.standing(*at, &room.room_id, user_id);
        world.count(|counts| counts.knocks_judged += 1);
        let plain = |membership: &str| if membership == "ban" { "leave".to_owned() } else { membership.to_owned() };
        if there == "knock" && world.has_given_up(*at, &room.room_id, user_id) {
            world.count(|counts| counts.given_up += 1);
        } else if own == "invite" && is_taken_back_by_stranger(world, room, *at, user_id) {
            world.count(|counts| counts.taken_back_by_strangers += 1);
        } else if plain(&there) != plain(&own) {
            misses.push((Broken::Knock, format!("{user_id}: {there} in the room, {own} on the own server")));
        }
        if pending.contains(user_id.as_str()) != (there == "knock") {
            misses.push((Broken::Knock, format!("{user_id}: {there}, but counted among the waiting otherwise")));
        }
    }
}

/// Whether the user's server has no reason to believe whoever took an invite back: it is of none of the servers of which it knows
/// that they are in the room (DESIGN section 5).
fn is_taken_back_by_stranger(world: &World, room: &Room, at: usize, user_id: &ruma::UserId) -> bool {
    let Some(row) = world.out_of_band(at, &room.room_id, user_id) else { return false };
    world.member_event(room.owner, &room.room_id, user_id.as_str()).is_some_and(|end| {
        let by = end.event.sender_server();
        let is_out = end.event.membership().is_some_and(|now| ["leave", "ban"].contains(&now.as_str()));
        let is_shown = row.stripped.iter().any(|event| {
            serde_json::from_str::<Value>(event)
                .is_ok_and(|event| event["sender"].as_str().is_some_and(|sender| sender.ends_with(&format!(":{by}"))))
        });
        is_out && !is_shown && row.via.iter().all(|known| known != by) && row.event.sender_server() != by
    })
}

/// What was acknowledged is there.
fn kept(world: &World, misses: &mut Vec<Miss>) {
    let promises = world.promises.borrow();
    for promise in promises.iter() {
        world.count(|counts| counts.promises += 1);
        let is_there = if promise.event_id.is_empty() {
            has_reason(world, promise.server, &promise.room_id, &promise.what)
        } else {
            world.has_event(promise.server, &promise.room_id, &promise.event_id)
        };
        if !is_there {
            let what = format!(
                "{} {} was acknowledged by server {} and is lost",
                promise.what, promise.event_id, promise.server
            );
            misses.push((Broken::Lost, what));
        }
    }
    if world.panics.get() > 0 {
        misses.push((Broken::Run, format!("{} panics", world.panics.get())));
    }
}

fn has_reason(world: &World, at: usize, room_id: &str, reason: &str) -> bool {
    let Ok(room_id) = ruma::RoomId::parse(room_id) else { return false };
    let rooms = world.storage(at).stores().rooms;
    let timeline = read(rooms.timeline(&room_id, None, Direction::Forward, usize::MAX));
    timeline.iter().any(|stored| content(stored)["reason"] == reason)
}

/// The states of all servers, for the trace.
pub fn note(world: &World, cast: &Cast) {
    for room in &cast.rooms {
        let room = room.borrow();
        for at in 0..SERVERS.len() {
            for (key, stored) in state(world, at, &room) {
                world.note(format_args!("{at} {} {} {}", key.0, key.1, stored.event.event_id()));
            }
        }
    }
}
