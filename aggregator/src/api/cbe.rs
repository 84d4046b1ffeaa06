//! Events as Common Base Event 1.0.1, the XML of IBM's Autonomic Computing, for event servers that still take it.

use serde_json::Value;

use super::escape::escaped;
use super::page::Page;

/// Characters that the format allows in `msg`, and in a value.
const MSG: usize = 1_024;

/// What names in a document mean; an element that stands alone says it too.
const NAMESPACES: &str = "xmlns=\"http://www.ibm.com/AC/commonbaseevent1_0_1\" \
                          xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"";

/// One event as the format tells it.
#[derive(Debug)]
pub(crate) struct Element<'a> {
    /// Names it everywhere: a letter, then letters and digits, 32 to 64 together.
    pub(crate) id: String,
    /// RFC 3339.
    pub(crate) time: &'a str,
    /// Stable word such as `host.up`.
    pub(crate) kind: &'a str,
    /// 0 unknown, 10 info, 30 warning, 50 critical, 60 fatal.
    pub(crate) severity: u8,
    /// In one sentence; what the format has no room for is cut off.
    pub(crate) msg: &'a str,
    /// What else is known: name, type and value.
    pub(crate) more: Vec<(&'static str, &'static str, &'a str)>,
    /// Ids of what it is about.
    pub(crate) host: Option<&'a str>,
    pub(crate) guest: Option<&'a str>,
    pub(crate) situation: Situation,
}

/// What ids begin with: 32 hexadecimal digits of a grid's id, so that they are unique everywhere.
pub(crate) fn grid_name(id: &str) -> String {
    id.replace('-', "").to_ascii_uppercase()
}

/// All events of the page as one document. `grid`: see [`grid_name`].
pub(super) fn write(grid: &str, page: &Page) -> String {
    let mut xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<CommonBaseEvents {NAMESPACES}>\n");
    for row in &page.rows {
        let of = |name: &str| page.fields.iter().position(|field| *field == name).and_then(|at| row.get(at));
        xml.push_str(&event(grid, &|name| of(name).unwrap_or(&Value::Null)));
        xml.push('\n');
    }
    xml.push_str("</CommonBaseEvents>\n");
    xml
}

fn event<'a>(grid: &str, of: &dyn Fn(&str) -> &'a Value) -> String {
    let word = |name: &str| of(name).as_str().unwrap_or_default();
    let (kind, text, sequence) = (word("kind"), word("text"), of("seq").as_u64().unwrap_or(0));
    let severity = match word("severity") {
        "info" => 10,
        "warning" => 30,
        "error" => 50,
        _ => 0,
    };
    let resources = of("resources").as_array().map(Vec::as_slice).unwrap_or_default();
    let id = |kind: &str| resources.iter().find(|resource| resource["kind"] == kind)?["id"].as_str();
    let number = sequence.to_string();
    let mut more = vec![("seq", "long", number.as_str())];
    more.extend(["user", "operation"].map(|name| (name, "string", word(name))));
    let element = Element {
        id: format!("R{grid}{sequence:016X}"),
        time: word("time"),
        kind,
        severity,
        msg: text,
        more,
        host: id("host"),
        guest: id("guest"),
        situation: Situation::of(kind, text, severity < 30),
    };
    element.line("")
}

