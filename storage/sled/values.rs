//! The stored forms of rooms and of what has no file of its own: numbers, texts, decisions.
//! May not: change what a version that was ever written means; a new meaning is a new version.

use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedTransactionId, RoomVersionId, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use vestibule_protocol::{clock::UnixMillis, pdu::Standing, state::StateKey};
use vestibule_storage::room::{ClientTransaction, Decision, DecisionAction, MemberCounts, PendingKnock};

use crate::fields::{FieldReader, FieldWriter, StoredForm};
use crate::keys::EventHash;

pub(crate) fn parsed<T: for<'a> TryFrom<&'a str>>(text: &str) -> Option<T> {
    T::try_from(text).ok()
}

/// A number under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CounterValue(pub(crate) u64);

impl StoredForm for CounterValue {
    const NAME: &'static str = "counter";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.number(self.0);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(Self(fields.number()?))
    }
}

/// A hash of an event to which another row points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PointerValue(pub(crate) EventHash);

impl StoredForm for PointerValue {
    const NAME: &'static str = "pointer";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.hash(&self.0);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(Self(fields.hash()?))
    }
}

/// A text alone: a room id, an event id, a membership, a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextValue(pub(crate) String);

impl StoredForm for TextValue {
    const NAME: &'static str = "text";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(&self.0);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(Self(fields.text()?.to_owned()))
    }
}

/// A timeline order as of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrderValue(pub(crate) i64);

impl StoredForm for OrderValue {
    const NAME: &'static str = "order";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.signed(self.0);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(Self(fields.signed()?))
    }
}

/// A room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoomValue {
    pub(crate) number: u64,
    pub(crate) room_version: RoomVersionId,
    pub(crate) current: u64,
    pub(crate) counts: MemberCounts,
    pub(crate) next_arrival: u64,
    /// The greatest order that the timeline ever had.
    pub(crate) newest_order: Option<i64>,
}

impl StoredForm for RoomValue {
    const NAME: &'static str = "room";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.number(self.number);
        fields.text(self.room_version.as_str());
        fields.number(self.current);
        let MemberCounts { join, invite, knock, leave, ban } = self.counts;
        for count in [join, invite, knock, leave, ban] {
            fields.number(count);
        }
        fields.number(self.next_arrival);
        fields.optional(self.newest_order, FieldWriter::signed);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            number: fields.number()?,
            room_version: parsed(fields.text()?)?,
            current: fields.number()?,
            counts: MemberCounts {
                join: fields.number()?,
                invite: fields.number()?,
                knock: fields.number()?,
                leave: fields.number()?,
                ban: fields.number()?,
            },
            next_arrival: fields.number()?,
            newest_order: fields.optional(FieldReader::signed)?,
        })
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventValue {
    pub(crate) event_id: OwnedEventId,
    pub(crate) room_number: u64,
    pub(crate) standing: Standing,
    pub(crate) order: Option<i64>,
    pub(crate) position: u64,
    pub(crate) state_before: u64,
    pub(crate) current_after: u64,
    pub(crate) visibility: HistoryVisibility,
    pub(crate) received_at: UnixMillis,
    pub(crate) redacted_by: Option<OwnedEventId>,
    pub(crate) transaction: Option<ClientTransaction>,
    pub(crate) json: Box<str>,
}

impl StoredForm for EventValue {
    const NAME: &'static str = "event";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.event_id.as_str());
        fields.number(self.room_number);
        fields.standing(self.standing);
        fields.optional(self.order, FieldWriter::signed);
        fields.number(self.position);
        fields.number(self.state_before);
        fields.number(self.current_after);
        fields.text(self.visibility.as_str());
        fields.number(self.received_at.0);
        fields.optional(self.redacted_by.as_ref(), |fields, id| fields.text(id.as_str()));
        fields.optional(self.transaction.as_ref(), |fields, transaction| {
            fields.text(transaction.user_id.as_str());
            fields.text(transaction.device_id.as_str());
            fields.text(&transaction.endpoint);
            fields.text(transaction.transaction_id.as_str());
        });
        fields.text(&self.json);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            event_id: parsed(fields.text()?)?,
            room_number: fields.number()?,
            standing: fields.standing()?,
            order: fields.optional(FieldReader::signed)?,
            position: fields.number()?,
            state_before: fields.number()?,
            current_after: fields.number()?,
            visibility: HistoryVisibility::from(fields.text()?),
            received_at: UnixMillis(fields.number()?),
            redacted_by: fields.optional(|fields| parsed(fields.text()?))?,
            transaction: fields.optional(|fields| {
                Some(ClientTransaction {
                    user_id: UserId::parse(fields.text()?).ok()?,
                    device_id: OwnedDeviceId::from(fields.text()?),
                    endpoint: fields.text()?.to_owned(),
                    transaction_id: OwnedTransactionId::from(fields.text()?),
                })
            })?,
            json: fields.text()?.into(),
        })
    }
}

