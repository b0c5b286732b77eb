//! A small set of numbers below a fixed size: which events were emitted.

/// Numbers below the size that it was made with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Set(Box<[u64]>);

impl Set {
    /// The empty set of numbers below `size`.
    pub(super) fn new(size: usize) -> Self {
        Self(vec![0; size.div_ceil(64)].into())
    }

    pub(super) fn of(size: usize, members: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::new(size);
        members.into_iter().for_each(|member| set.insert(member));
        set
    }

    pub(super) fn insert(&mut self, member: usize) {
        self.0[member / 64] |= 1 << (member % 64);
    }

    pub(super) fn contains(&self, member: usize) -> bool {
        self.0[member / 64] & 1 << (member % 64) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(one, other)| one & other != 0)
    }

    /// Adds the other's members; whether any of them is new.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let mut new = false;
        for (one, other) in self.0.iter_mut().zip(&other.0) {
            new |= other & !*one != 0;
            *one |= other;
        }
        new
    }

    /// The members of both, in order.
    pub(super) fn both<'s>(&'s self, other: &'s Self) -> impl Iterator<Item = usize> + 's {
        self.0.iter().zip(&other.0).enumerate().flat_map(|(i, (one, other))| members(i, one & other))
    }

    /// Takes the other's members away.
    pub(super) fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one &= !other);
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, word)| members(i, *word))
    }
}

fn members(at: usize, mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(at * 64 + bit)
    })
}
