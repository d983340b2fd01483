//! From an accepted event to everything that its commit must hold, and to what memory becomes.
//! May not: refuse anything; whoever calls has judged.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, OwnedUserId, UserId,
    canonical_json::redact,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;
use vestibule_protocol::{
    pdu::Pdu,
    recipients::{Presence, destinations},
    room_graph::{EntryChange, Placement, StateNode, StateRow},
    room_version::RoomVersion,
    state::{StateChange, StateKey, StateMap, StateVersion},
    stream::TimelineOrder,
};
use vestibule_storage::{
    outbox::{Delivery, OutboxEntry},
    room::{
        ClientTransaction, CurrentState, Decision, DecisionAction, EventRow, ExtremityRow, MemberCounts, MembershipRow,
        OutOfBand, PendingKnock, Progress, RedactedEvent, RoomCommit, RoomOrigin, StateVersionRow,
    },
};

use super::{
    hand_on_leave::LEAVE_SERVERS_MAX,
    memory::{Coming, Room},
};
use crate::gauges::KnockEvent;

/// What a turn changed, before it is a commit.
#[derive(Debug, Default)]
pub struct RoomChange {
    events: Vec<EventRow>,
    state_versions: Vec<StateVersionRow>,
    current: Option<CurrentState>,
    extremities_added: Vec<ExtremityRow>,
    extremities_removed: Vec<OwnedEventId>,
    memberships: Vec<MembershipRow>,
    knocks: Vec<(OwnedUserId, Option<PendingKnock>)>,
    redactions: Vec<RedactedEvent>,
    decisions: Vec<Decision>,
    transaction: Option<ClientTransaction>,
    outbox: Vec<OutboxEntry>,
    out_of_band: Vec<(OwnedUserId, Option<OutOfBand>)>,
    joining: Vec<(OwnedUserId, Option<OutOfBand>)>,
    happened: Vec<KnockEvent>,
    ended_stays: Vec<OwnedUserId>,
}

impl RoomChange {
    /// A change that is an audit row and nothing else.
    pub(super) fn audit(decision: Decision) -> Self {
        Self { decisions: vec![decision], ..Self::default() }
    }

    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.decisions.is_empty()
            && self.redactions.is_empty()
            && self.out_of_band.is_empty()
            && self.joining.is_empty()
            && self.memberships.is_empty()
            && self.outbox.is_empty()
    }

    /// Adds an event.
    pub(super) fn push_event(&mut self, row: EventRow) {
        self.events.push(row);
    }

    /// Adds an event that is no forward extremity any more.
    pub(super) fn push_extremity_removed(&mut self, event_id: OwnedEventId) {
        self.extremities_removed.push(event_id);
    }

    /// Adds a pending knock that came (`Some`) or ended.
    pub(super) fn push_knock(&mut self, user_id: OwnedUserId, knock: Option<PendingKnock>) {
        self.knocks.push((user_id, knock));
    }

    /// Says how the current state changes before the first event of this change is appended.
    pub(super) fn start_current(&mut self, changes: Vec<StateChange>, version: StateVersion, counts: MemberCounts) {
        let changes =
            changes.into_iter().map(|change| (change.key, change.event.map(|event| event.event_id().to_owned())));
        self.current = Some(CurrentState { version, changes: changes.collect(), counts });
    }

    /// Adds versions of the state, parents first.
    pub(super) fn push_state_rows(&mut self, rows: Vec<StateRow>) {
        self.state_versions.extend(rows.into_iter().map(stored_row));
    }

    /// Adds a membership.
    pub(super) fn push_membership(&mut self, row: MembershipRow) {
        self.memberships.push(row);
    }

    /// Adds an audit row.
    pub(super) fn push_decision(&mut self, decision: Decision) {
        self.decisions.push(decision);
    }

    /// Adds what is owed to other servers.
    pub(super) fn push_outbox(&mut self, entry: OutboxEntry) {
        self.outbox.push(entry);
    }

    /// Says what becomes of an out-of-band membership.
    pub(super) fn push_out_of_band(&mut self, user_id: OwnedUserId, out_of_band: Option<OutOfBand>) {
        self.out_of_band.push((user_id, out_of_band));
    }

    /// What was decided, nobody decided but a rule of ours.
    pub(super) fn decided_by_a_rule(&mut self, reason: &str) {
        for decision in &mut self.decisions {
            decision.by = None;
            decision.reason = Some(reason.to_owned());
        }
    }

    /// Adds what to count once it is durable.
    pub(super) fn push_happened(&mut self, happened: KnockEvent) {
        self.happened.push(happened);
    }

    /// What to tell once it is durable: what happened to knocks, and who was in the room and is not any more.
    pub(super) fn take_news(&mut self) -> (Vec<KnockEvent>, Vec<OwnedUserId>) {
        (std::mem::take(&mut self.happened), std::mem::take(&mut self.ended_stays))
    }

    /// Everything, as storage takes it.
    pub(super) fn into_commit(self, room: &Room, incarnation: u64, sequence: u64, origin: RoomOrigin) -> RoomCommit {
        RoomCommit {
            room_id: room.room_id.clone(),
            room_version: room.version().id().clone(),
            incarnation,
            sequence,
            origin,
            events: self.events,
            state_versions: self.state_versions,
            current: self.current,
            extremities_added: self.extremities_added,
            extremities_removed: self.extremities_removed,
            memberships: self.memberships,
            knocks: self.knocks,
            redactions: self.redactions,
            decisions: self.decisions,
            transaction: self.transaction,
            outbox: self.outbox,
            out_of_band: self.out_of_band,
            joining: self.joining,
        }
    }
}

