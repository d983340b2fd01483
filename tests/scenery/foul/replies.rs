//! Replies that are made to cost memory, time or the process: endless, dripping, nested, compressed.
//! May not: go on when nobody listens any more.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

/// A string that never ends.
fn endless(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    out.write_all(b"\r\n{\"a\":\"")?;
    let chunk = vec![b'x'; 64 * 1024];
    loop {
        out.write_all(&chunk)?;
    }
}

/// The same in chunks, none of which says how much is still to come.
fn endless_in_chunks(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    out.write_all(b"Transfer-Encoding: chunked\r\n\r\n")?;
    loop {
        out.write_all(b"8000\r\n")?;
        out.write_all(&[b'x'; 0x8000])?;
        out.write_all(b"\r\n")?;
    }
}

/// More than there is memory, as it says.
fn gigabytes(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    out.write_all(b"Content-Length: 999999999999\r\n\r\n{")?;
    out.flush()
}

/// Says that it is compressed, as one may who was not asked to.
fn compressed(out: &mut dyn Write) -> io::Result<()> {
    // A stored block of deflate, repeated without end.
    out.write_all(HEAD)?;
    out.write_all(b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03")?;
    let mut block = vec![0, 0xff, 0xff, 0, 0];
    block.extend(vec![b' '; 0xffff]);
    loop {
        out.write_all(&block)?;
    }
}

/// One byte at a time, for as long as somebody listens.
fn drip(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    out.write_all(b"\r\n")?;
    loop {
        out.write_all(b" ")?;
        out.flush()?;
        // Not a wait for anything: this is how slow it is.
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// A head that never ends.
fn endless_head(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    loop {
        out.write_all(b"X-More: of the same, again and again\r\n")?;
    }
}

/// A head of one line that never ends.
fn endless_line(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    out.write_all(b"X-More: ")?;
    let chunk = vec![b'x'; 64 * 1024];
    loop {
        out.write_all(&chunk)?;
    }
}

/// Lists in lists, so many levels deep.
pub fn nested(levels: usize) -> impl Fn(&mut dyn Write) -> io::Result<()> + Clone {
    move |out: &mut dyn Write| {
        let body = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        out.write_all(HEAD)?;
        write!(out, "Content-Length: {}\r\n\r\n{body}", body.len())?;
        out.flush()
    }
}

/// Writes a whole reply, head and all.
pub type Writer = fn(&mut dyn Write) -> io::Result<()>;

/// Replies that have no end, or none that anybody would wait for.
pub const ENDLESS: [(&str, Writer); 7] = [
    ("endless", endless),
    ("endless in chunks", endless_in_chunks),
    ("gigabytes", gigabytes),
    ("compressed", compressed),
    ("drip", drip),
    ("endless head", endless_head),
    ("endless line", endless_line),
];

/// Takes the room's bytes, and many times that if somebody builds what each of them says.
pub fn room_of(value: &'static str) -> impl Fn(&mut dyn Write) -> io::Result<()> + Clone {
    move |out: &mut dyn Write| {
        let body = format!("{{\"auth_chain\":[],\"state\":{value}}}");
        out.write_all(HEAD)?;
        let body = body.replace('…', &"1,".repeat(30 * 1024 * 1024));
        write!(out, "Content-Length: {}\r\n\r\n{body}", body.len())?;
        out.flush()
    }
}

/// Replies with a 2xx that have no answer in them.
pub const EMPTY_HANDED: [(&str, &[u8]); 9] = [
    ("an empty body", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("nothing, and says so", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("a page", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>hi</html>"),
    ("a list", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]"),
    ("null", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"),
    ("an object without anything", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    ("half an object", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"event\":{"),
    ("bytes that are no text", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd"),
    (
        "other answers behind it",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ),
];

/// Replies that are none, after which nobody knows what was done.
pub const BROKEN: [(&str, &[u8]); 7] = [
    ("not a byte", b""),
    ("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n"),
    ("cut off", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"event\":"),
    ("a length below zero", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n{}12345"),
    ("broken chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    ("a status that is no number", b"HTTP/1.1 OK 200\r\nContent-Length: 2\r\n\r\n{}"),
];

/// Writes such a reply.
pub fn verbatim(reply: &'static [u8]) -> impl Fn(&mut dyn Write) -> io::Result<()> + Clone {
    move |out: &mut dyn Write| {
        out.write_all(reply)?;
        out.flush()
    }
}

/// A status with these lines behind it, and a body.
pub fn status(line: &str, headers: &str, body: &str) -> impl Fn(&mut dyn Write) -> io::Result<()> + Clone + use<> {
    let reply = format!("HTTP/1.1 {line}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    move |out: &mut dyn Write| {
        out.write_all(reply.as_bytes())?;
        out.flush()
    }
}
