//! What is where: paths by listener, methods, browsers, and who may see what operators see.
//! May not: know how requests are routed.

use crate::support::{Answer, Http, TestServer};

const CLIENT_ONLY: [&str; 5] = [
    "/_matrix/client/v3/sync",
    "/_matrix/client/v3/capabilities",
    "/_matrix/client/v3/publicRooms",
    "/_matrix/client/v3/profile/@a:vestibule.test",
    "/_matrix/client/v3/account_data",
];
const LOGIN: [&str; 3] = ["/_matrix/client/versions", "/_matrix/client/v3/login", "/_matrix/client/v3/account/whoami"];
const FEDERATION: [&str; 4] = [
    "/_matrix/federation/v1/version",
    "/_matrix/key/v2/server",
    "/_matrix/federation/v1/make_knock/!a:vestibule.test/@a:b",
    "/_matrix/federation/v1/query/profile",
];
const ADMIN: [&str; 7] = [
    "/_vestibule/admin/v1/actors",
    "/_vestibule/admin/v1/knocks",
    "/_vestibule/admin/v1/decisions",
    "/_vestibule/admin/v1/rooms/!a:vestibule.test/actor",
    "/metrics",
    "/health",
    "/ready",
];

/// Three listeners, each for one thing, without TLS.
fn separate() -> TestServer {
    TestServer::new().set("listener.1.serves", "[\"federation\"]").set("listener.1.tls", "false").start()
}

#[track_caller]
fn is_there(door: &Http, path: &str) {
    let answer = door.get(path);
    let is_unknown = answer.status == 404 && answer.text().contains("M_UNRECOGNIZED");
    assert!(!is_unknown, "{path}: {}", answer.text());
    assert!(answer.status < 500, "{path}: {}", answer.text());
}

#[track_caller]
fn is_open_to_browsers(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(answer.header("access-control-allow-methods").unwrap().contains(method));
    }
    for header in ["X-Requested-With", "Content-Type", "Authorization"] {
        assert!(answer.header("access-control-allow-headers").unwrap().contains(header));
    }
}

#[test]
fn each_path_is_there_on_its_listeners_and_unknown_elsewhere() {
    let server = separate();
    let (client, federation, admin) = (server.client(), server.federation(), server.admin());
    for path in CLIENT_ONLY.iter().filter(|path| !path.ends_with("account_data")) {
        is_there(&client, path);
        for elsewhere in [&federation, &admin] {
            elsewhere.get(path).refused(404, "M_UNRECOGNIZED");
        }
    }
    for path in LOGIN {
        is_there(&client, path);
        is_there(&admin, path);
        federation.get(path).refused(404, "M_UNRECOGNIZED");
    }
    for path in FEDERATION {
        is_there(&federation, path);
        for elsewhere in [&client, &admin] {
            elsewhere.get(path).refused(404, "M_UNRECOGNIZED");
        }
    }
    for path in ADMIN {
        is_there(&admin, path);
        for elsewhere in [&client, &federation] {
            elsewhere.get(path).refused(404, "M_UNRECOGNIZED");
        }
    }
    for path in [
        "/",
        "/nothing",
        "/_matrix",
        "/_matrix/client/v3/nothing",
        "/_matrix/federation/v1/nothing",
        "/_matrix/client/v3/rooms/!a:b/nothing",
        "/_vestibule/admin/v1/nothing",
        "//_matrix/client/versions",
        "/_matrix/client/v3/account_data",
        "/_synapse/admin/v1/users",
    ] {
        for door in [&client, &federation, &admin] {
            door.get(path).refused(404, "M_UNRECOGNIZED");
        }
    }
}

#[test]
fn a_listener_may_serve_everything() {
    let server = TestServer::new().set("listener.0.serves", "[\"client\", \"federation\", \"admin\"]").start();
    for path in LOGIN.iter().chain(&FEDERATION).chain(&ADMIN).chain(&CLIENT_ONLY[..4]) {
        is_there(&server.client(), path);
    }
}

