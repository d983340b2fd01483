//! `GET`, `POST /_matrix/client/v3/publicRooms`: the rooms that are listed here, or on another server.
//! May not: list a room that nobody published.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#listing-rooms>

mod elsewhere;
pub mod entry;
pub mod paging;

use actix_web::{HttpResponse, web};
use ruma::{
    OwnedServerName, UInt,
    api::client::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::Filter,
};
use serde::Serialize;
use vestibule_storage::{commit::Stores, error::StorageError};

use self::{
    entry::Entry,
    paging::{Place, Since, candidates},
};
use super::paths::each;
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma},
    state::App,
};

/// Rooms of a page when none is asked for, and at most.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 500;

/// Listed rooms that are looked at: the order needs them all. Ours: beyond it the directory is a job for a search engine.
const LISTED_MAX: usize = 10_000;

/// Rooms read from the store at once.
const LISTED_AT_ONCE: usize = 500;

/// After so many rooms looked at, others on this thread have their turn.
const ROOMS_PER_TURN: usize = 32;

/// Longest search term in bytes.
const TERM_BYTES_MAX: usize = 512;

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/publicRooms")).get(get).post(post));
}

async fn get(
    address: ClientAddress,
    app: web::Data<App>,
    Ruma(request): Ruma<get_public_rooms::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let get_public_rooms::v3::Request { limit, since, server, .. } = request;
    page(&app, address, server, limit, since, Filter::new()).await
}

async fn post(
    _: Caller,
    address: ClientAddress,
    app: web::Data<App>,
    Ruma(request): Ruma<get_public_rooms_filtered::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let get_public_rooms_filtered::v3::Request { limit, since, server, filter, .. } = request;
    page(&app, address, server, limit, since, filter).await
}

async fn page(
    app: &App,
    address: ClientAddress,
    server: Option<OwnedServerName>,
    limit: Option<UInt>,
    since: Option<String>,
    filter: Filter,
) -> Result<HttpResponse, MatrixError> {
    let other = server.filter(|server| !app.is_ours(server));
    let page = match other {
        Some(server) => elsewhere::page(app, address, &server, limit, since, filter).await?,
        None => Query::parse(limit, since, filter)?.page(&app.stores).await?,
    };
    Ok(HttpResponse::Ok().json(page))
}

/// What is asked of the directory.
#[derive(Debug)]
pub struct Query {
    limit: usize,
    since: Option<Since>,
    filter: Filter,
}

/// A page of the directory, as it is sent.
#[derive(Debug, Serialize)]
pub struct Page {
    chunk: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    /// Other servers need not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_room_count_estimate: Option<usize>,
}

impl Query {
    /// Judges what was asked. A limit of 0 or none is the default.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when the token is none of ours or the term too long.
    pub fn parse(limit: Option<UInt>, since: Option<String>, filter: Filter) -> Result<Self, MatrixError> {
        let limit = page_size(limit);
        let since = match since.as_deref() {
            None | Some("") => None,
            Some(token) => {
                Some(Since::parse(token).ok_or_else(|| MatrixError::invalid_param("since is no token of ours"))?)
            }
        };
        check_term(&filter)?;
        Ok(Self { limit, since, filter })
    }

    /// Reads the page.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn page(&self, stores: &Stores) -> Result<Page, StorageError> {
        let listed = listed(stores).await?;
        let total_room_count_estimate = listed.len();
        let mut chunk = Vec::new();
        let mut has_more = false;
        for (looked_at, place) in candidates(listed, self.since.as_ref()).into_iter().enumerate() {
            if looked_at % ROOMS_PER_TURN == ROOMS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let Some(row) = stores.rooms.room(&place.room_id).await? else { continue };
            let entry = Entry::load(&*stores.rooms, &row).await?;
            if !entry.matches(&self.filter) {
                continue;
            }
            if chunk.len() == self.limit {
                has_more = true;
                break;
            }
            chunk.push((place, entry));
        }
        Ok(self.bound(chunk, has_more, total_room_count_estimate))
    }

    /// Puts the page in its order and gives it the tokens that lead on.
    fn bound(&self, mut found: Vec<(Place, Entry)>, has_more: bool, total_room_count_estimate: usize) -> Page {
        let is_backwards = matches!(self.since, Some(Since::Before(_)));
        if is_backwards {
            found.reverse();
        }
        let first = found.first().map(|(place, _)| place.clone());
        let last = found.last().map(|(place, _)| place.clone());
        let leads_on = if is_backwards { true } else { has_more };
        let leads_back = if is_backwards { has_more } else { self.since.is_some() };
        Page {
            next_batch: last.filter(|_| leads_on).map(|place| Since::After(place).to_token()),
            prev_batch: first.filter(|_| leads_back).map(|place| Since::Before(place).to_token()),
            chunk: found.into_iter().map(|(_, entry)| entry).collect(),
            total_room_count_estimate: Some(total_room_count_estimate),
        }
    }
}

