//! The answers that a machine is booted with: `roost.KEY=VALUE` among the kernel's parameters, `KEY=VALUE` in roost.conf.

/// Longest value; a join token has some hundred bytes.
const VALUE: usize = 4 << 10;
/// Problems that are told; more say nothing to a person.
const PROBLEMS: usize = 8;
const KEYS: [&str; 12] = [
    "aggregator",
    "token",
    "name",
    "nic",
    "address",
    "gateway",
    "dns",
    "community",
    "update",
    "format",
    "data",
    "image",
];

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) aggregator: Option<String>,
    pub(super) token: Option<String>,
    pub(super) name: Option<String>,
    /// The card for hosts and guests, by name or address.
    pub(super) nic: Option<String>,
    /// Instead of DHCP, ADDRESS/PREFIX.
    pub(super) address: Option<String>,
    pub(super) gateway: Option<String>,
    pub(super) dns: Option<String>,
    /// Of SNMPv2c, for reading; nobody is answered without.
    pub(super) community: Option<String>,
    /// What may become the data disk: the `blank` one, a blank one by its path, or the `rest` of that with the stick's image.
    pub(super) format: Option<String>,
    /// Where newer images are served.
    pub(super) update: Option<String>,
    /// Newer images on the data disk are left alone.
    pub(super) floor: bool,
    /// False where it was asked to run without a data disk.
    pub(super) data: bool,
    /// What can't be used, for people.
    pub(super) problems: Vec<String>,
}

impl Default for Answers {
    fn default() -> Self {
        let (aggregator, token, name, nic) = (None, None, None, None);
        let (address, gateway, dns, community, update, format) = (None, None, None, None, None, None);
        let (data, floor, problems) = (true, false, Vec::new());
        Self { aggregator, token, name, nic, address, gateway, dns, community, update, format, data, floor, problems }
    }
}

impl Answers {
    /// These, and where there are none, those.
    pub(super) fn or(mut self, those: Self) -> Self {
        self.problems.extend(those.problems);
        self.problems.truncate(PROBLEMS);
        Self {
            aggregator: self.aggregator.or(those.aggregator),
            token: self.token.or(those.token),
            name: self.name.or(those.name),
            nic: self.nic.or(those.nic),
            address: self.address.or(those.address),
            gateway: self.gateway.or(those.gateway),
            dns: self.dns.or(those.dns),
            community: self.community.or(those.community),
            format: self.format.or(those.format),
            update: self.update.or(those.update),
            floor: self.floor || those.floor,
            data: self.data && those.data,
            problems: self.problems,
        }
    }

    /// As kernel parameters, for the image that is started next. That one has the data disk already.
    pub(super) fn parameters(&self) -> String {
        let keys = KEYS.iter().zip([
            &self.aggregator,
            &self.token,
            &self.name,
            &self.nic,
            &self.address,
            &self.gateway,
            &self.dns,
            &self.community,
            &self.update,
        ]);
        let words = keys.filter_map(|(key, value)| Some(format!("roost.{key}={}", value.as_ref()?)));
        words.collect::<Vec<_>>().join(" ")
    }

    fn take(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return; // an answer that was left open
        }
        let Some(known) = KEYS.into_iter().find(|known| *known == key) else {
            return self.complain(format!("{key:?} is no answer; there are {}", KEYS.join(", ")));
        };
        let slot = match known {
            "data" if value == "none" => return self.data = false,
            "image" if value == "floor" => return self.floor = true,
            "aggregator" => &mut self.aggregator,
            "token" => &mut self.token,
            "name" => &mut self.name,
            "nic" => &mut self.nic,
            "address" => &mut self.address,
            "gateway" => &mut self.gateway,
            "dns" => &mut self.dns,
            "community" => &mut self.community,
            "update" => &mut self.update,
            "format" => &mut self.format,
            "image" => return self.complain(format!("{key}={value:?}: only `floor` can be said of it")),
            _ => return self.complain(format!("{key}={value:?}: only `none` can be said of it")),
        };
        match check(known, value) {
            Ok(()) => *slot = Some(value.to_owned()),
            Err(why) => self.complain(format!("{key}: {why}")),
        }
    }

    fn complain(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Answers among the kernel's parameters; those of others are left alone.
pub(super) fn from_command_line(line: &str) -> Answers {
    let mut answers = Answers::default();
    for word in line.split_ascii_whitespace() {
        match word.strip_prefix("roost.").and_then(|rest| rest.split_once('=')) {
            // Put there by us (slots.rs).
            Some(("slot", _)) | None => {}
            Some((key, value)) => answers.take(key, value.trim_matches('"')),
        }
    }
    answers
}

/// Answers in the file of the boot medium: one a line, `#` begins a remark. Written on any system.
pub(super) fn from_file(text: &str) -> Answers {
    let mut answers = Answers::default();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.split_once('=') {
            Some((key, value)) => {
                let key = key.trim().trim_start_matches("roost.");
                answers.take(key, value.trim().trim_matches('"'));
            }
            None if line.is_empty() => {}
            None => answers.complain(format!("roost.conf: {line:?} is not KEY=VALUE")),
        }
    }
    answers
}

