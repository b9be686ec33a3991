//! How work comes to a stream, and how events order streams: by operations where it is done, by nodes where it is
//! recorded.

use std::mem;
use std::thread;

use super::Until;
use super::capture::{Node, Recording};
use super::schedule::Frontier;
use super::state::{Driver, Marked, Stream};
use super::status::{Result, Status};
use super::work::Work;

/// `NULL` and `CU_STREAM_LEGACY`.
const LEGACY: [usize; 2] = [0, 1];

/// `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;

/// A stream that a call named.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// The legacy default stream of a device.
    Default(usize),
    /// One that was created, and its device.
    Stream(usize, usize),
}

impl Target {
    pub(super) fn device(self) -> usize {
        match self {
            Self::Default(device) | Self::Stream(_, device) => device,
        }
    }
}

impl Driver {
    /// The stream behind a handle. The default stream cannot be used while a stream that it waits for is recording.
    pub(super) fn target(&mut self, stream: usize) -> Result<Target> {
        let current = self.current()?;
        if LEGACY.contains(&stream) {
            self.check_default_stream(current).inspect_err(|_| {
                let hit: Vec<usize> = self.blocking_recordings(current).collect();
                self.invalidate(|capture| hit.contains(&capture.origin));
            })?;
            return Ok(Target::Default(current));
        }
        let stream = self.of_thread(current, stream);
        let device = self.streams.get(stream)?.device;
        self.healthy(device)?;
        Ok(Target::Stream(stream, device))
    }

    /// The handle that `CU_STREAM_PER_THREAD` stands for on a device, and any other as it is. A thread has its default stream
    /// from the first use on, and that one and the legacy default stream wait for each other.
    pub(super) fn of_thread(&mut self, device: usize, stream: usize) -> usize {
        if stream != PER_THREAD {
            return stream;
        }
        let thread = Some(thread::current().id());
        let known = self.streams.iter().find(|(_, stream)| stream.device == device && stream.thread == thread);
        let Some((handle, _)) = known else {
            let stream = Stream { device, is_blocking: true, thread, frontier: Vec::new(), recording: None };
            return self.streams.add(stream);
        };
        handle
    }

    /// An error if the default stream would have to wait for a stream that is recording.
    pub(super) fn check_default_stream(&self, device: usize) -> Result<()> {
        match self.blocking_recordings(device).next() {
            Some(_) => Err(Status::ERROR_STREAM_CAPTURE_IMPLICIT),
            None => Ok(()),
        }
    }

    /// The streams on which captures began that blocking streams of a device take part in.
    fn blocking_recordings(&self, device: usize) -> impl Iterator<Item = usize> {
        let recording = self.streams.iter().filter_map(move |(_, stream)| {
            stream.recording.as_ref().filter(|_| stream.is_blocking && stream.device == device)
        });
        recording.filter_map(|recording| Some(self.captures.get(recording.capture).ok()?.origin))
    }