/// Rooms of a page. A limit of 0 or none is the default.
fn page_size(limit: Option<UInt>) -> usize {
    let limit = limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
    if limit == 0 { PAGE_DEFAULT } else { limit.min(PAGE_MAX) }
}

fn check_term(filter: &Filter) -> Result<(), MatrixError> {
    if filter.generic_search_term.as_ref().is_some_and(|term| term.len() > TERM_BYTES_MAX) {
        return Err(MatrixError::invalid_param("generic_search_term has 512 bytes at most"));
    }
    Ok(())
}

/// All listed rooms with what orders them.
async fn listed(stores: &Stores) -> Result<Vec<Place>, StorageError> {
    let mut places: Vec<Place> = Vec::new();
    let mut after = None;
    while places.len() < LISTED_MAX {
        let room_ids = stores.accounts.published(after.as_deref(), LISTED_AT_ONCE).await?;
        let Some(last) = room_ids.last().cloned() else { break };
        for room_id in room_ids {
            if let Some(row) = stores.rooms.room(&room_id).await? {
                places.push(Place { joined: row.counts.join, room_id });
            }
        }
        after = Some(last);
        tokio::task::yield_now().await;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use ruma::{RoomId, room::JoinRuleKind};

    use super::*;

    fn query(since: Option<Since>) -> Query {
        Query { limit: 2, since, filter: Filter::new() }
    }

    fn found(joined: u64) -> (Place, Entry) {
        let room_id = RoomId::parse(format!("!r{joined}:example.org")).unwrap();
        let entry = Entry {
            room_id: room_id.clone(),
            num_joined_members: joined,
            join_rule: JoinRuleKind::Knock,
            world_readable: false,
            guest_can_join: false,
            canonical_alias: None,
            name: None,
            topic: None,
            avatar_url: None,
            room_type: None,
        };
        (Place { joined, room_id }, entry)
    }

    fn counts(page: &Page) -> Vec<u64> {
        page.chunk.iter().map(|entry| entry.num_joined_members).collect()
    }

    #[test]
    fn tokens_lead_on_and_back() {
        let token = |token: &Option<String>| token.as_deref().map(|token| Since::parse(token).unwrap());
        let first = query(None).bound(vec![found(9), found(8)], true, 5);
        assert_eq!((counts(&first), token(&first.prev_batch)), (vec![9, 8], None));
        let next = token(&first.next_batch).unwrap();
        assert_eq!(next, Since::After(found(8).0));

        let last = query(Some(next)).bound(vec![found(7)], false, 5);
        assert_eq!((counts(&last), token(&last.next_batch)), (vec![7], None));
        let back = token(&last.prev_batch).unwrap();
        assert_eq!(back, Since::Before(found(7).0));

        // Going back, the nearest come first from the store.
        let again = query(Some(back)).bound(vec![found(8), found(9)], false, 5);
        assert_eq!((counts(&again), token(&again.prev_batch)), (vec![9, 8], None));
        assert_eq!(token(&again.next_batch), Some(Since::After(found(8).0)));
    }

    #[test]
    fn an_empty_page_has_no_tokens() {
        let page = serde_json::to_value(query(None).bound(Vec::new(), false, 0)).unwrap();
        assert_eq!(page, serde_json::json!({ "chunk": [], "total_room_count_estimate": 0 }));
    }

    #[test]
    fn what_is_asked_is_bounded() {
        let parse = |limit: Option<u32>, since: Option<&str>, term: usize| {
            let mut filter = Filter::new();
            filter.generic_search_term = Some("t".repeat(term));
            Query::parse(limit.map(UInt::from), since.map(str::to_owned), filter).map(|query| query.limit)
        };
        assert_eq!(parse(None, None, 0).unwrap(), PAGE_DEFAULT);
        assert_eq!(parse(Some(0), Some(""), 512).unwrap(), PAGE_DEFAULT);
        assert_eq!(parse(Some(7), None, 0).unwrap(), 7);
        assert_eq!(parse(Some(u32::MAX), None, 0).unwrap(), PAGE_MAX);
        assert_eq!(parse(None, Some("nonsense"), 0).unwrap_err().status, 400);
        assert_eq!(parse(None, None, 513).unwrap_err().status, 400);
    }
}
