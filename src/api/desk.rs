//! `GET /desk` and what lies below it: the page on which moderators answer knocks, with its style and its modules.
//! May not: know who looks, read a store, or decide anything; the page asks the client API like any other client.
//!
//! The files are part of the program. They come with a policy under which the page loads nothing but them, runs no script
//! but theirs, and cannot be framed.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, EntityTag, Header as _, IfNoneMatch, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    web,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// What the page may do. Modules and style come from here and requests go here; nothing is sent by a form, no text becomes
/// markup (`trusted-types`), and no other page holds this one in a frame. Source: DESIGN section 6.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the desk.
struct File {
    paths: &'static [&'static str],
    content_type: &'static str,
    text: &'static str,
    /// Names the text: another version of the program may bring another.
    tag: EntityTag,
}

static FILES: LazyLock<[File; 12]> = LazyLock::new(|| {
    [
        File::new(&["/desk", "/desk/"], HTML, include_str!("desk/desk.html")),
        File::new(&["/desk/desk.css"], CSS, include_str!("desk/desk.css")),
        File::new(&["/desk/icon.svg"], SVG, include_str!("desk/icon.svg")),
        File::new(&["/desk/desk.js"], JS, include_str!("desk/desk.js")),
        File::new(&["/desk/card.js"], JS, include_str!("desk/card.js")),
        File::new(&["/desk/question.js"], JS, include_str!("desk/question.js")),
        File::new(&["/desk/lists.js"], JS, include_str!("desk/lists.js")),
        File::new(&["/desk/matrix.js"], JS, include_str!("desk/matrix.js")),
        File::new(&["/desk/rooms.js"], JS, include_str!("desk/rooms.js")),
        File::new(&["/desk/levels.js"], JS, include_str!("desk/levels.js")),
        File::new(&["/desk/past.js"], JS, include_str!("desk/past.js")),
        File::new(&["/desk/words.js"], JS, include_str!("desk/words.js")),
    ]
});

/// Mounts the files.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    for file in FILES.iter() {
        let answer = move |request: HttpRequest| std::future::ready(file.answer(&request));
        config.service(web::resource(file.paths.to_vec()).route(web::get().to(answer)).route(web::head().to(answer)));
    }
}

impl File {
    fn new(paths: &'static [&'static str], content_type: &'static str, text: &'static str) -> Self {
        let tag = EntityTag::new_strong(URL_SAFE_NO_PAD.encode(Sha256::digest(text)));
        Self { paths, content_type, text, tag }
    }

    /// The file, or that it is the one that the browser has.
    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let is_known = match IfNoneMatch::parse(request) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&self.tag)),
            Err(_) => false,
        };
        if is_known {
            return headed(StatusCode::NOT_MODIFIED, &self.tag).finish();
        }
        headed(StatusCode::OK, &self.tag).content_type(self.content_type).body(self.text)
    }
}

/// What every answer says beside its content. `no-cache`: it may be kept, and is asked about before it is used.
fn headed(status: StatusCode, tag: &EntityTag) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((ETAG, tag.to_string()))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"));
    response
}

#[cfg(test)]
mod tests {
    use actix_web::{
        dev::Service as _,
        http::{Method, header},
        test::{TestRequest, init_service, read_body},
    };
    use serde_json::json;

    use super::*;
    use crate::{
        listener::Serves,
        testing::{World, ask},
    };

    #[actix_web::test]
    async fn every_file_comes_under_the_policy_and_is_known_again() {
        let service = init_service(World::new().application(&[Serves::Client])).await;
        for file in FILES.iter() {
            for path in file.paths {
                let response = service.call(TestRequest::with_uri(path).to_request()).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK, "{path}");
                let headers = response.headers().clone();
                for (name, value) in [
                    (header::CONTENT_SECURITY_POLICY, POLICY),
                    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                    (header::X_FRAME_OPTIONS, "DENY"),
                    (header::REFERRER_POLICY, "no-referrer"),
                    (header::CACHE_CONTROL, "no-cache"),
                    (header::CONTENT_TYPE, file.content_type),
                ] {
                    assert_eq!(headers.get(&name).map(|value| value.to_str().unwrap()), Some(value), "{path}: {name}");
                }
                // No other page reads it.
                assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{path}");
                assert_eq!(read_body(response).await, file.text, "{path}");

                let tag = headers.get(header::ETAG).unwrap().to_str().unwrap();
                for (known, status) in [
                    (tag, 304),
                    (&format!("\"other\", W/{tag}"), 304),
                    ("*", 304),
                    ("\"other\"", 200),
                    ("nonsense", 200),
                ] {
                    let again = TestRequest::with_uri(path).insert_header((header::IF_NONE_MATCH, known)).to_request();
                    let response = service.call(again).await.unwrap();
                    assert_eq!(response.status(), status, "{path} when {known} is known");
                    assert_eq!(response.headers().get(header::ETAG).unwrap(), tag);
                    let length = read_body(response).await.len();
                    assert_eq!(length, if status == 304 { 0 } else { file.text.len() }, "{path}");
                }
            }
        }
    }

    #[actix_web::test]
    async fn the_desk_is_read_and_only_where_clients_are() {
        let world = World::new();
        let service = init_service(world.application(&[Serves::Client])).await;
        let with = |method: Method| TestRequest::with_uri("/desk").method(method).to_request();
        assert_eq!(service.call(with(Method::HEAD)).await.unwrap().status(), StatusCode::OK);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let (status, body) = ask(&service, with(method.clone())).await;
            assert_eq!((status, &body["errcode"]), (405, &json!("M_UNRECOGNIZED")), "{method}");
        }
        for path in ["/desk/nothing", "/desk/desk.js/", "/desk/../desk.rs", "/desk//desk.js", "/desks"] {
            let (status, body) = ask(&service, TestRequest::with_uri(path).to_request()).await;
            assert_eq!((status, &body["errcode"]), (404, &json!("M_UNRECOGNIZED")), "{path}");
        }
        for listener in [Serves::Federation, Serves::Admin] {
            let service = init_service(world.application(&[listener])).await;
            for path in FILES.iter().flat_map(|file| file.paths) {
                let (status, body) = ask(&service, TestRequest::with_uri(path).to_request()).await;
                assert_eq!((status, &body["errcode"]), (404, &json!("M_UNRECOGNIZED")), "{path} on {listener}");
            }
        }
    }

    #[test]
    fn the_page_asks_for_no_file_that_there_is_not() {
        let paths: Vec<&str> = FILES.iter().flat_map(|file| file.paths).copied().collect();
        let mut asked = 0;
        for file in FILES.iter() {
            let named = |before: &str| -> Vec<String> {
                file.text.split(before).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
            };
            let linked = [named("href=\""), named("src=\"")].concat();
            let imported = named("from \"./").into_iter().map(|name| format!("/desk/{name}"));
            for path in linked.into_iter().chain(imported) {
                assert!(paths.contains(&path.as_str()), "{:?} asks for {path}", file.paths);
                asked += 1;
            }
        }
        assert!(asked > 8, "{asked}");
    }
}
