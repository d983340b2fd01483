//! What may happen in the property test, and how likely.
//! May not: know what a step does.

use proptest::{
    prelude::{Just, Strategy, any},
    prop_oneof,
};

use super::keys::{KeyStep, key_step};

pub(super) const NAMES: [&str; 4] = ["anna", "bob", "bobby", "carol"];
pub(super) const DEVICES: [&str; 2] = ["PHONE", "LAPTOP"];
pub(super) const KINDS: [&str; 2] = ["m.direct", "m.tag"];
pub(super) const SERVERS: [&str; 2] = ["there.example", "other.example"];

/// One thing that may happen. Numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
pub(super) enum Step {
    CreateRoom {
        version: usize,
    },
    InRoom {
        room: usize,
        user: usize,
        is_remote: bool,
        to: usize,
        step: RoomStep,
    },
    /// In a room that this server is not in.
    Elsewhere {
        room: usize,
        user: usize,
        step: ElsewhereStep,
    },
    /// A destination took some of its rows, or says so.
    Deliver {
        server: usize,
        row: usize,
    },
    Account {
        user: usize,
        number: u8,
        step: AccountStep,
    },
    Several(Vec<(usize, u8, AccountStep)>),
    /// Somebody reads on, or what they read is given up.
    Read {
        room: usize,
        user: usize,
        is_remote: bool,
        slot: usize,
        is_removed: bool,
    },
    ServerKeys {
        server: usize,
        number: u8,
    },
    Reopen,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RoomStep {
    Message,
    MessageBeside,
    MessageOfClient { number: u8 },
    Member { membership: usize },
    Leave,
    Knock,
    KnockBeside,
    State { number: u8 },
    Remove { number: u8 },
    FullCopy,
    Redact { event: usize },
    SoftFailed,
    Backfilled,
    History,
    AcceptAfterAll { event: usize },
    Refusal,
    NewLife,
    Gap,
    OldLife,
    CreateAgain,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ElsewhereStep {
    Knock { is_settled: bool },
    Invite,
    Leave,
    End,
    BeginJoin,
    EndJoin,
    Join,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum AccountStep {
    CreateUser,
    UpdateUser,
    SetField,
    RemoveField,
    PutDevice,
    DeleteDevice,
    DeleteDevices,
    PutFilter,
    PutData,
    PutRoomData,
    CreateAlias,
    DeleteAlias,
    Publish,
    Hide,
    Forget,
    Remember,
    Keys(KeyStep),
}

/// Draws one.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let in_room = (0..4_usize, 0..NAMES.len(), any::<bool>(), 0..4_usize, room_step())
        .prop_map(|(room, user, is_remote, to, step)| Step::InRoom { room, user, is_remote, to, step });
    let elsewhere = (0..2_usize, 0..NAMES.len(), elsewhere_step()).prop_map(|(room, user, step)| Step::Elsewhere {
        room,
        user,
        step,
    });
    let read = (0..4_usize, 0..NAMES.len(), any::<bool>(), 0..6_usize, proptest::bool::weighted(0.2))
        .prop_map(|(room, user, is_remote, slot, is_removed)| Step::Read { room, user, is_remote, slot, is_removed });
    let account = || (0..NAMES.len(), 0..4_u8, account_step());
    prop_oneof![
        2 => (0..3_usize).prop_map(|version| Step::CreateRoom { version }),
        20 => in_room,
        6 => elsewhere,
        3 => (0..SERVERS.len(), any::<usize>()).prop_map(|(server, row)| Step::Deliver { server, row }),
        12 => account().prop_map(|(user, number, step)| Step::Account { user, number, step }),
        4 => proptest::collection::vec(account(), 0..5).prop_map(Step::Several),
        4 => read,
        1 => (0..SERVERS.len(), any::<u8>()).prop_map(|(server, number)| Step::ServerKeys { server, number }),
        1 => Just(Step::Reopen),
    ]
}

fn room_step() -> impl Strategy<Value = RoomStep> {
    prop_oneof![
        4 => Just(RoomStep::Message),
        3 => Just(RoomStep::MessageBeside),
        2 => (0..4_u8).prop_map(|number| RoomStep::MessageOfClient { number }),
        5 => (0..5_usize).prop_map(|membership| RoomStep::Member { membership }),
        2 => Just(RoomStep::Leave),
        4 => Just(RoomStep::Knock),
        4 => Just(RoomStep::KnockBeside),
        4 => (0..4_u8).prop_map(|number| RoomStep::State { number }),
        2 => (0..4_u8).prop_map(|number| RoomStep::Remove { number }),
        1 => Just(RoomStep::FullCopy),
        2 => any::<usize>().prop_map(|event| RoomStep::Redact { event }),
        1 => Just(RoomStep::SoftFailed),
        1 => Just(RoomStep::Backfilled),
        1 => Just(RoomStep::History),
        2 => any::<usize>().prop_map(|event| RoomStep::AcceptAfterAll { event }),
        1 => Just(RoomStep::Refusal),
        1 => Just(RoomStep::NewLife),
        1 => Just(RoomStep::Gap),
        1 => Just(RoomStep::OldLife),
        1 => Just(RoomStep::CreateAgain),
    ]
}

fn elsewhere_step() -> impl Strategy<Value = ElsewhereStep> {
    prop_oneof![
        3 => any::<bool>().prop_map(|is_settled| ElsewhereStep::Knock { is_settled }),
        2 => Just(ElsewhereStep::Invite),
        2 => Just(ElsewhereStep::Leave),
        1 => Just(ElsewhereStep::End),
        2 => Just(ElsewhereStep::BeginJoin),
        1 => Just(ElsewhereStep::EndJoin),
        1 => Just(ElsewhereStep::Join),
    ]
}

fn account_step() -> impl Strategy<Value = AccountStep> {
    let of_account = proptest::sample::select(vec![
        AccountStep::CreateUser,
        AccountStep::CreateUser,
        AccountStep::UpdateUser,
        AccountStep::SetField,
        AccountStep::RemoveField,
        AccountStep::PutDevice,
        AccountStep::PutDevice,
        AccountStep::DeleteDevice,
        AccountStep::DeleteDevices,
        AccountStep::PutFilter,
        AccountStep::PutData,
        AccountStep::PutRoomData,
        AccountStep::CreateAlias,
        AccountStep::DeleteAlias,
        AccountStep::Publish,
        AccountStep::Hide,
        AccountStep::Forget,
        AccountStep::Remember,
    ]);
    prop_oneof![of_account, key_step().prop_map(AccountStep::Keys)]
}
