//! The body of `send_knock`, `send_leave` and `send_join`: shaped, then signed, before any room is asked.
//! May not: look at a room's state; structure is judged before authorization, so that a bad body gets the same answer everywhere.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    signatures::PublicKeyMap,
};
use serde::Deserialize;

use super::{HandshakeRefusal, JoinRefusal};
use crate::{
    clock::UnixMillis,
    pdu::{
        Pdu,
        checks::{CosignError, ShapeRefusal, ShapedPdu, VerifiedPdu},
    },
    room_version::RoomVersion,
    signing::Identity,
};

/// The key of a join in a restricted room that names who vouches for it.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v8/#authorization-rules>
const AUTHORIZING_USER: &str = "join_authorised_via_users_server";

/// Bytes of the content of a member event at our door. Ours (SECURITY T4): a reason, a name and an avatar need no more.
pub const HANDSHAKE_CONTENT_BYTES_MAX: usize = 4_096;

/// How far `origin_server_ts` may lie ahead of our clock at our door. Ours (SECURITY T13).
pub const TIMESTAMP_AHEAD_MAX: Duration = Duration::from_hours(24);

/// Which endpoint the body came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeKind {
    /// `send_knock`.
    Knock,
    /// `send_leave`.
    Leave,
    /// `send_join`.
    Join,
}

/// What the request says that the body must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// The endpoint.
    pub kind: HandshakeKind,
    /// The version of the room in the path, from the create event that we hold.
    pub version: &'a RoomVersion,
    /// The room in the path.
    pub room_id: &'a RoomId,
    /// The event id in the path.
    pub event_id: &'a EventId,
    /// The server that signed the request.
    pub origin: &'a ServerName,
    /// Our clock.
    pub now: UnixMillis,
}

impl<'a> Handshake<'a> {
    fn body(&self) -> MemberBody<'a> {
        let membership = match self.kind {
            HandshakeKind::Knock => MembershipState::Knock,
            HandshakeKind::Leave => MembershipState::Leave,
            HandshakeKind::Join => MembershipState::Join,
        };
        let Self { version, room_id, event_id, origin, now, .. } = *self;
        MemberBody { version, room_id, event_id, origin, membership, now }
    }
}

/// What all requests that bring a member event say about it, be it one of a handshake or an invite. The checks stand in the
/// order in which they are made; between them comes what an endpoint asks besides.
pub(super) struct MemberBody<'a> {
    pub(super) version: &'a RoomVersion,
    pub(super) room_id: &'a RoomId,
    pub(super) event_id: &'a EventId,
    pub(super) origin: &'a ServerName,
    pub(super) membership: MembershipState,
    pub(super) now: UnixMillis,
}

impl MemberBody<'_> {
    /// Judges format and sizes.
    pub(super) fn shape(&self, object: CanonicalJsonObject) -> Result<ShapedPdu, HandshakeRefusal> {
        let content_bytes = content_bytes(&object);
        let shaped = ShapedPdu::parse(object, self.version).map_err(|refusal| match refusal {
            ShapeRefusal::TooLarge | ShapeRefusal::FieldTooLong(_) => HandshakeRefusal::TooLarge,
            ShapeRefusal::BadFormat(what) => HandshakeRefusal::BadFormat { what },
        })?;
        if content_bytes.is_none_or(|bytes| bytes > HANDSHAKE_CONTENT_BYTES_MAX) {
            return Err(HandshakeRefusal::ContentTooLarge);
        }
        Ok(shaped)
    }

    /// Judges whether the event is what the request says: room, id, type, membership, sender's server. Gives the state key,
    /// of which each endpoint wants something else.
    pub(super) fn check_agreement<'p>(&self, pdu: &'p Pdu) -> Result<&'p str, HandshakeRefusal> {
        if pdu.room_id() != self.room_id {
            return Err(HandshakeRefusal::RoomMismatch);
        }
        if pdu.event_id() != self.event_id {
            return Err(HandshakeRefusal::EventIdMismatch);
        }
        if *pdu.kind() != TimelineEventType::RoomMember {
            return Err(HandshakeRefusal::NotAMemberEvent);
        }
        let state_key = pdu.state_key().ok_or(HandshakeRefusal::NotAStateEvent)?;
        if pdu.membership().as_ref() != Some(&self.membership) {
            return Err(HandshakeRefusal::WrongMembership);
        }
        if pdu.sender_server() != self.origin {
            return Err(HandshakeRefusal::SenderNotOfOrigin);
        }
        Ok(state_key)
    }

    /// Judges the time that the event claims.
    pub(super) fn check_time(&self, pdu: &Pdu) -> Result<(), HandshakeRefusal> {
        if pdu.origin_server_ts() > self.now.plus(TIMESTAMP_AHEAD_MAX) {
            return Err(HandshakeRefusal::TimestampAhead);
        }
        Ok(())
    }
}

