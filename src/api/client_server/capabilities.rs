//! `GET /_matrix/client/v3/capabilities`: what a user can do here.
//! May not: name what has no endpoint.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#capabilities-negotiation>

use actix_web::{HttpResponse, web};
use ruma::{
    RoomVersionId,
    api::client::discovery::get_capabilities::v3::{
        Capabilities, ChangePasswordCapability, ProfileFieldsCapability, Response, RoomVersionStability,
        RoomVersionsCapability, ThirdPartyIdChangesCapability,
    },
};
use vestibule_protocol::room_version::RoomVersion;

use super::paths::each;
use crate::{
    error::MatrixError,
    extract::{Caller, answer},
    state::App,
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/capabilities")).get(get));
}

async fn get(_: Caller, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    answer(Response::new(capabilities(app.settings.default_room_version.clone())))
}

fn capabilities(default_version: RoomVersionId) -> Capabilities {
    let available = RoomVersion::hosted().into_iter().map(|version| (version, RoomVersionStability::Stable));
    let mut capabilities = Capabilities::new();
    capabilities.room_versions = RoomVersionsCapability::new(default_version, available.collect());
    // Said aloud where the answer is no: a capability that is not named counts as given.
    capabilities.change_password = ChangePasswordCapability::new(false);
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    capabilities.profile_fields = Some(ProfileFieldsCapability::new(true));
    capabilities
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn capabilities_say_what_there_is() {
        assert_eq!(
            serde_json::to_value(capabilities(RoomVersionId::V12)).unwrap(),
            json!({
                "m.room_versions": {
                    "default": "12",
                    "available": {
                        "6": "stable", "7": "stable", "8": "stable", "9": "stable", "10": "stable", "11": "stable",
                        "12": "stable",
                    },
                },
                "m.change_password": { "enabled": false },
                "m.3pid_changes": { "enabled": false },
                "m.profile_fields": { "enabled": true },
            })
        );
    }
}
