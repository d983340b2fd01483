//! `GET /_matrix/client/v3/room_keys/version` and the rest of it: backups of keys are not kept here, so there is none.
//! May not: take a key that would then be lost.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use actix_web::web;

use super::paths::each;
use crate::{error::MatrixError, extract::Caller};

/// Mounts the endpoints that clients ask whether there is a backup; those that would make one are not there.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource(each("/room_keys/version")).get(no_backup))
        .service(web::resource(each("/room_keys/version/{version}")).get(no_backup))
        .service(web::resource(each("/room_keys/keys")).get(no_backup))
        .service(web::resource(each("/room_keys/keys/{room_id}")).get(no_backup))
        .service(web::resource(each("/room_keys/keys/{room_id}/{session_id}")).get(no_backup));
}

async fn no_backup(_caller: Caller) -> Result<String, MatrixError> {
    Err(MatrixError::not_found("there is no backup of keys"))
}
