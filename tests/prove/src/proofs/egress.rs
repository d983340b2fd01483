//! **egress**: who sends us requests cannot make us send many, nor any to where we have no business.
//! May not: trust an answer; those who would be asked count who comes.
//!
//! In order: one server that does not answer for itself; thousands that nobody knows, all from one network, which take a
//! connection and say nothing; and every kind of name that leads into a denied network, where a listener waits for somebody to come.

mod listeners;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{task::spawn_local, time::sleep_until};
use vestibule_scenery::{Canary, DENIED_HOST, FakePeer, TestServer, User, disguises, path_of};

use self::listeners::{Keeps, Tally};
use crate::{
    crowd::{Caller, in_this_thread, number, written},
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

static MANY_NAMES: Plant =
    Plant { name: "many-names", what: "the one server calls itself by ten names in turn", cases: 300 };
static NO_BUDGET: Plant = Plant {
    name: "no-budget",
    what: "the server has its rates switched off, and no stranger keeps it waiting",
    cases: 1_500,
};
static LET_IN: Plant =
    Plant { name: "let-in", what: "the operator allowed the network in which somebody waits", cases: 300 };

pub const PROOF: Proof = Proof {
    name: "egress",
    shows: "10,000 requests of one unknown server cost 2 connections, 10,000 of as many servers 10 a second, none a denied one",
    full: 30_000,
    quick: 6_000,
    run: |settings| Outcome::of(settings, ask),
    plants: &[&MANY_NAMES, &NO_BUDGET, &LET_IN],
};

/// Connections to one server that gives no keys.
const TO_ONE_MAX: usize = 2;
/// Connections to servers that nobody knows: in a second, over the whole run, and at once.
const PER_SECOND_MAX: usize = 10;
const AT_ONCE_MAX: usize = 32;
/// Between two requests of servers that nobody knows.
const STRANGER_EVERY: Duration = Duration::from_millis(4);

/// Requests in flight of one server.
const IN_FLIGHT: usize = 50;
/// Names of the one server, when a fault is planted.
const NAMES: usize = 10;

/// A room that nobody has: all of this ends before anybody asks for it.
const ROOM: &str = "!room:vestibule.test";
/// First bytes of the addresses of strangers, which are allowed.
const STRANGERS: [u8; 2] = [127, 77];
/// Ports that are for other protocols.
const LOW_PORTS: std::ops::Range<u16> = 700..1024;

fn ask(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let each = usize::try_from(settings.cases).unwrap_or(usize::MAX) / 3;
    let (gone, liar) = (Tally::of("127.0.0.1:0", Keeps::Nothing)?, FakePeer::new("liar.test"));
    liar.corrupt("server", |_| json!({}));
    let names: Vec<String> = (0..NAMES).map(|name| format!("gone{name}.test")).collect();
    let mut addresses: Vec<String> = names.iter().map(|name| format!("{name:?} = \"{}\"", gone.address)).collect();
    addresses.push(format!("\"liar.test\" = \"{}\"", liar.address()));
    let [first, second] = STRANGERS;
    let strangers_allowed = format!("{first}.{second}.0.0/16");
    let denied_allowed = if settings.has(&LET_IN) { format!("{DENIED_HOST}/32") } else { strangers_allowed.clone() };
    let mut server = TestServer::of(program::find()?)
        .set("listener.1.tls", "false")
        .set("rate_limit.enabled", if settings.has(&NO_BUDGET) { "false" } else { "true" })
        .set("rate_limit.knocks_by_user", "{ per_second = 1000.0, burst = 1000 }")
        .set("federation.allowed_ip_ranges", &format!("[\"127.0.0.1/32\", {strangers_allowed:?}, {denied_allowed:?}]"))
        .set("federation.server_addresses", &format!("{{ {} }}", addresses.join(", ")))
        .start();
    let signer = FakePeer::new("signer.test");

    let names = if settings.has(&MANY_NAMES) { names } else { names.into_iter().take(1).collect() };
    let gone_answered = of_one_server(&server, &signer, &names, each)?;
    let liar_answered = of_one_server(&server, &liar, &["liar.test".to_owned()], each)?;
    for (who, came) in [
        ("connections to one that does not answer", gone.count()),
        ("to one that answers nonsense", liar.key_requests()),
    ] {
        if came > TO_ONE_MAX {
            outcome.miss(format!("{came} {who}"));
        }
        outcome.count_at_least(who, number(came), 1);
    }

    let (held, ended) = (Tally::of("0.0.0.0:0", Keeps::Everything)?, Tally::of("0.0.0.0:0", Keeps::Nothing)?);
    let begun = Instant::now();
    // Those who are kept waiting bound the others, too.
    let first = if settings.has(&NO_BUDGET) { &ended } else { &held };
    let ports = [first.address.port(), ended.address.port()];
    let strangers_answered = of_strangers(&server, &signer, ports, each)?;
    let lasted = begun.elapsed();
    let (came, at_once) = (held.count() + ended.count(), held.at_once());
    let allowed = usize::try_from(lasted.as_secs() + 1).unwrap_or(usize::MAX).saturating_mul(PER_SECOND_MAX);
    if came > allowed {
        outcome.miss(format!("{came} strangers were asked in {lasted:?}"));
    }
    if at_once > AT_ONCE_MAX {
        outcome.miss(format!("{at_once} strangers were asked at once"));
    }
    (0..gone_answered + liar_answered + strangers_answered).for_each(|_| outcome.case());
    outcome.count_at_least("connections to strangers", number(came), settings.scaled(100));
    outcome.count_at_least("of them at once", number(at_once), settings.scaled(100).min(20));
    outcome.count("s for that", lasted.as_secs());

    let owner = server.register("owner");
    let denied = Denied { server: &server, owner: &owner, signer: &signer };
    let (tried, misses) = denied.try_names()?;
    outcome.count_at_least("names of denied networks", number(tried), if settings.scaled(1) == 0 { 0 } else { 25 });
    misses.into_iter().for_each(|miss| outcome.miss(miss));
    let (tried, misses) = denied_by_delegation(&mut server, &signer)?;
    outcome.count("delegations into them", number(tried));
    misses.into_iter().for_each(|miss| outcome.miss(miss));
    let came = "connections to one that does not answer";
    outcome.keep_signs(
        settings,
        &[(&MANY_NAMES, came), (&NO_BUDGET, "strangers were asked"), (&LET_IN, "led into a denied network")],
    );
    Ok(())
}

/// A request in the name of a server. The signature is another's.
fn request_of(signer: &FakePeer, origin: &str) -> Vec<u8> {
    let target = format!("{}?ver=12", path_of("v1/make_knock", ROOM, &format!("@u:{origin}")));
    let authorization = signer.authorization("GET", &target, None);
    let name = format!("origin=\"{}\"", signer.name());
    written("GET", &target, &authorization.replace(&name, &format!("origin={origin:?}")), None)
}

/// So many requests in those names from one address; how many were answered, none of them with anything but a refusal.
fn of_one_server(server: &TestServer, signer: &FakePeer, names: &[String], count: usize) -> Result<usize, String> {
    let requests: Rc<Vec<Vec<u8>>> = Rc::new(names.iter().map(|name| request_of(signer, name)).collect());
    let door = server.federation().address;
    in_this_thread(async {
        let caller = Rc::new(Caller::new(Ipv4Addr::new(127, 8, 0, 1), door));
        let shares: Vec<_> = (0..IN_FLIGHT)
            .map(|share| {
                let (caller, requests) = (caller.clone(), requests.clone());
                spawn_local(async move {
                    let mut answered = 0;
                    for at in (share..count).step_by(IN_FLIGHT) {
                        let Some(request) = requests.get(at % requests.len().max(1)) else { continue };
                        refused(caller.ask(request).await)?;
                        answered += 1;
                    }
                    Ok::<usize, String>(answered)
                })
            })
            .collect();
        let mut answered = 0;
        for share in shares {
            answered += share.await.map_err(|error| error.to_string())??;
        }
        Ok(answered)
    })
}

/// So many requests, each of another server that nobody knows, from one network. One in four ends the connection at once.
fn of_strangers(server: &TestServer, signer: &FakePeer, ports: [u16; 2], count: usize) -> Result<usize, String> {
    let door = server.federation().address;
    let [first, second] = STRANGERS;
    in_this_thread(async {
        let callers: Vec<Rc<Caller>> =
            (1..=200).map(|host| Rc::new(Caller::new(Ipv4Addr::new(127, 9, 0, host), door))).collect();
        let begun = Instant::now();
        let mut asking = Vec::new();
        for (at, caller) in callers.iter().cycle().take(count).enumerate() {
            let [high, low] = u16::try_from(at).unwrap_or(u16::MAX).to_be_bytes();
            let port = ports[usize::from(at.is_multiple_of(4))];
            let request = request_of(signer, &format!("{first}.{second}.{high}.{low}:{port}"));
            let caller = caller.clone();
            sleep_until((begun + STRANGER_EVERY * u32::try_from(at).unwrap_or(u32::MAX)).into()).await;
            asking.push(spawn_local(async move { refused(caller.ask(&request).await) }));
        }
        for one in asking {
            one.await.map_err(|error| error.to_string())??;
        }
        Ok(count)
    })
}

fn refused(reply: Result<crate::crowd::Reply, String>) -> Result<(), String> {
    match reply?.status {
        401 | 429 => Ok(()),
        status => Err(format!("a request that nobody signed was answered with {status}")),
    }
}

/// Names that lead to where a listener waits.
struct Denied<'a> {
    server: &'a TestServer,
    owner: &'a User,
    signer: &'a FakePeer,
}

