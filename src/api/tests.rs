//! Listeners, browsers, panics, and what frameworks would answer by themselves.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use actix_web::{
    HttpResponse,
    dev::Service as _,
    http::{Method, StatusCode, header},
    test::{TestRequest, init_service},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    connection::CONNECTIONS_BY_ADDRESS_MAX,
    rate_limit::HELD_MAX,
    testing::{World, ask, rates, served},
};

const ALL: [Serves; 3] = [Serves::Client, Serves::Federation, Serves::Admin];

#[actix_web::test]
async fn paths_of_other_listeners_are_not_there() {
    let world = World::new();
    let table = [
        ("/_matrix/federation/v1/version", Serves::Federation),
        ("/_matrix/key/v2/server", Serves::Federation),
        ("/_matrix/client/versions", Serves::Client),
        ("/health", Serves::Admin),
        ("/metrics", Serves::Admin),
        ("/_vestibule/admin/v1/actors", Serves::Admin),
        // The router decodes; so must the one who decides what is here.
        ("/%5Fvestibule/admin/v1/actors", Serves::Admin),
        ("/%68ealth", Serves::Admin),
    ];
    for listener in ALL {
        let service = init_service(world.application(&[listener])).await;
        for (path, owner) in table {
            let (status, body) = ask(&service, TestRequest::with_uri(path).to_request()).await;
            let is_login = path == "/_matrix/client/versions" && listener == Serves::Admin;
            if listener == owner || is_login {
                assert_ne!(status, 404, "{path} on {listener}: {body}");
            } else {
                assert_eq!((status, &body["errcode"]), (404, &json!("M_UNRECOGNIZED")), "{path} on {listener}");
            }
        }
    }
}

#[actix_web::test]
async fn unknown_paths_and_methods_are_unrecognized() {
    let world = World::new();
    let service = init_service(world.application(&ALL)).await;
    let table = [
        (Method::GET, "/", 404),
        (Method::GET, "/_matrix/federation/v1/nothing", 404),
        (Method::GET, "/_matrix/client/v3/nothing", 404),
        (Method::GET, "/_matrix/federation/v1/make_knock/!r:x", 404),
        (Method::GET, "/_matrix/federation/v1/make_knock//@u:x", 404),
        (Method::POST, "/_matrix/federation/v1/version", 405),
        (Method::GET, "/_matrix/federation/v1/send_knock/!r:x/$e", 405),
        (Method::PUT, "/_matrix/federation/v1/make_knock/!r:x/@u:x", 405),
        (Method::DELETE, "/_matrix/key/v2/server", 405),
        (Method::POST, "/_vestibule/admin/v1/actors", 405),
        (Method::PATCH, "/_matrix/client/versions", 405),
        (Method::OPTIONS, "/_matrix/federation/v1/version", 405),
    ];
    for (method, path, status) in table {
        let request = TestRequest::with_uri(path).method(method.clone()).to_request();
        let (found, body) = ask(&service, request).await;
        assert_eq!((found, &body["errcode"]), (status, &json!("M_UNRECOGNIZED")), "{method} {path}");
        assert!(body["error"].is_string(), "{method} {path}");
    }
}

