//! The program that the proofs run as a process: the release build.
//! May not: run a build with test features.

use std::{env, path::PathBuf, process::Command};

use vestibule_scenery::TestServer;

/// Names another program than the one that is built here.
const PROGRAM: &str = "VESTIBULE_BIN";

/// How the variables begin that cargo sets for what it runs.
const ABOUT_A_CRATE: [&str; 4] = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_"];

/// Where the program is; built first, if no other is named.
///
/// # Errors
/// It cannot be built.
pub fn find() -> Result<PathBuf, String> {
    if let Some(program) = env::var_os(PROGRAM) {
        return Ok(program.into());
    }
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(&workspace).args(["build", "--release", "--package", "vestibule", "--bin", "vestibule"]);
    // What cargo tells a program that it runs, build scripts take for settings, and nearly everything would be built anew.
    for (name, _) in env::vars_os() {
        let is_about_us = name.to_str().is_some_and(|name| ABOUT_A_CRATE.iter().any(|start| name.starts_with(start)));
        if is_about_us {
            build.env_remove(name);
        }
    }
    let built = build.status().map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err(format!("the program cannot be built: {built}"));
    }
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let target = this.parent().and_then(|profile| profile.parent()).ok_or("this program lies nowhere")?;
    Ok(target.join("release").join("vestibule"))
}

/// A server of that program, not started yet, that takes any number of knocks.
///
/// # Errors
/// As [`find`].
pub fn server() -> Result<TestServer, String> {
    let server = TestServer::of(find()?)
        // Over TLS the load would be of our own making.
        .set("listener.1.tls", "false")
        .set("knock.max_pending_per_room", "1000000")
        .set("knock.max_pending_per_origin_in_room", "1000000");
    Ok(server)
}
