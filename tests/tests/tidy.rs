//! The house's own rules, checked over every tracked file: what a formatter and a compiler don't see. Each rule lists
//! all its offenders as `file:line`.

#[path = "tidy/source.rs"]
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use source::{blank, crate_paths, functions, line_of, words};

/// Longest file in lines: more and it has two subjects.
const FILE_LINES: usize = 500;
/// Longest function in lines: more than a screen can't be read at once.
const FUNCTION_LINES: usize = 70;
/// What a core may not name, because it would reach the world.
const IO_WORDS: [&str; 10] = [
    "std::fs",
    "tokio",
    "Instant::now",
    "SystemTime",
    "rand::",
    "std::thread",
    "std::net",
    "println!",
    "eprintln!",
    "std::env",
];
/// The agent's rooms; only the driver and main know more than one.
const ROOMS: [&str; 3] = ["observe", "act", "report"];

/// One tracked text file.
struct File {
    /// From the project's root, with slashes.
    path: String,
    text: String,
}

impl File {
    fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The room of the agent that this file stands in, or the first of its file name.
    fn room(&self) -> Option<&'static str> {
        let rest = self.path.strip_prefix("agent/src/")?;
        let name = rest.split(['/', '.']).next()?;
        ROOMS.into_iter().find(|room| *room == name)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All tracked text files; binary ones and those deleted but not yet committed are left out.
fn tracked() -> Result<Vec<File>> {
    let listing = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .current_dir(root())
        .output()
        .context("run git ls-files")?;
    ensure!(listing.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listing.stderr));
    let names = String::from_utf8(listing.stdout).context("read names from git ls-files")?;
    let files = names.split_terminator('\0').filter_map(|path| {
        let text = std::fs::read_to_string(root().join(path)).ok()?;
        Some(File { path: path.to_owned(), text })
    });
    let files: Vec<File> = files.collect();
    ensure!(files.iter().any(|file| file.path == "Cargo.toml"), "git ls-files names no Cargo.toml");
    Ok(files)
}

/// Checks one rule over the tracked files that end so.
fn rule(ending: &str, broken_by: impl Fn(&File) -> Vec<String>) -> Result<()> {
    let offenders: Vec<String> =
        tracked()?.iter().filter(|file| file.path.ends_with(ending)).flat_map(broken_by).collect();
    ensure!(offenders.is_empty(), "{} offenders:\n{}", offenders.len(), offenders.join("\n"));
    Ok(())
}

/// Where the code of a Rust file names any of these words.
fn named(file: &File, forbidden: &[&str]) -> Vec<String> {
    let code = blank(&file.text);
    let hits = forbidden.iter().flat_map(|word| words(&code, word).map(|at| (line_of(&code, at), *word)));
    hits.map(|(line, word)| file.at(line, word)).collect()
}

#[test]
fn every_rust_file_says_first_what_it_is_for() -> Result<()> {
    rule(".rs", |file| {
        let first = file.text.lines().next().unwrap_or_default();
        if first.starts_with("//! ") { vec![] } else { vec![file.at(1, "the first line is no `//!` sentence")] }
    })
}

#[test]
fn no_file_is_longer_than_its_limit() -> Result<()> {
    for ending in [".rs", ".sh", ".py"] {
        rule(ending, |file| {
            let lines = file.text.lines().count();
            if lines <= FILE_LINES { vec![] } else { vec![file.at(lines, format!("more than {FILE_LINES} lines"))] }
        })?;
    }
    Ok(())
}

#[test]
fn no_function_is_longer_than_its_limit() -> Result<()> {
    rule(".rs", |file| {
        let long = functions(&blank(&file.text)).into_iter().filter(|function| function.length > FUNCTION_LINES);
        long.map(|f| file.at(f.line, format!("fn {} has {} lines", f.name, f.length))).collect()
    })
}

#[test]
fn a_core_names_no_io() -> Result<()> {
    rule(".rs", |file| {
        let cores = ["agent/core/src/", "aggregator/core/src/", "protocol/ward/src/"];
        let core = cores.iter().any(|core| file.is_in(core));
        if core { named(file, &IO_WORDS) } else { vec![] }
    })
}

