//! The socket: WAL is handed over as an open file and a name, by whoever the operating system says may do so.
//!
//! The protocol is [`strongroom_client::message`]'s. A path is never opened for a client, so a client reaches nothing through the
//! daemon but the archive of the socket's own jobs. Peers are told by their credentials: root, the daemon's own user, and the users and
//! primary groups of the configuration.

mod listen;
mod serve;

pub(super) use listen::{Listening, Place};
pub(super) use serve::{Service, serve};
