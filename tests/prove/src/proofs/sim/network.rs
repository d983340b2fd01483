//! The network between the servers: carries a signed request to the other server's application and its answer back, late, not at
//! all, or twice.
//! May not: look into a request, or change one.

use std::{rc::Rc, time::Duration};

use actix_web::{http::Method, test::TestRequest};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::{RngExt, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use vestibule_federation::{
    discovery::{ResolveError, Resolver, ServiceRecord},
    egress::{EgressError, Route, Transport},
};

use super::{
    server::{Answered, Life},
    trace::digest,
    world::World,
};

type Answer = Result<http::Response<Bytes>, EgressError>;

/// In bad weather, one in so many.
const LOST_ONE_IN: u32 = 14;
const DOUBLED_ONE_IN: u32 = 20;
const LATE_ONE_IN: u32 = 12;
/// When nobody is there, one in so many requests is not even refused.
const SWALLOWED_ONE_IN: u32 = 3;
const USUAL_MS_MAX: u64 = 60;
const LATE_MS_MAX: u64 = 25_000;

/// A request on its way.
pub struct Parcel {
    from: usize,
    life: u64,
    to: String,
    request: http::Request<Bytes>,
    reply_bytes_max: usize,
    reply: oneshot::Sender<Answer>,
}

/// One life of a server, as it reaches the others.
pub struct Wire {
    pub from: usize,
    pub life: u64,
    pub out: mpsc::UnboundedSender<Parcel>,
}

impl Transport for Wire {
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: http::Request<Bytes>,
        reply_bytes_max: usize,
        _: Duration,
    ) -> BoxFuture<'a, Answer> {
        let (reply, answer) = oneshot::channel();
        let (from, life, to) = (self.from, self.life, route.host_header.clone());
        let is_sent = self.out.send(Parcel { from, life, to, request, reply_bytes_max, reply }).is_ok();
        Box::pin(async move {
            let broken = || EgressError::Broken { detail: "the connection is gone".to_owned() };
            if is_sent { answer.await.unwrap_or_else(|_| Err(broken())) } else { Err(broken()) }
        })
    }
}

/// Every server has its address in the settings, so nobody is looked up.
pub struct NoNames;

impl Resolver for NoNames {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<std::net::IpAddr>, ResolveError>> {
        Box::pin(async { Err(ResolveError { detail: "nothing is looked up here".to_owned() }) })
    }

