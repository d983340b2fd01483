//! A connection as it was accepted: counted for its address, and broken off when its other side stands still.
//! May not: read what goes over it. What a request is, actix knows; that one begins and ends, the door says.
//!
//! actix itself ends a connection that does not finish its first head, and one that is idle. It waits for ever for the head of
//! a later request, for a body that no handler reads, and for a reader who does not read.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Connections that one address may have open. Source: SECURITY T20.
pub const CONNECTIONS_BY_ADDRESS_MAX: usize = 64;

/// From one answer to the end of the next request's head, in which the connection may be idle for [`crate::KEEP_ALIVE`]. Ours.
pub const NEXT_HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Within this time a reader takes [`READ_BYTES_MIN`], or all there is. Ours: twice, with one hold of
/// [`crate::rate_limit::HOLD_MAX`] before the answer, it is still the 25 s of goal G14.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

/// See [`READ_DEADLINE`]. Ours: 3 KiB a second is less than any line over which servers talk.
pub const READ_BYTES_MIN: usize = 32 * 1024;

/// Counts the open connections of each address.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    by_address: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// The place of one connection among those of its address.
#[derive(Debug)]
pub struct Place {
    connections: Connections,
    address: IpAddr,
    /// How many that address had with this one.
    number: usize,
}

impl Connections {
    /// One more connection of an address, until its place is dropped.
    pub fn enter(&self, address: IpAddr) -> Place {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_address.entry(address).or_default();
        *open = open.saturating_add(1);
        Place { connections: self.clone(), address, number: *open }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.connections.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = by_address.get_mut(&self.address) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl Place {
    /// Whether its requests are answered.
    pub fn is_within_cap(&self) -> bool {
        self.number <= CONNECTIONS_BY_ADDRESS_MAX
    }

    /// Whether it is heard at all: as many again are told that they are too many, and the others are not worth a handshake.
    pub fn is_heard(&self) -> bool {
        self.number <= CONNECTIONS_BY_ADDRESS_MAX.saturating_mul(2)
    }
}

/// What the door and a connection know of each other.
#[derive(Debug, Default)]
pub struct Pace {
    place: Option<Place>,
    requests_open: Cell<usize>,
    /// By when the next request must have begun. `None`: one is open, or the first is still to come.
    next_head_by: Cell<Option<Instant>>,
}

impl Pace {
    /// Of a connection that may have a place among those of its address.
    pub fn new(place: Option<Place>) -> Rc<Self> {
        Rc::new(Self { place, ..Self::default() })
    }

    /// Whether the connection's requests are answered.
    pub fn is_within_cap(&self) -> bool {
        self.place.as_ref().is_none_or(Place::is_within_cap)
    }

    /// A request begins; it ends when what this returns is dropped.
    pub fn begin(self: &Rc<Self>) -> OpenRequest {
        self.requests_open.set(self.requests_open.get().saturating_add(1));
        self.next_head_by.set(None);
        OpenRequest { pace: Rc::clone(self) }
    }
}

/// A request of a connection, until its answer has been handed out.
#[derive(Debug)]
pub struct OpenRequest {
    pace: Rc<Pace>,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let left = self.pace.requests_open.get().saturating_sub(1);
        self.pace.requests_open.set(left);
        if left == 0 {
            self.pace.next_head_by.set(Some(Instant::now() + NEXT_HEAD_DEADLINE));
        }
    }
}

/// An answer's body, which is a part of its request.
pub struct BodyOfRequest<B> {
    body: B,
    _request: Option<OpenRequest>,
}

impl<B> BodyOfRequest<B> {
    /// The body of the answer to that request.
    pub fn new(body: B, request: Option<OpenRequest>) -> Self {
        Self { body, _request: request }
    }
}

impl<B: MessageBody + Unpin> MessageBody for BodyOfRequest<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// A socket with deadlines.
pub struct Paced<S> {
    socket: S,
    pace: Rc<Pace>,
    /// Looks at the pace of requests, now and then.
    look: Option<Pin<Box<Sleep>>>,
    reader: Option<SlowReader>,
}

/// A reader who has not taken all there is.
struct SlowReader {
    deadline: Pin<Box<Sleep>>,
    bytes_taken: usize,
}

impl<S> Paced<S> {
    /// The same socket at that pace.
    pub fn new(socket: S, pace: Rc<Pace>) -> Self {
        Self { socket, pace, look: None, reader: None }
    }

    /// What the door may know of it.
    pub fn pace(&self) -> &Rc<Pace> {
        &self.pace
    }

