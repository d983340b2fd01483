//! Facts about the graph, and the drawn forks.
//! May not: judge states by the graph's own code; the oracle does.

pub(crate) mod drawn_forks;
pub(crate) mod oracle;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{OwnedEventId, RoomVersionId, events::room::member::MembershipState};
use serde_json::json;

use super::{CurrentAfter, PathCounts, RECENT_EVENTS_MAX, RESOLVED_SETS_MAX, StateBefore};
use crate::{
    fixture::{ALICE, BOB, CAROL, EVE, EventSpec, NotAdmitted, RoomFixture, pdu_from, user},
    pdu::{Pdu, Standing, checks::PREV_EVENTS_MAX},
    state::{StateMap, StateVersion},
};

const WITH_KNOCKS: [RoomVersionId; 6] = [
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// What was placed since those counts.
fn since(room: &RoomFixture, earlier: PathCounts) -> (u64, u64, u64) {
    let now = room.graph().path_counts();
    (now.linear - earlier.linear, now.short - earlier.short, now.full - earlier.full)
}

fn knocker(number: usize) -> String {
    format!("@knocker{number}:server{}.test", number % 20)
}

fn id(event: &Arc<Pdu>) -> OwnedEventId {
    event.event_id().to_owned()
}

#[test]
fn events_one_after_another_are_linear() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id).build();
        let before = room.graph().path_counts();
        for number in 0..5 {
            let knock = room.append(EventSpec::knock(&knocker(number)));
            assert!(room.graph().extremity_ids().eq([&id(&knock)]));
        }
        room.append(EventSpec::message(ALICE, "welcome"));
        assert_eq!(since(&room, before), (6, 0, 0));
        assert_eq!(room.state().users_with(&MembershipState::Knock).len(), 5);
    }
}

#[test]
fn knocks_from_one_template_are_united_without_the_full_algorithm() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id).join(BOB).build();
        let template = room.cite();
        let before = room.graph().path_counts();
        let knocks: Vec<Arc<Pdu>> =
            (0..50).map(|number| room.append(EventSpec::knock(&knocker(number)).citing(&template))).collect();
        assert_eq!(since(&room, before), (1, 49, 0));
        assert_eq!(room.graph().extremity_count(), 50);
        assert_eq!(room.graph().current().plain_knocks(), 50);
        for knock in &knocks {
            assert_eq!(room.state().member(knock.sender()), Some(knock));
        }
        // A message beside them changes nothing of that.
        room.append(EventSpec::message(BOB, "who are all these").citing(&template));
        assert_eq!(since(&room, before), (1, 50, 0));
    }
}

/// A knockable room in which Carol may answer.
fn answered(version_id: &RoomVersionId) -> RoomFixture {
    RoomFixture::knockable(version_id.clone()).power(CAROL, 50).join(CAROL).build()
}

#[test]
fn answers_and_those_who_come_in_leave_the_short_path_open() {
    for version_id in WITH_KNOCKS {
        let mut room = answered(&version_id);
        let template = room.cite();
        for number in 0..10 {
            room.append(EventSpec::knock(&knocker(number)).citing(&template));
        }
        let before = room.graph().path_counts();
        // Each answer cites its knock only, so the other knocks stay beside it.
        let mut answer = |spec: EventSpec, number: usize| {
            let knock = room.state().member(&user(&knocker(number))).unwrap().clone();
            room.append(spec.citing(&[id(&knock)]))
        };
        let invite = answer(EventSpec::invite(CAROL, &knocker(0)), 0);
        answer(EventSpec::kick(ALICE, &knocker(1)), 1);
        answer(EventSpec::ban(CAROL, &knocker(2)), 2);
        let join = room.append(EventSpec::join(&knocker(0)).citing(&[id(&invite)]));
        room.append(EventSpec::knock(BOB).citing(&template));
        assert_eq!(since(&room, before), (0, 5, 0), "version {version_id}");
        assert_eq!(room.state().member(&user(&knocker(0))), Some(&join));
        assert_eq!(room.membership(&knocker(1)), MembershipState::Leave);
        assert_eq!(room.membership(&knocker(2)), MembershipState::Ban);
        assert_eq!(room.state().users_with(&MembershipState::Knock).len(), 8);
        assert_eq!(room.graph().current().plain_knocks(), 8);
    }
}

