//! `PUT /_matrix/federation/v1/send/{txnId}`: events that happened in rooms we share with another server.
//! May not: fail a whole transaction for one bad event, or say 200 to an event that we could not look at.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid>

mod device_edus;
pub mod transactions;

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use futures_util::{StreamExt as _, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId,
    ServerName,
};
use serde::Serialize;
use vestibule_actors::AskError;
use vestibule_federation::perform::NotReceived;
use vestibule_protocol::{membership::KnockRefusal, pdu::checks::event_id_of, room_version::RoomVersion};

use super::{handshake::check_door, pdu_text};
use crate::{
    error::MatrixError,
    extract::{BodyBytesMax, PathArguments, Signed},
    state::App,
};

/// Events in a transaction. Spec: as above.
const PDUS_MAX: usize = 50;

/// Ephemeral events in a transaction. Spec: as above.
const EDUS_MAX: usize = 100;

/// Bytes of a transaction id. Ours (SECURITY V67).
const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// Rooms of one transaction that are looked at side by side. Source: Synapse.
const ROOMS_AT_ONCE: usize = 10;

pub(super) fn routes(config: &mut ServiceConfig) {
    let resource = web::resource("/_matrix/federation/v1/send/{txnId}").app_data(BodyBytesMax::TRANSACTION);
    config.service(resource.route(web::put().to(send)));
}

async fn send(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let transaction_id = PathArguments::of_request(&request)?.get(0).to_owned();
    if transaction_id.is_empty() || transaction_id.len() > TRANSACTION_ID_BYTES_MAX {
        return Err(MatrixError::invalid_param("the transaction id has 1 to 255 bytes"));
    }
    let (origin, parsed_body) = (signed.origin.clone(), signed.parsed_body.clone());
    let sent = Sent::of(signed.into_body()?)?;
    // On a task of its own: who hangs up while missing events are fetched would have us begin anew each time.
    let task = actix_web::rt::spawn(async move {
        let judge = || receive(app.clone(), origin.clone(), sent);
        let answer = app.transactions.once(&origin, &transaction_id, judge).await;
        drop(parsed_body);
        answer
    });
    let answer: Arc<str> = task.await.map_err(|_| MatrixError::internal())??;
    Ok(pdu_text::answer(answer.to_string()))
}

/// What a transaction holds.
pub struct Sent {
    /// The events, those of one room together and in their order. What names no room is passed over, since nobody can say
    /// what it is.
    pub events: BTreeMap<OwnedRoomId, Vec<CanonicalJsonObject>>,
    /// The ephemeral events, unread.
    pub edus: Vec<CanonicalJsonValue>,
}

impl Sent {
    /// Sorts the body of a transaction.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it holds too much, `M_BAD_JSON` when it does not hold lists.
    pub fn of(mut body: CanonicalJsonObject) -> Result<Self, MatrixError> {
        let mut list = |key: &str, count_max: usize| match body.remove(key) {
            // Some servers leave out what is empty.
            None => Ok(Vec::new()),
            Some(CanonicalJsonValue::Array(list)) if list.len() <= count_max => Ok(list),
            Some(CanonicalJsonValue::Array(_)) => {
                Err(MatrixError::invalid_param(format!("{key} has at most {count_max} entries")))
            }
            Some(_) => Err(MatrixError::bad_json(format!("{key} must be a list"))),
        };
        let pdus = list("pdus", PDUS_MAX)?;
        let edus = list("edus", EDUS_MAX)?;
        let mut events: BTreeMap<OwnedRoomId, Vec<CanonicalJsonObject>> = BTreeMap::new();
        for pdu in pdus {
            let CanonicalJsonValue::Object(event) = pdu else { continue };
            let room_id = event.get("room_id").and_then(CanonicalJsonValue::as_str);
            if let Some(room_id) = room_id.and_then(|room_id| RoomId::parse(room_id).ok()) {
                events.entry(room_id).or_default().push(event);
            }
        }
        Ok(Self { events, edus })
    }
}

/// What became of an event, as the sender is told.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

type Outcomes = BTreeMap<OwnedEventId, Outcome>;

#[derive(Serialize)]
struct Answer {
    pdus: Outcomes,
}

/// The JSON of the answer.
async fn receive(app: Data<App>, origin: OwnedServerName, sent: Sent) -> Result<String, MatrixError> {
    let rooms = sent.events.into_iter().map(|(room_id, events)| {
        let (app, origin) = (&app, &origin);
        async move { receive_in_room(app, origin, &room_id, events).await }
    });
    let outcomes: Vec<Result<Outcomes, MatrixError>> =
        stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE).collect().await;
    let mut pdus = Outcomes::new();
    for outcome in outcomes {
        pdus.extend(outcome?);
    }
    // After the events: a receipt may be for one of them.
    app.federation.receive_edus(&origin, &sent.edus).await;
    device_edus::take(&app, &origin, &sent.edus).await?;
    serde_json::to_string(&Answer { pdus }).map_err(|error| {
        log::error!(error:%; "an answer cannot be written");
        MatrixError::internal()
    })
}

