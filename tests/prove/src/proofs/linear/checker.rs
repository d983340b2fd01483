//! Whether a history of overlapping operations fits an order of single steps: Wing and Gong's search, with what was tried
//! before remembered.
//! May not: know where the history comes from.

use std::collections::BTreeSet;

use super::model::{Action, Answer, Operation, RoomKind, step};
use crate::proofs::oracle::case::Membership;

/// Operations upon one user that can be judged.
const OPERATIONS_MAX: usize = 256;

/// Which operations have taken place.
type Done = [u64; OPERATIONS_MAX / 64];

pub enum Verdict {
    Fits,
    /// `shortest`: the shortest beginning of the history that fits no order.
    Misfits {
        shortest: Vec<Operation>,
    },
    TooLong,
}

/// Judges the operations upon one user, who at first is nothing to the room.
pub fn check(room: RoomKind, operations: &[Operation]) -> Verdict {
    if operations.len() > OPERATIONS_MAX {
        return Verdict::TooLong;
    }
    if fits(room, operations) {
        return Verdict::Fits;
    }
    // What returned later cannot excuse an earlier answer, so the history is cut after ever more returns.
    let mut ends: Vec<u64> = operations.iter().filter_map(|operation| operation.returned).collect();
    ends.sort_unstable();
    let beginning = |end: u64| -> Vec<Operation> {
        let begun = operations.iter().filter(|operation| operation.called <= end);
        begun
            .map(|operation| match operation.returned {
                Some(returned) if returned > end => Operation { returned: None, answer: Answer::Unknown, ..*operation },
                _ => *operation,
            })
            .collect()
    };
    let shortest = ends.into_iter().map(beginning).find(|operations| !fits(room, operations));
    Verdict::Misfits { shortest: shortest.unwrap_or_else(|| operations.to_vec()) }
}

fn fits(room: RoomKind, operations: &[Operation]) -> bool {
    let mut tried: BTreeSet<(Done, Membership)> = BTreeSet::new();
    let mut open = vec![([0; OPERATIONS_MAX / 64], Membership::None)];
    while let Some((done, state)) = open.pop() {
        if !tried.insert((done, state)) {
            continue;
        }
        let waiting = || operations.iter().enumerate().filter(|(at, _)| !has(&done, *at));
        // Whoever is next must have been called before anybody else returned.
        let Some(first_return) = waiting().filter_map(|(_, operation)| operation.returned).min() else {
            return true;
        };
        for (at, operation) in waiting().filter(|(_, operation)| operation.called < first_return) {
            if let Some(after) = after(room, operation, state) {
                open.push((with(&done, at), after));
            }
        }
    }
    false
}

/// The membership after the operation, if its answer is the right one now.
fn after(room: RoomKind, operation: &Operation, state: Membership) -> Option<Membership> {
    let next = step(room, operation.action, state);
    // A leave that was made before somebody else turned the user out is still taken, and changes nothing.
    let is_late_leave = operation.action == Action::LeaveByHandshake && is_shown(state) == Membership::Leave;
    match operation.answer {
        Answer::Done if is_late_leave => Some(state),
        Answer::Done | Answer::Unknown => next,
        Answer::Refused => next.is_none().then_some(state),
        Answer::NotWritten | Answer::Overtaken => Some(state),
        Answer::Seen(seen) => (is_shown(state) == is_shown(seen)).then_some(state),
    }
}

/// Who never was there reads like one who left.
fn is_shown(membership: Membership) -> Membership {
    if membership == Membership::None { Membership::Leave } else { membership }
}

fn has(done: &Done, at: usize) -> bool {
    done[at / 64] & (1 << (at % 64)) != 0
}

fn with(done: &Done, at: usize) -> Done {
    let mut done = *done;
    done[at / 64] |= 1 << (at % 64);
    done
}

/// The last operations of a history, one line each.
pub fn tell(operations: &[Operation]) -> String {
    const TOLD_MAX: usize = 20;
    let skipped = operations.len().saturating_sub(TOLD_MAX);
    let lines: Vec<String> = operations
        .iter()
        .skip(skipped)
        .map(|Operation { called, returned, action, answer }| {
            let returned = returned.map_or_else(|| "…".to_owned(), |returned| returned.to_string());
            format!("        {called}–{returned} {action:?}: {answer:?}")
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomKind = RoomKind { version: 10, join_rule: "knock" };

    fn at(called: u64, returned: u64, action: Action, answer: Answer) -> Operation {
        Operation { called, returned: Some(returned), action, answer }
    }

    fn is_good(operations: &[Operation]) -> bool {
        matches!(check(ROOM, operations), Verdict::Fits)
    }

    #[test]
    fn one_after_the_other_fits() {
        assert!(is_good(&[
            at(1, 2, Action::Knock, Answer::Done),
            at(3, 4, Action::Read, Answer::Seen(Membership::Knock)),
            at(5, 6, Action::Invite, Answer::Done),
            at(7, 8, Action::Knock, Answer::Refused),
            at(9, 10, Action::Join, Answer::Done),
        ]));
    }

    #[test]
    fn a_read_may_see_what_overlaps_it_or_not_but_nothing_else() {
        let knock = at(1, 10, Action::Knock, Answer::Done);
        assert!(is_good(&[knock, at(2, 3, Action::Read, Answer::Seen(Membership::Leave))]));
        assert!(is_good(&[knock, at(2, 3, Action::Read, Answer::Seen(Membership::Knock))]));
        assert!(!is_good(&[knock, at(2, 3, Action::Read, Answer::Seen(Membership::Invite))]));
        let seen_and_gone = [
            knock,
            at(2, 3, Action::Read, Answer::Seen(Membership::Knock)),
            at(4, 5, Action::Read, Answer::Seen(Membership::Leave)),
        ];
        assert!(!is_good(&seen_and_gone));
    }

    #[test]
    fn what_is_unknown_may_have_happened_at_any_time_or_never() {
        let unknown = Operation { returned: None, ..at(1, 1, Action::Knock, Answer::Unknown) };
        assert!(is_good(&[unknown, at(2, 3, Action::Read, Answer::Seen(Membership::Leave))]));
        assert!(is_good(&[
            unknown,
            at(2, 3, Action::Read, Answer::Seen(Membership::Leave)),
            at(4, 5, Action::Read, Answer::Seen(Membership::Knock)),
        ]));
    }

    #[test]
    fn what_was_not_written_never_shows() {
        let failed = at(1, 2, Action::Knock, Answer::NotWritten);
        assert!(is_good(&[failed, at(3, 4, Action::Read, Answer::Seen(Membership::Leave))]));
        assert!(!is_good(&[failed, at(3, 4, Action::Read, Answer::Seen(Membership::Knock))]));
    }

    #[test]
    fn a_lost_change_is_told_with_the_shortest_history() {
        let history = [
            at(1, 2, Action::Knock, Answer::Done),
            at(3, 4, Action::Read, Answer::Seen(Membership::Leave)),
            at(5, 6, Action::Read, Answer::Seen(Membership::Leave)),
        ];
        let Verdict::Misfits { shortest } = check(ROOM, &history) else { panic!("it fits nothing") };
        assert_eq!(shortest.len(), 2);
    }
}
