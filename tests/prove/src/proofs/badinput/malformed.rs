//! Malformed requests, made by kind from what a well-formed one would be, each with the answers that are right for it.
//! May not: make a request that has to be taken.

use std::collections::BTreeSet;

use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};
use vestibule_scenery::{encoded, request};

use super::{
    exceptions::{EXCEPTIONS, Verdict, exception},
    routes::{Body, Caller, Route},
    world::{Door, KEY, NO_KEY, World},
};

/// Statuses, each with the errcodes that may stand beside it.
pub type Right = &'static [(u16, &'static [&'static str])];

/// One request.
pub struct Malformed {
    /// What is wrong with it, and where it goes.
    pub name: String,
    pub pattern: String,
    pub door: Door,
    pub bytes: Vec<u8>,
    pub right: Right,
    /// The exception that is for it, whose answers are right too.
    pub exception: Option<usize>,
}

const NO_TOKEN: Right = &[(401, &["M_MISSING_TOKEN"])];
const UNKNOWN_TOKEN: Right = &[(401, &["M_UNKNOWN_TOKEN"])];
const NO_TOKEN_AT_ALL: Right = &[(401, &["M_MISSING_TOKEN", "M_UNKNOWN_TOKEN"])];
const NOT_THE_OPERATOR: Right = &[(403, &["M_FORBIDDEN"])];
const NOT_SIGNED: Right = &[(401, &["M_UNAUTHORIZED"])];
const WRONG_METHOD: Right = &[(405, &["M_UNRECOGNIZED"])];
const NO_SUCH_PATH: Right = &[(404, &["M_UNRECOGNIZED"])];
const NO_ID: Right = &[(400, &["M_INVALID_PARAM"])];
/// A sigil alone passes for a room id, but no room has it.
const NO_ROOM: Right = &[(400, &["M_INVALID_PARAM"]), (403, &["M_FORBIDDEN"]), (404, &["M_NOT_FOUND"])];
const NOT_JSON: Right = &[(400, &["M_NOT_JSON"])];
/// A POST without a body is often read as one without fields.
const NO_BODY: Right = &[(400, &["M_NOT_JSON", "M_MISSING_PARAM", "M_BAD_JSON"])];
const NOT_AN_OBJECT: Right = &[(400, &["M_BAD_JSON"])];
const TWO_READINGS: Right = &[(400, &["M_BAD_JSON"])];
const WRONG_TYPE: Right = &[(400, &["M_BAD_JSON", "M_INVALID_PARAM"])];
const NO_NUMBER: Right = &[(400, &["M_BAD_JSON", "M_NOT_JSON"])];
const LACKS_A_FIELD: Right = &[(400, &["M_MISSING_PARAM", "M_BAD_JSON"])];
const WRONG_QUERY: Right = &[(400, &["M_INVALID_PARAM", "M_MISSING_PARAM"])];
const NO_SUCH_TYPE: Right = &[(415, &["M_NOT_JSON"])];
const TOO_LARGE: Right = &[(413, &["M_TOO_LARGE"])];

/// Larger than any body that any route takes.
const STATED_BYTES: usize = 20_000_000;

/// Larger than a JSON body may be. Sources: `JSON_BODY_BYTES_MAX` and SECURITY T21.
const SENT_BYTES: usize = 1024 * 1024 + 1;

/// Ids that are none: no sigil, another sigil, no server, a port that is none, NUL, slashes, dots, no UTF-8, too long.
const NO_IDS: [&str; 16] = [
    "x",
    "%00",
    "%21",
    "%40",
    "%23%3A",
    "..",
    "%2e%2e%2f%2e%2e",
    "%2F",
    "%ff%fe",
    "%ed%a0%80",
    "%25",
    "%20",
    "%7B%7D",
    "%2540owner%253Avestibule.test",
    "%26x%3Avestibule.test%3A99999",
    "%E2%80%AE",
];

/// All kinds of malformed requests to a route of these. Notes which exceptions say that it is none.
///
/// # Errors
/// The route's sample is no JSON.
pub fn requests(
    world: &World,
    routes: &[Route],
    route: &Route,
    rng: &mut StdRng,
    used: &mut BTreeSet<usize>,
) -> Result<Vec<Malformed>, String> {
    let mut made = Vec::new();
    let sample = world.sample(route)?;
    let mut maker = Maker { world, routes, route, sample: sample.clone(), made: &mut made, used };
    maker.callers();
    maker.methods();
    maker.paths();
    maker.ids();
    maker.queries();
    if let Some(sample) = sample {
        maker.texts(&sample, rng);
        maker.types(&sample);
        maker.sizes();
    }
    Ok(made)
}

struct Maker<'a> {
    world: &'a World,
    routes: &'a [Route],
    route: &'a Route,
    /// What the body would be.
    sample: Option<Value>,
    made: &'a mut Vec<Malformed>,
    used: &'a mut BTreeSet<usize>,
}

