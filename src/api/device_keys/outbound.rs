//! Messages for devices of other servers' users, as EDUs that are queued until each server has taken them.
//! May not: send anything to our own users, or split a message.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use vestibule_storage::{accounts::AccountChange, device_keys::KeyChange};

use crate::state::Randomness;

/// Bytes of contents after which the next message goes into another EDU. Source: Synapse, which takes as many in an EDU.
const EDU_BYTES: usize = 64 * 1024;

/// Random bytes of a message id: 32 letters. Spec: at most 32 characters.
const MESSAGE_ID_BYTES: usize = 24;

/// By user and device, contents.
type Messages = BTreeMap<OwnedUserId, Map<String, Value>>;

/// What queues messages of a user of ours for other servers.
pub fn queue<'a>(
    sender: &UserId,
    kind: &str,
    messages: impl IntoIterator<Item = (&'a OwnedUserId, &'a Map<String, Value>)>,
    randomness: &dyn Randomness,
) -> Vec<AccountChange> {
    let mut by_server: BTreeMap<OwnedServerName, Vec<Messages>> = BTreeMap::new();
    let mut sizes: BTreeMap<OwnedServerName, usize> = BTreeMap::new();
    for (user_id, by_device) in messages {
        let server = user_id.server_name().to_owned();
        for (device_id, content) in by_device {
            let edus = by_server.entry(server.clone()).or_default();
            let size = sizes.entry(server.clone()).or_default();
            let bytes = content.to_string().len();
            if edus.is_empty() || size.saturating_add(bytes) > EDU_BYTES {
                edus.push(Messages::new());
                *size = 0;
            }
            *size = size.saturating_add(bytes);
            if let Some(last) = edus.last_mut() {
                last.entry(user_id.clone()).or_default().insert(device_id.clone(), content.clone());
            }
        }
    }
    let edus = by_server.into_iter().flat_map(|(server, edus)| edus.into_iter().map(move |edu| (server.clone(), edu)));
    let change = |(server, messages): (OwnedServerName, Messages)| {
        let mut drawn = [0; MESSAGE_ID_BYTES];
        randomness.fill(&mut drawn);
        let content = json!({
            "message_id": URL_SAFE_NO_PAD.encode(drawn), "messages": messages, "sender": sender, "type": kind,
        });
        let edu = json!({ "content": content, "edu_type": "m.direct_to_device" }).to_string();
        AccountChange::Keys(KeyChange::SendEdu { destinations: BTreeSet::from([server]), edu })
    };
    edus.map(change).collect()
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};

    use super::*;

    struct Fixed;

    impl Randomness for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }

    #[test]
    fn each_server_gets_its_own_in_edus_of_a_size() {
        let content = |letters: usize| json!({ "body": "x".repeat(letters) });
        let small = Map::from_iter([("A".to_owned(), content(1)), ("B".to_owned(), content(1))]);
        let large = Map::from_iter([("A".to_owned(), content(40_000)), ("B".to_owned(), content(40_000))]);
        let users = [
            (owned_user_id!("@a:there.test"), small.clone()),
            (owned_user_id!("@b:there.test"), small),
            (owned_user_id!("@c:other.test"), large),
        ];
        let pairs = users.iter().map(|(user_id, by_device)| (user_id, by_device));
        let changes = queue(user_id!("@ann:us.test"), "m.test", pairs, &Fixed);
        let edus = changes.into_iter().map(|change| match change {
            AccountChange::Keys(KeyChange::SendEdu { destinations, edu }) => {
                let edu: Value = serde_json::from_str(&edu).unwrap();
                assert_eq!(edu["content"]["message_id"].as_str().unwrap().len(), 32);
                (destinations.first().unwrap().to_string(), edu["content"]["messages"].clone())
            }
            other => panic!("{other:?}"),
        });
        let edus: Vec<(String, Value)> = edus.collect();
        assert_eq!(edus.len(), 3);
        assert_eq!(edus[0].1, json!({ "@c:other.test": { "A": content(40_000) } }));
        assert_eq!(edus[1].1, json!({ "@c:other.test": { "B": content(40_000) } }));
        assert_eq!(edus[2].0, "there.test");
        assert_eq!(edus[2].1["@b:there.test"], json!({ "A": content(1), "B": content(1) }));
    }
}
