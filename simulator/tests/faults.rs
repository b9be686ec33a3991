//! What a kernel must not do ends its launch with a fault that says who did what.

use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Adversary, DeviceModel, Fault, entries, entry, entry_of};

const SHARED_BYTES: u32 = 512;

fn run(kernel: &Kernel, fault: u32) -> Result<(), Fault> {
    let bytes = Buffer::of(&[0u8; 512]);
    let params = Params::new().buffer(&bytes).u32(fault).u32(SHARED_BYTES);
    let ended = kernel.clone().shared_bytes(SHARED_BYTES).run(&params);
    bytes.read::<u8>();
    ended
}

/// The message of the fault, which is the same under all seeds.
fn message(name: &str, fault: u32) -> String {
    let mut messages = SEEDS.map(|seed| {
        let kernel = Kernel::named(name).seed(seed);
        assert_eq!(run(&kernel, 0), Ok(()), "{name} does nothing wrong, seed {seed}");
        run(&kernel, fault).expect_err("a fault").to_string()
    });
    let first = messages.next().expect("there are seeds");
    assert!(messages.all(|message| message == first));
    first
}

#[test]
fn divergence_names_lanes_and_operations() {
    let diverge = |fault| {
        let message = message("diverge", fault);
        let start = "diverge: block [0, 0, 0]: threads wait for each other for ever: ";
        message.strip_prefix(start).unwrap_or_else(|| panic!("{message}")).to_owned()
    };
    assert_eq!(
        diverge(1),
        "warp 0: lanes 0-4, 6-31 at __syncthreads, lanes 5 returned; \
         warp 1: lanes 0-4, 6-31 at __syncthreads, lanes 5 returned"
    );
    assert_eq!(diverge(2), "warp 0: lanes 0-31 at __syncthreads; warp 1: lanes 0-31 returned");
    assert_eq!(
        diverge(3),
        "warp 0: lanes 0-15 at __syncthreads, lanes 16-31 at __syncwarp; \
         warp 1: lanes 0-15 at __syncthreads, lanes 16-31 at __syncwarp"
    );
    assert!(diverge(4).contains("28, 30 at __shfl_xor_sync, lanes 1, 3, 5"), "{}", diverge(4));
    assert!(diverge(5).ends_with("warp 1: lanes 0-7, 9-31 at __syncthreads, lanes 8 at load_matrices"));
    assert!(diverge(6).starts_with("warp 0: lanes 0-3 at __syncwarp for lanes 1-3, lanes 4-31 at __syncthreads"));
    assert_eq!(diverge(7), "warp 0: lanes 0-31 at __syncthreads; warp 1: lanes 0-31 returned");
}

#[test]
fn faults_name_the_thread_and_what_it_did() {
    let thread = "go_astray: block (0, 0, 0) thread (9, 0, 0): ";
    let expected = [
        (1, "load_matrices at shared address 0x498, which is not a multiple of 16"),
        (2, "load_matrices of 16 bytes at shared address 656, outside of 512 bytes"),
        (3, "load_matrices of 16 bytes at shared address -16, outside of 512 bytes"),
        (4, "load_matrices of 16 bytes at shared address -1024, outside of 512 bytes"),
        (5, "copy_async at shared address 0x494, which is not a multiple of 16"),
        (6, "copy_async of 16 bytes at shared address 512, outside of 512 bytes"),
        (8, "copy_async with num_bytes 17"),
        (11, "shared_address of 0 bytes at shared address 528, outside of 512 bytes"),
    ];
    for (fault, what) in expected {
        assert_eq!(message("go_astray", fault), format!("{thread}{what}"));
    }
    let misaligned = run(&Kernel::named("go_astray"), 7);
    assert!(matches!(misaligned, Err(Fault::Misaligned { space: "global", alignment: 16, .. })), "{misaligned:?}");
}

#[test]
fn shuffles_stay_within_their_mask() {
    assert!(message("go_astray", 12).contains("lanes 0-31 at __shfl_sync for lanes 0-15"));
    let outside = run(&Kernel::named("go_astray"), 13).expect_err("a fault").to_string();
    assert!(outside.ends_with("__shfl_sync with a source outside of its mask, lane 20"), "{outside}");
}

