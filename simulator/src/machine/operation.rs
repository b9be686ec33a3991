//! What threads meet at.

use std::ffi::c_void;
use std::fmt;

/// An operation that a thread waits at until others are there; `include/device.h` has the same numbers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "C++ makes most of them")]
pub(super) enum Operation {
    SyncThreads = 0,
    SyncWarp = 1,
    Shuffle = 2,
    ShuffleUp = 3,
    ShuffleDown = 4,
    ShuffleXor = 5,
    LoadMatrices = 6,
    LoadMatricesTransposed = 7,
    MultiplyBf16 = 8,
    MultiplyFp16 = 9,
    MbarrierWait = 10,
    Wgmma = 11,
    WgmmaFence = 12,
    WgmmaCommit = 13,
    WgmmaWait = 14,
    StoreMatrices = 15,
    StoreMatricesTransposed = 16,
    Elect = 17,
    NamedBarrierSync = 18,
    NamedBarrierArrive = 19,
    GiveRegisters = 20,
    TakeRegisters = 21,
    Any = 22,
    /// The thread has done what ends its launch; no instruction.
    Fault = 0xffff_ffff,
}

impl Operation {
    /// The name in the kernels' source.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SyncThreads => "__syncthreads",
            Self::SyncWarp => "__syncwarp",
            Self::Shuffle => "__shfl_sync",
            Self::ShuffleUp => "__shfl_up_sync",
            Self::ShuffleDown => "__shfl_down_sync",
            Self::ShuffleXor => "__shfl_xor_sync",
            Self::LoadMatrices => "load_matrices",
            Self::LoadMatricesTransposed => "load_matrices_transposed",
            Self::MultiplyBf16 => "multiply_add<Bf16>",
            Self::MultiplyFp16 => "multiply_add<Fp16>",
            Self::MbarrierWait => "mbarrier_wait",
            Self::Wgmma => "wgmma",
            Self::WgmmaFence => "wgmma_fence",
            Self::WgmmaCommit => "wgmma_commit",
            Self::WgmmaWait => "wgmma_wait",
            Self::StoreMatrices => "store_matrices",
            Self::StoreMatricesTransposed => "store_matrices_transposed",
            Self::Elect => "elect_one",
            Self::NamedBarrierSync => "named_barrier_sync",
            Self::NamedBarrierArrive => "named_barrier_arrive",
            Self::GiveRegisters => "give_registers",
            Self::TakeRegisters => "take_registers",
            Self::Any => "__any_sync",
            Self::Fault => "a fault",
        }
    }
}

/// A thread's arrival at an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) operation: Operation,
    /// The lanes that take part.
    pub(super) mask: u32,
    /// On the thread's stack, which stays as it is while the thread waits.
    pub(super) operands: *mut c_void,
}

impl Request {
    /// What a lane has asked for that has not run yet.
    pub(super) const NONE: Self = Self { operation: Operation::SyncWarp, mask: 0, operands: std::ptr::null_mut() };

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.operation == other.operation && self.mask == other.mask
    }
}

/// Lanes as ranges: `0-3, 8`.
pub(super) struct Lanes(pub(super) u32);

impl fmt::Display for Lanes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::from(self.0);
        let mut separator = "";
        while rest != 0 {
            let first = rest.trailing_zeros();
            let end = first + (rest >> first).trailing_ones();
            match end - first {
                1 => write!(formatter, "{separator}{first}")?,
                _ => write!(formatter, "{separator}{first}-{}", end - 1)?,
            }
            rest &= !((1 << end) - 1);
            separator = ", ";
        }
        Ok(())
    }
}
