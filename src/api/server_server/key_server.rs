//! `GET /_matrix/key/v2/server` and its removed form with a key id: our own signing keys, signed by ourselves.
//! May not: speak for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server>

use std::time::Duration;

use actix_web::{
    HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int, serde::Base64};
use vestibule_protocol::clock::{UnixMillis, millis};

use crate::{error::MatrixError, state::App};

/// How long others may use our keys without asking again. Ours; peers ask again after half of it.
const KEYS_VALID_FOR: Duration = Duration::from_hours(24);

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/_matrix/key/v2/server").route(web::get().to(key_server)))
        .service(web::resource("/_matrix/key/v2/server/").route(web::get().to(key_server)))
        .service(web::resource("/_matrix/key/v2/server/{keyId}").route(web::get().to(key_server)));
}

async fn key_server(app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let mut document = document(&app, app.clock.now());
    app.identity.sign_json(&mut document).map_err(|error| {
        log::error!(error:%; "own keys cannot be signed");
        MatrixError::internal()
    })?;
    Ok(HttpResponse::Ok().json(document))
}

fn document(app: &App, now: UnixMillis) -> CanonicalJsonObject {
    let key = app.identity.key();
    let verify_keys = object([(key.key_id().to_string(), object([("key".to_owned(), public(&key.public_key()))]))]);
    let old_verify_keys = object(app.old_keys.iter().map(|(key_id, old)| {
        let fields = [("expired_ts".to_owned(), timestamp(old.expired)), ("key".to_owned(), public(&old.public_key))];
        (key_id.to_string(), object(fields))
    }));
    let valid_until = now.plus(Duration::from_millis(millis(KEYS_VALID_FOR)));
    CanonicalJsonObject::from([
        ("old_verify_keys".to_owned(), old_verify_keys),
        ("server_name".to_owned(), app.server_name().as_str().into()),
        ("valid_until_ts".to_owned(), timestamp(valid_until)),
        ("verify_keys".to_owned(), verify_keys),
    ])
}

fn object(fields: impl IntoIterator<Item = (String, CanonicalJsonValue)>) -> CanonicalJsonValue {
    CanonicalJsonValue::Object(fields.into_iter().collect())
}

fn public(key: &[u8; 32]) -> CanonicalJsonValue {
    let encoded: Base64 = Base64::new(key.to_vec());
    encoded.encode().into()
}

fn timestamp(time: UnixMillis) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::try_from(time.0).unwrap_or(Int::MAX))
}
