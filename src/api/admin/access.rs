//! Who may use the admin listener: the holder of the admin token, and admin users.
//! May not: compare secrets faster when they differ early, or let anybody guess without a pause.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::StatusCode, web::Data};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, access_token::token_of},
    state::App,
};

/// A request that may see what operators see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator;

impl Operator {
    /// # Errors
    /// 401 without a good token, 403 for users who are no admins, 429 after too many wrong tokens from one address.
    async fn of_request(request: HttpRequest) -> Result<Self, MatrixError> {
        let app = request.app_data::<Data<App>>().ok_or_else(MatrixError::internal)?;
        let token = token_of(&request).ok_or_else(MatrixError::missing_token)?;
        let address = ClientAddress::of_request(&request, &app.settings.trusted_proxies).for_limits();
        let failures = &app.limits.failed_admin_tokens_by_address;
        failures.peek(&address, &*app.clock)?;
        if is_same(&token, app.settings.admin_token.expose()) {
            return Ok(Self);
        }
        match Caller::of_token(&token, app).await {
            Ok(caller) if caller.is_admin => Ok(Self),
            Ok(_) => Err(MatrixError::forbidden("this user is no admin")),
            Err(error) => {
                if error.status == StatusCode::UNAUTHORIZED {
                    failures.take(&address, &*app.clock)?;
                }
                Err(error)
            }
        }
    }
}

/// Hashes first, so that neither length nor first difference shows in the time.
fn is_same(given: &str, expected: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    !expected.is_empty() && bool::from(digest(given).as_slice().ct_eq(digest(expected).as_slice()))
}

impl FromRequest for Operator {
    type Error = MatrixError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, MatrixError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        Box::pin(Self::of_request(request.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same("abc", "abc"));
        for given in ["", "ab", "abcd", "abC"] {
            assert!(!is_same(given, "abc"), "{given:?}");
        }
        assert!(!is_same("", ""), "an unset token is nobody's");
    }
}
