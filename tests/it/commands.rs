//! Every command of the program, beside a running and on a stopped server, and every exit code.
//! May not: look at what the server keeps but by its commands and its HTTP.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{PASSWORD, TestServer, User};

const ADMIN_ACTORS: &str = "/_vestibule/admin/v1/actors";

/// A room with one knock by a local user.
struct Knocked {
    owner: User,
    room_id: String,
    knocker: String,
}

impl Knocked {
    #[track_caller]
    fn on(server: &TestServer) -> Self {
        let (owner, anna) = (server.register("owner"), server.register("anna"));
        let room_id = owner.knockable_room("12");
        anna.try_knock(&room_id, "otters").ok();
        Self { owner, room_id, knocker: anna.user_id }
    }

    /// The knock waits as before, and its owner's token still counts.
    #[track_caller]
    fn is_there(&self, server: &TestServer) {
        let owner = server.log_in("owner", PASSWORD);
        for session in [&owner, &self.owner] {
            let waiting = session.members(&self.room_id, "?membership=knock");
            assert_eq!(waiting.len(), 1, "{waiting:?}");
            assert_eq!(waiting[0]["state_key"], json!(self.knocker));
            assert_eq!(waiting[0]["content"]["reason"], "otters");
        }
        assert_eq!(server.knock_totals()["pending"], 1);
        assert_eq!(server.totals()["rooms_stored"], 1);
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The largest file below a directory.
fn largest_file(dir: &Path) -> PathBuf {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push((fs::metadata(&path).unwrap().len(), path));
            }
        }
    }
    found.into_iter().max().unwrap().1
}

