//! What the tests of this crate share: a clock, scripted DNS and transport, a small TLS server, key documents.
//! May not: be compiled outside tests.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use rustls::RootCertStore;
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    signing::{Identity, SigningKey},
};
use vestibule_storage::{
    error::StorageError,
    server_keys::{ServerKeyStore, StoredServerKeys},
};

use crate::{
    discovery::{ResolveError, Resolver, ServiceRecord},
    egress::{AddressFilter, Egress, EgressError, Route, Transport, tls_config_with_roots},
};

pub(crate) const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn name(text: &str) -> OwnedServerName {
    text.try_into().unwrap()
}

/// Both clocks in one, moved by the test.
#[derive(Default)]
pub(crate) struct TestClock {
    passed_ms: AtomicU64,
}

impl TestClock {
    pub(crate) fn advance(&self, span: Duration) {
        self.passed_ms.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_millis(self.passed_ms.load(Ordering::SeqCst))
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMillis {
        NOW.plus(self.passed())
    }

    fn monotonic(&self) -> Duration {
        self.passed()
    }
}

/// DNS from a table; counts address look-ups.
#[derive(Default)]
pub(crate) struct ScriptedResolver {
    pub(crate) addresses: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) services: BTreeMap<String, Vec<ServiceRecord>>,
    pub(crate) lookups: AtomicUsize,
}

impl ScriptedResolver {
    pub(crate) fn address(mut self, host: &str, ip: &str) -> Self {
        self.addresses.entry(host.to_owned()).or_default().push(ip.parse().unwrap());
        self
    }

    pub(crate) fn service(mut self, name: &str, priority: u16, target: &str, port: u16) -> Self {
        let record = ServiceRecord { priority, weight: 1, port, target: target.to_owned() };
        self.services.entry(name.to_owned()).or_default().push(record);
        self
    }
}

impl Resolver for ScriptedResolver {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let found = self.addresses.get(host).cloned();
        let missing = ResolveError { detail: "no such name".to_owned() };
        Box::pin(async move { found.ok_or(missing) })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<ServiceRecord>, ResolveError>> {
        let found = self.services.get(name).cloned().unwrap_or_default();
        Box::pin(async move { Ok(found) })
    }
}

pub(crate) type Answer = Result<Response<Bytes>, EgressError>;
type AnswerFn = dyn Fn(&Route, &Request<Bytes>) -> BoxFuture<'static, Answer> + Send + Sync;

/// A transport that answers from a function and remembers what it was asked.
pub(crate) struct ScriptedTransport {
    answer: Box<AnswerFn>,
    asked: Mutex<Vec<String>>,
}

impl ScriptedTransport {
    pub(crate) fn new(
        answer: impl Fn(&Route, &Request<Bytes>) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { answer: Box::new(answer), asked: Mutex::default() })
    }

    /// Nobody is there.
    pub(crate) fn silent() -> Arc<Self> {
        Self::new(|_, _| Box::pin(async { Err(EgressError::Connect { detail: "refused".to_owned() }) }))
    }

    /// Host header and target of each request so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Transport for ScriptedTransport {
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: Request<Bytes>,
        _reply_bytes_max: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        self.asked.lock().unwrap().push(format!("{}{}", route.host_header, request.uri()));
        (self.answer)(route, &request)
    }
}

/// A request as it reached another server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) to: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: serde_json::Value,
}

impl Sent {
    /// The parts of the path behind `/_matrix/federation/`, decoded, and the query as it is.
    pub(crate) fn path(&self) -> (Vec<String>, String) {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let parts = path.trim_start_matches("/_matrix/federation/").split('/');
        let decoded = parts.map(|part| percent_encoding::percent_decode_str(part).decode_utf8().unwrap().into_owned());
        (decoded.collect(), query.to_owned())
    }
}

type SentFn = dyn Fn(&Sent) -> BoxFuture<'static, Answer> + Send + Sync;

/// Other servers: what they got, and what they answer. Nobody has a well-known.
pub(crate) struct Peers {
    sent: Mutex<Vec<Sent>>,
    answer: Box<SentFn>,
}

impl Peers {
    pub(crate) fn new(answer: impl Fn(&Sent) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Self::slow(move |sent| Box::pin(std::future::ready(answer(sent))))
    }

    pub(crate) fn slow(answer: impl Fn(&Sent) -> BoxFuture<'static, Answer> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { sent: Mutex::default(), answer: Box::new(answer) })
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }
}

impl Transport for Peers {
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: Request<Bytes>,
        _: usize,
        _: Duration,
    ) -> BoxFuture<'a, Answer> {
        let target = request.uri().to_string();
        if target.starts_with("/.well-known/") {
            return Box::pin(async { response(404, &[], "{}") });
        }
        let body = serde_json::from_slice(request.body()).unwrap_or(serde_json::Value::Null);
        let method = request.method().to_string();
        let sent = Sent { to: route.host_header.clone(), method, target, body };
        self.sent.lock().unwrap().push(sent.clone());
        (self.answer)(&sent)
    }
}

/// Paused time on the runtime that rooms need.
pub(crate) fn on_paused_time(test: impl AsyncFnOnce()) {
    actix_rt::System::new().block_on(async {
        tokio::time::pause();
        test().await;
    });
}

/// Sends what is for port 443 to another port, since tests cannot listen there.
pub(crate) struct Port443MovedTo {
    pub(crate) port: u16,
    pub(crate) egress: Arc<Egress>,
}

impl Transport for Port443MovedTo {
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: Request<Bytes>,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        let mut moved = route.clone();
        for address in moved.addresses.iter_mut().filter(|address| address.port() == 443) {
            address.set_port(self.port);
        }
        Box::pin(async move { self.egress.exchange(&moved, request, reply_bytes_max, deadline).await })
    }
}

