//! Rust source as tidy sees it: the same lines with comments, strings and characters blanked out, so that a word found
//! in it is code.

/// One function: the line of its `fn` (from 1), its name, and how many lines it spans.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) length: usize,
}

/// The source with everything that isn't code replaced by spaces; line breaks stay.
pub(crate) fn blank(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < text.len() {
        let end = token_end(&text, at);
        if end == at {
            code.push(text[at]);
            at += 1;
        } else {
            code.extend(text[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment, string or character that begins here ends; `at` itself when none does.
fn token_end(text: &[char], at: usize) -> usize {
    let rest = &text[at..];
    match rest[0] {
        '/' if rest.get(1) == Some(&'/') => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        '/' if rest.get(1) == Some(&'*') => at + block_comment(rest),
        '"' => at + quoted(rest, '"'),
        '\'' if rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'') => at + quoted(rest, '\''),
        'r' | 'b' | 'c' if !after_word(text, at) => at + raw_string(rest),
        _ => at,
    }
}

fn after_word(text: &[char], at: usize) -> bool {
    at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_')
}

/// Length of a block comment; they nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a string or character with escapes.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a raw string (`r"…"`, `br#"…"#`); 0 when this is none.
fn raw_string(rest: &[char]) -> usize {
    let Some(r) = rest.iter().take(2).position(|c| *c == 'r') else { return 0 };
    let hashes = rest[r + 1..].iter().take_while(|c| **c == '#').count();
    let open = r + 1 + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| *window == close[..]);
    end.map_or(rest.len(), |end| open + 1 + end + close.len())
}

/// All functions with a body, in order; the code is blanked already.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    words(code, "fn").filter_map(|at| function(code, at)).collect()
}

fn function(code: &str, at: usize) -> Option<Function> {
    let after = &code[at + 2..];
    let name: String = after.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return None; // a function pointer's type
    }
    let body = body(after)?;
    let line = line_of(code, at);
    Some(Function { line, name, length: line_of(code, at + 2 + body) - line + 1 })
}

/// Where the body's closing brace is; none for a declaration that ends with `;`.
fn body(after: &str) -> Option<usize> {
    let (mut depth, mut nested) = (0usize, 0usize);
    for (at, c) in after.char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested = nested.saturating_sub(1),
            ';' if nested == 0 && depth == 0 => return None,
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at),
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Where this word stands alone: what is beside it is no part of a longer name.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let open = word.ends_with(part) && code[at + word.len()..].starts_with(part);
        !code[..*at].ends_with(part) && !open
    })
}

/// The line that holds this place, from 1.
pub(crate) fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The first names after each `crate::`, with their places: two for `crate::{act::x, report}`.
pub(crate) fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate::") {
        let after = &code[at + "crate::".len()..];
        if after.starts_with('{') {
            let group = &after[1..body(after).unwrap_or(after.len())];
            found.extend(split_group(group).into_iter().map(|name| (at, name)));
        } else {
            found.push((at, first_name(after)));
        }
    }
    found
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn split_group(group: &str) -> Vec<String> {
    let mut depth = 0usize;
    let parts = group.split(|c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(first_name).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let source = "a /* b /* c */ d */ e // f\n\"g \\\" {\" r#\"h \" i\"# '{' '\\'' b\"j\" 'k: &'static l";
        let code: String = blank(source).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code, "a e b 'k: &'static l");
        assert_eq!(blank(source).matches('\n').count(), 1);
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        let code = blank("trait T { fn none(a: [u8; 4]); }\nfn some(f: fn(u8) -> u8) {\n  \"}\";\n  {}\n}\n");
        assert_eq!(functions(&code), [Function { line: 2, name: "some".into(), length: 4 }]);
    }

    #[test]
    fn a_group_names_every_room_it_opens() {
        let names: Vec<String> =
            crate_paths("use crate::{act::{a, b}, report};\ncrate::ledger::x();").into_iter().map(|(_, n)| n).collect();
        assert_eq!(names, ["act", "report", "ledger"]);
    }

    #[test]
    fn a_word_inside_a_longer_name_does_not_count() {
        assert_eq!(words("my_tokio tokio2 tokio::x", "tokio").collect::<Vec<_>>(), [16]);
    }
}