/// Who brought an event, and so who must pass it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A user of ours sent it: we tell every server in the room.
    Ours,
    /// Another server handed it to us alone, at our door: we tell every other server in the room.
    HandedBy(OwnedServerName),
    /// It came in a transaction, as it went to all others: nobody is told.
    Received,
}

/// An event that was judged, with the state before it and its place.
pub(super) struct Placed {
    pub(super) source: Source,
    pub(super) event: Arc<Pdu>,
    pub(super) before: Arc<StateNode>,
    pub(super) placement: Placement,
}

impl Room {
    /// Appends a judged event to memory and to the change.
    pub(super) fn apply(&mut self, placed: Placed, transaction: Option<ClientTransaction>, change: &mut RoomChange) {
        let Placed { source, event, before, placement } = placed;
        let joined_before: BTreeSet<OwnedServerName> = match source {
            Source::Received => BTreeSet::new(),
            _ => self.joined_servers().cloned().collect(),
        };
        let was_lived_in = self.is_lived_in();
        let visibility = visibility_around(before.state(), &event);
        let appended = self.graph.append(event.clone(), &before, placement);
        let order = self.next_order;
        self.next_order = order.next();

        change.state_versions.extend(appended.rows.into_iter().map(stored_row));
        for event_id in appended.no_longer_extremities {
            let count = change.extremities_added.len();
            change.extremities_added.retain(|row| row.event_id != event_id);
            if change.extremities_added.len() == count {
                change.extremities_removed.push(event_id);
            }
        }
        change
            .extremities_added
            .extend(appended.arrival.map(|arrival| ExtremityRow { event_id: event.event_id().to_owned(), arrival }));
        for entry in &appended.changes {
            self.entry_changed(entry, &event, order, change);
        }
        if was_lived_in && self.is_lived_in_elsewhere() {
            self.wait_outside(change);
        }
        if !appended.changes.is_empty() {
            let mut changes = change.current.take().map(|current| current.changes).unwrap_or_default();
            let newer = appended
                .changes
                .into_iter()
                .map(|entry| (entry.key, entry.new.map(|event| event.event_id().to_owned())));
            for (key, event_id) in newer {
                changes.retain(|(earlier, _): &(StateKey, _)| *earlier != key);
                changes.push((key, event_id));
            }
            change.current = Some(CurrentState { version: appended.current, changes, counts: self.counts });
        }
        self.pass_on(&event, before.state(), &source, joined_before, change);
        if let Some(transaction) = &transaction {
            self.remember_transaction(transaction.clone(), event.event_id().to_owned());
            change.transaction = Some(transaction.clone());
        }
        change.events.push(EventRow {
            event,
            order: Some(order),
            state_before: appended.before,
            current_after: appended.current,
            visibility,
            received_at: self.now(),
            transaction,
        });
    }

