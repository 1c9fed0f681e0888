//! Which function's process holds the other end of a connection.

use std::fs;
use std::net::SocketAddrV4;

use crate::processes::{self, Process};

/// Functions whose effects count. The others neither send mail nor ring.
pub(super) const FUNCTIONS: [&str; 2] = ["send-emails", "dispatch-campaigns"];

/// A function's process.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) function: &'static str,
    pub(super) process: Process,
}

/// The function behind a connection from `client` to `here`; `None` for anybody else.
pub(super) fn of(client: SocketAddrV4, here: SocketAddrV4) -> Option<Owner> {
    let link = format!("socket:[{}]", inode(client, here)?);
    FUNCTIONS.into_iter().find_map(|function| {
        let process = processes::named(function).find(|process| holds(process, &link))?;
        Some(Owner { function, process })
    })
}

fn holds(process: &Process, link: &str) -> bool {
    fs::read_dir(format!("/proc/{}/fd", process.pid))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

/// The socket's inode, from the kernel's table: `sl local remote state queues timer retransmits uid timeout inode`.
fn inode(local: SocketAddrV4, remote: SocketAddrV4) -> Option<String> {
    let (local, remote) = (hexadecimal(local), hexadecimal(remote));
    fs::read_to_string("/proc/net/tcp").ok()?.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        (fields.next()? == local && fields.next()? == remote).then(|| fields.nth(6).map(str::to_owned))?
    })
}

/// The address as the kernel shows it: bytes as this machine keeps them in a word.
fn hexadecimal(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}
