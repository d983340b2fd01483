//! The stored forms of what concerns other servers: rows of the outbox, memberships in rooms elsewhere.
//! May not: change what a version that was ever written means; a new meaning is a new version.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::{clock::UnixMillis, pdu::Pdu, room_version::RoomVersion};
use vestibule_storage::{
    outbox::Delivery,
    room::{OutOfBand, Progress},
};

use crate::fields::{FieldReader, FieldWriter, StoredForm};
use crate::values::parsed;

/// A row of the outbox; its key says for whom and in which place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutboxValue {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) event_id: OwnedEventId,
    pub(crate) delivery: Delivery,
}

impl StoredForm for OutboxValue {
    const NAME: &'static str = "outbox row";
    const VERSION: u8 = 1;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.room_id.as_str());
        fields.text(self.event_id.as_str());
        match &self.delivery {
            Delivery::Transaction => fields.byte(0),
            Delivery::Invite => fields.byte(1),
            Delivery::Leave { user_id } => {
                fields.byte(2);
                fields.text(user_id.as_str());
            }
        }
    }

    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        (version == 1).then_some(())?;
        Some(Self {
            room_id: parsed(fields.text()?)?,
            event_id: parsed(fields.text()?)?,
            delivery: match fields.byte()? {
                0 => Delivery::Transaction,
                1 => Delivery::Invite,
                2 => Delivery::Leave { user_id: parsed(fields.text()?)? },
                _ => return None,
            },
        })
    }
}

fn write_event(fields: &mut FieldWriter, event: &Pdu) {
    fields.text(event.event_id().as_str());
    fields.standing(event.standing());
    fields.text(event.json());
}

fn read_event(fields: &mut FieldReader<'_>, version: &RoomVersion) -> Option<Arc<Pdu>> {
    let event_id = parsed(fields.text()?)?;
    let standing = fields.standing()?;
    Pdu::from_canonical_text(event_id, fields.text()?.into(), version, standing).ok().map(Arc::new)
}

/// An event is written as its id, its canonical text and its standing; the room version says how to read it.
impl StoredForm for OutOfBand {
    const NAME: &'static str = "out-of-band membership";
    const VERSION: u8 = 2;

    fn write(&self, fields: &mut FieldWriter) {
        fields.text(self.room_version.as_str());
        fields.text(self.membership.as_str());
        fields.byte(match self.progress {
            Progress::Asking => 0,
            Progress::Settled => 1,
        });
        write_event(fields, &self.event);
        fields.length(self.stripped.len());
        for stripped in &self.stripped {
            fields.text(stripped);
        }
        fields.length(self.via.len());
        for server in &self.via {
            fields.text(server.as_str());
        }
        fields.number(self.since.0);
        fields.optional(self.knock.as_ref(), |fields, knock| fields.text(knock.as_str()));
        fields.length(self.joins.len());
        for join in &self.joins {
            fields.text(join.as_str());
        }
        fields.optional(self.early.as_deref(), write_event);
    }

    fn read(layout: u8, fields: &mut FieldReader<'_>) -> Option<Self> {
        matches!(layout, 1 | 2).then_some(())?;
        let room_version: RoomVersionId = parsed(fields.text()?)?;
        let membership = MembershipState::from(fields.text()?);
        let progress = match fields.byte()? {
            0 => Progress::Asking,
            1 => Progress::Settled,
            _ => return None,
        };
        let version = RoomVersion::lookup(&room_version)?;
        let event = read_event(fields, &version)?;
        let mut stripped = Vec::new();
        for _ in 0..fields.length()? {
            stripped.push(fields.text()?.to_owned());
        }
        let mut via = Vec::new();
        for _ in 0..fields.length()? {
            via.push(parsed(fields.text()?)?);
        }
        let since = UnixMillis(fields.number()?);
        let (mut knock, mut joins, mut early) = (None, Vec::new(), None);
        if layout > 1 {
            knock = fields.optional(|fields| parsed(fields.text()?))?;
            for _ in 0..fields.length()? {
                joins.push(parsed(fields.text()?)?);
            }
            early = fields.optional(|fields| read_event(fields, &version))?;
        }
        Some(Self { room_version, membership, progress, event, stripped, via, since, knock, joins, early })
    }
}
