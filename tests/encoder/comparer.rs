//! The comparer that every golden test trusts says no when it must: to a wrong sign, zeros, NaN, infinity, a single
//! wrong element, a wrong scale, a wrong length, and to a reference that proves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::closeness::{F32_LIMIT, assert_close};
use crate::difference::difference;
use crate::golden_data::golden;
use crate::golden_tensors::read;

/// A golden output, and the same values as f32.
fn reference() -> (Vec<f64>, Vec<f32>) {
    let reference = read(&golden("tiny/case0.safetensors"))["out_f64"].values.clone();
    let result = reference.iter().map(|x| *x as f32).collect();
    (reference, result)
}

fn passes(result: &[f32], reference: &[f64]) -> bool {
    catch_unwind(AssertUnwindSafe(|| assert_close("the comparer", result, reference, F32_LIMIT))).is_ok()
}

/// Whether a golden output still passes once `change` has spoilt it; `change` is told where its largest value is.
fn passes_after(change: impl FnOnce(&mut Vec<f32>, usize)) -> bool {
    let (reference, mut result) = reference();
    let largest = (0..result.len()).max_by(|a, b| result[*a].abs().total_cmp(&result[*b].abs())).unwrap();
    change(&mut result, largest);
    passes(&result, &reference)
}

#[test]
fn what_is_right_passes() {
    assert!(passes_after(|_, _| {}));
    assert!(passes_after(|result, largest| result[largest] *= 1.0 + 1e-6), "a rounding's worth is let through");
}

#[test]
fn a_wrong_sign_fails() {
    assert!(!passes_after(|result, _| result.iter_mut().for_each(|x| *x = -*x)));
    assert!(!passes_after(|result, largest| result[largest] = -result[largest]));
}

#[test]
fn all_zero_fails() {
    assert!(!passes_after(|result, _| result.fill(0.0)));
}

#[test]
fn not_a_number_fails_wherever_it_stands() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(!passes_after(|result, _| result[0] = value), "{value} first");
        assert!(!passes_after(|result, _| *result.last_mut().unwrap() = value), "{value} last");
        assert!(!passes_after(|result, _| result.fill(value)), "all {value}");
    }
}

#[test]
fn one_element_off_fails() {
    // Measured against the largest value, whichever element it is that is off.
    for index in [0, 1, 1000] {
        assert!(!passes_after(|result, largest| {
            let size = result[largest].abs();
            result[index] += 1e-5 * size;
        }));
    }
    assert!(!passes_after(|result, _| result.swap(0, 1)));
}

#[test]
fn a_wrong_scale_fails() {
    assert!(!passes_after(|result, _| result.iter_mut().for_each(|x| *x *= 1.0001)));
    assert!(!passes_after(|result, _| result.iter_mut().for_each(|x| *x /= 1.0001)));
}

#[test]
fn another_length_fails() {
    assert!(!passes_after(|result, _| result.truncate(result.len() - 1)));
    assert!(!passes_after(|result, _| result.push(0.0)));
    assert!(!passes_after(|result, _| result.clear()));
}

#[test]
fn a_reference_that_proves_nothing_fails() {
    assert!(!passes(&[0.0; 8], &[0.0; 8]), "all zeros");
    assert!(!passes(&[], &[]), "nothing");
    assert!(!passes(&[f32::INFINITY, 1.0], &[f64::INFINITY, 1.0]), "infinity");
    assert!(!passes(&[f32::NAN, 1.0], &[f64::NAN, 1.0]), "NaN");
}

#[test]
fn the_difference_names_the_worst_element() {
    let (reference, mut result) = reference();
    result[17] += 1.0;
    let found = difference(&result, &reference);
    assert_eq!(found.worst, (17, f64::from(result[17]), reference[17]));
    let largest = reference.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let off = (f64::from(result[17]) - reference[17]).abs();
    assert_eq!(found.max, off / largest);
    let norm = reference.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((found.frobenius * norm / off - 1.0).abs() < 1e-6, "one element off is the whole difference: {found}");
}
