//! Entries under keys that are never reused within 2^31 reuses of a place: a late completion can't hit a newcomer.

use alloc::vec::Vec;

const INDEX_MASK: u64 = 0xffff_ffff;
const GENERATION_MASK: u32 = 0x7fff_ffff;

/// Grows to the most entries ever held at once, then allocates nothing. Keys have their top bit clear.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn insert(&mut self, value: T) -> u64 {
        if let Some(index) = self.free.pop()
            && let Some(place) = self.places.get_mut(index as usize)
        {
            place.generation = place.generation.wrapping_add(1) & GENERATION_MASK;
            place.value = Some(value);
            return u64::from(place.generation) << 32 | u64::from(index);
        }
        let index = self.places.len() as u64 & INDEX_MASK;
        self.places.push(Place { generation: 1, value: Some(value) });
        1 << 32 | index
    }

    fn place(&self, key: u64) -> Option<&Place<T>> {
        let index = usize::try_from(key & INDEX_MASK).ok()?;
        self.places.get(index).filter(|place| u64::from(place.generation) == key >> 32)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        self.place(key)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let index = usize::try_from(key & INDEX_MASK).ok()?;
        let place = self.places.get_mut(index)?;
        if u64::from(place.generation) == key >> 32 { place.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let index = usize::try_from(key & INDEX_MASK).ok()?;
        let place = self.places.get_mut(index)?;
        if u64::from(place.generation) != key >> 32 {
            return None;
        }
        let value = place.value.take()?;
        self.free.push(u32::try_from(index).ok()?);
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let key = u64::from(place.generation) << 32 | index as u64;
            place.value.as_ref().map(|value| (key, value))
        })
    }

    /// Keys of all entries; for rare events only.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing() {
        let mut slab = Slab::new();
        let a = slab.insert('a');
        let b = slab.insert('b');
        assert_eq!(slab.remove(a), Some('a'));
        let c = slab.insert('c');
        assert_ne!(a, c);
        assert_eq!((slab.get(a), slab.get(b), slab.get(c)), (None, Some(&'b'), Some(&'c')));
        assert_eq!((slab.remove(a), slab.get_mut(a).is_none(), slab.len()), (None, true, 2));
        assert_eq!(slab.keys(), [c, b]);
        slab.remove(b);
        slab.remove(c);
        assert!(slab.is_empty());
    }
}
