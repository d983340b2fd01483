//! The stored forms of accounts, aliases and other servers' keys.
//! May not: change what a version that was ever written means; a new meaning is a new version.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId};
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::{
    accounts::{Alias, Device, User},
    server_keys::{StoredOldKey, StoredServerKeys},
};

use crate::fields::{FieldReader, FieldWriter, StoredForm};
use crate::values::parsed;

impl StoredForm for User {
    const NAME: &'static str = "user";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.user_id.as_str());
        fields.optional(self.password_hash.as_deref(), FieldWriter::text);
        fields.flag(self.is_admin);
        fields.flag(self.is_deactivated);
        fields.number(self.created_at.0);
        fields.texts(&self.profile);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            user_id: parsed(fields.text()?)?,
            password_hash: fields.optional(|fields| fields.text().map(str::to_owned))?,
            is_admin: fields.flag()?,
            is_deactivated: fields.flag()?,
            created_at: UnixMillis(fields.number()?),
            profile: fields.texts()?,
        })
    }
}

impl StoredForm for Device {
    const NAME: &'static str = "device";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.user_id.as_str());
        fields.text(self.device_id.as_str());
        fields.optional(self.display_name.as_deref(), FieldWriter::text);
        fields.hash(&self.token_hash);
        fields.number(self.created_at.0);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            user_id: parsed(fields.text()?)?,
            device_id: OwnedDeviceId::from(fields.text()?),
            display_name: fields.optional(|fields| fields.text().map(str::to_owned))?,
            token_hash: fields.hash()?,
            created_at: UnixMillis(fields.number()?),
        })
    }
}

/// Whose an access token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenValue {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
}

impl StoredForm for TokenValue {
    const NAME: &'static str = "token";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.user_id.as_str());
        fields.text(self.device_id.as_str());
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self { user_id: parsed(fields.text()?)?, device_id: OwnedDeviceId::from(fields.text()?) })
    }
}

/// Account data under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountDataValue {
    pub(crate) position: u64,
    pub(crate) content: String,
}

impl StoredForm for AccountDataValue {
    const NAME: &'static str = "account data";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.number(self.position);
        fields.text(&self.content);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self { position: fields.number()?, content: fields.text()?.to_owned() })
    }
}

impl StoredForm for Alias {
    const NAME: &'static str = "alias";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.alias.as_str());
        fields.text(self.room_id.as_str());
        fields.text(self.creator.as_str());
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            alias: parsed(fields.text()?)?,
            room_id: parsed(fields.text()?)?,
            creator: parsed(fields.text()?)?,
        })
    }
}

impl StoredForm for StoredServerKeys {
    const NAME: &'static str = "server keys";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.server_name.as_str());
        fields.length(self.verify_keys.len());
        for (key_id, key) in &self.verify_keys {
            fields.text(key_id.as_str());
            fields.text(key);
        }
        fields.length(self.old_verify_keys.len());
        for (key_id, key) in &self.old_verify_keys {
            fields.text(key_id.as_str());
            fields.text(&key.key);
            fields.number(key.expired_ts);
        }
        fields.number(self.valid_until_ts);
        fields.number(self.fetched_at_ms);
        fields.text(&self.signed_json);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        let server_name = parsed(fields.text()?)?;
        let count = fields.length()?;
        let mut verify_keys = BTreeMap::new();
        for _ in 0..count {
            verify_keys.insert(parsed(fields.text()?)?, fields.text()?.to_owned());
        }
        let count = fields.length()?;
        let mut old_verify_keys = BTreeMap::new();
        for _ in 0..count {
            let key_id = parsed(fields.text()?)?;
            old_verify_keys
                .insert(key_id, StoredOldKey { key: fields.text()?.to_owned(), expired_ts: fields.number()? });
        }
        Some(Self {
            server_name,
            verify_keys,
            old_verify_keys,
            valid_until_ts: fields.number()?,
            fetched_at_ms: fields.number()?,
            signed_json: fields.text()?.to_owned(),
        })
    }
}
