//! The figures as a table, as JSON, and as a plot.
//! May not: show a figure without what it was measured against.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{floor::Floor, load::Run, stage::Journal};

/// What came of one scenario.
pub struct Figures {
    pub name: &'static str,
    /// Of which server.
    pub about: String,
    pub what: &'static str,
    /// Pieces of the same work that were done before.
    pub grown: usize,
    pub requests: usize,
    pub connections: usize,
    pub floor: Floor,
    pub verifications: f64,
    pub wanted: Option<f64>,
    /// Of the server's whole process.
    pub cpu: Duration,
    pub resident_mib: f64,
    pub journal: Journal,
    pub run: Run,
}

/// Parts of the answers whose latency is shown.
const PERCENTILES: [(&str, usize); 4] = [("p50", 50_000), ("p90", 90_000), ("p99", 99_000), ("max", 100_000)];

impl Figures {
    /// Of several runs that whose ratio is in the middle.
    pub fn median(mut runs: Vec<Self>) -> Option<Self> {
        runs.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        let middle = runs.len() / 2;
        runs.into_iter().nth(middle)
    }

    /// Requests, as a number to divide by.
    fn count(&self) -> f64 {
        float(self.requests)
    }

    fn cpu_us(&self) -> f64 {
        us(self.cpu) / self.count()
    }

    /// CPU time of one request over the verifications that it demands.
    pub fn ratio(&self) -> f64 {
        self.cpu_us() / (self.verifications * self.floor.verify_us)
    }

    fn per_second(&self) -> f64 {
        self.count() / self.run.elapsed.as_secs_f64()
    }

    /// The name, with what it had grown to.
    fn name_grown(&self) -> String {
        if self.grown == 0 { self.name.to_owned() } else { format!("  after {}", self.grown) }
    }

    fn to_json(&self) -> Value {
        let latencies: serde_json::Map<String, Value> = PERCENTILES
            .iter()
            .map(|(name, part)| ((*name).to_owned(), json!(us(self.run.percentile(*part)))))
            .collect();
        json!({
            "scenario": self.name,
            "server": self.about,
            "what": self.what,
            "done_before": self.grown,
            "requests": self.requests,
            "connections": self.connections,
            "per_second": self.per_second(),
            "cpu_us": self.cpu_us(),
            "verify_us": self.floor.verify_us,
            "sign_us": self.floor.sign_us,
            "verifications": self.verifications,
            "ratio": self.ratio(),
            "wanted": self.wanted,
            "latency_us": latencies,
            "resident_mib": self.resident_mib,
            "journal_syncs": self.journal.syncs,
            "journal_commits": self.journal.commits,
        })
    }
}

/// One line for each scenario.
pub fn table(all: &[Figures]) -> String {
    let mut text = String::from(
        "scenario               requests  conns       /s   CPU us  verify us   ratio  wanted   p50 ms   p99 ms  syncs  a sync  MiB\n",
    );
    for figures in all {
        let ms = |part: usize| us(figures.run.percentile(part)) / 1_000.0;
        let wanted = figures.wanted.map_or_else(|| "-".to_owned(), |wanted| format!("{wanted:.2}"));
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "{:<22} {:>8} {:>6} {:>8.1} {:>8.0} {:>10.1} {:>7.2} {:>7} {:>8.2} {:>8.2} {:>6.0} {:>7.1} {:>4.0}{}",
            figures.name_grown(),
            figures.requests,
            figures.connections,
            figures.per_second(),
            figures.cpu_us(),
            figures.floor.verify_us,
            figures.ratio(),
            wanted,
            ms(50_000),
            ms(99_000),
            figures.journal.syncs,
            // What changes nothing syncs nothing.
            if figures.journal.syncs > 0.0 { figures.journal.commits / figures.journal.syncs } else { 0.0 },
            figures.resident_mib,
            if figures.about == US { String::new() } else { format!("  {}", figures.about) },
        );
    }
    text
}

/// What the server is called that needs no name in a table.
pub const US: &str = "Vestibule";

/// Two servers at the same work.
pub struct Pair {
    name: &'static str,
    faster: f64,
    less_cpu: f64,
    sooner: f64,
}

impl Pair {
    /// How many times better the first is.
    pub fn of(ours: &Figures, theirs: &Figures) -> Self {
        Self {
            name: ours.name,
            faster: ours.per_second() / theirs.per_second(),
            less_cpu: theirs.cpu_us() / ours.cpu_us(),
            sooner: us(theirs.run.percentile(99_000)) / us(ours.run.percentile(99_000)),
        }
    }
}

/// One line for each pair.
pub fn comparison(pairs: &[Pair]) -> String {
    let mut text = String::new();
    for Pair { name, faster, less_cpu, sooner } in pairs {
        let _ = writeln!(
            text,
            "{name}: {faster:.0} times as many a second, CPU {less_cpu:.0} times less, p99 {sooner:.0} times sooner"
        );
    }
    text
}

