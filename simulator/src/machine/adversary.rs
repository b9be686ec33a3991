//! The choices that hardware makes and a program must not depend on, made against it: by seed, and the same ones for
//! the same seed.

/// When an asynchronous copy reads its source and writes its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// At the wait that it must have landed by: what catches a wait that is missing.
    Late,
    /// As it is issued: what catches a buffer that is still being read.
    AtIssue,
    /// Each copy by the seed.
    Mixed,
    /// One of the others, for the whole launch, by the seed.
    Seeded,
}

/// In which order warps of a block, lanes of a warp and blocks of a grid run where nothing orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By their index.
    Ascending,
    /// By the seed, anew between any two barriers; warps one after another, or in turns.
    Seeded,
}

/// How a launch is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adversary {
    /// When asynchronous copies land.
    pub landing: Landing,
    /// Who runs first.
    pub order: Order,
    /// How often threads may be resumed before the launch counts as endless.
    pub step_budget: u64,
}

impl Default for Adversary {
    /// As hostile as can be; a thousand million steps are minutes.
    fn default() -> Self {
        Self { landing: Landing::Seeded, order: Order::Seeded, step_budget: 1_000_000_000 }
    }
}

/// SplitMix64: small, seedable by any number, and good enough to choose orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream of its own for each part of a launch.
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        let mut random = Self(seed ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; the bias is far below what a test could notice.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
