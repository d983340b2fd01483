//! Target `names`: server names, against the grammar and against what resolvers take for an address.
//! May not: look a name up.
//!
//! Spec: <https://spec.matrix.org/v1.19/appendices/#server-name>

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use rand::{RngExt, rngs::StdRng};
use ruma::ServerName;
use vestibule_federation::answers::certificate_name;

use super::super::{
    JUDGED_WITHIN, Target, Verdict,
    drawing::{Input, mutate, one_of},
};
use crate::proof::{Plant, Settings};

pub static SLOW: Plant = Plant { name: "slow-name", what: "some long names take more than a second", cases: 4_000 };

/// Bytes of a name: a DNS name, a colon, a port.
const NAME_BYTES_MAX: usize = 261;

const HOSTS: [&str; 24] = [
    "peer.test",
    "PEER.Test",
    "a-b.c",
    "-",
    ".",
    "peer.test.",
    "xn--vl-jma.test",
    "localhost",
    "1.2.3.4",
    "1.2.3.256",
    "01.2.3.4",
    "127.1",
    "0x7f.1",
    "0x7f",
    "1.0x7f",
    "017700000001",
    "2130706433",
    "[::1]",
    "[2001:db8::1]",
    "[::ffff:1.2.3.4]",
    "[::1%1]",
    "[1.2.3.4]",
    "[]",
    "bücher.test",
];
const PORTS: [&str; 14] =
    ["", "", "", ":1", ":8448", ":65535", ":65536", ":0", ":", ":+8448", ":008448", ":0000000001", ":-1", ":a"];

pub fn make() -> Result<Box<dyn Target>, String> {
    Ok(Box::new(Names))
}

struct Names;

impl Target for Names {
    fn draw(&self, random: &mut StdRng) -> Input {
        let host = match random.random_range(0..10) {
            0 => vec!["a1-"; random.random_range(1..110)].concat(),
            1 => {
                let part = |random: &mut StdRng| match random.random_range(0..4) {
                    0 => format!("0x{:x}", random.random_range(0..300)),
                    1 => format!("0{:o}", random.random_range(0..300)),
                    2 => format!("n{}", random.random_range(0..300)),
                    _ => random.random_range(0..300).to_string(),
                };
                (0..random.random_range(1..6)).map(|_| part(random)).collect::<Vec<_>>().join(".")
            }
            2 => format!("[{}]", Ipv6Addr::from_bits(random.random::<u128>() >> random.random_range(0..128))),
            _ => one_of(&HOSTS, random).to_owned(),
        };
        let mut bytes = (host + one_of(&PORTS, random)).into_bytes();
        if random.random_ratio(1, 4) {
            let other = one_of(&HOSTS, random).as_bytes().to_vec();
            mutate(&mut bytes, &[other], random);
        }
        Input::new(bytes, random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let Ok(text) = std::str::from_utf8(&input.bytes) else { return Ok(Verdict::Refused) };
        if settings.has(&SLOW) && text.len() > 255 {
            let begun = Instant::now();
            while begun.elapsed() <= JUDGED_WITHIN {}
        }
        let expected = read(text);
        let found = <&ServerName>::try_from(text).ok();
        let seen = found.map(|name| (name.host(), name.port()));
        if seen != expected {
            return Err(format!("read as {seen:?}, and the second reading is {expected:?}"));
        }
        let (Some(name), Some((host, _))) = (found, expected) else { return Ok(Verdict::Refused) };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = bare.parse().ok();
        if name.is_ip_literal() != address.is_some() {
            return Err(format!("{host} is an address: {}", address.is_some()));
        }
        // Whoever takes it for a name must not have a resolver take it for an address.
        if let Ok(certificate) = certificate_name(name)
            && address.is_none()
            && let Some(address) = as_resolvers_read(host)
        {
            return Err(format!("{host} is a name for {certificate:?}, and to resolvers {address}"));
        }
        Ok(Verdict::Taken)
    }
}

/// Host and port. The library takes a plus sign and more zeros before a port than the grammar has.
fn read(text: &str) -> Option<(&str, Option<u16>)> {
    (text.len() <= NAME_BYTES_MAX).then_some(())?;
    let (host, port) = if text.starts_with('[') {
        let (host, port) = text.split_at(text.find(']')? + 1);
        host[1..host.len() - 1].parse::<Ipv6Addr>().ok()?;
        (host, port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_name)).then_some(())?;
        (host, port)
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let port = port.strip_prefix(':')?;
    let digits = port.strip_prefix('+').unwrap_or(port);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())?;
    let significant = digits.trim_start_matches('0');
    (significant.len() <= 5).then_some(())?;
    let number = significant.bytes().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    Some((host, Some(u16::try_from(number).ok()?)))
}

/// As `inet_aton` does: up to four numbers, each decimal, octal or hexadecimal, the last for all bytes that are left.
fn as_resolvers_read(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = host.split('.').collect();
    let number = |part: &str| -> Option<u64> {
        let lower = part.to_ascii_lowercase();
        match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
            (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
            _ => lower.parse().ok().filter(|_| lower.bytes().all(|byte| byte.is_ascii_digit())),
        }
    };
    let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
    let bytes_left = 4 - u32::try_from(first.len()).ok()?;
    let mut address = number(last).filter(|number| *number < 1 << (8 * bytes_left))?;
    for (place, part) in (0..).zip(first) {
        address += number(part).filter(|number| *number < 256)? << (24 - 8 * place);
    }
    u32::try_from(address).ok().map(Ipv4Addr::from_bits)
}
