//! The program: command line, logger, configuration, one command, exit code.
//! May not: do the work; the library does.

use std::process::ExitCode;

use clap::Parser as _;
use vestibule::args::{Arguments, Command};
use vestibule::config::Config;
use vestibule::exit::Exit;
use vestibule::{commands, logger};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run().err().unwrap_or(Exit::Success).into()
}

fn run() -> Result<(), Exit> {
    let arguments = Arguments::try_parse().map_err(|answer| {
        // Help and version come this way too, and are no error.
        let _ = answer.print();
        if answer.use_stderr() { Exit::Usage } else { Exit::Success }
    })?;
    logger::install();
    logger::log_panics();
    let config = Config::load(arguments.config_file(), std::env::vars_os(), &arguments.set())
        .map_err(|error| Exit::Refused.because(&error))?;
    match arguments.command() {
        Command::Serve => commands::serve(config),
        Command::CheckConfig => commands::check_config(config),
        Command::GenerateSigningKey => commands::generate_signing_key(config),
        Command::RegisterUser(user) => commands::register_user(config, user),
        Command::Backup(dir) => commands::backup(config, &dir),
        Command::Restore(dir) => commands::restore(config, &dir),
        Command::Verify => commands::verify(config),
        Command::Rebuild => commands::rebuild(config),
    }
}
