//! What every request passes before its handler and after it: the listener's areas, browsers' rules, the cap on
//! connections, panics, and errors that frameworks make.
//! May not: look into bodies, authenticate, or know single endpoints.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, rc::Rc};

use actix_web::{
    Error, HttpMessage as _, HttpResponse, ResponseError as _,
    body::{BodySize, BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION,
            HeaderMap, HeaderValue,
        },
    },
    middleware::Next,
    web::Data,
};
use futures_util::FutureExt as _;

use crate::{
    connection::{BodyOfRequest, Pace},
    error::MatrixError,
    extract::ProvenOrigin,
    listener::{Area, Serves},
    state::App,
};

/// What the listener serves that accepted the connection. No header can change it.
#[derive(Debug)]
pub struct Served(pub BTreeSet<Serves>);

/// The outermost layer of the application.
///
/// # Errors
/// Answers of its own come as errors that carry the whole response, since a panic leaves no request to answer to.
pub async fn pass<B: MessageBody + Unpin + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BodyOfRequest<EitherBody<B>>>, Error> {
    let pace = request.request().conn_data::<Rc<Pace>>().cloned();
    let open = pace.as_ref().map(Pace::begin);
    let response = pass_on(request, next, pace.as_deref()).await?;
    Ok(response.map_body(|_, body| BodyOfRequest::new(body, open)))
}

async fn pass_on<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
    pace: Option<&Pace>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some(app) = request.app_data::<Data<App>>().cloned() else {
        return Err(MatrixError::internal().into());
    };
    app.vitals.count_request();
    let area = Area::of(request.match_info().unprocessed()).filter(|area| is_served_here(&request, *area));
    let Some(area) = area else {
        let answer = MatrixError::unrecognized_path().error_response();
        return Ok(request.into_response(answer).map_into_right_body());
    };
    let is_open_to_browsers = area.is_open_to_browsers();
    let early_answer = if is_open_to_browsers && request.method() == Method::OPTIONS {
        Some(HttpResponse::Ok().finish())
    } else if pace.is_some_and(|pace| !pace.is_within_cap()) {
        Some(too_many_connections())
    } else {
        None
    };
    if let Some(mut response) = early_answer {
        count_if_limited(&app, response.status());
        if is_open_to_browsers {
            open_to_browsers(response.headers_mut());
        }
        return Ok(request.into_response(response).map_into_right_body());
    }
    let origin = ProvenOrigin::default();
    request.extensions_mut().insert(origin.clone());
    request.extensions_mut().insert(area);
    let handled = AssertUnwindSafe(async { next.call(request).await }).catch_unwind().await;
    let mut response = match handled {
        Ok(Ok(response)) => with_matrix_body(response),
        Ok(Err(error)) => return Err(carrying(error.error_response(), is_open_to_browsers)),
        Err(_) => {
            app.vitals.count_panic();
            log::error!("a request ended in a panic");
            poke_if_put_off(&app, &origin, StatusCode::INTERNAL_SERVER_ERROR);
            return Err(carrying(MatrixError::internal().error_response(), is_open_to_browsers));
        }
    };
    count_if_limited(&app, response.status());
    poke_if_put_off(&app, &origin, response.status());
    if is_open_to_browsers {
        open_to_browsers(response.headers_mut());
    }
    Ok(response)
}

/// What no route matches. A path that has other methods is its resource's own to answer.
pub async fn unmatched() -> HttpResponse {
    MatrixError::unrecognized_path().error_response()
}

fn count_if_limited(app: &App, status: StatusCode) {
    if status == StatusCode::TOO_MANY_REQUESTS {
        app.vitals.count_limited();
    }
}

/// A server that got 429 or 5xx leaves us alone for minutes, with everything it has for us, unless it hears from us.
/// Source: DESIGN 3.12.
fn poke_if_put_off(app: &App, origin: &ProvenOrigin, status: StatusCode) {
    let is_put_off = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    if let Some(origin) = origin.get().filter(|_| is_put_off) {
        app.sender.poke(origin);
    }
}

fn is_served_here(request: &ServiceRequest, area: Area) -> bool {
    request.app_data::<Data<Served>>().is_some_and(|served| area.is_served(&served.0))
}

fn too_many_connections() -> HttpResponse {
    let mut response = MatrixError::limit_exceeded(crate::rate_limit::HOLD_MAX).error_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Errors that actix makes by itself have no body; ours always have one.
fn with_matrix_body<B: MessageBody + 'static>(response: ServiceResponse<B>) -> ServiceResponse<EitherBody<B>> {
    let is_bare = matches!(response.response().body().size(), BodySize::None | BodySize::Sized(0));
    let error = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED if is_bare => MatrixError::unrecognized_method(),
        StatusCode::NOT_FOUND if is_bare => MatrixError::unrecognized_path(),
        _ => return response.map_into_left_body(),
    };
    let answer: HttpResponse<BoxBody> = error.error_response();
    response.into_response(answer).map_into_right_body()
}

/// An error whose response is `response` and nothing else.
fn carrying(mut response: HttpResponse, is_open_to_browsers: bool) -> Error {
    if is_open_to_browsers {
        open_to_browsers(response.headers_mut());
    }
    InternalError::from_response("answered by the door", response).into()
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
fn open_to_browsers(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    );
}
