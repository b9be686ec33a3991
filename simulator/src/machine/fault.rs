//! What a kernel can do wrong.

use thiserror::Error;

/// A thread of a launch, by its indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadName {
    /// `blockIdx`.
    pub block: [u32; 3],
    /// `threadIdx`.
    pub thread: [u32; 3],
}

impl std::fmt::Display for ThreadName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(formatter, "block ({bx}, {by}, {bz}) thread ({tx}, {ty}, {tz})")
    }
}

/// Why a launch did not finish.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// The launch asks for what the device or the entry does not have.
    #[error("{kernel}: cannot be launched with {what} {asked}, the limit is {limit}")]
    Launch {
        /// The entry.
        kernel: &'static str,
        /// What is asked for.
        what: &'static str,
        /// How much of it.
        asked: u64,
        /// How much there is.
        limit: u64,
    },
    /// A shared address is outside of the block's shared memory.
    #[error(
        "{kernel}: {thread}: {operation} of {bytes} bytes at shared address {address}, outside of {shared_bytes} bytes"
    )]
    OutOfBounds {
        /// The entry.
        kernel: &'static str,
        /// Who did it.
        thread: ThreadName,
        /// The instruction.
        operation: &'static str,
        /// The shared address, counted from the start of the block's shared memory.
        address: i64,
        /// Bytes accessed.
        bytes: u32,
        /// Bytes there are.
        shared_bytes: u32,
    },
    /// An address is not a multiple of what the instruction asks for.
    #[error("{kernel}: {thread}: {operation} at {space} address {address:#x}, which is not a multiple of {alignment}")]
    Misaligned {
        /// The entry.
        kernel: &'static str,
        /// Who did it.
        thread: ThreadName,
        /// The instruction.
        operation: &'static str,
        /// `shared` or `global`.
        space: &'static str,
        /// The address in that space.
        address: u64,
        /// The alignment asked for.
        alignment: u32,
    },
    /// An operand has a value that the manual leaves undefined.
    #[error("{kernel}: {thread}: {operation} with {operand} {value}")]
    Operand {
        /// The entry.
        kernel: &'static str,
        /// Who did it.
        thread: ThreadName,
        /// The instruction.
        operation: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Its value.
        value: u64,
    },
    /// A thread breaks a rule that the manual has for an instruction.
    #[error("{kernel}: {thread}: {operation}: {problem}")]
    Misuse {
        /// The entry.
        kernel: &'static str,
        /// Who did it.
        thread: ThreadName,
        /// The instruction.
        operation: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A block ended and left something undone.
    #[error("{kernel}: block {block:?} ended with {what}")]
    Unfinished {
        /// The entry.
        kernel: &'static str,
        /// `blockIdx`.
        block: [u32; 3],
        /// What is left.
        what: String,
    },
    /// Threads that must meet at one operation wait at different ones, or have returned.
    #[error("{kernel}: block {block:?}: threads wait for each other for ever: {waiting}")]
    Divergence {
        /// The entry.
        kernel: &'static str,
        /// `blockIdx`.
        block: [u32; 3],
        /// Who waits where, warp by warp.
        waiting: String,
    },
    /// A plain store went past an end of the block's shared memory.
    #[error("{kernel}: block {block:?}: bytes {side} its {shared_bytes} bytes of shared memory were overwritten")]
    SharedOverrun {
        /// The entry.
        kernel: &'static str,
        /// `blockIdx`.
        block: [u32; 3],
        /// `before` or `after`.
        side: &'static str,
        /// Bytes there are.
        shared_bytes: u32,
    },
    /// The launch took more steps than its budget.
    #[error("{kernel}: block {block:?}: not finished after {steps} steps of its threads")]
    Endless {
        /// The entry.
        kernel: &'static str,
        /// The block that was running.
        block: [u32; 3],
        /// The budget.
        steps: u64,
    },
}
