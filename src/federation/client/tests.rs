use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use ruma::{
    RoomVersionId,
    api::{error::ErrorCode, federation::authentication::XMatrix},
    serde::Base64,
    signatures::PublicKeyMap,
};

use super::{Client, Limits, Refusal, RemoteError, Reply, ServerRequest};
use crate::{
    discovery::{Discovery, DiscoveryError, Resolver, SystemResolver},
    egress::{EgressError, Transport},
    testing::{
        Authority, Canary, ScriptedResolver, ScriptedTransport, TestClock, TlsPeer, http_reply, identity, name,
        response,
    },
};

const LIMITS: Limits = Limits { reply_bytes_max: 1000, deadline: Duration::from_secs(20) };

fn client(resolver: impl Resolver + 'static, transport: Arc<dyn Transport>) -> Client {
    let discovery = Discovery::new(
        Arc::new(resolver),
        Arc::clone(&transport),
        [].into(),
        Arc::new(TestClock::default()),
        Arc::new(|| 0),
    );
    Client::new(Arc::new(identity("hs1", "a", 1)), discovery, transport)
}

async fn ask(transport: Arc<ScriptedTransport>, request: ServerRequest) -> Result<super::Reply, RemoteError> {
    client(ScriptedResolver::default(), transport).request(&name("1.1.1.1"), request, LIMITS).await
}

#[tokio::test]
async fn a_signed_request_verifies_over_its_exact_target_and_body() {
    let authority = Authority::new();
    let peer = TlsPeer::start("127.0.0.2", authority.acceptor(&["hs2"]), |head, tls| {
        Box::pin(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let has_body = head.starts_with("PUT");
            let mut body = [0; BODY.len()];
            if has_body && tls.read_exact(&mut body).await.is_err() {
                return false;
            }
            assert!(!has_body || body == *BODY.as_bytes());
            tls.write_all(&http_reply("{}")).await.is_ok()
        })
    })
    .await;
    const BODY: &str = r#"{"b":9007199254740991,"a":["ä\n"]}"#;
    let resolver = ScriptedResolver::default().address("hs2", "127.0.0.2");
    let client = client(resolver, Arc::new(authority.egress()));
    let destination = name(&format!("hs2:{}", peer.address.port()));
    let target = "/_matrix/federation/v1/send_knock/%21r%3Ahs2/$e?ver=10&ver=a%2Fb";
    client.request(&destination, ServerRequest::put(target, BODY), LIMITS).await.unwrap();
    client.request(&destination, ServerRequest::get(target), LIMITS).await.unwrap();
    client.request(&destination, ServerRequest::get(target).anonymous(), LIMITS).await.unwrap();

    let heads = peer.heads.lock().unwrap().clone();
    assert!(!heads[2].to_ascii_lowercase().contains("\r\nauthorization:"), "{}", heads[2]);
    let us = identity("hs1", "a", 1);
    let set = [("ed25519:a".to_owned(), Base64::new(us.key().public_key().to_vec()))];
    let keys = PublicKeyMap::from([("hs1".to_owned(), set.into())]);
    for (head, method, body) in [(&heads[0], "PUT", BODY), (&heads[1], "GET", "")] {
        assert!(head.starts_with(&format!("{method} {target} HTTP/1.1\r\n")), "{head}");
        let header = head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case("authorization")))
            .map(|(_, value)| value)
            .unwrap();
        let form = format!(r#"X-Matrix origin="hs1",destination="{destination}",key="ed25519:a",sig=""#);
        assert!(header.starts_with(&form), "{header}");
        assert!(header.ends_with('"'), "{header}");
        let received = Request::builder().method(method).uri(target).body(body.as_bytes()).unwrap();
        let parsed = XMatrix::parse(header).unwrap();
        parsed.verify_http_request(&received, &destination, &keys).unwrap();
        parsed.verify_http_request(&received, &name("hs3"), &keys).unwrap_err();
    }
}

#[tokio::test]
async fn refusals_carry_their_facts_and_no_more_than_a_bit_of_text() {
    let long = "x".repeat(5000);
    let body = format!(r#"{{"errcode":"M_FORBIDDEN","error":"{long}","retry_after_ms":1500}}"#);
    let transport = ScriptedTransport::new(move |_, _| {
        let body = body.clone();
        Box::pin(async move { response(403, &[], &body) })
    });
    let error = ask(transport, ServerRequest::get("/_matrix/x")).await.unwrap_err();
    let RemoteError::Refused(refusal) = error else { panic!("{error:?}") };
    assert_eq!(refusal.status, 403);
    assert_eq!(refusal.errcode, Some(ErrorCode::Forbidden));
    assert_eq!(refusal.error.len(), 256);
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(1500)));

    for (status, headers, wait_s) in
        [(429, vec![("Retry-After", "7")], Some(7)), (302, vec![("Location", "https://e/")], None)]
    {
        let transport = ScriptedTransport::new(move |_, _| {
            let headers = headers.clone();
            Box::pin(async move { response(status, &headers, "<html>") })
        });
        let error = ask(Arc::clone(&transport), ServerRequest::get("/_matrix/x")).await.unwrap_err();
        let RemoteError::Refused(refusal) = error else { panic!("{error:?}") };
        assert_eq!((refusal.status.as_u16(), refusal.errcode), (status, None));
        assert_eq!(refusal.retry_after, wait_s.map(Duration::from_secs));
        assert_eq!(transport.asked().len(), 1, "a redirect was followed");
    }
}