    fn entry_changed(&mut self, entry: &EntryChange, cause: &Pdu, order: TimelineOrder, change: &mut RoomChange) {
        self.state_changed(&entry.key.0);
        if entry.key.0 != StateEventType::RoomMember {
            return;
        }
        let Ok(user_id) = UserId::parse(&entry.key.1) else { return };
        let old = entry.old.as_ref().and_then(|event| event.membership());
        let new = entry.new.as_ref().and_then(|event| event.membership());
        if let Some(old) = &old {
            *count_of(&mut self.counts, old) = count_of(&mut self.counts, old).saturating_sub(1);
        }
        if let Some(new) = &new {
            *count_of(&mut self.counts, new) = count_of(&mut self.counts, new).saturating_add(1);
        }
        match (old == Some(MembershipState::Join), new == Some(MembershipState::Join)) {
            (false, true) => self.joined(user_id.server_name(), Coming::In),
            (true, false) => {
                self.joined(user_id.server_name(), Coming::Out);
                change.ended_stays.push(user_id.clone());
            }
            _ => {}
        }
        self.end_out_of_band(&user_id, change);
        if new == Some(MembershipState::Join) {
            self.end_join(&user_id, change);
        }
        // An entry that resolution took away leaves its user outside.
        let Some(member) = entry.new.as_ref().or(entry.old.as_ref()) else { return };
        let membership = new.clone().unwrap_or(MembershipState::Leave);
        let is_by_this_event = member.event_id() == cause.event_id();
        change.memberships.push(MembershipRow {
            is_local: user_id.server_name() == self.context.identity.server_name(),
            user_id: user_id.clone(),
            membership: membership.clone(),
            event_id: member.event_id().to_owned(),
            order: Some(order).filter(|_| is_by_this_event || membership == MembershipState::Leave),
        });
        self.knock_changed(&user_id, old.as_ref(), &membership, member, change);
    }

    /// From now on the room's events do not come here. Who of ours asks to be let in, or was asked in, waits for what becomes of
    /// it like anybody whose server is not in the room.
    fn wait_outside(&mut self, change: &mut RoomChange) {
        if self.counts.knock == 0 && self.counts.invite == 0 {
            return;
        }
        let us = self.context.identity.server_name().to_owned();
        let stripped: Vec<String> = self.shown().stripped.iter().map(|event| event.get().to_owned()).collect();
        for membership in [MembershipState::Knock, MembershipState::Invite] {
            // What stands beside the room's own word is newer.
            let waiting = self
                .state()
                .users_with(&membership)
                .into_iter()
                .filter(|user_id| user_id.server_name() == us && !self.out_of_band.contains_key(user_id));
            let waiting: Vec<_> =
                waiting.filter_map(|user_id| Some((self.state().member(&user_id)?.clone(), user_id))).collect();
            for (event, user_id) in waiting {
                // First whoever invited: it is asked first, and believed when it takes the invite back.
                let inviting = event.sender_server().to_owned();
                let mut via: Vec<_> = self.joined_servers().filter(|server| **server != inviting).cloned().collect();
                if self.has_joined_users_of(&inviting) {
                    via.insert(0, inviting);
                }
                via.truncate(LEAVE_SERVERS_MAX);
                let outside = OutOfBand {
                    room_version: self.version().id().clone(),
                    membership: membership.clone(),
                    progress: Progress::Settled,
                    event,
                    stripped: stripped.clone(),
                    via,
                    since: self.now(),
                    knock: None,
                    joins: Vec::new(),
                    early: None,
                };
                self.keep_out_of_band(user_id, outside, change);
            }
        }
    }

