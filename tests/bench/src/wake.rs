//! How soon a client that waits in `/sync` hears of a knock that is durable, while other knocks flow.
//! May not: count from when a knock was sent; what it takes until it is durable, other scenarios show.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use serde_json::{Value, json};

use crate::{
    load::{self, Pace, Run},
    scenarios::{knock, send_knocks},
    stage::{Owner, Stage},
};

/// Knocks of which somebody hears.
const HEARD: usize = 200;
/// Of them so many a second.
const HEARD_RATE: f64 = 10.0;
/// What a long poll waits for at most.
const POLL_MS: u32 = 5_000;

/// The times from the answer to a knock to the answer of the `/sync` that shows it; none when `/sync` was first. Meanwhile so
/// many knocks a second come into the room of somebody else.
///
/// # Errors
/// An answer that is not 200, or a knock that nobody hears of.
pub fn up(stage: &Stage, rate: f64) -> Result<Run, String> {
    let noise_room = stage.noisy.as_ref().ok_or("nobody else is there")?.room()?;
    let seconds = HEARD_RATE.recip() * crate::report::float(HEARD);
    // Counts are small; what is lost below one is no knock.
    let noise_count = (0..).take_while(|number| crate::report::float(*number) < seconds * rate).count();
    let noise = send_knocks(stage, &[noise_room], noise_count)?;
    let room_id = stage.client.room()?;
    let (answered, heard) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(BTreeMap::new()));
    let is_over = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        let listener = scope.spawn(|| listen(&stage.client, &room_id, &heard, &is_over));
        let flowing = scope.spawn(|| load::run(&stage.federation, &noise, 0..noise_count, 16, Pace::Open(rate)));
        let (peer, name) = (stage.peer(0).clone(), stage.server_name.clone());
        let (answered, room_id) = (answered.clone(), room_id.clone());
        let work: load::Work = Box::new(move |connection, number| {
            let user = format!("heard{number}");
            knock(connection, &name, &peer, &room_id, &peer.user(&user))?;
            lock(&answered).push((user, Instant::now()));
            Ok(())
        });
        let sent = load::run(&stage.federation, &work, 0..HEARD, 1, Pace::Open(HEARD_RATE));
        is_over.store(true, Ordering::SeqCst);
        let panicked = || "a thread panicked".to_owned();
        flowing.join().map_err(|_| panicked())??;
        listener.join().map_err(|_| panicked())??;
        sent.map(drop)
    })?;
    let heard = lock(&heard);
    let mut latencies = Vec::with_capacity(HEARD);
    for (user, answered) in lock(&answered).iter() {
        let heard = heard.get(user).ok_or_else(|| format!("nobody heard of {user}"))?;
        latencies.push(heard.saturating_duration_since(*answered));
    }
    latencies.sort_unstable();
    Ok(Run { elapsed: started.elapsed(), latencies })
}

/// Notes when `/sync` shows each knock, until it is over and the last one was shown.
fn listen(
    owner: &Owner,
    room_id: &str,
    heard: &Mutex<BTreeMap<String, Instant>>,
    is_over: &AtomicBool,
) -> Result<(), String> {
    let text = |answer: &Value| answer["next_batch"].as_str().map(str::to_owned).ok_or("no next_batch");
    let mut since = text(&owner.ask("GET", "/sync?timeout=0", &json!({}))?)?;
    while lock(heard).len() < HEARD {
        let was_over = is_over.load(Ordering::SeqCst);
        let answer = owner.ask("GET", &format!("/sync?timeout={POLL_MS}&since={since}"), &json!({}))?;
        let now = Instant::now();
        since = text(&answer)?;
        let events = answer["rooms"]["join"][room_id]["timeline"]["events"].as_array().cloned().unwrap_or_default();
        for sender in events.iter().filter_map(|event| event["sender"].as_str()) {
            let localpart = sender.trim_start_matches('@').split(':').next().unwrap_or_default();
            lock(heard).entry(localpart.to_owned()).or_insert(now);
        }
        if was_over && events.is_empty() {
            break;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
