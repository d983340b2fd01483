//! `cargo xtask prove`: runs proofs, prints a closing line of counts for each, and fails when one missed or ran too little.
//! May not: know what a proof does, or call one good that ran fewer cases than its floor.

mod crowd;
mod disk;
mod engine;
mod globs;
mod journal_file;
mod load;
mod program;
mod proof;
mod proofs;
mod seeds;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};

use crate::{
    proof::{Outcome, Proof, Scale, Settings},
    proofs::{PROOFS, UNMET},
};

/// Misses of one proof that are told in full.
const MISSES_TOLD_MAX: usize = 5;

#[derive(Parser)]
#[command(name = "xtask", about = "Work on Vestibule that is not the program", max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs what Vestibule promises, each promise as a proof with a figure at its end
    Prove(Prove),
    /// Puts one input of the proof `fuzz` before its target again, and shows it
    Fuzz {
        /// The target's name
        target: String,
        /// The case that a miss named
        case: u64,
    },
}

#[derive(clap::Args)]
struct Prove {
    /// At least one fifth of the cases, as in CI
    #[arg(long)]
    quick: bool,
    /// The seed that an earlier run printed; without it a new one is drawn
    #[arg(long)]
    seed: Option<u64>,
    /// Runs each proof against its planted faults and fails when one of them is not found
    #[arg(long, conflicts_with = "quick")]
    planted: bool,
    /// Tells which proofs there are
    #[arg(long)]
    list: bool,
    /// Proofs to run; without names, all that are promised
    names: Vec<String>,
}

