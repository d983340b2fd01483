//! The calling user, known by an access token.
//! May not: show a token in a log or an error, or look one up other than by its hash.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::AUTHORIZATION, web::Data};
use percent_encoding::percent_decode_str;
use ruma::{OwnedDeviceId, OwnedUserId};
use sha2::{Digest as _, Sha256};
use vestibule_storage::accounts::TokenHash;

use crate::{error::MatrixError, state::App};

/// Longest access token that is looked at, in bytes. Ours are shorter. Source: SECURITY V67.
const TOKEN_BYTES_MAX: usize = 512;

/// A user of this server whose access token came with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// May use the admin listener.
    pub is_admin: bool,
}

impl Caller {
    /// Finds the user that the request's token belongs to.
    ///
    /// # Errors
    /// 401 `M_MISSING_TOKEN` or `M_UNKNOWN_TOKEN`; a deactivated user's token is unknown. 500 when storage fails.
    pub async fn of_request(request: &HttpRequest, app: &App) -> Result<Self, MatrixError> {
        let token = token_of(request).ok_or_else(MatrixError::missing_token)?;
        Self::of_token(&token, app).await
    }

    /// Finds the user that a token belongs to.
    ///
    /// # Errors
    /// As [`Caller::of_request`].
    pub async fn of_token(token: &str, app: &App) -> Result<Self, MatrixError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(MatrixError::unknown_token());
        }
        let accounts = &app.stores.accounts;
        let device = accounts.device_by_token(&hash_token(token)).await?.ok_or_else(MatrixError::unknown_token)?;
        let user = accounts.user(&device.user_id).await?.ok_or_else(MatrixError::unknown_token)?;
        if user.is_deactivated {
            return Err(MatrixError::unknown_token());
        }
        Ok(Self { user_id: device.user_id, device_id: device.device_id, is_admin: user.is_admin })
    }
}

/// What is kept of an access token.
pub fn hash_token(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// The token of a request: from the header, else from the query, as older clients send it. Never empty.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens>
pub fn token_of(request: &HttpRequest) -> Option<String> {
    let mut lines = request.headers().get_all(AUTHORIZATION).filter_map(|value| value.to_str().ok());
    if let Some(token) = lines.find_map(bearer_token) {
        return Some(token.to_owned());
    }
    let pairs = request.query_string().split('&');
    let value = pairs.filter_map(|pair| pair.strip_prefix("access_token=")).next()?;
    let token = percent_decode_str(value).decode_utf8().ok()?.into_owned();
    Some(token).filter(|token| !token.is_empty())
}

fn bearer_token(line: &str) -> Option<&str> {
    let (scheme, token) = line.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl FromRequest for Caller {
    type Error = MatrixError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, MatrixError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let app = request.app_data::<Data<App>>().ok_or_else(MatrixError::internal)?;
            Self::of_request(&request, app).await
        })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn tokens_are_found_where_the_specification_puts_them() {
        let table: [(Option<&str>, &str, Option<&str>); 9] = [
            (Some("Bearer abc"), "/", Some("abc")),
            (Some("bearer  abc"), "/", Some("abc")),
            (Some("Bearer "), "/", None),
            (Some("Bearer"), "/", None),
            (Some("Basic abc"), "/", None),
            (None, "/?access_token=a%2Bc", Some("a+c")),
            (None, "/?x=1&access_token=abc", Some("abc")),
            (None, "/?access_token=", None),
            (Some("Bearer abc"), "/?access_token=other", Some("abc")),
        ];
        for (header, uri, expected) in table {
            let mut request = TestRequest::with_uri(uri);
            if let Some(header) = header {
                request = request.insert_header((AUTHORIZATION, header));
            }
            assert_eq!(token_of(&request.to_http_request()).as_deref(), expected, "{header:?} {uri}");
        }
    }
}
