//! From an accepted event to everything that its commit must hold, and to what memory becomes.
//! May not: refuse anything; whoever calls has judged.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedUserId, UserId,
    canonical_json::redact,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;
use vestibule_protocol::{
    pdu::{Pdu, Standing},
    room_graph::{EntryChange, Placement, StateNode, StateRow},
    room_version::RoomVersion,
    state::{StateChange, StateKey, StateMap},
    stream::TimelineOrder,
};
use vestibule_storage::room::{
    ClientTransaction, CurrentState, Decision, DecisionAction, EventRow, ExtremityRow, MemberCounts, MembershipRow,
    PendingKnock, RedactedEvent, RoomCommit, RoomOrigin, StateVersionRow,
};

use super::memory::Room;
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
    happened: Vec<KnockEvent>,
}

impl RoomChange {
    /// A change that is an audit row and nothing else.
    pub(super) fn audit(decision: Decision) -> Self {
        Self { decisions: vec![decision], ..Self::default() }
    }

    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.decisions.is_empty() && self.redactions.is_empty()
    }

    /// What to count once it is durable.
    pub(super) fn happened(&self) -> &[KnockEvent] {
        &self.happened
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
            outbox: Vec::new(),
            out_of_band: Vec::new(),
        }
    }
}

/// An event that was judged, with the state before it and its place.
pub(super) struct Placed {
    pub(super) event: Arc<Pdu>,
    pub(super) before: Arc<StateNode>,
    pub(super) placement: Placement,
}

impl Room {
    /// Appends a judged event to memory and to the change.
    pub(super) fn apply(&mut self, placed: Placed, transaction: Option<ClientTransaction>, change: &mut RoomChange) {
        let Placed { event, before, placement } = placed;
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
            .push(ExtremityRow { event_id: event.event_id().to_owned(), arrival: appended.arrival });
        for entry in &appended.changes {
            self.entry_changed(entry, &event, order, change);
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
        if user_id.server_name() == self.context.identity.server_name() {
            let was_joined = u64::from(old == Some(MembershipState::Join));
            let is_joined = u64::from(new == Some(MembershipState::Join));
            self.local_joined = self.local_joined.saturating_sub(was_joined).saturating_add(is_joined);
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

    /// Takes the content out of an event, as a redaction asks.
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
    Pdu::from_canonical_text(target.event_id().to_owned(), json.into(), version, Standing::Accepted).ok()
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