#[test]
fn a_join_whose_clock_runs_before_its_invite_is_left_to_the_full_algorithm() {
    for version_id in WITH_KNOCKS {
        let mut room = answered(&version_id);
        let template = room.cite();
        room.append(EventSpec::knock(EVE).citing(&template));
        let knock = room.append(EventSpec::knock(BOB).citing(&template));
        let late = room.now().plus(Duration::from_secs(3_600));
        let invite = room.append(EventSpec::invite(CAROL, BOB).citing(&[id(&knock)]).at(late));
        let before = room.graph().path_counts();
        room.append(EventSpec::join(BOB).citing(&[id(&invite)]));
        assert_eq!(since(&room, before), (0, 0, 1), "version {version_id}");
        // Knock, join, invite by their clocks: the join finds no invite, and the invite comes after it.
        room.append(EventSpec::message(ALICE, "hello").citing(&template));
        assert_eq!(room.state().member(&user(BOB)), Some(&invite), "version {version_id}");
    }
}

#[test]
fn an_answer_to_one_of_two_knocks_is_left_to_the_full_algorithm() {
    for version_id in WITH_KNOCKS {
        let mut room = answered(&version_id);
        let template = room.cite();
        let early = room.append(EventSpec::knock(BOB).citing(&template));
        let later = room.append(EventSpec::knock(BOB).citing(&template));
        assert_eq!(room.state().member(&user(BOB)), Some(&later));
        let before = room.graph().path_counts();
        // The denial is judged before the knock that it does not answer, which then is a repeated one.
        room.append(EventSpec::kick(CAROL, BOB).citing(&[id(&later)]));
        assert_eq!(room.state().member(&user(BOB)), Some(&early), "version {version_id}");
        // As long as that lasts, the full algorithm decides about others too.
        room.append(EventSpec::knock(EVE).citing(&template));
        assert_eq!(since(&room, before), (0, 0, 2), "version {version_id}");
        room.append(EventSpec::message(ALICE, "one at a time, please"));
        assert_eq!(room.state().member(&user(BOB)), Some(&early), "version {version_id}");
        let merged = room.cite();
        let before = room.graph().path_counts();
        room.append(EventSpec::knock(&knocker(1)).citing(&merged));
        room.append(EventSpec::knock(&knocker(2)).citing(&merged));
        assert_eq!(since(&room, before).2, 0, "version {version_id}");
    }
}

#[test]
fn two_knocks_of_one_user_in_two_forks_leave_the_later_one() {
    for version_id in WITH_KNOCKS {
        for first_is_later in [false, true] {
            let mut room = RoomFixture::knockable(version_id.clone()).build();
            let template = room.cite();
            let early = room.now();
            let late = early.plus(Duration::from_secs(60));
            let (first_at, second_at) = if first_is_later { (late, early) } else { (early, late) };
            let before = room.graph().path_counts();
            let first = room.append(EventSpec::knock(BOB).citing(&template).at(first_at));
            let second = room.append(EventSpec::knock(BOB).citing(&template).at(second_at));
            assert_eq!(since(&room, before), (1, 0, 1), "version {version_id}");
            let expected = if first_is_later { first } else { second };
            assert_eq!(room.state().member(&user(BOB)), Some(&expected), "version {version_id}");
            assert_eq!(room.graph().extremity_count(), 2);
        }
    }
}

#[test]
fn a_ban_wins_over_the_knock_that_it_races() {
    for version_id in WITH_KNOCKS {
        // The knock came first: both are in the graph, and the ban is what counts.
        let mut room = RoomFixture::knockable(version_id.clone()).build();
        let template = room.cite();
        room.append(EventSpec::knock(EVE).citing(&template));
        let ban = room.append(EventSpec::ban(ALICE, EVE).citing(&template));
        assert_eq!(room.state().member(&user(EVE)), Some(&ban), "version {version_id}");
        // The ban came first: the knock is against the current state, though not against that of its template.
        let mut room = RoomFixture::knockable(version_id.clone()).build();
        let template = room.cite();
        room.append(EventSpec::ban(ALICE, EVE).citing(&template));
        let knock = room.make(EventSpec::knock(EVE).citing(&template));
        let before = room.state().clone();
        assert!(matches!(room.admit(knock), Err(NotAdmitted::ByCurrentState(_))), "version {version_id}");
        assert_eq!(room.state(), &before);
        assert_eq!(room.graph().extremity_count(), 1);
    }
}

#[test]
fn a_denial_loses_to_the_repeated_knock_that_it_races() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id.clone()).knock(BOB).build();
        let template = room.cite();
        room.append(EventSpec::kick(ALICE, BOB).citing(&template));
        let again = room.append(EventSpec::knock(BOB).citing(&template));
        assert_eq!(room.state().member(&user(BOB)), Some(&again), "version {version_id}");
    }
}