impl Element<'_> {
    /// One line that is a document of its own, without its end.
    pub(crate) fn alone(&self) -> String {
        self.line(&format!("{NAMESPACES} "))
    }

    /// The order of elements is the schema's. No text of others breaks a line: see [`escaped`].
    fn line(&self, namespaces: &str) -> String {
        let cut = |text: &str| escaped(&text.chars().take(MSG).collect::<String>());
        let mut xml = format!(
            "<CommonBaseEvent {namespaces}creationTime=\"{}\" extensionName=\"{}\" globalInstanceId=\"{}\" msg=\"{}\" \
             severity=\"{}\" version=\"1.0.1\">",
            escaped(self.time),
            escaped(self.kind),
            escaped(&self.id),
            cut(self.msg),
            self.severity,
        );
        for (name, kind, value) in self.more.iter().filter(|(_, _, value)| !value.is_empty()) {
            let value = cut(value);
            xml.push_str(&format!(
                "<extendedDataElements name=\"{name}\" type=\"{kind}\"><values>{value}</values></extendedDataElements>"
            ));
        }
        xml.push_str(&self.source());
        let (category, attributes) = (self.situation.category(), self.situation.attributes());
        xml.push_str(&format!(
            "<situation categoryName=\"{category}\"><situationType {attributes}/></situation></CommonBaseEvent>"
        ));
        xml
    }

    /// What the event is about, and by whom it is told.
    fn source(&self) -> String {
        let noun = self.kind.split('.').next().unwrap_or_default();
        let (component, id_type) = match (self.guest, self.host) {
            (Some(guest), _) => (guest, "SystemName"),
            (None, Some(host)) => (host, "SystemName"),
            (None, None) => ("roost-aggregator", "Application"),
        };
        format!(
            "<sourceComponentId application=\"Roost\" component=\"{}\" componentIdType=\"{id_type}\" \
             componentType=\"Roost\" location=\"{}\" locationType=\"Unknown\" subComponent=\"{}\"/>",
            escaped(component),
            escaped(self.host.unwrap_or("aggregator")),
            escaped(noun),
        )
    }
}

