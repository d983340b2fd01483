//! What is made of other servers' words before anything is done with it, as functions: for the proofs, which fuzz them.
//! May not: be part of the program. It exists under the feature `testing`, and decides nothing itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::HeaderMap;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};
use rustls_pki_types::ServerName as CertificateName;
use url::Url;
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::{receipts::Receipt, server_keys::StoredServerKeys};

use crate::{
    discovery::{DiscoveryError, well_known},
    keyring::{DocumentError, ServerKeys},
    perform::edus::News,
};

/// What would be kept of a key document that `asked` answers about itself.
///
/// # Errors
/// [`DocumentError`]: it proves nothing.
pub fn keys_in_document(
    document: &CanonicalJsonObject,
    asked: &ServerName,
    now: UnixMillis,
) -> Result<StoredServerKeys, DocumentError> {
    ServerKeys::read(document, asked, &BTreeSet::new(), now).map(|keys| keys.to_stored())
}

/// Whom a well-known answer delegates to, and for how long that counts. `None`: to nobody.
pub fn delegation(headers: &HeaderMap, body: &[u8], now: UnixMillis) -> Option<(OwnedServerName, Duration)> {
    well_known::read_answer(headers, body, now).ok()
}

/// Where a well-known answer redirects to. `None`: nowhere that we follow.
pub fn next_hop(from: &Url, headers: &HeaderMap) -> Option<Url> {
    well_known::next_hop(from, headers).ok()
}

/// The name that the certificate of a server must be for.
///
/// # Errors
/// [`DiscoveryError::UnfitName`]: no certificate can be for it.
pub fn certificate_name(server: &ServerName) -> Result<CertificateName<'static>, DiscoveryError> {
    crate::discovery::certificate_name(server)
}

/// Who types in which room, and the receipts there, as far as a server may tell of them.
pub fn news(
    origin: &ServerName,
    edus: &[CanonicalJsonValue],
) -> BTreeMap<OwnedRoomId, (BTreeMap<OwnedUserId, bool>, Vec<Receipt>)> {
    let rooms = News::of(origin, edus).rooms.into_iter();
    rooms.map(|(room_id, news)| (room_id, (news.typing, news.receipts))).collect()
}
