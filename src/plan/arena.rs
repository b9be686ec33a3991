//! One arena for all buffers: memory is shared by those that are never live at the same time.

use super::{Buffer, Place, Plan, Step};

/// Gives every arena buffer an offset and returns the arena's size in bytes, `usize::MAX` where it is more. Large
/// buffers choose first, each the lowest place that is free for its whole life.
pub(super) fn place(buffers: &mut [Buffer], steps: &[Step]) -> usize {
    debug_assert!(buffers.iter().all(|b| b.last_use < steps.len()));
    let mut order: Vec<usize> =
        (0..buffers.len()).filter(|&id| matches!(buffers[id].place, Place::Arena { .. })).collect();
    order.sort_by_key(|&id| std::cmp::Reverse(buffers[id].bytes));
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    let mut arena_bytes = 0;
    for id in order {
        let size = buffers[id].bytes.next_multiple_of(Plan::ALIGNMENT);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&(other, ..)| live_together(&buffers[id], &buffers[other]))
            .map(|&(_, start, end)| (start, end))
            .collect();
        taken.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in taken {
            if offset.saturating_add(size) <= start {
                break;
            }
            offset = offset.max(end);
        }
        let end = offset.saturating_add(size);
        placed.push((id, offset, end));
        buffers[id].place = Place::Arena { offset };
        arena_bytes = arena_bytes.max(end);
    }
    arena_bytes
}

/// A step may read one and write the other: sharing the step is sharing time.
fn live_together(a: &Buffer, b: &Buffer) -> bool {
    a.first_use <= b.last_use && b.first_use <= a.last_use
}
