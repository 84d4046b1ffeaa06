//! Prometheus text format 0.0.4.

use std::fmt::{Display, Write};

/// What a family of series is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Gauge,
    Counter,
}

/// A page that grows. Writing into a String can't fail.
#[derive(Debug, Default)]
pub(super) struct Text {
    page: String,
    /// The family that lines belong to, and its head, which is written with its first line.
    name: String,
    head: Option<String>,
}

impl Text {
    /// Lines that follow are of this family. One without lines is left out.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        name.clone_into(&mut self.name);
        self.head = Some(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        self
    }

    /// A family of one number.
    pub(super) fn one(&mut self, name: &str, kind: Kind, help: &str, value: u64) {
        self.family(name, kind, help).line(&[], value);
    }

    pub(super) fn line(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.page.push_str(&self.head.take().unwrap_or_default());
        self.page.push_str(&self.name);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.page.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.page, "{label}=\"");
            value.chars().for_each(|c| match c {
                '\\' => self.page.push_str("\\\\"),
                '"' => self.page.push_str("\\\""),
                '\n' => self.page.push_str("\\n"),
                c => self.page.push(c),
            });
            self.page.push('"');
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        let _ = writeln!(self.page, " {value}");
        self
    }

    /// A number with so many digits behind the point.
    pub(super) fn scaled(&mut self, labels: &[(&str, &str)], value: u64, decimals: usize) -> &mut Self {
        if decimals == 0 {
            return self.line(labels, value);
        }
        let digits = format!("{value:0>width$}", width = decimals + 1);
        let (whole, part) = digits.split_at(digits.len() - decimals);
        self.line(labels, format_args!("{whole}.{part}"))
    }

    pub(super) fn done(self) -> String {
        self.page
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn lines_are_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.family("empty", Kind::Gauge, "left out");
        text.one("a", Kind::Counter, "An a.", 5);
        text.family("b", Kind::Gauge, "A b.").scaled(&[("x", "q\"\\\n")], 1_234, 3).scaled(
            &[("x", "y"), ("z", "")],
            7,
            9,
        );
        let wanted = "# HELP a An a.\n# TYPE a counter\na 5\n# HELP b A b.\n# TYPE b gauge\n\
             b{x=\"q\\\"\\\\\\n\"} 1.234\nb{x=\"y\",z=\"\"} 0.000000007\n";
        assert_eq!(text.done(), wanted);
    }
}
