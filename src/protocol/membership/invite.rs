//! An invite from another server for a user of ours: shaped, signed, and only then cosigned.
//! May not: sign what was not judged here first; an invite is all that another server may ever have us sign on sight.
//!
//! Servers that sign any member event on this road can be made to forge: the checks and our signature are therefore one line
//! of types, [`InviteShape`] → [`SignedInvite`] → [`CosignedInvite`], and each is made from the one before it alone.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, EventId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState, signatures::PublicKeyMap,
};

use super::{InviteRefusal, handshake::MemberBody};
use crate::{
    clock::UnixMillis,
    pdu::{
        Pdu,
        checks::{CosignError, ShapedPdu, VerifiedPdu},
    },
    room_version::RoomVersion,
    signing::Identity,
};

/// What the request says that the body must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Invitation<'a> {
    /// The version of the room, as the request names it.
    pub version: &'a RoomVersion,
    /// The room in the path.
    pub room_id: &'a RoomId,
    /// The event id in the path.
    pub event_id: &'a EventId,
    /// The server that signed the request.
    pub origin: &'a ServerName,
    /// We.
    pub our_name: &'a ServerName,
    /// Our clock.
    pub now: UnixMillis,
}

impl<'a> Invitation<'a> {
    fn body(&self) -> MemberBody<'a> {
        let Self { version, room_id, event_id, origin, now, .. } = *self;
        MemberBody { version, room_id, event_id, origin, membership: MembershipState::Invite, now }
    }
}

/// An invite that has the right structure. Nothing is known of its author yet.
#[derive(Debug)]
pub struct InviteShape {
    shaped: ShapedPdu,
    version: RoomVersion,
    origin: OwnedServerName,
    target: OwnedUserId,
}

impl InviteShape {
    /// Judges the structure: format, room, id, type, state key, membership, sender, target, time.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>
    ///
    /// # Errors
    /// The first [`InviteRefusal`] in that order; nothing was changed.
    pub fn parse(object: CanonicalJsonObject, expected: &Invitation<'_>) -> Result<Self, InviteRefusal> {
        let body = expected.body();
        let shaped = body.shape(object)?;
        let pdu = shaped.pdu();
        if !expected.version.fits_room_id(pdu.room_id()) {
            return Err(InviteRefusal::BadFormat { what: "room_id is not of this room version".to_owned() });
        }
        let state_key = body.check_agreement(pdu)?;
        let target = UserId::parse(state_key).map_err(|_| InviteRefusal::NotOurUser)?;
        if target.server_name() != expected.our_name {
            return Err(InviteRefusal::NotOurUser);
        }
        body.check_time(pdu)?;
        Ok(Self { shaped, version: expected.version.clone(), origin: expected.origin.to_owned(), target })
    }

    /// The event, author unknown.
    pub fn pdu(&self) -> &Pdu {
        self.shaped.pdu()
    }

    /// Who is invited: a user id of our server, whether or not we have such a user.
    pub fn target(&self) -> &UserId {
        &self.target
    }

    /// Whose signatures, under which key ids, must be checked: bring the keys that are valid at the event's time. The calling
    /// server is always among them, also for an invite that a third-party token stands for.
    ///
    /// # Errors
    /// [`InviteRefusal::SignatureInvalid`] when the event does not say who should have signed.
    pub fn required_signatures(&self) -> Result<BTreeMap<OwnedServerName, BTreeSet<String>>, InviteRefusal> {
        let mut required = self
            .shaped
            .required_signatures()
            .map_err(|error| InviteRefusal::SignatureInvalid { why: error.to_string() })?;
        required.entry(self.origin.clone()).or_insert_with(|| self.shaped.key_ids_of(&self.origin));
        Ok(required)
    }

    /// Verifies signatures and hash: the costly step, last.
    ///
    /// # Errors
    /// [`InviteRefusal::SignatureInvalid`].
    pub fn verify(self, keys: &PublicKeyMap) -> Result<SignedInvite, InviteRefusal> {
        let verified = self
            .shaped
            .verify_with_signer(&self.origin, keys)
            .map_err(|error| InviteRefusal::SignatureInvalid { why: error.to_string() })?;
        Ok(SignedInvite { verified, version: self.version, origin: self.origin, target: self.target })
    }
}

/// An invite that the inviter's server signed and handed to us itself. Made only by [`InviteShape::verify`].
#[derive(Debug)]
pub struct SignedInvite {
    verified: VerifiedPdu,
    version: RoomVersion,
    origin: OwnedServerName,
    target: OwnedUserId,
}

impl SignedInvite {
    /// The event.
    pub fn pdu(&self) -> &Arc<Pdu> {
        self.verified.pdu()
    }

    /// Adds our signature: we have the invite. Before calling, be sure that the user exists and that what came with it about
    /// the room was judged.
    ///
    /// # Errors
    /// [`InviteRefusal::TooLarge`] if there is no room for a signature, [`InviteRefusal::NotCosigned`] if signing failed.
    pub fn cosign(self, identity: &Identity) -> Result<CosignedInvite, InviteRefusal> {
        let pdu = self.verified.cosign(&self.version, identity).map_err(|error| match error {
            CosignError::TooLarge => InviteRefusal::TooLarge,
            CosignError::NotSigned(why) => InviteRefusal::NotCosigned { why },
        })?;
        Ok(CosignedInvite { pdu: Arc::new(pdu), origin: self.origin, target: self.target })
    }
}

/// An invite with the signatures of both servers. Made only by [`SignedInvite::cosign`].
#[derive(Clone, Debug)]
pub struct CosignedInvite {
    pdu: Arc<Pdu>,
    origin: OwnedServerName,
    target: OwnedUserId,
}

impl CosignedInvite {
    /// The event, with both signatures: what the endpoint answers.
    pub fn pdu(&self) -> &Arc<Pdu> {
        &self.pdu
    }

    /// The server that brought it.
    pub fn origin(&self) -> &ServerName {
        &self.origin
    }

    /// Who is invited.
    pub fn target(&self) -> &UserId {
        &self.target
    }
}
