//! A map that stays bounded by forgetting what was not used lately.
//! May not: be the only place of something that must not be forgotten.

use std::{collections::HashMap, hash::Hash, mem};

/// A cache in two generations. When the young one is full it becomes the old one, and the former old one is forgotten;
/// what is used moves to the young one. So it costs O(1), holds at most `capacity` entries, and keeps the last
/// `capacity / 2` that were used.
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    young_max: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_max: (capacity / 2).max(1) }
    }

    pub(crate) fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.young_max && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Generations;

    #[test]
    fn never_holds_more_than_its_capacity() {
        let mut map = Generations::new(10);
        for key in 0..1000 {
            map.insert(key, key);
            assert!(map.len() <= 10, "{} entries", map.len());
        }
    }

    #[test]
    fn what_is_used_stays() {
        let mut map = Generations::new(10);
        map.insert(-1, "kept");
        for key in 0..1000 {
            map.insert(key, "passing");
            assert_eq!(map.get(&-1), Some(&mut "kept"), "after {key}");
        }
        assert_eq!(map.get(&3), None);
        assert_eq!(map.remove(&-1), Some("kept"));
        assert_eq!(map.get(&-1), None);
    }
}