    /// From now on the room itself says what the user is to it.
    pub(super) fn end_out_of_band(&mut self, user_id: &UserId, change: &mut RoomChange) {
        if self.out_of_band.remove(user_id).is_some() {
            change.out_of_band.push((user_id.to_owned(), None));
        }
    }

    /// Notes that a user is about to join through another server.
    pub(super) fn begin_join(&mut self, user_id: OwnedUserId, join: OutOfBand, change: &mut RoomChange) {
        self.joining.insert(user_id.clone());
        change.joining.push((user_id, Some(join)));
    }

    /// The user has joined, or will not by what was begun.
    pub(super) fn end_join(&mut self, user_id: &UserId, change: &mut RoomChange) {
        if self.joining.remove(user_id) {
            change.joining.push((user_id.to_owned(), None));
        }
    }

    /// Puts an out-of-band membership into memory and into the change, with the row that says it to the user.
    pub(super) fn set_out_of_band(&mut self, user_id: OwnedUserId, out_of_band: OutOfBand, change: &mut RoomChange) {
        if out_of_band.progress == Progress::Settled {
            change.push_membership(MembershipRow {
                user_id: user_id.clone(),
                membership: out_of_band.membership.clone(),
                event_id: out_of_band.event.event_id().to_owned(),
                order: None,
                is_local: true,
            });
        }
        self.keep_out_of_band(user_id, out_of_band, change);
    }

    /// Puts an out-of-band membership into memory and into the change, and tells nobody.
    pub(super) fn keep_out_of_band(&mut self, user_id: OwnedUserId, out_of_band: OutOfBand, change: &mut RoomChange) {
        self.out_of_band.insert(user_id.clone(), out_of_band.clone());
        change.push_out_of_band(user_id, Some(out_of_band));
    }

    /// Puts an event into the outbox for every server that must have it.
    fn pass_on(
        &self,
        event: &Pdu,
        before: &StateMap,
        source: &Source,
        joined_before: BTreeSet<OwnedServerName>,
        change: &mut RoomChange,
    ) {
        let us = self.context.identity.server_name();
        let handed_by = match source {
            Source::Received => return,
            Source::Ours => None,
            Source::HandedBy(server) => Some(server),
        };
        let target = event.state_key().filter(|_| *event.kind() == TimelineEventType::RoomMember);
        let target = target.and_then(|user_id| UserId::parse(user_id).ok());
        let invited = target.as_ref().filter(|user| user.server_name() != us);
        if let Some(invited) = invited.filter(|_| event.membership() == Some(MembershipState::Invite))
            && *source == Source::Ours
        {
            change.outbox.push(OutboxEntry {
                event_id: event.event_id().to_owned(),
                delivery: Delivery::Invite,
                destinations: [invited.server_name().to_owned()].into(),
            });
        }
        let mut joined = joined_before;
        joined.extend(self.joined_servers().cloned());
        let presence = Presence { joined, target_before: target.map(|target| before.membership(&target)) };
        let destinations = destinations(event, presence, us, handed_by.map(|server| &**server));
        if !destinations.is_empty() {
            let event_id = event.event_id().to_owned();
            change.outbox.push(OutboxEntry { event_id, delivery: Delivery::Transaction, destinations });
        }
    }

