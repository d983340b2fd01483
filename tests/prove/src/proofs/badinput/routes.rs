//! Every route, who may call it, and what a well-formed request to it looks like.
//! May not: miss a route. The proof compares this table with the router's own list before it begins.
//!
//! Words of samples in `<…>` are filled in by the world: `<owner>`, `<room>`, `<event>` and so on.

/// What a device publishes.
const DEVICE_KEYS: &str = r#"{
    "device_keys":{"user_id":"<owner>","device_id":"<device>","algorithms":["a"],"keys":{"ed25519:<device>":"k"},"signatures":{}},
    "one_time_keys":{"signed_curve25519:A":{"key":"k","signatures":{}}},"fallback_keys":{}}"#;

/// Who a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody.
    Nobody,
    /// A user with an access token.
    User,
    /// A server that signs its request.
    Server,
    /// An operator, on the admin listener.
    Operator,
}

/// What is known of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none, or it is not looked at.
    None,
    /// An object whose fields, at any depth, have the types of the sample.
    Fields(&'static str),
    /// An object whose fields are the caller's.
    Free(&'static str),
    /// An object with one field that holds what was signed: the world makes it, such as the knock of `send_knock`.
    Event,
}

/// One method of one path.
#[derive(Clone, Debug)]
pub struct Route {
    pub method: &'static str,
    /// As the router has it.
    pub pattern: String,
    pub caller: Caller,
    pub body: Body,
    /// Fields of the sample without which there is no request.
    pub must: &'static [&'static str],
    /// A query that makes the request well-formed.
    pub query: &'static str,
    /// Queries that make it malformed.
    pub bad_queries: &'static [&'static str],
}

impl Route {
    fn new(method: &'static str, pattern: impl Into<String>, caller: Caller) -> Self {
        let pattern = pattern.into();
        Self { method, pattern, caller, body: Body::None, must: &[], query: "", bad_queries: &[] }
    }