/// A part of a state version; the first part has the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatePartValue {
    pub(crate) head: Option<StateHead>,
    pub(crate) changes: Vec<(StateKey, Option<EventHash>)>,
}

/// What is said once of a state version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateHead {
    pub(crate) parent: Option<u64>,
    pub(crate) delta_entries: u64,
}

impl StoredForm for StatePartValue {
    const NAME: &'static str = "state version";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.optional(self.head, |fields, head| {
            fields.optional(head.parent, FieldWriter::number);
            fields.number(head.delta_entries);
        });
        fields.length(self.changes.len());
        for ((kind, state_key), event) in &self.changes {
            fields.text(&kind.to_string());
            fields.text(state_key);
            fields.optional(event.as_ref(), FieldWriter::hash);
        }
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        let head = fields.optional(|fields| {
            Some(StateHead { parent: fields.optional(FieldReader::number)?, delta_entries: fields.number()? })
        })?;
        let count = fields.length()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let kind = fields.text()?.into();
            let state_key = fields.text()?.to_owned();
            changes.push(((kind, state_key), fields.optional(FieldReader::hash)?));
        }
        Some(Self { head, changes })
    }
}

/// A local user's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MembershipValue {
    pub(crate) membership: MembershipState,
    pub(crate) event_id: OwnedEventId,
    pub(crate) position: u64,
}

impl StoredForm for MembershipValue {
    const NAME: &'static str = "membership";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.membership.as_str());
        fields.text(self.event_id.as_str());
        fields.number(self.position);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            membership: MembershipState::from(fields.text()?),
            event_id: parsed(fields.text()?)?,
            position: fields.number()?,
        })
    }
}

impl StoredForm for PendingKnock {
    const NAME: &'static str = "knock";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.event_id.as_str());
        fields.text(self.origin.as_str());
        fields.optional(self.reason.as_deref(), FieldWriter::text);
        fields.number(self.since.0);
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            event_id: parsed(fields.text()?)?,
            origin: parsed(fields.text()?)?,
            reason: fields.optional(|fields| fields.text().map(str::to_owned))?,
            since: UnixMillis(fields.number()?),
        })
    }
}

impl StoredForm for Decision {
    const NAME: &'static str = "decision";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.number(self.at.0);
        fields.text(self.room_id.as_str());
        fields.text(self.user_id.as_str());
        fields.text(self.origin.as_str());
        fields.optional(self.by.as_ref(), |fields, by| fields.text(by.as_str()));
        fields.byte(match self.action {
            DecisionAction::Admitted => 0,
            DecisionAction::Accepted => 1,
            DecisionAction::Denied => 2,
            DecisionAction::Banned => 3,
            DecisionAction::Retracted => 4,
            DecisionAction::Refused => 5,
        });
        fields.optional(self.reason.as_deref(), FieldWriter::text);
        fields.optional(self.event_id.as_ref(), |fields, id| fields.text(id.as_str()));
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            at: UnixMillis(fields.number()?),
            room_id: parsed(fields.text()?)?,
            user_id: parsed(fields.text()?)?,
            origin: parsed(fields.text()?)?,
            by: fields.optional(|fields| parsed(fields.text()?))?,
            action: match fields.byte()? {
                0 => DecisionAction::Admitted,
                1 => DecisionAction::Accepted,
                2 => DecisionAction::Denied,
                3 => DecisionAction::Banned,
                4 => DecisionAction::Retracted,
                5 => DecisionAction::Refused,
                _ => return None,
            },
            reason: fields.optional(|fields| fields.text().map(str::to_owned))?,
            event_id: fields.optional(|fields| parsed(fields.text()?))?,
        })
    }
}

impl FieldWriter {
    /// How an event stands.
    pub(crate) fn standing(&mut self, standing: Standing) {
        self.byte(match standing {
            Standing::Accepted => 0,
            Standing::SoftFailed => 1,
            Standing::Rejected => 2,
        });
    }
}

impl FieldReader<'_> {
    /// How an event stands.
    pub(crate) fn standing(&mut self) -> Option<Standing> {
        match self.byte()? {
            0 => Some(Standing::Accepted),
            1 => Some(Standing::SoftFailed),
            2 => Some(Standing::Rejected),
            _ => None,
        }
    }
}