impl Denied<'_> {
    /// Each in a request from outside and in one of our own user; how many there are, and which led somewhere.
    fn try_names(&self) -> Result<(usize, Vec<String>), String> {
        let everywhere = Canary::everywhere()?;
        let mut names: Vec<(String, &Canary)> =
            denied(everywhere.port).into_iter().map(|name| (name, &everywhere)).collect();
        // Of ports that are not for us, where we would be let in.
        let low = LOW_PORTS.rev().find_map(|port| Canary::at(SocketAddr::from(([127, 0, 0, 1], port))).ok());
        if let Some(canary) = &low {
            names.push((format!("127.0.0.1:{}", canary.port), canary));
        }
        let mut misses = Vec::new();
        for (number, (name, canary)) in names.iter().enumerate() {
            let [_, network] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
            let request = request_of(self.signer, name);
            // Each from a network of its own, so that none is refused before it is looked at.
            let from = Caller::new(Ipv4Addr::new(127, 30, network, 1), self.server.federation().address);
            let reply = in_this_thread(async { from.ask(&request).await })?;
            // What is no name of a server at all is refused with 400.
            if ![400, 401].contains(&reply.status) {
                misses.push(format!("a request of {name} was answered with {}", reply.status));
            }
            self.owner.try_knock_via("!room:elsewhere.test", &[name], "let me in");
            if canary.was_visited() {
                misses.push(format!("{name} led into a denied network"));
            }
        }
        Ok((names.len(), misses))
    }
}

