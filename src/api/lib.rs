//! The HTTP floor: parses, authenticates, asks, answers. One server for all listeners, one table of routes.
//! May not: write rooms, decide rules, or reach another server; rooms decide, the keyring fetches.
//!
//! A request's way: [`door`] (listener, browsers, panics) → route → [`extract`] (body, caller) → a handler in
//! [`client_server`], [`server_server`] or [`admin`] → `Rooms::ask` or a reader → answer, or a row of [`error`]'s table.

#![warn(missing_docs)]

pub mod admin;
pub mod client_server;
mod connection;
pub mod cpu_pool;
mod desk;
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

use std::{io, net::SocketAddr, num::NonZero, rc::Rc, time::Duration};

use actix_http::{HttpService, error::DispatchError};
use actix_server::{GracefulShutdownSignal, Server, ServerHandle};
use actix_service::{ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::{
    Error, Scope,
    body::MessageBody,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    guard::fn_guard,
    middleware::from_fn,
    web::{self, Data},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::{
    connection::{Connections, Pace, Paced},
    door::Served,
    error::MatrixError,
    extract::{ClientAddress, body::JSON_BODY_BYTES_MAX},
    listener::Area,
};
pub use self::{
    listener::{Listener, Serves},
    state::App,
};

/// Connections open at once, on all listeners together. Source: SECURITY T20.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Connections that wait to be accepted, on each listener, as far as the system lets them. Ours: as many as can be open.
const WAITING_MAX: u32 = 4_096;

/// Bytes of an answer that the system holds for a reader; it doubles this. Ours: 5 MB/s at a tenth of a second's distance. Left to
/// itself the system holds up to 4 MiB for each, and who reads nothing seems to read as long as it finds more room.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// From its acceptance to the end of a connection's first head. Source: SECURITY T20.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Of a TLS handshake. Source: SECURITY T20.
const TLS_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// How long an idle connection stays open. Source: SECURITY T20.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long what comes is still read after an answer that ends the connection, so that the answer arrives. Ours.
const LINGER: Duration = Duration::from_secs(1);

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
    let connections = Connections::default();
    let mut server = Server::build()
        .workers(workers.get())
        .max_concurrent_connections(CONNECTIONS_MAX.div_ceil(workers.get()))
        .shutdown_timeout(STOP_DEADLINE_S)
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    let mut bound = Vec::new();
    for listener in listeners {
        let socket = bind(listener.address)?;
        let listener = Listener { address: socket.local_addr()?, ..listener.clone() };
        let name = listener.address.to_string();
        let (app, served, stopping) = (app.clone(), Data::new(Served(listener.serves.clone())), stopping.clone());
        let door = Door { app: app.clone(), connections: connections.clone() };
        let application = move || application(app.clone(), served.clone());
        server = match listener.tls.clone().map(TlsAcceptor::from) {
            None => server.listen(name, socket, move || {
                let door = door.clone();
                let accept = move |tcp| std::future::ready(door.accept(tcp));
                fn_service(accept).and_then(http(application(), stopping.clone(), Paced::pace))
            })?,
            Some(tls) => server.listen(name, socket, move || {
                let (door, tls) = (door.clone(), tls.clone());
                let accept = move |tcp| {
                    let (accepted, tls) = (door.accept(tcp), tls.clone());
                    async move {
                        let (tcp, peer) = accepted?;
                        let handshake = timeout(TLS_HANDSHAKE_DEADLINE, tls.accept(tcp)).await;
                        let stream = handshake.map_err(|_| DispatchError::SlowRequestTimeout)??;
                        Ok((stream, peer))
                    }
                };
                fn_service(accept).and_then(http(application(), stopping.clone(), pace_under_tls))
            })?,
        };
        bound.push(listener);
    }
    let server = server.run();
    Ok(Serving { listeners: bound, handle: server.handle(), server })
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections have it from their listener.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(WAITING_MAX)?.into_std()
}

/// Where connections come in.
#[derive(Clone)]
struct Door {
    app: Data<App>,
    connections: Connections,
}

impl Door {
    /// Counts a connection, and turns it away when its address has far too many. Proxies that the operator trusts speak for
    /// many and are not counted.
    fn accept(&self, tcp: TcpStream) -> Result<(Paced<TcpStream>, Option<SocketAddr>), DispatchError> {
        let peer = tcp.peer_addr()?;
        let address = peer.ip().to_canonical();
        let is_trusted = self.app.settings.trusted_proxies.iter().any(|network| network.contains(&address));
        let is_counted = self.app.limits.enabled && !is_trusted;
        let place = is_counted.then(|| self.connections.enter(ClientAddress(address).for_limits().0));
        if place.as_ref().is_some_and(|place| !place.is_heard()) {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        // Else the first answer over TLS waits until the client has confirmed what the handshake ended with: 40 ms.
        tcp.set_nodelay(true)?;
        Ok((Paced::new(tcp, Pace::new(place)), Some(peer)))
    }
}

fn pace_under_tls(stream: &TlsStream<Paced<TcpStream>>) -> &Rc<Pace> {
    stream.get_ref().0.pace()
}

/// HTTP/1.1 over connections whose pace is known.
fn http<S, B, T>(
    application: actix_web::App<S>,
    stopping: GracefulShutdownSignal,
    pace: fn(&T) -> &Rc<Pace>,
) -> impl ServiceFactory<(T, Option<SocketAddr>), Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    S: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<B>, Error = Error, InitError = ()>,
    S: 'static,
    B: MessageBody + 'static,
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_DEADLINE)
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(move |stream: &T, extensions| {
            extensions.insert(Rc::clone(pace(stream)));
        })
        .h1(map_config(application, |()| AppConfig::default()).map_err(|error: Error| error.error_response()))
}

/// All of the HTTP floor as one application: what [`serve`] puts behind its listeners, and what simulations ask in place.
pub fn application(
    app: Data<App>,
    served: Data<Served>,
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
        .app_data(served)
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
    // /_matrix/federation/*, /_matrix/key/v2/*
    config.service(in_areas(&[Area::Federation]).configure(server_server::routes));
    // /_matrix/client/*, /_synapse/admin/v1/register
    config.service(in_areas(&[Area::Client, Area::Login]).configure(client_server::routes));
    // /desk
    config.service(in_areas(&[Area::Desk]).configure(desk::routes));
    // /_vestibule/admin/v1/*, /metrics, /health, /ready
    config.service(in_areas(&[Area::Admin]).configure(admin::routes));
}

/// Routes of these areas. The router tries one pattern after the other; so a request meets those of its own area alone.
fn in_areas(areas: &'static [Area]) -> Scope {
    web::scope("")
        .guard(fn_guard(move |request| request.req_data().get::<Area>().is_some_and(|area| areas.contains(area))))
}

#[cfg(test)]
mod tests;
