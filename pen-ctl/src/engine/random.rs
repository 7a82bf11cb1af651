//! Random numbers from a seed, the same everywhere: for counters and IP ids of CARP, whose seed is of the
//! system (they need to be unlike, not secret: what they are used in is signed), for clients that a
//! simulation draws, and for tests.

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub(in crate::engine) struct Random(pub(in crate::engine) u64);

impl Random {
    pub(in crate::engine) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The upper bytes of a number.
    pub(in crate::engine) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_be_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        bytes
    }

    /// A number below `limit`, which is not zero.
    #[cfg(test)]
    pub(in crate::engine) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in so many of a hundred cases.
    #[cfg(test)]
    pub(in crate::engine) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    #[cfg(test)]
    pub(in crate::engine) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.below(from.len() as u64);
        from[usize::try_from(at).expect("below the length")]
    }
}
