use super::*;

const SIG: &str = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ";

fn parse(lines: &[&str]) -> Result<Credentials, HeaderError> {
    Credentials::parse(lines.iter().map(|line| line.as_bytes()))
}

/// `SIG` in place of `$`.
fn line(template: &str) -> String {
    template.replace('$', SIG)
}

#[test]
fn accepted_forms_say_what_they_say() {
    // (line, origin, destination, key)
    let table = [
        (r#"X-Matrix origin="a.test",destination="b.test",key="ed25519:1",sig="$""#, "a.test", "b.test", "ed25519:1"),
        (r#"x-matrix origin="a.test",destination="b.test",key="ed25519:1",sig="$""#, "a.test", "b.test", "ed25519:1"),
        (r#"X-MATRIX   origin="a.test",destination="b.test",key="ed25519:1",sig="$""#, "a.test", "b.test", "ed25519:1"),
        (r#"X-Matrix origin=a.test,destination=b.test,key=ed25519:1,sig=$"#, "a.test", "b.test", "ed25519:1"),
        (
            r#"X-Matrix origin=a.test:8448,destination=b.test:1,key=ed25519:1,sig=$"#,
            "a.test:8448",
            "b.test:1",
            "ed25519:1",
        ),
        (r#"X-Matrix sig="$",key="ed25519:1",destination="b.test",origin="a.test""#, "a.test", "b.test", "ed25519:1"),
        (r#"X-Matrix ORIGIN="a.test",Destination="b.test",Key="ed25519:1",SIG="$""#, "a.test", "b.test", "ed25519:1"),
        (
            "X-Matrix origin=\"a.test\" ,\t destination=\"b.test\" , key=\"ed25519:1\", sig=\"$\"",
            "a.test",
            "b.test",
            "ed25519:1",
        ),
        (
            r#"X-Matrix origin="a.test",destination="b.test",key="ed25519:1",sig="$",new="x, y=z""#,
            "a.test",
            "b.test",
            "ed25519:1",
        ),
        (
            r#"X-Matrix origin="a.test",destination="b.test",key="ed25519:1",signature="$""#,
            "a.test",
            "b.test",
            "ed25519:1",
        ),
        (
            r#"X-Matrix origin="\a\.test",destination="b.test",key="ed25519:\1",sig="$""#,
            "a.test",
            "b.test",
            "ed25519:1",
        ),
        (
            r#"X-Matrix origin="[::1]:8448",destination="b.test",key="ed25519:a_B",sig="$""#,
            "[::1]:8448",
            "b.test",
            "ed25519:a_B",
        ),
        (r#"X-Matrix origin="a.test",key="ed25519:1",sig="$""#, "a.test", "", "ed25519:1"),
    ];
    for (template, origin, destination, key) in table {
        let credentials = parse(&[&line(template)]).unwrap_or_else(|error| panic!("{template}: {error}"));
        assert_eq!(credentials.origin, origin, "{template}");
        assert_eq!(credentials.destination.map(|name| name.to_string()).unwrap_or_default(), destination, "{template}");
        let [(key_id, signature)] = &credentials.signatures[..] else { panic!("{template}") };
        assert_eq!(key_id, key, "{template}");
        assert_eq!(signature.encode(), SIG, "{template}");
    }
}

#[test]
fn malformed_lines_are_refused_with_the_reason() {
    use HeaderError::{Duplicate, Lacks, Malformed, Missing, NoKnownAlgorithm, TooLarge, Unfit};
    let long = "x".repeat(16 * 1024);
    let long_line = line(r#"X-Matrix origin="a.test",key="ed25519:1",sig="$",pad="PAD""#).replace("PAD", &long);
    let table = [
        ("", Missing),
        ("Bearer abc", Missing),
        ("X-Matrix", Missing),
        ("X-Matrixorigin=a.test,key=ed25519:1,sig=$", Missing),
        ("X-Matrix ", Malformed),
        ("X-Matrix origin", Malformed),
        ("X-Matrix origin=", Malformed),
        ("X-Matrix origin=a.test key=ed25519:1 sig=$", Malformed),
        (r#"X-Matrix origin="a.test,key=ed25519:1,sig=$"#, Malformed),
        (r#"X-Matrix origin="a.test"x,key=ed25519:1,sig=$"#, Malformed),
        (r#"X-Matrix origin=a"b,key=ed25519:1,sig=$"#, Malformed),
        (r#"X-Matrix origin="a.test\"#, Malformed),
        ("X-Matrix origin=\"a\0.test\",key=ed25519:1,sig=$", Malformed),
        ("X-Matrix origin=a\0,key=ed25519:1,sig=$", Malformed),
        ("X-Matrix origin=\"ä.test\",key=ed25519:1,sig=$", Malformed),
        ("X-Matrix =a.test,key=ed25519:1,sig=$", Malformed),
        ("X-Matrix origin=a.test,,key=ed25519:1,sig=$", Malformed),
        ("X-Matrix origin=a.test,key=ed25519:1,sig=$,", Malformed),
        ("X-Matrix origin=a.test,origin=a.test,key=ed25519:1,sig=$", Duplicate { name: "origin" }),
        ("X-Matrix origin=a.test,Origin=b.test,key=ed25519:1,sig=$", Duplicate { name: "origin" }),
        ("X-Matrix origin=a.test,destination=b,destination=b,key=ed25519:1,sig=$", Duplicate { name: "destination" }),
        ("X-Matrix origin=a.test,key=ed25519:1,key=ed25519:1,sig=$", Duplicate { name: "key" }),
        ("X-Matrix origin=a.test,key=ed25519:1,sig=$,signature=$", Duplicate { name: "sig" }),
        ("X-Matrix key=ed25519:1,sig=$", Lacks { name: "origin" }),
        ("X-Matrix origin=a.test,sig=$", Lacks { name: "key" }),
        ("X-Matrix origin=a.test,key=ed25519:1", Lacks { name: "sig" }),
        ("X-Matrix origin=\"\",key=ed25519:1,sig=$", Unfit { name: "origin" }),
        ("X-Matrix origin=\"a b\",key=ed25519:1,sig=$", Unfit { name: "origin" }),
        ("X-Matrix origin=https://a.test,key=ed25519:1,sig=$", Unfit { name: "origin" }),
        ("X-Matrix origin=a.test:port,key=ed25519:1,sig=$", Unfit { name: "origin" }),
        ("X-Matrix origin=a.test,destination=b/c,key=ed25519:1,sig=$", Unfit { name: "destination" }),
        ("X-Matrix origin=a.test,key=ed25519:,sig=$", Unfit { name: "key" }),
        ("X-Matrix origin=a.test,key=ed25519:1,sig=not*base64", Unfit { name: "sig" }),
        ("X-Matrix origin=a.test,key=ed448:1,sig=$", NoKnownAlgorithm),
        ("X-Matrix origin=a.test,key=1,sig=$", NoKnownAlgorithm),
        (&long_line, TooLarge),
    ];
    for (template, expected) in table {
        let shown: String = template.chars().take(90).collect();
        assert_eq!(parse(&[&line(template)]).err(), Some(expected), "{shown:?}");
    }
    assert_eq!(parse(&[]).err(), Some(Missing));
    let raw = Credentials::parse([b"X-Matrix origin=\xff,key=ed25519:1,sig=x".as_slice()].into_iter());
    assert_eq!(raw.err(), Some(Malformed));
}

#[test]
fn several_lines_speak_for_one_origin() {
    let one = |origin: &str, destination: &str, key: &str| {
        line(&format!("X-Matrix origin={origin},{destination}key={key},sig=$"))
    };
    let same = parse(&[&one("a.test", "", "ed25519:1"), &one("a.test", "destination=b.test,", "ed25519:2")]).unwrap();
    assert_eq!(same.signatures.len(), 2);
    assert_eq!(same.destination.unwrap(), "b.test");
    let other_scheme = parse(&["Bearer abc", &one("a.test", "", "ed25519:1")]).unwrap();
    assert_eq!(other_scheme.signatures.len(), 1);
    let other_algorithm = parse(&[&one("a.test", "", "ed448:1"), &one("a.test", "", "ed25519:1")]).unwrap();
    assert_eq!(other_algorithm.signatures.len(), 1);
    let origins = parse(&[&one("a.test", "", "ed25519:1"), &one("A.test", "", "ed25519:2")]);
    assert_eq!(origins.err(), Some(HeaderError::Differs { name: "origin" }));
    let destinations =
        parse(&[&one("a.test", "destination=b,", "ed25519:1"), &one("a.test", "destination=c,", "ed25519:1")]);
    assert_eq!(destinations.err(), Some(HeaderError::Differs { name: "destination" }));
    let half_broken = parse(&[&one("a.test", "", "ed25519:1"), "X-Matrix nonsense"]);
    assert_eq!(half_broken.err(), Some(HeaderError::Malformed));
}
