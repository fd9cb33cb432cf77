//! Lines and open files over a Unix socket.

use std::fs::File;
use std::io::{self, BufRead, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::message::{MAX_FILES, MAX_LINE};

/// Room for the files of one message.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_FILES));

/// Sends a line with files attached to its first byte.
///
/// # Errors
/// The socket's; [`io::ErrorKind::InvalidInput`] for more than [`MAX_FILES`] files.
pub fn send(socket: &UnixStream, line: &str, files: &[File]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files for one message"));
    }
    let sent = loop {
        match sendmsg(socket, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut socket = socket;
    socket.write_all(line.as_bytes().get(sent..).unwrap_or_default())
}

/// Receives a line (without its end) and the files that came with it. Files of a line that is refused are closed.
///
/// # Errors
/// The socket's; [`io::ErrorKind::InvalidData`] for a line that is too long or not text; [`io::ErrorKind::UnexpectedEof`]
/// where the other side hung up before its end.
pub fn receive(socket: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut files = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?.bytes,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                files.extend(fds);
            }
        }
        line.extend_from_slice(buffer.get(..got).unwrap_or_default());
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if line.len() > MAX_LINE || files.len() > MAX_FILES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            let text = String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text"))?;
            return Ok((text, files));
        }
    }
}

/// Receives one line of an answer, without its end.
///
/// # Errors
/// As [`receive`].
pub fn receive_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    let most = MAX_LINE as u64 + 1;
    reader.take(most).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text")),
        Some(_) if line.len() as u64 + 1 == most => Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long")),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}
