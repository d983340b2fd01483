//! The one gate that every event of another server passes, whatever route brought it: format, keys, signatures, hash.
//! May not: let an event through on anybody's word, or judge what rooms judge.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, steps 1 to 3; SECURITY V17.

use ruma::CanonicalJsonObject;
use thiserror::Error;
use vestibule_protocol::{
    pdu::checks::{ShapeRefusal, ShapedPdu, SignatureRefusal, VerifiedPdu},
    room_version::RoomVersion,
};

use super::Federation;

/// Why an event does not pass the gate.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It is no event of the room's version.
    #[error(transparent)]
    Shape(ShapeRefusal),
    /// A signature that it needs is missing or wrong, or its key cannot be had.
    #[error(transparent)]
    Signature(SignatureRefusal),
}

impl Federation {
    /// Judges format and size, gets the keys, verifies signatures and hash.
    ///
    /// # Errors
    /// [`VerifyError`]; the event is to be dropped.
    pub async fn verify_pdu(
        &self,
        object: CanonicalJsonObject,
        version: &RoomVersion,
    ) -> Result<VerifiedPdu, VerifyError> {
        let shaped = ShapedPdu::parse(object, version).map_err(VerifyError::Shape)?;
        let required = shaped.required_signatures().map_err(VerifyError::Signature)?;
        let signed_at = shaped.pdu().origin_server_ts();
        let keys = self.inner.keyring.keys_of_event(&required, version, signed_at).await;
        shaped.verify(&keys).map_err(VerifyError::Signature)
    }
}
