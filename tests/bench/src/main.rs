//! `cargo measure`: what requests cost the server, as a ratio to the cryptography that they demand.
//! May not: judge. A figure of a noisy machine is no test; the table says what is wanted beside what was measured.

mod floor;
mod load;
mod process;
mod report;
mod scenarios;
mod stage;
mod wake;

use std::{env, fs, path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{
    floor::Floor,
    load::Pace,
    report::Figures,
    scenarios::{SCENARIOS, Scenario},
    stage::Stage,
};

/// Requests before those that are measured: keys are fetched, rooms are awake.
const WARM_UP: usize = 200;

/// Knocks a second while `/sync` waits: about half of what the server takes on two cores that the generator shares.
const WAKE_RATE: f64 = 1_000.0;

#[derive(Parser)]
#[command(name = "measure", about = "What a knock costs", max_term_width = 100)]
struct CommandLine {
    /// Requests of a scenario
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Connections over which they are sent
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// So many requests a second, whether answers come or not; without it each connection waits for its answers
    #[arg(long)]
    rate: Option<f64>,
    /// Over TLS
    #[arg(long)]
    tls: bool,
    /// Rounds; the one in the middle counts
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// A Python that has Synapse: it is measured too, by turns with us, both over TLS. tests/interop/requirements-synapse.txt
    #[arg(long)]
    synapse: Option<PathBuf>,
    /// Where the figures go, as `measure.json` and `measure.svg`
    #[arg(long, default_value = "target/measure")]
    into: PathBuf,
    /// Scenarios; without names, all
    names: Vec<String>,
}

fn main() -> ExitCode {
    match measure(&CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(wanted: &CommandLine) -> Result<(), String> {
    if let Some(unknown) = wanted.names.iter().find(|name| SCENARIOS.iter().all(|scenario| scenario.name != **name)) {
        let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return Err(format!("there is no scenario `{unknown}`; there are {}", known.join(", ")));
    }
    let chosen = |scenario: &&Scenario| {
        if wanted.names.is_empty() {
            wanted.synapse.is_none() || scenario.is_compared
        } else {
            wanted.names.iter().any(|name| name == scenario.name)
        }
    };
    let (mut all, mut pairs, mut woken) = (Vec::new(), Vec::new(), String::new());
    for scenario in SCENARIOS.iter().filter(chosen) {
        eprintln!("{}: {}", scenario.name, scenario.what);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // By turns, so that a machine that gets slower does so for both.
        for _ in 0..wanted.rounds.max(1) {
            let has_tls = wanted.tls || wanted.synapse.is_some();
            ours.push(figures_of(scenario, wanted, &Stage::vestibule(program()?, has_tls))?);
            if let Some(python) = &wanted.synapse {
                theirs.push(figures_of(scenario, wanted, &Stage::synapse(python)?)?);
            }
        }
        let (ours, theirs) = (medians(ours), medians(theirs));
        pairs.extend(ours.iter().zip(&theirs).map(|(ours, theirs)| report::Pair::of(ours, theirs)));
        all.extend(ours.into_iter().chain(theirs));
    }
    if wanted.names.is_empty() && wanted.synapse.is_none() {
        eprintln!("sync_wake: a waiting /sync while {WAKE_RATE} knocks a second come into another room");
        let run = wake::up(&Stage::vestibule(program()?, wanted.tls), WAKE_RATE)?;
        let ms = |part| run.percentile(part).as_secs_f64() * 1e3;
        woken = format!("sync_wake: p50 {:.2} ms, p99 {:.2} ms after the knock is durable\n", ms(50_000), ms(99_000));
    }
    let written = fs::create_dir_all(&wanted.into)
        .and_then(|()| fs::write(wanted.into.join("measure.json"), report::to_json(&all).to_string()))
        .and_then(|()| fs::write(wanted.into.join("measure.svg"), report::plot(&all)));
    written.map_err(|error| format!("{}: {error}", wanted.into.display()))?;
    print!("{}{}{woken}", report::table(&all), report::comparison(&pairs));
    Ok(())
}

/// Of several runs of the same scenario the one in the middle, for each of its measurements.
fn medians(runs: Vec<Vec<Figures>>) -> Vec<Figures> {
    let mut by_place: Vec<Vec<Figures>> = Vec::new();
    for (place, figures) in runs.into_iter().flat_map(|run| run.into_iter().enumerate()) {
        by_place.resize_with(by_place.len().max(place.saturating_add(1)), Vec::new);
        by_place[place].push(figures);
    }
    by_place.into_iter().filter_map(Figures::median).collect()
}

/// Each scenario has a server of its own.
fn figures_of(scenario: &'static Scenario, wanted: &CommandLine, stage: &Stage) -> Result<Vec<Figures>, String> {
    let pieces = scenario.pieces.unwrap_or(wanted.requests);
    let connections = scenario.connections.unwrap_or(wanted.connections);
    let pace = scenario.rate.or(wanted.rate).map_or(Pace::Closed, Pace::Open);
    let warm_up = WARM_UP.min(pieces / 10);
    let most_grown = scenario.grown.iter().copied().max().unwrap_or_default();
    let work = (scenario.prepare)(stage, warm_up.saturating_add(most_grown).saturating_add(pieces))?;
    let door = &stage.federation;
    load::run(door, &work, 0..warm_up, 1, Pace::Closed)?;
    let (process, mut done, mut measured) = (stage.process(), warm_up, Vec::new());
    for grown in scenario.grown {
        let begin = done.max(warm_up.saturating_add(*grown));
        load::run(door, &work, done..begin, connections, Pace::Closed)?;
        done = begin.saturating_add(pieces);
        let (floor_before, journal_before, cpu_before) = (Floor::measure()?, stage.journal(), process.cpu()?);
        let run = load::run(door, &work, begin..done, connections, pace)?;
        let cpu = process.cpu()?.saturating_sub(cpu_before);
        let journal = stage.journal().since(journal_before);
        measured.push(Figures {
            name: scenario.name,
            about: stage.about(),
            what: scenario.what,
            grown: *grown,
            requests: pieces,
            connections,
            floor: floor_before.between(Floor::measure()?),
            verifications: scenario.verifications,
            wanted: scenario.wanted,
            cpu,
            resident_mib: process.resident_mib()?,
            journal,
            run,
        });
    }
    Ok(measured)
}

/// What `VESTIBULE_BIN` names, or the program beside this one.
fn program() -> Result<PathBuf, String> {
    if let Some(program) = env::var_os("VESTIBULE_BIN") {
        return Ok(program.into());
    }
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let built = this.with_file_name("vestibule");
    if built.exists() { Ok(built) } else { Err(format!("{} is not built: cargo build --release", built.display())) }
}
