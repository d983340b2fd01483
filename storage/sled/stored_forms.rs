//! Every stored form with its example, as bytes that are read and written again: for the proofs, which fuzz them.
//! May not: be part of the program. It exists under `cfg(test)` and the feature `testing`.

use vestibule_storage::{
    accounts::{Alias, Device, User},
    device_keys::{FallbackKey, PublishedKey, RemoteKeys},
    outbox::EduContent,
    room::{Decision, OutOfBand, PendingKnock},
    server_keys::StoredServerKeys,
};

use crate::{
    account_values::{AccountDataValue, TokenValue},
    device_values::DeviceListValue,
    fields::StoredForm,
    peer_values::OutboxValue,
    receipt_values::ReceiptValue,
    record,
    values::{
        CounterValue, EventValue, MembershipValue, OrderValue, PointerValue, RoomValue, StatePartValue, TextValue,
    },
};

/// Something that is stored.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// What the example is called.
    pub name: &'static str,
    /// An example, as hexadecimal digits in lines.
    pub example: &'static str,
    /// Reads bytes and writes what they say. `None`: they are refused.
    pub rewrite: fn(&[u8]) -> Option<Vec<u8>>,
    /// Whether it is written like this still. What an earlier version wrote is only read.
    pub is_newest: bool,
}

fn rewrite<T: StoredForm>(bytes: &[u8]) -> Option<Vec<u8>> {
    T::from_bytes(bytes).ok().map(|value| value.to_bytes())
}

fn rewrite_record(bytes: &[u8]) -> Option<Vec<u8>> {
    record::decode(bytes).map(|changes| record::encode(&changes))
}

macro_rules! form {
    ($name:literal, $rewrite:expr) => {
        Form {
            name: $name,
            example: include_str!(concat!("frozen/", $name, ".hex")),
            rewrite: $rewrite,
            is_newest: true,
        }
    };
}

/// All of them, the journal's record first.
pub const FORMS: [Form; 31] = [
    form!("record.v1", rewrite_record),
    form!("counter.v1", rewrite::<CounterValue>),
    form!("pointer.v1", rewrite::<PointerValue>),
    form!("text.v1", rewrite::<TextValue>),
    form!("order.v1", rewrite::<OrderValue>),
    form!("room.v1", rewrite::<RoomValue>),
    form!("event.v1", rewrite::<EventValue>),
    form!("state_version.v1", rewrite::<StatePartValue>),
    form!("membership.v1", rewrite::<MembershipValue>),
    form!("knock.v1", rewrite::<PendingKnock>),
    form!("decision.v1", rewrite::<Decision>),
    form!("outbox.v1", rewrite::<OutboxValue>),
    form!("outbox_transaction.v1", rewrite::<OutboxValue>),
    form!("outbox_invite.v1", rewrite::<OutboxValue>),
    form!("receipt.v1", rewrite::<ReceiptValue>),
    Form { is_newest: false, ..form!("out_of_band.v1", rewrite::<OutOfBand>) },
    form!("out_of_band.v2", rewrite::<OutOfBand>),
    form!("out_of_band_of_knock.v2", rewrite::<OutOfBand>),
    form!("user.v1", rewrite::<User>),
    form!("device.v1", rewrite::<Device>),
    form!("token.v1", rewrite::<TokenValue>),
    form!("account_data.v1", rewrite::<AccountDataValue>),
    form!("alias.v1", rewrite::<Alias>),
    form!("server_keys.v1", rewrite::<StoredServerKeys>),
    form!("published_key.v1", rewrite::<PublishedKey>),
    form!("fallback_key.v1", rewrite::<FallbackKey>),
    form!("device_list.v1", rewrite::<DeviceListValue>),
    form!("remote_keys.v1", rewrite::<RemoteKeys>),
    form!("edu.v1", rewrite::<EduContent>),
    form!("edu_device_list.v1", rewrite::<EduContent>),
    form!("edu_signing_keys.v1", rewrite::<EduContent>),
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_frozen_example_has_its_form() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("frozen");
        let files: BTreeSet<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".hex").to_owned())
            .collect();
        assert_eq!(files, FORMS.iter().map(|form| form.name.to_owned()).collect());
    }
}