#[test]
fn only_a_servers_own_word_about_the_request_ends_it() {
    let cases = [
        (403, r#"{"errcode":"M_FORBIDDEN"}"#, true),
        (404, r#"{"errcode":"M_NOT_FOUND"}"#, true),
        (400, r#"{"errcode":"M_BAD_JSON"}"#, true),
        (413, "<html>", true),
        (403, "<html>", false),
        (400, "<html>", false),
        (404, "<html>", false),
        (404, r#"{"errcode":"M_UNRECOGNIZED"}"#, false),
        (401, r#"{"errcode":"M_UNAUTHORIZED"}"#, false),
        (429, r#"{"errcode":"M_LIMIT_EXCEEDED"}"#, false),
        (502, r#"{"errcode":"M_UNKNOWN"}"#, false),
    ];
    for (status, body, is_final) in cases {
        let status = StatusCode::from_u16(status).unwrap();
        let error = RemoteError::Refused(Box::new(Refusal::read(status, &HeaderMap::new(), body.as_bytes())));
        assert_eq!(error.is_about_the_request(), is_final, "{status} {body}");
    }
}

#[test]
fn an_error_is_read_as_far_as_it_can_be_and_not_when_it_is_as_long_as_a_room() {
    let read = |body: &str| Refusal::read(StatusCode::NOT_FOUND, &HeaderMap::new(), body.as_bytes());
    let odd = read(r#"{"errcode":"M_NOT_FOUND","error":5,"retry_after_ms":1.5,"room_version":[]}"#);
    assert_eq!((odd.errcode, odd.error.as_str(), odd.retry_after), (Some(ErrorCode::NotFound), "", None));
    let odd = read(r#"{"errcode":[],"error":"gone","retry_after_ms":7,"room_version":"11"}"#);
    assert_eq!((odd.errcode, odd.error.as_str(), odd.room_version), (None, "gone", Some(RoomVersionId::V11)));
    assert_eq!(odd.retry_after, Some(Duration::from_millis(7)));
    let dense =
        |count: usize| format!(r#"{{"errcode":"M_NOT_FOUND","room_version":[{}{{}}]}}"#, r#"{"":0},"#.repeat(count));
    assert_eq!(read(&dense(9_000)).errcode, Some(ErrorCode::NotFound));
    assert_eq!(read(&dense(10_000)).errcode, None);
}

#[test]
fn a_reply_that_is_little_but_braces_is_not_read() {
    let reply = |count: usize, filling: usize| Reply {
        status: StatusCode::OK,
        body: format!(r#"{{"":"{}","a":[{}0]}}"#, "x".repeat(filling), r#"{"":0},"#.repeat(count)).into(),
    };
    for (count, filling, is_read) in [(9_000, 0, true), (10_000, 0, false), (10_000, 240_000, true)] {
        let outcome = reply(count, filling).json::<serde_json::Value>();
        assert_eq!(outcome.is_ok(), is_read, "{count} {filling}");
    }
}

#[tokio::test]
async fn every_failure_of_the_way_is_its_own_fact() {
    let cases = [
        (EgressError::AddressDenied, RemoteError::AddressDenied),
        (EgressError::PortDenied { port: 25 }, RemoteError::AddressDenied),
        (EgressError::Timeout, RemoteError::Timeout),
        (
            EgressError::ReplyTooLarge { bytes_max: 5, status: http::StatusCode::OK },
            RemoteError::ReplyTooLarge { bytes_max: 5, status: http::StatusCode::OK },
        ),
        (EgressError::Tls { detail: "t".into() }, RemoteError::Tls { detail: "t".into() }),
        (EgressError::Connect { detail: "c".into() }, RemoteError::Connect { detail: "c".into() }),
        (EgressError::Broken { detail: "b".into() }, RemoteError::Broken { detail: "b".into() }),
    ];
    for (egress, expected) in cases {
        let transport = ScriptedTransport::new(move |_, _| {
            let egress = egress.clone();
            Box::pin(async move { Err(egress) })
        });
        assert_eq!(ask(transport, ServerRequest::get("/")).await.unwrap_err(), expected);
    }
    let nowhere = client(ScriptedResolver::default(), ScriptedTransport::silent())
        .request(&name("nowhere.example"), ServerRequest::get("/"), LIMITS)
        .await;
    assert!(matches!(nowhere, Err(RemoteError::NoAddress(_))), "{nowhere:?}");
}

#[tokio::test]
async fn replies_that_are_not_the_json_they_must_be_are_told_apart() {
    // A compressed body stays compressed: it is just not JSON.
    for body in ["", "<html>", "\u{1f}\u{8b}", "[]", r#"{"a":1.5}"#, r#"{"a":1,"a":2}"#] {
        let transport = ScriptedTransport::new(move |_, _| {
            Box::pin(async move { response(200, &[("Content-Encoding", "gzip")], body) })
        });
        let reply = ask(transport, ServerRequest::get("/")).await.unwrap();
        let outcome = reply.canonical_object();
        assert!(matches!(outcome, Err(RemoteError::NotJson { .. })), "{body}: {outcome:?}");
    }
    let transport = ScriptedTransport::new(|_, _| Box::pin(async { response(200, &[], r#"{"a":1}"#) }));
    let reply = ask(transport, ServerRequest::get("/")).await.unwrap();
    assert_eq!(reply.json::<std::collections::BTreeMap<String, u8>>().unwrap()["a"], 1);
    assert_eq!(reply.canonical_object().unwrap().len(), 1);
}

#[tokio::test]
async fn unfit_requests_never_leave() {
    let transport = ScriptedTransport::silent();
    let client = client(ScriptedResolver::default(), transport.clone());
    let cases = [
        ("hs1", ServerRequest::get("/_matrix/x")),
        ("1.1.1.1", ServerRequest::get("/_matrix/x#fragment")),
        ("1.1.1.1", ServerRequest::get("/_matrix/x y")),
        ("1.1.1.1", ServerRequest::get("https://evil/_matrix/x")),
        ("1.1.1.1", ServerRequest::put("/_matrix/x", Bytes::from_static(b"{\"a\":1.5}"))),
        ("1.1.1.1", ServerRequest::put("/_matrix/x", Bytes::from_static(b"{"))),
    ];
    for (destination, request) in cases {
        let target = request.path_and_query.clone();
        let outcome = client.request(&name(destination), request, LIMITS).await;
        assert!(
            matches!(outcome, Err(RemoteError::DestinationIsUs | RemoteError::UnfitRequest { .. })),
            "{target}: {outcome:?}"
        );
    }
    assert_eq!(transport.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_discovery_and_reply_together() {
    let stuck = ScriptedTransport::new(|_, _| Box::pin(std::future::pending()));
    let client = client(ScriptedResolver::default().address("hs2", "1.1.1.1"), stuck);
    let began = tokio::time::Instant::now();
    let outcome = client.request(&name("hs2"), ServerRequest::get("/"), LIMITS).await;
    assert_eq!(outcome.unwrap_err(), RemoteError::Timeout);
    assert_eq!(began.elapsed(), LIMITS.deadline);
}

#[tokio::test]
async fn no_form_of_a_name_reaches_a_denied_address() {
    // V58 and V59: literals, disguises, names, and shapes that a system resolver takes for addresses.
    let authority = Authority::new();
    let canary = Canary::listen("127.0.0.99").await;
    let port = canary.address.port();
    let egress: Arc<dyn Transport> = Arc::new(authority.egress());
    let resolver = ScriptedResolver::default()
        .address("evil.example", "127.0.0.99")
        .address("both.example", "127.0.0.99")
        .address("both.example", "::ffff:127.0.0.99")
        .service("_matrix-fed._tcp.srv.example", 0, "evil.example", port)
        .service("_matrix._tcp.old-srv.example", 0, "evil.example", port);
    let scripted = client(resolver, Arc::clone(&egress));
    let hosts = [
        "127.0.0.99",
        "[::ffff:127.0.0.99]",
        "[::ffff:7f00:63]",
        "[64:ff9b::7f00:63]",
        "[2002:7f00:63::]",
        "[::7f00:63]",
        "evil.example",
        "both.example",
    ];
    let limits = Limits { deadline: Duration::from_secs(2), ..LIMITS };
    let names = hosts.iter().map(|host| format!("{host}:{port}"));
    for destination in names.chain(["srv.example".to_owned(), "old-srv.example".to_owned()]) {
        let outcome = scripted.request(&name(&destination), ServerRequest::get("/"), limits).await;
        assert_eq!(outcome.unwrap_err(), RemoteError::AddressDenied, "{destination}");
    }
    // Shapes that a system's resolver takes for addresses; ours must not even be asked.
    for host in ["0x7f.99", "2130706531", "127.99", "0177.0.0.99", "127.0.0.99."] {
        let destination = name(&format!("{host}:{port}"));
        let outcome = scripted.request(&destination, ServerRequest::get("/"), limits).await;
        let unfit = DiscoveryError::UnfitName { host: host.to_owned() };
        assert_eq!(outcome.unwrap_err(), RemoteError::NoAddress(unfit));
    }
    if let Ok(system) = SystemResolver::new() {
        let system = client(system, egress);
        for host in ["127.0.0.99", "0x7f.99", "2130706531", "0177.0.0.99", "127.99"] {
            let destination = name(&format!("{host}:{port}"));
            system.request(&destination, ServerRequest::get("/"), limits).await.unwrap_err();
        }
    }
    assert_eq!(canary.connections().await, 0);
}