#[test]
fn a_closed_door_drops_the_knocks_that_it_races() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id.clone()).build();
        let template = room.cite();
        room.append(EventSpec::knock(BOB).citing(&template));
        room.append(EventSpec::knock(CAROL).citing(&template));
        assert_eq!(room.state().users_with(&MembershipState::Knock).len(), 2);
        room.append(EventSpec::join_rule(ALICE, "invite").citing(&template));
        assert_eq!(
            room.state().users_with(&MembershipState::Knock),
            Vec::<ruma::OwnedUserId>::new(),
            "version {version_id}"
        );
        let late = room.make(EventSpec::knock(EVE).citing(&template));
        assert!(matches!(room.admit(late), Err(NotAdmitted::ByCurrentState(_))), "version {version_id}");
        // Closed after them, it leaves them where they are.
        let mut room = RoomFixture::knockable(version_id.clone()).knock(BOB).build();
        room.append(EventSpec::join_rule(ALICE, "invite"));
        assert_eq!(room.membership(BOB), MembershipState::Knock, "version {version_id}");
    }
}

#[test]
fn changed_power_levels_leave_the_knocks_that_they_race() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id.clone()).build();
        let template = room.cite();
        room.append(EventSpec::knock(BOB).citing(&template));
        let levels: Vec<(String, i64)> = if version_id == RoomVersionId::V12 {
            vec![(CAROL.to_owned(), 50)]
        } else {
            vec![(CAROL.to_owned(), 50), (ALICE.to_owned(), 100)]
        };
        let levels = room.append(EventSpec::power_levels(ALICE, &levels).citing(&template));
        room.append(EventSpec::knock(EVE).citing(&template));
        assert_eq!(room.membership(BOB), MembershipState::Knock, "version {version_id}");
        assert_eq!(room.membership(EVE), MembershipState::Knock, "version {version_id}");
        assert_eq!(room.state().get(&"m.room.power_levels".into(), ""), Some(&levels), "version {version_id}");
    }
}

#[test]
fn two_thousand_forks_drain_by_twenty() {
    const KNOCKS: usize = 2_000;
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let template = room.cite();
    let before = room.graph().path_counts();
    let mut unmerged = BTreeSet::new();
    for number in 0..KNOCKS {
        unmerged.insert(id(&room.append(EventSpec::knock(&knocker(number)).citing(&template))));
    }
    assert_eq!(since(&room, before), (1, 1_999, 0));
    assert!(room.graph().extremity_ids().eq(&unmerged));
    // A graph resumed from storage unites and drains like one that never stopped.
    room.restart();
    assert_eq!(room.state().users_with(&MembershipState::Knock).len(), KNOCKS);
    let before = room.graph().path_counts();
    let mut messages: u64 = 0;
    while room.graph().extremity_count() > 1 {
        let cited = room.cite();
        assert_eq!(cited.len(), room.graph().extremity_count().min(PREV_EVENTS_MAX));
        let count = room.graph().extremity_count();
        let message = room.append(EventSpec::message(ALICE, "come in"));
        for event_id in message.prev_events() {
            assert!(unmerged.remove(event_id), "{event_id} was merged twice");
        }
        unmerged.insert(id(&message));
        assert!(room.graph().extremity_ids().eq(&unmerged), "an extremity was dropped");
        assert_eq!(room.graph().extremity_count(), count - cited.len() + 1);
        messages += 1;
    }
    // Each takes 20 away and adds itself.
    assert_eq!(messages, 1_999_u64.div_ceil(19));
    assert_eq!(since(&room, before), (1, messages - 1, 0));
    assert_eq!(room.state().users_with(&MembershipState::Knock).len(), KNOCKS);
    // By now the template is forgotten; whoever still comes with it costs a read.
    assert!(
        matches!(room.graph.state_before(&template), StateBefore::NotInMemory(ids) if ids == BTreeSet::from_iter(template.clone()))
    );
    let late = room.append(EventSpec::knock(BOB).citing(&template));
    assert_eq!(room.state().member(&user(BOB)), Some(&late));
    assert_eq!(room.state().users_with(&MembershipState::Knock).len(), KNOCKS + 1);
}

