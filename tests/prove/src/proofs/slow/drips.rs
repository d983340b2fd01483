//! Connections that go as slowly as they are let: each says nothing, or one byte a second, or does not read, until it is cut off.
//! May not: judge how long that may take.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    time::{sleep_until, timeout},
};

use crate::crowd::connect;

/// Between two bytes of one connection.
const DRIP_EVERY: Duration = Duration::from_secs(1);

/// Receive buffer of who does not read, so that little fits into it.
const SMALL_BUFFER: u32 = 4 * 1024;

const REQUEST: &[u8] = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: slow\r\n\r\n";

/// Where the server listens: with TLS, and without, where everything is served.
#[derive(Clone, Copy)]
pub struct Doors {
    pub tls: SocketAddr,
    pub plain: SocketAddr,
}

/// How a connection is slow.
#[derive(Clone, PartialEq, Eq)]
pub enum Habit {
    /// Connects, and says nothing.
    Silent,
    /// Begins a TLS handshake, byte by byte.
    HalfHandshake,
    /// Begins a request, byte by byte.
    Head,
    /// The same after a first request was answered.
    NextHead,
    /// Has a body to come, byte by byte.
    Body,
    /// Has a body to come in pieces, byte by byte, for nobody: there is nothing at that path.
    BodyForNobody,
    /// The same, of which nothing comes.
    NoBodyForNobody,
    /// Asks this, for more than the buffers on the way can hold, and does not read the answers.
    Unread(String),
}

/// Those of which any number can be there; a connection for which little is needed comes twice as often.
pub const HABITS: [Habit; 9] = [
    Habit::Silent,
    Habit::HalfHandshake,
    Habit::Silent,
    Habit::HalfHandshake,
    Habit::Head,
    Habit::NextHead,
    Habit::Body,
    Habit::BodyForNobody,
    Habit::NoBodyForNobody,
];

impl Habit {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Silent => "who says nothing",
            Self::HalfHandshake => "half a TLS handshake",
            Self::Head => "half a head",
            Self::NextHead => "half a second head",
            Self::Body => "half a body",
            Self::BodyForNobody => "half a body for nobody",
            Self::NoBodyForNobody => "the head of a body for nobody",
            Self::Unread(requests) if requests.contains("/federation/") => "who does not read a whole state",
            Self::Unread(_) => "who does not read",
        }
    }

    /// What is said at once, after the first answer when one is awaited.
    fn begins_with(&self) -> Vec<u8> {
        match self {
            Self::Silent => Vec::new(),
            // A record of 512 bytes that holds a hello of 508, as far as its version.
            Self::HalfHandshake => vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3],
            Self::Head | Self::NextHead => b"GET /_matrix/client/versions HTTP/1.1\r\nHost: slow\r\nX-Slow: ".to_vec(),
            Self::Body => {
                b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: slow\r\nContent-Length: 1000\r\n\r\n{".to_vec()
            }
            Self::BodyForNobody | Self::NoBodyForNobody => {
                b"POST /nowhere HTTP/1.1\r\nHost: slow\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
            }
            Self::Unread(requests) => requests.clone().into_bytes(),
        }
    }

    /// What is said every second.
    fn goes_on_with(&self) -> &'static [u8] {
        match self {
            Self::Silent | Self::NoBodyForNobody => b"",
            Self::BodyForNobody => b"1\r\na\r\n",
            // Of a next request; when the server is gone, this is how it shows.
            Self::Unread(_) => b"G",
            Self::HalfHandshake | Self::Head | Self::NextHead | Self::Body => b"a",
        }
    }

    fn reads(&self) -> bool {
        !matches!(self, Self::Unread(_))
    }
}

/// Opens a connection and is slow on it until the server ends it; how long that took. `None`: it did not within `within`.
///
/// # Errors
/// There is no connection.
pub async fn drip(habit: &Habit, from: Ipv4Addr, to: Doors, within: Duration) -> Result<Option<Duration>, String> {
    let door = if matches!(habit, Habit::Silent | Habit::HalfHandshake) { to.tls } else { to.plain };
    let buffer = (!habit.reads()).then_some(SMALL_BUFFER);
    let connected = timeout(within, connect(from, door, buffer)).await.map_err(|_| "nobody took the connection")?;
    let stream = connected.map_err(|error| format!("{from} to {door}: {error}"))?;
    if *habit == Habit::NextHead {
        write(&stream, REQUEST).await.ok_or("it was closed before the first request")?;
        stream.readable().await.map_err(|error| error.to_string())?;
    }
    let begun = Instant::now();
    let is_closed = write(&stream, &habit.begins_with()).await.is_none();
    let gone = async { if is_closed { None } else { until_closed(&stream, habit).await } };
    Ok(timeout(within, gone).await.ok().map(|_: Option<()>| begun.elapsed()))
}

/// Ends with the connection.
async fn until_closed(stream: &TcpStream, habit: &Habit) -> Option<()> {
    let mut next = Instant::now() + DRIP_EVERY;
    let mut scratch = [0; 4096];
    loop {
        tokio::select! {
            () = sleep_until(next.into()) => {
                write(stream, habit.goes_on_with()).await?;
                next += DRIP_EVERY;
            }
            ready = stream.readable(), if habit.reads() => {
                ready.ok()?;
                match stream.try_read(&mut scratch) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        }
    }
}

/// Writes all of it. `None`: the connection is gone.
async fn write(stream: &TcpStream, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        stream.writable().await.ok()?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(())
}