    /// Ready when the next request should have begun. Else the task is woken in time to look again.
    fn poll_next_head(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let by = self.pace.next_head_by.get();
            if by.is_some_and(|by| by <= now) {
                return Poll::Ready(());
            }
            // A request that ends later is still looked at in time.
            let look = self.look.get_or_insert_with(|| Box::pin(sleep_until(now + NEXT_HEAD_DEADLINE)));
            ready!(look.as_mut().poll(context));
            look.as_mut().reset(by.unwrap_or(now + NEXT_HEAD_DEADLINE));
        }
    }

    /// What came of a write; an error when the reader is too slow.
    fn note_write(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                if let Some(reader) = &mut self.reader {
                    reader.bytes_taken = reader.bytes_taken.saturating_add(bytes);
                    if reader.bytes_taken >= READ_BYTES_MIN {
                        self.reader = None;
                    }
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let reader = self.reader.get_or_insert_with(|| SlowReader {
                    deadline: Box::pin(sleep_until(Instant::now() + READ_DEADLINE)),
                    bytes_taken: 0,
                });
                ready!(reader.deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever is late is late, whatever comes.
        if self.poll_next_head(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.note_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.note_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Called when all was written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader = None;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn paced(buffer_bytes: usize) -> (Paced<DuplexStream>, DuplexStream, Rc<Pace>) {
        let (socket, other_side) = duplex(buffer_bytes);
        let pace = Pace::new(None);
        (Paced::new(socket, Rc::clone(&pace)), other_side, pace)
    }

    #[actix_web::test]
    async fn who_does_not_read_is_broken_off() {
        tokio::time::pause();
        let (mut ours, _other_side, _) = paced(1024);
        let begun = Instant::now();
        let error = ours.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), READ_DEADLINE.as_secs());
    }

    /// Writes a MiB to who reads so many bytes every second.
    async fn read_at(bytes_per_second: usize) -> io::Result<()> {
        let (mut ours, mut other_side, _) = paced(1024);
        let reader = actix_rt::spawn(async move {
            let mut taken = vec![0; bytes_per_second];
            while other_side.read_exact(&mut taken).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let written = ours.write_all(&[0; 1024 * 1024]).await;
        reader.abort();
        written
    }

    #[actix_web::test]
    async fn who_reads_a_few_bytes_now_and_then_is_broken_off_and_who_reads_slowly_is_not() {
        tokio::time::pause();
        assert_eq!(read_at(1).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        read_at(4 * 1024).await.unwrap();
    }

    #[actix_web::test]
    async fn what_was_taken_in_time_is_no_debt_of_the_next_answer() {
        tokio::time::pause();
        let (mut ours, mut other_side, _) = paced(1024);
        for _ in 0..3 {
            let mut taken = [0; 1500];
            let (written, read) =
                tokio::join!(async { ours.write_all(&[0; 1500]).await.and(ours.flush().await) }, async {
                    tokio::time::sleep(READ_DEADLINE * 3 / 4).await;
                    other_side.read_exact(&mut taken).await
                });
            written.unwrap();
            read.unwrap();
        }
    }

    #[actix_web::test]
    async fn the_next_head_has_its_time_whatever_comes_and_a_request_has_any() {
        tokio::time::pause();
        let (mut ours, mut other_side, pace) = paced(1024);
        let mut byte = [0];
        // The first head is actix's to wait for.
        for request in 0..2 {
            other_side.write_all(b"a").await.unwrap();
            ours.read_exact(&mut byte).await.unwrap();
            let open = pace.begin();
            let late = tokio::time::timeout(Duration::from_mins(10), ours.read(&mut byte)).await;
            assert!(late.is_err(), "request {request}");
            drop(open);
        }
        let begun = Instant::now();
        let drip = actix_rt::spawn(async move {
            while other_side.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let error = async {
            loop {
                ours.read_exact(&mut byte).await?;
            }
        };
        let error: io::Error = Result::<(), _>::unwrap_err(error.await);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), NEXT_HEAD_DEADLINE.as_secs());
        drip.abort();
    }

    #[test]
    fn an_address_is_answered_then_told_then_not_heard() {
        let connections = Connections::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let places: Vec<Place> = (0..3 * CONNECTIONS_BY_ADDRESS_MAX).map(|_| connections.enter(address)).collect();
        let count = |is: fn(&Place) -> bool| places.iter().filter(|place| is(place)).count();
        assert_eq!(count(Place::is_within_cap), CONNECTIONS_BY_ADDRESS_MAX);
        assert_eq!(count(Place::is_heard), 2 * CONNECTIONS_BY_ADDRESS_MAX);
        assert!(connections.enter(IpAddr::from([192, 0, 2, 2])).is_within_cap());
        drop(places);
        assert!(connections.enter(address).is_within_cap());
        assert!(connections.by_address.lock().unwrap().is_empty());
    }
}
