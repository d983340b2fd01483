//! What may happen to keys, lists of devices and inboxes in the property test.
//! May not: hold a real key.

use std::collections::BTreeSet;

use proptest::{prelude::Strategy, sample::select};
use ruma::{OwnedServerName, OwnedUserId};
use vestibule_protocol::stream::StreamPosition;

use super::{
    super::fixture::{local, remote},
    steps::{DEVICES, NAMES, SERVERS},
};
use crate::device_keys::{KeyChange, KeySignature, KeyUsage, ListNews, MessageSource, PublishedKey, RemoteKeys};

#[derive(Clone, Copy, Debug)]
pub(super) enum KeyStep {
    NameDevice,
    PutDeviceKeys,
    AddOneTimeKeys,
    ClaimOneTimeKey,
    PutFallbackKey,
    UseFallbackKey,
    PutCrossSigningKey,
    PutSignature,
    ChangeListHere,
    ChangeListThere,
    PutRemoteKeys,
    SendToDevice,
    AcknowledgeToDevice,
    SeeMessageOfDevice,
    SeeMessageOfServer,
    SendEdu,
}

/// Draws one.
pub(super) fn key_step() -> impl Strategy<Value = KeyStep> {
    select(vec![
        KeyStep::NameDevice,
        KeyStep::PutDeviceKeys,
        KeyStep::AddOneTimeKeys,
        KeyStep::AddOneTimeKeys,
        KeyStep::ClaimOneTimeKey,
        KeyStep::PutFallbackKey,
        KeyStep::UseFallbackKey,
        KeyStep::PutCrossSigningKey,
        KeyStep::PutSignature,
        KeyStep::ChangeListHere,
        KeyStep::ChangeListThere,
        KeyStep::PutRemoteKeys,
        KeyStep::SendToDevice,
        KeyStep::SendToDevice,
        KeyStep::AcknowledgeToDevice,
        KeyStep::SeeMessageOfDevice,
        KeyStep::SeeMessageOfServer,
        KeyStep::SendEdu,
    ])
}

/// The change that a step stands for, after so many commits. A number below 4 chooses among what there may be.
pub(super) fn key_change(user: usize, number: u8, step: KeyStep, newest: StreamPosition) -> KeyChange {
    let user_id = local(NAMES[user]);
    let choice = usize::from(number);
    let device_id = DEVICES[choice % DEVICES.len()].into();
    let past = StreamPosition(newest.0.saturating_sub(number.into()));
    let key = |number: usize| PublishedKey {
        algorithm: ["signed_curve25519", "other"][number % 2].to_owned(),
        key_id: number.to_string(),
        key: format!("\"{number} after {newest:?}\""),
    };
    let PublishedKey { algorithm, key_id, .. } = key(choice);
    match step {
        KeyStep::NameDevice => {
            let display_name = (number > 0).then(|| format!("number {number}"));
            KeyChange::NameDevice { user_id, device_id, display_name }
        }
        KeyStep::PutDeviceKeys => {
            KeyChange::PutDeviceKeys { user_id, device_id, keys: format!("{{\"n\":{newest:?}}}") }
        }
        KeyStep::AddOneTimeKeys => {
            let keys = vec![key(choice), key(choice + 1), key(choice)];
            KeyChange::AddOneTimeKeys { user_id, device_id, keys }
        }
        KeyStep::ClaimOneTimeKey => KeyChange::ClaimOneTimeKey { user_id, device_id, algorithm, key_id },
        KeyStep::PutFallbackKey => KeyChange::PutFallbackKey { user_id, device_id, key: key(choice) },
        KeyStep::UseFallbackKey => KeyChange::UseFallbackKey { user_id, device_id, algorithm, key_id },
        KeyStep::PutCrossSigningKey => {
            let usage = [KeyUsage::Master, KeyUsage::SelfSigning, KeyUsage::UserSigning][choice % 3];
            KeyChange::PutCrossSigningKey { user_id, usage, key: format!("\"{newest:?}\"") }
        }
        KeyStep::PutSignature => KeyChange::PutSignature(KeySignature {
            target: [user_id.clone(), remote(NAMES[user])][choice / 2].clone(),
            target_key: ["PHONE", "master"][choice % 2].to_owned(),
            signer: user_id,
            key_id: "ed25519:x".to_owned(),
            signature: format!("{newest:?}"),
        }),
        KeyStep::ChangeListHere => {
            let destinations = servers(choice);
            let news = [
                ListNews::Untold,
                ListNews::Device { device_id, destinations: destinations.clone() },
                ListNews::SigningKeys { destinations },
            ];
            KeyChange::ListChanged { user_id, wakes: wakes(user), news: news[choice % 3].clone() }
        }
        KeyStep::ChangeListThere => {
            KeyChange::ListChanged { user_id: remote(NAMES[user]), wakes: wakes(user), news: ListNews::Untold }
        }
        KeyStep::PutRemoteKeys => {
            let keys = RemoteKeys { keys: format!("{{\"n\":{number}}}"), as_of: past };
            KeyChange::PutRemoteKeys { user_id: remote(NAMES[user]), keys }
        }
        KeyStep::SendToDevice => KeyChange::SendToDevice { user_id, device_id, event: format!("{{\"n\":{number}}}") },
        KeyStep::AcknowledgeToDevice => KeyChange::AcknowledgeToDevice { user_id, device_id, up_to: past },
        KeyStep::SeeMessageOfDevice => {
            KeyChange::SeeMessage { source: MessageSource::Device(user_id, device_id), message_id: number.to_string() }
        }
        KeyStep::SeeMessageOfServer => {
            let source = MessageSource::Server(SERVERS[user % SERVERS.len()].try_into().unwrap());
            KeyChange::SeeMessage { source, message_id: number.to_string() }
        }
        KeyStep::SendEdu => KeyChange::SendEdu { destinations: servers(choice), edu: format!("{{\"n\":{number}}}") },
    }
}

/// Some of the servers: none, one of two, or both.
fn servers(choice: usize) -> BTreeSet<OwnedServerName> {
    let chosen = SERVERS.iter().enumerate().filter(|(index, _)| choice & (1 << index) != 0);
    chosen.map(|(_, server)| (*server).try_into().unwrap()).collect()
}

fn wakes(user: usize) -> BTreeSet<OwnedUserId> {
    NAMES[user..].iter().map(|name| local(name)).collect()
}
