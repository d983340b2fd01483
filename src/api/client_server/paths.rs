//! The version prefixes under which clients look for an endpoint.
//! May not: mount anything.

/// Clients of before Matrix 1.1 say `r0` where later ones say `v3`; the endpoints are the same.
const PREFIXES: [&str; 2] = ["/_matrix/client/v3", "/_matrix/client/r0"];

/// The full paths of an endpoint, given without its prefix.
#[must_use]
pub fn each(path: &str) -> [String; 2] {
    PREFIXES.map(|prefix| format!("{prefix}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_both_prefixes() {
        assert_eq!(each("/login"), ["/_matrix/client/v3/login", "/_matrix/client/r0/login"]);
    }
}
