//! `GET /_matrix/federation/v1/backfill/{roomId}`: events and those before them.
//! May not: show more of an event than the server may see; the rest comes redacted.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>

use std::collections::BTreeSet;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId};

use super::{
    graph_walk::back_from,
    pdu_text, raw_query,
    readers::{Reader, Reading},
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

/// Events in an answer. Source: Synapse, which asks for as many.
const LIMIT_MAX: usize = 100;

/// Events to start from. Ours: more than a room has extremities that anybody cites.
const STARTS_MAX: usize = 100;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/backfill/{roomId}").route(web::get().to(backfill)));
}

async fn backfill(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let room_id: OwnedRoomId = PathArguments::of_request(&request)?.parse(0, "roomId")?;
    let mut reader = Reader::admit(&app, &room_id, &signed.origin, Reading::Events).await?;
    let (starts, limit) = asked(request.query_string())?;
    let events = back_from(&reader, starts, limit).await?;
    let mut shown = Vec::new();
    for event in &events {
        shown.extend(reader.shown(event).await?);
    }
    Ok(pdu_text::transaction(&app, shown.iter().map(String::as_str)))
}

/// `v` and `limit`; a larger limit than ours is ours.
fn asked(query: &str) -> Result<(BTreeSet<OwnedEventId>, usize), MatrixError> {
    let starts: Vec<String> = raw_query::values(query, "v").take(STARTS_MAX).collect();
    if starts.is_empty() {
        return Err(MatrixError::missing_param("missing v"));
    }
    let starts =
        starts.into_iter().map(EventId::parse).collect::<Result<_, _>>().map_err(MatrixError::invalid_param)?;
    let limit = raw_query::first(query, "limit").ok_or_else(|| MatrixError::missing_param("missing limit"))?;
    let limit: u64 = limit.parse().map_err(|_| MatrixError::invalid_param("limit must be a number"))?;
    if limit == 0 {
        return Err(MatrixError::invalid_param("limit must not be 0"));
    }
    Ok((starts, usize::try_from(limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_bounded() {
        let table = [
            ("v=$a&v=$b&limit=5", Ok((2, 5))),
            ("v=$a&v=$a&limit=100000", Ok((1, LIMIT_MAX))),
            ("v=%24a&limit=18446744073709551615", Ok((1, LIMIT_MAX))),
            ("limit=5", Err("M_MISSING_PARAM")),
            ("v=$a", Err("M_MISSING_PARAM")),
            ("v=$a&limit=0", Err("M_INVALID_PARAM")),
            ("v=$a&limit=-1", Err("M_INVALID_PARAM")),
            ("v=$a&limit=x", Err("M_INVALID_PARAM")),
            ("v=a&limit=1", Err("M_INVALID_PARAM")),
        ];
        for (query, expected) in table {
            let found = asked(query).map(|(starts, limit)| (starts.len(), limit));
            let found = found.map_err(|error| error.errcode.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{query}");
        }
    }
}
