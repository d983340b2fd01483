//! Many who ask at once: requests written ahead, from any loopback address, over HTTP without TLS, in one thread.
//! May not: wait for one before it sends the next, or read more of an answer than status, pause and length.

use std::{
    cell::RefCell,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ruma::CanonicalJsonObject;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::LocalSet,
    time::timeout,
};
use vestibule_scenery::FakePeer;

/// For one answer: longer than any hold.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;

/// Somebody with an address and connections.
pub struct Caller {
    from: Ipv4Addr,
    to: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

impl Caller {
    pub fn new(from: Ipv4Addr, to: SocketAddr) -> Self {
        Self { from, to, idle: RefCell::default() }
    }

    /// One request, on a connection that is free or new.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(&self, request: &[u8]) -> Result<Reply, String> {
        let asking = async {
            let kept = self.idle.borrow_mut().pop();
            let again = match kept {
                // One that was idle may be closed by now.
                Some(stream) => self.ask_on(stream, request).await.ok(),
                None => None,
            };
            match again {
                Some(reply) => Ok(reply),
                None => self.ask_on(connect(self.from, self.to, None).await?, request).await,
            }
        };
        let answered = timeout(ANSWER_WITHIN, asking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut));
        answered.and_then(|reply| reply).map_err(|error| format!("{} to {}: {error}", self.from, self.to))
    }

    async fn ask_on(&self, mut stream: TcpStream, request: &[u8]) -> io::Result<Reply> {
        stream.write_all(request).await?;
        let mut answer = Vec::with_capacity(2048);
        let head_bytes = loop {
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if answer.len() > HEAD_MAX || stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(answer.get(..head_bytes).unwrap_or_default()).to_ascii_lowercase();
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let length = usize::try_from(number(field("content-length")).ok_or_else(bad)?).map_err(io::Error::other)?;
        while answer.len() < head_bytes + length {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if field("connection").as_deref() != Some("close") {
            self.idle.borrow_mut().push(stream);
        }
        Ok(Reply { status, retry_after: number(field("retry-after")) })
    }
}

/// A connection from an address of ours. `buffer`: bytes that it takes in without being read.
///
/// # Errors
/// There is none.
pub async fn connect(from: Ipv4Addr, to: SocketAddr, buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    socket.connect(to).await
}

/// A signed request as it goes over the line.
pub fn signed(peer: &FakePeer, method: &str, target: &str, content: Option<&CanonicalJsonObject>) -> Vec<u8> {
    written(method, target, &peer.authorization(method, target, content), content)
}

/// A request with that `Authorization` as it goes over the line.
pub fn written(method: &str, target: &str, authorization: &str, content: Option<&CanonicalJsonObject>) -> Vec<u8> {
    let body = content.and_then(|content| serde_json::to_string(content).ok()).unwrap_or_default();
    let length = if content.is_some() { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    format!("{method} {target} HTTP/1.1\r\nHost: crowd\r\nAuthorization: {authorization}\r\n{length}\r\n{body}").into()
}

/// Runs what needs a runtime in this thread.
///
/// # Errors
/// There is no runtime, or as the work has it.
pub fn in_this_thread<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    LocalSet::new().block_on(&runtime, work)
}

/// The number that a process shows under a name in its status, in KiB.
///
/// # Errors
/// There is no such process.
pub fn memory_kib(pid: u32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process without memory")?;
    line.split_whitespace().next().and_then(|number| number.parse().ok()).ok_or_else(|| line.to_owned())
}

/// Of so many out of a hundred the greatest.
pub fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap_or_default()
}

/// As a count for a closing line.
pub fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As a count for a closing line.
pub fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