fn main() -> ExitCode {
    let wanted = match CommandLine::parse().command {
        Command::Prove(wanted) => wanted,
        Command::Fuzz { target, case } => return fuzz_again(&target, case),
    };
    let mut chosen = Vec::new();
    for name in &wanted.names {
        match every_proof().find(|proof| proof.name == name) {
            Some(proof) => chosen.push(proof),
            None => {
                eprintln!("there is no proof `{name}`; `cargo xtask prove --list` tells which there are");
                return ExitCode::from(2);
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend(PROOFS);
    }
    if wanted.list {
        if wanted.names.is_empty() {
            chosen.extend(UNMET);
        }
        return list(&chosen);
    }
    let Some(seed) = wanted.seed.or_else(seeds::draw) else {
        eprintln!("the system gives no randomness: name a --seed");
        return ExitCode::FAILURE;
    };
    if wanted.planted {
        plant(&chosen, seed)
    } else {
        prove(&chosen, if wanted.quick { Scale::Quick } else { Scale::Full }, seed)
    }
}

fn fuzz_again(target: &str, case: u64) -> ExitCode {
    match proofs::fuzz::again(target, case) {
        Ok(told) => println!("{told}"),
        Err(miss) => {
            println!("{miss}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn every_proof() -> impl Iterator<Item = &'static Proof> {
    PROOFS.iter().chain(UNMET).copied()
}

fn list(chosen: &[&Proof]) -> ExitCode {
    for proof in chosen {
        let is_unmet = UNMET.iter().any(|unmet| unmet.name == proof.name);
        let note = if is_unmet { "; not met yet, runs only when it is named" } else { "" };
        println!("{:<13} {} ({} cases, {} with --quick{note})", proof.name, proof.shows, proof.full, proof.quick);
        for plant in proof.plants {
            println!("              planted: {} ({})", plant.name, plant.what);
        }
    }
    ExitCode::SUCCESS
}

fn prove(chosen: &[&Proof], scale: Scale, seed: u64) -> ExitCode {
    let started = Instant::now();
    let mut failed = Vec::new();
    let mut cases = 0_u64;
    for proof in chosen {
        let floor = proof.floor(scale);
        eprintln!("{}: {}; {floor} cases, seed {seed}", proof.name, proof.shows);
        let (outcome, elapsed) = run(proof, &Settings::new(seed, scale, floor, None));
        let short: Vec<String> = outcome.under_floor(floor);
        let is_good = outcome.misses.is_empty() && short.is_empty();
        println!("{}", closing_line(proof, if is_good { "ok" } else { "MISSED" }, &outcome, seed, elapsed));
        tell(&outcome, proof, seed, scale);
        for reason in &short {
            println!("    {reason}");
        }
        cases = cases.saturating_add(outcome.cases);
        if !is_good {
            failed.push(proof.name);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if failed.is_empty() {
        println!("prove: {} proofs, {cases} cases, 0 misses, seed {seed}, {seconds:.1} s", chosen.len());
        ExitCode::SUCCESS
    } else {
        println!(
            "prove: {} of {} proofs MISSED: {}, seed {seed}, {seconds:.1} s",
            failed.len(),
            chosen.len(),
            failed.join(", ")
        );
        ExitCode::FAILURE
    }
}

fn plant(chosen: &[&Proof], seed: u64) -> ExitCode {
    let started = Instant::now();
    let mut planted = 0_usize;
    let mut overlooked = Vec::new();
    for proof in chosen {
        for plant in proof.plants {
            eprintln!("{}, planted {}: {}", proof.name, plant.name, plant.what);
            let (outcome, elapsed) = run(proof, &Settings::new(seed, Scale::Planted, plant.cases, Some(plant)));
            planted += 1;
            let is_found = outcome.found_it();
            let verdict = if is_found { "found" } else { "OVERLOOKED" };
            println!("{}", closing_line(proof, &format!("planted {}: {verdict}", plant.name), &outcome, seed, elapsed));
            if let Some(miss) = outcome.misses.first() {
                eprintln!("    {miss}");
            }
            if !is_found {
                overlooked.push(format!("{} {}", proof.name, plant.name));
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let found = planted.saturating_sub(overlooked.len());
    println!("prove: {found} of {planted} planted faults found, seed {seed}, {seconds:.1} s");
    if overlooked.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("overlooked: {}", overlooked.join(", "));
    ExitCode::FAILURE
}

/// A proof that panics is a proof that did not run to its end: no good, and no planted fault found either.
fn run(proof: &Proof, settings: &Settings) -> (Outcome, Duration) {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (proof.run)(settings))).unwrap_or_else(|_| Outcome::broken_off());
    (outcome, started.elapsed())
}

fn closing_line(proof: &Proof, verdict: &str, outcome: &Outcome, seed: u64, elapsed: Duration) -> String {
    let counts: Vec<String> = outcome.counts.iter().map(|count| format!(", {} {}", count.number, count.what)).collect();
    format!(
        "{}: {verdict}: {} cases, {} misses{}, seed {seed}, {:.1} s",
        proof.name,
        outcome.cases,
        outcome.misses.len(),
        counts.concat(),
        elapsed.as_secs_f64()
    )
}

fn tell(outcome: &Outcome, proof: &Proof, seed: u64, scale: Scale) {
    for miss in outcome.misses.iter().take(MISSES_TOLD_MAX) {
        println!("    {miss}");
    }
    if outcome.misses.len() > MISSES_TOLD_MAX {
        println!("    and {} more", outcome.misses.len() - MISSES_TOLD_MAX);
    }
    if !outcome.misses.is_empty() {
        let quick = if scale == Scale::Quick { "--quick " } else { "" };
        println!("    again: cargo xtask prove {quick}--seed {seed} {}", proof.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Plant;

    const PLANTS: &[&Plant] = &[&FAULT];
    static FAULT: Plant = Plant { name: "fault", what: "every case misses", cases: 1 };

    fn honest(settings: &Settings) -> Outcome {
        let mut outcome = Outcome::default();
        for case in 0..settings.cases {
            outcome.case();
            if settings.has(&FAULT) {
                outcome.miss(format!("case {case}"));
            }
        }
        outcome.count_at_least("things seen", settings.scaled(10), settings.scaled(10));
        outcome
    }

    const fn proof(run: fn(&Settings) -> Outcome) -> Proof {
        Proof { name: "honest", shows: "that cases are counted", full: 10, quick: 2, run, plants: PLANTS }
    }

    fn verdicts(proof: &Proof) -> [bool; 2] {
        let success = format!("{:?}", ExitCode::SUCCESS);
        [prove(&[proof], Scale::Full, 1), plant(&[proof], 1)].map(|code| format!("{code:?}") == success)
    }

    #[test]
    fn a_proof_that_runs_and_finds_its_plant_is_good() {
        assert_eq!(verdicts(&proof(honest)), [true, true]);
    }

    #[test]
    fn a_proof_that_runs_too_little_or_sees_nothing_is_no_proof() {
        assert_eq!(verdicts(&proof(|_| Outcome::default())), [false, false]);
    }

    #[test]
    fn a_proof_under_the_floor_of_a_count_is_no_proof() {
        let starved = |settings: &Settings| {
            let mut outcome = honest(settings);
            outcome.count_at_least("acknowledged", 1, 2);
            outcome
        };
        assert_eq!(verdicts(&proof(starved)), [false, true]);
    }

    #[test]
    fn a_panic_is_a_miss_and_finds_no_plant() {
        let broken = |settings: &Settings| if settings.cases == 0 { honest(settings) } else { panic!("on purpose") };
        assert_eq!(verdicts(&proof(broken)), [false, false]);
    }

    #[test]
    fn a_set_up_that_breaks_is_a_miss_and_finds_no_plant() {
        let broken = |settings: &Settings| Outcome::of(settings, |_, _| Err("there is no server".to_owned()));
        assert_eq!(verdicts(&proof(broken)), [false, false]);
    }

    #[test]
    fn a_miss_about_something_else_finds_no_plant() {
        let besides = |settings: &Settings| {
            let mut outcome = honest(settings);
            outcome.keep_signs(settings, &[(&FAULT, "another fault")]);
            outcome
        };
        assert_eq!(verdicts(&proof(besides)), [true, false]);
    }

    #[test]
    fn names_are_there_once_and_every_proof_has_a_plant() {
        let mut names: Vec<&str> = every_proof().map(|proof| proof.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), every_proof().count());
        for proof in every_proof() {
            assert!(!proof.plants.is_empty(), "{} has no planted fault", proof.name);
            assert!(proof.quick * 5 >= proof.full, "{}: --quick is at least one fifth of all", proof.name);
        }
    }
}
