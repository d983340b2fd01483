//! The body of `send_knock` and `send_leave`: shaped, then signed, before any room is asked.
//! May not: look at a room's state; structure is judged before authorization, so that a bad body gets the same answer everywhere.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedServerName, RoomId, ServerName,
    events::{TimelineEventType, room::member::MembershipState},
    signatures::PublicKeyMap,
};

use super::HandshakeRefusal;
use crate::{
    clock::UnixMillis,
    pdu::{
        Pdu,
        checks::{ShapeRefusal, ShapedPdu, VerifiedPdu},
    },
    room_version::RoomVersion,
};

/// Bytes of the content of a knock or leave at our door. Ours (SECURITY T4): a reason, a name and an avatar need no more.
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

/// A body that has the right structure. Nothing is known of its author yet.
#[derive(Debug)]
pub struct HandshakeShape {
    shaped: ShapedPdu,
    origin: OwnedServerName,
    kind: HandshakeKind,
}

impl HandshakeShape {
    /// Judges the structure, in the order of SPEC 2.6.
    ///
    /// # Errors
    /// [`HandshakeRefusal`]; nothing was changed.
    pub fn parse(object: CanonicalJsonObject, expected: &Handshake<'_>) -> Result<Self, HandshakeRefusal> {
        let content_bytes =
            object.get("content").and_then(|content| serde_json::to_string(content).ok()).map(|text| text.len());
        let shaped = ShapedPdu::parse(object, expected.version).map_err(|refusal| match refusal {
            ShapeRefusal::TooLarge => HandshakeRefusal::TooLarge,
            ShapeRefusal::BadFormat(what) => HandshakeRefusal::BadFormat { what },
        })?;
        let pdu = shaped.pdu();
        if content_bytes.is_none_or(|bytes| bytes > HANDSHAKE_CONTENT_BYTES_MAX) {
            return Err(HandshakeRefusal::ContentTooLarge);
        }
        if pdu.room_id() != expected.room_id {
            return Err(HandshakeRefusal::RoomMismatch);
        }
        if pdu.event_id() != expected.event_id {
            return Err(HandshakeRefusal::EventIdMismatch);
        }
        if *pdu.kind() != TimelineEventType::RoomMember {
            return Err(HandshakeRefusal::NotAMemberEvent);
        }
        let state_key = pdu.state_key().ok_or(HandshakeRefusal::NotAStateEvent)?;
        let wanted = match expected.kind {
            HandshakeKind::Knock => MembershipState::Knock,
            HandshakeKind::Leave => MembershipState::Leave,
        };
        if pdu.membership() != Some(wanted) {
            return Err(HandshakeRefusal::WrongMembership);
        }
        if pdu.sender_server() != expected.origin {
            return Err(HandshakeRefusal::SenderNotOfOrigin);
        }
        if state_key != pdu.sender().as_str() {
            return Err(HandshakeRefusal::StateKeyMismatch);
        }
        if pdu.origin_server_ts() > expected.now.plus(TIMESTAMP_AHEAD_MAX) {
            return Err(HandshakeRefusal::TimestampAhead);
        }
        Ok(Self { shaped, origin: expected.origin.to_owned(), kind: expected.kind })
    }

    /// The event, author unknown.
    pub fn pdu(&self) -> &Pdu {
        self.shaped.pdu()
    }

    /// Whose signatures, under which key ids, must be checked: bring the keys that are valid at the event's time.
    ///
    /// # Errors
    /// [`HandshakeRefusal::SignatureInvalid`] when the event does not say who should have signed.
    pub fn required_signatures(&self) -> Result<BTreeMap<OwnedServerName, BTreeSet<String>>, HandshakeRefusal> {
        self.shaped.required_signatures().map_err(|error| HandshakeRefusal::SignatureInvalid { why: error.to_string() })
    }

    /// Verifies signatures and hash: the costly step, last.
    ///
    /// # Errors
    /// [`HandshakeRefusal::SignatureInvalid`].
    pub fn verify(self, keys: &PublicKeyMap) -> Result<SignedHandshake, HandshakeRefusal> {
        let verified =
            self.shaped.verify(keys).map_err(|error| HandshakeRefusal::SignatureInvalid { why: error.to_string() })?;
        Ok(SignedHandshake { verified, origin: self.origin, kind: self.kind })
    }
}

/// A knock or a leave that its sender's server signed and handed to us itself.
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

/// The content of a member event that a server builds for a user: what the client gave, and the membership.
pub fn member_content(mut content: CanonicalJsonObject, membership: &MembershipState) -> CanonicalJsonObject {
    // Never let the key of restricted joins into anything but a join: versions 8+ demand that server's signature for it.
    if *membership != MembershipState::Join {
        content.remove("join_authorised_via_users_server");
    }
    content.insert("membership".to_owned(), CanonicalJsonValue::String(membership.to_string()));
    content
}
