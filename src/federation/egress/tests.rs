use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use rustls_pki_types::ServerName as CertificateName;
use tokio::io::AsyncWriteExt;

use super::{AddressFilter, DEFAULT_DENIED_IP_RANGES, Egress, EgressError, Route, Transport, tls_config};
use crate::testing::{Authority, Canary, SelfSigned, TlsPeer, http_reply, only_127_0_0_2};

const SOON: Duration = Duration::from_secs(20);

fn route(addresses: &[std::net::SocketAddr], certificate: &str) -> Route {
    Route {
        addresses: addresses.to_vec(),
        host_header: certificate.to_owned(),
        certificate_name: CertificateName::try_from(certificate.to_owned()).unwrap(),
    }
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).unwrap()
}

#[test]
fn default_filter_denies_every_special_range_and_every_disguise() {
    let filter = AddressFilter::default();
    let denied = [
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.99",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:63",
        "64:ff9b::808:808",
        "64:ff9b:1::a00:1",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:63::",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    for address in denied {
        assert!(!filter.permits(address.parse().unwrap()), "{address} is permitted");
    }
    let permitted = [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00::1",
    ];
    for address in permitted {
        assert!(filter.permits(address.parse().unwrap()), "{address} is denied");
    }
}

#[test]
fn an_exception_opens_its_range_and_no_disguise_of_it() {
    let filter = only_127_0_0_2();
    assert!(filter.permits("127.0.0.2".parse().unwrap()));
    for address in ["127.0.0.1", "127.0.0.3", "::ffff:127.0.0.2", "64:ff9b::7f00:2", "2002:7f00:2::"] {
        assert!(!filter.permits(address.parse().unwrap()), "{address} is permitted");
    }
    // Opening a transitional range does not open what its addresses carry.
    let nat64 = AddressFilter {
        denied: DEFAULT_DENIED_IP_RANGES.to_vec(),
        allowed: vec!["64:ff9b::/96".parse().unwrap(), "2002::/16".parse().unwrap(), "2001::/32".parse().unwrap()],
    };
    assert!(nat64.permits("64:ff9b::808:808".parse().unwrap()));
    assert!(nat64.permits("2002:808:808::1".parse().unwrap()));
    for address in ["64:ff9b::7f00:63", "2002:a00:1::", "2001:0:7f00:1::1", "2001:0:808:808::80ff:ff9c"] {
        assert!(!nat64.permits(address.parse().unwrap()), "{address} is permitted");
    }
}

#[test]
fn reserved_ports_are_refused_except_https() {
    for (port, permitted) in
        [(0, false), (22, false), (25, false), (80, false), (443, true), (1023, false), (1024, true), (8448, true)]
    {
        assert_eq!(AddressFilter::permits_port(port), permitted, "port {port}");
    }
}

#[tokio::test]
async fn a_denied_address_is_skipped_and_the_permitted_one_used() {
    let authority = Authority::new();
    let canary = Canary::listen("127.0.0.99").await;
    let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), http_reply("{}")).await;
    let egress = authority.egress();
    let both = route(&[canary.address, peer.address], "hs2");
    let reply = egress.exchange(&both, get("/x?y=%20z"), 100, SOON).await.unwrap();
    assert_eq!(reply.body(), "{}");
    assert_eq!(canary.connections().await, 0);
    let head = peer.heads.lock().unwrap().join("");
    assert!(head.starts_with("GET /x?y=%20z HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("host: hs2\r\n"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("accept-encoding"), "{head}");

    let denied = egress.exchange(&route(&[canary.address], "other"), get("/"), 100, SOON).await;
    assert_eq!(denied.unwrap_err(), EgressError::AddressDenied);
    let nowhere = egress.exchange(&route(&[], "other"), get("/"), 100, SOON).await;
    assert_eq!(nowhere.unwrap_err(), EgressError::NoAddress);
    let reserved = egress.exchange(&route(&["127.0.0.2:25".parse().unwrap()], "o"), get("/"), 100, SOON).await;
    assert_eq!(reserved.unwrap_err(), EgressError::PortDenied { port: 25 });
    assert_eq!(canary.connections().await, 0);
}

#[tokio::test]
async fn a_canary_does_count_when_the_filter_is_open() {
    // The control for every "0 connections" in this crate.
    let authority = Authority::new();
    let canary = Canary::listen("127.0.0.99").await;
    let open = AddressFilter { denied: Vec::new(), allowed: Vec::new() };
    let egress = authority.egress_with(open);
    let short = Duration::from_millis(300);
    egress.exchange(&route(&[canary.address], "hs2"), get("/"), 100, short).await.unwrap_err();
    assert_eq!(canary.connections().await, 1);
}

#[tokio::test]
async fn a_peer_that_does_not_prove_its_name_gets_no_request() {
    let (trusted, foreign) = (Authority::new(), Authority::new());
    let cases = [
        ("untrusted", foreign.acceptor(&["hs2"])),
        ("wrong name", trusted.acceptor(&["hs3"])),
        ("expired", trusted.acceptor_until(&["hs2"], 2001)),
    ];
    for (case, acceptor) in cases {
        let peer = TlsPeer::saying("127.0.0.2", acceptor, http_reply("{}")).await;
        let outcome = trusted.egress().exchange(&route(&[peer.address], "hs2"), get("/"), 100, SOON).await;
        assert!(matches!(outcome, Err(EgressError::Tls { .. })), "{case}: {outcome:?}");
        assert_eq!(peer.connections(), 1, "{case}");
        assert!(peer.heads.lock().unwrap().is_empty(), "{case}: request bytes were sent");
    }
}

#[tokio::test]
async fn a_certificate_for_an_ip_address_is_accepted_for_that_address_alone() {
    let authority = Authority::new();
    let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["127.0.0.2"]), http_reply("{}")).await;
    let egress = authority.egress();
    assert!(egress.exchange(&route(&[peer.address], "127.0.0.2"), get("/"), 100, SOON).await.is_ok());
    let other = egress.exchange(&route(&[peer.address], "127.0.0.3"), get("/"), 100, SOON).await;
    assert!(matches!(other, Err(EgressError::Tls { .. })), "{other:?}");
}

