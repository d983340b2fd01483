//! Opens connections for the pool: judges each address, connects, shakes hands.
//! May not: resolve, or connect to an address that the filter does not permit.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use super::{AddressFilter, EgressError, Route, RouteTable};

/// One address gets this long to take the connection before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The handshake as a whole. The request's own deadline may end it earlier.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of one route that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;

#[derive(Clone)]
pub(super) struct Connector {
    filter: Arc<AddressFilter>,
    tls: Arc<ClientConfig>,
    routes: Arc<RouteTable>,
}

impl Connector {
    pub(super) fn new(filter: AddressFilter, tls: Arc<ClientConfig>, routes: Arc<RouteTable>) -> Self {
        Self { filter: Arc::new(filter), tls, routes }
    }

    async fn open(self, route: Route) -> Result<EgressStream, EgressError> {
        let tcp = self.reach(&route.addresses).await?;
        let _ = tcp.set_nodelay(true);
        let handshake = TlsConnector::from(self.tls).connect(route.certificate_name, tcp);
        let tls = timeout(TLS_HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| EgressError::Timeout)?
            .map_err(|error| EgressError::Tls { detail: error.to_string() })?;
        Ok(EgressStream(TokioIo::new(tls)))
    }

    /// The first permitted address that answers.
    async fn reach(&self, addresses: &[SocketAddr]) -> Result<TcpStream, EgressError> {
        let mut outcome = if addresses.is_empty() { EgressError::NoAddress } else { EgressError::AddressDenied };
        let permitted = addresses.iter().filter(|address| self.filter.permits(address.ip()));
        for address in permitted.take(ADDRESSES_TRIED_MAX) {
            if !AddressFilter::permits_port(address.port()) {
                outcome = EgressError::PortDenied { port: address.port() };
                continue;
            }
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => outcome = EgressError::Connect { detail: error.to_string() },
                Err(_) => outcome = EgressError::Timeout,
            }
        }
        Err(outcome)
    }
}

impl Service<Uri> for Connector {
    type Response = EgressStream;
    type Error = EgressError;
    type Future = BoxFuture<'static, Result<EgressStream, EgressError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), EgressError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // Looked up here and not in the future: the request that asked still holds its route now.
        let route = uri.authority().and_then(|authority| self.routes.find(authority.as_str()));
        let connector = self.clone();
        Box::pin(async move { connector.open(route.ok_or(EgressError::NoAddress)?).await })
    }
}

/// A TLS connection in the form that the pool takes.
pub(super) struct EgressStream(TokioIo<TlsStream<TcpStream>>);

impl Connection for EgressStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for EgressStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for EgressStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, buffers)
    }
}
