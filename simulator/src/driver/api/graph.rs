//! Graphs, which come of captures only.

use std::ffi::c_ulonglong;

use super::{Out, exports};
use crate::driver::Status;
use crate::driver::capture::Executable;
use crate::driver::schedule::Frontier;
use crate::driver::streams::unsupported;

/// `CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD`, `_USE_NODE_PRIORITY`: matters of speed.
const FLAGS_OF_SPEED: c_ulonglong = 2 | 8;

exports! {
    /// A copy of the graph.
    fn cuGraphInstantiateWithFlags(executable: Out<'_, usize>, graph: usize, flags: c_ulonglong) |driver| {
        driver.current()?;
        if flags & !FLAGS_OF_SPEED != 0 {
            return Err(unsupported("instantiating a graph with these flags"));
        }
        let out = executable.ok_or(Status::ERROR_INVALID_VALUE)?;
        let graph = driver.graphs.get(graph)?.clone();
        out.write(driver.executables.add(Executable { graph, last: Frontier::new() }));
        Ok(())
    }

    /// A matter of speed.
    fn cuGraphUpload(executable: usize, stream: usize) |driver| {
        let target = driver.target(stream)?;
        driver.not_recording(target)?;
        driver.executables.get(executable)?;
        Ok(())
    }

    /// Its nodes come after the stream's work so far and after its own last launch, and keep their own order only.
    fn cuGraphLaunch(executable: usize, stream: usize) |driver| {
        let target = driver.target(stream)?;
        if driver.recording(target)?.is_some() {
            return Err(unsupported("recording the launch of a graph"));
        }
        let Executable { graph, last } = driver.executables.get(executable)?;
        if graph.device != target.device() {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        let graph = graph.clone();
        let before = [driver.frontier(target)?, last.clone()].concat();
        let mut operations = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let after = if node.after.is_empty() {
                before.clone()
            } else {
                node.after.iter().map(|&node| operations[node]).collect()
            };
            operations.push(driver.schedule.give(graph.device, after, node.work.clone()));
        }
        if !operations.is_empty() {
            let last: Frontier = graph.leaves().map(|node| operations[node]).collect();
            driver.executables.get_mut(executable)?.last.clone_from(&last);
            *driver.end(target)? = last;
        }
        Ok(())
    }

    /// Without an array, their number only. A node's handle is its place in the graph, from 1 on.
    fn cuGraphGetNodes(graph: usize, nodes: *mut usize, count: Option<&mut usize>) |driver| {
        driver.current()?;
        let num_nodes = driver.graphs.get(graph)?.nodes.len();
        let count = count.ok_or(Status::ERROR_INVALID_VALUE)?;
        if nodes.is_null() {
            *count = num_nodes;
            return Ok(());
        }
        for place in 0..*count {
            let handle = if place < num_nodes { place + 1 } else { 0 };
            // SAFETY: the caller says that the array is so long.
            unsafe { nodes.wrapping_add(place).write(handle) };
        }
        *count = num_nodes.min(*count);
        Ok(())
    }

    /// A launch of it goes on.
    fn cuGraphExecDestroy(executable: usize) |driver| {
        let current = driver.current();
        driver.executables.remove(executable)?;
        current.map(|_| ())
    }

    /// What was instantiated from it stays.
    fn cuGraphDestroy(graph: usize) |driver| {
        let current = driver.current();
        driver.graphs.remove(graph)?;
        current.map(|_| ())
    }
}
