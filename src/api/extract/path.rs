//! The parts of the path that a route leaves open, decoded exactly once from the request line.
//! May not: use the router's own decoding, which has decoded some escapes and left others.

use std::{
    borrow::Cow,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use percent_encoding::percent_decode_str;

use crate::error::MatrixError;

/// The open parts of the path in their order, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathArguments(Vec<String>);

impl PathArguments {
    /// The open parts of a request's path, for handlers that look at them only after they know who asks.
    ///
    /// # Errors
    /// As [`PathArguments::of`].
    pub fn of_request(request: &HttpRequest) -> Result<Self, MatrixError> {
        let pattern = request.match_pattern().unwrap_or_default();
        Self::of(&pattern, request.uri().path())
    }

    /// Takes the open parts of `raw_path` where `pattern` (such as `/a/{b}/{rest:.*}`) has them.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when a part is no UTF-8 once decoded.
    pub fn of(pattern: &str, raw_path: &str) -> Result<Self, MatrixError> {
        let mut parts = raw_path.split('/');
        let mut arguments = Vec::new();
        for wanted in pattern.split('/') {
            let Some(part) = parts.next() else { break };
            let takes_the_rest = wanted.starts_with('{') && wanted.ends_with("*}");
            if takes_the_rest {
                let rest = parts.by_ref().fold(part.to_owned(), |path, part| path + "/" + part);
                arguments.push(decoded(&rest)?);
            } else if wanted.starts_with('{') {
                arguments.push(decoded(part)?);
            }
        }
        Ok(Self(arguments))
    }

    /// The argument at a place, counted from 0; empty text when the route has fewer.
    pub fn get(&self, place: usize) -> &str {
        self.0.get(place).map(String::as_str).unwrap_or_default()
    }

    /// The argument at a place as an identifier.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` that names `what` it should have been.
    pub fn parse<'a, T>(&'a self, place: usize, what: &str) -> Result<T, MatrixError>
    where
        T: TryFrom<&'a str, Error: std::fmt::Display>,
    {
        T::try_from(self.get(place)).map_err(|error| MatrixError::invalid_param(format!("{what}: {error}")))
    }

    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

fn decoded(part: &str) -> Result<String, MatrixError> {
    percent_decode_str(part)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| MatrixError::invalid_param("the path is no UTF-8"))
}

impl FromRequest for PathArguments {
    type Error = MatrixError;
    type Future = Ready<Result<Self, MatrixError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_decoded_once() {
        let table: [(&str, &str, &[&str]); 9] = [
            ("/a/{b}", "/a/%21x%3Ay", &["!x:y"]),
            ("/a/{b}", "/a/!x:y", &["!x:y"]),
            ("/a/{b}", "/a/%2541", &["%41"]),
            ("/a/{b}", "/a/x%2Fy", &["x/y"]),
            ("/a/{b}", "/a/%zz", &["%zz"]),
            ("/a/{b}", "/a/a+b", &["a+b"]),
            ("/a/{b}/c/{d}", "/a/1/c/2", &["1", "2"]),
            ("/a/{b}/{rest:.*}", "/a/1/2/%2F3/", &["1", "2//3/"]),
            ("/a/{b}/{rest:.*}", "/a/1/", &["1", ""]),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(PathArguments::of(pattern, path).unwrap().as_slice(), expected, "{path}");
        }
        assert!(PathArguments::of("/a/{b}", "/a/%ff").is_err());
    }
}
