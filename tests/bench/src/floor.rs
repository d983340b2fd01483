//! What the cryptography of a knock costs on this machine, now: the unit of all other figures.
//! May not: be taken from another run. The same machine is slower an hour later.

use std::{fs, hint::black_box, time::Duration};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

/// One measurement is the median of so many rounds.
const ROUNDS: usize = 31;
/// Operations of one round.
const OPERATIONS: u32 = 200;
/// About what the signed part of a knock has.
const MESSAGE_BYTES: usize = 700;

/// Microseconds of one thread's CPU time.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// One strict verification with a key that is parsed already.
    pub verify_us: f64,
    /// One signature.
    pub sign_us: f64,
}

impl Floor {
    /// Measures it.
    ///
    /// # Errors
    /// The system does not tell a thread's CPU time.
    pub fn measure() -> Result<Self, String> {
        let key = SigningKey::from_bytes(&[7; 32]);
        let message = [b'm'; MESSAGE_BYTES];
        let signature: Signature = key.sign(&message);
        let verifying: VerifyingKey = key.verifying_key();
        if verifying.verify_strict(&message, &signature).is_err() {
            return Err("a good signature does not verify".to_owned());
        }
        Ok(Self {
            verify_us: median_us(|| _ = black_box(verifying.verify_strict(black_box(&message), &signature)))?,
            sign_us: median_us(|| _ = black_box(key.sign(black_box(&message))))?,
        })
    }

    /// The mean of a measurement before a run and one after it.
    pub fn between(self, other: Self) -> Self {
        let mean = |one: f64, other: f64| f64::midpoint(one, other);
        Self { verify_us: mean(self.verify_us, other.verify_us), sign_us: mean(self.sign_us, other.sign_us) }
    }
}

fn median_us(operation: impl Fn()) -> Result<f64, String> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let before = thread_cpu_ns()?;
        (0..OPERATIONS).for_each(|_| operation());
        rounds.push(thread_cpu_ns()?.saturating_sub(before));
    }
    rounds.sort_unstable();
    let median = rounds.get(ROUNDS / 2).copied().unwrap_or_default();
    Ok(Duration::from_nanos(median).as_secs_f64() * 1e6 / f64::from(OPERATIONS))
}

/// Time that this thread was on a processor.
fn thread_cpu_ns() -> Result<u64, String> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.split(' ').next().and_then(|ns| ns.parse().ok()).ok_or_else(|| format!("{path} says {text:?}"))
}
