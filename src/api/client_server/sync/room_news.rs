//! What is new in one room for one user: a piece of timeline, and the state around it.
//! May not: show an event past the user's sight, or anything newer than the position that the answer's token names.

use std::collections::BTreeSet;

use ruma::{
    OwnedEventId, OwnedUserId, RoomId,
    api::client::filter::RoomFilter,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;
use vestibule_protocol::{
    clock::UnixMillis,
    state::{StateKey, StateVersion},
    stream::{PageToken, StreamPosition, TimelineOrder},
};
use vestibule_storage::{
    error::StorageError,
    room::{Direction, RoomReader, StoredEvent, UserMembership},
};

use super::{
    account_data::RoomAccountData,
    answer::{Events, JoinedRoom, LeftRoom, State, StateForm, Summary, Timeline},
    ephemeral::RoomEphemeral,
    out_of_band::Elsewhere,
    state_delta::{self, Entries},
    summary::summary,
};
use crate::{
    client_server::{
        client_event::{RoomIdForm, Surroundings, Viewer, client_events},
        event_filter::{is_lazy, lets_room_through, lets_through, lets_type_through, limit_of},
        room_view::{events_of, senders_without_member_event},
        timeline::{Scan, before},
        visibility::{Sight, version_after},
    },
    extract::Caller,
};

/// Events of a room's timeline when the client does not say. Ours: as Synapse.
const TIMELINE_DEFAULT: usize = 10;

/// Events of a room's timeline at most. Ours: as Synapse by default.
const TIMELINE_MAX: usize = 100;

/// What a sync wants of every room.
pub struct Wants<'a> {
    /// The store.
    pub rooms: &'a dyn RoomReader,
    /// Who asks, from where.
    pub caller: &'a Caller,
    /// What of it.
    pub filter: &'a RoomFilter,
    /// News after this position. `None`: everything.
    pub since: Option<StreamPosition>,
    /// News up to this position.
    pub until: StreamPosition,
    /// All of the state, though the client knows some of it.
    pub full_state: bool,
    /// The client holds timelines that we do not know: it is to drop them.
    pub is_fresh_start: bool,
    /// How the state is to be told.
    pub state_form: StateForm,
    /// Our wall clock.
    pub now: UnixMillis,
}

/// What is told of a room besides its events.
#[derive(Default)]
pub struct Beside {
    /// The user's account data of the room.
    pub account_data: RoomAccountData,
    /// Who is typing, and how far users have read.
    pub ephemeral: RoomEphemeral,
}

impl Beside {
    fn is_empty(&self) -> bool {
        self.account_data.is_empty() && self.ephemeral.is_empty()
    }
}

/// A stretch of a room's life to tell about.
struct Stretch {
    /// The newest event that the client knows. `None`: it knows nothing of the room.
    known: Option<StoredEvent>,
    /// The last event to tell.
    end: TimelineOrder,
    /// The state there.
    end_version: Option<StateVersion>,
    /// The user came into the room within the stretch.
    is_new: bool,
}

/// What is told of a stretch.
struct Told {
    timeline: Timeline,
    state: Vec<Box<RawValue>>,
    /// Who is in the room, or how it is called, may have changed.
    members_changed: bool,
}