#[tokio::test]
async fn one_connection_serves_several_requests() {
    let authority = Authority::new();
    let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), http_reply("{}")).await;
    let egress = authority.egress();
    for _ in 0..5 {
        egress.exchange(&route(&[peer.address], "hs2"), get("/"), 100, SOON).await.unwrap();
    }
    assert_eq!(peer.connections(), 1);
    assert!(egress.routes.known.lock().unwrap().is_empty(), "routes of finished requests stay");
}

#[tokio::test]
async fn replies_over_the_cap_are_dropped_while_they_arrive() {
    let authority = Authority::new();
    let exact = "x".repeat(1000);
    let announced = TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), http_reply(&exact)).await;
    let egress = authority.egress();
    let to = route(&[announced.address], "hs2");
    assert_eq!(egress.exchange(&to, get("/"), 1000, SOON).await.unwrap().body().len(), 1000);
    let over = egress.exchange(&to, get("/"), 999, SOON).await;
    assert_eq!(over.unwrap_err(), EgressError::ReplyTooLarge { bytes_max: 999, status: http::StatusCode::OK });

    // Without an end: the peer writes until the connection goes.
    let endless = TlsPeer::start("127.0.0.2", authority.acceptor(&["hs2"]), |_, tls| {
        Box::pin(async move {
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            let mut next = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            while tls.write_all(next.as_bytes()).await.is_ok() {
                next.clone_from(&chunk);
            }
            false
        })
    })
    .await;
    let over = egress.exchange(&route(&[endless.address], "hs2"), get("/"), 64 * 1024, SOON).await;
    assert_eq!(over.unwrap_err(), EgressError::ReplyTooLarge { bytes_max: 64 * 1024, status: http::StatusCode::OK });

    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(super::REPLY_HEAD_BYTES_MAX));
    let many_heads = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(super::REPLY_HEADERS_MAX + 1));
    for head in [long_head, many_heads] {
        let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), head).await;
        let outcome = egress.exchange(&route(&[peer.address], "hs2"), get("/"), 100, SOON).await;
        assert!(matches!(outcome, Err(EgressError::Broken { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_reply_of_many_pieces_arrives_whole() {
    let authority = Authority::new();
    let body: String = (0..600_000).map(|number| format!("{number:07},")).collect();
    assert!(body.len() > 4 * super::PIECE_BYTES);
    let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), http_reply(&body)).await;
    let to = route(&[peer.address], "hs2");
    let reply = authority.egress().exchange(&to, get("/"), body.len(), SOON).await.unwrap();
    assert!(*reply.body() == body.as_bytes());
}

#[tokio::test]
async fn a_dripping_reply_ends_with_the_deadline() {
    let authority = Authority::new();
    let dripping = TlsPeer::start("127.0.0.2", authority.acceptor(&["hs2"]), |_, tls| {
        Box::pin(async move {
            let mut drops = tokio::time::interval(Duration::from_millis(20));
            let mut next = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
            while tls.write_all(next.as_bytes()).await.is_ok() && tls.flush().await.is_ok() {
                next = "x";
                drops.tick().await;
            }
            false
        })
    })
    .await;
    let began = Instant::now();
    let deadline = Duration::from_millis(400);
    let outcome = authority.egress().exchange(&route(&[dripping.address], "hs2"), get("/"), 9999, deadline).await;
    assert_eq!(outcome.unwrap_err(), EgressError::Timeout);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_when_its_file_is_configured() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("peer.pem");
    let peer_certificate = SelfSigned::new("hs2");
    std::fs::write(&file, peer_certificate.pem()).unwrap();
    let peer = TlsPeer::saying("127.0.0.2", peer_certificate.acceptor(), http_reply("{}")).await;
    let outcome_with = async |files: &[PathBuf]| {
        let egress = Egress::new(only_127_0_0_2(), tls_config(files).unwrap());
        egress.exchange(&route(&[peer.address], "hs2"), get("/"), 100, SOON).await
    };
    assert!(matches!(outcome_with(&[]).await, Err(EgressError::Tls { .. })));
    let outcome = outcome_with(&[file]).await;
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn unfit_authority_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let files = [
        PathBuf::from("does-not-exist.pem"),
        file("empty.pem", ""),
        file("text.pem", "hello"),
        file("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        file("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ];
    for path in files {
        let error = tls_config(std::slice::from_ref(&path)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{}: ", path.display())), "{error}");
    }
}
