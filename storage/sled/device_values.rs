//! The stored forms of keys, lists of devices, and what is queued for other servers about them.
//! May not: change what a version that was ever written means; a new meaning is a new version.

use ruma::{OwnedDeviceId, OwnedUserId};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    device_keys::{FallbackKey, PublishedKey, RemoteKeys},
    outbox::EduContent,
};

use crate::fields::{FieldReader, FieldWriter, StoredForm};
use crate::values::parsed;

/// A key for one use.
impl StoredForm for PublishedKey {
    const NAME: &'static str = "published key";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(&self.algorithm);
        fields.text(&self.key_id);
        fields.text(&self.key);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            algorithm: fields.text()?.to_owned(),
            key_id: fields.text()?.to_owned(),
            key: fields.text()?.to_owned(),
        })
    }
}

impl StoredForm for FallbackKey {
    const NAME: &'static str = "fallback key";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        self.key.write(fields);
        fields.flag(self.is_used);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self { key: PublishedKey::read(version, fields)?, is_used: fields.flag()? })
    }
}

/// Where a user's list stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceListValue {
    pub(crate) changed_at: u64,
    /// Of the newest news that other servers were to hear.
    pub(crate) stream_id: Option<u64>,
}

impl StoredForm for DeviceListValue {
    const NAME: &'static str = "device list";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.number(self.changed_at);
        fields.optional(self.stream_id, FieldWriter::number);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self { changed_at: fields.number()?, stream_id: fields.optional(FieldReader::number)? })
    }
}

impl StoredForm for RemoteKeys {
    const NAME: &'static str = "keys of a remote user";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.number(self.as_of.0);
        fields.text(&self.keys);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self { as_of: StreamPosition(fields.number()?), keys: fields.text()?.to_owned() })
    }
}

impl StoredForm for EduContent {
    const NAME: &'static str = "queued EDU";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        match self {
            Self::Whole(edu) => {
                fields.byte(0);
                fields.text(edu);
            }
            Self::DeviceList { user_id, device_id, stream_id, previous } => {
                fields.byte(1);
                fields.text(user_id.as_str());
                fields.text(device_id.as_str());
                fields.number(*stream_id);
                fields.optional(*previous, FieldWriter::number);
            }
            Self::SigningKeys { user_id } => {
                fields.byte(2);
                fields.text(user_id.as_str());
            }
        }
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        let user_id = |fields: &mut FieldReader<'_>| -> Option<OwnedUserId> { parsed(fields.text()?) };
        match fields.byte()? {
            0 => Some(Self::Whole(fields.text()?.to_owned())),
            1 => Some(Self::DeviceList {
                user_id: user_id(fields)?,
                device_id: OwnedDeviceId::from(fields.text()?),
                stream_id: fields.number()?,
                previous: fields.optional(FieldReader::number)?,
            }),
            2 => Some(Self::SigningKeys { user_id: user_id(fields)? }),
            _ => None,
        }
    }
}
