//! Facts about the configuration: defaults, precedence, and what is refused by name.
//! May not: depend on the environment or the working directory of the test run.

use std::collections::BTreeSet;

use super::*;

/// Loads `text` as a file, with variables and `--set`s over it.
fn load(text: &str, variables: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v.toml");
    fs::write(&file, text).unwrap();
    load_file(&file, variables, set)
}

fn load_file(file: &Path, variables: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigError> {
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    Config::load(Some(file), environment, &set)
}

/// The key that a configuration is refused for, and the whole message.
fn refusal(text: &str, variables: &[(&str, &str)], set: &[&str]) -> (String, String) {
    let error = load(text, variables, set).map(|_| format!("{text:?} {variables:?} {set:?} was accepted")).unwrap_err();
    (error.key().unwrap_or_default().to_owned(), crate::exit::chain(&error))
}

fn repeat_after(config: &Config) -> String {
    config.knock.repeat_after.to_string()
}

#[test]
fn the_shipped_file_is_the_default() {
    let shipped = layers::merge("", Some((Path::new("config.toml"), DEFAULT_TEXT)), Vec::new()).unwrap();
    assert_eq!(shipped, Config::default());
    assert_eq!(layers::merge(DEFAULT_TEXT, None, Vec::new()).unwrap(), Config::default());
    assert_eq!(layers::merge("", None, Vec::new()).unwrap(), Config::default());
    check::across_keys(&shipped).unwrap();
}

#[test]
fn the_shipped_file_explains_every_key() {
    let keys_of = |text: &str| {
        fn walk(table: &toml::Table, prefix: &str, keys: &mut BTreeSet<String>) {
            for (key, value) in table {
                let key = format!("{prefix}{key}");
                match value {
                    toml::Value::Table(inner) if !inner.is_empty() => walk(inner, &format!("{key}."), keys),
                    toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                        list.iter()
                            .filter_map(toml::Value::as_table)
                            .for_each(|inner| walk(inner, &format!("{key}."), keys));
                    }
                    _ => {
                        keys.insert(key);
                    }
                }
            }
        }
        let mut keys = BTreeSet::new();
        walk(&text.parse().unwrap(), "", &mut keys);
        keys
    };
    // Settings without a default stand in the file as comments.
    let commented = [
        "well_known_client",
        "well_known_server",
        "tls_certificate",
        "tls_private_key",
        "shared_secret",
        "shared_secret_file",
    ];
    let mut text = String::new();
    for line in DEFAULT_TEXT.lines() {
        let uncommented =
            line.strip_prefix("# ").filter(|line| commented.iter().any(|key| line.starts_with(&format!("{key} ="))));
        text.push_str(uncommented.unwrap_or(line));
        text.push('\n');
    }
    let keys = keys_of(&text);
    for key in commented {
        assert!(keys.iter().any(|shown| shown.ends_with(key)), "{key}");
    }
    // serde names what it would accept; each of those must be in the file.
    for (table, prefix) in [
        ("", ""),
        ("[[listener]]\naddress=\"127.0.0.1:1\"\nserves=[\"client\"]", "listener."),
        ("[registration]", "registration."),
        ("[federation]", "federation."),
        ("[rooms]", "rooms."),
        ("[knock]", "knock."),
        ("[actors]", "actors."),
        ("[storage]", "storage."),
        ("[rate_limit]", "rate_limit."),
    ] {
        let (_, message) = refusal(&format!("{table}\nno_such_key = 1"), &[], &[]);
        let expected: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        assert!(!expected.is_empty(), "{message}");
        for key in expected {
            let key = format!("{prefix}{key}");
            let is_shown = keys.iter().any(|shown| *shown == key || shown.starts_with(&format!("{key}.")));
            assert!(is_shown, "{key} is not in config.toml");
        }
    }
}

