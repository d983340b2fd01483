//! Requests that another server would have us make into networks where we have no business.
//! May not: trust a status code; a listener there must have seen nobody.

use std::net::TcpListener;

use super::guest::Guest;
use crate::support::{FakePeer, TestServer, encoded, path_of};

/// A listener that nobody may come to.
struct Canary {
    listener: TcpListener,
}

impl Canary {
    fn at(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Connections wait to be accepted, so none that was made is missed.
    #[track_caller]
    fn assert_alone(&self, what: &str) {
        assert!(self.listener.accept().is_err(), "{what}: somebody came");
    }
}

/// Every way in which a name leads to 127.0.0.99.
fn disguises(port: u16) -> Vec<String> {
    [
        "127.0.0.99",
        "[::ffff:127.0.0.99]",
        "[::ffff:7f00:63]",
        "[::127.0.0.99]",
        "[64:ff9b::7f00:63]",
        "[64:ff9b::127.0.0.99]",
        "[2002:7f00:63::]",
        "[2001:0:7f00:63::80ff:ff9c]",
        "127.99",
        "127.0.99",
        "0x7f.0.0.99",
        "0x7f.99",
        "2130706531",
        "0x7f000063",
        "0177.0.0.99",
        "127.0.0.99.",
    ]
    .into_iter()
    .map(|host| format!("{host}:{port}"))
    .collect()
}

fn guest(server: TestServer, others: &[&FakePeer]) -> Guest {
    Guest::on(server.set("federation.allowed_ip_ranges", "[\"127.0.0.1/32\"]"), others)
}

#[test]
fn cve_2024_52594_and_cve_2021_21392_no_name_in_no_disguise_leads_to_a_denied_address() {
    let canary = Canary::at("127.0.0.99");
    let guest = guest(TestServer::new(), &[]);
    let room_id = guest.room("12", "knock");
    for name in disguises(canary.port()) {
        assert_ne!(guest.try_knock(&room_id, &[&name]).status, 200, "{name}");
        assert_ne!(guest.try_join(&room_id, &[&name]).status, 200, "{name}");
        guest.anna.try_knock(&format!("#burrow:{name}"), "x");
        guest.anna.try_get(&format!("/profile/{}", encoded(&format!("@eve:{name}"))));
        guest.anna.try_get(&format!("/publicRooms?server={}", encoded(&name)));
        canary.assert_alone(&name);
    }
    // With such a name before the right one: the right one is asked.
    guest.try_knock(&room_id, &[&format!("127.0.0.99:{}", canary.port()), "peer.test"]).ok();
    canary.assert_alone("the first of two");
}

#[test]
fn cve_2024_52594_a_request_in_the_name_of_a_denied_address_makes_us_ask_nobody() {
    let canary = Canary::at("127.0.0.99");
    let guest = guest(TestServer::new(), &[]);
    let room_id = guest.anna.knockable_room("11");
    for name in disguises(canary.port()) {
        let target = format!("{}?ver=11", path_of("v1/make_knock", &room_id, &format!("@eve:{name}")));
        let header = guest.peer.authorization("GET", &target, None).replace("peer.test", &name);
        let answer = guest.server.federation().ask("GET", &target, &[("Authorization", &header)], None);
        answer.refused(401, "M_UNAUTHORIZED");
        canary.assert_alone(&name);
    }
}

#[test]
fn cve_2021_21273_one_filter_for_all_that_goes_out_also_where_the_operator_says_who_is_where() {
    // Of the unspecified addresses, which lead home on many systems; and where a configured address is none of those allowed.
    let (home, away) = (Canary::at("127.0.0.1"), Canary::at("127.0.0.99"));
    let addresses = format!("{{ \"away.test\" = \"127.0.0.99:{}\" }}", away.port());
    let server = TestServer::new()
        .set("federation.allowed_ip_ranges", "[\"127.0.0.1/32\"]")
        .set("federation.server_addresses", &addresses)
        .start();
    let anna = server.register("anna");
    let port = home.port();
    for name in
        [&format!("0.0.0.0:{port}"), &format!("[::]:{port}"), &format!("0:{port}"), "away.test", "away.test:8448"]
    {
        assert_ne!(anna.try_knock_via("!room:nowhere.test", &[name], "x").status, 200, "{name}");
        anna.try_get(&format!("/profile/{}", encoded(&format!("@eve:{name}"))));
        home.assert_alone(name);
        away.assert_alone(name);
    }
    // An invite makes the inviter's server the one to ask; so does a user who is invited.
    let room_id = anna.knockable_room("11");
    anna.try_in_room(&room_id, "invite", serde_json::json!({ "user_id": "@eve:away.test" }));
    anna.sync("timeout=0");
    away.assert_alone("invite");
}
