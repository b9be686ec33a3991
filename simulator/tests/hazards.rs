//! Programs that lack an order are caught under some of a few seeds; their twins that have it pass under all.

use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Adversary, Landing, Order};

const ROUNDS: u32 = 3;

fn input() -> Vec<u32> {
    (0..128 * ROUNDS).map(|value| 1 + value).collect()
}

fn run(kernel: &Kernel, ordered: bool) -> Vec<u32> {
    let input = Buffer::of(&input());
    let output = Buffer::poisoned::<u32>(128 * ROUNDS as usize);
    let params = Params::new().buffer(&input).buffer(&output).u32(ROUNDS).u32(ordered.into());
    kernel.clone().shared_bytes(4 * 128 * ROUNDS).run(&params).unwrap();
    output.read()
}

/// How many of the seeds show that an order is missing, where `source` is the thread whose value a thread should get.
fn caught(name: &str, source: impl Fn(usize) -> usize) -> usize {
    let expected: Vec<u32> = (0..128 * ROUNDS as usize).map(|i| input()[i / 128 * 128 + source(i % 128)]).collect();
    let mut caught = 0;
    for seed in SEEDS {
        let kernel = Kernel::named(name).seed(seed);
        assert_eq!(run(&kernel, true), expected, "{name}, ordered, seed {seed}");
        caught += usize::from(run(&kernel, false) != expected);
    }
    caught
}

fn neighbour(thread: usize) -> usize {
    (thread + 96) % 128
}

#[test]
fn a_read_before_its_write() {
    assert!(caught("hazard_read", neighbour) >= 6);
}

#[test]
fn a_write_before_the_last_read() {
    assert!(caught("hazard_overwrite", neighbour) >= 6);
}

#[test]
fn a_write_before_another_lane_has_read() {
    let next_lane = |thread| neighbour(thread) / 32 * 32 + (thread + 1) % 32;
    assert!(caught("hazard_lanes", next_lane) >= 6);
}

#[test]
fn a_scratch_that_two_warps_use() {
    let next_lane = |thread| neighbour(thread) / 32 * 32 + (thread + 1) % 32;
    assert!(caught("hazard_scratch", next_lane) >= 3);
}

#[test]
fn a_copy_that_nobody_waits_for() {
    assert!(caught("hazard_wait", neighbour) >= 4);
}

#[test]
fn a_last_group_that_nobody_waits_for() {
    assert!(caught("hazard_last_group", neighbour) >= 4);
}

#[test]
fn a_buffer_refilled_while_it_is_read() {
    assert!(caught("hazard_refill", neighbour) >= 6);
}

#[test]
fn a_source_overwritten_before_it_is_copied() {
    assert!(caught("hazard_source", neighbour) >= 4);
}

#[test]
fn a_calm_device_hides_what_a_hostile_one_shows() {
    let calm = Adversary { landing: Landing::AtIssue, order: Order::Ascending, ..Adversary::default() };
    let late = Adversary { landing: Landing::Late, ..calm };
    let kernel = Kernel::named("hazard_wait");
    assert_eq!(run(&kernel.clone().adversary(calm), false), run(&kernel, true));
    let missed = run(&kernel.adversary(late), false);
    assert!(missed.iter().all(|&value| value == u32::MAX), "what has not landed is NaN");
}

#[test]
fn a_seed_decides_everything() {
    for name in ["hazard_read", "hazard_overwrite", "hazard_lanes", "hazard_wait", "hazard_refill"] {
        for seed in SEEDS {
            let kernel = Kernel::named(name).seed(seed);
            assert_eq!(run(&kernel, false), run(&kernel, false));
        }
    }
}
