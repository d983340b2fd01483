//! `GET /_matrix/client/versions`: which versions of the client-server API are served.
//! May not: promise what is not served.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use ruma::api::client::discovery::get_supported_versions::Response;

use crate::{error::MatrixError, extract::answer};

/// Up to where Synapse goes too: clients take the newest for a promise.
const VERSIONS: [&str; 13] =
    ["r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12"];

/// What of later versions is served already: free profile fields (1.16), and a push rule for knocks.
const UNSTABLE_FEATURES: [&str; 3] = ["uk.tcpip.msc4133", "uk.tcpip.msc4133.stable", "org.matrix.msc4506"];

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/_matrix/client/versions").get(versions));
}

async fn versions() -> Result<HttpResponse, MatrixError> {
    let mut response = Response::new(VERSIONS.map(str::to_owned).to_vec());
    response.unstable_features = BTreeMap::from(UNSTABLE_FEATURES.map(|feature| (feature.to_owned(), true)));
    answer(response)
}
