//! `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`: a user has read up to an event.
//! May not: tell anybody of a private receipt, or move one to an event of another room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use actix_web::{HttpResponse, web, web::Data};
use ruma::{EventId, OwnedEventId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json};
use vestibule_actors::{
    Speakers,
    receipts::{Fate, take},
};
use vestibule_federation::perform::edus::receipts::{parse_thread_id, tell_receipt};
use vestibule_storage::{
    accounts::AccountChange,
    receipts::{Receipt, ReceiptKind, ReceiptSlot, ReceiptThread},
    room::StoredEvent,
};

use super::{commit::commit, json_body::JsonFields, paths::each, rooms_typing::speakers};
use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// Relations that are followed from an event to the thread it is in. Spec: "Threaded read receipts" as above.
const HOPS_MAX: usize = 3;

/// The type of the account data that says up to where all is read.
const FULLY_READ: &str = "m.fully_read";

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/rooms/{room_id}/receipt/{receipt_type}/{event_id}") {
        config.service(web::resource(path).post(set));
    }
}

#[derive(Default, Deserialize)]
struct Fields {
    #[serde(default)]
    thread_id: Option<Value>,
}

/// What a user marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// What they have seen.
    Read(ReceiptKind),
    /// What they are done with.
    FullyRead,
}

async fn set(
    caller: Caller,
    path: PathArguments,
    app: Data<App>,
    JsonFields(fields): JsonFields<Fields>,
) -> Result<HttpResponse, MatrixError> {
    let room_id: &RoomId = path.parse(0, "room id")?;
    let marker = match path.get(1) {
        "m.read" => Marker::Read(ReceiptKind::Public),
        "m.read.private" => Marker::Read(ReceiptKind::Private),
        FULLY_READ => Marker::FullyRead,
        _ => return Err(MatrixError::invalid_param("unknown type of receipt")),
    };
    let event_id: &EventId = path.parse(2, "event id")?;
    let thread = thread_of(fields.thread_id)?;
    if marker == Marker::FullyRead && thread != ReceiptThread::Unthreaded {
        return Err(MatrixError::invalid_param("m.fully_read is about all of a room, not about a thread"));
    }
    app.limits.typing_and_receipts_by_user.take(&caller.user_id, &*app.clock)?;
    let reader = Reader { app: &app, caller: &caller, room_id, speakers: speakers(&app, &caller, room_id).await? };
    reader.mark(marker, event_id.to_owned(), thread).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

fn thread_of(thread_id: Option<Value>) -> Result<ReceiptThread, MatrixError> {
    match thread_id {
        None => Ok(ReceiptThread::Unthreaded),
        Some(Value::String(thread_id)) => parse_thread_id(&thread_id)
            .ok_or_else(|| MatrixError::invalid_param("thread_id must be main or the id of an event")),
        Some(_) => Err(MatrixError::invalid_param("thread_id must be a text")),
    }
}

/// A user who is in a room and reads.
pub struct Reader<'a> {
    /// The server.
    pub app: &'a App,
    /// Who.
    pub caller: &'a Caller,
    /// Where.
    pub room_id: &'a RoomId,
    /// Who hears of it.
    pub speakers: Speakers,
}

