//! From what a client names to a room, whether the room lives here, and which servers may be asked about it if not.
//! May not: decide who may enter, or ask another server for more than what an alias of its stands for.

use std::collections::BTreeSet;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use vestibule_actors::AskError;
use vestibule_protocol::membership::KnockRefusal;
use vestibule_storage::{error::StorageError, room::RoomReader};

use crate::{error::MatrixError, extract::ClientAddress, state::App};

/// Servers named to whoever asks them. Ours: more than are tried for one request.
const SERVERS_MAX: usize = 20;

/// A room, and which servers are said to be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomAddress {
    /// The room.
    pub room_id: OwnedRoomId,
    /// What the client says.
    via: Vec<OwnedServerName>,
    /// What the server of the alias says.
    of_alias: Vec<OwnedServerName>,
}

impl RoomAddress {
    /// A room by its id, and the servers that the client names.
    pub fn of_room(room_id: OwnedRoomId, via: Vec<OwnedServerName>) -> Self {
        Self { room_id, via, of_alias: Vec::new() }
    }

    /// The room that an id or an alias names. An alias of another server is looked up there.
    ///
    /// # Errors
    /// As [`resolve_alias`].
    pub async fn resolve(
        app: &App,
        address: ClientAddress,
        named: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
    ) -> Result<Self, MatrixError> {
        match <&RoomAliasId>::try_from(named) {
            Ok(alias) => {
                let found = resolve_alias(app, address, alias).await?;
                Ok(Self { room_id: found.room_id, via, of_alias: found.servers })
            }
            Err(room_id) => Ok(Self::of_room(room_id.to_owned(), via)),
        }
    }

    /// The servers to ask for the room, the likeliest first, each once, and we not among them.
    ///
    /// After what the client says comes who took the user's knock or sent the invite, since that server is known to be
    /// inside; then what the alias's server says, and who was inside when the last of ours left. The domain of the id is the
    /// last resort: it says who made the room, not who is in it.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when nobody is known who could be asked.
    pub async fn servers(&self, app: &App, user_id: &UserId) -> Result<Vec<OwnedServerName>, MatrixError> {
        let rooms = &*app.stores.rooms;
        let row = rooms.out_of_band_of(user_id, &self.room_id).await?;
        let of_row = row.map(|row| row.via).unwrap_or_default();
        let of_copy = joined_servers(rooms, &self.room_id).await?;
        let of_id = self.room_id.server_name().map(ToOwned::to_owned);
        let known = self.via.iter().chain(&of_row).chain(&self.of_alias).chain(&of_copy).chain(&of_id);
        let servers = distinct(known, |server| !app.is_ours(server) && !app.settings.denied_servers.holds(server));
        if servers.is_empty() { Err(MatrixError::room_not_here()) } else { Ok(servers) }
    }

    /// Whether users of other servers are in the room, as far as is stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_others(&self, app: &App) -> Result<bool, MatrixError> {
        let servers = joined_servers(&*app.stores.rooms, &self.room_id).await?;
        Ok(servers.iter().any(|server| !app.is_ours(server)))
    }
}

/// The servers with members in the stored copy of a room, in the order of their names. Empty when there is no copy.
async fn joined_servers(rooms: &dyn RoomReader, room_id: &RoomId) -> Result<BTreeSet<OwnedServerName>, StorageError> {
    let members = rooms.current_state_of_type(room_id, &StateEventType::RoomMember).await?;
    let joined = members.iter().filter(|member| member.event.membership() == Some(MembershipState::Join));
    let users = joined.filter_map(|member| UserId::parse(member.event.state_key()?).ok());
    Ok(users.map(|user_id| user_id.server_name().to_owned()).collect())
}

/// Each server once, in their order, of those that may be asked.
fn distinct<'a>(
    servers: impl Iterator<Item = &'a OwnedServerName>,
    may_be_asked: impl Fn(&ServerName) -> bool,
) -> Vec<OwnedServerName> {
    let mut distinct: Vec<OwnedServerName> = Vec::new();
    for server in servers {
        if distinct.len() >= SERVERS_MAX {
            break;
        }
        if may_be_asked(server) && !distinct.contains(server) {
            distinct.push(server.clone());
        }
    }
    distinct
}

/// What an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAlias {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that are in it, as the alias's server says.
    pub servers: Vec<OwnedServerName>,
}

/// The room of an alias: of ours from the store, of another server's by asking it.
///
/// # Errors
/// 404 `M_NOT_FOUND` for an alias that nobody made; 429 when too much is looked up from `address`; what the other server says.
pub async fn resolve_alias(app: &App, address: ClientAddress, alias: &RoomAliasId) -> Result<FoundAlias, MatrixError> {
    if app.is_ours(alias.server_name()) {
        let found = app.stores.accounts.alias(alias).await?;
        let found = found.ok_or_else(|| MatrixError::not_found("unknown alias"))?;
        return Ok(FoundAlias { room_id: found.room_id, servers: vec![app.server_name().to_owned()] });
    }
    may_query(app, address, alias.server_name())?;
    let found = app.federation.resolve_alias(alias).await?;
    Ok(FoundAlias { room_id: found.room_id, servers: found.servers })
}

/// Lets a client make us ask another server, which costs both of us look-ups and requests.
///
/// # Errors
/// 403 for a server that we do not deal with; 429 when too much is asked from `address`.
pub fn may_query(app: &App, address: ClientAddress, server: &ServerName) -> Result<(), MatrixError> {
    if app.settings.denied_servers.holds(server) {
        return Err(MatrixError::forbidden("this server does not deal with that one"));
    }
    app.limits.queries_by_address.take(&address.for_limits(), &*app.clock)
}

/// Whether the room's life goes on here: somebody of ours is in it, or nobody at all is, so that what is stored is all there
/// is. A copy that everybody of ours left, while others stayed, says nothing about the room as it is now.
///
/// # Errors
/// When the store or the room fails.
pub async fn lives_here(app: &App, room_id: &RoomId) -> Result<bool, MatrixError> {
    let Some(room) = app.stores.rooms.room(room_id).await? else { return Ok(false) };
    if room.counts.join == 0 {
        return Ok(true);
    }
    match app.rooms.check_door(room_id, app.server_name()).await {
        // What the room's ACL says of us is for others to judge.
        Ok(_) | Err(AskError::Refused(KnockRefusal::ServerDenied)) => Ok(true),
        Err(AskError::Refused(KnockRefusal::ServerNotInRoom) | AskError::RoomNotHere) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Says 404 unless the room is stored.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub async fn require_stored(app: &App, room_id: &RoomId) -> Result<(), MatrixError> {
    app.stores.rooms.room(room_id).await?.map(|_| ()).ok_or_else(MatrixError::room_not_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_asked_once_in_order_and_not_without_end() {
        let names: Vec<OwnedServerName> =
            ["b", "us", "a", "b", "a:80", "a"].iter().map(|name| (*name).try_into().unwrap()).collect();
        let found = distinct(names.iter(), |server| server != "us");
        assert_eq!(found, ["b", "a", "a:80"]);
        let many: Vec<OwnedServerName> = (0..100).map(|number| format!("s{number}").try_into().unwrap()).collect();
        assert_eq!(distinct(many.iter(), |_| true).len(), SERVERS_MAX);
    }
}