#[test]
fn rooms_of_the_agent_know_each_other_only_through_the_driver() -> Result<()> {
    rule(".rs", strangers)
}

/// Where a file of the agent names a room that isn't its own, or a second one when it stands in none.
fn strangers(file: &File) -> Vec<String> {
    let Some(rest) = file.path.strip_prefix("agent/src/") else { return vec![] };
    if rest.starts_with("main") || rest.starts_with("driver") {
        return vec![];
    }
    let code = blank(&file.text);
    let named: Vec<(usize, &str)> = crate_paths(&code)
        .into_iter()
        .filter_map(|(at, name)| ROOMS.into_iter().find(|room| *room == name).map(|room| (at, room)))
        .collect();
    let home = file.room().or_else(|| named.first().map(|(_, room)| *room));
    let others = named.into_iter().filter(|(_, room)| Some(*room) != home);
    others.map(|(at, room)| file.at(line_of(&code, at), format!("crate::{room}"))).collect()
}

#[test]
fn libvirt_is_named_in_one_crate() -> Result<()> {
    rule(".rs", |file| if file.is_in("agent/libvirt/") { vec![] } else { named(file, &["virt_sys", "virt::"]) })?;
    only_depended_on_by("virt-sys", &["agent/libvirt/Cargo.toml"])?;
    only_depended_on_by("virt", &[])
}

#[test]
fn only_programs_keep_state() -> Result<()> {
    only_depended_on_by("rusqlite", &["agent/Cargo.toml", "agent/guard/Cargo.toml", "aggregator/Cargo.toml"])
}

#[test]
fn one_file_calls_the_cbor_codec() -> Result<()> {
    let calls = ["minicbor::encode(", "minicbor::decode(", "minicbor::to_vec(", "minicbor::Decoder::new"];
    rule(".rs", |file| if file.path == "protocol/src/codec.rs" { vec![] } else { named(file, &calls) })?;
    // The ward's words and the aggregator's part of the grid document derive it; the calls stay in the codec.
    only_depended_on_by("minicbor", &["protocol/Cargo.toml", "protocol/ward/Cargo.toml", "aggregator/core/Cargo.toml"])
}

#[test]
fn every_version_stands_once_in_the_root_manifest() -> Result<()> {
    rule("/Cargo.toml", |file| {
        let own = dependencies(file).into_iter().filter(|(_, _, entry)| !is_inherited(entry));
        own.map(|(line, name, _)| file.at(line, format!("{name} has a version of its own"))).collect()
    })
}

#[test]
fn every_scenario_opens_with_a_sentence() -> Result<()> {
    rule(".txt", |file| if file.is_in("tests/scenarios/") { broken_story(file) } else { vec![] })
}

fn broken_story(file: &File) -> Vec<String> {
    let (story, transcript) = file.text.split_once("\n----").unwrap_or((&file.text, ""));
    let opening = story.split("\n\n").next().unwrap_or_default().trim_end();
    let sentence = opening.starts_with(char::is_uppercase) && opening.ends_with('.');
    let mut broken = Vec::new();
    broken.extend((!sentence).then(|| file.at(1, "opens with no sentence")));
    broken.extend(transcript.trim().is_empty().then(|| file.at(1, "no transcript below a ---- line")));
    broken
}

#[test]
fn no_file_names_a_path_of_one_machine() -> Result<()> {
    // In pieces, so that this file doesn't offend itself.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    rule("", |file| {
        let lines = file.text.lines().enumerate();
        let hits = lines.filter(|(_, line)| paths.iter().any(|path| names_path(line, path)));
        hits.map(|(at, line)| file.at(at + 1, line.trim())).collect()
    })
}

#[test]
fn every_make_command_in_the_documents_exists() -> Result<()> {
    let makefile = std::fs::read_to_string(root().join("Makefile")).context("read Makefile")?;
    let exists = |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    rule(".md", |file| {
        let lines = file.text.lines().enumerate();
        let named = lines.flat_map(|(at, line)| make_targets(line).into_iter().map(move |target| (at + 1, target)));
        named.filter(|(_, target)| !exists(target)).map(|(at, target)| file.at(at, format!("make {target}"))).collect()
    })
}