impl Wants<'_> {
    /// A room that the user is in. `None`: nothing new.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn joined(
        &self,
        membership: &UserMembership,
        beside: Beside,
    ) -> Result<Option<JoinedRoom>, StorageError> {
        let room_id = &membership.room_id;
        let Some(end) = self.rooms.timeline_at(room_id, self.until).await? else { return Ok(None) };
        let has_news = match self.since {
            None => true,
            Some(since) => self.full_state || end.position > since || membership.position > since,
        };
        let Some(end_order) = end.order else { return Ok(None) };
        if !has_news {
            return Ok((!beside.is_empty()).then(|| self.only_beside(beside, end_order)));
        }
        let sight = Sight::load(self.rooms, room_id, &self.caller.user_id).await?;
        let base = self.base(room_id).await?;
        let known = base.filter(|base| was_joined_at(&sight, base));
        let stretch = Stretch { is_new: known.is_none(), known, end: end_order, end_version: Some(end.current_after) };
        let told = self.told(room_id, &sight, stretch).await?;
        let summary = if told.members_changed {
            summary(self.rooms, room_id, &self.caller.user_id).await?
        } else {
            Summary::default()
        };
        let is_empty = told.timeline.events.is_empty()
            && !told.timeline.limited
            && told.state.is_empty()
            && beside.is_empty()
            && summary == Summary::default();
        Ok((!is_empty).then(|| JoinedRoom {
            account_data: Events { events: beside.account_data },
            ephemeral: Events { events: beside.ephemeral },
            state: State::new(told.state, self.state_form),
            summary,
            timeline: told.timeline,
            ..JoinedRoom::default()
        }))
    }

    /// A room in which nothing happened: most news of who types and reads, so nothing else is read for it.
    fn only_beside(&self, beside: Beside, end: TimelineOrder) -> JoinedRoom {
        let prev_batch = PageToken::Timeline(end).to_string();
        JoinedRoom {
            account_data: Events { events: beside.account_data },
            ephemeral: Events { events: beside.ephemeral },
            state: State::new(Vec::new(), self.state_form),
            timeline: Timeline { prev_batch, ..Timeline::default() },
            ..JoinedRoom::default()
        }
    }

    /// A room that the user left, was turned away from, or is banned from: with the event that did it, and nothing of what
    /// came after. A knock or an invite elsewhere ends the same way.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn left(&self, membership: &UserMembership) -> Result<LeftRoom, StorageError> {
        let room_id = &membership.room_id;
        let sight = Sight::load(self.rooms, room_id, &self.caller.user_id).await?;
        if let Some(elsewhere) = Elsewhere::of(self.rooms, &self.caller.user_id, membership).await? {
            return self.only_own_event(room_id, &sight, elsewhere.ending(membership).into_iter().collect()).await;
        }
        let own = events_of(self.rooms, room_id, std::slice::from_ref(&membership.event_id)).await?;
        let base = self.base(room_id).await?;
        let was_inside = sight.was_inside_since(base.as_ref().and_then(|base| base.order));
        let Some(left_at) = sight.left_at().filter(|_| was_inside) else {
            return self.only_own_event(room_id, &sight, own).await;
        };
        let known = base.filter(|base| was_joined_at(&sight, base));
        let stretch = Stretch {
            is_new: known.is_none(),
            known,
            end: left_at,
            end_version: version_after(self.rooms, room_id, left_at).await?,
        };
        let mut told = self.told(room_id, &sight, stretch).await?;
        // Left and then banned: the ban is told too, and nothing between the two.
        let later = own.into_iter().filter(|event| event.order.is_none_or(|order| order > left_at));
        let later: Vec<StoredEvent> = later.filter(|event| self.lets_timeline_event_through(event)).collect();
        let around = Surroundings::of_timeline(self.rooms, room_id, &later).await?;
        told.timeline.events.extend(client_events(&later, self.viewer(&sight), &around, RoomIdForm::Implied));
        Ok(LeftRoom { state: State::new(told.state, self.state_form), timeline: told.timeline, ..LeftRoom::default() })
    }

    /// Who was never inside learns the end of the knock or the invite, and no more.
    async fn only_own_event(
        &self,
        room_id: &RoomId,
        sight: &Sight,
        own: Vec<StoredEvent>,
    ) -> Result<LeftRoom, StorageError> {
        let own: Vec<StoredEvent> = own.into_iter().filter(|event| self.lets_timeline_event_through(event)).collect();
        let prev_batch = own.first().and_then(|event| event.order).map_or_else(TimelineOrder::default, before);
        // Not what it replaced: that may be the event of an invite or knock, which the user knows, and costs an old state.
        let around = Surroundings::of_state(self.rooms, room_id, &own).await?;
        let events = client_events(&own, self.viewer(sight), &around, RoomIdForm::Implied);
        let prev_batch = PageToken::Timeline(prev_batch).to_string();
        let timeline = Timeline { events, limited: false, prev_batch };
        Ok(LeftRoom { state: State::new(Vec::new(), self.state_form), timeline, ..LeftRoom::default() })
    }

    fn lets_timeline_event_through(&self, event: &StoredEvent) -> bool {
        let filter = &self.filter.timeline;
        lets_room_through(filter, event.event.room_id()) && lets_through(filter, &event.event)
    }

    /// The newest event of the room when the client last asked.
    async fn base(&self, room_id: &RoomId) -> Result<Option<StoredEvent>, StorageError> {
        match self.since {
            None => Ok(None),
            Some(since) => self.rooms.timeline_at(room_id, since).await,
        }
    }

    fn viewer<'a>(&'a self, sight: &'a Sight) -> Viewer<'a> {
        Viewer { user_id: &self.caller.user_id, device_id: &self.caller.device_id, sight, now: self.now }
    }

    async fn told(&self, room_id: &RoomId, sight: &Sight, stretch: Stretch) -> Result<Told, StorageError> {
        let (events, is_cut) = self.timeline(room_id, sight, &stretch).await?;
        let start = self.start_version(room_id, &stretch, &events).await?;
        let state = self.state(room_id, &stretch, start, &events).await?;

        let first = events.first().and_then(|event| event.order);
        let around = Surroundings::of_timeline(self.rooms, room_id, &events).await?;
        let timeline = Timeline {
            events: client_events(&events, self.viewer(sight), &around, RoomIdForm::Implied),
            // Who comes back, or starts over, may hold an older piece that does not join on.
            limited: is_cut || self.is_fresh_start || (stretch.is_new && self.since.is_some()),
            prev_batch: PageToken::Timeline(first.map_or(stretch.end, before)).to_string(),
        };
        let members_changed =
            stretch.known.is_none() || self.full_state || events.iter().chain(&state).any(changes_summary);
        let around = Surroundings::of_state(self.rooms, room_id, &state).await?;
        let state = client_events(&state, self.viewer(sight), &around, RoomIdForm::Implied);
        Ok(Told { timeline, state, members_changed })
    }

    /// The newest events of the stretch, oldest first, and whether some were left out.
    async fn timeline(
        &self,
        room_id: &RoomId,
        sight: &Sight,
        stretch: &Stretch,
    ) -> Result<(Vec<StoredEvent>, bool), StorageError> {
        let filter = &self.filter.timeline;
        if !lets_room_through(filter, room_id) {
            return Ok((Vec::new(), false));
        }
        let limit = limit_of(filter.limit, TIMELINE_DEFAULT, TIMELINE_MAX);
        let scan = Scan {
            room_id,
            sight,
            filter,
            direction: Direction::Backward,
            from: Some(stretch.end),
            to: stretch.known.as_ref().and_then(|known| known.order),
            // One more than asked for tells whether there is more.
            limit: limit.saturating_add(1),
        };
        let mut page = scan.read(self.rooms).await?;
        page.events.truncate(limit);
        page.events.reverse();
        Ok((page.events, page.next.is_some()))
    }

    /// The version of the state right before the first event of the timeline.
    async fn start_version(
        &self,
        room_id: &RoomId,
        stretch: &Stretch,
        events: &[StoredEvent],
    ) -> Result<Option<StateVersion>, StorageError> {
        match events.first().and_then(|event| event.order) {
            None => Ok(stretch.end_version),
            Some(first) => version_after(self.rooms, room_id, before(first)).await,
        }
    }

    async fn state(
        &self,
        room_id: &RoomId,
        stretch: &Stretch,
        start: Option<StateVersion>,
        events: &[StoredEvent],
    ) -> Result<Vec<StoredEvent>, StorageError> {
        let filter = &self.filter.state;
        if !lets_room_through(filter, room_id) {
            return Ok(Vec::new());
        }
        let known = stretch.known.as_ref().filter(|_| !self.full_state).map(|known| known.current_after);
        let gap = state_delta::between(self.rooms, room_id, known, start).await?;
        let during = match start {
            // Before the room's first event there is no state.
            None => state_delta::between(self.rooms, room_id, None, stretch.end_version).await?,
            Some(start) => state_delta::between(self.rooms, room_id, Some(start), stretch.end_version).await?,
        };
        let in_timeline: BTreeSet<OwnedEventId> =
            events.iter().map(|event| event.event.event_id().to_owned()).collect();
        let mut told = match self.state_form {
            StateForm::BeforeTimeline => state_delta::before_timeline(gap, during, &in_timeline),
            StateForm::AfterTimeline | StateForm::AfterTimelineUnstable => state_delta::after_timeline(gap, during),
        };
        told.retain(|(kind, _), _| lets_type_through(filter, &kind.to_string()));
        if is_lazy(filter) {
            self.keep_needed_members(room_id, &mut told, known.is_some(), events).await?;
        }
        let ids: Vec<OwnedEventId> = told.into_values().collect();
        let mut state = events_of(self.rooms, room_id, &ids).await?;
        state.retain(|event| lets_through(filter, &event.event));
        Ok(state)
    }

    /// Lazily loaded members: of a whole state only those who are needed to show the timeline; of a difference all, since
    /// the client may hold an older one, and those who are needed besides.
    async fn keep_needed_members(
        &self,
        room_id: &RoomId,
        told: &mut Entries,
        is_difference: bool,
        events: &[StoredEvent],
    ) -> Result<(), StorageError> {
        let member_key = |user: &str| -> StateKey { (StateEventType::RoomMember, user.to_owned()) };
        if !is_difference {
            let mut needed: BTreeSet<String> = events.iter().map(|event| event.event.sender().to_string()).collect();
            needed.insert(self.caller.user_id.to_string());
            let heroes = summary(self.rooms, room_id, &self.caller.user_id).await?.heroes;
            needed.extend(heroes.unwrap_or_default().iter().map(ToString::to_string));
            told.retain(|(kind, user), _| *kind != StateEventType::RoomMember || needed.contains(user));
            return Ok(());
        }
        let senders: BTreeSet<OwnedUserId> = senders_without_member_event(events);
        for sender in senders {
            let key = member_key(sender.as_str());
            if told.contains_key(&key) {
                continue;
            }
            if let Some(event) = self.rooms.current_state_event(room_id, &key.0, &key.1).await? {
                told.insert(key, event.event.event_id().to_owned());
            }
        }
        Ok(())
    }
}

/// Counts or heroes may differ after it. Knocks are in neither.
fn changes_summary(event: &StoredEvent) -> bool {
    match event.event.kind() {
        TimelineEventType::RoomMember => event.event.membership() != Some(MembershipState::Knock),
        TimelineEventType::RoomName | TimelineEventType::RoomCanonicalAlias => true,
        _ => false,
    }
}

fn was_joined_at(sight: &Sight, event: &StoredEvent) -> bool {
    event.order.is_some_and(|order| sight.membership_after(order) == Some(&MembershipState::Join))
}
