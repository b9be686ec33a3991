//! A profile as a trace in Chrome's format, which Perfetto reads as well.

use serde_json::{Value, json};

use crate::plan::Profile;

/// Every step of every round as a complete event; rounds are processes, one under the other, on the same clock each.
pub(super) fn trace(profile: &Profile) -> Value {
    let steps = &profile.plan.steps;
    let round = |(number, spans): (usize, &Vec<_>)| -> Vec<Value> {
        let name = json!({
            "name": "process_name", "ph": "M", "pid": number, "tid": 0,
            "args": { "name": format!("round {}", number + 1) },
        });
        let event = |(step, span): (&crate::plan::Step, &crate::plan::StepSpan)| {
            json!({
                "name": step.kind(), "cat": "step", "ph": "X", "pid": number, "tid": 0,
                "ts": span.start * 1e6, "dur": span.seconds * 1e6,
                "args": { "step": step.name, "flops": step.flops, "bytes": step.bytes },
            })
        };
        std::iter::once(name).chain(steps.iter().zip(spans).map(event)).collect()
    };
    let events: Vec<Value> = profile.rounds.iter().enumerate().flat_map(round).collect();
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}
