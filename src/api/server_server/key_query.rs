//! `POST /_matrix/key/v2/query` and `GET /_matrix/key/v2/query/{serverName}`: other servers' keys as we know them.
//! May not: vouch for keys that their own server did not sign, or look for servers beyond the caller's budget (SECURITY T15).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Payload, ServiceConfig},
};
use futures_util::{StreamExt as _, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
};
use serde_json::json;
use vestibule_actors::SourceNetwork;
use vestibule_protocol::{canonical_json, clock::UnixMillis};

use super::{key_server::signed_document, raw_query};
use crate::{
    error::MatrixError,
    extract::{
        ClientAddress, PathArguments,
        body::{self, JSON_BODY_BYTES_MAX},
    },
    state::App,
};

/// Servers in a question. Source: SECURITY T15.
const SERVERS_MAX: usize = 100;

/// Key ids that are looked at for each of them. Ours: servers have one or two.
const KEY_IDS_MAX: usize = 16;

/// Servers that are looked for at once for one question. Ours.
const SERVERS_AT_ONCE: usize = 8;

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/_matrix/key/v2/query").route(web::post().to(query_many)))
        .service(web::resource("/_matrix/key/v2/query/{serverName}").route(web::get().to(query_one)));
}

/// What is asked about one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    key_ids: BTreeSet<OwnedServerSigningKeyId>,
    /// The keys should be valid until then. `None`: until now.
    valid_until: Option<UnixMillis>,
}

async fn query_one(request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let server: OwnedServerName = PathArguments::of_request(&request)?.parse(0, "serverName")?;
    let valid_until = raw_query::first(request.query_string(), "minimum_valid_until_ts").map(|text| text.parse());
    let valid_until = valid_until
        .transpose()
        .map_err(|_| MatrixError::invalid_param("minimum_valid_until_ts must be a number, 0 or more"))?
        .map(UnixMillis);
    let wanted = Wanted { key_ids: BTreeSet::new(), valid_until };
    answer(&app, &request, BTreeMap::from([(server, wanted)])).await
}

async fn query_many(request: HttpRequest, payload: Payload, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let bytes = body::read(&request, payload.into_inner(), JSON_BODY_BYTES_MAX).await?;
    let asked = asked(&canonical_json::parse_object(&bytes)?)?;
    answer(&app, &request, asked).await
}

/// The servers asked about. Names that are none are passed over: nobody has keys under them.
fn asked(body: &CanonicalJsonObject) -> Result<BTreeMap<OwnedServerName, Wanted>, MatrixError> {
    let wrong = || MatrixError::bad_json("server_keys must map servers to key ids");
    let servers = match body.get("server_keys") {
        None => return Err(MatrixError::missing_param("missing server_keys")),
        Some(servers) => servers.as_object().ok_or_else(wrong)?,
    };
    if servers.len() > SERVERS_MAX {
        return Err(MatrixError::invalid_param(format!("at most {SERVERS_MAX} servers can be asked about at once")));
    }
    let mut asked = BTreeMap::new();
    for (server, criteria) in servers {
        let criteria = criteria.as_object().ok_or_else(wrong)?;
        let Ok(server) = ServerName::parse(server) else { continue };
        let mut valid_until = None;
        for criterion in criteria.values() {
            valid_until = valid_until.max(wanted_until(criterion)?);
        }
        let key_ids = criteria.keys().filter_map(|key_id| ServerSigningKeyId::parse(key_id).ok());
        asked.insert(server, Wanted { key_ids: key_ids.take(KEY_IDS_MAX).collect(), valid_until });
    }
    Ok(asked)
}

fn wanted_until(criterion: &CanonicalJsonValue) -> Result<Option<UnixMillis>, MatrixError> {
    let criterion =
        criterion.as_object().ok_or_else(|| MatrixError::bad_json("what is asked of a key must be an object"))?;
    let until = match criterion.get("minimum_valid_until_ts") {
        None => return Ok(None),
        Some(CanonicalJsonValue::Integer(number)) => u64::try_from(i64::from(*number)).ok(),
        Some(_) => None,
    };
    let until = until.ok_or_else(|| MatrixError::bad_json("minimum_valid_until_ts must be a number, 0 or more"))?;
    Ok(Some(UnixMillis(until)))
}