/// Addresses that are denied, and ways to write one of them.
fn denied(port: u16) -> Vec<String> {
    let mut hosts: Vec<String> = [
        "0.0.0.0",
        "0",
        "[::]",
        "[::1]",
        "[::ffff:0.0.0.0]",
        "[fe80::1]",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.0.1",
    ]
    .map(str::to_owned)
    .into();
    // This machine's own address, if it is one that nobody outside could reach.
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    if let Ok(IpAddr::V4(own)) = own.map(|address| address.ip())
        && own.is_private()
    {
        hosts.extend([own.to_string(), format!("[::ffff:{own}]")]);
    }
    disguises(port).into_iter().chain(hosts.into_iter().map(|host| format!("{host}:{port}"))).collect()
}

/// A server whose well-known answer, on the port of all of them, points into a denied network: by delegation and by redirect.
/// Where that port is not ours to have, nothing is tried.
fn denied_by_delegation(server: &mut TestServer, signer: &FakePeer) -> Result<(usize, Vec<String>), String> {
    let Ok(listener) = TcpListener::bind("127.0.0.1:443") else { return Ok((0, Vec::new())) };
    let peer = FakePeer::listening("localhost", "1", listener);
    let canary = Canary::on(DENIED_HOST);
    let place = format!("{DENIED_HOST}:{}", canary.port);
    let delegation = json!({ "m.server": place }).to_string();
    let answers = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{delegation}", delegation.len()),
        format!(
            "HTTP/1.1 302 Found\r\nLocation: https://{place}/.well-known/matrix/server\r\nContent-Length: 0\r\n\r\n"
        ),
        format!(
            "HTTP/1.1 307 Away\r\nLocation: https://[::ffff:{DENIED_HOST}]:{}/\r\nContent-Length: 0\r\n\r\n",
            canary.port
        ),
    ];
    let mut misses = Vec::new();
    for answer in &answers {
        // What was found out before is not asked again.
        server.stop();
        server.restart();
        let bytes = answer.clone();
        peer.answer_raw("", move |stream| stream.write_all(bytes.as_bytes()));
        let from = Caller::new(Ipv4Addr::new(127, 40, 0, 1), server.federation().address);
        let request = request_of(signer, "localhost");
        refused(in_this_thread(async { from.ask(&request).await }))?;
        if canary.was_visited() {
            misses.push(format!("somebody followed {answer:?}"));
        }
    }
    Ok((answers.len(), misses))
}
