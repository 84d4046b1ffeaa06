//! Events as Common Base Event 1.0.1, the XML of IBM's Autonomic Computing, for event servers that still take it.

use serde_json::Value;

use super::escape::escaped;
use super::page::Page;

/// What the format allows in `msg`.
const MSG: usize = 1_024;

/// All events of the page as one document. `grid`: 32 hexadecimal digits that name it, so that ids are unique everywhere.
pub(super) fn write(grid: &str, page: &Page) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <CommonBaseEvents xmlns=\"http://www.ibm.com/AC/commonbaseevent1_0_1\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n",
    );
    for row in &page.rows {
        let of = |name: &str| page.fields.iter().position(|field| *field == name).and_then(|at| row.get(at));
        event(&mut xml, grid, &|name| of(name).unwrap_or(&Value::Null));
    }
    xml.push_str("</CommonBaseEvents>\n");
    xml
}

/// The order of elements is the schema's.
fn event<'a>(xml: &mut String, grid: &str, of: &dyn Fn(&str) -> &'a Value) {
    let word = |name: &str| of(name).as_str().unwrap_or_default();
    let (kind, text, sequence) = (word("kind"), word("text"), of("seq").as_u64().unwrap_or(0));
    let severity = match word("severity") {
        "info" => 10,
        "warning" => 30,
        "error" => 50,
        _ => 0,
    };
    let msg: String = text.chars().take(MSG).collect();
    xml.push_str(&format!(
        "<CommonBaseEvent creationTime=\"{}\" extensionName=\"{}\" globalInstanceId=\"R{grid}{sequence:016X}\" \
         msg=\"{}\" severity=\"{severity}\" version=\"1.0.1\">\n",
        escaped(word("time")),
        escaped(kind),
        escaped(&msg),
    ));
    more(xml, "seq", "long", &sequence.to_string());
    for name in ["user", "operation"] {
        if !word(name).is_empty() {
            more(xml, name, "string", word(name));
        }
    }
    source(xml, kind, of("resources"));
    let situation = Situation::of(kind, text, severity < 30);
    xml.push_str(&format!("<situation categoryName=\"{}\">", situation.category()));
    xml.push_str(&format!("<situationType {}/></situation>\n</CommonBaseEvent>\n", situation.attributes()));
}

fn more(xml: &mut String, name: &str, kind: &str, value: &str) {
    let value = escaped(value);
    xml.push_str(&format!(
        "<extendedDataElements name=\"{name}\" type=\"{kind}\"><values>{value}</values></extendedDataElements>\n"
    ));
}

/// What the event is about, and by whom it is told.
fn source(xml: &mut String, kind: &str, resources: &Value) {
    let id = |kind: &str| {
        let found = resources.as_array()?.iter().find(|resource| resource["kind"] == kind)?;
        found["id"].as_str()
    };
    let noun = kind.split('.').next().unwrap_or_default();
    let host = escaped(id("host").unwrap_or("aggregator"));
    let (component, id_type) = match (id("guest"), id("host")) {
        (Some(guest), _) => (guest, "SystemName"),
        (None, Some(host)) => (host, "SystemName"),
        (None, None) => ("roost-aggregator", "Application"),
    };
    xml.push_str(&format!(
        "<sourceComponentId application=\"Roost\" component=\"{}\" componentIdType=\"{id_type}\" \
         componentType=\"Roost\" location=\"{host}\" locationType=\"Unknown\" subComponent=\"{}\"/>\n",
        escaped(component),
        escaped(noun),
    ));
}

/// The twelve categories of the format, as far as something of ours falls under them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
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
            "host.zone" | "host.memory" | "host.fence" | "host.watchdog" | "host.maintenance" | "guest.probes"
            | "backup.policy" | "user.changed" | "notifier.changed" => Situation::Configure,
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
