//! `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`: a user types, or does not any more.
//! May not: speak for another user, or keep somebody typing for longer than other servers would believe.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use std::time::Duration;

use actix_web::{HttpResponse, web, web::Data};
use ruma::{RoomId, UserId};
use serde::Deserialize;
use serde_json::json;
use vestibule_actors::{CheckSpeakers, Speakers, typing::Told};
use vestibule_federation::perform::edus::typing::{TypingState, tell_typing};

use super::{
    json_body::JsonBody,
    paths::each,
    rooms_send::{hidden_room, not_in_room},
};
use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// How long somebody types who does not say how long. Source: Synapse.
const TIME_DEFAULT: Duration = Duration::from_secs(30);

/// How long somebody types at most without saying so again. Ours: clients ask for 30 s and repeat themselves before that; other
/// servers forget whom they have not heard of for a minute.
const TIME_MAX: Duration = Duration::from_secs(45);

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/rooms/{room_id}/typing/{user_id}") {
        config.service(web::resource(path).put(set));
    }
}

#[derive(Deserialize)]
struct State {
    typing: bool,
    /// In milliseconds.
    #[serde(default)]
    timeout: Option<u64>,
}

async fn set(
    caller: Caller,
    path: PathArguments,
    app: Data<App>,
    JsonBody(state): JsonBody<State>,
) -> Result<HttpResponse, MatrixError> {
    let room_id: &RoomId = path.parse(0, "room id")?;
    let user_id: &UserId = path.parse(1, "user id")?;
    if user_id != caller.user_id {
        return Err(MatrixError::forbidden("nobody types for another user"));
    }
    app.limits.typing_and_receipts_by_user.take(&caller.user_id, &*app.clock)?;
    let speakers = speakers(&app, &caller, room_id).await?;
    if state.typing {
        let time = state.timeout.map_or(TIME_DEFAULT, Duration::from_millis).min(TIME_MAX);
        if app.typing.start(room_id, user_id, time) == Told::ToTell {
            tell_typing(&app.sender, &speakers, room_id, user_id, TypingState::Types);
        }
    } else if app.typing.stop(room_id, user_id) {
        tell_typing(&app.sender, &speakers, room_id, user_id, TypingState::Stopped);
    }
    Ok(HttpResponse::Ok().json(json!({})))
}

/// The servers that hear the caller in a room that the caller is in.
///
/// # Errors
/// 403 when the caller is not in the room, whether it is here or not; those of the room.
pub async fn speakers(app: &App, caller: &Caller, room_id: &RoomId) -> Result<Speakers, MatrixError> {
    let check = CheckSpeakers { origin: app.server_name().to_owned(), users: vec![caller.user_id.clone()] };
    let speakers = app.rooms.ask(room_id, check).await.map_err(hidden_room)?;
    if speakers.joined.contains(&caller.user_id) { Ok(speakers) } else { Err(not_in_room()) }
}
