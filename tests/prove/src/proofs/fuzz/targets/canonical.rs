//! Target `canonical`: canonical JSON, both parsers of production against the proof's own reader and writer.
//! May not: look at anything but the text.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use vestibule_protocol::canonical_json::{CanonicalText, parse_object};

use super::super::{
    Target, Verdict,
    drawing::{Input, text_of},
    json::{self, Json, KeyOrder},
};
use crate::proof::{Plant, Settings};

pub static UTF16: Plant = Plant { name: "utf16-order", what: "keys are sorted by their UTF-16 units", cases: 50_000 };
pub static LONE_SURROGATE: Plant =
    Plant { name: "lone-surrogate", what: "half of a surrogate pair makes the parser panic", cases: 20_000 };

const TEXTS: [&str; 8] = [
    r#"{"a":1,"b":[true,null,"x",{"c":-1}],"é":{"":{}}}"#,
    r#"{"ä\u0001\"\/":{"z":{"b":2,"a":[{"y":0,"x":"\u2028\n"},7]},"":""},"\ud83d\ude00":9007199254740991,"aa":0,"a":1}"#,
    r#"{"b":1,"\"":2,"\u0000":3,"\\":4,"\u00e9":5,"\uffff":6,"\ud800\udc00":7}"#,
    r#"{"auth_events":["$a","$b"],"content":{"membership":"knock","reason":"I \"like\" otters"},"depth":12,"type":"m.room.member"}"#,
    r#"[[],{},[{}],"text",0,-9007199254740991]"#,
    r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":[[[[[[]]]]]]}}}}}}}}}"#,
    r#"{"one":"\b\f\n\r\t\/\\\"\u001f\u007f\u0080","two":"ﬀ€𝄞"}"#,
    r#"{}"#,
];

pub fn make() -> Result<Box<dyn Target>, String> {
    let seeds: Option<Vec<Json>> = TEXTS.iter().map(|text| json::read(text.as_bytes())).collect();
    Ok(Box::new(Canonical { seeds: seeds.ok_or("a seed is no canonical JSON")? }))
}

struct Canonical {
    seeds: Vec<Json>,
}

impl Target for Canonical {
    fn draw(&self, random: &mut StdRng) -> Input {
        let seed = self.seeds.choose(random).cloned().unwrap_or(Json::Null);
        let seed = if random.random_ratio(1, 30) { Json::List(vec![seed; random.random_range(1..50)]) } else { seed };
        Input::new(text_of(seed, &self.seeds, random), random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        if settings.has(&LONE_SURROGATE) {
            assert!(!has_lone_surrogate(&input.bytes), "half of a pair");
        }
        let expected = json::read(&input.bytes).filter(|json| json.object().is_some());
        let object = parse_object(&input.bytes);
        let text = CanonicalText::read(&input.bytes);
        if [object.is_ok(), text.is_ok()] != [expected.is_some(); 2] {
            let errors = (object.err().map(|error| error.to_string()), text.err().map(|error| error.to_string()));
            return Err(format!("{errors:?}, and the second reading takes it: {}", expected.is_some()));
        }
        let (Ok(object), Ok(text), Some(expected)) = (object, text, expected) else { return Ok(Verdict::Refused) };
        let mut written = serde_json::to_string(&object).map_err(|error| error.to_string())?;
        if settings.has(&UTF16) {
            written = expected.written(KeyOrder::Utf16);
        }
        let expected = expected.canonical();
        if written != expected || text.as_str() != expected {
            return Err(format!("written as {written} and {}, by the second as {expected}", text.as_str()));
        }
        if parse_object(expected.as_bytes()).ok().as_ref() != Some(&object)
            || CanonicalText::read(expected.as_bytes()).ok().as_ref() != Some(&text)
        {
            return Err(format!("written as {expected} it is read otherwise"));
        }
        let mut is_same = false;
        let parsed = allocation_counter::measure(|| is_same = text.parse().is_ok_and(|parsed| parsed == object));
        if !is_same {
            return Err("its text is not its object".to_owned());
        }
        // "About as many": lists are copied as they grow, and a text with escapes is put together before it is copied.
        let promised = u64::try_from(text.parsed_bytes()).unwrap_or(u64::MAX);
        if parsed.bytes_max > promised.saturating_mul(4).saturating_add(4_096) {
            return Err(format!("parsing takes {} bytes, and {promised} were promised", parsed.bytes_max));
        }
        Ok(Verdict::Taken)
    }
}

fn has_lone_surrogate(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    text.match_indices("\\ud8").any(|(at, _)| text[at..].get(6..8).is_none_or(|next| next != "\\u"))
}