/// Takes the events of one room, in their order. An error is ours: the sender then comes again with all of them.
async fn receive_in_room(
    app: &App,
    origin: &ServerName,
    room_id: &RoomId,
    events: Vec<CanonicalJsonObject>,
) -> Result<Outcomes, MatrixError> {
    let Some(version) = known_version(app, room_id).await? else {
        log::debug!(room_id:%, origin:%; "events of an unknown room are passed over");
        return Ok(Outcomes::new());
    };
    // Once for all of them, before the cost of any signature; the room looks again at each.
    let is_denied = match check_door(app, room_id, origin).await {
        Err(AskError::Refused(KnockRefusal::ServerDenied)) => true,
        Ok(_) | Err(AskError::RoomNotHere | AskError::Refused(KnockRefusal::ServerNotInRoom)) => false,
        Err(error) => return Err(error.into()),
    };
    let mut outcomes = Outcomes::new();
    for mut event in events {
        // Neither is part of what is hashed; see `ShapedPdu`.
        event.remove("event_id");
        event.remove("unsigned");
        let Ok(event_id) = event_id_of(&event, &version) else {
            log::debug!(room_id:%, origin:%; "an event without an id is passed over");
            continue;
        };
        let received = if is_denied {
            Err(NotReceived::Refused { why: "this server is denied by the room".to_owned() })
        } else {
            app.federation.receive(origin, room_id, event).await
        };
        let error = match received {
            Ok(()) => None,
            Err(NotReceived::Refused { why }) => {
                log::debug!(room_id:%, origin:%, event_id:%, error = why; "an event was not taken");
                Some(why)
            }
            // Then nothing of the transaction counts: its server comes again, and finds known what was taken.
            Err(NotReceived::NotNow) => return Err(MatrixError::unavailable()),
            // DESIGN 3.12: the same answer as at the room's door.
            Err(NotReceived::Overloaded) => return Err(AskError::<KnockRefusal>::Overloaded.into()),
        };
        outcomes.insert(event_id, Outcome { error });
    }
    Ok(outcomes)
}

/// The version of a room that is stored, or in which a user of ours has a knock or an invite.
async fn known_version(app: &App, room_id: &RoomId) -> Result<Option<RoomVersion>, MatrixError> {
    let rooms = &app.stores.rooms;
    let room_version: Option<RoomVersionId> = match rooms.room(room_id).await? {
        Some(room) => Some(room.room_version),
        None => {
            let rows = rooms.out_of_band(Some(room_id), None, 1).await?;
            rows.into_iter().next().map(|row| row.out_of_band.room_version)
        }
    };
    Ok(room_version.and_then(|room_version| RoomVersion::lookup(&room_version)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    #[test]
    fn events_come_by_room_in_their_order_and_lists_are_bounded() {
        let event = |room_id: &str, n: u32| json!({ "room_id": room_id, "n": n });
        let pdus = json!([event("!b:x", 1), event("!a:x", 2), event("!b:x", 3), 4, {}, { "room_id": "nonsense" }]);
        let found = Sent::of(object(json!({ "pdus": pdus, "edus": [{ "edu_type": "m.presence" }] }))).unwrap();
        assert_eq!(found.edus.len(), 1);
        let found: Vec<(String, Vec<i64>)> = found
            .events
            .into_iter()
            .map(|(room_id, events)| {
                let numbers = events.iter().map(|event| match event["n"] {
                    CanonicalJsonValue::Integer(number) => number.into(),
                    _ => 0,
                });
                (room_id.to_string(), numbers.collect())
            })
            .collect();
        assert_eq!(found, [("!a:x".to_owned(), vec![2]), ("!b:x".to_owned(), vec![1, 3])]);
        let table = [
            (json!({}), ""),
            (json!({ "pdus": vec![json!({}); 50], "edus": vec![json!({}); 100] }), ""),
            (json!({ "pdus": vec![json!({}); 51] }), "M_INVALID_PARAM"),
            (json!({ "pdus": [], "edus": vec![json!({}); 101] }), "M_INVALID_PARAM"),
            (json!({ "pdus": {} }), "M_BAD_JSON"),
            (json!({ "pdus": [], "edus": "x" }), "M_BAD_JSON"),
        ];
        for (body, errcode) in table {
            let found =
                Sent::of(object(body.clone())).map_or_else(|error| error.errcode.to_string(), |_| String::new());
            assert_eq!(found, errcode, "{body}");
        }
    }
}
