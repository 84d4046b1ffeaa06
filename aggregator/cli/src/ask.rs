//! Questions to the person at the terminal: yes or no, and passwords without echo.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::failure::Failure;
use crate::out::Out;

/// Longest thing read from stdin as one answer.
const LONGEST_ANSWER: u64 = 4_096;

/// True where a person can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A question that only `y` or `yes` answers with yes.
pub(crate) fn yes(out: &mut Out<'_>, question: &str) -> Result<bool, Failure> {
    out.prompt(&format!("{question} [y/N] "));
    let answer = line(&mut io::stdin().lock())?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A password: from stdin where told so, else asked for at the terminal.
pub(crate) fn password(what: &str, from_stdin: bool) -> Result<String, Failure> {
    if from_stdin {
        return line(&mut io::stdin().lock());
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|cause| {
        Failure::usage("ask for a password", format!("there is no terminal: {cause}"), "give it with --password-stdin")
    })?;
    unseen(&terminal, what).map_err(|cause| {
        Failure::usage("ask for a password", format!("the terminal failed: {cause}"), "give it with --password-stdin")
    })
}

fn unseen(mut terminal: &File, what: &str) -> io::Result<String> {
    write!(terminal, "{what}: ")?;
    let before = tcgetattr(terminal)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(terminal, SetArg::TCSANOW, &silent)?;
    let mut answer = String::new();
    let read = BufReader::new(terminal.take(LONGEST_ANSWER)).read_line(&mut answer);
    tcsetattr(terminal, SetArg::TCSANOW, &before)?;
    writeln!(terminal)?;
    read?;
    Ok(answer.trim_end_matches(['\r', '\n']).to_owned())
}

fn line(input: &mut impl BufRead) -> Result<String, Failure> {
    let mut answer = String::new();
    input.take(LONGEST_ANSWER).read_line(&mut answer).map_err(|cause| {
        Failure::usage("read an answer from stdin", cause.to_string(), "check what is piped into the command")
    })?;
    Ok(answer.trim_end_matches(['\r', '\n']).to_owned())
}
