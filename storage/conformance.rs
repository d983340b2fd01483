//! The suite that every engine must pass: one test for each fact.
//! May not: know an engine, or ask more than the traits promise.
//!
//! An engine's test file is one line, `vestibule_storage::conformance!(TemporaryEngine::new());`, with an expression that
//! makes an [`Engine`] on which nothing is kept yet. Each test brings its own single-threaded runtime.
//!
//! Where the traits leave room, the suite reads them so:
//! - Every commit takes one position and is announced, those of server keys too; one that is refused or fails takes none.
//! - Incarnations need not survive a restart; after it the suite only uses newer ones.
//! - A commit that is refused is not the predecessor of anything. Whether its own number may be tried again is left open.
//! - What is announced names local users with a new membership other than `join` or a changed out-of-band row, and those
//!   with new account data, private receipts, messages for their devices, or news of a list that they are to hear of; it may
//!   name other local users whom the commit touches. Destinations are those for which the commit queues events or EDUs, each
//!   once; what is done with in the queues concerns nobody.
//! - `state_changes` has no entry for a key that went to something else and back.
//! - Besides `SetForgotten`, only a local join, invite or knock changes the forgotten mark: it takes it back.
//! - Lists without a promised order are compared sorted; `next_*` of a snapshot are compared as bounds.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code behind the feature `testing`: what does not hold must end the test where it shows"
)]

pub mod accounts;
pub mod commits;
pub mod device_keys;
pub mod durability;
pub mod events;
pub mod fixture;
pub mod knocks;
pub mod memberships;
pub mod out_of_band;
pub mod outbox;
pub mod random;
pub mod receipts;
pub mod states;
pub mod survey;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::LocalBoxFuture;
use vestibule_protocol::stream::StreamPosition;

use crate::{
    accounts::AccountChange,
    commit::{Announcement, Commit, CommitError, CommitListener, NoSlot, Stores, Ticket},
    room::RoomCommit,
};

/// An engine that waits longer than this is taken to hang.
const FACT_TIME_MAX: Duration = Duration::from_secs(120);

/// A place in which an engine can be opened, with nothing kept in it at first.
pub trait Engine {
    /// Opens the engine on what is kept. `listener` hears its commits.
    fn open(&mut self, listener: Arc<dyn CommitListener>) -> LocalBoxFuture<'_, Stores>;

    /// Closes the engine, so that it may be opened again. All handles were dropped before.
    fn close(&mut self) -> LocalBoxFuture<'_, Reopening>;
}

/// Whether an engine that was closed can be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopening {
    /// With everything that was durable.
    Possible,
    /// What it kept is gone; facts about reopening are skipped.
    Impossible,
}

/// Hears and remembers what the writer announces.
#[derive(Debug, Default)]
pub struct Heard {
    announcements: Mutex<Vec<Announcement>>,
}

impl Heard {
    /// All announcements so far.
    pub fn all(&self) -> Vec<Announcement> {
        self.announcements.lock().unwrap().clone()
    }
}

impl CommitListener for Heard {
    fn committed(&self, announcement: &Announcement) {
        self.announcements.lock().unwrap().push(announcement.clone());
    }
}

/// What a fact is shown on: one engine, open, with its listener.
pub struct World {
    engine: Box<dyn Engine>,
    stores: Option<Stores>,
    heard: Arc<Heard>,
}

impl World {
    /// Opens an engine.
    pub async fn open(mut engine: Box<dyn Engine>) -> Self {
        let heard = Arc::new(Heard::default());
        let stores = Some(engine.open(heard.clone()).await);
        Self { engine, stores, heard }
    }

    /// The engine's handles.
    pub fn stores(&self) -> &Stores {
        self.stores.as_ref().expect("the world is open")
    }

    /// What the writer announced, oldest first.
    pub fn heard(&self) -> Vec<Announcement> {
        self.heard.all()
    }

    /// Closes the engine and opens it again.
    pub async fn reopen(&mut self) -> Reopening {
        self.stores = None;
        let reopening = self.engine.close().await;
        if reopening == Reopening::Possible {
            self.stores = Some(self.engine.open(self.heard.clone()).await);
        }
        reopening
    }

    /// Enqueues a commit without waiting for its outcome; waits for a slot.
    pub async fn enqueue(&self, commit: Commit) -> Ticket {
        loop {
            match self.stores().writer.reserve() {
                Ok(slot) => return self.stores().writer.enqueue(slot, commit),
                Err(NoSlot::Busy) => tokio::task::yield_now().await,
                Err(NoSlot::Refused) => panic_with("a healthy engine refuses writes"),
            }
        }
    }

    /// Makes or fails to make a commit.
    pub async fn commit(&self, commit: Commit) -> Result<StreamPosition, CommitError> {
        self.enqueue(commit).await.await
    }

