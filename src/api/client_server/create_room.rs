//! `POST /_matrix/client/v3/createRoom`: turns what a client wishes into the first events of a room.
//! May not: judge those events or commit them one by one; the room is made in one message and one commit.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>

mod first_events;
mod power_levels;

use actix_web::{HttpResponse, http::StatusCode, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId,
    api::{
        client::room::{
            Visibility,
            create_room::{self, v3::RoomPreset},
        },
        error::ErrorCode,
    },
    serde::Raw,
};
use vestibule_actors::CreateRoom;
use vestibule_protocol::{
    canonical_json,
    room_version::{Hosting, RoomVersion},
};
use vestibule_storage::{
    accounts::{AccountChange, Alias},
    commit::{Commit, CommitError, Conflict},
};

use self::first_events::{FirstEvents, StateWish};
use super::{member_content::profile_content, paths::each, rooms_membership::require_invitable};
use crate::{
    error::MatrixError,
    extract::{Caller, Ruma, answer},
    state::App,
};

/// Letters of a room id that we draw. Ours: 94 bits, as other servers have about.
const ROOM_ID_LETTERS: usize = 18;

/// Users invited at creation. Ours: each is an event of the one commit.
const INVITES_MAX: usize = 100;

/// Events in `initial_state`. Ours: each is an event of the one commit.
const INITIAL_STATE_MAX: usize = 100;

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/createRoom") {
        config.service(web::resource(path).post(create));
    }
}

async fn create(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<create_room::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let room_version = request.room_version.clone().unwrap_or_else(|| app.settings.default_room_version.clone());
    let version = RoomVersion::lookup(&room_version)
        .filter(|version| version.hosting() == Hosting::Hosted)
        .ok_or_else(MatrixError::unsupported_room_version)?;
    let alias = match &request.room_alias_name {
        Some(localpart) => Some(free_alias(&app, localpart).await?),
        None => None,
    };
    app.limits.rooms_by_user.take(&caller.user_id, &*app.clock)?;
    let is_published = request.visibility == Visibility::Public;
    let wishes = wishes(&app, &caller, request, version, alias.clone()).await?;

    let creator = caller.user_id.clone();
    let creator_content = profile_content(&*app.stores.accounts, &creator).await?;
    let room_id = if wishes.version.room_id_is_create_hash() { None } else { Some(drawn_room_id(&app)?) };
    let create_content = wishes.create_content()?;
    let initial = wishes.initial_events()?;
    let message = CreateRoom { creator, room_version, room_id, create_content, initial, creator_content };
    let room_id = app.rooms.create(message).await?;
    tell_directory(&app, &caller, &room_id, alias, is_published).await?;
    answer(create_room::v3::Response::new(room_id))
}

/// What the request wishes, judged as far as the room itself cannot.
async fn wishes(
    app: &App,
    caller: &Caller,
    request: create_room::v3::Request,
    version: RoomVersion,
    alias: Option<OwnedRoomAliasId>,
) -> Result<FirstEvents, MatrixError> {
    if !request.invite_3pid.is_empty() {
        let words = "invites by third-party identifier are not possible here";
        return Err(MatrixError::new(StatusCode::FORBIDDEN, ErrorCode::ThreepidDenied, words));
    }
    if request.invite.len() > INVITES_MAX || request.initial_state.len() > INITIAL_STATE_MAX {
        let words = format!("at most {INVITES_MAX} invites and {INITIAL_STATE_MAX} events of initial_state");
        return Err(MatrixError::invalid_param(words));
    }
    let invites = distinct_invites(request.invite, &caller.user_id);
    let mut profiles = Vec::new();
    for invited in invites {
        require_invitable(app, &invited).await?;
        let profile = profile_content(&*app.stores.accounts, &invited).await?;
        profiles.push((invited, profile));
    }
    let preset = match (request.preset, request.visibility) {
        (Some(RoomPreset::PrivateChat), _) => first_events::Preset::Private,
        (Some(RoomPreset::TrustedPrivateChat), _) => first_events::Preset::TrustedPrivate,
        (Some(RoomPreset::PublicChat), _) | (None, Visibility::Public) => first_events::Preset::Public,
        (None, _) => first_events::Preset::Private,
        (Some(_), _) => return Err(MatrixError::bad_json("unknown preset")),
    };
    let initial_state = request.initial_state.iter().map(|raw| {
        let wish: StateWish = serde_json::from_str(raw.json().get())
            .map_err(|error| MatrixError::bad_json(format!("initial_state: {error}")))?;
        wish.check()
    });
    Ok(FirstEvents {
        creator: caller.user_id.clone(),
        preset,
        creation_content: request.creation_content.map_or_else(|| Ok(CanonicalJsonObject::new()), object_of)?,
        power_levels_override: request.power_level_content_override.map(object_of).transpose()?,
        initial_state: initial_state.collect::<Result<_, MatrixError>>()?,
        alias,
        name: request.name,
        topic: request.topic,
        invites: profiles,
        is_direct: request.is_direct,
        version,
    })
}

