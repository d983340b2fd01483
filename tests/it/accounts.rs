//! Accounts, sessions and passwords.
//! May not: find a secret in anything that the server writes.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestServer};

/// Every file below a directory, whole.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn passwords_and_tokens_are_in_no_file_and_no_log() {
    let mut server = TestServer::new().variable("RUST_LOG", "trace,sled=warn").start();
    let anna = server.register("anna");
    let second = server.log_in("anna", PASSWORD);
    server.try_log_in("anna", "not the pass phrase").refused(403, "M_FORBIDDEN");
    let room_id = anna.create_room(json!({}));
    second.say(&room_id, "1", "hello");
    server.totals();
    let admin_token = server.admin_token();
    let seed = fs::read_to_string(server.data_dir().join("signing_key")).unwrap();
    let seed = seed.split_whitespace().nth(2).unwrap().to_owned();
    server.stop();
    let log = server.log();
    for secret in [PASSWORD, "not the pass phrase", &anna.token, &second.token, &admin_token, &seed] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
    let files = contents(&server.data_dir());
    let hash = b"$argon2id$";
    let is_hashed = |content: &[u8]| content.windows(hash.len()).any(|window| window == hash);
    assert!(
        files.iter().any(|(name, content)| name.contains("journal/") && is_hashed(content)),
        "what was looked through is kept"
    );
    for (name, content) in files {
        for secret in [PASSWORD, "not the pass phrase", &anna.token, &second.token] {
            let is_there = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} in {name}");
        }
    }
}

#[test]
fn sessions_end_with_log_out_and_only_then() {
    let mut server = TestServer::started();
    let first = server.register("anna");
    let (second, third) = (server.log_in("anna", PASSWORD), server.log_in("@anna:vestibule.test", PASSWORD));
    let sessions = [&first, &second, &third];
    for session in sessions {
        let whoami = session.get("/account/whoami");
        assert_eq!(whoami["user_id"], "@anna:vestibule.test");
        assert_eq!(whoami["device_id"], json!(session.device_id));
        assert!(session.token.len() >= 22, "128 bits");
    }
    assert!(
        sessions.iter().enumerate().all(|(place, one)| sessions[..place].iter().all(|other| other.token != one.token))
    );
    server.kill();
    server.restart();
    first.post("/logout", json!({}));
    first.try_get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    second.get("/account/whoami");
    third.post("/logout/all", json!({}));
    server.kill();
    server.restart();
    for session in sessions {
        session.try_get("/sync").refused(401, "M_UNKNOWN_TOKEN");
        session.try_post("/createRoom", json!({})).refused(401, "M_UNKNOWN_TOKEN");
    }
    let client = server.client();
    let whoami = "/_matrix/client/v3/account/whoami";
    client.get(whoami).refused(401, "M_MISSING_TOKEN");
    assert_eq!(client.ask("GET", whoami, &[("Authorization", "Bearer ")], None).status, 401);
    server.log_in("anna", PASSWORD).get("/account/whoami");
}

#[test]
fn registration_takes_a_name_once_and_its_password_stays() {
    let server = TestServer::started();
    let register = |body: Value| {
        let body = body.to_string();
        server.client().ask("POST", "/_matrix/client/v3/register", &[], Some(body.as_bytes()))
    };
    let dummy = json!({ "type": "m.login.dummy" });
    let todo = register(json!({ "username": "anna", "password": PASSWORD }));
    assert_eq!(todo.status, 401);
    assert_eq!(todo.json()["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    server.register("anna");
    for auth in [Some(&dummy), None] {
        let mut body = json!({ "username": "anna", "password": "another pass phrase" });
        if let Some(auth) = auth {
            body["auth"] = auth.clone();
        }
        register(body).refused(400, "M_USER_IN_USE");
    }
    server.log_in("anna", PASSWORD);
    server.try_log_in("anna", "another pass phrase").refused(403, "M_FORBIDDEN");
    server.try_log_in("nobody", PASSWORD).refused(403, "M_FORBIDDEN");
    for name in ["@x:other.test", "Anna", "an na", "_bridge"] {
        assert_eq!(register(json!({ "username": name, "password": PASSWORD, "auth": dummy })).status, 400, "{name}");
    }
    register(json!({ "username": "ben", "password": "", "auth": dummy })).refused(400, "M_WEAK_PASSWORD");
    let available = server.client().get("/_matrix/client/v3/register/available?username=ben");
    assert_eq!(available.ok()["available"], true);
    let taken = server.client().get("/_matrix/client/v3/register/available?username=anna");
    taken.refused(400, "M_USER_IN_USE");
}

#[test]
fn the_shared_secret_makes_accounts_and_admins() {
    let server = TestServer::new()
        .set("registration.open", "false")
        .set("registration.shared_secret_file", "\"shared_secret\"")
        .start();
    let secret = fs::read_to_string(server.home().join("shared_secret")).unwrap();
    let path = "/_synapse/admin/v1/register";
    let nonce = || server.client().get(path).ok()["nonce"].as_str().unwrap().to_owned();
    let register = |nonce: &str, name: &str, is_admin: bool, secret: &str| {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.trim().as_bytes()).unwrap();
        let role = if is_admin { "admin" } else { "notadmin" };
        mac.update([nonce, name, PASSWORD, role].join("\0").as_bytes());
        let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({ "nonce": nonce, "username": name, "password": PASSWORD, "admin": is_admin, "mac": mac });
        server.client().ask("POST", path, &[], Some(body.to_string().as_bytes()))
    };
    let drawn = nonce();
    register(&drawn, "boss", true, &secret).ok();
    assert_ne!(register(&drawn, "ben", false, &secret).status, 200, "a nonce counts once");
    assert_eq!(register(&nonce(), "eve", true, "guessed").status, 403);
    register(&nonce(), "anna", false, &secret).ok();
    let stats = |name: &str| {
        let bearer = format!("Bearer {}", server.log_in(name, PASSWORD).token);
        server.admin().ask("GET", "/_vestibule/admin/v1/actors", &[("Authorization", &bearer)], None).status
    };
    assert_eq!((stats("boss"), stats("anna")), (200, 403));
    let dummy = json!({ "username": "x", "password": PASSWORD, "auth": { "type": "m.login.dummy" } }).to_string();
    let open = server.client().ask("POST", "/_matrix/client/v3/register", &[], Some(dummy.as_bytes()));
    open.refused(403, "M_FORBIDDEN");
}

#[test]
fn guessing_passwords_is_slowed_down_for_one_account_and_not_for_others() {
    let server = TestServer::new().set("rate_limit.enabled", "true").start();
    server.register("anna");
    server.register("ben");
    let answers: Vec<u16> = (0..7).map(|_| server.try_log_in("anna", "guess").status).collect();
    assert_eq!(answers[..5], [403; 5], "{answers:?}");
    let limited = server.try_log_in("anna", "guess");
    assert!(limited.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].as_u64().unwrap() > 0);
    assert_eq!(server.try_log_in("ben", PASSWORD).status, 200);
}

