//! Requests that another server would have us make into networks where we have no business.
//! May not: trust a status code; a listener there must have seen nobody.

use super::guest::Guest;
use crate::support::{Canary, DENIED_HOST, FakePeer, TestServer, disguises, encoded, path_of};

fn guest(server: TestServer, others: &[&FakePeer]) -> Guest {
    Guest::on(server.set("federation.allowed_ip_ranges", "[\"127.0.0.1/32\"]"), others)
}

#[test]
fn cve_2024_52594_and_cve_2021_21392_no_name_in_no_disguise_leads_to_a_denied_address() {
    let canary = Canary::on(DENIED_HOST);
    let guest = guest(TestServer::new(), &[]);
    let room_id = guest.room("12", "knock");
    for name in disguises(canary.port) {
        assert_ne!(guest.try_knock(&room_id, &[&name]).status, 200, "{name}");
        assert_ne!(guest.try_join(&room_id, &[&name]).status, 200, "{name}");
        guest.anna.try_knock(&format!("#burrow:{name}"), "x");
        guest.anna.try_get(&format!("/profile/{}", encoded(&format!("@eve:{name}"))));
        guest.anna.try_get(&format!("/publicRooms?server={}", encoded(&name)));
        canary.assert_alone(&name);
    }
    // With such a name before the right one: the right one is asked.
    guest.try_knock(&room_id, &[&format!("127.0.0.99:{}", canary.port), "peer.test"]).ok();
    canary.assert_alone("the first of two");
}

#[test]
fn cve_2024_52594_a_request_in_the_name_of_a_denied_address_makes_us_ask_nobody() {
    let canary = Canary::on(DENIED_HOST);
    let guest = guest(TestServer::new(), &[]);
    let room_id = guest.anna.knockable_room("11");
    for name in disguises(canary.port) {
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
    let (home, away) = (Canary::on("127.0.0.1"), Canary::on(DENIED_HOST));
    let addresses = format!("{{ \"away.test\" = \"127.0.0.99:{}\" }}", away.port);
    let server = TestServer::new()
        .set("federation.allowed_ip_ranges", "[\"127.0.0.1/32\"]")
        .set("federation.server_addresses", &addresses)
        .start();
    let anna = server.register("anna");
    let port = home.port;
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
