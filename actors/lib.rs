//! Rooms as actors: [`Rooms::ask`] is the only door.
//! May not: reach the network, speak HTTP, or name a storage engine.

#![warn(missing_docs)]

pub mod cpu_pool;
pub mod expiry;
pub mod gauges;
pub mod limits;
pub mod policy_signer;
pub mod receipts;
pub mod registry;
pub mod room;
pub mod sync_notifier;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod typing;

pub use crate::{
    cpu_pool::CpuPool,
    gauges::Gauges,
    limits::SourceNetwork,
    policy_signer::{PolicySigner, PolicyVerdict},
    registry::{AskError, Rooms, RoomsOptions},
    room::{
        RoomMessage,
        abandon_knock::AbandonKnock,
        add_history::AddHistory,
        admit_join::{AdmitJoin, AdmittedJoin},
        admit_knock::{AdmitKnock, AdmittedKnock},
        admit_leave::AdmitLeave,
        begin_join::BeginJoin,
        begin_knock::BeginKnock,
        change_membership::ChangeMembership,
        check_reader::{CheckReader, Reading},
        check_speakers::{CheckSpeakers, Speakers},
        create_room::{CreateRoom, InitialEvent},
        end_join::EndJoin,
        expire_knock::{ExpireKnock, Kept},
        hand_on_leave::HandOnLeave,
        import_join::JoinAnswer,
        leave_out_of_band::LeaveOutOfBand,
        prepare_join::{JoinTemplate, PrepareJoin},
        prepare_knock::{KnockTemplate, PrepareKnock},
        prepare_leave::{LeaveTemplate, PrepareLeave},
        prepare_upgrade::{PrepareUpgrade, ReplaceableRoom},
        receive_across_gap::{ReceiveAcrossGap, StateAcross},
        receive_answer::ReceiveAnswer,
        receive_invite::ReceiveInvite,
        receive_outliers::ReceiveOutliers,
        receive_pdu::{ReceivePdu, Received},
        send_event::SendEvent,
        settle_knock::{KnockOutcome, SettleKnock, Settled},
        settle_leave::SettleLeave,
    },
    sync_notifier::SyncNotifier,
    typing::Typing,
};
pub use vestibule_protocol::membership::change::MembershipChange;
