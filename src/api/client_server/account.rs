//! `GET /_matrix/client/v3/account/whoami`: whose token this is.
//! May not: change an account.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami>

use actix_web::{HttpResponse, web};
use ruma::api::client::account::whoami::v3::Response;

use super::paths::each;
use crate::{
    error::MatrixError,
    extract::{Caller, answer},
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/account/whoami")).get(whoami));
}

async fn whoami(caller: Caller) -> Result<HttpResponse, MatrixError> {
    let mut response = Response::new(caller.user_id, false);
    response.device_id = Some(caller.device_id);
    answer(response)
}

#[cfg(test)]
mod tests;