/// All that was measured.
pub fn to_json(all: &[Figures]) -> Value {
    Value::Array(all.iter().map(Figures::to_json).collect())
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 56.0;
const INKS: [&str; 6] = ["#1b6ca8", "#c8553d", "#3d8b5a", "#8a5aa8", "#b8860b", "#555555"];

/// Of 100,000: the points of a curve, closer together towards the last answers.
fn parts() -> impl Iterator<Item = usize> {
    (0..90_000).step_by(2_000).chain((90_000..99_000).step_by(200)).chain((99_000..=99_900).step_by(20))
}

/// How long the answers took: for each part of them, the time within which they came. Both axes as in a table of percentiles: the
/// part as nines, the time as powers of ten.
pub fn plot(all: &[Figures]) -> String {
    let longest = all.iter().map(|figures| us(figures.run.percentile(100_000))).fold(1_000.0, f64::max);
    let decades = (longest / 10.0).log10().ceil().max(1.0);
    // 0 to 3 nines from left to right, 10 us to the longest from below.
    let x = |nines: f64| MARGIN + nines / 3.0 * (WIDTH - 2.0 * MARGIN);
    let y = |us: f64| HEIGHT - MARGIN - (us.max(10.0) / 10.0).log10() / decades * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    for (label, nines) in [("p0", 0.0), ("p90", 1.0), ("p99", 2.0), ("p99.9", 3.0)] {
        let (x, low, high) = (x(nines), HEIGHT - MARGIN, MARGIN);
        line(format!("<line x1=\"{x:.1}\" y1=\"{low}\" x2=\"{x:.1}\" y2=\"{high}\" stroke=\"#ddd\"/>"));
        line(format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", low + 18.0));
    }
    let mut time = 10.0;
    while time <= 10.0 * 10.0_f64.powf(decades) {
        let (y, left, right) = (y(time), MARGIN, WIDTH - MARGIN);
        line(format!("<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"));
        let label = if time < 1_000.0 { format!("{time} us") } else { format!("{} ms", time / 1_000.0) };
        line(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", left - 6.0, y + 4.0));
        time *= 10.0;
    }
    for (number, (figures, ink)) in all.iter().zip(INKS.iter().cycle()).enumerate() {
        let points: Vec<String> = parts()
            .map(|part| {
                let nines = -(1.0 - float(part) / 100_000.0).log10();
                format!("{:.1},{:.1}", x(nines), y(us(figures.run.percentile(part))))
            })
            .collect();
        line(format!("<polyline fill=\"none\" stroke=\"{ink}\" stroke-width=\"2\" points=\"{}\"/>", points.join(" ")));
        let top = MARGIN + 16.0 * float(number);
        line(format!("<text x=\"{}\" y=\"{top}\" fill=\"{ink}\">{}</text>", MARGIN + 12.0, label_of(figures)));
    }
    svg.push_str("</svg>\n");
    svg
}

fn label_of(figures: &Figures) -> String {
    let name =
        if figures.grown == 0 { figures.name.to_owned() } else { format!("{} after {}", figures.name, figures.grown) };
    if figures.about == US { name } else { format!("{name} ({})", figures.about) }
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A count as a number to reckon with.
pub fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            name: "send_knock",
            about: US.to_owned(),
            what: "signed knocks",
            grown: 0,
            requests: 1_000,
            connections: 8,
            floor: Floor { verify_us: 40.0, sign_us: 20.0 },
            verifications: 2.0,
            wanted: Some(2.0),
            cpu: Duration::from_millis(160),
            resident_mib: 64.0,
            journal: Journal { syncs: 50.0, commits: 1_000.0 },
            run: Run { elapsed: Duration::from_secs(2), latencies: vec![Duration::from_millis(3); 1_000] },
        }
    }

    #[test]
    fn a_ratio_is_cpu_time_over_the_verifications_that_a_request_demands() {
        // 160 us each, over two times 40 us.
        assert!((figures().ratio() - 2.0).abs() < 1e-9);
        let json = to_json(&[figures()]);
        assert_eq!((json[0]["per_second"].as_f64(), json[0]["cpu_us"].as_f64()), (Some(500.0), Some(160.0)));
        assert_eq!(json[0]["latency_us"]["p99"].as_f64(), Some(3_000.0));
        let table = table(&[figures()]);
        assert!(table.lines().count() == 2 && table.contains("send_knock"), "{table}");
    }

    #[test]
    fn the_run_in_the_middle_counts() {
        let of = |ms| Figures { cpu: Duration::from_millis(ms), ..figures() };
        let median = Figures::median(vec![of(900), of(160), of(200)]).expect("there are runs");
        assert_eq!(median.cpu, Duration::from_millis(200));
        assert!(Figures::median(Vec::new()).is_none());
        let pair = Pair::of(&of(160), &of(1_600));
        assert!((pair.less_cpu - 10.0).abs() < 1e-9 && (pair.faster - 1.0).abs() < 1e-9);
        assert!(comparison(&[pair]).contains("CPU 10 times less"));
    }

    #[test]
    fn a_plot_has_a_curve_for_each_scenario_within_its_frame() {
        let svg = plot(&[figures(), figures()]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').expect("a pair");
            let (x, y): (f64, f64) = (x.parse().expect("a number"), y.parse().expect("a number"));
            assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{point}");
        }
    }
}
