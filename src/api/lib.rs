//! The HTTP floor: parses, authenticates, asks, answers. One server for all listeners, one table of routes.
//! May not: write rooms, decide rules, or reach another server; rooms decide, the keyring fetches.
//!
//! A request's way: [`door`] (listener, browsers, panics) → route → [`extract`] (body, caller) → a handler in
//! [`client_server`], [`server_server`] or [`admin`] → `Rooms::ask` or a reader → answer, or a row of [`error`]'s table.

#![warn(missing_docs)]

pub mod admin;
pub mod client_server;
pub mod cpu_pool;
pub mod device_keys;
pub mod door;
pub mod error;
pub mod extract;
pub mod listener;
pub mod rate_limit;
pub mod restricted_join;
#[cfg(any(test, feature = "testing"))]
pub mod route_map;
pub mod server_server;
pub mod state;
mod well_known;

#[cfg(test)]
mod testing;

use std::{io, net::SocketAddr, num::NonZero, time::Duration};

use actix_web::{
    Error, HttpServer,
    body::MessageBody,
    dev::{Server, ServerHandle, ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web::{self, Data},
};

use self::{
    door::{ConnectionPlace, Connections, ServedAt},
    error::MatrixError,
    extract::body::JSON_BODY_BYTES_MAX,
};
pub use self::{
    listener::{Listener, Serves},
    state::App,
};

/// Connections open at once, on all listeners together. Source: SECURITY T20.
pub const CONNECTIONS_MAX: usize = 4_096;

/// From the first byte of a request to the end of its head. Source: SECURITY T20.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Of a TLS handshake. Source: SECURITY T20.
const TLS_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// How long an idle connection stays open. Source: SECURITY T20.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What is in flight may take so long after a graceful stop; the program promises to be gone within 10 s. Ours.
const STOP_DEADLINE_S: u64 = 8;

/// A server that has bound its listeners.
pub struct Serving {
    /// The listeners with the addresses that they got, in the order given.
    pub listeners: Vec<Listener>,
    /// Stops the server: `handle.stop(true)` lets requests in flight end.
    pub handle: ServerHandle,
    /// Runs until it is stopped; nothing is accepted unless it is polled.
    pub server: Server,
}

/// Binds all listeners and returns the one server behind them, with `workers` threads.
///
/// Signals are the caller's business. Must be called inside an actix system.
///
/// # Errors
/// When an address cannot be bound; then nothing is bound.
pub fn serve(app: Data<App>, listeners: &[Listener], workers: NonZero<usize>) -> io::Result<Serving> {
    let served_at = Data::new(ServedAt::default());
    let connections = Data::new(Connections::default());
    let factory = {
        let (served_at, connections) = (served_at.clone(), connections);
        move || application(app.clone(), served_at.clone(), connections.clone())
    };
    let mut server = HttpServer::new(factory)
        .workers(workers.get())
        .max_connections(CONNECTIONS_MAX.div_ceil(workers.get()))
        .client_request_timeout(HEAD_DEADLINE)
        .tls_handshake_timeout(TLS_HANDSHAKE_DEADLINE)
        .keep_alive(KEEP_ALIVE)
        // Else the first answer over TLS waits until the client has confirmed what the handshake ended with: 40 ms.
        .tcp_nodelay(true)
        .shutdown_timeout(STOP_DEADLINE_S)
        .disable_signals()
        .on_connect(|_, extensions| {
            extensions.insert(ConnectionPlace::default());
        });
    for listener in listeners {
        server = match &listener.tls {
            Some(tls) => server.bind_rustls_0_23(listener.address, rustls::ServerConfig::clone(tls))?,
            None => server.bind(listener.address)?,
        };
    }
    let bound: Vec<SocketAddr> = server.addrs();
    let listeners: Vec<Listener> =
        listeners.iter().zip(bound).map(|(listener, address)| Listener { address, ..listener.clone() }).collect();
    served_at.set(listeners.iter().map(|listener| (listener.address, listener.serves.clone())).collect());
    let server = server.run();
    Ok(Serving { listeners, handle: server.handle(), server })
}

/// All of the HTTP floor as one application: what [`serve`] puts behind its listeners, and what simulations ask in place.
pub fn application(
    app: Data<App>,
    served_at: Data<ServedAt>,
    connections: Data<Connections>,
) -> actix_web::App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    actix_web::App::new()
        .app_data(app)
        .app_data(served_at)
        .app_data(connections)
        .configure(routes)
        .default_service(web::to(door::unmatched))
        .wrap(from_fn(door::pass))
}

/// The route table. Which listener has which of these paths is [`listener::Area`]'s to say.
fn routes(config: &mut web::ServiceConfig) {
    // What frameworks would answer in their own words.
    config
        .app_data(
            web::JsonConfig::default()
                .limit(JSON_BODY_BYTES_MAX)
                .error_handler(|error, _| MatrixError::not_json(error).into()),
        )
        .app_data(web::QueryConfig::default().error_handler(|error, _| MatrixError::invalid_param(error).into()))
        .app_data(web::PathConfig::default().error_handler(|error, _| MatrixError::invalid_param(error).into()))
        .app_data(web::PayloadConfig::new(JSON_BODY_BYTES_MAX));

    // /.well-known/matrix/{client,server}
    well_known::routes(config);
    // /_matrix/client/*, /_synapse/admin/v1/register
    client_server::routes(config);
    // /_matrix/federation/*, /_matrix/key/v2/*
    server_server::routes(config);
    // /_vestibule/admin/v1/*, /metrics, /health, /ready
    admin::routes(config);
}

#[cfg(test)]
mod tests;
