//! Errors for people, in three lines: what was tried, why it failed, what to try. And the exit code for scripts.

use serde_json::Value;

use crate::out::{Out, clean};

/// Exit codes; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed,
    Usage,
    Login,
    NotFound,
    WrongState,
    Timeout,
    PartlyDone,
    Interrupted,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Login => 3,
            Exit::NotFound => 4,
            Exit::WrongState => 5,
            Exit::Timeout => 6,
            Exit::PartlyDone => 7,
            Exit::Interrupted => 130,
        }
    }
}

/// Why the command did not do what was asked.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) hint: String,
    /// The server's stable word, if it was the server that said no.
    pub(crate) code: Option<Box<str>>,
    pub(crate) request_id: Option<Box<str>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), hint: hint.into(), code: None, request_id: None }
    }

    pub(crate) fn usage(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, why, hint)
    }

    /// From a problem object (RFC 9457), or whatever came in its place.
    pub(crate) fn from_problem(what: impl Into<String>, status: u16, problem: &Value) -> Self {
        let text = |name: &str| problem[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let code = text("code");
        let title = text("title").unwrap_or_else(|| format!("The server answered {status}"));
        let mut why = text("detail").unwrap_or(title);
        for fault in problem["errors"].as_array().into_iter().flatten() {
            let (pointer, detail) = (fault["pointer"].as_str(), fault["detail"].as_str());
            let told = format!("{}: {}", pointer.unwrap_or("?"), detail.unwrap_or("?"));
            // Of a single wrong input the detail has said so already.
            if !why.contains(&told) {
                why.push_str(&format!("; {told}"));
            }
        }
        let exit = exit_of(code.as_deref(), status);
        let hint = text("try").unwrap_or_else(|| hint_of(exit, code.as_deref()).to_owned());
        Self {
            exit,
            what: what.into(),
            why,
            hint,
            code: code.map(Into::into),
            request_id: text("request_id").map(Into::into),
        }
    }

    /// Its three lines.
    pub(crate) fn lines(&self) -> [String; 3] {
        let code = self.code.as_ref().map(|code| format!(" ({})", clean(code))).unwrap_or_default();
        let request = self.request_id.as_ref().map(|id| format!(" [request {}]", clean(id))).unwrap_or_default();
        [
            format!("error: {}{code}", clean(&self.what)),
            format!("why:   {}", clean(&self.why)),
            format!("try:   {}{request}", clean(&self.hint)),
        ]
    }

    pub(crate) fn show(&self, out: &mut Out<'_>) {
        for line in self.lines() {
            out.say(&line);
        }
    }
}

fn exit_of(code: Option<&str>, status: u16) -> Exit {
    match code {
        Some("login_required" | "login_failed" | "forbidden") => Exit::Login,
        Some("not_found") => Exit::NotFound,
        Some("wrong_state" | "changed" | "already_exists" | "ambiguous" | "stale_epoch") => Exit::WrongState,
        Some("timed_out") => Exit::Timeout,
        Some("bad_request" | "invalid" | "key_reused") => Exit::Usage,
        Some(_) | None => match status {
            401 | 403 => Exit::Login,
            404 => Exit::NotFound,
            412 | 428 => Exit::WrongState,
            504 => Exit::Timeout,
            _ => Exit::Failed,
        },
    }
}

fn hint_of(exit: Exit, code: Option<&str>) -> &'static str {
    match (exit, code) {
        (Exit::Login, Some("forbidden")) => "ask an administrator for the right",
        (Exit::Login, Some("login_failed")) => "check the password, and the name: --user NAME",
        (Exit::Login, _) => "roost login",
        (Exit::NotFound, _) => "look for the name in `roost guest list` or `roost host list`",
        (Exit::WrongState, Some("ambiguous")) => "name it by its id: roost guest list -o wide",
        (Exit::WrongState, Some("already_exists")) => "take another name",
        (Exit::WrongState, _) => "look at its present state with `get`",
        (Exit::Timeout, _) => "roost doctor",
        (Exit::Usage, _) => "add --help to see what the command takes",
        (Exit::Failed | Exit::PartlyDone, Some("slow_down")) => "wait a minute",
        (Exit::Failed | Exit::PartlyDone, Some("host_unreachable" | "hypervisor_away")) => {
            "roost host list; roost doctor"
        }
        (Exit::Failed | Exit::PartlyDone, Some("no_space")) => "free space on the host",
        (Exit::Interrupted, _) => "the same command again",
        (Exit::Failed | Exit::PartlyDone, _) => "roost doctor; then the server's log",
    }
}

/// The nearest of some names, if one is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.chars().count().div_ceil(3).max(1);
    known.map(|other| (distance(name, other), other)).filter(|(far, _)| *far <= limit).min().map(|(_, other)| other)
}

/// Letters to change, add or take away (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod test {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_error_says_what_why_and_what_to_try() {
        let problem = json!({"code": "wrong_state", "title": "t", "detail": "it runs\u{1b}[0m", "request_id": "r1", "try": "stop it"});
        let failure = Failure::from_problem("guest.delete web1", 409, &problem);
        assert_eq!(
            failure.lines(),
            ["error: guest.delete web1 (wrong_state)", "why:   it runs\\u{1b}[0m", "try:   stop it [request r1]"]
        );
        assert_eq!(failure.exit.code(), 5);
        let fault = json!({"pointer": "/name", "detail": "is too long"});
        let problem = json!({"code": "invalid", "detail": "/name: is too long", "errors": [fault]});
        assert_eq!(Failure::from_problem("x", 422, &problem).lines()[1], "why:   /name: is too long");
    }

    #[test]
    fn an_exit_code_tells_a_script_the_kind_of_failure() {
        for (code, status, exit) in [
            ("login_required", 401, 3),
            ("forbidden", 403, 3),
            ("not_found", 404, 4),
            ("wrong_state", 409, 5),
            ("changed", 412, 5),
            ("timed_out", 504, 6),
            ("invalid", 422, 2),
            ("hypervisor", 422, 1),
            ("internal", 500, 1),
        ] {
            assert_eq!(Failure::from_problem("x", status, &json!({ "code": code })).exit.code(), exit, "{code}");
        }
        assert_eq!(Failure::from_problem("x", 404, &json!("no object")).exit.code(), 4);
        assert_eq!(Failure::from_problem("x", 502, &Value::Null).exit.code(), 1);
    }

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        let known = ["web1", "web2", "mail"];
        assert_eq!(nearest("wbe1", known.into_iter()), Some("web1"));
        assert_eq!(nearest("mial", known.into_iter()), Some("mail"));
        assert_eq!(nearest("database", known.into_iter()), None);
    }
}