    fn fields(self, sample: &'static str, must: &'static [&'static str]) -> Self {
        Self { body: Body::Fields(sample), must, ..self }
    }

    fn free(self, sample: &'static str) -> Self {
        Self { body: Body::Free(sample), ..self }
    }

    fn event(self) -> Self {
        let must = &[
            "auth_events",
            "content",
            "depth",
            "hashes",
            "origin_server_ts",
            "prev_events",
            "room_id",
            "sender",
            "signatures",
            "state_key",
            "type",
        ];
        Self { body: Body::Event, must, ..self }
    }

    fn query(self, query: &'static str, bad_queries: &'static [&'static str]) -> Self {
        Self { query, bad_queries, ..self }
    }
}

/// All of them.
pub fn routes() -> Vec<Route> {
    let mut routes = Vec::new();
    for prefix in ["/_matrix/client/v3", "/_matrix/client/r0"] {
        routes.extend(client(prefix));
    }
    routes.extend(client_elsewhere());
    routes.extend(desk());
    routes.extend(federation());
    routes.extend(admin());
    routes
}

fn client(prefix: &str) -> Vec<Route> {
    let nobody = |method, path: &str| Route::new(method, format!("{prefix}{path}"), Caller::Nobody);
    let user = |method, path: &str| Route::new(method, format!("{prefix}{path}"), Caller::User);
    let about = r#"{"user_id":"<friend>","reason":"r"}"#;
    let mut routes = vec![
        nobody("GET", "/login"),
        nobody("POST", "/login").fields(
            r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"nobody"},"password":"wrong",
                "device_id":"D","initial_device_display_name":"n"}"#,
            &["type"],
        ),
        user("POST", "/logout"),
        user("POST", "/logout/all"),
        nobody("POST", "/register").fields(
            r#"{"username":"newcomer","password":"correct horse","device_id":"D","initial_device_display_name":"n",
                "inhibit_login":false,"auth":{"type":"m.login.dummy","session":"s"}}"#,
            &["password"],
        ).query("", &["kind=robot", "kind=%ff"]),
        nobody("GET", "/register/available").query("username=newcomer", &["", "username=", "username=No%20Name", "username=%00"]),
        user("GET", "/account/whoami"),
        user("POST", "/account/deactivate").fields(r#"{"auth":{"type":"m.login.password","password":"wrong"},"erase":false}"#, &[]),
        user("GET", "/capabilities"),
        nobody("GET", "/profile/{user_id}"),
        user("POST", "/user/{user_id}/filter").fields(
            r#"{"room":{"timeline":{"limit":5,"types":["m.room.message"]},"include_leave":true},"event_fields":["a"]}"#,
            &[],
        ),
        user("GET", "/user/{user_id}/filter/{filter_id}"),
        user("GET", "/user/{user_id}/account_data/{type}"),
        user("PUT", "/user/{user_id}/account_data/{type}").free(r#"{"a":1}"#),
        user("GET", "/user/{user_id}/rooms/{room_id}/account_data/{type}"),
        user("PUT", "/user/{user_id}/rooms/{room_id}/account_data/{type}").free(r#"{"a":1}"#),
        user("GET", "/pushrules"),
        user("GET", "/pushrules/"),
        user("GET", "/pushrules/global"),
        user("GET", "/pushrules/global/"),
        user("GET", "/pushrules/global/{kind}/{rule_id}"),
        user("GET", "/pushrules/global/{kind}/{rule_id}/enabled"),
        user("PUT", "/pushrules/global/{kind}/{rule_id}/enabled").fields(r#"{"enabled":true}"#, &["enabled"]),
        user("GET", "/pushrules/global/{kind}/{rule_id}/actions"),
        user("GET", "/devices"),
        user("GET", "/devices/{device_id}"),
        user("PUT", "/devices/{device_id}").fields(r#"{"display_name":"x"}"#, &[]),
        user("DELETE", "/devices/{device_id}").fields(r#"{"auth":{"type":"m.login.password","password":"wrong"}}"#, &[]),
        user("POST", "/delete_devices").fields(
            r#"{"devices":["D"],"auth":{"type":"m.login.password","password":"wrong"}}"#,
            &["devices"],
        ),
        user("POST", "/keys/upload").fields(DEVICE_KEYS, &[]),
        user("POST", "/keys/upload/{device_id}").fields(DEVICE_KEYS, &[]),
        user("POST", "/keys/query").fields(r#"{"device_keys":{"<friend>":["D"]},"timeout":100}"#, &["device_keys"]),
        user("POST", "/keys/claim").fields(r#"{"one_time_keys":{"<friend>":{"D":"signed_curve25519"}},"timeout":100}"#, &["one_time_keys"]),
        user("GET", "/keys/changes").query("from=<since>&to=<since>", &["", "from=x", "from=x&to=y", "from=%00&to=%ff"]),
        user("PUT", "/sendToDevice/{event_type}/{txn_id}").fields(r#"{"messages":{"<friend>":{"D":{}}}}"#, &["messages"]),
        user("GET", "/room_keys/version"),
        user("GET", "/room_keys/version/{version}"),
        user("GET", "/room_keys/keys"),
        user("GET", "/room_keys/keys/{room_id}"),
        user("GET", "/room_keys/keys/{room_id}/{session_id}"),
        nobody("GET", "/directory/room/{room_alias}"),
        user("PUT", "/directory/room/{room_alias}").fields(r#"{"room_id":"<room>"}"#, &["room_id"]),
        user("DELETE", "/directory/room/{room_alias}"),
        nobody("GET", "/directory/list/room/{room_id}"),
        user("PUT", "/directory/list/room/{room_id}").fields(r#"{"visibility":"private"}"#, &[]),
        user("GET", "/rooms/{room_id}/aliases"),
        nobody("GET", "/publicRooms").query("", &["limit=x", "limit=-1", "limit=1e3", "limit=99999999999999999999", "since=%ff%fe", "since=no-token"]),
        user("POST", "/publicRooms").fields(r#"{"limit":5,"since":"<page>","filter":{"generic_search_term":"x","room_types":["m.space"]}}"#, &[]),
        user("POST", "/createRoom").fields(
            r#"{"name":"n","topic":"t","preset":"private_chat","visibility":"private","room_version":"11","invite":["<friend>"],
                "is_direct":false,"creation_content":{"m.federate":true},"power_level_content_override":{"ban":50},
                "initial_state":[{"type":"m.room.history_visibility","state_key":"","content":{"history_visibility":"shared"}}]}"#,
            &[],
        ),
        user("POST", "/join/{room_id_or_alias}").fields(r#"{"reason":"r"}"#, &[]),
        user("POST", "/rooms/{room_id}/join").fields(r#"{"reason":"r"}"#, &[]),
        user("POST", "/knock/{room_id_or_alias}").fields(r#"{"reason":"r"}"#, &[]),
        user("GET", "/rooms/{room_id}/state"),
        user("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}").free(r#"{"body":"b"}"#),
        user("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}").fields(r#"{"reason":"r"}"#, &[]),
        user("POST", "/rooms/{room_id}/invite").fields(about, &["user_id"]),
        user("POST", "/rooms/{room_id}/kick").fields(about, &["user_id"]),
        user("POST", "/rooms/{room_id}/ban").fields(about, &["user_id"]),
        user("POST", "/rooms/{room_id}/unban").fields(about, &["user_id"]),
        user("POST", "/rooms/{room_id}/leave").fields(r#"{"reason":"r"}"#, &[]),
        user("POST", "/rooms/{room_id}/forget"),
        user("POST", "/rooms/{room_id}/upgrade")
            .fields(r#"{"new_version":"12","additional_creators":["<friend>"]}"#, &["new_version"]),
        user("GET", "/rooms/{room_id}/members").query("", &["membership=sideways", "not_membership=%ff", "at=no-token"]),
        user("GET", "/rooms/{room_id}/joined_members"),
        user("GET", "/joined_rooms"),
        user("GET", "/rooms/{room_id}/messages").query("dir=b", &["", "dir=sideways", "dir=b&limit=x", "dir=b&limit=-1", "dir=b&from=no-token", "dir=b&filter=%7B", "dir=b&filter=5", "dir=b&limit=99999999999999999999"]),
        user("GET", "/rooms/{room_id}/event/{event_id}"),
        user("GET", "/rooms/{room_id}/context/{event_id}").query("", &["limit=x", "limit=-1", "filter=%7B", "filter=%5B%5D"]),
        user("PUT", "/rooms/{room_id}/typing/{user_id}").fields(r#"{"typing":true,"timeout":100}"#, &["typing"]),
        user("POST", "/rooms/{room_id}/receipt/{receipt_type}/{event_id}").fields(r#"{"thread_id":"main"}"#, &[]),
        user("POST", "/rooms/{room_id}/read_markers").fields(r#"{"m.fully_read":"<event>","m.read":"<event>"}"#, &[]),
        user("GET", "/sync").query("timeout=0", &["since=no-token", "timeout=x", "timeout=-1", "timeout=99999999999999999999", "full_state=perhaps", "filter=%7B", "filter=no-filter", "set_presence=%ff", "since=%00"]),
    ];
    for path in ["/rooms/{room_id}/state/{event_type}", "/rooms/{room_id}/state/{event_type}/{state_key:.*}"] {
        routes.push(user("GET", path).query("", &["format=sideways"]));
        routes.push(user("PUT", path).free(r#"{"a":1}"#));
    }
    routes.extend(signing_keys(prefix));
    routes.extend(profile_field(&format!("{prefix}/profile")));
    routes
}

/// These have an unstable prefix too.
fn signing_keys(prefix: &str) -> [Route; 2] {
    let keys = |path: &str| Route::new("POST", format!("{prefix}/keys/{path}"), Caller::User);
    [
        keys("device_signing/upload").fields(
            r#"{"master_key":{"user_id":"<owner>","usage":["master"],"keys":{"ed25519:k":"k"}},
                "auth":{"type":"m.login.password","password":"wrong"}}"#,
            &[],
        ),
        keys("signatures/upload").fields(r#"{"<owner>":{"D":{"device_id":"D"}}}"#, &[]),
    ]
}

fn profile_field(prefix: &str) -> [Route; 3] {
    let field = |method, caller| Route::new(method, format!("{prefix}/{{user_id}}/{{field}}"), caller);
    [
        field("GET", Caller::Nobody),
        field("PUT", Caller::User).fields(r#"{"displayname":"x"}"#, &["displayname"]),
        field("DELETE", Caller::User),
    ]
}

fn client_elsewhere() -> Vec<Route> {
    let mut routes = vec![
        Route::new("GET", "/.well-known/matrix/client", Caller::Nobody),
        Route::new("GET", "/.well-known/matrix/server", Caller::Nobody),
        Route::new("GET", "/_matrix/client/versions", Caller::Nobody),
        Route::new("GET", "/_synapse/admin/v1/register", Caller::Nobody),
        Route::new("POST", "/_synapse/admin/v1/register", Caller::Nobody).fields(
            r#"{"nonce":"n","username":"newcomer","password":"p","mac":"m","admin":false,"user_type":"t","displayname":"d",
                "device_id":"D","initial_device_display_name":"n","inhibit_login":false}"#,
            &["nonce", "username", "password", "mac"],
        ),
    ];
    for path in [
        "v1/room_summary/{room_id_or_alias}",
        "unstable/im.nheko.summary/summary/{room_id_or_alias}",
        "unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
    ] {
        routes.push(Route::new("GET", format!("/_matrix/client/{path}"), Caller::User));
    }
    routes.extend(signing_keys("/_matrix/client/unstable"));
    routes.extend(profile_field("/_matrix/client/unstable/uk.tcpip.msc4133/profile"));
    routes
}

fn desk() -> impl Iterator<Item = Route> {
    const FILES: [&str; 13] = [
        "",
        "/",
        "/card.js",
        "/desk.css",
        "/desk.js",
        "/icon.svg",
        "/levels.js",
        "/lists.js",
        "/matrix.js",
        "/past.js",
        "/question.js",
        "/rooms.js",
        "/words.js",
    ];
    FILES.into_iter().map(|file| Route::new("GET", format!("/desk{file}"), Caller::Nobody))
}

fn federation() -> Vec<Route> {
    let nobody = |method, path: &str| Route::new(method, format!("/_matrix{path}"), Caller::Nobody);
    let server = |method, path: &str| Route::new(method, format!("/_matrix/federation{path}"), Caller::Server);
    vec![
        nobody("GET", "/federation/v1/version"),
        nobody("GET", "/key/v2/server"),
        nobody("GET", "/key/v2/server/"),
        nobody("GET", "/key/v2/server/{keyId}"),
        nobody("POST", "/key/v2/query")
            .fields(r#"{"server_keys":{"<peer>":{"ed25519:1":{"minimum_valid_until_ts":5}}}}"#, &["server_keys"]),
        nobody("GET", "/key/v2/query/{serverName}").query(
            "",
            &[
                "minimum_valid_until_ts=x",
                "minimum_valid_until_ts=-1",
                "minimum_valid_until_ts=99999999999999999999999",
            ],
        ),
        server("GET", "/v1/make_knock/{roomId}/{userId}").query("ver=11", &["", "ver=", "ver=2", "ver=%ff"]),
        server("PUT", "/v1/send_knock/{roomId}/{eventId}").event(),
        server("GET", "/v1/make_leave/{roomId}/{userId}"),
        server("PUT", "/v2/send_leave/{roomId}/{eventId}").event(),
        server("PUT", "/v1/send_leave/{roomId}/{eventId}").event(),
        server("PUT", "/v1/send/{txnId}")
            .fields(r#"{"origin":"<peer>","origin_server_ts":5,"pdus":[],"edus":[]}"#, &["pdus"]),
        server("GET", "/v1/make_join/{roomId}/{userId}").query("ver=11", &["", "ver=2", "ver=%ff"]),
        server("PUT", "/v2/send_join/{roomId}/{eventId}").event(),
        server("PUT", "/v1/send_join/{roomId}/{eventId}").event(),
        server("PUT", "/v2/invite/{roomId}/{eventId}")
            .fields(r#"{"room_version":"11","event":{},"invite_room_state":[]}"#, &["room_version", "event"]),
        server("PUT", "/v1/invite/{roomId}/{eventId}").event(),
        server("GET", "/v1/state_ids/{roomId}").query("event_id=<event>", &["", "event_id=x", "event_id=%00"]),
        server("GET", "/v1/state/{roomId}").query("event_id=<event>", &["", "event_id=x", "event_id=%ff"]),
        server("GET", "/v1/event/{eventId}"),
        server("GET", "/v1/event_auth/{roomId}/{eventId}"),
        server("GET", "/v1/backfill/{roomId}").query(
            "v=<event>&limit=5",
            &["", "limit=5", "v=<event>", "v=x&limit=5", "v=<event>&limit=x", "v=<event>&limit=-1"],
        ),
        server("POST", "/v1/get_missing_events/{roomId}").fields(
            r#"{"earliest_events":["<event>"],"latest_events":["<event>"],"limit":5,"min_depth":0}"#,
            &["earliest_events", "latest_events"],
        ),
        server("GET", "/v1/query/profile")
            .query("user_id=<owner>", &["", "user_id=x", "user_id=%00", "user_id=%40x%3Aelsewhere.test"]),
        server("GET", "/v1/query/directory")
            .query("room_alias=<alias>", &["", "room_alias=x", "room_alias=%23", "room_alias=%ff"]),
        server("GET", "/v1/publicRooms").query("", &["limit=x", "limit=-1", "since=no-token"]),
        server("POST", "/v1/publicRooms").fields(r#"{"limit":5,"filter":{"generic_search_term":"x"}}"#, &[]),
        server("GET", "/v1/hierarchy/{roomId}"),
        server("GET", "/v1/user/devices/{userId}"),
        server("POST", "/v1/user/keys/query").fields(r#"{"device_keys":{"<owner>":["D"]}}"#, &["device_keys"]),
        server("POST", "/v1/user/keys/claim")
            .fields(r#"{"one_time_keys":{"<owner>":{"D":"signed_curve25519"}}}"#, &["one_time_keys"]),
    ]
}

fn admin() -> Vec<Route> {
    let operator = |path: &str| Route::new("GET", path, Caller::Operator);
    let pages: &[&str] = &["limit=0", "limit=-1", "limit=x", "limit=99999999999999999999", "from=no-token", "from=%ff"];
    vec![
        Route::new("GET", "/health", Caller::Nobody),
        Route::new("GET", "/ready", Caller::Nobody),
        operator("/metrics"),
        operator("/_vestibule/admin/v1/actors").query("", &["limit=0", "limit=x", "order_by=beauty", "from=no-token"]),
        operator("/_vestibule/admin/v1/rooms/{roomId}/actor"),
        operator("/_vestibule/admin/v1/knocks").query("", pages),
        operator("/_vestibule/admin/v1/rooms/{roomId}/knocks").query("", pages),
        operator("/_vestibule/admin/v1/decisions").query("", pages),
    ]
}