/// A body that has the right structure. Nothing is known of its author yet.
#[derive(Debug)]
pub struct HandshakeShape {
    shaped: ShapedPdu,
    origin: OwnedServerName,
    kind: HandshakeKind,
    authorizing_user: Option<OwnedUserId>,
    /// Our own public key, once our signature is on it.
    cosigner: Option<PublicKeyMap>,
}

impl HandshakeShape {
    /// Judges the structure, in the order of SPEC 2.6.
    ///
    /// # Errors
    /// [`HandshakeRefusal`]; nothing was changed.
    pub fn parse(object: CanonicalJsonObject, expected: &Handshake<'_>) -> Result<Self, HandshakeRefusal> {
        let body = expected.body();
        let shaped = body.shape(object)?;
        let pdu = shaped.pdu();
        let state_key = body.check_agreement(pdu)?;
        if state_key != pdu.sender().as_str() {
            return Err(HandshakeRefusal::StateKeyMismatch);
        }
        let authorizing_user = match expected.kind {
            HandshakeKind::Join => authorizing_user_of(pdu, expected.version)?,
            HandshakeKind::Knock | HandshakeKind::Leave => None,
        };
        body.check_time(pdu)?;
        Ok(Self { shaped, origin: expected.origin.to_owned(), kind: expected.kind, authorizing_user, cosigner: None })
    }

    /// The event, author unknown.
    pub fn pdu(&self) -> &Pdu {
        self.shaped.pdu()
    }

    /// The user who vouches for a join in a restricted room, as the event says. Nobody is asked yet whether it is true.
    pub fn authorised_via(&self) -> Option<&UserId> {
        self.authorizing_user.as_deref()
    }

    /// Adds our signature to a join in a restricted room that a user of ours vouches for: the one thing besides an invite
    /// that we sign of another server's making. The event id stays, and [`HandshakeShape::verify`] then demands our signature
    /// and that of the joining user's server.
    ///
    /// What was judged here: structure, room, id, membership, that the joining user is of the calling server, and that the
    /// vouching user is ours. Before calling, be sure that the room's ACL lets the calling server in, and that the vouching
    /// user is in the room and may invite. Whether the join is let in the room decides afterwards, by the rules; a join that
    /// it refuses goes nowhere with our signature, because it is answered with an error alone.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>
    ///
    /// # Errors
    /// [`JoinRefusal::BadContent`] if nobody vouches for it, [`JoinRefusal::UnableToGrant`] if somebody of another server
    /// does, [`JoinRefusal::TooLarge`] if there is no room for a signature. Nothing was signed.
    pub fn cosign(&mut self, identity: &Identity) -> Result<(), JoinRefusal> {
        let Some(authorizing_user) = &self.authorizing_user else {
            return Err(JoinRefusal::BadContent { what: format!("{AUTHORIZING_USER} is missing") });
        };
        if authorizing_user.server_name() != identity.server_name() {
            return Err(JoinRefusal::UnableToGrant);
        }
        self.shaped.cosign(identity).map_err(|error| match error {
            CosignError::TooLarge => JoinRefusal::TooLarge,
            CosignError::NotSigned(what) => JoinRefusal::BadContent { what },
        })?;
        let key = identity.key();
        let own_key = BTreeMap::from([(key.key_id().to_string(), key.public_key_base64())]);
        self.cosigner = Some(BTreeMap::from([(identity.server_name().to_string(), own_key)]));
        Ok(())
    }

    /// Whose signatures, under which key ids, must be checked: bring the keys that are valid at the event's time. What we
    /// cosigned ourselves is not among them; [`HandshakeShape::verify`] has our key.
    ///
    /// # Errors
    /// [`HandshakeRefusal::SignatureInvalid`] when the event does not say who should have signed.
    pub fn required_signatures(&self) -> Result<BTreeMap<OwnedServerName, BTreeSet<String>>, HandshakeRefusal> {
        let mut required = self
            .shaped
            .required_signatures()
            .map_err(|error| HandshakeRefusal::SignatureInvalid { why: error.to_string() })?;
        if let Some(cosigner) = &self.cosigner {
            required.retain(|server, _| !cosigner.contains_key(server.as_str()));
        }
        Ok(required)
    }

