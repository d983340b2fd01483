//! Which IP addresses we connect to.
//! May not: resolve names; it judges the address that a connection is about to use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ports below this are other protocols' (mail, shells, …), 443 excepted.
const LOWEST_UNRESERVED_PORT: u16 = 1024;

/// Addresses that are no public server's: the IANA special-purpose registries plus every form that carries an IPv4 address
/// inside an IPv6 one. Default of `federation.denied_ip_ranges`.
pub const DEFAULT_DENIED_IP_RANGES: [IpNet; 33] = [
    v4([0, 0, 0, 0], 8),                       // this network, unspecified
    v4([10, 0, 0, 0], 8),                      // private
    v4([100, 64, 0, 0], 10),                   // carrier-grade NAT
    v4([127, 0, 0, 0], 8),                     // loopback
    v4([169, 254, 0, 0], 16),                  // link-local, cloud metadata
    v4([172, 16, 0, 0], 12),                   // private
    v4([192, 0, 0, 0], 24),                    // protocol assignments
    v4([192, 0, 2, 0], 24),                    // documentation
    v4([192, 31, 196, 0], 24),                 // AS112
    v4([192, 52, 193, 0], 24),                 // AMT relays
    v4([192, 88, 99, 0], 24),                  // 6to4 relays
    v4([192, 168, 0, 0], 16),                  // private
    v4([192, 175, 48, 0], 24),                 // AS112
    v4([198, 18, 0, 0], 15),                   // benchmarking
    v4([198, 51, 100, 0], 24),                 // documentation
    v4([203, 0, 113, 0], 24),                  // documentation
    v4([224, 0, 0, 0], 4),                     // multicast
    v4([240, 0, 0, 0], 4),                     // reserved, broadcast
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),          // unspecified, loopback, IPv4-compatible
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),     // IPv4-mapped
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),     // IPv4-translated
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),  // NAT64
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),  // local NAT64
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),      // discard
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),     // protocol assignments: Teredo, benchmarking, ORCHID
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),     // 6to4
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),     // documentation
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),     // segment routing
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),      // unique local
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),     // link-local
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),     // site-local, deprecated
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),      // multicast
];

/// Denied ranges, and the exceptions from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFilter {
    /// Ranges that are refused.
    pub denied: Vec<IpNet>,
    /// Ranges that are permitted although they are denied.
    pub allowed: Vec<IpNet>,
}

impl Default for AddressFilter {
    fn default() -> Self {
        Self { denied: DEFAULT_DENIED_IP_RANGES.to_vec(), allowed: Vec::new() }
    }
}

impl AddressFilter {
    /// Whether a connection to `address` may be opened.
    ///
    /// An address that carries others inside must pass for itself and for each of those, so that `::ffff:127.0.0.1` is
    /// not a way to 127.0.0.1.
    pub fn permits(&self, address: IpAddr) -> bool {
        self.permits_exactly(address)
            && carried_addresses(address).into_iter().all(|carried| self.permits_exactly(IpAddr::V4(carried)))
    }

    /// Whether a connection to `port` may be opened: 443 and everything from 1024.
    pub fn permits_port(port: u16) -> bool {
        port == 443 || port >= LOWEST_UNRESERVED_PORT
    }

    fn permits_exactly(&self, address: IpAddr) -> bool {
        let is_in = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        !is_in(&self.denied) || is_in(&self.allowed)
    }
}

/// The IPv4 addresses that some gateway would make of an IPv6 address.
fn carried_addresses(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return Vec::new();
    };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let last = join(g, h);
    match (a, b) {
        (0, 0) if (c, d) == (0, 0) && matches!((e, f), (0, 0 | 0xffff) | (0xffff, 0)) => vec![last],
        (0x64, 0xff9b) => vec![last],
        (0x2002, _) => vec![join(b, c)],
        // Teredo: its server in the clear, its client with every bit turned.
        (0x2001, 0) => vec![join(c, d), join(!g, !h)],
        _ => Vec::new(),
    }
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

const fn v4(octets: [u8; 4], prefix_len: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len))
}

const fn v6(segments: [u16; 8], prefix_len: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix_len))
}