/// Fails for every manifest but these that depends on the crate.
fn only_depended_on_by(name: &str, manifests: &[&str]) -> Result<()> {
    rule("/Cargo.toml", |file| {
        if manifests.contains(&file.path.as_str()) {
            return vec![];
        }
        let hits = dependencies(file).into_iter().filter(|(_, dependency, _)| dependency == name);
        hits.map(|(line, dependency, _)| file.at(line, format!("depends on {dependency}"))).collect()
    })
}

/// A manifest's dependencies: line, name, and the rest of the entry.
fn dependencies(file: &File) -> Vec<(usize, String, String)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside && let Some((key, value)) = line.split_once('=') {
            let (name, rest) = key.trim().split_once('.').unwrap_or((key.trim(), ""));
            if !name.starts_with('#') {
                found.push((at + 1, name.to_owned(), format!("{rest} = {}", value.trim())));
            }
        }
    }
    found
}

fn is_inherited(entry: &str) -> bool {
    entry.starts_with("workspace = true") || entry.contains("{ workspace = true")
}

/// True where the line has this absolute path, and not as the end of a longer one.
fn names_path(line: &str, path: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || "}_-.)*~".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(inner))
}

/// The targets of `make X` in a line of a document, in backticks or as a command line of its own.
fn make_targets(line: &str) -> Vec<String> {
    let target = |text: &str| {
        let name: String = text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        (!name.is_empty()).then_some(name)
    };
    let command =
        line.trim_start().strip_prefix("make ").filter(|_| line.starts_with("    ") || line.starts_with("make "));
    line.split("`make ").skip(1).chain(command).filter_map(target).collect()
}

#[test]
fn docs_of_benches_tell_of_each_of_them() -> Result<()> {
    let told = std::fs::read_to_string(root().join("benches/README.md")).context("read benches/README.md")?;
    rule("Makefile", |file| {
        let benches = file.text.lines().zip(1..).filter(|(line, _)| line.starts_with("bench-"));
        let names = benches.filter_map(|(line, at)| Some((line.split_once(':')?.0, at)));
        let untold = names.filter(|(name, _)| !told.contains(&format!("- **{name}**: ")));
        untold.map(|(name, at)| file.at(at, format!("benches/README.md has no `- **{name}**: `"))).collect()
    })
}

#[test]
fn the_rules_catch_what_they_forbid() {
    let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
    let door = "use crate::{observe::x, ledger};\nuse crate::act::y;\n";
    assert_eq!(strangers(&file("agent/src/observe/disks.rs", door)), ["agent/src/observe/disks.rs:2: crate::act"]);
    assert_eq!(strangers(&file("agent/src/ledger.rs", door)).len(), 1);
    assert!(strangers(&file("agent/src/driver.rs", door)).is_empty());
    let io = file("a.rs", "// tokio\nlet x = \"std::fs\";\nuse tokio::sync;\nstd::fs::read(x);\n");
    assert_eq!(named(&io, &IO_WORDS), ["a.rs:4: std::fs", "a.rs:3: tokio"]);
    assert!(broken_story(&file("s", "One host is silent.\n\nmore\n----\n0 ms x\n")).is_empty());
    assert_eq!(broken_story(&file("s", "no sentence\n")).len(), 2);
    let manifest =
        file("c", "[dependencies]\n# a = 1\na = \"1\"\nb.workspace = true\nc = { workspace = true, x = 1 }\n");
    let own: Vec<usize> =
        dependencies(&manifest).iter().filter(|(_, _, entry)| !is_inherited(entry)).map(|(line, ..)| *line).collect();
    assert_eq!(own, [3]);
    let (here, there) = (concat!("x = \"/wo", "rk/y\""), concat!("$DIR/wo", "rk/y"));
    assert!(names_path(here, concat!("/wo", "rk/")) && !names_path(there, concat!("/wo", "rk/")));
    assert_eq!(make_targets("see `make run` or `make test-fast`; make sure"), ["run", "test-fast"]);
    assert_eq!(make_targets("    make stop"), ["stop"]);
}
