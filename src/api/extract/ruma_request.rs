//! The bridge to ruma's request and response types: the only place where `http` 0.2 and 1 meet.
//! May not: authenticate; [`super::Caller`] does. Federation endpoints do not come through here, since what servers sign
//! must be parsed by the strict parser.

use std::{future::Future, pin::Pin};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder,
    dev::Payload,
    http::{Method, StatusCode},
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use ruma::api::{IncomingRequest, OutgoingResponse, OutgoingResponseExt as _};

use super::{
    body::{self, JSON_BODY_BYTES_MAX},
    json_object::check_object,
    path::PathArguments,
};
use crate::error::MatrixError;

/// A client's request as ruma's type for the endpoint: path, query and body.
///
/// The route must leave open exactly the parts of the path that the endpoint's type has, in their order.
#[derive(Clone, Debug)]
pub struct Ruma<T>(pub T);

impl<T: IncomingRequest + 'static> FromRequest for Ruma<T> {
    type Error = MatrixError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, MatrixError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let body = body::read(&request, payload, JSON_BODY_BYTES_MAX).await?;
            parse(&request, &body).map(Self)
        })
    }
}

fn parse<T: IncomingRequest>(request: &HttpRequest, body: &Bytes) -> Result<T, MatrixError> {
    // Where every field is optional, clients send nothing at all; Synapse reads that as an object without fields. What is put
    // somewhere has to be said.
    let no_fields = Bytes::from_static(b"{}");
    let body = if body.is_empty() && request.method() == Method::POST { &no_fields } else { body };
    if !body.is_empty() || request.method() == Method::PUT {
        check_object(body)?;
    }
    // Ruma would put a mark in the place of what it cannot read.
    if percent_decode_str(request.query_string()).decode_utf8().is_err() {
        return Err(MatrixError::invalid_param("the query is no UTF-8"));
    }
    let arguments = PathArguments::of_request(request)?;
    let arguments: Vec<&str> = arguments.as_slice().iter().map(String::as_str).collect();
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let bridged = http::Request::builder()
        .method(request.method().as_str())
        .uri(target)
        .body(&**body)
        .map_err(MatrixError::invalid_param)?;
    // The route has chosen the method already, and several may lead to one type.
    T::try_from_http_request_inner(bridged, &arguments).map_err(MatrixError::from)
}

/// Turns ruma's response into what actix sends.
///
/// # Errors
/// 500 `M_UNKNOWN` when the response cannot be written, which is our fault.
pub fn answer<T: OutgoingResponse>(response: T) -> Result<HttpResponse, MatrixError> {
    let response: http::Response<Vec<u8>> = response.try_into_http_response().map_err(|error| {
        log::error!(error:%; "response cannot be written");
        MatrixError::internal()
    })?;
    let (head, body) = response.into_parts();
    let status = StatusCode::from_u16(head.status.as_u16()).map_err(|_| MatrixError::internal())?;
    let mut bridged = HttpResponseBuilder::new(status);
    for (name, value) in &head.headers {
        bridged.append_header((name.as_str(), value.as_bytes()));
    }
    Ok(bridged.body(body))
}

#[cfg(test)]
mod tests {
    use actix_web::{test::TestRequest, web};
    use ruma::api::client::{membership::kick_user, user_directory::search_users};

    use super::*;

    async fn outcome<T: IncomingRequest + 'static>(body: impl Into<Bytes>) -> (u16, String) {
        let (request, mut payload) = TestRequest::post().set_payload(body.into()).to_http_parts();
        match Ruma::<T>::from_request(&request, &mut payload).await {
            Ok(_) => (200, String::new()),
            Err(error) => (error.status.as_u16(), error.errcode.to_string()),
        }
    }

    #[actix_web::test]
    async fn each_bad_body_has_its_error() {
        let deep = format!("{{\"search_term\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let large = format!("{{\"search_term\":\"{}\"}}", "x".repeat(JSON_BODY_BYTES_MAX));
        let table: [(String, u16, &str); 9] = [
            (r#"{"search_term":"t"}"#.to_owned(), 200, ""),
            (String::new(), 400, "M_MISSING_PARAM"),
            ("{}".to_owned(), 400, "M_MISSING_PARAM"),
            (r#"{"search_term":1}"#.to_owned(), 400, "M_BAD_JSON"),
            ("[]".to_owned(), 400, "M_BAD_JSON"),
            ("{".to_owned(), 400, "M_NOT_JSON"),
            (r#"{"search_term":"t"} x"#.to_owned(), 400, "M_NOT_JSON"),
            (deep, 400, "M_NOT_JSON"),
            (large, 413, "M_TOO_LARGE"),
        ];
        for (body, status, errcode) in table {
            let shown: String = body.chars().take(40).collect();
            assert_eq!(outcome::<search_users::v3::Request>(body).await, (status, errcode.to_owned()), "{shown}");
        }
    }

    #[actix_web::test]
    async fn what_is_put_somewhere_is_said() {
        let send = |body: &'static str| async move {
            let request = TestRequest::put().uri("/rooms/!x:y/typing").set_payload(body);
            let (request, mut payload) = request.to_http_parts();
            Ruma::<kick_user::v3::Request>::from_request(&request, &mut payload).await.unwrap_err().errcode.to_string()
        };
        assert_eq!(send("").await, "M_NOT_JSON");
        assert_ne!(send("{}").await, "M_NOT_JSON");
    }

    #[actix_web::test]
    async fn a_query_is_utf8() {
        let ask = |query: &'static str| async move {
            let (request, mut payload) =
                TestRequest::post().uri(query).set_payload(r#"{"search_term":"t"}"#).to_http_parts();
            Ruma::<search_users::v3::Request>::from_request(&request, &mut payload)
                .await
                .map_err(|error| error.status.as_u16())
        };
        assert!(ask("/?a=%C3%A9&b=%zz").await.is_ok());
        assert_eq!(ask("/?a=%ff").await.unwrap_err(), 400);
    }

    #[actix_web::test]
    async fn path_and_query_reach_the_type() {
        async fn kick(request: Ruma<kick_user::v3::Request>) -> String {
            format!("{} {}", request.0.room_id, request.0.user_id)
        }
        let app =
            actix_web::test::init_service(actix_web::App::new().route("/rooms/{roomId}/kick", web::post().to(kick)))
                .await;
        let ask = |path: &str| TestRequest::post().uri(path).set_payload(r#"{"user_id":"@a:b"}"#).to_request();
        let said = actix_web::test::call_and_read_body(&app, ask("/rooms/%21x%3Ay/kick")).await;
        assert_eq!(said, "!x:y @a:b");
        let refused = actix_web::test::call_service(&app, ask("/rooms/nonsense/kick")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    }
}
