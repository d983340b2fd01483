//! What is in memory and what is in sled are one store to readers.
//! May not: know which of the two an entry is in.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use crate::index::{Index, Mark};
use crate::journal::JournalPosition;
use crate::record::Changes;

/// Puts and deletes of a commit, and whether all goes down into sled after it.
type Step = (Vec<(u8, Option<u8>)>, bool);

fn key(number: u8) -> Vec<u8> {
    vec![0x80, number]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..12_u8, proptest::option::weighted(0.7, any::<u8>()));
    proptest::collection::vec((proptest::collection::vec(change, 0..6), proptest::bool::weighted(0.3)), 1..12)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        (0..12_u8).prop_map(|number| Bound::Included(key(number))),
        (0..12_u8).prop_map(|number| Bound::Excluded(key(number))),
        Just(Bound::Unbounded),
    ]
}

/// Whether a key lies within; maps in memory do not take bounds of which nothing can lie between.
fn lies_within(key: &[u8], (start, end): &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> bool {
    let after_start = match start {
        Bound::Included(start) => key >= &**start,
        Bound::Excluded(start) => key > &**start,
        Bound::Unbounded => true,
    };
    let before_end = match end {
        Bound::Included(end) => key <= &**end,
        Bound::Excluded(end) => key < &**end,
        Bound::Unbounded => true,
    };
    after_start && before_end
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn readers_find_the_newest_wherever_it_is(
        steps in steps(),
        bounds in (bound(), bound()),
        ends in proptest::collection::vec(any::<bool>(), 16),
    ) {
        let place = tempfile::tempdir().unwrap();
        let index = Index::open(place.path(), 1024 * 1024).unwrap();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for ((changes, goes_down), position) in steps.into_iter().zip(1..) {
            let changes: Changes =
                changes.into_iter().map(|(number, value)| (key(number), value.map(|value| vec![value]))).collect();
            for (key, value) in &changes {
                match value {
                    Some(value) => _ = model.insert(key.clone(), value.clone()),
                    None => _ = model.remove(key),
                }
            }
            index.take(changes, Mark { applied: JournalPosition(position), checksum: 7 });
            if goes_down {
                index.write_down().unwrap();
            }
        }
        for number in 0..12 {
            let found = index.get(&key(number)).unwrap().map(|value| value.to_vec());
            prop_assert_eq!(found, model.get(&key(number)).cloned());
        }
        let mut expected: std::collections::VecDeque<_> = model
            .into_iter()
            // What sled says of itself stands before all else.
            .filter(|(key, _)| lies_within(key, &bounds))
            .collect();
        let mut entries = index.range((max_with_first(bounds.0), bounds.1));
        // From both ends, as drawn, until nothing is left.
        for from_front in ends {
            let (found, expected) = if from_front {
                (entries.next(), expected.pop_front())
            } else {
                (entries.next_back(), expected.pop_back())
            };
            let found = found.map(|entry| entry.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec()));
            prop_assert_eq!(found, expected);
        }
    }
}

/// An open beginning is the first key of ours: what sled's own tree says of itself stands before it.
fn max_with_first(start: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    match start {
        Bound::Unbounded => Bound::Included(key(0)),
        start => start,
    }
}

#[test]
fn the_mark_goes_down_with_the_changes() {
    let place = tempfile::tempdir().unwrap();
    let index = Index::open(place.path(), 1024 * 1024).unwrap();
    index.set_mark("somebody", Mark::default()).unwrap();
    let mark = Mark { applied: JournalPosition(3), checksum: 7 };
    index.take(Changes::from([(key(1), Some(vec![1]))]), mark);
    index.write_down_if_many().unwrap();
    assert_eq!(index.mark("somebody").unwrap(), Some(Mark::default()), "a few stay in memory");
    index.flush().unwrap();
    assert_eq!(index.mark("somebody").unwrap(), Some(mark));
    index.take(Changes::from([(key(2), Some(vec![0; 300 * 1024]))]), Mark { applied: JournalPosition(4), ..mark });
    index.write_down_if_many().unwrap();
    assert_eq!(index.mark("somebody").unwrap().unwrap().applied, JournalPosition(4));
}
