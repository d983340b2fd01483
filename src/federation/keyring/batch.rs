//! Signatures of requests that arrive together are checked together, which costs about half.
//! May not: be used for events. A batch can take a signature that a single check refuses, if the key's holder made it so. Who
//! holds the key can sign the request anyway; but of an event all servers must think the same.

use std::{
    cell::RefCell,
    sync::{Arc, OnceLock},
};

use ed25519_dalek::{Signature, verify_batch};
use tokio::task::yield_now;

use super::key_set::Key;

/// Signatures that are checked together. Measured: more gain little, and all wait for the last.
const TOGETHER_MAX: usize = 64;

/// A signature that waits for others.
struct Check {
    key: Key,
    message: Arc<str>,
    signature: Signature,
    verdict: OnceLock<bool>,
}

thread_local! {
    static WAITING: RefCell<Vec<Arc<Check>>> = const { RefCell::new(Vec::new()) };
}

/// Whether the key made the signature. Whatever else this thread has to do comes first, so that it may bring more signatures;
/// one that is alone is checked strictly.
pub(super) async fn verifies(key: &Key, message: Arc<str>, signature: &[u8]) -> bool {
    let Ok(signature) = Signature::from_slice(signature) else { return false };
    let check = Arc::new(Check { key: key.clone(), message, signature, verdict: OnceLock::new() });
    WAITING.with_borrow_mut(|waiting| waiting.push(Arc::clone(&check)));
    yield_now().await;
    if check.verdict.get().is_none() {
        check_together(&WAITING.take());
    }
    // Still open: it was alone, or one of those beside it is wrong, or the task has changed its thread.
    *check.verdict.get_or_init(|| check.key.verifies(check.message.as_bytes(), &check.signature.to_bytes()))
}

/// Sets the verdicts of those that are good, as far as that shows in a batch.
fn check_together(waiting: &[Arc<Check>]) {
    // Nobody else holds what nobody waits for any more.
    let wanted: Vec<&Arc<Check>> = waiting.iter().filter(|check| Arc::strong_count(check) > 1).collect();
    for some in wanted.chunks(TOGETHER_MAX).filter(|some| some.len() > 1) {
        let messages: Vec<&[u8]> = some.iter().map(|check| check.message.as_bytes()).collect();
        let signatures: Vec<Signature> = some.iter().map(|check| check.signature).collect();
        let keys: Vec<_> = some.iter().map(|check| *check.key.decoded()).collect();
        if verify_batch(&messages, &signatures, &keys).is_ok() {
            for check in some {
                // A verdict is set once.
                let _ = check.verdict.set(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn among_many_each_gets_its_own_verdict() {
        let good = |number: u8| {
            let key = SigningKey::from_bytes(&[number; 32]);
            let message: Arc<str> = format!("request {number}").into();
            let signature = key.sign(message.as_bytes()).to_bytes();
            (Key::decode(key.verifying_key().as_bytes()).unwrap(), message, signature)
        };
        for count in [1, 2, 7, 150] {
            for bad in [None, Some(0), Some(count - 1)] {
                let mut requests: Vec<_> = (0..count).map(good).collect();
                if let Some(bad) = bad {
                    requests[usize::from(bad)].2[0] ^= 1;
                }
                let verdicts = join_all(
                    requests.iter().map(|(key, message, signature)| verifies(key, Arc::clone(message), signature)),
                );
                let expected: Vec<bool> = (0..count).map(|number| Some(number) != bad).collect();
                assert_eq!(verdicts.await, expected, "{count} of which {bad:?} is bad");
            }
        }
        let (key, message, _) = good(0);
        assert!(!verifies(&key, message, b"short").await);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_holds_nobody_up() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let decoded = Key::decode(key.verifying_key().as_bytes()).unwrap();
        let signature = key.sign(b"request").to_bytes();
        let mut gone = Box::pin(verifies(&decoded, "forged".into(), &signature));
        assert!(futures_util::poll!(gone.as_mut()).is_pending());
        drop(gone);
        assert!(verifies(&decoded, "request".into(), &signature).await);
        assert!(WAITING.with_borrow(Vec::is_empty));
    }
}
