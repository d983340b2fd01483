//! Requests that were prepared ahead, sent over connections that stay, and how long each answer took.
//! May not: leave out what an answer that came late kept from being sent. At a fixed rate the time counts from when the request was due.

use std::{
    ops::Range,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use vestibule_scenery::{Answer, Connection, Http};

use crate::report::float;

/// One piece of work: by its number, over a connection.
pub type Work = Box<dyn Fn(&mut Connection, usize) -> Result<(), String> + Send + Sync>;

/// One request, signed.
pub struct Request {
    pub method: &'static str,
    pub target: String,
    pub authorization: String,
    pub body: Option<String>,
}

impl Request {
    /// The answer, which must be 200.
    pub fn send(&self, connection: &mut Connection) -> Result<Answer, String> {
        let headers = [("Authorization", self.authorization.as_str())];
        let body = self.body.as_deref().map(str::as_bytes);
        let answer = connection.ask(self.method, &self.target, &headers, body);
        let answer = answer.map_err(|error| format!("{} {}: {error}", self.method, self.target))?;
        if answer.status == 200 {
            return Ok(answer);
        }
        Err(format!("{} {}: {} {}", self.method, self.target, answer.status, answer.text()))
    }
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection sends its next one as soon as it has its answer.
    Closed,
    /// So many a second over all connections, whether answers come or not.
    Open(f64),
}

/// How it went.
pub struct Run {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// One for each request, in ascending order.
    pub latencies: Vec<Duration>,
}

impl Run {
    /// The latency that so many of 100,000 answers did not pass.
    pub fn percentile(&self, of_100_000: usize) -> Duration {
        let place = self.latencies.len().saturating_mul(of_100_000).div_ceil(100_000).saturating_sub(1);
        self.latencies.get(place).copied().unwrap_or_default()
    }
}

/// Does the pieces of these numbers.
///
/// # Errors
/// An answer that is not 200, or none.
pub fn run(door: &Http, work: &Work, numbers: Range<usize>, connections: usize, pace: Pace) -> Result<Run, String> {
    let next = AtomicUsize::new(numbers.start);
    let numbers = &numbers;
    let ready = Barrier::new(connections.saturating_add(1));
    let (outcomes, elapsed) = thread::scope(|scope| {
        let workers: Vec<_> = (0..connections)
            .map(|_| {
                let (next, ready) = (&next, &ready);
                scope.spawn(move || {
                    let connection = door.connect().map_err(|error| error.to_string());
                    ready.wait();
                    do_some(connection?, work, numbers, next, pace)
                })
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        let outcomes: Vec<Result<Vec<Duration>, String>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err("a connection's thread panicked".to_owned())))
            .collect();
        (outcomes, started.elapsed())
    });
    let mut latencies = Vec::with_capacity(numbers.len());
    for outcome in outcomes {
        latencies.extend(outcome?);
    }
    latencies.sort_unstable();
    Ok(Run { elapsed, latencies })
}

fn do_some(
    mut connection: Connection,
    work: &Work,
    numbers: &Range<usize>,
    next: &AtomicUsize,
    pace: Pace,
) -> Result<Vec<Duration>, String> {
    let (started, mut latencies) = (Instant::now(), Vec::new());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= numbers.end {
            return Ok(latencies);
        }
        let due = match pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => {
                let due = started + Duration::from_secs_f64(float(number.saturating_sub(numbers.start)) / rate);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due
            }
        };
        work(&mut connection, number)?;
        latencies.push(due.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn a_percentile_is_the_latency_that_so_many_did_not_pass() {
        let of =
            |count: u64| Run { elapsed: Duration::ZERO, latencies: (1..=count).map(Duration::from_millis).collect() };
        for (count, part, expected) in
            [(100, 50_000, 50), (100, 99_000, 99), (100, 100_000, 100), (3, 50_000, 2), (1, 1, 1), (0, 50_000, 0)]
        {
            assert_eq!(of(count).percentile(part), Duration::from_millis(expected), "{count}, {part}");
        }
    }

    /// Answers 200 on one connection, the first time after a while.
    fn slow_starter(pause: Duration) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("somebody comes");
            let mut lines = BufReader::new(&stream).lines();
            let mut is_first = true;
            while let Some(Ok(line)) = lines.next() {
                if line.is_empty() {
                    if is_first {
                        thread::park_timeout(pause);
                    }
                    is_first = false;
                    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("it is read");
                }
            }
        });
        Http::plain(address)
    }

    #[test]
    fn at_a_fixed_rate_an_answer_that_is_late_makes_those_behind_it_late() {
        let request = Request { method: "GET", target: "/".to_owned(), authorization: String::new(), body: None };
        let work: Work = Box::new(move |connection, _| request.send(connection).map(drop));
        let pause = Duration::from_millis(300);
        let late = |pace| {
            let run = run(&slow_starter(pause), &work, 0..10, 1, pace).expect("all are answered");
            run.latencies.iter().filter(|latency| **latency > pause / 2).count()
        };
        assert_eq!(late(Pace::Closed), 1);
        // Ten in a hundredth of a second: all were due before the first was answered.
        assert_eq!(late(Pace::Open(1_000.0)), 10);
    }
}