#[test]
#[cfg_attr(feature = "sanitize", ignore = "AddressSanitizer ends the process first")]
fn shared_memory_has_redzones() {
    let astray = "go_astray: block [0, 0, 0]: bytes";
    assert_eq!(message("go_astray", 9), format!("{astray} after its 512 bytes of shared memory were overwritten"));
    assert_eq!(message("go_astray", 10), format!("{astray} before its 512 bytes of shared memory were overwritten"));
}

#[test]
fn a_kernel_without_end_ends() {
    let adversary = Adversary { step_budget: 10_000, ..Adversary::default() };
    let endless = run(&Kernel::named("go_astray").adversary(adversary), 14);
    assert_eq!(endless, Err(Fault::Endless { kernel: "go_astray", block: [0; 3], steps: 10_000 }));
}

#[test]
fn launches_keep_within_the_device_and_the_entry() {
    let refused = |kernel: Kernel, params: Params| match kernel.run(&params) {
        Err(Fault::Launch { what, asked, limit, .. }) => (what, asked, limit),
        other => panic!("{other:?}"),
    };
    let kernel = || Kernel::named("go_astray");
    let params = || Params::new().null().u32(0).u32(0);
    assert_eq!(refused(kernel().block([33, 1, 1]), params()), ("threads of a block", 33, 32));
    assert_eq!(refused(kernel().block([8, 0, 1]), params()), ("threads of a block", 0, 32));
    assert_eq!(refused(kernel().grid([1, 65536, 1]), params()), ("blocks of a grid", 65536, 65535));
    assert_eq!(refused(kernel(), params().null()), ("bytes of params", 24, 16));
    let most = DeviceModel::AMPERE.max_shared_bytes;
    let asked = (most + 1).into();
    assert_eq!(refused(kernel().shared_bytes(most + 1), params()), ("bytes of shared memory", asked, most.into()));
    let hopper = kernel().shared_bytes(DeviceModel::HOPPER.max_shared_bytes + 1).device(DeviceModel::HOPPER);
    assert_eq!(refused(hopper, params()), ("bytes of shared memory", 232_449, 232_448));
}

#[test]
fn an_entry_runs_on_devices_that_have_its_instructions() {
    let input = Buffer::of(&[1.0f32, 2.0, 3.0]);
    let output = Buffer::poisoned::<f32>(5);
    let params = Params::new().buffer(&input).buffer(&output).u32(3).u32(2);
    let kernel = Kernel::of(entry_of("simulator/sm90/other_steps", "double_values").expect("an entry"));
    let (what, asked, limit) = ("tenfold compute capability", 90, 80);
    let smaller = kernel.clone().device(DeviceModel::AMPERE);
    assert_eq!(smaller.run(&params), Err(Fault::Launch { kernel: "double_values", what, asked, limit }));
    kernel.run(&params).unwrap();
    let output = output.read::<f32>();
    assert_eq!((output[0], output[2], output[4]), (2.0, 4.0, 6.0));
    assert!(output[1].is_nan() && output[3].is_nan());
}

#[test]
fn entries_know_their_module_and_limits() {
    let portable = entry("double_values").expect("an entry");
    assert_eq!((portable.module, portable.params_bytes), ("simulator/first_steps", 24));
    assert_eq!((portable.max_threads, portable.compute_capability), (128, (8, 0)));
    assert!(entry("triple_values").is_none() && entry_of("simulator/faults", "double_values").is_none());
    assert!(entries().is_sorted_by_key(|entry| (entry.name, entry.compute_capability)));
    assert_eq!(entry("name_threads").map(|entry| entry.max_threads), Some(64), "the first of two launch bounds");
}

#[test]
fn a_launch_after_a_fault_is_as_good_as_any() {
    for seed in SEEDS {
        assert!(run(&Kernel::named("diverge").seed(seed), 1).is_err());
        assert_eq!(run(&Kernel::named("diverge").seed(seed), 0), Ok(()));
    }
}
