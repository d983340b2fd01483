//! TLS of our listeners: certificates from files, read again when they change, or a self-signed one for a first run.
//! May not: choose certificates for connections to other servers; `vestibule-federation` does.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ruma::ServerName;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vestibule_protocol::clock::Clock;

use crate::exit::chain;
use crate::private_file::{self, CreateError};

/// The self-signed certificate inside the data directory.
pub const SELF_SIGNED_CERTIFICATE_FILE: &str = "self_signed_cert.pem";

/// Its private key, mode 0600.
pub const SELF_SIGNED_KEY_FILE: &str = "self_signed_key.pem";

/// How often the files are looked at, at most. Renewed certificates are in use this long after they are written.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// What is spoken inside. No HTTP/2: the only release of its library that actix-web takes keeps every empty frame that a peer
/// sends (RUSTSEC-2026-0258).
const ALPN: [&[u8]; 1] = [b"http/1.1"];

/// A certificate chain and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateFiles {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    /// The key of our own certificate.
    pub private_key: PathBuf,
}

/// Why a listener has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or no PEM of the right kind.
    #[error("{path} holds no usable {what}")]
    Pem { path: PathBuf, what: &'static str, source: rustls_pki_types::pem::Error },
    /// The chain file has no certificate.
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    /// Key and certificate are each readable and do not belong together, or are of a kind that is not supported.
    #[error("certificate {certificate} and key {private_key} cannot be used together")]
    Unusable { certificate: PathBuf, private_key: PathBuf, source: rustls::Error },
    /// The self-signed certificate could not be made.
    #[error("no self-signed certificate could be made")]
    SelfSigned(#[source] rcgen::Error),
    /// The self-signed certificate could not be written.
    #[error("the self-signed certificate could not be kept")]
    Create(#[source] CreateError),
    /// The data directory could not be used.
    #[error("{path} cannot be used")]
    Io { path: PathBuf, source: io::Error },
}

/// The TLS side of a listener. The files are read now, and again when they change, at most once a minute.
///
/// # Errors
/// When the files cannot be used now. Later trouble is logged and the last good certificate stays.
pub fn server_config(files: CertificateFiles, clock: Arc<dyn Clock>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |source| unusable(&files, source);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let resolver = ReloadingCertificate::load(files, provider, clock)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The self-signed certificate of the data directory, made for `server_name` and the loopback names when it is not there.
///
/// A new pair is on disk when it is returned, the key with mode 0600.
///
/// # Errors
/// When it cannot be made or written.
pub fn self_signed(data_dir: &Path, server_name: &ServerName) -> Result<CertificateFiles, TlsError> {
    let files = CertificateFiles {
        certificate: data_dir.join(SELF_SIGNED_CERTIFICATE_FILE),
        private_key: data_dir.join(SELF_SIGNED_KEY_FILE),
    };
    let is_complete = files.certificate.exists() && files.private_key.exists();
    if !is_complete {
        make_self_signed(data_dir, server_name, &files)?;
    }
    let certificate = files.certificate.display().to_string();
    log::warn!(certificate = certificate.as_str(); "a self-signed certificate is in use; other servers will refuse it");
    Ok(files)
}

/// Whether a pair of files can be used, without keeping anything.
///
/// # Errors
/// What is wrong with them.
pub fn check(files: &CertificateFiles) -> Result<(), TlsError> {
    certified_key(files, &rustls::crypto::ring::default_provider()).map(|_| ())
}

/// Presents the newest usable certificate of a pair of files.
struct ReloadingCertificate {
    files: CertificateFiles,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    current: Mutex<Loaded>,
}

/// What was read, when, and from which versions of the files.
struct Loaded {
    key: Arc<CertifiedKey>,
    stamps: [Stamp; 2],
    checked_at: Duration,
}

/// What a look at the files brought.
enum Change {
    None,
    Reloaded,
}

/// Tells two versions of a file apart without reading it. Length is there for clocks of coarse file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
}

impl ReloadingCertificate {
    fn load(files: CertificateFiles, provider: Arc<CryptoProvider>, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        // Stamped before reading: a change in between is then seen at the next look.
        let stamps = stamps(&files)?;
        let key = certified_key(&files, &provider)?;
        let current = Mutex::new(Loaded { key, stamps, checked_at: clock.monotonic() });
        Ok(Self { files, provider, clock, current })
    }

    /// The certificate to present now.
    fn current(&self) -> Arc<CertifiedKey> {
        let now = self.clock.monotonic();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(current.checked_at) >= CHECK_INTERVAL {
            current.checked_at = now;
            match self.reload(&mut current) {
                Ok(Change::Reloaded) => {
                    log::info!(certificate = self.files.certificate.display().to_string().as_str(); "certificate reloaded");
                }
                Ok(Change::None) => {}
                Err(error) => {
                    log::error!(error = chain(&error).as_str(); "the changed certificate is not usable, the last good one stays")
                }
            }
        }
        Arc::clone(&current.key)
    }

    /// Reads the files if they are not those that were read last. On error `current` is as it was.
    fn reload(&self, current: &mut Loaded) -> Result<Change, TlsError> {
        let stamps = stamps(&self.files)?;
        if stamps == current.stamps {
            return Ok(Change::None);
        }
        current.key = certified_key(&self.files, &self.provider)?;
        current.stamps = stamps;
        Ok(Change::Reloaded)
    }
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // One certificate whatever name the client asks for: peers that reach us by address send none.
        Some(self.current())
    }
}

impl fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingCertificate").field("files", &self.files).finish_non_exhaustive()
    }
}

