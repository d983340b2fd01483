//! Makes a room: all its first events in one commit, so that it exists whole or not at all.
//! May not: draw a room id; the caller brings one where the version needs it.

use std::{sync::Arc, time::Duration};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    auth::authorize_by_shape,
    membership::{CreateRefusal, handshake::member_content},
    pdu::{
        Pdu,
        event_builder::{BuildRefusal, EventDraft, GraphPlace},
    },
    room_graph::{CurrentAfter, RoomGraph, StateBefore},
    room_version::{Hosting, RoomVersion},
    stream::TimelineOrder,
};
use vestibule_storage::room::{RoomCommit, RoomOrigin};

use super::{
    Lookups, RoomChange, RoomContext,
    apply::{Placed, Source},
    draft::DraftStop,
    memory::Room,
};

/// What a room starts with.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    /// Who makes it.
    pub creator: OwnedUserId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// Its id, drawn by the caller; `None` for versions whose room id is the hash of the create event.
    pub room_id: Option<OwnedRoomId>,
    /// The content of the create event, without `room_version` and `creator`.
    pub create_content: CanonicalJsonObject,
    /// The content of the creator's join, without `membership`.
    pub creator_content: CanonicalJsonObject,
    /// What follows, in order.
    pub initial: Vec<InitialEvent>,
}

/// One of the first events.
#[derive(Clone, Debug)]
pub struct InitialEvent {
    /// Who sends it.
    pub sender: OwnedUserId,
    /// Its type.
    pub kind: TimelineEventType,
    /// Present on state events.
    pub state_key: Option<String>,
    /// Its content.
    pub content: CanonicalJsonObject,
}

/// Builds the room and the commit that makes it, with a create event of so much later than now. Pure but for the clock; the caller
/// commits.
pub(crate) fn build(
    context: &Arc<RoomContext>,
    request: CreateRoom,
    incarnation: u64,
    later: Duration,
) -> Result<(OwnedRoomId, RoomCommit), CreateRefusal> {
    let version = RoomVersion::lookup(&request.room_version)
        .filter(|version| version.hosting() == Hosting::Hosted)
        .ok_or(CreateRefusal::VersionNotHosted)?;
    let create = create_event(context, &request, &version, later)?;
    let room_id = create.room_id().to_owned();
    let graph = RoomGraph::empty(version, context.core_seed);
    let mut room = Room::new(room_id.clone(), context.clone(), graph, TimelineOrder(1));
    let mut change = RoomChange::default();
    append_create(&mut room, create, &mut change)?;

    let join = InitialEvent {
        sender: request.creator.clone(),
        kind: TimelineEventType::RoomMember,
        state_key: Some(request.creator.to_string()),
        content: member_content(request.creator_content, &MembershipState::Join),
    };
    for event in std::iter::once(join).chain(request.initial) {
        append(&mut room, event, &mut change)?;
    }
    let commit = change.into_commit(&room, incarnation, 1, RoomOrigin::Created);
    Ok((room_id, commit))
}

fn create_event(
    context: &RoomContext,
    request: &CreateRoom,
    version: &RoomVersion,
    later: Duration,
) -> Result<Pdu, CreateRefusal> {
    let mut content = request.create_content.clone();
    content.insert("room_version".to_owned(), CanonicalJsonValue::String(request.room_version.to_string()));
    content.remove("creator");
    if version.create_names_creator() {
        content.insert("creator".to_owned(), CanonicalJsonValue::String(request.creator.to_string()));
    }
    let draft = EventDraft {
        kind: TimelineEventType::RoomCreate,
        state_key: Some(String::new()),
        sender: request.creator.clone(),
        content,
        redacts: None,
    };
    let place = GraphPlace {
        room_id: request.room_id.clone().filter(|_| !version.room_id_is_create_hash()),
        prev_events: Vec::<OwnedEventId>::new(),
        auth_events: Vec::new(),
        depth: 1,
        origin_server_ts: context.clock.now().plus(later),
    };
    draft.build(&place, version, &context.identity).map_err(refusal_of)
}

fn append_create(room: &mut Room, create: Pdu, change: &mut RoomChange) -> Result<(), CreateRefusal> {
    let create = Arc::new(create);
    authorize_by_shape(room.version(), &create, |_| None)
        .map_err(|refusal| CreateRefusal::NotAuthorized { reason: refusal.reason })?;
    let StateBefore::Known(before) = room.graph.state_before(&[]) else {
        return Err(CreateRefusal::NotAuthorized { reason: "an empty room has no forks".to_owned() });
    };
    let CurrentAfter::Known(placement) = room.graph.place(&create, &before) else {
        return Err(CreateRefusal::NotAuthorized { reason: "an empty room has no forks".to_owned() });
    };
    room.apply(Placed { source: Source::Ours, event: create, before, placement }, None, change);
    Ok(())
}

fn append(room: &mut Room, event: InitialEvent, change: &mut RoomChange) -> Result<(), CreateRefusal> {
    let draft = EventDraft {
        kind: event.kind,
        state_key: event.state_key,
        sender: event.sender,
        content: event.content,
        redacts: None,
    };
    let lookups = Lookups::new(room.now());
    match room.draft(draft, &lookups) {
        Ok(placed) => {
            room.apply(placed, None, change);
            Ok(())
        }
        Err(DraftStop::NotAuthorized(refusal)) => Err(CreateRefusal::NotAuthorized { reason: refusal.reason }),
        Err(DraftStop::Build(refusal)) => Err(refusal_of(refusal)),
        Err(DraftStop::Need(_)) => Err(CreateRefusal::NotAuthorized { reason: "a new room has no forks".to_owned() }),
    }
}

fn refusal_of(refusal: BuildRefusal) -> CreateRefusal {
    match refusal {
        BuildRefusal::TooLarge => CreateRefusal::TooLarge,
        BuildRefusal::FieldTooLong => CreateRefusal::FieldTooLong,
        BuildRefusal::BadContent(what) => CreateRefusal::BadContent { what },
    }
}
