//! Whether the client of a request over HTTP/1.1 is still there, while nothing is read from it.
//!
//! A client that closes its sending half may wait for its answer, or may have left: both look the same, and reading does not
//! tell where bytes of a next request come first. So the socket itself is looked at. A client that has closed its half is
//! sent an interim response, which it must be able to ignore (RFC 9110, 15.2); the system of one that has left answers it with
//! a reset, which the next look sees.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::requests::Requests;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(50);

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Looks after one connection's client.
#[derive(Default)]
pub(super) struct Presence {
    next: Option<Pin<Box<Sleep>>>,
    /// The interim response was sent for the request that is under way.
    is_asked: bool,
}

/// What the socket says of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    There,
    HalfClosed,
    Gone,
}

impl Presence {
    /// Looks, where it is time, and wakes the connection's task for the next look. It must be called only while no byte of an
    /// earlier response waits to be written, for it may write between.
    ///
    /// # Errors
    /// The client has left.
    pub(super) fn poll(&mut self, context: &mut Context, stream: &TcpStream, requests: &Requests) -> io::Result<()> {
        if !requests.are_under_way() {
            *self = Self::default();
            return Ok(());
        }
        let next = self.next.get_or_insert_with(|| Box::pin(sleep(INTERVAL)));
        while next.as_mut().poll(context).is_ready() {
            match look(stream) {
                Other::There => {}
                Other::HalfClosed if self.is_asked || !requests.take_interim_responses() => {}
                Other::HalfClosed => self.is_asked = ask(stream)?,
                Other::Gone => return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the client has left")),
            }
            next.as_mut().reset(Instant::now() + INTERVAL);
        }
        Ok(())
    }
}

/// Sends the interim response; false where there is no room for it at present.
fn ask(stream: &TcpStream) -> io::Result<bool> {
    match stream.try_write(INTERIM) {
        Ok(len) if len == INTERIM.len() => Ok(true),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(target_os = "linux")]
fn look(stream: &TcpStream) -> Other {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut sockets = [PollFd::new(stream, PollFlags::RDHUP)];
    // A look that fails says nothing of the client.
    if poll(&mut sockets, Some(&Timespec::default())).is_err() {
        return Other::There;
    }
    let events = sockets[0].revents();
    if events.intersects(PollFlags::HUP | PollFlags::ERR) {
        Other::Gone
    } else if events.contains(PollFlags::RDHUP) {
        Other::HalfClosed
    } else {
        Other::There
    }
}

/// Elsewhere the writing of the answer tells.
#[cfg(not(target_os = "linux"))]
fn look(_: &TcpStream) -> Other {
    Other::There
}