fn certified_key(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let pem_error = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, what, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(pem_error(&files.certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: files.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&files.private_key).map_err(pem_error(&files.private_key, "private key"))?;
    // Refuses a key that belongs to another certificate.
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|source| unusable(files, source))?;
    Ok(Arc::new(certified))
}

fn unusable(files: &CertificateFiles, source: rustls::Error) -> TlsError {
    TlsError::Unusable { certificate: files.certificate.clone(), private_key: files.private_key.clone(), source }
}

fn stamps(files: &CertificateFiles) -> Result<[Stamp; 2], TlsError> {
    let stamp = |path: &Path| {
        let metadata = fs::metadata(path)
            .and_then(|metadata| Ok(Stamp { modified: metadata.modified()?, length: metadata.len() }));
        metadata.map_err(|source| TlsError::Io { path: path.to_owned(), source })
    };
    Ok([stamp(&files.certificate)?, stamp(&files.private_key)?])
}

fn make_self_signed(data_dir: &Path, server_name: &ServerName, files: &CertificateFiles) -> Result<(), TlsError> {
    let host = server_name.host().trim_start_matches('[').trim_end_matches(']');
    let mut names: Vec<String> = [host, "localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.sort();
    names.dedup();
    let mut params = rcgen::CertificateParams::new(names).map_err(TlsError::SelfSigned)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Vestibule self-signed");
    let key = rcgen::KeyPair::generate().map_err(TlsError::SelfSigned)?;
    let certificate = params.self_signed(&key).map_err(TlsError::SelfSigned)?;

    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Io { path, source }
    };
    private_file::create_directory(data_dir).map_err(io_error(data_dir))?;
    // Half a pair, from a crash between the two, is useless.
    for path in [&files.certificate, &files.private_key] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(path)(error));
            }
            _ => {}
        }
    }
    private_file::create(&files.private_key, &key.serialize_pem()).map_err(TlsError::Create)?;
    private_file::create(&files.certificate, &certificate.pem()).map_err(TlsError::Create)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustls::pki_types;
    use vestibule_protocol::clock::UnixMillis;

    use super::*;

    #[derive(Default)]
    struct FakeClock(AtomicU64);

    impl Clock for FakeClock {
        fn now(&self) -> UnixMillis {
            UnixMillis(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
    }

    fn name(text: &str) -> &ServerName {
        text.try_into().unwrap()
    }

    fn reloading(files: &CertificateFiles, clock: &Arc<FakeClock>) -> ReloadingCertificate {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock: Arc<dyn Clock> = clock.clone();
        ReloadingCertificate::load(files.clone(), provider, clock).unwrap()
    }

    /// Copies the pair of another directory over ours, certificate or key or both.
    fn copy(from: &CertificateFiles, to: &CertificateFiles) {
        fs::copy(&from.certificate, &to.certificate).unwrap();
        fs::copy(&from.private_key, &to.private_key).unwrap();
    }

    #[test]
    fn a_self_signed_pair_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let files = self_signed(&data_dir, name("hs1.example:8448")).unwrap();
        let first = fs::read(&files.certificate).unwrap();
        assert_eq!(self_signed(&data_dir, name("hs1.example:8448")).unwrap(), files);
        assert_eq!(fs::read(&files.certificate).unwrap(), first);
        assert_eq!(fs::metadata(&files.private_key).unwrap().mode() & 0o7777, 0o600);
        fs::remove_file(&files.private_key).unwrap();
        self_signed(&data_dir, name("hs1.example:8448")).unwrap();
        assert_ne!(fs::read(&files.certificate).unwrap(), first);
        check(&files).unwrap();
    }

    #[test]
    fn clients_that_trust_it_accept_it_for_the_server_and_loopback_names() {
        for server in ["hs1.example", "localhost:8448", "127.0.0.1:1", "[::1]:8448"] {
            let dir = tempfile::tempdir().unwrap();
            let files = self_signed(dir.path(), name(server)).unwrap();
            let server_side = server_config(files.clone(), Arc::new(FakeClock::default())).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let client =
                rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let mut client = client.with_root_certificates(roots).with_no_client_auth();
            client.alpn_protocols = vec![b"http/1.1".to_vec()];
            let client = Arc::new(client);
            let own = name(server).host().trim_start_matches('[').trim_end_matches(']');
            for asked in [own, "localhost", "127.0.0.1", "::1"] {
                let asked = pki_types::ServerName::try_from(asked.to_owned()).unwrap();
                let mut ours = rustls::ServerConnection::new(Arc::clone(&server_side)).unwrap();
                let mut theirs = rustls::ClientConnection::new(Arc::clone(&client), asked.clone()).unwrap();
                handshake(&mut theirs, &mut ours)
                    .unwrap_or_else(|error| panic!("{server} asked as {asked:?}: {error}"));
                assert_eq!(theirs.alpn_protocol(), Some(b"http/1.1".as_slice()));
            }
            let asked = pki_types::ServerName::try_from("other.example").unwrap();
            let mut ours = rustls::ServerConnection::new(server_side).unwrap();
            let mut theirs = rustls::ClientConnection::new(client, asked).unwrap();
            assert!(handshake(&mut theirs, &mut ours).is_err());
        }
    }

    fn handshake(
        client: &mut rustls::ClientConnection,
        server: &mut rustls::ServerConnection,
    ) -> Result<(), rustls::Error> {
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                server.read_tls(&mut unread).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                client.read_tls(&mut unread).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_renewed_certificate_is_presented_after_a_minute_and_not_before() {
        let (dir, renewed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = self_signed(dir.path(), name("a.example")).unwrap();
        let other = self_signed(renewed.path(), name("a-much-longer-name.example")).unwrap();
        let clock = Arc::new(FakeClock::default());
        let resolver = reloading(&files, &clock);
        let old = resolver.current();
        copy(&other, &files);
        clock.0.store(59, Ordering::SeqCst);
        assert_eq!(resolver.current().cert, old.cert);
        clock.0.store(60, Ordering::SeqCst);
        assert_ne!(resolver.current().cert, old.cert);
    }

    #[test]
    fn a_broken_renewal_leaves_the_last_good_certificate_until_it_is_whole() {
        let (dir, renewed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = self_signed(dir.path(), name("a.example")).unwrap();
        let other = self_signed(renewed.path(), name("a-much-longer-name.example")).unwrap();
        let clock = Arc::new(FakeClock::default());
        let resolver = reloading(&files, &clock);
        let old = resolver.current();
        // The certificate is there, its key is not yet.
        fs::copy(&other.certificate, &files.certificate).unwrap();
        clock.0.store(60, Ordering::SeqCst);
        assert_eq!(resolver.current().cert, old.cert);
        fs::remove_file(&files.certificate).unwrap();
        clock.0.store(120, Ordering::SeqCst);
        assert_eq!(resolver.current().cert, old.cert);
        copy(&other, &files);
        clock.0.store(180, Ordering::SeqCst);
        assert_ne!(resolver.current().cert, old.cert);
    }

    #[test]
    fn files_that_cannot_serve_are_refused_by_name() {
        let (dir, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = self_signed(dir.path(), name("a.example")).unwrap();
        let other = self_signed(second.path(), name("a.example")).unwrap();
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let refusal = |certificate: &Path, private_key: &Path| {
            let files = CertificateFiles { certificate: certificate.to_owned(), private_key: private_key.to_owned() };
            let error = server_config(files, Arc::new(FakeClock::default())).unwrap_err();
            assert!(chain(&error).contains(dir.path().to_str().unwrap()), "{}", chain(&error));
            error
        };
        assert!(matches!(refusal(&files.certificate, &other.private_key), TlsError::Unusable { .. }));
        assert!(matches!(refusal(&empty, &files.private_key), TlsError::NoCertificate { .. }));
        assert!(matches!(refusal(&files.certificate, &empty), TlsError::Pem { what: "private key", .. }));
        assert!(matches!(refusal(&dir.path().join("gone.pem"), &files.private_key), TlsError::Io { .. }));
    }
}
