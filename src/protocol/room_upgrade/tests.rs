use std::collections::BTreeSet;

use ruma::{CanonicalJsonObject, OwnedRoomAliasId, OwnedUserId, RoomVersionId, owned_event_id};
use serde_json::{Value, json};

use super::{CONTENT_BYTES_TAKEN_MAX, EVENTS_TAKEN_MAX, TakenState, Upgrade, closed_power_levels, join_rules};
use crate::{
    fixture::{ALICE, BOB, CAROL, EVE, EventSpec, RoomDraft, RoomFixture, canonical, user, version},
    membership::CreateRefusal,
};

const DAVE: &str = "@dave:resident.test";
const LAST_EVENT: &str = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn id(version: &str) -> RoomVersionId {
    RoomVersionId::try_from(version).unwrap()
}

fn upgrade(old: &RoomFixture, by: &str, new: &str) -> Upgrade {
    Upgrade {
        old: old.state().clone(),
        old_version: old.version().clone(),
        new_version: version(&id(new)),
        user_id: user(by),
        additional_creators: Vec::new(),
        last_event: Some(owned_event_id!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        aliases: BTreeSet::new(),
    }
}

fn room(version: &str) -> RoomDraft {
    RoomFixture::knockable(id(version))
}

fn set(draft: RoomDraft, kind: &str, state_key: &str, content: Value) -> RoomDraft {
    draft.event(EventSpec::any(ALICE, kind, Some(state_key), content))
}

fn value(content: &CanonicalJsonObject) -> Value {
    serde_json::to_value(content).unwrap()
}

/// Type, state key and content of all that is taken along.
fn taken(upgrade: &Upgrade) -> Vec<(String, String, Value)> {
    let state = upgrade.state().unwrap();
    state
        .into_iter()
        .map(|TakenState { kind, state_key, content }| (kind.to_string(), state_key, value(&content)))
        .collect()
}

/// The power levels of the new room: the first ones, and those that stay.
fn levels(upgrade: &Upgrade) -> (Value, Option<Value>) {
    let mut levels =
        taken(upgrade).into_iter().filter(|(kind, ..)| kind == "m.room.power_levels").map(|(.., content)| content);
    (levels.next().unwrap(), levels.next())
}

#[test]
fn the_create_event_names_the_old_room_and_keeps_its_nature() {
    // (old, new, additional creators, more in the old create event, the new one without the old room's id)
    let with_event = json!({ "predecessor": { "event_id": LAST_EVENT } });
    let bare = json!({ "predecessor": {} });
    let space = json!({ "type": "m.space", "m.federate": false, "org.example": 1 });
    for (old, new, additional, more, expected) in [
        ("10", "10", vec![], json!({}), with_event.clone()),
        ("10", "11", vec![BOB], json!({}), with_event.clone()),
        ("12", "11", vec![], json!({}), with_event.clone()),
        ("10", "12", vec![], json!({}), bare.clone()),
        ("12", "12", vec![], json!({ "additional_creators": [CAROL] }), bare),
        (
            "11",
            "12",
            vec![BOB, ALICE, CAROL, BOB],
            json!({}),
            json!({ "predecessor": {}, "additional_creators": [BOB, CAROL] }),
        ),
        (
            "10",
            "11",
            vec![],
            space,
            json!({ "predecessor": { "event_id": LAST_EVENT }, "type": "m.space", "m.federate": false }),
        ),
        ("10", "11", vec![], json!({ "type": 5 }), with_event),
    ] {
        let mut draft = room(old);
        for (key, value) in more.as_object().unwrap() {
            draft = draft.create_with(key, value.clone());
        }
        let old_room = draft.build();
        let mut upgrade = upgrade(&old_room, ALICE, new);
        upgrade.additional_creators = additional.into_iter().map(user).collect::<Vec<OwnedUserId>>();
        let mut content = value(&upgrade.create_content());
        let named = content["predecessor"].as_object_mut().unwrap().remove("room_id");
        assert_eq!(named, Some(json!(old_room.room_id())), "{old} to {new}");
        assert_eq!(content, expected, "{old} to {new}, {more}");
    }
}

#[test]
fn power_levels_fit_the_new_version_and_who_upgrades() {
    let all = json!({
        "users": { ALICE: 100, BOB: 50, CAROL: 75 }, "events": { "m.room.tombstone": 50, "m.room.name": 80 }, "ban": 60,
        "org.example": "stays",
    });
    let with = |key: &str, user: &str, level: i64| {
        let mut content = all.clone();
        content[key][user] = json!(level);
        content
    };
    let without = |users: &[&str], tombstone: i64| {
        let mut content = all.clone();
        users.iter().for_each(|user| drop(content["users"].as_object_mut().unwrap().remove(*user)));
        content["events"]["m.room.tombstone"] = json!(tombstone);
        content
    };
    // (old, new, who upgrades, additional creators, the first levels, those that stay if they are others)
    for (old, new, by, additional, first, last) in [
        ("10", "11", ALICE, vec![], all.clone(), None),
        // Bob needs 80 to name the room, and has as little as before when that is done.
        ("10", "11", BOB, vec![], with("users", BOB, 80), Some(all.clone())),
        ("11", "10", DAVE, vec![], with("users", DAVE, 80), Some(all.clone())),
        // Creators are not named. A tombstone that everybody may set who sets state becomes theirs to set.
        ("11", "12", ALICE, vec![], without(&[ALICE], 150), None),
        ("11", "12", BOB, vec![CAROL], without(&[BOB, CAROL], 150), None),
    ] {
        let mut draft = room(old);
        for guest in [BOB, CAROL, DAVE] {
            draft = draft.join(guest);
        }
        let old_room = set(draft, "m.room.power_levels", "", all.clone()).build();
        let mut upgrade = upgrade(&old_room, by, new);
        upgrade.additional_creators = additional.into_iter().map(user).collect();
        assert_eq!(levels(&upgrade), (first, last), "{old} to {new} by {by}");
    }
}

#[test]
fn creators_of_the_old_room_need_a_level_where_the_new_version_knows_no_creators() {
    let draft = room("12").create_with("additional_creators", json!([CAROL])).join(BOB);
    let own = json!({ "users": { BOB: 120 }, "events": { "m.room.tombstone": 150 } });
    let old_room = set(draft, "m.room.power_levels", "", own.clone()).build();
    let mut expected = own.clone();
    expected["users"] = json!({ ALICE: 150, BOB: 120, CAROL: 150 });
    assert_eq!(levels(&upgrade(&old_room, ALICE, "11")), (expected.clone(), None));
    let mut first = expected.clone();
    first["users"][BOB] = json!(150);
    assert_eq!(levels(&upgrade(&old_room, BOB, "11")), (first, Some(expected)));
    // In a room of the same kind they are what the upgrade makes them.
    assert_eq!(levels(&upgrade(&old_room, ALICE, "12")), (own, None));
}

#[test]
fn a_room_without_power_levels_means_the_same_in_words() {
    let mut old_room = room("10").build();
    let without: crate::state::StateMap = old_room
        .state()
        .iter()
        .filter(|(key, _)| key.0.to_string() != "m.room.power_levels")
        .map(|(_, event)| event.clone())
        .collect();
    let implied = json!({ "state_default": 0, "users": { ALICE: 100 } });
    let by = |old_room: &RoomFixture, user: &str, new: &str| Upgrade {
        old: without.clone(),
        ..upgrade(old_room, user, new)
    };
    assert_eq!(levels(&by(&old_room, BOB, "11")), (implied.clone(), None));
    old_room.append(EventSpec::invite(ALICE, BOB));
    let tombstone = json!({ "m.room.tombstone": 150 });
    assert_eq!(levels(&by(&old_room, ALICE, "12")).0, json!({ "state_default": 0, "users": {}, "events": tombstone }));
}

#[test]
fn levels_in_strings_become_numbers() {
    let odd = json!({
        "users": { ALICE: " +100 " }, "events": { "m.room.name": "80" }, "notifications": { "room": "20" }, "invite": "5",
    });
    let old_room = set(room("9"), "m.room.power_levels", "", odd).build();
    let plain = json!({
        "users": { ALICE: 100 }, "events": { "m.room.name": 80 }, "notifications": { "room": 20 }, "invite": 5,
    });
    assert_eq!(levels(&upgrade(&old_room, ALICE, "10")), (plain, None));
}

#[test]
fn who_bans_anew_stands_above_the_banned() {
    // Carol was a moderator when Alice banned her.
    let old_room = room("11").power(CAROL, 90).power(BOB, 50).join(BOB).ban(CAROL).ban(EVE).build();
    let (first, last) = levels(&upgrade(&old_room, BOB, "11"));
    assert_eq!((&first["users"][BOB], &last.unwrap()["users"][BOB]), (&json!(91), &json!(50)));
    let (first, last) = levels(&upgrade(&old_room, ALICE, "11"));
    assert_eq!((&first["users"][ALICE], last), (&json!(100), None));
}

#[test]
fn what_is_said_of_the_room_is_taken_along_and_what_users_said_is_not() {
    let mut draft = room("10").join(BOB).knock(DAVE).create_with("type", json!("m.space"));
    for (kind, state_key, content) in [
        ("m.room.name", "", json!({ "name": "Otters" })),
        ("m.room.topic", "", json!({ "topic": "wet" })),
        ("m.room.avatar", "", json!({ "url": "mxc://a/b" })),
        ("m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
        ("m.room.guest_access", "", json!({ "guest_access": "forbidden" })),
        ("m.room.history_visibility", "", json!({ "history_visibility": "invited" })),
        ("m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["evil.test"] })),
        ("m.room.canonical_alias", "", json!({ "alias": "#o:us", "alt_aliases": ["#p:us", "#o:them", 5] })),
        ("m.room.pinned_events", "", json!({ "pinned": [] })),
        ("m.room.name", "other", json!({ "name": "no name" })),
        ("m.space.child", "!in:x", json!({ "via": ["x"] })),
        ("m.space.child", "!out:x", json!({})),
        ("m.space.parent", "!p:x", json!({ "via": ["x"] })),
        ("org.example", "", json!({ "a": 1 })),
    ] {
        draft = set(draft, kind, state_key, content);
    }
    let ban = EventSpec::ban(ALICE, EVE).with("reason", json!("bites")).with("displayname", json!("Eve"));
    let old_room = draft.event(ban).ban(CAROL).build();
    let mut upgrade = upgrade(&old_room, ALICE, "12");
    // Whom the user makes a creator may come in.
    upgrade.additional_creators = vec![user(CAROL)];
    let expected = |alias: Option<Value>| {
        let mut expected = vec![
            ("m.room.join_rules", "", json!({ "join_rule": "knock" })),
            ("m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["evil.test"] })),
            ("m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
            ("m.room.name", "", json!({ "name": "Otters" })),
            ("m.room.avatar", "", json!({ "url": "mxc://a/b" })),
            ("m.room.topic", "", json!({ "topic": "wet" })),
            ("m.room.guest_access", "", json!({ "guest_access": "forbidden" })),
            ("m.room.history_visibility", "", json!({ "history_visibility": "invited" })),
        ];
        expected.extend(alias.map(|content| ("m.room.canonical_alias", "", content)));
        expected.push(("m.space.child", "!in:x", json!({ "via": ["x"] })));
        expected.push(("m.room.member", EVE, json!({ "membership": "ban", "reason": "bites" })));
        expected
    };
    for (moving, alias) in [
        (vec![], None),
        (vec!["#o:us"], Some(json!({ "alias": "#o:us" }))),
        (vec!["#p:us"], Some(json!({ "alt_aliases": ["#p:us"] }))),
        (vec!["#o:us", "#p:us", "#q:us"], Some(json!({ "alias": "#o:us", "alt_aliases": ["#p:us"] }))),
    ] {
        upgrade.aliases = moving.iter().map(|alias| OwnedRoomAliasId::try_from(*alias).unwrap()).collect();
        let taken = taken(&upgrade);
        assert_eq!(taken[0].0, "m.room.power_levels");
        let rest: Vec<(&str, &str, Value)> =
            taken[1..].iter().map(|(kind, key, content)| (kind.as_str(), key.as_str(), content.clone())).collect();
        assert_eq!(rest, expected(alias), "{moving:?}");
    }
}

#[test]
fn a_join_rule_stays_or_lets_in_fewer() {
    for (rule, new, expected) in [
        ("knock", "12", "knock"),
        ("knock", "7", "knock"),
        ("knock", "6", "invite"),
        ("knock_restricted", "12", "knock_restricted"),
        ("knock_restricted", "10", "knock_restricted"),
        ("knock_restricted", "9", "knock"),
        ("knock_restricted", "6", "invite"),
        ("restricted", "12", "restricted"),
        ("restricted", "8", "restricted"),
        ("restricted", "7", "invite"),
        ("public", "6", "public"),
        ("invite", "6", "invite"),
        ("org.example", "6", "org.example"),
    ] {
        let allow = json!([{ "type": "m.room_membership", "room_id": "!r:x" }]);
        let content = join_rules(canonical(json!({ "join_rule": rule, "allow": allow })), &version(&id(new)));
        assert_eq!(value(&content), json!({ "join_rule": expected, "allow": allow }), "{rule} in {new}");
    }
}

#[test]
fn a_replaced_room_falls_silent_for_those_without_power() {
    for (before, after) in [
        (json!({}), Some(json!({ "events_default": 50, "invite": 50 }))),
        (json!({ "invite": 60, "ban": 1 }), Some(json!({ "invite": 60, "ban": 1, "events_default": 50 }))),
        (
            json!({ "users_default": 70, "invite": 50 }),
            Some(json!({ "users_default": 70, "invite": 71, "events_default": 71 })),
        ),
        (json!({ "events_default": "0", "invite": "50" }), Some(json!({ "events_default": 50, "invite": 50 }))),
        (json!({ "events_default": 50, "invite": 100 }), None),
    ] {
        assert_eq!(closed_power_levels(canonical(before.clone())).map(|after| value(&after)), after, "{before}");
    }
}

#[test]
fn an_upgrade_knows_the_room_that_it_made() {
    for new in ["10", "11", "12"] {
        let old_room = room("10").build();
        let wish = upgrade(&old_room, ALICE, new);
        let made = |content: &CanonicalJsonObject, by: &str| {
            let mut draft = RoomFixture::knockable(id(new)).join(BOB);
            for (key, value) in content {
                draft = draft.create_with(key, value.clone().into());
            }
            let room = draft.build();
            let wish = Upgrade { user_id: user(by), ..wish.clone() };
            wish.has_made(room.state().create().unwrap())
        };
        let content = wish.create_content();
        assert!(made(&content, ALICE), "{new}");
        assert!(!made(&content, BOB), "{new}: of another maker");
        let another_last_event = Upgrade { last_event: None, ..wish.clone() }.create_content();
        assert!(made(&another_last_event, ALICE), "{new}");
        assert!(!made(&CanonicalJsonObject::new(), ALICE), "{new}: no predecessor");
        let other_room = upgrade(&room("11").named("other").build(), ALICE, new).create_content();
        assert!(!made(&other_room, ALICE), "{new}: of another room");
        let mut of_another_kind = content.clone();
        of_another_kind.extend(canonical(json!({ "type": "m.space" })));
        assert!(!made(&of_another_kind, ALICE), "{new}");
        let other_version = if new == "12" { "11" } else { "12" };
        let create = RoomFixture::knockable(id(other_version)).build();
        assert!(!wish.has_made(create.state().create().unwrap()), "{new}");
    }
}

#[test]
fn more_than_a_commit_holds_is_refused() {
    let mut old_room = set(room("11"), "m.room.topic", "", json!({ "topic": "wet" })).build();
    for number in 0..3 {
        old_room.append(
            EventSpec::ban(ALICE, &format!("@spammer{number}:peer.test")).with("reason", json!("x".repeat(100))),
        );
    }
    let wish = upgrade(&old_room, ALICE, "12");
    assert_eq!(wish.state().unwrap().len(), 6);
    assert!(wish.state_within(6, CONTENT_BYTES_TAKEN_MAX).is_ok());
    assert_eq!(wish.state_within(5, CONTENT_BYTES_TAKEN_MAX), Err(CreateRefusal::TooMuch));
    assert_eq!(wish.state_within(EVENTS_TAKEN_MAX, 300), Err(CreateRefusal::TooMuch));
}
