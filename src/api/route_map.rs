//! The patterns of all routes, read from the router itself, so that what goes over every route cannot forget a new one.
//! May not: be part of what serves; it is there for tests and proofs alone.

use actix_web::{
    HttpRequest, HttpResponse,
    test::{TestRequest, call_and_read_body, init_service},
    web,
};

/// What the router's own description of itself puts before the patterns of a route.
const PATTERNS: &str = "patterns: ";

/// Every pattern that is routed, such as `/_matrix/client/v3/sync`, on whatever listener.
pub fn route_patterns() -> Vec<String> {
    actix_web::rt::System::new().block_on(async {
        let service =
            init_service(actix_web::App::new().configure(super::routes).default_service(web::to(described))).await;
        let described = call_and_read_body(&service, TestRequest::with_uri("/nowhere").to_request()).await;
        patterns_of(&String::from_utf8_lossy(&described))
    })
}

/// The router has no other way to be asked; [`route_patterns`] has a test that notices when this one changes.
async fn described(request: HttpRequest) -> HttpResponse {
    HttpResponse::Ok().body(format!("{:?}", request.resource_map()))
}

fn patterns_of(described: &str) -> Vec<String> {
    let mut patterns = Vec::new();
    for after in described.split(PATTERNS).skip(1) {
        let listed = after.split(')').next().unwrap_or_default();
        // `Single("…")` or `List(["…", "…"])`: what stands between quotes at odd places.
        patterns.extend(listed.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/')).map(str::to_owned));
    }
    patterns.sort();
    patterns.dedup();
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_tells_its_routes() {
        let patterns = route_patterns();
        for pattern in [
            "/health",
            "/_matrix/client/v3/sync",
            "/_matrix/client/r0/rooms/{room_id}/send/{event_type}/{txn_id}",
            "/_matrix/federation/v1/send_knock/{roomId}/{eventId}",
            "/_matrix/client/v3/pushrules/",
        ] {
            assert!(patterns.iter().any(|known| known == pattern), "{pattern} is not in {patterns:#?}");
        }
        assert!(patterns.len() > 150, "{}", patterns.len());
    }
}
