//! Which names a request may be addressed to. A page of another site can have its own name resolved to our address (DNS
//! rebinding), and a browser would then let it read our answers; but the browser still says that name in Host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version, header};

use super::problem::Problem;

/// Names by which this machine may be called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    known: BTreeSet<String>,
}

impl Names {
    pub(crate) fn new(known: impl IntoIterator<Item = String>) -> Self {
        Self { known: known.into_iter().map(|name| plain(&name)).collect() }
    }

    /// Every name that the request is addressed to is ours. An address is always fine: nobody can have it resolved to
    /// something else, and behind a forwarding router we don't know it.
    pub(super) fn admit(&self, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), Problem> {
        let wrong = || Problem::new("bad_request", "Host must say once which host is meant.");
        let mut named: Vec<Authority> = uri.authority().cloned().into_iter().collect();
        let mut lines = headers.get_all(header::HOST).iter();
        if let Some(host) = lines.next() {
            named.push(Authority::try_from(host.as_bytes()).map_err(|_| wrong())?);
        }
        // Simple health checks speak HTTP/1.0 without Host; browsers never do.
        let silent = named.is_empty() && version != Version::HTTP_10 && version != Version::HTTP_09;
        if lines.next().is_some() || silent {
            return Err(wrong());
        }
        match named.iter().find(|authority| !self.ours(authority)) {
            Some(stranger) => {
                Err(Problem::new("misdirected", format!("{:?} is no name of this aggregator.", stranger.host()))
                    .advice("Use its address, or add the name to `public` in aggregator.toml."))
            }
            None => Ok(()),
        }
    }

    fn ours(&self, authority: &Authority) -> bool {
        let host = authority.host();
        // The parser overlooks what stands between an address in brackets and the port.
        let clear = authority.as_str().strip_prefix(host).is_some_and(|port| port.is_empty() || port.starts_with(':'));
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        clear && (address || self.known.contains(&plain(host)))
    }
}

/// Small letters, and no full stop at the end.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod test {
    use axum::http::HeaderValue;

    use super::*;

    fn check(uri: &str, version: Version, hosts: &[&str]) -> Option<String> {
        let names = Names::new(["Grid.example.org".to_owned(), "localhost".to_owned()]);
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let refused = names.admit(&uri.parse().unwrap(), version, &headers).err()?;
        Some(refused.sentence().split(':').next().unwrap().to_owned())
    }

    #[test]
    fn our_names_and_any_address_are_let_in_and_nothing_else() {
        let old = Version::HTTP_11;
        for host in
            ["grid.example.org", "GRID.example.org.:8443", "localhost:1", "192.0.2.1:8443", "[2001:db8::1]:8443"]
        {
            assert_eq!(check("/", old, &[host]), None, "{host}");
        }
        for host in
            ["evil.example", "grid.example.org.evil.example", "x@localhost", "192.0.2.1.evil.example", "[::1].evil"]
        {
            let code = check("/", old, &[host]);
            assert!(matches!(code.as_deref(), Some("misdirected" | "bad_request")), "{host}: {code:?}");
        }
        assert_eq!(check("https://evil.example/", Version::HTTP_2, &[]).as_deref(), Some("misdirected"));
        assert_eq!(check("http://evil.example/", old, &["localhost"]).as_deref(), Some("misdirected"));
        assert_eq!(check("https://localhost/", Version::HTTP_2, &[]), None);
        assert_eq!(check("/", old, &[]).as_deref(), Some("bad_request"));
        assert_eq!(check("/", Version::HTTP_10, &[]), None);
        assert_eq!(check("/", old, &["localhost", "localhost"]).as_deref(), Some("bad_request"));
        assert_eq!(check("/", old, &["a b"]).as_deref(), Some("bad_request"));
    }
}
