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
    Ok(HttpResponse::Ok().json(signed_document(&app)?))
}

/// Our keys as of now, signed by ourselves.
///
/// # Errors
/// 500 when they cannot be signed.
pub(super) fn signed_document(app: &App) -> Result<CanonicalJsonObject, MatrixError> {
    let mut document = document(app, app.clock.now());
    app.identity.sign_json(&mut document).map_err(|error| {
        log::error!(error:%; "own keys cannot be signed");
        MatrixError::internal()
    })?;
    Ok(document)
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use actix_web::test::{TestRequest, init_service};
    use ruma::{
        ServerSigningKeyId,
        signatures::{PublicKeyMap, verify_json},
    };

    use super::*;
    use crate::{
        listener::Serves,
        state::OldKey,
        testing::{NOW, World, ask, object as canonical},
    };

    #[actix_web::test]
    async fn our_keys_are_signed_by_themselves_and_old_ones_are_listed() {
        let mut world = World::new();
        let mut app = Arc::try_unwrap(world.app.into_inner()).ok().unwrap();
        let old_key_id = ServerSigningKeyId::parse("ed25519:old").unwrap();
        app.old_keys = BTreeMap::from([(old_key_id, OldKey { public_key: [9; 32], expired: UnixMillis(7) })]);
        world.app = Data::new(app);
        let service = init_service(world.application(&[Serves::Federation])).await;
        for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:k1"] {
            let (status, answer) = ask(&service, TestRequest::with_uri(path).to_request()).await;
            assert_eq!(status, 200, "{path}: {answer}");
            assert_eq!(answer["server_name"], "us.test");
            assert_eq!(answer["old_verify_keys"]["ed25519:old"]["expired_ts"], 7);
            let left_ms = answer["valid_until_ts"].as_u64().unwrap() - NOW.0;
            assert!(left_ms >= 3_600_000, "not with less than an hour left: {left_ms}");
            let key = world.app.identity.key();
            assert_eq!(answer["verify_keys"][key.key_id().as_str()]["key"], key.public_key_base64().encode());
            let ours = BTreeMap::from([(key.key_id().to_string(), key.public_key_base64())]);
            let keys = PublicKeyMap::from([("us.test".to_owned(), ours)]);
            verify_json(&keys, &canonical(answer)).unwrap();
        }
    }
}
