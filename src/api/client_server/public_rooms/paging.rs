//! The order of the room directory and the tokens that continue it.
//! May not: read rooms.

use std::cmp::{Ordering, Reverse};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedRoomId, RoomId};

/// Longest token that is looked at, in bytes: a room id and a count, encoded, are shorter.
const TOKEN_BYTES_MAX: usize = 512;

/// Where a room stands in the directory: the more users the earlier, then by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Users joined.
    pub joined: u64,
    /// The room.
    pub room_id: OwnedRoomId,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (Reverse(self.joined), &self.room_id).cmp(&(Reverse(other.joined), &other.room_id))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// From where, and which way, a page goes. A token names a place and no number, so rooms that come and go shift nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// The rooms after a place.
    After(Place),
    /// The rooms before a place.
    Before(Place),
}

impl Since {
    /// The token of it.
    #[must_use]
    pub fn to_token(&self) -> String {
        let (direction, place) = match self {
            Self::After(place) => ('f', place),
            Self::Before(place) => ('b', place),
        };
        URL_SAFE_NO_PAD.encode(format!("{direction}{} {}", place.joined, place.room_id))
    }

    /// Reads a token. `None`: not one of ours.
    #[must_use]
    pub fn parse(token: &str) -> Option<Self> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (joined, room_id) = text.get(1..)?.split_once(' ')?;
        let place = Place { joined: joined.parse().ok()?, room_id: RoomId::parse(room_id).ok()? };
        match text.as_bytes().first()? {
            b'f' => Some(Self::After(place)),
            b'b' => Some(Self::Before(place)),
            _ => None,
        }
    }
}

/// The places to look at for a page, nearest first: the caller takes from them until the page is full.
#[must_use]
pub fn candidates(mut places: Vec<Place>, since: Option<&Since>) -> Vec<Place> {
    places.sort_unstable();
    match since {
        None => places,
        Some(Since::After(start)) => places.into_iter().filter(|place| place > start).collect(),
        Some(Since::Before(end)) => places.into_iter().rev().filter(|place| place < end).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(joined: u64, name: &str) -> Place {
        Place { joined, room_id: RoomId::parse(format!("!{name}:example.org")).unwrap() }
    }

    fn names(places: &[Place]) -> Vec<&str> {
        places.iter().map(|place| &place.room_id.as_str()[1..2]).collect()
    }

    #[test]
    fn rooms_with_more_users_come_first_and_ids_break_ties() {
        let places = vec![place(1, "a"), place(5, "c"), place(5, "b"), place(9, "d")];
        assert_eq!(names(&candidates(places.clone(), None)), ["d", "b", "c", "a"]);
        let after = Since::After(place(5, "b"));
        assert_eq!(names(&candidates(places.clone(), Some(&after))), ["c", "a"]);
        let before = Since::Before(place(5, "c"));
        assert_eq!(names(&candidates(places, Some(&before))), ["b", "d"]);
    }

    #[test]
    fn a_page_continues_when_its_last_room_is_gone() {
        let after = Since::After(place(5, "b"));
        assert_eq!(names(&candidates(vec![place(9, "d"), place(5, "c"), place(2, "e")], Some(&after))), ["c", "e"]);
    }

    #[test]
    fn tokens_come_back_as_they_went() {
        for since in [Since::After(place(0, "a")), Since::Before(place(u64::MAX, "b"))] {
            assert_eq!(Since::parse(&since.to_token()), Some(since));
        }
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for token in [
            "".to_owned(),
            "5".to_owned(),
            "é".to_owned(),
            encode(""),
            encode("f"),
            encode("f5"),
            encode("f5 nonsense"),
            encode("f-5 !a:example.org"),
            encode("x5 !a:example.org"),
            encode("é5 !a:example.org"),
            "A".repeat(10_000_000),
        ] {
            assert_eq!(Since::parse(&token), None, "{}", &token[..token.len().min(20)]);
        }
    }
}