/// These values are written into settings and given to programs.
fn check(key: &str, value: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_[]/%".contains(c);
    if value.len() > VALUE || !value.chars().all(plain) {
        return Err("has letters that no such answer has, or too many".into());
    }
    match key {
        "address" => match value.split_once('/') {
            Some((address, prefix)) if is_ip(address) && prefix.parse::<u8>().is_ok_and(|bits| bits <= 128) => Ok(()),
            _ => Err(format!("{value:?} is not ADDRESS/PREFIX such as 10.0.0.7/24")),
        },
        "gateway" | "dns" if !is_ip(value) => Err(format!("{value:?} is no address")),
        "update" if !value.starts_with("http://") => Err(format!("{value:?} does not begin with http://")),
        "format" if !["blank", "rest"].contains(&value) && !value.starts_with("/dev/") => {
            Err(format!("{value:?} is neither `blank` nor `rest` nor a disk such as /dev/sdb"))
        }
        _ => Ok(()),
    }
}

fn is_ip(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn kernel_parameters_answer_and_others_are_left_alone() {
        let line = "console=ttyS0 roost.aggregator=grid.example:4433 roost.token=roost1-ab-cd quiet roost.format=blank roost.community=watch roost.slot=a\n";
        let answers = from_command_line(line);
        assert_eq!(answers.aggregator.as_deref(), Some("grid.example:4433"));
        assert_eq!(answers.token.as_deref(), Some("roost1-ab-cd"));
        assert_eq!(answers.format.as_deref(), Some("blank"));
        assert_eq!(answers.community.as_deref(), Some("watch"));
        assert!(answers.data && answers.problems.is_empty(), "{answers:?}");
        assert_eq!(from_command_line("root=/dev/sda1 ro"), Answers::default());
    }

    #[test]
    fn a_file_from_any_system_answers() {
        let text = "\u{feff}# two questions\r\naggregator = \"10.0.0.1\" # ours\r\n token=roost1-x\r\nname=\r\nroost.data=none\r\n";
        let answers = from_file(text);
        assert_eq!(answers.aggregator.as_deref(), Some("10.0.0.1"));
        assert_eq!(answers.token.as_deref(), Some("roost1-x"));
        assert_eq!((answers.name.clone(), answers.data), (None, false));
        assert!(answers.problems.is_empty(), "{answers:?}");
    }

    #[test]
    fn answers_of_a_file_are_parameters_of_the_next_image() {
        let file = "aggregator=10.0.0.1\ntoken=t\nname=h\nupdate=http://10.0.0.1/roost\nformat=blank";
        let told = from_file(file).parameters();
        assert_eq!(from_command_line(&told), Answers { format: None, ..from_file(file) });
    }

    #[test]
    fn the_kernel_s_parameters_go_before_the_file() {
        let both =
            from_command_line("roost.name=one roost.address=10.0.0.7").or(from_file("name=two\ntoken=t\nnonsense"));
        assert_eq!((both.name.as_deref(), both.token.as_deref()), (Some("one"), Some("t")));
        assert_eq!(both.problems.len(), 2, "{both:?}");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_used() {
        let refused = |text: &str, word: &str| {
            let answers = from_file(text);
            assert!(answers.problems.iter().any(|problem| problem.contains(word)), "{answers:?}");
            assert_eq!(Answers { problems: vec![], ..answers }, Answers::default());
        };
        refused("agregator=x", "is no answer");
        refused("name=a\\\"b", "letters");
        refused("name=a b", "letters");
        refused("format=yes", "neither");
        assert_eq!(from_file("format=rest").format.as_deref(), Some("rest"));
        refused("gateway=router", "no address");
        refused("address=10.0.0.7/300", "ADDRESS/PREFIX");
        refused("data=all", "none");
        refused("image=old", "floor");
        refused("update=ftp://x", "http://");
        refused(&format!("token={}", "x".repeat(VALUE + 1)), "too many");
        refused("nonsense", "KEY=VALUE");
        let flood: String = (0..1_000).map(|i| format!("k{i}=1\n")).collect();
        assert_eq!(from_file(&flood).problems.len(), PROBLEMS);
    }
}
