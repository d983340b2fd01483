//! Rooms as actors: [`Rooms::ask`] is the only door.
//! May not: reach the network, speak HTTP, or name a storage engine.

#![warn(missing_docs)]

pub mod cpu_pool;
pub mod gauges;
pub mod limits;
pub mod registry;
pub mod room;
pub mod sync_notifier;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crate::{
    cpu_pool::CpuPool,
    gauges::Gauges,
    limits::SourceNetwork,
    registry::{AskError, Rooms, RoomsOptions},
    room::{
        RoomMessage,
        admit_knock::{AdmitKnock, AdmittedKnock},
        admit_leave::AdmitLeave,
        change_membership::ChangeMembership,
        check_door::CheckDoor,
        create_room::{CreateRoom, InitialEvent},
        prepare_knock::{KnockTemplate, PrepareKnock},
        prepare_leave::{LeaveTemplate, PrepareLeave},
        send_event::SendEvent,
    },
    sync_notifier::SyncNotifier,
};
pub use vestibule_protocol::membership::change::MembershipChange;
