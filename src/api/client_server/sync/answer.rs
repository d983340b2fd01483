//! The JSON of an answer to `/sync`.
//! May not: hold anything but events that were turned into what clients see.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
//! Parts that are empty are sent all the same: widely used clients take them for granted.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{device_lists::DeviceLists, unread::Unread};

/// A list of events, the way every part of the answer has it.
#[derive(Debug, Default, Serialize)]
pub struct Events {
    /// In their order.
    pub events: Vec<Box<RawValue>>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct SyncAnswer {
    /// Global account data.
    pub account_data: Events,
    /// Whose devices changed.
    pub device_lists: DeviceLists,
    /// How many keys for one use the device has here, by algorithm.
    pub device_one_time_keys_count: BTreeMap<String, u64>,
    /// The algorithms of fallback keys that were not given out yet. Always there: it says that we know of fallback keys.
    pub device_unused_fallback_key_types: Vec<String>,
    /// Where the next sync goes on.
    pub next_batch: String,
    presence: Events,
    /// What changed in rooms.
    pub rooms: Rooms,
    /// Messages for the device.
    pub to_device: Events,
}

impl SyncAnswer {
    /// An answer without news.
    pub fn nothing_new(next_batch: String) -> Self {
        Self {
            account_data: Events::default(),
            device_lists: DeviceLists::default(),
            device_one_time_keys_count: BTreeMap::new(),
            device_unused_fallback_key_types: Vec::new(),
            next_batch,
            presence: Events::default(),
            rooms: Rooms::default(),
            to_device: Events::default(),
        }
    }

    /// Nothing in it is worth waking a client for.
    pub fn is_empty(&self) -> bool {
        self.account_data.events.is_empty()
            && self.rooms.is_empty()
            && self.to_device.events.is_empty()
            && self.device_lists.is_empty()
    }
}

/// Rooms by the user's membership.
#[derive(Debug, Default, Serialize)]
pub struct Rooms {
    /// Invited.
    pub invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    /// Joined.
    pub join: BTreeMap<OwnedRoomId, JoinedRoom>,
    /// Asking to be let in.
    pub knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    /// Left, turned away or banned.
    pub leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

impl Rooms {
    fn is_empty(&self) -> bool {
        self.invite.is_empty() && self.join.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

/// What an invited user is shown.
#[derive(Debug, Serialize)]
pub struct InvitedRoom {
    /// Stripped.
    pub invite_state: Events,
}

/// What a user who knocks is shown.
#[derive(Debug, Serialize)]
pub struct KnockedRoom {
    /// Stripped.
    pub knock_state: Events,
}

/// A room that the user is in.
#[derive(Debug, Default, Serialize)]
pub struct JoinedRoom {
    /// The user's account data of the room.
    pub account_data: Events,
    /// Who is typing, and how far users have read.
    pub ephemeral: Events,
    /// What clients know of the state.
    #[serde(flatten)]
    pub state: State,
    /// Who is there.
    pub summary: Summary,
    /// What happened.
    pub timeline: Timeline,
    /// What waits for the user's notice.
    pub unread_notifications: Unread,
}

/// A room that the user is not in any more.
#[derive(Debug, Default, Serialize)]
pub struct LeftRoom {
    /// The user's account data of the room.
    pub account_data: Events,
    /// What clients know of the state.
    #[serde(flatten)]
    pub state: State,
    /// What happened, up to the leaving.
    pub timeline: Timeline,
}

/// State in the form that the client asked for; one of the three is there.
#[derive(Debug, Default, Serialize)]
pub struct State {
    /// Up to the start of the timeline.
    #[serde(rename = "state", skip_serializing_if = "Option::is_none")]
    pub before: Option<Events>,
    /// Up to the end of the timeline.
    #[serde(rename = "state_after", skip_serializing_if = "Option::is_none")]
    pub after: Option<Events>,
    /// The same under the name it had before Matrix 1.16.
    #[serde(rename = "org.matrix.msc4222.state_after", skip_serializing_if = "Option::is_none")]
    pub after_unstable: Option<Events>,
}

/// Which of them a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateForm {
    /// `state`.
    BeforeTimeline,
    /// `state_after`.
    AfterTimeline,
    /// `org.matrix.msc4222.state_after`.
    AfterTimelineUnstable,
}

impl State {
    /// State events in the form asked for.
    pub fn new(events: Vec<Box<RawValue>>, form: StateForm) -> Self {
        let events = Some(Events { events });
        match form {
            StateForm::BeforeTimeline => Self { before: events, ..Self::default() },
            StateForm::AfterTimeline => Self { after: events, ..Self::default() },
            StateForm::AfterTimelineUnstable => Self { after_unstable: events, ..Self::default() },
        }
    }
}

/// A piece of the timeline.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// Oldest first.
    pub events: Vec<Box<RawValue>>,
    /// Events between the last sync and this piece were left out.
    pub limited: bool,
    /// Where to page backward from.
    pub prev_batch: String,
}

/// Who is in a room. Parts that did not change are left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Some members, for rooms without a name.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    /// How many are invited.
    #[serde(rename = "m.invited_member_count", skip_serializing_if = "Option::is_none")]
    pub invited: Option<u64>,
    /// How many are in.
    #[serde(rename = "m.joined_member_count", skip_serializing_if = "Option::is_none")]
    pub joined: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_take_for_granted_is_there() {
        let mut answer = SyncAnswer::nothing_new("s1_0.7".to_owned());
        assert!(answer.is_empty());
        let room = JoinedRoom { state: State::new(Vec::new(), StateForm::BeforeTimeline), ..JoinedRoom::default() };
        answer.rooms.join.insert("!r:x".try_into().unwrap(), room);
        assert!(!answer.is_empty());
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["next_batch"], "s1_0.7");
        assert_eq!(json["device_one_time_keys_count"], serde_json::json!({}));
        for list in ["invite", "knock", "leave"] {
            assert_eq!(json["rooms"][list], serde_json::json!({}), "{list}");
        }
        let room = &json["rooms"]["join"]["!r:x"];
        for part in ["state", "ephemeral", "account_data"] {
            assert_eq!(room[part], serde_json::json!({"events": []}), "{part}");
        }
        assert_eq!(room["timeline"], serde_json::json!({"events": [], "limited": false, "prev_batch": ""}));
        assert_eq!(room["summary"], serde_json::json!({}));
    }

    #[test]
    fn state_stands_under_the_name_asked_for() {
        for (form, name) in [
            (StateForm::BeforeTimeline, "state"),
            (StateForm::AfterTimeline, "state_after"),
            (StateForm::AfterTimelineUnstable, "org.matrix.msc4222.state_after"),
        ] {
            let json = serde_json::to_value(State::new(Vec::new(), form)).unwrap();
            assert_eq!(json, serde_json::json!({name: {"events": []}}));
        }
    }
}