    /// Tries a commit of a room.
    pub async fn try_room(&self, commit: RoomCommit) -> Result<StreamPosition, CommitError> {
        self.commit(Commit::Room(Box::new(commit))).await
    }

    /// Makes a commit of a room.
    pub async fn room(&self, commit: RoomCommit) -> StreamPosition {
        self.try_room(commit).await.unwrap()
    }

    /// Tries changes of accounts.
    pub async fn try_accounts(&self, changes: Vec<AccountChange>) -> Result<StreamPosition, CommitError> {
        self.commit(Commit::Accounts(changes)).await
    }

    /// Makes changes of accounts.
    pub async fn accounts(&self, changes: Vec<AccountChange>) -> StreamPosition {
        self.try_accounts(changes).await.unwrap()
    }
}

/// Runs one fact on an engine. Called by the tests that [`conformance!`](crate::conformance!) makes.
pub fn check(engine: Box<dyn Engine>, fact: impl for<'a> FnOnce(&'a mut World) -> LocalBoxFuture<'a, ()>) {
    block_on(async {
        let mut world = World::open(engine).await;
        fact(&mut world).await;
    });
}

/// Runs a future on a runtime of its own, with a deadline.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(FACT_TIME_MAX, future).await.expect("the engine hangs") })
}

#[expect(clippy::panic, reason = "test code behind the feature `testing`")]
fn panic_with(what: &str) -> ! {
    panic!("{what}")
}

