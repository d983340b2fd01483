//! The command line: `vestibule [--config FILE] [--set KEY=VALUE]… [COMMAND]`.
//! May not: read the configuration, or do what a command says.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

/// A Matrix homeserver in which every room is an actor.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "vestibule", version, about)]
pub struct Arguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[command(subcommand)]
    command: Option<CommandArguments>,
}

/// What to do, without the options that every command shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the server until SIGTERM.
    Serve,
    /// Check the configuration and the files that it names; write nothing.
    CheckConfig,
    /// Make the signing key, if there is none.
    GenerateSigningKey,
    /// Make an account.
    RegisterUser(RegisterUser),
    /// Copy everything into a new directory.
    Backup(PathBuf),
    /// Fill the data directory from a backup.
    Restore(PathBuf),
    /// Compare the look-up store with the journal.
    Verify,
    /// Make the look-up store anew from the journal.
    Rebuild,
}

/// `register-user NAME [--password-stdin] [--admin]`
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(skip)]
pub struct RegisterUser {
    /// The localpart, or the whole user id of this server
    pub name: String,
    /// Read the password from standard input, its first line
    #[arg(long)]
    pub password_stdin: bool,
    /// The user may use the admin listener
    #[arg(long)]
    pub admin: bool,
}

impl Arguments {
    /// The file given with `--config`; the last one counts.
    #[must_use]
    pub fn config_file(&self) -> Option<&Path> {
        self.after_command().and_then(|after| after.config.as_deref()).or(self.configuration.config.as_deref())
    }

    /// All `--set`, in order: those before the command, then those after it.
    #[must_use]
    pub fn set(&self) -> Vec<String> {
        let after = self.after_command().map(|after| after.set.as_slice()).unwrap_or_default();
        self.configuration.set.iter().chain(after).cloned().collect()
    }

    /// The command; `serve` when none is given.
    #[must_use]
    pub fn command(&self) -> Command {
        match &self.command {
            None | Some(CommandArguments::Serve { .. }) => Command::Serve,
            Some(CommandArguments::CheckConfig { .. }) => Command::CheckConfig,
            Some(CommandArguments::GenerateSigningKey { .. }) => Command::GenerateSigningKey,
            Some(CommandArguments::RegisterUser { user, .. }) => Command::RegisterUser(user.clone()),
            Some(CommandArguments::Backup { dir, .. }) => Command::Backup(dir.clone()),
            Some(CommandArguments::Restore { dir, .. }) => Command::Restore(dir.clone()),
            Some(CommandArguments::Verify { .. }) => Command::Verify,
            Some(CommandArguments::Rebuild { .. }) => Command::Rebuild,
        }
    }

    fn after_command(&self) -> Option<&ConfigurationArguments> {
        match self.command.as_ref()? {
            CommandArguments::Serve { configuration }
            | CommandArguments::CheckConfig { configuration }
            | CommandArguments::GenerateSigningKey { configuration }
            | CommandArguments::RegisterUser { configuration, .. }
            | CommandArguments::Backup { configuration, .. }
            | CommandArguments::Restore { configuration, .. }
            | CommandArguments::Verify { configuration }
            | CommandArguments::Rebuild { configuration } => Some(configuration),
        }
    }
}

/// Accepted before the command and after it. clap's global arguments would forget those before when some stand after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct ConfigurationArguments {
    /// Configuration file [default: config.toml in the working directory, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a configuration key, such as knock.repeat_after=0s or listener.0.address=127.0.0.1:0; stronger than environment and file
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum CommandArguments {
    /// Run the server until SIGTERM (the default)
    Serve {
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Check the configuration and the files that it names; write nothing
    CheckConfig {
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Make the signing key, if there is none
    GenerateSigningKey {
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Make an account, beside a running server or on a stopped one
    RegisterUser {
        #[command(flatten)]
        user: RegisterUser,
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Copy everything into a new directory, beside a running server or from a stopped one
    Backup {
        /// Directory to make
        dir: PathBuf,
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Fill the data directory of a stopped server from a backup
    Restore {
        /// Directory that `backup` made
        dir: PathBuf,
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Compare the look-up store with the journal
    Verify {
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
    /// Make the look-up store of a stopped server anew from the journal
    Rebuild {
        #[command(flatten)]
        configuration: ConfigurationArguments,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split_whitespace()).unwrap()
    }

    #[test]
    fn clap_finds_no_contradiction() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        let user = |password_stdin, admin| {
            Command::RegisterUser(RegisterUser { name: "ann".to_owned(), password_stdin, admin })
        };
        let table = [
            ("vestibule", Command::Serve),
            ("vestibule serve", Command::Serve),
            ("vestibule check-config", Command::CheckConfig),
            ("vestibule generate-signing-key", Command::GenerateSigningKey),
            ("vestibule register-user ann", user(false, false)),
            ("vestibule register-user ann --password-stdin --admin", user(true, true)),
            ("vestibule register-user --admin ann", user(false, true)),
            ("vestibule backup /b", Command::Backup("/b".into())),
            ("vestibule restore b", Command::Restore("b".into())),
            ("vestibule verify", Command::Verify),
            ("vestibule rebuild", Command::Rebuild),
        ];
        for (line, command) in table {
            assert_eq!(parse(line).command(), command, "{line}");
        }
    }

    #[test]
    fn options_count_before_and_after_the_command() {
        let arguments = parse("vestibule --set a=1 --config x.toml --set b=2 verify --set c=3");
        assert_eq!(arguments.set(), ["a=1", "b=2", "c=3"]);
        assert_eq!(arguments.config_file(), Some(Path::new("x.toml")));
        assert_eq!(parse("vestibule --config x.toml serve --config y.toml").config_file(), Some(Path::new("y.toml")));
        assert_eq!(parse("vestibule").config_file(), None);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for line in [
            "vestibule start",
            "vestibule register-user",
            "vestibule backup",
            "vestibule --port 1",
            "vestibule --set",
            "vestibule verify x",
        ] {
            assert!(Arguments::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
