//! Streams, and recording what they are given.

use std::ffi::{c_int, c_uint};
use std::thread;

use super::{Out, exports, put};
use crate::driver::Status;
use crate::driver::capture::{Capture, Graph, Mode, Recording};
use crate::driver::state::{Driver, Stream};
use crate::driver::status::Result;
use crate::driver::streams::Target;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

/// `CUstreamCaptureStatus`.
const NOT_CAPTURING: c_int = 0;
const CAPTURING: c_int = 1;
const INVALIDATED: c_int = 2;

impl Driver {
    fn create_stream(&mut self, stream: Out<'_, usize>, flags: c_uint) -> Result<()> {
        let device = self.current()?;
        let out = stream.filter(|_| flags & !NON_BLOCKING == 0).ok_or(Status::ERROR_INVALID_VALUE)?;
        let is_blocking = flags & NON_BLOCKING == 0;
        out.write(self.streams.add(Stream {
            device,
            is_blocking,
            thread: None,
            frontier: Vec::new(),
            recording: None,
        }));
        Ok(())
    }

    /// A stream that was created, or a thread's own, whatever state a capture on it is in.
    fn created(&mut self, stream: usize) -> Result<&Stream> {
        let current = self.current()?;
        let stream = self.of_thread(current, stream);
        self.streams.get(stream)
    }

    /// The end of a capture: all streams that took part in it are as others again.
    fn end_capture(&mut self, capture: usize) -> Result<Capture> {
        let recordings = self.streams.values_mut().map(|stream| &mut stream.recording);
        recordings
            .filter(|recording| recording.as_ref().is_some_and(|recording| recording.capture == capture))
            .for_each(|recording| *recording = None);
        self.captures.remove(capture)
    }

    /// What a capture that is ended on `stream` has recorded.
    fn recorded(&mut self, stream: usize, recording: &Recording) -> Result<Graph> {
        let capture = self.captures.get(recording.capture)?;
        if capture.origin != stream {
            self.captures.get_mut(recording.capture)?.is_valid = false;
            return Err(Status::ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Status::ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let others = self.streams.iter().filter_map(|(_, other)| other.recording.as_ref());
        let others = others.filter(|other| other.capture == recording.capture).map(|other| &other.frontier);
        let is_joined = capture.is_joined(&recording.frontier, others);
        let capture = self.end_capture(recording.capture)?;
        match (capture.is_valid, is_joined) {
            (false, _) => Err(Status::ERROR_STREAM_CAPTURE_INVALIDATED),
            (_, false) => Err(Status::ERROR_STREAM_CAPTURE_UNJOINED),
            _ => Ok(capture.graph),
        }
    }
}

exports! {
    /// See [`cuStreamCreateWithPriority`].
    fn cuStreamCreate(stream: Out<'_, usize>, flags: c_uint) |driver| { driver.create_stream(stream, flags) }

    /// Priorities make no difference: no order that they would suggest can be relied on.
    fn cuStreamCreateWithPriority(stream: Out<'_, usize>, flags: c_uint, _priority: c_int) |driver| {
        driver.create_stream(stream, flags)
    }

    /// Work that it was given will be done all the same.
    fn cuStreamDestroy_v2(stream: usize) |driver| {
        let current = driver.current();
        let destroyed = driver.streams.remove(stream)?;
        if let Some(recording) = destroyed.recording {
            driver.captures.get_mut(recording.capture)?.is_valid = false;
        }
        current.map(|_| ())
    }

    /// Waits for what it was given.
    fn cuStreamSynchronize(stream: usize) |driver| {
        let target = driver.target(stream)?;
        driver.not_recording(target)?;
        driver.outside_of_captures()?;
        driver.until(target)
    }

    /// Each query may find one more piece of work done.
    fn cuStreamQuery(stream: usize) |driver| {
        let target = driver.target(stream)?;
        driver.not_recording(target)?;
        driver.outside_of_captures()?;
        let work = driver.frontier(target)?;
        driver.poll(&work);
        driver.healthy(target.device())?;
        if driver.schedule.is_done(&work) { Ok(()) } else { Err(Status::ERROR_NOT_READY) }
    }

    /// Without flags.
    fn cuStreamWaitEvent(stream: usize, event: usize, flags: c_uint) |driver| {
        let target = driver.target(stream)?;
        if flags != 0 {
            return Err(crate::driver::streams::unsupported("waiting for an external event"));
        }
        driver.wait_for(target, event)
    }

    /// Not on the default stream.
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) |driver| {
        let Target::Stream(stream, device) = driver.target(stream)? else {
            return Err(Status::ERROR_STREAM_CAPTURE_UNSUPPORTED);
        };
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Status::ERROR_INVALID_VALUE),
        };
        if driver.streams.get(stream)?.recording.is_some() {
            return Err(Status::ERROR_ILLEGAL_STATE);
        }
        let graph = Graph { device, nodes: Vec::new() };
        let capture = Capture { origin: stream, mode, thread: thread::current().id(), is_valid: true, graph };
        let capture = driver.captures.add(capture);
        driver.streams.get_mut(stream)?.recording = Some(Recording { capture, frontier: Vec::new() });
        Ok(())
    }

    /// A graph, or null and the reason.
    fn cuStreamEndCapture(stream: usize, graph: Out<'_, usize>) |driver| {
        let out = graph.ok_or(Status::ERROR_INVALID_VALUE)?.write(0);
        let current = driver.current()?;
        let stream = driver.of_thread(current, stream);
        let recording = driver.created(stream)?.recording.clone().ok_or(Status::ERROR_ILLEGAL_STATE)?;
        let graph = driver.recorded(stream, &recording)?;
        *out = driver.graphs.add(graph);
        Ok(())
    }

    /// Asking invalidates nothing.
    fn cuStreamIsCapturing(stream: usize, status: Out<'_, c_int>) |driver| {
        let current = driver.current()?;
        if stream <= 1 {
            driver.check_default_stream(current)?;
            return put(status, NOT_CAPTURING);
        }
        let recording = driver.created(stream)?.recording.clone();
        let found = match recording {
            None => NOT_CAPTURING,
            Some(recording) if driver.captures.get(recording.capture)?.is_valid => CAPTURING,
            Some(_) => INVALIDATED,
        };
        put(status, found)
    }

    /// The context of its device; of a default stream the current one.
    fn cuStreamGetCtx(stream: usize, context: Out<'_, usize>) |driver| {
        let current = driver.current()?;
        let device = if stream <= 1 { current } else { driver.created(stream)?.device };
        put(context, super::context::handle(Some(device)))
    }
}
