//! Reproducible random moments: SplitMix64 (Steele, Lea, Flood 2014), seeded by `JARVIS_TEST_SEED` or anew.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    seed: u64,
}

impl Random {
    /// The seed of `JARVIS_TEST_SEED`, else a new one; printed, so that a failure can be repeated.
    #[expect(clippy::print_stdout, reason = "a failure cannot be repeated without it")]
    pub fn for_test(name: &str) -> Self {
        let given = std::env::var("JARVIS_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        println!("{name}: JARVIS_TEST_SEED={seed}");
        Self::new(seed)
    }

    pub fn new(seed: u64) -> Self {
        Self { state: seed, seed }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 ≤ result < `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap().max(1);
        usize::try_from(self.next() % n).unwrap()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
