//! Which servers must hear of an event that we made, or that was handed to us to be taken into the room.
//! May not: be asked for events that another server sent on its own; those reach the others without us.

use std::collections::BTreeSet;

use ruma::{OwnedServerName, ServerName, UserId, events::room::member::MembershipState};

use crate::pdu::Pdu;

/// Who is in the room around an event.
#[derive(Clone, Debug)]
pub struct Presence {
    /// The servers with joined users before it or after it.
    pub joined: BTreeSet<OwnedServerName>,
    /// For a member event: what its target was before it.
    pub target_before: Option<MembershipState>,
}

/// The servers that an event goes to: those in the room before or after it, and the server of somebody who is turned out or
/// let off. `us` is never among them, neither is the server that handed the event to us.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>; DESIGN section 5 for the answer to a knock.
pub fn destinations(
    event: &Pdu,
    presence: Presence,
    us: &ServerName,
    handed_by: Option<&ServerName>,
) -> BTreeSet<OwnedServerName> {
    let turned_out = server_of_turned_out(event, presence.target_before.as_ref());
    let mut servers = presence.joined;
    // Who knocked or is invited has nobody in the room who would hear of a denial, a ban or an invite taken back.
    servers.extend(turned_out);
    servers.remove(us);
    if let Some(handed_by) = handed_by {
        servers.remove(handed_by);
    }
    servers
}

/// The server of a user who was joined, invited, knocking or banned, and now has left or is banned. Whoever had nothing to do
/// with the room hears nothing of it.
fn server_of_turned_out(event: &Pdu, before: Option<&MembershipState>) -> Option<OwnedServerName> {
    let had_a_tie = before.is_some_and(|before| *before != MembershipState::Leave);
    let has_none = matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban));
    if !had_a_tie || !has_none {
        return None;
    }
    event.state_key().and_then(|target| UserId::parse(target).ok()).map(|target| target.server_name().to_owned())
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;

    use super::*;
    use crate::fixture::{ALICE, BOB, CAROL, EventSpec, RoomFixture};

    const US: &str = "resident.test";

    /// Event, servers in the room before and after, the target's membership before, who handed it to us, who hears of it.
    type Row<'a> = (EventSpec, &'a [&'a str], &'a [&'a str], Option<MembershipState>, Option<&'a str>, &'a [&'a str]);

    fn names(servers: &[&str]) -> BTreeSet<OwnedServerName> {
        servers.iter().map(|name| OwnedServerName::try_from(*name).unwrap()).collect()
    }

    #[test]
    fn an_event_goes_to_the_servers_of_the_table() {
        use MembershipState::{Ban, Invite, Join, Knock, Leave};
        let member = |sender: &str, target: &str, membership| EventSpec::member(sender, target, &membership);
        let (peer, third) = ("peer.test", "third.test");
        let table: [Row<'_>; 16] = [
            (EventSpec::message(ALICE, "hi"), &[US], &[US], None, None, &[]),
            (EventSpec::message(ALICE, "hi"), &[US, peer, third], &[US, peer, third], None, None, &[peer, third]),
            // A knock that peer.test handed in: the others hear of it, its own server does not, neither now nor later.
            (member(BOB, BOB, Knock), &[US, third], &[US, third], Some(Leave), Some(peer), &[third]),
            (EventSpec::message(ALICE, "hi"), &[US, third], &[US, third], Some(Knock), None, &[third]),
            // A join that peer.test handed in.
            (member(BOB, BOB, Join), &[US, third], &[US, peer, third], Some(Invite), Some(peer), &[third]),
            // Invites are delivered on their own road; the room's servers hear of them here.
            (member(ALICE, BOB, Invite), &[US, third], &[US, third], Some(Knock), None, &[third]),
            // A knock turned down, a knocker banned, an invite taken back: the target's server hears of it too.
            (member(ALICE, BOB, Leave), &[US, third], &[US, third], Some(Knock), None, &[peer, third]),
            (member(ALICE, BOB, Ban), &[US], &[US], Some(Knock), None, &[peer]),
            (member(ALICE, BOB, Leave), &[US], &[US], Some(Invite), None, &[peer]),
            (member(ALICE, BOB, Ban), &[US], &[US], Some(Invite), None, &[peer]),
            // The last user of a server is kicked: it was in the room before.
            (member(ALICE, BOB, Leave), &[US, peer], &[US], Some(Join), None, &[peer]),
            // The last user of a server leaves through us.
            (member(BOB, BOB, Leave), &[US, third], &[US, third], Some(Knock), Some(peer), &[third]),
            // Somebody who has nothing to do with the room is banned: no stranger hears of it.
            (member(ALICE, BOB, Ban), &[US, third], &[US, third], Some(Leave), None, &[third]),
            (member(ALICE, BOB, Ban), &[US, third], &[US, third], None, None, &[third]),
            // A ban is lifted: whoever was told of the ban is told of its end.
            (member(ALICE, BOB, Leave), &[US, third], &[US, third], Some(Ban), None, &[peer, third]),
            // Users of ours are no server's business but the room's.
            (member(ALICE, "@dan:resident.test", Ban), &[US, third], &[US, third], Some(Knock), None, &[third]),
        ];
        let mut room = RoomFixture::knockable(RoomVersionId::V11).join(CAROL).build();
        for (spec, before, after, target_before, handed_by, expected) in table {
            let event = room.make_upon(spec, &room.state().clone());
            let joined = names(before).union(&names(after)).cloned().collect();
            let presence = Presence { joined, target_before };
            let handed_by = handed_by.map(|name| <&ServerName>::try_from(name).unwrap());
            let found = destinations(&event, presence.clone(), US.try_into().unwrap(), handed_by);
            assert_eq!(found, names(expected), "{event:?}, {presence:?}");
        }
    }
}
