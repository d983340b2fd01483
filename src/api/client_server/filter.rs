//! `POST /_matrix/client/v3/user/{userId}/filter` and `GET …/filter/{filterId}`: filters kept for `/sync`.
//! May not: apply them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use actix_web::{HttpResponse, web};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::api::client::filter::FilterDefinition;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use vestibule_storage::accounts::AccountChange;

use super::{commit::commit, json_body::JsonBody, own_path::check_own, paths::each};
use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// Largest filter in bytes; those of clients have a few hundred.
const FILTER_BYTES_MAX: usize = 16 * 1024;

/// Bytes of the hash that make a filter's id.
const ID_BYTES: usize = 15;

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource(each("/user/{user_id}/filter")).post(create))
        .service(web::resource(each("/user/{user_id}/filter/{filter_id}")).get(get));
}

async fn create(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(body): JsonBody<Map<String, Value>>,
) -> Result<HttpResponse, MatrixError> {
    check_own(&caller, &path)?;
    let text = checked_text(body)?;
    let filter_id = id_of(&text);
    // The same filter has the same id, so clients that make theirs at each start do not fill the disk.
    if app.stores.accounts.filter(&caller.user_id, &filter_id).await?.is_none() {
        let filter_id = filter_id.clone();
        let change = AccountChange::PutFilter { user_id: caller.user_id, filter_id, filter: text };
        commit(&app.stores, vec![change]).await?;
    }
    Ok(HttpResponse::Ok().json(json!({ "filter_id": filter_id })))
}

async fn get(caller: Caller, path: PathArguments, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    check_own(&caller, &path)?;
    let filter = app.stores.accounts.filter(&caller.user_id, path.get(1)).await?;
    let filter = filter.ok_or_else(|| MatrixError::not_found("no such filter"))?;
    Ok(HttpResponse::Ok().content_type("application/json").body(filter))
}

/// The text to keep: what came, with what we do not know yet, since later versions of us may.
fn checked_text(filter: Map<String, Value>) -> Result<String, MatrixError> {
    let filter = Value::Object(filter);
    let text = filter.to_string();
    if text.len() > FILTER_BYTES_MAX {
        return Err(MatrixError::too_large("a filter has 16 KiB at most"));
    }
    serde_json::from_value::<FilterDefinition>(filter).map_err(MatrixError::bad_json)?;
    Ok(text)
}

fn id_of(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let head: Vec<u8> = hash.iter().copied().take(ID_BYTES).collect();
    URL_SAFE_NO_PAD.encode(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(filter: Value) -> Result<String, MatrixError> {
        checked_text(filter.as_object().unwrap().clone())
    }

    #[test]
    fn filters_are_kept_with_what_we_do_not_know() {
        let text = checked(json!({ "room": { "timeline": { "limit": 10 } }, "org.example.x": [1.5] })).unwrap();
        assert_eq!(text, r#"{"org.example.x":[1.5],"room":{"timeline":{"limit":10}}}"#);
        assert_eq!(checked(json!({})).unwrap(), "{}");
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for (filter, status) in [
            (json!({ "room": { "timeline": { "limit": "ten" } } }), 400),
            (json!({ "room": [] }), 400),
            (json!({ "room": { "rooms": ["nonsense"] } }), 400),
            (json!({ "event_fields": "x" }), 400),
            (json!({ "x": "x".repeat(FILTER_BYTES_MAX) }), 413),
        ] {
            assert_eq!(checked(filter).unwrap_err().status, status);
        }
    }

    #[test]
    fn the_id_is_that_of_the_content_and_no_inline_filter() {
        assert_eq!(id_of("{}"), id_of("{}"));
        assert_ne!(id_of("{}"), id_of("{\"a\":1}"));
        assert_eq!(id_of("{}").len(), 20);
    }
}