#[test]
fn more_extremities_than_are_remembered_otherwise_leave_a_place_for_what_is_cited() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let template = room.cite();
    for number in 0..=RECENT_EVENTS_MAX {
        room.append(EventSpec::knock(&knocker(number)).citing(&template));
    }
    room.restart();
    assert!(room.graph().extremity_count() > RECENT_EVENTS_MAX);
    assert!(room.graph().extremity_ids().all(|event_id| room.graph().recent_event(event_id).is_some()));
    let cited = room.events()[&template[0]].clone();
    let before = room.state_before(cited.prev_events()).unwrap();
    room.graph.remember(cited, before);
    assert!(room.graph().recent_event(&template[0]).is_some());
    let late = room.append(EventSpec::knock(BOB).citing(&template));
    assert_eq!(room.state().member(&user(BOB)), Some(&late));
}

#[test]
fn what_is_cited_first_holds_the_auth_events() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).join(BOB).build();
    let template = room.cite();
    for number in 0..40 {
        room.append(EventSpec::knock(&knocker(number)).citing(&template));
    }
    let newest = room.append(EventSpec::knock(CAROL).citing(&template));
    let (oldest_first, depth) = room.graph().cite(&[]);
    assert_eq!(oldest_first.len(), PREV_EVENTS_MAX);
    assert!(!oldest_first.contains(&id(&newest)));
    assert_eq!(depth, newest.depth());
    let rules = room.state().get(&"m.room.join_rules".into(), "").unwrap().clone();
    let (for_the_newest, _) = room.graph().cite(&[rules, newest.clone()]);
    assert_eq!(for_the_newest.len(), PREV_EVENTS_MAX);
    assert!(for_the_newest.contains(&id(&newest)));
    assert_eq!(BTreeSet::from_iter(&for_the_newest).len(), PREV_EVENTS_MAX);
    // So the invite that accepts the newest knock passes at once.
    let invite = room.append(EventSpec::invite(ALICE, CAROL).citing(&for_the_newest));
    assert_eq!(room.state().member(&user(CAROL)), Some(&invite));
}

#[test]
fn an_event_that_cites_twice_takes_an_extremity_away_once() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let template = room.cite();
    let twice: Vec<OwnedEventId> = template.iter().chain(&template).cloned().collect();
    let knock = room.make(EventSpec::knock(BOB).citing(&twice));
    let appended = room.admit(knock.clone()).unwrap();
    assert_eq!(appended.no_longer_extremities, template);
    assert!(room.graph().extremity_ids().eq([&id(&knock)]));
}

#[test]
fn what_follows_an_event_set_aside_follows_all_that_it_follows() {
    for standing in [Standing::Rejected, Standing::SoftFailed] {
        let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
        let template = room.cite();
        let aside = room.make(EventSpec::message(ALICE, "aside").citing(&template));
        room.set_aside(&aside, standing);
        assert!(room.graph().extremity_ids().eq(&template), "it ends nothing by itself");
        let aside_too = room.make(EventSpec::message(ALICE, "aside too").citing(&[id(&aside)]));
        room.set_aside(&aside_too, standing);
        let before = room.graph().path_counts();
        let knock = room.make(EventSpec::knock(BOB).citing(&[id(&aside_too)]));
        let appended = room.admit(knock).unwrap();
        assert_eq!(appended.no_longer_extremities, template);
        assert_eq!(since(&room, before), (1, 0, 0));
        assert_eq!(room.graph().extremity_count(), 1);
        assert_eq!(room.membership(BOB), MembershipState::Knock);
    }
}

#[test]
fn what_comes_after_those_that_stand_on_it_is_no_extremity() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let template = room.cite();
    let late = room.make(EventSpec::knock(BOB).citing(&template));
    let mut state_after = room.state().clone();
    state_after.insert(late.clone());
    let knock = room.make_upon(EventSpec::knock(CAROL).citing(&[id(&late)]), &state_after);
    room.admit_across(knock.clone(), state_after).unwrap();
    let state = room.state().clone();
    let before = room.state_before(late.prev_events()).unwrap();
    let CurrentAfter::Unresolved(_) = room.graph().place(&late, &before) else { panic!("what it follows is left") };
    let appended = room.admit(late).unwrap();
    assert_eq!((appended.arrival, appended.no_longer_extremities), (None, template));
    assert!(room.graph().extremity_ids().eq([&id(&knock)]));
    assert_eq!(room.state(), &state);
    room.restart();
    room.append(EventSpec::message(ALICE, "hello both"));
    assert_eq!(room.state().users_with(&MembershipState::Knock).len(), 2);
}

