//! `cargo measure`: what requests cost the server, as a ratio to the cryptography that they demand.
//! May not: judge. A figure of a noisy machine is no test; the table says what is wanted beside what was measured.

mod floor;
mod load;
mod process;
mod report;
mod scenarios;

use std::{env, fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use vestibule_scenery::TestServer;

use crate::{
    floor::Floor,
    load::Pace,
    process::Process,
    report::Figures,
    scenarios::{SCENARIOS, Scenario, Stage},
};

/// Requests before those that are measured: keys are fetched, rooms are awake.
const WARM_UP: usize = 200;

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
    let chosen =
        |scenario: &&Scenario| wanted.names.is_empty() || wanted.names.iter().any(|name| name == scenario.name);
    let mut all = Vec::new();
    for scenario in SCENARIOS.iter().filter(chosen) {
        eprintln!("{}: {}", scenario.name, scenario.what);
        all.push(figures_of(scenario, wanted)?);
    }
    let written = fs::create_dir_all(&wanted.into)
        .and_then(|()| fs::write(wanted.into.join("measure.json"), report::to_json(&all).to_string()))
        .and_then(|()| fs::write(wanted.into.join("measure.svg"), report::plot(&all)));
    written.map_err(|error| format!("{}: {error}", wanted.into.display()))?;
    print!("{}", report::table(&all));
    Ok(())
}

/// Each scenario has a server of its own.
fn figures_of(scenario: &'static Scenario, wanted: &CommandLine) -> Result<Figures, String> {
    let stage = Stage::set(TestServer::of(program()?), wanted.tls);
    let requests = (scenario.prepare)(&stage, wanted.requests.saturating_add(WARM_UP));
    let (warm_up, measured) = requests.split_at(WARM_UP.min(requests.len()));
    let door = stage.server.federation();
    load::run(&door, warm_up, 1, Pace::Closed)?;
    let process = Process::new(stage.server.pid());
    let (floor_before, journal_before, cpu_before) = (Floor::measure()?, stage.journal(), process.cpu()?);
    let pace = wanted.rate.map_or(Pace::Closed, Pace::Open);
    let run = load::run(&door, measured, wanted.connections, pace)?;
    let cpu = process.cpu()?.saturating_sub(cpu_before);
    let journal = stage.journal().since(journal_before);
    Ok(Figures {
        name: scenario.name,
        what: scenario.what,
        requests: measured.len(),
        connections: wanted.connections,
        floor: floor_before.between(Floor::measure()?),
        verifications: scenario.verifications,
        wanted: scenario.wanted,
        cpu,
        resident_mib: process.resident_mib()?,
        journal,
        run,
    })
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