#[actix_web::test]
async fn client_paths_are_open_to_browsers() {
    let world = World::with(rates(false), |settings| settings.well_known_client = Some("https://us.test".to_owned()));
    let service = init_service(world.application(&ALL)).await;
    let table = [
        (Method::OPTIONS, "/_matrix/client/v3/sync", 200, true),
        (Method::OPTIONS, "/_matrix/client/v3/nothing", 200, true),
        (Method::OPTIONS, "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", 200, true),
        (Method::GET, "/_matrix/client/versions", 200, true),
        (Method::GET, "/_matrix/client/v3/account/whoami", 401, true),
        (Method::GET, "/_matrix/client/v3/nothing", 404, true),
        (Method::PATCH, "/_matrix/client/versions", 405, true),
        (Method::GET, "/.well-known/matrix/client", 200, true),
        (Method::GET, "/.well-known/matrix/server", 404, true),
        (Method::GET, "/_matrix/federation/v1/version", 200, false),
        (Method::GET, "/health", 200, false),
    ];
    for (method, path, status, is_open) in table {
        let request = TestRequest::with_uri(path).method(method.clone()).to_request();
        let response = service.call(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        let said = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(said(header::ACCESS_CONTROL_ALLOW_ORIGIN), is_open.then_some("*"), "{method} {path}");
        if is_open {
            assert_eq!(said(header::ACCESS_CONTROL_ALLOW_METHODS), Some("GET, POST, PUT, DELETE, OPTIONS"));
            let headers = said(header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap();
            assert!(headers.contains("Authorization") && headers.contains("Content-Type"), "{headers}");
        }
    }
}

#[actix_web::test]
async fn well_known_says_what_is_configured_and_nothing_else() {
    let configured = World::with(rates(false), |settings| {
        settings.well_known_client = Some("https://matrix.us.test".to_owned());
        settings.well_known_server = Some("matrix.us.test:443".try_into().unwrap());
    });
    let service = init_service(configured.application(&[Serves::Client])).await;
    let get = |path: &str| TestRequest::with_uri(path).to_request();
    let client = ask(&service, get("/.well-known/matrix/client")).await;
    assert_eq!(client, (200, json!({ "m.homeserver": { "base_url": "https://matrix.us.test" } })));
    let server = ask(&service, get("/.well-known/matrix/server")).await;
    assert_eq!(server, (200, json!({ "m.server": "matrix.us.test:443" })));
    let service = init_service(World::new().application(&[Serves::Client])).await;
    for path in ["/.well-known/matrix/client", "/.well-known/matrix/server"] {
        let (status, body) = ask(&service, get(path)).await;
        assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{path}");
    }
}

#[actix_web::test]
async fn a_panic_is_an_answer_and_a_count() {
    async fn panics() -> HttpResponse {
        panic!("meant")
    }
    let world = World::new();
    let app = actix_web::App::new()
        .app_data(world.app.clone())
        .app_data(served(&ALL))
        .route("/_matrix/client/v3/panics", web::get().to(panics))
        .wrap(from_fn(door::pass));
    let service = init_service(app).await;
    let get = || TestRequest::with_uri("/_matrix/client/v3/panics").to_request();
    let error = service.call(get()).await.err().unwrap();
    let response = error.error_response();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).unwrap(), "*");
    let (status, body) = ask(&service, get()).await;
    assert_eq!((status, &body["errcode"]), (500, &json!("M_UNKNOWN")));
    assert!(!body.to_string().contains("meant"));
    assert_eq!(world.app.vitals.panics(), 2);
}

/// Sends text over a fresh connection and reads until the server closes it.
fn exchange(address: SocketAddr, text: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    // A reset after the answer is as good as a close.
    let _closed = connection.read_to_string(&mut answer).is_ok();
    answer
}

async fn exchange_with(address: SocketAddr, text: impl Into<String>) -> String {
    let text = text.into();
    tokio::task::spawn_blocking(move || exchange(address, &text)).await.unwrap()
}

fn body_of(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap_or(Value::Null)
}

fn listening(kinds: &[Serves]) -> Listener {
    Listener { address: ([127, 0, 0, 1], 0).into(), serves: kinds.iter().copied().collect(), tls: None }
}

#[actix_web::test]
async fn one_server_routes_by_the_listener_that_accepted() {
    let world = World::new();
    let listeners = [listening(&[Serves::Client]), listening(&[Serves::Federation]), listening(&[Serves::Admin])];
    let serving = serve(world.app.clone(), &listeners, NonZero::<usize>::MIN).unwrap();
    let [client, federation, admin] = serving.listeners.iter().map(|listener| listener.address).collect::<Vec<_>>()[..]
    else {
        panic!("three listeners");
    };
    assert!([client, federation, admin].iter().all(|address| address.port() != 0));
    let running = actix_rt::spawn(serving.server);
    // A header cannot move a request to another listener.
    let get = |path: &str, port: u16| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Forwarded-Host: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        )
    };
    for (path, owner) in
        [("/_matrix/client/v3/login", client), ("/_matrix/federation/v1/version", federation), ("/health", admin)]
    {
        for listener in [client, federation, admin] {
            let answer = exchange_with(listener, get(path, owner.port())).await;
            let is_there = listener == owner || (path.ends_with("login") && listener == admin);
            let expected = if is_there { "HTTP/1.1 200" } else { "HTTP/1.1 404" };
            assert!(answer.starts_with(expected), "{path}: {answer}");
        }
    }
    serving.handle.stop(true).await;
    running.await.unwrap().unwrap();
    assert!(TcpStream::connect(client).is_err());
}