#[test]
fn differences_that_outnumber_the_entries_make_a_full_copy() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    for number in 0..300 {
        room.append(EventSpec::state(ALICE, "m.room.topic", json!({ "topic": number.to_string() })));
    }
    // The create event, and then every 65th change in a state of five entries.
    let copies: Vec<StateVersion> =
        room.rows().values().filter(|row| row.parent.is_none()).map(|row| row.version).collect();
    assert_eq!(copies.len(), 1 + (300 + 3) / 65, "{copies:?}");
    for (version, row) in room.rows() {
        assert!(row.delta_entries <= 64, "{version:?}: {}", row.delta_entries);
        assert_eq!(row.parent.is_none(), row.delta_entries == 0);
    }
    assert_eq!(&room.stored_state(room.graph().current().version()), room.state());
}

#[test]
fn a_state_that_changes_nothing_has_no_row() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let version = room.graph().current().version();
    let message = room.make(EventSpec::message(ALICE, "hello"));
    let appended = room.admit(message).unwrap();
    assert!(appended.rows.is_empty() && appended.changes.is_empty());
    assert_eq!((appended.before, appended.current), (version, version));
}

#[test]
fn changes_name_what_stood_and_what_stands() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).knock(BOB).build();
    let knock = room.state().member(&user(BOB)).unwrap().clone();
    let invite = room.make(EventSpec::invite(ALICE, BOB));
    let appended = room.admit(invite.clone()).unwrap();
    let [change] = appended.changes.as_slice() else { panic!("{:?}", appended.changes) };
    assert_eq!(change.key, ("m.room.member".into(), BOB.to_owned()));
    assert_eq!((change.old.as_ref(), change.new.as_ref()), (Some(&knock), Some(&invite)));
    assert!(appended.current > appended.before);
}

#[test]
fn resolved_states_that_no_event_stands_on_are_forgotten() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let template = room.cite();
    let rounds: u64 = 768;
    assert_eq!(RESOLVED_SETS_MAX, 256);
    for number in 0..rounds {
        // Each repeat beside the last one takes the full algorithm, whose result only the current state takes over.
        let repeat = EventSpec::knock(BOB).with("reason", json!(number)).citing(&template);
        room.append(repeat);
        room.append(EventSpec::message(ALICE, "again?"));
    }
    let counts = room.graph().path_counts();
    assert!(counts.full >= rounds / 2, "{counts:?}");
    assert!(room.graph.resolved.len() <= RESOLVED_SETS_MAX);
    assert!(room.graph.unstored.len() <= 2 * RESOLVED_SETS_MAX + 2, "{} rows wait", room.graph.unstored.len());
    assert!(room.graph.recent.len() <= RECENT_EVENTS_MAX + room.graph.extremity_count());
}

#[test]
fn a_placement_is_decided_once_its_state_was_supplied() {
    let mut room = RoomFixture::knockable(RoomVersionId::V12).build();
    let template = room.cite();
    room.append(EventSpec::state(ALICE, "m.room.topic", json!({ "topic": "a" })).citing(&template));
    let other = room.make(EventSpec::state(ALICE, "m.room.name", json!({ "name": "b" })).citing(&template));
    let before = room.state_before(&template).unwrap();
    let CurrentAfter::Unresolved(unresolved) = room.graph.place(&other, &before) else { panic!("decided too early") };
    assert_eq!(unresolved.states.len(), 2);
    let mut known = room.known().clone();
    known.insert(other.clone());
    let state = crate::state::resolution::resolve(room.version(), &unresolved.states, &known).unwrap();
    room.graph.supply(unresolved.after, &state);
    let CurrentAfter::Known(placement) = room.graph.place(&other, &before) else { panic!("still undecided") };
    let appended = room.graph.append(other, &before, placement);
    assert_eq!(room.graph.current().state(), &state);
    assert!(appended.rows.iter().all(|row| row.version > StateVersion(0)));
}

/// A state of the room in which something else stands for the topic.
fn with_topic(room: &mut RoomFixture, topic: &str) -> StateMap {
    let event = room.make(EventSpec::state(ALICE, "m.room.topic", json!({ "topic": topic })));
    let mut state = room.state().clone();
    state.insert(event);
    state
}

