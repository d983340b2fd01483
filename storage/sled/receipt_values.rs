//! The stored form of a receipt.
//! May not: change what a version that was ever written means; a new meaning is a new version.

use ruma::OwnedEventId;
use vestibule_protocol::clock::UnixMillis;

use crate::fields::{FieldReader, FieldWriter, StoredForm};
use crate::values::parsed;

/// A receipt; its key says in which room and slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceiptValue {
    pub(crate) event_id: OwnedEventId,
    pub(crate) at: UnixMillis,
    pub(crate) position: u64,
}

impl StoredForm for ReceiptValue {
    const NAME: &'static str = "receipt";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.event_id.as_str());
        fields.number(self.at.0);
        fields.number(self.position);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self { event_id: parsed(fields.text()?)?, at: UnixMillis(fields.number()?), position: fields.number()? })
    }
}
