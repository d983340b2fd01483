//! `POST /_matrix/client/v3/rooms/{roomId}/read_markers`: several markers of a user in a room at once.
//! May not: mark otherwise than [`super::rooms_receipt`] does.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#fully-read-markers>

use actix_web::{HttpResponse, web, web::Data};
use ruma::api::client::read_marker::set_read_marker;
use vestibule_storage::receipts::{ReceiptKind, ReceiptThread};

use super::{
    paths::each,
    rooms_receipt::{Marker, Reader},
    rooms_typing::speakers,
};
use crate::{
    error::MatrixError,
    extract::{Caller, Ruma, answer},
    state::App,
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/rooms/{room_id}/read_markers") {
        config.service(web::resource(path).post(set));
    }
}

async fn set(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<set_read_marker::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    app.limits.typing_and_receipts_by_user.take(&caller.user_id, &*app.clock)?;
    let room_id = &request.room_id;
    let reader = Reader { app: &app, caller: &caller, room_id, speakers: speakers(&app, &caller, room_id).await? };
    let markers = [
        (Marker::FullyRead, request.fully_read),
        (Marker::Read(ReceiptKind::Private), request.private_read_receipt),
        (Marker::Read(ReceiptKind::Public), request.read_receipt),
    ];
    for (marker, event_id) in markers {
        if let Some(event_id) = event_id {
            reader.mark(marker, event_id, ReceiptThread::Unthreaded).await?;
        }
    }
    answer(set_read_marker::v3::Response::new())
}
