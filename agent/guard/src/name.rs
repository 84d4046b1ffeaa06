//! Before the guard guards: which host of the grid it is, told once by the agent, where no setting says so.

use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use roost_protocol::HostId;
use roost_ward::door::{Reply, Request};

use crate::visitors::Visitors;

/// Waits until a visitor says it.
pub(crate) fn learn(socket: &Path) -> std::io::Result<HostId> {
    let mut visitors = Visitors::open(socket)?;
    loop {
        for (visitor, request) in visitors.requests() {
            if let Request::Host(host) = request {
                return Ok(host);
            }
            let why = "this guard was not told yet which host it is: its agent tells it, or set `host`";
            visitors.answer(visitor, &Reply::Refused(why.to_owned()));
        }
        visitors.flush();
        let of = |(descriptor, writes): (_, bool)| {
            let out = if writes { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(descriptor, PollFlags::POLLIN | out)
        };
        let mut all: Vec<PollFd<'_>> = visitors.descriptors().map(of).collect();
        match poll(&mut all, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(why) => return Err(why.into()),
        }
    }
}

#[cfg(test)]
mod test {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use roost_protocol::codec;

    use super::*;

    #[test]
    fn a_guard_without_a_name_refuses_all_but_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let at = path.clone();
        let learns = std::thread::spawn(move || learn(&at).unwrap());
        let began = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(why) => assert!(began.elapsed() < Duration::from_secs(60), "{why}"),
            }
        };
        let mut say = |request: &Request| {
            let request = codec::encode(request);
            let length = u32::try_from(request.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &request].concat()).unwrap();
        };
        say(&Request::Status);
        let host = HostId::from_u128(5);
        say(&Request::Host(host));
        assert_eq!(learns.join().unwrap(), host);
        let mut length = [0; 4];
        // The refusal came before, or the door was shut.
        let _ = stream.read(&mut length);
    }
}
