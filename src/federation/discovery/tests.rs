use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;

use super::{Discovery, DiscoveryError, ServiceRecord, WELL_KNOWN_DEADLINE, resolver::order_by_priority};
use crate::{
    egress::{Egress, EgressError, Transport},
    testing::{
        Authority, Canary, DAY, HOUR, Port443MovedTo, ScriptedResolver, ScriptedTransport, TestClock, TlsPeer,
        http_reply, name, response,
    },
};

fn discovery(resolver: ScriptedResolver, transport: Arc<dyn Transport>) -> Discovery {
    discovery_at(resolver, transport, Arc::default())
}

fn discovery_at(resolver: ScriptedResolver, transport: Arc<dyn Transport>, clock: Arc<TestClock>) -> Discovery {
    Discovery::new(Arc::new(resolver), transport, BTreeMap::new(), clock, Arc::new(|| 0))
}

/// A web server that says the same under every name.
fn well_known(body: &'static str) -> Arc<ScriptedTransport> {
    ScriptedTransport::new(move |_, _| Box::pin(async move { response(200, &[], body) }))
}

fn delegating_to(server: &'static str) -> Arc<ScriptedTransport> {
    ScriptedTransport::new(move |_, _| {
        let body = format!(r#"{{"m.server":"{server}"}}"#);
        Box::pin(async move { response(200, &[], &body) })
    })
}

/// Addresses, `Host` header and certificate name in one line.
async fn found(discovery: &Discovery, server: &str) -> String {
    match discovery.route(&name(server)).await {
        Ok(route) => format!("{:?} {} {}", route.addresses, route.host_header, route.certificate_name.to_str(),),
        Err(error) => error.to_string(),
    }
}

fn zone() -> ScriptedResolver {
    ScriptedResolver::default()
        .address("plain.example", "1.0.0.1")
        .address("plain.example", "2a00::1")
        .address("srv.example", "1.0.0.2")
        .address("old.example", "1.0.0.3")
        .address("target.example", "1.0.0.4")
        .address("del.example", "1.0.0.5")
        .service("_matrix-fed._tcp.srv.example", 0, "target.example.", 4443)
        .service("_matrix._tcp.srv.example", 0, "unused.example.", 1)
        .service("_matrix._tcp.old.example", 0, "target.example.", 4444)
        .service("_matrix-fed._tcp.closed.example", 0, ".", 0)
}

#[tokio::test]
async fn every_row_of_the_table_without_delegation() {
    let rows = [
        // Step 1: IP literals.
        ("1.2.3.4", "[1.2.3.4:8448] 1.2.3.4 1.2.3.4"),
        ("1.2.3.4:99", "[1.2.3.4:99] 1.2.3.4:99 1.2.3.4"),
        ("[2a00::5]", "[[2a00::5]:8448] [2a00::5] 2a00::5"),
        ("[2a00::5]:99", "[[2a00::5]:99] [2a00::5]:99 2a00::5"),
        // Step 2: a port.
        ("plain.example:99", "[1.0.0.1:99, [2a00::1]:99] plain.example:99 plain.example"),
        ("srv.example:99", "[1.0.0.2:99] srv.example:99 srv.example"),
        // Steps 4, 5, 6.
        ("srv.example", "[1.0.0.4:4443] srv.example srv.example"),
        ("old.example", "[1.0.0.4:4444] old.example old.example"),
        ("plain.example", "[1.0.0.1:8448, [2a00::1]:8448] plain.example plain.example"),
        ("nowhere.example", "no address for nowhere.example: no such name"),
        ("closed.example", "no address for closed.example: its service record offers no service"),
        ("0x7f.1", "0x7f.1 is no name that a certificate could be for"),
    ];
    let transport = ScriptedTransport::silent();
    let discovery = discovery(zone(), transport.clone());
    for (server, expected) in rows {
        assert_eq!(found(&discovery, server).await, expected, "{server}");
    }
    let asked = transport.asked();
    let resolvable = ["srv.example", "old.example", "plain.example"];
    let expected = resolvable.map(|host| format!("{host}/.well-known/matrix/server"));
    assert_eq!(asked, expected, "well-known is for names without port alone");
}

#[tokio::test]
async fn every_row_of_the_table_with_delegation() {
    let rows = [
        ("1.2.3.4", "[1.2.3.4:8448] 1.2.3.4 1.2.3.4"),
        ("1.2.3.4:99", "[1.2.3.4:99] 1.2.3.4:99 1.2.3.4"),
        ("[2a00::5]", "[[2a00::5]:8448] [2a00::5] 2a00::5"),
        ("del.example:99", "[1.0.0.5:99] del.example:99 del.example"),
        ("srv.example", "[1.0.0.4:4443] srv.example srv.example"),
        ("old.example", "[1.0.0.4:4444] old.example old.example"),
        ("del.example", "[1.0.0.5:8448] del.example del.example"),
        ("0x7f.1", "0x7f.1 is no name that a certificate could be for"),
    ];
    for (delegated, expected) in rows {
        let discovery = discovery(zone(), delegating_to(delegated));
        assert_eq!(found(&discovery, "plain.example").await, expected, "{delegated}");
    }
}

#[tokio::test]
async fn an_unusable_well_known_counts_as_none() {
    let own = "[1.0.0.1:8448, [2a00::1]:8448] plain.example plain.example";
    let bodies = [
        "",
        "[]",
        "{}",
        "null",
        r#"{"m.server":7}"#,
        r#"["1.2.3.4"]"#,
        r#"{"m.server":""}"#,
        r#"{"m.server":"a b"}"#,
        r#"{"m.server":"x:y"}"#,
    ];
    for body in bodies {
        assert_eq!(found(&discovery(zone(), well_known(body)), "plain.example").await, own, "{body}");
    }
    for status in [201, 204, 300, 304, 403, 404, 500] {
        let transport = ScriptedTransport::new(move |_, _| {
            Box::pin(async move { response(status, &[("Location", "/x")], r#"{"m.server":"del.example"}"#) })
        });
        assert_eq!(found(&discovery(zone(), transport), "plain.example").await, own, "{status}");
    }
}

#[tokio::test]
async fn overridden_addresses_skip_discovery_and_keep_the_name() {
    let transport = ScriptedTransport::silent();
    let overrides = [(name("hs1"), "127.0.1.1:8448".parse().unwrap())].into();
    let resolver = Arc::new(ScriptedResolver::default());
    let discovery =
        Discovery::new(resolver.clone(), transport.clone(), overrides, Arc::new(TestClock::default()), Arc::new(|| 0));
    assert_eq!(found(&discovery, "hs1").await, "[127.0.1.1:8448] hs1 hs1");
    assert_eq!(resolver.lookups.load(Ordering::SeqCst), 0);
    assert_eq!(transport.asked().len(), 0);
}

/// Redirects each target to the next of a list, then answers.
fn redirecting(locations: &'static [&'static str]) -> Arc<ScriptedTransport> {
    let hop = AtomicUsize::new(0);
    ScriptedTransport::new(move |_, _| {
        let location = locations.get(hop.fetch_add(1, Ordering::SeqCst));
        Box::pin(async move {
            match location {
                Some(location) => response(307, &[("Location", location)], ""),
                None => response(200, &[], r#"{"m.server":"1.2.3.4"}"#),
            }
        })
    })
}

#[tokio::test]
async fn redirects_are_followed_up_to_five_and_over_https_only() {
    let delegated = "[1.2.3.4:8448] 1.2.3.4 1.2.3.4";
    let own = "[1.0.0.1:8448, [2a00::1]:8448] plain.example plain.example";
    let cases: [(&'static [&'static str], bool, usize); 10] = [
        (&["https://del.example/a"], true, 2),
        (&["/a", "b?c=d", "//del.example/e", "https://del.example:8443/f", "https://1.1.1.1/g"], true, 6),
        (&["/1", "/2", "/3", "/4", "/5", "/6"], false, 6),
        (&["/a", "/.well-known/matrix/server"], false, 2),
        (&["/.well-known/matrix/server#again"], false, 1),
        (&["http://del.example/a"], false, 1),
        (&["ftp://del.example/a"], false, 1),
        (&["https://user:word@del.example/a"], false, 1),
        (&["https://"], false, 1),
        (&["https://nowhere.example/"], false, 1),
    ];
    for (locations, reaches, requests) in cases {
        let transport = redirecting(locations);
        let discovery = discovery(zone(), transport.clone());
        let expected = if reaches { delegated } else { own };
        assert_eq!(found(&discovery, "plain.example").await, expected, "{locations:?}");
        assert_eq!(transport.asked().len(), requests, "{locations:?}: {:?}", transport.asked());
    }
}

#[tokio::test]
async fn the_host_header_of_a_redirect_names_its_target() {
    let transport = redirecting(&["https://del.example:8443/f?x=1"]);
    found(&discovery(zone(), transport.clone()), "plain.example").await;
    assert_eq!(transport.asked()[1], "del.example:8443/f?x=1");
}

#[tokio::test]
async fn answers_and_failures_are_kept_for_their_time() {
    let cases: [(&[(&str, &str)], Duration); 9] = [
        (&[], DAY),
        (&[("Cache-Control", "max-age=7200")], 2 * HOUR),
        (&[("Cache-Control", "public, Max-Age=\"7200\"")], 2 * HOUR),
        (&[("Cache-Control", "max-age=99999999")], 2 * DAY),
        (&[("Cache-Control", "max-age=1")], Duration::from_secs(300)),
        (&[("Cache-Control", "max-age=7200, no-store")], Duration::from_secs(300)),
        // 2026-09-21 14:13:20 UTC is the test's now.
        (&[("Expires", "Mon, 21 Sep 2026 17:13:20 GMT")], 3 * HOUR),
        (&[("Expires", "0")], Duration::from_secs(300)),
        (&[("Cache-Control", "max-age=7200"), ("Expires", "0")], 2 * HOUR),
    ];
    for (headers, kept) in cases {
        let transport = ScriptedTransport::new(move |_, _| {
            let headers = headers.to_vec();
            Box::pin(async move { response(200, &headers, r#"{"m.server":"1.2.3.4"}"#) })
        });
        let clock = Arc::new(TestClock::default());
        let discovery = discovery_at(zone(), transport.clone(), Arc::clone(&clock));
        // A finished route is used for another minute, so the last step is longer than that.
        let steps = [(Duration::ZERO, 1), (kept - Duration::from_secs(1), 1), (Duration::from_secs(62), 2)];
        for (step, requests) in steps {
            clock.advance(step);
            assert_eq!(found(&discovery, "plain.example").await, "[1.2.3.4:8448] 1.2.3.4 1.2.3.4");
            assert_eq!(transport.asked().len(), requests, "{headers:?} after {step:?}");
        }
    }
}

#[tokio::test]
async fn failures_pause_longer_each_time_up_to_an_hour() {
    let transport = ScriptedTransport::silent();
    let clock = Arc::new(TestClock::default());
    let discovery = discovery_at(zone(), transport.clone(), Arc::clone(&clock));
    found(&discovery, "plain.example").await;
    for (failures, pause_min) in [10, 20, 40, 60, 60, 60].into_iter().enumerate() {
        clock.advance(Duration::from_secs(pause_min * 60 - 1));
        found(&discovery, "plain.example").await;
        assert_eq!(transport.asked().len(), failures + 1, "too early after {pause_min} min");
        clock.advance(Duration::from_secs(1 + 60));
        found(&discovery, "plain.example").await;
        assert_eq!(transport.asked().len(), failures + 2, "not again after {pause_min} min");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_well_known_is_given_up_at_its_deadline() {
    let stuck = ScriptedTransport::new(|_, _| Box::pin(std::future::pending()));
    let began = tokio::time::Instant::now();
    let expected = "[1.0.0.1:8448, [2a00::1]:8448] plain.example plain.example";
    assert_eq!(found(&discovery(zone(), stuck), "plain.example").await, expected);
    assert_eq!(began.elapsed(), WELL_KNOWN_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_dripping_chain_of_redirects_is_given_up_at_the_same_deadline() {
    let slow = ScriptedTransport::new(|_, request| {
        let next = format!("{}x", request.uri());
        Box::pin(async move {
            tokio::time::sleep(WELL_KNOWN_DEADLINE / 2).await;
            response(307, &[("Location", &next)], "")
        })
    });
    let began = tokio::time::Instant::now();
    found(&discovery(zone(), slow), "plain.example").await;
    assert_eq!(began.elapsed(), WELL_KNOWN_DEADLINE);
}

#[tokio::test]
async fn one_search_serves_all_that_ask_and_outlives_the_first() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let transport = ScriptedTransport::new(move |_, _| {
        let mut gate = gate.clone();
        Box::pin(async move {
            gate.wait_for(|open| *open).await.unwrap();
            response(200, &[], r#"{"m.server":"1.2.3.4"}"#)
        })
    });
    let discovery = discovery(zone(), transport.clone());
    let first = {
        let discovery = discovery.clone();
        tokio::spawn(async move { found(&discovery, "plain.example").await })
    };
    while transport.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    let asking = (0..100).map(|_| found(&discovery, "plain.example"));
    let opening = async { release.send(true).unwrap() };
    let (all, ()) = tokio::join!(join_all(asking), opening);
    assert!(all.iter().all(|route| route == "[1.2.3.4:8448] 1.2.3.4 1.2.3.4"), "{all:?}");
    assert_eq!(transport.asked().len(), 1);
    assert!(discovery.inner.memory().flights.is_empty());
}

#[tokio::test]
async fn a_panicking_search_does_not_block_its_name() {
    let calls = AtomicUsize::new(0);
    let transport = ScriptedTransport::new(move |_, _| {
        assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "the first search is lost");
        Box::pin(async { Err(EgressError::Timeout) })
    });
    let discovery = discovery(zone(), transport);
    assert_eq!(discovery.route(&name("del.example")).await, Err(DiscoveryError::GivenUp));
    assert_eq!(found(&discovery, "del.example").await, "[1.0.0.5:8448] del.example del.example");
}

#[tokio::test]
async fn routes_are_used_again_for_a_minute_unless_forgotten() {
    let clock = Arc::new(TestClock::default());
    let resolver = Arc::new(zone());
    let discovery =
        Discovery::new(resolver.clone(), ScriptedTransport::silent(), BTreeMap::new(), clock.clone(), Arc::new(|| 0));
    let mut lookups = Vec::new();
    for step in [0, 59, 1, 0] {
        clock.advance(Duration::from_secs(step));
        found(&discovery, "plain.example:99").await;
        lookups.push(resolver.lookups.load(Ordering::SeqCst));
    }
    discovery.forget(&name("plain.example:99"));
    found(&discovery, "plain.example:99").await;
    lookups.push(resolver.lookups.load(Ordering::SeqCst));
    assert_eq!(lookups, [1, 1, 2, 2, 3]);
}

#[test]
fn service_records_are_ordered_by_priority_and_drawn_by_weight() {
    let record =
        |priority, weight, target: &str| ServiceRecord { priority, weight, port: 1, target: target.to_owned() };
    let records = vec![record(2, 9, "last"), record(1, 30, "heavy"), record(1, 0, "never"), record(1, 10, "light")];
    let order = |draw: u64| {
        let ordered = order_by_priority(records.clone(), || draw);
        ordered.iter().map(|record| record.target.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order(0), "never heavy light last");
    assert_eq!(order(30), "heavy light never last");
    assert_eq!(order(31), "light never heavy last");
    let firsts: Vec<String> = (0..41).map(|draw| order(draw).split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(firsts.iter().filter(|first| *first == "heavy").count(), 30);
    assert_eq!(firsts.iter().filter(|first| *first == "light").count(), 10);
}

async fn real(authority: &Authority, port_443: u16, resolver: ScriptedResolver) -> Discovery {
    let egress: Arc<Egress> = Arc::new(authority.egress());
    discovery(resolver, Arc::new(Port443MovedTo { port: port_443, egress }))
}

#[tokio::test]
async fn a_real_well_known_is_fetched_over_tls() {
    let authority = Authority::new();
    let peer =
        TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), http_reply(r#"{"m.server":"1.2.3.4"}"#)).await;
    let resolver = || ScriptedResolver::default().address("hs2", "127.0.0.2").address("hs3", "127.0.0.2");
    let trusting = real(&authority, peer.address.port(), resolver()).await;
    assert_eq!(found(&trusting, "hs2").await, "[1.2.3.4:8448] 1.2.3.4 1.2.3.4");
    // The certificate is not for hs3, so what the peer says about hs3 does not count.
    assert_eq!(found(&trusting, "hs3").await, "[127.0.0.2:8448] hs3 hs3");
}

#[tokio::test]
async fn redirects_to_denied_addresses_are_not_followed() {
    let authority = Authority::new();
    let canary = Canary::listen("127.0.0.99").await;
    let port = canary.address.port();
    for target in [
        "127.0.0.99",
        "[::ffff:127.0.0.99]",
        "[64:ff9b::7f00:63]",
        "[2002:7f00:63::]",
        "evil",
        "0x7f.99",
        "127.99",
        "2130706531",
    ] {
        let reply = format!("HTTP/1.1 302 Found\r\nLocation: https://{target}:{port}/x\r\nContent-Length: 0\r\n\r\n");
        let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["hs2"]), reply).await;
        let resolver = ScriptedResolver::default().address("hs2", "127.0.0.2").address("evil", "127.0.0.99");
        let discovery = real(&authority, peer.address.port(), resolver).await;
        assert_eq!(found(&discovery, "hs2").await, "[127.0.0.2:8448] hs2 hs2", "{target}");
        assert_eq!(peer.connections(), 1, "{target}");
    }
    assert_eq!(canary.connections().await, 0);
}

#[tokio::test]
async fn an_endless_well_known_is_cut_off_at_its_cap() {
    let authority = Authority::new();
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    let peer = TlsPeer::start("127.0.0.2", authority.acceptor(&["hs2"]), move |_, tls| {
        let counted = Arc::clone(&counted);
        Box::pin(async move {
            let mut next = "HTTP/1.1 200 OK\r\n\r\n{\"m.server\":\"1.2.3.4\",\"x\":\"".to_owned();
            while tls.write_all(next.as_bytes()).await.is_ok() {
                counted.fetch_add(next.len(), Ordering::SeqCst);
                next = "x".repeat(1024);
            }
            false
        })
    })
    .await;
    let resolver = ScriptedResolver::default().address("hs2", "127.0.0.2");
    let discovery = real(&authority, peer.address.port(), resolver).await;
    assert_eq!(found(&discovery, "hs2").await, "[127.0.0.2:8448] hs2 hs2");
    // What we did not read may still have filled the sockets' buffers, but no more than those.
    assert!(written.load(Ordering::SeqCst) < 16 * 1024 * 1024);
}