async fn answer(
    app: &App,
    request: &HttpRequest,
    asked: BTreeMap<OwnedServerName, Wanted>,
) -> Result<HttpResponse, MatrixError> {
    let address = ClientAddress::of_request(request, &app.settings.trusted_proxies);
    let network = SourceNetwork::of(address.0);
    let documents = asked.iter().map(|(server, wanted)| document(app, server, wanted, network.clone()));
    let documents: Vec<_> = stream::iter(documents).buffered(SERVERS_AT_ONCE).collect().await;
    let server_keys: Vec<CanonicalJsonObject> =
        documents.into_iter().filter_map(Result::transpose).collect::<Result<_, MatrixError>>()?;
    Ok(HttpResponse::Ok().json(json!({ "server_keys": server_keys })))
}

/// The newest document that we have of a server, signed by it and by us. `None`: there is none.
async fn document(
    app: &App,
    server: &ServerName,
    wanted: &Wanted,
    network: SourceNetwork,
) -> Result<Option<CanonicalJsonObject>, MatrixError> {
    if app.is_ours(server) {
        return signed_document(app).map(Some);
    }
    let now = app.clock.now();
    let known = app.stores.server_keys.lookup(server).await?;
    let mut key_ids: BTreeSet<&ServerSigningKeyId> = wanted.key_ids.iter().map(|key_id| &**key_id).collect();
    let is_fresh = known.as_ref().is_some_and(|known| known.valid_until_ts >= wanted.valid_until.unwrap_or(now).0);
    if !is_fresh && let Some(known) = &known {
        key_ids.extend(known.verify_keys.keys().map(|key_id| &**key_id));
    }
    let is_complete =
        known.as_ref().is_some_and(|known| key_ids.iter().all(|key_id| known.verify_keys.contains_key(*key_id)));
    let known = if is_fresh && is_complete {
        known
    } else {
        // Looks for it, if it is due and the caller's network may have it looked for; what is known is told in any case.
        let key_ids: Vec<&ServerSigningKeyId> = key_ids.into_iter().collect();
        let needed_until = wanted.valid_until.map_or(now, |until| until.max(now));
        if let Err(error) = app.keyring.keys_for_request(server, &key_ids, network, needed_until).await {
            log::debug!(origin:% = server, error:%; "no newer keys for one who asks");
        }
        app.stores.server_keys.lookup(server).await?
    };
    let Some(known) = known else { return Ok(None) };
    let mut document = canonical_json::parse_object(known.signed_json.as_bytes()).map_err(|error| {
        log::error!(origin:% = server, error:%; "stored keys are no JSON");
        MatrixError::internal()
    })?;
    app.identity.sign_json(&mut document).map_err(|error| {
        log::error!(origin:% = server, error:%; "another server's keys cannot be signed");
        MatrixError::internal()
    })?;
    Ok(Some(document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn questions_are_bounded() {
        let many = |count: usize| -> serde_json::Value {
            (0..count).map(|number| (format!("s{number}.test"), json!({}))).collect::<serde_json::Map<_, _>>().into()
        };
        let table = [
            (json!({ "server_keys": {} }), Ok(0)),
            (json!({ "server_keys": many(100) }), Ok(100)),
            (json!({ "server_keys": many(101) }), Err("M_INVALID_PARAM")),
            (json!({ "server_keys": many(10_000) }), Err("M_INVALID_PARAM")),
            (json!({ "server_keys": { "no name": {}, "a.test": {} } }), Ok(1)),
            (json!({ "server_keys": { "a.test": [] } }), Err("M_BAD_JSON")),
            (json!({ "server_keys": { "a.test": { "ed25519:1": 5 } } }), Err("M_BAD_JSON")),
            (
                json!({ "server_keys": { "a.test": { "ed25519:1": { "minimum_valid_until_ts": "5" } } } }),
                Err("M_BAD_JSON"),
            ),
            (
                json!({ "server_keys": { "a.test": { "ed25519:1": { "minimum_valid_until_ts": -1 } } } }),
                Err("M_BAD_JSON"),
            ),
            (json!({ "server_keys": [] }), Err("M_BAD_JSON")),
            (json!({}), Err("M_MISSING_PARAM")),
        ];
        for (body, expected) in table {
            let found = asked(&object(body)).map(|asked| asked.len()).map_err(|error| error.errcode.to_string());
            assert_eq!(found, expected.map_err(str::to_owned));
        }
        let body = json!({ "server_keys": { "a.test": {
            "ed25519:1": { "minimum_valid_until_ts": 5 }, "ed25519:2": { "minimum_valid_until_ts": 7 }, "nonsense": {},
        } } });
        let asked = asked(&object(body)).unwrap();
        let wanted = &asked[<&ServerName>::try_from("a.test").unwrap()];
        assert_eq!((wanted.key_ids.len(), wanted.valid_until), (2, Some(UnixMillis(7))));
    }
}
