//! What each command of the program does.
//! May not: parse the command line, or end the process.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;

use vestibule_federation::egress::tls_config;
use vestibule_storage::commit::NobodyListens;

use crate::args::RegisterUser;
use crate::config::{Config, Serves};
use crate::control::{self, Answer, Request};
use crate::exit::Exit;
use crate::randomness::os_random;
use crate::tls::CertificateFiles;
use crate::{accounts, open_storage, serving, signing_key, tls};

/// `check-config`: the configuration was read already; looks at the files that it names, and writes nothing.
///
/// # Errors
/// [`Exit::Refused`] when a file cannot be used; the reason has been printed.
pub fn check_config(config: Config) -> Result<(), Exit> {
    let refuse = |error: &dyn std::error::Error| Exit::Refused.because(error);
    for listener in &config.listener {
        if let (Some(certificate), Some(private_key)) = (&listener.tls_certificate, &listener.tls_private_key) {
            let files = CertificateFiles { certificate: certificate.clone(), private_key: private_key.clone() };
            tls::check(&files).map_err(|error| refuse(&error))?;
        }
    }
    tls_config(&config.federation.trusted_ca_files).map_err(|error| refuse(&error))?;
    if let Some(key) = signing_key::load(&config.data_dir).map_err(|error| refuse(&error))? {
        signing_key::load_old(&config.data_dir, key.key_id()).map_err(|error| refuse(&error))?;
    }
    for advice in advice(&config) {
        eprintln!("vestibule: note: {advice}");
    }
    println!("configuration ok: {}", config.server_name);
    Ok(())
}

/// `generate-signing-key`: makes the key of a new data directory and prints its id and public half.
///
/// # Errors
/// [`Exit::Refused`] when there is a key, or data whose key is gone; [`Exit::Failure`] when the key could not be written.
pub fn generate_signing_key(config: Config) -> Result<(), Exit> {
    match signing_key::generate(&config.data_dir, &os_random) {
        Ok(key) => {
            println!("{} {}", key.key_id(), key.public_key_base64());
            Ok(())
        }
        Err(error) => Err(error.exit().because(&error)),
    }
}

/// `serve`: runs the server until SIGTERM.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn serve(config: Config) -> Result<(), Exit> {
    for advice in advice(&config) {
        log::warn!(advice:%; "configuration");
    }
    serving::serve(config)
}

/// `register-user`: makes an account, beside a running server or on a stopped one.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn register_user(config: Config, user: RegisterUser) -> Result<(), Exit> {
    let password = password(user.password_stdin)?;
    let (name, is_admin) = (user.name, user.admin);
    let request = Request::RegisterUser { name: name.clone(), password: password.clone(), is_admin };
    beside_or(&config.data_dir.clone(), &request, || {
        serving::offline(config, async |app| accounts::register(app, &name, password, is_admin).await)
    })
}

/// `backup`: copies everything into `dir`, which it makes.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn backup(config: Config, dir: &Path) -> Result<(), Exit> {
    // The server may run in another working directory.
    let directory = std::path::absolute(dir).map_err(|error| Exit::Failure.because(&error))?;
    beside_or(&config.data_dir.clone(), &Request::Backup { directory: directory.clone() }, || {
        require_data(&config.data_dir)?;
        let storage = open_storage(&config, Arc::new(NobodyListens))?;
        let done = storage.backup(&directory).map_err(|why| {
            eprintln!("vestibule: {why}");
            Exit::Failure
        });
        storage.close()?;
        done
    })
}

/// `restore`: fills the data directory of a stopped server from `dir`.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn restore(config: Config, dir: &Path) -> Result<(), Exit> {
    crate::restore_storage(&config, dir).map(|done| println!("{done}"))
}

/// `verify`: compares the look-up store with the journal.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn verify(config: Config) -> Result<(), Exit> {
    beside_or(&config.data_dir.clone(), &Request::Verify, || {
        require_data(&config.data_dir)?;
        crate::verify_storage(&config)
    })
}

