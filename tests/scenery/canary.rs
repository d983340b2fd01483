//! Those to whom nobody may come, and the names that would lead there.
//! May not: answer.

use std::net::{SocketAddr, TcpListener};

/// An address of this machine in which nobody has any business.
pub const DENIED_HOST: &str = "127.0.0.99";

/// A listener to whom nobody may come.
pub struct Canary {
    pub port: u16,
    listener: TcpListener,
}

impl Canary {
    /// # Errors
    /// It cannot listen.
    pub fn at(address: SocketAddr) -> Result<Self, String> {
        let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        Ok(Self { port, listener })
    }

    /// On that address, whatever port is free.
    ///
    /// # Panics
    /// It cannot listen.
    #[track_caller]
    pub fn on(ip: &str) -> Self {
        Self::at(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap()
    }

    /// On every address of this machine.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn everywhere() -> Result<Self, String> {
        // One socket for both, where the system has both.
        Self::at(SocketAddr::from(([0_u16; 8], 0))).or_else(|_| Self::at(SocketAddr::from(([0, 0, 0, 0], 0))))
    }

    /// Whether somebody came since the last look. Connections wait to be accepted, so that none is missed.
    pub fn was_visited(&self) -> bool {
        self.listener.accept().is_ok()
    }

    /// # Panics
    /// Somebody came.
    #[track_caller]
    pub fn assert_alone(&self, what: &str) {
        assert!(!self.was_visited(), "{what}: somebody came");
    }
}

/// Every way in which a name leads to [`DENIED_HOST`].
pub fn disguises(port: u16) -> Vec<String> {
    [
        DENIED_HOST,
        "[::ffff:127.0.0.99]",
        "[::ffff:7f00:63]",
        "[::127.0.0.99]",
        "[64:ff9b::7f00:63]",
        "[64:ff9b::127.0.0.99]",
        "[64:ff9b:1::7f00:63]",
        "[2002:7f00:63::]",
        "[2001:0:7f00:63::80ff:ff9c]",
        "127.99",
        "127.0.99",
        "0x7f.0.0.99",
        "0x7f.99",
        "2130706531",
        "0x7f000063",
        "0177.0.0.99",
        "127.0.0.99.",
    ]
    .map(|host| format!("{host}:{port}"))
    .into()
}
