//! Excel's web query files: a file of four lines with the address of a list as HTML. The address has a token of its own,
//! because Excel sends none: it is good for this one list, for reading, and for a while.

use std::net::IpAddr;

use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use roost_registry::{Http, Operation, Output};

use super::Api;
use super::problem::Problem;
use super::rest::decoded;
use crate::auth::{Caller, authorize};

/// The query parameter that holds the token.
const TOKEN: &str = "token";

/// Takes the token out of a list's query.
pub(super) fn token(operation: &Operation, pairs: &mut Vec<(String, String)>) -> Option<String> {
    let listed = matches!(operation.output, Output::List(_)) && operation.method == Http::Get;
    let at = pairs.iter().position(|(name, _)| listed && name == TOKEN)?;
    Some(pairs.remove(at).1)
}

/// Who made the link with this token.
pub(super) async fn caller(
    api: &Api,
    token: &str,
    path: &str,
    pairs: &[(String, String)],
    address: IpAddr,
) -> Result<Caller, Problem> {
    let caller = api.auth.by_link(token, &canonical(path, pairs)?, address).await?;
    caller.ok_or_else(|| {
        Problem::new(
            "login_required",
            "The link is not valid: changed, too old, or its maker's password or token ended.",
        )
        .advice("Get a new one with format=iqy.")
    })
}

/// The file.
pub(super) async fn answer(
    api: &Api,
    caller: &Caller,
    operation: &Operation,
    parts: &Parts,
    path: &str,
    mut pairs: Vec<(String, String)>,
) -> Result<Response, Problem> {
    pairs.retain(|(name, _)| !["format", "cursor"].contains(&name.as_str()));
    pairs.push(("format".to_owned(), "html".to_owned()));
    let what = canonical(path, &pairs)?;
    let link = if authorize(caller, operation.permission) { api.auth.link(caller, &what).await? } else { None };
    let link = link.ok_or_else(|| {
        Problem::new("login_required", "A link is made for somebody who has logged in.")
            .advice("Send `Authorization: Bearer` with an API token or a session's token.")
    })?;
    let by_header = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str()).or(by_header);
    let host = host.ok_or_else(|| Problem::new("bad_request", "Without Host nobody knows how we are called."))?;
    let file = format!("WEB\r\n1\r\nhttps://{host}{what}&{TOKEN}={link}\r\n");
    let name = format!("attachment; filename=\"roost-{}.iqy\"", operation.name.replace('.', "-"));
    let headers = [(header::CONTENT_TYPE, "text/x-ms-iqy".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, file).into_response())
}

/// The address without the token: the same for all ways to write it. What means something to Excel, such as a parameter in
/// brackets, is written with per cent.
fn canonical(path: &str, pairs: &[(String, String)]) -> Result<String, Problem> {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{}={}", plain(name), plain(value))).collect();
    let segments: Vec<String> =
        path.split('/').map(|segment| Ok(plain(&decoded(segment)?))).collect::<Result<_, Problem>>()?;
    Ok(format!("{}?{}", segments.join("/"), pairs.join("&")))
}

fn plain(text: &str) -> String {
    let byte = |byte: u8| {
        let letter = char::from(byte);
        let stays = letter.is_ascii_alphanumeric() || "-._~".contains(letter);
        if stays { letter.to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_address_is_the_same_however_it_was_written() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let one = canonical("/api/v1/guests", &[pair("sort", "-cpu,name"), pair("q", "[\"a\r\nb\"]")]).unwrap();
        assert_eq!(one, "/api/v1/guests?sort=-cpu%2Cname&q=%5B%22a%0D%0Ab%22%5D");
        assert_eq!(canonical("/a/%7ex/%c3%a9", &[]).unwrap(), canonical("/a/~x/%C3%A9", &[]).unwrap());
        assert_ne!(canonical("/a%2Fb", &[]).unwrap(), canonical("/a/b", &[]).unwrap());
        let (one, two) = ([pair("x", "1&y=2")], [pair("x", "1"), pair("y", "2")]);
        assert_ne!(canonical("/a", &one).unwrap(), canonical("/a", &two).unwrap());
    }
}
