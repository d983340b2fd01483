//! Those to whom somebody may come: they count.
//! May not: answer anything.

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What a listener does with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// It ends it.
    Nothing,
    /// It has it until the other side ends it.
    Everything,
}

/// A listener that counts its connections, in all and at once.
pub struct Tally {
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    came: AtomicUsize,
    at_once: AtomicUsize,
}

impl Tally {
    /// # Errors
    /// It cannot listen.
    pub fn of(address: &str, keeps: Keeps) -> Result<Self, String> {
        let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let counts = Arc::new(Counts::default());
        let counting = counts.clone();
        // Ends with the process: it holds nothing but sockets.
        thread::spawn(move || {
            let mut kept: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                counting.came.fetch_add(1, Ordering::SeqCst);
                if keeps == Keeps::Everything && stream.set_nonblocking(true).is_ok() {
                    // Who left before this one came is not there at once with it.
                    kept.retain_mut(is_there);
                    kept.push(stream);
                    counting.at_once.fetch_max(kept.len(), Ordering::SeqCst);
                }
            }
        });
        Ok(Self { address, counts })
    }

    pub fn count(&self) -> usize {
        self.counts.came.load(Ordering::SeqCst)
    }

    pub fn at_once(&self) -> usize {
        self.counts.at_once.load(Ordering::SeqCst)
    }
}

fn is_there(stream: &mut TcpStream) -> bool {
    let mut scratch = [0; 4096];
    loop {
        match stream.read(&mut scratch) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