    fn services<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<ServiceRecord>, ResolveError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// What becomes of a request, drawn when it is sent.
struct Fate {
    there: Duration,
    back: Duration,
    loses_request: bool,
    loses_answer: bool,
    is_swallowed: bool,
    /// It arrives once more, so much later.
    again: Option<Duration>,
    /// The server stops working for who hung up.
    ends_with_caller: bool,
}

impl Fate {
    fn draw(random: &mut StdRng, is_stormy: bool) -> Self {
        let mut bad = |one_in: u32| random.random_ratio(1, one_in) && is_stormy;
        let (loses_request, loses_answer) = (bad(2 * LOST_ONE_IN), bad(2 * LOST_ONE_IN));
        let (is_late_there, is_late_back) = (bad(2 * LATE_ONE_IN), bad(2 * LATE_ONE_IN));
        let (is_doubled, ends_with_caller) = (bad(DOUBLED_ONE_IN), bad(2));
        let mut millis = |is_late: bool| {
            let most = if is_late { LATE_MS_MAX } else { USUAL_MS_MAX };
            Duration::from_millis(random.random_range(1..=most))
        };
        let (there, back, again) = (millis(is_late_there), millis(is_late_back), millis(is_late_there || is_late_back));
        let is_swallowed = random.random_ratio(1, SWALLOWED_ONE_IN);
        let again = is_doubled.then_some(again);
        Self { there, back, loses_request, loses_answer, is_swallowed, again, ends_with_caller }
    }
}

/// Carries parcels for as long as it is polled.
pub async fn carry(world: Rc<World>, mut sent: mpsc::UnboundedReceiver<Parcel>) {
    while let Some(parcel) = sent.recv().await {
        tokio::task::spawn_local(deliver(world.clone(), parcel));
    }
}

async fn deliver(world: Rc<World>, mut parcel: Parcel) {
    let from = parcel.from;
    let Some(to) = world.number_of(&parcel.to).filter(|_| world.is_alive(from, parcel.life)) else { return };
    let fate = Fate::draw(&mut world.network.borrow_mut(), world.is_stormy());
    let (method, uri) = (parcel.request.method().to_string(), parcel.request.uri().to_string());
    let number = world.count(|counts| {
        counts.requests += 1;
        counts.late += u64::from(fate.there + fate.back > Duration::from_secs(1));
        counts.requests
    });
    let body = digest(parcel.request.body());
    world.note(format_args!("request {number} {from}>{to} {method} {uri} {body:x}"));
    sleep(fate.there).await;
    if !world.is_alive(from, parcel.life) {
        return;
    }
    let life = world.life(to).filter(|_| world.is_reachable(from, to));
    let Some(life) = life.filter(|_| !fate.loses_request) else {
        let is_told = !fate.loses_request && !fate.is_swallowed;
        world.count(|counts| counts.dropped += 1);
        world.note(format_args!("request {number} does not arrive"));
        if is_told {
            let _ = parcel.reply.send(Err(EgressError::Connect { detail: "nobody is there".to_owned() }));
        } else {
            parcel.reply.closed().await;
        }
        return;
    };
    if let Some(later) = fate.again {
        let (world, life, request) = (world.clone(), life.clone(), written(&parcel.request));
        let uri = uri.clone();
        world.count(|counts| counts.doubled += 1);
        tokio::task::spawn_local(async move {
            sleep(later).await;
            let answered = life.answer(request).await;
            taken(&world, to, &uri, answered.as_ref());
            world.note(format_args!("request {number} again: {:?}", answered.map(|answered| answered.status)));
        });
    }
    let request = written(&parcel.request);
    let answered = if fate.ends_with_caller {
        tokio::select! {
            biased;
            () = parcel.reply.closed() => None,
            answered = life.answer(request) => answered,
        }
    } else {
        life.answer(request).await
    };
    taken(&world, to, &uri, answered.as_ref());
    sleep(fate.back).await;
    let answered = answered.filter(|_| is_there_still(&world, to, &life));
    let Some(answered) = answered else {
        world.note(format_args!("request {number} breaks"));
        return;
    };
    if fate.loses_answer || !world.is_reachable(from, to) {
        world.count(|counts| counts.dropped += 1);
        world.note(format_args!("answer {number} does not arrive"));
        parcel.reply.closed().await;
        return;
    }
    world.note(format_args!("answer {number} {} {:x}", answered.status, digest(&answered.body)));
    let _ = parcel.reply.send(as_reply(answered, parcel.reply_bytes_max));
}

fn is_there_still(world: &World, to: usize, life: &Rc<Life>) -> bool {
    world.life(to).is_some_and(|now| Rc::ptr_eq(&now, life))
}

/// What a server has taken with a 200 it must never lose, whether or not the answer arrives.
fn taken(world: &World, server: usize, uri: &str, answered: Option<&Answered>) {
    if answered.is_none_or(|answered| answered.status != 200) {
        return;
    }
    let path = uri.split_once('?').map_or(uri, |(path, _)| path);
    let parts: Vec<&str> = path.trim_start_matches("/_matrix/federation/").split('/').collect();
    if let [_, kind @ ("send_knock" | "send_join" | "send_leave"), room_id, event_id] = parts.as_slice() {
        if *kind == "send_knock" {
            world.count(|counts| counts.admissions += 1);
        }
        world.promise(server, plain(room_id), plain(event_id), (*kind).to_owned());
    }
}

/// Without percent-encoding.
fn plain(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn written(request: &http::Request<Bytes>) -> TestRequest {
    // actix-web speaks another version of the `http` crate.
    let method = Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or(Method::GET);
    let mut written = TestRequest::default().method(method).uri(&request.uri().to_string());
    for (name, value) in request.headers() {
        written = written.insert_header((name.as_str(), value.as_bytes()));
    }
    written.set_payload(request.body().clone())
}

fn as_reply(answered: Answered, bytes_max: usize) -> Answer {
    let broken = |error: &dyn std::error::Error| EgressError::Broken { detail: error.to_string() };
    let status = http::StatusCode::from_u16(answered.status).map_err(|error| broken(&error))?;
    if answered.body.len() > bytes_max {
        return Err(EgressError::ReplyTooLarge { bytes_max, status });
    }
    let mut reply = http::Response::builder().status(status);
    if let Some(seconds) = answered.retry_after {
        reply = reply.header(http::header::RETRY_AFTER, seconds);
    }
    reply.body(answered.body).map_err(|error| broken(&error))
}
