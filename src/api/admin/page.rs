//! `limit` and `from` of the admin's lists.
//! May not: return more than [`LIMIT_MAX`] rows, or take a `from` that no answer gave.

use actix_web::HttpRequest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::MatrixError;

/// Rows when the query names no `limit`. Ours.
const LIMIT_DEFAULT: usize = 100;

/// Rows of one answer. Ours.
pub(super) const LIMIT_MAX: usize = 1_000;

/// Parameters of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Rows wanted.
    pub(super) limit: usize,
    from: Option<String>,
}

impl Page {
    /// # Errors
    /// 400 `M_INVALID_PARAM`.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, MatrixError> {
        let query = request.query_string();
        let limit = match parameter(query, "limit") {
            None => LIMIT_DEFAULT,
            Some(text) => match text.parse() {
                Ok(limit @ 1..=LIMIT_MAX) => limit,
                _ => return Err(MatrixError::invalid_param(format!("limit must be 1 to {LIMIT_MAX}"))),
            },
        };
        Ok(Self { limit, from: parameter(query, "from").map(str::to_owned) })
    }

    /// Where the last answer ended; `None` at the start.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it is none of ours.
    pub(super) fn from<T: DeserializeOwned>(&self) -> Result<Option<T>, MatrixError> {
        let Some(from) = &self.from else { return Ok(None) };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(from).ok();
        let place = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        place.map(Some).ok_or_else(|| MatrixError::invalid_param("from is none that this server gave"))
    }
}

/// What to pass as `from` to go on after a place.
pub(super) fn next_from<T: Serialize>(place: &T) -> Option<String> {
    serde_json::to_vec(place).ok().map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// A parameter whose values need no escapes.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn limits_and_places_are_checked() {
        let page = |query: &str| Page::of(&TestRequest::with_uri(&format!("/?{query}")).to_http_request());
        assert_eq!(page("").unwrap().limit, LIMIT_DEFAULT);
        assert_eq!(page("limit=7").unwrap().limit, 7);
        for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit="] {
            assert!(page(query).is_err(), "{query}");
        }
        let place = next_from(&("!r:x", "@u:x")).unwrap();
        let read: Option<(String, String)> = page(&format!("from={place}")).unwrap().from().unwrap();
        assert_eq!(read, Some(("!r:x".to_owned(), "@u:x".to_owned())));
        assert!(page("from=nonsense!").unwrap().from::<u64>().is_err());
        assert!(page(&format!("from={place}")).unwrap().from::<u64>().is_err());
    }
}