impl Maker<'_> {
    fn add(&mut self, kind: &str, door: Door, bytes: Vec<u8>, right: Right) {
        let place = format!("{} {}", self.route.method, self.route.pattern);
        let exception = exception(&place, kind);
        if let Some(exception) = exception
            && matches!(EXCEPTIONS[exception].verdict, Verdict::NoFault)
        {
            self.used.insert(exception);
            return;
        }
        let (name, pattern) = (format!("{kind}: {place}"), self.route.pattern.clone());
        self.made.push(Malformed { name, pattern, door, bytes, right, exception });
    }

    fn door(&self) -> Door {
        Door::of(&self.route.pattern)
    }

    /// The path with good arguments, but for the `place`th, which is `other` as it stands.
    fn path(&self, place: Option<usize>, other: &str) -> String {
        let mut open = 0;
        let parts = self.route.pattern.split('/').map(|part| {
            let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
                return part.to_owned();
            };
            open += 1;
            if place == Some(open) { other.to_owned() } else { encoded(self.world.argument(self.route, name)) }
        });
        parts.collect::<Vec<String>>().join("/")
    }

    fn target(&self, path: &str, query: &str) -> String {
        let query = self.world.filled_query(query);
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }

    fn good_target(&self) -> String {
        self.target(&self.path(None, ""), self.route.query)
    }

    /// As the caller would send it. What is signed is `content`, whatever the body is.
    fn authorized(&self, method: &str, target: &str, body: Option<&[u8]>, content: Option<&Value>) -> Vec<u8> {
        let authorization = self.world.authorization(self.route.caller, method, target, content);
        let headers: Vec<(&str, &str)> = authorization.iter().map(|line| ("Authorization", line.as_str())).collect();
        request(method, target, &headers, body)
    }

    /// A good request but for its target.
    fn elsewhere(&self, method: &str, target: &str) -> Vec<u8> {
        let sample = self.sample.clone();
        let text = sample.as_ref().map(Value::to_string);
        self.authorized(method, target, text.as_deref().map(str::as_bytes), sample.as_ref())
    }

    fn callers(&mut self) {
        let (world, route) = (self.world, self.route);
        let (method, target) = (route.method, self.good_target());
        let sample = self.sample.clone();
        let text = sample.as_ref().map(Value::to_string);
        let body = text.as_deref().map(str::as_bytes);
        let x_matrix = world.authorization(Caller::Server, method, &target, sample.as_ref()).unwrap_or_default();
        let door = self.door();
        let mut with = |kind: &str, lines: &[&str], right: Right| {
            let headers: Vec<(&str, &str)> = lines.iter().map(|line| ("Authorization", *line)).collect();
            let bytes = request(method, &target, &headers, body);
            self.add(kind, door, bytes, right);
        };
        match route.caller {
            Caller::Nobody => {}
            Caller::User | Caller::Operator => {
                let is_user = route.caller == Caller::User;
                with("no token", &[], NO_TOKEN);
                with("a token of nobody", &["Bearer nobody-has-this"], UNKNOWN_TOKEN);
                with("a token of 4 kB", &[&format!("Bearer {}", "t".repeat(4_096))], UNKNOWN_TOKEN);
                with("a token with a byte that is no text", &["Bearer \u{ff}"], NO_TOKEN_AT_ALL);
                with("an empty token", &["Bearer "], NO_TOKEN);
                with("another scheme", &["Basic b3duZXI6eA=="], NO_TOKEN);
                with("a signature for a token", &[&x_matrix], NO_TOKEN);
                let other = if is_user { Caller::Operator } else { Caller::User };
                let line = world.authorization(other, method, &target, None).unwrap_or_default();
                let right = if is_user { UNKNOWN_TOKEN } else { NOT_THE_OPERATOR };
                with("a token of the other kind", &[&line], right);
            }
            Caller::Server => {
                let peer = world.peer.name().to_owned();
                let cut = x_matrix.get(..x_matrix.len().saturating_sub(12)).unwrap_or_default();
                let content = sample.as_ref().and_then(|sample| serde_json::from_value(sample.clone()).ok());
                let foreign = world.peer.authorization_for("elsewhere.test", method, &target, content.as_ref());
                let disguised = foreign.replace("destination=\"elsewhere.test\",", "");
                let other_target = world.peer.authorization(method, "/_matrix/federation/v1/version", content.as_ref());
                let other_method = world.peer.authorization("PATCH", &target, content.as_ref());
                let other_content =
                    world.peer.authorization(method, &target, serde_json::from_value(json!({ "b": 1 })).ok().as_ref());
                with("no signature", &[], NOT_SIGNED);
                with("a token for a signature", &["Bearer x"], NOT_SIGNED);
                with("a scheme without parameters", &["X-Matrix"], NOT_SIGNED);
                with("a signature that is cut off", &[cut], NOT_SIGNED);
                with(
                    "no signature in the header",
                    &[&format!("X-Matrix origin=\"{peer}\",key=\"ed25519:1\"")],
                    NOT_SIGNED,
                );
                with(
                    "a signature that is no base64",
                    &[&format!("X-Matrix origin=\"{peer}\",key=\"ed25519:1\",sig=\"???\"")],
                    NOT_SIGNED,
                );
                with(
                    "a signature of zeros",
                    &[&format!("X-Matrix origin=\"{peer}\",key=\"ed25519:1\",sig=\"{}\"", "A".repeat(86))],
                    NOT_SIGNED,
                );
                with("a key that the origin has not", &[&x_matrix.replace(KEY, NO_KEY)], NOT_SIGNED);
                with("a key of another algorithm", &[&x_matrix.replace(KEY, "key=\"rsa:1\"")], NOT_SIGNED);
                with("an origin that is no name", &[&x_matrix.replace(&peer, "no name!")], NOT_SIGNED);
                with("an empty origin", &[&x_matrix.replace(&peer, "")], NOT_SIGNED);
                with("an origin of 4 kB", &[&x_matrix.replace(&peer, &"o".repeat(4_096))], NOT_SIGNED);
                with("an origin that cannot be reached", &[&x_matrix.replace(&peer, "127.0.0.1:1")], NOT_SIGNED);
                with("two origins", &[&x_matrix, &x_matrix.replace(&peer, "other.test")], NOT_SIGNED);
                with("a parameter twice", &[&format!("{x_matrix},origin=\"other.test\"")], NOT_SIGNED);
                with("a header of 16 kB", &[&format!("{x_matrix},filler=\"{}", "f".repeat(16_384))], NOT_SIGNED);
                with("signed for another server", &[&foreign], NOT_SIGNED);
                with("signed for another server, which is not said", &[&disguised], NOT_SIGNED);
                with("signed for another target", &[&other_target], NOT_SIGNED);
                with("signed for another method", &[&other_method], NOT_SIGNED);
                with("signed for another content", &[&other_content], NOT_SIGNED);
            }
        }
    }

    fn methods(&mut self) {
        // The path's other methods have rows of their own.
        let path = self.path(None, "");
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            if !self.routes.iter().any(|route| route.pattern == self.route.pattern && route.method == method) {
                let bytes = self.elsewhere(method, &path);
                self.add(&format!("{method} instead"), self.door(), bytes, WRONG_METHOD);
            }
        }
    }

    fn paths(&mut self) {
        let path = self.path(None, "");
        let takes_the_rest = self.route.pattern.ends_with("*}");
        if !takes_the_rest {
            self.add(
                "a longer path",
                self.door(),
                self.elsewhere(self.route.method, &format!("{path}/x/y/z/w/v")),
                NO_SUCH_PATH,
            );
        }
        let unversioned = ["/v1/", "/v2/", "/v3/", "/r0/"].iter().find(|version| path.contains(*version));
        if let Some(version) = unversioned {
            let other = path.replacen(version, "/v999/", 1);
            self.add("a version that is none", self.door(), self.elsewhere(self.route.method, &other), NO_SUCH_PATH);
        }
        let shouted = path.replacen("_matrix", "_MATRIX", 1).replacen("_vestibule", "_VESTIBULE", 1);
        if shouted != path {
            self.add("a path in capitals", self.door(), self.elsewhere(self.route.method, &shouted), NO_SUCH_PATH);
        }
        for door in [Door::Client, Door::Federation, Door::Admin] {
            let is_served = match self.door() {
                // The federation listener serves clients too, and tools log in on the admin listener.
                Door::Client => {
                    door != Door::Admin
                        || ["/login", "/logout", "/logout/all", "/account/whoami", "/versions"]
                            .iter()
                            .any(|end| path.ends_with(end))
                }
                own => door == own,
            };
            if !is_served && !path.starts_with("/.well-known/matrix/server") {
                self.add(
                    &format!("on the {door:?} listener"),
                    door,
                    self.elsewhere(self.route.method, &path),
                    NO_SUCH_PATH,
                );
            }
        }
    }

    fn ids(&mut self) {
        let open: Vec<&str> = self.route.pattern.split('/').filter(|part| part.starts_with('{')).collect();
        let is_id = |part: &str| {
            [
                "{room_id}",
                "{roomId}",
                "{room_id_or_alias}",
                "{user_id}",
                "{userId}",
                "{event_id}",
                "{eventId}",
                "{room_alias}",
                "{serverName}",
            ]
            .contains(&part)
        };
        let long = "a".repeat(4_096);
        for (place, part) in (1..).zip(&open).filter(|(_, part)| is_id(part)) {
            for id in NO_IDS.into_iter().chain([long.as_str()]) {
                // A server name of letters is one, and so is no server's name of dots.
                if *part == "{serverName}" && ["x", "..", long.as_str()].contains(&id) {
                    continue;
                }
                let shown = id.get(..id.len().min(40)).unwrap_or_default();
                let target = self.target(&self.path(Some(place), id), self.route.query);
                let bytes = self.elsewhere(self.route.method, &target);
                let right = if id == "%21" && part.starts_with("{room") { NO_ROOM } else { NO_ID };
                self.add(&format!("{shown} for {part}"), self.door(), bytes, right);
            }
        }
    }

    fn queries(&mut self) {
        let path = self.path(None, "");
        for query in self.route.bad_queries {
            let bytes = self.elsewhere(self.route.method, &self.target(&path, query));
            self.add(&format!("the query `{query}`"), self.door(), bytes, WRONG_QUERY);
        }
    }

    fn text(&mut self, kind: &str, text: impl AsRef<[u8]>, right: Right) {
        let target = self.good_target();
        // What is no JSON cannot be signed; it must be refused before that matters.
        let content = serde_json::from_slice(text.as_ref()).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
        let bytes = self.authorized(self.route.method, &target, Some(text.as_ref()), Some(&content));
        self.add(kind, self.door(), bytes, right);
    }

    fn texts(&mut self, sample: &Value, rng: &mut StdRng) {
        let good = sample.to_string();
        let body = good.as_bytes();
        let with = |member: &str| {
            let open = good.strip_suffix('}').unwrap_or(&good);
            format!("{open},{member}}}")
        };
        let raw_with = |bytes: &[u8]| {
            let mut text = with("\"org.example\":\"?\"").into_bytes();
            if let Some(mark) = text.iter().rposition(|byte| *byte == b'?') {
                text.splice(mark..=mark, bytes.iter().copied());
            }
            text
        };
        let cut = rng.random_range(1..body.len());
        self.text("words", "{room}", NOT_JSON);
        self.text(&format!("cut off after {cut} bytes"), body.get(..cut).unwrap_or_default(), NOT_JSON);
        self.text("more behind it", format!("{good}{{}}"), NOT_JSON);
        self.text("a comma too many", format!("{},}}", good.strip_suffix('}').unwrap_or(&good)), NOT_JSON);
        self.text("single quotes", good.replace('"', "'"), NOT_JSON);
        self.text("a comment", format!("/**/{good}"), NOT_JSON);
        self.text("NaN", with("\"org.example\":NaN"), NOT_JSON);
        self.text("infinity", with("\"org.example\":-Infinity"), NOT_JSON);
        self.text("a leading zero", with("\"org.example\":01"), NOT_JSON);
        self.text("a raw line break", raw_with(b"a\nb"), NOT_JSON);
        self.text("a lone surrogate", raw_with(b"\\ud800"), NOT_JSON);
        self.text("bytes that are no UTF-8", raw_with(b"\xff"), NOT_JSON);
        self.text("a raw surrogate", raw_with(b"\xed\xa0\x80"), NOT_JSON);
        self.text("a byte order mark", [b"\xef\xbb\xbf", body].concat(), NOT_JSON);
        self.text("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(), NOT_JSON);
        self.text("100,000 arrays that never end", "[".repeat(100_000), NOT_JSON);
        self.text(
            "200 nested arrays",
            with(&format!("\"org.example\":{}{}", "[".repeat(200), "]".repeat(200))),
            NOT_JSON,
        );
        if let Some((key, value)) = sample.as_object().and_then(|fields| fields.iter().next()) {
            self.text("a key twice", with(&format!("\"{key}\":{value}")), TWO_READINGS);
        }
        for top in ["[]", "null", "\"x\"", "5", "true"] {
            self.text(&format!("{top} for an object"), top, NOT_AN_OBJECT);
        }
        self.text("an array around it", format!("[{good}]"), NOT_AN_OBJECT);
        if self.route.method == "PUT" || !self.route.must.is_empty() {
            self.text("an empty body", "", NO_BODY);
        }
    }

    fn types(&mut self, sample: &Value) {
        if matches!(self.route.body, Body::Free(_)) {
            return;
        }
        for pointer in pointers(sample, "") {
            let Some(value) = sample.pointer(&pointer) else { continue };
            for wrong in wrong_for(value) {
                let mut changed = sample.clone();
                if let Some(place) = changed.pointer_mut(&pointer) {
                    *place = json!(MARK);
                }
                let text = changed.to_string().replace(&format!("\"{MARK}\""), wrong);
                let right = if wrong == &"1e400" { NO_NUMBER } else { WRONG_TYPE };
                self.text(&format!("{wrong} at {pointer}"), text, right);
            }
        }
        for must in self.route.must {
            let mut changed = sample.clone();
            if let Some(fields) = changed.as_object_mut() {
                fields.remove(*must);
            }
            self.text(&format!("no {must}"), changed.to_string(), LACKS_A_FIELD);
        }
    }

    fn sizes(&mut self) {
        let (method, target) = (self.route.method, self.good_target());
        let authorization = self.world.authorization(self.route.caller, method, &target, Some(&json!({})));
        let with = |further: &[(&str, &str)]| {
            let headers: Vec<(&str, &str)> = authorization
                .iter()
                .map(|line| ("Authorization", line.as_str()))
                .chain(further.iter().copied())
                .collect();
            request(method, &target, &headers, None)
        };
        let stated = with(&[("Content-Length", &STATED_BYTES.to_string())]);
        self.add("20 MB, as the head says", self.door(), stated, TOO_LARGE);
        let mut parts = with(&[("Content-Type", "multipart/form-data; boundary=b"), ("Content-Length", "2")]);
        parts.extend_from_slice(b"{}");
        self.add("a body of parts", self.door(), parts, NO_SUCH_TYPE);
        // A transaction may be far larger than what is worth sending here.
        if !self.route.pattern.contains("/v1/send/") {
            let mut sent = with(&[("Transfer-Encoding", "chunked")]);
            sent.extend_from_slice(format!("{SENT_BYTES:x}\r\n").as_bytes());
            sent.resize(sent.len() + SENT_BYTES, b' ');
            sent.extend_from_slice(b"\r\n0\r\n\r\n");
            self.add("more than a MiB, unannounced", self.door(), sent, TOO_LARGE);
        }
    }
}

/// Stands where raw JSON is to be.
const MARK: &str = "here-stands-what-is-wrong";

/// All places in a value, outermost first.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(place, value)| (place.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    inner
        .into_iter()
        .flat_map(|(key, value)| {
            let here = format!("{at}/{key}");
            std::iter::once(here.clone()).chain(pointers(value, &here))
        })
        .collect()
}

/// JSON of other types than the value's.
fn wrong_for(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Null => &[],
        Value::Bool(_) => &["\"yes\"", "1", "[]"],
        Value::Number(_) => &["\"5\"", "-1", "1.5", "1e400", "99999999999999999999999", "{}", "[5]"],
        Value::String(_) => &["5", "true", "[]", "{}"],
        Value::Array(_) => &["\"x\"", "5", "{}", "[5]", "[null]"],
        Value::Object(_) => &["\"x\"", "5", "[]", "true"],
    }
}
