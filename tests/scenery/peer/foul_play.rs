//! What a peer does that no honest server does: it changes its own answers, and writes bytes that are none.
//! May not: change what it keeps. An honest answer is made first, so that the room it hosts stays as it should be.

use std::{
    io::{self, Write},
    sync::Arc,
};

use ruma::{CanonicalJsonObject, RoomVersionId};
use serde_json::Value;
use vestibule_protocol::room_version::RoomVersion;

use super::{FakePeer, SignedEvent};

/// Makes another answer of the honest one.
pub(super) type Change = Arc<dyn Fn(Value) -> Value + Send + Sync>;

/// Writes the body of the answer otherwise.
pub(super) type Text = Arc<dyn Fn(&Value) -> Vec<u8> + Send + Sync>;

/// Writes a whole reply, head and all. The connection ends behind it.
pub(super) type Raw = Arc<dyn Fn(&mut dyn Write) -> io::Result<()> + Send + Sync>;

impl FakePeer {
    /// From now on an endpoint answers with what this makes of the honest answer. The endpoint of the keys is `server`.
    pub fn corrupt(&self, endpoint: &str, change: impl Fn(Value) -> Value + Send + Sync + 'static) {
        self.inner.script().changes.insert(endpoint.to_owned(), Arc::new(change));
    }

    /// From now on the body of an endpoint's answer is written as this does it.
    pub fn rewrite(&self, endpoint: &str, text: impl Fn(&Value) -> Vec<u8> + Send + Sync + 'static) {
        self.inner.script().texts.insert(endpoint.to_owned(), Arc::new(text));
    }

    /// From now on an endpoint is answered with these bytes, until one of the two sides has had enough.
    pub fn answer_raw(&self, endpoint: &str, write: impl Fn(&mut dyn Write) -> io::Result<()> + Send + Sync + 'static) {
        self.inner.script().raw.insert(endpoint.to_owned(), Arc::new(write));
    }

    /// An endpoint is honest again.
    pub fn play_fair(&self, endpoint: &str) {
        let mut script = self.inner.script();
        script.changes.remove(endpoint);
        script.texts.remove(endpoint);
        script.raw.remove(endpoint);
    }

    /// An event in anybody's name that a hosted room's rules would let stand at its end. It is not there: who signs it
    /// decides what it is worth.
    #[track_caller]
    pub fn unsigned(&self, room_id: &str, sender: &str, kind: &str, state_key: Option<&str>, content: &Value) -> Value {
        self.in_room(room_id, |room, _| room.unsigned(sender, kind, state_key, content))
    }

    /// Lets a hosted room have what no honest room would take.
    #[track_caller]
    pub fn put_in(&self, room_id: &str, signed: SignedEvent) {
        self.in_room(room_id, |room, _| room.receive(signed.event).unwrap());
    }

    /// The create event of a hosted room, as it goes from server to server.
    #[track_caller]
    pub fn create_event(&self, room_id: &str) -> Value {
        let (state, _) = self.in_room(room_id, |room, _| room.state_and_auth_chain());
        state.into_iter().find(|event| event["type"] == "m.room.create").unwrap()
    }

    /// What it says of its keys, as it signed it.
    pub fn own_keys(&self) -> Value {
        self.inner.key_document()
    }

    /// Adds its signature to an event of whomever, beside those that are there.
    #[track_caller]
    pub fn sign_too(&self, version: &str, signed: &SignedEvent) -> SignedEvent {
        let version = RoomVersion::lookup(&RoomVersionId::try_from(version).unwrap()).unwrap();
        let mut signed = signed.clone();
        self.inner.identity.hash_and_sign(&mut signed.event, version.rules()).unwrap();
        signed
    }

    /// Adds its signature, whatever it is to.
    pub fn countersign(&self, object: &Value) -> Value {
        let mut object: CanonicalJsonObject = serde_json::from_value(object.clone()).unwrap();
        self.inner.identity.sign_json(&mut object).unwrap();
        serde_json::to_value(&object).unwrap()
    }
}