/// Makes one `#[test]` for each fact of the suite. The argument is an expression that makes an
/// [`Engine`](crate::conformance::Engine) on which nothing is kept yet; it is evaluated once for each test, and several
/// times for the property test, so each evaluation must give a place of its own.
#[macro_export]
macro_rules! conformance {
    ($engine:expr) => {
        $crate::conformance_tests! { $engine;
            commits {
                created_room_is_readable_after_its_ticket
                same_room_twice_is_a_conflict_and_changes_nothing
                commit_to_a_missing_room_is_a_conflict
                sequence_gap_is_refused_with_all_that_follow
                first_sequence_of_a_life_is_one
                older_incarnation_is_refused_once_a_newer_was_seen
                gap_in_one_room_leaves_other_rooms_alone
                positions_are_consecutive_and_announced_in_order
                refused_commits_take_no_position_and_are_not_announced
                announcement_names_the_room_and_whom_it_concerns
                announcement_precedes_the_ticket_s_answer
                pipelined_commits_are_made_in_order
                dropped_ticket_cancels_nothing
                slots_are_bounded_and_come_back
                unused_slots_come_back
                position_covers_what_a_ticket_answered
            }
            events {
                events_are_found_only_in_their_room
                events_come_in_the_order_asked
                event_reads_back_as_it_was_committed
                room_of_event_is_known
                timeline_pages_forward
                timeline_pages_backward
                timeline_bounds_are_after_and_up_to
                timeline_of_another_room_does_not_mix_in
                events_that_are_not_shown_are_stored_and_absent_from_the_timeline
                backfilled_events_stand_before_all_others
                history_leaves_what_is_live_alone
                event_that_comes_again_is_readable_from_then_on
                timeline_at_a_position_is_the_newest_event_readable_then
                redacted_event_reads_back_redacted_everywhere
                redacted_event_that_comes_again_stays_redacted
                event_and_its_redaction_in_one_commit
                transaction_finds_its_event_for_that_device_and_endpoint_only
                rooms_are_listed_in_the_order_of_their_ids
                unknown_rooms_answer_nothing
                every_room_version_reads_back
            }
            states {
                current_state_is_that_of_the_last_commit
                current_state_of_a_type_is_in_the_order_of_state_keys
                state_types_that_begin_alike_are_not_mixed
                current_state_event_is_found_by_type_and_key
                removed_state_is_gone
                every_state_version_reads_back
                state_versions_branch
                full_copy_starts_from_nothing
                state_changes_are_the_difference_of_two_states
                state_changes_do_not_answer_across_a_full_copy_or_branches
                key_that_went_and_came_back_is_no_change
                member_counts_are_those_of_the_last_commit
                extremities_are_those_of_the_fork
                snapshot_is_what_was_committed
                snapshot_counters_are_beyond_what_is_in_use
            }
            memberships {
                local_memberships_are_indexed_by_user
                remote_memberships_are_not_indexed
                membership_is_the_newest_with_its_position
                membership_history_is_oldest_first
                membership_without_a_place_is_not_in_the_history
                membership_of_the_past_is_in_the_history_alone
                forgotten_mark_is_set_and_taken_back
                coming_back_takes_the_forgotten_mark_away
                leaving_for_good_leaves_the_forgotten_mark
                forgetting_concerns_one_room_and_one_user
            }
            knocks {
                pending_knock_appears_with_its_reason
                repeated_knock_replaces_the_first
                knock_ends_with_any_other_membership
                pending_knocks_page_in_order_across_rooms
                pending_knocks_of_one_room_page_in_order
                knocks_made_from_one_template_all_pend
                decisions_come_newest_first
                decisions_page_without_gaps_or_repeats
                refusal_leaves_an_audit_row_and_nothing_else
            }
            outbox {
                rows_come_in_the_order_of_their_commits
                entries_of_one_commit_are_numbered
                event_for_two_destinations_is_two_rows
                rows_are_removed_one_by_one
                row_that_is_not_there_is_no_conflict
                rows_page_within_their_destination
                destinations_page_in_the_order_of_their_names
                every_way_of_delivery_reads_back
                failed_commits_leave_no_rows
                announcement_names_the_destinations
            }
            out_of_band {
                row_reads_back_and_the_room_is_not_stored
                row_is_replaced_and_ends
                memberships_out_of_band_are_indexed_by_user
                knock_that_is_being_asked_for_is_no_membership
                rows_page_in_order_across_rooms
                out_of_band_commit_of_a_stored_room_is_a_conflict
                out_of_band_commit_with_parts_of_a_room_is_not_written
                decisions_out_of_band_are_kept
                leaving_out_of_band_leaves_a_row_in_the_outbox
                join_that_has_not_ended_stands_beside_what_the_user_is
                joins_page_in_order_across_rooms_and_end_with_the_import
                import_of_a_join_makes_the_room_and_ends_the_row
                stored_room_may_have_rows_too
                knock_out_of_band_takes_the_forgotten_mark_away
                announcement_names_whose_row_changed
                gap_in_a_life_out_of_band_is_refused
            }
            receipts {
                receipt_reads_back_by_its_slot
                receipt_replaces_the_one_before_it
                receipts_of_several_rooms_are_read_at_once
                removed_receipts_are_gone
                announcement_names_who_learns_of_receipts
                receipts_go_on_after_reopening
            }
            accounts {
                user_reads_back
                second_user_of_the_same_name_is_a_conflict
                user_is_replaced
                change_of_a_missing_user_is_a_conflict
                profile_fields_are_set_and_removed
                users_page_in_the_order_of_their_ids
                device_is_found_by_its_token
                replaced_device_s_old_token_stops_working
                deleted_device_s_token_stops_working
                deleting_a_missing_device_is_no_conflict
                all_devices_but_one_are_deleted
                filters_read_back_for_their_user
                account_data_is_kept_by_room_and_type
                account_data_since_a_position
                announcement_names_whose_account_data_changed
                alias_reads_back
                taken_alias_is_a_conflict
                missing_alias_cannot_be_deleted
                aliases_of_a_room_are_listed
                published_rooms_page_in_the_order_of_their_ids
                later_changes_of_a_commit_see_the_earlier
                conflict_of_the_last_change_undoes_the_first
                empty_commit_is_made
                server_keys_read_back
                server_keys_are_replaced
                server_keys_come_through_the_writer_too
            }
            device_keys {
                device_keys_read_back
                keys_of_a_missing_device_are_a_conflict
                device_is_named_anew
                one_time_keys_keep_the_order_of_their_uploads
                one_time_key_is_claimed_once
                fallback_key_is_marked_as_used
                cross_signing_keys_read_back
                signatures_go_with_the_keys_of_the_device
                deleted_device_leaves_nothing
                messages_wait_until_they_are_acknowledged
                message_is_seen_once
                changed_lists_are_found_by_position
                news_of_a_list_follow_one_another
                edus_wait_beside_the_rows
                keys_of_remote_users_count_until_their_list_changes
                announcement_names_whose_keys_and_messages_changed
                keys_and_inboxes_go_on_after_reopening
            }
            durability {
                everything_is_there_after_reopening
                positions_go_on_after_reopening
                rooms_go_on_after_reopening
                what_others_must_hear_goes_on_after_reopening
                conflicts_are_known_after_reopening
                refused_commits_do_not_appear_after_reopening
                unawaited_commits_are_all_there_or_a_prefix_of_them_after_reopening
            }
        }

        #[test]
        fn random_commits_are_answered_as_by_the_model() {
            $crate::conformance::random::random_commits_are_answered_as_by_the_model(|| Box::new($engine));
        }
    };
}

/// Makes the tests out of the list in [`conformance!`](crate::conformance!).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($engine:expr; $($group:ident { $($fact:ident)* })*) => {
        $($(
            #[test]
            fn $fact() {
                $crate::conformance::check(Box::new($engine), |world| {
                    Box::pin($crate::conformance::$group::$fact(world))
                });
            }
        )*)*
    };
}