#[test]
fn later_layers_win() {
    let file = "[knock]\nrepeat_after = \"2h\"";
    let variable = [("VESTIBULE_KNOCK__REPEAT_AFTER", "3h")];
    let set = ["knock.repeat_after=4h"];
    assert_eq!(repeat_after(&load("", &[], &[]).unwrap()), "1h");
    assert_eq!(repeat_after(&load(file, &[], &[]).unwrap()), "2h");
    assert_eq!(repeat_after(&load(file, &variable, &[]).unwrap()), "3h");
    assert_eq!(repeat_after(&load("", &variable, &[]).unwrap()), "3h");
    assert_eq!(repeat_after(&load(file, &[], &set).unwrap()), "4h");
    assert_eq!(repeat_after(&load(file, &variable, &set).unwrap()), "4h");
    assert_eq!(repeat_after(&load(file, &variable, &[set[0], "knock.repeat_after=0s"]).unwrap()), "0s");
    let other_keys = load(file, &variable, &set).unwrap();
    assert_eq!(other_keys.knock.max_pending_per_room, 1000);
    assert_eq!(other_keys.listener, Config::default().listener);
}

#[test]
fn overrides_reach_every_kind_of_value() {
    let config = load(
        "",
        &[
            ("VESTIBULE_SERVER_NAME", "hs1"),
            ("VESTIBULE_REGISTRATION__OPEN", "true"),
            ("VESTIBULE_REGISTRATION__SHARED_SECRET", "4711"),
            ("VESTIBULE_TRUSTED_PROXIES", r#"["10.0.0.0/8", "::1"]"#),
            ("VESTIBULE_FEDERATION__SERVER_ADDRESSES", r#"{ "hs2:8448" = "127.0.1.2:8448" }"#),
            ("VESTIBULE_FEDERATION__SERVER_ADDRESSES__HS3", "127.0.1.3:8448"),
            ("VESTIBULE_RATE_LIMIT__KNOCKS_IN_ROOM__PER_SECOND", "5"),
            ("VESTIBULE_Storage__Cache", "1048576"),
            ("PATH", "/bin"),
        ],
        &[
            "rooms.default_version=10",
            "storage.min_free=\"1GiB\"",
            "rate_limit.knocks_by_user={ burst = 7 }",
            "federation.server_addresses.\"hs4:8448\"=[::1]:8448",
            "federation.denied_ip_ranges=[]",
            "well_known_client=https://hs1.example/a=b",
            "knock.auto_join_accepted=true",
        ],
    )
    .unwrap();
    assert_eq!(config.server_name, "hs1");
    assert!(config.registration.open);
    assert_eq!(config.registration.shared_secret.as_ref().unwrap().expose(), "4711");
    assert_eq!(config.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    let addresses: Vec<String> =
        config.federation.server_addresses.iter().map(|(name, address)| format!("{name}={address}")).collect();
    assert_eq!(addresses, ["hs2:8448=127.0.1.2:8448", "hs3=127.0.1.3:8448", "hs4:8448=[::1]:8448"]);
    assert_eq!(config.rate_limit.knocks_in_room, Bucket::new(5.0, 10));
    assert_eq!(config.rate_limit.knocks_by_user, Bucket::new(0.01, 7));
    assert_eq!(config.storage.cache.get(), 1 << 20);
    assert_eq!(config.storage.min_free.get(), 1 << 30);
    assert_eq!(config.rooms.default_version, RoomVersionId::V10);
    assert!(config.federation.denied_ip_ranges.is_empty());
    assert_eq!(config.well_known_client.as_deref(), Some("https://hs1.example/a=b"));
    assert!(config.knock.auto_join_accepted);
}

#[test]
fn a_new_value_replaces_a_map_of_the_users_own_keys() {
    let file = "[federation]\nserver_addresses = { a = \"127.0.0.1:1\" }";
    let config = load(file, &[], &["federation.server_addresses={ b = \"127.0.0.1:2\" }"]).unwrap();
    assert_eq!(config.federation.server_addresses.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn list_entries_go_by_number_and_one_may_be_added() {
    let config = load("", &[("VESTIBULE_LISTENER__0__ADDRESS", "127.0.0.1:0")], &["listener.1.tls=false"]).unwrap();
    assert_eq!(config.listener.len(), 3);
    assert_eq!(config.listener[0].address.to_string(), "127.0.0.1:0");
    assert_eq!(config.listener[0].serves, BTreeSet::from([Serves::Client]));
    assert!(!config.listener[1].tls);

    let config = load("", &[], &["listener.3.address=[::1]:0", "listener.3.serves=[\"admin\"]"]).unwrap();
    assert_eq!(config.listener[3].address.to_string(), "[::1]:0");

    let one = "[[listener]]\naddress = \"127.0.0.1:1\"\nserves = [\"client\"]";
    assert_eq!(load(one, &[], &[]).unwrap().listener.len(), 1);
    let config = load(
        one,
        &[
            ("VESTIBULE_LISTENER__1__SERVES__0", "admin"),
            ("VESTIBULE_LISTENER__1__SERVES", "[]"),
            ("VESTIBULE_LISTENER__1__ADDRESS", "127.0.0.1:2"),
        ],
        &[],
    );
    assert_eq!(config.unwrap().listener[1].serves, BTreeSet::from([Serves::Admin]));

    // An entry of a list that has a default changes that one and keeps the rest.
    let config = load("", &[], &["federation.denied_ip_ranges.0=1.0.0.0/8"]).unwrap();
    assert_eq!(config.federation.denied_ip_ranges.len(), Config::default().federation.denied_ip_ranges.len());
    assert_eq!(config.federation.denied_ip_ranges[0].to_string(), "1.0.0.0/8");

    for (set, key) in [
        ("listener.9.address=127.0.0.1:0", "listener.9"),
        ("listener.one.address=127.0.0.1:0", "listener.one"),
        ("listener.-1.address=127.0.0.1:0", "listener.-1"),
        ("listener.3.tls=true", "listener.3.address"),
    ] {
        let (named, message) = refusal("", &[], &[set]);
        assert_eq!(named, key, "{message}");
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v.toml");
    let listener = "[[listener]]\naddress = \"127.0.0.1:1\"\nserves = [\"client\"]\ntls = true\ntls_certificate = \"c.pem\"\ntls_private_key = \"/k.pem\"";
    fs::write(
        &file,
        format!(
            "{listener}\n[federation]\ntrusted_ca_files = [\"ca/a.pem\"]\n[registration]\nshared_secret_file = \"s\""
        ),
    )
    .unwrap();
    let config = load_file(&file, &[], &["data_dir=elsewhere"]).unwrap();
    assert_eq!(config.data_dir, dir.path().join("elsewhere"));
    assert_eq!(config.listener[0].tls_certificate.as_deref(), Some(dir.path().join("c.pem").as_path()));
    assert_eq!(config.listener[0].tls_private_key.as_deref(), Some(Path::new("/k.pem")));
    assert_eq!(config.federation.trusted_ca_files, [dir.path().join("ca/a.pem")]);
    assert_eq!(config.registration.shared_secret_file, Some(dir.path().join("s")));
    assert_eq!(load_file(&file, &[], &["data_dir=/abs"]).unwrap().data_dir, Path::new("/abs"));
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v.toml");
    assert!(matches!(load_file(&file, &[], &[]), Err(ConfigError::Unreadable { .. })));
    fs::write(&file, "server_name = \"a\"\n  [knock]\nrepeat_after = \"1h\n").unwrap();
    let error = load_file(&file, &[], &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { line: 3, .. }), "{error}");
    fs::write(&file, "[registration]\nshared_secret = \"hunter2\n").unwrap();
    assert!(!format!("{0} {0:?}", load_file(&file, &[], &[]).unwrap_err()).contains("hunter2"));
    fs::write(&file, [0xff]).unwrap();
    assert!(matches!(load_file(&file, &[], &[]), Err(ConfigError::Unreadable { .. })));
}

#[test]
fn the_shared_secret_comes_from_its_file_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v.toml");
    fs::write(&file, "[registration]\nshared_secret_file = \"secret\"").unwrap();
    assert_eq!(load_file(&file, &[], &[]).unwrap().registration.shared_secret, None);
    fs::write(dir.path().join("secret"), "hunter2\n").unwrap();
    let config = load_file(&file, &[], &[]).unwrap();
    assert_eq!(config.registration.shared_secret.as_ref().unwrap().expose(), "hunter2");
    assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
    fs::write(dir.path().join("secret"), " \n").unwrap();
    assert_eq!(load_file(&file, &[], &[]).unwrap_err().key(), Some("registration.shared_secret_file"));
    assert_eq!(
        load_file(&file, &[], &["registration.shared_secret=x"]).unwrap_err().key(),
        Some("registration.shared_secret_file")
    );
}

#[test]
fn every_bad_value_is_refused_by_its_key() {
    let listener = |lines: &str| format!("[[listener]]\naddress = \"127.0.0.1:1\"\nserves = [\"client\"]\n{lines}");
    let table: &[(&str, &str, &str)] = &[
        // file, key, part of the message
        ("sever_name = \"a\"", "sever_name", "server_name"),
        ("[knock]\nrepeat_afer = \"1h\"", "knock.repeat_afer", "repeat_after"),
        ("[kncok]", "kncok", "knock"),
        ("[rate_limit]\nknocks = { per_second = 1.0, burst = 1 }", "rate_limit.knocks", "knocks_in_room"),
        ("[rate_limit.knocks_in_room]\nbrust = 1", "rate_limit.knocks_in_room.brust", "burst"),
        ("server_name = \"not a name\"", "server_name", "server name"),
        ("server_name = \"\"", "server_name", ""),
        ("server_name = 5", "server_name", "string"),
        ("data_dir = 5", "data_dir", "path string"),
        ("trusted_proxies = [\"10.0.0.0/8\", \"10.0.0.0/99\"]", "trusted_proxies.1", "a network such as"),
        ("trusted_proxies = \"10.0.0.0/8\"", "trusted_proxies", "sequence"),
        ("well_known_client = \"matrix.org\"", "well_known_client", "https://"),
        ("well_known_client = \"https://\"", "well_known_client", "https://"),
        ("well_known_client = \"javascript://x\"", "well_known_client", "https://"),
        ("well_known_client = \"https://a.example/\\\"x\"", "well_known_client", "https://"),
        ("well_known_server = \"https://a\"", "well_known_server", "server name"),
        ("listener = []", "listener", "at least one"),
        ("listener = 5", "listener", "sequence"),
        ("[[listener]]\nserves = [\"client\"]", "listener.0.address", "required"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"", "listener.0.serves", "required"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"\nserves = []", "listener.0.serves", "admin"),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\nserves = [\"client\", \"web\"]",
            "listener.0.serves.1",
            "federation",
        ),
        ("[[listener]]\naddress = \"127.0.0.1\"\nserves = [\"client\"]", "listener.0.address", "socket address"),
        ("[[listener]]\naddress = \"127.0.0.1:99999\"\nserves = [\"client\"]", "listener.0.address", "socket address"),
        (&listener("tsl = true"), "listener.0.tsl", "tls"),
        (&listener("tls = \"yes\""), "listener.0.tls", "boolean"),
        (&listener("tls = true\ntls_certificate = \"c\""), "listener.0.tls_private_key", "required"),
        (&listener("tls = true\ntls_private_key = \"k\""), "listener.0.tls_certificate", "required"),
        (&listener("tls_certificate = \"c\"\ntls_private_key = \"k\""), "listener.0.tls", "true"),
        (&format!("{}{}", listener(""), listener("")), "listener.1.address", "listener.0"),
        ("[registration]\nopen = 1", "registration.open", "boolean"),
        ("[registration]\nshared_secret = \"\"", "registration.shared_secret", "not empty"),
        ("[registration]\nshared_secret = 1", "registration.shared_secret", "string"),
        (
            "[registration]\nshared_secret = \"a\"\nshared_secret_file = \"b\"",
            "registration.shared_secret_file",
            "not both",
        ),
        ("[federation]\ndenied_ip_ranges = [\"localhost\"]", "federation.denied_ip_ranges.0", "a network such as"),
        ("[federation]\nallowed_ip_ranges = [7]", "federation.allowed_ip_ranges.0", "string"),
        (
            "[federation]\nserver_addresses = { hs1 = \"hs1:8448\" }",
            "federation.server_addresses.hs1",
            "socket address",
        ),
        ("[federation]\nserver_addresses = { hs1 = \"127.0.0.1:0\" }", "federation.server_addresses.\"hs1\"", "port"),
        (
            "[federation]\nserver_addresses = { \"h s\" = \"127.0.0.1:1\" }",
            "federation.server_addresses.\"h s\"",
            "server name",
        ),
        ("[federation]\ndenied_servers = [\"*.evil.org\", \"\"]", "federation.denied_servers.1", "glob"),
        ("[federation]\ndenied_servers = [\"evil org\"]", "federation.denied_servers.0", "glob"),
        ("[federation]\nbanned_keys = [\"AAAA\"]", "federation.banned_keys.0", "32-byte"),
        ("[federation]\nnotaries = [\"a b\"]", "federation.notaries.0", "server name"),
        ("[federation]\nnotaries = [\"localhost:8448\"]", "federation.notaries.0", "itself"),
        ("[federation]\nrequest_timeout = \"0s\"", "federation.request_timeout", "above zero"),
        ("[federation]\nrequest_timeout = 20", "federation.request_timeout", "duration"),
        ("[federation]\nretry_backoff_min = \"0s\"", "federation.retry_backoff_min", "above zero"),
        ("[federation]\nretry_backoff_max = \"1m\"", "federation.retry_backoff_max", "retry_backoff_min"),
        ("[rooms]\ndefault_version = \"5\"", "rooms.default_version", "6, 7, 8, 9, 10, 11, 12"),
        ("[rooms]\ndefault_version = \"13\"", "rooms.default_version", "6, 7"),
        ("[rooms]\ndefault_version = 12", "rooms.default_version", "string"),
        ("[knock]\nrepeat_after = \"soon\"", "knock.repeat_after", "duration"),
        ("[knock]\nrepeat_after = 3600", "knock.repeat_after", "duration"),
        ("[knock]\nmax_pending_per_room = -1", "knock.max_pending_per_room", "u32"),
        ("[knock]\nreason_bytes_max = \"much\"", "knock.reason_bytes_max", "usize"),
        ("[actors]\nmailbox_capacity = 0", "actors.mailbox_capacity", "at least 1"),
        ("[actors]\nlive_max = 0", "actors.live_max", "at least 1"),
        ("[actors]\nidle_timeout = \"0s\"", "actors.idle_timeout", "above zero"),
        ("[storage]\ncache = \"64MB\"", "storage.cache", "64KiB"),
        ("[storage]\ncache = -1", "storage.cache", "64KiB"),
        ("[storage]\ncache = \"1KiB\"", "storage.cache", "1MiB"),
        ("[storage]\nmin_free = true", "storage.min_free", "64KiB"),
        ("[rate_limit]\nenabled = \"no\"", "rate_limit.enabled", "boolean"),
        ("[rate_limit]\nknocks_in_room = 5", "rate_limit.knocks_in_room", "burst = 10"),
        ("[rate_limit]\nknocks_in_room = { per_second = 0.0 }", "rate_limit.knocks_in_room.per_second", "above 0"),
        ("[rate_limit]\nknocks_in_room = { per_second = nan }", "rate_limit.knocks_in_room.per_second", "above 0"),
        ("[rate_limit]\nknocks_in_room = { per_second = inf }", "rate_limit.knocks_in_room.per_second", "above 0"),
        ("[rate_limit]\nlogins_by_address = { burst = 0 }", "rate_limit.logins_by_address.burst", "1 to"),
        ("knock = 5", "knock", "a table"),
    ];
    for (text, key, part) in table {
        let (named, message) = refusal(text, &[], &[]);
        assert_eq!(named, *key, "{text}: {message}");
        assert!(message.contains(key) && message.contains(part), "{text}: {message}");
    }
}

#[test]
fn blanks_round_the_equals_sign_make_no_text_of_a_value() {
    let config = load("", &[("VESTIBULE_ACTORS__LIVE_MAX", " 7 ")], &["knock.auto_join_accepted = true "]).unwrap();
    assert!(config.knock.auto_join_accepted);
    assert_eq!(config.actors.live_max, 7);
    // Nor do they become a part of what is meant as text.
    let config = load("", &[], &["rooms.default_version = 11 "]).unwrap();
    assert_eq!(config.rooms.default_version.as_str(), "11");
}

#[test]
fn a_refused_override_names_its_key_and_its_origin() {
    type Row = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str, &'static str);
    // variables, --set, key, part of the message
    let table: &[Row] = &[
        (
            &[("VESTIBULE_KNOCK__REPEAT_AFTR", "1h")],
            &[],
            "knock.repeat_aftr",
            "environment variable VESTIBULE_KNOCK__REPEAT_AFTR",
        ),
        (&[("VESTIBULE_LOG", "info")], &[], "log", "environment variable VESTIBULE_LOG"),
        (
            &[("VESTIBULE_KNOCK__REPEAT_AFTER", "soon")],
            &[],
            "knock.repeat_after",
            "environment variable VESTIBULE_KNOCK__REPEAT_AFTER",
        ),
        (&[("VESTIBULE_KNOCK__REPEAT_AFTER", "7")], &[], "knock.repeat_after", "duration"),
        (
            &[("VESTIBULE_KNOCK__REPEAT_AFTER", "1h")],
            &["knock.repeat_after=never"],
            "knock.repeat_after",
            "set by --set",
        ),
        (&[], &["server_name.a.b=1"], "server_name", "string"),
        (&[], &["no_such.key=1"], "no_such", "set by --set"),
        (&[], &["listener=[]"], "listener", "at least one"),
        (&[], &["rooms.default_version=5"], "rooms.default_version", "not hosted"),
    ];
    for (variables, set, key, part) in table {
        let (named, message) = refusal("", variables, set);
        assert_eq!(named, *key, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let (_, message) = refusal("[knock]\nrepeat_after = 1", &[], &[]);
    assert!(message.contains("v.toml"), "{message}");
}

#[test]
fn overrides_that_are_no_overrides_are_refused() {
    for set in [
        "knock.repeat_after",
        "",
        "=1",
        "a b=1",
        "knock..x=1",
        "[knock]\nx=1",
        "a\nb=1",
        "a=1 #\nb=2",
        "federation.server_addresses.hs1:8448=x",
    ] {
        let error = load("", &[], &[set]).unwrap_err();
        let names_set = matches!(error, ConfigError::BadSet { .. })
            || matches!(&error, ConfigError::Key { set_by: Some(SetBy::Argument), .. });
        assert!(names_set, "{set:?}: {error}");
    }
    for name in ["VESTIBULE_", "VESTIBULE___A", "VESTIBULE_KNOCK__", "VESTIBULE_KNOCK____X"] {
        let error = load("", &[(name, "1")], &[]).unwrap_err();
        assert!(matches!(error, ConfigError::BadVariable { .. }) && error.to_string().contains(name), "{error}");
    }
    // The value may be a secret, so it is not repeated.
    assert!(!load("", &[], &["a b=hunter2"]).unwrap_err().to_string().contains("hunter2"));
    let wrong_place = load("", &[], &["registration.shared_secret.x=hunter2"]).unwrap_err().to_string();
    assert!(!wrong_place.contains("hunter2"), "{wrong_place}");
}
