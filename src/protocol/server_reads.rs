//! May another server read an event? One function for every endpoint that hands out events or states.
//! May not: know how a room got into its state; the caller says what stood when the event came.

use ruma::events::room::history_visibility::HistoryVisibility;

/// How a server may see an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As it is.
    Whole,
    /// What redaction leaves: the server is in the room and needs the event for its graph, but none of its users may read it.
    Redacted,
    /// Not at all.
    Nothing,
}

/// Whether a server may see an event.
///
/// `visibility` is the history visibility as of the event. For an event that changes it, ask with the more open one of before
/// and after. `server_is_in_room_then` and `invited_then` say whether any user of the server was joined or invited as of the
/// event; for a member event of a user of the server, before or after it. `in_room_now`: whether any user of the server is
/// joined now. A knock counts for none of the three. What is not known is `false`.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>, for all users of a server together;
/// SECURITY V11, V42.
pub fn server_may_see(
    visibility: &HistoryVisibility,
    server_is_in_room_then: bool,
    invited_then: bool,
    in_room_now: bool,
) -> Seen {
    let any_user_may_read = match visibility {
        HistoryVisibility::WorldReadable => true,
        // Whoever has left keeps what was sent while they were there, as their users do.
        HistoryVisibility::Joined => server_is_in_room_then,
        HistoryVisibility::Invited => server_is_in_room_then || (invited_then && in_room_now),
        // Absent or not understood reads as shared.
        _ => server_is_in_room_then || in_room_now,
    };
    match (any_user_may_read, in_room_now) {
        (true, _) => Seen::Whole,
        (false, true) => Seen::Redacted,
        (false, false) => Seen::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the room then, invited then, in the room now, and what is seen under `world_readable`, `shared`, `invited` and
    /// `joined`: `w`hole, `r`edacted, `-` nothing.
    const TABLE: [(bool, bool, bool, [char; 4]); 8] = [
        (false, false, false, ['w', '-', '-', '-']),
        (false, false, true, ['w', 'w', 'r', 'r']),
        (false, true, false, ['w', '-', '-', '-']),
        (false, true, true, ['w', 'w', 'w', 'r']),
        (true, false, false, ['w', 'w', 'w', 'w']),
        (true, false, true, ['w', 'w', 'w', 'w']),
        (true, true, false, ['w', 'w', 'w', 'w']),
        (true, true, true, ['w', 'w', 'w', 'w']),
    ];

    #[test]
    fn servers_see_what_the_table_says() {
        let visibilities = [
            HistoryVisibility::WorldReadable,
            HistoryVisibility::Shared,
            HistoryVisibility::Invited,
            HistoryVisibility::Joined,
        ];
        for (then, invited_then, now, letters) in TABLE {
            for (visibility, letter) in visibilities.iter().zip(letters) {
                let seen = match server_may_see(visibility, then, invited_then, now) {
                    Seen::Whole => 'w',
                    Seen::Redacted => 'r',
                    Seen::Nothing => '-',
                };
                assert_eq!(seen, letter, "{visibility}, then {then}, invited {invited_then}, now {now}");
            }
        }
    }

    #[test]
    fn a_visibility_that_is_not_understood_reads_as_shared() {
        let custom = HistoryVisibility::from("x.custom");
        for (then, invited_then, now, _) in TABLE {
            let shared = server_may_see(&HistoryVisibility::Shared, then, invited_then, now);
            assert_eq!(server_may_see(&custom, then, invited_then, now), shared);
        }
    }
}
