//! What a child may do.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What a confined child may do; everything else is refused. It crosses to the guard as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether less than all of this is a failure.
    pub strict: bool,
    /// Files and directories to read and execute. What does not exist when the child starts is left out.
    pub read: Vec<PathBuf>,
    /// What stays closed although it lies in a directory of `read`; only its name can be seen there.
    pub closed: Vec<PathBuf>,
    /// Files and directories to read, execute and change.
    pub write: Vec<PathBuf>,
    /// Devices to read and write.
    pub devices: Vec<PathBuf>,
    /// TCP addresses to connect to.
    pub connect: Vec<SocketAddr>,
    /// TCP ports to listen on.
    pub listen: Vec<u16>,
    /// Socket files of others to connect to, by their absolute paths.
    pub sockets: Vec<PathBuf>,
    /// A directory of the child alone: it may connect to socket files that are made in it.
    pub own: Option<PathBuf>,
}
