//! Answers made of events: their canonical texts are joined as they are, never parsed or written again.
//! May not: choose which events are sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpResponse,
    body::{BodySize, MessageBody},
    http::header::ContentType,
};
use bytes::Bytes;
use ruma::canonical_json::redact;
use serde_json::json;
use tokio::time::Instant;
use vestibule_protocol::{pdu::Pdu, room_version::RoomVersion};

use crate::{rate_limit::WholeAnswer, state::App};

/// Bytes of a large body that are handed out at once. Ours.
const PIECE_BYTES: usize = 64 * 1024;

/// Within this time the reader of a large body has taken it. Ours: longer than servers wait for such an answer.
const WHOLE_ANSWER_DEADLINE: Duration = Duration::from_mins(5);

/// A JSON array of texts that are JSON.
pub(super) fn array<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut array = String::from("[");
    for text in texts {
        if array.len() > 1 {
            array.push(',');
        }
        array.push_str(text);
    }
    array.push(']');
    array
}

/// A JSON object of texts that are JSON. The keys are ours and need no escapes.
pub(super) fn object(fields: &[(&str, &str)]) -> String {
    let mut object = String::from("{");
    for (key, text) in fields {
        if object.len() > 1 {
            object.push(',');
        }
        object.push('"');
        object.push_str(key);
        object.push_str("\":");
        object.push_str(text);
    }
    object.push('}');
    object
}

/// An answer whose body is written already.
pub(super) fn answer(body: String) -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(body)
}

/// The same for a body that may be large: it gives its place back when its reader has taken it, or has had the time to.
pub(super) fn whole_answer(body: String, place: WholeAnswer) -> HttpResponse {
    let deadline = Instant::now() + WHOLE_ANSWER_DEADLINE;
    HttpResponse::Ok().insert_header(ContentType::json()).body(HeldBody { left: body.into(), deadline, _place: place })
}

/// What is left of a body, handed out in pieces, so that it is not copied as a whole to wait for a slow reader.
struct HeldBody {
    left: Bytes,
    deadline: Instant,
    _place: WholeAnswer,
}

impl MessageBody for HeldBody {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        // Nobody waits here: a reader who takes nothing at all is the connection's to break off.
        if Instant::now() >= self.deadline {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let piece_bytes = self.left.len().min(PIECE_BYTES);
        Poll::Ready((piece_bytes > 0).then(|| Ok(self.left.split_to(piece_bytes))))
    }
}

/// Events in the form of a transaction of ours.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>
pub(super) fn transaction<'a>(app: &App, events: impl IntoIterator<Item = &'a str>) -> HttpResponse {
    let origin = json!(app.server_name()).to_string();
    let origin_server_ts = app.clock.now().0.to_string();
    let pdus = array(events);
    answer(object(&[("origin", &origin), ("origin_server_ts", &origin_server_ts), ("pdus", &pdus)]))
}

/// The event without what a redaction takes away; hashes and signatures stay, and stay valid. `None`: the text was damaged.
pub(super) fn redacted(event: &Pdu, version: &RoomVersion) -> Option<String> {
    let object = event.to_object().ok()?;
    let redacted = redact(object, &version.rules().redaction, None).ok()?;
    serde_json::to_string(&redacted).ok()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use ruma::ServerName;
    use serde_json::Value;

    use super::*;
    use crate::{rate_limit::Limits, testing::rates};

    #[actix_web::test]
    async fn a_large_body_has_its_time() {
        tokio::time::pause();
        let limits = Limits::new(rates(false));
        let place = limits.hold_whole_answer(ServerName::parse("slow.test").unwrap().as_ref()).await.unwrap();
        let mut body = whole_answer("a".repeat(3 * PIECE_BYTES), place).into_body();
        let mut next = async || poll_fn(|context| Pin::new(&mut body).poll_next(context)).await.unwrap();
        assert_eq!(next().await.unwrap().len(), PIECE_BYTES);
        tokio::time::advance(WHOLE_ANSWER_DEADLINE - Duration::from_secs(1)).await;
        assert_eq!(next().await.unwrap().len(), PIECE_BYTES);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(next().await.is_err());
    }

    #[test]
    fn texts_are_joined_to_json() {
        for (texts, expected) in [
            (vec![], json!([])),
            (vec![r#"{"a":1}"#], json!([{ "a": 1 }])),
            (vec!["1", r#""x""#, "[]"], json!([1, "x", []])),
        ] {
            assert_eq!(serde_json::from_str::<Value>(&array(texts)).unwrap(), expected);
        }
        assert_eq!(object(&[]), "{}");
        let two = object(&[("a", "1"), ("b", &array(["2"]))]);
        assert_eq!(serde_json::from_str::<Value>(&two).unwrap(), json!({ "a": 1, "b": [2] }));
    }
}
