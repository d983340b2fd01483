//! Which certificate authorities other servers' certificates may come from.
//! May not: offer a way to connect without verification.

use std::{path::PathBuf, sync::Arc};

use log::warn;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;

/// Why the TLS client could not be set up. All of them are errors of the configuration.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file of `federation.trusted_ca_files` cannot be read or holds no PEM certificate.
    #[error("{path}: no readable PEM certificate: {detail}")]
    UnreadableFile {
        /// The file as configured.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate in such a file cannot be a trust anchor.
    #[error("{path}: not usable as a certificate authority: {source}")]
    UnfitCertificate {
        /// The file as configured.
        path: PathBuf,
        /// What the TLS library found.
        source: rustls::Error,
    },
    /// The TLS library refused its own protocol versions.
    #[error("TLS set-up: {0}")]
    Setup(rustls::Error),
}

/// TLS 1.2 and 1.3 with the system's authorities and those of `trusted_ca_files` (PEM, any number of certificates each).
///
/// # Errors
/// [`TrustError`] names the file that is unfit. A system store that cannot be read is a warning, since the files may suffice.
pub fn tls_config(trusted_ca_files: &[PathBuf]) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        warn!(error:%; "system certificate store not fully readable");
    }
    let (added, _unfit) = roots.add_parsable_certificates(system.certs);
    for path in trusted_ca_files {
        add_file(&mut roots, path)?;
    }
    if added == 0 && trusted_ca_files.is_empty() {
        warn!("no certificate authority is trusted, so no other server can be reached");
    }
    tls_config_with_roots(roots)
}

/// TLS 1.2 and 1.3 with exactly these authorities.
///
/// # Errors
/// [`TrustError::Setup`] alone.
pub fn tls_config_with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TrustError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &PathBuf) -> Result<(), TrustError> {
    let unreadable = |detail: String| TrustError::UnreadableFile { path: path.clone(), detail };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("the file holds none".to_owned()));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|source| TrustError::UnfitCertificate { path: path.clone(), source })?;
    }
    Ok(())
}