fn flip_byte(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_command_line_is_told_apart_from_failures() {
    let server = TestServer::new();
    server.run(&["--version"]).ok();
    let help = server.run(&["--help"]).ok();
    for command in
        ["serve", "check-config", "generate-signing-key", "register-user", "backup", "restore", "verify", "rebuild"]
    {
        assert!(help.contains(command), "{command} in {help}");
    }
    server.run(&["--nonsense"]).refused(2, "--nonsense");
    server.run(&["dance"]).refused(2, "dance");
    server.run(&["backup"]).refused(2, "DIR");
    // Nobody sits at a terminal here.
    server.run(&["register-user", "anna"]).refused(2, "--password-stdin");
    for command in [&["verify"][..], &["rebuild"], &["backup", "backup"]] {
        server.run(command).refused(78, "no data");
    }
    assert!(!server.data_dir().exists(), "nothing of this touched the data directory");
}

#[test]
fn check_config_reads_everything_and_writes_nothing() {
    let server = TestServer::new();
    assert!(server.run(&["check-config"]).ok().contains("vestibule.test"));
    assert!(!server.data_dir().exists());
    let server = server.start();
    server.run(&["check-config"]).ok();
}

#[test]
fn unknown_keys_and_unfit_values_end_with_78_and_are_named() {
    let table = [
        ("knock.repeat_aftr", "1h", "knock.repeat_aftr"),
        ("knock.repeat_after", "soon", "knock.repeat_after"),
        ("nonsense", "1", "nonsense"),
        ("listener.0.address", "here", "listener.0.address"),
        ("listener.0.serves", "[\"pizza\"]", "listener.0.serves"),
        ("rooms.default_version", "5", "rooms.default_version"),
        ("storage.cache", "64 elephants", "storage.cache"),
        ("server_name", "not a name", "server_name"),
        ("rate_limit.knocks_in_room", "{ per_second = -1.0, burst = 1 }", "rate_limit.knocks_in_room"),
    ];
    for (key, value, named) in table {
        eprintln!("{key} = {value}");
        let server = TestServer::new().set(key, value);
        server.run(&["check-config"]).refused(78, named);
        server.run(&["serve"]).refused(78, named);
        assert!(!server.data_dir().exists(), "{key}");
    }
    let server = TestServer::new().variable("VESTIBULE_KNOCK__NOPE", "1");
    server.run(&["serve"]).refused(78, "VESTIBULE_KNOCK__NOPE");
    TestServer::new().run(&["--config", "none.toml", "serve"]).refused(78, "none.toml");
    TestServer::new().run(&["--set", "no equals sign"]).refused(78, "no equals sign");
}

#[test]
fn generate_signing_key_makes_the_key_that_the_server_then_shows() {
    let server = TestServer::new();
    let printed = server.run(&["generate-signing-key"]).ok();
    let (key_id, public_key) = printed.trim().split_once(' ').unwrap();
    assert_eq!(mode_of(&server.data_dir().join("signing_key")), 0o600);
    let made = fs::read(server.data_dir().join("signing_key")).unwrap();
    server.run(&["generate-signing-key"]).refused(78, "signing_key");
    assert_eq!(fs::read(server.data_dir().join("signing_key")).unwrap(), made);
    let server = server.start();
    let keys = server.federation().get("/_matrix/key/v2/server").ok();
    assert_eq!(keys["verify_keys"], json!({ key_id: { "key": public_key } }));
}

#[test]
fn fresh_installs_have_keys_and_tokens_of_their_own() {
    let servers = [TestServer::started(), TestServer::started()];
    let keys: Vec<Value> = servers
        .iter()
        .map(|server| server.federation().get("/_matrix/key/v2/server").ok()["verify_keys"].clone())
        .collect();
    assert_ne!(keys[0], keys[1]);
    assert_ne!(servers[0].admin_token(), servers[1].admin_token());
    for server in &servers {
        for secret in ["signing_key", "admin_token"] {
            assert_eq!(mode_of(&server.data_dir().join(secret)), 0o600, "{secret}");
        }
        assert_eq!(mode_of(&server.data_dir()), 0o700);
        assert!(server.admin_token().len() >= 43, "256 bits");
    }
}

#[test]
fn registered_users_log_in_whether_the_server_ran_or_not() {
    let mut server = TestServer::new();
    let register = |server: &TestServer, arguments: &[&str]| {
        let arguments = [&["register-user"], arguments, &["--password-stdin"]].concat();
        server.run_with_input(&arguments, "otters are playful\n")
    };
    assert!(register(&server, &["anna"]).ok().contains("@anna:vestibule.test"));
    register(&server, &["boss", "--admin"]).ok();
    server.restart();
    register(&server, &["@ben:vestibule.test"]).ok();
    register(&server, &["chief", "--admin"]).ok();
    for taken in ["anna", "ben"] {
        register(&server, &[taken]).refused(1, "");
    }
    for unfit in ["Anna!", "@anna:elsewhere.test", ""] {
        register(&server, &[unfit]).refused(1, "");
    }
    let admin_answer = |user: &User| {
        let bearer = format!("Bearer {}", user.token);
        server.admin().ask("GET", ADMIN_ACTORS, &[("Authorization", &bearer)], None)
    };
    for name in ["boss", "chief"] {
        admin_answer(&server.log_in(name, "otters are playful")).ok();
    }
    for name in ["anna", "ben"] {
        let user = server.log_in(name, "otters are playful");
        assert_eq!(user.user_id, format!("@{name}:vestibule.test"));
        admin_answer(&user).refused(403, "M_FORBIDDEN");
    }
    assert_eq!(server.try_log_in("anna", "otters are playful\n").status, 403);
    server.stop();
    register(&server, &["anna"]).refused(1, "");
}

#[test]
fn a_data_directory_takes_one_process() {
    let mut server = TestServer::started();
    server.run(&["serve"]).refused(75, "lock");
    server.run(&["rebuild"]).refused(75, "lock");
    server.run(&["backup", "backup"]).ok();
    server.run(&["restore", "backup"]).refused(75, "lock");
    server.admin().get("/health").ok();
    assert_eq!(server.stop().0, Some(0));
    server.restart();
    server.kill();
    // A dead process leaves its socket behind and no lock.
    assert!(server.data_dir().join("control.sock").exists());
    server.run(&["verify"]).ok();
    server.restart();
}

#[test]
fn keys_that_others_can_read_or_that_are_gone_stop_the_start() {
    let mut server = TestServer::started();
    server.stop();
    let key = server.data_dir().join("signing_key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    server.run(&["serve"]).refused(78, "0600");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&key, server.home().join("elsewhere")).unwrap();
    for command in [&["serve"][..], &["generate-signing-key"]] {
        server.run(command).refused(78, "signing_key");
        assert!(!key.exists(), "no new identity");
    }
    fs::rename(server.home().join("elsewhere"), &key).unwrap();
    server.restart();
    server.stop();
    let token = server.data_dir().join("admin_token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    server.run(&["serve"]).refused(78, "admin_token");
}

#[test]
fn data_of_another_server_or_a_newer_program_stop_the_start() {
    let mut server = TestServer::started();
    server.stop();
    server.change("server_name", Some("\"other.test\""));
    for command in ["serve", "verify", "rebuild"] {
        server.run(&[command]).refused(78, "vestibule.test");
    }
    server.change("server_name", Some("\"vestibule.test\""));
    let file = server.data_dir().join("format.json");
    let format = fs::read_to_string(&file).unwrap();
    let mut newer: Value = serde_json::from_str(&format).unwrap();
    let number = newer.as_object_mut().unwrap().iter_mut().find(|(_, value)| value.is_u64()).unwrap().1;
    *number = json!(number.as_u64().unwrap() + 1);
    fs::write(&file, newer.to_string()).unwrap();
    for command in ["serve", "verify", "rebuild"] {
        server.run(&[command]).refused(78, "newer");
    }
    fs::write(&file, format).unwrap();
    server.restart();
}

#[test]
fn a_damaged_journal_stops_the_start_and_names_the_way_out() {
    let mut server = TestServer::started();
    let knocked = Knocked::on(&server);
    server.kill();
    let journal = largest_file(&server.data_dir().join("journal"));
    let place = usize::try_from(fs::metadata(&journal).unwrap().len()).unwrap() / 2;
    flip_byte(&journal, place);
    let damaged = server.run(&["serve"]);
    assert!(damaged.stderr.contains("vestibule rebuild"), "{damaged:?}");
    damaged.refused(78, "vestibule restore");
    flip_byte(&journal, place);
    server.restart();
    knocked.is_there(&server);
}

#[test]
fn a_record_that_was_cut_off_is_cut_and_the_rest_stays() {
    let mut server = TestServer::started();
    let knocked = Knocked::on(&server);
    server.kill();
    let journal = largest_file(&server.data_dir().join("journal"));
    let mut bytes = fs::read(&journal).unwrap();
    // As much of a record as a crash in the middle of a write leaves.
    bytes.extend_from_slice(&bytes.clone()[bytes.len() - 20..]);
    fs::write(&journal, bytes).unwrap();
    server.restart();
    knocked.is_there(&server);
}

#[test]
fn a_backup_of_a_running_server_brings_the_knock_back() {
    let server = TestServer::started();
    let knocked = Knocked::on(&server);
    let backup = server.home().join("backup");
    server.run(&["backup", "backup"]).ok();
    server.run(&["backup", text(&backup)]).refused(1, "");
    knocked.is_there(&server);
    let key = fs::read(server.data_dir().join("signing_key")).unwrap();

    let mut restored = TestServer::new();
    assert!(restored.run(&["restore", text(&backup)]).ok().contains("vestibule.test"));
    assert_eq!(fs::read(restored.data_dir().join("signing_key")).unwrap(), key, "the same identity");
    assert_eq!(mode_of(&restored.data_dir().join("signing_key")), 0o600);
    restored.run(&["verify"]).ok();
    restored.restart();
    let mut knocked = knocked;
    knocked.owner = restored.log_in("owner", PASSWORD);
    knocked.is_there(&restored);
    // It is a whole server: the knock is answered there.
    knocked.owner.about(&knocked.room_id, "invite", &knocked.knocker);
    assert_eq!(restored.knock_totals()["pending"], 0);
    restored.stop();
    restored.run(&["restore", text(&backup)]).refused(78, "");
}

#[test]
fn a_backup_of_a_stopped_server_is_as_good_and_a_changed_one_is_refused() {
    let mut server = TestServer::started();
    let mut knocked = Knocked::on(&server);
    server.stop();
    let backup = server.home().join("backup");
    server.run(&["backup", "backup"]).ok();

    let mut restored = TestServer::new();
    restored.change("server_name", Some("\"other.test\""));
    restored.run(&["restore", text(&backup)]).refused(78, "vestibule.test");
    restored.change("server_name", Some("\"vestibule.test\""));
    let journal = largest_file(&backup);
    let place = usize::try_from(fs::metadata(&journal).unwrap().len()).unwrap() / 2;
    flip_byte(&journal, place);
    restored.run(&["restore", text(&backup)]).refused(78, "");
    flip_byte(&journal, place);
    restored.run(&["restore", "nowhere"]).refused(78, "manifest.json");
    restored.run(&["restore", text(&backup)]).ok();
    restored.restart();
    knocked.owner = restored.log_in("owner", PASSWORD);
    knocked.is_there(&restored);
}

#[test]
fn verify_finds_running_and_stopped_servers_sound() {
    let mut server = TestServer::started();
    let knocked = Knocked::on(&server);
    assert!(server.run(&["verify"]).ok().contains("sound"));
    server.stop();
    assert!(server.run(&["verify"]).ok().contains("sound"));
    server.restart();
    knocked.is_there(&server);
}

#[test]
fn a_lost_or_damaged_look_up_store_is_made_anew() {
    let mut server = TestServer::started();
    let knocked = Knocked::on(&server);
    let sled = server.data_dir().join("sled");
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 3] = [
        ("gone", |sled| fs::remove_dir_all(sled).unwrap()),
        ("flipped", |sled| {
            let file = largest_file(sled);
            let mut bytes = fs::read(&file).unwrap();
            bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x40);
            fs::write(&file, bytes).unwrap();
        }),
        ("empty", |sled| fs::write(largest_file(sled), b"").unwrap()),
    ];
    for (damage, inflict) in damages {
        for by_command in [true, false] {
            server.stop();
            inflict(&sled);
            if by_command {
                assert!(server.run(&["rebuild"]).ok().contains("rebuilt"), "{damage}");
                assert!(server.run(&["verify"]).ok().contains("sound"), "{damage}");
            }
            server.restart();
            knocked.is_there(&server);
        }
    }
    assert!(server.run(&["verify"]).ok().contains("sound"));
}
