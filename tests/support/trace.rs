//! A record of all steps of a plan.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tilesight::Encoder;
use tilesight::plan::Plan;

/// What every step of the last plan wrote, by the step's name.
#[derive(Default)]
pub struct Trace {
    pub plan: Option<Plan>,
    pub steps: BTreeMap<String, Vec<f32>>,
}

/// Has an encoder keep what its steps write.
pub fn trace(encoder: &mut Encoder) -> Arc<Mutex<Trace>> {
    let trace = Arc::new(Mutex::new(Trace::default()));
    let kept = trace.clone();
    encoder.observe(move |output| {
        let mut kept = kept.lock().unwrap();
        kept.steps.insert(output.step.name.clone(), output.values.to_vec());
        kept.plan = Some(output.plan.clone());
    });
    trace
}