#[test]
fn a_claimed_state_counts_only_until_the_cited_event_comes() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let claimed = with_topic(&mut room, "claimed");
    let late = room.make(EventSpec::ban(ALICE, BOB));
    let StateBefore::Known(across) = room.graph.state_across(&[id(&late)], claimed.clone()) else {
        panic!("one state needs no resolution")
    };
    assert_eq!(across.state(), &claimed);
    // Whoever cites it without a claim has to say what the state is, too.
    assert!(matches!(room.graph.state_before(&[id(&late)]), StateBefore::NotInMemory(_)));
    room.admit(late.clone()).unwrap();
    let other = room.append(EventSpec::message(ALICE, "after it"));
    let before = room.state_before(&[id(&late)]).unwrap();
    assert_eq!(before.state().member(&user(BOB)), Some(&late), "its own state counts");
    assert!(before.state().get(&"m.room.topic".into(), "").is_none());
    assert_eq!(other.prev_events(), [id(&late)]);
}

#[test]
fn of_two_claims_each_is_remembered_for_itself() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let cited = room.cite();
    let claims = ["first", "second"].map(|topic| with_topic(&mut room, topic));
    let absent: OwnedEventId = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap();
    for claimed in &claims {
        let StateBefore::Known(node) = room.graph.state_across(std::slice::from_ref(&absent), claimed.clone()) else {
            panic!("one state needs no resolution")
        };
        assert_eq!(node.state(), claimed);
    }
    // With our own state beside it, each is resolved, and what was supplied for it is found again.
    let prev_events: Vec<OwnedEventId> = cited.into_iter().chain([absent]).collect();
    for claimed in &claims {
        let StateBefore::Unresolved(unresolved) = room.graph.state_across(&prev_events, claimed.clone()) else {
            panic!("two states need a resolution")
        };
        assert_eq!(unresolved.states.len(), 2);
        room.graph.supply(unresolved.after, claimed);
    }
    for claimed in claims {
        let StateBefore::Known(node) = room.graph.state_across(&prev_events, claimed.clone()) else {
            panic!("the graph forgot what it was given")
        };
        assert_eq!(node.state(), &claimed);
    }
}

#[test]
fn an_event_that_cites_nothing_stands_on_nothing() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let StateBefore::Known(node) = room.graph.state_before(&[]) else { panic!("nothing is always known") };
    assert!(node.state().is_empty());
    let knock = room.make_upon(EventSpec::knock(BOB).citing(&[]), &room.state().clone());
    assert!(matches!(room.admit(knock), Err(NotAdmitted::ByStateBefore(_))));
}

#[test]
fn a_redacted_event_takes_the_place_of_the_whole_one() {
    let mut room = RoomFixture::knockable(RoomVersionId::V11).build();
    let knock = room.append(EventSpec::knock(BOB).with("reason", json!("something rude")));
    let version = room.graph().current().version();
    let object = knock.to_object().unwrap();
    let redacted = ruma::canonical_json::redact(object, &room.version().rules().redaction, None).unwrap();
    let redacted = Arc::new(pdu_from(&redacted, room.version()));
    assert_eq!(redacted.event_id(), knock.event_id());
    room.graph.replace_redacted(&redacted);
    assert_eq!(room.state().member(&user(BOB)).unwrap().reason(), None);
    assert_eq!(room.graph().recent_event(knock.event_id()).unwrap().reason(), None);
    assert_eq!(room.graph().current().version(), version);
    assert_eq!(room.membership(BOB), MembershipState::Knock);
    // And the graph goes on as before.
    let template = room.cite();
    room.append(EventSpec::knock(CAROL).citing(&template));
    room.append(EventSpec::knock(EVE).citing(&template));
    assert_eq!(room.state().users_with(&MembershipState::Knock).len(), 3);
    assert_eq!(room.state().member(&user(BOB)).unwrap().reason(), None);
}

#[test]
fn a_redacted_event_stays_redacted_when_forks_from_before_are_resolved() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id).build();
        let topic = room.append(EventSpec::state(ALICE, "m.room.topic", json!({ "topic": "something rude" })));
        room.append(EventSpec::message(ALICE, "the forks stand on this"));
        let template = room.cite();
        let name = |name: &str| EventSpec::state(ALICE, "m.room.name", json!({ "name": name })).citing(&template);
        room.append(name("first"));
        let object = topic.to_object().unwrap();
        let redacted = ruma::canonical_json::redact(object, &room.version().rules().redaction, None).unwrap();
        room.graph.replace_redacted(&Arc::new(pdu_from(&redacted, room.version())));
        let before = room.graph().path_counts();
        let second = room.append(name("second"));
        assert_eq!(since(&room, before), (0, 0, 1));
        assert_eq!(room.state().get(&"m.room.name".into(), ""), Some(&second));
        assert_eq!(room.state().get(&"m.room.topic".into(), "").unwrap().content().get(), "{}");
    }
}
