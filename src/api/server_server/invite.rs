//! `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`: another server invites a user of ours.
//! May not: sign anything but an invite that was judged, for a user we have; or answer before the invite is kept.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use futures_util::future::join_all;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, ServerName, UserId,
    events::StateEventType, signatures::PublicKeyMap,
};
use vestibule_actors::{AskError, ReceiveInvite};
use vestibule_protocol::{
    membership::{
        InviteRefusal, KnockRefusal,
        invite::{CosignedInvite, Invitation, InviteShape},
    },
    room_version::RoomVersion,
    state::stripped::{StrippedEntry, StrippedEvent, check_invite_state, prune},
};

use super::{
    handshake::{check_door, keys_of_signers, overload_pause},
    pdu_text,
};
use crate::{
    error::MatrixError,
    extract::{BodyBytesMax, PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = |version: &str| format!("/_matrix/federation/{version}/invite/{{roomId}}/{{eventId}}");
    config
        .service(web::resource(path("v2")).app_data(BodyBytesMax::JSON).route(web::put().to(invite)))
        .service(web::resource(path("v1")).route(web::put().to(invite_v1)));
}

/// The first version of the endpoint is for rooms of versions 1 and 2 alone, and these are not known here.
async fn invite_v1(_: Signed) -> Result<HttpResponse, MatrixError> {
    Err(InviteRefusal::VersionNotKnown { room_version: RoomVersionId::V1 }.into())
}

async fn invite(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let path = PathArguments::of_request(&request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let event_id: OwnedEventId = path.parse(1, "eventId")?;
    let origin = signed.origin.clone();
    let Body { version, event, invite_room_state } = Body::parse(signed.into_body()?)?;
    // Of a room that we are in we know the version ourselves; the word of a peer would choose the rules that we sign by.
    if check_acl(&app, &room_id, &origin).await?.is_some_and(|held| held != version) {
        return Err(MatrixError::invalid_param("room_version is not that of the room"));
    }
    let invitation = Invitation {
        version: &version,
        room_id: &room_id,
        event_id: &event_id,
        origin: &origin,
        our_name: app.server_name(),
        now: app.clock.now(),
    };
    let shape = InviteShape::parse(event, &invitation)?;
    require_user(&app, shape.target()).await?;
    let entries = check_invite_state(invite_room_state.as_ref(), &room_id, &version, shape.pdu().sender())?;
    let keys = keys_of_signers(&app, shape.required_signatures()?, shape.pdu(), &version).await;
    let invite = cosigned(&app, shape, &keys)?;
    // After the invite itself is proven: only then are the keys of others worth a look.
    let stripped = shown(&app, entries, &version).await?;
    let answered = invite.pdu().clone();
    let message = ReceiveInvite { invite, room_version: version.id().clone(), stripped };
    // On a task of its own: once the invite is kept, what follows from it follows also for a server that has hung up.
    let task = actix_web::rt::spawn(async move { take(&app, &room_id, &version, message).await });
    task.await.map_err(|_| MatrixError::internal())??;
    Ok(pdu_text::answer(pdu_text::object(&[("event", answered.json())])))
}

/// Keeps the invite, and joins if it answers a knock and that is wished.
async fn take(app: &App, room_id: &RoomId, version: &RoomVersion, message: ReceiveInvite) -> Result<(), MatrixError> {
    let target = message.invite.target().to_owned();
    let before = app.stores.rooms.out_of_band_of(&target, room_id).await?;
    let attempt = || app.rooms.ask_out_of_band(room_id, version, message.clone());
    app.limits.hold_until(&*app.clock, attempt, overload_pause).await?;
    if let Some(knock) = before {
        app.federation.knock_accepted(room_id, &target, &knock);
    }
    Ok(())
}

/// What the request holds.
struct Body {
    version: RoomVersion,
    event: CanonicalJsonObject,
    invite_room_state: Option<CanonicalJsonValue>,
}

impl Body {
    fn parse(mut body: CanonicalJsonObject) -> Result<Self, MatrixError> {
        let room_version = match body.get("room_version") {
            None => return Err(MatrixError::missing_param("missing room_version")),
            Some(CanonicalJsonValue::String(room_version)) => {
                RoomVersionId::try_from(room_version.as_str()).map_err(MatrixError::invalid_param)?
            }
            Some(_) => return Err(MatrixError::bad_json("room_version must be a string")),
        };
        let version = RoomVersion::lookup(&room_version).ok_or(InviteRefusal::VersionNotKnown { room_version })?;
        let event = match body.remove("event") {
            None => return Err(MatrixError::missing_param("missing event")),
            Some(CanonicalJsonValue::Object(event)) => event,
            Some(_) => return Err(MatrixError::bad_json("event must be an object")),
        };
        Ok(Self { version, event, invite_room_state: body.remove("invite_room_state") })
    }
}

/// The room's ACL, and which version it has, if we are in the room; of others we know neither.
async fn check_acl(app: &App, room_id: &RoomId, origin: &ServerName) -> Result<Option<RoomVersion>, MatrixError> {
    match check_door(app, room_id, origin).await {
        Ok(version) => Ok(Some(version)),
        Err(AskError::RoomNotHere | AskError::Refused(KnockRefusal::ServerNotInRoom)) => Ok(None),
        Err(AskError::Refused(KnockRefusal::ServerDenied)) => Err(InviteRefusal::ServerDenied.into()),
        Err(error) => Err(error.into()),
    }
}

async fn require_user(app: &App, target: &UserId) -> Result<(), MatrixError> {
    let user = app.stores.accounts.user(target).await?;
    match user {
        Some(user) if !user.is_deactivated => Ok(()),
        _ => Err(InviteRefusal::NoSuchUser.into()),
    }
}

fn cosigned(app: &App, shape: InviteShape, keys: &PublicKeyMap) -> Result<CosignedInvite, InviteRefusal> {
    shape.verify(keys)?.cosign(&app.identity)
}

/// What the user is shown of the room: events whose signatures do not verify are left out.
async fn shown(
    app: &App,
    entries: Vec<StrippedEntry>,
    version: &RoomVersion,
) -> Result<Vec<StrippedEvent>, InviteRefusal> {
    // At the same time, so that a server which does not answer for its key costs its time once.
    let verdicts = join_all(entries.into_iter().map(|entry| shown_entry(app, entry, version))).await;
    verdicts.into_iter().filter_map(Result::transpose).collect()
}

async fn shown_entry(
    app: &App,
    entry: StrippedEntry,
    version: &RoomVersion,
) -> Result<Option<StrippedEvent>, InviteRefusal> {
    let shaped = match entry {
        StrippedEntry::Stripped(stripped) => return Ok(Some(stripped)),
        StrippedEntry::Pdu(shaped) => shaped,
    };
    let Ok(signers) = shaped.required_signatures() else { return Ok(None) };
    let is_create = shaped.pdu().state_entry().is_some_and(|(kind, _)| kind == StateEventType::RoomCreate);
    let is_named_by_room = version.room_id_is_create_hash() && is_create;
    let is_signed = signers.values().all(|key_ids| !key_ids.is_empty());
    let keys = keys_of_signers(app, signers, shaped.pdu(), version).await;
    if is_named_by_room && is_signed && keys.is_empty() {
        // The room's id is the hash of this very event; that its author's server cannot be asked takes nothing from it.
        return Ok(prune(shaped.pdu()));
    }
    match shaped.verify(&keys) {
        Ok(verified) => Ok(prune(verified.pdu())),
        Err(_) if is_named_by_room => {
            Err(InviteRefusal::BadInviteState { what: "the create event's signature does not verify".to_owned() })
        }
        Err(_) => Ok(None),
    }
}