/// Each user once, without the creator, who is there already.
fn distinct_invites(invites: Vec<OwnedUserId>, creator: &OwnedUserId) -> Vec<OwnedUserId> {
    let mut distinct: Vec<OwnedUserId> = Vec::new();
    for invited in invites {
        if invited != *creator && !distinct.contains(&invited) {
            distinct.push(invited);
        }
    }
    distinct
}

fn object_of<T>(raw: Raw<T>) -> Result<CanonicalJsonObject, MatrixError> {
    Ok(canonical_json::parse_object(raw.json().get().as_bytes())?)
}

/// The alias of this server with that localpart, if it can be one and is free.
async fn free_alias(app: &App, localpart: &str) -> Result<OwnedRoomAliasId, MatrixError> {
    let is_word =
        !localpart.is_empty() && !localpart.contains([':', '\0', '#']) && !localpart.contains(char::is_whitespace);
    let alias = RoomAliasId::parse(format!("#{localpart}:{}", app.server_name()))
        .ok()
        .filter(|_| is_word)
        .ok_or_else(|| MatrixError::invalid_param("room_alias_name cannot be an alias"))?;
    match app.stores.accounts.alias(&alias).await? {
        None => Ok(alias),
        Some(_) => Err(alias_in_use()),
    }
}

fn alias_in_use() -> MatrixError {
    MatrixError::new(StatusCode::BAD_REQUEST, ErrorCode::RoomInUse, "this alias is taken")
}

/// A room id of this server that nobody can guess.
///
/// # Errors
/// 500, if it turns out to be none.
pub fn drawn_room_id(app: &App) -> Result<OwnedRoomId, MatrixError> {
    let mut drawn = [0; ROOM_ID_LETTERS];
    app.randomness.fill(&mut drawn);
    let letters: String = drawn.iter().map(|byte| letter(*byte)).collect();
    RoomId::parse(format!("!{letters}:{}", app.server_name())).map_err(|error| {
        log::error!(error:%; "drawn room id cannot be parsed");
        MatrixError::internal()
    })
}

/// One of 52 letters; the slight preference for some costs less than a bit over the whole id.
fn letter(byte: u8) -> char {
    let place = byte % 52;
    let base = if place < 26 { b'A' } else { b'a'.saturating_sub(26) };
    char::from(base.saturating_add(place))
}

/// Makes the alias and puts the room into the directory. After the room, whose id is not known before in version 12; who
/// takes the alias in between wins, and the room stays without.
async fn tell_directory(
    app: &App,
    caller: &Caller,
    room_id: &RoomId,
    alias: Option<OwnedRoomAliasId>,
    is_published: bool,
) -> Result<(), MatrixError> {
    let creator = caller.user_id.clone();
    let alias = alias.map(|alias| Alias { alias, room_id: room_id.to_owned(), creator });
    let mut changes: Vec<AccountChange> = alias.map(AccountChange::CreateAlias).into_iter().collect();
    if is_published {
        changes.push(AccountChange::SetPublished { room_id: room_id.to_owned(), is_published });
    }
    if changes.is_empty() {
        return Ok(());
    }
    let slot = app.stores.writer.reserve()?;
    match app.stores.writer.enqueue(slot, Commit::Accounts(changes)).await {
        Ok(_) => Ok(()),
        // Elsewhere a taken alias is 409; here the specification has an errcode of its own.
        Err(CommitError::Conflict(Conflict::AliasExists)) => Err(alias_in_use()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};

    use super::*;

    #[test]
    fn nobody_is_invited_twice_and_the_creator_not_at_all() {
        let invites =
            vec![owned_user_id!("@b:x"), owned_user_id!("@a:x"), owned_user_id!("@b:x"), owned_user_id!("@c:x")];
        let distinct = distinct_invites(invites, &user_id!("@a:x").to_owned());
        assert_eq!(distinct, [owned_user_id!("@b:x"), owned_user_id!("@c:x")]);
    }

    #[test]
    fn every_byte_draws_a_letter() {
        let letters: std::collections::BTreeSet<char> = (0..=u8::MAX).map(letter).collect();
        assert_eq!(letters.len(), 52);
        assert!(letters.iter().all(char::is_ascii_alphabetic));
    }
}
