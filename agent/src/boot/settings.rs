//! The agent's settings on the host image: the answers, and where its guard is.

use std::fmt::Write;

use super::answers::Answers;

/// The text of agent.toml. The answers were checked: none has a letter that would end a string.
pub(super) fn agent(answers: &Answers, name: &str, token_file: &str) -> String {
    let mut text = format!("name = \"{name}\"\nguard_socket = \"/run/roost-guard/guard.sock\"\n");
    // Writing into a String can't fail.
    if let Some(aggregator) = &answers.aggregator {
        let _ = writeln!(text, "aggregator = \"{aggregator}\"");
    }
    if answers.token.is_some() {
        let _ = writeln!(text, "join_token_file = \"{token_file}\"");
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_agent_reads_what_was_answered() {
        let none = Config::parse(&agent(&Answers::default(), "h1", "/t")).unwrap();
        assert_eq!((none.aggregator, none.join_token_file), (None, None));
        let answers =
            Answers { aggregator: Some("[fd00::1]:4433".into()), token: Some("t".into()), ..Answers::default() };
        let config = Config::parse(&agent(&answers, "h1", "/t")).unwrap();
        assert_eq!(config.aggregator.as_deref(), Some("[fd00::1]:4433"));
        assert_eq!((config.name.as_deref(), config.join_token_file), (Some("h1"), Some("/t".into())));
    }
}