    /// Verifies signatures and hash: the costly step, last.
    ///
    /// # Errors
    /// [`HandshakeRefusal::SignatureInvalid`].
    pub fn verify(self, keys: &PublicKeyMap) -> Result<SignedHandshake, HandshakeRefusal> {
        let verified = match self.cosigner {
            Some(mut all_keys) => {
                all_keys.extend(keys.iter().map(|(server, of_server)| (server.clone(), of_server.clone())));
                self.shaped.verify(&all_keys)
            }
            None => self.shaped.verify(keys),
        };
        let verified = verified.map_err(|error| HandshakeRefusal::SignatureInvalid { why: error.to_string() })?;
        Ok(SignedHandshake { verified, origin: self.origin, kind: self.kind })
    }
}

/// A knock, a leave or a join that its sender's server signed and handed to us itself.
#[derive(Debug)]
pub struct SignedHandshake {
    verified: VerifiedPdu,
    origin: OwnedServerName,
    kind: HandshakeKind,
}

impl SignedHandshake {
    /// The knock, if it is one.
    pub fn into_knock(self) -> Option<SignedKnock> {
        (self.kind == HandshakeKind::Knock).then_some(SignedKnock(self))
    }

    /// The leave, if it is one.
    pub fn into_leave(self) -> Option<SignedLeave> {
        (self.kind == HandshakeKind::Leave).then_some(SignedLeave(self))
    }

    /// The join, if it is one.
    pub fn into_join(self) -> Option<SignedJoin> {
        (self.kind == HandshakeKind::Join).then_some(SignedJoin(self))
    }
}

macro_rules! signed {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Debug)]
        pub struct $name(SignedHandshake);

        impl $name {
            /// The event.
            pub fn pdu(&self) -> &Arc<Pdu> {
                self.0.verified.pdu()
            }

            /// The server that brought it.
            pub fn origin(&self) -> &ServerName {
                &self.0.origin
            }
        }
    };
}

signed!(
    SignedKnock,
    "A knock whose structure and signatures were judged. Made only by [`SignedHandshake::into_knock`]."
);
signed!(
    SignedLeave,
    "A leave whose structure and signatures were judged. Made only by [`SignedHandshake::into_leave`]."
);
signed!(
    SignedJoin,
    "A join whose structure and signatures were judged: that of the joining user's server and, in a restricted room, that of \
     the vouching user's. Made only by [`SignedHandshake::into_join`]."
);

impl SignedJoin {
    /// The user who vouches for a join in a restricted room. `None` also when the content was changed on the way and the
    /// room version keeps nothing of this key.
    pub fn authorised_via(&self) -> Option<OwnedUserId> {
        authorizing_user_in(self.pdu())?.as_str().and_then(|user_id| UserId::parse(user_id).ok())
    }
}

/// Bytes of an event's content in canonical form. `None`: there is none.
fn content_bytes(object: &CanonicalJsonObject) -> Option<usize> {
    object.get("content").and_then(|content| serde_json::to_string(content).ok()).map(|text| text.len())
}

fn authorizing_user_in(join: &Pdu) -> Option<serde_json::Value> {
    #[derive(Deserialize)]
    struct Content {
        join_authorised_via_users_server: Option<serde_json::Value>,
    }
    join.content_as::<Content>().and_then(|content| content.join_authorised_via_users_server)
}

/// Who vouches for a join; only versions with restricted joins have that.
fn authorizing_user_of(join: &Pdu, version: &RoomVersion) -> Result<Option<OwnedUserId>, HandshakeRefusal> {
    let bad = |what: &str| HandshakeRefusal::BadFormat { what: format!("{AUTHORIZING_USER} {what}") };
    let Some(value) = authorizing_user_in(join) else {
        return Ok(None);
    };
    if !version.can_join_restricted() {
        return Err(bad("has no meaning in this room version"));
    }
    let user_id = value.as_str().and_then(|user_id| UserId::parse(user_id).ok());
    user_id.map(Some).ok_or_else(|| bad("must be a user id"))
}

/// The content of a member event that a server builds for a user: what the client gave, and the membership.
pub fn member_content(mut content: CanonicalJsonObject, membership: &MembershipState) -> CanonicalJsonObject {
    // Never let the key of restricted joins into anything but a join: versions 8+ demand that server's signature for it.
    if *membership != MembershipState::Join {
        content.remove(AUTHORIZING_USER);
    }
    content.insert("membership".to_owned(), CanonicalJsonValue::String(membership.to_string()));
    content
}