/// The twelve categories of the format, as far as something of ours falls under them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    /// `START COMPLETED` or another stage.
    Start(bool),
    /// `STOP COMPLETED` or another stage.
    Stop(&'static str),
    /// What came of a connection.
    Connect(&'static str),
    Configure,
    /// Its stage, and whether it went well.
    Request(&'static str, bool),
    Available(bool),
    Create(bool),
    Destroy,
    Dependency(bool),
    /// With its `reportCategory`.
    Report(&'static str),
}

impl Situation {
    /// A state is told by the sentence alone; a guest whose name has these words in it may be told wrongly here.
    fn of(kind: &str, text: &str, well: bool) -> Self {
        match kind {
            "guest.state" if text.contains(" is running") => Situation::Start(true),
            "guest.state" if text.contains(" is off") => Situation::Stop("STOP COMPLETED"),
            "guest.state" if text.contains(" is paused") => Situation::Stop("PAUSE INITIATED"),
            "guest.state" if text.contains(" is crashed") => Situation::Stop("ABORT INITIATED"),
            "guest.gone" | "user.deleted" | "notifier.deleted" | "host.removed" => Situation::Destroy,
            "host.up" | "witness.up" => Situation::Available(true),
            "host.down" | "host.suspect" | "witness.away" => Situation::Available(false),
            "host.joined" => Situation::Connect("INUSE"),
            "host.refused" | "host.join_refused" | "host.misbehaved" => Situation::Connect("CLOSED"),
            "backup.made" => Situation::Create(true),
            "backup.failed" => Situation::Create(false),
            "failover.done" | "failover.handed-over" => Situation::Start(true),
            "failover.not-started" => Situation::Start(false),
            "operation.started" => Situation::Request("REQUEST INITIATED", true),
            "operation.ended" => Situation::Request("REQUEST COMPLETED", well),
            "replica.following" | "guest.protected" => Situation::Dependency(true),
            "replica.broken" | "replica.behind" | "guest.unprotected" => Situation::Dependency(false),
            "host.zone" | "host.memory" | "host.fence" | "host.watchdog" | "host.reboot" | "host.maintenance"
            | "guest.probes" | "backup.policy" | "user.changed" | "notifier.changed" => Situation::Configure,
            _ => Situation::Report("STATUS"),
        }
    }

    /// Of an alarm with this code that stands, or is over.
    pub(crate) fn of_alarm(code: &str, over: bool) -> Self {
        match code {
            "host-down" | "guest-down" | "guest-crash-loop" | "guest-unreachable" | "hypervisor-away"
            | "store-away" | "guard-away" | "aggregator-away" => Situation::Available(over),
            "replica-lag" | "replica-broken" | "unprotected" | "takeover-no-copy" => Situation::Dependency(over),
            _ => Situation::Report("STATUS"),
        }
    }

    fn category(self) -> &'static str {
        match self {
            Situation::Start(_) => "StartSituation",
            Situation::Stop(_) => "StopSituation",
            Situation::Connect(_) => "ConnectSituation",
            Situation::Configure => "ConfigureSituation",
            Situation::Request(..) => "RequestSituation",
            Situation::Available(_) => "AvailableSituation",
            Situation::Create(_) => "CreateSituation",
            Situation::Destroy => "DestroySituation",
            Situation::Dependency(_) => "DependencySituation",
            Situation::Report(_) => "ReportSituation",
        }
    }

    fn attributes(self) -> String {
        let success =
            |yes| if yes { "successDisposition=\"SUCCESSFUL\"" } else { "successDisposition=\"UNSUCCESSFUL\"" };
        let own = match self {
            Situation::Start(yes) => format!("{} situationQualifier=\"START COMPLETED\"", success(yes)),
            Situation::Stop(stage) => format!("{} situationQualifier=\"{stage}\"", success(true)),
            Situation::Connect(what) => format!("{} situationDisposition=\"{what}\"", success(what == "INUSE")),
            Situation::Request(stage, well) => format!("{} situationQualifier=\"{stage}\"", success(well)),
            Situation::Configure | Situation::Destroy => success(true).to_owned(),
            Situation::Create(yes) => success(yes).to_owned(),
            Situation::Available(true) => "operationDisposition=\"STARTABLE\" availabilityDisposition=\"AVAILABLE\" \
                                           processingDisposition=\"FUNCTION_PROCESS\""
                .to_owned(),
            Situation::Available(false) => {
                "operationDisposition=\"NONSTARTABLE\" availabilityDisposition=\"NOT AVAILABLE\" \
                 processingDisposition=\"FUNCTION_BLOCK\""
                    .to_owned()
            }
            Situation::Dependency(true) => "dependencyDisposition=\"MET\"".to_owned(),
            Situation::Dependency(false) => "dependencyDisposition=\"NOT MET\"".to_owned(),
            Situation::Report(category) => format!("reportCategory=\"{category}\""),
        };
        format!("xsi:type=\"{}\" reasoningScope=\"EXTERNAL\" {own}", self.category())
    }
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_element_and_its_text_is_no_markup() {
        let row = vec![
            json!(7),
            json!("2026-11-22T10:00:00Z"),
            json!("guest.state"),
            json!("info"),
            json!("guest \"a<b>\" is running\n\0"),
            json!("root&co"),
            json!([{"kind": "host", "id": "h-1"}, {"kind": "guest", "id": "g-1"}]),
        ];
        let fields = vec!["seq", "time", "kind", "severity", "text", "user", "resources"];
        let xml = write(&"0A".repeat(16), &Page { rows: vec![row], fields, ..Page::default() });
        for part in [
            "creationTime=\"2026-11-22T10:00:00Z\"",
            "globalInstanceId=\"R0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0000000000000007\"",
            "msg=\"guest &quot;a&lt;b&gt;&quot; is running&#10;\u{fffd}\" severity=\"10\" version=\"1.0.1\"",
            "<values>root&amp;co</values>",
            "component=\"g-1\" componentIdType=\"SystemName\" componentType=\"Roost\" location=\"h-1\"",
            "categoryName=\"StartSituation\"",
            "situationQualifier=\"START COMPLETED\"",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        assert_eq!(xml.matches("<CommonBaseEvent ").count(), 1);
        assert_eq!(xml.lines().count(), 4, "one line an event: {xml}");
        assert!(!xml.contains("name=\"operation\""), "what is not known is not told: {xml}");
        let mut reader = quick_xml::Reader::from_str(&xml);
        while reader.read_event().unwrap() != quick_xml::events::Event::Eof {}
    }

    #[test]
    fn what_is_bad_is_told_as_bad() {
        for (kind, expected) in [
            ("host.down", "availabilityDisposition=\"NOT AVAILABLE\""),
            ("backup.failed", "successDisposition=\"UNSUCCESSFUL\""),
            ("replica.broken", "dependencyDisposition=\"NOT MET\""),
            ("operation.ended", "successDisposition=\"UNSUCCESSFUL\""),
            ("something.new", "reportCategory=\"STATUS\""),
        ] {
            assert!(Situation::of(kind, "", false).attributes().contains(expected), "{kind}");
        }
    }
}
