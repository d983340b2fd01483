//! Reads the body of a request within its size and its time.
//! May not: hold more than the endpoint's cap in memory, or trust the length that a header states.

use std::time::Duration;

use actix_web::{
    HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::error::MatrixError;

/// Bytes of a JSON body. Source: SECURITY T21.
pub const JSON_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a signed body that is one event: `send_knock`, `send_join`, `send_leave`. Source: SECURITY T21.
pub const EVENT_BODY_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a transaction's body: 200 times the largest event. Source: SECURITY T21.
pub const TRANSACTION_BODY_BYTES_MAX: usize = 200 * 64 * 1024;

/// From the head to the last byte of a JSON body. Source: SECURITY T20.
pub const JSON_BODY_DEADLINE: Duration = Duration::from_secs(20);

/// How large a signed body of an endpoint may be. Stands at its route; an endpoint that says nothing takes one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BodyBytesMax(pub usize);

impl BodyBytesMax {
    /// One event.
    pub const EVENT: Self = Self(EVENT_BODY_BYTES_MAX);
    /// Any other JSON.
    pub const JSON: Self = Self(JSON_BODY_BYTES_MAX);
    /// A transaction.
    pub const TRANSACTION: Self = Self(TRANSACTION_BODY_BYTES_MAX);

    /// What the request's route says.
    pub fn of_request(request: &HttpRequest) -> Self {
        request.app_data::<Self>().copied().unwrap_or(Self::EVENT)
    }

    /// Whether the body of this request may turn out to be large, by what its head says; the body is never longer than that.
    pub fn lets_be_large(self, request: &HttpRequest) -> bool {
        self > Self::JSON && stated_length(request).is_none_or(|length| length > JSON_BODY_BYTES_MAX)
    }
}

/// Reads a whole body of at most `bytes_max`. What the sender's headers say is used to refuse early only.
///
/// # Errors
/// 413 `M_TOO_LARGE`, 408, 415 for multipart bodies, 400 when the body breaks off.
pub async fn read(request: &HttpRequest, payload: Payload, bytes_max: usize) -> Result<Bytes, MatrixError> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let too_large = || MatrixError::too_large(format!("the body is larger than {bytes_max} bytes"));
    if content_type.is_some_and(is_multipart) {
        return Err(MatrixError::unsupported_media_type());
    }
    if stated_length(request).is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let reading = async {
        let mut payload = payload;
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(broken_body)?;
            if body.len().saturating_add(chunk.len()) > bytes_max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    match tokio::time::timeout(JSON_BODY_DEADLINE, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MatrixError::body_too_slow()),
    }
}

fn stated_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Multipart bodies were a way to fill memory elsewhere (SECURITY V54); no endpoint takes one.
fn is_multipart(content_type: &str) -> bool {
    content_type.trim_start().get(..10).is_some_and(|head| head.eq_ignore_ascii_case("multipart/"))
}

fn broken_body(error: PayloadError) -> MatrixError {
    match error {
        PayloadError::Overflow => MatrixError::too_large("the body is too large"),
        other => MatrixError::not_json(format!("the body broke off: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use actix_web::test::TestRequest;
    use futures_util::{Stream, stream};

    use super::*;

    type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>>;

    async fn read_all(chunks: Chunks, bytes_max: usize) -> Result<Bytes, MatrixError> {
        let request = TestRequest::put().to_http_request();
        read(&request, Payload::from(chunks), bytes_max).await
    }

    #[actix_web::test]
    async fn a_dripping_body_ends_with_408() {
        // T20: a byte a second would keep a place for days.
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let drip: Chunks = Box::pin(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok(Bytes::from_static(b"{")), ()))
        }));
        let error = read_all(drip, 1_000_000).await.unwrap_err();
        assert_eq!(error.status.as_u16(), 408);
        assert_eq!(begun.elapsed().as_secs(), JSON_BODY_DEADLINE.as_secs());
    }

    #[actix_web::test]
    async fn bodies_of_parts_are_refused_unread() {
        // V54: who reads on never comes back.
        for kind in ["multipart/form-data; boundary=b", " Multipart/Mixed", "multipart/"] {
            let request = TestRequest::put().insert_header((CONTENT_TYPE, kind)).to_http_request();
            let never: Chunks = Box::pin(stream::pending());
            let reading = read(&request, Payload::from(never), 1_000_000);
            let refused = futures_util::FutureExt::now_or_never(reading).unwrap().unwrap_err();
            assert_eq!(refused.status.as_u16(), 415, "{kind}");
        }
        for kind in ["application/json", "text/plain", "application/multipart", ""] {
            let request = TestRequest::put().insert_header((CONTENT_TYPE, kind)).to_http_request();
            let body: Chunks = Box::pin(stream::iter([Ok(Bytes::from_static(b"{}"))]));
            assert_eq!(read(&request, Payload::from(body), 2).await.unwrap(), "{}", "{kind}");
        }
    }

    #[actix_web::test]
    async fn the_cap_counts_bytes_not_headers() {
        let chunks = |count: usize| -> Chunks {
            Box::pin(stream::iter((0..count).map(|_| Ok(Bytes::from_static(b"0123456789")))))
        };
        assert_eq!(read_all(chunks(3), 30).await.unwrap().len(), 30);
        assert_eq!(read_all(chunks(3), 29).await.unwrap_err().status.as_u16(), 413);
        let broken: Chunks = Box::pin(stream::iter([Err(PayloadError::Incomplete(None))]));
        assert_eq!(read_all(broken, 29).await.unwrap_err().status.as_u16(), 400);
    }
}