/// A certificate authority for one test.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// An outbound client that trusts this authority and may reach 127.0.0.2 of all loopback.
    pub(crate) fn egress(&self) -> Egress {
        self.egress_with(only_127_0_0_2())
    }

    pub(crate) fn egress_with(&self, filter: AddressFilter) -> Egress {
        Egress::new(filter, tls_config_with_roots(self.roots()).unwrap())
    }

    pub(crate) fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        self.acceptor_until(names, 2200)
    }

    /// Serves a certificate for `names` that ends with `year`.
    pub(crate) fn acceptor_until(&self, names: &[&str], year: i32) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        acceptor_with(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }
}

/// A certificate that no authority signed, as a small server makes one for itself.
pub(crate) struct SelfSigned {
    certified: rcgen::CertifiedKey<KeyPair>,
}

impl SelfSigned {
    pub(crate) fn new(name: &str) -> Self {
        Self { certified: rcgen::generate_simple_self_signed([name.to_owned()]).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.certified.cert.pem()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        acceptor_with(&self.certified.cert, &self.certified.signing_key)
    }
}

fn acceptor_with(certificate: &rcgen::Certificate, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn only_127_0_0_2() -> AddressFilter {
    AddressFilter { allowed: vec!["127.0.0.2/32".parse().unwrap()], ..AddressFilter::default() }
}

/// A TLS server that hands each request's head, read to the blank line, to a function which writes what it likes.
pub(crate) struct TlsPeer {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
}

pub(crate) type TlsConnection = TlsStream<TcpStream>;

impl TlsPeer {
    /// `answer` gets the head of a request and what to write to. The connection closes when it returns `false`.
    pub(crate) async fn start<F>(ip: &str, acceptor: TlsAcceptor, answer: F) -> Self
    where
        F: for<'a> Fn(String, &'a mut TlsConnection) -> BoxFuture<'a, bool> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let (counted, recorded) = (Arc::clone(&connections), Arc::clone(&heads));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                let recorded = Arc::clone(&recorded);
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    while let Some(head) = read_head(&mut tls).await {
                        recorded.lock().unwrap().push(head.clone());
                        if !answer(head, &mut tls).await {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, connections, heads }
    }

    /// Answers every request with the same bytes.
    pub(crate) async fn saying(ip: &str, acceptor: TlsAcceptor, reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::start(ip, acceptor, move |_, tls| {
            let reply = reply.clone();
            Box::pin(async move { tls.write_all(&reply).await.is_ok() && tls.flush().await.is_ok() })
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn read_head(tls: &mut TlsConnection) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A plain listener that counts who comes.
pub(crate) struct Canary {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Canary {
    pub(crate) async fn listen(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, connections }
    }

    /// Connections before this call. One of its own, made and awaited, proves that none is still on its way.
    pub(crate) async fn connections(&self) -> usize {
        let before_mine = self.connections.load(Ordering::SeqCst);
        let _mine = TcpStream::connect(self.address).await.unwrap();
        while self.connections.load(Ordering::SeqCst) <= before_mine {
            tokio::task::yield_now().await;
        }
        self.connections.fetch_sub(1, Ordering::SeqCst) - 1
    }
}

pub(crate) fn http_reply(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

pub(crate) fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    Ok(builder.body(Bytes::copy_from_slice(body.as_bytes())).unwrap())
}

pub(crate) fn identity(server: &str, version: &str, seed: u8) -> Identity {
    Identity::new(name(server), SigningKey::from_seed(version, &[seed; 32]).unwrap())
}

/// A key document of one server, built and signed step by step.
pub(crate) struct KeyDocument {
    object: serde_json::Value,
}

impl KeyDocument {
    pub(crate) fn of(server: &str, valid_until: UnixMillis) -> Self {
        let object = serde_json::json!({
            "server_name": server, "valid_until_ts": valid_until.0, "verify_keys": {}, "old_verify_keys": {},
        });
        Self { object }
    }

    pub(crate) fn verify_key(mut self, signer: &Identity) -> Self {
        let key = signer.key();
        self.object["verify_keys"][key.key_id().as_str()] =
            serde_json::json!({ "key": key.public_key_base64().encode() });
        self
    }

    pub(crate) fn old_key(mut self, signer: &Identity, expired: UnixMillis) -> Self {
        let key = signer.key();
        self.object["old_verify_keys"][key.key_id().as_str()] =
            serde_json::json!({ "key": key.public_key_base64().encode(), "expired_ts": expired.0 });
        self
    }

    pub(crate) fn with(mut self, field: &str, value: serde_json::Value) -> Self {
        self.object[field] = value;
        self
    }

    pub(crate) fn unsigned(self) -> CanonicalJsonObject {
        serde_json::from_value(self.object).unwrap()
    }

    pub(crate) fn signed_by(self, signers: &[&Identity]) -> CanonicalJsonObject {
        let mut object = self.unsigned();
        for signer in signers {
            signer.sign_json(&mut object).unwrap();
        }
        object
    }
}

/// A store in memory that counts.
#[derive(Default)]
pub(crate) struct TestKeyStore {
    pub(crate) rows: Mutex<BTreeMap<OwnedServerName, StoredServerKeys>>,
}

impl ServerKeyStore for TestKeyStore {
    fn lookup<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Option<StoredServerKeys>, StorageError>> {
        Box::pin(async move { Ok(self.rows.lock().unwrap().get(server).cloned()) })
    }

    fn store(&self, keys: StoredServerKeys) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            self.rows.lock().unwrap().insert(keys.server_name.clone(), keys);
            Ok(())
        })
    }
}