/// `rebuild`: makes the look-up store of a stopped server anew from the journal.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn rebuild(config: Config) -> Result<(), Exit> {
    require_data(&config.data_dir)?;
    crate::rebuild_storage(&config).map(|done| println!("{done}"))
}

/// Refuses a directory that was never used: opening it would make data there, and the next start would miss their key.
fn require_data(data_dir: &Path) -> Result<(), Exit> {
    match signing_key::load(data_dir) {
        Ok(None) => {
            eprintln!("vestibule: there are no data in {}", data_dir.display());
            Err(Exit::Refused)
        }
        // A key that is unfit or gone is no obstacle to looking after the data.
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

/// Asks the server that runs on the data directory; if none does, does it here.
fn beside_or(data_dir: &Path, request: &Request, here: impl FnOnce() -> Result<String, Exit>) -> Result<(), Exit> {
    let done = match control::ask(data_dir, request).map_err(|error| Exit::Failure.because(&error))? {
        Some(Answer::Done(done)) => done,
        Some(Answer::Refused(why)) => {
            eprintln!("vestibule: {why}");
            return Err(Exit::Failure);
        }
        None => here()?,
    };
    println!("{done}");
    Ok(())
}

/// A password from standard input: its first line, asked for when somebody sits there.
fn password(from_stdin: bool) -> Result<String, Exit> {
    let stdin = std::io::stdin();
    if !from_stdin && stdin.is_terminal() {
        eprint!("password: ");
    } else if !from_stdin {
        eprintln!("vestibule: no terminal to ask for a password; use --password-stdin");
        return Err(Exit::Usage);
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(|error| Exit::Failure.because(&error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// What is allowed and may still surprise.
fn advice(config: &Config) -> Vec<String> {
    let mut advice = Vec::new();
    for listener in &config.listener {
        let is_open = !listener.address.ip().is_loopback();
        if is_open && !listener.tls && listener.serves.contains(&Serves::Admin) {
            advice
                .push(format!("the admin listener {} is reachable from other machines, without TLS", listener.address));
        }
        if is_open && config.registration.open && listener.serves.contains(&Serves::Client) {
            advice.push(format!("registration.open lets anybody who reaches {} make an account", listener.address));
        }
        if listener.tls && listener.tls_certificate.is_none() {
            advice.push(format!("{} uses a self-signed certificate, which other servers refuse", listener.address));
        }
    }
    if !config.rate_limit.enabled {
        advice.push("rate_limit.enabled is false".to_owned());
    }
    advice
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(data_dir: &Path) -> Config {
        Config { data_dir: data_dir.to_owned(), ..Config::default() }
    }

    #[test]
    fn check_config_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        check_config(config(&data_dir)).unwrap();
        assert!(!data_dir.exists());
    }

    #[test]
    fn check_config_refuses_files_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |config: Config| assert_eq!(check_config(config), Err(Exit::Refused));

        let mut certificate = config(dir.path());
        certificate.listener[1].tls_certificate = Some(dir.path().join("gone.pem"));
        certificate.listener[1].tls_private_key = Some(dir.path().join("gone.pem"));
        refused(certificate);

        let mut authority = config(dir.path());
        authority.federation.trusted_ca_files = vec![dir.path().join("gone.pem")];
        refused(authority);

        generate_signing_key(config(dir.path())).unwrap();
        check_config(config(dir.path())).unwrap();
        fs::write(dir.path().join(signing_key::OLD_KEYS_FILE), "garbage").unwrap();
        refused(config(dir.path()));
    }

    #[test]
    fn generate_signing_key_makes_one_key_and_no_second() {
        let dir = tempfile::tempdir().unwrap();
        generate_signing_key(config(dir.path())).unwrap();
        let made = fs::read(dir.path().join(signing_key::KEY_FILE)).unwrap();
        assert_eq!(generate_signing_key(config(dir.path())), Err(Exit::Refused));
        assert_eq!(fs::read(dir.path().join(signing_key::KEY_FILE)).unwrap(), made);
    }
}
