//! Where settings come from and which one counts, seen from outside.
//! May not: read the program's own defaults; `config.toml` and the answers are compared.

use std::{fs, path::Path};

use serde_json::json;

use crate::support::{PASSWORD, TestServer};

/// The version of a new room, which tells what `rooms.default_version` is.
#[track_caller]
fn version_of_new_rooms(server: &TestServer) -> String {
    let owner = server.register("owner");
    let room_id = owner.create_room(json!({}));
    let create = owner.try_state(&room_id, "m.room.create", "").ok();
    create["room_version"].as_str().unwrap().to_owned()
}

#[test]
fn arguments_beat_the_environment_which_beats_the_file() {
    let file = "rooms.default_version = \"8\"\nknock.reason_bytes_max = 8\nregistration.open = false\n";
    let server = TestServer::new()
        .variable("VESTIBULE_ROOMS__DEFAULT_VERSION", "9")
        .variable("VESTIBULE_KNOCK__REASON_BYTES_MAX", "16")
        .set("rooms.default_version", "\"10\"");
    fs::write(server.home().join("config.toml"), file).unwrap();
    let server = server.start();
    // `--set registration.open=true` is among what loopback needs.
    assert_eq!(version_of_new_rooms(&server), "10");
    let (host, anna) = (server.log_in("owner", PASSWORD), server.register("anna"));
    let room_id = host.knockable_room("10");
    anna.try_knock(&room_id, "seventeen letters").refused(413, "M_TOO_LARGE");
    anna.try_knock(&room_id, "sixteen letters!").ok();
}

#[test]
fn the_file_counts_where_nothing_else_is_said_and_paths_begin_at_it() {
    let server = TestServer::new();
    fs::create_dir(server.home().join("etc")).unwrap();
    let file = server.home().join("etc/server.toml");
    fs::write(&file, "data_dir = \"kept\"\nrooms.default_version = \"8\"\n").unwrap();
    let checked = server.run(&["--config", "etc/server.toml", "generate-signing-key"]);
    checked.ok();
    assert!(server.home().join("etc/kept/signing_key").exists());
    assert!(!server.data_dir().exists());
}

#[test]
fn without_a_file_the_defaults_are_those_of_the_shipped_file() {
    let server = TestServer::started();
    let owner = server.register("owner");
    let versions = owner.get("/capabilities")["capabilities"]["m.room_versions"].clone();
    assert_eq!(versions["default"], "12");
    let offered: Vec<&String> = versions["available"].as_object().unwrap().keys().collect();
    assert_eq!(offered, ["10", "11", "12", "6", "7", "8", "9"]);
}

#[test]
fn the_shipped_configuration_starts() {
    let server = TestServer::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    fs::copy(shipped, server.home().join("config.toml")).unwrap();
    let mut server = server;
    for key in [
        "server_name",
        "registration.open",
        "rate_limit.enabled",
        "federation.allowed_ip_ranges",
        "federation.trusted_ca_files",
    ] {
        server.change(key, None);
    }
    let mut server = server.start();
    let keys = server.federation().get("/_matrix/key/v2/server").ok();
    assert_eq!(keys["server_name"], "localhost:8448");
    server.client().get("/_matrix/client/versions").ok();
    server.admin().get("/ready").ok();
    let body = json!({ "username": "anna", "password": "correct horse battery", "auth": { "type": "m.login.dummy" } });
    let register = |target: &str| server.client().ask("POST", target, &[], Some(body.to_string().as_bytes()));
    register("/_matrix/client/v3/register").refused(403, "M_FORBIDDEN");
    register("/_synapse/admin/v1/register").refused(404, "M_UNRECOGNIZED");
    assert_eq!(server.stop().0, Some(0));
    assert!(server.home().join("data/journal").is_dir(), "relative to the file");
}

#[test]
fn a_setting_of_the_environment_reaches_list_entries() {
    let mut server = TestServer::new().variable("VESTIBULE_LISTENER__0__SERVES", "[\"client\", \"federation\"]");
    server.change("listener.1.address", None);
    let server = server.set("listener.1.address", "127.0.0.1:0").start();
    server.client().get("/_matrix/key/v2/server").ok();
}
