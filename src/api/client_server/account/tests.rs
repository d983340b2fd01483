//! Accounts from outside: registration, login, what a user keeps, and logout, over the reference store.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use actix_web::{
    http::{Method, header::AUTHORIZATION},
    test::{TestRequest, init_service},
    web::Data,
};
use hmac::{Hmac, KeyInit, Mac};
use ruma::{RoomVersionId, owned_user_id};
use serde_json::{Value, json};
use sha1::Sha1;
use vestibule_storage::accounts::AccountChange;

use crate::{
    listener::Serves,
    rate_limit::Rates,
    state::{ApiSettings, App, HiddenText, Randomness},
    testing::{World, ask, rates},
};

/// Gives different bytes at each call, and the same ones in each run.
#[derive(Default)]
struct Counting(AtomicU64);

impl Randomness for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        bytes.fill(7);
        bytes.iter_mut().zip(number).for_each(|(byte, number)| *byte = number);
    }
}

fn world(rates: Rates, change: impl FnOnce(&mut ApiSettings)) -> World {
    let world = World::with(rates, change);
    let app = Arc::into_inner(world.app.into_inner()).unwrap();
    World { app: Data::new(App { randomness: Arc::new(Counting::default()), ..app }) }
}

fn open(settings: &mut ApiSettings) {
    settings.open_registration = true;
}

/// One request as a client makes it.
fn request(method: Method, path: &str, token: Option<&str>, body: Value) -> TestRequest {
    let mut request = TestRequest::with_uri(path).method(method).peer_addr(SocketAddr::from(([192, 0, 2, 1], 4711)));
    if let Some(token) = token {
        request = request.insert_header((AUTHORIZATION, format!("Bearer {token}")));
    }
    if body.is_null() { request } else { request.set_payload(body.to_string()) }
}

/// Sends it; a macro because the type of a finished request has no name here.
macro_rules! call {
    ($service:expr, $($request:expr),+) => {
        ask($service, request($($request),+).to_request())
    };
}

fn errcode(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["errcode"].as_str().unwrap_or_default())
}

fn registration(name: &str) -> Value {
    json!({ "username": name, "password": "sesame", "auth": { "type": "m.login.dummy" } })
}