#[test]
fn wrong_methods_are_405() {
    let server = separate();
    let (client, federation, admin) = (server.client(), server.federation(), server.admin());
    let table = [
        (&client, "DELETE", "/_matrix/client/versions"),
        (&client, "POST", "/_matrix/client/v3/sync"),
        (&client, "GET", "/_matrix/client/v3/createRoom"),
        (&client, "PUT", "/_matrix/client/v3/login"),
        (&client, "GET", "/_matrix/client/v3/rooms/!a:b/invite"),
        (&client, "PATCH", "/_matrix/client/v3/rooms/!a:b/state/m.room.name"),
        (&federation, "POST", "/_matrix/federation/v1/version"),
        (&federation, "POST", "/_matrix/federation/v1/make_knock/!a:b/@a:b"),
        (&federation, "GET", "/_matrix/federation/v1/send_knock/!a:b/$a"),
        (&federation, "DELETE", "/_matrix/key/v2/server"),
        (&admin, "POST", "/_vestibule/admin/v1/actors"),
        (&admin, "POST", "/health"),
    ];
    for (door, method, path) in table {
        eprintln!("{method} {path}");
        door.ask(method, path, &[], None).refused(405, "M_UNRECOGNIZED");
    }
}

#[test]
fn browsers_may_read_client_answers_and_errors_and_nothing_else() {
    let server = separate();
    let client = server.client();
    for (method, path, status) in [
        ("GET", "/_matrix/client/versions", 200),
        ("GET", "/_matrix/client/v3/sync", 401),
        ("GET", "/_matrix/client/v3/nothing", 404),
        ("DELETE", "/_matrix/client/versions", 405),
        ("POST", "/_matrix/client/v3/login", 400),
        ("OPTIONS", "/_matrix/client/v3/sync", 200),
        ("OPTIONS", "/_matrix/client/v3/rooms/!a:b/send/m.room.message/1", 200),
        ("GET", "/.well-known/matrix/client", 404),
    ] {
        let answer = client.ask(method, path, &[("Origin", "https://app.example")], None);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        is_open_to_browsers(&answer);
    }
    for (door, path) in [(server.federation(), "/_matrix/federation/v1/version"), (server.admin(), "/health")] {
        assert_eq!(door.get(path).header("access-control-allow-origin"), None, "{path}");
    }
}

#[test]
fn operators_paths_need_the_token_and_nothing_else_will_do() {
    let server = separate();
    let user = server.register("anna");
    let (token, admin) = (server.admin_token(), server.admin());
    for path in ADMIN.iter().filter(|path| !["/health", "/ready"].contains(path)) {
        let with = |value: &str| admin.ask("GET", path, &[("Authorization", value)], None);
        admin.get(path).refused(401, "M_MISSING_TOKEN");
        for wrong in ["Bearer ", "Bearer wrong", "Basic wrong"] {
            assert_eq!(with(wrong).status, 401, "{path} {wrong}");
        }
        with(&format!("Bearer {token}x")).refused(401, "M_UNKNOWN_TOKEN");
        with(&format!("Bearer {}", user.token)).refused(403, "M_FORBIDDEN");
        let posing = [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")];
        assert_eq!(admin.ask("GET", path, &posing, None).status, 401);
        assert_ne!(with(&format!("Bearer {token}")).status, 401);
    }
    // The operator's token is none of a client's.
    let bearer = format!("Bearer {token}");
    let whoami = "/_matrix/client/v3/account/whoami";
    server.client().ask("GET", whoami, &[("Authorization", &bearer)], None).refused(401, "M_UNKNOWN_TOKEN");
    for path in ["/health", "/ready"] {
        admin.get(path).ok();
    }
}

#[test]
fn well_known_says_what_is_configured() {
    let server = TestServer::started();
    for path in ["/.well-known/matrix/client", "/.well-known/matrix/server"] {
        server.client().get(path).refused(404, "M_NOT_FOUND");
    }
    let server = TestServer::new()
        .set("well_known_client", "\"https://matrix.vestibule.test\"")
        .set("well_known_server", "\"matrix.vestibule.test:443\"")
        .start();
    let client = server.client().get("/.well-known/matrix/client").ok();
    assert_eq!(client["m.homeserver"]["base_url"], "https://matrix.vestibule.test");
    for door in [server.client(), server.federation()] {
        assert_eq!(door.get("/.well-known/matrix/server").ok()["m.server"], "matrix.vestibule.test:443");
    }
}