    fn knock_changed(
        &mut self,
        user_id: &UserId,
        old: Option<&MembershipState>,
        new: &MembershipState,
        member: &Pdu,
        change: &mut RoomChange,
    ) {
        let was_knock = old == Some(&MembershipState::Knock);
        let is_own = member.sender() == user_id;
        let (action, happened) = match (was_knock, new) {
            (false, MembershipState::Knock) => (DecisionAction::Admitted, KnockEvent::Admitted),
            (true, MembershipState::Knock) => (DecisionAction::Admitted, KnockEvent::Repeated),
            (true, MembershipState::Invite | MembershipState::Join) => (DecisionAction::Accepted, KnockEvent::Accepted),
            (true, MembershipState::Ban) => (DecisionAction::Banned, KnockEvent::Denied),
            (true, _) if is_own => (DecisionAction::Retracted, KnockEvent::Retracted),
            (true, _) => (DecisionAction::Denied, KnockEvent::Denied),
            (false, _) => return,
        };
        let now = self.now();
        let origin = user_id.server_name().to_owned();
        if *new == MembershipState::Knock {
            self.pending.insert(user_id.to_owned(), now);
            let knock = PendingKnock {
                event_id: member.event_id().to_owned(),
                origin: origin.clone(),
                reason: member.reason(),
                since: now,
            };
            change.knocks.push((user_id.to_owned(), Some(knock)));
        } else {
            self.pending.remove(user_id);
            change.knocks.push((user_id.to_owned(), None));
        }
        change.happened.push(happened);
        change.decisions.push(Decision {
            at: now,
            room_id: self.room_id.clone(),
            user_id: user_id.to_owned(),
            origin,
            by: Some(member.sender().to_owned()),
            action,
            reason: member.reason(),
            event_id: Some(member.event_id().to_owned()),
        });
    }

    /// Takes the content out of an event, as a redaction asks. What was set aside stays so.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#redactions>
    pub(super) fn redact(&mut self, target: &Pdu, because: &Pdu, change: &mut RoomChange) {
        let Some(event) = redacted(target, self.version()) else { return };
        let event = Arc::new(event);
        self.graph.replace_redacted(&event);
        if let Some((kind, _)) = event.state_entry() {
            self.state_changed(&kind);
        }
        change.redactions.push(RedactedEvent { event, because: because.event_id().to_owned() });
    }
}

fn redacted(target: &Pdu, version: &RoomVersion) -> Option<Pdu> {
    let object: CanonicalJsonObject = target.to_object().ok()?;
    let redacted = redact(object, &version.rules().redaction, None).ok()?;
    let json = serde_json::to_string(&redacted).ok()?;
    Pdu::from_canonical_text(target.event_id().to_owned(), json.into(), version, target.standing()).ok()
}

fn stored_row(row: StateRow) -> StateVersionRow {
    let changes = row
        .changes
        .into_iter()
        .map(|StateChange { key, event }| (key, event.map(|event| event.event_id().to_owned())))
        .collect();
    StateVersionRow { version: row.version, parent: row.parent, changes, delta_entries: row.delta_entries }
}

fn count_of<'a>(counts: &'a mut MemberCounts, membership: &MembershipState) -> &'a mut u64 {
    match membership {
        MembershipState::Join => &mut counts.join,
        MembershipState::Invite => &mut counts.invite,
        MembershipState::Knock => &mut counts.knock,
        MembershipState::Ban => &mut counts.ban,
        _ => &mut counts.leave,
    }
}

/// Counts the memberships of a state, when a room is loaded.
pub(super) fn count_members(state: &StateMap) -> MemberCounts {
    let mut counts = MemberCounts::default();
    for (_, event) in state.of_type(&StateEventType::RoomMember) {
        if let Some(membership) = event.membership() {
            let count = count_of(&mut counts, &membership);
            *count = count.saturating_add(1);
        }
    }
    counts
}

/// Who may see an event: what the state before it says; for an event that changes just that, the wider of the two.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-5>
fn visibility_around(before: &StateMap, event: &Pdu) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    let old = before.history_visibility();
    let changes_it = *event.kind() == TimelineEventType::RoomHistoryVisibility && event.state_key() == Some("");
    if !changes_it {
        return old;
    }
    let new = event.content_as::<Content>().map_or(HistoryVisibility::Shared, |content| content.history_visibility);
    if width(&new) > width(&old) { new } else { old }
}

fn width(visibility: &HistoryVisibility) -> u8 {
    match visibility {
        HistoryVisibility::WorldReadable => 3,
        HistoryVisibility::Shared => 2,
        HistoryVisibility::Invited => 1,
        _ => 0,
    }
}
