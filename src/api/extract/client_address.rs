//! The address that a request comes from, as far as limits go.
//! May not: believe `X-Forwarded-For` from anybody but a configured proxy.

use std::{
    future::Ready,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Data};
use ipnet::IpNet;

use crate::{error::MatrixError, state::App};

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The client's address: the peer's own unless the peer is a trusted proxy. Then the list in `forwarded_for` (the lines
    /// of the header in their order) is read from its end, and the first address that is no trusted proxy counts.
    ///
    /// Source: SECURITY section 5, "Client address".
    pub fn of<'a>(peer: IpAddr, forwarded_for: impl Iterator<Item = &'a str>, trusted: &[IpNet]) -> Self {
        let is_trusted = |ip: &IpAddr| trusted.iter().any(|network| network.contains(ip));
        let mut client = peer.to_canonical();
        if !is_trusted(&client) {
            return Self(client);
        }
        let hops: Vec<&str> = forwarded_for.flat_map(|line| line.split(',')).map(str::trim).collect();
        for hop in hops.into_iter().rev() {
            let Some(address) = parse_hop(hop) else { break };
            client = address;
            if !is_trusted(&client) {
                break;
            }
        }
        Self(client)
    }

    /// What limits "by address" count: an IPv4 address, or an IPv6 /64, of which one host has all.
    #[must_use]
    pub fn for_limits(self) -> Self {
        match self.0 {
            IpAddr::V4(_) => self,
            IpAddr::V6(ip) => Self(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)))),
        }
    }

    /// The address of a request. A request without a peer address, which only in-process tests make, counts as unspecified.
    pub fn of_request(request: &HttpRequest, trusted: &[IpNet]) -> Self {
        let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let lines = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
        Self::of(peer, lines, trusted)
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let without_brackets = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let plain = without_brackets.parse::<IpAddr>().ok();
    plain.or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|ip| ip.to_canonical())
}

impl FromRequest for ClientAddress {
    type Error = MatrixError;
    type Future = Ready<Result<Self, MatrixError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let app = request.app_data::<Data<App>>().ok_or_else(MatrixError::internal);
        std::future::ready(app.map(|app| Self::of_request(request, &app.settings.trusted_proxies)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let table: [(&str, &[&str], &str); 12] = [
            ("192.0.2.9", &["198.51.100.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.7, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.7", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.7, 10.1.1.1"], "203.0.113.7"),
            ("10.0.0.1", &["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            ("10.0.0.1", &["198.51.100.1, nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8::5]:80"], "2001:db8::5"),
            ("fd00::1", &["2001:db8::5"], "2001:db8::5"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ];
        for (peer, lines, expected) in table {
            let client = ClientAddress::of(peer.parse().unwrap(), lines.iter().copied(), &trusted);
            assert_eq!(client.0, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn limits_count_ipv6_hosts_by_their_64() {
        let address = |text: &str| ClientAddress(text.parse().unwrap()).for_limits();
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }
}