impl Reader<'_> {
    /// Moves a marker up to an event; one that is there or further on stays. Durable when it returns.
    ///
    /// # Errors
    /// 404 for an event that the room does not show, 400 for one that is not in the thread; 429 and 503 when nothing can be
    /// written.
    pub async fn mark(&self, marker: Marker, event_id: OwnedEventId, thread: ReceiptThread) -> Result<(), MatrixError> {
        let event = self.event(&event_id).await?;
        match marker {
            Marker::FullyRead => self.mark_fully_read(&event).await,
            Marker::Read(kind) => {
                self.check_thread(&event, &thread).await?;
                let slot = ReceiptSlot { user_id: self.caller.user_id.clone(), kind, thread };
                self.mark_read(Receipt { slot, event_id, at: self.app.clock.now() }).await
            }
        }
    }

    async fn mark_read(&self, receipt: Receipt) -> Result<(), MatrixError> {
        for (receipt, fate) in take(&self.app.stores, self.room_id, vec![receipt]).await? {
            match fate {
                Fate::Moved => tell_receipt(&self.app.sender, &self.speakers, self.room_id, &receipt),
                Fate::Behind => {}
                Fate::UnknownEvent => return Err(unknown_event()),
                Fate::UnknownThread => return Err(MatrixError::invalid_param("thread_id names no event of this room")),
            }
        }
        Ok(())
    }

    async fn mark_fully_read(&self, event: &StoredEvent) -> Result<(), MatrixError> {
        #[derive(Deserialize)]
        struct Content {
            event_id: OwnedEventId,
        }
        let (user_id, accounts) = (&self.caller.user_id, &self.app.stores.accounts);
        let before = accounts.account_data(user_id, Some(self.room_id), FULLY_READ).await?;
        let before = before.and_then(|row| serde_json::from_str::<Content>(&row.content).ok());
        if let Some(before) = before
            && let Ok(before) = self.event(&before.event_id).await
            && before.order >= event.order
        {
            return Ok(());
        }
        let change = AccountChange::PutAccountData {
            user_id: user_id.clone(),
            room_id: Some(self.room_id.to_owned()),
            kind: FULLY_READ.to_owned(),
            content: json!({ "event_id": event.event.event_id() }).to_string(),
        };
        commit(&self.app.stores, vec![change]).await?;
        Ok(())
    }

    /// An event of the room's timeline.
    async fn event(&self, event_id: &EventId) -> Result<StoredEvent, MatrixError> {
        let found = self.app.stores.rooms.events(self.room_id, &[event_id.to_owned()]).await?;
        found.into_iter().flatten().find(|stored| stored.order.is_some()).ok_or_else(unknown_event)
    }

    /// Whether an event is in a thread, as far as that can be said: what was redacted names no thread any more.
    async fn check_thread(&self, event: &StoredEvent, thread: &ReceiptThread) -> Result<(), MatrixError> {
        let fits = match thread {
            ReceiptThread::Unthreaded => true,
            ReceiptThread::Main => Relation::of(event).is_none_or(|relation| !relation.is_thread()),
            ReceiptThread::Root(root) => self.is_in_thread(event, root).await?,
        };
        if fits { Ok(()) } else { Err(MatrixError::invalid_param("the event is not in the thread of thread_id")) }
    }

    async fn is_in_thread(&self, event: &StoredEvent, root: &EventId) -> Result<bool, MatrixError> {
        let mut event = event.clone();
        for _ in 0..=HOPS_MAX {
            if event.redacted_by.is_some() || event.event.event_id() == root {
                return Ok(true);
            }
            let Some(relation) = Relation::of(&event) else { return Ok(false) };
            if relation.is_thread() {
                return Ok(relation.event_id == root);
            }
            let Ok(parent) = self.event(&relation.event_id).await else { return Ok(false) };
            event = parent;
        }
        Ok(false)
    }
}

fn unknown_event() -> MatrixError {
    MatrixError::not_found("unknown event")
}

/// What an event says of another.
#[derive(Deserialize)]
struct Relation {
    event_id: OwnedEventId,
    rel_type: String,
}

impl Relation {
    fn of(event: &StoredEvent) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Relation,
        }
        event.event.content_as::<Content>().map(|content| content.relates_to)
    }

    fn is_thread(&self) -> bool {
        self.rel_type == "m.thread"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_main_or_event_ids() {
        let thread = |value: Value| thread_of(Some(value)).map_err(|error| error.errcode.to_string());
        assert_eq!(thread_of(None).unwrap(), ReceiptThread::Unthreaded);
        assert_eq!(thread(json!("main")), Ok(ReceiptThread::Main));
        assert_eq!(thread(json!("$root")), Ok(ReceiptThread::Root("$root".try_into().unwrap())));
        for bad in [json!(""), json!("root"), json!(7), json!(["main"]), json!({})] {
            assert_eq!(thread(bad), Err("M_INVALID_PARAM".to_owned()));
        }
    }
}