    /// A stream's part in a capture that is still valid, if it has one.
    pub(super) fn recording(&mut self, target: Target) -> Result<Option<&mut Recording>> {
        let Target::Stream(stream, _) = target else { return Ok(None) };
        let Some(recording) = &mut self.streams.get_mut(stream)?.recording else { return Ok(None) };
        if !self.captures.get(recording.capture)?.is_valid {
            return Err(Status::ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        Ok(Some(recording))
    }

    /// An error, and the end of the capture, if the stream is recording.
    pub(super) fn not_recording(&mut self, target: Target) -> Result<()> {
        let Some(recording) = self.recording(target)? else { return Ok(()) };
        let capture = recording.capture;
        self.captures.get_mut(capture)?.is_valid = false;
        Err(Status::ERROR_STREAM_CAPTURE_UNSUPPORTED)
    }

    /// What work given to a stream now would come after.
    pub(super) fn frontier(&self, target: Target) -> Result<Frontier> {
        let device = target.device();
        let default = &self.devices[device].default_frontier;
        let mut frontier = default.clone();
        match target {
            Target::Default(_) => {
                let blocking = self.streams.iter().filter(|(_, stream)| stream.device == device && stream.is_blocking);
                blocking.for_each(|(_, stream)| frontier.extend(&stream.frontier));
            }
            Target::Stream(stream, _) => {
                let stream = self.streams.get(stream)?;
                if !stream.is_blocking {
                    frontier.clear();
                }
                frontier.extend(&stream.frontier);
            }
        }
        self.schedule.undone(&mut frontier);
        Ok(frontier)
    }

    /// Where a stream's end is kept.
    pub(super) fn end(&mut self, target: Target) -> Result<&mut Frontier> {
        match target {
            Target::Default(device) => Ok(&mut self.devices[device].default_frontier),
            Target::Stream(stream, _) => Ok(&mut self.streams.get_mut(stream)?.frontier),
        }
    }

    /// Gives work to a stream, to do or to record.
    pub(super) fn give(&mut self, target: Target, work: Work) -> Result<()> {
        if let Some(recording) = self.recording(target)? {
            let (capture, after) = (recording.capture, mem::take(&mut recording.frontier));
            let nodes = &mut self.captures.get_mut(capture)?.graph.nodes;
            nodes.push(Node { after, work });
            let node = nodes.len() - 1;
            if let Some(recording) = self.recording(target)? {
                recording.frontier = vec![node];
            }
            return Ok(());
        }
        let after = self.frontier(target)?;
        let operation = self.schedule.give(target.device(), after, work);
        *self.end(target)? = vec![operation];
        Ok(())
    }

    /// The end of a stream, to wait for.
    pub(super) fn until(&self, target: Target) -> Result<Until> {
        Ok(Until { device: target.device(), work: self.frontier(target)? })
    }

    /// Marks the end of a stream with an event.
    pub(super) fn record(&mut self, event: usize, target: Target) -> Result<()> {
        if self.events.get(event)?.device != target.device() {
            return Err(Status::ERROR_INVALID_HANDLE);
        }
        let marked = match self.recording(target)? {
            Some(recording) => Marked::Recording(recording.clone()),
            None => {
                self.give(target, Work::Mark { event })?;
                Marked::Work(self.end(target)?.clone())
            }
        };
        let event = self.events.get_mut(event)?;
        event.marked = marked;
        event.time = None;
        Ok(())
    }

    /// Lets what a stream is given from now on come after what an event marks. A stream that waits for recorded work takes
    /// part in the recording.
    pub(super) fn wait_for(&mut self, target: Target, event: usize) -> Result<()> {
        match &self.events.get(event)?.marked {
            Marked::Nothing => Ok(()),
            Marked::Work(frontier) => {
                let frontier = frontier.clone();
                if let Some(recording) = self.recording(target)? {
                    let capture = recording.capture;
                    self.captures.get_mut(capture)?.is_valid = false;
                    return Err(Status::ERROR_STREAM_CAPTURE_ISOLATION);
                }
                self.end(target)?.extend(frontier);
                Ok(())
            }
            Marked::Recording(marked) => {
                let marked = marked.clone();
                self.join(target, marked)
            }
        }
    }

    fn join(&mut self, target: Target, marked: Recording) -> Result<()> {
        let Ok(capture) = self.captures.get(marked.capture) else { return Err(Status::ERROR_CAPTURED_EVENT) };
        if !capture.is_valid {
            return Err(Status::ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let Target::Stream(stream, device) = target else {
            self.captures.get_mut(marked.capture)?.is_valid = false;
            return Err(Status::ERROR_STREAM_CAPTURE_IMPLICIT);
        };
        if capture.graph.device != device {
            return Err(unsupported("a capture over several devices"));
        }
        match self.recording(target)? {
            None => self.streams.get_mut(stream)?.recording = Some(marked),
            Some(recording) if recording.capture == marked.capture => {
                recording.frontier.extend(marked.frontier);
                recording.frontier.sort_unstable();
                recording.frontier.dedup();
            }
            Some(recording) => {
                let both = [recording.capture, marked.capture];
                for capture in both {
                    self.captures.get_mut(capture)?.is_valid = false;
                }
                return Err(Status::ERROR_STREAM_CAPTURE_MERGE);
            }
        }
        Ok(())
    }
}

/// The status for what exists and is not simulated.
pub(super) fn unsupported(what: &str) -> Status {
    eprintln!("CUDA simulator: {what} is not simulated");
    Status::ERROR_NOT_SUPPORTED
}
