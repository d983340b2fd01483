//! Bodies that are read as a type of ours and not ruma's: where old clients send what its types do not take, or where a
//! password stands in them, which its types would show in debug text.
//! May not: judge what the fields mean.

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use crate::{
    error::MatrixError,
    extract::{
        body::{self, JSON_BODY_BYTES_MAX},
        json_object::check_object,
    },
};

/// A JSON object that came as the body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = MatrixError;
    type Future = LocalBoxFuture<'static, Result<Self, MatrixError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let bytes = body::read(&request, payload, JSON_BODY_BYTES_MAX).await?;
            parse(&bytes).map(Self)
        })
    }
}

/// The same where every field is optional: then clients send nothing at all, which counts as an object without fields.
pub struct JsonFields<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonFields<T> {
    type Error = MatrixError;
    type Future = LocalBoxFuture<'static, Result<Self, MatrixError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let bytes = body::read(&request, payload, JSON_BODY_BYTES_MAX).await?;
            parse(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
        })
    }
}

/// Reads a JSON object as a type.
///
/// # Errors
/// 400 `M_NOT_JSON`, `M_BAD_JSON` or `M_MISSING_PARAM`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MatrixError> {
    // Read as a type alone, an array would pass for an object whose keys may all be absent, and what no field takes for JSON.
    check_object(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| {
        if error.to_string().starts_with("missing field") {
            MatrixError::missing_param(error)
        } else {
            MatrixError::bad_json(error)
        }
    })
}

#[cfg(test)]
mod tests {
    use ruma::api::error::ErrorCode;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Greeting {
        word: String,
        #[serde(default)]
        times: u8,
    }

    #[derive(Debug, Deserialize)]
    struct Nothing {
        #[serde(default)]
        word: Option<String>,
    }

    #[test]
    fn bodies_are_objects_with_the_fields_that_must_be() {
        let greeting: Greeting = parse(br#" {"word":"hello","other":[1.5]}"#).unwrap();
        assert_eq!((greeting.word.as_str(), greeting.times), ("hello", 0));
        for (body, errcode) in [
            ("", ErrorCode::NotJson),
            ("{", ErrorCode::NotJson),
            ("{} {}", ErrorCode::NotJson),
            (r#"{"word":"\ud800"}"#, ErrorCode::NotJson),
            (r#"{"word":"a","other":"\ud800"}"#, ErrorCode::NotJson),
            (r#"{"word":"a","other":1,"other":1}"#, ErrorCode::BadJson),
            ("[\"hello\",1]", ErrorCode::BadJson),
            ("null", ErrorCode::BadJson),
            ("{}", ErrorCode::MissingParam),
            (r#"{"word":1}"#, ErrorCode::BadJson),
            (r#"{"word":"a","times":256}"#, ErrorCode::BadJson),
            (r#"{"word":"a","word":"b"}"#, ErrorCode::BadJson),
        ] {
            assert_eq!(parse::<Greeting>(body.as_bytes()).unwrap_err().errcode, errcode, "{body}");
        }
        assert_eq!(parse::<Nothing>(b"[]").unwrap_err().errcode, ErrorCode::BadJson);
        assert!(parse::<Nothing>(b"{}").unwrap().word.is_none());
    }

    #[test]
    fn what_no_field_takes_is_judged_too() {
        let deep = format!(r#"{{"word":"a","other":{}{}}}"#, "[".repeat(127), "]".repeat(127));
        assert_eq!(parse::<Greeting>(deep.as_bytes()).unwrap_err().errcode, ErrorCode::NotJson);
        assert_eq!(parse::<Greeting>(b"{\"word\":\"a\",\"o\":\"\xff\"}").unwrap_err().errcode, ErrorCode::NotJson);
        assert_eq!(
            parse::<serde_json::Map<_, serde_json::Value>>(br#"{"a":1,"a":2}"#).unwrap_err().errcode,
            ErrorCode::BadJson
        );
    }
}
