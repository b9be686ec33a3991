//! The steps of a profile, those of a kind together.

use serde::Serialize;

use crate::plan::{Form, Peak, Profile, Spread};

/// All steps of a kind in one encode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct StepKind {
    /// The step's name without its layer's number.
    pub(in crate::cli) step: String,
    /// The form of its kernel; none where all forms share one, and on the CPU.
    pub(in crate::cli) form: Option<Form>,
    /// Steps of this kind.
    pub(in crate::cli) times: usize,
    /// Floating-point operations of all of them.
    pub(in crate::cli) flops: u64,
    /// Bytes that all of them must move.
    pub(in crate::cli) bytes: u64,
    /// Seconds of all of them, over the rounds.
    pub(in crate::cli) seconds: Option<Spread>,
    /// Of the time of all steps.
    pub(in crate::cli) share: Option<f64>,
    pub(in crate::cli) flops_per_second: Option<f64>,
    pub(in crate::cli) bytes_per_second: Option<f64>,
    /// The time that FLOPs or bytes would take at what the device does at best, over the median.
    pub(in crate::cli) percent_of_roofline: Option<f64>,
}

/// Steps by kind, the longest first.
pub(in crate::cli) fn kinds(profile: &Profile, peak: Option<&Peak>) -> Vec<StepKind> {
    let steps = &profile.plan.steps;
    let mut kinds: Vec<StepKind> = profile
        .plan
        .kinds()
        .into_iter()
        .map(|name| {
            let of_kind: Vec<usize> = (0..steps.len()).filter(|number| steps[*number].kind() == name).collect();
            let sum = |count: fn(&crate::plan::Step) -> u64| of_kind.iter().map(|number| count(&steps[*number])).sum();
            let (flops, bytes): (u64, u64) = (sum(|step| step.flops), sum(|step| step.bytes));
            let round = |round: &Vec<_>| {
                let seconds = |number: &usize| -> f64 {
                    let span: &crate::plan::StepSpan = &round[*number];
                    span.seconds
                };
                of_kind.iter().map(seconds).sum()
            };
            let seconds = Spread::of(profile.rounds.iter().map(round).collect());
            let rate = |amount: u64| seconds.filter(|_| amount > 0).map(|seconds| amount as f64 / seconds.median);
            StepKind {
                step: name,
                form: steps[of_kind[0]].form,
                times: of_kind.len(),
                flops,
                bytes,
                seconds,
                share: None,
                flops_per_second: rate(flops),
                bytes_per_second: rate(bytes),
                percent_of_roofline: seconds
                    .zip(peak)
                    .map(|(seconds, peak)| 100.0 * peak.seconds(flops, bytes) / seconds.median),
            }
        })
        .collect();
    let median = |kind: &StepKind| kind.seconds.map_or(0.0, |seconds| seconds.median);
    let total: f64 = kinds.iter().map(median).sum();
    for kind in &mut kinds {
        kind.share = kind.seconds.map(|seconds| seconds.median / total);
    }
    kinds.sort_by(|a, b| median(b).total_cmp(&median(a)));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encoder;
    use crate::image::Tiles;
    use crate::plan::StepSpan;

    /// Two rounds in which every step takes a millisecond, then three.
    fn profile() -> Profile {
        let mut encoder = Encoder::builder().demo().device(crate::Device::Cpu).build().unwrap();
        let pixels = vec![0.5; 3 * 224 * 224];
        let walked = encoder.profile(&[Tiles { aspect_ratio: [1, 1], pixels }], 0).unwrap();
        assert!(walked.rounds.is_empty());
        let round = |seconds: f64| -> Vec<StepSpan> {
            (0..walked.plan.steps.len()).map(|n| StepSpan { start: n as f64 * seconds, seconds }).collect()
        };
        Profile { rounds: vec![round(1e-3), round(3e-3)], ..walked }
    }

    #[test]
    fn kinds_hold_every_step_once() {
        let profile = profile();
        let kinds = kinds(&profile, Some(&Peak { flops: Some(1e12), bytes: 1e10 }));
        assert_eq!(kinds.iter().map(|kind| kind.times).sum::<usize>(), profile.plan.steps.len());
        assert_eq!(kinds.iter().map(|kind| kind.flops).sum::<u64>(), profile.plan.flops());
        let share: f64 = kinds.iter().filter_map(|kind| kind.share).sum();
        assert!((share - 1.0).abs() < 1e-12);
        for kind in &kinds {
            let (seconds, times) = (kind.seconds.unwrap(), kind.times as f64);
            assert!((seconds.least / times - 1e-3).abs() < 1e-12 && (seconds.most / times - 3e-3).abs() < 1e-12);
            let at_best = (kind.flops as f64 / 1e12).max(kind.bytes as f64 / 1e10);
            assert!((kind.percent_of_roofline.unwrap() - 100.0 * at_best / seconds.median).abs() < 1e-9);
        }
        assert!(kinds.is_sorted_by(|a, b| a.times >= b.times), "as long as there are many");
    }

    #[test]
    fn without_rounds_nothing_is_said_of_time() {
        let profile = Profile { rounds: Vec::new(), ..profile() };
        let nothing =
            |kind: &StepKind| kind.seconds.is_none() && kind.share.is_none() && kind.flops_per_second.is_none();
        assert!(kinds(&profile, None).iter().all(nothing));
    }
}