fn password_login(user: &str, password: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

#[actix_web::test]
async fn an_account_is_registered_used_and_logged_out() {
    let world = world(rates(false), open);
    let service = init_service(world.application(&[Serves::Client])).await;
    let path = "/_matrix/client/v3/register";

    let todo = call!(&service, Method::POST, path, None, json!({ "username": "Alice", "password": "sesame" })).await;
    assert_eq!((todo.0, &todo.1["flows"]), (401, &json!([{ "stages": ["m.login.dummy"] }])));
    assert!(todo.1.get("errcode").is_none() && todo.1["session"].is_string());
    let available = "/_matrix/client/r0/register/available?username=alice";
    assert_eq!(call!(&service, Method::GET, available, None, Value::Null).await, (200, json!({ "available": true })));

    let (status, made) = call!(&service, Method::POST, path, None, registration("Alice")).await;
    assert_eq!((status, &made["user_id"]), (200, &json!("@alice:us.test")), "{made}");
    let token = made["access_token"].as_str().unwrap();
    assert!(token.starts_with("vst_"));
    for path in ["/_matrix/client/v3/account/whoami", "/_matrix/client/r0/account/whoami"] {
        let (_, whoami) = call!(&service, Method::GET, path, Some(token), Value::Null).await;
        assert_eq!(whoami, json!({ "user_id": "@alice:us.test", "device_id": made["device_id"] }));
    }

    // Taken now, at both steps and in any case; and the password is still the old one.
    for body in [registration("alice"), registration("ALICE"), json!({ "username": "alice" })] {
        let answer = call!(&service, Method::POST, path, None, body).await;
        assert_eq!(errcode(&answer), (400, "M_USER_IN_USE"));
    }
    assert_eq!(errcode(&call!(&service, Method::GET, available, None, Value::Null).await), (400, "M_USER_IN_USE"));

    // Each login has a token of its own; a device that logs in again loses the former.
    let login = "/_matrix/client/v3/login";
    let mut body = password_login("@alice:us.test", "sesame");
    body["device_id"] = json!("PHONE");
    let (_, first) = call!(&service, Method::POST, login, None, body.clone()).await;
    let (_, second) = call!(&service, Method::POST, login, None, body).await;
    assert_eq!(second["device_id"], json!("PHONE"), "{second}");
    let tokens = [token, first["access_token"].as_str().unwrap(), second["access_token"].as_str().unwrap()];
    let whoami = "/_matrix/client/v3/account/whoami";
    for (token, status) in tokens.into_iter().zip([200, 401, 200]) {
        assert_eq!(call!(&service, Method::GET, whoami, Some(token), Value::Null).await.0, status);
    }
    assert_eq!(call!(&service, Method::POST, "/_matrix/client/v3/logout", Some(tokens[2]), Value::Null).await.0, 200);
    assert_eq!(call!(&service, Method::GET, whoami, Some(tokens[2]), Value::Null).await.0, 401);
    assert_eq!(call!(&service, Method::GET, whoami, Some(token), Value::Null).await.0, 200);
    let (_, third) = call!(&service, Method::POST, login, None, password_login("alice", "sesame")).await;
    let third = third["access_token"].as_str().unwrap();
    assert_eq!(call!(&service, Method::POST, "/_matrix/client/v3/logout/all", Some(third), json!({})).await.0, 200);
    for token in [token, third] {
        let answer = call!(&service, Method::GET, whoami, Some(token), Value::Null).await;
        assert_eq!(errcode(&answer), (401, "M_UNKNOWN_TOKEN"));
    }
}

#[actix_web::test]
async fn registration_refuses_what_cannot_be_an_account() {
    let world = world(rates(false), open);
    let service = init_service(world.application(&[Serves::Client])).await;
    let path = "/_matrix/client/v3/register";
    let with = |key: &str, value: Value| {
        let mut body = registration("bob");
        body[key] = value;
        body
    };
    for (path, body, expected) in [
        (path, json!([]), (400, "M_BAD_JSON")),
        (path, registration("@bob:other.test"), (400, "M_INVALID_USERNAME")),
        (path, registration("bob smith"), (400, "M_INVALID_USERNAME")),
        (path, registration(&"b".repeat(300_000)), (400, "M_INVALID_USERNAME")),
        (path, registration("_bridge"), (400, "M_EXCLUSIVE")),
        (path, with("password", json!("")), (400, "M_WEAK_PASSWORD")),
        (path, with("password", Value::Null), (400, "M_MISSING_PARAM")),
        (path, with("device_id", json!("d".repeat(1000))), (400, "M_INVALID_PARAM")),
        (path, with("type", json!("m.login.application_service")), (403, "M_FORBIDDEN")),
        (path, with("auth", json!({ "type": "m.login.password" })), (401, "M_FORBIDDEN")),
        ("/_matrix/client/v3/register?kind=guest", json!({}), (403, "M_FORBIDDEN")),
    ] {
        let answer = call!(&service, Method::POST, path, None, body).await;
        assert_eq!(errcode(&answer), expected, "{}", answer.1);
    }
    assert!(world.app.stores.accounts.users(None, 10).await.unwrap().is_empty());

    let (status, made) = call!(&service, Method::POST, path, None, with("inhibit_login", json!(true))).await;
    assert_eq!((status, made), (200, json!({ "user_id": "@bob:us.test", "home_server": "us.test" })));
    assert!(world.app.stores.accounts.devices(&owned_user_id!("@bob:us.test")).await.unwrap().is_empty());

    let closed = World::new();
    let service = init_service(closed.application(&[Serves::Client])).await;
    assert_eq!(errcode(&call!(&service, Method::POST, path, None, registration("bob")).await), (403, "M_FORBIDDEN"));
}

#[actix_web::test]
async fn wrong_logins_look_alike_and_are_counted() {
    let world = world(rates(false), open);
    let service = init_service(world.application(&[Serves::Client])).await;
    let (_, made) = call!(&service, Method::POST, "/_matrix/client/v3/register", None, registration("alice")).await;
    let path = "/_matrix/client/v3/login";
    let wrong = call!(&service, Method::POST, path, None, password_login("alice", "Sesame")).await;
    assert_eq!(errcode(&wrong), (403, "M_FORBIDDEN"));
    for (user, password) in [("nobody", "sesame"), ("@alice:other.test", "sesame"), ("alice", ""), ("", "")] {
        assert_eq!(call!(&service, Method::POST, path, None, password_login(user, password)).await, wrong, "{user}");
    }
    // No password, no login; and nobody comes back who is gone.
    world.user("bot", false, "bots-token").await;
    assert_eq!(call!(&service, Method::POST, path, None, password_login("bot", "")).await, wrong);
    let mut alice = world.app.stores.accounts.user(&owned_user_id!("@alice:us.test")).await.unwrap().unwrap();
    alice.is_deactivated = true;
    world.change(vec![AccountChange::UpdateUser(alice)]).await;
    let gone = call!(&service, Method::POST, path, None, password_login("alice", "sesame")).await;
    assert_eq!(errcode(&gone), (403, "M_USER_DEACTIVATED"));
    let token = made["access_token"].as_str().unwrap();
    let whoami = call!(&service, Method::GET, "/_matrix/client/v3/account/whoami", Some(token), Value::Null).await;
    assert_eq!(errcode(&whoami), (401, "M_UNKNOWN_TOKEN"));
}

#[actix_web::test]
async fn guessing_is_slowed_by_account_and_by_address() {
    let generous = vestibule_actors::limits::Rate { per_second: 100.0, burst: 100.0 };
    let by_account = World::with(Rates { logins_by_address: generous, ..rates(true) }, |_| {});
    let by_address = World::with(Rates { failed_logins_by_user: generous, ..rates(true) }, |_| {});
    for world in [by_account, by_address] {
        let service = init_service(world.application(&[Serves::Client])).await;
        let mut statuses = Vec::new();
        for _ in 0..5 {
            let answer =
                call!(&service, Method::POST, "/_matrix/client/v3/login", None, password_login("x", "y")).await;
            statuses.push(answer.0);
        }
        assert_eq!(statuses, [403, 403, 403, 429, 429]);
    }
}

fn code(nonce: &str, name: &str, password: &str, role: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(b"the-shared-secret").unwrap();
    mac.update([nonce, name, password, role].join("\0").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[actix_web::test]
async fn the_shared_secret_makes_accounts_and_admins() {
    let path = "/_synapse/admin/v1/register";
    let none = World::new();
    let service = init_service(none.application(&[Serves::Client])).await;
    for method in [Method::GET, Method::POST] {
        assert_eq!(errcode(&call!(&service, method, path, None, json!({})).await), (404, "M_UNRECOGNIZED"));
    }

    let world = world(rates(false), |settings| {
        settings.registration_shared_secret = Some(HiddenText::new("the-shared-secret"));
    });
    let service = init_service(world.application(&[Serves::Client])).await;
    let nonce = async || {
        let (_, answer) = call!(&service, Method::GET, path, None, Value::Null).await;
        answer["nonce"].as_str().unwrap().to_owned()
    };
    let body = |nonce: &str, name: &str, is_admin: bool, mac: String| json!({ "nonce": nonce, "username": name, "password": "sesame", "admin": is_admin, "mac": mac });

    let drawn = nonce().await;
    let admins = body(&drawn, "root", true, code(&drawn, "root", "sesame", "admin"));
    let (status, made) = call!(&service, Method::POST, path, None, admins.clone()).await;
    assert_eq!((status, &made["user_id"]), (200, &json!("@root:us.test")), "{made}");
    assert!(made["access_token"].is_string());
    assert!(world.app.stores.accounts.user(&owned_user_id!("@root:us.test")).await.unwrap().unwrap().is_admin);
    // A nonce works once, also when the code was wrong; and the role is part of the code.
    assert_eq!(errcode(&call!(&service, Method::POST, path, None, admins).await), (400, "M_UNKNOWN"));
    let drawn = nonce().await;
    let stolen = body(&drawn, "eve", true, code(&drawn, "eve", "sesame", "notadmin"));
    assert_eq!(errcode(&call!(&service, Method::POST, path, None, stolen.clone()).await), (403, "M_FORBIDDEN"));
    let plain = body(&drawn, "eve", false, code(&drawn, "eve", "sesame", "notadmin"));
    assert_eq!(errcode(&call!(&service, Method::POST, path, None, plain).await), (400, "M_UNKNOWN"));
    let drawn = nonce().await;
    let plain = body(&drawn, "eve", false, code(&drawn, "eve", "sesame", "notadmin"));
    assert_eq!(call!(&service, Method::POST, path, None, plain).await.0, 200);
    assert!(!world.app.stores.accounts.user(&owned_user_id!("@eve:us.test")).await.unwrap().unwrap().is_admin);
    let drawn = nonce().await;
    let again = body(&drawn, "EVE", false, code(&drawn, "EVE", "sesame", "notadmin"));
    assert_eq!(errcode(&call!(&service, Method::POST, path, None, again).await), (400, "M_USER_IN_USE"));
}

#[actix_web::test]
async fn what_a_user_keeps_is_that_users_alone() {
    let world = World::new();
    world.user("ann", false, "anns").await;
    world.user("bob", false, "bobs").await;
    let service = init_service(world.application(&[Serves::Client])).await;
    let user = "/_matrix/client/v3/user/@ann:us.test";

    let filter = json!({ "room": { "timeline": { "limit": 10 } } });
    let (status, made) = call!(&service, Method::POST, &format!("{user}/filter"), Some("anns"), filter.clone()).await;
    let path = format!("/_matrix/client/r0/user/%40ann%3Aus.test/filter/{}", made["filter_id"].as_str().unwrap());
    assert_eq!(status, 200);
    assert_eq!(call!(&service, Method::GET, &path, Some("anns"), Value::Null).await, (200, filter));
    assert_eq!(errcode(&call!(&service, Method::GET, &path, Some("bobs"), Value::Null).await), (403, "M_FORBIDDEN"));
    let missing = format!("{user}/filter/nothing");
    assert_eq!(errcode(&call!(&service, Method::GET, &missing, Some("anns"), Value::Null).await), (404, "M_NOT_FOUND"));

    for place in ["", "/rooms/!r:us.test"] {
        let path = |kind: &str| format!("{user}{place}/account_data/{kind}");
        let direct = json!({ "@bob:us.test": ["!r:us.test"], "ratio": 0.5 });
        let get = async |kind: &str, token| call!(&service, Method::GET, &path(kind), Some(token), Value::Null).await;
        assert_eq!(errcode(&get("m.direct", "anns").await), (404, "M_NOT_FOUND"));
        assert_eq!(call!(&service, Method::PUT, &path("m.direct"), Some("anns"), direct.clone()).await.0, 200);
        assert_eq!(get("m.direct", "anns").await, (200, direct));
        assert_eq!(errcode(&get("m.direct", "bobs").await), (403, "M_FORBIDDEN"));
        for kind in ["m.fully_read", "m.push_rules"] {
            let answer = call!(&service, Method::PUT, &path(kind), Some("anns"), json!({})).await;
            assert_eq!(errcode(&answer), (405, "M_BAD_JSON"));
        }
        let large = json!({ "x": "x".repeat(200_000) });
        assert_eq!(call!(&service, Method::PUT, &path("x"), Some("anns"), large).await.0, 413);
        assert_eq!(call!(&service, Method::PUT, &path("x"), Some("anns"), json!([])).await.0, 400);
    }

    for path in
        ["/_matrix/client/v3/pushrules/", "/_matrix/client/r0/pushrules", "/_matrix/client/v3/pushrules/global/"]
    {
        let (status, rules) = call!(&service, Method::GET, path, Some("anns"), Value::Null).await;
        assert_eq!(status, 200, "{path}");
        let global = rules.get("global").unwrap_or(&rules);
        assert_eq!(global["override"][0]["rule_id"], json!(".m.rule.master"), "{path}");
    }
    let master = "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled";
    assert_eq!(
        call!(&service, Method::GET, master, Some("anns"), Value::Null).await,
        (200, json!({ "enabled": false }))
    );
    assert_eq!(call!(&service, Method::GET, "/_matrix/client/v3/capabilities", None, Value::Null).await.0, 401);
}

#[actix_web::test]
async fn a_new_name_reaches_profile_and_rooms() {
    let world = World::new();
    let owner = world.user("owner", false, "owners").await;
    world.user("bob", false, "bobs").await;
    let room_id = world.room(RoomVersionId::V12, "public", &[]).await;
    let service = init_service(world.application(&[Serves::Client])).await;
    let field = |name: &str| format!("/_matrix/client/v3/profile/@owner:us.test/{name}");
    let put = async |name: &str, token, value: Value| {
        let body = json!({ (name): value });
        call!(&service, Method::PUT, &field(name), Some(token), body).await
    };
    assert_eq!(put("displayname", "owners", json!("The Owner")).await, (200, json!({})));
    assert_eq!(put("avatar_url", "owners", json!("mxc://us.test/face")).await.0, 200);
    assert_eq!(put("m.tz", "owners", json!("Europe/Berlin")).await.0, 200);
    assert_eq!(errcode(&put("displayname", "bobs", json!("x")).await), (403, "M_FORBIDDEN"));
    assert_eq!(errcode(&put("org.example.x", "owners", json!("x".repeat(70_000))).await), (400, "M_PROFILE_TOO_LARGE"));
    let (_, profile) =
        call!(&service, Method::GET, "/_matrix/client/v3/profile/@owner:us.test", None, Value::Null).await;
    let expected = json!({ "displayname": "The Owner", "avatar_url": "mxc://us.test/face", "m.tz": "Europe/Berlin" });
    assert_eq!(profile, expected);
    let member = async || {
        let kind = ruma::events::StateEventType::RoomMember;
        let event = world.app.stores.rooms.current_state_event(&room_id, &kind, owner.as_str()).await.unwrap().unwrap();
        event.event.content_as::<Value>().unwrap()
    };
    let expected = json!({ "membership": "join", "displayname": "The Owner", "avatar_url": "mxc://us.test/face" });
    assert_eq!(member().await, expected);

    assert_eq!(call!(&service, Method::DELETE, &field("avatar_url"), Some("owners"), Value::Null).await.0, 200);
    assert_eq!(put("displayname", "owners", Value::Null).await.0, 200);
    assert_eq!(member().await, json!({ "membership": "join" }));
    assert_eq!(call!(&service, Method::GET, &field("displayname"), None, Value::Null).await, (200, json!({})));
    let unstable = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@owner:us.test/m.tz";
    assert_eq!(
        call!(&service, Method::GET, unstable, None, Value::Null).await,
        (200, json!({ "m.tz": "Europe/Berlin" }))
    );
    for path in [field("org.example.unset"), "/_matrix/client/v3/profile/@nobody:us.test".to_owned()] {
        assert_eq!(errcode(&call!(&service, Method::GET, &path, None, Value::Null).await), (404, "M_NOT_FOUND"));
    }
}