#[test]
fn profiles_and_account_data_are_kept() {
    let mut server = TestServer::started();
    let (anna, ben) = (server.register("anna"), server.register("ben"));
    let profile = "/profile/@anna:vestibule.test";
    anna.put(&format!("{profile}/displayname"), json!({ "displayname": "Anna" }));
    ben.try_put(&format!("{profile}/displayname"), json!({ "displayname": "Eve" })).refused(403, "M_FORBIDDEN");
    let data = json!({ "theme": BASE64_URL_SAFE_NO_PAD.encode("dark") });
    anna.put("/user/@anna:vestibule.test/account_data/org.example.theme", data.clone());
    let own = "/user/@anna:vestibule.test/account_data/org.example.theme";
    ben.try_get(own).refused(403, "M_FORBIDDEN");
    server.kill();
    server.restart();
    assert_eq!(server.client().get(&format!("/_matrix/client/v3{profile}")).ok()["displayname"], "Anna");
    assert_eq!(anna.get(own), data);
    let told = anna.sync("timeout=0")["account_data"]["events"].clone();
    assert!(told.as_array().unwrap().iter().any(|event| event["content"] == data), "{told}");
    anna.get("/pushrules/");
}

#[test]
fn who_deactivates_is_out_of_every_room_first_and_does_not_come_back() {
    let mut server = TestServer::started();
    let owner = server.register("owner");
    let anna = server.register("anna");
    let joined = owner.create_room(json!({ "invite": [&anna.user_id] }));
    anna.join(&joined);
    let invited = owner.create_room(json!({ "invite": [&anna.user_id] }));
    let knocked = owner.knockable_room("12");
    anna.try_knock(&knocked, "please").ok();

    let asked = anna.try_post("/account/deactivate", json!({}));
    assert_eq!(asked.status, 401, "{asked:?}");
    let session = asked.json()["session"].as_str().unwrap().to_owned();
    assert_eq!(asked.json()["flows"], json!([{ "stages": ["m.login.password"] }]));
    let proof = |password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": anna.user_id });
        json!({ "auth": { "type": "m.login.password", "session": session, "identifier": identifier, "password": password } })
    };
    let wrong = anna.try_post("/account/deactivate", proof("not the pass phrase"));
    assert_eq!((wrong.status, &wrong.json()["errcode"]), (401, &json!("M_FORBIDDEN")));
    for (room_id, membership) in [(&joined, "join"), (&invited, "invite"), (&knocked, "knock")] {
        assert_eq!(owner.membership(room_id, &anna.user_id).as_deref(), Some(membership));
    }

    let done = anna.try_post("/account/deactivate", proof(PASSWORD)).ok();
    assert_eq!(done, json!({ "id_server_unbind_result": "no-support" }));
    for room_id in [&joined, &invited, &knocked] {
        assert_eq!(owner.membership(room_id, &anna.user_id).as_deref(), Some("leave"));
    }
    assert!(owner.members(&knocked, "?membership=knock").is_empty());
    anna.try_get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    server.try_log_in("anna", PASSWORD).refused(403, "M_USER_DEACTIVATED");
    let again = json!({ "user_id": anna.user_id });
    owner.try_in_room(&joined, "invite", again).refused(404, "M_NOT_FOUND");
    server.kill();
    server.restart();
    server.try_log_in("anna", PASSWORD).refused(403, "M_USER_DEACTIVATED");
}
