//! Where a request's time goes: the stages of its way, as the server and the benchmarks name them.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::encoder::Timing;

/// A part of a request's way, in order. Not every request passes all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The body arrives.
    Receive,
    /// Pictures are decoded; tensors are read.
    Decode,
    /// Pictures are resized and cut into tiles.
    Preprocess,
    /// The request waits: for a decoder, for its turn, and on the device for the batch before.
    Queue,
    /// The CPU computes its batch.
    Compute,
    /// The pixels of its batch go to the GPU.
    H2d,
    /// The GPU computes its batch.
    Gpu,
    /// The embeddings of its batch come back and become f32.
    D2h,
    /// Its embeddings are copied from the cache, or into it.
    Cache,
    /// The response is written.
    Serialise,
}

impl Stage {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Receive,
        Self::Decode,
        Self::Preprocess,
        Self::Queue,
        Self::Compute,
        Self::H2d,
        Self::Gpu,
        Self::D2h,
        Self::Cache,
        Self::Serialise,
    ];

    /// The stage's name in metrics, headers and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Queue => "queue",
            Self::Compute => "compute",
            Self::H2d => "h2d",
            Self::Gpu => "gpu",
            Self::D2h => "d2h",
            Self::Cache => "cache",
            Self::Serialise => "serialise",
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The time of each stage that a request has passed so far.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct StageTimes([Option<Duration>; Stage::ALL.len()]);

impl StageTimes {
    /// A stage's time; none where the request has not passed it.
    #[cfg(feature = "serve")]
    pub(crate) fn of(&self, stage: Stage) -> Duration {
        self.0[stage as usize].unwrap_or_default()
    }

    /// Adds to a stage's time.
    pub(crate) fn add(&mut self, stage: Stage, time: Duration) {
        *self.0[stage as usize].get_or_insert_default() += time;
    }

    /// Adds all times of another.
    pub(crate) fn append(&mut self, other: &Self) {
        other.iter().for_each(|(stage, time)| self.add(stage, time));
    }

    /// A stage's time. None where the stage was not passed.
    pub(crate) fn get(&self, stage: Stage) -> Option<Duration> {
        self.0[stage as usize]
    }

    /// A stage's time, zero where the stage was not passed.
    pub(crate) fn time(&self, stage: Stage) -> Duration {
        self.get(stage).unwrap_or_default()
    }

    /// The time of all stages.
    pub(crate) fn total(&self) -> Duration {
        self.iter().map(|(_, time)| time).sum()
    }

    /// The stages that were passed and their times, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Stage, Duration)> {
        Stage::ALL.into_iter().filter_map(|stage| Some((stage, self.get(stage)?)))
    }
}

impl From<Timing> for StageTimes {
    /// The stages of an encode.
    fn from(timing: Timing) -> Self {
        let mut times = Self::default();
        match timing {
            Timing::Host { compute } => times.add(Stage::Compute, compute),
            Timing::Gpu { h2d, compute, d2h } => {
                times.add(Stage::H2d, h2d);
                times.add(Stage::Gpu, compute);
                times.add(Stage::D2h, d2h);
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_keep_the_order_of_the_way() {
        let second = Duration::from_secs(1);
        let mut times = StageTimes::default();
        times.add(Stage::Decode, second / 2);
        times.append(&Timing::Host { compute: 2 * second }.into());
        times.append(&Timing::Host { compute: second }.into());
        assert_eq!(times.iter().collect::<Vec<_>>(), [(Stage::Decode, second / 2), (Stage::Compute, 3 * second)]);
        assert_eq!((times.get(Stage::Gpu), times.time(Stage::Gpu)), (None, Duration::ZERO));
        assert_eq!(times.total(), 7 * second / 2);
        let gpu = StageTimes::from(Timing::Gpu { h2d: second, compute: 2 * second, d2h: 3 * second });
        let stages = [(Stage::H2d, second), (Stage::Gpu, 2 * second), (Stage::D2h, 3 * second)];
        assert_eq!(gpu.iter().collect::<Vec<_>>(), stages);
    }

    #[test]
    fn a_stage_is_its_place_among_all() {
        assert!(Stage::ALL.iter().enumerate().all(|(place, stage)| *stage as usize == place));
    }
}
