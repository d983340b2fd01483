//! A page of another server's room directory.
//! May not: pass on what is no entry of a directory; one odd room hides no other.

use ruma::{ServerName, UInt, directory::Filter};
use serde::Deserialize;
use serde_json::Value;
use vestibule_federation::perform::DirectoryQuestion;

use super::{PAGE_MAX, Page, check_term, entry::Entry, page_size};
use crate::{client_server::room_address::may_query, error::MatrixError, extract::ClientAddress, state::App};

/// Longest token of another server that is sent back to it, in bytes. Ours.
const TOKEN_BYTES_MAX: usize = 1_024;

/// Asks a server for a page.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when token or term are too long; 429 when too much is looked up from `address`; what the other
/// server says.
pub async fn page(
    app: &App,
    address: ClientAddress,
    server: &ServerName,
    limit: Option<UInt>,
    since: Option<String>,
    filter: Filter,
) -> Result<Page, MatrixError> {
    check_term(&filter)?;
    // Clients of old send an empty one for none.
    let since = since.filter(|token| !token.is_empty());
    if since.as_ref().is_some_and(|token| token.len() > TOKEN_BYTES_MAX) {
        return Err(MatrixError::invalid_param(format!("since has {TOKEN_BYTES_MAX} bytes at most")));
    }
    may_query(app, address, server)?;
    let question = DirectoryQuestion { limit: page_size(limit), since, filter };
    read(app.federation.public_rooms(server, question).await?)
}

/// A page as another server sends it. Of the entries each is judged by itself.
#[derive(Deserialize)]
struct ForeignPage {
    chunk: Vec<Value>,
    next_batch: Option<String>,
    prev_batch: Option<String>,
    total_room_count_estimate: Option<usize>,
}

fn read(page: Value) -> Result<Page, MatrixError> {
    let page: ForeignPage = serde_json::from_value(page)
        .map_err(|_| MatrixError::bad_gateway("the other server's answer is no page of a directory"))?;
    let entries = page.chunk.into_iter().take(PAGE_MAX);
    let is_short = |token: &String| token.len() <= TOKEN_BYTES_MAX;
    Ok(Page {
        chunk: entries.filter_map(|entry| serde_json::from_value::<Entry>(entry).ok()).collect(),
        next_batch: page.next_batch.filter(is_short),
        prev_batch: page.prev_batch.filter(is_short),
        total_room_count_estimate: page.total_room_count_estimate,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_odd_room_hides_no_other() {
        let room =
            json!({ "room_id": "!a:x", "num_joined_members": 3, "world_readable": false, "guest_can_join": true });
        let page = json!({
            "chunk": [room, null, 5, {}, { "room_id": "odd", "num_joined_members": 1 }, { "room_id": "!b:x" },
                { "room_id": "!c:x", "num_joined_members": 1, "name": 5 },
                { "room_id": "!d", "num_joined_members": 1, "join_rule": "org.odd", "hashes": {} }],
            "next_batch": "on", "prev_batch": "x".repeat(2_000),
        });
        let sent = serde_json::to_value(read(page).unwrap()).unwrap();
        // What is absent means `public`, and is said.
        let first = json!({
            "room_id": "!a:x", "num_joined_members": 3, "world_readable": false, "guest_can_join": true,
            "join_rule": "public",
        });
        let last = json!({
            "room_id": "!d", "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
            "join_rule": "org.odd",
        });
        assert_eq!(sent, json!({ "chunk": [first, last], "next_batch": "on" }));
    }

    #[test]
    fn what_is_no_page_is_a_fault_of_the_other_server() {
        for answer in
            [json!(null), json!([]), json!({}), json!({ "chunk": {} }), json!({ "chunk": [], "next_batch": 5 })]
        {
            assert_eq!(read(answer.clone()).unwrap_err().status, 502, "{answer}");
        }
    }
}
