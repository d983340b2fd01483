//! `POST /_matrix/client/v3/knock/{roomIdOrAlias}`: a local user asks to be let in, here or elsewhere.
//! May not: decide whether the knock counts; the join rule, repeats and limits are the room's to judge, wherever it lives.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3knockroomidoralias>

use actix_web::{HttpResponse, web, web::Data};
use ruma::api::client::knock::knock_room;
use vestibule_actors::MembershipChange;

use super::{
    elsewhere::{self, Asked},
    member_content::reason_content,
    paths::each,
    room_address::{RoomAddress, lives_here},
    rooms_membership::{WantedChange, change_membership},
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    state::App,
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/knock/{room_id_or_alias}") {
        config.service(web::resource(path).post(knock));
    }
}

async fn knock(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<knock_room::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let reason_bytes_max = app.settings.knock_reason_bytes_max;
    // Structure before authorization: what is too long is told before the room is looked for.
    if request.reason.as_ref().is_some_and(|reason| reason.len() > reason_bytes_max) {
        return Err(MatrixError::too_large(format!("the reason has more than {reason_bytes_max} bytes")));
    }
    let room = RoomAddress::resolve(&app, address, &request.room_id_or_alias, request.via).await?;
    let content = reason_content(request.reason);
    if !lives_here(&app, &room.room_id).await?
        && elsewhere::knock(&app, caller.user_id.clone(), &room, content.clone()).await? == Asked::Elsewhere
    {
        return answer(knock_room::v3::Response::new(room.room_id));
    }
    let wanted = WantedChange {
        sender: caller.user_id.clone(),
        room_id: &room.room_id,
        target: caller.user_id,
        change: MembershipChange::Knock,
        content,
        address,
    };
    change_membership(&app, wanted).await?;
    answer(knock_room::v3::Response::new(room.room_id))
}
