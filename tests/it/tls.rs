//! Certificates of the listeners.
//! May not: accept a certificate that it was not told to trust.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc};

use crate::support::{Http, TestServer, client_config};

#[test]
fn a_self_signed_certificate_is_made_on_the_first_run_and_kept() {
    let mut server = TestServer::started();
    let certificate = server.data_dir().join("self_signed_cert.pem");
    let key = server.data_dir().join("self_signed_key.pem");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    let made = fs::read(&certificate).unwrap();
    // Trusting nothing but that file, name and signature hold.
    server.federation().get("/_matrix/key/v2/server").ok();
    assert!(server.log().contains("self-signed"), "people are told");
    server.stop();
    server.restart();
    assert_eq!(fs::read(&certificate).unwrap(), made);
    server.federation().get("/_matrix/key/v2/server").ok();
}

#[test]
fn plain_requests_to_a_tls_listener_get_nothing() {
    let server = TestServer::started();
    let plain = Http::plain(server.federation().address);
    let mut connection = plain.connect().unwrap();
    assert!(connection.ask("GET", "/_matrix/key/v2/server", &[], None).is_err());
    let other = TestServer::started();
    let distrusting =
        Http { tls: Some(client_config(&other.data_dir().join("self_signed_cert.pem"))), ..server.federation() };
    let mut connection = distrusting.connect().unwrap();
    assert!(connection.ask("GET", "/_matrix/key/v2/server", &[], None).is_err(), "another server's certificate");
}

#[test]
fn http_2_is_not_spoken_and_asking_for_it_harms_nothing() {
    let server = TestServer::started();
    let asking = |protocols: &[&str]| {
        let mut config = (*client_config(&server.data_dir().join("self_signed_cert.pem"))).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Http { tls: Some(Arc::new(config)), ..server.federation() }
    };
    let mut only = asking(&["h2"]).connect().unwrap();
    assert!(only.ask("GET", "/_matrix/key/v2/server", &[], None).is_err(), "RUSTSEC-2026-0258");
    asking(&["h2", "http/1.1"]).get("/_matrix/key/v2/server").ok();
    assert!(!server.log().contains("panicked"));
}

#[test]
fn a_configured_certificate_is_shown_and_an_unfit_one_stops_the_start() {
    let mut other = TestServer::started();
    other.stop();
    let (certificate, key) =
        (other.data_dir().join("self_signed_cert.pem"), other.data_dir().join("self_signed_key.pem"));
    let quoted = |path: &std::path::Path| format!("{path:?}");
    let server = TestServer::new()
        .set("listener.1.tls_certificate", &quoted(&certificate))
        .set("listener.1.tls_private_key", &quoted(&key));
    server.run(&["check-config"]).ok();
    let swapped = TestServer::new()
        .set("listener.1.tls_certificate", &quoted(&key))
        .set("listener.1.tls_private_key", &quoted(&certificate));
    for command in ["check-config", "serve"] {
        swapped.run(&[command]).refused(78, "self_signed_key.pem");
    }
    let half = TestServer::new().set("listener.1.tls_certificate", &quoted(&certificate));
    half.run(&["serve"]).refused(78, "tls_private_key");
    // The harness trusts the file of its own data directory.
    fs::create_dir(server.data_dir()).unwrap();
    let server = server.set("data_dir", "\"elsewhere\"");
    fs::copy(&certificate, server.data_dir().join("self_signed_cert.pem")).unwrap();
    let server = server.start();
    server.federation().get("/_matrix/key/v2/server").ok();
    assert!(!server.home().join("elsewhere/self_signed_key.pem").exists());
}
