//! Media and pages, where others had them: nothing of it is here, so nothing of it may be done.
//! May not: take a refusal for enough; nobody is asked, and nothing is written.

use std::{collections::BTreeSet, fs};

use crate::support::{Canary, TestServer};

/// Paths at which servers give out what others made. The server that should have it is `PEER`.
const DOWNLOADS: [&str; 8] = [
    "/_matrix/media/v3/download/PEER/abc",
    "/_matrix/media/r0/download/PEER/abc?allow_remote=true",
    "/_matrix/media/v3/thumbnail/PEER/abc?width=1000000&height=1000000&method=scale",
    "/_matrix/client/v1/media/download/PEER/abc",
    "/_matrix/client/v1/media/thumbnail/PEER/abc?width=32&height=32",
    "/_matrix/media/v3/preview_url?url=http%3A%2F%2FPEER%2F",
    "/_matrix/client/v1/media/preview_url?url=http%3A%2F%2FPEER%2F",
    "/_matrix/federation/v1/media/download/abc",
];

/// Ids that would lead out of a directory.
const ASTRAY: [&str; 6] =
    ["..%2f..%2fastray", "../../astray", "%2e%2e%2fastray", "..%5castray", "astray%00", "%2fetc%2fastray"];

#[test]
fn cve_2021_41281_cve_2024_37302_cve_2024_37303_nobody_has_us_fetch_or_keep_anything() {
    let canary = Canary::on("127.0.0.1");
    let place = format!("127.0.0.1:{}", canary.port);
    let server =
        TestServer::new().set("federation.server_addresses", &format!("{{ \"media.test\" = {place:?} }}")).start();
    let anna = server.register("anna");
    let bearer = format!("Bearer {}", anna.token);
    let names =
        || -> BTreeSet<_> { fs::read_dir(server.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    let before = names();
    let mut targets: Vec<String> =
        DOWNLOADS.iter().flat_map(|path| ["media.test", &place].map(|peer| path.replace("PEER", peer))).collect();
    for id in ASTRAY {
        targets.push(format!("/_matrix/media/v3/download/vestibule.test/{id}"));
        targets.push(format!("/_matrix/media/v3/download/{id}/abc"));
        targets.push(format!("/_matrix/media/v3/upload?filename={id}"));
    }
    for target in targets {
        for door in [server.client(), server.federation()] {
            for headers in [&[][..], &[("Authorization", bearer.as_str())][..]] {
                for (method, body) in [("GET", None), ("POST", Some(&b"astray"[..]))] {
                    let answer = door.ask(method, &target, headers, body);
                    answer.refused(404, "M_UNRECOGNIZED");
                }
            }
        }
        canary.assert_alone(&target);
    }
    assert_eq!(names(), before);
}

#[test]
fn cve_2020_26891_no_page_of_ours_runs_what_others_wrote_or_stands_in_a_frame() {
    let server = TestServer::started();
    let anna = server.register("anna");
    let script = "<script>alert(1)</script>";
    let room_id = anna.room_with_rule("11", serde_json::json!({ "join_rule": "public" }), &[]);
    anna.set_state(&room_id, "m.room.name", "", serde_json::json!({ "name": script }));
    for target in [
        "/",
        "/desk",
        "/desk/",
        "/_matrix/client/versions",
        "/_matrix/client/v3/publicRooms",
        "/_matrix/client/v3/login/sso/redirect?redirectUrl=javascript:alert(1)",
        "/_matrix/client/v3/%3Cscript%3Ealert(1)%3C/script%3E",
    ] {
        let answer = server.client().get(target);
        let kind = answer.header("content-type").unwrap_or_default();
        if !kind.starts_with("text/html") {
            assert!(kind == "application/json" || answer.body.is_empty(), "{target}: {kind}: {}", answer.text());
            continue;
        }
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("frame-ancestors 'none'"), "{target}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert!(!answer.text().contains(script), "{target}");
    }
}

#[test]
fn actix_files_0_6_10_a_range_of_nothing_is_no_range() {
    let server = TestServer::started();
    for range in ["", "bytes=", "bytes=-", "bytes=5-1", "bytes=99999999999999999999-", "x"] {
        for target in ["/_matrix/client/versions", "/desk", "/desk/../../etc/passwd"] {
            let answer = server.client().ask("GET", target, &[("Range", range)], None);
            assert!([200, 404, 416].contains(&answer.status), "{target} {range:?}: {}", answer.status);
            assert!(!answer.text().contains("root:"), "{target}");
        }
    }
    server.client().get("/_matrix/client/versions").ok();
}
