//! Who is typing, told to other servers and by them.
//! May not: keep on what another server stopped telling.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#typing-notifications>

use std::{collections::BTreeMap, time::Duration};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use vestibule_actors::{CheckSpeakers, Rooms, Speakers, Typing};

use super::{Edu, News, text, user_of};
use crate::{Sender, perform::Federation};

/// How long a user of another server types unless it says so again. Source: Synapse, which says so again every 40 s.
pub const REMOTE_TIME: Duration = Duration::from_mins(1);

#[derive(Serialize)]
struct Content<'a> {
    room_id: &'a RoomId,
    typing: bool,
    user_id: &'a UserId,
}

/// Whether a user types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypingState {
    /// From now on.
    Types,
    /// Not any more.
    Stopped,
}

/// Tells servers of a user of ours.
pub fn tell_typing(sender: &Sender, speakers: &Speakers, room_id: &RoomId, user_id: &UserId, state: TypingState) {
    if let Some(edu) = edu(room_id, user_id, state) {
        sender.add_edu(speakers.servers.iter().cloned(), &edu);
    }
}

fn edu(room_id: &RoomId, user_id: &UserId, state: TypingState) -> Option<Box<RawValue>> {
    Edu { content: Content { room_id, typing: state == TypingState::Types, user_id }, edu_type: "m.typing" }.to_json()
}

/// Ends, for ever, the typing of those whose time is up, and tells other servers of users of ours. Dropping the future stops
/// it.
pub async fn run(typing: Typing, rooms: Rooms, sender: Sender, us: OwnedServerName) {
    loop {
        for (room_id, user_id) in typing.ended().await {
            if user_id.server_name() != us {
                continue;
            }
            let check = CheckSpeakers { origin: us.clone(), users: vec![user_id.clone()] };
            // Who left the room types no more for anybody; and a room that cannot answer is one less to tell.
            if let Ok(speakers) = rooms.ask(&room_id, check).await {
                tell_typing(&sender, &speakers, &room_id, &user_id, TypingState::Stopped);
            }
        }
    }
}

impl News {
    pub(super) fn typing(&mut self, origin: &ServerName, content: &CanonicalJsonObject) {
        let is_typing = content.get("typing").and_then(CanonicalJsonValue::as_bool);
        let user_id = text(content, "user_id").and_then(|user_id| user_of(origin, user_id));
        let (Some(is_typing), Some(user_id), Some(room_id)) = (is_typing, user_id, text(content, "room_id")) else {
            return;
        };
        if let Some(room) = self.room(room_id) {
            room.typing.insert(user_id, is_typing);
        }
    }
}

impl Federation {
    pub(super) fn take_typing(&self, room_id: &RoomId, typing: BTreeMap<OwnedUserId, bool>, speakers: &Speakers) {
        for (user_id, is_typing) in typing {
            // Who is not in the room does not type there, whatever is said.
            if is_typing && speakers.joined.contains(&user_id) {
                self.inner.typing.start(room_id, &user_id, REMOTE_TIME);
            } else {
                self.inner.typing.stop(room_id, &user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    #[test]
    fn an_edu_names_room_user_and_state() {
        let edu = edu(room_id!("!a:x"), user_id!("@ann:x"), TypingState::Stopped).unwrap();
        let expected = r#"{"content":{"room_id":"!a:x","typing":false,"user_id":"@ann:x"},"edu_type":"m.typing"}"#;
        assert_eq!(edu.get(), expected);
    }
}
