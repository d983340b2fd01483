//! Who may knock, and where a knock may lead: join rule × membership × room version, written out from the specification.
//! May not: compute an expectation; every verdict stands here as data.

use std::sync::Arc;

use ruma::{OwnedEventId, RoomVersionId, events::room::member::MembershipState, room::JoinRuleKind};
use serde_json::json;

use super::{KnockRefusal, knock::authorize_knock};
use crate::{
    auth::{authorize_by_shape, authorize_by_state},
    canonical_json::parse_object,
    fixture::{ALICE, BOB, CAROL, EVE, EventSpec, NotAdmitted, RoomFixture, public_keys, version},
    pdu::{Pdu, checks::ShapedPdu},
    state::StateMap,
};

/// A row: a join rule, and the verdict on a knock for each prior membership in the order none, leave, knock, invite, join,
/// ban. `+` admitted, `r` the rule forbids, `b` banned, `i` invited already, `j` joined already, `v` the version has no knocks.
type Row = (&'static str, [char; 6]);

const PRIOR: [Option<MembershipState>; 6] = [
    None,
    Some(MembershipState::Leave),
    Some(MembershipState::Knock),
    Some(MembershipState::Invite),
    Some(MembershipState::Join),
    Some(MembershipState::Ban),
];

/// Version 6 and before: `knock` is no membership.
const WITHOUT_KNOCKS: [Row; 8] = [
    ("public", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("invite", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("knock", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("restricted", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("knock_restricted", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("private", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("x.custom", ['v', 'v', 'v', 'v', 'v', 'v']),
    ("", ['v', 'v', 'v', 'v', 'v', 'v']),
];

/// Versions 7 to 9: only `knock` lets knock.
const KNOCK_ONLY: [Row; 8] = [
    ("public", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("invite", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("knock", ['+', '+', '+', 'i', 'j', 'b']),
    ("restricted", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("knock_restricted", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("private", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("x.custom", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("", ['r', 'r', 'r', 'r', 'r', 'b']),
];

/// Versions 10 to 12: `knock_restricted` lets knock too.
const KNOCK_OR_RESTRICTED: [Row; 8] = [
    ("public", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("invite", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("knock", ['+', '+', '+', 'i', 'j', 'b']),
    ("restricted", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("knock_restricted", ['+', '+', '+', 'i', 'j', 'b']),
    ("private", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("x.custom", ['r', 'r', 'r', 'r', 'r', 'b']),
    ("", ['r', 'r', 'r', 'r', 'r', 'b']),
];

const TABLES: [(RoomVersionId, [Row; 8]); 10] = [
    (RoomVersionId::V3, WITHOUT_KNOCKS),
    (RoomVersionId::V4, WITHOUT_KNOCKS),
    (RoomVersionId::V5, WITHOUT_KNOCKS),
    (RoomVersionId::V6, WITHOUT_KNOCKS),
    (RoomVersionId::V7, KNOCK_ONLY),
    (RoomVersionId::V8, KNOCK_ONLY),
    (RoomVersionId::V9, KNOCK_ONLY),
    (RoomVersionId::V10, KNOCK_OR_RESTRICTED),
    (RoomVersionId::V11, KNOCK_OR_RESTRICTED),
    (RoomVersionId::V12, KNOCK_OR_RESTRICTED),
];

const WITH_KNOCKS: [RoomVersionId; 6] = [
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

fn letter(verdict: &Result<(), KnockRefusal>) -> char {
    match verdict {
        Ok(()) => '+',
        Err(KnockRefusal::JoinRuleForbids { .. }) => 'r',
        Err(KnockRefusal::Banned) => 'b',
        Err(KnockRefusal::AlreadyInvited) => 'i',
        Err(KnockRefusal::AlreadyJoined) => 'j',
        Err(KnockRefusal::VersionCannotKnock) => 'v',
        Err(KnockRefusal::NotFederated) => 'f',
        Err(other) => panic!("{other:?}"),
    }
}

fn rule_of(name: &str) -> Option<JoinRuleKind> {
    match name {
        "public" => Some(JoinRuleKind::Public),
        "invite" => Some(JoinRuleKind::Invite),
        "knock" => Some(JoinRuleKind::Knock),
        "restricted" => Some(JoinRuleKind::Restricted),
        "knock_restricted" => Some(JoinRuleKind::KnockRestricted),
        "private" => Some(JoinRuleKind::Private),
        "" => None,
        other => Some(JoinRuleKind::from(other)),
    }
}

/// A room of that version, and a state with that rule and that membership of Bob in it.
fn room_with(version_id: &RoomVersionId, rule: &str, prior: Option<&MembershipState>) -> (RoomFixture, StateMap) {
    let mut room = RoomFixture::with_join_rule(version_id.clone(), None).build();
    let mut state = room.state().clone();
    if !rule.is_empty() {
        let rules = room.make_upon(EventSpec::join_rule(ALICE, rule), &state);
        state.insert(rules);
    }
    if let Some(prior) = prior {
        let sender = if *prior == MembershipState::Ban || *prior == MembershipState::Invite { ALICE } else { BOB };
        let member = room.make_upon(EventSpec::member(sender, BOB, prior), &state);
        state.insert(member);
    }
    (room, state)
}

#[test]
fn knocks_are_admitted_in_the_cells_of_the_specification_and_no_other() {
    for (version_id, table) in TABLES {
        for (rule, verdicts) in table {
            for (prior, expected) in PRIOR.iter().zip(verdicts) {
                let (mut room, state) = room_with(&version_id, rule, prior.as_ref());
                let knock = room.make_upon(EventSpec::knock(BOB), &state);
                let verdict = authorize_knock(room.version(), &knock, &state);
                assert_eq!(
                    letter(&verdict),
                    expected,
                    "version {version_id}, rule {rule:?}, prior {prior:?}: {verdict:?}"
                );
                if let Err(KnockRefusal::JoinRuleForbids { rule: named }) = verdict {
                    assert_eq!(named, rule_of(rule), "version {version_id}, rule {rule:?}");
                }
            }
        }
    }
}

#[test]
fn a_join_rule_that_cannot_be_read_lets_nobody_knock() {
    for version_id in WITH_KNOCKS {
        for content in
            [json!({}), json!({ "join_rule": 7 }), json!({ "join_rule": null }), json!({ "join_rule": ["knock"] })]
        {
            let (mut room, mut state) = room_with(&version_id, "", None);
            let rules = room.make_upon(EventSpec::state(ALICE, "m.room.join_rules", content.clone()), &state);
            state.insert(rules);
            let knock = room.make_upon(EventSpec::knock(BOB), &state);
            let verdict = authorize_knock(room.version(), &knock, &state);
            assert_eq!(verdict, Err(KnockRefusal::JoinRuleForbids { rule: None }), "version {version_id}, {content}");
        }
    }
}

#[test]
fn nobody_knocks_for_another() {
    for version_id in WITH_KNOCKS {
        let (mut room, state) = room_with(&version_id, "knock", None);
        let knock = room.make_upon(EventSpec::member(EVE, BOB, &MembershipState::Knock), &state);
        let verdict = authorize_knock(room.version(), &knock, &state);
        assert!(matches!(verdict, Err(KnockRefusal::NotAuthorized { .. })), "version {version_id}: {verdict:?}");
    }
}

#[test]
fn a_room_that_does_not_federate_takes_knocks_of_its_own_server_only() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id.clone()).create_with("m.federate", json!(false)).build();
        let state = room.state().clone();
        for (user_id, expected) in [(BOB, 'f'), ("@neighbor:resident.test", '+')] {
            let knock = room.make(EventSpec::knock(user_id));
            let verdict = authorize_knock(room.version(), &knock, &state);
            assert_eq!(letter(&verdict), expected, "version {version_id}, {user_id}: {verdict:?}");
        }
    }
}

/// Where a pending knock may lead. The columns: the join rule, who sends, his power level, the membership, and whether the
/// rules of versions 7 to 9 and those of 10 to 12 allow it. Levels: invite 0, kick 50, ban 50 unless the test says otherwise.
const FROM_KNOCK: [(&str, Who, i64, MembershipState, bool, bool); 24] = [
    // Accepted: by anybody in the room, as the level for invites is 0.
    ("knock", Who::Other, 0, MembershipState::Invite, true, true),
    ("knock", Who::Other, -1, MembershipState::Invite, false, false),
    ("invite", Who::Other, 0, MembershipState::Invite, true, true),
    ("knock_restricted", Who::Other, 0, MembershipState::Invite, true, true),
    ("knock", Who::Outsider, 0, MembershipState::Invite, false, false),
    ("knock", Who::Knocker, 0, MembershipState::Invite, false, false),
    // A knock opens no door.
    ("knock", Who::Knocker, 0, MembershipState::Join, false, false),
    ("invite", Who::Knocker, 0, MembershipState::Join, false, false),
    ("restricted", Who::Knocker, 0, MembershipState::Join, false, false),
    ("knock_restricted", Who::Knocker, 0, MembershipState::Join, false, false),
    ("public", Who::Knocker, 0, MembershipState::Join, true, true),
    ("public", Who::Other, 100, MembershipState::Join, false, false),
    // Taken back, whatever the rule is by then.
    ("knock", Who::Knocker, 0, MembershipState::Leave, true, true),
    ("invite", Who::Knocker, 0, MembershipState::Leave, true, true),
    // Denied.
    ("knock", Who::Other, 50, MembershipState::Leave, true, true),
    ("knock", Who::Other, 49, MembershipState::Leave, false, false),
    ("knock", Who::Outsider, 50, MembershipState::Leave, false, false),
    // Banned.
    ("knock", Who::Other, 50, MembershipState::Ban, true, true),
    ("knock", Who::Other, 49, MembershipState::Ban, false, false),
    ("knock", Who::Outsider, 50, MembershipState::Ban, false, false),
    // Repeated, as long as the rule lets knock.
    ("knock", Who::Knocker, 0, MembershipState::Knock, true, true),
    ("invite", Who::Knocker, 0, MembershipState::Knock, false, false),
    ("knock_restricted", Who::Knocker, 0, MembershipState::Knock, false, true),
    ("knock", Who::Other, 100, MembershipState::Knock, false, false),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Bob, whose knock it is.
    Knocker,
    /// Carol, who is in the room.
    Other,
    /// Eve, who is not.
    Outsider,
}

#[test]
fn a_knock_leads_where_the_specification_says() {
    for version_id in WITH_KNOCKS {
        let is_later = [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12].contains(&version_id);
        for (rule, who, level, membership, in_7_to_9, in_10_to_12) in &FROM_KNOCK {
            let sender = match who {
                Who::Knocker => BOB,
                Who::Other => CAROL,
                Who::Outsider => EVE,
            };
            let mut room =
                RoomFixture::knockable(version_id.clone()).power(sender, *level).join(CAROL).knock(BOB).build();
            if *rule != "knock" {
                room.append(EventSpec::join_rule(ALICE, rule));
            }
            let event = room.make(EventSpec::member(sender, BOB, membership));
            let verdict = authorize_by_state(room.version(), &event, room.state());
            let expected = if is_later { *in_10_to_12 } else { *in_7_to_9 };
            assert_eq!(
                verdict.is_ok(),
                expected,
                "version {version_id}, rule {rule}, {who:?} at {level} to {membership}: {verdict:?}"
            );
        }
    }
}

#[test]
fn nobody_denies_or_bans_a_knocker_of_his_own_level() {
    for version_id in WITH_KNOCKS {
        for (knocker_level, expected) in [(50, false), (49, true), (51, false)] {
            let mut room = RoomFixture::knockable(version_id.clone())
                .power(CAROL, 50)
                .power(BOB, knocker_level)
                .join(CAROL)
                .knock(BOB)
                .build();
            for membership in [MembershipState::Leave, MembershipState::Ban] {
                let event = room.make(EventSpec::member(CAROL, BOB, &membership));
                let verdict = authorize_by_state(room.version(), &event, room.state());
                assert_eq!(
                    verdict.is_ok(),
                    expected,
                    "version {version_id}, {knocker_level}, {membership}: {verdict:?}"
                );
            }
        }
    }
}

#[test]
fn a_knocker_joins_a_restricted_room_through_a_member_who_may_invite() {
    // (version, rule, who authorizes, allowed)
    let table = [
        (RoomVersionId::V7, "restricted", Some(CAROL), false),
        (RoomVersionId::V8, "restricted", Some(CAROL), true),
        (RoomVersionId::V9, "restricted", Some(CAROL), true),
        (RoomVersionId::V9, "knock_restricted", Some(CAROL), false),
        (RoomVersionId::V10, "restricted", Some(CAROL), true),
        (RoomVersionId::V10, "knock_restricted", Some(CAROL), true),
        (RoomVersionId::V11, "knock_restricted", Some(CAROL), true),
        (RoomVersionId::V12, "knock_restricted", Some(CAROL), true),
        (RoomVersionId::V12, "knock_restricted", Some(EVE), false),
        (RoomVersionId::V12, "knock_restricted", None, false),
        (RoomVersionId::V12, "knock", Some(CAROL), false),
    ];
    for (version_id, rule, via, expected) in table {
        let mut room = RoomFixture::knockable(version_id.clone()).join(CAROL).knock(BOB).build();
        if rule != "knock" {
            room.append(EventSpec::join_rule(ALICE, rule));
        }
        let mut spec = EventSpec::join(BOB);
        if let Some(via) = via {
            spec = spec.with("join_authorised_via_users_server", json!(via));
        }
        let join = room.make(spec);
        let verdict = authorize_by_state(room.version(), &join, room.state());
        assert_eq!(verdict.is_ok(), expected, "version {version_id}, {rule}, {via:?}: {verdict:?}");
    }
}

#[test]
fn creators_of_version_12_stand_above_all_levels() {
    let second = "@second:resident.test";
    let draft = RoomFixture::knockable(RoomVersionId::V12)
        .create_with("additional_creators", json!([second]))
        .power(CAROL, 9_007_199_254_740_991)
        .join(CAROL)
        .join(second);
    let mut room = draft.build();
    // Neither can the creators be turned out by the greatest level, nor by each other.
    for (sender, target) in [(CAROL, ALICE), (CAROL, second), (second, ALICE), (ALICE, second)] {
        for membership in [MembershipState::Leave, MembershipState::Ban] {
            let event = room.make(EventSpec::member(sender, target, &membership));
            assert!(
                authorize_by_state(room.version(), &event, room.state()).is_err(),
                "{sender} {membership} {target}"
            );
        }
    }
    // But they turn out whoever has the greatest level.
    let kick = room.make(EventSpec::kick(second, CAROL));
    assert_eq!(authorize_by_state(room.version(), &kick, room.state()), Ok(()));
    // And power levels may not name them.
    let levels = room.make(EventSpec::power_levels(ALICE, &[(second.to_owned(), 50)]));
    assert!(authorize_by_state(room.version(), &levels, room.state()).is_err());
}

#[test]
fn additional_creators_must_be_an_array_of_user_ids() {
    for (value, expected) in [
        (json!([]), true),
        (json!(["@x:y.test"]), true),
        (json!("@x:y.test"), false),
        (json!(["x"]), false),
        (json!([7]), false),
        (json!({}), false),
    ] {
        let mut room = RoomFixture::knockable(RoomVersionId::V12).build();
        let content = json!({ "room_version": "12", "additional_creators": value });
        let spec = EventSpec::state(ALICE, "m.room.create", content).citing(&[]).authorized_by(&[]);
        let create = without_room_id(&room.make_upon(spec, &StateMap::default()), &room);
        let verdict = authorize_by_shape(room.version(), &create, |_| None);
        assert_eq!(verdict.is_ok(), expected, "{value}: {verdict:?}");
    }
}

/// The same event without `room_id`, as version 12 wants create events; its signatures no longer count.
fn without_room_id(event: &Pdu, room: &RoomFixture) -> Pdu {
    let mut object = event.to_object().unwrap();
    object.remove("room_id");
    crate::fixture::pdu_from(&object, room.version())
}

#[test]
fn extreme_power_levels_neither_panic_nor_confuse() {
    const GREATEST: i64 = 9_007_199_254_740_991;
    // (level of the one who acts, invite and kick level, level of the knocker; accepts, denies)
    let table = [
        (GREATEST, GREATEST, -GREATEST, true, true),
        (-GREATEST, -GREATEST, GREATEST, true, false),
        (-GREATEST, -GREATEST, -GREATEST, true, false),
        (GREATEST - 1, GREATEST, 0, false, false),
        (-GREATEST, 0, 0, false, false),
    ];
    for version_id in WITH_KNOCKS {
        for (level, needed, knocker, accepts, denies) in table {
            let (mut room, mut state) = room_with(&version_id, "knock", None);
            let levels = [(CAROL.to_owned(), level), (BOB.to_owned(), knocker), (ALICE.to_owned(), GREATEST)];
            let levels = if room.version().creators_are_privileged() { &levels[..2] } else { &levels[..] };
            let spec = EventSpec::power_levels(ALICE, levels)
                .with("invite", json!(needed))
                .with("kick", json!(needed))
                .with("events_default", json!(-GREATEST))
                .with("state_default", json!(GREATEST));
            let levels = room.make_upon(spec, &state);
            state.insert(levels);
            let join = room.make_upon(EventSpec::join(CAROL), &state);
            state.insert(join);
            let knock = room.make_upon(EventSpec::knock(BOB), &state);
            assert_eq!(authorize_knock(room.version(), &knock, &state), Ok(()), "version {version_id}, {level}");
            state.insert(knock);
            for (membership, expected) in [(MembershipState::Invite, accepts), (MembershipState::Leave, denies)] {
                let answer = room.make_upon(EventSpec::member(CAROL, BOB, &membership), &state);
                let verdict = authorize_by_state(room.version(), &answer, &state);
                assert_eq!(verdict.is_ok(), expected, "version {version_id}, {level}, {membership}: {verdict:?}");
            }
        }
    }
}

#[test]
fn a_knock_that_names_an_authorizing_user_needs_his_servers_signature_from_version_8() {
    // (version, refused with the knocker's signature alone)
    let table = [
        (RoomVersionId::V7, false),
        (RoomVersionId::V8, true),
        (RoomVersionId::V9, true),
        (RoomVersionId::V10, true),
        (RoomVersionId::V11, true),
        (RoomVersionId::V12, true),
    ];
    for (version_id, is_refused) in table {
        let mut room = RoomFixture::knockable(version_id.clone()).join(CAROL).build();
        let spec = EventSpec::knock(BOB).with("join_authorised_via_users_server", json!(CAROL));
        let keys = public_keys(["peer.test".try_into().unwrap(), "third.test".try_into().unwrap()]);
        for (spec, is_refused) in [(spec.clone(), is_refused), (spec.cosigned_by("third.test"), false)] {
            let knock = room.make(spec);
            let object = parse_object(knock.json().as_bytes()).unwrap();
            let verdict = ShapedPdu::parse(object, room.version()).unwrap().verify(&keys);
            assert_eq!(verdict.is_err(), is_refused, "version {version_id}: {verdict:?}");
        }
    }
}

/// Auth events that a knock of Bob may name, by what is wrong with them. `true`: refused.
type WrongAuth = (&'static str, fn(&mut Crooked) -> Vec<OwnedEventId>, fn(&RoomVersionId) -> bool);

/// A room for knocks with crooked auth events.
struct Crooked {
    room: RoomFixture,
    foreign: RoomFixture,
    right: Vec<OwnedEventId>,
}

impl Crooked {
    fn id_of(&self, kind: &str, state_key: &str) -> OwnedEventId {
        self.room.state().get(&kind.into(), state_key).unwrap().event_id().to_owned()
    }
}

const WRONG_AUTH: [WrongAuth; 9] = [
    ("nothing is wrong", |room| room.right.clone(), |_| false),
    ("one twice", |room| room.right.iter().cloned().chain(room.right.last().cloned()).collect(), |_| true),
    (
        "two of one kind",
        |room| {
            let first = room.room.events().values().find(|event| is_superseded_rule(event, &room.right)).unwrap();
            room.right.iter().cloned().chain([first.event_id().to_owned()]).collect()
        },
        |_| true,
    ),
    (
        "a kind that authorizes no knock",
        |room| room.right.iter().cloned().chain([room.id_of("m.room.topic", "")]).collect(),
        |_| true,
    ),
    (
        "the member event of somebody else",
        |room| room.right.iter().cloned().chain([room.id_of("m.room.member", ALICE)]).collect(),
        |_| true,
    ),
    (
        "join rules of another room",
        |room| {
            let rules = room.id_of("m.room.join_rules", "");
            let foreign = room.foreign.state().get(&"m.room.join_rules".into(), "").unwrap().event_id().to_owned();
            room.right.iter().filter(|id| **id != rules).cloned().chain([foreign]).collect()
        },
        |_| true,
    ),
    (
        "a message",
        |room| {
            let message = room.room.append(EventSpec::message(ALICE, "I authorize nothing"));
            room.right.iter().cloned().chain([message.event_id().to_owned()]).collect()
        },
        |_| true,
    ),
    (
        "an unknown event",
        |room| {
            room.right
                .iter()
                .cloned()
                .chain(["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap()])
                .collect()
        },
        |_| true,
    ),
    (
        "the create event, which version 12 does not want there",
        |room| {
            let create = room.id_of("m.room.create", "");
            let others = room.right.iter().filter(|id| **id != create).cloned();
            others.chain([create.clone()]).collect()
        },
        |version_id| *version_id == RoomVersionId::V12,
    ),
];

fn is_superseded_rule(event: &Arc<Pdu>, right: &[OwnedEventId]) -> bool {
    event.kind().to_string() == "m.room.join_rules" && !right.iter().any(|id| id == event.event_id())
}

fn crooked(version_id: &RoomVersionId) -> Crooked {
    let draft = RoomFixture::with_join_rule(version_id.clone(), Some("invite"))
        .event(EventSpec::join_rule(ALICE, "knock"))
        .event(EventSpec::state(ALICE, "m.room.topic", json!({ "topic": "doors" })));
    let mut room = draft.build();
    let foreign = RoomFixture::with_join_rule(version_id.clone(), Some("knock"))
        .named("foreign")
        .create_with("x.name", json!("foreign"))
        .build();
    let right = room.make(EventSpec::knock(BOB)).auth_events().to_vec();
    Crooked { room, foreign, right }
}

#[test]
fn knocks_with_crooked_auth_events_are_refused() {
    for version_id in WITH_KNOCKS {
        for (what, auth_events, is_refused) in WRONG_AUTH {
            let mut crooked = crooked(&version_id);
            let auth_events = auth_events(&mut crooked);
            let knock = crooked.room.make(EventSpec::knock(BOB).authorized_by(&auth_events));
            let fetch = |event_id: &ruma::EventId| {
                let events = crooked.room.events();
                events.get(event_id).or_else(|| crooked.foreign.events().get(event_id)).cloned()
            };
            let verdict = authorize_by_shape(crooked.room.version(), &knock, fetch);
            assert_eq!(verdict.is_err(), is_refused(&version_id), "version {version_id}, {what}: {verdict:?}");
        }
    }
}

#[test]
fn a_knock_without_the_create_event_is_refused_before_version_12() {
    for version_id in WITH_KNOCKS {
        let mut crooked = crooked(&version_id);
        let create = crooked.id_of("m.room.create", "");
        let auth_events: Vec<OwnedEventId> = crooked.right.iter().filter(|id| **id != create).cloned().collect();
        let knock = crooked.room.make(EventSpec::knock(BOB).authorized_by(&auth_events));
        let verdict = authorize_by_shape(crooked.room.version(), &knock, |id| crooked.room.events().get(id).cloned());
        assert_eq!(verdict.is_ok(), version_id == RoomVersionId::V12, "version {version_id}: {verdict:?}");
    }
}

#[test]
fn rejected_events_authorize_nothing() {
    use crate::pdu::Standing;
    for version_id in WITH_KNOCKS {
        let mut crooked = crooked(&version_id);
        let rules = crooked.id_of("m.room.join_rules", "");
        let knock = crooked.room.make(EventSpec::knock(BOB));
        let fetch = |event_id: &ruma::EventId| {
            let event = crooked.room.events().get(event_id)?;
            if *event_id != rules {
                return Some(event.clone());
            }
            let same = crate::fixture::pdu_from(&event.to_object().unwrap(), crooked.room.version());
            Some(Arc::new(same.with_standing(Standing::Rejected)))
        };
        assert!(authorize_by_shape(crooked.room.version(), &knock, fetch).is_err(), "version {version_id}");
    }
}

#[test]
fn a_room_of_version_12_is_known_by_its_create_event() {
    let mut room = RoomFixture::knockable(RoomVersionId::V12).build();
    let create = room.state().create().unwrap().event_id().to_owned();
    assert_eq!(room.room_id().as_str(), create.as_str().replace('$', "!"));
    let knock = room.make(EventSpec::knock(BOB));
    assert!(!knock.auth_events().contains(&create));
    let without_create = |id: &ruma::EventId| room.events().get(id).filter(|_| *id != create).cloned();
    assert!(authorize_by_shape(room.version(), &knock, without_create).is_err());
}

#[test]
fn a_second_create_event_is_refused() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id.clone()).build();
        let content = json!({ "room_version": version_id.to_string(), "creator": ALICE, "again": true });
        let second = room.make(EventSpec::state(ALICE, "m.room.create", content));
        let verdict = room.admit(second);
        assert!(matches!(verdict, Err(NotAdmitted::ByAuthEvents(_))), "version {version_id}: {verdict:?}");
    }
}

#[test]
fn selected_auth_events_of_a_knock_are_those_of_the_specification() {
    for version_id in WITH_KNOCKS {
        let mut room = RoomFixture::knockable(version_id.clone()).join(CAROL).invite(BOB).leave(BOB).build();
        let mut expected: Vec<OwnedEventId> =
            [("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", BOB)]
                .iter()
                .map(|(kind, key)| room.state().get(&(*kind).into(), key).unwrap().event_id().to_owned())
                .collect();
        if !version(&version_id).room_id_is_create_hash() {
            expected.push(room.state().create().unwrap().event_id().to_owned());
        }
        expected.sort();
        assert_eq!(room.make(EventSpec::knock(BOB)).auth_events(), expected, "version {version_id}");
    }
}
