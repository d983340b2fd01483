//! Reads parameters from the query as it stood on the request line; a name may come several times.
//! May not: go through a form decoder that keeps one value for each name.

use percent_encoding::percent_decode_str;

/// All values of a parameter, in their order. A value that is no UTF-8 once decoded is passed over.
pub(super) fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decoded(key)? == name { decoded(value) } else { None }
    })
}

/// The first value of a parameter.
pub(super) fn first(query: &str, name: &str) -> Option<String> {
    values(query, name).next()
}

/// `+` stands for a blank in queries, unlike in paths.
fn decoded(text: &str) -> Option<String> {
    let with_blanks = text.replace('+', " ");
    percent_decode_str(&with_blanks).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_keep_all_values() {
        let table: [(&str, &[&str]); 8] = [
            ("ver=10&ver=11", &["10", "11"]),
            ("ver=10&x=1&ver=org.example%2B1", &["10", "org.example+1"]),
            ("%76er=7", &["7"]),
            ("ver", &[""]),
            ("ver=", &[""]),
            ("", &[]),
            ("version=10", &[]),
            ("ver=%ff&ver=a+b", &["a b"]),
        ];
        for (query, expected) in table {
            assert_eq!(values(query, "ver").collect::<Vec<_>>(), expected, "{query}");
        }
        assert_eq!(first("a=1&a=2", "a").as_deref(), Some("1"));
        assert_eq!(first("b=1", "a"), None);
    }
}
