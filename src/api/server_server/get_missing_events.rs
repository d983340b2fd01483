//! `POST /_matrix/federation/v1/get_missing_events/{roomId}`: what lies between events that a server has and later ones.
//! May not: walk beyond its budget, or show more of an event than the server may see; the rest comes redacted.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>

use std::collections::BTreeSet;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId};

use super::{
    graph_walk::Gap,
    pdu_text,
    readers::{Reader, Reading},
};
use crate::{
    error::MatrixError,
    extract::{BodyBytesMax, PathArguments, Signed},
    state::App,
};

/// Events in an answer when none is asked for. Spec: as above.
const LIMIT_DEFAULT: usize = 10;

/// Events in an answer. Source: Synapse.
const LIMIT_MAX: usize = 20;

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = "/_matrix/federation/v1/get_missing_events/{roomId}";
    let resource = web::resource(path).app_data(BodyBytesMax::JSON);
    config.service(resource.route(web::post().to(get_missing_events)));
}

async fn get_missing_events(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let room_id: OwnedRoomId = PathArguments::of_request(&request)?.parse(0, "roomId")?;
    let origin = signed.origin.clone();
    let body = signed.into_body()?;
    let mut reader = Reader::admit(&app, &room_id, &origin, Reading::Events).await?;
    let missing = gap(&body)?.walk(&reader).await?;
    let mut shown = Vec::new();
    for event in &missing {
        shown.extend(reader.shown(event).await?);
    }
    let events = pdu_text::array(shown.iter().map(String::as_str));
    Ok(pdu_text::answer(pdu_text::object(&[("events", &events)])))
}

fn gap(body: &CanonicalJsonObject) -> Result<Gap, MatrixError> {
    Ok(Gap {
        earliest: event_ids(body, "earliest_events")?,
        latest: event_ids(body, "latest_events")?,
        depth_min: number(body, "min_depth")?.unwrap_or(0),
        limit: number(body, "limit")?
            .map_or(LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX)),
    })
}

fn event_ids(body: &CanonicalJsonObject, key: &str) -> Result<BTreeSet<OwnedEventId>, MatrixError> {
    let wrong = || MatrixError::bad_json(format!("{key} must be a list of event ids"));
    let list = match body.get(key) {
        None => return Err(MatrixError::missing_param(format!("missing {key}"))),
        Some(value) => value.as_array().ok_or_else(wrong)?,
    };
    list.iter().map(|value| value.as_str().and_then(|id| EventId::parse(id).ok()).ok_or_else(wrong)).collect()
}

fn number(body: &CanonicalJsonObject, key: &str) -> Result<Option<u64>, MatrixError> {
    let number = match body.get(key) {
        None | Some(CanonicalJsonValue::Null) => return Ok(None),
        Some(CanonicalJsonValue::Integer(number)) => u64::try_from(i64::from(*number)).ok(),
        Some(_) => None,
    };
    number.map(Some).ok_or_else(|| MatrixError::bad_json(format!("{key} must be a number, 0 or more")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    #[test]
    fn what_is_asked_is_bounded() {
        let table = [
            (json!({ "earliest_events": [], "latest_events": ["$a"] }), Ok((0, 1, 0, 10))),
            (
                json!({ "earliest_events": ["$b"], "latest_events": ["$a", "$a"], "limit": 9_000, "min_depth": 7 }),
                Ok((1, 1, 7, 20)),
            ),
            (json!({ "earliest_events": [], "latest_events": [], "limit": 0, "min_depth": null }), Ok((0, 0, 0, 0))),
            (json!({ "latest_events": [] }), Err("M_MISSING_PARAM")),
            (json!({ "earliest_events": [] }), Err("M_MISSING_PARAM")),
            (json!({ "earliest_events": [1], "latest_events": [] }), Err("M_BAD_JSON")),
            (json!({ "earliest_events": {}, "latest_events": [] }), Err("M_BAD_JSON")),
            (json!({ "earliest_events": [], "latest_events": ["a"] }), Err("M_BAD_JSON")),
            (json!({ "earliest_events": [], "latest_events": [], "limit": -1 }), Err("M_BAD_JSON")),
            (json!({ "earliest_events": [], "latest_events": [], "limit": "1" }), Err("M_BAD_JSON")),
        ];
        for (body, expected) in table {
            let found = gap(&object(body.clone()))
                .map(|gap| (gap.earliest.len(), gap.latest.len(), gap.depth_min, gap.limit))
                .map_err(|error| error.errcode.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{body}");
        }
    }
}