#[actix_web::test]
async fn bodies_are_capped_whatever_the_headers_say() {
    let world = World::new();
    let serving = serve(world.app.clone(), &[listening(&ALL)], NonZero::<usize>::MIN).unwrap();
    let address = serving.listeners[0].address;
    let running = actix_rt::spawn(serving.server);
    let put = |headers: &str, body: &str| {
        format!(
            "PUT /_matrix/federation/v1/send_knock/!r:x/$e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    };
    let stated = exchange_with(address, put("Content-Length: 131073\r\n", "")).await;
    assert!(stated.starts_with("HTTP/1.1 413"), "{stated}");
    assert_eq!(body_of(&stated)["errcode"], "M_TOO_LARGE");
    let chunk = format!("20001\r\n{}\r\n0\r\n\r\n", "x".repeat(0x20001));
    let chunked = exchange_with(address, put("Transfer-Encoding: chunked\r\n", &chunk)).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    let multipart = exchange_with(
        address,
        put("Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1073741824\r\n", ""),
    )
    .await;
    assert!(multipart.starts_with("HTTP/1.1 415"), "{multipart}");
    let both = exchange_with(address, put("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "{}")).await;
    assert!(!both.starts_with("HTTP/1.1 2"), "V89: {both}");
    let twice = exchange_with(address, put("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")).await;
    assert!(twice.starts_with("HTTP/1.1 400"), "V89: {twice}");
    serving.handle.stop(true).await;
    running.await.unwrap().unwrap();
}

#[actix_web::test]
async fn one_address_has_64_connections() {
    let world = World::with(rates(true), |_| {});
    let serving = serve(world.app.clone(), &[listening(&[Serves::Admin])], NonZero::<usize>::MIN).unwrap();
    let address = serving.listeners[0].address;
    let running = actix_rt::spawn(serving.server);
    let outcomes = tokio::task::spawn_blocking(move || {
        let mut open = Vec::new();
        let first_lines = (0..CONNECTIONS_BY_ADDRESS_MAX + 1).map(|_| {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut line = [0; 12];
            connection.read_exact(&mut line).unwrap();
            open.push(connection);
            String::from_utf8(line.to_vec()).unwrap()
        });
        first_lines.collect::<Vec<_>>()
    })
    .await
    .unwrap();
    let (last, within) = outcomes.split_last().unwrap();
    assert!(within.iter().all(|line| line == "HTTP/1.1 200"), "{within:?}");
    assert_eq!(last, "HTTP/1.1 429");
    serving.handle.stop(false).await;
    running.await.unwrap().unwrap();
    // One address cannot take all places for held requests.
    const { assert!(HELD_MAX > CONNECTIONS_BY_ADDRESS_MAX) };
}

#[actix_web::test]
async fn an_address_with_twice_as_many_connections_is_not_heard_unless_it_is_a_trusted_proxy() {
    for (is_limited, trusted, first_line) in
        [(true, None, ""), (true, Some("127.0.0.0/8"), "HTTP/1.1 200 OK"), (false, None, "HTTP/1.1 200 OK")]
    {
        let world = World::with(rates(is_limited), |settings| {
            settings.trusted_proxies = trusted.iter().map(|network| network.parse().unwrap()).collect();
        });
        let serving = serve(world.app.clone(), &[listening(&[Serves::Admin])], NonZero::<usize>::MIN).unwrap();
        let address = serving.listeners[0].address;
        let running = actix_rt::spawn(serving.server);
        let answer = tokio::task::spawn_blocking(move || {
            // They are taken in the order in which they come; who says nothing has five seconds.
            let silent: Vec<TcpStream> =
                (0..2 * CONNECTIONS_BY_ADDRESS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
            let answer = exchange(address, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            drop(silent);
            answer
        })
        .await
        .unwrap();
        assert_eq!(answer.lines().next().unwrap_or_default(), first_line, "{is_limited}, {trusted:?}");
        serving.handle.stop(false).await;
        running.await.unwrap().unwrap();
    }
}
