//! A server in memory whose client endpoints answer in the test's own thread.
//! May not: reach a network or a disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use actix_web::{
    body::MessageBody,
    dev::{Service, ServiceResponse},
    http::Method,
    test::{TestRequest, call_service, init_service, read_body},
    web::Data,
};
use futures_util::future::{FutureExt, LocalBoxFuture};
use serde_json::Value;
use vestibule_storage::{commit::Commit, room::RoomCommit};

use crate::{
    client_server,
    rate_limit::Rates,
    state::{App, Randomness},
    testing::{World, rates},
};

/// Bytes that differ from call to call.
#[derive(Default)]
struct Counting(AtomicU64);

impl Randomness for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = u8::try_from(self.0.fetch_add(7, Ordering::Relaxed) % 251).unwrap();
        }
    }
}

type Answering = Box<dyn Fn(TestRequest) -> LocalBoxFuture<'static, (u16, Value)>>;

/// The server `us.test`.
pub struct TestServer {
    world: World,
    answering: Answering,
}

impl TestServer {
    /// A server without users, rooms or rates.
    pub async fn start() -> Self {
        Self::with(rates(false)).await
    }

    /// The same with rates.
    pub async fn with(rates: Rates) -> Self {
        let World { app } = World::with(rates, |_| {});
        // The tests make several rooms, whose ids must differ.
        let mut app = Arc::try_unwrap(app.into_inner()).ok().unwrap();
        app.randomness = Arc::new(Counting::default());
        let app: Data<App> = Data::new(app);
        let service = init_service(actix_web::App::new().app_data(app.clone()).configure(client_server::routes)).await;
        let service = std::rc::Rc::new(service);
        let answering: Answering = Box::new(move |request| {
            let service = service.clone();
            async move { answer(&*service, request.to_request()).await }.boxed_local()
        });
        Self { world: World { app }, answering }
    }

    /// Makes a user whose access token is the localpart.
    pub async fn user(&self, localpart: &str) -> Client<'_> {
        self.world.user(localpart, false, localpart).await;
        Client::of(self, localpart)
    }

    /// How many clients wait for news.
    pub fn waiting(&self) -> usize {
        self.world.app.notifier.waiting()
    }

    /// Commits what a room's actor would.
    pub async fn commit(&self, commit: RoomCommit) {
        let writer = &self.world.app.stores.writer;
        let slot = writer.reserve().unwrap();
        writer.enqueue(slot, Commit::Room(Box::new(commit))).await.unwrap();
    }
}

/// A user's client.
pub struct Client<'a> {
    server: &'a TestServer,
    token: String,
}

impl<'a> Client<'a> {
    /// The client of a user who was made before.
    pub fn of(server: &'a TestServer, localpart: &str) -> Self {
        Self { server, token: localpart.to_owned() }
    }

    /// Asks below `/_matrix/client/v3` and gives back status and body.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.ask_at(method, &format!("/_matrix/client/v3{path}"), body).await
    }

    /// GET of a whole path that must succeed.
    pub async fn get_at(&self, path: &str) -> Value {
        let (status, answer) = self.ask_at(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// GET of a whole path that must fail: its status and errcode.
    pub async fn get_refused_at(&self, path: &str) -> (u16, String) {
        let (status, answer) = self.ask_at(Method::GET, path, Value::Null).await;
        assert_ne!(status, 200, "{path}: {answer}");
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    }

    async fn ask_at(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = TestRequest::with_uri(path)
            .method(method)
            .insert_header(("authorization", format!("Bearer {}", self.token)));
        let request = if body.is_null() { request } else { request.set_payload(body.to_string()) };
        (self.server.answering)(request).await
    }

    /// GET that must succeed.
    pub async fn get(&self, path: &str) -> Value {
        self.succeeds(Method::GET, path, Value::Null).await
    }

    /// POST that must succeed.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.succeeds(Method::POST, path, body).await
    }

    /// PUT that must succeed.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.succeeds(Method::PUT, path, body).await
    }

    /// GET that must fail: its status and errcode.
    pub async fn get_refused(&self, path: &str) -> (u16, String) {
        self.refused(Method::GET, path, Value::Null).await
    }

    /// POST that must fail: its status and errcode.
    pub async fn post_refused(&self, path: &str, body: Value) -> (u16, String) {
        self.refused(Method::POST, path, body).await
    }

    /// PUT that must fail: its status and errcode.
    pub async fn put_refused(&self, path: &str, body: Value) -> (u16, String) {
        self.refused(Method::PUT, path, body).await
    }

    /// Makes a room and gives back its id.
    pub async fn room(&self, wishes: Value) -> String {
        self.post("/createRoom", wishes).await["room_id"].as_str().unwrap().to_owned()
    }

    /// Says something.
    pub async fn say(&self, room: &str, text: &str) -> String {
        let body = serde_json::json!({"body": text, "msgtype": "m.text"});
        let said = self.put(&format!("/rooms/{room}/send/m.room.message/{text}"), body).await;
        said["event_id"].as_str().unwrap().to_owned()
    }

    async fn succeeds(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn refused(&self, method: Method, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.ask(method, path, body).await;
        assert_ne!(status, 200, "{path}: {answer}");
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

async fn answer<S, R, B>(service: &S, request: R) -> (u16, Value)
where
    S: Service<R, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody,
{
    let response = call_service(service, request).await;
    let status = response.status().as_u16();
    let body = read_body(response).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}
